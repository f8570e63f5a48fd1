//! Runs the real binary in a folder of its own, kills it, starts it again.
//!
//! Invariants: the process is ended by its id when the value is dropped, also on a panic; ports are the kernel's choice at
//! the first start and kept over restarts, so that a client made once stays good; everything the server prints goes to one
//! log file beside its data (never into it).
//! Not here: clients (`client.rs`, `raw.rs`).

pub use crate::files::{allocated, find, grep, walk};
use crate::hosts::Host;
use crate::operations;
use crate::process::{cpu_of, status_kib};
use crate::program::Program;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a start may take before it is an error.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Root credentials of every server started here.
pub const ACCESS_KEY: &str = "BWCONFORMANCEROOT";
/// Marked so that a search of the disks and logs for it is a search for a leak.
pub const SECRET_KEY: &str = "conformance-root-secret-canary-8d2f";

/// What differs from the default.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Parent of the data folder, the log and the configuration; default: a temporary folder, removed at the end.
    pub place: Option<PathBuf>,
    /// Data folder; default `data` in the place.
    pub data: Option<PathBuf>,
    pub disks: Vec<PathBuf>,
    /// Content of the configuration file.
    pub config: Option<String>,
    /// Certificate and key, PEM.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// `breakwater gateway` instead of `breakwater serve`; ready as soon as it lives, since its nodes join later.
    pub gateway: bool,
    /// Where it runs; default: here, on loopback.
    pub host: Option<Host>,
    /// More arguments for `serve`.
    pub arguments: Vec<String>,
    /// More variables of the environment.
    pub environment: Vec<(String, String)>,
    pub program: Program,
}

/// A start that is under way.
#[derive(Debug)]
pub struct Begun {
    at: Instant,
    /// Where in the log it begins.
    offset: u64,
}

/// A running (or killed) server. Dropping it ends it.
#[derive(Debug)]
pub struct Server {
    settings: Settings,
    place: PathBuf,
    _temp: Option<TempDir>,
    data: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    s3: String,
    ops: String,
    /// A gateway's admission listener.
    admission: String,
    /// How long the last start took, until ready.
    pub start_time: Duration,
}

/// A credential for S3 requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    pub access_key: String,
    pub secret_key: String,
}

impl Credential {
    pub fn root() -> Self {
        Credential { access_key: ACCESS_KEY.into(), secret_key: SECRET_KEY.into() }
    }
}

/// Path of the binary under test: `BREAKWATER_BIN`, else beside the running program's own folder (target/release).
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("BREAKWATER_BIN") {
        return path.into();
    }
    let me = std::env::current_exe().unwrap_or_default();
    for folder in me.ancestors().skip(1).take(3) {
        let candidate = folder.join("breakwater");
        if candidate.is_file() {
            return candidate;
        }
    }
    panic!(
        "no `breakwater` beside {}: build it (cargo build --release --ignore-rust-version -p gateway) or set BREAKWATER_BIN",
        me.display()
    );
}

/// The repository's root, where this crate was built.
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

impl Server {
    /// Starts with defaults in a temporary folder.
    pub fn start() -> io::Result<Server> {
        Self::start_with(Settings::default())
    }

    /// # Errors
    /// The process ended or was not ready in time; the error carries the end of its log.
    pub fn start_with(settings: Settings) -> io::Result<Server> {
        let (place, temp) = match &settings.place {
            Some(place) => {
                fs::create_dir_all(place)?;
                (place.clone(), None)
            }
            None => {
                let temp = tempfile::Builder::new().prefix("breakwater-").tempdir()?;
                (temp.path().to_path_buf(), Some(temp))
            }
        };
        let data = settings.data.clone().unwrap_or_else(|| place.join("data"));
        let mut server = Server {
            log: place.join("server.log"),
            place,
            _temp: temp,
            data,
            settings,
            child: None,
            s3: String::new(),
            ops: String::new(),
            admission: String::new(),
            start_time: Duration::ZERO,
        };
        server.launch()?;
        Ok(server)
    }

