//! A chunk range's group: reference first, data second, commit third.

use crate::id::{ChunkId, Gen, KeyEpoch, NodeId, ShardIndex, ShardRoot, Tag, TenantId, UnixMs, VersionId};
use crate::wire::namespace::Codec;
use crate::wire::range::ChunkSpan;
use serde::{Deserialize, Serialize};

/// Where one shard is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    pub node: NodeId,
    pub tag: Tag,
    pub root: ShardRoot,
}

/// What a reader needs to turn shards into plaintext.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sealed {
    pub tenant: TenantId,
    pub epoch: KeyEpoch,
    pub codec: Codec,
    /// Plaintext bytes.
    pub len: u32,
    /// Bytes that were erasure-coded.
    pub sealed_len: u32,
    pub k: u8,
    pub m: u8,
}

/// A durable chunk: how it was sealed and, per shard index, where it is. `None`: owed, to be delivered later.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Placement {
    pub sealed: Sealed,
    /// Exactly `k + m` long.
    pub shards: Vec<Option<Place>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ChunkState {
    Pending,
    Live,
    Condemned,
    Deleting,
}

/// The index record without its references, which are a table of their own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ChunkRecord {
    pub generation: Gen,
    pub state: ChunkState,
    /// Set by Confirm; `Some` is the protocol's `durable`.
    pub placement: Option<Placement>,
    /// When Condemn was proposed.
    pub condemned: Option<UnixMs>,
    /// Targets that repair reserved and has not moved to yet: (index, node, tag).
    pub targets: Vec<(ShardIndex, NodeId, Tag)>,
}

/// A shard to trash or to fetch, by its full name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardName {
    pub chunk: ChunkId,
    pub generation: Gen,
    pub index: ShardIndex,
    pub tag: Tag,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmation {
    pub chunk: ChunkId,
    pub generation: Gen,
    pub placement: Placement,
}

/// All are refused with `NotHere` unless the group owns every chunk that is named, and with `Frozen` if one is about to move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChunkCommand {
    /// Adds `version`'s reference to each chunk. Replies `Reserved`, one outcome a chunk, in order.
    Reserve { version: VersionId, chunks: Vec<ChunkId> },
    /// Makes uploads durable. Replies `Confirmed`, one bool a chunk; `false`: that gen is over (reserve again). A chain stops if any is false.
    Confirm { version: VersionId, chunks: Vec<Confirmation> },
    /// Drops up to [`crate::limit::UNREF_STEP`] references of a terminal version. Replies `Unreferenced`. The group must own all of `span`, so that
    /// nobody takes a part of the chunks for all of them.
    Unref { version: VersionId, span: ChunkSpan },
    /// Chunks without references become Condemned as of `now`. Others stay as they are.
    Condemn { chunks: Vec<(ChunkId, Gen)>, now: UnixMs },
    /// Condemned chunks whose references are still empty become Deleting. Replies `Deleting` with those that did.
    BeginDelete { chunks: Vec<(ChunkId, Gen)> },
    /// The nodes have trashed the shards: forgets Deleting records of exactly these gens.
    FinishDelete { chunks: Vec<(ChunkId, Gen)> },
    /// Repair: names a new copy of one shard index on `node`. Replies `Target`. Refused with `ChunkGone`.
    ReserveTarget { chunk: ChunkId, generation: Gen, index: ShardIndex, node: NodeId },
    /// The reserved copy is synced: it becomes the placement of its index; the old one is an orphan, returned in `Moved`.
    /// Refused with `ChunkGone`, `TargetGone`.
    Move { chunk: ChunkId, generation: Gen, index: ShardIndex, place: Place },
    /// A reader or a node found this shard missing or wrong: its index becomes owed, if it is still placed exactly so
    /// and at least `k` indices stay placed without it. Otherwise nothing changes.
    MarkLost { shard: ShardName, node: NodeId },
    /// Re-indexing: chunks that the index does not know at all become Live, without references, as their shards were found. Holds the
    /// collection (as `Hold` does) in the same step, and no generation or tag below `above` is given from here on.
    /// Replies `Confirmed`, one bool a chunk; `false`: it is known, or its placement is none.
    Restore { chunks: Vec<Confirmation>, above: u64 },
    /// While held, nothing is condemned and nothing begins to be deleted, until an operator releases it. `span` as for Unref.
    Hold { held: bool, span: ChunkSpan },
    /// After a restore: what is doubted, of exactly this gen, and nothing refers to is forgotten. Others stay as they are.
    /// Replies `Confirmed`, one bool a chunk; `false`: it is doubted still, since something refers to it by now.
    Forget { chunks: Vec<(ChunkId, Gen)> },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ReserveOutcome {
    /// Durable already: nothing to send. The reference pins it.
    Hit,
    /// Seal, encode and store under this gen; `tag` for every index.
    Upload { generation: Gen, tag: Tag },
}

/// Those without chunks answer for what the group owns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChunkQuery {
    /// Records in the order asked.
    Records(Vec<ChunkId>),
    /// Chunks without references that are not Condemned or Deleting yet.
    Unreferenced {
        max: usize,
    },
    /// Condemned at or before this.
    Condemned {
        before: UnixMs,
        max: usize,
    },
    /// Deleting, with the placement whose shards are to go.
    Deleting {
        max: usize,
    },
    /// Chunks that owe shards or have reserved targets, after this one.
    Owed {
        after: Option<ChunkId>,
        max: usize,
    },
    /// Every record after this one, in order: fsck, sweep.
    Scan {
        after: Option<ChunkId>,
        max: usize,
    },
    /// References of one chunk, for fsck.
    References {
        chunk: ChunkId,
        max: usize,
    },
    Totals,
    /// Whether the collection is held.
    Held,
    /// Whether chunks are doubted: a restore, or a move of chunks while the collection was held, and no release since.
    Doubted,
    /// Below which number every generation and tag was given or never will be; of several groups the least.
    Given,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub chunks: u64,
    pub references: u64,
    /// Chunks that owe at least one shard.
    pub owed: u64,
    /// Sum over durable chunks, before coding.
    pub plain_bytes: u64,
    pub sealed_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChunkAnswer {
    Records(Vec<Option<ChunkRecord>>),
    Ids(Vec<(ChunkId, Gen)>),
    Scan(Vec<(ChunkId, ChunkRecord)>),
    References(Vec<VersionId>),
    Totals(Totals),
    Held(bool),
    Doubted(bool),
    Given(u64),
}
