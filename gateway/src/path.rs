//! The data path: what the S3 operations call to store, read, reference and commit bodies, and its background work.
//!
//! - in the foreground: `write.rs`, `read.rs`, `copy.rs`
//! - in the background: `intent.rs` aborts dropped writes, `collect.rs` frees what nobody refers to, `owe.rs` delivers owed shards and
//!   empties nodes, `balance.rs` levels them out, `audit.rs` has a fleet's nodes prove what they hold
//!
//! Invariant: everything the background does is asked of the index first; nothing is remembered here that a crash may not forget.
//! Not here: names, authentication, S3's errors (the front end and `s3/`).

use crate::audit;
use crate::audit::seen::Seen;
use crate::audit::transcript::Transcript;
use crate::balance;
use crate::body::{ReadError, WriteError};
use crate::budget::Budget;
use crate::census::{self, Census};
use crate::collect::sweep::{self, Swept};
use crate::collect::{self, Collected};
use crate::compute::Compute;
use crate::core::{Core, Settings};
use crate::damage::Damage;
use crate::fetch;
use crate::fleet::table::Fleet;
use crate::intent::{self, Intents};
use crate::keys::Keys;
use crate::known::Known;
use crate::lanes::Lanes;
use crate::lease::{self, Lease};
use crate::metric;
use crate::nodes::Nodes;
use crate::owe::{self, Delivered, Owing};
use crate::pace::Pace;
use crate::progress::Progress;
use crate::reconcile::{self, ReconcileError, Reconciled, ReleaseError};
use crate::reindex::{self, Reindexed};
use crate::roster::Roster;
use crate::snapshot::{self, kept::Schedule};
use bytes::Bytes;
use spine::erasure::Coder;
use spine::id::{ChunkId, NodeId, WriterId};
use spine::limit;
use spine::wire::Metadata;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Why the data path does not start.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StartError {
    #[error("the erasure code is not one. {0}")]
    Code(#[from] spine::erasure::ErasureError),
    #[error("the system gives no thread or no randomness. reason=`{reason}`")]
    System { reason: String },
}

/// Stores and reads bodies.
pub struct DataPath {
    pub(crate) core: Arc<Core>,
    stop: watch::Sender<bool>,
    workers: Mutex<JoinSet<()>>,
}

impl DataPath {
    /// Starts the data path and its background workers. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`StartError`]: a code that does not exist, or a system without threads.
    pub fn new(
        settings: Settings,
        metadata: Arc<dyn Metadata>,
        nodes: impl Into<Roster>,
        keys: Arc<Keys>,
    ) -> Result<Arc<DataPath>, StartError> {
        metric::declare();
        let system = |reason: String| StartError::System { reason };
        let mut writer = [0; WriterId::LEN];
        getrandom::fill(&mut writer).map_err(|e| system(e.to_string()))?;
        let (intents, abandoned) = Intents::new(WriterId(writer));
        let (damage, reports) = Damage::new();
        let (owing, owed) = Owing::new();
        let write_percent = 100 + 100 * (usize::from(settings.k) + usize::from(settings.m)) / usize::from(settings.k.max(1));
        let largest = limit::CHUNK_MAX_BYTES as usize;
        let lease = Arc::new(if settings.shared { Lease::shared(WriterId(writer)) } else { Lease::alone() });
        let core = Arc::new(Core {
            nodes: Nodes::new(nodes),
            keys,
            lanes: Lanes::start().map_err(|e| system(e.to_string()))?,
            compute: Arc::new(Compute::start(settings.threads).map_err(|e| system(e.to_string()))?),
            coder: Arc::new(Coder::new(settings.k, settings.m)?),
            write_memory: Arc::new(Budget::new(settings.write_memory.max(largest * write_percent / 100), &metric::WRITE_MEMORY_FREE)),
            write_percent,
            read_memory: Arc::new(Budget::new(settings.read_memory.max(3 * largest), &metric::READ_MEMORY_FREE)),
            intents,
            flights: Arc::default(),
            readers: Arc::default(),
            known: Known::default(),
            damage,
            owing,
            busy: Default::default(),
            progress: Progress::default(),
            sweeping: tokio::sync::Mutex::default(),
            board: Arc::default(),
            pace: Pace::default(),
            lease: lease.clone(),
            metadata: metadata.clone(),
            settings,
        });
        let (stop, stopped) = watch::channel(false);
        let mut workers = JoinSet::new();
        workers.spawn(until_stopped(stopped.clone(), lease::run(lease, metadata.clone())));
        // Ends by itself when the last intent and the list of them are gone, or when it is told to stop.
        workers.spawn(until_stopped(stopped.clone(), intent::abort_abandoned(metadata, abandoned)));
        workers.spawn(until_stopped(stopped.clone(), collect::run(core.clone())));
        workers.spawn(until_stopped(stopped.clone(), owe::run(core.clone(), reports, owed)));
        workers.spawn(until_stopped(stopped.clone(), owe::round::run(core.clone())));
        workers.spawn(until_stopped(stopped, balance::run(core.clone())));
        Ok(Arc::new(DataPath { core, stop, workers: Mutex::new(workers) }))
    }

    /// What reads remember.
    pub fn known(&self) -> &Known {
        &self.core.known
    }

    /// The metadata service, for whoever resolves names.
    pub fn metadata(&self) -> &Arc<dyn Metadata> {
        &self.core.metadata
    }

    /// The keys, for whoever makes tenants and access keys.
    pub fn keys(&self) -> &Arc<Keys> {
        &self.core.keys
    }

    /// This life of the gateway.
    pub fn writer(&self) -> WriterId {
        self.core.intents.writer()
    }

    /// Collects once, now, with a grace of one's choice. A grace of zero is right only if nobody else reads what was deleted.
    pub async fn collect_now(&self, grace: Duration) -> Result<Collected, WriteError> {
        collect::cycle_now(&self.core, grace).await
    }

    /// Sweeps every node now for shards that the index does not name. `force`: past the limits that halt it, for an operator who
    /// has made sure that the index is whole.
    pub async fn sweep_now(&self, force: bool) -> Result<Vec<Swept>, WriteError> {
        sweep::all(&self.core, force).await
    }

    /// Makes the index again from what lies on the nodes, and holds the collection.
    pub async fn reindex_now(&self) -> Result<Reindexed, WriteError> {
        reindex::run_now(&self.core).await
    }

    /// Compares metadata that was restored with what the nodes have; where nothing is lost, the collection is released. Refused unless a
    /// restore is what holds it.
    pub async fn reconcile_now(&self) -> Result<Reconciled, ReconcileError> {
        reconcile::run_now(&self.core).await
    }

    /// Whether the collection is held.
    pub async fn is_held(&self) -> Result<bool, WriteError> {
        reindex::is_held(&self.core).await
    }

    /// Holds the collection until it is released.
    pub async fn hold(&self) -> Result<(), WriteError> {
        reindex::hold(&self.core, true).await
    }

    /// Releases the collection. Refused without `force` while a restore waits to be reconciled.
    pub async fn release(&self, force: bool) -> Result<(), ReleaseError> {
        reconcile::release(&self.core, force).await
    }

    /// One chunk's plaintext by its name, whoever's it is; `None`: the index does not know it, or it is not stored yet.
    pub async fn chunk(&self, chunk: ChunkId) -> Result<Option<Bytes>, ReadError> {
        fetch::by_name(&self.core, chunk).await
    }

    /// Delivers all that is owed and can be delivered now.
    pub async fn repair_now(&self) -> Result<Delivered, WriteError> {
        owe::round_now(&self.core).await
    }

    /// Goes through the whole index and counts, now.
    pub async fn census_now(&self) -> Result<Census, WriteError> {
        census::take(&self.core, false).await
    }

    /// How far repair, drains and rebalancing have come.
    pub fn progress(&self) -> &Progress {
        &self.core.progress
    }

    /// Has nodes levelled out now (`false`: no more until it is asked for again, whatever restarts meanwhile).
    pub async fn rebalance(&self, starts: bool) -> Result<(), WriteError> {
        balance::tell(&self.core, starts).await
    }

    /// Whether levelling nodes out is stopped.
    pub async fn rebalance_stopped(&self) -> Result<bool, WriteError> {
        balance::is_stopped(&self.core).await
    }

    /// Audits the nodes that answer, or one of them, now: `count` slices each.
    pub async fn audit_now(&self, node: Option<NodeId>, count: usize) -> Result<Transcript, WriteError> {
        audit::run_now(&self.core, &self.core.board, node, count).await
    }

    /// What asking this node has shown since the start.
    pub fn audited(&self, node: NodeId) -> Seen {
        self.core.board.of(node)
    }

    /// Audits a fleet's nodes in the background, `per_day` slices each, and takes what their scrubs find.
    pub fn watch_fleet(&self, fleet: Arc<Fleet>, per_day: u32) {
        let work = audit::watch::run(self.core.clone(), self.core.board.clone(), fleet, per_day);
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.spawn(until_stopped(self.stop.subscribe(), work));
    }

    /// Copies metadata into the store in the background.
    pub fn keep_snapshots(self: &Arc<DataPath>, schedule: Schedule) {
        let work = snapshot::kept::run(Arc::downgrade(self), schedule);
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.spawn(until_stopped(self.stop.subscribe(), work));
    }

    /// Ends the background workers. What they had still to do is found in the index at the next start.
    pub async fn shutdown(&self) {
        // Writes dropped in the last moment have their intents aborted here rather than at the next start.
        tokio::time::timeout(Duration::from_secs(5), self.core.intents.settle()).await.unwrap_or_default();
        let _ = self.stop.send(true);
        let mut workers = std::mem::take(&mut *self.workers.lock().unwrap_or_else(PoisonError::into_inner));
        while workers.join_next().await.is_some() {}
    }
}

impl Drop for DataPath {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
    }
}

async fn until_stopped(mut stopped: watch::Receiver<bool>, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        _ = stopped.wait_for(|stop| *stop) => {}
    }
}

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
