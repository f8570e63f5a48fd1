//! Which node holds which shard: a pure function of the chunk, the code and what is known of the nodes.
//!
//! ```text
//! candidates -> the 3n XOR-nearest to the ChunkId -> weighted rendezvous by free bytes -> rules -> a node per shard index
//!                        | too few usable ones? the next nearest, in XOR order
//! ```
//!
//! Rules: never two shards on one machine; at most `m` in one zone, or the least more that still places every shard
//! (one zone alone: no limit). A node that is not usable, or has nothing free, gets none.
//!
//! Invariants: no clock and no floating point, so the same input gives the same choice on every machine; the order of the
//! candidates does not matter; the choice is recorded per index by the caller, and an index is never derived from rank:
//! [`complete`] keeps what is placed and fills only the gaps, so that a join or a leave moves only what it must.
//! If there are too few machines, it is the last indices (parity) that stay empty.
//!
//! Not here: knowing the nodes (the gateway's table), sending bytes, repair's decision when to act.
//!
//! Source: Maymounkov and Mazieres 2002 (XOR); Schindelhauer and Schomaker 2005 (weighted rendezvous).

use crate::id::{ChunkId, NodeId};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Neighbourhood of a chunk, as a multiple of `n`.
const NEIGHBOURHOOD: usize = 3;

/// What is known of a node now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub node: NodeId,
    /// Failure domain that no two shards of a chunk share.
    pub machine: Arc<str>,
    pub zone: Arc<str>,
    /// Free bytes: the weight.
    pub free: u64,
    /// Bytes it may hold in all.
    pub capacity: u64,
    /// Reachable, not full, not draining. Only the caller can know.
    pub usable: bool,
}

/// The nodes of one chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// By shard index, `k + m` long. `None`: no machine is left for it.
    pub shards: Vec<Option<NodeId>>,
    /// Who to ask next if one of them fails, best first: no machine is used by `shards` or named twice.
    pub spares: Vec<NodeId>,
}

impl Choice {
    /// Indices that have a node.
    pub fn placed(&self) -> usize {
        self.shards.iter().flatten().count()
    }
}

/// Nodes for a new chunk of `k + m` shards.
pub fn choose(chunk: ChunkId, k: u8, m: u8, candidates: &[Candidate]) -> Choice {
    complete(chunk, k, m, candidates, &[])
}

/// Fills the empty indices of a chunk that is placed in part, and leaves the others as they are.
///
/// - `kept[i]`: who holds index `i`; a shorter slice counts as empty behind its end. A kept node need not be usable, and one that
///   is no candidate any more blocks nothing.
/// - To replace a node that failed, mark it unusable and leave its index empty.
pub fn complete(chunk: ChunkId, k: u8, m: u8, candidates: &[Candidate], kept: &[Option<NodeId>]) -> Choice {
    let n = usize::from(k) + usize::from(m);
    let mut shards: Vec<Option<NodeId>> = (0..n).map(|i| kept.get(i).copied().flatten()).collect();
    let held: HashSet<NodeId> = shards.iter().flatten().copied().collect();
    let mut used = Used::default();
    for candidate in candidates.iter().filter(|c| held.contains(&c.node)) {
        used.take(candidate);
    }

    let ranked = ranked(chunk, n, candidates);
    let gaps = shards.iter().filter(|s| s.is_none()).count();
    let cap = used.zone_cap(usize::from(m).max(1), gaps, &ranked);
    let mut left = Vec::new();
    let mut chosen = ranked.into_iter();
    for slot in shards.iter_mut().filter(|s| s.is_none()) {
        for candidate in chosen.by_ref() {
            if used.allows(candidate, cap) {
                used.take(candidate);
                *slot = Some(candidate.node);
                break;
            }
            left.push(candidate);
        }
    }
    let mut spares = Vec::new();
    for candidate in left.into_iter().chain(chosen) {
        if !used.machines.contains(&*candidate.machine) {
            used.take(candidate);
            spares.push(candidate.node);
        }
    }
    Choice { shards, spares }
}

/// Machines and zones that hold a shard already.
#[derive(Default)]
struct Used<'a> {
    machines: HashSet<&'a str>,
    zones: HashMap<&'a str, usize>,
}

impl<'a> Used<'a> {
    fn take(&mut self, candidate: &'a Candidate) {
        self.machines.insert(&candidate.machine);
        *self.zones.entry(&candidate.zone).or_default() += 1;
    }

    fn allows(&self, candidate: &Candidate, cap: usize) -> bool {
        !self.machines.contains(&*candidate.machine) && self.zones.get(&*candidate.zone).copied().unwrap_or(0) < cap
    }

