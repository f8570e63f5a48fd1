//! What every step of the data path works with, and what an operator may choose about it.
//!
//! Not here: starting it and its background work (`path.rs`).

use crate::audit::board::Board;
use crate::balance;
use crate::body::{ReadError, WriteError};
use crate::budget::Budget;
use crate::compute::Compute;
use crate::damage::Damage;
use crate::dedup::Flights;
use crate::intent::Intents;
use crate::keys::{EpochKeys, Keys, TenantKeys};
use crate::known::Known;
use crate::lanes::Lanes;
use crate::lease::Lease;
use crate::nodes::Nodes;
use crate::owe::Owing;
use crate::owe::deliver::Busy;
use crate::pace::Pace;
use crate::progress::Progress;
use crate::readers::Readers;
use crate::snapshot::kept;
use spine::erasure::Coder;
use spine::id::{TenantId, UnixMs, VersionId};
use spine::wire::root::{RootAnswer, RootQuery};
use spine::wire::{Answer, Metadata, MetadataError, Query};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Everything an operator may choose about the data path.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Data shards of a chunk; default 4.
    pub k: u8,
    /// Parity shards of a chunk; default 2.
    pub m: u8,
    /// Threads that hash, seal and code. Default: one per core.
    pub threads: usize,
    /// Bytes of bodies on their way in, coded shards included, over all requests. Default 192 MiB; at least one largest chunk's worth is used.
    pub write_memory: usize,
    /// Bytes of bodies on their way out, over all requests. Default 96 MiB.
    pub read_memory: usize,
    /// Chunks of one request in flight at a time. Default 4.
    pub window: usize,
    /// How often the collector runs. Default 60 s.
    pub collect_interval: Duration,
    /// How long a chunk without references stays: longer than the longest GET. Default 24 h.
    pub collect_grace: Duration,
    /// An intent not renewed for this long is aborted. Default 6 h.
    pub intent_ttl: Duration,
    /// How long the collector waits for a node that does not answer before it leaves that node's shards to the sweep. Default 1 h.
    pub node_patience: Duration,
    /// How often owed shards are looked for. Default 15 s.
    pub owe_interval: Duration,
    /// A chunk that a write left owing is first tried again after this long. Default 100 ms.
    pub deliver_after: Duration,
    /// Chunks with few shards left do not wait longer than this for a node that is away. Default 30 s.
    pub urgent_after: Duration,
    /// A node that is away for this long has what it held made again elsewhere. Default 4 h.
    pub node_repair_after: Duration,
    /// How often nodes are swept for shards that nobody refers to. Default 24 h.
    pub sweep_interval: Duration,
    pub balance: balance::Settings,
    /// Abort the intents of every other writer at start: right where this process is the only gateway. Default true.
    pub only_gateway: bool,
    /// Whether other gateways use the same metadata: then the lease says who works in the background. Default false.
    pub shared: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            k: 4,
            m: 2,
            threads: std::thread::available_parallelism().map_or(2, |n| n.get()),
            write_memory: 192 << 20,
            read_memory: 96 << 20,
            window: 4,
            collect_interval: Duration::from_secs(60),
            collect_grace: Duration::from_secs(24 * 3600),
            intent_ttl: Duration::from_secs(6 * 3600),
            node_patience: Duration::from_secs(3600),
            owe_interval: Duration::from_secs(15),
            deliver_after: Duration::from_millis(100),
            urgent_after: Duration::from_secs(30),
            node_repair_after: Duration::from_secs(4 * 3600),
            sweep_interval: Duration::from_secs(24 * 3600),
            balance: balance::Settings::default(),
            only_gateway: true,
            shared: false,
        }
    }
}

/// What every step works with.
pub(crate) struct Core {
    pub settings: Settings,
    pub metadata: Arc<dyn Metadata>,
    pub nodes: Nodes,
    pub keys: Arc<Keys>,
    pub lanes: Lanes,
    pub compute: Arc<Compute>,
    pub coder: Arc<Coder>,
    pub write_memory: Arc<Budget>,
    /// Memory that 100 plaintext bytes need from the connection to the nodes: themselves and their shards.
    pub write_percent: usize,
    pub read_memory: Arc<Budget>,
    pub intents: Arc<Intents>,
    pub flights: Arc<Flights>,
    pub readers: Arc<Readers>,
    pub known: Known,
    pub damage: Damage,
    pub owing: Owing,
    pub busy: Busy,
    pub progress: Progress,
    /// Held while nodes are swept or the index is made again from them: what one restores the other must not take for an orphan.
    pub sweeping: tokio::sync::Mutex<()>,
    pub board: Arc<Board>,
    pub pace: Pace,
    pub lease: Arc<Lease>,
}

/// Why a tenant's keys are not to be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoKeys {
    #[error("the tenant's keys cannot be opened. reason=`{0}`")]
    Closed(String),
    #[error("{0}")]
    Metadata(#[from] MetadataError),
}

impl From<NoKeys> for WriteError {
    fn from(error: NoKeys) -> Self {
        match error {
            NoKeys::Metadata(error) => WriteError::Metadata(error),
            closed @ NoKeys::Closed(_) => WriteError::Unavailable { reason: closed.to_string() },
        }
    }
}

impl From<NoKeys> for ReadError {
    fn from(error: NoKeys) -> Self {
        match error {
            NoKeys::Metadata(error) => ReadError::Metadata(error),
            closed @ NoKeys::Closed(_) => ReadError::Unavailable { reason: closed.to_string() },
        }
    }
}

impl Core {
    /// All keys of a tenant.
    pub async fn tenant_keys(&self, tenant: TenantId) -> Result<Arc<TenantKeys>, NoKeys> {
        if tenant == kept::TENANT {
            return Ok(self.keys.of_snapshots());
        }
        if let Some(keys) = self.keys.known(tenant) {
            return Ok(keys);
        }
        let answer = self.metadata.query(Query::Root(RootQuery::Tenant(tenant))).await?;
        let Answer::Root(RootAnswer::Tenant(record)) = answer else {
            return Err(MetadataError::Storage { reason: "Tenant was answered with something else".into() }.into());
        };
        let record = record.ok_or_else(|| NoKeys::Closed(format!("no tenant {tenant}")))?;
        self.keys.open(&record).map_err(|e| NoKeys::Closed(e.to_string()))
    }

    /// The keys that seal a tenant's new chunks.
    pub async fn sealing_keys(&self, tenant: TenantId) -> Result<Arc<EpochKeys>, WriteError> {
        let keys = self.tenant_keys(tenant).await?;
        let current = keys.current().cloned();
        current.ok_or_else(|| WriteError::Unavailable { reason: format!("tenant {tenant} has no secret") })
    }

    /// A version nobody has used.
    pub fn new_version(&self) -> Result<VersionId, WriteError> {
        let mut id = [0; VersionId::LEN];
        getrandom::fill(&mut id).map_err(|e| WriteError::Unavailable { reason: e.to_string() })?;
        Ok(VersionId(id))
    }
}

/// The wall clock, for what is proposed: state machines read none.
pub(crate) fn now() -> UnixMs {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
