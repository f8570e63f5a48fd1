//! Namespace and chunk index: deterministic state machines, applied from a replicated log, on ordered tables.

pub mod table;
pub mod chunk_index;
pub mod machine;
pub mod namespace;
pub mod root;
pub mod ended;
pub mod key;
pub mod record;
pub mod checkpoint;
pub mod group;
pub mod journal;
pub mod lmdb;
pub mod metric;
pub mod propose;
pub mod room;
pub mod service;
#[cfg(test)]
mod sample;
