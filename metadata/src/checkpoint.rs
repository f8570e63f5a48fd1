//! Makes the table, whose commits do not sync, survive kills and power cuts: what is on disk is always the last checkpoint.
//!
//! ```text
//! take:    pin transaction R -> sync everything up to R -> meta page of R into `checkpoint` (temporary, sync, rename,
//!          sync folder) -> let go of what was pinned before
//! restore: (every start, before the table opens) meta page of `checkpoint` into both meta slots -> sync
//! shrink:  copy without free pages into a folder of the next generation -> sync -> compare -> `checkpoint` names that
//!          generation and its meta page (the switch) -> the old table takes no more writes, its files go
//! ```
//! LMDB never changes a page that an open reader can reach. R stays pinned until the next checkpoint is on disk, so whatever
//! the kernel wrote since R, in whatever order, touched no page that R's meta page leads to; only the meta pages
//! themselves may be anything, and those are put back. What was committed after R comes again from the log.
//! Invariants: at every moment the pages reachable from the checkpoint on disk are pinned (`open` pins before the first write
//! can come); the log is purged only up to what a checkpoint has; nobody changes a table while another takes its place.
//! Not here: replaying the log (`group.rs`), when to take one (`service.rs`), tables of other processes (`incoming.rs`).

mod incoming;
mod outgoing;

pub use incoming::{INSTALLED, Incoming, IncomingError};
pub use outgoing::{Place, read_part};

use crate::journal::file::{sync_dir, write_durably};
use crate::lmdb::{DATA_FILE, LOCK_FILE, MetaPage, ReadTable, Table, WriteTable};
use crate::metric;
use crate::table::TableError;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

/// `magic | CRC-32C of the rest | generation u64, little-endian | meta page`
const FILE: &str = "checkpoint";
const MAGIC: &[u8; 8] = b"BWCKPT\x00\x02";
/// The form before tables had generations: without that field.
const MAGIC_OF_ONE_TABLE: &[u8; 8] = b"BWCKPT\x00\x01";
const HEAD: usize = 20;
/// Folders of tables after the first: this, and the generation.
const HOME: &str = "table-";

/// What is not worth a copy.
const LEAST_GAIN: u64 = 256 << 10;
/// Nothing can be changed while more than this is copied and synced for longer than a client should wait; and what a table of
/// that size leaves unused is little beside the data that it is about.
const MOST_LIVE: u64 = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("checkpoint storage failed. path=`{path}`, reason=`{source}`")]
    Io { path: PathBuf, source: io::Error },
    /// The file is never half written by us: the disk changed it, or something else did. Restore the folder from a copy, or,
    /// if the log still begins at its first entry, remove the file: then the whole log is replayed.
    #[error("the checkpoint file is damaged. path=`{path}`")]
    Damaged { path: PathBuf },
    /// The checkpoint names pages of a table that is not there.
    #[error("the checkpoint's table is missing or too short. path=`{path}`, bytes=`{bytes}`")]
    NoTable { path: PathBuf, bytes: u64 },
    #[error(transparent)]
    Table(#[from] TableError),
}

/// An open table and the last checkpoint of it.
pub struct Checkpoints {
    table: RwLock<Arc<Table>>,
    dir: PathBuf,
    map_bytes: u64,
    /// Also what makes checkpoints wait for each other.
    last: Mutex<Last>,
    /// Held by whoever changes the table, and while another one takes its place.
    changing: Mutex<()>,
    /// How many tables of other processes have begun to come.
    incoming: AtomicU64,
}

/// The last checkpoint.
struct Last {
    /// The reader that keeps its pages.
    pinned: Option<Pinned>,
    generation: u64,
    /// No table may take this one's place any more: which of them the disk's checkpoint names is not known.
    stuck: bool,
}

/// A checkpoint's moment. Its pages stay as they are for as long as anybody holds it.
pub type Pinned = Arc<Mutex<ReadTable>>;

/// A whole table of one moment.
pub enum Image {
    /// This process's own, to be read.
    Kept(Pinned),
    /// Another's, to be installed.
    Come(Incoming),
}

/// The right to change the table: it stays the same table for as long.
pub struct Turn<'a> {
    table: Arc<Table>,
    _changing: MutexGuard<'a, ()>,
}

impl Turn<'_> {
    pub fn write(&self) -> Result<WriteTable<'_>, TableError> {
        self.table.write()
    }
}

