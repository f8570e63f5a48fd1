//! Copies of the table for whoever keeps one elsewhere: part by part, as of the moment of the first part.
//!
//! Invariants: one copy at a time, since the table may grow for as long as its moment is kept; one that nobody asks for any more is let go of.

use crate::checkpoint::{Checkpoints, Pinned, Place, read_part};
use crate::group;
use crate::restore;
use spine::wire::MetadataError;
use spine::wire::copy::{CopyEnd, CopyPart, CopyQuery, Tally};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A copy that nobody asks for is let go of after this.
const ABANDONED: Duration = Duration::from_secs(60);

/// Where a part begins: its first row, and what came before.
type From = (Place, Tally);

struct Copying {
    stream: [u8; 16],
    moment: Pinned,
    applied: u64,
    /// The part after the last one that was given, and where it and the last one begin.
    next: u32,
    at: From,
    before: From,
    asked: Instant,
}

#[derive(Default)]
pub struct Copies(Mutex<Option<Copying>>);

impl Copies {
    fn lock(&self) -> MutexGuard<'_, Option<Copying>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One part. Blocks for the disk.
    ///
    /// # Errors
    /// `Unavailable` where another copy is being made, or this one is over: begin anew. The table's.
    pub fn part(&self, checkpoints: &Checkpoints, query: &CopyQuery) -> Result<CopyPart, MetadataError> {
        let mut running = self.lock();
        if query.number == 0 && running.as_ref().is_none_or(|copying| copying.stream != query.stream) {
            if running.as_ref().is_some_and(|copying| !copying.at.0.is_end() && copying.asked.elapsed() < ABANDONED) {
                return Err(unavailable("another copy is being made"));
            }
            *running = Some(begin(checkpoints, query.stream)?);
        }
        let copying = running.as_mut().filter(|copying| copying.stream == query.stream);
        let copying = copying.ok_or_else(|| unavailable("this copy is over"))?;
        copying.asked = Instant::now();
        let again = query.number.checked_add(1) == Some(copying.next);
        if query.number != copying.next && !again {
            return Err(unavailable("a part of a copy out of order"));
        }
        let (place, tally) = if again { copying.before.clone() } else { copying.at.clone() };
        let (rows, place, tally) = read_part(&copying.moment, place, tally, restore::is_own)?;
        let end = place.is_end().then(|| CopyEnd { applied: copying.applied, rows: tally.rows(), digest: tally.digest() });
        if !again {
            copying.next = copying.next.checked_add(1).ok_or_else(|| unavailable("a copy of too many parts"))?;
            copying.before = std::mem::replace(&mut copying.at, (place, tally));
        }
        Ok(CopyPart { rows, end })
    }

    /// Lets go of a copy that was abandoned.
    pub fn forget_abandoned(&self) {
        let mut running = self.lock();
        if running.as_ref().is_some_and(|copying| copying.asked.elapsed() > ABANDONED) {
            *running = None;
        }
    }
}

fn begin(checkpoints: &Checkpoints, stream: [u8; 16]) -> Result<Copying, MetadataError> {
    let reader = checkpoints.table().read()?;
    let applied = group::applied_index_in(&reader)?;
    let moment = Arc::new(Mutex::new(reader));
    Ok(Copying { stream, moment, applied, next: 0, at: From::default(), before: From::default(), asked: Instant::now() })
}

fn unavailable(reason: &str) -> MetadataError {
    MetadataError::Unavailable { reason: reason.to_owned() }
}
