//! Which ranges a group owns, and moving one from a group to another: a [`Mover`] gives the orders, the two groups' logs say what is true.
//!
//! ```text
//! target B                      source A                         root
//! Prepare                       Export      every change is noted from here on
//! Import  <- pages  ----------- Exported    (a query)
//! Import  <- changes ---------- Exported    until few are left
//!                               Freeze      writes are refused with Frozen, reads are answered
//! Import  <- the last changes   Exported
//!                               Release     not A's any more
//! Serve   B's from here on                                        the map is changed
//! Purge                         Purge       until nothing is left
//! ```
//! Each order can be given again. Before Release all can be taken back (`Cancel` at A first, then `Drop` at B); after it only forwards.
//! A move's number comes from the root's log and rises; a mover that takes a move up gets the next attempt. A group refuses what belongs
//! to a move that it knows to be over (`NoSuchMove`), and what a mover with an older attempt sends (`OldAttempt`).
//! Rows are the group's own: whoever carries them from one to the other looks at nothing but their number and size.

use crate::id::{BucketId, ChunkId, GroupId, Seq};
use crate::map::NamePoint;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What lies at `start` or after it and before `end`; without `end`, all to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Span<P> {
    pub start: P,
    pub end: Option<P>,
}

impl<P: Ord> Span<P> {
    pub fn holds(&self, point: &P) -> bool {
        self.start <= *point && self.end.as_ref().is_none_or(|end| point < end)
    }

    /// Whether all of `other` lies within.
    pub fn covers(&self, other: &Span<P>) -> bool {
        self.start <= other.start
            && match (&self.end, &other.end) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(end), Some(other)) => other <= end,
            }
    }

    /// Whether nothing can lie within.
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }
}

/// Part of the chunk index.
pub type ChunkSpan = Span<ChunkId>;
/// Part of the namespace.
pub type NameSpan = Span<NamePoint>;

/// All names.
pub const ALL_NAMES: NameSpan = Span { start: NamePoint { bucket: BucketId(0), key: Vec::new() }, end: None };
/// All chunks.
pub const ALL_CHUNKS: ChunkSpan = Span { start: ChunkId([0; 32]), end: None };

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RangeKind {
    Names,
    Chunks,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Range {
    Names(NameSpan),
    Chunks(ChunkSpan),
}

impl Range {
    pub fn kind(&self) -> RangeKind {
        match self {
            Range::Names(_) => RangeKind::Names,
            Range::Chunks(_) => RangeKind::Chunks,
        }
    }
}

/// Who gives an order: which move, and who carries it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mover {
    /// The move's number, given by the root's log, rising. The first is 1.
    pub id: u64,
    /// One more with every process that takes the move up.
    pub attempt: u64,
}

/// How far the target has come. Whoever carries rows gives it back as it got it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Progress {
    /// Rows are copied in the source's order. `stage`: which table; all before `key` are copied, and `nth` rows of what `key` names.
    Copying { stage: u8, key: Bytes, nth: u32 },
    /// All rows were copied once; then the changes up to this one.
    Following { change: u64 },
}

impl Progress {
    /// Nothing was copied yet.
    pub fn start() -> Self {
        Progress::Copying { stage: 0, key: Bytes::new(), nth: 0 }
    }
}

/// A row of the source as it was when it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MovedRow {
    /// The table's number.
    pub space: u8,
    pub key: Bytes,
    /// `None`: it is gone.
    pub value: Option<Bytes>,
}

/// Rows in the order in which they are to be imported.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Page {
    pub rows: Vec<MovedRow>,
    /// How far a target has come that has these rows.
    pub upto: Progress,
    /// Changes noted after `upto`, while it is `Following`.
    pub left: u64,
    /// BLAKE3 over the rows: space, length of the key (u32, little-endian), key, 0 if gone, or 1, length of the value (u32, little-endian), value.
    pub digest: [u8; 32],
}

/// What the target must know of the source to go on where it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Handover {
    /// The last change that was noted.
    pub change: u64,
    /// Versions were given no later place than this.
    pub seq: Seq,
    /// Generations and tags were given below this. 0 if names are moved.
    pub above: u64,
    /// Whether the collection is held.
    pub held: bool,
}

