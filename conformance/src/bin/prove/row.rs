//! What every row gets and gives.

use conformance::content::Dice;
use conformance::server::{Server, Settings};
use std::fmt::Display;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How a row is to run.
pub struct Run {
    pub quick: bool,
    pub seed: u64,
    pub dir: Option<PathBuf>,
    pub older: Option<Older>,
}

/// The version that a cluster is upgraded from.
#[derive(Clone, Debug)]
pub enum Older {
    Commit(String),
    Binary(PathBuf),
}

/// The figure beside the bar, or what did not hold.
pub type Outcome = Result<String, String>;

impl Run {
    pub fn dice(&self) -> Dice {
        Dice::new(self.seed)
    }

    /// `full`, or `quick` in a quick run.
    pub fn size<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    /// A folder of this run's own, removed at the end.
    pub fn place(&self) -> Result<tempfile::TempDir, String> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("breakwater-prove-");
        match &self.dir {
            Some(dir) => std::fs::create_dir_all(dir).and_then(|()| builder.tempdir_in(dir)),
            None => builder.tempdir(),
        }
        .said("a folder to work in")
    }

    /// A server in such a folder.
    pub fn server(&self, place: &tempfile::TempDir, config: &str) -> Result<Server, String> {
        let config = (!config.is_empty()).then(|| config.to_owned());
        Server::start_with(Settings { place: Some(place.path().to_path_buf()), config, ..Settings::default() }).said("start")
    }
}

/// Adds what was being done to an error.
pub trait Said<T> {
    fn said(self, what: &str) -> Result<T, String>;
}

impl<T, E: Display> Said<T> for Result<T, E> {
    fn said(self, what: &str) -> Result<T, String> {
        self.map_err(|e| format!("{what}: {e}"))
    }
}

/// A collector that runs fast enough to be watched.
pub const FAST_COLLECTOR: &str = "[collector]\ninterval_seconds = 1\ngrace_seconds = 1\ntrash_seconds = 1\n";

/// A runtime for the clients.
pub fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().said("runtime")
}

/// Prints progress, at most once in two seconds.
pub struct Progress {
    last: Instant,
}

impl Progress {
    pub fn new() -> Self {
        Progress { last: Instant::now() }
    }

    pub fn say(&mut self, text: impl FnOnce() -> String) {
        if self.last.elapsed() > Duration::from_secs(2) {
            println!("  {}", text());
            self.last = Instant::now();
        }
    }
}

/// The first few of many findings, as one failure; none: fine.
pub fn none_of(findings: &[String]) -> Result<(), String> {
    match findings {
        [] => Ok(()),
        some => Err(format!("{} contradictions, the first: {}", some.len(), some[..some.len().min(5)].join("; "))),
    }
}

pub fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
