//! A disk while it serves: everything that its threads and its callers share, and the read path.
//!
//! Invariant: once lost, a `Core` stays lost; what comes back after that is a new one, opened from the disk
//! (`disk.rs`). Only when the last handle is gone are the lock and the index released.
//! Not here: changing anything (`writer.rs`).

use crate::aligned;
use crate::catalog::Catalog;
use crate::entry::Standing;
use crate::identity::{DiskLock, Identity};
use crate::index::IndexError;
use crate::metric::DiskMetrics;
use crate::record::{Body, HEADER, Location, Record, SegmentId};
use crate::scan;
use crate::scrub::Board;
use crate::segment::Segments;
use crate::settings::Settings;
use crate::space::Space;
use bytes::Bytes;
use spine::id::UnixMs;
use spine::wire::chunk::ShardName;
use spine::wire::shard::{NodeError, ShardHeader};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Shards from this size are read past the page cache, which a backup would only flush: a fifth of the CPU. Smaller ones
/// are read through it, since the few that are asked for again make up for it.
const DIRECT_FROM: u32 = 64 << 10;

/// Why a disk is not served any more, and what has to be done before it may be again.
#[derive(Clone, Debug)]
pub struct Loss {
    pub reason: String,
    /// A failed write left bytes behind this offset that must not count, whatever the page cache says.
    pub abandoned: Option<(SegmentId, u64)>,
    /// The index does not read: make it anew.
    pub reindex: bool,
}

pub struct Core {
    pub settings: Settings,
    pub identity: Identity,
    pub catalog: Catalog,
    pub segments: Segments,
    pub space: Space,
    pub metrics: Arc<DiskMetrics>,
    pub signal: Arc<Signal>,
    pub stopping: AtomicBool,
    pub scrub: Board,
    loss: OnceLock<Loss>,
    /// Last, so that it is released after everything else is closed.
    _lock: DiskLock,
}

/// What open found, for a new `Core`.
pub struct Parts {
    pub settings: Settings,
    pub identity: Identity,
    pub catalog: Catalog,
    pub segments: Segments,
    pub space: Space,
    pub lock: DiskLock,
}

/// A live or trashed shard as it was read.
pub enum Found {
    Shard(ShardHeader, Bytes),
    /// Its bytes are not what was written there.
    Wrong {
        at: Location,
        what: String,
    },
}

impl Core {
    pub fn new(parts: Parts, metrics: Arc<DiskMetrics>, signal: Arc<Signal>) -> Core {
        let Parts { settings, identity, catalog, segments, space, lock } = parts;
        let (stopping, loss) = (AtomicBool::new(false), OnceLock::new());
        Core { settings, identity, catalog, segments, space, metrics, signal, stopping, scrub: Board::default(), loss, _lock: lock }
    }

    pub fn loss(&self) -> Option<&Loss> {
        self.loss.get()
    }

    /// Ends this life of the disk. Only the first reason counts.
    pub fn lose(&self, loss: Loss) {
        if self.loss.set(loss).is_ok() {
            self.signal.raise();
        }
    }

    pub fn lose_for(&self, reason: impl Into<String>) {
        self.lose(Loss { reason: reason.into(), abandoned: None, reindex: false });
    }

    /// Err once the disk is lost.
    pub fn alive(&self) -> Result<(), NodeError> {
        self.loss.get().map_or(Ok(()), |loss| Err(NodeError::Unavailable { reason: loss.reason.clone() }))
    }

    /// Err once the disk is lost or being closed: for new calls. What is queued is still done while closing.
    pub fn serving(&self) -> Result<(), NodeError> {
        if self.stopping.load(Relaxed) {
            return Err(NodeError::Unavailable { reason: "shutting down".to_string() });
        }
        self.alive()
    }

    /// Looks whether the disk is still where it was, and ends this life if not.
    pub fn check_present(&self) -> Result<(), NodeError> {
        if !self.identity.is_present() || !self.segments.is_present() {
            self.lose_for("the disk's directory is gone, emptied or another one");
        }
        self.alive()
    }

