//! What the disk knows of every name: the index on disk, and in front of it what is synced in segments but not folded in.
//!
//! ```text
//! writer -> recent (memory) -> folding (memory, while one transaction is written) -> index (LMDB, synced)
//! lookups ask in that order
//! ```
//! Invariants: only the writer thread changes entries, and only after the records that say so are synced; the index never
//! knows of a record that is not durable; a lookup that finds nothing in memory finds all that was folded before in the index.
//! Not here: reading segments back when the index is behind or gone (`recover.rs`).

use crate::entry::{Entry, Standing};
use crate::index::{Changes, Index, IndexError, Mark, Position, Superseded};
use crate::record::{HEADER, SegmentId, Stamp};
use spine::id::UnixMs;
use spine::wire::chunk::ShardName;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Entries not folded in at which the keeper folds before its time.
pub const FOLD_ENTRIES: usize = 4_096;
/// Entries not folded in at which puts are refused: the index does not keep up or cannot be written.
pub const RECENT_ENTRIES: usize = 262_144;

/// What counts in one segment, in bytes of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    pub live: u64,
    /// In the trash, however old.
    pub trashed: u64,
    /// Trash records that still cover a put.
    pub covers: u64,
    /// When the first and the last of the trashed were.
    pub oldest: Option<UnixMs>,
    pub newest: Option<UnixMs>,
}

/// Sums over all entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub shards: u64,
    pub shard_bytes: u64,
    pub trash_bytes: u64,
    pub damaged: u64,
    pub segments: BTreeMap<SegmentId, Weight>,
}

impl Totals {
    pub fn add(&mut self, entry: &Entry) {
        self.count(entry, true);
    }

    fn count(&mut self, entry: &Entry, up: bool) {
        let change = |total: &mut u64, by: u64| *total = if up { *total + by } else { total.saturating_sub(by) };
        match entry.standing() {
            Standing::Absent => (),
            Standing::Damaged(_) => change(&mut self.damaged, 1),
            Standing::Live(put) => {
                change(&mut self.shards, 1);
                change(&mut self.shard_bytes, u64::from(put.at.len));
                change(&mut self.segments.entry(put.at.segment).or_default().live, put.at.size());
            }
            Standing::Trashed(put, trash) => {
                change(&mut self.trash_bytes, u64::from(put.at.len));
                let weight = self.segments.entry(put.at.segment).or_default();
                change(&mut weight.trashed, put.at.size());
                if up {
                    // Kept wide when one leaves: a bound that is too wide only costs a look.
                    weight.oldest = Some(weight.oldest.map_or(trash.since, |old| old.min(trash.since)));
                    weight.newest = Some(weight.newest.map_or(trash.since, |new| new.max(trash.since)));
                }
                change(&mut self.segments.entry(trash.at.segment).or_default().covers, HEADER as u64);
            }
        }
    }
}

/// One entry's change, as the writer applies it.
#[derive(Clone, Debug)]
pub struct Change {
    pub name: ShardName,
    pub old: Option<Entry>,
    pub new: Option<Entry>,
}

/// What the writer hands over after a sync: taken in, and later folded in, as one.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    pub changes: Vec<Change>,
    /// `true`: there is one more; `false`: it is gone.
    pub superseded: Vec<(Superseded, bool)>,
    /// Everything before this is taken in now.
    pub upto: Option<Position>,
    /// Nothing in this segment counts any more.
    pub obsolete: Option<SegmentId>,
}

#[derive(Default)]
struct Inner {
    recent: Changes,
    folding: Arc<Changes>,
    upto: Position,
    next_stamp: u64,
    obsolete: Vec<u64>,
    /// Something changed that the index does not have.
    dirty: bool,
    totals: Totals,
}

pub struct Catalog {
    index: Index,
    node: [u8; 32],
    inner: Mutex<Inner>,
    /// One fold at a time.
    fold: Mutex<()>,
}

impl Catalog {
    /// In front of an index that is complete up to `mark`, whose entries sum up to `totals`.
    pub fn new(index: Index, mark: Mark, totals: Totals) -> Catalog {
        let inner = Inner { upto: mark.upto, next_stamp: mark.next_stamp, obsolete: mark.obsolete, totals, ..Inner::default() };
        Catalog { index, node: mark.node, inner: Mutex::new(inner), fold: Mutex::new(()) }
    }

    pub fn lookup(&self, name: &ShardName) -> Result<Option<Entry>, IndexError> {
        {
            let inner = self.inner();
            if let Some(entry) = inner.recent.entries.get(name).or_else(|| inner.folding.entries.get(name)) {
                return Ok(*entry);
            }
        }
        self.index.get(name)
    }

