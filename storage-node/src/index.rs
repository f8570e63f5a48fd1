//! The index on disk: LMDB tables from names to entries. The only file that knows LMDB.
//!
//! It is not the truth: segments are, and it is made anew from them when it is missing or does not read. A write is one
//! fully synced transaction that also says up to where in the segments it knows everything ([`Mark::upto`]).
//!
//! Invariants: the map is opened once at its full sparse size and never resized; read transactions end before the call
//! returns; writes are refused (`Full`) before the map is full; a file shorter than its own page count is never touched,
//! since reading it would be a SIGBUS.
//! Not here: giving back what the file no longer needs (`index/shrink.rs`), what is not folded in yet (`catalog.rs`).

mod shrink;

use crate::entry::{ENTRY, Entry, NAME, key_name, name_key};
use crate::record::{Location, SegmentId, Stamp};
use lmdb::{Cursor, Database, DatabaseFlags, Environment, EnvironmentFlags, Transaction, WriteFlags};
use serde::{Deserialize, Serialize};
use spine::wire::chunk::ShardName;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The file is not what was written. It has to be made again from the segments.
    #[error("the index does not read. what=`{what}`")]
    Corrupt { what: String },
    /// The disk under the index is full, or the map is.
    #[error("the index is full. what=`{what}`")]
    Full { what: String },
    #[error("the index failed. what=`{what}`")]
    Failed { what: String },
}

impl From<lmdb::Error> for IndexError {
    fn from(error: lmdb::Error) -> Self {
        let what = error.to_string();
        match error {
            lmdb::Error::MapFull | lmdb::Error::Other(libc::ENOSPC) => IndexError::Full { what },
            // What the kernel still shows of a page it could not write is not to be built on.
            lmdb::Error::Other(libc::EIO) => IndexError::Corrupt { what },
            lmdb::Error::Other(_) | lmdb::Error::ReadersFull => IndexError::Failed { what },
            _ => IndexError::Corrupt { what },
        }
    }
}

/// A place in the order of all records: everything in earlier segments and before `offset` in `segment`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    pub segment: u64,
    pub offset: u64,
}

/// What the index says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub format: u32,
    /// The disk it belongs to.
    pub node: [u8; 32],
    /// False while it is made from the segments: not to be used.
    pub complete: bool,
    pub upto: Position,
    /// Higher than any stamp in it.
    pub next_stamp: u64,
    /// Segments whose live records are all elsewhere: to be deleted before anything else is done.
    pub obsolete: Vec<u64>,
}

/// A dead put that is still on disk: as long as it is, the trash record that covers it has to stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Superseded {
    pub name: ShardName,
    pub stamp: Stamp,
    pub at: Location,
}

impl Superseded {
    fn key(&self) -> [u8; NAME + 24] {
        let mut key = [0; NAME + 24];
        key[..NAME].copy_from_slice(&name_key(&self.name));
        key[NAME..NAME + 8].copy_from_slice(&self.stamp.0.to_be_bytes());
        key[NAME + 8..NAME + 16].copy_from_slice(&self.at.segment.0.to_be_bytes());
        key[NAME + 16..].copy_from_slice(&self.at.offset.to_be_bytes());
        key
    }

    fn decode(key: &[u8], value: &[u8]) -> Option<Superseded> {
        let long = |at: usize| Some(u64::from_be_bytes(key.get(at..at + 8)?.try_into().ok()?));
        let len = u32::from_le_bytes(value.try_into().ok()?);
        Some(Superseded {
            name: key_name(key.get(..NAME)?)?,
            stamp: Stamp(long(NAME)?),
            at: Location { segment: SegmentId(long(NAME + 8)?), offset: long(NAME + 16)?, len },
        })
    }
}

/// Changes that become durable together.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    pub entries: BTreeMap<ShardName, Option<Entry>>,
    /// `true`: there is one more; `false`: it is gone. In order.
    pub superseded: Vec<(Superseded, bool)>,
}

pub struct Index {
    /// `None` only if the file could not be opened again after it was replaced.
    tables: RwLock<Option<Tables>>,
    page: u64,
    map: u64,
    dir: PathBuf,
}

