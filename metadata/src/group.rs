//! One replicated group: an openraft group over the process's journal and the LMDB table. The one module that knows openraft.
//!
//! ```text
//! submit -> openraft -> journal (synced) -> committed -> apply thread: one table transaction for all that is committed -> replies
//! ```
//! One process alone is a group of one: its single voter is this process, and a write is committed when this journal has it.
//! Invariants: the table holds, in the same transaction as the entries' effects, the id of the last entry applied; entries are
//! applied in log order and each exactly once per table state; the log is purged only up to a checkpoint.
//! Not here: what entries do (`machine.rs`), gathering proposals into entries (`propose.rs`).

mod appliers;
mod apply;
mod convert;
mod formats;
mod hand_over;
mod lag;
mod log;
mod members;
mod network;
mod reads;
mod receive;
mod send;

pub use appliers::Appliers;
pub use apply::{Applied, Outcome};
pub use log::Flushed;

use crate::checkpoint::{Checkpoints, INSTALLED, Image};
use crate::cluster::{Beat, Membership, Ways};
use crate::heat::{Heat, Tally};
use crate::journal::{GroupId, GroupLog, Journal, JournalError};
use crate::service::Folder;
use crate::table::{Space, TableError, TableRead};
use apply::{Applier, Machine};
use bytes::Bytes;
use log::Log;
use network::Network;
use openraft::error::{ClientWriteError, Fatal, RaftError};
use openraft::{BasicNode, Config, Raft, ServerState, SnapshotPolicy};
use reads::Reads;
use receive::Receiving;
use serde::{Deserialize, Serialize};
use spine::id::{MemberId, NodeId};
use spine::wire::MetadataError;
use spine::wire::cluster::{Endpoint, Member};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{RwLock, Semaphore};

/// A log entry's bytes: [`NORMAL`], then what `propose.rs` encodes; or what `format.rs` does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload(pub Bytes);

/// First byte of every entry with a [`Payload`], whose batches have no ids.
pub const NORMAL: u8 = 4;
/// The same where a batch has one. (2 is openraft's own: a membership.)
pub const IDENTIFIED: u8 = 5;
/// What both were before commands named the object that they are about: their batches do not read any more.
pub const OUTDATED: [u8; 2] = [1, 3];

openraft::declare_raft_types!(
    /// openraft's view of a group. A snapshot is a checkpoint's pinned moment, or a table that came from another member.
    pub Types:
        D = Payload,
        R = Outcome,
        NodeId = u64,
        Node = BasicNode,
        SnapshotData = Image,
);

pub type LogId = openraft::LogId<u64>;

/// A process that is alone.
pub const ALONE: MemberId = MemberId(1);
/// Bytes of log entries that one step of the replay applies in one transaction.
const REPLAY_BYTES: usize = 4 << 20;
const REPLAY_ENTRIES: u64 = 4_096;
/// A group of one leads at once; a disk that takes longer to write a vote is not fit to serve.
const START_DEADLINE: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Table(#[from] TableError),
    /// Entries that the checkpoint has are missing in the log: it lost its end, and perhaps acknowledged writes with it.
    #[error("the log ends before the checkpoint. log=`{last:?}`, checkpoint=`{applied}`")]
    LogBehind { last: Option<u64>, applied: u64 },
    /// The log begins after what the table has: its checkpoint was lost.
    #[error("the log begins after the checkpoint. log=`{purged}`, checkpoint=`{applied:?}`")]
    CheckpointBehind { purged: u64, applied: Option<u64> },
    #[error("the group did not start. reason=`{0}`")]
    Start(String),
}

/// What all groups of a process share.
pub struct Means {
    /// This process in its groups: [`ALONE`] without a membership.
    pub id: MemberId,
    pub membership: Option<Membership>,
    pub folder: Arc<Folder>,
    pub journal: Arc<Journal>,
    pub appliers: Arc<Appliers>,
    /// Checkpoints at once: each syncs a file.
    pub takes: Arc<Semaphore>,
    /// `None`: alone, there is nobody to reach.
    pub ways: Option<Arc<Ways>>,
    /// What is counted for whoever levels servers out; `None`: alone, there are none.
    pub heat: Option<Arc<Heat>>,
}

impl Means {
    /// This process in its groups.
    pub fn member(&self) -> Member {
        let nowhere = || Endpoint { node: NodeId([0; 32]), address: String::new() };
        Member { id: self.id, at: self.membership.as_ref().map_or_else(nowhere, |membership| membership.at.clone()) }
    }
}

