//! Where one group's entries are: in memory, in a file, or both.

use super::{GroupState, Position};
use bytes::Bytes;
use std::collections::VecDeque;
use std::ops::Range;

/// Where a record lies. Segment 0 is none: not written yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub segment: u64,
    pub offset: u32,
    /// The record's payload.
    pub len: u32,
}

pub enum Held {
    Here(Bytes),
    At(Place),
}

struct Slot {
    term: u64,
    node: u64,
    place: Place,
}

/// Entries of consecutive indices from `first`; the newest of them also as bytes.
/// Invariant: an entry without a place is in the cache.
#[derive(Default)]
pub struct Index {
    pub vote: Option<Bytes>,
    pub committed: Option<Position>,
    purged: Option<Position>,
    first: u64,
    slots: VecDeque<Slot>,
    /// The newest `cache.len()` entries.
    cache: VecDeque<Bytes>,
    cache_bytes: usize,
}

impl Index {
    pub fn state(&self) -> GroupState {
        let last = self.slots.len().checked_sub(1).map(|n| self.position(n)).or(self.purged);
        GroupState { vote: self.vote.clone(), committed: self.committed, purged: self.purged, last }
    }

    /// An entry that is not on disk yet. One that does not follow the last replaces everything from its index on.
    pub fn append(&mut self, position: Position, bytes: Bytes) {
        self.make_room(position);
        self.cache_bytes += bytes.len();
        self.slots.push_back(Slot { term: position.term, node: position.node, place: Place::default() });
        self.cache.push_back(bytes);
    }

    /// An entry that recovery found on disk.
    pub fn recovered(&mut self, position: Position, place: Place, bytes: &[u8], cache_max: usize) {
        self.append(position, Bytes::copy_from_slice(bytes));
        self.placed(position, place);
        self.shrink_cache(cache_max);
    }

    fn make_room(&mut self, position: Position) {
        if self.slots.is_empty() {
            self.first = position.index;
        } else if position.index > self.next() {
            // A snapshot was installed past the end: the log begins again behind it.
            self.clear();
            self.first = position.index;
        } else {
            self.truncate(position.index);
            if self.slots.is_empty() {
                self.first = position.index;
            }
        }
    }

    /// The entry is on disk now, unless it was replaced meanwhile.
    pub fn placed(&mut self, position: Position, place: Place) {
        let Some(n) = self.offset(position.index) else { return };
        if self.position(n) == position {
            self.slots[n].place = place;
        }
    }

    /// Drops cached bytes of the oldest entries that are on disk, down to `max` bytes.
    pub fn shrink_cache(&mut self, max: usize) {
        while self.cache_bytes > max {
            let oldest = self.slots.len() - self.cache.len();
            match self.slots.get(oldest) {
                Some(slot) if slot.place.segment != 0 => {}
                _ => return,
            }
            match self.cache.pop_front() {
                Some(bytes) => self.cache_bytes -= bytes.len(),
                None => return,
            }
        }
    }

    /// Nothing is left but the vote: whoever comes back must not vote twice.
    pub fn forget(&mut self) {
        *self = Self { vote: self.vote.take(), ..Self::default() };
    }

    pub fn truncate(&mut self, from: u64) {
        let keep = usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX);
        while self.slots.len() > keep {
            self.slots.pop_back();
            if let Some(bytes) = self.cache.pop_back() {
                self.cache_bytes -= bytes.len();
            }
        }
    }

    pub fn purge(&mut self, upto: Position) {
        if self.purged.is_some_and(|purged| purged.index >= upto.index) {
            return;
        }
        self.purged = Some(upto);
        while !self.slots.is_empty() && self.first <= upto.index {
            if self.cache.len() == self.slots.len()
                && let Some(bytes) = self.cache.pop_front()
            {
                self.cache_bytes -= bytes.len();
            }
            self.slots.pop_front();
            self.first += 1;
        }
    }

    pub fn purged(&self) -> Option<Position> {
        self.purged
    }

    pub fn is_purged(&self, index: u64) -> bool {
        self.purged.is_some_and(|purged| index <= purged.index)
    }

    /// What there is of `range`, in order, from its first entry on; no more once `max_bytes` are reached.
    pub fn find(&self, range: Range<u64>, max_bytes: usize) -> Vec<(Position, Held)> {
        let mut out = Vec::new();
        let mut bytes = 0;
        for index in range.start.max(self.first)..range.end.min(self.next()) {
            let Some(n) = self.offset(index) else { break };
            let in_cache = (n + self.cache.len()).checked_sub(self.slots.len()).and_then(|n| self.cache.get(n));
            let (held, len) = match in_cache {
                Some(entry) => (Held::Here(entry.clone()), entry.len()),
                None => (Held::At(self.slots[n].place), self.slots[n].place.len as usize),
            };
            if !out.is_empty() && bytes + len > max_bytes {
                break;
            }
            bytes += len;
            out.push((self.position(n), held));
        }
        out
    }

    /// The index after the last entry's.
    fn next(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    pub fn first(&self) -> Option<u64> {
        (!self.slots.is_empty()).then_some(self.first)
    }

    fn clear(&mut self) {
        self.slots.clear();
        self.cache.clear();
        self.cache_bytes = 0;
    }

    fn offset(&self, index: u64) -> Option<usize> {
        let n = usize::try_from(index.checked_sub(self.first)?).ok()?;
        (n < self.slots.len()).then_some(n)
    }

    fn position(&self, n: usize) -> Position {
        let slot = &self.slots[n];
        Position { term: slot.term, node: slot.node, index: self.first + n as u64 }
    }
}