struct Tables {
    env: Environment,
    entries: Database,
    superseded: Database,
    mark: Database,
}

const MARK: &[u8] = b"mark";
const DATA_FILE: &str = "data.mdb";

impl Tables {
    /// Opens or creates the file in `dir`, or with `alone` the file `dir` itself, which nobody else has open, to read it.
    fn open(dir: &Path, map_bytes: usize, read_only: bool, alone: bool) -> Result<Tables, IndexError> {
        let mut flags = EnvironmentFlags::NO_TLS | EnvironmentFlags::NO_READAHEAD;
        if read_only {
            flags |= EnvironmentFlags::READ_ONLY | EnvironmentFlags::NO_LOCK;
        }
        if alone {
            flags |= EnvironmentFlags::NO_SUB_DIR;
        }
        let data = if alone { dir.to_path_buf() } else { dir.join(DATA_FILE) };
        let size = fs::metadata(data).map_or(0, |meta| meta.len());
        if size != 0 && size < 8_192 {
            return Err(IndexError::Corrupt { what: format!("data.mdb has {size} bytes") });
        }
        let mut builder = Environment::new();
        builder.set_flags(flags).set_max_dbs(4).set_max_readers(1_024).set_map_size(map_bytes);
        let env = builder.open(dir)?;
        let needed = (env.info()?.last_pgno() as u64 + 1) * u64::from(env.stat()?.page_size());
        if size != 0 && size < needed {
            return Err(IndexError::Corrupt { what: format!("data.mdb has {size} bytes of {needed}") });
        }
        let open = |name| if read_only { env.open_db(Some(name)) } else { env.create_db(Some(name), DatabaseFlags::empty()) };
        let (entries, superseded, mark) = (open("entries")?, open("superseded")?, open("mark")?);
        Ok(Tables { env, entries, superseded, mark })
    }

    fn mark(&self) -> Result<Mark, IndexError> {
        let txn = self.env.begin_ro_txn()?;
        match txn.get(self.mark, &MARK) {
            Ok(bytes) => postcard::from_bytes(bytes).map_err(|e| IndexError::Corrupt { what: format!("mark: {e}") }),
            Err(lmdb::Error::NotFound) => Ok(Mark::default()),
            Err(e) => Err(e.into()),
        }
    }

