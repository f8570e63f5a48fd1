//! One pass through the index: how many shards every chunk can still lose, and what is placed on every node.
//!
//! A chunk is a page of its own in nobody's memory: what is kept is a count a class and a node, and a few names of what cannot be read.
//! Not here: doing anything about it (`owe.rs`, `balance.rs`).

use crate::body::WriteError;
use crate::core::{Core, now};
use crate::dedup::unexpected;
use crate::metric::CHUNKS_BY_SPARE;
use spine::id::{ChunkId, NodeId, UnixMs};
use spine::wire::chunk::{ChunkAnswer, ChunkQuery, ChunkRecord, Placement, Sealed};
use spine::wire::{Answer, Query};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Instant;

/// Chunks of one step.
const SCAN: usize = 512;
/// Chunks that cannot be read that are named.
const NAMED: usize = 20;
/// The largest class that a metric tells apart; a chunk has at most 16 parity shards.
const SPARE_MOST: i64 = 16;

/// What a pass found.
#[derive(Clone, Debug, Default)]
pub struct Census {
    /// When it began.
    pub at: UnixMs,
    /// Chunks by how many of their shards may still be lost; negative: as many are missing for a read.
    pub by_spare: BTreeMap<i64, u64>,
    pub nodes: HashMap<NodeId, Held>,
    /// Some of those that cannot be read.
    pub unreadable: Vec<Unreadable>,
}

/// What is placed on one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub shards: u64,
    pub bytes: u64,
}

/// A chunk with fewer than `k` shards on nodes that answer.
#[derive(Clone, Debug)]
pub struct Unreadable {
    pub chunk: ChunkId,
    pub missing: u64,
    pub away: Vec<NodeId>,
}

/// Bytes of each shard of a chunk.
pub fn shard_bytes(sealed: &Sealed) -> u64 {
    u64::from(sealed.sealed_len.div_ceil(u32::from(sealed.k.max(1))))
}

impl Census {
    fn add(&mut self, chunk: ChunkId, placement: &Placement, answers: &HashSet<NodeId>) {
        let places = || placement.shards.iter().flatten().map(|place| place.node);
        let bytes = shard_bytes(&placement.sealed);
        for node in places() {
            let held = self.nodes.entry(node).or_default();
            held.shards += 1;
            held.bytes += bytes;
        }
        let spare = places().filter(|node| answers.contains(node)).count() as i64 - i64::from(placement.sealed.k);
        *self.by_spare.entry(spare).or_insert(0) += 1;
        if spare < 0 && self.unreadable.len() < NAMED {
            let away = places().filter(|node| !answers.contains(node)).collect();
            self.unreadable.push(Unreadable { chunk, missing: spare.unsigned_abs(), away });
        }
    }

    /// Chunks that cannot be read.
    pub fn lost(&self) -> u64 {
        self.by_spare.range(..0).map(|(_, chunks)| chunks).sum()
    }

    fn show(&self) {
        let show = |class: &str, chunks: u64| {
            CHUNKS_BY_SPARE.with_label_values(&[class]).set(i64::try_from(chunks).unwrap_or(i64::MAX));
        };
        show("unreadable", self.lost());
        for spare in 0..=SPARE_MOST {
            let chunks = self.by_spare.get(&spare).copied().unwrap_or(0);
            // A class that no code here has is not made up.
            if chunks > 0 || spare <= 2 || CHUNKS_BY_SPARE.with_label_values(&[&spare.to_string()]).get() > 0 {
                show(&spare.to_string(), chunks);
            }
        }
    }
}

/// Counts everything. `paced`: rests as long as each step took.
pub(crate) async fn take(core: &Core, paced: bool) -> Result<Census, WriteError> {
    let answers = core.nodes.all().iter().filter(|node| node.reachable()).map(|node| node.id).collect();
    let mut census = Census { at: now(), ..Census::default() };
    let mut after = None;
    loop {
        let began = Instant::now();
        let page = page(core, &mut after).await?;
        if page.is_empty() {
            census.show();
            return Ok(census);
        }
        for (chunk, record) in &page {
            if let Some(placement) = &record.placement {
                census.add(*chunk, placement, &answers);
            }
        }
        if paced {
            tokio::time::sleep(began.elapsed()).await;
        }
    }
}

/// The next records of the index, in order; none: that was all.
pub(crate) async fn page(core: &Core, after: &mut Option<ChunkId>) -> Result<Vec<(ChunkId, ChunkRecord)>, WriteError> {
    match core.metadata.query(Query::Chunk(ChunkQuery::Scan { after: *after, max: SCAN })).await? {
        Answer::Chunk(ChunkAnswer::Scan(page)) => {
            *after = page.last().map(|(chunk, _)| *chunk).or(*after);
            Ok(page)
        }
        other => Err(unexpected("Scan", &other)),
    }
}
