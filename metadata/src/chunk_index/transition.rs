//! What each step of the protocol makes of one chunk's record. Pure: no tables, no references, no lists.
//!
//! ```text
//!            reserve                confirm
//! (absent) ----------> Pending --------------> Live
//!                        ^  |                  |  ^
//!     reserve, not       |  | condemn  condemn |  | reserve,
//!     durable            |  v                  v  | durable
//!                       Condemned ---- begin_delete ----> Deleting -- nodes trash, FinishDelete --> (absent)
//! ```
//!
//! The model in `conformance` runs these very functions, so a rule changed here is a rule checked there.
//! Invariants:
//! - A generation is made once, from a counter that only rises; the tag of what its writers store is the generation's own number,
//!   so that rival writers of one generation store the same shards under the same names. Repair takes younger tags.
//! - A chunk with references is Pending or Live; only one without can be condemned, and only a condemned one deleted.
//! - A placement, once confirmed, is changed by repair alone: a rival's Confirm finds its chunk durable and adds nothing,
//!   since the sweep may be taking the rival's unplaced shards away already.
//! - A doubted record (metadata was restored, and nobody has seen its shards since) is no proof of anything: a writer stores the chunk again,
//!   and the record goes from one durable generation to the next in one step. Without references it may be forgotten: (absent) at once.
//! - A Deleting generation is never revived. It leaves the index's main table, so a writer that comes then finds the chunk absent.
//!
//! Not here: the references themselves and the lists of what is due (`holding.rs`, `due.rs`).

use spine::id::{Gen, NodeId, ShardIndex, Tag, UnixMs};
use spine::wire::Refusal;
use spine::wire::chunk::{ChunkRecord, ChunkState, Place, Placement, ReserveOutcome, ShardName};

/// Tag of every shard that writers of this generation store.
pub fn writers_tag(generation: Gen) -> Tag {
    Tag(generation.0)
}

/// What Reserve does: the record to write, if it changes, and what the writer hears. The caller adds the reference.
///
/// - `fresh`: a generation never used before; taken only if the returned record carries it.
pub fn reserve(record: Option<&ChunkRecord>, fresh: Gen) -> (Option<ChunkRecord>, ReserveOutcome) {
    let upload = |generation| ReserveOutcome::Upload { generation, tag: writers_tag(generation) };
    let reopened = |record: &ChunkRecord, state| ChunkRecord { state, condemned: None, ..record.clone() };
    match record {
        Some(record) => match (record.state, &record.placement) {
            (ChunkState::Live, _) => (None, ReserveOutcome::Hit),
            (ChunkState::Pending, _) => (None, upload(record.generation)),
            (ChunkState::Condemned, Some(_)) => (Some(reopened(record, ChunkState::Live)), ReserveOutcome::Hit),
            (ChunkState::Condemned, None) => (Some(reopened(record, ChunkState::Pending)), upload(record.generation)),
            (ChunkState::Deleting, _) => (Some(new(fresh)), upload(fresh)),
        },
        None => (Some(new(fresh)), upload(fresh)),
    }
}

fn new(generation: Gen) -> ChunkRecord {
    ChunkRecord { generation, state: ChunkState::Pending, placement: None, condemned: None, targets: Vec::new() }
}

/// What Reserve does while the record, older than generation `renewed`, came out of a copy and nobody has looked at its shards since: the
/// writer stores the chunk, as its next generation. Until that is confirmed the record stays as it is, for those who hold the chunk already.
pub fn reserve_doubted(record: &ChunkRecord, renewed: Gen) -> (Option<ChunkRecord>, ReserveOutcome) {
    let (new, _) = reserve(Some(record), renewed);
    (new, ReserveOutcome::Upload { generation: renewed, tag: writers_tag(renewed) })
}

/// Whether a record is doubted while those older than `renewed` are.
pub fn is_doubted(record: &ChunkRecord, renewed: Gen) -> bool {
    record.generation < renewed && record.state != ChunkState::Deleting
}

/// What Confirm makes of a doubted record where a writer has stored its next generation; `None`: it is none, or not of this generation.
///
/// - `held`: as for [`confirm`].
pub fn renew(record: Option<&ChunkRecord>, held: bool, renewed: Gen, generation: Gen, placement: &Placement) -> Option<ChunkRecord> {
    let doubted = record.is_some_and(|record| is_doubted(record, renewed));
    let may = doubted && held && generation == renewed && is_whole(placement);
    may.then(|| ChunkRecord { state: ChunkState::Live, placement: Some(placement.clone()), ..new(renewed) })
}

/// What a Confirm found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Confirmed {
    /// The generation is over, the version does not hold the chunk, or the placement is not one: reserve again.
    No,
    /// Durable before: nothing to write.
    Already,
    /// Durable now.
    Now(ChunkRecord),
}

/// What Confirm does.
///
/// - `held`: whether the confirming version's reference is there.
pub fn confirm(record: Option<&ChunkRecord>, held: bool, generation: Gen, placement: &Placement) -> Confirmed {
    let Some(record) = of_generation(record, generation) else { return Confirmed::No };
    if !held || !is_whole(placement) {
        return Confirmed::No;
    }
    match (record.state, &record.placement) {
        (ChunkState::Live | ChunkState::Pending, Some(_)) => Confirmed::Already,
        (ChunkState::Pending, None) => {
            Confirmed::Now(ChunkRecord { state: ChunkState::Live, placement: Some(placement.clone()), ..record.clone() })
        }
        _ => Confirmed::No,
    }
}

/// Whether the placement has an entry for each of its shards and enough of them placed to read the chunk.
pub fn is_whole(placement: &Placement) -> bool {
    let (k, m) = (usize::from(placement.sealed.k), usize::from(placement.sealed.m));
    k > 0 && placement.shards.len() == k + m && placed(placement) >= k
}

