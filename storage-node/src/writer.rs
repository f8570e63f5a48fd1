//! The one thread that writes to a disk and changes its catalog.
//!
//! ```text
//! queue -> group: stage records -> one write -> one fdatasync -> is the disk still there? -> catalog -> acknowledge all
//! ```
//! While a group is synced the next one gathers in the queue: group commit without a timer.
//!
//! Invariants: nothing is acknowledged, or visible in the catalog, before its record is synced in a file that is still
//! linked; a group is begun only when the one before it is synced; a failed sync is never tried again: the segment ends
//! at its last good byte and the disk is lost until it is opened again.
//! Not here: in which segment there is room (`writer/roll.rs`), what is worth moving or dropping (`compact.rs`).

mod roll;

use crate::catalog::{Applied, Change, RECENT_ENTRIES};
use crate::core::{Core, Loss, now};
use crate::entry::{Entry, Put, Standing, Trash};
use crate::index::{Position, Superseded};
use crate::op::{Done, Op, Walked};
use crate::record::{BLOCK, Body, Location, Record, SegmentId, Stamp, record_size};
use crate::stage::Stage;
use bytes::Bytes;
use roll::{Claim, Open, grow_ahead};
use spine::id::{ShardRoot, UnixMs};
use spine::wire::chunk::ShardName;
use spine::wire::shard::{NodeError, ShardHeader};
use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc::UnboundedReceiver;

/// A group is closed at this many bytes or operations, so that the first of them does not wait long for the last.
const GROUP_BYTES: u64 = 16 << 20;
const GROUP_OPS: usize = 1_024;

#[derive(Default)]
struct Group {
    /// Offset of the first and behind the last staged record.
    start: u64,
    end: u64,
    records: usize,
    ops: usize,
    /// Names changed in this group, and the root if it was put.
    view: HashMap<ShardName, (Option<Entry>, Option<ShardRoot>)>,
    applied: Applied,
    waiting: Vec<Done>,
    shard_bytes: u64,
}

pub struct Writer {
    core: Arc<Core>,
    queue: UnboundedReceiver<Op>,
    stage: Stage,
    open: Option<Open>,
    /// A segment with room that is closed and sealed, and where it ends.
    rested: Option<(SegmentId, u64)>,
    next_segment: SegmentId,
    group: Group,
}

impl Writer {
    /// - `rested`: the segment to go on with, if it has room; its tail is cut and synced.
    /// - `next_segment`: higher than every segment there ever was.
    pub fn new(core: Arc<Core>, queue: UnboundedReceiver<Op>, rested: Option<(SegmentId, u64)>, next_segment: SegmentId) -> Self {
        let stage = Stage::new(core.segments.is_direct());
        Self { core, queue, stage, open: None, rested, next_segment, group: Group::default() }
    }