    fn command(&self) -> io::Result<Command> {
        let anywhere = self.settings.host.as_ref().map_or_else(|| "127.0.0.1:0".to_owned(), |host| format!("{}:0", host.address()));
        let mut command = self.settings.program.command();
        command.arg(if self.settings.gateway { "gateway" } else { "serve" }).arg("--data").arg(&self.data);
        if self.settings.gateway {
            command.arg("--admission-listen").arg(if self.admission.is_empty() { &anywhere } else { &self.admission });
        }
        command.arg("--listen").arg(authority(&self.s3).unwrap_or(&anywhere));
        command.arg("--ops-listen").arg(authority(&self.ops).unwrap_or(&anywhere));
        for disk in &self.settings.disks {
            command.arg("--disk").arg(disk);
        }
        if let Some(text) = &self.settings.config {
            let path = self.place.join("breakwater.toml");
            fs::write(&path, text)?;
            command.arg("--config").arg(path);
        }
        if let Some((cert, key)) = &self.settings.tls {
            command.arg("--tls-cert").arg(cert).arg("--tls-key").arg(key);
        }
        command.args(&self.settings.arguments);
        command.env("BREAKWATER_ROOT_ACCESS_KEY", ACCESS_KEY).env("BREAKWATER_ROOT_SECRET_KEY", SECRET_KEY);
        command.envs(self.settings.environment.iter().map(|(k, v)| (k, v)));
        command.current_dir(&self.place);
        if let Some(host) = &self.settings.host {
            host.put(&mut command);
        }
        Ok(command)
    }

    fn launch(&mut self) -> io::Result<()> {
        let begun = self.spawn()?;
        self.follow(&begun)
    }

