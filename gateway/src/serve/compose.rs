//! The parts of one process: metadata, disks, data path; opened together and closed in the other order.

use super::ServeError;
use super::elsewhere::Elsewhere;
use super::metadata::moving;
use super::waiting;
use crate::boot::credentials::{RootCredentials, root_command};
use crate::boot::disks::Slots;
use crate::boot::{BootError, Home};
use crate::config::Config;
use crate::core::Settings;
use crate::fleet::table::Fleet;
use crate::front::auth::KeyRing;
use crate::keys::Keys;
use crate::ops::operator::{Members, Operator};
use crate::ops::process::Process;
use crate::path::DataPath;
use crate::roster::Roster;
use crate::snapshot::kept::Schedule;
use metadata::router::Router;
use metadata::service::MetadataNode;
use spine::wire::Metadata;
use spine::wire::root::{NodeRecord, RootCommand};
use spine::wire::shard::StorageNode;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use storage_node::Disk;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Where metadata is. Asked by way of a router in both cases: it may lie in many groups in both.
enum Kept {
    /// In this process.
    Here { node: Arc<MetadataNode>, router: Arc<Router> },
    /// With others, who live on.
    Elsewhere(Arc<Elsewhere>),
}

impl Kept {
    fn here(node: Arc<MetadataNode>) -> Kept {
        Kept::Here { router: Router::new(node.clone()), node }
    }
}

/// Metadata and disks: what is stored, without what serves it.
pub struct Store {
    metadata: Kept,
    disks: Vec<Arc<Disk>>,
    /// Folders of `disks`, in the same order.
    folders: Vec<PathBuf>,
}

impl Store {
    /// Opens both. A disk that does not open is lost, as long as `data_shards` others are there.
    pub async fn open(config: &Config, home: &Home) -> Result<Store, ServeError> {
        let folders = disk_folders(config, home)?;
        let mut slots = Slots::load(home)?;
        let trash = Duration::from_secs(config.collector.trash_seconds);
        let opening = folders.iter().enumerate().map(|(number, dir)| {
            let settings = disk_settings(number, dir, &slots, folders.len(), trash);
            tokio::task::spawn_blocking(move || Disk::open(settings))
        });
        let opening: Vec<_> = opening.collect();
        let metadata = MetadataNode::open(metadata::service::Settings::new(home.metadata_dir())).await?;
        let (mut disks, mut opened, mut reasons) = (Vec::new(), Vec::new(), Vec::new());
        for (dir, opening) in folders.iter().zip(opening) {
            match opening.await {
                Ok(Ok(disk)) => {
                    slots.note(dir, disk.id());
                    disks.push(disk);
                    opened.push(dir.clone());
                }
                Ok(Err(error)) => reasons.push(error.to_string()),
                Err(error) => reasons.push(error.to_string()),
            }
        }
        let store = Store { metadata: Kept::here(metadata), disks, folders: opened };
        let needed = usize::from(config.coding.data_shards);
        if store.disks.len() < needed {
            let error = ServeError::Disks { opened: store.disks.len(), needed, places: folders.len(), reasons: reasons.join("; ") };
            store.shutdown().await;
            return Err(error);
        }
        for reason in reasons {
            tracing::error!(target: "breakwater", reason, "a disk did not open and counts as lost");
        }
        slots.save(home)?;
        Ok(store)
    }

    /// Metadata alone: a gateway's.
    pub async fn without_disks(home: &Home) -> Result<Store, ServeError> {
        let metadata = MetadataNode::open(metadata::service::Settings::new(home.metadata_dir())).await?;
        Ok(Store { metadata: Kept::here(metadata), disks: Vec::new(), folders: Vec::new() })
    }

    /// Neither: a gateway's whose metadata others keep.
    pub fn nothing_here(elsewhere: Arc<Elsewhere>) -> Store {
        Store { metadata: Kept::Elsewhere(elsewhere), disks: Vec::new(), folders: Vec::new() }
    }

    pub fn metadata(&self) -> Arc<dyn Metadata> {
        match &self.metadata {
            Kept::Here { router, .. } => router.clone(),
            Kept::Elsewhere(elsewhere) => elsewhere.metadata(),
        }
    }

