//! Which shards go where so that every node is as full as its capacity says: fill and capacity in, bounded moves out. Pure.
//!
//! ```text
//! share of a machine = its capacity * fill of all, at most one shard in n of everything (a machine holds one shard of a chunk)
//! share of a node    = its part of its machine's, by capacity
//! ```
//! A shard moves from a node that has more than its share to one that has less, and only if one of the two is off by more than the
//! tolerance. Where it goes is what placement would say of a new shard, with what each node lacks as its free bytes.
//!
//! Invariants: every step brings its two nodes nearer to their shares and no other farther away, so steps end and nothing goes back
//! and forth; no two shards of a chunk come together on one machine, and no zone gets more than `m` of them, or more than the fullest
//! has already. No clock, no randomness: the same fleet and the same chunks give the same moves.
//! Not here: doing it, and how fast (`balance.rs`).

use spine::id::{ChunkId, NodeId};
use spine::placement::{self, Candidate};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// One node as the plan needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub node: NodeId,
    pub machine: Arc<str>,
    pub zone: Arc<str>,
    /// Bytes it offers.
    pub capacity: u64,
    /// Bytes of shards that the index places on it.
    pub placed: u64,
    /// Whether it has a share: it answers, and is neither emptied nor suspended.
    pub shares: bool,
    /// Whether it may get shards: it has a share, and says that it has room.
    pub takes: bool,
}

/// One shard to be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub index: usize,
    pub from: NodeId,
    pub to: NodeId,
    pub len: u64,
}

/// How far nodes may be from their shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tolerance {
    /// Thousandths of the share.
    pub permille: u32,
}

impl Tolerance {
    /// Bytes. A hundredth of the capacity is never worth a move: a fleet that is nearly empty is not out of balance.
    fn bytes(self, share: u64, capacity: u64) -> u64 {
        let of_share = u128::from(share) * u128::from(self.permille) / 1_000;
        u64::try_from(of_share).unwrap_or(u64::MAX).max(capacity / 100)
    }
}

/// The fleet as it is, and as it should be.
pub struct Plan {
    holders: Vec<Holder>,
    shares: Vec<u64>,
    at: HashMap<NodeId, usize>,
    tolerance: Tolerance,
}

impl Plan {
    /// `shards`: of a chunk, `k + m`. `tolerance`: within it a node is left as it is.
    pub fn new(mut holders: Vec<Holder>, shards: usize, tolerance: Tolerance) -> Plan {
        holders.sort_by_key(|holder| holder.node);
        let shares = shares(&holders, shards);
        let at = holders.iter().enumerate().map(|(at, holder)| (holder.node, at)).collect();
        Plan { holders, shares, at, tolerance }
    }

    /// Bytes that the node should hold; `None`: it has no share.
    pub fn share(&self, node: NodeId) -> Option<u64> {
        self.at.get(&node).filter(|at| self.holders[**at].shares).map(|at| self.shares[*at])
    }

    /// Whether every node is within `tolerance` of its share.
    pub fn is_level(&self, tolerance: Tolerance) -> bool {
        (0..self.holders.len()).all(|at| !self.is_off(at, tolerance))
    }

    /// The farthest that a node is from its share, in thousandths of it; nodes within a hundredth of their capacity do not count.
    pub fn worst_permille(&self) -> u64 {
        let floor = Tolerance { permille: 0 };
        let off = (0..self.holders.len()).filter(|at| self.is_off(*at, floor));
        off.map(|at| {
            let (placed, share) = (u128::from(self.holders[at].placed), u128::from(self.shares[at].max(1)));
            u64::try_from(placed.abs_diff(share) * 1_000 / share).unwrap_or(u64::MAX)
        })
        .max()
        .unwrap_or(0)
    }

    /// Bytes that nodes have beyond their shares: what is moved to level them out, at most.
    pub fn surplus(&self) -> u64 {
        let over = self.holders.iter().zip(&self.shares).filter(|(holder, _)| holder.shares);
        over.map(|(holder, share)| holder.placed.saturating_sub(*share)).sum()
    }

    /// The best move of a chunk's shards of `len` bytes, if one is due; booked as done.
    ///
    /// - `placed[i]`: who holds index `i`.
    pub fn step(&mut self, chunk: ChunkId, k: u8, m: u8, placed: &[Option<NodeId>], len: u64) -> Option<Step> {
        // Where the fullest may give nothing, for its zone's sake, another of them may.
        let givers = self.givers(placed, len);
        let (index, giver, taker) =
            givers.into_iter().find_map(|(index, giver)| Some((index, giver, self.taker(chunk, (k, m), placed, (index, giver), len)?)))?;
        self.holders[giver].placed -= len;
        self.holders[taker].placed += len;
        Some(Step { index, from: self.holders[giver].node, to: self.holders[taker].node, len })
    }

