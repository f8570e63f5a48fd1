//! How popular each directory is: the weight tree of one subtree of the namespace.
//!
//! ```text
//! bucket ── "photos/" ── "2024/"      a hit on photos/2024/x counts for 2024/, photos/ and the bucket
//!        └─ "backup/"                 heat fades by half in every half life
//! ```
//! A directory is what a key has up to its last `/`. Heat is kept in units that grow with time instead of being faded: a hit at `t` adds
//! 2^(t / half life), so that no node is touched by time alone and any two can be compared as they are.
//!
//! Memory is bounded: at the limit the coldest directories that have none below them are dropped, a quarter at a time; their heat stays
//! counted in those above. What comes back later may have had up to the most that was ever dropped, and says so.
//!
//! Invariants: the heat of a directory is at least what [`Popularity::heat`] says, and at most that and its `missing`; a directory is
//! never colder than those below it together; nothing here reads a clock.

#[cfg(test)]
mod tests;

use super::slice::{Cut, Slice};
use spine::id::{BucketId, UnixMs};
use spine::map::NamePoint;
use std::collections::BTreeMap;

/// Directories deeper than this count for their ancestor of this depth.
const DEPTH: usize = 16;
/// Fewest nodes that a tree can be limited to: one path always fits.
const LEAST: usize = 4 * (DEPTH + 2);
/// Units may grow to 2 to this power before all of them are scaled down.
const GROWTH: f64 = 256.0;

#[derive(Clone, Debug)]
struct Node {
    /// The last component with its `/`; of a bucket its id, big-endian; of the root nothing.
    name: Box<[u8]>,
    parent: u32,
    children: BTreeMap<Box<[u8]>, u32>,
    /// Its own hits and those of all below it, in grown units.
    heat: f64,
    /// What it may have had when it was dropped, at most.
    missing: f64,
}

/// Heat of a directory, in hits as of the time asked for: at least `heat`, at most `heat + missing`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Heat {
    pub heat: f64,
    pub missing: f64,
}

/// A directory's heat as it is shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Hot {
    pub bucket: BucketId,
    /// Ends with `/`, or is empty for the bucket itself.
    pub directory: Vec<u8>,
    pub heat: Heat,
}

/// The weight tree.
#[derive(Clone, Debug)]
pub struct Popularity {
    half_life_ms: f64,
    limit: usize,
    /// Time 0 of the units.
    origin: UnixMs,
    /// Slot 0 is the root. A slot that is free has no name and is in `free`.
    nodes: Vec<Node>,
    free: Vec<u32>,
    /// The most that any dropped directory may have had, in grown units.
    dropped: f64,
}

impl Popularity {
    /// Remembers at most `limit` directories (at least 72) and the way to them; a hit counts half after `half_life_ms`.
    pub fn new(half_life_ms: u64, limit: usize, now: UnixMs) -> Self {
        let root = Node { name: Box::default(), parent: 0, children: BTreeMap::new(), heat: 0.0, missing: 0.0 };
        Popularity {
            half_life_ms: half_life_ms.max(1) as f64,
            limit: limit.max(LEAST),
            origin: now,
            nodes: vec![root],
            free: Vec::new(),
            dropped: 0.0,
        }
    }

    /// Directories that are remembered, buckets and the root among them.
    pub fn len(&self) -> usize {
        self.nodes.len() - self.free.len()
    }

    pub fn is_empty(&self) -> bool {
        self.nodes[0].heat == 0.0
    }

    /// Counts `hits` on a key.
    pub fn hit(&mut self, bucket: BucketId, key: &[u8], hits: f64, now: UnixMs) {
        if !hits.is_finite() || hits <= 0.0 {
            return;
        }
        let worth = hits * self.unit(now);
        let mut at = 0;
        self.nodes[0].heat += worth;
        for name in std::iter::once(&bucket.0.to_be_bytes()[..]).chain(components(key)) {
            at = self.child(at, name);
            self.nodes[at as usize].heat += worth;
        }
        if self.len() > self.limit {
            self.prune();
        }
    }

    /// All heat, in hits as of `now`.
    pub fn total(&self, now: UnixMs) -> f64 {
        self.nodes[0].heat / self.unit_at(now)
    }