impl Checkpoints {
    /// Brings the table in `dir` back to its last checkpoint, or to nothing if there never was one, and opens it.
    ///
    /// # Errors
    /// See [`CheckpointError`]; nothing was changed unless the disk failed.
    pub fn open(dir: &Path, map_bytes: u64) -> Result<Self, CheckpointError> {
        incoming::forget(dir).map_err(|source| CheckpointError::Io { path: dir.to_owned(), source })?;
        let restored = restore(dir)?;
        let generation = restored.unwrap_or(0);
        let table = Table::open(&home_of(dir, generation), map_bytes)?;
        let pinned = if restored.is_some() { Some(Arc::new(Mutex::new(table.read()?))) } else { None };
        let last = Mutex::new(Last { pinned, generation, stuck: false });
        Ok(Self {
            table: RwLock::new(table),
            dir: dir.to_owned(),
            map_bytes,
            last,
            changing: Mutex::default(),
            incoming: AtomicU64::new(0),
        })
    }

    /// Whether a table in `dir` has a checkpoint: without one, [`Self::open`] begins with an empty table.
    pub fn exists(dir: &Path) -> io::Result<bool> {
        dir.join(FILE).try_exists()
    }

    /// The table as it is now; another one may take its place.
    pub fn table(&self) -> Arc<Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until nobody else changes the table.
    pub fn turn(&self) -> Turn<'_> {
        let changing = lock(&self.changing);
        Turn { table: self.table(), _changing: changing }
    }

    /// The moment of the last checkpoint, readable; `None` before the first one.
    pub fn latest(&self) -> Option<Pinned> {
        lock(&self.last).pinned.clone()
    }

    /// Makes the table as it is now durable and returns that moment. Blocks for the disk.
    ///
    /// # Errors
    /// After one, the kernel may have dropped pages it could not write: the process must stop serving from this table.
    pub fn take(&self) -> Result<Pinned, CheckpointError> {
        let begun = Instant::now();
        let mut last = lock(&self.last);
        let table = self.table();
        let (reader, meta) = table.pin()?;
        table.sync()?;
        self.name(last.generation, &meta)?;
        let reader = Arc::new(Mutex::new(reader));
        last.pinned = Some(reader.clone());
        metric::CHECKPOINT_SECONDS.observe(begun.elapsed().as_secs_f64());
        Ok(reader)
    }

    /// Makes the table's file as small as what is in it, if most of it is free: a copy takes its place, and is a checkpoint
    /// from its first moment on. Returns the bytes given back. Blocks for the disk; nobody changes the table meanwhile.
    ///
    /// # Errors
    /// The table is as it was and goes on.
    pub fn shrink(&self) -> Result<u64, CheckpointError> {
        self.shrink_if(|bytes, live| live <= bytes / 2 && live + LEAST_GAIN <= bytes && live <= MOST_LIVE)
    }

    /// - `worth_it`: of the bytes of the file, and those of them that are in use.
    fn shrink_if(&self, worth_it: impl Fn(u64, u64) -> bool) -> Result<u64, CheckpointError> {
        let mut last = lock(&self.last);
        let _changing = lock(&self.changing);
        let old = self.table();
        let before = old.usage().high_bytes;
        let live = before.saturating_sub(old.free_bytes()?);
        if last.stuck || !worth_it(before, live) {
            return Ok(0);
        }
        let generation = last.generation + 1;
        let home = home_of(&self.dir, generation);
        let copied = self.copy(&old, &home).inspect_err(|_| {
            // What remains of it is removed at the next start.
            let _ = fs::remove_dir_all(&home);
        });
        let (new, reader, meta) = copied?;
        let after = new.usage().high_bytes;
        // The switch. If it fails, either checkpoint may be the one on the disk: both tables stay.
        last.stuck = true;
        self.name(generation, &meta)?;
        *last = Last { pinned: Some(Arc::new(Mutex::new(reader))), generation, stuck: false };
        old.retire();
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = new;
        if let Err(error) = forget_others(&self.dir, generation) {
            tracing::warn!(%error, "the table's old file could not be removed; the next start does it");
        }
        Ok(before.saturating_sub(after))
    }

    fn copy(&self, old: &Arc<Table>, home: &Path) -> Result<(Arc<Table>, ReadTable, MetaPage), CheckpointError> {
        let io = |source| CheckpointError::Io { path: home.to_owned(), source };
        match fs::remove_dir_all(home) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io(e)),
            _ => fs::create_dir(home).map_err(io)?,
        }
        old.copy_to(home)?;
        let new = Table::open(home, self.map_bytes)?;
        // Where address space is short, opening settles for a smaller map: the table would be full before its time.
        if new.usage().map_bytes < old.usage().map_bytes {
            return Err(TableError::Storage("no address space for a second map".into()).into());
        }
        if !old.holds_the_same_as(&new)? {
            return Err(TableError::Storage("the copy of the table is not what was copied".into()).into());
        }
        new.sync()?;
        sync_dir(home).map_err(io)?;
        sync_dir(&self.dir).map_err(io)?;
        let (reader, meta) = new.pin()?;
        Ok((new, reader, meta))
    }

    /// Makes `meta` of the table of `generation` the checkpoint on the disk.
    fn name(&self, generation: u64, meta: &MetaPage) -> Result<(), CheckpointError> {
        let path = self.dir.join(FILE);
        write_durably(&path, &encode(generation, meta)).map_err(|source| CheckpointError::Io { path, source })
    }
}

