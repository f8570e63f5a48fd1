//! What a gateway says to a metadata node, and hears.

use crate::id::{BucketId, ChunkId, Gen, MoveId, Seq, Tag, UnixMs};
use crate::map::NamePoint;
use crate::wire::chunk::{ChunkAnswer, ChunkCommand, ChunkQuery, Place, ReserveOutcome};
use crate::wire::copy::{CopyPart, CopyQuery, RestoreCommand};
use crate::wire::namespace::{NamespaceAnswer, NamespaceCommand, NamespaceQuery, VersionHead};
use crate::wire::range::{ChunkSpan, Handover, RangeAnswer, RangeCommand, RangeQuery};
use crate::wire::root::{BucketRecord, RootAnswer, RootCommand, RootQuery};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    Root(RootCommand),
    Namespace(NamespaceCommand),
    Chunk(ChunkCommand),
    Range(RangeCommand),
    Restore(RestoreCommand),
}

/// What a refused command does to the rest of its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Chain {
    /// The rest answers `Skipped`.
    Stop,
    /// Each command stands alone.
    Independent,
}

/// Commands applied in order, together, at one place in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    pub chain: Chain,
    /// At most [`crate::limit::BATCH_COMMANDS`].
    pub commands: Vec<Command>,
}

/// Why a state machine said no. Nothing of the command was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    #[error("a tenant of this name exists")]
    TenantExists,
    #[error("no such tenant")]
    NoSuchTenant,
    #[error("this access key exists")]
    KeyExists,
    #[error("no such access key")]
    NoSuchKey,
    #[error("the bucket is the tenant's own already")]
    BucketOwnedByYou,
    #[error("the bucket is another tenant's")]
    BucketExists,
    #[error("the tenant has as many buckets as it may")]
    TooManyBuckets,
    #[error("no such bucket")]
    NoSuchBucket,
    #[error("the bucket belongs to another tenant")]
    NotYours,
    #[error("the bucket is not empty")]
    BucketNotEmpty,
    #[error("the write's intent is closed")]
    IntentClosed,
    #[error("a condition does not hold")]
    PreconditionFailed,
    #[error("no such object")]
    NoSuchObject,
    #[error("no such upload")]
    NoSuchUpload,
    #[error("a part was replaced meanwhile")]
    PartChanged,
    #[error("the chunk's generation is over")]
    ChunkGone,
    #[error("the repair target is not reserved")]
    TargetGone,
    #[error("an earlier command of the batch was refused")]
    Skipped,
    #[error("there is a fleet already")]
    FleetExists,
    #[error("there is no fleet; make one with `breakwater admin fleet init`")]
    NoFleet,
    #[error("the fleet has no such node")]
    NoSuchNode,
    #[error("the node is retired")]
    NodeRetired,
    #[error("this invitation exists")]
    InviteExists,
    #[error("the fleet knows no such invitation")]
    NoSuchInvite,
    #[error("the invitation has expired")]
    InviteExpired,
    #[error("the invitation has been used")]
    InviteUsed,
    #[error("the revocation list is not the next one")]
    OldRevocations,
    #[error("another gateway has renewed or taken the lease meanwhile")]
    LeaseTaken,
    /// Wait a few milliseconds and ask again.
    #[error("the range is about to move, or the bucket about to go")]
    Frozen,
    /// Look at the map again.
    #[error("the group does not own this")]
    NotHere,
    #[error("the group is not part of such a move, or not in this step of it")]
    NoSuchMove,
    #[error("somebody else has taken this up meanwhile")]
    OldAttempt,
    #[error("the target of the move has not come so far")]
    NotDrained,
    #[error("the bucket is being deleted")]
    BucketDeleting,
    #[error("the map of ranges has changed meanwhile")]
    MapChanged,
    #[error("no range is there that could move so")]
    NoSuchRange,
    #[error("the map has as many ranges, or the root as many groups, as it may")]
    MapFull,
    #[error("one of the groups is in a move already")]
    GroupMoves,
    #[error("as many moves are under way as may be")]
    TooManyMoves,
    #[error("no other metadata node would stay")]
    LastNode,
    /// Of 2^64 generations and tags none is left, and none is ever given twice: nothing new can be stored in the range.
    #[error("the group has given all its numbers away")]
    Exhausted,
    #[error("what the target read back is not what the source gave")]
    Mismatch,
    #[error("metadata has something in it already")]
    NotEmpty,
    #[error("metadata is being restored")]
    Restoring,
    #[error("what was restored is not what was sent")]
    NotRestored,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Done,
    Refused(Refusal),
    Bucket(BucketRecord),
    Committed {
        seq: Seq,
        modified: UnixMs,
    },
    /// What was there, if anything.
    Deleted {
        was: Option<Box<VersionHead>>,
    },
    Reserved(Vec<ReserveOutcome>),
    Confirmed(Vec<bool>),
    /// `more`: call again.
    Unreferenced {
        more: bool,
    },
    Deleting(Vec<(ChunkId, Gen)>),
    Target(Tag),
    /// The place the index had before, if it had one.
    Moved {
        old: Option<Place>,
    },
    /// BLAKE3 as of [`crate::wire::range::Page::digest`], over the rows as they were read back from the target's table.
    Imported {
        digest: [u8; 32],
    },
    Released(Handover),
    /// `more`: call again.
    Purged {
        more: bool,
    },
    /// Where the group's part of the bucket ends; `None`: with the bucket.
    Stepped {
        end: Option<NamePoint>,
    },
    /// The bucket is marked: its names may lie in several groups, which are to be closed in this round.
    BucketDeleting {
        bucket: BucketId,
        round: u64,
    },
    /// A move that has begun.
    Moving(MoveId),
    /// Which taking up of a move this is.
    Attempt(u64),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    Root(RootQuery),
    Namespace(NamespaceQuery),
    Chunk(ChunkQuery),
    Range(RangeQuery),
    /// About chunks of this span alone, all of which the group must own as it answers.
    Within {
        span: ChunkSpan,
        query: ChunkQuery,
    },
    Copy(CopyQuery),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "an answer is made once and read once; a box would be one more allocation for each")]
