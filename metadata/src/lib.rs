//! Namespace and chunk index: deterministic state machines, applied from a replicated log, on ordered tables.

pub mod balance;
pub mod balancing;
pub mod checkpoint;
pub mod chunk_index;
pub mod cluster;
pub mod ended;
pub mod format;
pub mod group;
pub mod heat;
pub mod journal;
pub mod key;
pub mod lmdb;
pub mod machine;
pub mod metric;
pub mod mover;
pub mod namespace;
pub mod propose;
pub mod range;
pub mod record;
pub mod replicas;
pub mod requests;
pub mod restore;
pub mod room;
pub mod root;
pub mod router;
#[cfg(test)]
mod sample;
pub mod service;
pub mod table;
