//! What repair and drains have to do about one chunk: pure functions of its record, of how its nodes stand, and of who takes shards.
//!
//! ```text
//! record, standing of its nodes -> need: which indices are made again, which are carried off nodes that leave, how urgent that is
//! record, need, candidates      -> errands: which index goes to which node, and how many have none
//! ```
//!
//! Invariants: an index is replaced, never given up: until its Move is logged the record names the old place. Fewest left first:
//! [`Urgency`] orders all repairs by how many more shards the chunk can lose, and every repair before every drain. A chunk that has
//! `k + ceil(m/2)` shards or fewer does not wait for nodes that are away; one that has more does.
//! Not here: for how long a node may be away before it is given up (`round.rs`), doing it (`deliver.rs`).

use crate::durable::Quorum;
use spine::id::{ChunkId, NodeId, Tag};
use spine::placement::{self, Candidate};
use spine::wire::chunk::{ChunkRecord, ChunkState, Place};
use std::collections::{BTreeSet, HashSet};

/// How a node stands with its shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Standing {
    /// It serves what it holds.
    Serves,
    /// It serves what it holds, and is to be emptied.
    Leaves,
    /// It does not answer, for so short a time that it may just be starting again.
    Pauses,
    /// It does not answer, or nobody knows it.
    Away,
    /// It is to be emptied, and does not answer or is not believed: nobody waits for it, and nothing is copied from it.
    Lost,
}

/// What one chunk needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// Shards that can be read, beyond the `k` that a read takes; negative: as many are missing.
    pub spare: i16,
    /// Indices to make again from others, now.
    pub make: Vec<usize>,
    /// Indices to carry off nodes that leave.
    pub carry: Vec<usize>,
}

/// What is done first is less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Urgency {
    /// By shards that may still be lost.
    Repair(i16),
    Drain,
}

impl Need {
    /// `None`: nothing is to be done.
    pub fn urgency(&self) -> Option<Urgency> {
        match (self.make.is_empty(), self.carry.is_empty()) {
            (false, _) => Some(Urgency::Repair(self.spare)),
            (true, false) => Some(Urgency::Drain),
            (true, true) => None,
        }
    }
}

/// Looks at one chunk; `None`: it has no shards that anybody may count on.
pub fn need(record: &ChunkRecord, standing: impl Fn(NodeId) -> Standing) -> Option<Need> {
    let placement = record.placement.as_ref().filter(|_| matches!(record.state, ChunkState::Live | ChunkState::Condemned))?;
    let (k, m) = (placement.sealed.k, placement.sealed.m);
    let of = |place: &Option<Place>| place.map(|place| standing(place.node));
    let count = |which: fn(Standing) -> bool| placement.shards.iter().filter(|place| of(place).is_some_and(which)).count();
    let readable = count(|standing| matches!(standing, Standing::Serves | Standing::Leaves));
    let there = count(|standing| !matches!(standing, Standing::Away | Standing::Lost));
    let at_once = there <= usize::from(Quorum::needed(k, m));
    let stale = |index: usize| {
        let here = record.targets.iter().filter(|target| usize::from(target.0.0) == index);
        here.map(|target| standing(target.1)).any(|standing| matches!(standing, Standing::Leaves | Standing::Away | Standing::Lost))
    };
    let (mut make, mut carry) = (Vec::new(), Vec::new());
    for (index, place) in placement.shards.iter().enumerate() {
        match of(place) {
            // Below k nothing can be made: the nodes that are away may bring it back.
            None | Some(Standing::Lost) if readable >= usize::from(k) => make.push(index),
            // A copy that was begun on a node that is gone, too, is finished on another.
            Some(Standing::Away) if (at_once || stale(index)) && readable >= usize::from(k) => make.push(index),
            Some(Standing::Leaves) => carry.push(index),
            // A copy was begun on a node that is not to have it: another one takes its place, or the target would stand for ever.
            Some(Standing::Serves) if stale(index) => carry.push(index),
            _ => {}
        }
    }
    Some(Need { spare: readable as i16 - i16::from(k), make, carry })
}

