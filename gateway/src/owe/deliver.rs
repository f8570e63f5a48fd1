//! One chunk: makes or copies the shards that it needs elsewhere, and has the index name them.
//!
//! ```text
//! reserve the target in the log (node and new tag) -> copy, or make again from k others -> put, synced -> Move -> trash the old copy
//! ```
//! A crash between leaves a target, which the next round takes up or replaces; the old place counts until the Move.
//! Not here: what is needed (`need.rs`), in which order (`round.rs`).

use super::Delivered;
use super::need::{self, Errand, Errands, Need, Standing};
use crate::body::WriteError;
use crate::census::shard_bytes;
use crate::core::Core;
use crate::damage::{Fault, Finder};
use crate::dedup::unexpected;
use crate::encode;
use crate::fetch::{self, Located};
use crate::metric::{MOVED_BYTES, MOVED_SHARDS, REPAIR_FAILURES, REPAIRED};
use crate::progress::Why;
use bytes::Bytes;
use spine::erasure::Coder;
use spine::id::{ChunkId, NodeId, ShardIndex, ShardRoot};
use spine::wire::chunk::{ChunkCommand, ChunkRecord, Place, Placement, ShardName};
use spine::wire::shard::{NodeError, ShardHeader};
use spine::wire::{Batch, Chain, Command, Refusal, Reply};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A copy or a put that takes longer has failed, whatever the node is doing.
const CALL_MOST: Duration = Duration::from_secs(30);

/// Chunks that somebody is working on: two at one chunk would cancel each other's targets.
#[derive(Default)]
pub(crate) struct Busy {
    chunks: Mutex<HashSet<ChunkId>>,
}

/// One chunk taken; free again when dropped.
pub(crate) struct Taken<'a> {
    busy: &'a Busy,
    chunk: ChunkId,
}

impl Busy {
    pub fn take(&self, chunk: ChunkId) -> Option<Taken<'_>> {
        let fresh = self.chunks.lock().unwrap_or_else(PoisonError::into_inner).insert(chunk);
        // Made only where it is ours, and without the lock: one that is dropped frees the chunk.
        fresh.then(|| Taken { busy: self, chunk })
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.busy.chunks.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.chunk);
    }
}

/// How every node stands now; who is not listed is away.
pub(crate) type Standings = HashMap<NodeId, Standing>;

pub(super) fn standing(standings: &Standings, node: NodeId) -> Standing {
    standings.get(&node).copied().unwrap_or(Standing::Away)
}

/// Does what one chunk needs, as far as it can be done now.
pub(super) async fn deliver(
    core: &Arc<Core>,
    chunk: ChunkId,
    record: &ChunkRecord,
    standings: &Standings,
) -> Result<Delivered, WriteError> {
    let mut done = Delivered::default();
    let Some(placement) = &record.placement else { return Ok(done) };
    let Some(need) = need::need(record, |node| standing(standings, node)) else { return Ok(done) };
    let Some(_taken) = core.busy.take(chunk) else { return Ok(done) };
    let errands = choose(core, chunk, record, &need, standings);
    done.waiting += errands.waiting;
    if errands.list.is_empty() {
        return Ok(done);
    }
    let sealed = placement.sealed;
    // Below what a write is acknowledged with it waits for nobody.
    let urgent = need.spare < i16::from(sealed.m.div_ceil(2)) && !need.make.is_empty();
    let _turn = core.pace.turn(sealed.sealed_len as usize, urgent).await;
    let _memory = core.read_memory.take(3 * sealed.sealed_len as usize).await;
    let mut others = None;
    for errand in errands.list {
        let why = match errand.from.map(|place| standing(standings, place.node)) {
            None => Why::Repair,
            Some(Standing::Leaves) => Why::Drain,
            Some(_) => Why::Rebalance,
        };
        let placed = match shard(core, chunk, record, placement, &errand, &mut others).await? {
            Some((shard, root)) => place(core, chunk, record, &errand, why, shard, root).await?,
            None => false,
        };
        if placed {
            REPAIRED.inc();
            done.shards += 1;
        } else {
            REPAIR_FAILURES.inc();
            done.waiting += 1;
        }
    }
    Ok(done)
}

/// Nodes for what is needed: those that were late only where no other is left.
fn choose(core: &Core, chunk: ChunkId, record: &ChunkRecord, need: &Need, standings: &Standings) -> Errands {
    let all = core.nodes.candidates();
    let late: HashSet<NodeId> = core.nodes.all().iter().filter(|node| node.is_late()).map(|node| node.id).collect();
    let of = |candidates: &[spine::placement::Candidate]| need::errands(chunk, record, need, candidates, |node| standing(standings, node));
    if !late.is_empty() {
        let mut prompt = all.to_vec();
        prompt.iter_mut().for_each(|candidate| candidate.usable &= !late.contains(&candidate.node));
        let chosen = of(&prompt);
        if chosen.waiting == 0 {
            return chosen;
        }
    }
    of(&all)
}

