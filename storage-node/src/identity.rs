//! Whose disk this is: `node.json`, and the lock that keeps two processes from sharing it.
//!
//! Invariants: `node.json` is written whole or not at all (temporary file, sync, rename, sync of the directory); it is
//! never written over a disk that has segments; the lock is held from before the first look until the last close.

use crate::node_key::NodeKey;
use crate::settings::OpenError;
use serde::{Deserialize, Serialize};
use spine::id::NodeId;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Version of everything in the directory.
pub const FORMAT: u32 = 1;

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OnDisk {
    format: u32,
    node: NodeHex,
    /// Seconds since the epoch.
    created: u64,
}

#[derive(Clone, Copy, Debug)]
struct NodeHex(NodeId);

impl Serialize for NodeHex {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for NodeHex {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        NodeId::parse_hex(&text).map(NodeHex).ok_or_else(|| serde::de::Error::custom("not 64 hex digits"))
    }
}

/// A disk's identity as it was read or made, and where it lies, to see whether it is still there.
#[derive(Clone, Debug)]
pub struct Identity {
    pub node: NodeId,
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Identity {
    /// Reads `dir/node.json`. `None`: there is none.
    pub fn read(dir: &Path) -> Result<Option<Identity>, OpenError> {
        let path = dir.join("node.json");
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(OpenError::Io { step: "open node.json", source }),
        };
        let mut text = String::new();
        (&file).take(64 << 10).read_to_string(&mut text).map_err(OpenError::io("read node.json"))?;
        let on_disk: OnDisk =
            serde_json::from_str(&text).map_err(|e| OpenError::BadIdentity { dir: dir.to_path_buf(), reason: e.to_string() })?;
        if on_disk.format != FORMAT {
            return Err(OpenError::Format { dir: dir.to_path_buf(), format: on_disk.format, known: FORMAT });
        }
        let meta = file.metadata().map_err(OpenError::io("stat node.json"))?;
        Ok(Some(Identity { node: on_disk.node.0, path, device: meta.dev(), inode: meta.ino() }))
    }

    /// Makes a new identity in `dir`, which must have no segments: a random one, or with `keyed` the public half of a key that is
    /// made here, unless a crash left one.
    pub fn create(dir: &Path, keyed: bool) -> Result<Identity, OpenError> {
        if has_segments(dir).map_err(OpenError::io("look for segments"))? {
            return Err(OpenError::NoIdentity { dir: dir.to_path_buf() });
        }
        let mut node = [0; 32];
        if keyed {
            node = NodeKey::load_or_make(dir)?.node().0;
        } else {
            File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut node)).map_err(OpenError::io("read random bytes"))?;
        }
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let on_disk = OnDisk { format: FORMAT, node: NodeHex(NodeId(node)), created };
        let text =
            serde_json::to_string_pretty(&on_disk).map_err(|e| OpenError::BadIdentity { dir: dir.to_path_buf(), reason: e.to_string() })?;
        write_whole(dir, "node.json", text.as_bytes(), 0o644).map_err(OpenError::io("write node.json"))?;
        Identity::read(dir)?.ok_or_else(|| OpenError::Missing { dir: dir.to_path_buf() })
    }

    /// Whether the very file that was read still lies where it lay: false once the disk was emptied, moved or unmounted.
    pub fn is_present(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|meta| meta.dev() == self.device && meta.ino() == self.inode)
    }
}

/// Whether `dir` has anything in `segments/`. A missing directory has nothing.
pub fn has_segments(dir: &Path) -> io::Result<bool> {
    match fs::read_dir(dir.join("segments")) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Writes `dir/name` so that a crash leaves the old file or the new one.
pub fn write_whole(dir: &Path, name: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
    let tmp = dir.join(format!("{name}.tmp"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&tmp)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&tmp, dir.join(name))?;
    sync_dir(dir)
}

/// Makes the names in `dir` durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Held while a process uses the disk; released when dropped, or when the process dies.
#[derive(Debug)]
pub struct DiskLock {
    _file: File,
}

impl DiskLock {
    /// # Errors
    /// [`OpenError::InUse`] if another process, or another `Disk` of this one, has it.
    pub fn take(dir: &Path) -> Result<DiskLock, OpenError> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(dir.join("lock"))
            .map_err(OpenError::io("open the lock file"))?;
        // SAFETY: flock only looks at the descriptor, which `file` keeps open.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
            return Ok(DiskLock { _file: file });
        }
        match io::Error::last_os_error() {
            e if e.kind() == io::ErrorKind::WouldBlock => Err(OpenError::InUse { dir: dir.to_path_buf() }),
            source => Err(OpenError::Io { step: "lock the disk", source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_reads_back_and_is_present_until_it_is_moved() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Identity::read(dir.path()).unwrap().is_none());
        let made = Identity::create(dir.path(), false).unwrap();
        let read = Identity::read(dir.path()).unwrap().unwrap();
        assert_eq!(made.node, read.node);
        assert!(read.is_present());
        fs::rename(dir.path().join("node.json"), dir.path().join("elsewhere")).unwrap();
        assert!(!read.is_present());
    }

    #[test]
    fn segments_without_an_identity_are_not_adopted() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("segments")).unwrap();
        fs::write(dir.path().join("segments/0000000001.seg"), b"x").unwrap();
        assert!(matches!(Identity::create(dir.path(), false), Err(OpenError::NoIdentity { .. })));
    }

    #[test]
    fn the_identity_of_a_keyed_disk_is_its_public_key() {
        let dir = tempfile::tempdir().unwrap();
        let made = Identity::create(dir.path(), true).unwrap();
        assert_eq!(NodeKey::of(dir.path(), made.node).unwrap().node(), made.node);
    }

    #[test]
    fn a_disk_is_locked_once() {
        let dir = tempfile::tempdir().unwrap();
        let held = DiskLock::take(dir.path()).unwrap();
        assert!(matches!(DiskLock::take(dir.path()), Err(OpenError::InUse { .. })));
        drop(held);
        DiskLock::take(dir.path()).unwrap();
    }

    #[test]
    fn a_node_json_that_is_not_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("node.json"), b"{}").unwrap();
        assert!(matches!(Identity::read(dir.path()), Err(OpenError::BadIdentity { .. })));
        fs::write(dir.path().join("node.json"), format!("{{\"format\":9,\"node\":\"{}\",\"created\":0}}", "00".repeat(32))).unwrap();
        assert!(matches!(Identity::read(dir.path()), Err(OpenError::Format { format: 9, .. })));
    }
}
