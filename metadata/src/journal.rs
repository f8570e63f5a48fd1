//! The one log of a metadata process, shared by all its groups: what makes a proposal durable.
//!
//! ```text
//! append -> memory (readable at once) -> writer thread: one frame, one write, one sync for all that waits -> callbacks
//! ```
//! One file a segment, filled with zeros beforehand or used again, so that a sync writes data and no file-system metadata.
//! In memory: where each entry lies, and the newest entries themselves up to a bound; older ones are read back.
//! Invariants: a callback hears Ok only after its record was synced; after one failed write or sync nothing is ever
//! acknowledged again; recovery cuts at most the one frame that was not synced, and refuses a log that is damaged elsewhere;
//! a segment goes only when every group purged what it holds.
//! Not here: what entries mean, elections (`group.rs`), when to purge (`checkpoint.rs` says what is safe).

pub mod file;
mod frame;
mod index;
mod recover;
mod segment;
mod writer;

use crate::metric;
use bytes::Bytes;
use index::Index;
use segment::Segments;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::mpsc::UnboundedSender;

pub use spine::id::GroupId;

/// Raft's identity of an entry: whose term, and which place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    pub term: u64,
    pub node: u64,
    pub index: u64,
}

const SEGMENT_MIN_BYTES: u64 = 64 << 10;
/// Recovery reads a segment whole.
const SEGMENT_MAX_BYTES: u64 = 1 << 30;

#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes of one segment file, 64 KiB to 1 GiB; default 16 MiB. An entry has at most half of it.
    /// Larger: fewer file creations. Smaller: less disk, of which two files are always taken; sooner free.
    pub segment_bytes: u64,
    /// Newest entries kept in memory, in bytes, shared evenly by the groups; default 32 MiB. Smaller: followers read from the file.
    pub cache_bytes: usize,
    /// Most bytes of entries one write carries; default 16 MiB.
    pub frame_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { segment_bytes: 16 << 20, cache_bytes: 32 << 20, frame_bytes: 16 << 20 }
    }
}

impl Settings {
    fn cache_share(&self, groups: usize) -> usize {
        self.cache_bytes / groups.max(1)
    }
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    #[error("log storage failed. path=`{path}`, reason=`{source}`")]
    Io { path: PathBuf, source: Arc<io::Error> },
    /// Not a torn end: synced frames follow. Applying what is left would lose acknowledged writes.
    #[error("the log is damaged and will not be used. segment=`{path}`, offset=`{offset}`, reason=`{reason}`")]
    Damaged { path: PathBuf, offset: u64, reason: String },
    /// A write or a sync failed earlier in this process.
    #[error("the log stopped after a failed write. reason=`{reason}`")]
    Stopped { reason: String },
    #[error("entry is too large for a segment. bytes=`{bytes}`")]
    TooLarge { bytes: usize },
}

impl JournalError {
    fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source: Arc::new(source) }
    }
}

/// Hears once whether the record is on disk.
pub type Done = Box<dyn FnOnce(Result<(), JournalError>) + Send>;

