//! Opens a disk: brings the index up to what the segments say, or makes it anew from them.
//!
//! ```text
//! cut what a failed write left -> index good? -> delete obsolete segments -> read segments from the index's mark on
//!                                  no: delete it, read all segments        -> cut the torn tail -> merge -> write the index
//! ```
//! Invariants: every acknowledged record is found (it was synced, and only an unacknowledged group can be torn); what is
//! served after opening is durable; opening twice gives the same as opening once.
//! Not here: how two records become one entry (`entry.rs`), where a tail is torn (`scan.rs`).

use crate::catalog::{Catalog, Totals};
use crate::core::Parts;
use crate::entry::{Entry, Put, Standing};
use crate::identity::{DiskLock, FORMAT, Identity, has_segments};
use crate::index::{Changes, Index, IndexError, Mark, Position, Superseded};
use crate::node_key::NodeKey;
use crate::record::{BLOCK, Body, Record, SegmentId, align_up};
use crate::scan;
use crate::segment::Segments;
use crate::settings::{OpenError, Settings};
use crate::space::Space;
use spine::wire::chunk::ShardName;
use std::fs;
use std::path::Path;

/// Changes written to the index at a time while it is made.
const BATCH: usize = 50_000;

/// An opened disk, and where its writer goes on.
pub struct Opened {
    pub parts: Parts,
    /// The last segment and its end.
    pub rested: Option<(SegmentId, u64)>,
    pub next_segment: SegmentId,
}

/// What is known before opening.
#[derive(Clone, Copy, Debug, Default)]
pub struct How {
    /// An empty or missing directory gets a new identity.
    pub adopt: bool,
    /// An identity without segments is served as it is, empty.
    pub take_over: bool,
    /// What is behind this offset was not written, whatever can be read there.
    pub abandoned: Option<(SegmentId, u64)>,
    /// The index is known to be wrong.
    pub reindex: bool,
}

/// Opens the disk in `settings.dir`.
pub fn open(settings: &Settings, how: &How) -> Result<Opened, OpenError> {
    let How { adopt, take_over, abandoned, reindex } = *how;
    let (lock, identity) = enter(settings, adopt, take_over)?;
    let segments = Segments::open(settings.dir.join("segments")).map_err(OpenError::io("list the segments"))?;
    if let Some((id, end)) = abandoned
        && segments.size(id).is_some_and(|size| size > end)
    {
        segments.seal(id, end).map_err(OpenError::io("cut a segment"))?;
    }
    let node = identity.node.0;
    let usable = match reindex {
        true => Err("it was found wrong".to_string()),
        false => usable_index(settings, &segments, node).map_err(|e| e.to_string()),
    };
    let caught_up = match usable {
        Ok((index, mark)) => match catch_up(settings, &segments, index, mark) {
            Err(OpenError::Index { reason }) => Err(reason),
            other => Ok(other?),
        },
        Err(reason) => Err(reason),
    };
    let (index, mark, totals) = match caught_up {
        Ok(ready) => ready,
        Err(reason) => {
            if !segments.ids().is_empty() {
                tracing::warn!(disk = %settings.label, %reason, "the index is made anew from the segments");
            }
            make_anew(settings, &segments, node)?
        }
    };
    let space = Space::new(&settings.dir, settings.capacity).map_err(OpenError::io("ask for free space"))?;
    space.refresh(index.bytes()).map_err(OpenError::io("ask for free space"))?;
    let last = segments.ids().last().copied();
    // Never one before the index's mark: what is written there the next start would not look for.
    let rested = last.filter(|id| id.0 >= mark.upto.segment).and_then(|id| segments.size(id).map(|size| (id, align_up(size, BLOCK))));
    let highest = last.map_or(0, |id| id.0).max(mark.upto.segment);
    let catalog = Catalog::new(index, mark, totals);
    let parts = Parts { settings: settings.clone(), identity, catalog, segments, space, lock };
    Ok(Opened { parts, rested, next_segment: SegmentId(highest + 1) })
}

