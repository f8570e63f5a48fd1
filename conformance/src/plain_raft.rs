//! openraft with nothing around it: the product's log below, an empty state machine above, the product's kind of link between members (TLS and
//! HTTP/1.1 over loopback, a message a call). What any number of operations a second of the metadata service is to be held against.

#![allow(clippy::result_large_err, reason = "openraft's own error")]

mod carry;

use bytes::Bytes;
use carry::{Carrier, Groups, Lines, send_append, send_vote};
use metadata::cluster::Link;
use metadata::journal::{self, Done, GroupLog, Journal, JournalError, Position};
use openraft::error::{Fatal, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::storage::{LogFlushed, LogState, RaftLogStorage, RaftStateMachine, Snapshot};
use openraft::{
    AnyError, BasicNode, CommittedLeaderId, Config, Entry, EntryPayload, LogId, OptionalSend, Raft, RaftLogReader, RaftSnapshotBuilder,
    ServerState, SnapshotMeta, SnapshotPolicy, StorageError, StorageIOError, StoredMembership, Vote,
};
use serde::{Deserialize, Serialize};
use spine::id::GroupId;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What an entry carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload(pub Bytes);

openraft::declare_raft_types!(
    /// Snapshots are never made.
    pub Plain:
        D = Payload,
        R = (),
        NodeId = u64,
        Node = BasicNode,
        SnapshotData = (),
);

type Error = StorageError<u64>;
type RpcError = RPCError<u64, BasicNode, RaftError<u64>>;

/// Everybody of one group.
type Members = Arc<Mutex<BTreeMap<u64, Raft<Plain>>>>;

/// Bytes of entries that one message carries, as in the product.
const APPEND_BYTES: usize = 4 << 20;
const BLANK: u8 = 0;
const NORMAL: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// So many processes' logs, and so many groups over them; each group is led by one process after the other.
pub struct PlainRaft {
    journals: Vec<Arc<Journal>>,
    groups: Groups,
    carrier: Carrier,
}

impl PlainRaft {
    /// # Errors
    /// The disk; a group without a leader.
    pub async fn start(dir: &Path, nodes: usize, groups: usize) -> Result<PlainRaft, String> {
        let journal = |node: usize| Journal::open(&dir.join(format!("plain-{node}")), journal::Settings::default());
        let journals = (0..nodes).map(journal).collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
        let all = Groups::default();
        all.lock().unwrap_or_else(PoisonError::into_inner).extend((0..groups).map(|_| Members::default()));
        let carrier = Carrier::start(nodes, &all).await?;
        let plain = PlainRaft { journals, groups: all, carrier };
        for group in 0..groups {
            plain.found(group).await?;
        }
        Ok(plain)
    }

    fn members(&self, group: usize) -> Members {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)[group].clone()
    }

    async fn found(&self, group: usize) -> Result<(), String> {
        let members = self.members(group);
        let config = Config {
            heartbeat_interval: 300,
            election_timeout_min: 700,
            election_timeout_max: 1_050,
            snapshot_policy: SnapshotPolicy::Never,
            ..Config::default()
        };
        let config = Arc::new(config.validate().map_err(|e| e.to_string())?);
        for (node, journal) in self.journals.iter().enumerate() {
            let log = Log(journal.group(GroupId(group as u32)));
            let raft = Raft::new(
                node as u64,
                config.clone(),
                Calls { group: group as u32, lines: self.carrier.lines[node].clone() },
                log,
                Nothing::default(),
            )
            .await;
            lock(&members).insert(node as u64, raft.map_err(|e| e.to_string())?);
        }
        let first = (group % self.journals.len()) as u64;
        let founder = lock(&members)[&first].clone();
        let all: BTreeMap<u64, BasicNode> = (0..self.journals.len() as u64).map(|node| (node, BasicNode::default())).collect();
        founder.initialize(all).await.map_err(|e| e.to_string())?;
        let leads = founder.wait(Some(Duration::from_secs(20))).metrics(|metrics| metrics.state == ServerState::Leader, "it leads").await;
        leads.map(drop).map_err(|e| e.to_string())
    }

    /// One entry through the group's leader: synced by a majority and applied.
    ///
    /// # Errors
    /// Somebody else leads, or nobody.
    pub async fn write(&self, group: usize, payload: Bytes) -> Result<(), String> {
        let members = self.members(group);
        let (first, leader) = {
            let members = lock(&members);
            let first = members[&0].metrics().borrow().current_leader;
            (members[&0].clone(), first.and_then(|leader| members.get(&leader).cloned()))
        };
        leader.unwrap_or(first).client_write(Payload(payload)).await.map(drop).map_err(|e| e.to_string())
    }

    pub async fn end(self) {
        let groups = lock(&self.groups).len();
        for group in 0..groups {
            let group = self.members(group);
            let members: Vec<Raft<Plain>> = lock(&group).values().cloned().collect();
            for member in members {
                // It ends in any case; an error here is a task that had ended already.
                let _ = member.shutdown().await;
            }
            lock(&group).clear();
        }
        for journal in self.journals {
            let _ = tokio::task::spawn_blocking(move || journal.close()).await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One node's way to the others of a group.
struct Calls {
    group: u32,
    lines: Lines,
}

struct Line {
    group: u32,
    link: Option<Arc<Link>>,
}

impl RaftNetworkFactory<Plain> for Calls {
    type Network = Line;

    async fn new_client(&mut self, to: u64, _node: &BasicNode) -> Line {
        Line { group: self.group, link: self.lines.get(&to).cloned() }
    }
}

fn away(what: impl ToString) -> Unreachable {
    Unreachable::new(&AnyError::error(what.to_string()))
}

impl Line {
    fn link(&self) -> Result<&Link, RpcError> {
        self.link.as_deref().ok_or_else(|| RPCError::Unreachable(away("it is not there")))
    }
}

impl RaftNetwork<Plain> for Line {
    async fn append_entries(&mut self, request: AppendEntriesRequest<Plain>, _: RPCOption) -> Result<AppendEntriesResponse<u64>, RpcError> {
        send_append(self.link()?, self.group, &request).await
    }

    async fn vote(&mut self, request: VoteRequest<u64>, _: RPCOption) -> Result<VoteResponse<u64>, RpcError> {
        send_vote(self.link()?, self.group, &request).await
    }

    async fn full_snapshot(
        &mut self,
        _vote: Vote<u64>,
        _snapshot: Snapshot<Plain>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<Plain, Fatal<u64>>> {
        Err(StreamingError::Unreachable(away("there are no snapshots")))
    }
}

/// Counts what was applied, and that is all.
#[derive(Default)]
struct Nothing {
    applied: Option<LogId<u64>>,
    membership: StoredMembership<u64, BasicNode>,
}

fn none() -> Error {
    StorageIOError::read_snapshot(None, AnyError::error("there are no snapshots")).into()
}

impl RaftSnapshotBuilder<Plain> for Nothing {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Plain>, Error> {
        Err(none())
    }
}

impl RaftStateMachine<Plain> for Nothing {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId<u64>>, StoredMembership<u64, BasicNode>), Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<()>, Error>
    where
        I: IntoIterator<Item = Entry<Plain>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut replies = Vec::new();
        for entry in entries {
            self.applied = Some(entry.log_id);
            if let EntryPayload::Membership(membership) = entry.payload {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
            }
            replies.push(());
        }
        Ok(replies)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        Self::default()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<()>, Error> {
        Err(none())
    }

    async fn install_snapshot(&mut self, _: &SnapshotMeta<u64, BasicNode>, _: Box<()>) -> Result<(), Error> {
        Err(none())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Plain>>, Error> {
        Ok(None)
    }
}

#[derive(Clone)]
struct Log(GroupLog);

fn position(id: &LogId<u64>) -> Position {
    Position { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
}

fn log_id(position: Position) -> LogId<u64> {
    LogId::new(CommittedLeaderId::new(position.term, position.node), position.index)
}

fn bytes_of(payload: &EntryPayload<Plain>) -> Result<Bytes, serde_json::Error> {
    let tagged = |tag: u8, rest: &[u8]| [&[tag], rest].concat().into();
    Ok(match payload {
        EntryPayload::Blank => tagged(BLANK, &[]),
        EntryPayload::Normal(Payload(bytes)) => tagged(NORMAL, bytes),
        EntryPayload::Membership(membership) => tagged(MEMBERSHIP, &serde_json::to_vec(membership)?),
    })
}

fn entry_of(position: Position, bytes: &Bytes) -> Result<Entry<Plain>, Error> {
    let wrong = |what: String| StorageIOError::read_log_at_index(position.index, AnyError::error(what));
    let payload = match bytes.first() {
        Some(&BLANK) => EntryPayload::Blank,
        Some(&NORMAL) => EntryPayload::Normal(Payload(bytes.slice(1..))),
        Some(&MEMBERSHIP) => EntryPayload::Membership(serde_json::from_slice(&bytes[1..]).map_err(|e| wrong(e.to_string()))?),
        _ => return Err(wrong("of no known kind".into()).into()),
    };
    Ok(Entry { log_id: log_id(position), payload })
}

impl Log {
    fn read(&self, start: u64, end: u64, most: usize) -> Result<Vec<Entry<Plain>>, Error> {
        let found = self.0.read(start..end, most).map_err(|e| StorageIOError::read_logs(AnyError::new(&e)))?;
        found.into_iter().map(|(position, bytes)| entry_of(position, &bytes)).collect()
    }
}

impl RaftLogReader<Plain> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry<Plain>>, Error> {
        let start = match range.start_bound() {
            Bound::Included(n) => *n,
            Bound::Excluded(n) => n + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(n) => n + 1,
            Bound::Excluded(n) => *n,
            Bound::Unbounded => u64::MAX,
        };
        self.read(start, end, usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry<Plain>>, Error> {
        self.read(start, end, APPEND_BYTES)
    }
}

impl RaftLogStorage<Plain> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Plain>, Error> {
        let state = self.0.state();
        Ok(LogState { last_purged_log_id: state.purged.map(log_id), last_log_id: state.last.map(log_id) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), Error> {
        let failed = |e: &dyn std::error::Error| StorageIOError::write_vote(AnyError::error(e.to_string()));
        let bytes = serde_json::to_vec(vote).map_err(|e| failed(&e))?;
        let (sender, saved) = tokio::sync::oneshot::channel();
        let done: Done = Box::new(move |outcome| drop(sender.send(outcome)));
        self.0.vote(bytes.into(), done);
        Ok(saved.await.map_err(|e| failed(&e))?.map_err(|e| failed(&e))?)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, Error> {
        let Some(bytes) = self.0.state().vote else { return Ok(None) };
        Ok(Some(serde_json::from_slice(&bytes).map_err(|e| StorageIOError::read_vote(AnyError::new(&e)))?))
    }

    async fn save_committed(&mut self, committed: Option<LogId<u64>>) -> Result<(), Error> {
        if let Some(committed) = committed {
            self.0.committed(position(&committed));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId<u64>>, Error> {
        Ok(self.0.state().committed.map(log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Plain>) -> Result<(), Error>
    where
        I: IntoIterator<Item = Entry<Plain>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut encoded = Vec::new();
        for entry in entries {
            let bytes = bytes_of(&entry.payload).map_err(|e| StorageIOError::write_log_entry(entry.log_id, AnyError::new(&e)))?;
            encoded.push((position(&entry.log_id), bytes));
        }
        let done: Done = Box::new(move |outcome: Result<(), JournalError>| callback.log_io_completed(outcome.map_err(io::Error::other)));
        Ok(self.0.append(encoded, done).map_err(|e| StorageIOError::write_logs(AnyError::new(&e)))?)
    }

    async fn truncate(&mut self, from: LogId<u64>) -> Result<(), Error> {
        self.0.truncate(from.index);
        Ok(())
    }

    async fn purge(&mut self, upto: LogId<u64>) -> Result<(), Error> {
        self.0.purge(position(&upto));
        Ok(())
    }
}
