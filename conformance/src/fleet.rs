//! A gateway and storage processes, the real binaries on loopback or on hosts of their own, joined as an operator would join them.
//!
//! Invariants: every process is ended by its id when its value is dropped, also on a panic; a storage process keeps its ports over a
//! restart, and starts again without an invitation.

use crate::hosts::{Host, Network};
use crate::process::status_kib;
use crate::program::Program;
use crate::server::{Server, Settings};
use serde_json::Value;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a storage process may take to start, and the gateway to see a change.
const LIMIT: Duration = Duration::from_secs(60);

/// A storage process.
#[derive(Debug)]
pub struct StorageNode {
    place: PathBuf,
    machine: String,
    zone: String,
    disks: Vec<PathBuf>,
    /// Bytes that each disk offers.
    pub capacity: u64,
    /// More of the command line, and of the environment.
    pub arguments: Vec<String>,
    pub environment: Vec<(String, String)>,
    child: Option<Child>,
    listen: String,
    ops: String,
    /// Where it runs; `None`: here, on loopback.
    pub host: Option<Host>,
    /// Which build it is, from the next start on.
    pub program: Program,
    /// Ids of its nodes, one a disk.
    pub ids: Vec<String>,
}

impl StorageNode {
    /// A process with one disk in `place`, not started.
    pub fn new(place: &Path, machine: &str, zone: &str) -> io::Result<StorageNode> {
        fs::create_dir_all(place)?;
        Ok(StorageNode {
            place: place.to_path_buf(),
            machine: machine.into(),
            zone: zone.into(),
            disks: vec![place.join("disk")],
            capacity: 4 << 30,
            arguments: Vec::new(),
            environment: Vec::new(),
            child: None,
            listen: "127.0.0.1:0".into(),
            ops: "127.0.0.1:0".into(),
            host: None,
            program: Program::default(),
            ids: Vec::new(),
        })
    }

    /// The same on a host of its own.
    pub fn on(mut self, host: Host) -> StorageNode {
        self.listen = format!("{}:0", host.address());
        self.ops = self.listen.clone();
        self.host = Some(host);
        self
    }

    /// With one more disk.
    pub fn with_disk(mut self, name: &str) -> StorageNode {
        self.disks.push(self.place.join(name));
        self
    }

    /// On this address of loopback.
    pub fn at(mut self, listen: &str) -> StorageNode {
        self.listen = listen.into();
        self
    }

    /// Runs it with more arguments until it ends by itself.
    ///
    /// # Errors
    /// What it printed, where it failed.
    pub fn run_once(&self, arguments: &[&str]) -> io::Result<String> {
        let output = self.command().args(arguments).stdin(Stdio::null()).output()?;
        let printed = [output.stdout, output.stderr].concat();
        let printed = String::from_utf8_lossy(&printed).into_owned();
        if output.status.success() { Ok(printed) } else { Err(io::Error::other(printed)) }
    }

    fn command(&self) -> Command {
        let mut command = self.program.command();
        command.arg("storage-node").args(["--machine", &self.machine, "--zone", &self.zone]);
        command.args(["--listen", &self.listen, "--ops-listen", &self.ops]);
        command.arg("--capacity").arg(self.capacity.to_string());
        for disk in &self.disks {
            command.arg("--disk").arg(disk);
        }
        command.args(&self.arguments).envs(self.environment.iter().cloned());
        command.current_dir(&self.place);
        command
    }