/// The folder of a generation's LMDB files.
fn home_of(dir: &Path, generation: u64) -> PathBuf {
    if generation == 0 { dir.to_owned() } else { dir.join(format!("{HOME}{generation}")) }
}

/// Removes the tables that no checkpoint names.
fn forget_others(dir: &Path, generation: u64) -> io::Result<()> {
    if generation != 0 {
        remove(&dir.join(LOCK_FILE))?;
        remove(&dir.join(DATA_FILE))?;
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let number = entry.file_name().to_str().and_then(|name| name.strip_prefix(HOME)?.parse::<u64>().ok());
        if number.is_some_and(|number| number != generation) && entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    sync_dir(dir)
}

/// Puts the checkpoint's meta page into both slots; the generation of its table. `None`: there is none, and the table is empty now.
fn restore(dir: &Path) -> Result<Option<u64>, CheckpointError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| CheckpointError::Io { path, source }
    };
    let at = dir.join(FILE);
    let file = match fs::read(&at) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            forget_others(dir, 0).map_err(io(dir))?;
            for name in [LOCK_FILE, DATA_FILE] {
                remove(&dir.join(name)).map_err(io(&dir.join(name)))?;
            }
            sync_dir(dir).map_err(io(dir))?;
            return Ok(None);
        }
        Err(e) => return Err(io(&at)(e)),
    };
    let (generation, meta) = decode(&file).ok_or(CheckpointError::Damaged { path: at })?;
    let home = home_of(dir, generation);
    let path = home.join(DATA_FILE);
    let page = meta.bytes().len() as u64;
    let data = match File::options().read(true).write(true).open(&path) {
        Ok(data) => data,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(CheckpointError::NoTable { path, bytes: 0 }),
        Err(e) => return Err(io(&path)(e)),
    };
    let bytes = data.metadata().map_err(io(&path))?.len();
    if bytes < 2 * page {
        return Err(CheckpointError::NoTable { path, bytes });
    }
    // A reader table of a process that is gone; a new one is made on open.
    remove(&home.join(LOCK_FILE)).map_err(io(&home.join(LOCK_FILE)))?;
    for slot in 0..2 {
        data.write_all_at(&meta.in_slot(slot), slot * page).map_err(io(&path))?;
    }
    data.sync_all().map_err(io(&path))?;
    forget_others(dir, generation).map_err(io(dir))?;
    Ok(Some(generation))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn encode(generation: u64, meta: &MetaPage) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD + meta.bytes().len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&generation.to_le_bytes());
    out.extend_from_slice(meta.bytes());
    let crc = crc_fast::crc32_iscsi(&out[12..]);
    out[8..12].copy_from_slice(&crc.to_le_bytes());
    out
}

fn decode(file: &[u8]) -> Option<(u64, MetaPage)> {
    let (magic, rest) = file.split_first_chunk::<8>()?;
    let (crc, covered) = rest.split_first_chunk::<4>()?;
    if crc_fast::crc32_iscsi(covered).to_le_bytes() != *crc {
        return None;
    }
    let (generation, page) = match magic {
        MAGIC => {
            let (generation, page) = covered.split_first_chunk::<8>()?;
            (u64::from_le_bytes(*generation), page)
        }
        MAGIC_OF_ONE_TABLE => (0, covered),
        _ => return None,
    };
    Some((generation, MetaPage::parse(page.to_vec())?))
}

/// What these locks guard is whole at every moment, also after a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
impl Checkpoints {
    /// Whether it is worth it or not.
    pub fn shrink_for_test(&self) -> Result<u64, CheckpointError> {
        self.shrink_if(|_, _| true)
    }
}

#[cfg(test)]
mod tests;
