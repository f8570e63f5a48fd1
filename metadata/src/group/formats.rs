//! The format of a group: what it is here, raising it, and what of others is taken in by it.
//!
//! Invariant: a group is raised to nothing that a member of it said just before that it does not understand, the root's to nothing that one did
//! not say that it understands; nobody becomes a member meanwhile.

use super::Group;
use crate::cluster::{CallError, Link};
use crate::format;
use crate::root::map::ROOT;
use futures::future::join_all;
use spine::wire::cluster::{Append, Call, ClusterError, Member, Understood};
use spine::wire::format::{FIRST, Format, agreed, of_batch};
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

    /// Raises the format as far as everybody understands it, as the leader. Nothing comes of it where that is no further than it is, while it may
    /// not be raised, or while its members change.
    ///
    /// # Errors
    /// As [`Self::raise`].
    pub async fn rise(&self) -> Result<(), MetadataError> {
        if !self.may_rise()? {
            self.folder.note_holdout(format!("a range of names is on its way out of group {}", self.group));
            return Ok(());
        }
        // Nobody comes in between what the members say and the entry.
        let Ok(_members) = self.changing.try_lock() else { return Ok(()) };
        match self.ceiling().await {
            Some(to) if to > self.format() => self.raise(to).await,
            _ => Ok(()),
        }
    }

    /// The newest format that the group may have now. The root's: what all its members say that they understand, with a vote or without. Another
    /// one's: what the root's has come to, as far as nobody in it says that it does not understand that, and a majority says anything.
    async fn ceiling(&self) -> Option<Format> {
        let members = self.status().members;
        let said = join_all(members.iter().map(|known| self.understood_by(&known.member))).await;
        let (newest, is_root) = (self.folder.newest(), self.group == ROOT);
        let wanted = if is_root { newest } else { self.folder.agreed() };
        let behind =
            |said: &Option<Format>| if is_root { said.is_none_or(|said| said < wanted) } else { said.is_some_and(|said| said < wanted) };
        if let Some((known, said)) = members.iter().zip(&said).find(|(_, said)| behind(said)) {
            let at = &known.member.at;
            let who = match said {
                Some(format) => format!("metadata node {at} understands format {format} and not {wanted}: upgrade it"),
                None => format!("metadata node {at} does not say what it understands: start it, or remove it"),
            };
            if self.folder.note_holdout(who.clone()) {
                tracing::info!(group = %self.group, who, "what came with a newer version waits");
            }
        }
        if is_root {
            return agreed(said).map(|format| format.min(newest));
        }
        let voters = members.iter().zip(&said).filter(|(known, _)| known.votes);
        let (all, told) = voters.fold((0, 0), |(all, told), (_, said)| (all + 1, told + usize::from(said.is_some())));
        agreed(said.into_iter().flatten().chain([wanted]).map(Some)).filter(|_| 2 * told > all)
    }

    /// Raises the format, as the leader, whatever the others understand.
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
        outcome.map_err(|_| MetadataError::Unavailable { reason: "raising the format took too long".into() })??;
        if self.format() >= to {
            tracing::info!(group = %self.group, format = %self.format(), "a group's format was raised");
            if self.group == ROOT {
                self.folder.note_agreed(self.format());
            }
        }
        Ok(())
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
        let newest = self.folder.newest();
        if needed <= newest {
            self.rise().await?;
        }
        if needed <= self.format() {
            return Ok(());
        }
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
        // What was meant to be raised may be on its way.
        let format = self.format().max(self.folder.format());
        if format == FIRST {
            return Ok(());
        }
        match self.understood_by(member).await {
            Some(newest) if newest < format => {
                let what =
                    format!("metadata node {} understands format {newest}, and there is format {format} here: upgrade it first", member.at);
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
