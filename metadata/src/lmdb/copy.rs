//! A table without its free pages: LMDB's own file only grows, whatever is removed from it.

use super::{DATA_FILE, Table, check};
use crate::table::{Space, TableError, TableRead};
use lmdb_sys as ffi;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

impl Table {
    /// Writes the latest commit, without free pages, as a new table into `dir`, which exists and has none. Synced, but for the
    /// folder.
    pub fn copy_to(&self, dir: &Path) -> Result<(), TableError> {
        let io = |e: std::io::Error| TableError::Storage(format!("copy of the table: {e}"));
        let file = File::create_new(dir.join(DATA_FILE)).map_err(io)?;
        // SAFETY: the environment and the file are open until the call returns.
        check("copy", unsafe { ffi::mdb_env_copyfd2(self.env, file.as_raw_fd(), ffi::MDB_CP_COMPACT) })?;
        file.sync_all().map_err(io)?;
        // SAFETY: an open file; only advice: what is compared is what the disk has.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        Ok(())
    }

    /// Whether both hold the same entries, each in its latest commit.
    pub fn holds_the_same_as(self: &Arc<Self>, other: &Arc<Self>) -> Result<bool, TableError> {
        let (left, right) = (self.read()?, other.read()?);
        for space in Space::ALL {
            let (mut left, mut right) = (left.scan(space, b"")?, right.scan(space, b"")?);
            loop {
                match (left.next()?, right.next()?) {
                    (None, None) => break,
                    (one, another) if one != another => return Ok(false),
                    _ => {}
                }
            }
        }
        Ok(true)
    }
}
