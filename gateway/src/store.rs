//! Puts the shards of one chunk on nodes: returns once a quorum has them synced.
//!
//! All puts run side by side. A node that fails is replaced by the next candidate, if there is one on a machine of its own. While half
//! of the shards are synced and the quorum is not, the next candidates are asked beside those that are slow, as dead ones are until
//! they are missed: the first of the two has the shard. After the quorum the stragglers get a little longer; what they do not finish is owed (`None` in the placement) and delivered
//! later by `owe.rs`. A node that made others wait is not waited for again for a while.
//! Invariant: a place is recorded only after its node said that the shard is synced.
//! Not here: choosing (`spine::placement`), making the shards durable in the index (`write.rs`).

use crate::body::WriteError;
use crate::durable::Quorum;
use crate::encode::Encoded;
use crate::metric::{HEDGED_WRITES, QUORUM_FAILURES, SHARDS_OWED, STORED_BYTES};
use crate::nodes::{Node, Nodes};
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use spine::id::{ChunkId, Gen, NodeId, ShardIndex, Tag};
use spine::placement::{self, Candidate};
use spine::wire::chunk::{Place, Placement, ShardName};
use spine::wire::shard::{NodeError, ShardHeader};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The least and the most that slow nodes get, after half of the shards and again after the quorum; between them, four times what
/// those took.
const STRAGGLER_LEAST: Duration = Duration::from_millis(250);
const STRAGGLER_MOST: Duration = Duration::from_secs(2);
/// What a node gets at least that was late before; else as long again as the others took. Less, and one that is well again would
/// be late for ever: no put is faster than those it runs beside.
const STRAGGLER_LATE: Duration = Duration::from_millis(10);
/// A put that takes longer has failed, whatever the node is doing.
const PUT_MOST: Duration = Duration::from_secs(30);

/// Which life of which chunk is stored.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub chunk: ChunkId,
    pub generation: Gen,
    pub tag: Tag,
}

/// What a write waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Half of the shards: how long a put takes now.
    Half,
    /// The quorum: who keeps it waiting for long gets company.
    Quorum,
    /// Stragglers, for a while.
    Rest,
}

/// Stores all shards of one chunk.
///
/// # Errors
/// [`WriteError::QuorumNotReached`]; what was put stays on the nodes as shards that nothing refers to, and is collected.
pub async fn store(nodes: &Nodes, target: Target, encoded: Encoded) -> Result<Quorum, WriteError> {
    let quorum = Quorum::needed(encoded.sealed.k, encoded.sealed.m);
    let mut puts = Puts::begin(nodes, target, &encoded);
    let start = Instant::now();
    let mut phase = Phase::Half;
    // Without it nothing bounds the wait but the puts themselves.
    let mut patience: Option<tokio::time::Instant> = None;
    while puts.possible() >= usize::from(quorum) && puts.acked() < puts.places.len() {
        let ended = match patience {
            None => Ok(puts.running.next().await),
            Some(until) => tokio::time::timeout_at(until, puts.running.next()).await,
        };
        match ended {
            Ok(Some(put)) => puts.take(put),
            Ok(None) => break,
            Err(_) if phase == Phase::Rest => break,
            Err(_) => {
                let more = puts.hedge(usize::from(quorum));
                patience = more.then(|| tokio::time::Instant::now() + straggle(start.elapsed()));
            }
        }
        let now = puts.phase(quorum);
        if now != phase {
            phase = now;
            let took = start.elapsed();
            let longer = if puts.waits_on_late() { took.clamp(STRAGGLER_LATE, STRAGGLER_LEAST) } else { straggle(took) };
            patience = Some(tokio::time::Instant::now() + longer);
        }
    }
    if phase == Phase::Rest {
        puts.asked.iter().flatten().for_each(|node| node.was_late());
    }
    let places = puts.places;
    finish(target, &encoded, places, quorum)
}

/// How much longer the slow ones get when the others took so long.
fn straggle(took: Duration) -> Duration {
    (took * 4).clamp(STRAGGLER_LEAST, STRAGGLER_MOST)
}

/// The puts of one chunk.
struct Puts<'a> {
    nodes: &'a Nodes,
    target: Target,
    encoded: &'a Encoded,
    running: FuturesUnordered<BoxFuture<'static, Put>>,
    candidates: Arc<Vec<Candidate>>,
    /// Nodes not asked yet, the best first.
    spares: Vec<NodeId>,
    /// By index: who has it, and whose answer is still to come.
    places: Vec<Option<Place>>,
    asked: Vec<Vec<Arc<Node>>>,
}