/// Locks the directory and finds out, or makes, whose disk it is.
fn enter(settings: &Settings, adopt: bool, take_over: bool) -> Result<(DiskLock, Identity), OpenError> {
    let dir = &settings.dir;
    let missing = || OpenError::Missing { dir: dir.clone() };
    if !dir.is_dir() {
        if !adopt {
            return Err(missing());
        }
        fs::create_dir_all(dir).map_err(OpenError::io("make the directory"))?;
    }
    if !adopt && !dir.join("node.json").exists() {
        // Nothing is written into a directory that is not ours, not even a lock.
        return match has_segments(dir).map_err(OpenError::io("look for segments"))? {
            true => Err(OpenError::NoIdentity { dir: dir.clone() }),
            false => Err(missing()),
        };
    }
    let lock = DiskLock::take(dir)?;
    let segments = dir.join("segments");
    let found = Identity::read(dir)?;
    if let Some(identity) = found.as_ref().filter(|_| !segments.is_dir() && !take_over) {
        return Err(OpenError::NoSegments { dir: dir.clone(), node: identity.node });
    }
    // The directory before the identity: one without the other means that it went missing.
    if adopt {
        fs::create_dir_all(&segments).map_err(OpenError::io("make the segments directory"))?;
    }
    let identity = match found {
        Some(identity) => identity,
        None if adopt => Identity::create(dir, settings.keyed)?,
        None => return Err(missing()),
    };
    if settings.keyed {
        NodeKey::of(dir, identity.node)?;
    }
    match settings.expected {
        Some(expected) if expected != identity.node => Err(OpenError::OtherDisk { dir: dir.clone(), found: identity.node, expected }),
        _ => Ok((lock, identity)),
    }
}

fn index_dir(settings: &Settings) -> std::path::PathBuf {
    settings.dir.join("index")
}

fn of_index(error: IndexError) -> OpenError {
    OpenError::Index { reason: error.to_string() }
}

/// The index as it was left, if it is this disk's and fits its segments.
fn usable_index(settings: &Settings, segments: &Segments, node: [u8; 32]) -> Result<(Index, Mark), IndexError> {
    let dir = index_dir(settings);
    if !dir.join("data.mdb").exists() {
        return Err(IndexError::Corrupt { what: "there is none".to_string() });
    }
    let index = Index::open(&dir, settings.index_map_bytes, false)?;
    let mark = index.mark()?;
    let corrupt = |what: String| Err(IndexError::Corrupt { what });
    if mark.format != FORMAT || mark.node != node || !mark.complete {
        return corrupt("it is incomplete or of another disk".to_string());
    }
    if segments.size(SegmentId(mark.upto.segment)).is_some_and(|size| size < mark.upto.offset) {
        return corrupt(format!("it knows more of segment {} than there is", mark.upto.segment));
    }
    let mut misfit = None;
    index.walk(None, |name, entry| {
        let puts = entry.put.map(|put| put.at);
        let trashes = entry.trash.map(|trash| trash.at);
        for at in puts.into_iter().chain(trashes) {
            let whole = segments.size(at.segment).is_some_and(|size| at.offset + crate::record::HEADER as u64 + u64::from(at.len) <= size);
            if !whole || mark.obsolete.contains(&at.segment.0) {
                misfit = Some(name);
            }
        }
        misfit.is_none()
    })?;
    match misfit {
        Some(name) => corrupt(format!("a record of {name:?} is in no segment")),
        None => Ok((index, mark)),
    }
}

/// Takes in what was synced after the index was last folded.
fn catch_up(settings: &Settings, segments: &Segments, index: Index, mut mark: Mark) -> Result<(Index, Mark, Totals), OpenError> {
    for number in std::mem::take(&mut mark.obsolete) {
        segments.delete(SegmentId(number)).map_err(OpenError::io("delete a segment"))?;
    }
    let mut merging = Merging { index, mark, pending: Changes::default(), seen: Vec::new() };
    for id in segments.ids() {
        if id.0 < merging.mark.upto.segment {
            continue;
        }
        let from = if id.0 == merging.mark.upto.segment { merging.mark.upto.offset } else { 0 };
        merging.read(settings, segments, id, from, true)?;
    }
    merging.settle_seen().map_err(of_index)?;
    merging.finish(segments)
}

/// Reads every segment into a new index.
fn make_anew(settings: &Settings, segments: &Segments, node: [u8; 32]) -> Result<(Index, Mark, Totals), OpenError> {
    let dir = index_dir(settings);
    remove_all(&dir).map_err(OpenError::io("delete the index"))?;
    let index = Index::open(&dir, settings.index_map_bytes, false).map_err(of_index)?;
    let mark = Mark { format: FORMAT, node, ..Mark::default() };
    let mut merging = Merging { index, mark, pending: Changes::default(), seen: Vec::new() };
    for id in segments.ids() {
        merging.read(settings, segments, id, 0, false)?;
        merging.seen.clear();
    }
    merging.flush().map_err(of_index)?;
    merging.settle_all().map_err(of_index)?;
    merging.mark.complete = true;
    merging.finish(segments)
}

