//! Segment files: `segments/NNNNNNNNNN.seg`, their sizes, and open handles to read them.
//!
//! A segment is filled by the writer from front to back, its blocks preallocated a step ahead, then sealed by cutting off
//! what was not used, and never written again. It goes as a whole, when compaction has moved what still counts.
//!
//! Invariants: a number is never used again while the directory or the index knows of it; a bounded number of handles is
//! open; no record lies behind the size that an open segment durably has.
//! Not here: what is inside (`record.rs`, `scan.rs`).

use crate::identity::sync_dir;
use crate::record::{BLOCK, SegmentId};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Handles kept open for reading.
const OPEN_FILES: usize = 128;
/// The least that is worth preallocating on a nearly full file system.
const LEAST_SEGMENT: u64 = 1 << 20;
/// Bytes preallocated ahead: a quarter of what the segment holds, within these. Larger: longer stretches on the disk, more of
/// it taken by a segment that nobody fills.
const STEP: std::ops::RangeInclusive<u64> = 4 << 20..=16 << 20;
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// The segments of one disk.
pub struct Segments {
    dir: PathBuf,
    /// Bytes of each: what is used of the open one, the file's size of the others.
    sizes: Mutex<BTreeMap<SegmentId, u64>>,
    /// Sum of the sizes.
    bytes: AtomicU64,
    /// By segment and whether it reads past the page cache.
    readers: Mutex<HashMap<(SegmentId, bool), Arc<File>>>,
    /// Whether writes go past the page cache.
    direct: bool,
    /// A RAM disk: preallocating takes memory and gains nothing.
    ram: bool,
    /// Device and inode of the directory.
    place: (u64, u64),
}

/// A segment just made, for the writer.
pub struct Fresh {
    pub id: SegmentId,
    pub file: File,
    /// Bytes preallocated.
    pub room: u64,
}

impl Segments {
    /// Lists what is in `dir`, which is made if missing.
    pub fn open(dir: PathBuf) -> io::Result<Segments> {
        fs::create_dir_all(&dir)?;
        let sizes = list(&dir)?;
        let ram = is_ram(&File::open(&dir)?);
        let direct = !ram && takes_direct_writes(&dir)?;
        let meta = fs::metadata(&dir)?;
        let place = (meta.dev(), meta.ino());
        let bytes = AtomicU64::new(sizes.values().sum());
        Ok(Segments { dir, sizes: Mutex::new(sizes), bytes, readers: Mutex::new(HashMap::new()), direct, ram, place })
    }

    /// Whether the directory still lies where it lay.
    pub fn is_present(&self) -> bool {
        fs::symlink_metadata(&self.dir).is_ok_and(|meta| (meta.dev(), meta.ino()) == self.place)
    }

    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Whether the room of an open segment is reserved on the disk, and not only a length.
    pub fn is_backed(&self) -> bool {
        !self.ram
    }

    /// Bytes that a segment is to have once it is used up to `end`: more than that, at most `most`.
    pub fn ahead(&self, end: u64, most: u64) -> u64 {
        let step = if self.ram { most } else { (end / 4).clamp(*STEP.start(), *STEP.end()) };
        (end.saturating_add(step) / BLOCK * BLOCK).min(most)
    }

    pub fn ids(&self) -> Vec<SegmentId> {
        lock(&self.sizes).keys().copied().collect()
    }

    pub fn size(&self, id: SegmentId) -> Option<u64> {
        lock(&self.sizes).get(&id).copied()
    }

    pub fn set_size(&self, id: SegmentId, bytes: u64) {
        let mut sizes = lock(&self.sizes);
        let before = sizes.insert(id, bytes).unwrap_or(0);
        self.bytes.fetch_add(bytes, Relaxed);
        self.bytes.fetch_sub(before, Relaxed);
    }

    /// Bytes of all segments; the preallocated rest of the open one does not count.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Makes segment `id` with room for `want` bytes, or for as much above `least` as the file system still has.
    pub fn create(&self, id: SegmentId, want: u64, least: u64) -> io::Result<Fresh> {
        let path = self.path(id);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        if self.direct {
            options.custom_flags(libc::O_DIRECT);
        }
        let file = options.open(&path)?;
        match self.preallocate(&file, want, least) {
            Ok(room) => {
                file.sync_all()?;
                sync_dir(&self.dir)?;
                self.set_size(id, 0);
                Ok(Fresh { id, file, room })
            }
            Err(e) => {
                // A file without records is no segment; what remains of it is removed at the next start.
                let _ = fs::remove_file(&path);
                Err(e)
            }
        }
    }

