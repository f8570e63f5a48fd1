//! The orphan sweep: shards on a node that the index, asked afterwards, does not name.
//!
//! Orphans come from writes that died between storing and confirming, from copies that repair gave up, and from nodes that
//! were away while their shards were deleted. The order is the proof: first the node's list, then the index, linearizably.
//! A shard's generation and tag are never used again, so what the index does not name after the listing it never will. It would where a
//! chunk of restored metadata is stored again beside its record; that is done only while the collection is held, so nothing is listed then
//! that is trashed later.
//!
//! A generation above its record's is one that the index gave and took back (a life that a restore has ended, or a write that was given up
//! while its chunk was doubted): named nowhere. Above all that the index has ever given, it is the index that is too old.
//!
//! Two proofs. *Superseded*: the index names another copy of this very index of the chunk under a tag that is no older, or a later
//! life of the chunk; only an index that knows more than this copy can say so, and a node that comes back after it was rebuilt
//! elsewhere has nothing but such copies. *Absent*: the index names nothing. That an older or an empty index would say too, so it is
//! believed in part: an index that knows no chunk at all, or more than 1 % of a node's shards ([`FLOOR`] are always allowed), halts
//! the sweep of that node and raises an alert. **Absence is never deletion**: an index that was lost or restored from an older
//! point must not take the data with it. An operator who knows better says `force`. The node keeps its trash for days.
//! A copy of an index of the chunk that is owed stays: until it is made again, it is worth having.

use crate::body::WriteError;
use crate::core::Core;
use crate::dedup::unexpected;
use crate::metric::{ORPHANS, SWEEP_HALTS};
use crate::nodes::Node;
use crate::reindex;
use spine::id::{ChunkId, NodeId};
use spine::wire::chunk::{ChunkAnswer, ChunkQuery, ChunkRecord, ChunkState, ShardName};
use spine::wire::{Answer, Query};
use std::collections::HashMap;

/// Shards in one page of a node's list.
const PAGE: usize = 1_024;
/// Orphans that are believed on a node of any size: the windows of the requests that a crash cuts off.
pub const FLOOR: u64 = 256;

/// What the sweep of one node came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swept {
    pub node: NodeId,
    /// Shards listed.
    pub shards: u64,
    /// Shards that the index does not name.
    pub orphans: u64,
    pub outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The orphans are in the trash.
    Done,
    /// More looked orphaned than can be believed, or the index is empty or older than the shards: nothing was touched.
    Halted,
    /// The node did not answer.
    Unreachable,
    /// The collection is held, as after re-indexing: nothing was touched.
    Held,
}

/// What the index says about one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Placed, reserved, being uploaded, or the collector's; or of an index of the chunk that is owed.
    Named,
    /// The index names what took its place.
    Superseded,
    /// The index names it nowhere.
    Absent,
    /// Younger than the index: its files were put back from an older point.
    FromTheFuture,
}

/// Judges a shard that lies on `node` by its chunk's record, which was read after the shard was listed.
///
/// - `given`: below which number the index had given every generation, or never will, before the shard was listed.
pub fn judge(record: Option<&ChunkRecord>, shard: &ShardName, node: NodeId, given: u64) -> Verdict {
    let Some(record) = record else { return Verdict::Absent };
    match shard.generation.cmp(&record.generation) {
        std::cmp::Ordering::Less => return Verdict::Superseded,
        std::cmp::Ordering::Greater if shard.generation.0 < given => return Verdict::Absent,
        std::cmp::Ordering::Greater => return Verdict::FromTheFuture,
        std::cmp::Ordering::Equal => {}
    }
    if record.state == ChunkState::Deleting || record.targets.contains(&(shard.index, node, shard.tag)) {
        return Verdict::Named;
    }
    // Being uploaded, under a tag that only the writer and the log know.
    let Some(placement) = &record.placement else { return Verdict::Named };
    match placement.shards.get(usize::from(shard.index.0)) {
        None => Verdict::Absent,
        Some(None) => Verdict::Named,
        Some(Some(place)) if place.node == node && place.tag == shard.tag => Verdict::Named,
        Some(Some(place)) if place.tag >= shard.tag => Verdict::Superseded,
        // A copy that was begun and given up.
        Some(Some(_)) => Verdict::Absent,
    }
}