fn remove_all(dir: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// An index while records are merged into it.
struct Merging {
    index: Index,
    mark: Mark,
    pending: Changes,
    seen: Vec<ShardName>,
}

impl Merging {
    /// Merges the records of one segment, cutting a torn tail and an unused rest.
    fn read(&mut self, settings: &Settings, segments: &Segments, id: SegmentId, from: u64, verify: bool) -> Result<(), OpenError> {
        segments.settle(id).map_err(OpenError::io("sync a segment"))?;
        let file = segments.reader(id).map_err(OpenError::io("open a segment"))?;
        let contents = scan::read_segment(&file, id, from).map_err(OpenError::io("read a segment"))?;
        if contents.garbage > 0 {
            tracing::warn!(disk = %settings.label, segment = %id, bytes = contents.garbage, "unreadable bytes in a segment");
        }
        if let Some(end) = contents.torn {
            let size = segments.size(id).unwrap_or(0);
            tracing::info!(disk = %settings.label, segment = %id, end, size, "a segment that was being written ends here");
            segments.seal(id, end).map_err(OpenError::io("cut a segment"))?;
        }
        for record in &contents.records {
            let wrong = verify && !scan::is_whole(&file, record).map_err(OpenError::io("read a shard"))?;
            self.merge(record, wrong).map_err(of_index)?;
        }
        let end = segments.size(id).unwrap_or(0);
        if end == 0 {
            segments.delete(id).map_err(OpenError::io("delete an empty segment"))?;
        }
        self.mark.upto = self.mark.upto.max(Position { segment: id.0, offset: end });
        Ok(())
    }

    fn merge(&mut self, record: &Record, wrong: bool) -> Result<(), IndexError> {
        let name = record.name();
        let mut entry = self.get(&name)?.unwrap_or_default();
        let loser = entry.merge(record);
        if wrong && entry.put.is_some_and(|put| put.at == record.location()) && matches!(record.body, Body::Put(_)) {
            tracing::error!(shard = ?name, segment = %record.segment, offset = record.offset, "a shard is damaged and set aside");
            entry.damaged = true;
        }
        let supersede = |put: Put| (Superseded { name, stamp: put.stamp, at: put.at }, true);
        self.pending.superseded.extend(loser.map(supersede));
        self.pending.entries.insert(name, Some(entry));
        self.mark.next_stamp = self.mark.next_stamp.max(record.stamp.0 + 1);
        self.seen.push(name);
        match self.pending.entries.len() >= BATCH {
            true => self.flush(),
            false => Ok(()),
        }
    }

    fn get(&self, name: &ShardName) -> Result<Option<Entry>, IndexError> {
        match self.pending.entries.get(name) {
            Some(entry) => Ok(*entry),
            None => self.index.get(name),
        }
    }

    /// Writes what is pending under a mark that says it is not complete, so that a crash in between starts over.
    fn flush(&mut self) -> Result<(), IndexError> {
        let changes = std::mem::take(&mut self.pending);
        self.index.write(&changes, &Mark { complete: false, ..self.mark.clone() })
    }

    fn settle_seen(&mut self) -> Result<(), IndexError> {
        for name in std::mem::take(&mut self.seen) {
            let entry = self.get(&name)?.and_then(Entry::settle);
            self.pending.entries.insert(name, entry);
        }
        Ok(())
    }

    fn settle_all(&mut self) -> Result<(), IndexError> {
        let mut after = None;
        loop {
            let page = self.index.range(after.as_ref(), BATCH)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(*last);
            for (name, entry) in page {
                let settled = entry.settle();
                if settled != Some(entry) {
                    self.pending.entries.insert(name, settled);
                }
            }
            self.flush()?;
        }
    }

    /// Makes the index durable and sums it up.
    fn finish(mut self, segments: &Segments) -> Result<(Index, Mark, Totals), OpenError> {
        let changes = std::mem::take(&mut self.pending);
        self.mark.complete = true;
        self.index.write(&changes, &self.mark).map_err(of_index)?;
        let mut totals = Totals::default();
        self.index
            .walk(None, |_, entry| {
                debug_assert_ne!(entry.standing(), Standing::Absent);
                totals.add(&entry);
                true
            })
            .map_err(of_index)?;
        totals.segments.retain(|id, _| segments.size(*id).is_some());
        Ok((self.index, self.mark, totals))
    }
}
