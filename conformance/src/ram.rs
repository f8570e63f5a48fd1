//! A RAM disk of a test's own.
//!
//! A tmpfs with huge pages: with small ones, writing a fresh page costs four times what copying into it does, which is the machine's
//! business and not the server's. Mounting takes root; without it `/dev/shm` has to do.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Where a RAM disk is always mounted.
const SHARED: &str = "/dev/shm";

/// A folder in memory; gone when dropped.
pub struct RamDisk {
    place: tempfile::TempDir,
    mounted: bool,
}

impl RamDisk {
    /// `bytes`: the most it will hold.
    ///
    /// # Errors
    /// No right to make folders in `/dev/shm`.
    pub fn new(bytes: u64) -> io::Result<RamDisk> {
        let place = tempfile::Builder::new().prefix("breakwater-ram-").tempdir_in(SHARED)?;
        let mounted = mount(place.path(), bytes).is_ok();
        Ok(RamDisk { place, mounted })
    }

    pub fn path(&self) -> &Path {
        self.place.path()
    }

    /// Which kind it is, for the one who reads the figures.
    pub fn kind(&self) -> &'static str {
        if self.mounted { "tmpfs with huge pages" } else { "/dev/shm" }
    }
}

impl Drop for RamDisk {
    fn drop(&mut self) {
        let Ok(path) = text(self.place.path()) else { return };
        // SAFETY: `path` ends with NUL. Lazily: a process that is still ending may hold a file in it.
        if self.mounted && unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) } != 0 {
            eprintln!("{} stays mounted: {}", self.place.path().display(), io::Error::last_os_error());
        }
    }
}

fn mount(place: &Path, bytes: u64) -> io::Result<()> {
    let (target, kind) = (text(place)?, c"tmpfs");
    let options = CString::new(format!("huge=always,mode=0700,size={bytes}"))?;
    // SAFETY: all strings end with NUL and live through the call.
    let done =
        unsafe { libc::mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), libc::MS_NOSUID | libc::MS_NODEV, options.as_ptr().cast()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn text(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// The folder to measure in: one on the disk that was asked for, or a RAM disk.
pub enum Place {
    Folder(tempfile::TempDir),
    Ram(RamDisk),
}

impl Place {
    pub fn path(&self) -> &Path {
        match self {
            Place::Folder(folder) => folder.path(),
            Place::Ram(disk) => disk.path(),
        }
    }
}

/// Keeps memory at hand for what a RAM disk is about to hold.
///
/// In a virtual machine a free page goes back to the host within seconds, and its first touch then costs microseconds: that swung
/// the CPU per GiB by whole seconds. So a file holds the pages, and gives them up just ahead of who writes.
pub struct Warmth {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Bytes kept free ahead of the writer, and how often that is looked after.
const AHEAD: u64 = 64 << 20;
const LOOK: Duration = Duration::from_millis(5);

impl Warmth {
    /// `None` where `place` is not on a RAM disk, or where it has no room. What fails later is left out: it only steadies figures.
    pub fn new(place: &Path, bytes: u64) -> Option<Warmth> {
        is_ram(place).then_some(())?;
        let path = place.join("warmth");
        let mut held = bytes + AHEAD;
        let file = fill(&path, held).ok()?;
        let most = used(place)?.saturating_sub(AHEAD);
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, place) = (stop.clone(), place.to_path_buf());
        let run = move || {
            while !stopped.load(Ordering::Relaxed) && held > 0 {
                let over = used(&place).unwrap_or(most).saturating_sub(most);
                held = held.saturating_sub(over);
                if over > 0 && file.set_len(held).is_err() {
                    break;
                }
                std::thread::sleep(LOOK);
            }
            let _ = std::fs::remove_file(&path);
        };
        let thread = std::thread::Builder::new().name("warmth".into()).spawn(run).ok()?;
        Some(Warmth { stop, thread: Some(thread) })
    }
}

impl Drop for Warmth {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn fill(path: &Path, bytes: u64) -> io::Result<File> {
    let mut file = File::create(path)?;
    let page = vec![1; 1 << 20];
    for _ in 0..bytes >> 20 {
        if let Err(e) = file.write_all(&page) {
            let _ = std::fs::remove_file(path);
            return Err(e);
        }
    }
    Ok(file)
}

/// Whether `place` is on a RAM disk.
pub fn is_ram(place: &Path) -> bool {
    stat(place).is_some_and(|stat| stat.f_type == libc::TMPFS_MAGIC)
}

/// Bytes used of the file system that holds `place`.
fn used(place: &Path) -> Option<u64> {
    stat(place).map(|stat| (stat.f_blocks - stat.f_bfree) * stat.f_bsize as u64)
}

fn stat(place: &Path) -> Option<libc::statfs> {
    let path = text(place).ok()?;
    // SAFETY: all-zero bytes are a valid statfs.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `path` ends with NUL and `stat` is valid for the call to fill.
    let done = unsafe { libc::statfs(path.as_ptr(), &mut stat) };
    (done == 0).then_some(stat)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ram_disk_holds_files_and_leaves_nothing() {
        let disk = RamDisk::new(16 << 20).unwrap();
        let path = disk.path().to_path_buf();
        std::fs::write(path.join("file"), [1; 5_000]).unwrap();
        assert_eq!(std::fs::read(path.join("file")).unwrap().len(), 5_000);
        drop(disk);
        assert!(!path.exists());
    }

    #[test]
    fn warmth_gives_way_to_what_is_written_and_ends_with_its_file() {
        let disk = RamDisk::new(1 << 30).unwrap();
        let before = used(disk.path()).unwrap();
        let warmth = Warmth::new(disk.path(), 64 << 20).unwrap();
        let held = used(disk.path()).unwrap();
        assert!(held >= before + (64 << 20) + AHEAD - (4 << 20));
        std::fs::write(disk.path().join("file"), vec![1; 32 << 20]).unwrap();
        let settled = (0..400).any(|_| {
            std::thread::sleep(LOOK);
            used(disk.path()).unwrap() <= held - AHEAD + (8 << 20)
        });
        assert!(settled, "the reserve made room");
        drop(warmth);
        assert!(!disk.path().join("warmth").exists());
    }
}
