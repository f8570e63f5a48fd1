//! Makes the table, whose commits do not sync, survive kills and power cuts: what is on disk is always the last checkpoint.
//!
//! ```text
//! take:    pin transaction R -> sync everything up to R -> meta page of R into `checkpoint` (temporary, sync, rename,
//!          sync folder) -> let go of what was pinned before
//! restore: (every start, before the table opens) meta page of `checkpoint` into both meta slots -> sync
//! ```
//! LMDB never changes a page that an open reader can reach. R stays pinned until the next checkpoint is on disk, so whatever
//! the kernel wrote since R, in whatever order, touched no page that R's meta page leads to; only the meta pages
//! themselves may be anything, and those are put back. What was committed after R comes again from the log.
//! Invariants: at every moment the pages reachable from the checkpoint on disk are pinned (`open` pins before the first write
//! can come); the log is purged only up to what a checkpoint has.
//! Not here: replaying the log (`group.rs`), when to take one (`service.rs`).

use crate::journal::file::{sync_dir, write_durably};
use crate::lmdb::{DATA_FILE, LOCK_FILE, MetaPage, ReadTable, Table};
use crate::metric;
use crate::table::TableError;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// `magic | CRC-32C of the rest | meta page`
const FILE: &str = "checkpoint";
const MAGIC: &[u8; 8] = b"BWCKPT\x00\x01";
const HEAD: usize = 12;

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
    table: Arc<Table>,
    dir: PathBuf,
    /// The reader that keeps the checkpoint's pages; also what makes checkpoints wait for each other.
    pinned: Mutex<Option<Pinned>>,
}

/// A checkpoint's moment. Its pages stay as they are for as long as anybody holds it.
pub type Pinned = Arc<Mutex<ReadTable>>;

impl Checkpoints {
    /// Brings the table in `dir` back to its last checkpoint, or to nothing if there never was one, and opens it.
    ///
    /// # Errors
    /// See [`CheckpointError`]; nothing was changed unless the disk failed.
    pub fn open(dir: &Path, map_bytes: u64) -> Result<Self, CheckpointError> {
        let restored = restore(dir)?;
        let table = Table::open(dir, map_bytes)?;
        let pinned = if restored { Some(Arc::new(Mutex::new(table.read()?))) } else { None };
        Ok(Self { table, dir: dir.to_owned(), pinned: Mutex::new(pinned) })
    }

    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// The moment of the last checkpoint, readable; `None` before the first one.
    pub fn latest(&self) -> Option<Pinned> {
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes the table as it is now durable and returns that moment. Blocks for the disk.
    ///
    /// # Errors
    /// After one, the kernel may have dropped pages it could not write: the process must stop serving from this table.
    pub fn take(&self) -> Result<Pinned, CheckpointError> {
        let begun = Instant::now();
        let mut pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        let (reader, meta) = self.table.pin()?;
        self.table.sync()?;
        let path = self.dir.join(FILE);
        write_durably(&path, &encode(&meta)).map_err(|source| CheckpointError::Io { path, source })?;
        let reader = Arc::new(Mutex::new(reader));
        *pinned = Some(reader.clone());
        metric::CHECKPOINT_SECONDS.observe(begun.elapsed().as_secs_f64());
        Ok(reader)
    }
}

/// Puts the checkpoint's meta page into both slots. `false`: there is none, and the table is empty now.
fn restore(dir: &Path) -> Result<bool, CheckpointError> {
    let at = |name: &str| dir.join(name);
    let io = |name: &str| {
        let path = dir.join(name);
        move |source| CheckpointError::Io { path, source }
    };
    // A reader table of a process that is gone; a new one is made on open.
    remove(&at(LOCK_FILE)).map_err(io(LOCK_FILE))?;
    let file = match fs::read(at(FILE)) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            remove(&at(DATA_FILE)).map_err(io(DATA_FILE))?;
            sync_dir(dir).map_err(io(""))?;
            return Ok(false);
        }
        Err(e) => return Err(io(FILE)(e)),
    };
    let meta = decode(&file).ok_or_else(|| CheckpointError::Damaged { path: at(FILE) })?;
    let page = meta.bytes().len() as u64;
    let data = match File::options().read(true).write(true).open(at(DATA_FILE)) {
        Ok(data) => data,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(CheckpointError::NoTable { path: at(DATA_FILE), bytes: 0 }),
        Err(e) => return Err(io(DATA_FILE)(e)),
    };
    let bytes = data.metadata().map_err(io(DATA_FILE))?.len();
    if bytes < 2 * page {
        return Err(CheckpointError::NoTable { path: at(DATA_FILE), bytes });
    }
    for slot in 0..2 {
        data.write_all_at(&meta.in_slot(slot), slot * page).map_err(io(DATA_FILE))?;
    }
    data.sync_all().map_err(io(DATA_FILE))?;
    Ok(true)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn encode(meta: &MetaPage) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD + meta.bytes().len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&crc_fast::crc32_iscsi(meta.bytes()).to_le_bytes());
    out.extend_from_slice(meta.bytes());
    out
}

fn decode(file: &[u8]) -> Option<MetaPage> {
    let (magic, rest) = file.split_first_chunk::<8>()?;
    let (crc, page) = rest.split_first_chunk::<4>()?;
    if magic != MAGIC || crc_fast::crc32_iscsi(page).to_le_bytes() != *crc {
        return None;
    }
    MetaPage::parse(page.to_vec())
}

#[cfg(test)]
mod tests;
