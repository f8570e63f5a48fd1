//! A table of which every change in a range that moves is noted, for the target to come after.
//!
//! ```text
//! Changed   kind | 0 | number 8       -> space, key     the changed row's last number
//!           kind | 1 | space | key    -> number 8       the other way round
//!           kind | 2 | space | key    -> nothing        at the target: a row that was imported
//! ```
//! A row that changes again gets a new number and loses the old one: who has come after all numbers has every row as it is.
//! Noted are the rows that move: not the outbox, not what is remembered as ended of names. What a row is now is looked up when it is asked for.

use crate::key;
use crate::record::{broken, decode};
use crate::table::{Scan, Space, TableError, TableRead, TableWrite};
use spine::id::ChunkId;
use spine::wire::namespace::{Body, VersionBody};
use spine::wire::range::{ChunkSpan, RangeKind};

const NUMBERS: u8 = 0;
const ROWS: u8 = 1;
const IMPORTED: u8 = 2;

fn kind_byte(kind: RangeKind) -> u8 {
    match kind {
        RangeKind::Names => 0,
        RangeKind::Chunks => 1,
    }
}

/// Where the numbers of a kind begin.
pub fn numbers(kind: RangeKind) -> [u8; 2] {
    [kind_byte(kind), NUMBERS]
}

/// Where the noted rows of a kind begin.
pub fn rows(kind: RangeKind) -> [u8; 2] {
    [kind_byte(kind), ROWS]
}

/// Where the imported rows of a kind begin.
pub fn imported(kind: RangeKind) -> [u8; 2] {
    [kind_byte(kind), IMPORTED]
}

pub fn number_key(kind: RangeKind, number: u64) -> Vec<u8> {
    [&numbers(kind)[..], &number.to_be_bytes()].concat()
}

/// One of [`rows`] or [`imported`] of this row.
pub fn row_key(prefix: [u8; 2], space: Space, key: &[u8]) -> Vec<u8> {
    [&prefix[..], &[space as u8], key].concat()
}

/// The row that an entry of [`imported`], or the value of one of [`numbers`], names.
///
/// # Errors
/// It is none.
pub fn named(row: &[u8]) -> Result<(Space, &[u8]), TableError> {
    let space = row.split_first().and_then(|(&space, key)| Some((*Space::ALL.get(usize::from(space))?, key)));
    space.ok_or_else(|| broken(Space::Changed, row))
}

/// Which rows are noted.
pub enum Noted {
    /// All that a command about a name in the range touches.
    Names,
    /// Those of chunks in the span, and the fence against late writers.
    Chunks(ChunkSpan),
}

pub struct Noting<'a> {
    table: &'a mut dyn TableWrite,
    noted: Noted,
    /// The last number.
    pub changes: u64,
}

impl<'a> Noting<'a> {
    pub fn new(table: &'a mut dyn TableWrite, noted: Noted, changes: u64) -> Self {
        Self { table, noted, changes }
    }

    fn note(&mut self, space: Space, key: &[u8]) -> Result<(), TableError> {
        let kind = match &self.noted {
            Noted::Names if is_of_names(space, key) => RangeKind::Names,
            Noted::Chunks(span) if is_of_chunks(space, key, span) => RangeKind::Chunks,
            _ => return Ok(()),
        };
        let at = row_key(rows(kind), space, key);
        if let Some(old) = self.table.get(Space::Changed, &at)? {
            let old = old.try_into().map(u64::from_be_bytes).map_err(|_| broken(Space::Changed, &at))?;
            self.table.delete(Space::Changed, &number_key(kind, old))?;
        }
        self.changes += 1;
        self.table.put(Space::Changed, &number_key(kind, self.changes), &at[2..])?;
        self.table.put(Space::Changed, &at, &self.changes.to_be_bytes())
    }
}

/// Whether a row moves with the names.
pub fn is_of_names(space: Space, key: &[u8]) -> bool {
    match space {
        Space::Objects | Space::Bodies | Space::Manifests | Space::Uploads | Space::Parts => true,
        Space::Intents => key.first() == Some(&key::INTENT_OPEN),
        Space::Meta => key.starts_with(key::CLOSING),
        _ => false,
    }
}

/// Whether a row of Due remembers a version that has ended.
pub fn is_fence(key: &[u8]) -> bool {
    key.first() == Some(&key::DUE_ENDED.0)
}

/// Whether a row moves with the chunks of `span`.
pub fn is_of_chunks(space: Space, key: &[u8], span: &ChunkSpan) -> bool {
    let chunk = |bytes: &[u8]| bytes.first_chunk().is_some_and(|chunk| span.holds(&ChunkId(*chunk)));
    match space {
        Space::Chunks | Space::References => chunk(key),
        Space::Due => match key.split_first() {
            Some((&key::DUE_DELETING, rest)) => chunk(rest),
            _ => is_fence(key),
        },
        _ => false,
    }
}

impl TableRead for Noting<'_> {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<&[u8]>, TableError> {
        self.table.get(space, key)
    }

    fn scan<'a>(&'a self, space: Space, from: &[u8]) -> Result<Box<dyn Scan + 'a>, TableError> {
        self.table.scan(space, from)
    }
}

impl TableWrite for Noting<'_> {
    fn put(&mut self, space: Space, key: &[u8], value: &[u8]) -> Result<(), TableError> {
        self.table.put(space, key, value)?;
        match (space, &self.noted) {
            // The version has ended: its manifest stays here with the outbox, and is none of the range's any more.
            (Space::Outbox, Noted::Names) => self.note(Space::Manifests, value),
            // The pieces may have been an upload's, whose rows were not copied before they became the object's, and will not be now.
            (Space::Bodies, Noted::Names) => {
                let body: VersionBody = decode(space, key, value)?;
                if let Body::Pieces(pieces) = &body.body {
                    pieces.iter().try_for_each(|piece| self.note(Space::Manifests, &piece.version.0))?;
                }
                self.note(space, key)
            }
            _ => self.note(space, key),
        }
    }

    fn delete(&mut self, space: Space, key: &[u8]) -> Result<bool, TableError> {
        let was = self.table.delete(space, key)?;
        if was {
            self.note(space, key)?;
        }
        Ok(was)
    }
}
