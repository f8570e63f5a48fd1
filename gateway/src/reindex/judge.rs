//! Which copies of a chunk can belong together, by what nodes say of them. Pure.
//!
//! A chunk may have lived several times (generations), copies may be old ones that repair replaced (lower tags), and a node may say
//! anything. So this only orders possibilities, best first; what is true the chunk's own bytes say (`prove.rs`).
//! Invariant: a candidate has at most one copy an index, and one a node: a node that claims every index is one voice.

use spine::id::{ChunkId, Gen, NodeId};
use spine::limit::{CHUNK_MAX_BYTES, SEALED_MAX_BYTES, SHARDS};
use spine::wire::chunk::{Confirmation, Place, Sealed};
use spine::wire::shard::ShardHeader;
use std::collections::{BTreeMap, BTreeSet};

/// A tag is a number that its chunk's generation had not yet reached by less than this: what repair can have taken since. A node that
/// says more would use the numbers up.
const SPAN: u64 = 1 << 44;
/// Candidates of one chunk; lives and codes of it that are worth a try.
const CANDIDATES: usize = 8;

/// A shard as its node shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub node: NodeId,
    pub header: ShardHeader,
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
    let span = name.tag.0.checked_sub(name.generation.0);
    name.chunk == chunk
        && sealed.k > 0
        && n <= SHARDS
        && usize::from(name.index.0) < n
        && sealed.len > 0
        && sealed.len <= CHUNK_MAX_BYTES
        && sealed.sealed_len as usize <= SEALED_MAX_BYTES
        && header.len == sealed.sealed_len.div_ceil(u32::from(sealed.k))
        && span.is_some_and(|span| span < SPAN)
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
