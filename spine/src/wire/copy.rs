//! A group's rows as a whole: copied out as of one moment, and put into metadata that is empty.
//!
//! ```text
//! copy:     Query::Copy { stream, 0 } -> part -> { stream, 1 } -> part .. the one with an end     as of the first part's moment
//! restore:  [Expect ->] Begin -> Rows 0, Rows 1 .. -> End     refused where anything is there already; from the first of these to the
//!                                                             last nothing else is applied and nothing is answered from what is there
//! ```
//! Each step can be asked for again. What belongs to a replica alone (its log's place, answers to requests) is in no copy.

use crate::id::GroupId;
use crate::wire::cluster::Row;
use serde::{Deserialize, Serialize};

/// Numbers of the tables that an `End` does not count: root and counters, which have rows of the cluster's own beside those that are restored.
pub const UNCOUNTED: [u8; 2] = [0, 12];

/// Asks for one part of a copy. Part 0 begins it; a part can be asked for again until the one after it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyQuery {
    pub group: GroupId,
    /// Random, one a copy. A group makes one copy at a time: a new one ends one that nobody has asked for in a while.
    pub stream: [u8; 16],
    pub number: u32,
}

/// Rows in order of (space, key), over all parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyPart {
    /// About [`crate::wire::cluster::PART_BYTES`], or one longer row.
    pub rows: Vec<Row>,
    /// With the last part.
    pub end: Option<CopyEnd>,
}

/// What the whole of a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyEnd {
    /// Index of the last log entry that is in it.
    pub applied: u64,
    pub rows: u64,
    /// [`Tally::digest`] of all rows.
    pub digest: [u8; 32],
}

/// Puts rows into metadata that is empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestoreCommand {
    /// From here on only this stream's rows are taken. Idempotent for the same stream. Refused with `NotEmpty`.
    Begin { stream: [u8; 16] },
    /// Part `number`; one that was taken already changes nothing. Refused with `NotRestored` where it is not the next of this stream.
    Rows { stream: [u8; 16], number: u32, rows: Vec<Row> },
    /// All of it is there: what the tables hold is counted and hashed, and must be as told. Then the collection is held, generations, tags
    /// and versions go on above all that can have been given since, and metadata serves. Refused with `NotRestored`.
    End { stream: [u8; 16], copied: CopyEnd, counted: u64, digest: [u8; 32] },
    /// Metadata is empty because it was lost, and waits for a restore. Idempotent. Refused with `NotEmpty`.
    Expect,
}

/// Rows counted and hashed: BLAKE3 over space, length of the key (u32, little-endian), length of the value (the same), key, value.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    rows: u64,
    /// Some 2 KiB.
    hasher: Box<blake3::Hasher>,
}

impl Tally {
    pub fn count(&mut self, space: u8, key: &[u8], value: &[u8]) {
        self.rows += 1;
        let lens = [key.len() as u32, value.len() as u32].map(u32::to_le_bytes);
        self.hasher.update(&[space]).update(&lens[0]).update(&lens[1]).update(key).update(value);
    }

    pub fn rows(&self) -> u64 {
        self.rows
    }

    pub fn digest(&self) -> [u8; 32] {
        *self.hasher.finalize().as_bytes()
    }
}