pub struct Group {
    group: GroupId,
    id: MemberId,
    at: Endpoint,
    raft: Raft<Types>,
    ways: Option<Arc<Ways>>,
    /// Closed (written) while another member is to take over: nothing new is begun.
    door: RwLock<()>,
    log: GroupLog,
    applier: Arc<Applier>,
    folder: Arc<Folder>,
    flushed: Arc<Flushed>,
    /// `None`: alone, nobody else can have been elected.
    reads: Option<Reads>,
    receiving: tokio::sync::Mutex<Receiving>,
    /// Held while the members are changed.
    changing: tokio::sync::Mutex<()>,
}

impl Group {
    /// Replays what the table lacks. Alone it leads when this returns, if it was founded before; else it is whatever the others say.
    ///
    /// # Errors
    /// See [`GroupError`].
    pub async fn open(group: GroupId, means: &Means, checkpoints: Arc<Checkpoints>) -> Result<Self, GroupError> {
        let (id, membership) = (means.id, means.membership.as_ref());
        let log = means.journal.group(group);
        let applier = Arc::new(Applier::new(group, checkpoints)?);
        {
            let (applier, log, among_others) = (applier.clone(), log.clone(), membership.is_some());
            let replayed = tokio::task::spawn_blocking(move || {
                if among_others {
                    settle_installed(&applier, &log)?;
                }
                replay(&applier, &log)
            });
            replayed.await.map_err(|e| GroupError::Start(e.to_string()))??;
        }
        let flushed = Arc::new(Flushed::default());
        let storage = Log::new(log.clone(), flushed.clone());
        let machine = Machine::new(applier.clone(), means.appliers.clone(), means.takes.clone());
        let network = Network::new(group, means.ways.clone());
        let raft = Raft::new(id.0, Arc::new(config(membership.map(|m| m.beat))?), network, storage, machine).await.map_err(start)?;
        let at = means.member().at;
        let reads = membership.map(|_| Reads::start(raft.clone()));
        let (ways, door, receiving, changing) = (means.ways.clone(), RwLock::default(), Default::default(), Default::default());
        let folder = means.folder.clone();
        let group = Self { group, id, at, raft, ways, door, log, applier, folder, flushed, reads, receiving, changing };
        if group.is_alone() && group.is_founded().await? {
            group.wait_to_lead().await?;
        }
        Ok(group)
    }

    /// Whether it ever had members.
    ///
    /// # Errors
    /// The group has ended.
    pub async fn is_founded(&self) -> Result<bool, GroupError> {
        self.raft.is_initialized().await.map_err(start)
    }

    /// Makes `members`, this process among them, the group's first voters. Does nothing if it has members. Any may do it, and all of
    /// them at once, as long as they name the same: the entry is the same everywhere.
    ///
    /// # Errors
    /// The group has ended, or heard from others at this very moment.
    pub async fn found(&self, members: &[Member]) -> Result<(), GroupError> {
        if self.is_founded().await? {
            return Ok(());
        }
        let node = |member: &Member| if self.is_alone() { BasicNode::default() } else { convert::node_of(member) };
        let nodes: BTreeMap<u64, BasicNode> = members.iter().map(|member| (member.id.0, node(member))).collect();
        self.raft.initialize(nodes).await.map_err(|e| GroupError::Start(e.to_string()))
    }

    /// Returns once this process leads and has applied all of its log.
    ///
    /// # Errors
    /// It took too long.
    pub async fn wait_to_lead(&self) -> Result<(), GroupError> {
        let ready = |metrics: &openraft::RaftMetrics<u64, BasicNode>| {
            metrics.state == ServerState::Leader
                && metrics.last_log_index.is_some()
                && metrics.last_applied.map(|id| id.index) == metrics.last_log_index
        };
        let waited = self.raft.wait(Some(START_DEADLINE)).metrics(ready, "this node leads and has applied its log").await;
        waited.map(drop).map_err(|e| GroupError::Start(e.to_string()))
    }

    /// Waits until somebody leads, for so long at most; who that is.
    pub async fn wait_for_leader(&self, longest: Duration) -> Option<MemberId> {
        let waited = self.raft.wait(Some(longest)).metrics(|metrics| metrics.current_leader.is_some(), "somebody leads").await;
        waited.ok()?.current_leader.map(MemberId)
    }

    /// Who leads, as far as this process knows.
    pub fn leader(&self) -> Option<MemberId> {
        self.raft.metrics().borrow().current_leader.map(MemberId)
    }