    /// What an index error means for the disk and for the caller.
    pub fn index_failed(&self, error: IndexError) -> NodeError {
        let reason = error.to_string();
        match error {
            IndexError::Full { .. } => return NodeError::Full { free: 0 },
            IndexError::Corrupt { .. } => self.lose(Loss { reason: reason.clone(), abandoned: None, reindex: true }),
            IndexError::Failed { .. } => self.lose_for(reason.clone()),
        }
        NodeError::Unavailable { reason }
    }

    pub fn used(&self) -> u64 {
        self.segments.bytes()
    }

    pub fn free(&self) -> u64 {
        self.space.free(self.used())
    }

    pub fn standing(&self, name: &ShardName) -> Result<Standing, NodeError> {
        let entry = self.catalog.lookup(name).map_err(|e| self.index_failed(e))?;
        Ok(entry.map_or(Standing::Absent, |entry| entry.standing()))
    }

    /// Reads a live shard. Blocks.
    ///
    /// # Errors
    /// `NotFound` if there is none or it is in the trash, `Damaged` if it was set aside, `Unavailable`.
    pub fn read(&self, name: &ShardName) -> Result<Found, NodeError> {
        self.serving()?;
        // Compaction may move the shard between the look-up and the read: then the look-up is simply out of date.
        let mut before = None;
        loop {
            let at = match self.standing(name)? {
                Standing::Absent | Standing::Trashed(..) => return Err(NodeError::NotFound),
                Standing::Damaged(_) => return Err(NodeError::Damaged { what: "set aside before".to_string() }),
                Standing::Live(put) => put.at,
            };
            let found = self.read_at(name, at)?;
            let moved = before != Some(at) && matches!(found, Found::Wrong { .. });
            if !moved {
                return Ok(found);
            }
            before = Some(at);
        }
    }

    /// Reads the put record of `name` at `at`.
    pub fn read_at(&self, name: &ShardName, at: Location) -> Result<Found, NodeError> {
        let len = HEADER + at.len as usize;
        let read = match at.len >= DIRECT_FROM {
            true => self.segments.direct_reader(at.segment).and_then(|file| aligned::read_blocks(&file, at.offset, len)),
            false => self.segments.reader(at.segment).and_then(|file| scan::read_at(&file, at.offset, len)),
        };
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(e) => {
                self.check_present()?;
                if e.kind() == io::ErrorKind::NotFound && self.segments.size(at.segment).is_some() {
                    self.lose_for(format!("segment {} is gone", at.segment));
                    self.alive()?;
                }
                // A bad sector, or a file that compaction has just deleted. Anything else says nothing about the shard.
                let about_it = e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::EIO);
                return match about_it {
                    true => Ok(Found::Wrong { at, what: format!("read failed: {e}") }),
                    false => Err(NodeError::Unavailable { reason: format!("read failed: {e}") }),
                };
            }
        };
        let wrong = |what: &str| Found::Wrong { at, what: what.to_string() };
        let Some(record) = Record::decode(&bytes, at.segment, at.offset) else {
            self.check_present()?;
            return Ok(wrong("header"));
        };
        Ok(match record.body {
            Body::Put(header) if header.name == *name && header.len == at.len && bytes.len() == HEADER + at.len as usize => {
                Found::Shard(header, bytes.slice(HEADER..))
            }
            Body::Put(header) if header.name == *name => wrong("length"),
            _ => wrong("name"),
        })
    }

    /// Only the header of a put record, as far as it is right.
    pub fn read_header(&self, name: &ShardName, at: Location) -> io::Result<Option<ShardHeader>> {
        let file = self.segments.reader(at.segment)?;
        let bytes = scan::read_at(&file, at.offset, HEADER)?;
        Ok(match Record::decode(&bytes, at.segment, at.offset).map(|record| record.body) {
            Some(Body::Put(header)) if header.name == *name => Some(header),
            _ => None,
        })
    }
}

/// The node's clock: for how long things are in the trash, and nothing else.
pub fn now() -> UnixMs {
    UnixMs(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)))
}

/// Wakes the watcher before its time.
#[derive(Default)]
pub struct Signal {
    raised: Mutex<bool>,
    changed: Condvar,
}

impl Signal {
    pub fn raise(&self) {
        *self.raised.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Returns when raised, or after `time`.
    pub fn wait(&self, time: Duration) {
        let raised = self.raised.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(raised, time, |raised| !*raised);
        let (mut raised, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *raised = false;
    }
}
