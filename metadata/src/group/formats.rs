//! The format of a group: what it is here, raising it, and what of others is taken in by it.

use super::Group;
use crate::cluster::{CallError, Link};
use crate::format;
use spine::wire::cluster::{Append, Call, ClusterError, Member, Understood};
use spine::wire::format::{FIRST, Format, of_batch};
use spine::wire::{Batch, MetadataError};
use std::time::Duration;
use tokio::time::timeout;

/// Longest wait for a process's word about what it understands.
const ASKED: Duration = Duration::from_secs(2);

/// Longest wait until the entry that raises a format is applied.
const RAISED: Duration = Duration::from_secs(5);

/// What the process at the other end understands; `None`: it does not say.
pub async fn understood_at(link: &Link) -> Option<Format> {
    match timeout(ASKED, link.call::<_, Understood>(Call::Format, &())).await {
        Ok(Ok(understood)) => Some(understood.newest),
        // A version from before there was the question.
        Ok(Err(CallError::Refused(ClusterError::Invalid { .. }))) => Some(FIRST),
        Ok(Err(_)) | Err(_) => None,
    }
}

impl Group {
    /// The group's format, as far as this process has applied its log.
    pub fn format(&self) -> Format {
        self.applier.format()
    }

    /// Whether the format may be raised now.
    ///
    /// # Errors
    /// The table's.
    pub fn may_rise(&self) -> Result<bool, MetadataError> {
        Ok(format::may_rise(&self.applier.checkpoints().table().read()?, self.group)?)
    }

    /// Raises the format, as the leader. Nothing comes of it while it may not be raised.
    ///
    /// # Errors
    /// `TooNew`: this process does not understand it; `Unavailable`, `Storage`: as [`Self::submit`].
    pub async fn raise(&self, to: Format) -> Result<(), MetadataError> {
        self.folder.admit(to).await?;
        let settled = self.settled().await;
        let entry = self.submit(format::entry(to)).await;
        drop(settled);
        // Without a majority it may never have one; then it is tried again.
        let outcome = timeout(RAISED, entry?.outcome()).await;
        outcome.map_err(|_| MetadataError::Unavailable { reason: "raising the format took too long".into() })?.map(drop)
    }

    /// Has the group know all of `batch`: where it does not yet and everybody would, its format is raised.
    ///
    /// # Errors
    /// `TooNew`: somebody would not; nothing was done. As [`Self::raise`].
    pub async fn fit(&self, batch: &Batch) -> Result<(), MetadataError> {
        let needed = of_batch(batch);
        if needed <= self.format() {
            return Ok(());
        }
        if needed <= self.folder.format() {
            self.raise(needed).await?;
        }
        if needed <= self.format() {
            return Ok(());
        }
        let newest = self.folder.newest();
        let who = match needed > newest {
            true => format!("metadata node {} understands format {newest} and not {needed}: upgrade it", self.at),
            false => self.folder.holdout(),
        };
        let what = format!("the group has format {} and this needs {needed}; {who}", self.format());
        Err(MetadataError::TooNew { what })
    }

    /// What a member understands; `None`: it does not say.
    pub async fn understood_by(&self, member: &Member) -> Option<Format> {
        match &self.ways {
            _ if member.id == self.id => Some(self.folder.newest()),
            Some(ways) => understood_at(ways.to(&member.at).link()).await,
            None => None,
        }
    }

    /// Whether somebody who is to be taken in understands the group's log. Who does not answer is taken in, and takes what it understands.
    ///
    /// # Errors
    /// `Invalid`: it does not.
    pub(super) async fn check_joiner(&self, member: &Member) -> Result<(), ClusterError> {
        let format = self.format();
        if format == FIRST {
            return Ok(());
        }
        match self.understood_by(member).await {
            Some(newest) if newest < format => {
                let what = format!("metadata node {} understands format {newest}, and the group has {format}: upgrade it first", member.at);
                Err(ClusterError::Invalid { what })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Looks whether entries of a leader are understood here, before anything of them is kept.
    ///
    /// # Errors
    /// `TooNew`: they are not; `Storage`.
    pub(super) async fn admit_entries(&self, append: &Append) -> Result<(), MetadataError> {
        let newest = append.entries.iter().filter_map(|entry| format::raised_by(&entry.bytes)).max();
        match newest {
            Some(format) => self.folder.admit(format).await,
            None => Ok(()),
        }
    }
}