    /// Who gets the shard of `index`, which the giver has.
    fn taker(
        &self,
        chunk: ChunkId,
        (k, m): (u8, u8),
        placed: &[Option<NodeId>],
        (index, giver): (usize, usize),
        len: u64,
    ) -> Option<usize> {
        let hurried = self.is_off(giver, self.tolerance);
        let mut candidates = Vec::with_capacity(self.holders.len());
        for (at, holder) in self.holders.iter().enumerate() {
            let lacks = self.shares[at].saturating_sub(holder.placed);
            let usable =
                holder.takes && lacks >= len && (hurried || self.is_off(at, self.tolerance)) && !placed.contains(&Some(holder.node));
            candidates.push(Candidate {
                node: holder.node,
                machine: holder.machine.clone(),
                zone: holder.zone.clone(),
                free: lacks,
                capacity: holder.capacity,
                usable,
            });
        }
        let mut kept = placed.to_vec();
        kept[index] = None;
        // Only this gap is to be filled: what is owed is repair's.
        let choice = placement::complete(chunk, k, m, &candidates, &fenced(&kept, index));
        let to = choice.shards.get(index).copied().flatten()?;
        let taker = *self.at.get(&to)?;
        self.zone_allows(placed, index, taker, m).then_some(taker)
    }

    /// The step was not done.
    pub fn undo(&mut self, step: &Step) {
        if let (Some(giver), Some(taker)) = (self.at.get(&step.from), self.at.get(&step.to)) {
            self.holders[*giver].placed += step.len;
            self.holders[*taker].placed = self.holders[*taker].placed.saturating_sub(step.len);
        }
    }

    fn is_off(&self, at: usize, tolerance: Tolerance) -> bool {
        let (holder, share) = (&self.holders[at], self.shares[at]);
        holder.shares && holder.placed.abs_diff(share) > tolerance.bytes(share, holder.capacity)
    }

    /// Which of the chunk's indices lie on nodes that have more than their shares, and on which; who has most, in proportion, first.
    fn givers(&self, placed: &[Option<NodeId>], len: u64) -> Vec<(usize, usize)> {
        let mut givers = Vec::with_capacity(placed.len());
        for (index, node) in placed.iter().enumerate() {
            let Some(at) = node.and_then(|node| self.at.get(&node).copied()) else { continue };
            let (holder, share) = (&self.holders[at], self.shares[at]);
            if holder.shares && holder.placed >= share.saturating_add(len) {
                givers.push((index, at));
            }
        }
        let by_share = |at: usize, other: usize| u128::from(self.holders[at].placed) * u128::from(self.shares[other].max(1));
        givers.sort_by(|(_, one), (_, other)| by_share(*other, *one).cmp(&by_share(*one, *other)));
        givers
    }

    /// Whether the taker's zone has room for the shard of `index`: at most `m`, or as many as the fullest zone has of this chunk.
    fn zone_allows(&self, placed: &[Option<NodeId>], index: usize, taker: usize, m: u8) -> bool {
        let mut zones: BTreeMap<&str, usize> = BTreeMap::new();
        let zone = |node: &NodeId| self.at.get(node).map(|at| &*self.holders[*at].zone);
        for zone in placed.iter().flatten().filter_map(zone) {
            *zones.entry(zone).or_default() += 1;
        }
        let most = zones.values().copied().max().unwrap_or(0).max(usize::from(m));
        let own = placed[index].as_ref().and_then(zone);
        let into = &*self.holders[taker].zone;
        own == Some(into) || zones.get(into).copied().unwrap_or(0) < most
    }
}

/// `kept` with every other gap closed, by an identity that no node has.
fn fenced(kept: &[Option<NodeId>], open: usize) -> Vec<Option<NodeId>> {
    let nobody = NodeId([0; 32]);
    kept.iter().enumerate().map(|(index, node)| if index == open { None } else { node.or(Some(nobody)) }).collect()
}

/// What each node should hold of all that is placed on those that share.
fn shares(holders: &[Holder], shards: usize) -> Vec<u64> {
    let sharing = || holders.iter().filter(|holder| holder.shares);
    let total: u128 = sharing().map(|holder| u128::from(holder.placed)).sum();
    let mut machines: BTreeMap<&str, u128> = BTreeMap::new();
    for holder in sharing() {
        *machines.entry(&holder.machine).or_default() += u128::from(holder.capacity);
    }
    // With fewer machines than shards, every machine holds one of every chunk.
    let limit = total.div_ceil(shards.min(machines.len()).max(1) as u128);
    let (mut bytes, mut capacity) = (total, machines.values().sum::<u128>());
    let mut limited: BTreeMap<&str, u128> = BTreeMap::new();
    // Who would get more than a machine can hold gets that, and the others share the rest, until nobody would.
    loop {
        let over = |(_, room): &(&&str, &u128)| capacity > 0 && **room * bytes > limit * capacity;
        let full: Vec<(&str, u128)> = machines.iter().filter(over).map(|(name, room)| (*name, *room)).collect();
        if full.is_empty() {
            break;
        }
        for (name, room) in full {
            machines.remove(name);
            limited.insert(name, room);
            bytes = bytes.saturating_sub(limit);
            capacity -= room;
        }
    }
    let share = |holder: &Holder| -> u128 {
        let own = u128::from(holder.capacity);
        match limited.get(&*holder.machine) {
            Some(room) => limit * own / (*room).max(1),
            None => bytes * own / capacity.max(1),
        }
    };
    holders.iter().map(|holder| if holder.shares { u64::try_from(share(holder)).unwrap_or(u64::MAX) } else { 0 }).collect()
}

#[cfg(test)]
mod tests;
