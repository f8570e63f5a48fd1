//! Makes the chunk index again from the shards on a fleet's nodes, after the metadata was lost.
//!
//! ```text
//! hold the collection -> every node's headers, in name order, side by side (walk.rs)
//!   per chunk that the index does not know: which copies can belong together, which numbers are believed (judge.rs)
//!     -> k of them read, decoded, decrypted, hashed: is it the chunk of this name? (prove.rs) -> Restore
//! ```
//! Nothing that a node says is believed: a chunk is restored only once its plaintext was seen to be what its name says, and a copy is
//! placed only if its header names the root that the chunk's own bytes give. A chunk of which too few copies answer, or whose tenant's
//! secret is not here, is named and left alone, and stays on its nodes: the hold keeps collector and sweep away until an operator
//! releases it. Everything may be repeated: what is known is passed over.
//! Not here: names of objects, which were in the lost metadata alone; the missing shards of restored chunks, which are repair's.

pub mod judge;
mod prove;
mod walk;

use crate::body::WriteError;
use crate::core::Core;
use crate::dedup::unexpected;
use crate::metric::REINDEXED;
use futures::StreamExt;
use judge::{Candidate, Level, Seen};
use prove::Proven;
use serde::Serialize;
use spine::id::{ChunkId, NodeId};
use spine::wire::chunk::{ChunkAnswer, ChunkCommand, ChunkQuery, Confirmation};
use spine::wire::range::ALL_CHUNKS;
use spine::wire::{Answer, Batch, Chain, Command, Query, Reply};
use std::sync::Arc;
use std::time::{Duration, Instant};
use walk::Walk;

/// Chunks looked up and restored in one step.
const STEP: usize = 256;
/// Chunks that are read at a time.
const READING: usize = 8;
/// Chunks that a report names of each kind; it counts all of them.
const NAMED: usize = 10_000;
/// How far above every number that was seen new ones begin: a node that is away may have younger shards.
const MARGIN: u64 = 1 << 40;
const TELL_EVERY: Duration = Duration::from_secs(10);

/// A chunk that was not restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Left {
    pub chunk: String,
    /// Copies that belong together, and how many it takes.
    pub found: usize,
    pub needed: usize,
    pub why: String,
}

/// What re-indexing came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reindexed {
    /// Nodes whose list was read to its end, and those that did not answer to theirs.
    pub nodes: usize,
    pub nodes_away: Vec<String>,
    pub shards: u64,
    pub shards_unread: u64,
    /// Chunks that the index knew.
    pub known: u64,
    pub restored: u64,
    /// Of those, chunks that owe shards.
    pub owing: u64,
    /// Chunks with fewer copies than a read takes.
    pub too_few: u64,
    /// Chunks whose tenant or secret is not here.
    pub locked: u64,
    /// Chunks whose copies do not make what their name says.
    pub damaged: u64,
    /// The first of the three.
    pub left: Vec<Left>,
}

impl Reindexed {
    fn leave(&mut self, chunk: ChunkId, candidate: Option<&Candidate>, outcome: &'static str, why: String) {
        match outcome {
            "too_few" => self.too_few += 1,
            "locked" => self.locked += 1,
            _ => self.damaged += 1,
        }
        REINDEXED.with_label_values(&[outcome]).inc();
        if self.left.len() < NAMED {
            let (found, needed) = candidate.map_or((0, 0), |c| (c.copies.iter().flatten().count(), usize::from(c.sealed.k)));
            self.left.push(Left { chunk: chunk.to_string(), found, needed, why });
        }
    }
}

/// Re-indexes once, now.
///
/// # Errors
/// [`WriteError::Unavailable`] while another re-indexing or a sweep runs; metadata's errors. What was restored until then stays.
pub(crate) async fn run_now(core: &Arc<Core>) -> Result<Reindexed, WriteError> {
    let busy = |_| WriteError::Unavailable { reason: "a sweep or another re-indexing is running".into() };
    let _turn = core.sweeping.try_lock().map_err(busy)?;
    propose(core, ChunkCommand::Hold { held: true, span: ALL_CHUNKS }).await?;
    let mut level = Level::new(usize::from(core.settings.m).max(1));
    let mut done = pass(core, &mut level).await?;
    if level.takes_back() {
        // High numbers of chunks that came before enough nodes had shown such.
        let first = std::mem::replace(&mut done, pass(core, &mut level).await?);
        done.known = done.known.saturating_sub(first.restored);
        done.restored += first.restored;
        done.owing += first.owing;
    }
    tracing::info!(target: "breakwater", restored = done.restored, known = done.known, too_few = done.too_few, locked = done.locked,
        damaged = done.damaged, away = done.nodes_away.len(), "re-indexed");
    Ok(done)
}

