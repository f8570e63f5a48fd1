//! Nodes that do not come back: what they held is owed.
//!
//! A node that was replaced, or is away for hours, is given up as a whole: what it held becomes owed. Not of a chunk that cannot be made
//! again as long as others are away too: there the index keeps every place it knows, since one of those nodes may be the one to return.
//! Chunks that have little left do not wait for this: `need.rs`.

use super::mark_lost;
use crate::body::WriteError;
use crate::census;
use crate::core::Core;
use crate::dedup::unexpected;
use spine::id::{NodeId, ShardIndex};
use spine::wire::chunk::ShardName;
use spine::wire::root::{RootAnswer, RootQuery};
use spine::wire::{Answer, Query};
use std::collections::{HashMap, HashSet};
use std::time::Instant;

/// Nodes whose disk is away, and since when.
#[derive(Default)]
pub(super) struct Absent {
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
    pub async fn give_up(&mut self, core: &Core) -> Result<(), WriteError> {
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
        let page = census::page(core, &mut after).await?;
        if page.is_empty() {
            return Ok(stuck);
        }
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
