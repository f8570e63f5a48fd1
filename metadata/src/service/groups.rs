//! The groups of this process: opening what the list has, making, taking in and removing groups, and handing their leadership over.
//!
//! ```text
//! folder: groups/list, groups/<id, 8 hexadecimal digits>/ (a table as the root group's)
//! host:   on the list -> folder and table -> the group runs, without members until somebody founds it or takes this process in
//! remove: ending on the list -> the group stops -> its log is forgotten, but for its vote -> folder -> off the list
//! ```
//! Invariants: every order can be given again and goes on where it stopped, also after a restart; one that was begun is done to the end
//! though its asker leaves; one of them at a time changes the list.

use super::hosted::{self, Hosted};
use super::list::{self, Fate, Listed};
use super::{OpenError, Settings};
use crate::cluster::CallError;
use crate::group::{GroupError, Means};
use crate::journal::{GroupId, JournalError};
use crate::room::Room;
use spine::limit::GROUPS;
use spine::wire::MetadataError;
use spine::wire::cluster::{
    Call, Change, Changed, ClusterError, Endpoint, GroupCall, GroupDone, GroupOrder, LogPosition, Member, MemberChange,
};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// The root group: made with the folder, and never removed.
pub const ROOT: GroupId = GroupId(0);
/// Longest wait for another member to make room for a group: it writes a list and a table.
const HOST: Duration = Duration::from_secs(10);
/// Longest wait for a leader to take this process in.
const ENTER: Duration = Duration::from_secs(5);
/// Longest wait for a new group's first leader.
const ELECT: Duration = Duration::from_secs(10);

pub struct Groups {
    pub means: Means,
    pub settings: Settings,
    scans: Arc<Semaphore>,
    hosted: RwLock<BTreeMap<GroupId, Arc<Hosted>>>,
}

impl Groups {
    /// Nothing runs yet: see [`Self::start`].
    pub fn new(means: Means, settings: Settings) -> Arc<Self> {
        let scans = Arc::new(Semaphore::new(settings.scans.max(1)));
        Arc::new(Self { means, settings, scans, hosted: RwLock::default() })
    }

    /// Opens the root group and all that the list has, and finishes what was being removed. Returns the root group.
    ///
    /// - `founds`: an empty folder is the first member's, or a process's that is alone.
    ///
    /// # Errors
    /// The first group that does not open; then none runs.
    pub async fn start(&self, founds: bool) -> Result<Arc<Hosted>, OpenError> {
        let listed: Vec<(GroupId, Fate)> = self.means.folder.listed().await.groups.iter().map(|(group, fate)| (*group, *fate)).collect();
        let opened = async {
            let root = self.open(ROOT).await?;
            if founds && !root.group.is_founded().await? {
                root.group.found(&[self.means.member()]).await?;
                root.group.wait_to_lead().await?;
            }
            for (group, fate) in listed {
                match fate {
                    Fate::Hosted => drop(self.open(group).await?),
                    Fate::Ending => self.finish_removal(group, &mut *self.means.folder.listed().await).await?,
                }
            }
            Ok(root)
        };
        let opened = opened.await;
        if opened.is_err() {
            self.end().await;
        }
        opened
    }

    /// Ends all groups, side by side.
    pub async fn end(&self) {
        let mut ending = JoinSet::new();
        for hosted in self.all() {
            ending.spawn(async move { hosted.end().await });
        }
        while ending.join_next().await.is_some() {}
    }

