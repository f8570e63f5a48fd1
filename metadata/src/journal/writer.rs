//! The one thread that writes the log: everything that waits goes out in one frame, one write and one sync.
//!
//! Invariant: in order; after a failure nothing is written and everybody hears it.

use super::frame::{Builder, FRAME_HEAD, Kind, RECORD_HEAD, padded};
use super::index::Place;
use super::recover::Tail;
use super::segment::Segments;
use super::{Done, GroupId, Journal, JournalError, Position, Settings, lock};
use crate::metric;
use bytes::Bytes;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Weak};
use std::time::Instant;
use tokio::sync::mpsc::UnboundedReceiver;

pub enum Order {
    Append { group: GroupId, entries: Vec<(Position, Bytes)>, done: Option<Done> },
    Vote { group: GroupId, vote: Bytes, done: Done },
    Truncate { group: GroupId, from: u64 },
    Purge { group: GroupId, upto: Position },
    Forget { group: GroupId, done: Done },
}

impl Order {
    pub fn fail(self, error: &JournalError) {
        self.answer(Err(error.clone()));
    }

    fn answer(self, outcome: Result<(), JournalError>) {
        match self {
            Self::Append { done: Some(done), .. } | Self::Vote { done, .. } | Self::Forget { done, .. } => done(outcome),
            Self::Append { done: None, .. } | Self::Truncate { .. } | Self::Purge { .. } => {}
        }
    }

    /// Bytes in the frame.
    fn bytes(&self) -> usize {
        match self {
            Self::Append { entries, .. } => entries.iter().map(|(_, bytes)| RECORD_HEAD + bytes.len()).sum(),
            Self::Vote { vote, .. } => RECORD_HEAD + vote.len(),
            Self::Truncate { .. } | Self::Purge { .. } | Self::Forget { .. } => RECORD_HEAD,
        }
    }
}

pub struct Writer {
    journal: Weak<Journal>,
    segments: Arc<Segments>,
    settings: Settings,
    /// `None`: the next frame begins a new segment.
    tail: Option<Tail>,
    next_frame: u64,
    /// What purge records on disk say, which may be behind what the groups think.
    purged: HashMap<GroupId, u64>,
    buffer: Vec<u8>,
}

impl Writer {
    /// `purged`: as recovered.
    pub fn new(
        journal: Weak<Journal>,
        segments: Arc<Segments>,
        settings: Settings,
        tail: Option<Tail>,
        purged: HashMap<GroupId, u64>,
    ) -> Self {
        let next_frame = tail.as_ref().map_or(1, |tail| tail.frame);
        Self { journal, segments, settings, tail, next_frame, purged, buffer: Vec::new() }
    }

    /// Until every sender is gone.
    pub fn run(mut self, mut orders: UnboundedReceiver<Order>) {
        while let Some(first) = orders.blocking_recv() {
            let mut bytes = first.bytes();
            let mut batch = vec![first];
            while bytes < self.settings.frame_bytes
                && let Ok(order) = orders.try_recv()
            {
                bytes += order.bytes();
                batch.push(order);
            }
            let Some(journal) = self.journal.upgrade() else { return };
            let outcome = match journal.failure() {
                Some(failure) => Err(failure),
                None => self.write(&journal, &batch, bytes),
            };
            match outcome {
                Ok(()) => self.finish(batch),
                Err(error) => {
                    if journal.failure().is_none() {
                        journal.stop(error.to_string());
                    }
                    for order in batch {
                        order.fail(&error);
                    }
                }
            }
        }
    }

    /// One frame, synced.
    fn write(&mut self, journal: &Journal, batch: &[Order], bytes: usize) -> Result<(), JournalError> {
        let begun = Instant::now();
        let committed: Vec<(GroupId, Position)> = lock(&journal.committed).drain().collect();
        let needed = padded((FRAME_HEAD + bytes + committed.len() * RECORD_HEAD) as u64);
        let fits = self.tail.as_ref().is_some_and(|tail| tail.offset + needed <= self.segments.bytes());
        let begins = !fits;
        if begins {
            let (segment, file) = self.segments.next()?;
            self.tail = Some(Tail { segment, file, offset: 0, frame: self.next_frame });
        }
        let Some(tail) = &mut self.tail else { return Err(JournalError::Stopped { reason: "no segment".into() }) };
        let mut frame = Builder::new(std::mem::take(&mut self.buffer), tail.segment);
        if begins {
            push_state(journal, &mut frame);
        }
        for (group, position) in committed {
            frame.push(group, Kind::Committed, position, &[]);
        }
        let mut placed = Vec::new();
        for order in batch {
            push(order, &mut frame, |group, position, start, len| {
                placed.push((group, position, Place { segment: tail.segment, offset: tail.offset as u32 + start as u32, len: len as u32 }));
            });
        }
        let frame = frame.finish(self.next_frame);
        if tail.offset + frame.len() as u64 > self.segments.bytes() {
            return Err(JournalError::TooLarge { bytes: frame.len() });
        }
        write_and_sync(&tail.file, &frame, tail.offset)
            .map_err(|e| JournalError::io(&super::segment::path_of(self.segments.dir(), tail.segment), e))?;
        metric::LOG_SYNC_SECONDS.observe(begun.elapsed().as_secs_f64());
        journal.wrote(placed.len() as u64, frame.len() as u64);
        tail.offset += frame.len() as u64;
        self.next_frame += 1;
        tail.frame = self.next_frame;
        self.buffer = frame;
        self.place(journal, placed);
        self.forget(journal, batch);
        Ok(())
    }