    /// Until told to stop, or nobody can tell any more.
    pub fn run(mut self) {
        'groups: while let Some(first) = self.queue.blocking_recv() {
            let mut next = Some(first);
            while let Some(op) = next.take() {
                if matches!(op, Op::Stop) {
                    break 'groups;
                }
                self.take(op);
                if self.group.ops < GROUP_OPS && self.group.end - self.group.start < GROUP_BYTES {
                    next = self.queue.try_recv().ok();
                }
            }
            // Whoever waits is told by the commit itself.
            let _ = self.commit();
        }
        let _ = self.commit();
        if self.core.loss().is_none()
            && let Err(e) = self.rest()
        {
            tracing::warn!(disk = %self.core.settings.label, reason = %e, "the open segment could not be sealed; the next start does it");
        }
    }

    fn take(&mut self, op: Op) {
        self.group.ops += 1;
        if matches!(op, Op::Drop { .. } | Op::SetAside { .. } | Op::Rest { .. } | Op::Retire { .. }) {
            // These stand between groups; a group that fails has told its own.
            let _ = self.commit();
        }
        let lost = self.core.alive().err();
        match op {
            Op::Put { header, data, permit, done } => {
                let result = lost.map_or_else(|| self.put(header, &data), Err);
                drop((data, permit));
                self.answer(result, done);
            }
            Op::Trash { names, permit, done } => {
                let result = lost.map_or_else(|| names.iter().try_for_each(|name| self.trash(name)), Err);
                drop((names, permit));
                self.answer(result, done);
            }
            Op::Move { header, at, from, data, done } => {
                let result = lost.map_or_else(|| self.relocate(header, at, from, &data), Err);
                self.answer(result, done);
            }
            Op::MoveTrash { name, from, done } => {
                let result = lost.map_or_else(|| self.relocate_trash(&name, from), Err);
                self.answer(result, done);
            }
            Op::Drop { segment, puts, expired_before, done } => {
                let result = lost.map_or_else(|| self.forget(segment, &puts, expired_before), Err);
                let _ = done.send(result);
            }
            Op::SetAside { name, at, permit } => {
                if lost.is_none() {
                    self.set_aside(&name, at);
                }
                drop(permit);
            }
            Op::Rest { done } => {
                let result = lost.map_or_else(|| self.rest().map_err(|e| self.failed("seal the segment", e)), Err);
                let _ = done.send(result);
            }
            Op::Retire { segment, done } => {
                let result = lost.map_or_else(|| self.retire(segment), Err);
                let _ = done.send(result);
            }
            Op::Stop => (),
        }
    }

    /// A success is told when the group is durable, a failure at once.
    fn answer(&mut self, result: Result<(), NodeError>, done: Done) {
        match result {
            Ok(()) => self.group.waiting.push(done),
            Err(e) => {
                let _ = done.send(Err(e));
            }
        }
    }

    fn put(&mut self, header: ShardHeader, data: &Bytes) -> Result<(), NodeError> {
        let name = header.name;
        let (old, staged_root) = self.view(&name)?;
        if let Some(Standing::Live(put)) = old.map(|entry| entry.standing()) {
            let root = match staged_root {
                Some(root) => Some(root),
                None => self.core.read_header(&name, put.at).ok().flatten().map(|header| header.root),
            };
            match root {
                Some(root) if root == header.root => return Ok(()),
                Some(_) => return Err(NodeError::Invalid { what: "another shard is stored under this name".to_string() }),
                None => self.core.check_present()?,
            }
        }
        let free = self.core.free();
        let crowded = self.core.catalog.unfolded() > RECENT_ENTRIES || self.core.catalog.index().is_nearly_full();
        if record_size(header.len) + BLOCK > free || crowded {
            return Err(NodeError::Full { free });
        }
        let stamp = self.core.catalog.stamp();
        let at = self.stage(Body::Put(header), stamp, now(), data, Claim::Free)?;
        let mut entry = old.unwrap_or_default();
        let dead = entry.merge_put(Put { at, stamp });
        self.group.applied.superseded.extend(dead.map(|put| (Superseded { name, stamp: put.stamp, at: put.at }, true)));
        self.group.shard_bytes += u64::from(header.len);
        self.change(name, old, entry.settle(), Some(header.root));
        Ok(())
    }

    fn trash(&mut self, name: &ShardName) -> Result<(), NodeError> {
        let (old, _) = self.view(name)?;
        let Some(Standing::Live(_) | Standing::Damaged(_)) = old.map(|entry| entry.standing()) else { return Ok(()) };
        let (stamp, since) = (self.core.catalog.stamp(), now());
        let at = self.stage(Body::Trash(*name), stamp, since, &Bytes::new(), Claim::Reserve)?;
        let mut entry = old.unwrap_or_default();
        entry.merge_trash(Trash { at, stamp, since });
        self.change(*name, old, Some(entry), None);
        Ok(())
    }

    fn relocate(&mut self, header: ShardHeader, written: UnixMs, from: Put, data: &Bytes) -> Result<(), NodeError> {
        let name = header.name;
        let (old, _) = self.view(&name)?;
        let Some(mut entry) = old.filter(|entry| entry.put == Some(from) && !entry.damaged) else { return Ok(()) };
        let at = self.stage(Body::Put(header), from.stamp, written, data, Claim::Reserve)?;
        let dead = entry.merge_put(Put { at, stamp: from.stamp });
        self.group.applied.superseded.extend(dead.map(|put| (Superseded { name, stamp: put.stamp, at: put.at }, true)));
        self.change(name, old, Some(entry), Some(header.root));
        Ok(())
    }

    fn relocate_trash(&mut self, name: &ShardName, from: Trash) -> Result<(), NodeError> {
        let (old, _) = self.view(name)?;
        let Some(mut entry) = old.filter(|entry| entry.trash == Some(from)) else { return Ok(()) };
        let at = self.stage(Body::Trash(*name), from.stamp, from.since, &Bytes::new(), Claim::Reserve)?;
        entry.merge_trash(Trash { at, ..from });
        self.change(*name, old, Some(entry), None);
        Ok(())
    }

    /// Everything that `puts` lists is dead, or the whole call is refused.
    fn forget(&mut self, segment: SegmentId, puts: &[Walked], expired_before: UnixMs) -> Result<(), NodeError> {
        let core = self.core.clone();
        let failed = |e| core.index_failed(e);
        let mut applied = Applied { obsolete: Some(segment), ..Applied::default() };
        for walked in puts {
            let name = walked.name;
            let dead = Superseded { name, stamp: walked.stamp, at: walked.at };
            applied.superseded.push((dead, false));
            let Some(entry) = self.core.catalog.lookup(&name).map_err(failed)? else { continue };
            if entry.put.is_none_or(|put| put.at != walked.at) {
                continue;
            }
            match entry.standing() {
                _ if entry.damaged => (),
                Standing::Damaged(_) | Standing::Absent => (),
                Standing::Trashed(_, trash) if trash.since < expired_before => (),
                Standing::Live(_) | Standing::Trashed(..) => {
                    return Err(NodeError::Invalid { what: format!("segment {segment} still holds what counts") });
                }
            }
            // An older put of the name may still lie elsewhere: its trash record has to stay for as long.
            let older = self.core.catalog.superseded_of(&name).map_err(failed)?;
            let heir = older.into_iter().rfind(|older| older.at.segment != segment);
            let new = heir.map(|heir| Entry { put: Some(Put { at: heir.at, stamp: heir.stamp }), damaged: true, ..entry });
            applied.superseded.extend(heir.map(|heir| (heir, false)));
            applied.changes.push(Change { name, old: Some(entry), new });
        }
        self.core.catalog.apply(applied);
        Ok(())
    }

    fn set_aside(&mut self, name: &ShardName, at: Location) {
        let Ok((Some(entry), _)) = self.view(name) else { return };
        if entry.damaged || entry.put.is_none_or(|put| put.at != at) {
            return;
        }
        let change = Change { name: *name, old: Some(entry), new: Some(Entry { damaged: true, ..entry }) };
        self.core.catalog.apply(Applied { changes: vec![change], ..Applied::default() });
        self.core.metrics.damaged.inc();
        tracing::error!(disk = %self.core.settings.label, shard = ?name, segment = %at.segment, offset = at.offset, "a shard is damaged and set aside");
    }

    /// What is true of a name after what this group already holds.
    fn view(&self, name: &ShardName) -> Result<(Option<Entry>, Option<ShardRoot>), NodeError> {
        if let Some(seen) = self.group.view.get(name) {
            return Ok(*seen);
        }
        let entry = self.core.catalog.lookup(name).map_err(|e| self.core.index_failed(e))?;
        Ok((entry, None))
    }

    fn change(&mut self, name: ShardName, old: Option<Entry>, new: Option<Entry>, root: Option<ShardRoot>) {
        self.group.view.insert(name, (new, root));
        self.group.applied.changes.push(Change { name, old, new });
    }

    /// Adds a record to the group, in the open segment or a new one. Returns where it will be.
    fn stage(&mut self, body: Body, stamp: Stamp, at: UnixMs, data: &Bytes, claim: Claim) -> Result<Location, NodeError> {
        let len = u32::try_from(data.len()).map_err(|_| NodeError::Invalid { what: "a shard above 4 GiB".to_string() })?;
        let size = record_size(len);
        if !self.fits(size) || self.group.end - self.group.start >= GROUP_BYTES {
            self.commit()?;
            self.core.alive()?;
            if !self.fits(size) {
                self.roll(size, claim)?;
            }
        }
        let Some(open) = &self.open else { return Err(NodeError::Unavailable { reason: "no open segment".to_string() }) };
        if self.group.records == 0 {
            self.group.start = open.synced;
            self.group.end = open.synced;
            self.stage.begin(open.synced);
        }
        let record = Record { body, stamp, at, segment: open.id, offset: self.group.end, group: self.group.start };
        if let Err(e) = self.stage.push(&open.file, record.encode(), data) {
            // Part of the group may be on disk: the rest of it fails with this one.
            return Err(self.abandon("write", e));
        }
        self.group.records += 1;
        self.group.end += size;
        Ok(record.location())
    }

    fn fits(&self, size: u64) -> bool {
        let end = if self.group.records == 0 { self.open.as_ref().map_or(0, |open| open.synced) } else { self.group.end };
        self.open.as_ref().is_some_and(|open| end + size <= open.room)
    }

    /// Makes the group durable and tells everyone.
    fn commit(&mut self) -> Result<(), NodeError> {
        let mut group = std::mem::take(&mut self.group);
        if group.records > 0 {
            match self.make_durable() {
                Ok(upto) => group.applied.upto = Some(upto),
                Err(error) => {
                    tell(group.waiting, Err(error.clone()));
                    return Err(error);
                }
            }
            self.core.catalog.apply(group.applied);
            self.core.metrics.written_bytes.inc_by(group.shard_bytes);
        }
        tell(group.waiting, Ok(()));
        Ok(())
    }

    /// Writes what is staged and syncs it. Returns up to where everything is durable now.
    fn make_durable(&mut self) -> Result<Position, NodeError> {
        let Some(open) = &mut self.open else { return Err(NodeError::Unavailable { reason: "the segment was abandoned".to_string() }) };
        let end = match self.stage.finish(&open.file) {
            Ok(end) => end,
            Err(e) => return Err(self.abandon("write", e)),
        };
        let started = Instant::now();
        let grown = grow_ahead(&self.core, open, end);
        // A new length has to be durable before anything is written behind the old one.
        let synced = if grown.is_some() { open.file.sync_all() } else { open.file.sync_data() };
        if let Err(e) = synced {
            return Err(self.abandon("sync", e));
        }
        self.core.metrics.sync_seconds.observe(started.elapsed().as_secs_f64());
        if !open.file.metadata().is_ok_and(|meta| meta.nlink() > 0) {
            self.core.lose_for("the open segment was deleted");
        }
        self.core.check_present()?;
        let (id, before) = (open.id, open.synced);
        open.synced = end;
        open.room = grown.map_or(open.room, |room| room - BLOCK);
        self.core.segments.set_size(id, end);
        match self.core.segments.is_backed() {
            true if grown.is_some() => self.refresh_space(),
            true => (),
            false => self.core.space.spend(end - before),
        }
        self.tell_room();
        Ok(Position { segment: id.0, offset: end })
    }

    /// The group could not be written: it fails as a whole. The segment ends where it was last good; the disk is lost,
    /// unless it was only full.
    fn abandon(&mut self, step: &str, error: io::Error) -> NodeError {
        let group = std::mem::take(&mut self.group);
        let reason = format!("{step} failed: {error}");
        let full = is_no_space(&error) && step == "write";
        let told = match self.open.take() {
            Some(open) if full && self.core.segments.seal(open.id, open.synced).is_ok() => {
                self.rested = None;
                self.core.space.set_open(None);
                self.full()
            }
            open => {
                let abandoned = open.map(|open| (open.id, open.synced));
                self.core.lose(Loss { reason: reason.clone(), abandoned, reindex: false });
                NodeError::Unavailable { reason }
            }
        };
        tell(group.waiting, Err(told.clone()));
        told
    }

    fn failed(&self, step: &str, error: io::Error) -> NodeError {
        let reason = format!("{step} failed: {error}");
        self.core.lose_for(reason.clone());
        NodeError::Unavailable { reason }
    }
}

fn tell(waiting: Vec<Done>, result: Result<(), NodeError>) {
    for done in waiting {
        // Nobody waits any more: the caller was cancelled. What is durable stays.
        let _ = done.send(result.clone());
    }
}

fn is_no_space(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}
