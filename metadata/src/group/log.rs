//! openraft's log storage on one group of the journal.
//!
//! An entry's bytes in the journal and between members: a tag, then nothing (blank), the payload (normal, identified or one that raises the
//! format; the tag is its first byte), or the membership by postcard.

#![allow(clippy::result_large_err, reason = "openraft's own error")]

use super::{IDENTIFIED, LogId, NORMAL, OUTDATED, Payload, Types};
use crate::format;
use crate::journal::{Done, GroupLog, JournalError, Position};
use bytes::Bytes;
use openraft::storage::{LogFlushed, LogState, RaftLogStorage};
use openraft::{AnyError, CommittedLeaderId, Entry, EntryPayload, OptionalSend, RaftLogReader, StorageError, StorageIOError, Vote};
use spine::wire::cluster::APPEND_BYTES;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

const BLANK: u8 = 0;
const MEMBERSHIP: u8 = 2;

/// Counts entries with a payload that reached the disk; the proposer fills the next one until then.
#[derive(Debug, Default)]
pub struct Flushed {
    count: AtomicU64,
    changed: Notify,
}

impl Flushed {
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    fn add(&self, entries: u64) {
        self.count.fetch_add(entries, Ordering::Release);
        self.changed.notify_one();
    }

    /// The entry that was submitted as the `n`-th has its answer: whatever happened, it is on its way no more.
    pub fn at_least(&self, n: u64) {
        self.count.fetch_max(n, Ordering::AcqRel);
        self.changed.notify_one();
    }

    /// Returns after the count changed; for one waiter.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

#[derive(Clone)]
pub struct Log {
    log: GroupLog,
    flushed: Arc<Flushed>,
}

impl Log {
    pub fn new(log: GroupLog, flushed: Arc<Flushed>) -> Self {
        Self { log, flushed }
    }

