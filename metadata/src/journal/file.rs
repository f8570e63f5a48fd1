//! What "it is on disk" takes: syncing files, folders, and whole small files at once.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Makes creations, renames and removals in `dir` durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Replaces the file at `path` by `bytes`: after a crash it is the old file or the new one, whole. Blocks for the disk.
pub fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&temporary, path)?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// Makes `file` exactly `bytes` long and all zeros, blocks written and durable, so that later syncs change no metadata of the file:
/// on unwritten extents each sync of new bytes costs half as much again.
pub fn fill_with_zeros(file: &File, bytes: u64) -> io::Result<()> {
    zero_range(file, 0, bytes)?;
    file.set_len(bytes)?;
    file.sync_all()
}

/// Writes zeros over `from..to`; not synced.
pub fn zero_range(file: &File, from: u64, to: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let zeros = vec![0; 1 << 20];
    let mut at = from;
    while at < to {
        let len = usize::try_from(to - at).unwrap_or(zeros.len()).min(zeros.len());
        file.write_all_at(&zeros[..len], at)?;
        at += len as u64;
    }
    Ok(())
}
