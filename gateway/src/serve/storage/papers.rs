//! What a fleet's disk keeps beside its shards: its certificate, and who is out.
//!
//! ```text
//! DISK/fleet.json    0600  {format, gate: "host:port", authority: hex of DER, certificate: hex of DER}
//! DISK/revocations   0600  the newest revocation list as it came, hexadecimal
//! ```
//! Invariants: both are written whole or not at all, and only where the disk's `node.json` lies: not into the empty folder of a disk
//! that is away. Not here: `node-key` (the storage node's).

use super::StorageError;
use crate::boot::{read_text, write_whole};
use serde::{Deserialize, Serialize};
use spine::fleet::certificate::{self, Certified};
use std::path::{Path, PathBuf};

const FORMAT: u32 = 1;

/// A node's papers.
#[derive(Clone, Debug)]
pub struct Papers {
    /// Where the fleet admits and renews.
    pub gate: String,
    /// DER of the CA's certificate.
    pub authority: Vec<u8>,
    /// DER of the node's.
    pub certificate: Vec<u8>,
    /// What the certificate says.
    pub says: Certified,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OnDisk {
    format: u32,
    gate: String,
    authority: String,
    certificate: String,
}

impl Papers {
    /// # Errors
    /// [`StorageError::Papers`] if the certificate does not read.
    pub fn new(dir: &Path, gate: String, authority: Vec<u8>, certificate: Vec<u8>) -> Result<Papers, StorageError> {
        let says = certificate::read(&certificate).map_err(|error| bad(dir, error))?;
        Ok(Papers { gate, authority, certificate, says })
    }

    /// The papers in `dir`; `None` if it never joined.
    pub fn load(dir: &Path) -> Result<Option<Papers>, StorageError> {
        let Some(text) = read_text(&file(dir))? else { return Ok(None) };
        let on_disk: OnDisk = serde_json::from_str(&text).map_err(|error| bad(dir, error))?;
        if on_disk.format != FORMAT {
            return Err(bad(dir, format!("format {} is not {FORMAT}", on_disk.format)));
        }
        let authority = hex::decode(on_disk.authority).map_err(|error| bad(dir, error))?;
        let certificate = hex::decode(on_disk.certificate).map_err(|error| bad(dir, error))?;
        Self::new(dir, on_disk.gate, authority, certificate).map(Some)
    }

    pub fn save(&self, dir: &Path) -> Result<(), StorageError> {
        let (authority, certificate) = (hex::encode(&self.authority), hex::encode(&self.certificate));
        let on_disk = OnDisk { format: FORMAT, gate: self.gate.clone(), authority, certificate };
        let text = serde_json::to_string_pretty(&on_disk).map_err(|error| bad(dir, error))?;
        Ok(write_whole(&file(dir), &text, 0o600)?)
    }
}

fn file(dir: &Path) -> PathBuf {
    dir.join("fleet.json")
}

fn bad(dir: &Path, reason: impl ToString) -> StorageError {
    StorageError::Papers { dir: dir.to_path_buf(), reason: reason.to_string() }
}

/// The revocation list in `dir`, if there is one that reads; whether it holds is for the fleet's trust to say.
pub fn load_revocations(dir: &Path) -> Result<Option<Vec<u8>>, StorageError> {
    let Some(text) = read_text(&dir.join("revocations"))? else { return Ok(None) };
    hex::decode(text).map(Some).map_err(|error| bad(dir, error))
}

/// Keeps a revocation list in every one of `dirs` whose disk is there.
///
/// # Errors
/// If it is in none: the next start would not know it.
pub fn keep_revocations(dirs: &[PathBuf], list: &[u8]) -> std::io::Result<()> {
    let text = hex::encode(list);
    let mut kept = Err(std::io::Error::other("no disk is there"));
    for dir in dirs.iter().filter(|dir| dir.join("node.json").exists()) {
        let written = write_whole(&dir.join("revocations"), &text, 0o600).map_err(std::io::Error::other);
        if kept.is_err() {
            kept = written;
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_kept_only_where_a_disk_is() {
        let (there, away) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(there.path().join("node.json"), "{}").unwrap();
        let dirs = [away.path().to_path_buf(), there.path().to_path_buf()];
        keep_revocations(&dirs, b"list").unwrap();
        assert_eq!(load_revocations(there.path()).unwrap().as_deref(), Some(b"list".as_slice()));
        assert!(load_revocations(away.path()).unwrap().is_none());
        assert!(keep_revocations(&dirs[..1], b"list").is_err());
    }

    #[test]
    fn papers_that_do_not_read_are_refused_and_none_are_none() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Papers::load(dir.path()).unwrap().is_none());
        for text in [
            "",
            "{}",
            r#"{"format":2,"gate":"a:1","authority":"","certificate":""}"#,
            r#"{"format":1,"gate":"a:1","authority":"","certificate":"00"}"#,
        ] {
            std::fs::write(file(dir.path()), text).unwrap();
            assert!(matches!(Papers::load(dir.path()), Err(StorageError::Papers { .. })), "{text}");
        }
    }
}
