//! Checks that what is committed can be read: names lead to chunks, chunks to shards, shards to disks, and back.
//!
//! - `names.rs` walks tenants, buckets, versions, parts and open intents: which versions hold references, and to which chunks
//! - `chunks.rs` walks the chunk index and asks the disks
//!
//! Invariants: it changes nothing; a disk that is lost is counted and is no damage while enough others are left; what changes while it
//! looks is looked at again before it is called damage. Not here: repair.

mod chunks;
pub(crate) mod names;

use serde::Serialize;
use spine::wire::shard::StorageNode;
use spine::wire::{Metadata, MetadataError};
use std::sync::Arc;

/// Most findings that are spelled out; all are counted.
const SPELLED_OUT: usize = 100;

/// How thorough.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// Read every shard and compare it with its checksum.
    pub deep: bool,
    /// Nothing else is running: what nobody holds is a finding.
    pub at_rest: bool,
}

/// What was looked at, and what was found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Nothing committed is lost or damaged, and nothing contradicts anything.
    pub clean: bool,
    pub tenants: u64,
    pub buckets: u64,
    pub objects: u64,
    pub parts_of_open_uploads: u64,
    pub open_intents: u64,
    pub chunks: u64,
    pub shards: u64,
    /// Shards that were read and match their checksum; 0 unless deep.
    pub shards_verified: u64,
    /// Shards on disks that are lost at the moment.
    pub shards_on_lost_disks: u64,
    /// Shards that were never stored everywhere and are queued for delivery.
    pub shards_owed: u64,
    /// Chunks nobody refers to any more, on their way to deletion.
    pub chunks_unreferenced: u64,
    /// Findings: why it is not clean.
    pub findings: u64,
    /// The first of them.
    pub spelled_out: Vec<String>,
}

impl Report {
    pub(crate) fn find(&mut self, finding: String) {
        self.findings += 1;
        if self.spelled_out.len() < SPELLED_OUT {
            self.spelled_out.push(finding);
        }
    }
}

/// The check could not be made; says nothing about what is stored.
#[derive(Debug, thiserror::Error)]
pub enum FsckError {
    #[error("{0}")]
    Metadata(#[from] MetadataError),
    #[error("metadata gave an answer to another question")]
    WrongAnswer,
}

/// Checks everything.
pub async fn run(metadata: &Arc<dyn Metadata>, nodes: &[Arc<dyn StorageNode>], scope: Scope) -> Result<Report, FsckError> {
    let mut report = Report::default();
    let holders = names::check(metadata, &mut report).await?;
    chunks::check(metadata, nodes, scope, &holders, &mut report).await?;
    report.clean = report.findings == 0;
    Ok(report)
}
