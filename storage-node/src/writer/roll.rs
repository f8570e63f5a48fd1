//! Which segment the next record goes into, and how long that segment is.
//!
//! An open segment has its blocks a step ahead of what is written. It is extended along with a sync that is made anyway, or,
//! where a group does not fit, with one of its own; when it has its full size, or nobody writes, it is sealed.
//! Invariant: a new length is synced before anything is written behind the old one, so that an open segment is longer than
//! its records at every moment (`scan.rs` counts on it).

use super::{Writer, is_no_space};
use crate::core::Core;
use crate::record::{BLOCK, SegmentId};
use spine::wire::shard::NodeError;
use std::fs::File;
use std::io;

/// The segment that is written.
pub(super) struct Open {
    pub id: SegmentId,
    pub file: File,
    /// End of what is synced.
    pub synced: u64,
    /// Usable bytes. One block less than preallocated: an open segment is longer than its records.
    pub room: u64,
}

/// Out of which space a record is written: puts leave the reserve alone.
#[derive(Clone, Copy)]
pub(super) enum Claim {
    Free,
    Reserve,
}

impl Writer {
    /// Makes room for `size` more: in the open segment, the rested one, or a new one.
    pub(super) fn roll(&mut self, size: u64, claim: Claim) -> Result<(), NodeError> {
        if self.open.is_some() {
            if self.grow(size, claim)? {
                return Ok(());
            }
            self.rest().map_err(|e| self.failed("seal the segment", e))?;
            self.rested = None;
        } else if let Some((id, end)) = self.rested.take()
            && self.resume(id, end, size, claim)?
        {
            return Ok(());
        }
        let (want, least) = self.extent(0, size, claim);
        let fresh = match self.core.segments.create(self.next_segment, want, least) {
            Ok(fresh) => fresh,
            Err(e) if is_no_space(&e) => return Err(self.full()),
            Err(e) => return Err(self.failed("make a segment", e)),
        };
        self.next_segment = SegmentId(self.next_segment.0 + 1);
        self.refresh_space();
        self.opened(Open { id: fresh.id, file: fresh.file, synced: 0, room: fresh.room - BLOCK });
        Ok(())
    }

    /// Bytes that a segment used up to `end` is to have so that `size` more fit, and the least that does.
    fn extent(&self, end: u64, size: u64, claim: Claim) -> (u64, u64) {
        let least = (end + size + 2 * BLOCK).div_ceil(BLOCK) * BLOCK;
        let claimable = match claim {
            Claim::Free => self.core.space.preallocatable(self.core.used()),
            Claim::Reserve => self.core.space.physical() / 2,
        };
        let want = self.core.segments.ahead(end, self.core.settings.segment_bytes);
        let want = if self.core.segments.is_backed() { want.min(end + claimable) } else { want };
        ((want / BLOCK * BLOCK).max(least), least)
    }

    /// Extends the open segment, unless it is to be no longer. What is staged is written before.
    fn grow(&mut self, size: u64, claim: Claim) -> Result<bool, NodeError> {
        let Some(end) = self.open.as_ref().map(|open| open.synced) else { return Ok(false) };
        let (want, least) = self.extent(end, size, claim);
        if least > self.core.settings.segment_bytes {
            return Ok(false);
        }
        let Some(open) = &mut self.open else { return Ok(false) };
        let room = match self.core.segments.grow(&open.file, want, least) {
            Ok(room) => room,
            Err(e) if is_no_space(&e) => return Err(self.full()),
            Err(e) => return Err(self.failed("extend the segment", e)),
        };
        // Whatever a failed sync says, it is not tried again.
        if let Err(e) = open.file.sync_all() {
            return Err(self.failed("sync the segment's length", e));
        }
        open.room = room - BLOCK;
        self.refresh_space();
        self.tell_room();
        Ok(true)
    }

    /// Goes on in a sealed segment, if it has room.
    fn resume(&mut self, id: SegmentId, end: u64, size: u64, claim: Claim) -> Result<bool, NodeError> {
        let (want, least) = self.extent(end, size, claim);
        if least > self.core.settings.segment_bytes {
            return Ok(false);
        }
        match self.core.segments.resume(id, want, least) {
            Ok((file, room)) => {
                self.refresh_space();
                self.opened(Open { id, file, synced: end, room: room - BLOCK });
                Ok(true)
            }
            Err(e) if is_no_space(&e) => {
                // Part of the blocks may have been taken.
                self.core.segments.seal(id, end).map_err(|e| self.failed("seal the segment", e))?;
                self.rested = Some((id, end));
                Err(self.full())
            }
            Err(_) => Ok(false),
        }
    }

    fn opened(&mut self, open: Open) {
        self.open = Some(open);
        self.tell_room();
    }

    /// Lets others know how much of what is preallocated is left.
    pub(super) fn tell_room(&self) {
        let backed = self.core.segments.is_backed();
        self.core.space.set_open(self.open.as_ref().map(|open| if backed { open.room.saturating_sub(open.synced) } else { 0 }));
    }

    pub(super) fn full(&self) -> NodeError {
        self.refresh_space();
        NodeError::Full { free: self.core.free() }
    }

    /// Gives the preallocated rest of the open segment back; what comes next may go on in it.
    pub(super) fn rest(&mut self) -> io::Result<()> {
        let Some(open) = self.open.take() else { return Ok(()) };
        self.core.segments.seal(open.id, open.synced)?;
        self.rested = Some((open.id, open.synced));
        self.core.space.set_open(None);
        Ok(())
    }

    pub(super) fn retire(&mut self, segment: SegmentId) -> Result<(), NodeError> {
        if self.open.as_ref().is_some_and(|open| open.id == segment) {
            self.rest().map_err(|e| self.failed("seal the segment", e))?;
        }
        self.rested = self.rested.filter(|(id, _)| *id != segment);
        Ok(())
    }

    pub(super) fn refresh_space(&self) {
        if let Err(e) = self.core.space.refresh(self.core.catalog.index().bytes()) {
            tracing::warn!(disk = %self.core.settings.label, reason = %e, "the file system does not say how full it is");
        }
    }
}

/// Extends the open segment before it is used up to its end, along with a sync that has to be made anyway. `None`: not
/// due, or there is no space, which the next group that does not fit will find out for itself.
pub(super) fn grow_ahead(core: &Core, open: &Open, end: u64) -> Option<u64> {
    let most = core.settings.segment_bytes;
    let want = core.segments.ahead(end, most);
    let (room, step) = (open.room + BLOCK, want - end.min(want));
    let due = core.segments.is_backed() && room < most && room.saturating_sub(end) < step / 2 && want > room;
    let want = want.min(room + core.space.preallocatable(core.used())) / BLOCK * BLOCK;
    if !due || want < room + step / 2 {
        return None;
    }
    core.segments.grow(&open.file, want, want).ok()
}
