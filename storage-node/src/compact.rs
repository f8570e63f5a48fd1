//! Gives the space of dead records back: copy what counts, verify, switch, delete.
//!
//! ```text
//! choose a segment -> retire it -> walk it: move what counts through the writer (verified, synced)
//!   -> forget what does not -> fold the index (durable: all is elsewhere, the segment is obsolete) -> delete the file
//! ```
//! A crash before the fold leaves copies with equal stamps, of which the later place wins; a crash after it leaves a segment
//! that the index calls obsolete, deleted at the next start before anything else.
//!
//! Invariants: a put is dropped only if it is older than another one, damaged, or was in the trash for `trash_age`; the
//! trash record that covers a put stays as long as any put of its name is on disk, so that an index made anew says the same;
//! a segment with a put that the index does not know is never deleted.

use crate::core::{Core, Loss, now};
use crate::entry::{Put, Standing, Trash};
use crate::op::{Op, Walked};
use crate::record::{Body, Record, SegmentId};
use crate::scan::{self, Walk};
use bytes::Bytes;
use spine::id::UnixMs;
use spine::wire::chunk::ShardName;
use spine::wire::shard::{NodeError, ShardHeader};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

/// Bytes that are on their way through the writer at once.
const BATCH_BYTES: u64 = 4 << 20;
const BATCH_OPS: usize = 256;
/// Looks for work again after work was done, since dropping puts makes trash records droppable.
const PASSES: usize = 8;

/// What one call did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Segments deleted, and their bytes.
    pub segments: u64,
    pub freed_bytes: u64,
    /// Bytes of records that were moved.
    pub copied_bytes: u64,
}

pub struct Compactor {
    core: Arc<Core>,
    queue: UnboundedSender<Op>,
}

/// Answers that are still to come from the writer.
#[derive(Default)]
struct Moving {
    waiting: Vec<oneshot::Receiver<Result<(), NodeError>>>,
    bytes: u64,
    copied: u64,
    /// What stays behind on purpose: expired puts, and the trash records over them.
    left_puts: u64,
    left_covers: u64,
}

impl Compactor {
    pub fn new(core: Arc<Core>, queue: UnboundedSender<Op>) -> Self {
        Self { core, queue }
    }

    /// Compacts every segment that is worth it. Blocks; call it from one thread at a time.
    pub fn round(&self) -> Result<Compacted, NodeError> {
        let mut sum = Compacted::default();
        for _ in 0..PASSES {
            self.fold()?;
            let expired_before = expiry(self.core.settings.trash_age.as_millis());
            let victims = self.victims(expired_before)?;
            if victims.is_empty() {
                break;
            }
            for segment in victims {
                self.core.serving()?;
                let done = self.compact(segment, expired_before)?;
                sum.segments += done.segments;
                sum.freed_bytes += done.freed_bytes;
                sum.copied_bytes += done.copied_bytes;
            }
        }
        self.shrink_index();
        Ok(sum)
    }

    /// Whether what does not count is as much as a quarter of what is left.
    pub fn is_worth_a_look(&self) -> bool {
        let (_, shard_bytes, _) = self.core.catalog.sums();
        self.core.used().saturating_sub(shard_bytes) > self.core.free() / 4
    }

    /// What was dropped from the segments leaves room in the index, too.
    fn shrink_index(&self) {
        // The copy takes from what is left of the disk, for a while.
        if self.core.space.physical() < 2 * self.core.catalog.index().bytes() {
            return;
        }
        match self.core.catalog.shrink() {
            Ok(0) => (),
            Ok(bytes) => tracing::debug!(disk = %self.core.settings.label, bytes, "the index was made smaller"),
            // It is as large as before, or the next look-up says what is wrong.
            Err(e) => tracing::warn!(disk = %self.core.settings.label, reason = %e, "the index could not be made smaller"),
        }
    }

    /// The segments worth compacting, the emptiest first.
    fn victims(&self, expired_before: UnixMs) -> Result<Vec<SegmentId>, NodeError> {
        let totals = self.core.catalog.totals();
        let unsure = totals.segments.values().any(|weight| {
            weight.trashed > 0
                && weight.oldest.is_some_and(|old| old < expired_before)
                && weight.newest.is_some_and(|new| new >= expired_before)
        });
        let counted = if unsure { Some(self.count_expired(expired_before)?) } else { None };
        let least_gain = (self.core.settings.segment_bytes / 4).min(1 << 20);
        let mut victims = Vec::new();
        for id in self.core.segments.ids() {
            let Some(size) = self.core.segments.size(id).filter(|size| *size > 0) else { continue };
            let weight = totals.segments.get(&id).copied().unwrap_or_default();
            let expired = match &counted {
                Some(counted) => counted.get(&id).copied().unwrap_or(0),
                None if weight.newest.is_some_and(|new| new < expired_before) => weight.trashed,
                None => 0,
            };
            let kept = (weight.live + weight.trashed + weight.covers).saturating_sub(expired);
            let dead = size.saturating_sub(kept);
            let share = dead as f64 / size as f64;
            let room = self.core.space.physical() > 2 * kept;
            // Nothing but expired puts, and what covers them: it goes, however small.
            let spent = weight.live == 0 && weight.trashed <= expired && expired > 0;
            if kept == 0 || spent || (share >= self.core.settings.compact_share && dead >= least_gain && room) {
                victims.push((kept, id));
            }
        }
        victims.sort();
        Ok(victims.into_iter().map(|(_, id)| id).collect())
    }