/// One shard and where it is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errand {
    pub index: usize,
    pub node: NodeId,
    /// Reserved before a crash.
    pub tag: Option<Tag>,
    /// Where it can be copied from.
    pub from: Option<Place>,
}

/// What can be done for one chunk now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Errands {
    pub list: Vec<Errand>,
    /// Indices that no node is left for.
    pub waiting: u64,
}

/// Chooses a node for every index of `need`, and takes up targets that a crash left. `standing` as for [`need`].
///
/// - `candidates`: everybody who is known, usable or not, so that machines and zones of what stays are known too.
pub fn errands(
    chunk: ChunkId,
    record: &ChunkRecord,
    need: &Need,
    candidates: &[Candidate],
    standing: impl Fn(NodeId) -> Standing,
) -> Errands {
    let Some(placement) = &record.placement else { return Errands::default() };
    let (k, m) = (placement.sealed.k, placement.sealed.m);
    let holders: HashSet<NodeId> = placement.shards.iter().flatten().map(|place| place.node).collect();
    let usable = |node: NodeId| candidates.iter().any(|c| c.node == node && c.usable);
    let mut kept: Vec<Option<NodeId>> = placement.shards.iter().map(|place| place.map(|place| place.node)).collect();
    let mut out = Errands::default();
    let from = |index: usize| placement.shards[index].filter(|place| matches!(standing(place.node), Standing::Serves | Standing::Leaves));
    let mut begun = BTreeSet::new();
    for (index, node, tag) in &record.targets {
        let index = usize::from(index.0);
        if index < kept.len() && usable(*node) && !holders.contains(node) && !kept.contains(&Some(*node)) && begun.insert(index) {
            kept[index] = Some(*node);
            out.list.push(Errand { index, node: *node, tag: Some(*tag), from: from(index) });
        }
    }
    // Who has a shard of the chunk gets no second one, nor the same again.
    let mut others = candidates.to_vec();
    others.iter_mut().for_each(|candidate| candidate.usable &= !holders.contains(&candidate.node));
    let open = |indices: &[usize]| -> Vec<usize> { indices.iter().copied().filter(|index| !begun.contains(index)).collect() };
    // What is lost gets its nodes before what is only to be moved.
    for indices in [open(&need.make), open(&need.carry)] {
        if indices.is_empty() {
            continue;
        }
        indices.iter().for_each(|index| kept[*index] = None);
        let choice = placement::complete(chunk, k, m, &others, &kept);
        for index in indices {
            match choice.shards.get(index).copied().flatten() {
                Some(node) => {
                    kept[index] = Some(node);
                    out.list.push(Errand { index, node, tag: None, from: from(index) });
                }
                None => {
                    kept[index] = placement.shards[index].map(|place| place.node);
                    out.waiting += 1;
                }
            }
        }
    }
    out
}

/// The most urgent chunks of a pass through the index, at most so many: a bound on memory, not on work, since whoever finds it
/// [`Backlog::is_partial`] goes through the index again.
pub struct Backlog {
    most: usize,
    chunks: BTreeSet<(Urgency, ChunkId)>,
    partial: bool,
}

impl Backlog {
    pub fn new(most: usize) -> Backlog {
        Backlog { most: most.max(1), chunks: BTreeSet::new(), partial: false }
    }

    pub fn offer(&mut self, urgency: Urgency, chunk: ChunkId) {
        self.chunks.insert((urgency, chunk));
        if self.chunks.len() > self.most {
            self.chunks.pop_last();
            self.partial = true;
        }
    }

    /// Whether less urgent chunks were left out.
    pub fn is_partial(&self) -> bool {
        self.partial
    }

    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Most urgent first.
    pub fn into_order(self) -> Vec<(Urgency, ChunkId)> {
        self.chunks.into_iter().collect()
    }
}

#[cfg(test)]
mod tests;
