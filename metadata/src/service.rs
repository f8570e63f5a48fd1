//! A metadata node: the log, the table, the group over them, and the two calls that gateways make.
//!
//! Folder: `owner.lock`, `log/` (segments), `table/` (LMDB and `checkpoint`), `member` (of a cluster's: its id).
//! Invariants: `propose` returns after the entry was synced and applied; `query` sees every proposal that returned before it
//! was called; one process at a time owns the folder; no read transaction crosses an await.
//! Not here: what commands and queries mean (`machine.rs`), what a member of a cluster does besides (`member.rs`).

mod copies;
mod member;

use crate::checkpoint::{CheckpointError, Checkpoints};
use crate::cluster::Membership;
use crate::group::{self, Group, GroupError};
use crate::journal::{self, GroupId, Journal, JournalError};
use crate::propose::{self, Proposer};
use crate::room::Room;
use crate::table::TableRead;
use crate::{machine, metric, restore};
use copies::Copies;
use spine::id::MemberId;
use spine::wire::chunk::ChunkQuery;
use spine::wire::namespace::NamespaceQuery;
use spine::wire::root::RootQuery;
use spine::wire::{Answer, Batch, Metadata, MetadataError, Query, Reply};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// The only group so far: root, one subtree, one chunk range.
const GROUP: GroupId = GroupId(0);
/// How often the node looks whether a checkpoint is due and how much room there is.
const TICK: Duration = Duration::from_secs(1);
/// How long a member that ends waits for others to agree to what was proposed.
const DRAIN: Duration = Duration::from_secs(3);
/// Records of a query that are answered on the caller's thread: a few microseconds each.
const INLINE_RECORDS: usize = 32;

#[derive(Clone, Debug)]
pub struct Settings {
    /// Folder of the log and the table; created.
    pub dir: PathBuf,
    /// Most bytes the table can grow to; default 256 GiB. Only address space is taken. Never changes while the process runs.
    pub map_bytes: u64,
    /// Writes are refused once the map or the file system has less than this left; default 192 MiB (at most an eighth of the map).
    pub reserve_bytes: u64,
    /// A checkpoint is taken after this much log; default 64 MiB. Larger: longer replay after a kill, more disk.
    pub checkpoint_bytes: u64,
    /// And after this long if anything changed; default 30 s.
    pub checkpoint_interval: Duration,
    /// And once nothing was written for this long; default 5 s. Then the log's spare files go, and the table's free pages if
    /// they are most of it. Smaller: more often while writes come now and then.
    pub quiet: Duration,
    /// Listings and scans at once; default 8. More wait.
    pub scans: usize,
    pub journal: journal::Settings,
    pub propose: propose::Settings,
    /// This process among others; default none: it is alone.
    pub membership: Option<Membership>,
}

impl Settings {
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            map_bytes: 256 << 30,
            reserve_bytes: 192 << 20,
            checkpoint_bytes: 64 << 20,
            checkpoint_interval: Duration::from_secs(30),
            quiet: Duration::from_secs(5),
            scans: 8,
            journal: journal::Settings::default(),
            propose: propose::Settings::default(),
            membership: None,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("metadata folder cannot be used. path=`{path}`, reason=`{source}`")]
    Folder { path: PathBuf, source: io::Error },
    #[error("another process uses the metadata folder. path=`{path}`")]
    InUse { path: PathBuf },
    /// Alone, it would not hear what the others have agreed on.
    #[error("the metadata folder is a member's of a cluster and cannot be served alone. path=`{path}`")]
    Clustered { path: PathBuf },
    #[error("the member file does not read. path=`{path}`")]
    Member { path: PathBuf },
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Group(#[from] GroupError),
}

pub struct MetadataNode {
    checkpoints: Arc<Checkpoints>,
    journal: Arc<Journal>,
    group: Arc<Group>,
    proposer: Arc<Proposer>,
    room: Arc<Room>,
    scans: Arc<Semaphore>,
    copies: Arc<Copies>,
    watch: Mutex<Option<JoinHandle<()>>>,
    /// Proposals' task; ends by itself once closed and empty.
    filler: Mutex<Option<JoinHandle<()>>>,
    _owner: File,
}