/// The shard of an errand, copied from its node or made again; `None`: not now.
async fn shard(
    core: &Arc<Core>,
    chunk: ChunkId,
    record: &ChunkRecord,
    placement: &Placement,
    errand: &Errand,
    others: &mut Option<Arc<Vec<Option<Bytes>>>>,
) -> Result<Option<(Bytes, ShardRoot)>, WriteError> {
    if let Some(from) = errand.from
        && let Some(copied) = copy(core, chunk, record, errand.index, from).await?
    {
        return Ok(Some(copied));
    }
    let sealed = placement.sealed;
    let gathered = match others {
        Some(gathered) => gathered.clone(),
        None => {
            let located = Located { chunk, generation: record.generation, placement: placement.clone(), remembered: false };
            match fetch::gather(core, located).await {
                Ok(shards) => others.insert(Arc::new(shards)).clone(),
                Err(error) => {
                    tracing::warn!(%chunk, %error, "a shard cannot be made again now");
                    return Ok(None);
                }
            }
        }
    };
    let index = errand.index;
    let made = core.compute.run(move || {
        let coder = Coder::new(sealed.k, sealed.m).ok()?;
        let shard = coder.rebuild_one(&gathered, index, sealed.sealed_len as usize).ok()?;
        let root = encode::root(&shard);
        Some((shard, root))
    });
    Ok(made.await?)
}

/// The shard from the node that has it, checked against its root; `None`: it is not to be had there.
pub(crate) async fn copy(
    core: &Arc<Core>,
    chunk: ChunkId,
    record: &ChunkRecord,
    index: usize,
    from: Place,
) -> Result<Option<(Bytes, ShardRoot)>, WriteError> {
    let Some(node) = core.nodes.get(from.node).filter(|node| node.reachable()) else { return Ok(None) };
    let name = ShardName { chunk, generation: record.generation, index: ShardIndex(index as u8), tag: from.tag };
    let got = tokio::time::timeout(CALL_MOST, node.link.get(name)).await;
    let fault = match got.unwrap_or_else(|_| Err(NodeError::Unavailable { reason: "a get took too long".into() })) {
        Ok((_, shard)) => {
            let kept = shard.clone();
            if core.compute.run(move || encode::root(&kept)).await? == from.root {
                return Ok(Some((shard, from.root)));
            }
            Fault::WrongRoot
        }
        Err(NodeError::NotFound) => Fault::Missing,
        Err(NodeError::Damaged { .. }) => Fault::Damaged,
        Err(error) => {
            tracing::debug!(node = %from.node, %chunk, %error, "a shard was not copied");
            return Ok(None);
        }
    };
    core.damage.report(name, from.node, Finder::Read(fault));
    Ok(None)
}

/// Reserves a target, puts the shard there and makes it the placement; false if the chunk or the node is gone meanwhile.
pub(crate) async fn place(
    core: &Core,
    chunk: ChunkId,
    record: &ChunkRecord,
    errand: &Errand,
    why: Why,
    shard: Bytes,
    root: ShardRoot,
) -> Result<bool, WriteError> {
    let (generation, index, node) = (record.generation, ShardIndex(errand.index as u8), errand.node);
    let (Some(link), Some(placement)) = (core.nodes.get(node), &record.placement) else { return Ok(false) };
    let tag = match errand.tag {
        Some(tag) => tag,
        None => match propose_one(core, ChunkCommand::ReserveTarget { chunk, generation, index, node }).await? {
            Reply::Target(tag) => tag,
            Reply::Refused(Refusal::ChunkGone | Refusal::TargetGone) => return Ok(false),
            other => return Err(unexpected("ReserveTarget", &other)),
        },
    };
    let name = ShardName { chunk, generation, index, tag };
    let header = ShardHeader { name, sealed: placement.sealed, root, len: shard.len() as u32 };
    let put = tokio::time::timeout(CALL_MOST, link.link.put(header, shard)).await;
    if let Err(error) = put.unwrap_or_else(|_| Err(NodeError::Unavailable { reason: "a put took too long".into() })) {
        tracing::debug!(%chunk, %node, %error, "an owed shard was not put");
        return Ok(false);
    }
    match propose_one(core, ChunkCommand::Move { chunk, generation, index, place: Place { node, tag, root } }).await? {
        Reply::Moved { old } => {
            let bytes = shard_bytes(&placement.sealed);
            MOVED_SHARDS.with_label_values(&[why.word()]).inc();
            MOVED_BYTES.with_label_values(&[why.word()]).inc_by(bytes);
            core.progress.moved(why, errand.from.map(|place| place.node), bytes, Instant::now());
            // The log says that the old copy is nobody's now; if its node is away, the sweep finds it.
            if let Some(old) = old
                && let Some(holder) = core.nodes.get(old.node).filter(|holder| holder.reachable())
            {
                let trashed = holder.link.trash(vec![ShardName { chunk, generation, index, tag: old.tag }]);
                let _ = tokio::time::timeout(CALL_MOST, trashed).await;
            }
            Ok(true)
        }
        Reply::Refused(Refusal::ChunkGone | Refusal::TargetGone) => Ok(false),
        other => Err(unexpected("Move", &other)),
    }
}

pub(super) async fn propose_one(core: &Core, command: ChunkCommand) -> Result<Reply, WriteError> {
    let batch = Batch { chain: Chain::Independent, commands: vec![Command::Chunk(command)] };
    let mut replies = core.metadata.propose(batch).await?;
    replies.pop().ok_or_else(|| unexpected("a repair", &"nothing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_that_is_taken_is_nobody_elses_until_it_is_free() {
        let (busy, one, other) = (Busy::default(), ChunkId([1; 32]), ChunkId([2; 32]));
        let taken = busy.take(one);
        assert!(taken.is_some() && busy.take(other).is_some());
        assert!(busy.take(one).is_none());
        assert!(busy.take(one).is_none(), "asking in vain frees nothing");
        drop(taken);
        assert!(busy.take(one).is_some());
    }
}
