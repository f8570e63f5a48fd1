//! What a metadata node does as a member of a cluster: its id, what other processes ask of it, and joining them.

use super::{GROUP, MetadataNode, OpenError};
use crate::cluster::Client;
use crate::group::{ALONE, Applied, Group};
use crate::journal::file::write_durably;
use crate::requests::Stamp;
use spine::id::{GroupId, MemberId};
use spine::wire::cluster::{
    Append, Appended, Ask, Change, Changed, ClusterError, ClusterStatus, Member, MemberChange, Propose, Proposed, RequestVote,
    SnapshotPart, SnapshotTaken, Voted,
};
use spine::wire::{Answer, Metadata, MetadataError};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// 16 hexadecimal digits and a line's end.
const FILE: &str = "member";
/// Pause before a member that learns asks again whether it has caught up.
const PAUSE: Duration = Duration::from_millis(200);

/// Whether the folder is a member's of a cluster.
pub(super) fn exists(dir: &Path) -> Result<bool, OpenError> {
    let path = dir.join(FILE);
    path.try_exists().map_err(|source| OpenError::Folder { path, source })
}

/// The folder's id, made now if it has none: a process whose folder is lost has forgotten its votes and must not be taken for who it was.
///
/// - `used`: there is a log. Without an id it is that of a process that was alone, which becomes the first member.
pub(super) fn id_of(dir: &Path, used: bool) -> Result<MemberId, OpenError> {
    let path = dir.join(FILE);
    let failed = |source| OpenError::Folder { path: path.clone(), source };
    match fs::read_to_string(&path) {
        Ok(text) => {
            let id = text.strip_suffix('\n').filter(|digits| digits.len() == 16).and_then(|digits| u64::from_str_radix(digits, 16).ok());
            id.map(MemberId).ok_or_else(|| OpenError::Member { path: path.clone() })
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let mut id = [0; 8];
            getrandom::fill(&mut id).map_err(|e| failed(io::Error::other(e.to_string())))?;
            let id = if used { ALONE } else { MemberId(u64::from_be_bytes(id) | (1 << 63)) };
            write_durably(&path, format!("{:016x}\n", id.0).as_bytes()).map_err(failed)?;
            Ok(id)
        }
        Err(e) => Err(failed(e)),
    }
}

impl MetadataNode {
    /// # Errors
    /// There is no such group here.
    fn group_of(&self, group: GroupId) -> Result<&Arc<Group>, ClusterError> {
        if group == GROUP { Ok(&self.group) } else { Err(ClusterError::NoSuchGroup { group }) }
    }

    /// This process in its groups.
    pub fn member(&self) -> Member {
        self.group.member()
    }

    /// This process and its groups as it sees them. Never waits.
    pub fn status(&self) -> ClusterStatus {
        ClusterStatus { member: self.member(), groups: vec![self.group.status()] }
    }

    /// A proposal of another process; one with an id is applied once, however often it comes.
    ///
    /// # Errors
    /// `NotLeader` and `Forgotten`: nothing was done. As [`Metadata::propose`] else.
    pub async fn propose_once(&self, propose: Propose) -> Result<Proposed, ClusterError> {
        let Propose { group, request, seen, batch } = propose;
        self.group_of(group)?.check_leader()?;
        self.room.admit(&batch)?;
        if batch.commands.is_empty() {
            return Ok(Proposed { replies: Vec::new(), seen });
        }
        let stamp = request.map(|id| Stamp { id, seen });
        match self.proposer.propose_stamped(stamp, &batch).await? {
            Applied::Replies { replies, seen } => Ok(Proposed { replies, seen }),
            Applied::Forgotten { seen } => Err(ClusterError::Forgotten { seen }),
        }
    }

    /// A query of another process. Linearizable.
    ///
    /// # Errors
    /// `NotLeader`; as [`Metadata::query`] else.
    pub async fn ask(&self, ask: Ask) -> Result<Answer, ClusterError> {
        self.group_of(ask.group)?.check_leader()?;
        Ok(self.query(ask.query).await?)
    }

    /// A change of who is in a group. Can be asked for again.
    ///
    /// # Errors
    /// `NotLeader`; `Invalid` where the change cannot be; `Metadata` where another attempt may do better.
    pub async fn change(&self, change: Change) -> Result<Changed, ClusterError> {
        self.group_of(change.group)?.change(&change.change).await
    }

    /// Entries, or a sign of life, of a leader.
    ///
    /// # Errors
    /// `OtherMember`, `Invalid`, `Metadata`.
    pub async fn append(&self, append: Append) -> Result<Appended, ClusterError> {
        self.group_of(append.group)?.append(append).await
    }

    /// A candidate asks for a vote.
    ///
    /// # Errors
    /// `OtherMember`, `Metadata`.
    pub async fn vote(&self, request: RequestVote) -> Result<Voted, ClusterError> {
        self.group_of(request.group)?.vote(request).await
    }

    /// A part of a snapshot.
    ///
    /// # Errors
    /// `OtherMember`, `Invalid`, `Metadata`: `Full` while the disk has no room for a second table.
    pub async fn take_part(&self, part: SnapshotPart) -> Result<SnapshotTaken, ClusterError> {
        let group = self.group_of(part.group)?;
        if self.room.is_short() {
            let usage = self.checkpoints.table().usage();
            return Err(MetadataError::Full { used: usage.high_bytes, map: usage.map_bytes }.into());
        }
        group.take_part(part).await
    }

    /// Asks the others to take this process in, until it votes. At every start: a new address is noted, too.
    ///
    /// # Errors
    /// The last refusal, or that it has not caught up, once `patience` is over. It goes on learning and can be asked for again.
    pub async fn join(&self, others: &Client, patience: Duration) -> Result<(), ClusterError> {
        let until = Instant::now() + patience;
        loop {
            let why = match others.change(MemberChange::Join(self.member())).await {
                Ok(Changed::Done) => return Ok(()),
                Ok(Changed::Learning { behind }) => {
                    MetadataError::Unavailable { reason: format!("it has not caught up: {behind} entries are missing") }.into()
                }
                Err(error @ ClusterError::Invalid { .. }) => return Err(error),
                Err(error) => error,
            };
            if Instant::now() >= until {
                return Err(why);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