    /// Bytes of puts in each segment that have been in the trash long enough.
    fn count_expired(&self, expired_before: UnixMs) -> Result<HashMap<SegmentId, u64>, NodeError> {
        let mut out: HashMap<SegmentId, u64> = HashMap::new();
        self.each_entry(|_, standing| {
            if let Standing::Trashed(put, trash) = standing
                && trash.since < expired_before
            {
                *out.entry(put.at.segment).or_default() += put.at.size();
            }
        })?;
        Ok(out)
    }

    fn each_entry(&self, mut visit: impl FnMut(ShardName, Standing)) -> Result<(), NodeError> {
        let mut after = None;
        loop {
            let page = self.core.catalog.page(after.as_ref(), 4_096).map_err(|e| self.core.index_failed(e))?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(*last);
            page.iter().for_each(|(name, entry)| visit(*name, entry.standing()));
            self.core.serving()?;
        }
    }

    fn compact(&self, segment: SegmentId, expired_before: UnixMs) -> Result<Compacted, NodeError> {
        self.ask(|done| Op::Retire { segment, done })?;
        let mut moving = Moving::default();
        let mut puts = Vec::new();
        let file = self.core.segments.reader(segment).map_err(|e| self.unreadable(segment, &e))?;
        let mut walk = Walk::new(&file, segment, 0).map_err(|e| self.unreadable(segment, &e))?;
        while let Some(record) = walk.next().map_err(|e| self.unreadable(segment, &e))? {
            self.core.serving()?;
            match record.body {
                Body::Put(header) => {
                    puts.push(Walked { name: header.name, stamp: record.stamp, at: record.location() });
                    self.move_put(&file, &record, header, expired_before, &mut moving)?;
                }
                Body::Trash(name) => self.move_trash(&name, &record, expired_before, &mut moving)?,
            }
        }
        self.wait(&mut moving)?;
        self.move_what_was_not_walked(segment, &mut puts, &mut moving)?;
        self.ask(|done| Op::Drop { segment, puts, expired_before, done })?;
        self.fold()?;
        let freed_bytes = self.core.segments.size(segment).unwrap_or(0);
        self.core.segments.delete(segment).map_err(|e| self.unreadable(segment, &e))?;
        self.core.catalog.forget_segment(segment);
        self.core.metrics.compacted_bytes.inc_by(moving.copied);
        self.core.metrics.freed_bytes.inc_by(freed_bytes);
        tracing::debug!(disk = %self.core.settings.label, %segment, copied = moving.copied, freed_bytes, "a segment was compacted");
        Ok(Compacted { segments: 1, freed_bytes, copied_bytes: moving.copied })
    }

    fn move_put(
        &self,
        file: &File,
        record: &Record,
        header: ShardHeader,
        expired_before: UnixMs,
        moving: &mut Moving,
    ) -> Result<(), NodeError> {
        let name = header.name;
        let entry = self.core.catalog.lookup(&name).map_err(|e| self.core.index_failed(e))?;
        let at = record.location();
        let here = Put { at, stamp: record.stamp };
        match entry.map_or(Standing::Absent, |entry| entry.standing()) {
            Standing::Live(put) if put == here => (),
            Standing::Trashed(put, trash) if put == here && trash.since >= expired_before => (),
            Standing::Trashed(put, _) if put == here => {
                moving.left_puts += at.size();
                return Ok(());
            }
            Standing::Trashed(put, _) | Standing::Damaged(put) | Standing::Live(put) if put.stamp >= here.stamp => return Ok(()),
            _ => {
                let known = self.core.catalog.superseded_of(&name).map_err(|e| self.core.index_failed(e))?;
                if known.iter().any(|superseded| superseded.at == at) {
                    return Ok(());
                }
                let reason = format!("segment {} has a put of {name:?} that the index does not know", at.segment);
                tracing::error!(disk = %self.core.settings.label, %reason, "the index is wrong");
                self.core.lose(Loss { reason: reason.clone(), abandoned: None, reindex: true });
                return Err(NodeError::Unavailable { reason });
            }
        }
        let whole = |data: &[u8]| blake3::hash(data).as_bytes() == &header.root.0;
        let read = || match scan::read_shard(file, record) {
            Err(e) if e.raw_os_error() == Some(libc::EIO) => Ok(Bytes::new()),
            other => other.map_err(|e| self.unreadable(at.segment, &e)),
        };
        let mut data = read()?;
        if !whole(&data) {
            // Once more: memory and cables err too.
            data = read()?;
        }
        if !whole(&data) {
            self.core.check_present()?;
            return self.send(Op::SetAside { name, at, permit: None });
        }
        moving.bytes += at.size();
        moving.copied += at.size();
        self.ask_later(moving, |done| Op::Move { header, at: record.at, from: here, data, done })
    }

