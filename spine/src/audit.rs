//! Audits: proof that a node has the bytes it took, without sending them.
//!
//! ```text
//! nonce -> Draw: the `count` shards of a node with the least BLAKE3_keyed(nonce, name)    -> slice_of: one KiB of each
//! node  -> prove: bao's slice, that is length, the tree's nodes beside the path, the KiB  -> at most [`PROOF_BYTES`]
//! any   -> verify: against the shard's recorded root, without a key and without the shard
//! ```
//! Which shards and which slices follows from the nonce alone, so that whoever has the nonce can check the choice, and a node
//! that does not have it yet cannot prepare for it. Drawn without replacement: of a node that dropped a share `p` of its shards,
//! `count` slices miss every dropped one with probability of at most `(1 - p)^count`; [`slices_for`] says how many that asks for.
//!
//! Not here: asking (`wire::peer`, the gateway), what failing costs a node.

use crate::id::ShardRoot;
use crate::limit::{CHUNK_MAX_BYTES, SEALED_MAX_BYTES};
use crate::wire::chunk::ShardName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{Cursor, Read};

/// Bytes of a slice: one chunk of BLAKE3. The last one of a shard may be shorter.
pub const SLICE_BYTES: u32 = 1_024;
/// Depth of the tree over the largest shard, which is up to 16 bytes longer than 8,192 slices.
const DEPTH: usize = (CHUNK_MAX_BYTES / SLICE_BYTES).ilog2() as usize + 1;
/// Bytes of the longest proof: length, two hashes a level, the slice.
pub const PROOF_BYTES: usize = 8 + 64 * DEPTH + SLICE_BYTES as usize;

/// What makes one audit's choice; drawn anew for each, and told to nobody before its questions are asked.
pub type Nonce = [u8; 32];

/// One question: the slice of this number, from 0, of this shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    pub name: ShardName,
    pub slice: u32,
}

/// A node's answer to one question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answered {
    /// At most [`PROOF_BYTES`].
    Proof(bytes::Bytes),
    /// The node does not have the shard.
    Missing,
    /// It has it, and found its bytes wrong.
    Damaged,
}

/// Why a proof proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoProof {
    #[error("the proof is longer than any")]
    TooLong,
    #[error("the proof is of a shard of another length")]
    Length,
    #[error("the shard has no such slice")]
    NoSlice,
    #[error("the proof does not lead to the shard's root")]
    Root,
    #[error("the proof goes on after its end")]
    Trailing,
}

/// Slices of a shard of `len` bytes; an empty one has one too.
pub fn slices(len: u32) -> u32 {
    len.div_ceil(SLICE_BYTES).max(1)
}

/// The slice of this shard that `nonce` asks for.
pub fn slice_of(nonce: &Nonce, name: &ShardName, len: u32) -> u32 {
    let mut hasher = blake3::Hasher::new_keyed(nonce);
    hasher.update(b"slice");
    hash_name(&mut hasher, name);
    let mut drawn = [0; 8];
    drawn.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    // The high half of the product: as even as 2^64 over the number of slices, and never beyond it.
    ((u128::from(u64::from_le_bytes(drawn)) * u128::from(slices(len))) >> 64) as u32
}

/// A shard's place in the order of `nonce`.
pub fn rank(nonce: &Nonce, name: &ShardName) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(nonce);
    hasher.update(b"shard");
    hash_name(&mut hasher, name);
    *hasher.finalize().as_bytes()
}

fn hash_name(hasher: &mut blake3::Hasher, name: &ShardName) {
    hasher.update(&name.chunk.0).update(&name.generation.0.to_le_bytes()).update(&[name.index.0]).update(&name.tag.0.to_le_bytes());
}

/// A shard that is to be on a node, as the index has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    pub name: ShardName,
    pub root: ShardRoot,
    /// Bytes of the shard.
    pub len: u32,
}

/// Draws shards evenly from however many are offered, in memory for those drawn.
#[derive(Clone, Debug)]
pub struct Draw {
    nonce: Nonce,
    count: usize,
    offered: u64,
    drawn: BTreeMap<[u8; 32], Placed>,
}

