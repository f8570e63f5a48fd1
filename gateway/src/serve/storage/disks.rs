//! The disks of this process: those that are served, and those that are away and looked for.
//!
//! Invariants: a disk that is away at the start comes in as soon as it opens, under the identity and papers that lie on it and no
//! others: an empty folder never becomes a node while the process runs. One that was there and vanished is the disk's own to find
//! again (`storage_node::Disk`).

use super::papers::{self, Papers};
use super::{Settings, StorageError, identity};
use spine::fleet::tls::Served;
use spine::fleet::trust::Trust;
use spine::id::NodeId;
use spine::wire::admission::NODES;
use spine::wire::shard::StorageNode;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use storage_node::serve::Hosted;
use storage_node::{Disk, NodeKey, OpenError};
use tokio::sync::{mpsc, watch};

/// How often a disk that is away is looked for.
const SEEK: Duration = Duration::from_secs(5);

/// One disk that opened.
pub struct Node {
    pub dir: PathBuf,
    pub disk: Arc<Disk>,
    pub key: NodeKey,
}

/// One that did not.
#[derive(Clone, Debug)]
pub struct Missing {
    /// Its place on the command line.
    number: usize,
    pub dir: PathBuf,
    pub reason: String,
}

/// All of them.
#[derive(Default)]
pub struct Disks {
    nodes: RwLock<Vec<Arc<Node>>>,
    missing: Mutex<Vec<Missing>>,
}

impl Disks {
    /// Those that are served, in the order they came.
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        self.nodes.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn missing(&self) -> Vec<Missing> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Opens all disks side by side. One that is away or broken is left to be looked for, as long as another opens; one that is not
    /// this process' to serve stops the start.
    pub async fn open(settings: &Settings, may_begin: bool) -> Result<Disks, StorageError> {
        if settings.disks.len() > NODES {
            return Err(StorageError::TooMany(settings.disks.len()));
        }
        let opening: Vec<_> = (0..settings.disks.len())
            .map(|number| {
                let disk = disk_settings(settings, number, may_begin);
                tokio::task::spawn_blocking(move || open_one(disk))
            })
            .collect();
        let (disks, mut fatal) = (Disks::default(), None);
        for (number, (dir, opening)) in settings.disks.iter().zip(opening).enumerate() {
            match opening.await.map_err(|error| StorageError::NoDisk { reasons: error.to_string() })? {
                Ok(node) => disks.add(node),
                Err(error @ (OpenError::NoKey { .. } | OpenError::BadKey { .. } | OpenError::InUse { .. } | OpenError::Format { .. })) => {
                    fatal = fatal.or(Some(error));
                }
                Err(error) => disks.miss(Missing { number, dir: dir.clone(), reason: error.to_string() }),
            }
        }
        if fatal.is_some() || disks.nodes().is_empty() {
            disks.close().await;
            let reasons = disks.missing().into_iter().map(|missing| missing.reason).collect::<Vec<_>>().join("; ");
            return Err(fatal.map_or(StorageError::NoDisk { reasons }, StorageError::Disk));
        }
        for Missing { reason, .. } in disks.missing() {
            tracing::error!(target: "breakwater", reason, "a disk did not open; it is looked for");
        }
        Ok(disks)
    }

    pub async fn close(&self) {
        for node in self.nodes() {
            node.disk.shutdown().await;
        }
    }

    fn add(&self, node: Node) {
        self.nodes.write().unwrap_or_else(PoisonError::into_inner).push(Arc::new(node));
    }

    fn miss(&self, missing: Missing) {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).push(missing);
    }
}

/// Opens the disk and its key. Blocks.
fn open_one(settings: storage_node::Settings) -> Result<Node, OpenError> {
    let dir = settings.dir.clone();
    let disk = Disk::open(settings)?;
    Ok(Node { key: NodeKey::of(&dir, disk.id())?, dir, disk })
}

fn disk_settings(settings: &Settings, number: usize, may_begin: bool) -> storage_node::Settings {
    let mut disk = storage_node::Settings::new(&settings.disks[number]);
    disk.machine = settings.machine.clone();
    disk.zone = settings.zone.clone();
    disk.label = number.to_string();
    disk.capacity = settings.capacity;
    disk.keyed = true;
    disk.scrub_round = Some(settings.scrub_round);
    disk.adopt_empty = may_begin;
    disk
}

/// Looks for the disks that were away at the start, and has them served.
pub struct Seeker {
    pub settings: Settings,
    pub disks: Arc<Disks>,
    pub trust: Arc<Trust>,
    pub served: Arc<Served>,
    pub hosted: Hosted,
    /// DER of the CA that the disks served have in common.
    pub authority: Vec<u8>,
    /// Who renews and announces a node from now on.
    pub found: mpsc::UnboundedSender<(Arc<Node>, Papers)>,
}

impl Seeker {
    /// Until all are there or it is told to stop.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        while !self.disks.missing().is_empty() {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(SEEK) => {}
            }
            for missing in self.disks.missing() {
                match self.seek(&missing).await {
                    Ok(node) => {
                        tracing::info!(target: "breakwater", %node, dir = %missing.dir.display(), "a disk that was away is served");
                        self.note(missing.number, None);
                    }
                    Err(error) => self.note(missing.number, Some(error.to_string())),
                }
            }
        }
    }

    /// Takes a disk off the list, or keeps why it is still on it.
    fn note(&self, number: usize, reason: Option<String>) {
        let mut missing = self.disks.missing.lock().unwrap_or_else(PoisonError::into_inner);
        match reason {
            None => missing.retain(|one| one.number != number),
            Some(reason) => {
                for one in missing.iter_mut().filter(|one| one.number == number && one.reason != reason) {
                    tracing::warn!(target: "breakwater", reason, "a disk is still away");
                    one.reason.clone_from(&reason);
                }
            }
        }
    }

    async fn seek(&self, missing: &Missing) -> Result<NodeId, StorageError> {
        let settings = disk_settings(&self.settings, missing.number, false);
        let opened = tokio::task::spawn_blocking(move || open_one(settings)).await;
        let node = Arc::new(opened.map_err(|error| StorageError::NoDisk { reasons: error.to_string() })??);
        match self.papers(&node) {
            Ok((papers, identity)) => {
                let id = node.key.node();
                self.served.set(identity);
                self.hosted.add(node.disk.clone());
                self.disks.nodes.write().unwrap_or_else(PoisonError::into_inner).push(node.clone());
                // Whoever renews ends with the process alone.
                let _ = self.found.send((node, papers));
                Ok(id)
            }
            Err(error) => {
                node.disk.shutdown().await;
                Err(error)
            }
        }
    }

    fn papers(&self, node: &Node) -> Result<(Papers, spine::fleet::tls::Identity), StorageError> {
        let papers = Papers::load(&node.dir)?.ok_or_else(|| StorageError::NotJoined { dir: node.dir.clone() })?;
        if papers.authority != self.authority {
            let one = self.disks.nodes().first().map(|node| node.dir.clone()).unwrap_or_default();
            return Err(StorageError::TwoFleets { one, other: node.dir.clone() });
        }
        if let Some(list) = papers::load_revocations(&node.dir)?
            && let Err(error) = self.trust.revoke(&list)
        {
            tracing::debug!(%error, dir = %node.dir.display(), "a revocation list was left aside");
        }
        let identity = identity(&node.key, &papers).map_err(|error| StorageError::Tls(error.to_string()))?;
        Ok((papers, identity))
    }
}
