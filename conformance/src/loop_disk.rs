//! A disk of a test's own: an ext4 file system in a file, that may be small, lose its power, or be filled by others.
//!
//! Needs root, `mkfs.ext4`, `losetup`, `mount`. Invariant: unmounted and detached when dropped.

use crate::tools::find_program;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// `_IOR('X', 125, __u32)` of the kernel's ext4.h.
const EXT4_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587d;
/// Without flushing anything.
const NO_LOG_FLUSH: u32 = 2;
/// How often and how long unmounting is tried while somebody still has a file in it.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(100);

/// Why there is no such disk.
#[derive(Debug, thiserror::Error)]
pub enum LoopError {
    #[error("needs root (loop devices and mount): run it with sudo")]
    NotRoot,
    #[error("needs `{0}`")]
    Missing(&'static str),
    #[error("{what}: {source}")]
    Io { what: &'static str, source: io::Error },
    #[error("{command}: {printed}")]
    Failed { command: String, printed: String },
}

/// The file system. Its folder is [`LoopDisk::path`].
#[derive(Debug)]
pub struct LoopDisk {
    device: String,
    mount_point: PathBuf,
}

impl LoopDisk {
    /// One of `bytes` (its file is sparse) in `place`, mounted there.
    ///
    /// # Errors
    /// [`LoopError::NotRoot`] and [`LoopError::Missing`] where it cannot be had here at all.
    pub fn make(place: &Path, bytes: u64) -> Result<LoopDisk, LoopError> {
        // SAFETY: geteuid has no preconditions.
        if unsafe { libc::geteuid() } != 0 {
            return Err(LoopError::NotRoot);
        }
        for name in ["losetup", "mkfs.ext4", "mount", "umount"] {
            find_program(name).ok_or(LoopError::Missing(name))?;
        }
        let image = place.join("disk.img");
        let made = File::create(&image).and_then(|file| file.set_len(bytes));
        made.map_err(|source| LoopError::Io { what: "image", source })?;
        let device = command("losetup", &["--find", "--show", &image.to_string_lossy()])?.trim().to_owned();
        let disk = LoopDisk { device, mount_point: place.join("mounted") };
        fs::create_dir_all(&disk.mount_point).map_err(|source| LoopError::Io { what: "mount point", source })?;
        command("mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", &disk.device])?;
        disk.mount()?;
        Ok(disk)
    }

    pub fn path(&self) -> &Path {
        &self.mount_point
    }

    fn mount(&self) -> Result<(), LoopError> {
        command("mount", &["-t", "ext4", &self.device, &self.mount_point.to_string_lossy()]).map(drop)
    }

    /// Stops it as a power cut would: nothing that was not synced is kept.
    pub fn cut_power(&self) -> Result<(), LoopError> {
        let folder = File::open(&self.mount_point).map_err(|source| LoopError::Io { what: "mount point", source })?;
        // SAFETY: the ioctl reads one u32 through the pointer, which lives over the call.
        let result = unsafe { libc::ioctl(folder.as_raw_fd(), EXT4_IOC_SHUTDOWN as _, &NO_LOG_FLUSH) };
        if result == 0 { Ok(()) } else { Err(LoopError::Io { what: "EXT4_IOC_SHUTDOWN", source: io::Error::last_os_error() }) }
    }

    /// The kernel replays the journal, as after a power cut.
    pub fn remount(&self) -> Result<(), LoopError> {
        let mut tries = 0;
        while let Err(error) = command("umount", &[&self.mount_point.to_string_lossy()]) {
            tries += 1;
            if tries > TRIES {
                return Err(error);
            }
            std::thread::sleep(PAUSE);
        }
        self.mount()
    }

    /// Has a file of somebody else take all but about `left` bytes of what is free. Removing it gives them back.
    ///
    /// # Errors
    /// The file system does not say how much is free, or does not give it.
    pub fn fill(&self, left: u64) -> Result<PathBuf, LoopError> {
        let failed = |what| move |source| LoopError::Io { what, source };
        let path = self.mount_point.join("somebody-else");
        let file = File::create(&path).map_err(failed("filler"))?;
        // SAFETY: an all-zero statvfs is one, the call fills it through a pointer that lives over the call.
        let mut space: libc::statvfs = unsafe { std::mem::zeroed() };
        if unsafe { libc::fstatvfs(file.as_raw_fd(), &mut space) } != 0 {
            return Err(failed("free space")(io::Error::last_os_error()));
        }
        let bytes = (space.f_bavail * space.f_frsize).saturating_sub(left);
        // SAFETY: no memory is passed.
        if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, bytes.cast_signed()) } != 0 {
            return Err(failed("filler")(io::Error::last_os_error()));
        }
        Ok(path)
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        for _ in 0..TRIES {
            if command("umount", &[&self.mount_point.to_string_lossy()]).is_ok() {
                break;
            }
            std::thread::sleep(PAUSE);
        }
        let _ = command("losetup", &["--detach", &self.device]);
    }
}

fn command(name: &'static str, arguments: &[&str]) -> Result<String, LoopError> {
    let failed = |printed: String| LoopError::Failed { command: format!("{name} {}", arguments.join(" ")), printed };
    let program = find_program(name).ok_or(LoopError::Missing(name))?;
    let output = Command::new(program).args(arguments).output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}
