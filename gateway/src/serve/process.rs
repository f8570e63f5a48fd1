//! What the process asks of the system: a runtime, a log, signals, descriptors.

use super::ServeError;
use std::io::IsTerminal;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// What is logged where RUST_LOG does not say. s3s logs every refused request as an error of its own.
const LOG: &str = "warn,breakwater=info,breakwater::access=off,s3s=off,openraft=error";

/// Threads that wait for disks. Each keeps memory of its own, and no six disks are faster with more.
const BLOCKING_THREADS: usize = 32;

/// A runtime with logging to stderr.
pub fn runtime() -> Result<Runtime, ServeError> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG));
    // A second one in a process is a test's.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .try_init();
    warn_of_slow_coding();
    let system = |error: std::io::Error| ServeError::System { what: "a runtime", reason: error.to_string() };
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.enable_all().thread_name("breakwater").max_blocking_threads(BLOCKING_THREADS).build().map_err(system)
}

/// The coding kernels are compiled for AVX2, BMI2 and FMA; without them `spine::erasure` takes its own, slower way.
fn warn_of_slow_coding() {
    #[cfg(target_arch = "x86_64")]
    if !(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2") && is_x86_feature_detected!("fma")) {
        tracing::warn!(target: "breakwater", "this CPU has no AVX2, BMI2 and FMA: erasure coding takes about ten times the CPU");
    }
}

/// Raises the soft limit on open files to the hard one: every connection and every segment is one.
pub fn raise_open_files() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls read or fill the struct they are given and nothing else.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 && limit.rlim_cur < limit.rlim_max {
            limit.rlim_cur = limit.rlim_max;
            if libc::setrlimit(libc::RLIMIT_NOFILE, &limit) != 0 {
                tracing::warn!(target: "breakwater", "the limit on open files could not be raised");
            }
        }
    }
}

/// SIGTERM and SIGINT, caught from the moment this exists.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub fn listen() -> Result<Signals, ServeError> {
        let system = |error: std::io::Error| ServeError::System { what: "signal handlers", reason: error.to_string() };
        Ok(Signals {
            terminate: signal(SignalKind::terminate()).map_err(system)?,
            interrupt: signal(SignalKind::interrupt()).map_err(system)?,
        })
    }

    /// Returns at the next of them.
    pub async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