    /// Heat of a directory: `directory` ends with `/`, or is empty for the whole bucket.
    pub fn heat(&self, bucket: BucketId, directory: &[u8], now: UnixMs) -> Heat {
        let unit = self.unit_at(now);
        let mut at = 0;
        for name in std::iter::once(&bucket.0.to_be_bytes()[..]).chain(components(directory)) {
            match self.nodes[at].children.get(name) {
                Some(&child) => at = child as usize,
                // Never seen, or dropped: then it had no more than the most that was, nor than what is above it.
                None => return Heat { heat: 0.0, missing: self.dropped.min(self.nodes[at].heat + self.nodes[at].missing) / unit },
            }
        }
        Heat { heat: self.nodes[at].heat / unit, missing: self.nodes[at].missing / unit }
    }

    /// How much of all heat any directory may be missing, at most: 0 until something was dropped.
    pub fn error(&self) -> f64 {
        if self.is_empty() { 0.0 } else { self.dropped / self.nodes[0].heat }
    }

    /// The hottest `most` directories, hottest first.
    pub fn hottest(&self, most: usize, now: UnixMs) -> Vec<Hot> {
        let unit = self.unit_at(now);
        let mut all: Vec<u32> = self.used().filter(|&at| at != 0).collect();
        let colder = |a: &u32, b: &u32| self.nodes[*b as usize].heat.total_cmp(&self.nodes[*a as usize].heat).then(a.cmp(b));
        all.sort_by(colder);
        let hot = |at: u32| {
            let NamePoint { bucket, key } = self.place(at);
            let Node { heat, missing, .. } = &self.nodes[at as usize];
            Hot { bucket, directory: key, heat: Heat { heat: heat / unit, missing: missing / unit } }
        };
        all.into_iter().take(most).map(hot).collect()
    }

    /// Where a subtree that begins at `start` may be split, and what each part of it bears: slices in the order of their keys, cut where
    /// directories begin, at most `2 * most + 1`. A slice hotter than 1 / `most` of all is one directory's own keys.
    pub fn slices(&self, start: &NamePoint, most: usize, now: UnixMs) -> Vec<Slice> {
        let unit = self.unit_at(now);
        let enough = self.nodes[0].heat / most.max(1) as f64;
        let mut slices = vec![Slice { from: Cut::Names(start.clone()), heat: 0.0 }];
        let mut open = 0.0;
        for at in self.in_order() {
            let own = self.own(at);
            if open > 0.0 && open + own > enough {
                let from = self.place(at);
                if from > *start {
                    slices.push(Slice { from: Cut::Names(from), heat: 0.0 });
                    open = 0.0;
                }
            }
            open += own;
            if let Some(last) = slices.last_mut() {
                last.heat += own / unit;
            }
        }
        slices
    }

    /// Takes out what sorts from `at` on: the tree of the subtree that begins there. Hits on keys of a directory that lies on both sides
    /// stay here, since nobody knows on which side they were.
    pub fn split(&mut self, at: &NamePoint, now: UnixMs) -> Popularity {
        let _ = self.unit(now);
        let empty =
            || Popularity { origin: self.origin, dropped: self.dropped, ..Popularity::new(self.half_life_ms as u64, self.limit, now) };
        let (mut left, mut right) = (empty(), empty());
        for node in self.in_order() {
            let place = self.place(node);
            let side = if node != 0 && place >= *at { &mut right } else { &mut left };
            side.plant(&self.path(node), self.own(node), self.nodes[node as usize].missing);
        }
        *self = left;
        right
    }

    /// Takes in another tree: two subtrees become one.
    pub fn merge(&mut self, other: &Popularity, now: UnixMs) {
        let scale = self.unit(now) / other.unit_at(now);
        for node in other.in_order() {
            self.plant(&other.path(node), other.own(node) * scale, other.nodes[node as usize].missing * scale);
        }
        self.dropped = self.dropped.max(other.dropped * scale);
        if self.len() > self.limit {
            self.prune();
        }
    }

    /// Grown units that one hit at `now` is worth; scales all down before they grow out of bounds.
    fn unit(&mut self, now: UnixMs) -> f64 {
        if (now.0.saturating_sub(self.origin.0)) as f64 / self.half_life_ms > GROWTH {
            let scale = 1.0 / self.unit_at(now);
            for node in &mut self.nodes {
                node.heat *= scale;
                node.missing *= scale;
            }
            self.dropped *= scale;
            self.origin = now;
        }
        self.unit_at(now)
    }