impl MetadataNode {
    /// Recovers what the folder holds and serves it. Ends with everything applied that was ever acknowledged.
    ///
    /// # Errors
    /// See [`OpenError`]. A damaged log or checkpoint is an error, never a smaller answer.
    pub async fn open(settings: Settings) -> Result<Arc<Self>, OpenError> {
        metric::declare();
        let begun = Instant::now();
        let blocking = {
            let settings = settings.clone();
            tokio::task::spawn_blocking(move || open_files(&settings)).await
        };
        let Files { owner, member, checkpoints, journal } = blocking.map_err(|e| GroupError::Start(e.to_string()))??;
        let checkpoints = Arc::new(checkpoints);
        let group = Arc::new(Group::open(GROUP, member, settings.membership.as_ref(), &journal, checkpoints.clone()).await?);
        let (proposer, filler) = Proposer::start(group.clone(), settings.propose.clone());
        let room = Arc::new(Room::new(checkpoints.clone(), &settings.dir, settings.reserve_bytes));
        let copies = Arc::new(Copies::default());
        let watch = Watch {
            group: group.clone(),
            journal: journal.clone(),
            checkpoints: checkpoints.clone(),
            room: room.clone(),
            copies: copies.clone(),
        };
        let watch = tokio::spawn(watch.run(settings.clone()));
        tracing::info!(applied = group.applied_index(), seconds = begun.elapsed().as_secs_f64(), "metadata node is open");
        Ok(Arc::new(Self {
            checkpoints,
            journal,
            group,
            proposer,
            room,
            scans: Arc::new(Semaphore::new(settings.scans.max(1))),
            copies,
            watch: Mutex::new(Some(watch)),
            filler: Mutex::new(Some(filler)),
            _owner: owner,
        }))
    }

    /// Finishes what was proposed, refuses the rest, takes a checkpoint, and lets go of the disk. Idempotent.
    pub async fn shutdown(&self) {
        self.end().await;
        if self.journal.failure().is_some() {
            return;
        }
        let checkpoints = self.checkpoints.clone();
        match tokio::task::spawn_blocking(move || checkpoints.take()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::error!(%error, "the last checkpoint failed; the next start replays the log"),
            Err(error) => tracing::error!(%error, "the last checkpoint's task failed; the next start replays the log"),
        }
    }

    /// What shutdown does short of the checkpoint.
    async fn end(&self) {
        self.proposer.close();
        let mut filler = take(&self.filler);
        if let Some(filler) = &mut filler {
            // It ends when the queue is empty; a panic in it was reported where it happened. Without a majority it may never be: then the
            // group ends first, and those who wait hear that nobody knows.
            let longest = if self.group.is_alone() { Duration::MAX } else { DRAIN };
            let _ = tokio::time::timeout(longest, &mut *filler).await;
        }
        let watch = take(&self.watch);
        if let Some(watch) = watch {
            watch.abort();
            let _ = watch.await;
        }
        self.group.shutdown().await;
        if let Some(filler) = filler.filter(|filler| !filler.is_finished()) {
            let _ = filler.await;
        }
        let journal = self.journal.clone();
        let _ = tokio::task::spawn_blocking(move || journal.close()).await;
    }

    /// As after a kill: the folder holds whatever it holds.
    #[cfg(test)]
    pub(crate) async fn kill(&self) {
        self.end().await;
    }

    /// The tables, for comparing.
    #[cfg(test)]
    pub(crate) fn checkpoints(&self) -> &Arc<Checkpoints> {
        &self.checkpoints
    }

    fn answer_now(&self, query: &Query) -> Result<Answer, MetadataError> {
        answer_from(&self.checkpoints.table().read()?, query)
    }
}

