//! Whether a chunk's copies are the chunk: read, decoded, decrypted, hashed.
//!
//! The data shards are tried first; where those do not open, every shard that is there is read, and sets of `k` of them are tried until
//! one opens, at most [`SETS`]. What opens gives the true root of every shard, and only copies that named it are placed.

use super::judge::Candidate;
use crate::body::WriteError;
use crate::core::{Core, NoKeys};
use crate::encode;
use crate::keys::EpochKeys;
use crate::seal;
use bytes::Bytes;
use spine::erasure::Coder;
use spine::id::{ChunkId, ShardIndex};
use spine::wire::chunk::{Confirmation, Place, Placement, ShardName};
use spine::wire::shard::NodeError;
use std::sync::Arc;
use std::time::Duration;

/// Sets of shards that are tried of one candidate. All of RS 8+4 are 495.
const SETS: usize = 512;
const GET_MOST: Duration = Duration::from_secs(30);

/// What became of a chunk.
#[derive(Debug)]
pub enum Proven {
    Whole(Confirmation),
    TooFew,
    /// Its tenant's secret is not here.
    Locked(String),
    Damaged,
}

/// Proves the first candidate that holds.
pub async fn one(core: &Arc<Core>, chunk: ChunkId, candidates: &[Candidate]) -> Result<Proven, WriteError> {
    let mut outcome = Proven::TooFew;
    for candidate in candidates.iter().filter(|candidate| candidate.is_enough()) {
        let keys = match core.tenant_keys(candidate.sealed.tenant).await {
            Ok(keys) => keys.epoch(candidate.sealed.epoch).cloned(),
            Err(NoKeys::Metadata(error)) => return Err(error.into()),
            Err(NoKeys::Closed(_)) => None,
        };
        let Some(keys) = keys else {
            let (tenant, epoch) = (candidate.sealed.tenant, candidate.sealed.epoch);
            outcome = Proven::Locked(format!("the secret of tenant {tenant}, epoch {epoch}, is not here"));
            continue;
        };
        match holds(core, chunk, candidate, keys).await? {
            Proven::Whole(confirmation) => return Ok(Proven::Whole(confirmation)),
            // What is locked may be whole: that is what has to be said.
            other if !matches!(outcome, Proven::Locked(_)) => outcome = other,
            _ => {}
        }
    }
    Ok(outcome)
}

async fn holds(core: &Arc<Core>, chunk: ChunkId, candidate: &Candidate, keys: Arc<EpochKeys>) -> Result<Proven, WriteError> {
    let (k, sealed) = (usize::from(candidate.sealed.k), candidate.sealed);
    let _room = core.read_memory.take(3 * sealed.sealed_len as usize + sealed.len as usize).await;
    let mut shards: Vec<Option<Bytes>> = vec![None; candidate.copies.len()];
    let present: Vec<usize> = (0..shards.len()).filter(|index| candidate.copies[*index].is_some()).collect();
    let (first, rest) = present.split_at(k);
    get(core, chunk, candidate, first, &mut shards).await;
    let mut asked_all = false;
    loop {
        if shards.iter().flatten().count() >= k {
            let (tried, of, with) = (shards.clone(), candidate.clone(), keys.clone());
            if let Some(confirmation) = core.compute.run(move || open(chunk, &of, &with, &tried)).await? {
                return Ok(Proven::Whole(confirmation));
            }
        }
        if asked_all {
            let enough = shards.iter().flatten().count() >= k;
            return Ok(if enough { Proven::Damaged } else { Proven::TooFew });
        }
        get(core, chunk, candidate, rest, &mut shards).await;
        asked_all = true;
    }
}

