//! A metadata node: one log, and over it any number of groups with a table each.
//!
//! Folder: `owner.lock`, `log/` (segments of all groups), `table/` (the root group's: LMDB and `checkpoint`), `groups/` (the others'),
//! `member` (of a cluster's: its id).
//! Invariant: one process at a time owns the folder.
//! Not here: what commands and queries mean (`machine.rs`), one group's two calls (`hosted.rs`), making groups (`groups.rs`), what all of
//! them need now and then (`watch.rs`), what a member of a cluster does besides (`member.rs`).

mod alone;
mod copies;
mod flight;
mod folder;
mod formats;
mod groups;
mod hosted;
mod list;
mod member;
mod watch;

pub use folder::Folder;
pub use hosted::Hosted;

use crate::checkpoint::CheckpointError;
use crate::cluster::{Begin, Membership, Ways};
use crate::group::{self, Appliers, GroupError, Means};
use crate::heat::Heat;
use crate::journal::{self, GroupId, Journal, JournalError};
use crate::{metric, propose, room};
use groups::{Groups, ROOT};
use list::Found;
use spine::id::MemberId;
use spine::wire::format::{Format, NEWEST};
use spine::wire::{Answer, Batch, Metadata, MetadataError, Query, Reply};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// Checkpoints at once: each syncs a file.
const TAKES: usize = 2;

#[derive(Clone, Debug)]
pub struct Settings {
    /// Folder of the log and the tables; created.
    pub dir: PathBuf,
    /// Most bytes the root group's table can grow to; default 256 GiB. Only address space is taken. Never changes while the process runs.
    pub map_bytes: u64,
    /// The same of every other group's; default 32 GiB: as many groups as a process may have fit into an address space.
    pub group_map_bytes: u64,
    /// Writes are refused once the map or the file system has less than this left; default 192 MiB (at most an eighth of the map).
    pub reserve_bytes: u64,
    /// A checkpoint is taken after this much log of each group; default 64 MiB. Larger: longer replay after a kill, more disk.
    pub checkpoint_bytes: u64,
    /// And after this long if anything changed; default 30 s.
    pub checkpoint_interval: Duration,
    /// And once nothing was written for this long; default 5 s. Then the log's spare files go, and the table's free pages if
    /// they are most of it. Smaller: more often while writes come now and then.
    pub quiet: Duration,
    /// Listings and scans at once; default 8. More wait.
    pub scans: usize,
    /// While the log is longer than this, groups keep nothing in it behind their checkpoints; default 256 MiB. Larger: more disk; smaller:
    /// members that were away need snapshots sooner.
    pub log_bytes: u64,
    pub journal: journal::Settings,
    pub propose: propose::Settings,
    /// The newest format that this process takes part in; default the newest that this version understands, and never more. Smaller: it is to
    /// the others as a version that understands no more, which is there for tests of upgrades.
    pub newest: Format,
    /// Whether formats are raised here; default true. Not where a folder is only looked into: an older version could not open it afterwards.
    pub raises: bool,
    /// This process among others; default none: it is alone.
    pub membership: Option<Membership>,
}

impl Settings {
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            map_bytes: 256 << 30,
            group_map_bytes: 32 << 30,
            reserve_bytes: 192 << 20,
            checkpoint_bytes: 64 << 20,
            checkpoint_interval: Duration::from_secs(30),
            quiet: Duration::from_secs(5),
            scans: 8,
            log_bytes: 256 << 20,
            journal: journal::Settings::default(),
            propose: propose::Settings::default(),
            newest: NEWEST,
            raises: true,
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
    /// Opened like this it would fail soon, and would have been counted on until then.
    #[error(
        "the file system of the metadata folder has less room than the log's next file takes. path=`{path}`, left=`{left}`, needed=`{needed}`. Make room there, several hundred MiB at best, and start it again."
    )]
    NoRoom { path: PathBuf, left: u64, needed: u64 },
    #[error("the member file does not read. path=`{path}`")]
    Member { path: PathBuf },
    #[error("the list of groups does not read. path=`{path}`")]
    List { path: PathBuf },
    #[error(
        "the metadata folder was written by a newer version of Breakwater. path=`{path}`, format=`{format}`, understood=`{newest}`. Start that version; there is no way back from it."
    )]
    Newer { path: PathBuf, format: Format, newest: Format },
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Group(#[from] GroupError),
}

