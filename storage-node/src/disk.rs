//! One disk as one storage node, through all the lives of its directory.
//!
//! ```text
//! open -> serving -> (directory gone, write or sync failed, index wrong) -> lost -> (same identity is back) -> serving
//!                                                                            \-> adopt(): a new identity
//! ```
//! Invariants: a lost disk answers `Unavailable` and costs nothing but a look every `seek_every`; a directory that is empty
//! or another's is never taken over by itself; a life ends wholly (threads, files, lock) before the next one begins.
//! Not here: what a life consists of (`mount.rs`, `core.rs`).

use crate::compact::Compacted;
use crate::core::{Core, Found, Loss, Signal};
use crate::entry::Standing;
use crate::metric::DiskMetrics;
use crate::mount::{Mount, queue_permits};
use crate::op::Op;
use crate::record::HEADER;
use crate::recover::{self, How};
use crate::scrub;
use crate::settings::{OpenError, Settings};
use bytes::Bytes;
use spine::audit::{self, Answered, Question};
use spine::id::NodeId;
use spine::limit::{AUDIT_QUESTIONS, CALL_HEADERS, SEALED_MAX_BYTES};
use spine::wire::chunk::ShardName;
use spine::wire::shard::{Held, NodeError, NodeState, NodeStatus, ScrubReport, ShardHeader, StorageNode};
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::thread::JoinHandle;
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// Below this a disk calls itself full, though a small shard might still fit.
const FULL_BELOW: u64 = 1 << 20;
/// Most names of one `list`, `has` or `trash`, whatever is asked.
const NAMES: usize = 100_000;
/// Entries looked at in one step of a listing.
const PAGE: usize = 4_096;

/// One disk, one node.
pub struct Disk {
    shared: Arc<Shared>,
    watcher: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    settings: Settings,
    metrics: Arc<DiskMetrics>,
    signal: Arc<Signal>,
    stopping: AtomicBool,
    slot: RwLock<Slot>,
    /// One opening at a time.
    opening: Mutex<Before>,
}

struct Slot {
    node: NodeId,
    mount: Option<Arc<Mount>>,
    /// Why there is no mount.
    reason: String,
    capacity: u64,
}

/// What the life before has to have left behind.
#[derive(Default)]
struct Before {
    core: Weak<Core>,
    loss: Option<Loss>,
    told: String,
}

impl Disk {
    /// Opens the disk and starts serving it. Blocks while what a crash left is read; needs no runtime.
    ///
    /// # Errors
    /// A disk whose identity is known ([`Settings::expected`], or a `node.json` without segments) opens as lost instead,
    /// unless another process or version uses it.
    pub fn open(settings: Settings) -> Result<Arc<Disk>, OpenError> {
        let metrics = Arc::new(DiskMetrics::new(&settings.label));
        let signal = Arc::new(Signal::default());
        let opened = recover::open(&settings, &How { adopt: settings.adopt_empty && settings.expected.is_none(), ..How::default() });
        let slot = match (opened, settings.expected) {
            (Ok(opened), _) => {
                let node = opened.parts.identity.node;
                let capacity = opened.parts.space.capacity();
                let mount = Mount::start(opened, metrics.clone(), signal.clone())?;
                Slot { node, mount: Some(Arc::new(mount)), reason: String::new(), capacity }
            }
            (Err(e), expected) => {
                let known = match &e {
                    OpenError::NoSegments { node, .. } => Some(expected.unwrap_or(*node)),
                    OpenError::InUse { .. } | OpenError::Format { .. } => None,
                    _ => expected,
                };
                let Some(node) = known else { return Err(e) };
                tracing::error!(disk = %settings.label, reason = %e, "the disk is lost");
                Slot { node, mount: None, reason: e.to_string(), capacity: 0 }
            }
        };
        metrics.serving.set(i64::from(slot.mount.is_some()));
        let shared = Arc::new(Shared {
            settings,
            metrics,
            signal: signal.clone(),
            stopping: AtomicBool::new(false),
            slot: RwLock::new(slot),
            opening: Mutex::default(),
        });
        let weak = Arc::downgrade(&shared);
        let name = format!("disk{}-watch", shared.settings.label);
        let (watch_every, seek_every) = (shared.settings.watch_every, shared.settings.seek_every);
        let watch = move || {
            let mut pause = watch_every;
            loop {
                signal.wait(pause);
                let Some(shared) = weak.upgrade() else { return };
                if shared.stopping.load(Relaxed) {
                    return;
                }
                pause = if shared.watch() { watch_every } else { seek_every };
            }
        };
        let watcher = std::thread::Builder::new().name(name).spawn(watch).map_err(OpenError::io("start a thread"))?;
        Ok(Arc::new(Disk { shared, watcher: Mutex::new(Some(watcher)) }))
    }

