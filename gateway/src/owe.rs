//! Delivers shards that are owed: left over by a write, or found missing or wrong by a read.
//!
//! The queue is the index itself (`Owed`): a crash forgets nothing. For each owed index: read any `k` shards, make the missing
//! one again, reserve a target in the log (node and new tag), put, sync, Move. A crash between leaves a target, which the next
//! round takes up or replaces.
//! Invariants: a shard made again has the root of its bytes recorded by the Move; the old copy is trashed only after it;
//! foreground work goes first: one chunk at a time, and as long a pause as the work took.
//! A node that was replaced, or is away for hours, is given up as a whole: what it held becomes owed. Not of a chunk that cannot be made
//! again as long as others are away too: there the index keeps every place it knows, since one of those nodes may be the one to return.
//! Not here: the index's rules, rates that follow the foreground's latency (the fleet's repair).

use crate::body::WriteError;
use crate::core::Core;
use crate::dedup::unexpected;
use crate::encode;
use crate::fetch::{self, Located};
use crate::metric::{REPAIR_FAILURES, REPAIRED};
use bytes::Bytes;
use spine::erasure::Coder;
use spine::id::{ChunkId, NodeId, ShardIndex, Tag};
use spine::placement;
use spine::wire::chunk::{ChunkAnswer, ChunkCommand, ChunkQuery, ChunkRecord, Place, ShardName};
use spine::wire::root::{RootAnswer, RootQuery};
use spine::wire::shard::ShardHeader;
use spine::wire::{Answer, Batch, Chain, Command, Query, Refusal, Reply};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Owed chunks looked at in one query.
const STEP: usize = 64;
/// Chunks looked at in one query for those that a node held.
const SCAN: usize = 512;

/// What one round did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Shards made again and placed.
    pub shards: u64,
    /// Owed shards for which there is no node, or too few others to make them from.
    pub waiting: u64,
}

/// Delivers all that is owed and can be delivered now.
pub(crate) async fn round_now(core: &Arc<Core>) -> Result<Delivered, WriteError> {
    Absent::default().give_up(core).await?;
    round(core, false).await
}

/// The background worker. Never returns.
pub(crate) async fn run(core: Arc<Core>, mut reports: mpsc::Receiver<(ShardName, NodeId)>) {
    let mut batch = Vec::new();
    let mut absent = Absent::default();
    loop {
        // Damage is marked at once; owed shards are delivered at every interval.
        let next = tokio::time::timeout(core.settings.owe_interval, reports.recv_many(&mut batch, STEP)).await;
        if matches!(next, Ok(0)) {
            std::future::pending::<()>().await;
        }
        let outcome = match next {
            Ok(_) => mark_lost(&core, batch.drain(..).collect()).await,
            // Another gateway delivers; what this one finds damaged it marks, and how long nodes were away it counts when it is its turn.
            Err(_) if !core.lease.is_mine() => Ok(()),
            Err(_) => match absent.give_up(&core).await {
                Ok(()) => round(&core, true).await.map(drop),
                Err(error) => Err(error),
            },
        };
        if let Err(error) = outcome {
            tracing::warn!(%error, "owed shards wait");
        }
    }
}

/// Nodes whose disk is away, and since when.
#[derive(Default)]
struct Absent {
    since: HashMap<NodeId, Instant>,
    given_up: HashSet<NodeId>,
    /// Who was reachable when a chunk of a given-up node could not be made again; looked at anew when that has changed.
    stuck: Option<HashSet<NodeId>>,
    /// Whether the nodes that this process was not given have been looked for.
    looked: bool,
}

impl Absent {
    /// Owes what lies on nodes that were replaced, and on those that have been away for too long. That deletes nothing: a node
    /// that comes back after all has shards that the sweep finds.
    async fn give_up(&mut self, core: &Core) -> Result<(), WriteError> {
        let mut over: HashSet<NodeId> = core.nodes.take_replaced().into_iter().collect();
        if !self.looked {
            over.extend(not_given(core).await?);
            self.looked = true;
        }
        let mut reachable = HashSet::new();
        for node in core.nodes.all().iter() {
            if node.reachable() {
                reachable.insert(node.id);
                self.since.remove(&node.id);
                self.given_up.remove(&node.id);
            } else if self.since.entry(node.id).or_insert_with(Instant::now).elapsed() > core.settings.node_repair_after {
                over.insert(node.id);
            }
        }
        over.retain(|node| self.given_up.insert(*node));
        let fresh = over.clone();
        if self.stuck.as_ref().is_some_and(|then| *then != reachable) {
            over.extend(&self.given_up);
            self.stuck = None;
        }
        if over.is_empty() {
            return Ok(());
        }
        tracing::warn!(nodes = ?over, "what these nodes held is made again elsewhere");
        match owe_all_of(core, &over, &reachable).await {
            Ok(0) => Ok(()),
            Ok(chunks) => {
                tracing::error!(chunks, "these chunks cannot be read until nodes return: their places are left as they are");
                self.stuck = Some(reachable);
                Ok(())
            }
            Err(error) => {
                self.given_up.retain(|node| !fresh.contains(node));
                Err(error)
            }
        }
    }
}