    /// Opens a sealed segment to go on in it, with blocks for `want` bytes in all, or at least for `least`. Returns it and its room.
    pub fn resume(&self, id: SegmentId, want: u64, least: u64) -> io::Result<(File, u64)> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        if self.direct {
            options.custom_flags(libc::O_DIRECT);
        }
        let file = options.open(self.path(id))?;
        let room = self.grow(&file, want, least)?;
        file.sync_all()?;
        Ok((file, room))
    }

    /// Gives an open segment blocks for `want` bytes in all, or at least for `least`. Returns how many. Not synced: until `file`
    /// is, nothing may be written behind its size of before, or a torn record there would pass for a sealed segment's.
    pub fn grow(&self, file: &File, want: u64, least: u64) -> io::Result<u64> {
        self.preallocate(file, want, least)
    }

    fn preallocate(&self, file: &File, want: u64, least: u64) -> io::Result<u64> {
        if self.ram {
            file.set_len(want)?;
            return Ok(want);
        }
        preallocate(file, want, least)
    }

    /// Cuts what is not used off a segment that gets no more records, durably.
    pub fn seal(&self, id: SegmentId, bytes: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(self.path(id))?;
        file.set_len(bytes)?;
        file.sync_all()?;
        self.set_size(id, bytes);
        Ok(())
    }

    /// Deletes a segment, durably.
    pub fn delete(&self, id: SegmentId) -> io::Result<()> {
        // Out of the list first: a reader that meets a listed segment without a file takes the disk for lost.
        self.bytes.fetch_sub(lock(&self.sizes).remove(&id).unwrap_or(0), Relaxed);
        lock(&self.readers).retain(|(of, _), _| *of != id);
        match fs::remove_file(self.path(id)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => sync_dir(&self.dir),
        }
    }

    /// A handle to read with, through the page cache.
    pub fn reader(&self, id: SegmentId) -> io::Result<Arc<File>> {
        self.handle(id, false)
    }

    /// A handle to read whole blocks with, past the page cache where the file system takes that.
    pub fn direct_reader(&self, id: SegmentId) -> io::Result<Arc<File>> {
        self.handle(id, self.direct)
    }

    fn handle(&self, id: SegmentId, direct: bool) -> io::Result<Arc<File>> {
        if let Some(file) = lock(&self.readers).get(&(id, direct)) {
            return Ok(file.clone());
        }
        let mut options = OpenOptions::new();
        options.read(true);
        if direct {
            options.custom_flags(libc::O_DIRECT);
        }
        let file = Arc::new(options.open(self.path(id))?);
        let mut readers = lock(&self.readers);
        if readers.len() >= OPEN_FILES
            && let Some(any) = readers.keys().next().copied()
        {
            readers.remove(&any);
        }
        readers.insert((id, direct), file.clone());
        Ok(file)
    }

    /// Makes what was written to a segment in an earlier life durable, and forgets cached pages, so that what is read is
    /// what the disk has.
    pub fn settle(&self, id: SegmentId) -> io::Result<()> {
        let file = OpenOptions::new().read(true).write(true).open(self.path(id))?;
        file.sync_all()?;
        // SAFETY: advice about a descriptor that `file` keeps open; a refusal changes nothing.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        Ok(())
    }

    fn path(&self, id: SegmentId) -> PathBuf {
        self.dir.join(format!("{:010}.seg", id.0))
    }
}

/// The segments in a directory with their file sizes.
pub fn list(dir: &Path) -> io::Result<BTreeMap<SegmentId, u64>> {
    let mut out = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(number) = name.to_str().and_then(|name| name.strip_suffix(".seg")) else { continue };
        if let Ok(number) = number.parse() {
            out.insert(SegmentId(number), entry.metadata()?.len());
        }
    }
    Ok(out)
}

