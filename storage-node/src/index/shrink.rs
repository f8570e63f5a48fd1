//! Gives the space of the index's free pages back: LMDB's file only grows, whatever is removed from it.
//!
//! ```text
//! copy without free pages into `data.new` -> sync -> compare every entry -> rename over `data.mdb` -> sync the folder -> open
//! ```
//! A crash before the rename leaves the old file, and a copy that the next opening removes; after it, one that says the same.
//! Invariant: nobody writes to the index from before the copy until after the switch (the caller's lock sees to it); readers
//! wait only for the switch.

use super::{DATA_FILE, Index, IndexError, Tables};
use crate::identity::sync_dir;
use lmdb::{Cursor, Database, Transaction};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::PoisonError;

const COPY: &str = "data.new";
/// What is not worth a copy.
const LEAST_GAIN: u64 = 256 << 10;
/// Copying more takes longer than the changes of meanwhile should wait in memory; and what an index of that size leaves
/// unused is little beside the shards that it names.
const MOST_LIVE: u64 = 256 << 20;

impl Index {
    /// Makes the file as small as what is in it, if most of it is free. Returns the bytes given back. The caller keeps
    /// everybody from writing meanwhile.
    ///
    /// # Errors
    /// The index is as it was and goes on, but for `Failed { what: "it is closed" }` of every later call: the file could
    /// not be opened again.
    pub fn shrink(&self) -> Result<u64, IndexError> {
        let before = self.bytes();
        if before < LEAST_GAIN {
            return Ok(0);
        }
        let live = self.with(|tables| {
            let pages = tables.env.info()?.last_pgno() as u64 + 1;
            Ok(pages.saturating_sub(tables.env.freelist()? as u64) * self.page)
        })?;
        if live > before / 2 || live + LEAST_GAIN > before || live > MOST_LIVE {
            return Ok(0);
        }
        let path = self.dir.join(COPY);
        let copied = self.with(|tables| self.copy(tables, &path)).and_then(|()| self.switch(&path));
        if copied.is_err() {
            // What remains of it is removed at the next opening.
            let _ = fs::remove_file(&path);
        }
        copied.map(|()| before.saturating_sub(self.bytes()))
    }

    fn copy(&self, tables: &Tables, path: &Path) -> Result<(), IndexError> {
        forget_copy(&self.dir).map_err(failed)?;
        let file = File::create_new(path).map_err(failed)?;
        // SAFETY: the environment is open for as long as `tables` is borrowed, and so is the file.
        let code = unsafe { lmdb_sys::mdb_env_copyfd2(tables.env.env(), file.as_raw_fd(), lmdb_sys::MDB_CP_COMPACT) };
        if code != lmdb_sys::MDB_SUCCESS {
            return Err(lmdb::Error::from_err_code(code).into());
        }
        file.sync_all().map_err(failed)?;
        // SAFETY: advice about a descriptor that `file` keeps open: what is compared is what the disk has.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        drop(file);
        let copy = Tables::open(path, self.map_bytes(), true, true)?;
        let same = same(tables, tables.entries, &copy, copy.entries)?
            && same(tables, tables.superseded, &copy, copy.superseded)?
            && same(tables, tables.mark, &copy, copy.mark)?;
        if same { Ok(()) } else { Err(IndexError::Failed { what: "the copy is not what was copied".to_string() }) }
    }

    fn switch(&self, copy: &Path) -> Result<(), IndexError> {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        fs::rename(copy, self.dir.join(DATA_FILE)).map_err(failed)?;
        // The old one first: LMDB's lock file is the same for both.
        *tables = None;
        *tables = Some(Tables::open(&self.dir, self.map_bytes(), false, false)?);
        // Before anything is written to it, or a crash could bring the old one back behind the segments it names.
        sync_dir(&self.dir).map_err(failed)
    }

    fn map_bytes(&self) -> usize {
        usize::try_from(self.map).unwrap_or(usize::MAX)
    }
}