/// Nodes of earlier starts that this process was not given: an operator put another disk in their place. Nobody if there are too
/// few nodes to hold a chunk, since then somebody forgot a disk.
async fn not_given(core: &Core) -> Result<Vec<NodeId>, WriteError> {
    if core.nodes.all().len() < core.coder.n() {
        return Ok(Vec::new());
    }
    match core.metadata.query(Query::Root(RootQuery::Nodes)).await? {
        Answer::Root(RootAnswer::Nodes(nodes)) => {
            Ok(nodes.into_iter().map(|node| node.id).filter(|id| core.nodes.get(*id).is_none()).collect())
        }
        other => Err(unexpected("Nodes", &other)),
    }
}

/// Marks every shard placed on one of these nodes as lost, where the chunk can be made from what is reachable; gives the number of
/// chunks where it cannot.
async fn owe_all_of(core: &Core, nodes: &HashSet<NodeId>, reachable: &HashSet<NodeId>) -> Result<u64, WriteError> {
    let (mut after, mut stuck) = (None, 0);
    loop {
        let Answer::Chunk(ChunkAnswer::Scan(page)) = core.metadata.query(Query::Chunk(ChunkQuery::Scan { after, max: SCAN })).await? else {
            return Err(unexpected("Scan", &"something else"));
        };
        let Some((last, _)) = page.last() else { return Ok(stuck) };
        after = Some(*last);
        let mut found = HashSet::new();
        for (chunk, record) in &page {
            let Some(placement) = record.placement.as_ref().filter(|p| p.shards.iter().flatten().any(|place| nodes.contains(&place.node)))
            else {
                continue;
            };
            let left = placement.shards.iter().flatten().filter(|place| reachable.contains(&place.node) && !nodes.contains(&place.node));
            if left.count() < usize::from(placement.sealed.k) {
                stuck += 1;
                continue;
            }
            for (index, place) in placement.shards.iter().enumerate() {
                if let Some(place) = place.filter(|place| nodes.contains(&place.node)) {
                    found.insert((
                        ShardName { chunk: *chunk, generation: record.generation, index: ShardIndex(index as u8), tag: place.tag },
                        place.node,
                    ));
                }
            }
        }
        if !found.is_empty() {
            mark_lost(core, found).await?;
        }
    }
}

/// Makes what `node` holds again elsewhere, where others have enough; gives the number of chunks where they have not.
pub(crate) async fn give_up(core: &Core, node: NodeId) -> Result<u64, WriteError> {
    let reachable = core.nodes.all().iter().filter(|other| other.reachable()).map(|other| other.id).collect();
    owe_all_of(core, &HashSet::from([node]), &reachable).await
}

async fn mark_lost(core: &Core, found: HashSet<(ShardName, NodeId)>) -> Result<(), WriteError> {
    let commands = found.into_iter().map(|(shard, node)| Command::Chunk(ChunkCommand::MarkLost { shard, node })).collect();
    core.metadata.propose(Batch { chain: Chain::Independent, commands }).await?;
    Ok(())
}

/// Goes through all that is owed, once.
async fn round(core: &Arc<Core>, paced: bool) -> Result<Delivered, WriteError> {
    let mut done = Delivered::default();
    let mut after = None;
    loop {
        let Answer::Chunk(ChunkAnswer::Scan(owed)) = core.metadata.query(Query::Chunk(ChunkQuery::Owed { after, max: STEP })).await? else {
            return Err(unexpected("Owed", &"something else"));
        };
        let Some((last, _)) = owed.last() else { return Ok(done) };
        after = Some(*last);
        for (chunk, record) in owed {
            let start = Instant::now();
            deliver(core, chunk, record, &mut done).await?;
            if paced {
                tokio::time::sleep(start.elapsed().min(Duration::from_secs(1))).await;
            }
        }
    }
}

/// One owed shard and where it is to go.
struct Errand {
    index: usize,
    node: NodeId,
    /// Reserved before a crash.
    tag: Option<Tag>,
}

