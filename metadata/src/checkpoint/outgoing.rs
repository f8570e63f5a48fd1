//! A table that goes out, part by part, as of one moment.

use super::Pinned;
use crate::table::{Space, TableError, TableRead};
use bytes::Bytes;
use spine::wire::cluster::{PART_BYTES, Row};
use spine::wire::copy::Tally;
use std::sync::PoisonError;

/// Where reading goes on: behind `after` in the space of this number.
#[derive(Clone, Default)]
pub struct Place {
    space: usize,
    after: Option<Bytes>,
}

impl Place {
    /// Whether there is no more.
    pub fn is_end(&self) -> bool {
        self.space >= Space::ALL.len()
    }
}

/// Rows of one part, where the next begins, and what was counted so far.
///
/// - `left_out`: rows that stay here.
///
/// # Errors
/// The table's.
pub fn read_part(
    pinned: &Pinned,
    mut place: Place,
    mut tally: Tally,
    left_out: impl Fn(Space, &[u8]) -> bool,
) -> Result<(Vec<Row>, Place, Tally), TableError> {
    let reader = pinned.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut rows, mut bytes) = (Vec::new(), 0);
    while let Some(&space) = Space::ALL.get(place.space) {
        let mut scan = reader.scan(space, place.after.as_deref().unwrap_or(&[]))?;
        while let Some((key, value)) = scan.next()? {
            if place.after.as_deref() == Some(key) || left_out(space, key) {
                continue;
            }
            tally.count(space as u8, key, value);
            bytes += key.len() + value.len() + 16;
            let key = Bytes::copy_from_slice(key);
            place.after = Some(key.clone());
            rows.push(Row { space: space as u8, key, value: Bytes::copy_from_slice(value) });
            if bytes >= PART_BYTES {
                return Ok((rows, place, tally));
            }
        }
        place = Place { space: place.space + 1, after: None };
    }
    Ok((rows, place, tally))
}
