//! Runs the binary in a folder of its own and ends it by its id.

use crate::signer::Signer;
use crate::wire::{Answer, Connection};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub const ACCESS_KEY: &str = "FRONTTESTROOT";
pub const SECRET_KEY: &str = "front-test-secret-key";

pub struct Server {
    place: TempDir,
    child: Mutex<Child>,
    pub s3: SocketAddr,
    pub ops: SocketAddr,
    /// What was printed until both addresses were.
    pub printed: String,
}

pub fn breakwater(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_breakwater"));
    command.args(arguments).env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

pub fn folder() -> TempDir {
    tempfile::Builder::new().prefix("breakwater-front-").tempdir().unwrap()
}

impl Server {
    /// One server for the tests that change nothing others could see; it ends with the last of them.
    pub fn shared() -> Arc<Server> {
        static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = shared.upgrade() {
            return server;
        }
        let server = Arc::new(Server::start(""));
        *shared = Arc::downgrade(&server);
        assert_eq!(server.signer().send("PUT", "/shared", &[], b"").status, 200);
        server
    }

    pub fn start(config: &str) -> Server {
        Server::start_in(folder(), config, &[])
    }

    pub fn start_in(place: TempDir, config: &str, more: &[&str]) -> Server {
        std::fs::write(place.path().join("breakwater.toml"), config).unwrap();
        let path = |name: &str| place.path().join(name).display().to_string();
        let (data, file) = (path("data"), path("breakwater.toml"));
        let mut arguments = vec!["serve", "--data", &data, "--config", &file, "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"];
        arguments.extend_from_slice(more);
        let mut command = breakwater(&arguments);
        command.env("BREAKWATER_ROOT_ACCESS_KEY", ACCESS_KEY).env("BREAKWATER_ROOT_SECRET_KEY", SECRET_KEY);
        Server::spawn(place, command)
    }

    pub fn spawn(place: TempDir, mut command: Command) -> Server {
        let log = std::fs::File::create(place.path().join("log")).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let (mut printed, mut addresses) = (String::new(), Vec::new());
        while addresses.len() < 2 {
            let mut line = String::new();
            if out.read_line(&mut line).unwrap() == 0 {
                let log = std::fs::read_to_string(place.path().join("log")).unwrap_or_default();
                panic!("the server ended while starting: {}\n{log}", child.wait().unwrap());
            }
            if let Some((_, address)) =
                line.split_once("://").filter(|(head, _)| head.starts_with("S3 on") || head.starts_with("operations on"))
            {
                addresses.push(address.trim().parse().unwrap());
            }
            printed.push_str(&line);
        }
        let server = Server { s3: addresses[0], ops: addresses[1], printed, child: Mutex::new(child), place };
        std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
        server
    }

    pub fn place(&self) -> &Path {
        self.place.path()
    }

    pub fn data(&self) -> PathBuf {
        self.place.path().join("data")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.place.path().join("log")).unwrap_or_default()
    }

    pub fn signer(&self) -> Signer {
        Signer::new(self.s3, ACCESS_KEY, SECRET_KEY)
    }

    pub fn connect(&self) -> Connection {
        Connection::open(self.s3)
    }

    pub fn ops(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut connection = Connection::open(self.ops);
        connection.send(method, path, headers, b"");
        connection.read(method)
    }

    /// Sum over labels of a metric whose line contains `part`.
    pub fn metric(&self, name: &str, part: &str) -> f64 {
        let text = self.ops("GET", "/metrics", &[]).text();
        text.lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])) && line.contains(part))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum()
    }

    pub fn admin(&self, arguments: &[&str]) -> Output {
        let data = self.data().display().to_string();
        let mut all = vec!["admin", "--data", &data];
        all.extend_from_slice(arguments);
        breakwater(&all).output().unwrap()
    }

    pub fn rss(&self) -> u64 {
        let pid = self.child.lock().unwrap().id();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) << 10
    }

    pub fn terminate(&self) {
        let child = self.child.lock().unwrap();
        // SAFETY: kill(2) touches no memory; the child was not waited for, so the id is its own.
        unsafe { libc::kill(i32::try_from(child.id()).unwrap(), libc::SIGTERM) };
    }

    pub fn wait(&self, limit: Duration) -> Option<ExitStatus> {
        let began = Instant::now();
        while began.elapsed() < limit {
            if let Some(status) = self.child.lock().unwrap().try_wait().unwrap() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }

    /// Ends the process and gives the folder to the next.
    pub fn stop(self) -> TempDir {
        self.terminate();
        assert_eq!(self.wait(Duration::from_secs(20)).and_then(|status| status.code()), Some(0), "{}", self.log());
        self.stop_waited()
    }

    /// The folder of a process that has ended.
    pub fn stop_waited(mut self) -> TempDir {
        std::mem::replace(&mut self.place, folder())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Ends with what it printed.
pub fn run(arguments: &[&str]) -> (i32, String) {
    let mut child = breakwater(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if began.elapsed() > Duration::from_secs(20) {
            child.kill().unwrap();
            break child.wait().unwrap();
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    (status.code().unwrap_or(-1), text)
}