/// What is owed of one chunk and has a node to go to, and how many have none.
fn errands(core: &Core, chunk: ChunkId, record: &ChunkRecord) -> (Vec<Errand>, u64) {
    let Some(placement) = &record.placement else { return (Vec::new(), 0) };
    let sealed = placement.sealed;
    let candidates = core.nodes.candidates();
    let kept: Vec<Option<NodeId>> = placement.shards.iter().map(|place| place.map(|place| place.node)).collect();
    let usable = |node: NodeId| candidates.iter().any(|c| c.node == node && c.usable);
    let choice = placement::complete(chunk, sealed.k, sealed.m, &candidates, &kept);
    let mut out = Vec::new();
    let mut waiting = 0;
    for index in 0..placement.shards.len() {
        let target =
            record.targets.iter().find(|(at, node, _)| usize::from(at.0) == index && usable(*node) && !kept.contains(&Some(*node)));
        match (kept[index], target, choice.shards.get(index).copied().flatten()) {
            // A target of a placed index is a copy somebody began: finished, it is placed instead.
            (_, Some((_, node, tag)), _) => out.push(Errand { index, node: *node, tag: Some(*tag) }),
            (None, None, Some(node)) => out.push(Errand { index, node, tag: None }),
            (None, None, None) => waiting += 1,
            (Some(_), None, _) => {}
        }
    }
    // Two errands to one node would put two shards of a chunk there.
    let mut used = HashSet::new();
    out.retain(|errand| used.insert(errand.node));
    (out, waiting)
}

async fn deliver(core: &Arc<Core>, chunk: ChunkId, record: ChunkRecord, done: &mut Delivered) -> Result<(), WriteError> {
    let (errands, waiting) = errands(core, chunk, &record);
    done.waiting += waiting;
    let Some(placement) = record.placement.clone().filter(|_| !errands.is_empty()) else { return Ok(()) };
    let sealed = placement.sealed;
    let _memory = core.read_memory.take(3 * sealed.sealed_len as usize).await;
    let located = Located { chunk, generation: record.generation, placement };
    let shards = match fetch::gather(core, located).await {
        Ok(shards) => Arc::new(shards),
        Err(error) => {
            REPAIR_FAILURES.inc_by(errands.len() as u64);
            done.waiting += errands.len() as u64;
            tracing::warn!(%chunk, %error, "a shard cannot be made again now");
            return Ok(());
        }
    };
    for errand in errands {
        let shards = shards.clone();
        let index = errand.index;
        let made = core.compute.run(move || {
            let coder = Coder::new(sealed.k, sealed.m).ok()?;
            let shard = coder.rebuild_one(&shards, index, sealed.sealed_len as usize).ok()?;
            let root = encode::root(&shard);
            Some((shard, root))
        });
        let Some((shard, root)) = made.await? else { return Ok(()) };
        match place(core, chunk, &record, &errand, shard, root).await? {
            true => {
                REPAIRED.inc();
                done.shards += 1;
            }
            false => {
                REPAIR_FAILURES.inc();
                done.waiting += 1;
            }
        }
    }
    Ok(())
}

/// Reserves a target, puts the shard there and makes it the placement; false if the chunk or the node is gone meanwhile.
async fn place(
    core: &Core,
    chunk: ChunkId,
    record: &ChunkRecord,
    errand: &Errand,
    shard: Bytes,
    root: spine::id::ShardRoot,
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
    if let Err(error) = link.link.put(header, shard).await {
        tracing::debug!(%chunk, %node, %error, "an owed shard was not put");
        return Ok(false);
    }
    match propose_one(core, ChunkCommand::Move { chunk, generation, index, place: Place { node, tag, root } }).await? {
        Reply::Moved { old } => {
            // The log says that the old copy is nobody's now; if its node is away, the sweep finds it.
            if let Some(old) = old
                && let Some(holder) = core.nodes.get(old.node)
            {
                let _ = holder.link.trash(vec![ShardName { chunk, generation, index, tag: old.tag }]).await;
            }
            Ok(true)
        }
        Reply::Refused(Refusal::ChunkGone | Refusal::TargetGone) => Ok(false),
        other => Err(unexpected("Move", &other)),
    }
}

async fn propose_one(core: &Core, command: ChunkCommand) -> Result<Reply, WriteError> {
    let batch = Batch { chain: Chain::Independent, commands: vec![Command::Chunk(command)] };
    let mut replies = core.metadata.propose(batch).await?;
    replies.pop().ok_or_else(|| unexpected("a repair", &"nothing"))
}

#[cfg(test)]
mod tests;
