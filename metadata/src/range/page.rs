//! What a source gives a target at a time: a page of rows, first in the order of the tables, then in that of the changes.

use super::noting;
use super::{chunks, names};
use crate::record::{broken, each};
use crate::table::{Space, TableError, TableRead};
use bytes::Bytes;
use spine::limit::{MOVE_PAGE_BYTES, MOVE_ROWS};
use spine::wire::range::{MovedRow, Page, Progress, Range, RangeKind};
use std::ops::ControlFlow;

/// Where copying goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub stage: u8,
    pub key: Vec<u8>,
    /// Rows that hang on `key` and are copied.
    pub nth: u32,
}

impl Place {
    pub fn at(&self, key: &[u8], nth: u32) -> Place {
        Place { stage: self.stage, key: key.to_vec(), nth }
    }
}

/// The rows of a page in the making.
pub struct Rows {
    rows: Vec<MovedRow>,
    bytes: usize,
    most: usize,
}

impl Rows {
    fn new(most: u32) -> Self {
        Rows { rows: Vec::new(), bytes: 0, most: (most as usize).min(MOVE_PAGE_BYTES) }
    }

    /// Whether nothing more should go in. An empty one takes any row.
    pub fn is_full(&self) -> bool {
        !self.rows.is_empty() && (self.bytes >= self.most || self.rows.len() >= MOVE_ROWS)
    }

    pub fn push(&mut self, space: Space, key: &[u8], value: Option<&[u8]>) {
        self.bytes += key.len() + value.map_or(0, <[u8]>::len);
        self.rows.push(MovedRow { space: space as u8, key: Bytes::copy_from_slice(key), value: value.map(Bytes::copy_from_slice) });
    }
}

/// What comes after `after` in the range that moves.
///
/// - `changes`: the last one noted.
pub fn page(table: &dyn TableRead, range: &Range, changes: u64, after: &Progress, max_bytes: u32) -> Result<Page, TableError> {
    let mut rows = Rows::new(max_bytes);
    let upto = match after {
        Progress::Copying { stage, key, nth } => {
            let place = Place { stage: *stage, key: key.to_vec(), nth: *nth };
            match copy(table, range, place, &mut rows)? {
                Some(Place { stage, key, nth }) => Progress::Copying { stage, key: key.into(), nth },
                None => Progress::Following { change: 0 },
            }
        }
        Progress::Following { change } => Progress::Following { change: follow(table, range.kind(), *change, &mut rows)? },
    };
    let left = match &upto {
        Progress::Following { change } => changes.saturating_sub(*change),
        Progress::Copying { .. } => changes,
    };
    let digest = digest(rows.rows.iter().map(|row| (row.space, &row.key[..], row.value.as_deref())));
    Ok(Page { rows: rows.rows, upto, left, digest })
}

fn copy(table: &dyn TableRead, range: &Range, mut place: Place, rows: &mut Rows) -> Result<Option<Place>, TableError> {
    let stages = if range.kind() == RangeKind::Names { names::STAGES } else { chunks::STAGES };
    while place.stage < stages {
        let full = match range {
            Range::Names(span) => names::copy(table, span, &place, rows)?,
            Range::Chunks(span) => chunks::copy(table, span, &place, rows)?,
        };
        if full.is_some() {
            return Ok(full);
        }
        place = Place { stage: place.stage + 1, key: Vec::new(), nth: 0 };
    }
    Ok(None)
}

/// The rows that changed after `change`, as they are now; the last one's number.
fn follow(table: &dyn TableRead, kind: RangeKind, change: u64, rows: &mut Rows) -> Result<u64, TableError> {
    let mut last = change;
    let from = noting::number_key(kind, change.saturating_add(1));
    each(table, Space::Changed, &noting::numbers(kind), &from, |at, row| {
        if rows.is_full() {
            return Ok(ControlFlow::Break(()));
        }
        let (space, key) = noting::named(row)?;
        let value = match kind {
            RangeKind::Names => names::as_noted(table, space, key)?,
            RangeKind::Chunks => chunks::as_noted(table, space, key)?,
        };
        rows.push(space, key, value);
        last = at.last_chunk().copied().map(u64::from_be_bytes).ok_or_else(|| broken(Space::Changed, at))?;
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(last)
}

/// As [`Page::digest`] says.
pub fn digest<'a>(rows: impl Iterator<Item = (u8, &'a [u8], Option<&'a [u8]>)>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
    for (space, key, value) in rows {
        hasher.update(&[space]).update(&len(key)).update(key);
        match value {
            None => hasher.update(&[0]),
            Some(value) => hasher.update(&[1]).update(&len(value)).update(value),
        };
    }
    *hasher.finalize().as_bytes()
}