pub struct Journal {
    settings: Settings,
    segments: Arc<Segments>,
    groups: Mutex<HashMap<GroupId, Arc<Mutex<Index>>>>,
    orders: Mutex<Option<UnboundedSender<writer::Order>>>,
    /// Committed positions, to ride along with the next frame: they hurry no sync.
    committed: Mutex<HashMap<GroupId, Position>>,
    stopped: AtomicBool,
    why: Mutex<String>,
    /// Bytes of frames written since the process started.
    written: AtomicU64,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Journal {
    /// Opens the log in `dir`, which it creates; recovers what is there and starts the writer.
    ///
    /// # Errors
    /// The disk, and [`JournalError::Damaged`] where the log is wrong elsewhere than at its torn end.
    pub fn open(dir: &Path, mut settings: Settings) -> Result<Arc<Self>, JournalError> {
        settings.segment_bytes = settings.segment_bytes.clamp(SEGMENT_MIN_BYTES, SEGMENT_MAX_BYTES);
        // A frame and the entry that fills it up have to fit into one segment.
        settings.frame_bytes = settings.frame_bytes.min(usize::try_from(settings.segment_bytes / 4).unwrap_or(usize::MAX));
        fs::create_dir_all(dir).map_err(|e| JournalError::io(dir, e))?;
        let recovered = recover::recover(dir, &settings)?;
        let segments = Segments::start(dir, settings.segment_bytes, recovered.segments, recovered.spare)?;
        let purged = recovered.groups.iter().filter_map(|(group, index)| Some((*group, index.purged()?.index))).collect();
        let groups = recovered.groups.into_iter().map(|(group, index)| (group, Arc::new(Mutex::new(index)))).collect();
        // Not a channel that spins before it sleeps: one frame is in work for milliseconds.
        let (sender, orders) = tokio::sync::mpsc::unbounded_channel();
        let journal = Arc::new(Self {
            settings,
            segments,
            groups: Mutex::new(groups),
            orders: Mutex::new(Some(sender)),
            committed: Mutex::default(),
            stopped: AtomicBool::new(false),
            why: Mutex::default(),
            written: AtomicU64::new(0),
            writer: Mutex::new(None),
        });
        let writer =
            writer::Writer::new(Arc::downgrade(&journal), journal.segments.clone(), journal.settings.clone(), recovered.tail, purged);
        let thread = std::thread::Builder::new()
            .name("metadata-log".into())
            .spawn(move || writer.run(orders))
            .map_err(|e| JournalError::io(dir, e))?;
        *lock(&journal.writer) = Some(thread);
        Ok(journal)
    }

    pub fn group(self: &Arc<Self>, group: GroupId) -> GroupLog {
        let index = lock(&self.groups).entry(group).or_default().clone();
        GroupLog { journal: self.clone(), group, index }
    }

    /// Bytes of frames written since the process started.
    pub fn written_bytes(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Bytes of the log's files, and the groups whose entries keep the oldest of them.
    pub fn pinned(&self) -> (u64, Vec<GroupId>) {
        let groups = self.all();
        let purged: HashMap<GroupId, u64> =
            groups.iter().filter_map(|(group, index)| Some((*group, lock(index).purged()?.index))).collect();
        self.segments.pinned(|group| purged.get(&group).copied())
    }

    fn cache_share(&self) -> usize {
        self.settings.cache_share(lock(&self.groups).len())
    }

    /// `Some` once a write or sync failed.
    pub fn failure(&self) -> Option<JournalError> {
        self.stopped.load(Ordering::Acquire).then(|| JournalError::Stopped { reason: lock(&self.why).clone() })
    }

    /// Removes the files that are kept to be used again: worth it once nothing has been written for a while.
    pub fn trim(&self) {
        self.segments.trim();
    }

    /// Writes what is still waiting and ends the writer; blocks for it. Appends after this fail.
    pub fn close(&self) {
        drop(lock(&self.orders).take());
        let thread = lock(&self.writer).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the log's writer panicked");
        }
        self.segments.close();
    }

    #[cfg(test)]
    pub fn fail_for_test(&self) {
        self.stop("a test said so".into());
    }

    fn stop(&self, reason: String) {
        tracing::error!(reason, "the log failed: nothing more is acknowledged");
        *lock(&self.why) = reason;
        self.stopped.store(true, Ordering::Release);
    }

    fn send(&self, order: writer::Order) {
        if let Some(failure) = self.failure() {
            return order.fail(&failure);
        }
        let sender = lock(&self.orders).clone();
        let refused = match sender {
            Some(sender) => sender.send(order).err().map(|e| e.0),
            None => Some(order),
        };
        if let Some(order) = refused {
            order.fail(&JournalError::Stopped { reason: "the log is closed".into() });
        }
    }

    fn index(&self, group: GroupId) -> Option<Arc<Mutex<Index>>> {
        lock(&self.groups).get(&group).cloned()
    }

    fn all(&self) -> Vec<(GroupId, Arc<Mutex<Index>>)> {
        lock(&self.groups).iter().map(|(group, index)| (*group, index.clone())).collect()
    }

    fn wrote(&self, entries: u64, bytes: u64) {
        self.written.fetch_add(bytes, Ordering::Relaxed);
        metric::LOG_ENTRIES.inc_by(entries);
        metric::LOG_BYTES.inc_by(bytes);
    }
}

/// What a group finds of itself when it starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupState {
    pub vote: Option<Bytes>,
    pub committed: Option<Position>,
    pub purged: Option<Position>,
    /// The last entry's, or else `purged`.
    pub last: Option<Position>,
}