    /// The lowest limit of shards a zone, from `least` up, under which as many gaps can be filled as without a limit.
    fn zone_cap(&self, least: usize, gaps: usize, ranked: &[&Candidate]) -> usize {
        let mut machines: HashMap<&str, HashSet<&str>> = HashMap::new();
        for candidate in ranked.iter().filter(|c| !self.machines.contains(&*c.machine)) {
            machines.entry(&candidate.zone).or_default().insert(&candidate.machine);
        }
        let room = |cap: usize| -> usize {
            machines.iter().map(|(zone, there)| there.len().min(cap.saturating_sub(self.zones.get(zone).copied().unwrap_or(0)))).sum()
        };
        let most = gaps.min(machines.values().map(HashSet::len).sum());
        let mut cap = least;
        while room(cap) < most {
            cap += 1;
        }
        cap
    }
}

/// Usable candidates, best first: the neighbourhood by rendezvous score, then everyone else by XOR distance.
fn ranked(chunk: ChunkId, n: usize, candidates: &[Candidate]) -> Vec<&Candidate> {
    let mut all: Vec<&Candidate> = candidates.iter().collect();
    all.sort_unstable_by_key(|c| distance(chunk, c.node));
    let usable = |c: &&Candidate| c.usable && c.free > 0;
    let (near, far) = all.split_at(all.len().min(NEIGHBOURHOOD * n));
    let near: Vec<&Candidate> = near.iter().copied().filter(usable).collect();
    let free: u128 = near.iter().map(|c| u128::from(c.free)).sum();
    let mut ranked: Vec<(u64, u64, &Candidate)> = near.into_iter().map(|c| (cost(chunk, c.node), weight(c.free, n, free), c)).collect();
    // weight_a / cost_a > weight_b / cost_b, without dividing.
    ranked.sort_by(|(cost_a, weight_a, _), (cost_b, weight_b, _)| {
        (u128::from(*weight_b) * u128::from(*cost_a)).cmp(&(u128::from(*weight_a) * u128::from(*cost_b)))
    });
    ranked.into_iter().map(|(_, _, c)| c).chain(far.iter().copied().filter(usable)).collect()
}

/// The rate of a node's clock in the race for `n` places, such that it wins one with probability `p = n * free / total`:
/// `-log2(1 - p)` in units of 2^-32, at least 1, with `p` at most 63/64.
///
/// With the free bytes themselves as rates, large nodes saturate when a third of a neighbourhood is drawn: machines of sizes
/// 1 : 2 : 4 were 57, 54 and 46 % full where they should all have been 50 %.
fn weight(free: u64, n: usize, total: u128) -> u64 {
    let one = 1u128 << 62;
    let p = ((u128::from(free) * n as u128) << 32) / total.max(1);
    let p = (p << 30).min(one - one / 64);
    let miss = u64::try_from(one - p).unwrap_or(u64::MAX);
    ((62 << 32) - log2(miss)).max(1)
}

/// XOR distance; byte order is numeric order.
fn distance(chunk: ChunkId, node: NodeId) -> [u8; 32] {
    std::array::from_fn(|i| chunk.0[i] ^ node.0[i])
}

/// `-log2(u)` of a `u` drawn uniformly from (0, 1) by the hash of (chunk, node), in units of 2^-32. At least 1.
///
/// The node with the largest `weight / cost` wins, and wins in proportion to its weight.
fn cost(chunk: ChunkId, node: NodeId) -> u64 {
    let mut input = [0; 64];
    input[..32].copy_from_slice(&chunk.0);
    input[32..].copy_from_slice(&node.0);
    let hash = blake3::hash(&input);
    let mut word = [0; 8];
    word.copy_from_slice(&hash.as_bytes()[..8]);
    let draw = u64::from_le_bytes(word) | 1;
    ((64 << 32) - log2(draw)).max(1)
}

/// `log2(x)` in units of 2^-32, for `x > 0`: the integer part from the leading zeros, each further bit by squaring.
fn log2(x: u64) -> u64 {
    let whole = u64::from(63 - x.leading_zeros());
    let mut fraction = 0;
    let mut mantissa = x << x.leading_zeros();
    for bit in (0..32).rev() {
        let square = u128::from(mantissa) * u128::from(mantissa);
        let carries = square >> 127 == 1;
        mantissa = (square >> if carries { 64 } else { 63 }) as u64;
        fraction |= u64::from(carries) << bit;
    }
    (whole << 32) | fraction
}

#[cfg(test)]
mod tests;