    fn move_trash(&self, name: &ShardName, record: &Record, expired_before: UnixMs, moving: &mut Moving) -> Result<(), NodeError> {
        let entry = self.core.catalog.lookup(name).map_err(|e| self.core.index_failed(e))?;
        let Some(Standing::Trashed(put, trash)) = entry.map(|entry| entry.standing()) else { return Ok(()) };
        if trash.at != record.location() {
            return Ok(());
        }
        if trash.since < expired_before && put.at.segment == record.segment {
            // The put goes with this segment; unless an older one lies elsewhere, nothing is left to cover.
            let older = self.core.catalog.superseded_of(name).map_err(|e| self.core.index_failed(e))?;
            if older.iter().all(|older| older.at.segment == record.segment) {
                moving.left_covers += trash.at.size();
                return Ok(());
            }
        }
        self.move_cover(*name, trash, moving)
    }

    fn move_cover(&self, name: ShardName, from: Trash, moving: &mut Moving) -> Result<(), NodeError> {
        moving.bytes += from.at.size();
        moving.copied += from.at.size();
        self.ask_later(moving, |done| Op::MoveTrash { name, from, done })
    }

    /// Records whose headers do not read any more: the index still knows what they said.
    fn move_what_was_not_walked(&self, segment: SegmentId, puts: &mut Vec<Walked>, moving: &mut Moving) -> Result<(), NodeError> {
        let weight = self.core.catalog.weight(segment);
        if weight.live == 0 && weight.trashed <= moving.left_puts && weight.covers <= moving.left_covers {
            return Ok(());
        }
        let walked: HashSet<_> = puts.iter().map(|walked| walked.at).collect();
        let (mut lost, mut covers) = (Vec::new(), Vec::new());
        self.each_entry(|name, standing| {
            let put = match standing {
                Standing::Live(put) | Standing::Damaged(put) => Some(put),
                Standing::Trashed(put, trash) => {
                    if trash.at.segment == segment {
                        covers.push((name, trash));
                    }
                    Some(put)
                }
                Standing::Absent => None,
            };
            if let Some(put) = put.filter(|put| put.at.segment == segment && !walked.contains(&put.at)) {
                lost.push(Walked { name, stamp: put.stamp, at: put.at });
            }
        })?;
        for walked in lost {
            self.send(Op::SetAside { name: walked.name, at: walked.at, permit: None })?;
            puts.push(walked);
        }
        for (name, trash) in covers {
            self.move_cover(name, trash, moving)?;
        }
        self.wait(moving)
    }

    fn unreadable(&self, segment: SegmentId, error: &std::io::Error) -> NodeError {
        match self.core.check_present() {
            Err(lost) => lost,
            Ok(()) => NodeError::Unavailable { reason: format!("segment {segment} cannot be compacted: {error}") },
        }
    }

    fn fold(&self) -> Result<(), NodeError> {
        self.core.catalog.fold().map_err(|e| self.core.index_failed(e))
    }

    fn send(&self, op: Op) -> Result<(), NodeError> {
        self.queue.send(op).map_err(|_| NodeError::Unavailable { reason: "the writer has ended".to_string() })
    }

    /// Has the writer do something and waits until it is done.
    fn ask(&self, op: impl FnOnce(crate::op::Done) -> Op) -> Result<(), NodeError> {
        let (done, answer) = oneshot::channel();
        self.send(op(done))?;
        answer.blocking_recv().map_err(|_| NodeError::Unavailable { reason: "the writer has ended".to_string() })?
    }

    /// Has the writer do something; waits for it, and what went before, when enough is on its way.
    fn ask_later(&self, moving: &mut Moving, op: impl FnOnce(crate::op::Done) -> Op) -> Result<(), NodeError> {
        let (done, answer) = oneshot::channel();
        self.send(op(done))?;
        moving.waiting.push(answer);
        if moving.bytes >= BATCH_BYTES || moving.waiting.len() >= BATCH_OPS {
            self.wait(moving)?;
        }
        Ok(())
    }

    fn wait(&self, moving: &mut Moving) -> Result<(), NodeError> {
        moving.bytes = 0;
        for answer in std::mem::take(&mut moving.waiting) {
            answer.blocking_recv().map_err(|_| NodeError::Unavailable { reason: "the writer has ended".to_string() })??;
        }
        Ok(())
    }
}

/// What was put in the trash before this has been there for `age_ms`.
fn expiry(age_ms: u128) -> UnixMs {
    let age = u64::try_from(age_ms).unwrap_or(u64::MAX);
    UnixMs(now().0.saturating_add(1).saturating_sub(age))
}
