//! Chunks that are seen to at once: left owing by a write of this process, or found damaged.
//!
//! A write that is acknowledged while a node is slow or gone has fewer shards than it should; the next loss must not find it so. Its
//! chunks come here and are delivered within a second of a fit node being there, rather than when the index is next gone through. What
//! is forgotten here (a restart, or more than [`MOST`]) stands in the index.
//! The queue knows no clock: the time is an argument.

use spine::id::ChunkId;
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// Chunks remembered: some 1 MiB. A flood of more means that nodes are failing, and is the round's.
pub const MOST: usize = 8_192;
/// Between two tries of one chunk, at most.
const PAUSE_MOST: Duration = Duration::from_secs(2);
/// Tries of one chunk, over half a minute; then it is the round's.
const TRIES: u32 = 18;

/// The queue.
pub struct Prompt {
    first: Duration,
    due: BTreeSet<(Instant, ChunkId)>,
    known: HashMap<ChunkId, (Instant, u32)>,
}

impl Prompt {
    /// `first`: how long after it was left owing a chunk is first tried.
    pub fn new(first: Duration) -> Prompt {
        Prompt { first, due: BTreeSet::new(), known: HashMap::new() }
    }

    /// A chunk owes. One that is known keeps its place.
    pub fn add(&mut self, chunk: ChunkId, now: Instant) {
        if self.known.len() < MOST && !self.known.contains_key(&chunk) {
            self.put(chunk, now + self.first, 0);
        }
    }

    /// It still owes: again after twice the time, until it was tried often enough.
    pub fn again(&mut self, chunk: ChunkId, tries: u32, now: Instant) {
        if tries < TRIES && !self.known.contains_key(&chunk) {
            let pause = self.first.saturating_mul(1 << tries.min(16)).min(PAUSE_MOST.max(self.first));
            self.put(chunk, now + pause, tries);
        }
    }

    fn put(&mut self, chunk: ChunkId, due: Instant, tries: u32) {
        self.known.insert(chunk, (due, tries));
        self.due.insert((due, chunk));
    }

    /// When the next chunk is due.
    pub fn next(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Takes up to `most` chunks that are due, and how often each was taken with this time.
    pub fn take(&mut self, now: Instant, most: usize) -> Vec<(ChunkId, u32)> {
        let mut out = Vec::new();
        while out.len() < most
            && let Some((due, chunk)) = self.due.first().copied()
            && due <= now
        {
            self.due.pop_first();
            let tries = self.known.remove(&chunk).map_or(0, |(_, tries)| tries);
            out.push((chunk, tries + 1));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(100);

    fn chunk(number: u16) -> ChunkId {
        let mut id = [0; 32];
        id[..2].copy_from_slice(&number.to_be_bytes());
        ChunkId(id)
    }

    #[test]
    fn a_chunk_is_tried_soon_then_more_and_more_rarely_and_then_left_to_the_round() {
        let (mut queue, begin) = (Prompt::new(FIRST), Instant::now());
        queue.add(chunk(1), begin);
        queue.add(chunk(1), begin + FIRST / 2);
        assert_eq!(queue.take(begin, 10), []);
        let (mut now, mut pauses) = (begin, Vec::new());
        while let Some(due) = queue.next() {
            pauses.push(due - now);
            now = due;
            let taken = queue.take(now, 10);
            assert_eq!(taken.len(), 1);
            queue.again(taken[0].0, taken[0].1, now);
        }
        assert_eq!(pauses[..4], [FIRST, FIRST * 2, FIRST * 4, FIRST * 8]);
        assert!(pauses.len() == TRIES as usize && pauses.iter().all(|pause| *pause <= PAUSE_MOST), "{pauses:?}");
        assert!(now - begin > Duration::from_secs(20));
    }

    #[test]
    fn more_than_can_be_remembered_is_left_to_the_round() {
        let (mut queue, now) = (Prompt::new(FIRST), Instant::now());
        (0..=MOST as u16).for_each(|number| queue.add(chunk(number), now));
        let taken = queue.take(now + FIRST, usize::MAX);
        assert_eq!(taken.len(), MOST);
        assert!(queue.next().is_none());
    }
}
