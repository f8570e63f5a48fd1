//! The data folder, and what a first start puts into it.
//!
//! ```text
//! DATA/              0700
//!   lock             held while a process uses the folder
//!   root-key         0600  wraps every secret in metadata; without it everything is lost
//!   root-credentials 0600  access key and secret that the first start made (not where the environment gave them)
//!   root-access-key  0600  which access key the environment gave last
//!   admin-token      0600  what /admin/* asks for
//!   ops-address      where the running process serves operations
//!   disks.json       which disk is in which place (not in a fleet)
//!   fleet/           0700  a gateway of a fleet: the CA's key (`fleet/table.rs`), where metadata is if others keep it (`fleet/cluster.rs`)
//!   metadata/        log and table
//!   disk-0 ... 5/    shards, unless the disks are elsewhere
//! ```
//! Invariants: one process a folder; secrets are written whole, to files that only their owner reads; a root key is never made where
//! there is metadata that an older one wrapped.

pub mod credentials;
pub mod disks;
pub mod escrow;
pub mod welcome;

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Why a data folder cannot be used; says what to do next. Exit code 1.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error(
        "the data folder cannot be used. path=`{path}`, reason=`{source}`. Choose another with --data, or give this user write access to it."
    )]
    Folder { path: PathBuf, source: io::Error },
    #[error("another breakwater uses this data folder. path=`{path}`. Stop it, or choose another folder with --data.")]
    InUse { path: PathBuf },
    #[error(
        "the root key is missing and there is something that it wrapped. path=`{path}`. Put the file back from your copy of it; without it nothing stored here can be read."
    )]
    RootKeyLost { path: PathBuf },
    #[error("the file holds something else than it should. path=`{path}`, reason=`{reason}`")]
    Content { path: PathBuf, reason: String },
    #[error("{variable} is not usable. {reason}")]
    Environment { variable: &'static str, reason: String },
    #[error(transparent)]
    Key(#[from] crate::keys::KeyError),
    #[error(transparent)]
    Metadata(#[from] spine::wire::MetadataError),
    /// Metadata refused what a start needs, or answered another question.
    #[error("metadata did not take what the start needs. what=`{what}`")]
    Refused { what: String },
}

/// A data folder that this process alone uses, as long as the value lives; or one of which it only reads what another one keeps there.
#[derive(Debug)]
pub struct Home {
    dir: PathBuf,
    /// `None`: the folder is another process's.
    lock: Option<File>,
}

impl Home {
    /// Takes the folder; makes it if it is missing.
    pub fn open(dir: &Path) -> Result<Home, BootError> {
        let folder = |source| BootError::Folder { path: dir.to_path_buf(), source };
        let existed = dir.is_dir();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(folder)?;
        let dir = dir.canonicalize().map_err(folder)?;
        if !existed {
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).map_err(folder)?;
        }
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(dir.join("lock")).map_err(folder)?;
        // SAFETY: flock has no memory effects; the descriptor is open as long as `lock` lives.
        if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            let error = io::Error::last_os_error();
            return Err(match error.kind() {
                ErrorKind::WouldBlock => BootError::InUse { path: dir },
                _ => folder(error),
            });
        }
        Ok(Home { dir, lock: Some(lock) })
    }

    /// Takes the folder, or reads beside the process that has it.
    pub fn open_or_read(dir: &Path) -> Result<Home, BootError> {
        match Home::open(dir) {
            Err(BootError::InUse { path }) => Ok(Home { dir: path, lock: None }),
            other => other,
        }
    }

    /// Whether this process may write into the folder.
    pub fn is_ours(&self) -> bool {
        self.lock.is_some()
    }

    /// # Errors
    /// [`BootError::InUse`]: the folder is another process's.
    pub fn must_be_ours(&self) -> Result<(), BootError> {
        if self.is_ours() { Ok(()) } else { Err(BootError::InUse { path: self.dir.clone() }) }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn metadata_dir(&self) -> PathBuf {
        self.dir.join("metadata")
    }

    /// Where the disks' places are remembered.
    pub fn slots_file(&self) -> PathBuf {
        self.dir.join("disks.json")
    }

    /// Where the root key lies.
    pub fn root_key_file(&self) -> PathBuf {
        self.dir.join("root-key")
    }

    /// The root key; made on the first start.
    pub fn root_key(&self) -> Result<crate::keys::RootKey, BootError> {
        let path = self.root_key_file();
        let has_metadata = fs::read_dir(self.metadata_dir()).is_ok_and(|mut entries| entries.next().is_some())
            || self.dir.join("fleet").join("metadata.json").exists();
        if !path.exists() && has_metadata {
            return Err(BootError::RootKeyLost { path });
        }
        Ok(crate::keys::RootKey::load_or_create(&path)?.0)
    }

    /// Before an escrow is taken in: a root key that a start makes would not open it.
    ///
    /// # Errors
    /// [`BootError::RootKeyLost`].
    pub fn must_have_root_key(&self) -> Result<(), BootError> {
        let path = self.dir.join("root-key");
        if path.exists() { Ok(()) } else { Err(BootError::RootKeyLost { path }) }
    }

    /// The token that `/admin/*` asks for; made on the first start.
    pub fn admin_token(&self) -> Result<String, BootError> {
        let path = admin_token_file(&self.dir);
        if let Some(token) = read_text(&path)? {
            return Ok(token);
        }
        let token = random_text(40)?;
        write_whole(&path, &token, 0o600)?;
        Ok(token)
    }

    /// Notes where operations are served, for `breakwater admin`.
    pub fn note_ops_address(&self, address: std::net::SocketAddr) -> Result<(), BootError> {
        write_whole(&ops_address_file(&self.dir), &address.to_string(), 0o644)
    }
}

/// Where a running process' admin token is.
pub fn admin_token_file(data: &Path) -> PathBuf {
    data.join("admin-token")
}

/// Where a running process' operations address is.
pub fn ops_address_file(data: &Path) -> PathBuf {
    data.join("ops-address")
}

/// The file's text without white space around it; `None` if there is no file.
pub(crate) fn read_text(path: &Path) -> Result<Option<String>, BootError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_string())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(BootError::Content { path: path.to_path_buf(), reason: error.to_string() }),
    }
}