    /// Tells the groups where their entries lie, so that memory can let go of them.
    fn place(&self, journal: &Journal, placed: Vec<(GroupId, Position, Place)>) {
        let share = journal.cache_share();
        let mut rest = placed.as_slice();
        while let Some((group, last, place)) = rest.first().copied() {
            let same = rest.iter().take_while(|(other, ..)| *other == group).count();
            let highest = rest[..same].iter().map(|(_, position, _)| position.index).fold(last.index, u64::max);
            self.segments.note(place.segment, group, highest);
            if let Some(index) = journal.index(group) {
                let mut index = lock(&index);
                for (_, position, place) in &rest[..same] {
                    index.placed(*position, *place);
                }
                index.shrink_cache(share);
            }
            rest = &rest[same..];
        }
    }

    /// What was written of a group that is let go of holds no file back. Its memory goes only now: until the record is on the disk, a new
    /// segment begins with what the group was.
    fn forget(&mut self, journal: &Journal, batch: &[Order]) {
        for order in batch {
            let Order::Forget { group, .. } = order else { continue };
            self.purged.remove(group);
            self.segments.forget(*group);
            if let Some(index) = journal.index(*group) {
                lock(&index).forget();
            }
        }
    }

    fn finish(&mut self, batch: Vec<Order>) {
        let mut purges = false;
        for order in batch {
            match &order {
                Order::Purge { group, upto } => {
                    purges = true;
                    self.purged.insert(*group, upto.index);
                }
                Order::Forget { .. } => purges = true,
                Order::Append { .. } | Order::Vote { .. } | Order::Truncate { .. } => {}
            }
            order.answer(Ok(()));
        }
        if purges && let Some(tail) = &self.tail {
            // A file that stays is removed with a later purge, or read again after a restart: nothing is lost.
            if let Err(e) = self.segments.release(tail.segment, &self.purged) {
                tracing::warn!(error = %e, "an old segment of the log could not be removed");
            }
        }
    }
}

/// What older segments say of the groups, apart from entries, so that they can go.
fn push_state(journal: &Journal, frame: &mut Builder) {
    for (group, index) in journal.all() {
        let state = lock(&index).state();
        if let Some(vote) = state.vote {
            frame.push(group, Kind::Vote, Position::default(), &vote);
        }
        if let Some(purged) = state.purged {
            frame.push(group, Kind::Purge, purged, &[]);
        }
        if let Some(committed) = state.committed {
            frame.push(group, Kind::Committed, committed, &[]);
        }
    }
}

fn push(order: &Order, frame: &mut Builder, mut placed: impl FnMut(GroupId, Position, usize, usize)) {
    match order {
        Order::Append { group, entries, .. } => {
            for (position, bytes) in entries {
                let start = frame.push(*group, Kind::Entry, *position, bytes);
                placed(*group, *position, start, bytes.len());
            }
        }
        Order::Vote { group, vote, .. } => {
            frame.push(*group, Kind::Vote, Position::default(), vote);
        }
        Order::Truncate { group, from } => {
            frame.push(*group, Kind::Truncate, Position { index: *from, ..Position::default() }, &[]);
        }
        Order::Purge { group, upto } => {
            frame.push(*group, Kind::Purge, *upto, &[]);
        }
        Order::Forget { group, .. } => {
            frame.push(*group, Kind::Forget, Position::default(), &[]);
        }
    }
}

fn write_and_sync(file: &File, bytes: &[u8], at: u64) -> std::io::Result<()> {
    file.write_all_at(bytes, at)?;
    file.sync_data()
}
