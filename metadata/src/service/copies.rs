//! Copies of a group's table for whoever keeps one elsewhere: part by part, as of the moment when it was begun.
//!
//! Invariants: one copy at a time, since the table may grow for as long as its moment is kept; one that nobody asks for any more is let go of;
//! no copy is of a moment at which a range was on its way, so that every row in it is the group's own.

use crate::checkpoint::{Checkpoints, Pinned, Place, read_part};
use crate::group;
use crate::machine::ORDINAL_BITS;
use crate::range::Ranges;
use crate::restore;
use crate::table::TableRead;
use spine::id::{GroupId, Seq};
use spine::map::Point;
use spine::wire::MetadataError;
use spine::wire::copy::{CopyEnd, CopyPart, CopyQuery, CopyStep, Moment, Tally};
use spine::wire::range::Holding;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A copy that nobody asks for is let go of after this.
const ABANDONED: Duration = Duration::from_secs(180);

/// Where a part begins: its first row, and what came before.
type From = (Place, Tally);

struct Copying {
    stream: [u8; 16],
    pinned: Pinned,
    of: Moment,
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

    /// Takes one step. Blocks for the disk.
    ///
    /// # Errors
    /// `Unavailable` where another copy is being made, a range is on its way, or this one is over: begin anew. The table's.
    pub fn answer(&self, checkpoints: &Checkpoints, query: &CopyQuery) -> Result<CopyPart, MetadataError> {
        let mut running = self.lock();
        if query.step == CopyStep::Begin {
            let other = running.as_ref().filter(|copying| copying.stream != query.stream);
            if other.is_some_and(|other| !other.at.0.is_end() && other.asked.elapsed() < ABANDONED) {
                return Err(unavailable("another copy is being made"));
            }
            // The old moment first: it is let go of also where there is no new one.
            *running = None;
            *running = Some(begin(checkpoints, query.group, query.stream)?);
        }
        let copying = running.as_mut().filter(|copying| copying.stream == query.stream);
        let copying = copying.ok_or_else(|| unavailable("this copy is over"))?;
        copying.asked = Instant::now();
        match query.step {
            CopyStep::Begin | CopyStep::Keep => Ok(CopyPart { of: copying.of.clone(), rows: Vec::new(), end: None }),
            CopyStep::Part(number) => copying.part(number),
        }
    }

    /// Lets go of a copy that was abandoned.
    pub fn forget_abandoned(&self) {
        // Whoever reads a part has asked for it just now.
        let Ok(mut running) = self.0.try_lock() else { return };
        if running.as_ref().is_some_and(|copying| copying.asked.elapsed() > ABANDONED) {
            *running = None;
        }
    }
}

impl Copying {
    fn part(&mut self, number: u32) -> Result<CopyPart, MetadataError> {
        let again = number.checked_add(1) == Some(self.next);
        if number != self.next && !again {
            return Err(unavailable("a part of a copy out of order"));
        }
        let (place, tally) = if again { self.before.clone() } else { self.at.clone() };
        let (rows, place, tally) = read_part(&self.pinned, place, tally, restore::is_left_out)?;
        let end = place.is_end().then(|| CopyEnd { next: self.of.next, rows: tally.rows(), digest: tally.digest() });
        if !again {
            self.next = self.next.checked_add(1).ok_or_else(|| unavailable("a copy of too many parts"))?;
            self.before = std::mem::replace(&mut self.at, (place, tally));
        }
        Ok(CopyPart { of: self.of.clone(), rows, end })
    }
}

fn begin(checkpoints: &Checkpoints, group: GroupId, stream: [u8; 16]) -> Result<Copying, MetadataError> {
    let reader = checkpoints.table().read()?;
    let of = moment(&reader, group)?;
    let pinned = Arc::new(Mutex::new(reader));
    Ok(Copying { stream, pinned, of, next: 0, at: From::default(), before: From::default(), asked: Instant::now() })
}

fn moment(table: &dyn TableRead, group: GroupId) -> Result<Moment, MetadataError> {
    if restore::is_under_way(table)? {
        return Err(unavailable("metadata is being restored"));
    }
    let ranges = Ranges::load(table, group)?;
    // What was taken in so far, or is still to be deleted, is the other group's.
    if is_on_its_way(&ranges.names) || is_on_its_way(&ranges.chunks) {
        return Err(unavailable("a range is on its way"));
    }
    let applied = group::applied_index_in(table)?;
    let next = Seq(ranges.base.saturating_add(applied.saturating_add(1) << ORDINAL_BITS));
    Ok(Moment { next, names: ranges.names.owned, chunks: ranges.chunks.owned })
}

fn is_on_its_way<P: Point>(holding: &Holding<P>) -> bool {
    holding.incoming.is_some() || holding.leaving.is_some()
}

fn unavailable(reason: &str) -> MetadataError {
    MetadataError::Unavailable { reason: reason.to_owned() }
}
