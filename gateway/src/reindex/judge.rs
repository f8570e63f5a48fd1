//! Which copies of a chunk can belong together, by what nodes say of them. Pure.
//!
//! A chunk may have lived several times (generations), copies may be old ones that repair replaced (lower tags), and a node may say
//! anything. So this only orders possibilities, best first; what is true the chunk's own bytes say (`prove.rs`).
//! Invariants: a candidate has at most one copy an index, and one a node: a node that claims every index is one voice. A number that
//! would use up the counter of generations and tags is believed only near what more nodes show than may lie ([`Level`]).

use spine::id::{ChunkId, Gen, NodeId};
use spine::limit::{CHUNK_MAX_BYTES, FOUND_NUMBERS, SEALED_MAX_BYTES, SHARDS};
use spine::wire::chunk::{Confirmation, Place, Sealed};
use spine::wire::shard::ShardHeader;
use std::collections::{BTreeMap, BTreeSet};

/// Generations and tags below this are believed of anybody: far more than a fleet gives in its life, and 2^15 times that are left.
const COMMON: u64 = 1 << 48;
/// Higher ones are believed up to this far above what more nodes show than may lie: what was given to others' shards meanwhile.
const SPAN: u64 = 1 << 44;
/// Candidates of one chunk; lives and codes of it that are worth a try.
const CANDIDATES: usize = 8;

/// A shard as its node shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub node: NodeId,
    pub header: ShardHeader,
}

/// How high the counter of generations and tags has certainly been, by what nodes show.
///
/// The counter is gone with the metadata, and a node may show any number. But what `liars + 1` nodes show, one that does not lie was given
/// by the counter. Invariant: it never goes down, so that what is believed once is believed.
#[derive(Clone, Debug)]
pub struct Level {
    liars: usize,
    highest: BTreeMap<NodeId, u64>,
    /// Numbers below this are believed.
    bound: u64,
    /// The lowest number that was not believed.
    doubted: Option<u64>,
}

impl Level {
    /// `liars`: so many nodes may say anything.
    pub fn new(liars: usize) -> Level {
        Level { liars, highest: BTreeMap::new(), bound: COMMON, doubted: None }
    }

    /// Takes in what nodes show, before any of it is judged.
    pub fn rise<'a>(&mut self, seen: impl Iterator<Item = &'a Seen>) {
        for one in seen.filter(|one| shown(one) < FOUND_NUMBERS) {
            let highest = self.highest.entry(one.node).or_default();
            *highest = shown(one).max(*highest);
        }
        let mut highest: Vec<u64> = self.highest.values().copied().collect();
        highest.sort_unstable_by_key(|number| std::cmp::Reverse(*number));
        let certain = highest.get(self.liars).copied().unwrap_or(0);
        self.bound = certain.saturating_add(SPAN).clamp(COMMON, FOUND_NUMBERS);
    }

    fn believes(&self, number: u64) -> bool {
        number < self.bound
    }

    /// Those of `seen` whose numbers are believed.
    pub fn sift(&mut self, seen: &[Seen]) -> Vec<Seen> {
        let (good, doubtful): (Vec<Seen>, Vec<Seen>) = seen.iter().partition(|one| self.believes(shown(one)));
        self.doubted = doubtful.iter().map(shown).chain(self.doubted).min();
        good
    }

    /// Whether something that was not believed would be by now; asked once, it begins anew.
    pub fn takes_back(&mut self) -> bool {
        self.doubted.take().is_some_and(|number| self.believes(number))
    }
}

/// The higher of a copy's two numbers.
fn shown(one: &Seen) -> u64 {
    one.header.name.tag.0.max(one.header.name.generation.0)
}

/// Copies that say the same of their chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub generation: Gen,
    pub sealed: Sealed,
    /// By index, `k + m` long.
    pub copies: Vec<Option<Place>>,
}

impl Candidate {
    fn found(&self) -> usize {
        self.copies.iter().flatten().count()
    }

    /// Whether enough nodes speak for it.
    pub fn is_enough(&self) -> bool {
        self.found() >= usize::from(self.sealed.k)
    }
}

/// What `seen` may be, best first: what enough nodes speak for before what is short, later lives before earlier ones.
pub fn candidates(chunk: ChunkId, seen: &[Seen]) -> Vec<Candidate> {
    let mut groups: BTreeMap<(Gen, [u8; 23]), Vec<&Seen>> = BTreeMap::new();
    for one in seen.iter().filter(|one| makes_sense(chunk, &one.header)) {
        groups.entry((one.header.name.generation, key(&one.header.sealed))).or_default().push(one);
    }
    let mut all: Vec<Candidate> = groups.into_values().filter_map(|group| gather(&group)).collect();
    all.sort_by_key(|one| std::cmp::Reverse((one.is_enough(), one.generation, one.found())));
    all.truncate(CANDIDATES);
    all
}

/// One copy an index and a node, younger tags first: what repair placed last.
fn gather(group: &[&Seen]) -> Option<Candidate> {
    let first = group.first()?.header;
    let n = usize::from(first.sealed.k) + usize::from(first.sealed.m);
    let mut candidate = Candidate { generation: first.name.generation, sealed: first.sealed, copies: vec![None; n] };
    let mut ordered: Vec<&Seen> = group.to_vec();
    ordered.sort_by_key(|one| (std::cmp::Reverse(one.header.name.tag), one.header.name.index, one.node));
    let mut used = BTreeSet::new();
    for one in ordered {
        let slot = candidate.copies.get_mut(usize::from(one.header.name.index.0))?;
        if slot.is_none() && used.insert(one.node) {
            *slot = Some(Place { node: one.node, tag: one.header.name.tag, root: one.header.root });
        }
    }
    Some(candidate)
}

fn makes_sense(chunk: ChunkId, header: &ShardHeader) -> bool {
    let (name, sealed) = (header.name, header.sealed);
    let n = usize::from(sealed.k) + usize::from(sealed.m);
    name.chunk == chunk
        && sealed.k > 0
        && n <= SHARDS
        && usize::from(name.index.0) < n
        && sealed.len > 0
        && sealed.len <= CHUNK_MAX_BYTES
        && sealed.sealed_len as usize <= SEALED_MAX_BYTES
        && header.len == sealed.sealed_len.div_ceil(u32::from(sealed.k))
        && name.tag.0 >= name.generation.0
}

/// What all copies of one sealing share, ordered.
fn key(sealed: &Sealed) -> [u8; 23] {
    let mut out = [0; 23];
    out[..8].copy_from_slice(&sealed.tenant.0.to_be_bytes());
    out[8..12].copy_from_slice(&sealed.epoch.0.to_be_bytes());
    out[12] = sealed.codec as u8;
    out[13..17].copy_from_slice(&sealed.len.to_be_bytes());
    out[17..21].copy_from_slice(&sealed.sealed_len.to_be_bytes());
    out[21] = sealed.k;
    out[22] = sealed.m;
    out
}

/// The highest generation or tag of a chunk.
pub fn highest(chunk: &Confirmation) -> u64 {
    chunk.placement.shards.iter().flatten().map(|place| place.tag.0).max().unwrap_or(0).max(chunk.generation.0)
}