    /// Finishes what was accepted, makes it durable and closes the disk. Every later call answers `Unavailable`.
    pub async fn shutdown(&self) {
        let shared = self.shared.clone();
        let watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner).take();
        let ended = tokio::task::spawn_blocking(move || {
            shared.end();
            if let Some(watcher) = watcher {
                // It panics only with the process.
                let _ = watcher.join();
            }
        });
        if let Err(e) = ended.await {
            tracing::error!(reason = %e, "closing a disk failed");
        }
    }

    /// Serves the directory of a lost disk under whatever identity it has, or under a new one if it is empty: what the
    /// old one held is given up. Blocks.
    ///
    /// # Errors
    /// [`OpenError::InUse`] while the disk is being served.
    pub fn adopt(&self) -> Result<NodeId, OpenError> {
        self.shared.reopen(true)
    }

    /// Compacts now instead of at the next round.
    pub async fn compact(&self) -> Result<Compacted, NodeError> {
        let mount = self.shared.mount()?;
        blocking(move || mount.compact()).await
    }

    /// Reads every shard and checks it against its root, at most `bytes_per_second`. Returns the damaged ones, which are
    /// set aside: `get` answers `Damaged` and `has` false.
    pub async fn scrub(&self, bytes_per_second: Option<u64>) -> Result<Vec<ShardName>, NodeError> {
        let mount = self.shared.mount()?;
        blocking(move || scrub::once(&mount.core, &mount.queue, bytes_per_second)).await
    }

    /// Bytes of the disk's files: segments and index.
    pub fn used_bytes(&self) -> u64 {
        self.shared.mount().map_or(0, |mount| mount.core.used() + mount.core.catalog.index().bytes())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.shared.end();
        if let Some(watcher) = self.watcher.lock().unwrap_or_else(PoisonError::into_inner).take()
            && watcher.thread().id() != std::thread::current().id()
        {
            // It panics only with the process.
            let _ = watcher.join();
        }
    }
}

impl Shared {
    fn slot(&self) -> RwLockReadGuard<'_, Slot> {
        self.slot.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot_mut(&self) -> RwLockWriteGuard<'_, Slot> {
        self.slot.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `bytes` more may wait for the writer; what is larger than the whole queue takes all of it.
    async fn room_in_queue(&self, mount: &Mount, bytes: usize) -> Result<OwnedSemaphorePermit, NodeError> {
        let all = queue_permits(self.settings.queue_bytes);
        let permits = u32::try_from(bytes.div_ceil(1_024)).unwrap_or(all).clamp(1, all);
        mount.puts.clone().acquire_many_owned(permits).await.map_err(|_| closed())
    }

    fn mount(&self) -> Result<Arc<Mount>, NodeError> {
        let slot = self.slot();
        let mount = slot.mount.clone().ok_or_else(|| NodeError::Unavailable { reason: slot.reason.clone() })?;
        mount.core.serving()?;
        Ok(mount)
    }

    /// One look at the disk. Returns whether it serves.
    fn watch(&self) -> bool {
        let mount = self.slot().mount.clone();
        let Some(mount) = mount else { return self.reopen(false).is_ok() };
        if mount.core.check_present().is_ok() {
            return true;
        }
        let Some(loss) = mount.core.loss().cloned() else { return true };
        tracing::error!(disk = %self.settings.label, reason = %loss.reason, "the disk is lost");
        {
            let mut before = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
            *before = Before { core: Arc::downgrade(&mount.core), loss: Some(loss.clone()), told: String::new() };
            let mut slot = self.slot_mut();
            slot.reason = loss.reason;
            slot.mount = None;
        }
        self.metrics.serving.set(0);
        self.metrics.free_bytes.set(0);
        mount.end();
        false
    }

    /// Opens the directory again if it has this node's identity; with `adopt`, whatever is there.
    fn reopen(&self, adopt: bool) -> Result<NodeId, OpenError> {
        let mut before = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        let in_use = || OpenError::InUse { dir: self.settings.dir.clone() };
        if self.slot().mount.is_some() || before.core.strong_count() > 0 || self.stopping.load(Relaxed) {
            return Err(in_use());
        }
        let expected = if adopt { None } else { Some(self.slot().node) };
        let settings = Settings { expected, ..self.settings.clone() };
        let abandoned = before.loss.as_ref().and_then(|loss| loss.abandoned).filter(|_| !adopt);
        let reindex = before.loss.as_ref().is_some_and(|loss| loss.reindex);
        let opened = recover::open(&settings, &How { adopt, take_over: adopt, abandoned, reindex }).and_then(|opened| {
            Ok((
                opened.parts.identity.node,
                opened.parts.space.capacity(),
                Mount::start(opened, self.metrics.clone(), self.signal.clone())?,
            ))
        });
        match opened {
            Ok((node, capacity, mount)) => {
                tracing::info!(disk = %self.settings.label, %node, "the disk serves again");
                *before = Before::default();
                *self.slot_mut() = Slot { node, mount: Some(Arc::new(mount)), reason: String::new(), capacity };
                self.metrics.serving.set(1);
                Ok(node)
            }
            Err(e) => {
                let text = e.to_string();
                if before.told != text {
                    tracing::warn!(disk = %self.settings.label, reason = %text, "the disk is still lost");
                    before.told = text;
                }
                Err(e)
            }
        }
    }

