//! Puts the shards of one chunk on nodes: returns once a quorum has them synced.
//!
//! All puts run side by side. A node that fails is replaced by the next candidate, if there is one on a machine of its own.
//! After the quorum the stragglers get a little longer; what they do not finish is owed (`None` in the placement) and delivered
//! later by `owe.rs`. A node that made others wait is not waited for again for a while.
//! Invariant: a place is recorded only after its node said that the shard is synced.
//! Not here: choosing (`spine::placement`), making the shards durable in the index (`write.rs`).

use crate::body::WriteError;
use crate::durable::Quorum;
use crate::encode::Encoded;
use crate::metric::{QUORUM_FAILURES, SHARDS_OWED, STORED_BYTES};
use crate::nodes::{Node, Nodes};
use futures::stream::{FuturesUnordered, StreamExt};
use spine::id::{ChunkId, Gen, NodeId, ShardIndex, Tag};
use spine::placement;
use spine::wire::chunk::{Place, Placement, ShardName};
use spine::wire::shard::{NodeError, ShardHeader};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The least and the most that stragglers get after the quorum; between them, four times what the quorum took.
const STRAGGLER_LEAST: Duration = Duration::from_millis(250);
const STRAGGLER_MOST: Duration = Duration::from_secs(2);
/// What a node gets that was late before.
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

/// Stores all shards of one chunk.
///
/// # Errors
/// [`WriteError::QuorumNotReached`]; what was put stays on the nodes as shards that nothing refers to, and is collected.
pub async fn store(nodes: &Nodes, target: Target, encoded: Encoded) -> Result<Quorum, WriteError> {
    let (k, m) = (encoded.sealed.k, encoded.sealed.m);
    let quorum = Quorum::needed(k, m);
    let choice = placement::choose(target.chunk, k, m, &nodes.candidates());
    let mut spares = choice.spares.iter();
    let mut places: Vec<Option<Place>> = vec![None; encoded.shards.len()];
    let mut puts = FuturesUnordered::new();
    let begin = |index: usize, id: NodeId| nodes.get(id).map(|node| put(node, target, &encoded, index));
    for (index, id) in choice.shards.iter().enumerate() {
        puts.extend(id.and_then(|id| begin(index, id)));
    }

    let start = Instant::now();
    let mut acked = 0;
    // Set once the quorum is there: until then nothing bounds the wait but the puts themselves.
    let mut patience: Option<tokio::time::Instant> = None;
    while acked + puts.len() >= usize::from(quorum) {
        let next = match patience {
            None => puts.next().await,
            Some(until) => tokio::time::timeout_at(until, puts.next()).await.unwrap_or(None),
        };
        let Some(put) = next else { break };
        match put.result {
            Ok(place) => {
                places[put.index] = Some(place);
                acked += 1;
            }
            Err(error) => {
                tracing::debug!(node = %put.node.id, chunk = %target.chunk, index = put.index, %error, "a shard was not put");
                puts.extend(spares.next().and_then(|id| begin(put.index, *id)));
            }
        }
        if acked >= usize::from(quorum) && patience.is_none() {
            let waiting_on_late = choice
                .shards
                .iter()
                .zip(&places)
                .filter(|(_, place)| place.is_none())
                .all(|(id, _)| id.and_then(|id| nodes.get(id)).is_none_or(|node| node.is_late()));
            let longer = if waiting_on_late { STRAGGLER_LATE } else { (start.elapsed() * 4).clamp(STRAGGLER_LEAST, STRAGGLER_MOST) };
            patience = Some(tokio::time::Instant::now() + longer);
        }
    }
    if !puts.is_empty() && acked >= usize::from(quorum) {
        let missing = choice.shards.iter().zip(&places).filter(|(_, place)| place.is_none());
        missing.filter_map(|(id, _)| id.and_then(|id| nodes.get(id))).for_each(|node| node.was_late());
    }
    finish(target, &encoded, places, quorum)
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