/// Writes a small file so that a crash leaves the old one or the new one.
pub(crate) fn write_whole(path: &Path, text: &str, mode: u32) -> Result<(), BootError> {
    let written = (|| {
        let beside = path.with_extension("new");
        let mut file = create_anew(&beside, mode)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    })();
    written.map_err(|source| BootError::Folder { path: path.to_path_buf(), source })
}

/// Creates a file in the place of what a crash may have left there, or somebody has put there: nothing is written through a link, or into a file
/// that is somebody else's.
pub(crate) fn create_anew(path: &Path, mode: u32) -> std::io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path)
}

/// `len` random letters and digits.
pub fn random_text(len: usize) -> Result<String, BootError> {
    const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut out = String::with_capacity(len);
    while out.len() < len {
        let mut bytes = [0; 64];
        getrandom::fill(&mut bytes).map_err(|error| crate::keys::KeyError::Random { reason: error.to_string() })?;
        // 248 is four times 62: what is above would favour the first letters.
        let letters = bytes.iter().filter(|byte| **byte < 248).map(|byte| char::from(LETTERS[usize::from(byte % 62)]));
        out.extend(letters.take(len - out.len()));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_file_is_written_through_no_link_and_into_nobody_elses_file() {
        let place = tempfile::tempdir().unwrap();
        let (path, beside, other) = (place.path().join("papers"), place.path().join("papers.new"), place.path().join("other"));
        fs::write(&other, "theirs").unwrap();
        std::os::unix::fs::symlink(&other, &beside).unwrap();
        write_whole(&path, "secret", 0o600).unwrap();
        assert_eq!((read_text(&path).unwrap().as_deref(), fs::read_to_string(&other).unwrap().as_str()), (Some("secret"), "theirs"));
        // Somebody keeps the file open that a crash left.
        let mut open = OpenOptions::new().read(true).write(true).create_new(true).open(&beside).unwrap();
        write_whole(&path, "another", 0o600).unwrap();
        let mut seen = String::new();
        std::io::Read::read_to_string(&mut open, &mut seen).unwrap();
        assert_eq!((read_text(&path).unwrap().as_deref(), seen.as_str()), (Some("another"), ""));
    }

    #[test]
    fn a_folder_has_one_process_and_is_closed_to_others() {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("data");
        let home = Home::open(&dir).unwrap();
        assert!(matches!(Home::open(&dir), Err(BootError::InUse { .. })));
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        let beside = Home::open_or_read(&dir).unwrap();
        assert!(!beside.is_ours());
        assert!(matches!(beside.must_be_ours(), Err(BootError::InUse { .. })));
        drop(home);
        assert!(Home::open_or_read(&dir).unwrap().is_ours());
        Home::open(&dir).unwrap();
    }

    #[test]
    fn secrets_are_made_once_and_only_their_owner_reads_them() {
        let place = tempfile::tempdir().unwrap();
        let home = Home::open(place.path()).unwrap();
        let token = home.admin_token().unwrap();
        assert_eq!(token.len(), 40);
        assert_eq!(home.admin_token().unwrap(), token);
        assert_eq!(fs::metadata(admin_token_file(home.dir())).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_lost_root_key_is_not_replaced_by_a_new_one() {
        let place = tempfile::tempdir().unwrap();
        let home = Home::open(place.path()).unwrap();
        home.root_key().unwrap();
        fs::create_dir(home.metadata_dir()).unwrap();
        fs::write(home.metadata_dir().join("log"), "x").unwrap();
        home.root_key().unwrap();
        fs::remove_file(home.dir().join("root-key")).unwrap();
        assert!(matches!(home.root_key(), Err(BootError::RootKeyLost { .. })));
    }

    #[test]
    fn random_texts_have_the_length_and_differ() {
        let (one, other) = (random_text(40).unwrap(), random_text(40).unwrap());
        assert_eq!((one.len(), other.len()), (40, 40));
        assert_ne!(one, other);
        assert!(one.bytes().all(|b| b.is_ascii_alphanumeric()));
    }
}