/// Goes through what the nodes hold, once.
async fn pass(core: &Arc<Core>, level: &mut Level) -> Result<Reindexed, WriteError> {
    let (mut walk, mut done) = (Walk::begin(core.nodes.all().iter().cloned().collect()), Reindexed::default());
    let mut told = Instant::now();
    loop {
        let found = walk.next(STEP).await;
        if found.is_empty() {
            break;
        }
        level.rise(found.iter().flat_map(|(_, seen)| seen));
        step(core, found, level, &mut done).await?;
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            tracing::info!(target: "breakwater", restored = done.restored, known = done.known, too_few = done.too_few, "re-indexing");
        }
    }
    let ended = walk.end();
    done.nodes = ended.nodes;
    done.nodes_away = ended.away.iter().map(NodeId::to_string).collect();
    (done.shards, done.shards_unread) = (ended.shards, ended.unread);
    Ok(done)
}

/// Whether the collection is held.
pub(crate) async fn is_held(core: &Core) -> Result<bool, WriteError> {
    match core.metadata.query(Query::Chunk(ChunkQuery::Held)).await? {
        Answer::Chunk(ChunkAnswer::Held(held)) => Ok(held),
        other => Err(unexpected("Held", &other)),
    }
}

/// Whether chunks are doubted, of which no restore's reconciliation and no release has said since that they are there.
pub(crate) async fn is_doubted(core: &Core) -> Result<bool, WriteError> {
    match core.metadata.query(Query::Chunk(ChunkQuery::Doubted)).await? {
        Answer::Chunk(ChunkAnswer::Doubted(doubted)) => Ok(doubted),
        other => Err(unexpected("Doubted", &other)),
    }
}

/// Holds the collection, or releases it.
pub(crate) async fn hold(core: &Core, held: bool) -> Result<(), WriteError> {
    match propose(core, ChunkCommand::Hold { held, span: ALL_CHUNKS }).await? {
        Reply::Done => Ok(()),
        other => Err(unexpected("Hold", &other)),
    }
}

pub(crate) async fn propose(core: &Core, command: ChunkCommand) -> Result<Reply, WriteError> {
    let batch = Batch { chain: Chain::Stop, commands: vec![Command::Chunk(command)] };
    core.metadata.propose(batch).await?.pop().ok_or_else(|| unexpected("a command", &"nothing"))
}

/// Judges, proves and restores some chunks.
async fn step(core: &Arc<Core>, found: Vec<(ChunkId, Vec<Seen>)>, level: &mut Level, done: &mut Reindexed) -> Result<(), WriteError> {
    let ids = found.iter().map(|(chunk, _)| *chunk).collect();
    let Answer::Chunk(ChunkAnswer::Records(records)) = core.metadata.query(Query::Chunk(ChunkQuery::Records(ids))).await? else {
        return Err(unexpected("Records", &"something else"));
    };
    let total = found.len();
    let unknown: Vec<(ChunkId, Vec<Seen>)> =
        found.into_iter().zip(records).filter(|(_, record)| record.is_none()).map(|(found, _)| found).collect();
    let known = (total - unknown.len()) as u64;
    done.known += known;
    REINDEXED.with_label_values(&["known"]).inc_by(known);
    let proving: Vec<_> = unknown.into_iter().map(|(chunk, seen)| prove_one(core.clone(), chunk, level.sift(&seen))).collect();
    let mut proving = futures::stream::iter(proving).buffer_unordered(READING);
    let (mut chunks, mut above) = (Vec::new(), 0);
    while let Some((chunk, best, proven)) = proving.next().await {
        match proven? {
            Proven::Whole(confirmation) => {
                above = above.max(judge::highest(&confirmation).saturating_add(MARGIN));
                chunks.push(confirmation);
            }
            Proven::TooFew => done.leave(chunk, best.as_ref(), "too_few", "too few of its shards are there".into()),
            Proven::Locked(why) => done.leave(chunk, best.as_ref(), "locked", why),
            Proven::Damaged => done.leave(chunk, best.as_ref(), "damaged", "its shards do not make what its name says".into()),
        }
    }
    drop(proving);
    restore(core, chunks, above, done).await
}

/// The best candidate, and what was proven.
async fn prove_one(core: Arc<Core>, chunk: ChunkId, seen: Vec<Seen>) -> (ChunkId, Option<Candidate>, Result<Proven, WriteError>) {
    let candidates = judge::candidates(chunk, &seen);
    let proven = prove::one(&core, chunk, &candidates).await;
    (chunk, candidates.into_iter().next(), proven)
}

async fn restore(core: &Core, chunks: Vec<Confirmation>, above: u64, done: &mut Reindexed) -> Result<(), WriteError> {
    if chunks.is_empty() {
        return Ok(());
    }
    let owing: Vec<bool> = chunks.iter().map(|chunk| chunk.placement.shards.iter().any(Option::is_none)).collect();
    let restored = match propose(core, ChunkCommand::Restore { chunks, above }).await? {
        Reply::Confirmed(restored) if restored.len() == owing.len() => restored,
        other => return Err(unexpected("Restore", &other)),
    };
    for (restored, owing) in restored.into_iter().zip(owing) {
        // One that a writer has made known meanwhile is that writer's.
        let outcome = if restored { "restored" } else { "known" };
        REINDEXED.with_label_values(&[outcome]).inc();
        done.restored += u64::from(restored);
        done.owing += u64::from(restored && owing);
        done.known += u64::from(!restored);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