    fn get(&self, name: &ShardName) -> Result<Option<Entry>, IndexError> {
        let txn = self.env.begin_ro_txn()?;
        match txn.get(self.entries, &name_key(name)) {
            Ok(bytes) => decode(bytes).map(Some),
            Err(lmdb::Error::NotFound) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn walk(&self, after: Option<&ShardName>, mut visit: impl FnMut(ShardName, Entry) -> bool) -> Result<(), IndexError> {
        let txn = self.env.begin_ro_txn()?;
        let mut cursor = txn.open_ro_cursor(self.entries)?;
        let after = after.map(name_key);
        let iter = match &after {
            Some(key) => cursor.iter_from(key),
            None => cursor.iter_start(),
        };
        for item in iter {
            let (key, value) = item?;
            if after.as_ref().is_some_and(|after| key <= after.as_slice()) {
                continue;
            }
            let name = key_name(key).ok_or_else(|| IndexError::Corrupt { what: "a key is not a name".to_string() })?;
            if !visit(name, decode(value)?) {
                break;
            }
        }
        Ok(())
    }

    fn walk_superseded(&self, from: &[u8], mut visit: impl FnMut(&[u8], Superseded) -> bool) -> Result<(), IndexError> {
        let txn = self.env.begin_ro_txn()?;
        let mut cursor = txn.open_ro_cursor(self.superseded)?;
        for item in cursor.iter_from(from) {
            let (key, value) = item?;
            let found = Superseded::decode(key, value)
                .ok_or_else(|| IndexError::Corrupt { what: "a superseded record does not decode".to_string() })?;
            if !visit(key, found) {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, changes: &Changes, mark: &Mark) -> Result<(), IndexError> {
        let mut txn = self.env.begin_rw_txn()?;
        for (name, entry) in &changes.entries {
            let key = name_key(name);
            match entry {
                Some(entry) => txn.put(self.entries, &key, &entry.encode(), WriteFlags::empty())?,
                None => match txn.del(self.entries, &key, None) {
                    Ok(()) | Err(lmdb::Error::NotFound) => (),
                    Err(e) => return Err(e.into()),
                },
            }
        }
        for (superseded, there) in &changes.superseded {
            let key = superseded.key();
            if *there {
                txn.put(self.superseded, &key, &superseded.at.len.to_le_bytes(), WriteFlags::empty())?;
                continue;
            }
            match txn.del(self.superseded, &key, None) {
                Ok(()) | Err(lmdb::Error::NotFound) => (),
                Err(e) => return Err(e.into()),
            }
        }
        let bytes = postcard::to_stdvec(mark).map_err(|e| IndexError::Failed { what: e.to_string() })?;
        txn.put(self.mark, &MARK, &bytes, WriteFlags::empty())?;
        txn.commit()?;
        Ok(())
    }
}

impl Index {
    /// Opens or creates the index in `dir`. With `read_only` nothing is written, and no other process may have it open.
    pub fn open(dir: &Path, map_bytes: usize, read_only: bool) -> Result<Index, IndexError> {
        let failed = |e: std::io::Error| IndexError::Failed { what: e.to_string() };
        if !read_only {
            fs::create_dir_all(dir).map_err(failed)?;
            shrink::forget_copy(dir).map_err(failed)?;
        }
        let tables = Tables::open(dir, map_bytes, read_only, false)?;
        let page = u64::from(tables.env.stat()?.page_size());
        Ok(Index { tables: RwLock::new(Some(tables)), page, map: map_bytes as u64, dir: dir.to_path_buf() })
    }

    fn with<T>(&self, ask: impl FnOnce(&Tables) -> Result<T, IndexError>) -> Result<T, IndexError> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        ask(tables.as_ref().ok_or_else(|| IndexError::Failed { what: "it is closed".to_string() })?)
    }

    pub fn mark(&self) -> Result<Mark, IndexError> {
        self.with(Tables::mark)
    }

    pub fn get(&self, name: &ShardName) -> Result<Option<Entry>, IndexError> {
        self.with(|tables| tables.get(name))
    }

    /// Up to `max` entries whose names are after `after`, in order.
    pub fn range(&self, after: Option<&ShardName>, max: usize) -> Result<Vec<(ShardName, Entry)>, IndexError> {
        let mut out = Vec::new();
        self.walk(after, |name, entry| {
            out.push((name, entry));
            out.len() < max
        })?;
        Ok(out)
    }

    /// Hands over every entry after `after`, in order, until `visit` says false.
    pub fn walk(&self, after: Option<&ShardName>, visit: impl FnMut(ShardName, Entry) -> bool) -> Result<(), IndexError> {
        self.with(|tables| tables.walk(after, visit))
    }

    /// The dead puts of one name that are still on disk, oldest first.
    pub fn superseded_of(&self, name: &ShardName) -> Result<Vec<Superseded>, IndexError> {
        let prefix = name_key(name);
        let mut out = Vec::new();
        self.with(|tables| {
            tables.walk_superseded(&prefix, |key, found| {
                let same = key.starts_with(&prefix);
                if same {
                    out.push(found);
                }
                same
            })
        })?;
        Ok(out)
    }

    /// Makes `changes` and `mark` durable, all or nothing.
    pub fn write(&self, changes: &Changes, mark: &Mark) -> Result<(), IndexError> {
        self.with(|tables| tables.write(changes, mark))
    }

    /// Bytes of the index file on disk.
    pub fn bytes(&self) -> u64 {
        fs::metadata(self.dir.join(DATA_FILE)).map_or(0, |meta| meta.len())
    }

    /// Whether puts have to be refused, so that removals can still be noted.
    pub fn is_nearly_full(&self) -> bool {
        let pages = self.with(|tables| Ok(tables.env.info()?.last_pgno() as u64 + 1));
        pages.is_ok_and(|pages| pages * self.page > self.map / 10 * 9)
    }
}

fn decode(value: &[u8]) -> Result<Entry, IndexError> {
    Entry::decode(value).ok_or_else(|| IndexError::Corrupt { what: format!("an entry of {} bytes (of {ENTRY})", value.len()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Put;
    use spine::id::{ChunkId, Gen, ShardIndex, Tag};

    fn name(n: u64) -> ShardName {
        let mut chunk = [0; 32];
        chunk[..8].copy_from_slice(&n.to_be_bytes());
        ShardName { chunk: ChunkId(chunk), generation: Gen(n), index: ShardIndex(1), tag: Tag(2) }
    }

    fn entry(n: u64) -> Entry {
        let at = Location { segment: SegmentId(1), offset: n * 32, len: 5 };
        Entry { put: Some(Put { at, stamp: Stamp(n) }), trash: None, damaged: false }
    }

    #[test]
    fn what_is_written_reads_back_in_order_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let mark =
            Mark { format: 1, node: [3; 32], complete: true, upto: Position { segment: 4, offset: 5 }, next_stamp: 9, obsolete: vec![2] };
        let over = |n: u64, stamp: u64| Superseded { name: name(n), stamp: Stamp(stamp), at: entry(n).put.unwrap().at };
        {
            let index = Index::open(dir.path(), 64 << 30, false).unwrap();
            let mut changes = Changes::default();
            for n in 0..100 {
                changes.entries.insert(name(n), Some(entry(n)));
            }
            changes.superseded = vec![(over(5, 1), true), (over(5, 2), true), (over(6, 1), true), (over(5, 1), false)];
            index.write(&changes, &mark).unwrap();
            let gone = Changes { entries: [(name(7), None), (name(1_000), None)].into(), superseded: vec![] };
            index.write(&gone, &mark).unwrap();
        }
        for read_only in [false, true] {
            let index = Index::open(dir.path(), 64 << 30, read_only).unwrap();
            assert_eq!(index.mark().unwrap(), mark);
            assert_eq!(index.get(&name(6)).unwrap(), Some(entry(6)));
            assert_eq!(index.get(&name(7)).unwrap(), None);
            let names: Vec<_> = index.range(Some(&name(5)), 3).unwrap().into_iter().map(|(name, _)| name).collect();
            assert_eq!(names, [name(6), name(8), name(9)]);
            assert_eq!(index.range(Some(&name(99)), 3).unwrap(), []);
            assert_eq!(index.range(None, 1_000).unwrap().len(), 99);
            assert_eq!(index.superseded_of(&name(5)).unwrap(), [over(5, 2)]);
            assert_eq!(index.superseded_of(&name(7)).unwrap(), []);
        }
    }

    #[test]
    fn an_index_whose_disk_erred_is_not_built_on() {
        assert!(matches!(IndexError::from(lmdb::Error::Other(libc::EIO)), IndexError::Corrupt { .. }));
        assert!(matches!(IndexError::from(lmdb::Error::Other(libc::EMFILE)), IndexError::Failed { .. }));
    }

    #[test]
    fn a_cut_or_garbled_file_is_corrupt_and_not_a_crash() {
        let dir = tempfile::tempdir().unwrap();
        {
            let index = Index::open(dir.path(), 1 << 30, false).unwrap();
            let changes = Changes { entries: (0..5_000).map(|n| (name(n), Some(entry(n)))).collect(), superseded: vec![] };
            index.write(&changes, &Mark::default()).unwrap();
        }
        let data = dir.path().join("data.mdb");
        let whole = fs::read(&data).unwrap();
        for cut in [100, 8_192, whole.len() / 2] {
            fs::write(&data, &whole[..cut]).unwrap();
            assert!(matches!(Index::open(dir.path(), 1 << 30, false), Err(IndexError::Corrupt { .. })), "cut at {cut}");
        }
        let garbled: Vec<u8> = whole.iter().map(|b| b ^ 0x55).collect();
        fs::write(&data, garbled).unwrap();
        assert!(Index::open(dir.path(), 1 << 30, false).is_err());
    }
}
