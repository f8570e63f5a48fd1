//! Hosts of their own on this machine: a network namespace each, joined by veth pairs to a bridge in a namespace of the test's.
//!
//! ```text
//! the test's namespace:  br0 10.77.0.254 -- port1 ... portN       (the thread that made the network is in it, and what it starts)
//!                                            |           |
//! a host's namespace:                  eth0 10.77.0.1  eth0 10.77.0.N
//! ```
//! Invariants: no namespace has a name: the kernel keeps each for as long as somebody holds it open, so a test that panics or is killed
//! leaves none. A process put on a host dies with the thread that started it (start from one that lives on), and so holds none either.
//! Nothing outside the namespaces is touched.
//! Not here: which processes run there (`fleet.rs`).

use crate::tools::find_program;
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;

/// Packets of one host that a slow link may have waiting.
const QUEUE: &str = "400ms";

/// Why there are no hosts.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("hosts of their own need root: run this as root or with sudo")]
    NotRoot,
    #[error("hosts of their own need `{0}` of Debian's iproute2: run ./conformance/run --install")]
    Missing(&'static str),
    #[error("the kernel gives no network namespace: {0}")]
    Namespace(#[source] io::Error),
    #[error("`{command}` failed: {printed}")]
    Failed { command: String, printed: String },
}

impl From<HostError> for io::Error {
    fn from(error: HostError) -> Self {
        io::Error::other(error)
    }
}

/// The bridge. The thread that made it is in its namespace until it is dropped, and so is every thread and process started meanwhile.
#[derive(Debug)]
pub struct Network {
    hub: Arc<File>,
    home: File,
    hosts: u8,
    /// A namespace is a thread's.
    _thread: PhantomData<*const ()>,
}

/// One host.
#[derive(Clone, Debug)]
pub struct Host {
    inside: Arc<File>,
    hub: Arc<File>,
    number: u8,
}

impl Network {
    /// # Errors
    /// [`HostError`]: no root, no iproute2, or a kernel without namespaces, bridges or veth.
    pub fn new() -> Result<Network, HostError> {
        // SAFETY: reads a number.
        if unsafe { libc::geteuid() } != 0 {
            return Err(HostError::NotRoot);
        }
        for name in ["ip", "tc"] {
            find_program(name).ok_or(HostError::Missing(name))?;
        }
        let home = File::open("/proc/thread-self/ns/net").map_err(HostError::Namespace)?;
        let hub = Arc::new(namespace()?);
        for line in ["link set lo up", "link add br0 type bridge", "addr add 10.77.0.254/24 dev br0", "link set br0 up"] {
            run_in(&hub, "ip", line)?;
        }
        enter(hub.as_raw_fd()).map_err(HostError::Namespace)?;
        Ok(Network { hub, home, hosts: 0, _thread: PhantomData })
    }

    /// A new host, its link up.
    ///
    /// # Errors
    /// [`HostError::Failed`]; there are at most 250.
    pub fn host(&mut self) -> Result<Host, HostError> {
        let number = self.hosts + 1;
        if number > 250 {
            return Err(HostError::Failed { command: "host".into(), printed: "there are 250 hosts already".into() });
        }
        let host = Host { inside: Arc::new(namespace()?), hub: self.hub.clone(), number };
        // SAFETY: reads a number. This thread is in the hub, so its id names the hub.
        let thread = unsafe { libc::gettid() };
        host.inside(&format!("link add eth0 type veth peer name port{number} netns {thread}"))?;
        for line in ["link set lo up".to_string(), format!("addr add {}/24 dev eth0", host.address()), "link set eth0 up".to_string()] {
            host.inside(&line)?;
        }
        run_in(&self.hub, "ip", &format!("link set port{number} master br0 up"))?;
        self.hosts = number;
        Ok(host)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Err(error) = enter(self.home.as_raw_fd()) {
            eprintln!("this thread stays in its test's network namespace: {error}");
        }
    }
}

impl Host {
    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, self.number)
    }

    /// Has `command` run on this host. It is killed when the thread that starts it ends.
    pub fn put(&self, command: &mut Command) {
        let inside = self.inside.clone();
        // SAFETY: between fork and exec only system calls are made, on values that were made before.
        unsafe {
            command.pre_exec(move || {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) != 0 {
                    return Err(io::Error::last_os_error());
                }
                enter(inside.as_raw_fd())
            });
        }
    }

    /// Cuts the cable, or mends it: nothing comes through and nobody is told.
    pub fn link(&self, up: bool) -> Result<(), HostError> {
        run_in(&self.hub, "ip", &format!("link set port{} {}", self.number, if up { "up" } else { "down" })).map(drop)
    }

    /// What this host sends is lost; it still hears.
    pub fn mute(&self) -> Result<(), HostError> {
        run_in(&self.inside, "tc", "qdisc replace dev eth0 root blackhole").map(drop)
    }

    /// What is sent to this host is lost; it is still heard.
    pub fn deafen(&self) -> Result<(), HostError> {
        run_in(&self.hub, "tc", &format!("qdisc replace dev port{} root blackhole", self.number)).map(drop)
    }

    /// Both directions carry this many KiB a second.
    pub fn slow(&self, kib_per_second: u32) -> Result<(), HostError> {
        let bucket = format!("root tbf rate {}kbit burst 32kb latency {QUEUE}", kib_per_second * 8);
        run_in(&self.inside, "tc", &format!("qdisc replace dev eth0 {bucket}"))?;
        run_in(&self.hub, "tc", &format!("qdisc replace dev port{} {bucket}", self.number)).map(drop)
    }

    /// Takes back what the other calls did.
    pub fn heal(&self) -> Result<(), HostError> {
        // Where there is nothing to take back, `tc` says so with an error.
        let _ = run_in(&self.inside, "tc", "qdisc del dev eth0 root");
        let _ = run_in(&self.hub, "tc", &format!("qdisc del dev port{} root", self.number));
        self.link(true)
    }

    fn inside(&self, line: &str) -> Result<(), HostError> {
        run_in(&self.inside, "ip", line).map(drop)
    }
}