impl<'a> Puts<'a> {
    fn begin(nodes: &'a Nodes, target: Target, encoded: &'a Encoded) -> Puts<'a> {
        let candidates = nodes.candidates();
        let placement::Choice { shards, spares } = placement::choose(target.chunk, encoded.sealed.k, encoded.sealed.m, &candidates);
        let (places, asked) = (vec![None; shards.len()], vec![Vec::new(); shards.len()]);
        let mut puts = Puts { nodes, target, encoded, running: FuturesUnordered::new(), candidates, spares, places, asked };
        for (index, id) in shards.into_iter().enumerate() {
            if let Some(id) = id {
                puts.ask(index, id);
            }
        }
        puts
    }

    /// False if that node is gone.
    fn ask(&mut self, index: usize, id: NodeId) -> bool {
        let Some(node) = self.nodes.get(id) else { return false };
        self.running.push(put(node.clone(), self.target, self.encoded, index).boxed());
        self.asked[index].push(node);
        true
    }

    /// False if nobody is left.
    fn ask_another(&mut self, index: usize) -> bool {
        while let Some(id) = self.next_spare(index) {
            if self.ask(index, id) {
                return true;
            }
        }
        false
    }

    /// The best spare of a zone that has fewer than `m` of the other shards; if there is none, the best of all.
    fn next_spare(&mut self, index: usize) -> Option<NodeId> {
        let zone = |id: NodeId| self.candidates.iter().find(|candidate| candidate.node == id).map(|candidate| &candidate.zone);
        let others = self.places.iter().zip(&self.asked).enumerate().filter(|(other, _)| *other != index);
        let holders = others.flat_map(|(_, (place, asked))| place.iter().map(|place| place.node).chain(asked.iter().map(|node| node.id)));
        let zones: Vec<_> = holders.map(zone).collect();
        let most = usize::from(self.encoded.sealed.m.max(1));
        let has_room = |id: &NodeId| zones.iter().filter(|other| **other == zone(*id)).count() < most;
        let at = self.spares.iter().position(has_room).unwrap_or(0);
        (at < self.spares.len()).then(|| self.spares.remove(at))
    }

    fn take(&mut self, put: Put) {
        self.asked[put.index].retain(|node| node.id != put.node.id);
        match put.result {
            // A second copy of one index is nobody's, and the sweep's.
            Ok(place) => drop(self.places[put.index].get_or_insert(place)),
            Err(error) => {
                tracing::debug!(node = %put.node.id, chunk = %self.target.chunk, index = put.index, %error, "a shard was not put");
                if self.places[put.index].is_none() && self.asked[put.index].is_empty() {
                    self.ask_another(put.index);
                }
            }
        }
    }

    /// Asks others as well for as many shards as the quorum lacks, those first that fewest were asked for; false if nobody is left.
    fn hedge(&mut self, quorum: usize) -> bool {
        let mut missing: Vec<usize> = (0..self.places.len()).filter(|index| self.places[*index].is_none()).collect();
        missing.sort_by_key(|index| self.asked[*index].len());
        missing.truncate(quorum.saturating_sub(self.acked()));
        let mut began = false;
        for index in missing {
            if !self.ask_another(index) {
                break;
            }
            HEDGED_WRITES.inc();
            began = true;
        }
        began
    }

    fn acked(&self) -> usize {
        self.places.iter().flatten().count()
    }

    /// Shards that are there or may still come.
    fn possible(&self) -> usize {
        self.places.iter().zip(&self.asked).filter(|(place, asked)| place.is_some() || !asked.is_empty()).count()
    }

    fn phase(&self, quorum: u8) -> Phase {
        match self.acked() {
            acked if acked >= usize::from(quorum) => Phase::Rest,
            acked if acked * 2 >= self.places.len() => Phase::Quorum,
            _ => Phase::Half,
        }
    }

    /// Whether all that is missing is with nodes that were late before.
    fn waits_on_late(&self) -> bool {
        self.asked.iter().flatten().all(|node| node.is_late())
    }
}

fn finish(target: Target, encoded: &Encoded, places: Vec<Option<Place>>, quorum: u8) -> Result<Quorum, WriteError> {
    let acked = places.iter().flatten().count();
    let owed = places.len() - acked;
    let shard_len = encoded.shards.first().map_or(0, |(shard, _)| shard.len());
    STORED_BYTES.inc_by((acked * shard_len) as u64);
    let placement = Placement { sealed: encoded.sealed, shards: places };
    let reached = Quorum::reached(placement).ok_or_else(|| {
        QUORUM_FAILURES.inc();
        WriteError::QuorumNotReached { chunk: target.chunk, acked: acked as u8, quorum }
    })?;
    SHARDS_OWED.inc_by(owed as u64);
    Ok(reached)
}

/// One put that ended.
struct Put {
    index: usize,
    node: Arc<Node>,
    result: Result<Place, NodeError>,
}

fn put(node: Arc<Node>, target: Target, encoded: &Encoded, index: usize) -> impl Future<Output = Put> + use<> {
    let (shard, root) = encoded.shards[index].clone();
    let name = ShardName { chunk: target.chunk, generation: target.generation, index: ShardIndex(index as u8), tag: target.tag };
    let header = ShardHeader { name, sealed: encoded.sealed, root, len: shard.len() as u32 };
    async move {
        let done = tokio::time::timeout(PUT_MOST, node.link.put(header, shard)).await;
        let done = done.unwrap_or_else(|_| Err(NodeError::Unavailable { reason: "a put took too long".into() }));
        let result = done.map(|()| Place { node: node.id, tag: target.tag, root });
        Put { index, node, result }
    }
}

#[cfg(test)]
mod tests;