    /// In the order of their numbers.
    pub fn all(&self) -> Vec<Arc<Hosted>> {
        self.hosted.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub fn get(&self, group: GroupId) -> Option<Arc<Hosted>> {
        self.hosted.read().unwrap_or_else(PoisonError::into_inner).get(&group).cloned()
    }

    fn dir_of(&self, group: GroupId) -> PathBuf {
        match group {
            ROOT => self.settings.dir.join("table"),
            _ => self.settings.dir.join("groups").join(list::folder_of(group)),
        }
    }

    async fn open(&self, group: GroupId) -> Result<Arc<Hosted>, OpenError> {
        let dir = self.dir_of(group);
        let map_bytes = if group == ROOT { self.settings.map_bytes } else { self.settings.group_map_bytes };
        let purged = self.means.journal.group(group).state().purged.map(|purged| purged.index);
        let (folder, reserve) = (self.settings.dir.clone(), self.settings.reserve_bytes);
        let table = blocking(move || {
            let checkpoints = Arc::new(hosted::open_table(&dir, map_bytes, purged)?);
            let room = Room::new(checkpoints.clone(), &folder, reserve);
            Ok((checkpoints, room))
        });
        let (checkpoints, room) = table.await?;
        let hosted = Hosted::start(group, &self.means, checkpoints, room, self.settings.propose.clone(), self.scans.clone()).await?;
        self.hosted.write().unwrap_or_else(PoisonError::into_inner).insert(group, hosted.clone());
        Ok(hosted)
    }

    /// Makes room for a group, or finds it.
    async fn host(&self, group: GroupId) -> Result<Arc<Hosted>, ClusterError> {
        if let Some(hosted) = self.get(group) {
            return Ok(hosted);
        }
        let mut list = self.means.folder.listed().await;
        if let Some(hosted) = self.get(group) {
            return Ok(hosted);
        }
        if list.groups.get(&group) == Some(&Fate::Ending) {
            self.finish_removal(group, &mut list).await.map_err(|error| storage(&error))?;
        }
        if !list.groups.contains_key(&group) {
            if list.groups.len() + 1 >= GROUPS {
                return Err(invalid("this process has as many groups as it may"));
            }
            list.groups.insert(group, Fate::Hosted);
            if let Err(error) = self.means.folder.save(&list).await {
                // Either list may be the one on the disk; both are true.
                list.groups.remove(&group);
                return Err(storage(&error));
            }
        }
        self.open(group).await.map_err(|error| storage(&error))
    }

    async fn remove(&self, group: GroupId) -> Result<(), ClusterError> {
        self.remove_listed(group, &mut *self.means.folder.listed().await).await
    }

    async fn remove_listed(&self, group: GroupId, list: &mut Listed) -> Result<(), ClusterError> {
        if !list.groups.contains_key(&group) {
            return Ok(());
        }
        list.groups.insert(group, Fate::Ending);
        self.means.folder.save(list).await.map_err(|error| storage(&error))?;
        let hosted = self.hosted.write().unwrap_or_else(PoisonError::into_inner).remove(&group);
        if let Some(hosted) = hosted {
            hosted.end().await;
        }
        self.finish_removal(group, list).await.map_err(|error| storage(&error))
    }

    /// Removes a group that this process is out of by `since`. What it acknowledged as a member of later stays.
    async fn let_go(&self, group: GroupId, since: &LogPosition) -> Result<(), ClusterError> {
        let mut list = self.means.folder.listed().await;
        if list.groups.get(&group) == Some(&Fate::Hosted) {
            let hosted = match self.get(group) {
                Some(hosted) => hosted,
                None => self.open(group).await.map_err(|error| storage(&error))?,
            };
            hosted.group.may_go(since)?;
            self.hosted.write().unwrap_or_else(PoisonError::into_inner).remove(&group);
            hosted.end().await;
            // It may have been taken in again at the very last.
            if let Err(error) = hosted.group.may_go(since) {
                self.open(group).await.map_err(|error| storage(&error))?;
                return Err(error);
            }
        }
        self.remove_listed(group, &mut list).await
    }

    /// The group does not run; the list says that it ends.
    async fn finish_removal(&self, group: GroupId, list: &mut Listed) -> Result<(), OpenError> {
        let (sender, forgotten) = tokio::sync::oneshot::channel();
        // Nobody listens only if this process ends.
        self.means.journal.group(group).forget(Box::new(move |outcome| drop(sender.send(outcome))));
        let stopped = |_| JournalError::Stopped { reason: "the log gave no answer".into() };
        forgotten.await.map_err(stopped)??;
        let dir = self.dir_of(group);
        let removed = blocking(move || match fs::remove_dir_all(&dir) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(OpenError::Folder { path: dir, source }),
            _ => Ok(()),
        });
        removed.await?;
        list.groups.remove(&group);
        self.means.folder.save(list).await
    }

    /// Does what is asked, to its end, also if the asker leaves meanwhile.
    ///
    /// # Errors
    /// `Invalid` for what cannot be; `NoSuchGroup`; `OtherMember` if it is to be made of another folder; `NotLeader`; `Metadata` where
    /// another attempt may do better.
    pub async fn order(self: &Arc<Self>, call: GroupCall) -> Result<GroupDone, ClusterError> {
        call.check().map_err(invalid)?;
        let groups = self.clone();
        let done = tokio::spawn(async move { groups.run(call).await });
        done.await.map_err(|error| ClusterError::from(MetadataError::Unavailable { reason: error.to_string() }))?
    }

    async fn run(&self, GroupCall { group, order }: GroupCall) -> Result<GroupDone, ClusterError> {
        let leader = match order {
            GroupOrder::Create { members } => Some(self.create(group, &members).await?),
            GroupOrder::Host => self.host(group).await?.group.leader(),
            GroupOrder::Remove => {
                self.remove(group).await?;
                None
            }
            GroupOrder::LetGo { since } => {
                self.let_go(group, &since).await?;
                None
            }
            GroupOrder::Transfer { to } => {
                self.here(group)?.group.hand_over(to).await?;
                Some(to)
            }
            GroupOrder::Stand => {
                self.here(group)?.group.stand().await?;
                Some(self.means.id)
            }
            GroupOrder::Enter { leader } => {
                self.enter(group, &leader).await?;
                self.here(group)?.group.leader()
            }
        };
        Ok(GroupDone { leader })
    }