    fn read(&self, start: u64, end: u64, most: usize) -> Result<Vec<Entry<Types>>, StorageError<u64>> {
        let found = self.log.read(start..end, most).map_err(|e| StorageIOError::read_logs(AnyError::new(&e)))?;
        let decode = |(position, bytes): (Position, Bytes)| {
            entry_of(position, &bytes).map_err(|reason| StorageIOError::read_log_at_index(position.index, AnyError::error(reason)).into())
        };
        found.into_iter().map(decode).collect()
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry<Types>>, StorageError<u64>> {
        let start = match range.start_bound() {
            Bound::Included(n) => *n,
            Bound::Excluded(n) => n.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(n) => n.saturating_add(1),
            Bound::Excluded(n) => *n,
            Bound::Unbounded => u64::MAX,
        };
        self.read(start, end, usize::MAX)
    }

    /// As much as one message to a member carries.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry<Types>>, StorageError<u64>> {
        self.read(start, end, APPEND_BYTES)
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError<u64>> {
        let state = self.log.state();
        Ok(LogState { last_purged_log_id: state.purged.map(log_id), last_log_id: state.last.map(log_id) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), StorageError<u64>> {
        let bytes = postcard::to_allocvec(vote).map_err(|e| StorageIOError::write_vote(AnyError::new(&e)))?;
        let (sender, saved) = tokio::sync::oneshot::channel();
        // Nobody listens only if this call was given up.
        let done: Done = Box::new(move |outcome| drop(sender.send(outcome)));
        self.log.vote(bytes.into(), done);
        let outcome = saved.await.map_err(|e| StorageIOError::write_vote(AnyError::new(&e)))?;
        Ok(outcome.map_err(|e| StorageIOError::write_vote(AnyError::new(&e)))?)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, StorageError<u64>> {
        let Some(bytes) = self.log.state().vote else { return Ok(None) };
        let vote = postcard::from_bytes(&bytes).map_err(|e| StorageIOError::read_vote(AnyError::new(&e)))?;
        Ok(Some(vote))
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError<u64>> {
        if let Some(committed) = committed {
            self.log.committed(position(&committed));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError<u64>> {
        Ok(self.log.state().committed.map(log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut normal = 0;
        let mut encoded = Vec::new();
        for entry in entries {
            normal += u64::from(matches!(entry.payload, EntryPayload::Normal(_)));
            let bytes = bytes_of(&entry.payload).map_err(|e| StorageIOError::write_log_entry(entry.log_id, AnyError::new(&e)))?;
            encoded.push((position(&entry.log_id), bytes));
        }
        let flushed = self.flushed.clone();
        let done: Done = Box::new(move |outcome: Result<(), JournalError>| {
            callback.log_io_completed(outcome.map_err(io::Error::other));
            if normal > 0 {
                flushed.add(normal);
            }
        });
        Ok(self.log.append(encoded, done).map_err(|e| StorageIOError::write_logs(AnyError::new(&e)))?)
    }

    async fn truncate(&mut self, from: LogId) -> Result<(), StorageError<u64>> {
        self.log.truncate(from.index);
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError<u64>> {
        self.log.purge(position(&upto));
        Ok(())
    }
}

pub fn position(id: &LogId) -> Position {
    Position { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
}

pub fn log_id(position: Position) -> LogId {
    LogId::new(CommittedLeaderId::new(position.term, position.node), position.index)
}

pub fn bytes_of(payload: &EntryPayload<Types>) -> Result<Bytes, postcard::Error> {
    Ok(match payload {
        EntryPayload::Blank => Bytes::from_static(&[BLANK]),
        EntryPayload::Normal(Payload(bytes)) => bytes.clone(),
        EntryPayload::Membership(membership) => postcard::to_extend(membership, vec![MEMBERSHIP])?.into(),
    })
}

/// # Errors
/// Says what does not decode.
pub fn entry_of(position: Position, bytes: &Bytes) -> Result<Entry<Types>, String> {
    let payload = match bytes.split_first() {
        Some((&BLANK, [])) => EntryPayload::Blank,
        Some((&(NORMAL | IDENTIFIED), _)) => EntryPayload::Normal(Payload(bytes.clone())),
        _ if format::raised_by(bytes).is_some() => EntryPayload::Normal(Payload(bytes.clone())),
        Some((&MEMBERSHIP, rest)) => {
            EntryPayload::Membership(postcard::from_bytes(rest).map_err(|e| format!("membership of entry {}: {e}", position.index))?)
        }
        Some((kind, _)) if OUTDATED.contains(kind) => {
            return Err(format!("entry {} is of an earlier version of Breakwater, whose metadata this one does not read", position.index));
        }
        _ => return Err(format!("entry {} is of no known kind: a newer version of Breakwater may have written it", position.index)),
    };
    Ok(Entry { log_id: log_id(position), payload })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_before_are_refused_by_name_and_unknown_ones_as_such() {
        let at = Position { term: 3, node: 1, index: 77 };
        let refusal = |bytes: &'static [u8]| entry_of(at, &Bytes::from_static(bytes)).unwrap_err();
        for kind in OUTDATED {
            let bytes = Bytes::from(vec![kind, 0, 0]);
            let why = entry_of(at, &bytes).unwrap_err();
            assert!(why.contains("entry 77") && why.contains("an earlier version of Breakwater"), "{why}");
        }
        assert!(refusal(&[]).contains("no known kind"));
        assert!(refusal(&[200, 1]).contains("no known kind"));
        assert!(refusal(&[BLANK, 1]).contains("no known kind"), "a blank entry is blank");
        assert!(refusal(&[format::RAISE, 2, 0]).contains("newer version"), "what raises a format and says more is not known yet");
        let raise = format::entry(spine::wire::format::NEWEST);
        assert_eq!(bytes_of(&entry_of(at, &raise).unwrap().payload).unwrap(), raise);
        assert!(refusal(&[MEMBERSHIP, 0xff]).contains("membership of entry 77"));
        for kind in [NORMAL, IDENTIFIED] {
            let bytes = Bytes::from(vec![kind, 9]);
            assert_eq!(bytes_of(&entry_of(at, &bytes).unwrap().payload).unwrap(), bytes);
        }
    }
}