/// Reads the shards of these indices, as far as they are what their own header says.
async fn get(core: &Arc<Core>, chunk: ChunkId, candidate: &Candidate, indices: &[usize], shards: &mut [Option<Bytes>]) {
    let len = (candidate.sealed.sealed_len as usize).div_ceil(usize::from(candidate.sealed.k));
    let gets = indices.iter().filter_map(|index| Some((*index, candidate.copies[*index]?))).map(|(index, place)| async move {
        let name = ShardName { chunk, generation: candidate.generation, index: ShardIndex(index as u8), tag: place.tag };
        let node = core.nodes.get(place.node)?;
        let got = tokio::time::timeout(GET_MOST, node.link.get(name)).await;
        match got.unwrap_or_else(|_| Err(NodeError::Unavailable { reason: "a get took too long".into() })) {
            Ok((_, shard)) if shard.len() == len => Some((index, shard)),
            Ok(_) => None,
            Err(error) => {
                tracing::debug!(node = %place.node, %chunk, index, %error, "a shard was not got");
                None
            }
        }
    });
    for (index, shard) in futures::future::join_all(gets).await.into_iter().flatten() {
        shards[index] = Some(shard);
    }
}

/// The chunk, if some `k` of these shards make it, with every copy that it vouches for.
fn open(chunk: ChunkId, candidate: &Candidate, keys: &EpochKeys, shards: &[Option<Bytes>]) -> Option<Confirmation> {
    let sealed = candidate.sealed;
    let coder = Coder::new(sealed.k, sealed.m).ok()?;
    // Rot is told by the copy's own root and costs no try; only lies are tried.
    let is_own = |index: &usize| match (&shards[*index], &candidate.copies[*index]) {
        (Some(shard), Some(place)) => encode::root(shard) == place.root,
        _ => false,
    };
    let there: Vec<usize> = (0..shards.len()).filter(is_own).collect();
    let joined = Sets::of(there.len(), coder.k()).take(SETS).find_map(|set| {
        let mut these = vec![None; shards.len()];
        set.iter().for_each(|at| these[there[*at]].clone_from(&shards[there[*at]]));
        let joined = coder.join(&these, sealed.sealed_len as usize).ok()?;
        seal::open(keys, chunk, sealed.codec, sealed.len, joined.clone()).ok()?;
        Some(joined)
    })?;
    let roots = coder.encode(joined);
    let vouched = |(place, shard): (&Option<Place>, &Bytes)| place.filter(|place| place.root == encode::root(shard));
    let shards: Vec<Option<Place>> = candidate.copies.iter().zip(&roots).map(vouched).collect();
    let placement = Placement { sealed, shards };
    let enough = placement.shards.iter().flatten().count() >= coder.k();
    enough.then_some(Confirmation { chunk, generation: candidate.generation, placement })
}

/// Every way to take `k` of `n`, the first `k` first.
struct Sets {
    n: usize,
    now: Option<Vec<usize>>,
}

impl Sets {
    fn of(n: usize, k: usize) -> Sets {
        Sets { n, now: (k <= n).then(|| (0..k).collect()) }
    }
}

impl Iterator for Sets {
    type Item = Vec<usize>;

    fn next(&mut self) -> Option<Vec<usize>> {
        let set = self.now.take()?;
        let k = set.len();
        if let Some(at) = (0..k).rev().find(|at| set[*at] < self.n - k + at) {
            let mut next = set.clone();
            next[at] += 1;
            for later in at + 1..k {
                next[later] = next[later - 1] + 1;
            }
            self.now = Some(next);
        }
        Some(set)
    }
}

#[cfg(test)]
mod tests {
    use super::Sets;
    use std::collections::HashSet;

    #[test]
    fn every_set_comes_once_and_the_first_shards_come_first() {
        for (n, k, sets) in [(6, 4, 15), (12, 8, 495), (4, 4, 1), (3, 1, 3)] {
            let all: Vec<Vec<usize>> = Sets::of(n, k).collect();
            assert_eq!(all[0], (0..k).collect::<Vec<_>>());
            assert_eq!(all.iter().collect::<HashSet<_>>().len(), sets, "{n} {k}");
            assert_eq!(all.len(), sets);
        }
        assert_eq!(Sets::of(3, 4).count(), 0);
    }
}