/// One group's view of the log.
#[derive(Clone)]
pub struct GroupLog {
    journal: Arc<Journal>,
    group: GroupId,
    index: Arc<Mutex<Index>>,
}

impl GroupLog {
    pub fn state(&self) -> GroupState {
        lock(&self.index).state()
    }

    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// Appends entries that follow the last one. They can be read when this returns; `done` hears when they are on disk.
    ///
    /// # Errors
    /// [`JournalError::TooLarge`]; `done` then heard it, too.
    pub fn append(&self, entries: Vec<(Position, Bytes)>, done: Done) -> Result<(), JournalError> {
        if let Some((_, bytes)) = entries.iter().find(|(_, bytes)| bytes.len() as u64 > self.journal.settings.segment_bytes / 2) {
            let error = JournalError::TooLarge { bytes: bytes.len() };
            done(Err(error.clone()));
            return Err(error);
        }
        {
            let mut index = lock(&self.index);
            for (position, bytes) in &entries {
                index.append(*position, bytes.clone());
            }
        }
        // A failed part stops the log, so that the last one's outcome is everybody's.
        let mut part = Vec::new();
        let mut bytes = 0;
        for entry in entries {
            let len = frame::RECORD_HEAD + entry.1.len();
            if bytes + len > self.journal.settings.frame_bytes && !part.is_empty() {
                self.journal.send(writer::Order::Append { group: self.group, entries: std::mem::take(&mut part), done: None });
                bytes = 0;
            }
            bytes += len;
            part.push(entry);
        }
        self.journal.send(writer::Order::Append { group: self.group, entries: part, done: Some(done) });
        Ok(())
    }

    /// Replaces the vote; `done` hears when it is on disk.
    pub fn vote(&self, vote: Bytes, done: Done) {
        lock(&self.index).vote = Some(vote.clone());
        self.journal.send(writer::Order::Vote { group: self.group, vote, done });
    }

    /// Forgets the entries from `from` on.
    pub fn truncate(&self, from: u64) {
        lock(&self.index).truncate(from);
        self.journal.send(writer::Order::Truncate { group: self.group, from });
    }

    /// Forgets the entries up to `upto`, which a checkpoint has; their segments go once no group needs them.
    pub fn purge(&self, upto: Position) {
        lock(&self.index).purge(upto);
        self.journal.send(writer::Order::Purge { group: self.group, upto });
    }

    /// Forgets everything of the group but its vote; `done` hears when that is on disk. Nothing else of it may be on its way.
    pub fn forget(&self, done: Done) {
        lock(&self.journal.committed).remove(&self.group);
        self.journal.send(writer::Order::Forget { group: self.group, done });
    }

    /// Notes that entries up to `upto` are committed. Reaches the disk with the next write.
    pub fn committed(&self, upto: Position) {
        lock(&self.index).committed = Some(upto);
        lock(&self.journal.committed).insert(self.group, upto);
    }

    /// Entries of `range`, as many as there are, in order; stops early once `max_bytes` are reached, but never before the first.
    ///
    /// # Errors
    /// The disk, or bytes on it that are not what was written.
    pub fn read(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<(Position, Bytes)>, JournalError> {
        let found = lock(&self.index).find(range, max_bytes);
        let mut out = Vec::with_capacity(found.len());
        for (position, held) in found {
            let bytes = match held {
                index::Held::Here(bytes) => bytes,
                index::Held::At(place) => match self.segments().read(self.group, position, place) {
                    Ok(bytes) => bytes,
                    // Purged between the look-up and the read: its segment may be another one already.
                    Err(_) if lock(&self.index).is_purged(position.index) => continue,
                    Err(e) => return Err(e),
                },
            };
            out.push((position, bytes));
        }
        Ok(out)
    }

    fn segments(&self) -> &Segments {
        &self.journal.segments
    }
}

/// What these locks guard is whole at every moment, also after a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