/// Reserves `want` bytes, or less, down to `least`. Returns how many.
fn preallocate(file: &File, want: u64, least: u64) -> io::Result<u64> {
    let least = least.max(LEAST_SEGMENT).min(want);
    let mut bytes = want;
    loop {
        let len = libc::off_t::try_from(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: fallocate only looks at the descriptor, which `file` keeps open.
        if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, len) } == 0 {
            return Ok(bytes);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) if bytes > least => bytes = (bytes / 2 / BLOCK * BLOCK).max(least),
            Some(libc::EOPNOTSUPP | libc::ENOSYS) => {
                file.set_len(bytes)?;
                return Ok(bytes);
            }
            Some(libc::EINTR) => (),
            _ => return Err(error),
        }
    }
}

/// Tries it: some file systems refuse O_DIRECT when opening, others at the first write.
fn takes_direct_writes(dir: &Path) -> io::Result<bool> {
    let path = dir.join("direct.tmp");
    let tried = OpenOptions::new().write(true).create(true).truncate(true).custom_flags(libc::O_DIRECT).open(&path);
    let direct = tried.is_ok_and(|file| {
        let block = crate::aligned::AlignedBuffer::new(BLOCK as usize);
        std::os::unix::fs::FileExt::write_all_at(&file, block.all(), 0).is_ok()
    });
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(direct),
    }
}

fn is_ram(file: &File) -> bool {
    // SAFETY: statfs is plain old data, and fstatfs fills it or fails.
    unsafe {
        let mut found: libc::statfs = std::mem::zeroed();
        libc::fstatfs(file.as_raw_fd(), &mut found) == 0 && found.f_type as i64 == TMPFS_MAGIC
    }
}

/// A poisoned map is still whole: each change of it is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_preallocated_and_its_rest_given_back_when_sealed() {
        let dir = tempfile::tempdir().unwrap();
        let segments = Segments::open(dir.path().join("segments")).unwrap();
        let fresh = segments.create(SegmentId(3), 4 << 20, 0).unwrap();
        assert_eq!(fresh.room, 4 << 20);
        assert_eq!(fresh.file.metadata().unwrap().len(), 4 << 20);
        segments.seal(SegmentId(3), 12_288).unwrap();
        assert_eq!(list(&dir.path().join("segments")).unwrap(), [(SegmentId(3), 12_288)].into());
        assert!(segments.create(SegmentId(3), 4 << 20, 0).is_err(), "a number is used once");
        segments.delete(SegmentId(3)).unwrap();
        assert_eq!(Segments::open(dir.path().join("segments")).unwrap().ids(), []);
    }

    #[test]
    fn an_open_segment_takes_little_more_than_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        let segments = Segments::open(dir.path().to_path_buf()).unwrap();
        const MIB: u64 = 1 << 20;
        if segments.is_backed() {
            let ahead = [0, 8 * MIB, 40 * MIB, 200 * MIB, 250 * MIB].map(|end| segments.ahead(end, 256 * MIB) / MIB);
            assert_eq!(ahead, [4, 12, 50, 216, 256]);
        }
        assert_eq!(segments.ahead(12_288, MIB), MIB, "never more than a segment has");
    }

    #[test]
    fn on_a_ram_disk_an_open_segment_takes_only_what_is_written() {
        use std::os::unix::fs::FileExt;
        let Ok(dir) = tempfile::tempdir_in("/dev/shm") else { return };
        let segments = Segments::open(dir.path().to_path_buf()).unwrap();
        if segments.is_backed() {
            return;
        }
        let fresh = segments.create(SegmentId(1), segments.ahead(0, 256 << 20), 0).unwrap();
        assert_eq!(fresh.room, 256 << 20, "there is nothing to gain from steps");
        fresh.file.write_all_at(&[7; 8_192], 0).unwrap();
        assert_eq!(fresh.file.metadata().unwrap().blocks() * 512, 8_192);
    }

    #[test]
    fn many_segments_are_read_through_a_bounded_number_of_handles() {
        let dir = tempfile::tempdir().unwrap();
        let segments = Segments::open(dir.path().to_path_buf()).unwrap();
        for n in 0..OPEN_FILES as u64 + 10 {
            segments.create(SegmentId(n), BLOCK, 0).unwrap();
            segments.reader(SegmentId(n)).unwrap();
        }
        assert!(lock(&segments.readers).len() <= OPEN_FILES);
    }
}
