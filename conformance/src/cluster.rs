//! Metadata processes, gateways over them and storage nodes, the real binaries on loopback or on hosts of their own.
//!
//! Invariants: every process is ended by its id when its value is dropped, also on a panic; a metadata process keeps its ports over a
//! restart, and starts again without an invitation.

mod ranges;

pub use ranges::Led;

use crate::clock::{Clock, Clocks};
use crate::fleet::{StorageNode, serving};
use crate::hosts::{Host, Network};
use crate::operations;
use crate::process::{cpu_of, resident_of};
use crate::program::Program;
use crate::server::{Server, Settings};
use gateway::boot::Home;
use gateway::fleet::cluster::{GatewayPapers, Peers};
use gateway::keys::Keys;
use rustls::ClientConfig;
use serde_json::Value;
use spine::wire::cluster::Endpoint;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a process may take to start, and a change to be seen.
const LIMIT: Duration = Duration::from_secs(60);

/// How long a certificate of [`Cluster::connect`] is good for.
const LIFE: Duration = Duration::from_secs(86_400);

/// A metadata process.
#[derive(Debug)]
pub struct MetadataNode {
    place: PathBuf,
    child: Option<Child>,
    listen: String,
    ops: String,
    host: Option<Host>,
    clock: Option<Clock>,
    /// Whether it levels the metadata processes out while it leads the root group; as it is when it starts.
    pub balance: bool,
    /// Which build it is, from the next start on.
    pub program: Program,
    /// Its node's id.
    pub id: String,
}

impl MetadataNode {
    /// A process with a folder in `place`, not started.
    pub fn new(place: &Path, host: Option<Host>) -> io::Result<MetadataNode> {
        fs::create_dir_all(place)?;
        let listen = host.as_ref().map_or_else(|| "127.0.0.1:0".to_string(), |host| format!("{}:0", host.address()));
        let (place, ops, program) = (place.to_path_buf(), listen.clone(), Program::default());
        Ok(MetadataNode { place, child: None, ops, listen, host, clock: None, balance: false, program, id: String::new() })
    }

    /// Runs by this clock from the next start on.
    #[must_use]
    pub fn by(mut self, clock: Option<Clock>) -> MetadataNode {
        self.clock = clock;
        self
    }

    /// Listens on another port from the next start on, as if its machine had another address.
    pub fn elsewhere(&mut self) {
        let host = self.listen.rsplit_once(':').map_or("127.0.0.1", |(host, _)| host);
        self.listen = format!("{host}:0");
    }

