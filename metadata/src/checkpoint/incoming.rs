//! A table that comes from another process, row by row, into a folder of its own; and how it takes the place of the one in use.
//!
//! ```text
//! receive: a new folder beside the tables -> rows in order, unsynced -> finish: read it all again, compare, mark, sync
//! install: the folder becomes the next generation's -> `checkpoint` names it (the switch) -> the old table takes no more writes, its files go
//! ```
//! Invariants: nothing of the table in use changes before the switch; a folder that was not switched to goes with its [`Incoming`], or at the
//! next start. An installed table says so in [`INSTALLED`], since the log beside it may not know yet what it need no longer have.

use super::{Checkpoints, Last, home_of, lock, sync_dir};
use crate::lmdb::{ReadTable, Table};
use crate::table::{Space, TableError, TableRead, TableWrite};
use bytes::Bytes;
use spine::wire::cluster::Row;
use spine::wire::copy::Tally;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

/// Key in [`Space::Meta`] of an installed table: the last entry it had when it came. Of this process alone; never sent on.
pub const INSTALLED: &[u8] = b"raft.installed";
/// Folders of tables that are on their way: this, and a number.
const INCOMING: &str = "incoming-";

/// A table that comes, or an error of what it came from.
#[derive(Debug, thiserror::Error)]
pub enum IncomingError {
    /// What came is not what was sent.
    #[error("a snapshot is not right. what=`{0}`")]
    Wrong(&'static str),
    #[error("a snapshot's folder failed. path=`{path}`, reason=`{source}`")]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Table(#[from] TableError),
    #[error(transparent)]
    Checkpoint(#[from] super::CheckpointError),
}

/// A table on its way in. Dropped before it is installed, it is removed.
pub struct Incoming {
    home: PathBuf,
    table: Option<Arc<Table>>,
    tally: Tally,
    last: Option<(u8, Bytes)>,
    finished: bool,
}

impl Incoming {
    fn table(&self) -> Result<&Arc<Table>, IncomingError> {
        self.table.as_ref().ok_or(IncomingError::Wrong("the table is closed"))
    }

    /// One moment of what has come.
    pub fn read(&self) -> Result<ReadTable, IncomingError> {
        Ok(self.table()?.read()?)
    }

    /// Puts rows behind those that came before. Not durable yet.
    ///
    /// # Errors
    /// `Wrong` for rows out of order or of no table; the disk.
    pub fn write(&mut self, rows: &[Row]) -> Result<(), IncomingError> {
        let table = self.table()?.clone();
        let mut write = table.write()?;
        for row in rows {
            let space = Space::ALL.get(usize::from(row.space)).copied().ok_or(IncomingError::Wrong("a row of no table"))?;
            if row.key.is_empty() || (space == Space::Meta && row.key == INSTALLED) {
                return Err(IncomingError::Wrong("a row that nobody sends"));
            }
            let place = (row.space, row.key.clone());
            if self.last.as_ref().is_some_and(|last| *last >= place) {
                return Err(IncomingError::Wrong("rows out of order"));
            }
            write.put(space, &row.key, &row.value)?;
            self.tally.count(row.space, &row.key, &row.value);
            self.last = Some(place);
        }
        Ok(write.commit()?)
    }

    /// Reads all of it again, compares, marks it as installed and makes it durable.
    ///
    /// - `marker`: what [`INSTALLED`] is to say.
    ///
    /// # Errors
    /// `Wrong` if it is not `rows` rows of that `digest`; the disk.
    pub fn finish(&mut self, rows: u64, digest: [u8; 32], marker: &[u8]) -> Result<(), IncomingError> {
        let table = self.table()?.clone();
        let mut again = Tally::default();
        let read = table.read()?;
        for space in Space::ALL {
            let mut scan = read.scan(space, b"")?;
            while let Some((key, value)) = scan.next()? {
                again.count(space as u8, key, value);
            }
        }
        drop(read);
        if (self.tally.rows(), self.tally.digest()) != (rows, digest) || (again.rows(), again.digest()) != (rows, digest) {
            return Err(IncomingError::Wrong("the rows are not those that were sent"));
        }
        let mut write = table.write()?;
        write.put(Space::Meta, INSTALLED, marker)?;
        write.commit()?;
        table.sync()?;
        sync_dir(&self.home).map_err(|source| IncomingError::Io { path: self.home.clone(), source })?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        drop(self.table.take());
        // Gone already, once it was installed; what cannot be removed now is removed at the next start.
        let _ = fs::remove_dir_all(&self.home);
    }
}

impl Checkpoints {
    /// A new, empty table beside the one in use.
    ///
    /// # Errors
    /// The disk.
    pub fn receive(&self) -> Result<Incoming, IncomingError> {
        let number = self.incoming.fetch_add(1, Ordering::Relaxed);
        let home = self.dir.join(format!("{INCOMING}{number}"));
        fs::create_dir(&home).map_err(|source| IncomingError::Io { path: home.clone(), source })?;
        let mut incoming = Incoming { home, table: None, tally: Tally::default(), last: None, finished: false };
        incoming.table = Some(Table::open(&incoming.home, self.map_bytes)?);
        Ok(incoming)
    }

    /// Puts a finished table in the place of the one in use; it is a checkpoint from its first moment on. Blocks for the disk.
    ///
    /// # Errors
    /// Before the switch, the table in use is as it was. If the switch itself failed, either may be the one on the disk: the process must
    /// stop serving from it.
    pub fn install(&self, mut incoming: Incoming) -> Result<(), IncomingError> {
        if !incoming.finished {
            return Err(IncomingError::Wrong("it was not finished"));
        }
        let mut last = lock(&self.last);
        let _changing = lock(&self.changing);
        if last.stuck {
            return Err(IncomingError::Wrong("an earlier switch failed"));
        }
        let generation = last.generation + 1;
        let home = home_of(&self.dir, generation);
        drop(incoming.table.take());
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| IncomingError::Io { path, source }
        };
        match fs::remove_dir_all(&home) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io(&home)(e)),
            _ => fs::rename(&incoming.home, &home).map_err(io(&home))?,
        }
        sync_dir(&self.dir).map_err(io(&self.dir))?;
        let new = Table::open(&home, self.map_bytes)?;
        let (reader, meta) = new.pin()?;
        last.stuck = true;
        self.name(generation, &meta)?;
        *last = Last { pinned: Some(Arc::new(Mutex::new(reader))), generation, stuck: false };
        self.table().retire();
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = new;
        if let Err(error) = super::forget_others(&self.dir, generation) {
            tracing::warn!(%error, "the table's old file could not be removed; the next start does it");
        }
        Ok(())
    }
}

/// Removes what was on its way when the process ended.
pub fn forget(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(INCOMING)) && entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}