    fn unit_at(&self, now: UnixMs) -> f64 {
        // Beyond this all that was counted is nothing, and must not become a division by infinity.
        (now.0.saturating_sub(self.origin.0) as f64 / self.half_life_ms).min(1_000.0).exp2()
    }

    fn child(&mut self, of: u32, name: &[u8]) -> u32 {
        if let Some(&child) = self.nodes[of as usize].children.get(name) {
            return child;
        }
        let Node { heat, missing, .. } = self.nodes[of as usize];
        // It was perhaps dropped before; but never had more than what is above it.
        let node = Node { name: name.into(), parent: of, children: BTreeMap::new(), heat: 0.0, missing: self.dropped.min(heat + missing) };
        let at = match self.free.pop() {
            Some(at) => {
                self.nodes[at as usize] = node;
                at
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() as u32 - 1
            }
        };
        self.nodes[of as usize].children.insert(name.into(), at);
        at
    }

    /// Adds heat at a node that is made if need be, and counts it for those above.
    fn plant(&mut self, path: &[&[u8]], own: f64, missing: f64) {
        let mut at = 0;
        self.nodes[0].heat += own;
        for name in path {
            at = self.child(at, name);
            self.nodes[at as usize].heat += own;
        }
        let node = &mut self.nodes[at as usize];
        node.missing = node.missing.max(missing);
    }

    /// Drops the coldest leaves until three quarters of the limit are left.
    fn prune(&mut self) {
        let keep = self.limit / 4 * 3;
        while self.len() > keep {
            let worth = |at: u32| self.nodes[at as usize].heat + self.nodes[at as usize].missing;
            let mut leaves: Vec<(f64, u32)> =
                self.used().filter(|&at| at != 0 && self.nodes[at as usize].children.is_empty()).map(|at| (worth(at), at)).collect();
            let drop = (self.len() - keep).min(leaves.len());
            if drop == 0 {
                return;
            }
            leaves.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            for &(worth, at) in &leaves[..drop] {
                self.dropped = self.dropped.max(worth);
                let Node { name, parent, .. } = &mut self.nodes[at as usize];
                let (name, parent) = (std::mem::take(name), *parent);
                self.nodes[parent as usize].children.remove(&name);
                self.free.push(at);
            }
        }
    }

    fn used(&self) -> impl Iterator<Item = u32> {
        (0..self.nodes.len() as u32).filter(|&at| at == 0 || !self.nodes[at as usize].name.is_empty())
    }

    /// Heat of the hits on the directory's own keys, and on what was dropped below it.
    fn own(&self, at: u32) -> f64 {
        let node = &self.nodes[at as usize];
        let below: f64 = node.children.values().map(|&child| self.nodes[child as usize].heat).sum();
        (node.heat - below).max(0.0)
    }

    /// Every node, in the order in which their keys begin.
    fn in_order(&self) -> Vec<u32> {
        let mut order = Vec::with_capacity(self.len());
        let mut stack = vec![0];
        while let Some(at) = stack.pop() {
            order.push(at);
            stack.extend(self.nodes[at as usize].children.values().rev());
        }
        order
    }

    /// Names from below the root to this node.
    fn path(&self, at: u32) -> Vec<&[u8]> {
        let mut names = Vec::new();
        let mut at = at;
        while at != 0 {
            let node = &self.nodes[at as usize];
            names.push(&node.name[..]);
            at = node.parent;
        }
        names.reverse();
        names
    }

    /// Where the keys of this node begin.
    fn place(&self, at: u32) -> NamePoint {
        let path = self.path(at);
        let Some((bucket, names)) = path.split_first() else { return NamePoint::new(BucketId(0), Vec::new()) };
        let bucket = BucketId(u64::from_be_bytes((*bucket).try_into().unwrap_or_default()));
        NamePoint::new(bucket, names.concat())
    }
}

/// The directories of a key, outermost first, each with its `/`; at most [`DEPTH`].
fn components(key: &[u8]) -> impl Iterator<Item = &[u8]> {
    let end = key.iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1);
    key[..end].split_inclusive(|&byte| byte == b'/').take(DEPTH)
}