    fn spawn(&mut self) -> io::Result<Begun> {
        let at = Instant::now();
        let mut log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        writeln!(log, "--- start ---")?;
        let offset = log.metadata()?.len();
        let mut command = self.command()?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn()?);
        Ok(Begun { at, offset })
    }

    /// Waits until it is ready.
    fn follow(&mut self, begun: &Begun) -> io::Result<()> {
        loop {
            let printed = self.log_from(begun.offset)?;
            if let (Some(s3), Some(ops)) = (find_url(&printed, "S3 on "), find_url(&printed, "operations on ")) {
                self.s3 = s3;
                self.ops = ops;
                if let Some(admission) = printed.lines().find_map(|line| line.strip_prefix("admission on ")) {
                    self.admission = admission.to_owned();
                }
                // A gateway has no nodes at first; its admission listener is named last.
                let (said, ready) = match self.settings.gateway {
                    true => (!self.admission.is_empty(), "/health/live"),
                    false => (true, "/health/ready"),
                };
                if said && self.ops_get(ready).is_ok_and(|answer| answer.0 == 200) {
                    break;
                }
            }
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait()?
            {
                self.child = None;
                return Err(io::Error::other(format!("the server ended while starting ({status}). log:\n{}", tail(&printed))));
            }
            if begun.at.elapsed() > START_LIMIT {
                self.kill();
                return Err(io::Error::other(format!("the server was not ready after {START_LIMIT:?}. log:\n{}", tail(&printed))));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.start_time = begun.at.elapsed();
        Ok(())
    }

    /// `http(s)://127.0.0.1:PORT` of the S3 side.
    pub fn endpoint(&self) -> &str {
        &self.s3
    }

    /// `127.0.0.1:PORT` of the S3 side.
    pub fn address(&self) -> SocketAddr {
        authority(&self.s3).and_then(|a| a.parse().ok()).unwrap_or_else(|| panic!("no address in {}", self.s3))
    }

    /// `http://127.0.0.1:PORT` of the operations side.
    pub fn ops_endpoint(&self) -> &str {
        &self.ops
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Folder that holds data, log and configuration.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Folders of the disks, in order, as the server uses them.
    pub fn disks(&self) -> Vec<PathBuf> {
        if !self.settings.disks.is_empty() {
            return self.settings.disks.clone();
        }
        let mut disks: Vec<PathBuf> = Vec::new();
        for parent in [self.data.join("disks"), self.data.clone()] {
            let Ok(entries) = fs::read_dir(&parent) else { continue };
            disks = entries
                .flatten()
                .map(|e| e.path())
                .filter(|p| p.is_dir())
                .filter(|p| parent.ends_with("disks") || p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("disk")))
                .collect();
            if !disks.is_empty() {
                break;
            }
        }
        disks.sort();
        disks
    }

    /// Where it runs; `None`: here, on loopback.
    pub fn host(&self) -> Option<&Host> {
        self.settings.host.as_ref()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|c| matches!(c.try_wait(), Ok(None)))
    }

    /// More of the command line, from the next start on.
    pub fn arguments(&mut self) -> &mut Vec<String> {
        &mut self.settings.arguments
    }

    /// Which build it is, from the next start on.
    pub fn program(&mut self) -> &mut Program {
        &mut self.settings.program
    }

    /// SIGKILL, then waits. Nothing is flushed.
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

    /// SIGTERM, then waits up to `limit` for the end; `None`: still running, and killed.
    pub fn terminate(&mut self, limit: Duration) -> Option<ExitStatus> {
        self.signal(libc::SIGTERM);
        let mut child = self.child.take()?;
        let began = Instant::now();
        while began.elapsed() < limit {
            if let Ok(Some(status)) = child.try_wait() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = child.kill();
        let _ = child.wait();
        None
    }

    /// Starts again on the same ports and data; [`Server::start_time`] then says how long it took.
    pub fn restart(&mut self) -> io::Result<()> {
        self.kill();
        self.launch()
    }

    /// The same, and returns at once: what it needs may not be there yet.
    pub fn begin_restart(&mut self) -> io::Result<Begun> {
        self.kill();
        self.spawn()
    }

    /// Waits until a start that was begun is over, and it is ready.
    pub fn finish_restart(&mut self, begun: &Begun) -> io::Result<()> {
        self.follow(begun)
    }

    /// Everything printed so far.
    pub fn log(&self) -> String {
        self.log_from(0).unwrap_or_default()
    }

    pub fn log_path(&self) -> &Path {
        &self.log
    }

    fn log_from(&self, offset: u64) -> io::Result<String> {
        let bytes = fs::read(&self.log)?;
        Ok(String::from_utf8_lossy(bytes.get(offset as usize..).unwrap_or_default()).into_owned())
    }

    /// Resident bytes now.
    pub fn rss(&self) -> u64 {
        self.status_kib("VmRSS:") << 10
    }

    /// Most resident bytes so far.
    pub fn peak_rss(&self) -> u64 {
        self.status_kib("VmHWM:") << 10
    }

    fn status_kib(&self, field: &str) -> u64 {
        status_kib(self.pid(), field)
    }

    /// User and system CPU so far.
    pub fn cpu(&self) -> Duration {
        cpu_of(self.pid())
    }

    /// Open file descriptors.
    pub fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, |d| d.count())
    }

    /// Threads of the process.
    pub fn threads(&self) -> u64 {
        self.status_count("Threads:")
    }

    fn status_count(&self, field: &str) -> u64 {
        self.status_kib(field)
    }

    /// Status and body of a GET on the operations side.
    pub fn ops_get(&self, path: &str) -> io::Result<(u16, String)> {
        operations::get(authority(&self.ops).unwrap_or_default(), path)
    }

    /// Sum of a metric over its labels, 0 where it has no sample.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.ops_get("/metrics").map(|a| a.1).unwrap_or_default();
        operations::metric(&text, name)
    }

    /// Runs `breakwater ARGUMENTS` beside the server (admin, fsck), with the server's environment.
    pub fn run(&self, arguments: &[&str]) -> io::Result<Output> {
        let mut command = self.settings.program.command();
        command.args(arguments).current_dir(&self.place);
        command.env("BREAKWATER_ROOT_ACCESS_KEY", ACCESS_KEY).env("BREAKWATER_ROOT_SECRET_KEY", SECRET_KEY);
        command.stdin(Stdio::null()).output()
    }

    /// Runs `breakwater admin ARGUMENTS --data DIR` and gives what it printed.
    ///
    /// # Errors
    /// It ended with another status than 0.
    pub fn admin(&self, arguments: &[&str]) -> io::Result<String> {
        let data = self.data.to_string_lossy().into_owned();
        let mut all = vec!["admin"];
        all.extend_from_slice(arguments);
        all.extend_from_slice(&["--data", &data]);
        succeeded(&all, self.run(&all)?)
    }

    /// A new tenant with a key of its own.
    pub fn new_tenant(&self, name: &str) -> io::Result<Credential> {
        self.admin(&["tenant", "create", name, "--json"])?;
        let printed = self.admin(&["key", "create", name, "--json"])?;
        let value: serde_json::Value = serde_json::from_str(printed.trim()).map_err(|e| io::Error::other(format!("{e} in {printed}")))?;
        let field = |names: [&str; 2]| names.iter().find_map(|n| value[*n].as_str()).map(str::to_owned);
        match (field(["access_key", "accessKey"]), field(["secret_key", "secretKey"])) {
            (Some(access_key), Some(secret_key)) => Ok(Credential { access_key, secret_key }),
            _ => Err(io::Error::other(format!("no access_key and secret_key in {printed}"))),
        }
    }

    /// Runs the collector once, to its end.
    pub fn collect(&self) -> io::Result<String> {
        self.admin(&["collect"])
    }

    /// Checks the data folder of a stopped server; the error carries what was found.
    pub fn fsck(&self) -> io::Result<String> {
        let data = self.data.to_string_lossy().into_owned();
        let mut arguments = vec!["fsck", "--data", &data];
        let disks: Vec<String> = self.settings.disks.iter().map(|d| d.to_string_lossy().into_owned()).collect();
        for disk in &disks {
            arguments.extend_from_slice(&["--disk", disk]);
        }
        let config = self.place.join("breakwater.toml").to_string_lossy().into_owned();
        if self.settings.config.is_some() {
            arguments.extend_from_slice(&["--config", &config]);
        }
        succeeded(&arguments, self.run(&arguments)?)
    }

    /// Bytes that the disks' files occupy (allocated blocks, so that preallocated room counts).
    pub fn disk_bytes(&self) -> u64 {
        self.disks().iter().map(|d| allocated(d)).sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the end of the server's log:\n{}", tail(&self.log()));
        }
        self.kill();
    }
}