    /// The metadata cluster, where there is one.
    pub fn elsewhere(&self) -> Option<&Arc<Elsewhere>> {
        match &self.metadata {
            Kept::Here { .. } => None,
            Kept::Elsewhere(elsewhere) => Some(elsewhere),
        }
    }

    /// Whoever keeps metadata, for operators.
    fn members(&self) -> Arc<dyn Members> {
        match &self.metadata {
            Kept::Here { node, .. } => node.clone(),
            Kept::Elsewhere(elsewhere) => elsewhere.clone(),
        }
    }

    pub fn nodes(&self) -> Vec<Arc<dyn StorageNode>> {
        self.disks.iter().map(|disk| disk.clone() as Arc<dyn StorageNode>).collect()
    }

    /// Metadata first: it takes a last checkpoint; then the disks, one after another.
    pub async fn shutdown(&self) {
        if let Kept::Here { node, .. } = &self.metadata {
            node.shutdown().await;
        }
        for disk in &self.disks {
            disk.shutdown().await;
        }
    }
}

fn disk_settings(number: usize, dir: &Path, slots: &Slots, places: usize, trash: Duration) -> storage_node::Settings {
    let mut settings = storage_node::Settings::new(dir);
    settings.machine = format!("disk-{number}");
    settings.label = number.to_string();
    settings.trash_age = trash;
    settings.expected = slots.node(dir);
    settings.adopt_empty = slots.may_begin(dir, places);
    settings
}

/// The disks' folders, absolute, so that a place is the same from wherever the process is started.
fn disk_folders(config: &Config, home: &Home) -> Result<Vec<PathBuf>, BootError> {
    let inside = Config { data: home.dir().to_path_buf(), ..config.clone() };
    let absolute = |dir: PathBuf| std::path::absolute(&dir).map_err(|source| BootError::Folder { path: dir, source });
    inside.disk_folders().into_iter().map(absolute).collect()
}