/// Removes what a copy that did not come to its end left behind.
pub fn forget_copy(dir: &Path) -> io::Result<()> {
    match fs::remove_file(dir.join(COPY)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn same(left: &Tables, left_database: Database, right: &Tables, right_database: Database) -> Result<bool, IndexError> {
    let (left, right) = (left.env.begin_ro_txn()?, right.env.begin_ro_txn()?);
    let (mut left, mut right) = (left.open_ro_cursor(left_database)?, right.open_ro_cursor(right_database)?);
    let (mut left, mut right) = (left.iter_start(), right.iter_start());
    loop {
        match (left.next().transpose()?, right.next().transpose()?) {
            (None, None) => return Ok(true),
            (one, other) if one != other => return Ok(false),
            _ => (),
        }
    }
}

fn failed(error: io::Error) -> IndexError {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => IndexError::Full { what: error.to_string() },
        _ => IndexError::Failed { what: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Entry, Put};
    use crate::index::{Changes, Mark, Position};
    use crate::record::{Location, SegmentId, Stamp};
    use spine::id::{ChunkId, Gen, ShardIndex, Tag};
    use spine::wire::chunk::ShardName;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    const MAP: usize = 1 << 30;

    fn name(n: u64) -> ShardName {
        let chunk = blake3::hash(&n.to_le_bytes());
        ShardName { chunk: ChunkId(*chunk.as_bytes()), generation: Gen(n), index: ShardIndex(1), tag: Tag(2) }
    }

    fn entry(n: u64) -> Entry {
        let at = Location { segment: SegmentId(1), offset: n * 32, len: 5 };
        Entry { put: Some(Put { at, stamp: Stamp(n) }), trash: None, damaged: false }
    }

    fn mark(n: u64) -> Mark {
        Mark { format: 1, complete: true, upto: Position { segment: n, offset: 5 }, next_stamp: n, ..Mark::default() }
    }

    /// 10 of 10,000 entries left.
    fn emptied(dir: &Path) -> Index {
        let index = Index::open(dir, MAP, false).unwrap();
        let all = Changes { entries: (0..10_000).map(|n| (name(n), Some(entry(n)))).collect(), superseded: vec![] };
        index.write(&all, &mark(1)).unwrap();
        let most = Changes { entries: (10..10_000).map(|n| (name(n), None)).collect(), superseded: vec![] };
        index.write(&most, &mark(2)).unwrap();
        index
    }

    fn check(index: &Index, last: u64) {
        assert_eq!(index.mark().unwrap(), mark(last));
        assert_eq!(index.range(None, 10).unwrap().len(), 10);
        for n in 0..10 {
            assert_eq!(index.get(&name(n)).unwrap(), Some(entry(n)));
        }
    }

    #[test]
    fn an_index_that_is_mostly_free_pages_gives_them_back_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let index = emptied(dir.path());
        let before = index.bytes();
        let freed = index.shrink().unwrap();
        assert_eq!(before - freed, index.bytes());
        assert!(index.bytes() < 64 << 10, "{before} -> {}", index.bytes());
        assert_eq!(index.shrink().unwrap(), 0);
        check(&index, 2);
        index.write(&Changes::default(), &mark(3)).unwrap();
        drop(index);
        check(&Index::open(dir.path(), MAP, false).unwrap(), 3);
        check(&Index::open(dir.path(), MAP, true).unwrap(), 3);
    }

    #[test]
    fn a_crash_before_or_after_the_switch_leaves_a_whole_index() {
        let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        drop(emptied(old.path()));
        emptied(new.path()).shrink().unwrap();
        let copy = fs::read(new.path().join(DATA_FILE)).unwrap();
        for len in [0, 5_000, copy.len()] {
            fs::write(old.path().join(COPY), &copy[..len]).unwrap();
            check(&Index::open(old.path(), MAP, true).unwrap(), 2);
            check(&Index::open(old.path(), MAP, false).unwrap(), 2);
            assert!(!old.path().join(COPY).exists());
        }
        // Renamed, and the lock file still the old one's.
        fs::write(old.path().join(DATA_FILE), &copy).unwrap();
        check(&Index::open(old.path(), MAP, false).unwrap(), 2);
    }

    #[test]
    fn readers_find_everything_while_the_file_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let index = emptied(dir.path());
        let (done, mut freed) = (AtomicBool::new(false), Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !done.load(SeqCst) {
                        check(&index, 2);
                    }
                });
            }
            for _ in 0..5 {
                // Above every name that the readers look at.
                let high = |n: u64| ShardName { chunk: ChunkId([0xFF; 32]), ..name(n) };
                let filled = |entry: fn(u64) -> Option<Entry>| (20_000..25_000).map(|n| (high(n), entry(n))).collect();
                index.write(&Changes { entries: filled(|n| Some(entry(n))), superseded: vec![] }, &mark(2)).unwrap();
                index.write(&Changes { entries: filled(|_| None), superseded: vec![] }, &mark(2)).unwrap();
                freed.push(index.shrink());
            }
            done.store(true, SeqCst);
        });
        assert!(freed.iter().all(|freed| matches!(freed, Ok(1..))), "{freed:?}");
        check(&index, 2);
    }

    #[test]
    fn a_copy_that_cannot_be_made_leaves_the_index_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let index = emptied(dir.path());
        fs::create_dir(dir.path().join(COPY)).unwrap();
        assert!(index.shrink().is_err());
        check(&index, 2);
        index.write(&Changes::default(), &mark(3)).unwrap();
        fs::remove_dir(dir.path().join(COPY)).unwrap();
        assert!(index.shrink().unwrap() > 0);
        check(&index, 3);
    }
}
