//! All groups' rows: copied out, each group as of one moment of it, and put into metadata that is empty.
//!
//! ```text
//! copy:     Begin at every group, then of each in turn: Part(0) -> Part(1) .. the one with an end    Keep for those whose turn is not yet
//! restore:  [Expect ->] Begin -> Rows 0, Rows 1 .. -> End     refused where anything is there already; from the first of these to the
//!                                                             last nothing else is applied and nothing is answered from what is there
//! ```
//! Each step can be asked for again. What belongs to a replica or to its log alone (the log's place, answers to requests, ranges on their
//! way) is in no copy. What many groups had is restored into one, the root's, which then has everything.

use crate::id::{GroupId, Seq, UnixMs};
use crate::wire::cluster::Row;
use crate::wire::range::{ChunkSpan, NameSpan};
use serde::{Deserialize, Serialize};

/// 2026-01-01 00:00 UTC. A clock that is before it was never set.
pub const BEGINNING: UnixMs = UnixMs(1_767_225_600_000);
/// Numbers of the tables that an `End` does not count: the root's, which has rows of the cluster's own beside those that are restored; the
/// outbox, whose positions are given anew; counters; changes of ranges that move.
const UNCOUNTED: [u8; 4] = [0, 7, 12, 13];
/// Tables with rings of versions that are over, and the first bytes of those: their positions are given anew as well.
const RINGS: [(u8, [u8; 2]); 2] = [(6, [1, 2]), (11, [4, 5])];

/// Whether an `End` counts this row.
pub fn is_counted(space: u8, key: &[u8]) -> bool {
    let in_ring = || RINGS.iter().any(|(ring, kinds)| *ring == space && key.first().is_some_and(|kind| kinds.contains(kind)));
    !UNCOUNTED.contains(&space) && !in_ring()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyQuery {
    pub group: GroupId,
    /// Random, one a copy. A group makes one copy at a time: a new one ends one that nobody has asked for in a while.
    pub stream: [u8; 16],
    pub step: CopyStep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CopyStep {
    /// The copy is of this moment; asked again, of the new one. No rows. `Unavailable` while a range is on its way to or from the group.
    Begin,
    /// The copy is still wanted. No rows.
    Keep,
    /// One part, from 0 on; it can be asked for again until the one after it was.
    Part(u32),
}

/// What the copy of a group is of: the same with every part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Where the group's next version would have come in the order of versions.
    pub next: Seq,
    /// What the group owns.
    pub names: Option<NameSpan>,
    pub chunks: Option<ChunkSpan>,
}

/// Rows in order of (space, key), over all parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyPart {
    pub of: Moment,
    /// About [`crate::wire::cluster::PART_BYTES`], or one longer row.
    pub rows: Vec<Row>,
    /// With the last part.
    pub end: Option<CopyEnd>,
}

/// What the whole copy of a group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyEnd {
    /// [`Moment::next`].
    pub next: Seq,
    pub rows: u64,
    /// [`Tally::digest`] of all rows.
    pub digest: [u8; 32],
}

/// Puts rows into metadata that is empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestoreCommand {
    /// From here on only this stream's rows are taken. Idempotent for the same stream. Refused with `NotEmpty`.
    Begin { stream: [u8; 16] },
    /// Part `number`, counted over all groups; one that was taken already changes nothing. Refused with `NotRestored` where it is not the next
    /// of this stream.
    Rows { stream: [u8; 16], number: u32, rows: Vec<Row> },
    /// All of it is there: what the tables hold is counted and summed, and must be as told. Then what the groups' copies, each of a moment of
    /// its own, say of each other is made to agree, the collection is held, generations, tags and versions go on above all that can have been
    /// given since, and metadata serves. Refused with `NotRestored`, and with `Exhausted` where no numbers are left above them.
    ///
    /// - `next`: the last of all groups' [`CopyEnd::next`].
    /// - `counted`, `sum`: of rows that [`is_counted`].
    /// - `now`: whoever restores says what time it is: of two restores of copies of one life, a minute or more apart, neither gives numbers
    ///   that the other gave.
    End { stream: [u8; 16], next: Seq, counted: u64, sum: [u8; 32], now: UnixMs },
    /// Metadata is empty because it was lost, and waits for a restore. Idempotent. Refused with `NotEmpty`.
    Expect,
}

/// Rows counted and hashed in their order: BLAKE3 over space, length of the key (u32, little-endian), length of the value (the same), key, value.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    rows: u64,
    /// Some 2 KiB.
    hasher: Box<blake3::Hasher>,
}

fn feed(hasher: &mut blake3::Hasher, space: u8, key: &[u8], value: &[u8]) {
    let lens = [key.len() as u32, value.len() as u32].map(u32::to_le_bytes);
    hasher.update(&[space]).update(&lens[0]).update(&lens[1]).update(key).update(value);
}

impl Tally {
    pub fn count(&mut self, space: u8, key: &[u8], value: &[u8]) {
        self.rows += 1;
        feed(&mut self.hasher, space, key, value);
    }

    pub fn rows(&self) -> u64 {
        self.rows
    }

    pub fn digest(&self) -> [u8; 32] {
        *self.hasher.finalize().as_bytes()
    }
}

/// Rows counted and summed in any order, as what several groups had lies mixed in one table: the hashes that [`Tally`] would give of each row
/// alone, added as four numbers of 64 bits, little-endian, that wrap. It finds what was lost or altered by accident; against who means harm
/// copies are sealed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    rows: u64,
    lanes: [u64; 4],
}

impl Sum {
    pub fn count(&mut self, space: u8, key: &[u8], value: &[u8]) {
        self.rows += 1;
        let mut hasher = blake3::Hasher::new();
        feed(&mut hasher, space, key, value);
        let hash = hasher.finalize();
        for (lane, bytes) in self.lanes.iter_mut().zip(hash.as_bytes().chunks_exact(8)) {
            let word = bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
            *lane = lane.wrapping_add(word);
        }
    }

    pub fn rows(&self) -> u64 {
        self.rows
    }

    pub fn digest(&self) -> [u8; 32] {
        let mut out = [0; 32];
        for (bytes, lane) in out.chunks_exact_mut(8).zip(self.lanes) {
            bytes.copy_from_slice(&lane.to_le_bytes());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_is_the_same_in_any_order_and_another_where_a_row_is_missing_doubled_or_altered() {
        let rows: Vec<(u8, Vec<u8>, Vec<u8>)> = (0..20u8).map(|n| (1 + n % 3, vec![n], vec![n; usize::from(n)])).collect();
        let sum = |rows: &[(u8, Vec<u8>, Vec<u8>)]| {
            let mut sum = Sum::default();
            rows.iter().for_each(|(space, key, value)| sum.count(*space, key, value));
            (sum.rows(), sum.digest())
        };
        let whole = sum(&rows);
        let mut other = rows.clone();
        other.reverse();
        other.swap(3, 11);
        assert_eq!(sum(&other), whole);
        for at in 0..rows.len() {
            let mut missing = rows.clone();
            let row = missing.remove(at);
            assert_ne!(sum(&missing), whole);
            missing.push((row.0, row.1, [&row.2[..], &[1]].concat()));
            assert_ne!(sum(&missing).1, whole.1);
            assert_eq!(sum(&missing).0, whole.0);
        }
    }
}