/// Everything that runs behind the listeners.
pub struct Parts {
    store: Arc<Store>,
    /// The store's own disks, or a fleet's nodes.
    roster: Roster,
    pub path: Arc<DataPath>,
    /// Ends the moves of ranges, where metadata is in this process.
    stop: watch::Sender<bool>,
    moving: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Parts {
    /// Starts the data path over the store, and makes metadata know the disks and the root credentials.
    pub async fn start(
        config: &Config,
        home: &Home,
        store: Store,
        roster: Roster,
        keys: Arc<Keys>,
        credentials: &RootCredentials,
    ) -> Result<Parts, ServeError> {
        Process::register(tokio::runtime::Handle::current());
        let metadata = store.metadata();
        let settings = Settings { shared: store.elsewhere().is_some(), ..path_settings(config) };
        let path = DataPath::new(settings, metadata.clone(), roster.clone(), keys)?;
        let (stop, stopped) = watch::channel(false);
        let moving = match &store.metadata {
            Kept::Here { node, .. } => Some(tokio::spawn(moving::run(node.clone(), node.clone(), stopped))),
            Kept::Elsewhere(_) => None,
        };
        let parts = Parts { store: Arc::new(store), roster, path, stop, moving: tokio::sync::Mutex::new(moving) };
        match waiting::patiently(parts.store.elsewhere(), async || parts.introduce(home, credentials).await).await {
            Ok(()) => {
                if config.metadata.snapshot_seconds > 0 {
                    let every = Duration::from_secs(config.metadata.snapshot_seconds);
                    parts.path.keep_snapshots(Schedule { every, kept: config.metadata.snapshots_kept });
                }
                Ok(parts)
            }
            Err(error) => {
                parts.shutdown().await;
                Err(error)
            }
        }
    }

    async fn introduce(&self, home: &Home, credentials: &RootCredentials) -> Result<(), ServeError> {
        let now = crate::core::now();
        for disk in &self.store.disks {
            let record = NodeRecord { id: disk.id(), machine: disk.machine(), zone: String::new(), first_seen: now };
            root_command(self.path.metadata(), RootCommand::NoteNode(record)).await?;
        }
        credentials.settle(home, self.path.metadata(), self.path.keys(), now).await?;
        Ok(())
    }

    /// What the operations listener works with.
    pub fn operator(
        &self,
        config: &Config,
        home: &Home,
        ring: Arc<KeyRing>,
        fleet: Option<Arc<Fleet>>,
    ) -> Result<Arc<Operator>, ServeError> {
        let places = if fleet.is_some() { Vec::new() } else { disk_folders(config, home)? };
        Ok(Arc::new(Operator {
            path: self.path.clone(),
            ring,
            nodes: self.roster.clone(),
            fleet,
            cluster: self.store.members(),
            folders: self.store.folders.clone(),
            k: config.coding.data_shards,
            m: config.coding.parity_shards,
            grace: Duration::from_secs(config.collector.grace_seconds),
            compact: self.compact(),
            data: home.dir().to_path_buf(),
            adopt: adopt(self.store.clone(), home, places),
            token: home.admin_token()?,
        }))
    }

    fn compact(&self) -> crate::ops::operator::Compact {
        let store = self.store.clone();
        Box::new(move || {
            let store = store.clone();
            Box::pin(async move {
                for disk in &store.disks {
                    if let Err(error) = disk.compact().await {
                        tracing::warn!(%error, "a disk was not compacted");
                    }
                }
            })
        })
    }

    pub async fn shutdown(&self) {
        self.path.shutdown().await;
        let _ = self.stop.send(true);
        if let Some(moving) = self.moving.lock().await.take() {
            let _ = moving.await;
        }
        self.store.shutdown().await;
    }
}

/// Gives up the lost disk that was in a place and takes what is there now. The data path makes again what the lost one held.
fn adopt(store: Arc<Store>, home: &Home, places: Vec<PathBuf>) -> crate::ops::operator::Adopt {
    let file = home.slots_file();
    let one_at_a_time = Arc::new(tokio::sync::Mutex::new(()));
    Box::new(move |dir| {
        let (store, file, places, turn) = (store.clone(), file.clone(), places.clone(), one_at_a_time.clone());
        Box::pin(async move {
            let _turn = turn.lock().await;
            if !places.contains(&dir) {
                let known = places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(", ");
                return Err(format!("{} is no place of a disk here; there are {known}", dir.display()));
            }
            let mut slots = Slots::read(&file).map_err(|error| error.to_string())?;
            let disk = store.folders.iter().position(|folder| *folder == dir).and_then(|at| store.disks.get(at)).cloned();
            let Some(disk) = disk else {
                slots.give_up(&dir);
                slots.write(&file).map_err(|error| error.to_string())?;
                return Ok(format!("{} did not open at the last start and will be taken as it is found at the next one", dir.display()));
            };
            let taken = disk.clone();
            let node = tokio::task::spawn_blocking(move || taken.adopt())
                .await
                .map_err(|error| error.to_string())?
                .map_err(|error| error.to_string())?;
            slots.note(&dir, node);
            slots.write(&file).map_err(|error| error.to_string())?;
            let record = NodeRecord { id: node, machine: disk.machine(), zone: String::new(), first_seen: crate::core::now() };
            root_command(&store.metadata(), RootCommand::NoteNode(record)).await.map_err(|error| error.to_string())?;
            Ok(format!("{} is served as node {node}", dir.display()))
        })
    })
}

fn path_settings(config: &Config) -> Settings {
    Settings {
        k: config.coding.data_shards,
        m: config.coding.parity_shards,
        threads: config.compute_threads(),
        write_memory: config.limits.write_memory_bytes,
        read_memory: config.limits.read_memory_bytes,
        window: config.limits.window,
        collect_interval: Duration::from_secs(config.collector.interval_seconds),
        collect_grace: Duration::from_secs(config.collector.grace_seconds),
        node_patience: Duration::from_secs(config.collector.patience_seconds),
        sweep_interval: Duration::from_secs(config.collector.sweep_seconds),
        owe_interval: Duration::from_secs(config.repair.interval_seconds),
        urgent_after: Duration::from_secs(config.repair.urgent_seconds),
        node_repair_after: Duration::from_secs(config.repair.away_seconds),
        balance: crate::balance::Settings {
            automatic: config.rebalance.automatic,
            bytes_per_second: config.rebalance.bytes_per_second,
            look: Duration::from_secs(config.rebalance.look_seconds),
            begin_permille: config.rebalance.begin_percent * 10,
        },
        ..Settings::default()
    }
}