    /// Starts with more of the command line: `--init`, `--join TOKEN` or nothing. Returns once it serves, taken in or not.
    ///
    /// # Errors
    /// The process ended or said nothing in time; the error carries its log.
    pub fn start(&mut self, arguments: &[&str]) -> io::Result<()> {
        self.kill();
        let began = Instant::now();
        let path = self.place.join("node.log");
        let mut log = OpenOptions::new().create(true).append(true).open(&path)?;
        writeln!(log, "--- start ---")?;
        let offset = log.metadata()?.len() as usize;
        let mut command = self.program.command();
        command.arg("metadata").arg("--data").arg(self.data());
        command.args(["--listen", &self.listen, "--ops-listen", &self.ops]).args(&self.program.metadata).args(arguments);
        if !self.balance && !self.program.never_balances {
            command.arg("--no-balance");
        }
        command.current_dir(&self.place).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        if let Some(host) = &self.host {
            host.put(&mut command);
        }
        command.envs(self.clock.iter().flat_map(Clock::environment));
        let mut child = command.spawn()?;
        loop {
            let printed = String::from_utf8_lossy(&fs::read(&path)?[offset..]).into_owned();
            let after = |word: &str| printed.lines().find_map(|line| line.strip_prefix(word)).map(str::to_owned);
            if let (Some(listen), Some(ops), Some(id)) = (after("metadata on "), after("operations on http://"), after("node ")) {
                (self.listen, self.ops, self.id) = (listen, ops, id);
                self.child = Some(child);
                return Ok(());
            }
            if let Some(status) = child.try_wait()? {
                return Err(io::Error::other(format!("the metadata process ended ({status}):\n{printed}")));
            }
            if began.elapsed() > LIMIT {
                let _ = child.kill();
                let _ = child.wait();
                return Err(io::Error::other(format!("the metadata process did not start in time:\n{printed}")));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Its folder: key, papers and replica.
    pub fn data(&self) -> PathBuf {
        self.place.join("data")
    }

    /// Where `--init` left what gateways need.
    pub fn gateway_papers(&self) -> PathBuf {
        self.data().join("gateway-papers")
    }

    pub fn host(&self) -> Option<&Host> {
        self.host.as_ref()
    }

    pub fn clock(&self) -> Option<&Clock> {
        self.clock.as_ref()
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Sum of a metric over its labels, 0 where it has no sample.
    ///
    /// # Errors
    /// It does not answer.
    pub fn metric(&self, name: &str) -> io::Result<f64> {
        Ok(operations::metric(&self.metrics()?, name))
    }

    /// Where it answers, once it was started.
    pub fn endpoint(&self) -> Option<Endpoint> {
        format!("{}@{}", self.id, self.listen).parse().ok()
    }

    /// What it says at `/metrics` now; see [`operations`].
    ///
    /// # Errors
    /// It does not answer.
    pub fn metrics(&self) -> io::Result<String> {
        operations::get(&self.ops, "/metrics").map(|(_, text)| text)
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// User and system CPU so far.
    pub fn cpu(&self) -> Duration {
        cpu_of(self.pid())
    }

    /// Resident bytes: but for the files of this suffix, and of those.
    ///
    /// # Errors
    /// It does not run.
    pub fn resident(&self, suffix: &str) -> io::Result<(u64, u64)> {
        resident_of(self.pid(), suffix)
    }

    /// What `/health/ready` says of its groups.
    ///
    /// # Errors
    /// It does not answer, or with something else.
    pub fn ready(&self) -> io::Result<Value> {
        let mut stream = TcpStream::connect(&self.ops)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET /health/ready HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.ops)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        serde_json::from_str(body).map_err(io::Error::other)
    }

    /// How it ended, if it did by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        Some(status)
    }

    /// SIGKILL, then waits.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends a signal and leaves the process to it.
    pub fn signal(&self, signal: i32) {
        if let Some(child) = &self.child {
            // SAFETY: kill(2) has no memory effects; the child was not waited for yet, so the id is still its own.
            unsafe { libc::kill(child.id() as i32, signal) };
        }
    }

    /// SIGTERM; how it ended, or `None` and killed if not within `limit`.
    pub fn terminate(&mut self, limit: Duration) -> Option<ExitStatus> {
        self.signal(libc::SIGTERM);
        let mut child = self.child.take()?;
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

    /// How it ends by itself, or `None` if it still runs after `limit`.
    pub fn ends(&mut self, limit: Duration) -> Option<ExitStatus> {
        let began = Instant::now();
        while began.elapsed() < limit {
            if let Some(status) = self.child.as_mut()?.try_wait().ok()? {
                self.child = None;
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        None
    }

    /// Everything printed so far.
    pub fn log(&self) -> String {
        fs::read(self.place.join("node.log")).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }
}

impl Drop for MetadataNode {
    fn drop(&mut self) {
        self.kill();
    }
}

/// All of it. Gateways end first, then storage nodes, then metadata.
#[derive(Debug)]
pub struct Cluster {
    pub gateways: Vec<Server>,
    pub nodes: Vec<StorageNode>,
    pub metadata: Vec<MetadataNode>,
    /// Of the gateways, in order, if they have clocks of their own.
    pub clocks: Vec<Clock>,
    /// Which build those are that are added.
    pub program: Program,
    temp: TempDir,
}

/// How many processes of each kind.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub metadata: usize,
    pub gateways: usize,
    pub nodes: usize,
}

/// What all processes of a cluster are like.
#[derive(Default)]
struct How {
    balance: bool,
    program: Program,
    /// Metadata processes and gateways have wall clocks of their own.
    clocks: Option<Clocks>,
}

/// Three of each, and six storage nodes: what RS 4+2 needs.
pub const USUAL: Size = Size { metadata: 3, gateways: 3, nodes: 6 };

impl Cluster {
    /// On loopback, groups left where they are. `config`: the gateways' configuration file.
    pub fn start(size: Size, config: &str) -> io::Result<Cluster> {
        Self::begin(folder()?, size, config, None, How::default())
    }

    /// The same, and the metadata processes are levelled out.
    pub fn balanced(size: Size, config: &str) -> io::Result<Cluster> {
        Self::begin(folder()?, size, config, None, How { balance: true, ..How::default() })
    }

    /// The same with all processes of this build, groups left where they are; everything they keep is in `temp`.
    pub fn of(program: Program, temp: TempDir, size: Size) -> io::Result<Cluster> {
        Self::begin(temp, size, "", None, How { program, ..How::default() })
    }

    /// Every process on a host of its own; everything they keep is in `temp`.
    pub fn on_hosts(network: &mut Network, temp: TempDir, size: Size, config: &str) -> io::Result<Cluster> {
        Self::begin(temp, size, config, Some(network), How::default())
    }

    /// The same, where metadata processes and gateways have wall clocks of their own, and the metadata processes are levelled out.
    pub fn on_hosts_by_clocks(network: &mut Network, temp: TempDir, size: Size, config: &str) -> io::Result<Cluster> {
        let clocks = Some(Clocks::build(temp.path())?);
        Self::begin(temp, size, config, Some(network), How { clocks, balance: true, ..How::default() })
    }

    fn begin(temp: TempDir, size: Size, config: &str, mut network: Option<&mut Network>, how: How) -> io::Result<Cluster> {
        let How { balance, program, clocks } = how;
        let mut host = || network.as_mut().map(|network| network.host()).transpose();
        let clock = |place: &Path| clocks.as_ref().map(|clocks| clocks.clock(place)).transpose();
        let (gateways, nodes, metadata, by) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut cluster = Cluster { gateways, nodes, metadata, clocks: by, program: program.clone(), temp };
        let place = cluster.place().join("metadata-0");
        let mut first = MetadataNode::new(&place, host()?)?.by(clock(&place)?);
        (first.balance, first.program) = (balance, program.clone());
        first.start(&["--init"])?;
        cluster.metadata.push(first);
        for number in 0..size.gateways {
            let own = clock(&cluster.place().join(format!("gateway-{number}")))?;
            let gateway = cluster.gateway_by(number, config, host()?, own.as_ref())?;
            cluster.gateways.push(gateway);
            cluster.clocks.extend(own);
            if number == 0 {
                for other in 1..size.metadata {
                    let place = cluster.place().join(format!("metadata-{other}"));
                    let mut node = MetadataNode::new(&place, host()?)?.by(clock(&place)?);
                    (node.balance, node.program) = (balance, program.clone());
                    node.start(&["--join", &cluster.invite("metadata", &[])?])?;
                    cluster.metadata.push(node);
                }
            }
        }
        cluster.wait("all metadata nodes vote", |status| voting(status) == size.metadata)?;
        let token = if size.nodes > 0 { cluster.invite("fleet", &["--uses", &size.nodes.to_string()])? } else { String::new() };
        for number in 0..size.nodes {
            let (place, machine) = (cluster.place().join(format!("node-{number}")), format!("machine-{number}"));
            let mut node = StorageNode::new(&place, &machine, &format!("zone-{}", number % 3))?;
            if let Some(host) = host()? {
                node = node.on(host);
            }
            node.program = program.clone();
            node.start(Some(&token))?;
            cluster.nodes.push(node);
        }
        for at in 0..size.gateways {
            cluster.wait_for_members(at, size.metadata)?;
            cluster.wait_for_nodes(at, size.nodes)?;
        }
        Ok(cluster)
    }

    /// Until a gateway has learned of all metadata nodes: before that those it knows are all it can ask.
    ///
    /// # Errors
    /// It has not, within a minute.
    pub fn wait_for_members(&self, gateway: usize, members: usize) -> io::Result<()> {
        let (path, began) = (self.gateways[gateway].data().join("fleet/metadata.json"), Instant::now());
        loop {
            let text = fs::read_to_string(&path)?;
            let known: Value = serde_json::from_str(&text).map_err(io::Error::other)?;
            if known["members"].as_array().map_or(0, Vec::len) >= members {
                return Ok(());
            }
            if began.elapsed() > LIMIT {
                return Err(io::Error::other(format!("gateway {gateway} does not know {members} metadata nodes: {text}")));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// One more gateway, started with the papers of the first metadata node; not in the list.
    pub fn gateway(&self, number: usize, config: &str, host: Option<Host>) -> io::Result<Server> {
        self.gateway_by(number, config, host, None)
    }

    fn gateway_by(&self, number: usize, config: &str, host: Option<Host>, clock: Option<&Clock>) -> io::Result<Server> {
        let config = (!config.is_empty()).then(|| config.to_owned());
        let place = Some(self.place().join(format!("gateway-{number}")));
        let papers = self.metadata[0].gateway_papers().to_string_lossy().into_owned();
        let arguments = vec!["--metadata".to_string(), papers];
        let environment = clock.into_iter().flat_map(Clock::environment).collect();
        let program = self.program.clone();
        Server::start_with(Settings { place, config, host, gateway: true, arguments, environment, program, ..Settings::default() })
    }

    /// Folder of everything.
    pub fn place(&self) -> &Path {
        self.temp.path()
    }

    /// How one more gateway reaches the metadata nodes: by a certificate made from the first one's papers, in a folder of its own.
    ///
    /// # Errors
    /// The papers or the folder.
    pub fn connect(&self) -> io::Result<Arc<ClientConfig>> {
        let home = Home::open(&self.place().join("asker")).map_err(io::Error::other)?;
        let papers = GatewayPapers::load(&self.metadata[0].gateway_papers()).map_err(io::Error::other)?;
        let known = gateway::fleet::cluster::Cluster::take(&home, &papers).map_err(io::Error::other)?;
        let peers = Peers::new(&home, &known, &Keys::of(&papers.root_key), LIFE).map_err(io::Error::other)?;
        peers.client().map_err(io::Error::other)
    }

    /// A new invitation's token: `fleet` or `metadata`.
    pub fn invite(&self, what: &str, arguments: &[&str]) -> io::Result<String> {
        let printed = self.gateways[0].admin(&[&[what, "invite", "--json"], arguments].concat())?;
        let value: Value = serde_json::from_str(printed.trim()).map_err(io::Error::other)?;
        value["token"].as_str().map(str::to_owned).ok_or_else(|| io::Error::other(format!("no token in {printed}")))
    }

    /// `admin metadata status --json` of the first gateway that answers.
    pub fn status(&self) -> io::Result<Value> {
        let mut last = io::Error::other("there is no gateway");
        for gateway in &self.gateways {
            match gateway.admin(&["metadata", "status", "--json"]) {
                Ok(printed) => return serde_json::from_str(printed.trim()).map_err(io::Error::other),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Waits until the metadata's status is as it should be.
    ///
    /// # Errors
    /// It was not, within a minute.
    pub fn wait(&self, what: &str, holds: impl Fn(&Value) -> bool) -> io::Result<()> {
        let began = Instant::now();
        loop {
            let status = self.status();
            if status.as_ref().is_ok_and(&holds) {
                return Ok(());
            }
            if began.elapsed() > LIMIT {
                let logs: String = self.metadata.iter().map(|node| tail(&node.log())).collect();
                return Err(io::Error::other(format!("not within {LIMIT:?}: {what}\n{status:#?}\n{logs}")));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Until a gateway sees so many storage nodes serve.
    ///
    /// # Errors
    /// It does not, within a minute.
    pub fn wait_for_nodes(&self, gateway: usize, nodes: usize) -> io::Result<()> {
        let began = Instant::now();
        loop {
            let printed = self.gateways[gateway].admin(&["fleet", "status", "--json"])?;
            let status: Value = serde_json::from_str(printed.trim()).map_err(io::Error::other)?;
            if serving(&status) == nodes {
                return Ok(());
            }
            if began.elapsed() > LIMIT {
                return Err(io::Error::other(format!("gateway {gateway} does not see {nodes} nodes serve: {status:#}")));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Which of [`Cluster::metadata`] leads now; `None`: nobody, or nobody who is among them.
    pub fn leader(&self) -> Option<usize> {
        let status = self.status().ok()?;
        let leads = status["nodes"].as_array()?.iter().find(|node| node["leads"] == true && node["answers"] == true)?;
        self.metadata.iter().position(|node| leads["node"] == node.id.as_str())
    }
}

fn folder() -> io::Result<TempDir> {
    tempfile::Builder::new().prefix("breakwater-cluster-").tempdir()
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n") + "\n---\n"
}

/// How many metadata nodes answer and vote.
pub fn voting(status: &Value) -> usize {
    let all = status["nodes"].as_array().map_or(&[][..], Vec::as_slice);
    all.iter().filter(|node| node["votes"] == true && node["answers"] == true).count()
}