/// Answers from one moment, unless what is there is not whole yet.
fn answer_from(read: &dyn TableRead, query: &Query) -> Result<Answer, MetadataError> {
    let is_of_founding = matches!(query, Query::Root(RootQuery::Fleet | RootQuery::MetadataNodes | RootQuery::Lease));
    if !is_of_founding && restore::is_under_way(read)? {
        return Err(MetadataError::Unavailable { reason: "metadata is being restored".into() });
    }
    Ok(machine::answer(read, query)?)
}

#[async_trait::async_trait]
impl Metadata for MetadataNode {
    async fn propose(&self, batch: Batch) -> Result<Vec<Reply>, MetadataError> {
        self.room.admit(&batch)?;
        self.proposer.propose(&batch).await
    }

    async fn query(&self, query: Query) -> Result<Answer, MetadataError> {
        let begun = Instant::now();
        let kind = kind(&query);
        self.group.barrier().await?;
        let ended = |e: &dyn std::error::Error| MetadataError::Unavailable { reason: e.to_string() };
        let answer = if let Query::Copy(part) = query {
            if part.group != GROUP {
                return Err(MetadataError::Unavailable { reason: format!("there is no group {}", part.group) });
            }
            let (copies, checkpoints) = (self.copies.clone(), self.checkpoints.clone());
            let read = tokio::task::spawn_blocking(move || copies.part(&checkpoints, &part));
            read.await.map_err(|e| ended(&e))?.map(Answer::Copy)
        } else if is_quick(&query) {
            self.answer_now(&query)
        } else {
            let permit = self.scans.clone().acquire_owned().await.map_err(|e| ended(&e))?;
            let table = self.checkpoints.table();
            let scan = tokio::task::spawn_blocking(move || {
                let answer = table.read().map_err(MetadataError::from).and_then(|read| answer_from(&read, &query));
                drop(permit);
                answer
            });
            scan.await.map_err(|e| ended(&e))?
        };
        metric::QUERY_SECONDS.with_label_values(&[kind]).observe(begun.elapsed().as_secs_f64());
        answer
    }
}

struct Files {
    owner: File,
    member: MemberId,
    checkpoints: Checkpoints,
    journal: Arc<Journal>,
}

fn open_files(settings: &Settings) -> Result<Files, OpenError> {
    let (log, table) = (settings.dir.join("log"), settings.dir.join("table"));
    for dir in [&log, &table] {
        fs::create_dir_all(dir).map_err(|source| OpenError::Folder { path: dir.clone(), source })?;
    }
    journal::file::sync_dir(&settings.dir).map_err(|source| OpenError::Folder { path: settings.dir.clone(), source })?;
    let owner = own(&settings.dir)?;
    let journal = Journal::open(&log, settings.journal.clone())?;
    // Before anything of the table is touched: with the checkpoint put back it may be whole.
    if let Some(purged) = journal.group(GROUP).state().purged
        && !Checkpoints::exists(&table).map_err(|source| OpenError::Folder { path: table.clone(), source })?
    {
        return Err(GroupError::CheckpointBehind { purged: purged.index, applied: None }.into());
    }
    let member = match &settings.membership {
        None if member::exists(&settings.dir)? => return Err(OpenError::Clustered { path: settings.dir.clone() }),
        None => group::ALONE,
        Some(_) => member::id_of(&settings.dir, journal.group(GROUP).state() != journal::GroupState::default())?,
    };
    let checkpoints = Checkpoints::open(&table, settings.map_bytes)?;
    Ok(Files { owner, member, checkpoints, journal })
}

/// The lock goes with the file, however the process ends.
fn own(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join("owner.lock");
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|source| OpenError::Folder { path: path.clone(), source })?;
    // SAFETY: an open file.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
        let source = io::Error::last_os_error();
        return Err(match source.kind() {
            io::ErrorKind::WouldBlock => OpenError::InUse { path },
            _ => OpenError::Folder { path, source },
        });
    }
    Ok(file)
}

