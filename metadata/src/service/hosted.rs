//! One group in this process: its table, what gathers its proposals, and the two calls that gateways make.
//!
//! Invariants: `propose` returns after the entry was synced and applied; `query` sees every proposal that returned before it was called; no
//! read transaction crosses an await.

use super::OpenError;
use super::copies::Copies;
use crate::checkpoint::Checkpoints;
use crate::group::{Applied, Group, GroupError, Means};
use crate::heat::{Heat, Owned, Seen};
use crate::journal::GroupId;
use crate::propose::{self, ProposeError, Proposer};
use crate::range::Ranges;
use crate::requests::Stamp;
use crate::room::Room;
use crate::table::TableRead;
use crate::{machine, metric, restore};
use spine::wire::chunk::ChunkQuery;
use spine::wire::cluster::{Ask, ClusterError, Propose, Proposed};
use spine::wire::namespace::NamespaceQuery;
use spine::wire::range::RangeQuery;
use spine::wire::root::RootQuery;
use spine::wire::{Answer, Batch, Metadata, MetadataError, Query, Reply};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// How long a member that ends waits for others to agree to what was proposed.
const DRAIN: Duration = Duration::from_secs(3);
/// Records of a query that are answered on the caller's thread: a few microseconds each.
const INLINE_RECORDS: usize = 32;

/// A group that this process has a replica of.
pub struct Hosted {
    pub checkpoints: Arc<Checkpoints>,
    pub group: Arc<Group>,
    pub room: Arc<Room>,
    pub copies: Arc<Copies>,
    proposer: Arc<Proposer>,
    scans: Arc<Semaphore>,
    heat: Option<Arc<Heat>>,
    /// Proposals' task; ends by itself once closed and empty.
    filler: Mutex<Option<JoinHandle<()>>>,
}

impl Hosted {
    /// Starts the group over its open table.
    ///
    /// - `scans`: listings and scans at once, of all groups.
    ///
    /// # Errors
    /// The group's.
    pub async fn start(
        id: GroupId,
        means: &Means,
        checkpoints: Arc<Checkpoints>,
        room: Room,
        propose: propose::Settings,
        scans: Arc<Semaphore>,
    ) -> Result<Arc<Self>, GroupError> {
        let group = Arc::new(Group::open(id, means, checkpoints.clone()).await?);
        let (proposer, filler) = Proposer::start(group.clone(), propose);
        let (room, heat, filler) = (Arc::new(room), means.heat.clone(), Mutex::new(Some(filler)));
        Ok(Arc::new(Self { checkpoints, group, room, copies: Arc::default(), proposer, scans, heat, filler }))
    }

    /// Finishes what was proposed, refuses the rest, and ends the group. Idempotent.
    pub async fn end(&self) {
        self.proposer.close();
        let mut filler = self.filler.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(filler) = &mut filler {
            // It ends when the queue is empty; a panic in it was reported where it happened. Without a majority it may never be: then the
            // group ends first, and those who wait hear that nobody knows.
            let longest = if self.group.is_alone() { Duration::MAX } else { DRAIN };
            let _ = tokio::time::timeout(longest, &mut *filler).await;
        }
        self.group.shutdown().await;
        if let Some(filler) = filler.filter(|filler| !filler.is_finished()) {
            let _ = filler.await;
        }
    }

    /// A proposal of another process; one with an id is applied once, however often it comes. Waits while leadership is handed over.
    ///
    /// # Errors
    /// `NotLeader` and `Forgotten`: nothing was done. As [`Metadata::propose`] else.
    pub async fn propose_once(&self, propose: Propose) -> Result<Proposed, ClusterError> {
        let Propose { request, seen, batch, .. } = propose;
        drop(self.group.settled().await);
        self.group.check_leader()?;
        self.room.admit(&batch)?;
        self.group.fit(&batch).await?;
        if batch.commands.is_empty() {
            return Ok(Proposed { replies: Vec::new(), seen });
        }
        self.count(&batch);
        let stamp = request.map(|id| Stamp { id, seen });
        match self.proposer.propose_stamped(stamp, &batch).await {
            Ok(Applied::Replies { replies, seen }) => Ok(Proposed { replies, seen }),
            Ok(Applied::Forgotten { seen }) => Err(ClusterError::Forgotten { seen }),
            Err(ProposeError::NotLed) => {
                self.group.check_leader()?;
                // It leads again by now: the asker asks again.
                Err(ClusterError::NotLeader { leader: None })
            }
            Err(ProposeError::Metadata(error)) => Err(error.into()),
        }
    }

    /// A query of another process. Linearizable. Waits while leadership is handed over.
    ///
    /// # Errors
    /// `NotLeader`; as [`Metadata::query`] else.
    pub async fn ask(&self, ask: Ask) -> Result<Answer, ClusterError> {
        drop(self.group.settled().await);
        self.group.check_leader()?;
        Ok(self.query(ask.query).await?)
    }

    /// The group as its load is to be reckoned.
    pub fn seen(&self) -> Seen {
        let (leads, term) = self.group.standing();
        Seen { group: self.group.number(), leads, term, others: self.group.others(), counts: self.group.tally().counts() }
    }

    /// What the group owns by its table; `None`: that cannot be read.
    pub fn owned(&self) -> Option<Owned> {
        let table = self.checkpoints.table().read().ok()?;
        let ranges = Ranges::load(&table, self.group.number()).ok()?;
        Some(Owned { names: ranges.names.owned, chunks: ranges.chunks.owned })
    }