fn placed(placement: &Placement) -> usize {
    placement.shards.iter().flatten().count()
}

fn of_generation(record: Option<&ChunkRecord>, generation: Gen) -> Option<&ChunkRecord> {
    record.filter(|record| record.generation == generation)
}

/// What Condemn makes of the record; `None`: nothing changes.
pub fn condemn(record: Option<&ChunkRecord>, generation: Gen, referenced: bool, now: UnixMs) -> Option<ChunkRecord> {
    let record = of_generation(record, generation)?;
    let may = !referenced && matches!(record.state, ChunkState::Pending | ChunkState::Live);
    may.then(|| ChunkRecord { state: ChunkState::Condemned, condemned: Some(now), ..record.clone() })
}

/// What BeginDelete makes of the record; `None`: nothing changes. From here on the nodes may trash its shards.
pub fn begin_delete(record: Option<&ChunkRecord>, generation: Gen, referenced: bool) -> Option<ChunkRecord> {
    let record = of_generation(record, generation)?;
    let may = !referenced && record.state == ChunkState::Condemned;
    may.then(|| ChunkRecord { state: ChunkState::Deleting, targets: Vec::new(), ..record.clone() })
}

/// Names a new copy of one shard index on `node`, under the tag `fresh`.
///
/// An index has one target and a node is one index's target: an older one is cancelled, and what it still copies becomes an orphan.
///
/// # Errors
/// `ChunkGone`: no durable record of this generation, or no such index. `TargetGone`: the node holds another index.
pub fn reserve_target(
    record: Option<&ChunkRecord>,
    generation: Gen,
    index: ShardIndex,
    node: NodeId,
    fresh: Tag,
) -> Result<ChunkRecord, Refusal> {
    let (record, placement) = durable(record, generation).ok_or(Refusal::ChunkGone)?;
    if usize::from(index.0) >= placement.shards.len() {
        return Err(Refusal::ChunkGone);
    }
    let elsewhere = |(at, place): (usize, &Option<Place>)| at != usize::from(index.0) && place.is_some_and(|place| place.node == node);
    if placement.shards.iter().enumerate().any(elsewhere) {
        return Err(Refusal::TargetGone);
    }
    let mut record = record.clone();
    record.targets.retain(|target| target.0 != index && target.1 != node);
    record.targets.push((index, node, fresh));
    Ok(record)
}

/// The reserved copy is synced: makes it the placement of its index. Returns the place it replaces, whose shard is an orphan now.
///
/// # Errors
/// `ChunkGone`: no durable record of this generation. `TargetGone`: this very copy is not reserved.
pub fn relocate(
    record: Option<&ChunkRecord>,
    generation: Gen,
    index: ShardIndex,
    place: Place,
) -> Result<(ChunkRecord, Option<Place>), Refusal> {
    let (record, _) = durable(record, generation).ok_or(Refusal::ChunkGone)?;
    let reserved = (index, place.node, place.tag);
    if !record.targets.contains(&reserved) {
        return Err(Refusal::TargetGone);
    }
    let mut record = record.clone();
    record.targets.retain(|target| *target != reserved);
    let slot = record.placement.as_mut().and_then(|placement| placement.shards.get_mut(usize::from(index.0)));
    let slot = slot.ok_or(Refusal::ChunkGone)?;
    let old = slot.replace(place);
    Ok((record, old))
}

/// What MarkLost makes of the record; `None`: nothing changes, because the shard is not placed so or too few would be left.
pub fn mark_lost(record: Option<&ChunkRecord>, shard: ShardName, node: NodeId) -> Option<ChunkRecord> {
    let (record, placement) = durable(record, shard.generation)?;
    let place = placement.shards.get(usize::from(shard.index.0)).copied().flatten()?;
    if place.node != node || place.tag != shard.tag || placed(placement) <= usize::from(placement.sealed.k) {
        return None;
    }
    let mut record = record.clone();
    let slot = record.placement.as_mut()?.shards.get_mut(usize::from(shard.index.0))?;
    *slot = None;
    Some(record)
}

fn durable(record: Option<&ChunkRecord>, generation: Gen) -> Option<(&ChunkRecord, &Placement)> {
    let record = of_generation(record, generation).filter(|record| record.state != ChunkState::Deleting)?;
    record.placement.as_ref().map(|placement| (record, placement))
}

/// Whether this record still names a shard that lies on `node`: placed there, about to be moved there, or being uploaded.
///
/// The orphan sweep's proof: only for a shard that the record of its chunk, read linearizably, does not name may the node
/// forget the bytes. A shard on another node than the placed one is not named, although its name is the same.
pub fn names(record: Option<&ChunkRecord>, shard: ShardName, node: NodeId) -> bool {
    let Some(record) = of_generation(record, shard.generation) else { return false };
    if record.targets.contains(&(shard.index, node, shard.tag)) {
        return true;
    }
    match &record.placement {
        None => shard.tag == writers_tag(record.generation),
        Some(placement) => {
            let place = placement.shards.get(usize::from(shard.index.0)).copied().flatten();
            place.is_some_and(|place| place.node == node && place.tag == shard.tag)
        }
    }
}

/// Whether repair has something to do: a shard is owed, or a reserved copy is under way.
pub fn is_owed(record: &ChunkRecord) -> bool {
    !record.targets.is_empty() || owes_shards(record)
}

/// Whether a shard is owed.
pub fn owes_shards(record: &ChunkRecord) -> bool {
    record.placement.as_ref().is_some_and(|placement| placement.shards.iter().any(Option::is_none))
}