pub struct MetadataNode {
    groups: Arc<Groups>,
    root: Arc<Hosted>,
    watch: Mutex<Option<JoinHandle<()>>>,
    /// Signs of life; `None`: alone.
    beat: Mutex<Option<JoinHandle<()>>>,
    formats: Mutex<Option<JoinHandle<()>>>,
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
        let Files { owner, member, journal, folder } = blocking.map_err(|e| GroupError::Start(e.to_string()))??;
        let membership = settings.membership.clone();
        let means = Means {
            id: member,
            folder: Arc::new(folder),
            ways: membership.as_ref().map(|membership| Ways::new(membership.connect.clone())),
            membership: membership.clone(),
            journal,
            appliers: Appliers::start().map_err(|e| GroupError::Start(e.to_string()))?,
            takes: Arc::new(Semaphore::new(TAKES)),
            heat: membership.is_some().then(|| Arc::new(Heat::new())),
        };
        let groups = Groups::new(means, settings);
        // Before the first is open: a group that is led here must not wait for the last one to say that it lives.
        let beat = membership.as_ref().map(|membership| tokio::spawn(watch::beat(groups.clone(), membership.beat.every)));
        let beat = Mutex::new(beat);
        let founds = membership.is_none_or(|membership| membership.begin == Begin::Found);
        let root = match groups.start(founds).await {
            Ok(root) => root,
            Err(error) => {
                cease(&beat).await;
                // Else it would go on making files ready in a folder that is nobody's any more.
                let journal = groups.means.journal.clone();
                let _ = tokio::task::spawn_blocking(move || journal.close()).await;
                return Err(error);
            }
        };
        let watch = tokio::spawn(watch::run(groups.clone()));
        let raises = groups.settings.raises;
        // Who is alone has nobody to wait for: what is proposed first may be new.
        if founds && raises {
            formats::look(&groups).await;
        }
        let formats = Mutex::new(raises.then(|| tokio::spawn(formats::run(groups.clone()))));
        let (applied, count) = (root.group.applied_index(), groups.all().len());
        tracing::info!(applied, groups = count, seconds = begun.elapsed().as_secs_f64(), "metadata node is open");
        Ok(Arc::new(Self { groups, root, watch: Mutex::new(Some(watch)), beat, formats, _owner: owner }))
    }

    /// A group that this process has a replica of.
    pub fn group(&self, group: GroupId) -> Option<Arc<Hosted>> {
        self.groups.get(group)
    }

    /// Why this process keeps nothing any more: its log or a table could not be written. So it stays until the folder is opened anew.
    pub fn failure(&self) -> Option<String> {
        let log = self.groups.means.journal.failure().map(|error| error.to_string());
        log.or_else(|| self.groups.all().iter().find_map(|hosted| hosted.group.failure()))
    }

    /// Returns within a second after there is a [`Self::failure`].
    pub async fn failed(&self) -> String {
        loop {
            if let Some(why) = self.failure() {
                return why;
            }
            tokio::time::sleep(watch::TICK).await;
        }
    }

    /// Finishes what was proposed, refuses the rest, takes checkpoints, and lets go of the disk. Idempotent.
    pub async fn shutdown(&self) {
        self.end().await;
        if self.groups.means.journal.failure().is_some() {
            return;
        }
        for hosted in self.groups.all() {
            let checkpoints = hosted.checkpoints.clone();
            match tokio::task::spawn_blocking(move || checkpoints.take()).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::error!(%error, "the last checkpoint failed; the next start replays the log"),
                Err(error) => tracing::error!(%error, "the last checkpoint's task failed; the next start replays the log"),
            }
        }
    }

    /// What shutdown does short of the checkpoints.
    async fn end(&self) {
        cease(&self.watch).await;
        cease(&self.formats).await;
        self.groups.end().await;
        cease(&self.beat).await;
        let journal = self.groups.means.journal.clone();
        let _ = tokio::task::spawn_blocking(move || journal.close()).await;
    }

    /// As after a kill: the folder holds whatever it holds.
    #[cfg(test)]
    pub(crate) async fn kill(&self) {
        self.end().await;
    }

    #[cfg(test)]
    pub(crate) fn log_bytes(&self) -> u64 {
        self.groups.means.journal.pinned().0
    }

    /// The root group's tables, for comparing.
    #[cfg(test)]
    pub(crate) fn checkpoints(&self) -> &Arc<crate::checkpoint::Checkpoints> {
        &self.root.checkpoints
    }
}

/// The root group's.
#[async_trait::async_trait]
impl Metadata for MetadataNode {
    async fn propose(&self, batch: Batch) -> Result<Vec<Reply>, MetadataError> {
        self.root.propose(batch).await
    }

    async fn query(&self, query: Query) -> Result<Answer, MetadataError> {
        self.root.query(query).await
    }
}

struct Files {
    owner: File,
    member: MemberId,
    journal: Arc<Journal>,
    folder: Folder,
}

fn open_files(settings: &Settings) -> Result<Files, OpenError> {
    let (log, groups) = (settings.dir.join("log"), settings.dir.join("groups"));
    for dir in [&log, &groups] {
        fs::create_dir_all(dir).map_err(|source| OpenError::Folder { path: dir.clone(), source })?;
    }
    journal::file::sync_dir(&settings.dir).map_err(|source| OpenError::Folder { path: settings.dir.clone(), source })?;
    let owner = own(&settings.dir)?;
    let path = settings.dir.join(list::FILE);
    let newest = settings.newest.min(NEWEST);
    let folder = match list::load(&settings.dir, newest) {
        Ok(Found::Listed(listed)) => Folder::new(&settings.dir, newest, listed),
        Ok(Found::Newer(format)) => return Err(OpenError::Newer { path: settings.dir.clone(), format, newest }),
        Ok(Found::Unreadable) => return Err(OpenError::List { path }),
        Err(source) => return Err(OpenError::Folder { path, source }),
    };
    // Who is alone has to start on a full disk: deleting is what helps then. Of several, the others go on without this one.
    let needed = settings.journal.segment_bytes;
    let left = room::available(&log).map_err(|source| OpenError::Folder { path: log.clone(), source })?;
    if settings.membership.is_some() && left < needed {
        return Err(OpenError::NoRoom { path: settings.dir.clone(), left, needed });
    }
    let journal = Journal::open(&log, settings.journal.clone())?;
    let member = match &settings.membership {
        None if member::exists(&settings.dir)? => return Err(OpenError::Clustered { path: settings.dir.clone() }),
        None => group::ALONE,
        Some(_) => member::id_of(&settings.dir, journal.group(ROOT).state() != journal::GroupState::default())?,
    };
    Ok(Files { owner, member, journal, folder })
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

async fn cease(task: &Mutex<Option<JoinHandle<()>>>) {
    let task = task.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(task) = task {
        task.abort();
        let _ = task.await;
    }
}

#[cfg(test)]
mod tests;