/// Whether so many [`Verdict::Absent`] among so many shards can be believed.
pub fn is_believable(absent: u64, shards: u64, chunks_in_index: u64) -> bool {
    absent == 0 || (chunks_in_index > 0 && absent <= FLOOR.max(shards / 100))
}

/// Sweeps every node, one after the other.
pub(crate) async fn all(core: &Core, force: bool) -> Result<Vec<Swept>, WriteError> {
    let _turn = core.sweeping.lock().await;
    let mut swept = Vec::new();
    for node in core.nodes.all().iter() {
        swept.push(one(core, node, force).await?);
    }
    Ok(swept)
}

async fn one(core: &Core, node: &Node, force: bool) -> Result<Swept, WriteError> {
    let mut swept = Swept { node: node.id, shards: 0, orphans: 0, outcome: Outcome::Done };
    // What is stored again after a restore is named once it is confirmed. No force goes past an operator's own hold.
    if reindex::is_held(core).await? {
        return Ok(Swept { outcome: Outcome::Held, ..swept });
    }
    let Some(found) = look(core, node).await? else {
        return Ok(Swept { outcome: Outcome::Unreachable, ..swept });
    };
    (swept.shards, swept.orphans) = (found.shards, found.orphans.len() as u64);
    let Answer::Chunk(ChunkAnswer::Totals(totals)) = core.metadata.query(Query::Chunk(ChunkQuery::Totals)).await? else {
        return Err(unexpected("Totals", &"something else"));
    };
    let believable = found.future == 0 && is_believable(found.absent, found.shards, totals.chunks);
    if !believable && !force {
        SWEEP_HALTS.inc();
        tracing::error!(node = %node.id, shards = found.shards, absent = found.absent, future = found.future, chunks = totals.chunks,
            "more shards look orphaned than can be believed: nothing was touched. Is the metadata whole? After a restore it is what was stored since the copy");
        return Ok(Swept { outcome: Outcome::Halted, ..swept });
    }
    // And last of all: what re-indexing has not found yet, the index does not name yet.
    if reindex::is_held(core).await? {
        return Ok(Swept { outcome: Outcome::Held, ..swept });
    }
    for names in found.orphans.chunks(PAGE) {
        if node.link.trash(names.to_vec()).await.is_err() {
            return Ok(Swept { outcome: Outcome::Unreachable, ..swept });
        }
        ORPHANS.inc_by(names.len() as u64);
    }
    Ok(swept)
}

/// What lies on one node.
#[derive(Default)]
struct Found {
    shards: u64,
    /// Superseded and absent.
    orphans: Vec<ShardName>,
    absent: u64,
    /// Shards that the index is too old for.
    future: u64,
}

/// Lists the node's shards, page by page, and judges each; `None`: the node does not answer.
async fn look(core: &Core, node: &Node) -> Result<Option<Found>, WriteError> {
    let (mut after, mut found) = (None, Found::default());
    let Answer::Chunk(ChunkAnswer::Given(given)) = core.metadata.query(Query::Chunk(ChunkQuery::Given)).await? else {
        return Err(unexpected("Given", &"something else"));
    };
    loop {
        let Ok(page) = node.link.list(after, PAGE).await else { return Ok(None) };
        let Some((last, _)) = page.last() else { return Ok(Some(found)) };
        after = Some(*last);
        found.shards += page.len() as u64;
        let names: Vec<ShardName> = page.into_iter().map(|(name, _)| name).collect();
        let records = records(core, &names).await?;
        for name in names {
            let verdict = judge(records.get(&name.chunk), &name, node.id, given);
            found.absent += u64::from(verdict == Verdict::Absent);
            found.future += u64::from(verdict == Verdict::FromTheFuture);
            if matches!(verdict, Verdict::Superseded | Verdict::Absent) {
                found.orphans.push(name);
            }
        }
    }
}

