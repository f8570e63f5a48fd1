//! How much a disk may still take.
//!
//! free = the smaller of what its capacity leaves and what the file system leaves, less a reserve. The reserve is for what
//! must not fail on a full disk: trash records, the index, and compaction, which has to copy before it can delete.
//!
//! Invariant: asking costs no system call; the figures are as fresh as the last [`Space::refresh`] and the writer's own steps.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// At most this much is kept back, and at most a fiftieth of the file system.
const RESERVE: u64 = 256 << 20;

pub struct Space {
    dir: PathBuf,
    /// Bytes the node may hold; `None`: what the file system has.
    limit: Option<u64>,
    total: AtomicU64,
    available: AtomicU64,
    /// Bytes preallocated in the open segment and not used yet.
    open_rest: AtomicU64,
    open: AtomicBool,
    index: AtomicU64,
}

impl Space {
    pub fn new(dir: &Path, limit: Option<u64>) -> io::Result<Space> {
        let zero = || AtomicU64::new(0);
        let space = Space {
            dir: dir.to_path_buf(),
            limit,
            total: zero(),
            available: zero(),
            open_rest: zero(),
            open: AtomicBool::new(false),
            index: zero(),
        };
        space.refresh(0)?;
        Ok(space)
    }

    /// Asks the file system again.
    pub fn refresh(&self, index_bytes: u64) -> io::Result<()> {
        let path = std::ffi::CString::new(self.dir.as_os_str().as_bytes())?;
        // SAFETY: statvfs is plain old data, and the call fills it or fails.
        let found = unsafe {
            let mut found: libc::statvfs = std::mem::zeroed();
            if libc::statvfs(path.as_ptr(), &mut found) != 0 {
                return Err(io::Error::last_os_error());
            }
            found
        };
        self.total.store(found.f_blocks * found.f_frsize, Relaxed);
        self.available.store(found.f_bavail * found.f_frsize, Relaxed);
        self.index.store(index_bytes, Relaxed);
        Ok(())
    }

    /// What the open segment has preallocated and not used; `None`: no segment is open.
    pub fn set_open(&self, rest: Option<u64>) {
        self.open_rest.store(rest.unwrap_or(0), Relaxed);
        self.open.store(rest.is_some(), Relaxed);
    }

    pub fn has_open(&self) -> bool {
        self.open.load(Relaxed)
    }

    /// Bytes that were written without having been preallocated.
    pub fn spend(&self, bytes: u64) {
        // Only the writer and `refresh` change it: what a race between them loses is found at the next refresh.
        self.available.store(self.available.load(Relaxed).saturating_sub(bytes), Relaxed);
    }

    pub fn capacity(&self) -> u64 {
        let total = self.total.load(Relaxed);
        self.limit.map_or(total, |limit| limit.min(total))
    }

    /// Bytes that puts may still take, if segments hold `used`.
    pub fn free(&self, used: u64) -> u64 {
        let by_limit = self.capacity().saturating_sub(used + self.index.load(Relaxed));
        let by_disk = (self.available.load(Relaxed) + self.open_rest.load(Relaxed)).saturating_sub(self.reserve());
        by_limit.min(by_disk)
    }

    /// Bytes that a new segment may preallocate for puts.
    pub fn preallocatable(&self, used: u64) -> u64 {
        self.free(used).min(self.available.load(Relaxed).saturating_sub(self.reserve()))
    }

    /// Bytes the file system has, reserve and all: for what must not fail because puts may not go on.
    pub fn physical(&self) -> u64 {
        self.available.load(Relaxed) + self.open_rest.load(Relaxed)
    }

    fn reserve(&self) -> u64 {
        RESERVE.min(self.total.load(Relaxed) / 50)
    }
}