    /// Tells the followers that their leader lives. openraft's own timer would do that for each group at its own time, and each would cost
    /// a message of its own.
    pub async fn beat(&self) {
        let followed = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            metrics.state == ServerState::Leader && metrics.membership_config.nodes().count() > 1
        };
        if followed && let Err(error) = self.raft.trigger().heartbeat().await {
            tracing::debug!(%error, "no sign of life: the group has ended");
        }
    }

    pub fn number(&self) -> GroupId {
        self.group
    }

    /// Whether nobody else is ever asked.
    pub fn is_alone(&self) -> bool {
        self.reads.is_none()
    }

    /// This process in the group.
    pub fn member(&self) -> Member {
        Member { id: self.id, at: self.at.clone() }
    }

    /// Hands one entry to the group; the receiver's outcome comes once it is synced on a majority and applied.
    ///
    /// # Errors
    /// [`MetadataError::Storage`] if the group has stopped.
    pub async fn submit(&self, payload: Bytes) -> Result<Submitted, MetadataError> {
        let receiver = self.raft.client_write_ff(Payload(payload)).await.map_err(|e| fatal(&e))?;
        Ok(Submitted(receiver))
    }

    /// Entries that reached the disk.
    pub fn flushed(&self) -> &Arc<Flushed> {
        &self.flushed
    }

    /// Returns when a read of the table would see every entry that was acknowledged before the call.
    ///
    /// In a group of one nobody else can have been elected: leading is enough. Among others this asks a majority.
    pub async fn barrier(&self) -> Result<(), MetadataError> {
        if let Some(reads) = &self.reads {
            return reads.barrier().await;
        }
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        if let Err(e) = &metrics.running_state {
            return Err(fatal(e));
        }
        if metrics.state != ServerState::Leader {
            return Err(MetadataError::Unavailable { reason: "this node does not lead the group".into() });
        }
        Ok(())
    }

    /// What the group has done here since the process began.
    pub fn tally(&self) -> &Tally {
        self.applier.tally()
    }

    /// Index of the last entry applied; 0 before the first.
    pub fn applied_index(&self) -> u64 {
        self.applier.applied_index()
    }

    /// Begins a checkpoint, after which the log is purged up to it. Returns before it is done.
    pub async fn begin_checkpoint(&self) -> Result<(), MetadataError> {
        self.raft.trigger().snapshot().await.map_err(|e| fatal(&e))
    }

    /// Lets go of the entries that stay behind the checkpoint for members that were away: those will need a snapshot.
    pub async fn purge_behind_checkpoint(&self) -> Result<(), MetadataError> {
        let upto = self.raft.metrics().borrow().snapshot.map(|id| id.index);
        let Some(upto) = upto.filter(|upto| self.purged_index().is_none_or(|purged| purged < *upto)) else { return Ok(()) };
        self.raft.trigger().purge_log(upto).await.map_err(|e| fatal(&e))
    }

    /// Forgets the group's log. It must have been shut down.
    ///
    /// # Errors
    /// The log's.
    pub async fn forget_log(&self) -> Result<(), GroupError> {
        let (sender, forgotten) = tokio::sync::oneshot::channel();
        // Nobody listens only if this call was given up.
        self.log.forget(Box::new(move |outcome| drop(sender.send(outcome))));
        Ok(forgotten.await.map_err(|e| GroupError::Start(e.to_string()))??)
    }

    /// Index of the last entry that is purged from the log.
    pub fn purged_index(&self) -> Option<u64> {
        self.log.state().purged.map(|purged| purged.index)
    }

    /// Whether it is certain that this process does not lead. Where the group has failed, nothing is.
    pub fn is_led_elsewhere(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        metrics.state != ServerState::Leader && metrics.running_state.is_ok()
    }

    /// Whether this process leads, and the term.
    pub fn standing(&self) -> (bool, u64) {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        (metrics.state == ServerState::Leader && metrics.running_state.is_ok(), metrics.current_term)
    }

    /// Why the group keeps nothing any more in this process: its log or its table could not be written.
    pub fn failure(&self) -> Option<String> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        match &metrics.running_state {
            Err(Fatal::StorageError(error)) => Some(error.to_string()),
            Err(Fatal::Panicked | Fatal::Stopped) | Ok(()) => None,
        }
    }

    /// Ends the group; what is submitted after this fails.
    pub async fn shutdown(&self) {
        if let Err(e) = self.raft.shutdown().await {
            tracing::error!(error = %e, "the group's task failed while it ended");
        }
    }
}

/// An entry on its way.
pub struct Submitted(tokio::sync::oneshot::Receiver<openraft::raft::ClientWriteResult<Types>>);

impl Submitted {
    /// # Errors
    /// [`MetadataError::Unavailable`] where another attempt may do better, [`MetadataError::Storage`] where the disk failed.
    /// Either way the entry may yet be applied.
    pub async fn outcome(self) -> Result<Outcome, MetadataError> {
        match self.0.await {
            Ok(Ok(response)) => Ok(response.data),
            Ok(Err(ClientWriteError::ForwardToLeader(_))) => {
                Err(MetadataError::Unavailable { reason: "this node does not lead the group".into() })
            }
            Ok(Err(ClientWriteError::ChangeMembershipError(e))) => Err(MetadataError::Unavailable { reason: e.to_string() }),
            Err(_) => Err(MetadataError::Unavailable { reason: "the group ended".into() }),
        }
    }
}