impl Draw {
    pub fn new(nonce: Nonce, count: usize) -> Draw {
        Draw { nonce, count, offered: 0, drawn: BTreeMap::new() }
    }

    /// Offers one shard; each must be offered once.
    pub fn offer(&mut self, shard: Placed) {
        self.offered += 1;
        self.drawn.insert(rank(&self.nonce, &shard.name), shard);
        if self.drawn.len() > self.count {
            self.drawn.pop_last();
        }
    }

    /// How many were offered.
    pub fn offered(&self) -> u64 {
        self.offered
    }

    pub fn nonce(&self) -> Nonce {
        self.nonce
    }

    /// The drawn ones, by rank, with the slice that is asked of each.
    pub fn drawn(&self) -> impl Iterator<Item = (Placed, u32)> {
        self.drawn.values().map(|shard| (*shard, slice_of(&self.nonce, &shard.name, shard.len)))
    }
}

/// Fewest slices that find a node that dropped `missing` of every `of` shards with a chance of at least `caught` in a million.
pub fn slices_for(missing: u32, of: u32, caught: u32) -> u32 {
    // In fixed point of 2^-32: spine has no floating point.
    let kept = (u64::from(of.saturating_sub(missing)) << 32) / u64::from(of.max(1));
    let allowed = (u64::from(1_000_000u32.saturating_sub(caught)) << 32) / 1_000_000;
    let (mut missed, mut count) = (1u64 << 32, 0);
    while missed > allowed && count < u32::MAX {
        // Rounded up, so that the answer is never one too few.
        missed = (missed * kept).div_ceil(1 << 32);
        count += 1;
        if kept >= 1 << 32 {
            return u32::MAX;
        }
    }
    count
}

/// The proof of one slice of `shard`, and the root that it leads to. `None` if there is no such slice.
pub fn prove(shard: &[u8], slice: u32) -> Option<(Vec<u8>, ShardRoot)> {
    let len = u32::try_from(shard.len()).ok().filter(|len| *len as usize <= SEALED_MAX_BYTES && slice < slices(*len))?;
    let (outboard, root) = bao::encode::outboard(shard);
    let start = u64::from(slice) * u64::from(SLICE_BYTES);
    let mut proof = Vec::with_capacity(PROOF_BYTES.min(len as usize + 8));
    let extractor = bao::encode::SliceExtractor::new_outboard(Cursor::new(shard), Cursor::new(outboard), start, SLICE_BYTES.into());
    // Reading from memory does not fail.
    extractor.take(PROOF_BYTES as u64 + 1).read_to_end(&mut proof).ok()?;
    Some((proof, ShardRoot(*root.as_bytes())))
}

/// Whether `proof` shows `slice` of the shard of `len` bytes with this root.
pub fn verify(proof: &[u8], root: &ShardRoot, len: u32, slice: u32) -> Result<(), NoProof> {
    if proof.len() > PROOF_BYTES {
        return Err(NoProof::TooLong);
    }
    if proof.get(..8) != Some(&u64::from(len).to_le_bytes()) {
        return Err(NoProof::Length);
    }
    if slice >= slices(len) {
        return Err(NoProof::NoSlice);
    }
    let start = u64::from(slice) * u64::from(SLICE_BYTES);
    let expected = u64::from(len).saturating_sub(start).min(SLICE_BYTES.into());
    let mut bytes = [0; SLICE_BYTES as usize];
    let mut input = proof;
    let mut decoder = bao::decode::SliceDecoder::new(&mut input, &blake3::Hash::from_bytes(root.0), start, SLICE_BYTES.into());
    let mut got = 0;
    loop {
        match decoder.read(&mut bytes) {
            Ok(0) => break,
            Ok(read) => got += read as u64,
            Err(_) => return Err(NoProof::Root),
        }
    }
    if got != expected {
        return Err(NoProof::Root);
    }
    if input.is_empty() { Ok(()) } else { Err(NoProof::Trailing) }
}

#[cfg(test)]
mod tests;