pub enum Answer {
    Root(RootAnswer),
    Namespace(NamespaceAnswer),
    Chunk(ChunkAnswer),
    Range(RangeAnswer),
    Copy(CopyPart),
}

/// Metadata could not answer. None of these says anything about what is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum MetadataError {
    /// No leader, shutting down, or overloaded. A proposal may or may not have been applied. Retry.
    #[error("metadata is unavailable. reason=`{reason}`")]
    Unavailable { reason: String },
    /// The table is nearly full; reads and deletes go on.
    #[error("the metadata table is full. used_bytes=`{used}`, map_bytes=`{map}`")]
    Full { used: u64, map: u64 },
    /// The disk under the log or the table failed, or what it holds does not decode.
    #[error("metadata storage failed. reason=`{reason}`")]
    Storage { reason: String },
    /// The request breaks a limit of [`crate::limit`].
    #[error("metadata request is too large. what=`{what}`")]
    TooLarge { what: String },
    /// The group does not own what was asked about: look at the map again.
    #[error("the group does not own what was asked about")]
    NotHere,
    /// A replica of the group runs a version that does not know this. Nothing was done; it works once that one is upgraded.
    #[error("not yet: {what}")]
    TooNew { what: String },
}

/// The metadata service: a function call in the all-in-one process, a connection elsewhere.
#[async_trait::async_trait]
pub trait Metadata: Send + Sync + 'static {
    /// Returns when the batch is synced on a majority and applied: one reply a command, in order.
    async fn propose(&self, batch: Batch) -> Result<Vec<Reply>, MetadataError>;

    /// Linearizable: sees every proposal that returned before this was called.
    async fn query(&self, query: Query) -> Result<Answer, MetadataError>;
}