/// The records of these shards' chunks, read now.
pub(crate) async fn records(core: &Core, names: &[ShardName]) -> Result<HashMap<ChunkId, ChunkRecord>, WriteError> {
    let mut chunks: Vec<ChunkId> = names.iter().map(|name| name.chunk).collect();
    chunks.sort_unstable();
    chunks.dedup();
    match core.metadata.query(Query::Chunk(ChunkQuery::Records(chunks.clone()))).await? {
        Answer::Chunk(ChunkAnswer::Records(records)) => {
            Ok(chunks.into_iter().zip(records).filter_map(|(chunk, record)| Some((chunk, record?))).collect())
        }
        other => Err(unexpected("Records", &other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spine::id::{Gen, KeyEpoch, ShardIndex, ShardRoot, Tag, TenantId};
    use spine::wire::chunk::{Place, Placement, Sealed};
    use spine::wire::namespace::Codec;

    const HERE: NodeId = NodeId([1; 32]);
    const THERE: NodeId = NodeId([2; 32]);

    fn shard(generation: u64, index: u8, tag: u64) -> ShardName {
        ShardName { chunk: ChunkId([9; 32]), generation: Gen(generation), index: ShardIndex(index), tag: Tag(tag) }
    }

    fn record(state: ChunkState, placed: bool) -> ChunkRecord {
        let sealed = Sealed { tenant: TenantId(1), epoch: KeyEpoch(0), codec: Codec::Plain, len: 1, sealed_len: 17, k: 1, m: 1 };
        let place = Place { node: HERE, tag: Tag(5), root: ShardRoot([0; 32]) };
        let placement = placed.then(|| Placement { sealed, shards: vec![Some(place), None] });
        ChunkRecord { generation: Gen(5), state, placement, condemned: None, targets: vec![(ShardIndex(1), HERE, Tag(8))] }
    }

    #[test]
    fn only_a_shard_that_the_index_names_nowhere_is_an_orphan() {
        let judge_now = |record: Option<&ChunkRecord>, shard: &ShardName, node| judge(record, shard, node, 6);
        let live = record(ChunkState::Live, true);
        assert_eq!(judge_now(Some(&live), &shard(5, 0, 5), HERE), Verdict::Named);
        assert_eq!(judge_now(Some(&live), &shard(5, 0, 5), THERE), Verdict::Superseded, "the same name on another node");
        assert_eq!(judge_now(Some(&live), &shard(5, 0, 4), HERE), Verdict::Superseded, "an old copy");
        assert_eq!(
            judge_now(Some(&live), &shard(5, 0, 6), HERE),
            Verdict::Absent,
            "younger than the placed one: an older index would not name it"
        );
        assert_eq!(judge_now(Some(&live), &shard(5, 2, 4), HERE), Verdict::Absent, "no such index");
        assert_eq!(judge_now(Some(&live), &shard(5, 1, 8), HERE), Verdict::Named, "repair is copying it");
        assert_eq!(judge_now(Some(&live), &shard(5, 1, 7), HERE), Verdict::Named, "its index is owed");
        assert_eq!(judge_now(Some(&live), &shard(4, 0, 5), HERE), Verdict::Superseded, "an earlier life");
        assert_eq!(judge_now(Some(&live), &shard(6, 0, 6), HERE), Verdict::FromTheFuture);
        assert_eq!(judge(Some(&live), &shard(6, 0, 6), HERE, 7), Verdict::Absent, "given, and taken back");
        assert_eq!(judge_now(None, &shard(5, 0, 5), HERE), Verdict::Absent);
        assert_eq!(judge_now(Some(&record(ChunkState::Pending, false)), &shard(5, 3, 77), THERE), Verdict::Named, "being uploaded");
        assert_eq!(judge_now(Some(&record(ChunkState::Deleting, true)), &shard(5, 0, 6), HERE), Verdict::Named, "the collector's");
    }

    #[test]
    fn an_empty_index_or_too_many_orphans_are_not_believed() {
        assert!(is_believable(0, 0, 0));
        assert!(!is_believable(1, 100, 0));
        assert!(is_believable(FLOOR, 300, 1));
        assert!(!is_believable(FLOOR + 1, 300, 1));
        assert!(is_believable(1_000, 100_000, 1));
        assert!(!is_believable(1_001, 100_000, 1));
    }
}