    /// Starts, with an invitation or without.
    ///
    /// # Errors
    /// The process ended or said nothing in time; the error carries its log.
    pub fn start(&mut self, join: Option<&str>) -> io::Result<()> {
        let began = Instant::now();
        let path = self.place.join("node.log");
        let mut log = OpenOptions::new().create(true).append(true).open(&path)?;
        writeln!(log, "--- start ---")?;
        let offset = log.metadata()?.len() as usize;
        let mut command = self.command();
        if let Some(token) = join {
            command.args(["--join", token]);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        if let Some(host) = &self.host {
            host.put(&mut command);
        }
        let mut child = command.spawn()?;
        loop {
            let printed = String::from_utf8_lossy(&fs::read(&path)?[offset..]).into_owned();
            let after = |word: &str| printed.lines().find_map(|line| line.strip_prefix(word)).map(str::to_owned);
            let ids: Vec<String> =
                printed.lines().filter_map(|line| line.strip_prefix("node ")?.split(' ').next()).map(str::to_owned).collect();
            // A disk that is away is said, too, and behind those that are there.
            let away = printed.lines().filter(|line| line.starts_with("away ")).count();
            let all = ids.len() + away == self.disks.len();
            if let (Some(listen), Some(ops), true) = (after("data on "), after("operations on http://"), all) {
                (self.listen, self.ops, self.ids) = (listen, ops, ids);
                self.child = Some(child);
                return Ok(());
            }
            if let Some(status) = child.try_wait()? {
                return Err(io::Error::other(format!("the storage process ended ({status}):\n{printed}")));
            }
            if began.elapsed() > LIMIT {
                let _ = child.kill();
                let _ = child.wait();
                return Err(io::Error::other(format!("the storage process did not start in time:\n{printed}")));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Its machine is gone: silent from one moment to the next, then killed.
    ///
    /// # Errors
    /// The link of its host cannot be cut.
    pub fn vanish(&mut self) -> io::Result<()> {
        if let Some(host) = &self.host {
            host.link(false)?;
        }
        self.kill();
        Ok(())
    }

    /// Starts it again after [`StorageNode::kill`], [`StorageNode::vanish`] or [`StorageNode::terminate`].
    ///
    /// # Errors
    /// As [`StorageNode::start`].
    pub fn back(&mut self) -> io::Result<()> {
        if let Some(host) = &self.host {
            host.link(true)?;
        }
        self.start(None)
    }

    /// Its next start is on other ports.
    pub fn moves(&mut self) {
        let anywhere = self.host.as_ref().map_or("127.0.0.1:0".to_string(), |host| format!("{}:0", host.address()));
        (self.listen, self.ops) = (anywhere.clone(), anywhere);
    }

    pub fn zone(&self) -> &str {
        &self.zone
    }

    pub fn id(&self) -> &str {
        self.ids.first().map_or("", String::as_str)
    }

    /// Folder of its disk.
    pub fn disk(&self) -> &Path {
        &self.disks[0]
    }

    /// Address of its data plane.
    pub fn address(&self) -> &str {
        &self.listen
    }

    /// `host:port` of its operations.
    pub fn ops(&self) -> &str {
        &self.ops
    }

    /// Most resident bytes since it started, mapped files included; 0 while it does not run.
    pub fn peak_rss(&self) -> u64 {
        self.child.as_ref().map_or(0, |child| status_kib(child.id(), "VmHWM:") << 10)
    }

    /// SIGKILL, then waits.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGSTOP: it is there and does nothing, until it is continued.
    pub fn pause(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// SIGCONT.
    pub fn go_on(&self) {
        self.signal(libc::SIGCONT);
    }

    fn signal(&self, signal: i32) {
        if let Some(child) = &self.child {
            // SAFETY: kill(2) has no memory effects; the child was not waited for yet, so the id is still its own.
            unsafe { libc::kill(child.id() as i32, signal) };
        }
    }

    /// SIGTERM; how it ended, or `None` and killed if not within `limit`.
    pub fn terminate(&mut self, limit: Duration) -> Option<ExitStatus> {
        let mut child = self.child.take()?;
        // SAFETY: kill(2) has no memory effects; the child was not waited for yet, so the id is still its own.
        unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
        let began = Instant::now();
        while began.elapsed() < limit {
            if let Ok(Some(status)) = child.try_wait() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        let _ = child.wait();
        None
    }

    /// Everything printed so far.
    pub fn log(&self) -> String {
        fs::read(self.place.join("node.log")).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Shards on its disk, as it says itself; `None` while it does not answer.
    pub fn get_ops(&self, path: &str) -> Option<(u16, String)> {
        use std::io::Read;
        let mut stream = std::net::TcpStream::connect(&self.ops).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.ops).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let status = answer.split_whitespace().nth(1)?.parse().ok()?;
        Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
    }

    /// Live shards on its first disk.
    pub fn shards(&self) -> u64 {
        let body = self.get_ops("/health/ready").map(|answer| answer.1).unwrap_or_default();
        serde_json::from_str::<Value>(&body).ok().and_then(|value| value["disks"][0]["shards"].as_u64()).unwrap_or(0)
    }
}

impl Drop for StorageNode {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A gateway, its fleet, and storage processes of one disk each.
#[derive(Debug)]
pub struct Fleet {
    pub gateway: Server,
    pub nodes: Vec<StorageNode>,
    temp: TempDir,
}

impl Fleet {
    /// A gateway that has made its fleet, and no nodes. `config`: the gateway's configuration file.
    pub fn bare(config: &str) -> io::Result<Fleet> {
        let temp = tempfile::Builder::new().prefix("breakwater-fleet-").tempdir()?;
        Self::made(temp, config, None)
    }

    fn made(temp: TempDir, config: &str, host: Option<Host>) -> io::Result<Fleet> {
        let config = (!config.is_empty()).then(|| config.to_owned());
        let place = Some(temp.path().join("gateway"));
        let gateway = Server::start_with(Settings { place, config, host, gateway: true, ..Settings::default() })?;
        gateway.admin(&["fleet", "init"])?;
        Ok(Fleet { gateway, nodes: Vec::new(), temp })
    }

    /// The same with `nodes` storage processes, each a machine of its own in one of three zones.
    pub fn start(nodes: usize, config: &str) -> io::Result<Fleet> {
        let mut fleet = Self::bare(config)?;
        let token = fleet.invite(&["--uses", &nodes.to_string()])?;
        for number in 0..nodes {
            let mut node = fleet.node(number)?;
            node.start(Some(&token))?;
            fleet.nodes.push(node);
        }
        fleet.wait("all nodes serve", |status| serving(status) == nodes)?;
        Ok(fleet)
    }

    /// `nodes` storage processes in `zones` zones, all of them and the gateway on hosts of their own; everything they keep is in `temp`.
    pub fn on_hosts(network: &mut Network, temp: TempDir, nodes: usize, zones: usize, config: &str) -> io::Result<Fleet> {
        let mut fleet = Self::made(temp, config, Some(network.host()?))?;
        let token = fleet.invite(&["--uses", &nodes.to_string()])?;
        for number in 0..nodes {
            let (machine, zone) = (format!("machine-{number}"), format!("zone-{}", number % zones));
            let mut node = StorageNode::new(&fleet.place().join(format!("node-{number}")), &machine, &zone)?.on(network.host()?);
            node.start(Some(&token))?;
            fleet.nodes.push(node);
        }
        fleet.wait("all nodes serve", |status| serving(status) == nodes)?;
        Ok(fleet)
    }

    /// A storage process with a folder of its own, not started.
    pub fn node(&self, number: usize) -> io::Result<StorageNode> {
        StorageNode::new(&self.temp.path().join(format!("node-{number}")), &format!("machine-{number}"), &format!("zone-{}", number % 3))
    }

    /// Folder of everything.
    pub fn place(&self) -> &Path {
        self.temp.path()
    }

    /// A new invitation's token.
    pub fn invite(&self, arguments: &[&str]) -> io::Result<String> {
        let printed = self.gateway.admin(&[&["fleet", "invite", "--json"], arguments].concat())?;
        let value: Value = serde_json::from_str(printed.trim()).map_err(io::Error::other)?;
        value["token"].as_str().map(str::to_owned).ok_or_else(|| io::Error::other(format!("no token in {printed}")))
    }

    /// `admin fleet status --json`.
    pub fn status(&self) -> io::Result<Value> {
        serde_json::from_str(self.gateway.admin(&["fleet", "status", "--json"])?.trim()).map_err(io::Error::other)
    }

    /// Waits until the status is as it should be.
    ///
    /// # Errors
    /// It was not, within a minute.
    pub fn wait(&self, what: &str, holds: impl Fn(&Value) -> bool) -> io::Result<()> {
        let began = Instant::now();
        loop {
            let status = self.status()?;
            if holds(&status) {
                return Ok(());
            }
            if began.elapsed() > LIMIT {
                return Err(io::Error::other(format!("not within {LIMIT:?}: {what}\n{status:#}")));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// How many nodes serve, by what they said last.
pub fn serving(status: &Value) -> usize {
    status["nodes"].as_array().map_or(0, |nodes| nodes.iter().filter(|node| node["seen"] == "serving").count())
}