/// A new, empty namespace.
fn namespace() -> Result<File, HostError> {
    let made = std::thread::spawn(|| {
        // SAFETY: has no memory effects; only this short-lived thread changes its namespace.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            return Err(io::Error::last_os_error());
        }
        File::open("/proc/thread-self/ns/net")
    });
    made.join().map_err(|_| HostError::Namespace(io::Error::other("its thread ended")))?.map_err(HostError::Namespace)
}

/// Puts the calling thread there.
fn enter(namespace: i32) -> io::Result<()> {
    // SAFETY: a system call on a file descriptor, without memory effects.
    if unsafe { libc::setns(namespace, libc::CLONE_NEWNET) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn run_in(namespace: &Arc<File>, program: &'static str, line: &str) -> Result<(), HostError> {
    let failed = |printed: String| HostError::Failed { command: format!("{program} {line}"), printed };
    let mut command = Command::new(find_program(program).ok_or(HostError::Missing(program))?);
    command.args(line.split_whitespace()).stdin(Stdio::null());
    let namespace = namespace.clone();
    // SAFETY: between fork and exec only a system call is made, on a value that was made before.
    unsafe { command.pre_exec(move || enter(namespace.as_raw_fd())) };
    let output = command.output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() { Ok(()) } else { Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{SocketAddr, TcpStream};
    use std::time::Duration;

    /// Answers every datagram on the host, until the test ends.
    fn echo(host: &Host) -> SocketAddr {
        let (inside, address) = (host.inside.clone(), SocketAddr::from((host.address(), 7)));
        let (ready, wait) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            enter(inside.as_raw_fd()).unwrap();
            let socket = std::net::UdpSocket::bind(address).unwrap();
            ready.send(()).unwrap();
            let mut buffer = [0; 64];
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                if &buffer[..len] == b"end" {
                    break;
                }
                let _ = socket.send_to(&buffer[..len], from);
            }
        });
        wait.recv().unwrap();
        address
    }

    #[test]
    fn a_host_answers_until_its_link_is_cut_either_way_and_again_when_it_heals() {
        let mut network = match Network::new() {
            Ok(network) => network,
            Err(error) => {
                assert!(matches!(error, HostError::NotRoot | HostError::Missing(_)), "{error}");
                eprintln!("not seen: {error}");
                return;
            }
        };
        let (one, two) = (network.host().unwrap(), network.host().unwrap());
        let (address, other) = (echo(&one), echo(&two));
        let socket = std::net::UdpSocket::bind("10.77.0.254:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        // Each question is another: an answer to an earlier one that comes late is none to this.
        let asked = std::cell::Cell::new(0_u64);
        let answers = |at: SocketAddr, tries: usize| {
            (0..tries).any(|_| {
                asked.set(asked.get() + 1);
                let (question, mut buffer) = (asked.get().to_be_bytes(), [0; 64]);
                let mut heard = || socket.recv_from(&mut buffer).map(|(len, from)| from == at && buffer[..len] == question);
                socket.send_to(&question, at).is_ok() && std::iter::from_fn(|| heard().ok()).any(|right| right)
            })
        };
        assert!(answers(address, 10) && answers(other, 10));
        assert!(TcpStream::connect(address).is_err(), "nobody listens there, and it says so");
        type Fault = fn(&Host) -> Result<(), HostError>;
        let faults: [Fault; 3] = [|host| host.link(false), Host::mute, Host::deafen];
        for fault in faults {
            fault(&one).unwrap();
            assert!(!answers(address, 2), "it answers");
            assert!(answers(other, 10), "the other does not answer");
            one.heal().unwrap();
            assert!(answers(address, 10));
        }
        one.slow(64).unwrap();
        assert!(answers(address, 10));
        one.heal().unwrap();
        socket.send_to(b"end", address).unwrap();
        socket.send_to(b"end", other).unwrap();
    }
}