/// Takes checkpoints when they are due, measures the room, and tidies up when nothing is written.
struct Watch {
    group: Arc<Group>,
    journal: Arc<Journal>,
    checkpoints: Arc<Checkpoints>,
    room: Arc<Room>,
    copies: Arc<Copies>,
}

impl Watch {
    async fn run(self, settings: Settings) {
        let (mut written, mut applied, mut at) = (self.journal.written_bytes(), 0, Instant::now());
        let (mut seen, mut changed, mut tidy) = (0, Instant::now(), false);
        loop {
            tokio::time::sleep(TICK).await;
            let measured = self.room.clone();
            if tokio::task::spawn_blocking(move || measured.measure()).await.is_err() {
                return;
            }
            self.group.forget_abandoned().await;
            self.copies.forget_abandoned();
            self.group.measure();
            let (written_now, applied_now) = (self.journal.written_bytes(), self.group.applied_index());
            if applied_now != seen {
                (seen, changed, tidy) = (applied_now, Instant::now(), false);
            }
            let quiet = changed.elapsed() >= settings.quiet;
            if applied_now == applied {
                // The tick after the checkpoint, when the log has let go of what that one has.
                // A copy of the table takes from what is left of the disk, for a while.
                if quiet && !tidy && at.elapsed() >= TICK && !self.room.is_short() {
                    self.tidy().await;
                    tidy = true;
                }
                continue;
            }
            let due = written_now - written >= settings.checkpoint_bytes || at.elapsed() >= settings.checkpoint_interval;
            if !due && !quiet {
                continue;
            }
            if let Err(error) = self.group.begin_checkpoint().await {
                tracing::error!(%error, "no more checkpoints: the group has ended");
                return;
            }
            (written, applied, at) = (written_now, applied_now, Instant::now());
        }
    }

    /// Gives back what was needed only while there was more to do.
    async fn tidy(&self) {
        let (journal, checkpoints) = (self.journal.clone(), self.checkpoints.clone());
        let work = move || {
            journal.trim();
            checkpoints.shrink()
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(Ok(0)) => {}
            Ok(Ok(bytes)) => tracing::info!(bytes, "the metadata table was made smaller"),
            Ok(Err(error)) => tracing::warn!(%error, "the metadata table could not be made smaller"),
            Err(error) => tracing::error!(%error, "making the metadata table smaller failed"),
        }
    }
}

/// Answered on the caller's thread: a bounded handful of point reads.
fn is_quick(query: &Query) -> bool {
    match query {
        Query::Root(RootQuery::Tenants | RootQuery::Keys(_) | RootQuery::Buckets(_)) => false,
        Query::Root(_) => true,
        Query::Namespace(NamespaceQuery::Head { .. } | NamespaceQuery::Open { .. } | NamespaceQuery::Upload { .. }) => true,
        Query::Namespace(NamespaceQuery::Manifests(versions)) => versions.len() == 1,
        Query::Namespace(_) => false,
        Query::Chunk(ChunkQuery::Records(chunks)) => chunks.len() <= INLINE_RECORDS,
        Query::Chunk(ChunkQuery::Totals) => true,
        Query::Chunk(_) | Query::Copy(_) => false,
    }
}

/// The metric's label.
fn kind(query: &Query) -> &'static str {
    match query {
        Query::Root(_) => "root",
        Query::Namespace(query) => match query {
            NamespaceQuery::Head { .. } => "head",
            NamespaceQuery::Open { .. } => "open",
            NamespaceQuery::Manifests(_) => "manifests",
            NamespaceQuery::List(_) => "list",
            NamespaceQuery::Upload { .. } | NamespaceQuery::Parts { .. } | NamespaceQuery::Uploads(_) => "uploads",
            NamespaceQuery::Outbox { .. } | NamespaceQuery::Intents { .. } => "collector",
        },
        Query::Chunk(ChunkQuery::Records(_)) => "records",
        Query::Chunk(_) => "collector",
        Query::Copy(_) => "copy",
    }
}

fn take<T>(slot: &Mutex<Option<T>>) -> Option<T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

#[cfg(test)]
mod tests;
