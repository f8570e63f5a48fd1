//! Applies committed entries to the table, on a thread made for that (`appliers.rs`): one write transaction for all that is committed.
//!
//! The last applied log id and the membership are written in that same transaction, so that a table state always says
//! exactly which entries it has.

#![allow(clippy::result_large_err, reason = "openraft's own error")]

use super::appliers::{Appliers, Work};
use super::{LogId, Payload, Types};
use crate::checkpoint::{Checkpoints, Image, Pinned};
use crate::heat::Tally;
use crate::machine::ORDINAL_BITS;
use crate::table::{Space, TableError, TableRead, TableWrite};
use crate::{format, machine, metric, propose, requests};
use openraft::storage::{RaftStateMachine, Snapshot};
use openraft::{
    AnyError, BasicNode, Entry, EntryPayload, OptionalSend, RaftSnapshotBuilder, SnapshotMeta, StorageError, StorageIOError,
    StoredMembership,
};
use serde::{Deserialize, Serialize};
use spine::id::{GroupId, Seq};
use spine::wire::Reply;
use spine::wire::format::Format;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Instant;
use tokio::sync::{Semaphore, oneshot};

/// What became of one entry's batches. Empty for entries that openraft makes for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome(pub Vec<Applied>);

/// What became of one batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Applied {
    /// One reply a command. `seen`: how many batches with an id there were so far; 0 for one without.
    Replies { replies: Vec<Reply>, seen: u64 },
    /// It had an id, and began before the oldest that is remembered.
    Forgotten { seen: u64 },
}

impl Outcome {
    /// Commands that have a reply in it.
    fn commands(&self) -> u64 {
        let replies = |applied: &Applied| match applied {
            Applied::Replies { replies, .. } => replies.len() as u64,
            Applied::Forgotten { .. } => 0,
        };
        self.0.iter().map(replies).sum()
    }
}

type Membership = StoredMembership<u64, BasicNode>;

/// Key in [`Space::Meta`] of what was applied last: postcard of ([`LogId`], [`Membership`]).
const APPLIED: &[u8] = b"raft.applied";

pub struct Applier {
    group: GroupId,
    checkpoints: Arc<Checkpoints>,
    index: AtomicU64,
    format: AtomicU8,
    tally: Tally,
}

impl Applier {
    pub fn new(group: GroupId, checkpoints: Arc<Checkpoints>) -> Result<Self, TableError> {
        let format = AtomicU8::new(format::of(&checkpoints.table().read()?)?.0);
        let applier = Self { group, checkpoints, index: AtomicU64::new(0), format, tally: Tally::default() };
        let applied = applier.applied()?.0;
        applier.index.store(applied.map_or(0, |id| id.index), Ordering::Release);
        Ok(applier)
    }

    pub fn checkpoints(&self) -> &Arc<Checkpoints> {
        &self.checkpoints
    }

    /// What the group has done here since the process began.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    pub fn applied_index(&self) -> u64 {
        self.index.load(Ordering::Acquire)
    }

    /// The group's format.
    pub fn format(&self) -> Format {
        Format(self.format.load(Ordering::Acquire))
    }

    pub fn applied(&self) -> Result<(Option<LogId>, Membership), TableError> {
        applied_in(&self.checkpoints.table().read()?)
    }

    /// Applies `entries`, all or none. One outcome an entry, in order.
    ///
    /// # Errors
    /// The table's. What was applied before stays, and this process must not go on: the entry is committed and could not be applied.
    pub fn apply(&self, entries: &[Entry<Types>]) -> Result<Vec<Outcome>, TableError> {
        let Some(last) = entries.last() else { return Ok(Vec::new()) };
        let begun = Instant::now();
        let turn = self.checkpoints.turn();
        let mut table = turn.write()?;
        let mut membership = applied_in(&table)?.1;
        let mut outcomes = Vec::with_capacity(entries.len());
        for entry in entries {
            outcomes.push(match &entry.payload {
                EntryPayload::Blank => Outcome::default(),
                EntryPayload::Membership(new) => {
                    membership = StoredMembership::new(Some(entry.log_id), new.clone());
                    Outcome::default()
                }
                EntryPayload::Normal(payload) => {
                    let outcome = apply_payload(&mut table, self.group, payload, entry.log_id.index)?;
                    self.tally.applied(outcome.commands(), payload.0.len() as u64);
                    outcome
                }
            });
        }
        let applied = postcard::to_allocvec(&(Some(last.log_id), &membership)).map_err(|e| TableError::Storage(e.to_string()))?;
        table.put(Space::Meta, APPLIED, &applied)?;
        let format = format::of(&table)?;
        table.commit()?;
        self.format.store(format.0, Ordering::Release);
        self.index.store(last.log_id.index, Ordering::Release);
        metric::APPLY_SECONDS.observe(begun.elapsed().as_secs_f64());
        Ok(outcomes)
    }
}

fn apply_payload(table: &mut dyn TableWrite, group: GroupId, payload: &Payload, index: u64) -> Result<Outcome, TableError> {
    if let Some(format) = format::raised_by(&payload.0) {
        format::raise(table, group, format)?;
        return Ok(Outcome::default());
    }
    // It is committed and means something to the others: going on without it would make another table than theirs.
    let batches = propose::decode(&payload.0).map_err(|e| {
        let why = format!("log entry {index} of group {group} does not decode ({e}): the version of Breakwater that wrote it may be newer");
        TableError::Storage(why)
    })?;
    let mut at = index << ORDINAL_BITS;
    let mut applied = Vec::with_capacity(batches.len());
    for (stamp, batch) in &batches {
        applied.push(match stamp {
            None => Applied::Replies { replies: machine::apply(table, group, batch, Seq(at))?, seen: 0 },
            Some(stamp) => requests::apply(table, group, stamp, batch, Seq(at))?,
        });
        at += batch.commands.len() as u64;
    }
    Ok(Outcome(applied))
}

