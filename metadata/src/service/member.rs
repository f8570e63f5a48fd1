//! What a metadata node does as a member of a cluster: its id, what other processes ask of it, and joining them.

use super::groups::ROOT;
use super::{Hosted, MetadataNode, OpenError};
use crate::cluster::Client;
use crate::group::ALONE;
use crate::heat::{self, Told};
use crate::journal::file::write_durably;
use spine::id::{GroupId, MemberId};
use spine::wire::cluster::{
    Append, Appended, Appends, Ask, Beaten, Beats, Change, Changed, ClusterError, ClusterStatus, Endpoint, GroupCall, GroupDone, GroupLoad,
    GroupStatus, Loads, Member, MemberChange, Propose, Proposed, RequestVote, SnapshotPart, SnapshotTaken, Understood, Voted, Work,
};
use spine::wire::{Answer, MetadataError};
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// 16 hexadecimal digits and a line's end.
const FILE: &str = "member";
/// Longest wait for a group that takes a sign of life or entries; the others' answers wait with it. Below what openraft waits for an answer.
const BEAT: Duration = Duration::from_millis(250);
/// Longest wait for another process's word about its groups.
const ASKED: Duration = Duration::from_secs(5);
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
    /// This process in its groups.
    pub fn member(&self) -> Member {
        self.groups.means.member()
    }

    /// This process and its groups as it sees them, the root group first. Never waits.
    pub fn status(&self) -> ClusterStatus {
        ClusterStatus { member: self.member(), groups: self.groups.all().iter().map(|hosted| hosted.group.status()).collect() }
    }

    /// What this process understands, and its replicas have come to.
    pub fn understood(&self) -> Understood {
        let root = self.root.group.format();
        let least = self.groups.all().iter().map(|hosted| hosted.group.format()).min().unwrap_or(root);
        Understood { newest: self.groups.means.folder.newest(), root, least }
    }

    /// What this process bears, group by group. Nothing where it is alone: there is nobody to level it with.
    ///
    /// # Errors
    /// The process ends.
    pub async fn loads(&self) -> Result<Loads, ClusterError> {
        let (member, all) = (self.member(), self.groups.all());
        let Some(heat) = self.groups.means.heat.clone() else {
            return Ok(Loads { member, capacity: Work::default(), groups: Vec::new() });
        };
        let told = tokio::task::spawn_blocking(move || {
            let mut told = heat.told(heat.now());
            let groups = all.iter().map(|hosted| load_of(hosted, told.remove(&hosted.group.number()).unwrap_or_default())).collect();
            Loads { member, capacity: heat::work_of(&heat.capacity()), groups }
        });
        told.await.map_err(|error| MetadataError::Unavailable { reason: error.to_string() }.into())
    }

    /// Counts what was sent of a group's answers.
    pub fn sent(&self, group: GroupId, bytes: u64) {
        if let Some(hosted) = self.group(group) {
            hosted.group.tally().sent(bytes);
        }
    }

    /// Makes, removes or hands over a group. Can be asked for again.
    ///
    /// # Errors
    /// `Invalid` for what cannot be; `NoSuchGroup`; `OtherMember`; `NotLeader`; `Metadata` where another attempt may do better.
    pub async fn order(&self, call: GroupCall) -> Result<GroupDone, ClusterError> {
        self.groups.order(call).await
    }

    /// As [`super::Hosted::propose_once`], of any group here.
    ///
    /// # Errors
    /// `NoSuchGroup`, and those.
    pub async fn propose_once(&self, propose: Propose) -> Result<Proposed, ClusterError> {
        self.groups.here(propose.group)?.propose_once(propose).await
    }

    /// As [`super::Hosted::ask`], of any group here.
    ///
    /// # Errors
    /// `NoSuchGroup`, and those.
    pub async fn ask(&self, ask: Ask) -> Result<Answer, ClusterError> {
        self.groups.here(ask.group)?.ask(ask).await
    }

    /// A change of who is in a group. Can be asked for again.
    ///
    /// # Errors
    /// `NotLeader`; `Invalid` where the change cannot be; `Metadata` where another attempt may do better.
    pub async fn change(&self, change: Change) -> Result<Changed, ClusterError> {
        let hosted = self.groups.here(change.group)?;
        // To its end, though the asker leaves: half-way it needs two majorities.
        let changed = tokio::spawn(async move { hosted.group.change(&change.change).await });
        changed.await.map_err(|error| ClusterError::from(MetadataError::Unavailable { reason: error.to_string() }))?
    }

    /// What runs of a group.
    #[cfg(test)]
    pub fn hosted(&self, group: spine::id::GroupId) -> std::sync::Arc<super::hosted::Hosted> {
        self.groups.get(group).expect("it is hosted")
    }

    /// Entries, or a sign of life, of a leader.
    ///
    /// # Errors
    /// `OtherMember`, `Invalid`, `Metadata`.
    pub async fn append(&self, append: Append) -> Result<Appended, ClusterError> {
        self.groups.here(append.group)?.group.append(append).await
    }

    /// Signs of life of many groups' leaders, side by side.
    ///
    /// # Errors
    /// `Invalid`, if they are not bounded as they should be; what became of each is in the answer.
    pub async fn beats(&self, beats: Beats) -> Result<Beaten, ClusterError> {
        beats.check().map_err(|what| ClusterError::Invalid { what: what.to_string() })?;
        Ok(self.all_of(beats.0).await)
    }

    /// Entries of many groups' leaders, side by side: they are synced together.
    ///
    /// # Errors
    /// `Invalid`, if there are more than may be; what became of each is in the answer.
    pub async fn appends(&self, appends: Appends) -> Result<Beaten, ClusterError> {
        appends.check().map_err(|what| ClusterError::Invalid { what: what.to_string() })?;
        Ok(self.all_of(appends.0).await)
    }

    /// One group that takes long must not keep the others' leaders waiting for longer than they are patient.
    async fn all_of(&self, appends: Vec<Append>) -> Beaten {
        let until = Instant::now() + BEAT;
        let late = |_| ClusterError::from(MetadataError::Unavailable { reason: "the group takes too long".to_string() });
        let each = appends.into_iter().map(|append| async move { timeout_at(until, self.append(append)).await.map_err(late)? });
        Beaten(futures::future::join_all(each).await)
    }

    /// A candidate asks for a vote.
    ///
    /// # Errors
    /// `OtherMember`, `Metadata`.
    pub async fn vote(&self, request: RequestVote) -> Result<Voted, ClusterError> {
        self.groups.here(request.group)?.group.vote(request).await
    }

    /// A part of a snapshot.
    ///
    /// # Errors
    /// `OtherMember`, `Invalid`, `Metadata`: `Full` while the disk has no room for a second table.
    pub async fn take_part(&self, part: SnapshotPart) -> Result<SnapshotTaken, ClusterError> {
        let hosted = self.groups.here(part.group)?;
        if hosted.room.is_short() {
            let usage = hosted.checkpoints.table().usage();
            return Err(MetadataError::Full { used: usage.high_bytes, map: usage.map_bytes }.into());
        }
        hosted.group.take_part(part).await
    }

    /// Asks the others to take this process in, until it votes: in the root group, and in every other that they know it, or the folder
    /// before it, to be in. At every start: a new address is noted, too.
    ///
    /// # Errors
    /// The last refusal, or that it has not caught up, once `patience` is over. It goes on learning and can be asked for again.
    pub async fn join(&self, others: &Client, patience: Duration) -> Result<(), ClusterError> {
        let until = Instant::now() + patience;
        loop {
            let why = match others.change(MemberChange::Join(self.member())).await {
                Ok(Changed::Done) => break,
                Ok(Changed::Learning { behind }) => lacks(behind),
                Ok(Changed::Out { .. }) => ClusterError::Invalid { what: "an answer to another question".to_string() },
                Err(error @ ClusterError::Invalid { .. }) => return Err(error),
                Err(error) => error,
            };
            if Instant::now() >= until {
                return Err(why);
            }
            tokio::time::sleep(PAUSE).await;
        }
        loop {
            match self.rejoin(others).await {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() >= until => return Err(error),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// One attempt at every group that the others know this process's key to be in, in another folder or at another address.
    async fn rejoin(&self, others: &Client) -> Result<(), ClusterError> {
        let own = self.member();
        let mut outcome = Ok(());
        for endpoint in others.endpoints().into_iter().filter(|endpoint| endpoint.node != own.at.node) {
            // Who is not there now is not asked; its groups are known to the others of them.
            let Ok(Ok(status)) = timeout(ASKED, others.status_of(&endpoint)).await else { continue };
            for group in status.groups.iter().filter(|group| group.group != ROOT) {
                let here = |member: &Member| member.at.node == own.at.node;
                let mut known = group.members.iter().filter(|known| here(&known.member));
                if !known.clone().any(|known| here(&known.member)) || known.all(|known| known.member == own && known.votes) {
                    continue;
                }
                if let Err(error) = self.rejoin_one(group).await {
                    outcome = Err(error);
                }
            }
        }
        outcome
    }

    async fn rejoin_one(&self, group: &GroupStatus) -> Result<(), ClusterError> {
        let unavailable = |reason: &str| ClusterError::from(MetadataError::Unavailable { reason: reason.to_string() });
        let leader = group.members.iter().find(|known| Some(known.member.id) == group.leader);
        let leader: &Endpoint = leader.map(|known| &known.member.at).ok_or_else(|| unavailable("nobody leads a group"))?;
        self.groups.enter(group.group, leader).await
    }
}

fn load_of(hosted: &Hosted, told: Told) -> GroupLoad {
    let (leads, term) = hosted.group.standing();
    let members = if leads { hosted.group.status().members } else { Vec::new() };
    let changes = hosted.group.is_changing() || members.iter().any(|member| !member.votes);
    let voters = members.into_iter().filter(|member| member.votes).map(|member| member.member).collect();
    let table_bytes = hosted.checkpoints.table().usage().high_bytes;
    let Told { load, slices, hottest } = told;
    let (slices, hottest) = if leads { (slices, hottest) } else { Default::default() };
    GroupLoad { group: hosted.group.number(), term, leads, work: heat::work_of(&load), table_bytes, voters, changes, slices, hottest }
}

fn lacks(behind: u64) -> ClusterError {
    MetadataError::Unavailable { reason: format!("it has not caught up: {behind} entries are missing") }.into()
}
