//! What the metadata folder says of itself: the list of its groups, and the newest format that anything in it has.
//!
//! Both are one file (`list.rs`), whose head is the format. So a version that does not understand what is in the folder does not open it:
//! also one from before there were formats, to which the file does not read.
//! Invariant: before anything of a format is on the disk (an entry of the log that raises a group to it, a snapshot of such a group), the file
//! says so.

use super::OpenError;
use super::list::{self, Listed};
use spine::wire::MetadataError;
use spine::wire::format::{FIRST, Format};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::MutexGuard;

pub struct Folder {
    dir: PathBuf,
    /// The newest format that this process understands, or keeps to.
    newest: Format,
    /// What the file on the disk says.
    listed: tokio::sync::Mutex<Listed>,
    /// The format in it.
    format: AtomicU8,
    /// What the root's group had come to when it was last looked at.
    agreed: AtomicU8,
    /// Who keeps the groups from a newer format, for whoever asks for what is newer.
    holdout: Mutex<String>,
    /// That something too new was refused was said.
    told: AtomicBool,
}

impl Folder {
    /// - `listed`: as it was read from `dir`; its format is at most `newest`.
    pub fn new(dir: &Path, newest: Format, listed: Listed) -> Self {
        let (format, holdout) = (AtomicU8::new(listed.format.0), Mutex::new("nobody was asked yet".to_string()));
        let (agreed, told) = (AtomicU8::new(FIRST.0), AtomicBool::new(false));
        Self { dir: dir.to_owned(), newest, listed: tokio::sync::Mutex::new(listed), format, agreed, holdout, told }
    }

    pub fn newest(&self) -> Format {
        self.newest
    }

    /// The newest format that anything here may have: somebody meant to raise a group to it.
    pub fn format(&self) -> Format {
        Format(self.format.load(Ordering::Acquire))
    }

    /// What the root's group had come to when it was last looked at: all who have a replica of it understand that.
    pub fn agreed(&self) -> Format {
        Format(self.agreed.load(Ordering::Acquire))
    }

    pub fn note_agreed(&self, format: Format) {
        self.agreed.fetch_max(format.0, Ordering::AcqRel);
    }

    /// The file, and the right to change it: with [`Self::save`].
    pub async fn listed(&self) -> MutexGuard<'_, Listed> {
        self.listed.lock().await
    }

    /// Makes `listed` what the disk has.
    ///
    /// # Errors
    /// The disk: what it has now is the one or the other.
    pub async fn save(&self, listed: &Listed) -> Result<(), OpenError> {
        let (dir, listed) = (self.dir.clone(), listed.clone());
        let path = dir.join(list::FILE);
        let saved = tokio::task::spawn_blocking(move || list::save(&dir, &listed)).await;
        let saved = saved.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        saved.map_err(|source| OpenError::Folder { path, source })
    }

    /// Returns once something of this format may be written here.
    ///
    /// # Errors
    /// `TooNew`: this process does not understand it; `Storage`.
    pub async fn admit(self: &Arc<Self>, format: Format) -> Result<(), MetadataError> {
        if format <= self.format() {
            return Ok(());
        }
        if format > self.newest {
            let what = format!("this process understands format {} and not {format}: upgrade it", self.newest);
            if !self.told.swap(true, Ordering::Relaxed) {
                tracing::error!(what, "a group's log or snapshot of a newer version was refused");
            }
            return Err(MetadataError::TooNew { what });
        }
        // To its end, though the caller leaves: two that write the file at a time would undo each other.
        let folder = self.clone();
        let marked = tokio::spawn(async move { folder.mark(format).await }).await;
        let failed = |error: &dyn std::error::Error| MetadataError::Storage { reason: error.to_string() };
        marked.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
    }

    async fn mark(&self, format: Format) -> Result<(), OpenError> {
        let mut listed = self.listed().await;
        if listed.format < format {
            let next = Listed { format, ..listed.clone() };
            self.save(&next).await?;
            *listed = next;
        }
        self.format.fetch_max(format.0, Ordering::AcqRel);
        Ok(())
    }

    pub fn holdout(&self) -> String {
        self.holdout.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes who keeps the groups from a newer format; whether it is another one than before.
    pub fn note_holdout(&self, who: String) -> bool {
        let mut known = self.holdout.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = *known != who;
        *known = who;
        is_new
    }
}