pub fn applied_in(table: &dyn TableRead) -> Result<(Option<LogId>, Membership), TableError> {
    match table.get(Space::Meta, APPLIED)? {
        None => Ok((None, Membership::default())),
        Some(bytes) => postcard::from_bytes(bytes)
            .map_err(|_| TableError::Decode { space: Space::Meta, key: String::from_utf8_lossy(APPLIED).into_owned() }),
    }
}

/// openraft's state machine: hands the work to the threads, and checkpoints out as snapshots.
pub struct Machine {
    applier: Arc<Applier>,
    appliers: Arc<Appliers>,
    /// Checkpoints at once, of all groups.
    takes: Arc<Semaphore>,
}

impl Machine {
    pub fn new(applier: Arc<Applier>, appliers: Arc<Appliers>, takes: Arc<Semaphore>) -> Self {
        Self { applier, appliers, takes }
    }
}

fn machine_error(error: impl std::error::Error + 'static) -> StorageError<u64> {
    StorageIOError::write_state_machine(AnyError::new(&error)).into()
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), StorageError<u64>> {
        self.applier.applied().map_err(machine_error)
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Outcome>, StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let (done, outcome) = oneshot::channel();
        self.appliers.apply(Work { applier: self.applier.clone(), entries: entries.into_iter().collect(), done });
        let gone = |_| StorageError::from(StorageIOError::write_state_machine(AnyError::error("applying ended in a panic")));
        outcome.await.map_err(gone)?.map_err(machine_error)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { checkpoints: self.applier.checkpoints.clone(), takes: self.takes.clone() }
    }

    /// openraft's own way of receiving is not used: `receive.rs` hands it a snapshot that is whole.
    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Image>, StorageError<u64>> {
        Err(StorageIOError::read_snapshot(None, AnyError::error("snapshots are received whole")).into())
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta<u64, BasicNode>, snapshot: Box<Image>) -> Result<(), StorageError<u64>> {
        let Image::Come(incoming) = *snapshot else {
            return Err(StorageIOError::read_snapshot(None, AnyError::error("a checkpoint of this process is installed already")).into());
        };
        let checkpoints = self.applier.checkpoints.clone();
        let installed = tokio::task::spawn_blocking(move || checkpoints.install(incoming)).await;
        installed.map_err(machine_error)?.map_err(machine_error)?;
        self.applier.index.store(meta.last_log_id.map_or(0, |id| id.index), Ordering::Release);
        let format = self.applier.checkpoints.table().read().and_then(|table| format::of(&table)).map_err(machine_error)?;
        self.applier.format.store(format.0, Ordering::Release);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError<u64>> {
        self.applier.checkpoints.latest().map(snapshot_of).transpose()
    }
}

/// Takes checkpoints when openraft asks for a snapshot.
pub struct Builder {
    checkpoints: Arc<Checkpoints>,
    takes: Arc<Semaphore>,
}

impl RaftSnapshotBuilder<Types> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError<u64>> {
        let _turn = self.takes.acquire().await.map_err(machine_error)?;
        let checkpoints = self.checkpoints.clone();
        let taken = tokio::task::spawn_blocking(move || checkpoints.take()).await;
        let reader = taken.map_err(machine_error)?.map_err(machine_error)?;
        snapshot_of(reader)
    }
}

fn snapshot_of(pinned: Pinned) -> Result<Snapshot<Types>, StorageError<u64>> {
    let (id, txn) = {
        let reader = pinned.lock().unwrap_or_else(PoisonError::into_inner);
        (applied_in(&*reader).map_err(machine_error)?, reader.txn())
    };
    let meta = SnapshotMeta { last_log_id: id.0, last_membership: id.1, snapshot_id: format!("checkpoint-{txn}") };
    Ok(Snapshot { meta, snapshot: Box::new(Image::Kept(pinned)) })
}

#[cfg(test)]
mod tests {
    use super::super::NORMAL;
    use super::*;
    use openraft::CommittedLeaderId;
    use spine::wire::format::{FIRST, NEWEST};

    fn entry(index: u64, bytes: &[u8]) -> Entry<Types> {
        let payload = EntryPayload::Normal(Payload(bytes::Bytes::copy_from_slice(bytes)));
        Entry { log_id: LogId::new(CommittedLeaderId::new(1, 1), index), payload }
    }

    #[test]
    fn an_entry_of_a_newer_version_stops_the_group_before_it_and_is_never_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let applier = Applier::new(GroupId(0), Arc::new(Checkpoints::open(dir.path(), 16 << 20).unwrap())).unwrap();
        let applied = || applier.applied().unwrap().0.map(|id| id.index);
        applier.apply(&[entry(1, &[NORMAL, 0])]).unwrap();
        // One batch with one command of a kind that nobody knows; the entry before it comes with it.
        let unknown = [entry(2, &[NORMAL, 0]), entry(3, &[NORMAL, 1, 0, 1, 0x7f])];
        for _ in 0..2 {
            let why = applier.apply(&unknown).unwrap_err().to_string();
            assert!(why.contains("log entry 3") && why.contains("may be newer"), "{why}");
            assert_eq!((applied(), applier.applied_index(), applier.format()), (Some(1), 1, FIRST));
        }
        let raised = applier.apply(&[entry(2, &format::entry(NEWEST))]).unwrap();
        assert_eq!((raised, applied(), applier.format()), (vec![Outcome::default()], Some(2), NEWEST));
        // As after a start.
        assert_eq!(Applier::new(GroupId(0), applier.checkpoints().clone()).unwrap().format(), NEWEST);
    }
}