    fn end(&self) {
        self.stopping.store(true, Relaxed);
        self.signal.raise();
        let mount = {
            let _opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
            let mut slot = self.slot_mut();
            slot.reason = "shut down".to_string();
            slot.mount.take()
        };
        if let Some(mount) = mount {
            mount.end();
        }
    }
}

/// Runs what blocks on a thread that may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, NodeError> + Send + 'static) -> Result<T, NodeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(NodeError::Unavailable { reason: format!("a read ended early: {e}") }),
    }
}

fn closed() -> NodeError {
    NodeError::Unavailable { reason: "the disk was lost or shut down while this waited".to_string() }
}

fn read(mount: &Mount, name: &ShardName) -> Result<(ShardHeader, Bytes), NodeError> {
    match mount.core.read(name)? {
        Found::Shard(header, data) => Ok((header, data)),
        Found::Wrong { at, what } => {
            // Where too much waits already, or the disk is being closed, the next reader finds the damage again.
            if let Ok(permit) = mount.puts.clone().try_acquire_owned() {
                let _ = mount.queue.send(Op::SetAside { name: *name, at, permit: Some(permit) });
            }
            Err(NodeError::Damaged { what })
        }
    }
}

fn list(core: &Core, mut after: Option<ShardName>, max: usize) -> Result<Vec<(ShardName, u32)>, NodeError> {
    let mut out = Vec::new();
    while out.len() < max {
        core.serving()?;
        let page = core.catalog.page(after.as_ref(), PAGE.min(max.max(64))).map_err(|e| core.index_failed(e))?;
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        for (name, entry) in page {
            if let Standing::Live(put) = entry.standing()
                && out.len() < max
            {
                out.push((name, put.at.len));
            }
        }
    }
    Ok(out)
}

/// The header of a live shard, read from its segment; `None`: it is live no more. Blocks.
fn header(core: &Core, name: &ShardName) -> Result<Option<Held>, NodeError> {
    // Compaction may move the shard between the look-up and the read: then the look-up is simply out of date.
    let mut before = None;
    loop {
        let Standing::Live(put) = core.standing(name)? else { return Ok(None) };
        match core.read_header(name, put.at) {
            Ok(Some(header)) => return Ok(Some(Held::Whole(header))),
            wrong if before == Some(put.at) => {
                core.check_present()?;
                let about_it = wrong.err().is_none_or(|e| e.kind() == ErrorKind::NotFound || e.raw_os_error() == Some(libc::EIO));
                // Anything else says nothing about the shard.
                return if about_it { Ok(Some(Held::Unread(*name))) } else { Err(NodeError::Unavailable { reason: "read failed".into() }) };
            }
            _ => before = Some(put.at),
        }
    }
}

/// A page of shards that are all gone since is not the end of the list. Blocks.
fn headers(core: &Core, mut after: Option<ShardName>, max: usize) -> Result<Vec<Held>, NodeError> {
    loop {
        let names = list(core, after, max)?;
        let mut held = Vec::with_capacity(names.len());
        for (name, _) in &names {
            held.extend(header(core, name)?);
        }
        match names.last() {
            Some((last, _)) if held.is_empty() => after = Some(*last),
            _ => return Ok(held),
        }
    }
}

/// One audit question. A shard whose bytes do not lead to its root is set aside rather than proven. Blocks.
fn prove(mount: &Mount, question: &Question) -> Result<Answered, NodeError> {
    let Question { name, slice } = question;
    let (header, data) = match read(mount, name) {
        Ok(found) => found,
        Err(NodeError::NotFound) => return Ok(Answered::Missing),
        Err(NodeError::Damaged { .. }) => return Ok(Answered::Damaged),
        Err(error) => return Err(error),
    };
    mount.core.metrics.read_bytes.inc_by(data.len() as u64);
    match audit::prove(&data, *slice) {
        Some((proof, root)) if root == header.root => Ok(Answered::Proof(proof.into())),
        Some(_) => {
            if let Standing::Live(put) = mount.core.standing(name)? {
                // Where the disk is being closed, the next reader finds the damage again.
                let _ = mount.queue.send(Op::SetAside { name: *name, at: put.at, permit: None });
            }
            Ok(Answered::Damaged)
        }
        None => Err(NodeError::Invalid { what: format!("a shard of {} bytes has no slice {slice}", data.len()) }),
    }
}

