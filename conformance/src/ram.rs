//! A RAM disk of a test's own.
//!
//! A tmpfs with huge pages: with small ones, writing a fresh page costs four times what copying into it does, which is the machine's
//! business and not the server's. Mounting takes root; without it `/dev/shm` has to do.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

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
    let done = unsafe { libc::mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), libc::MS_NOSUID | libc::MS_NODEV, options.as_ptr().cast()) };
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
}
