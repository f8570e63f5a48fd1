//! The benchmark's measurements, one file a kind of load; `bin/bench-s3` and the proofs 10 and 11 call them.
//!
//! - [`target`]: a server to measure, with the CPU, memory and disk it uses: ours, or a peer.
//! - [`large`]: one object in 16 MiB parts. [`small`]: many objects, 16 at once. [`listing`]: pages and prefixes. [`backup`]: restic.
//! - [`figure`]: latencies, medians. [`report`]: the tables.
//!
//! Invariants: one load generator (aws-sdk-s3 over plain http, its defaults: chunk-signed bodies with a CRC32 trailer) for every
//! server; what is read is compared with what was written; bodies are made before the clock starts, and new in every run, so that
//! no server has seen them. CPU is the server's alone, user and system, from `/proc/PID/stat`.
//! Not here: what the work costs at least (`primitives`).

pub mod backup;
pub mod figure;
pub mod large;
pub mod listing;
pub mod report;
pub mod small;
pub mod target;

/// Why a measurement could not be made. The benchmark stops: half a figure is none.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error("{what} on `{target}` failed: {why}")]
    Request { target: String, what: String, why: String },
    /// The server gave other bytes than it was given.
    #[error("`{target}` answered wrong bytes. key=`{key}`, offset=`{offset}`")]
    WrongBytes { target: String, key: String, offset: u64 },
    #[error("the peer is not NAME=URL,ACCESS,SECRET[,PID+PID...][,DATA-FOLDER]: {text}")]
    Peer { text: String },
    #[error("{0}")]
    Io(#[from] std::io::Error),
}
