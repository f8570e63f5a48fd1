//! One replicated group: an openraft group over the process's journal and the LMDB table. The one module that knows openraft.
//!
//! ```text
//! submit -> openraft -> journal (synced) -> committed -> apply thread: one table transaction for all that is committed -> replies
//! ```
//! A group of one today: its single voter is this process, and a write is committed when this journal has it.
//! Invariants: the table holds, in the same transaction as the entries' effects, the id of the last entry applied; entries are
//! applied in log order and each exactly once per table state; the log is purged only up to a checkpoint.
//! Not here: what entries do (`machine.rs`), gathering proposals into entries (`propose.rs`).

mod apply;
mod log;
mod network;

pub use apply::Outcome;
pub use log::Flushed;

use crate::checkpoint::{Checkpoints, Pinned};
use crate::journal::{GroupId, GroupLog, Journal, JournalError};
use crate::table::TableError;
use apply::{Applier, Machine};
use bytes::Bytes;
use log::Log;
use network::NoPeers;
use openraft::error::{ClientWriteError, Fatal, RaftError};
use openraft::{BasicNode, Config, Raft, ServerState, SnapshotPolicy};
use serde::{Deserialize, Serialize};
use spine::wire::MetadataError;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A log entry's bytes: [`NORMAL`], then what `propose.rs` encodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload(pub Bytes);

/// First byte of every entry with a [`Payload`].
pub const NORMAL: u8 = 1;

openraft::declare_raft_types!(
    /// openraft's view of a group. A snapshot is a checkpoint's pinned moment, from which a copy can be streamed to a peer.
    pub Types:
        D = Payload,
        R = Outcome,
        NodeId = u64,
        Node = BasicNode,
        SnapshotData = Pinned,
);

pub type LogId = openraft::LogId<u64>;

/// This process in the group. The first member of every group; more come with more metadata nodes.
const SELF: u64 = 1;
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

pub struct Group {
    raft: Raft<Types>,
    log: GroupLog,
    applier: Arc<Applier>,
    flushed: Arc<Flushed>,
}

impl Group {
    /// Replays what the table lacks, then leads.
    ///
    /// # Errors
    /// See [`GroupError`].
    pub async fn open(id: GroupId, journal: &Arc<Journal>, checkpoints: Arc<Checkpoints>) -> Result<Self, GroupError> {
        let log = journal.group(id);
        let applier = Arc::new(Applier::new(checkpoints)?);
        {
            let (applier, log) = (applier.clone(), log.clone());
            let replayed = tokio::task::spawn_blocking(move || replay(&applier, &log)).await;
            replayed.map_err(|e| GroupError::Start(e.to_string()))??;
        }
        let flushed = Arc::new(Flushed::default());
        let storage = Log::new(log.clone(), flushed.clone());
        let machine = Machine::start(applier.clone()).map_err(|e| GroupError::Start(e.to_string()))?;
        let raft = Raft::new(SELF, Arc::new(config()?), NoPeers, storage, machine).await.map_err(start)?;
        if !raft.is_initialized().await.map_err(start)? {
            let members = BTreeMap::from([(SELF, BasicNode::default())]);
            raft.initialize(members).await.map_err(|e| GroupError::Start(e.to_string()))?;
        }
        let ready = |metrics: &openraft::RaftMetrics<u64, BasicNode>| {
            metrics.state == ServerState::Leader
                && metrics.last_log_index.is_some()
                && metrics.last_applied.map(|id| id.index) == metrics.last_log_index
        };
        raft.wait(Some(START_DEADLINE))
            .metrics(ready, "this node leads and has applied its log")
            .await
            .map_err(|e| GroupError::Start(e.to_string()))?;
        Ok(Self { raft, log, applier, flushed })
    }

    /// Hands one entry to the group; the receiver's outcome comes once it is synced and applied.
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
    /// In a group of one nobody else can have been elected: leading is enough. With peers this asks a majority.
    pub async fn barrier(&self) -> Result<(), MetadataError> {
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

    /// Index of the last entry applied; 0 before the first.
    pub fn applied_index(&self) -> u64 {
        self.applier.applied_index()
    }

    /// Begins a checkpoint, after which the log is purged up to it. Returns before it is done.
    pub async fn begin_checkpoint(&self) -> Result<(), MetadataError> {
        self.raft.trigger().snapshot().await.map_err(|e| fatal(&e))
    }

    /// Index of the last entry that is purged from the log.
    pub fn purged_index(&self) -> Option<u64> {
        self.log.state().purged.map(|purged| purged.index)
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

fn config() -> Result<Config, GroupError> {
    let config = Config {
        cluster_name: "breakwater-metadata".into(),
        // Nobody to send heartbeats to; what these cost an idle group is one timer.
        heartbeat_interval: 500,
        election_timeout_min: 1_500,
        election_timeout_max: 3_000,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: 0,
        purge_batch_size: 1,
        ..Config::default()
    };
    config.validate().map_err(|e| GroupError::Start(e.to_string()))
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