#[async_trait::async_trait]
impl StorageNode for Disk {
    fn id(&self) -> NodeId {
        self.shared.slot().node
    }

    fn machine(&self) -> String {
        self.shared.settings.machine.clone()
    }

    fn status(&self) -> NodeStatus {
        let slot = self.shared.slot();
        let Some(core) = slot.mount.as_ref().map(|mount| &mount.core).filter(|core| core.serving().is_ok()) else {
            return NodeStatus { state: NodeState::Lost, capacity: slot.capacity, free: 0, shards: 0, shard_bytes: 0, trash_bytes: 0 };
        };
        let (shards, shard_bytes, trash_bytes) = core.catalog.sums();
        let free = core.free();
        let state = if free < FULL_BELOW { NodeState::Full } else { NodeState::Serving };
        NodeStatus { state, capacity: core.space.capacity(), free, shards, shard_bytes, trash_bytes }
    }

    async fn put(&self, header: ShardHeader, data: Bytes) -> Result<(), NodeError> {
        let started = Instant::now();
        if data.len() != header.len as usize || data.len() > SEALED_MAX_BYTES {
            return Err(NodeError::Invalid { what: format!("{} bytes for a header that says {}", data.len(), header.len) });
        }
        let mount = self.shared.mount()?;
        let permit = self.shared.room_in_queue(&mount, data.len() + HEADER).await?;
        let (done, answer) = oneshot::channel();
        mount.queue.send(Op::Put { header, data, permit, done }).map_err(|_| closed())?;
        answer.await.map_err(|_| closed())??;
        self.shared.metrics.put_seconds.observe(started.elapsed().as_secs_f64());
        Ok(())
    }

    async fn get(&self, name: ShardName) -> Result<(ShardHeader, Bytes), NodeError> {
        let started = Instant::now();
        let mount = self.shared.mount()?;
        let permit = mount.reads.clone().acquire_owned().await.map_err(|_| closed())?;
        let found = blocking(move || {
            let _permit = permit;
            read(&mount, &name)
        })
        .await?;
        self.shared.metrics.get_seconds.observe(started.elapsed().as_secs_f64());
        self.shared.metrics.read_bytes.inc_by(found.1.len() as u64);
        Ok(found)
    }

    async fn has(&self, names: Vec<ShardName>) -> Result<Vec<bool>, NodeError> {
        if names.len() > NAMES {
            return Err(NodeError::Invalid { what: format!("{} names, more than {NAMES}", names.len()) });
        }
        let mount = self.shared.mount()?;
        blocking(move || names.iter().map(|name| mount.core.standing(name).map(|s| matches!(s, Standing::Live(_)))).collect()).await
    }

    async fn trash(&self, names: Vec<ShardName>) -> Result<(), NodeError> {
        if names.len() > NAMES {
            return Err(NodeError::Invalid { what: format!("{} names, more than {NAMES}", names.len()) });
        }
        let mount = self.shared.mount()?;
        let permit = self.shared.room_in_queue(&mount, std::mem::size_of_val(names.as_slice())).await?;
        let (done, answer) = oneshot::channel();
        mount.queue.send(Op::Trash { names, permit, done }).map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    async fn list(&self, after: Option<ShardName>, max: usize) -> Result<Vec<(ShardName, u32)>, NodeError> {
        let mount = self.shared.mount()?;
        blocking(move || list(&mount.core, after, max.min(NAMES))).await
    }

    async fn headers(&self, after: Option<ShardName>, max: usize) -> Result<Vec<Held>, NodeError> {
        let mount = self.shared.mount()?;
        let permit = mount.reads.clone().acquire_owned().await.map_err(|_| closed())?;
        blocking(move || {
            let _permit = permit;
            headers(&mount.core, after, max.min(CALL_HEADERS))
        })
        .await
    }

    async fn audit(&self, questions: Vec<Question>) -> Result<Vec<Answered>, NodeError> {
        if questions.len() > AUDIT_QUESTIONS {
            return Err(NodeError::Invalid { what: format!("{} questions, more than {AUDIT_QUESTIONS}", questions.len()) });
        }
        let mount = self.shared.mount()?;
        let permit = mount.reads.clone().acquire_owned().await.map_err(|_| closed())?;
        blocking(move || {
            let _permit = permit;
            questions.iter().map(|question| prove(&mount, question)).collect()
        })
        .await
    }

    async fn scrubbed(&self) -> Result<Option<ScrubReport>, NodeError> {
        let mount = self.shared.mount()?;
        Ok(mount.core.settings.scrub_round.map(|_| mount.core.scrub.report()))
    }
}
