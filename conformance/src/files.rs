//! Looking through folders: every file, every block, every place of some bytes.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Bytes of disk blocks that the files below a folder occupy.
pub fn allocated(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    walk(folder).iter().filter_map(|p| fs::symlink_metadata(p).ok()).map(|m| m.blocks() * 512).sum()
}

/// Every file below a folder, in order of path.
pub fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(kind) if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files.sort();
    files
}

/// Every place in a folder's files where `needle` stands, as file and offset; at most 20.
pub fn grep(folder: &Path, needle: &[u8]) -> io::Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    let mut buffer = vec![0u8; 4 << 20];
    for path in walk(folder) {
        let Ok(mut file) = File::open(&path) else { continue };
        let (mut kept, mut base) = (0usize, 0u64);
        loop {
            let read = file.read(&mut buffer[kept..])?;
            if read == 0 {
                break;
            }
            let filled = kept + read;
            let mut from = 0;
            while let Some(at) = find(&buffer[from..filled], needle) {
                found.push((path.clone(), base + (from + at) as u64));
                if found.len() >= 20 {
                    return Ok(found);
                }
                from += at + 1;
            }
            let keep = (needle.len() - 1).min(filled);
            buffer.copy_within(filled - keep..filled, 0);
            base += (filled - keep) as u64;
            kept = keep;
        }
    }
    Ok(found)
}

/// First place of `needle` in `hay`.
pub fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0;
    while let Some(at) = hay[from..].iter().position(|b| *b == first) {
        let start = from + at;
        if hay[start..].starts_with(needle) {
            return Some(start);
        }
        from = start + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grep_finds_a_needle_across_buffer_ends() {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = vec![b'x'; 9 << 20];
        let at = (4 << 20) - 3;
        bytes[at..at + 6].copy_from_slice(b"canary");
        fs::write(folder.path().join("file"), &bytes).unwrap();
        let found = grep(folder.path(), b"canary").unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].1, at as u64);
    }
}
