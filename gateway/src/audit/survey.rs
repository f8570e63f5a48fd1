//! One pass through the index: what is placed on each node is offered to that node's draw, and nodes are asked whether they have it.
//!
//! Asking costs a node one look into its index a shard. A node that lies is found by audits; one that lost a shard, or set it aside
//! as damaged, says so here, and the shard is made again. Which of the two it was it is asked of a few of them: damaged is no lie.
//! Invariant: a shard counts as missing only if the index, asked after the node, still places it there.

use super::{DEADLINE, GROUP, is_placed};
use crate::body::WriteError;
use crate::collect::sweep::records;
use crate::core::Core;
use crate::damage::Finder;
use crate::dedup::unexpected;
use crate::metric::{SHARDS_ABSENT, STRIKES};
use crate::nodes::Node;
use spine::audit::{Answered, Draw, Placed, Question};
use spine::id::{ChunkId, NodeId, ShardIndex};
use spine::wire::chunk::{ChunkAnswer, ChunkQuery, ChunkRecord, ChunkState, Place, ShardName};
use spine::wire::{Answer, Query};
use std::collections::{HashMap, HashSet};
use tokio::time::timeout;

/// Chunks of one step.
const SCAN: usize = 512;

/// What a pass came to.
pub(crate) struct Surveyed {
    pub draws: HashMap<NodeId, Draw>,
    /// Shards that nodes said they do not have.
    pub absent: u64,
}

/// Draws for the nodes of `draws`, and asks those of `ask`.
pub(crate) async fn run(core: &Core, mut draws: HashMap<NodeId, Draw>, ask: &HashSet<NodeId>) -> Result<Surveyed, WriteError> {
    let (mut after, mut absent) = (None, 0);
    let mut lacking: HashSet<NodeId> = HashSet::new();
    loop {
        let answer = core.metadata.query(Query::Chunk(ChunkQuery::Scan { after, max: SCAN })).await?;
        let Answer::Chunk(ChunkAnswer::Scan(page)) = answer else { return Err(unexpected("Scan", &"something else")) };
        let Some((last, _)) = page.last() else {
            draws.iter().for_each(|(node, draw)| core.board.placed(*node, draw.offered()));
            return Ok(Surveyed { draws, absent });
        };
        after = Some(*last);
        let mut asked: HashMap<NodeId, Vec<ShardName>> = HashMap::new();
        for (chunk, record) in &page {
            for (place, placed) in placed(*chunk, record) {
                if let Some(draw) = draws.get_mut(&place.node) {
                    draw.offer(placed);
                }
                if ask.contains(&place.node) {
                    asked.entry(place.node).or_default().push(placed.name);
                }
            }
        }
        let asking = asked.into_iter().map(|(node, names)| async move { (node, missing(core, node, names).await) });
        for (node, missing) in futures::future::join_all(asking).await {
            let missing = missing?;
            absent += missing.shards.len() as u64;
            if missing.damaged {
                let strikes = missing.shards.iter().filter(|shard| core.board.admitted(node, **shard)).count();
                STRIKES.with_label_values(&["damaged"]).inc_by(strikes as u64);
            } else if !missing.shards.is_empty() && lacking.insert(node) {
                // Held against it once in a pass: a disk that lost a part of itself is no liar yet.
                core.board.lacked(node);
                STRIKES.with_label_values(&["absent"]).inc();
            }
        }
    }
}

/// Where the shards of a live chunk are to be.
fn placed(chunk: ChunkId, record: &ChunkRecord) -> impl Iterator<Item = (Place, Placed)> {
    let placement = record.placement.as_ref().filter(|_| record.state == ChunkState::Live);
    let len = placement.map_or(0, |placement| placement.sealed.sealed_len.div_ceil(u32::from(placement.sealed.k.max(1))));
    let shards = placement.into_iter().flat_map(|placement| placement.shards.iter().enumerate());
    shards.filter_map(move |(index, place)| {
        let place = (*place)?;
        let name = ShardName { chunk, generation: record.generation, index: ShardIndex(index as u8), tag: place.tag };
        Some((place, Placed { name, root: place.root, len }))
    })
}

/// What a node does not have of what is placed on it.
#[derive(Default)]
struct Missing {
    shards: Vec<ShardName>,
    /// By its own word they are damaged, as far as it was asked.
    damaged: bool,
}

/// Asks one node; what it does not have goes to repair. A node that does not answer says nothing.
async fn missing(core: &Core, node: NodeId, names: Vec<ShardName>) -> Result<Missing, WriteError> {
    let Some(holder) = core.nodes.get(node).filter(|holder| holder.reachable()) else { return Ok(Missing::default()) };
    let Ok(held) = holder.link.has(names.clone()).await else { return Ok(Missing::default()) };
    let gone: Vec<ShardName> = names.into_iter().zip(held).filter(|(_, held)| !held).map(|(name, _)| name).collect();
    if gone.is_empty() {
        return Ok(Missing::default());
    }
    let says = says_damaged(&holder, &gone[..gone.len().min(GROUP)]).await;
    // After the node: what was moved meanwhile is not missing.
    let records = records(core, &gone).await?;
    let is_there = |name: &ShardName| records.get(&name.chunk).is_some_and(|record| is_placed(record, name, node));
    let asked: Vec<bool> = gone.iter().zip(&says).filter(|(name, _)| is_there(name)).map(|(_, says)| *says).collect();
    let damaged = !asked.is_empty() && asked.iter().all(|says| *says);
    let shards: Vec<ShardName> = gone.into_iter().filter(is_there).collect();
    for name in &shards {
        SHARDS_ABSENT.inc();
        core.damage.report(*name, node, Finder::Survey);
    }
    Ok(Missing { shards, damaged })
}

/// Which of these the node says are damaged. None of them where it does not answer: it has just said that it does not have them.
async fn says_damaged(holder: &Node, names: &[ShardName]) -> Vec<bool> {
    let questions = names.iter().map(|name| Question { name: *name, slice: 0 }).collect();
    match timeout(DEADLINE, holder.link.audit(questions)).await {
        Ok(Ok(answers)) if answers.len() == names.len() => answers.iter().map(|answer| *answer == Answered::Damaged).collect(),
        _ => vec![false; names.len()],
    }
}