/// A step of a bucket's deletion where its names may lie in several groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum BucketStep {
    /// If the group's part of the bucket is empty, it stays so: writes are refused with `Frozen`. Refused with `BucketNotEmpty`.
    Close,
    /// Writes are accepted again.
    Open,
    /// The bucket is gone: writes are refused with `NoSuchBucket`, for good.
    End,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RangeCommand {
    /// Target: takes imports for `range`, which is next to what the group owns, or the first that it owns. Serves none of it.
    Prepare { by: Mover, range: Range, from: GroupId },
    /// Source: notes every change in `range`, an end of what the group owns or all of it, and serves on.
    Export { by: Mover, range: Range, to: GroupId },
    /// Target: takes rows over whatever it has under their keys. Refused with `NotDrained` unless the target has come exactly as far as `after`.
    /// Replies `Imported`. A page that was imported already is refused so, too: ask the target how far it has come.
    Import { by: Mover, kind: RangeKind, after: Progress, upto: Progress, rows: Vec<MovedRow> },
    /// Source: refuses writes in the range.
    Freeze { by: Mover, kind: RangeKind },
    /// Source: takes Freeze back.
    Thaw { by: Mover, kind: RangeKind },
    /// Source: it owns the range no more. Replies `Released`. Refused with `NotDrained` unless it is frozen and `change` is the last one noted.
    Release { by: Mover, kind: RangeKind, change: u64 },
    /// Target: it owns the range. Refused with `NotDrained` unless it has imported all changes.
    Serve { by: Mover, kind: RangeKind, handover: Handover },
    /// Source, after Release: deletes up to `max` rows of what it owned. Target, after Serve: forgets as many notes of what it imported.
    /// Replies `Purged`. The move is over once both have nothing more.
    Purge { by: Mover, kind: RangeKind, max: u32 },
    /// Source, before Release: the range stays its own; forgets up to `max` of the changes it noted. Replies `Purged`.
    Cancel { by: Mover, kind: RangeKind, max: u32 },
    /// Target, before Serve and after Cancel: deletes up to `max` rows of what it has imported. Replies `Purged`.
    Drop { by: Mover, kind: RangeKind, max: u32 },
    /// One step for the names of `bucket` from `from` on that the group owns. `round` is the root's: a group refuses one that is older
    /// than one it has seen with `OldAttempt`. Replies `Stepped`.
    Bucket { bucket: BucketId, round: u64, step: BucketStep, from: Bytes },
    /// As `Import`, and refused with `Mismatch` if the rows read back are not those of `digest` ([`Page::digest`]): the target has come no
    /// further, and the rows are written anew.
    ImportChecked { by: Mover, kind: RangeKind, after: Progress, upto: Progress, rows: Vec<MovedRow>, digest: [u8; 32] },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RangeQuery {
    /// What the group owns and which moves it is part of.
    Status,
    /// Source: what comes after `after`, near `max_bytes` of it and at least one row if there is any. `NotHere` unless it exports for this move.
    Export { by: Mover, kind: RangeKind, after: Progress, max_bytes: u32 },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RangeAnswer {
    Status(Box<RangeStatus>),
    Exported(Page),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeStatus {
    pub names: Holding<NamePoint>,
    pub chunks: Holding<ChunkId>,
}

/// What a group has of one kind of range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding<P> {
    pub owned: Option<Span<P>>,
    /// It is the source of this move, and owns what is moved.
    pub outgoing: Option<Outgoing<P>>,
    /// It was the source, owns it no more, and is to purge it.
    pub leaving: Option<Leaving<P>>,
    /// It is the target of this move, and does not own what is moved.
    pub incoming: Option<Incoming<P>>,
    /// It was the target, owns what was moved, and is to forget (`Purge`) what it noted for the case that it were to drop it.
    pub settling: Option<Mover>,
    /// The last move that it was the target of and owns the range of.
    pub served: u64,
    /// The last move that it was the source of and owns the range of no more.
    pub released: u64,
    /// The last move that is over here, also if it was taken back.
    pub past: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outgoing<P> {
    pub by: Mover,
    pub span: Span<P>,
    pub to: GroupId,
    pub frozen: bool,
    /// It is being taken back.
    pub cancelled: bool,
    /// Changes noted; the last one's number.
    pub changes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaving<P> {
    pub by: Mover,
    pub span: Span<P>,
    pub handover: Handover,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incoming<P> {
    pub by: Mover,
    pub span: Span<P>,
    pub from: GroupId,
    pub progress: Progress,
    /// It is being taken back.
    pub dropped: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_covers_what_lies_wholly_within_and_nothing_else() {
        let span = |start: u32, end: Option<u32>| Span { start, end };
        assert!(span(3, None).covers(&span(3, None)) && span(3, None).covers(&span(5, Some(9))));
        assert!(span(3, Some(9)).covers(&span(3, Some(9))) && !span(3, Some(9)).covers(&span(3, None)));
        assert!(!span(3, Some(9)).covers(&span(2, Some(9))) && !span(3, Some(9)).covers(&span(3, Some(10))));
        assert!(span(3, Some(9)).holds(&3) && !span(3, Some(9)).holds(&9) && span(3, None).holds(&u32::MAX));
        assert!(span(3, Some(3)).is_empty() && !span(3, None).is_empty());
    }
}