    fn count(&self, batch: &Batch) {
        if let Some(heat) = &self.heat {
            heat.proposed(self.group.number(), self.group.tally(), batch);
        }
    }

    fn answer_now(&self, query: &Query) -> Result<Answer, MetadataError> {
        answer_from(&self.checkpoints.table().read()?, self.group.number(), query)
    }
}

/// Answers from one moment, unless what is there is not whole yet.
fn answer_from(read: &dyn TableRead, group: GroupId, query: &Query) -> Result<Answer, MetadataError> {
    let is_of_founding = matches!(query, Query::Root(RootQuery::Fleet | RootQuery::MetadataNodes | RootQuery::Lease | RootQuery::Format));
    if !is_of_founding && restore::is_under_way(read)? {
        return Err(MetadataError::Unavailable { reason: "metadata is being restored".into() });
    }
    machine::answer(read, group, query)
}

#[async_trait::async_trait]
impl Metadata for Hosted {
    async fn propose(&self, batch: Batch) -> Result<Vec<Reply>, MetadataError> {
        self.room.admit(&batch)?;
        self.group.fit(&batch).await?;
        self.count(&batch);
        self.proposer.propose(&batch).await
    }

    async fn query(&self, query: Query) -> Result<Answer, MetadataError> {
        let begun = Instant::now();
        let kind = kind(&query);
        self.group.barrier().await?;
        if let Some(heat) = &self.heat {
            heat.queried(self.group.number(), self.group.tally(), &query);
        }
        let ended = |e: &dyn std::error::Error| MetadataError::Unavailable { reason: e.to_string() };
        let answer = if let Query::Copy(copy) = query {
            if copy.group != self.group.number() {
                return Err(MetadataError::NotHere);
            }
            let (copies, checkpoints) = (self.copies.clone(), self.checkpoints.clone());
            let read = tokio::task::spawn_blocking(move || copies.answer(&checkpoints, &copy));
            read.await.map_err(|e| ended(&e))?.map(Answer::Copy)
        } else if is_quick(&query) {
            self.answer_now(&query)
        } else {
            let permit = self.scans.clone().acquire_owned().await.map_err(|e| ended(&e))?;
            let table = self.checkpoints.table();
            let group = self.group.number();
            let scan = tokio::task::spawn_blocking(move || {
                let answer = table.read().map_err(MetadataError::from).and_then(|read| answer_from(&read, group, &query));
                drop(permit);
                answer
            });
            scan.await.map_err(|e| ended(&e))?
        };
        metric::QUERY_SECONDS.with_label_values(&[kind]).observe(begun.elapsed().as_secs_f64());
        answer
    }
}

/// Opens the table of a group in `dir`, which it creates, and looks that its log does not begin behind it.
///
/// # Errors
/// The disk, or what lies on it. Blocks.
pub fn open_table(dir: &Path, map_bytes: u64, purged: Option<u64>) -> Result<Checkpoints, OpenError> {
    let folder = |source| OpenError::Folder { path: dir.to_owned(), source };
    std::fs::create_dir_all(dir).map_err(folder)?;
    if let Some(parent) = dir.parent() {
        crate::journal::file::sync_dir(parent).map_err(folder)?;
    }
    // Before anything of the table is touched: with the checkpoint put back it may be whole.
    if let Some(purged) = purged
        && !Checkpoints::exists(dir).map_err(folder)?
    {
        return Err(GroupError::CheckpointBehind { purged, applied: None }.into());
    }
    Ok(Checkpoints::open(dir, map_bytes)?)
}

/// Answered on the caller's thread: a bounded handful of point reads.
fn is_quick(query: &Query) -> bool {
    match query {
        Query::Root(RootQuery::Tenants | RootQuery::Keys(_) | RootQuery::Buckets(_)) => false,
        Query::Root(RootQuery::Map { .. } | RootQuery::Groups | RootQuery::GroupsOf(_) | RootQuery::Moves | RootQuery::Shifts) => false,
        Query::Root(_) => true,
        Query::Namespace(
            NamespaceQuery::Head { .. } | NamespaceQuery::Open { .. } | NamespaceQuery::Reopen { .. } | NamespaceQuery::Upload { .. },
        ) => true,
        Query::Namespace(NamespaceQuery::Manifests { versions, .. }) => versions.len() == 1,
        Query::Namespace(_) => false,
        Query::Chunk(ChunkQuery::Records(chunks)) => chunks.len() <= INLINE_RECORDS,
        Query::Chunk(ChunkQuery::Totals) => true,
        Query::Chunk(_) | Query::Within { .. } | Query::Copy(_) => false,
        Query::Range(query) => matches!(query, RangeQuery::Status),
    }
}

/// The metric's label.
fn kind(query: &Query) -> &'static str {
    match query {
        Query::Root(_) => "root",
        Query::Namespace(query) => match query {
            NamespaceQuery::Head { .. } => "head",
            NamespaceQuery::Open { .. } | NamespaceQuery::Reopen { .. } => "open",
            NamespaceQuery::Manifests { .. } => "manifests",
            NamespaceQuery::List { .. } => "list",
            NamespaceQuery::Upload { .. } | NamespaceQuery::Parts { .. } | NamespaceQuery::Uploads { .. } => "uploads",
            NamespaceQuery::Outbox { .. } | NamespaceQuery::Intents { .. } => "collector",
        },
        Query::Chunk(ChunkQuery::Records(_)) => "records",
        Query::Chunk(_) | Query::Within { .. } => "collector",
        Query::Range(_) => "range",
        Query::Copy(_) => "copy",
    }
}
