//! What the writer thread is asked to do.

use crate::entry::{Put, Trash};
use crate::record::{Location, SegmentId, Stamp};
use bytes::Bytes;
use spine::id::UnixMs;
use spine::wire::chunk::ShardName;
use spine::wire::shard::{NodeError, ShardHeader};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

pub type Done = oneshot::Sender<Result<(), NodeError>>;

/// A put record that compaction walked over, in a segment that is to go.
#[derive(Clone, Copy, Debug)]
pub struct Walked {
    pub name: ShardName,
    pub stamp: Stamp,
    pub at: Location,
}

pub enum Op {
    /// Stores a shard. `permit` bounds what waits in the queue and goes when the shard is staged.
    Put { header: ShardHeader, data: Bytes, permit: OwnedSemaphorePermit, done: Done },
    /// Moves shards to the trash. `permit` as above.
    Trash { names: Vec<ShardName>, permit: OwnedSemaphorePermit, done: Done },
    /// Copies a verified shard out of a segment that is to go, if `from` is still what counts.
    Move { header: ShardHeader, at: UnixMs, from: Put, data: Bytes, done: Done },
    /// Copies a trash record out of a segment that is to go, if `from` is still what counts.
    MoveTrash { name: ShardName, from: Trash, done: Done },
    /// Forgets all that is in a segment. Refused if something in it still counts.
    Drop { segment: SegmentId, puts: Vec<Walked>, expired_before: UnixMs, done: Done },
    /// The shard at `at` was found wrong. `permit`: from callers of which there may be many.
    SetAside { name: ShardName, at: Location, permit: Option<OwnedSemaphorePermit> },
    /// Gives the preallocated rest of the open segment back; the segment may be continued.
    Rest { done: Done },
    /// The segment gets no more records.
    Retire { segment: SegmentId, done: Done },
    /// Writes what came before, seals, ends the thread.
    Stop,
}