    /// Up to `max` entries after `after` in name order, whatever their standing. Empty: there are no more.
    pub fn page(&self, after: Option<&ShardName>, max: usize) -> Result<Vec<(ShardName, Entry)>, IndexError> {
        // The overlay first: what is folded in meanwhile is then seen twice, never not at all.
        let mut overlay: BTreeMap<ShardName, Option<Entry>> = BTreeMap::new();
        {
            let inner = self.inner();
            for changes in [&*inner.folding, &inner.recent] {
                let from = after.map_or(std::ops::Bound::Unbounded, |after| std::ops::Bound::Excluded(*after));
                overlay.extend(changes.entries.range((from, std::ops::Bound::Unbounded)).map(|(name, entry)| (*name, *entry)));
            }
        }
        let indexed = self.index.range(after, max)?;
        let last = indexed.last().map(|(name, _)| *name).filter(|_| indexed.len() == max);
        let mut merged: BTreeMap<ShardName, Option<Entry>> = indexed.into_iter().map(|(name, entry)| (name, Some(entry))).collect();
        // Beyond a full page of the index there may be names it did not give: they belong to a later page.
        merged.extend(overlay.into_iter().filter(|(name, _)| last.is_none_or(|last| *name <= last)));
        let whole = last.is_none();
        let mut out: Vec<_> = merged.iter().filter_map(|(name, entry)| entry.map(|entry| (*name, entry))).take(max).collect();
        if out.is_empty() && !whole {
            // Every indexed name of this page is gone since: go on behind it.
            out = self.page(last.as_ref(), max)?;
        }
        Ok(out)
    }

    /// Dead puts of `name` that are still on disk.
    pub fn superseded_of(&self, name: &ShardName) -> Result<Vec<Superseded>, IndexError> {
        let pending: Vec<(Superseded, bool)> = {
            let inner = self.inner();
            let of_name = |(superseded, _): &&(Superseded, bool)| superseded.name == *name;
            inner.folding.superseded.iter().chain(&inner.recent.superseded).filter(of_name).copied().collect()
        };
        let mut found = self.index.superseded_of(name)?;
        for (superseded, there) in pending {
            found.retain(|old| *old != superseded);
            if there {
                found.push(superseded);
            }
        }
        found.sort();
        Ok(found)
    }

    /// Takes in what the writer has just made durable up to `upto`.
    pub fn apply(&self, applied: Applied) {
        let mut inner = self.inner();
        for change in applied.changes {
            if let Some(old) = &change.old {
                inner.totals.count(old, false);
            }
            if let Some(new) = &change.new {
                inner.totals.count(new, true);
            }
            inner.recent.entries.insert(change.name, change.new);
        }
        inner.recent.superseded.extend(applied.superseded);
        if let Some(upto) = applied.upto {
            inner.upto = upto;
        }
        inner.obsolete.extend(applied.obsolete.map(|segment| segment.0));
        inner.dirty = true;
    }

    /// A stamp that was never given before.
    pub fn stamp(&self) -> Stamp {
        let mut inner = self.inner();
        inner.next_stamp += 1;
        Stamp(inner.next_stamp - 1)
    }

    /// A segment is gone from the disk.
    pub fn forget_segment(&self, segment: SegmentId) {
        let mut inner = self.inner();
        inner.obsolete.retain(|number| *number != segment.0);
        inner.totals.segments.remove(&segment);
        inner.dirty = true;
    }

    /// Writes everything that is in memory to the index, durably.
    ///
    /// # Errors
    /// The changes stay in memory and the next call tries them again.
    pub fn fold(&self) -> Result<(), IndexError> {
        let _one = self.fold.lock().unwrap_or_else(PoisonError::into_inner);
        let (changes, mark) = {
            let mut inner = self.inner();
            if !inner.dirty {
                return Ok(());
            }
            inner.dirty = false;
            inner.folding = Arc::new(std::mem::take(&mut inner.recent));
            (inner.folding.clone(), self.mark_of(&inner))
        };
        let result = self.index.write(&changes, &mark);
        let mut inner = self.inner();
        inner.folding = Arc::default();
        if result.is_err() {
            let newer = std::mem::take(&mut inner.recent);
            let mut back = Arc::unwrap_or_clone(changes);
            back.entries.extend(newer.entries);
            back.superseded.extend(newer.superseded);
            inner.recent = back;
            inner.dirty = true;
        }
        result
    }

    /// Gives back what the index's file has free, if that is most of it. Returns the bytes.
    ///
    /// # Errors
    /// The index goes on as it was, or, if it does not, every later call says so.
    pub fn shrink(&self) -> Result<u64, IndexError> {
        let _nobody_folds = self.fold.lock().unwrap_or_else(PoisonError::into_inner);
        self.index.shrink()
    }

    pub fn totals(&self) -> Totals {
        self.inner().totals.clone()
    }

    /// Shards, their bytes, bytes in the trash: without copying the segments' weights.
    pub fn sums(&self) -> (u64, u64, u64) {
        let inner = self.inner();
        (inner.totals.shards, inner.totals.shard_bytes, inner.totals.trash_bytes)
    }

    pub fn weight(&self, segment: SegmentId) -> Weight {
        self.inner().totals.segments.get(&segment).copied().unwrap_or_default()
    }

    /// Entries not folded in.
    pub fn unfolded(&self) -> usize {
        let inner = self.inner();
        inner.recent.entries.len() + inner.folding.entries.len()
    }

    pub fn index(&self) -> &Index {
        &self.index
    }

    fn mark_of(&self, inner: &Inner) -> Mark {
        Mark {
            format: crate::identity::FORMAT,
            node: self.node,
            complete: true,
            upto: inner.upto,
            next_stamp: inner.next_stamp,
            obsolete: inner.obsolete.clone(),
        }
    }

    /// A poisoned lock is taken as it is: what the maps say was durable before it was written there.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