    /// Makes room for the group and has its leader take this process in.
    ///
    /// # Errors
    /// What the leader says; `Unavailable` while this process learns, or the leader does not answer.
    pub async fn enter(&self, group: GroupId, leader: &Endpoint) -> Result<(), ClusterError> {
        let unavailable = |reason: String| ClusterError::from(MetadataError::Unavailable { reason });
        let Some(ways) = &self.means.ways else { return Err(invalid("this process is alone")) };
        let hosted = self.host(group).await?;
        let change = MemberChange::Join(self.means.member());
        let asked = match hosted.group.standing().0 {
            // It leads the group itself, and may still be known where it was before.
            true => Ok(hosted.group.change(&change).await.map_err(CallError::Refused)),
            false => timeout(ENTER, ways.to(leader).link().call(Call::Change, &Change { group, change })).await,
        };
        match asked {
            Ok(Ok(Changed::Done)) => Ok(()),
            Ok(Ok(Changed::Out { .. })) => Err(unavailable("an answer to another question".to_string())),
            Ok(Ok(Changed::Learning { behind })) => Err(unavailable(format!("it has not caught up: {behind} entries are missing"))),
            Ok(Err(CallError::Refused(error))) => Err(error),
            Ok(Err(error)) => Err(unavailable(error.to_string())),
            Err(_) => Err(unavailable("a leader took too long".to_string())),
        }
    }

    /// # Errors
    /// There is no such group here.
    pub fn here(&self, group: GroupId) -> Result<Arc<Hosted>, ClusterError> {
        self.get(group).ok_or(ClusterError::NoSuchGroup { group })
    }

    async fn create(&self, group: GroupId, members: &[Member]) -> Result<spine::id::MemberId, ClusterError> {
        let own = self.means.member();
        match members.first() {
            Some(first) if *first == own => {}
            Some(first) if first.at.node == own.at.node => return Err(ClusterError::OtherMember { member: own.id }),
            _ => return Err(invalid("a group is made by the first of its members")),
        }
        if self.means.ways.is_none() && members.len() > 1 {
            return Err(invalid("this process is alone"));
        }
        let hosted = self.host(group).await?;
        if !hosted.group.is_founded().await.map_err(|error| storage(&error))? {
            self.order_others(group, &members[1..], members.len() / 2).await?;
            if let Err(error) = hosted.group.found(members).await
                && !hosted.group.is_founded().await.unwrap_or(false)
            {
                return Err(storage(&error));
            }
        }
        if hosted.group.is_alone() {
            hosted.group.wait_to_lead().await.map_err(|error| storage(&error))?;
        }
        let leader = hosted.group.wait_for_leader(ELECT).await;
        leader.ok_or_else(|| MetadataError::Unavailable { reason: "the new group has no leader yet".into() }.into())
    }

    /// Has the other members make room, so many of them at least that there is a majority with this one: who is not there now makes room when
    /// it is back (`replicas.rs`).
    async fn order_others(&self, group: GroupId, others: &[Member], needed: usize) -> Result<(), ClusterError> {
        let Some(ways) = &self.means.ways else { return Ok(()) };
        let mut asked = JoinSet::new();
        for other in others {
            let way = ways.to(&other.at);
            asked.spawn(async move {
                let call = GroupCall { group, order: GroupOrder::Host };
                let why = match timeout(HOST, way.link().call::<_, GroupDone>(Call::Group, &call)).await {
                    Ok(Ok(_)) => return Ok(()),
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "it took too long".to_string(),
                };
                Err::<(), _>(MetadataError::Unavailable { reason: format!("{}: {why}", way.link().endpoint().address) })
            });
        }
        let (mut made, mut failed) = (0, None);
        while let Some(outcome) = asked.join_next().await {
            match outcome.map_err(|error| MetadataError::Unavailable { reason: error.to_string() })? {
                Ok(()) => made += 1,
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) if made < needed => Err(error.into()),
            _ => Ok(()),
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, OpenError> + Send + 'static) -> Result<T, OpenError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| GroupError::Start(error.to_string()))?
}

fn invalid(what: &str) -> ClusterError {
    ClusterError::Invalid { what: what.to_string() }
}

fn storage(error: &dyn std::error::Error) -> ClusterError {
    MetadataError::Storage { reason: error.to_string() }.into()
}