fn succeeded(arguments: &[&str], output: Output) -> io::Result<String> {
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(printed);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let how = output.status.signal().map_or_else(|| output.status.to_string(), |s| format!("signal {s}"));
    Err(io::Error::other(format!("`breakwater {}` ended with {how}:\n{}{}", arguments.join(" "), tail(&printed), tail(&errors))))
}

fn authority(url: &str) -> Option<&str> {
    url.split_once("://").map(|(_, rest)| rest.trim_end_matches('/'))
}

fn find_url(text: &str, before: &str) -> Option<String> {
    let line = text.lines().find(|l| l.contains(before) && l.contains("://"))?;
    let from = line.find("http")?;
    let url: String = line[from..].chars().take_while(|c| !c.is_whitespace() && *c != '"' && *c != '\u{1b}').collect();
    Some(url.trim_end_matches(['/', ',', '.']).to_owned())
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_in_a_printed_line() {
        let text = "hello\n  S3 on http://127.0.0.1:4711 (root: X)\noperations on http://127.0.0.1:12\n";
        assert_eq!(find_url(text, "S3 on ").as_deref(), Some("http://127.0.0.1:4711"));
        assert_eq!(find_url(text, "operations on ").as_deref(), Some("http://127.0.0.1:12"));
        assert_eq!(authority("http://127.0.0.1:12"), Some("127.0.0.1:12"));
    }
}