/// - `beat`: `None`: alone.
fn config(beat: Option<Beat>) -> Result<Config, GroupError> {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let common = Config {
        cluster_name: "breakwater-metadata".into(),
        snapshot_policy: SnapshotPolicy::Never,
        purge_batch_size: 1,
        ..Config::default()
    };
    let config = match beat {
        // Nobody to send heartbeats to; what these cost an idle group is one timer.
        None => Config {
            enable_heartbeat: false,
            heartbeat_interval: 500,
            election_timeout_min: 1_500,
            election_timeout_max: 3_000,
            max_in_snapshot_log_to_keep: 0,
            ..common
        },
        // `Group::beat` is called for all groups at once.
        Some(beat) => Config {
            enable_heartbeat: false,
            heartbeat_interval: millis(beat.every),
            election_timeout_min: millis(beat.election),
            election_timeout_max: millis(beat.election + beat.election / 2),
            max_in_snapshot_log_to_keep: beat.kept_entries,
            ..common
        },
    };
    config.validate().map_err(|e| GroupError::Start(e.to_string()))
}

/// After a table of another member was installed, the log may still hold what came before, or entries that the others never agreed on: the
/// process ended before the log heard of the switch. Forgets those.
fn settle_installed(applier: &Applier, log: &GroupLog) -> Result<(), GroupError> {
    let installed = {
        let table = applier.checkpoints().table().read()?;
        table.get(Space::Meta, INSTALLED)?.and_then(|bytes| postcard::from_bytes::<Option<LogId>>(bytes).ok().flatten())
    };
    let Some(applied) = applier.applied()?.0.filter(|applied| installed == Some(*applied)) else { return Ok(()) };
    let (at, state) = (log::position(&applied), log.state());
    let known = state.purged.is_some_and(|purged| purged.index > at.index || purged == at)
        || log.read(at.index..at.index + 1, 0)?.first().is_some_and(|(position, _)| *position == at);
    if !known {
        tracing::info!(applied = at.index, last = ?state.last.map(|last| last.index), "the log follows the snapshot that was installed");
        log.truncate(state.purged.map_or(0, |purged| purged.index + 1));
        log.purge(at);
    }
    Ok(())
}

/// Applies what is committed and not in the table yet, in large steps, before openraft starts.
fn replay(applier: &Applier, log: &GroupLog) -> Result<(), GroupError> {
    let state = log.state();
    let applied = applier.applied()?.0.map(|id| id.index);
    if let Some(applied) = applied
        && state.last.is_none_or(|last| last.index < applied)
    {
        return Err(GroupError::LogBehind { last: state.last.map(|last| last.index), applied });
    }
    if let Some(purged) = state.purged
        && applied.is_none_or(|applied| applied < purged.index)
    {
        return Err(GroupError::CheckpointBehind { purged: purged.index, applied });
    }
    let mut next = applied.map_or(0, |applied| applied + 1);
    let end = state.committed.map_or(0, |committed| committed.index + 1);
    let begun = std::time::Instant::now();
    let first = next;
    while next < end {
        let entries = log.read(next..end.min(next + REPLAY_ENTRIES), REPLAY_BYTES)?;
        let Some((last, _)) = entries.last() else {
            return Err(GroupError::LogBehind { last: state.last.map(|last| last.index), applied: end - 1 });
        };
        next = last.index + 1;
        let entries = entries.into_iter().map(|(position, bytes)| log::entry_of(position, &bytes)).collect::<Result<Vec<_>, _>>();
        applier.apply(&entries.map_err(|reason| GroupError::Start(format!("a log entry does not decode: {reason}")))?)?;
    }
    if next > first {
        tracing::info!(entries = next - first, seconds = begun.elapsed().as_secs_f64(), "replayed the metadata log");
    }
    Ok(())
}

fn start(error: Fatal<u64>) -> GroupError {
    GroupError::Start(error.to_string())
}

fn fatal(error: &Fatal<u64>) -> MetadataError {
    match error {
        Fatal::StorageError(e) => MetadataError::Storage { reason: e.to_string() },
        Fatal::Panicked | Fatal::Stopped => MetadataError::Unavailable { reason: error.to_string() },
    }
}

impl From<RaftError<u64>> for GroupError {
    fn from(error: RaftError<u64>) -> Self {
        GroupError::Start(error.to_string())
    }
}

/// Index of the last entry that a table has; 0 before the first.
pub fn applied_index_in(table: &dyn TableRead) -> Result<u64, TableError> {
    Ok(apply::applied_in(table)?.0.map_or(0, |id| id.index))
}

/// The last entry that a table has.
#[cfg(test)]
pub fn applied_for_test(table: &dyn TableRead) -> Option<LogId> {
    apply::applied_in(table).unwrap().0
}
