//! The data path: what the S3 operations call to store, read, reference and commit bodies.

use crate::keys::Keys;
use crate::write::{StoredBody, WriteError};
use spine::id::WriterId;
use spine::wire::namespace::{Body, Manifest, NamespaceCommand};
use spine::wire::shard::StorageNode;
use spine::wire::{Metadata, Reply};
use std::sync::Arc;
use std::time::Duration;

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
    /// Abort the intents of every other writer at start: right where this process is the only gateway. Default true.
    pub only_gateway: bool,
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
            only_gateway: true,
        }
    }
}

/// Stores and reads bodies.
pub struct DataPath {
    metadata: Arc<dyn Metadata>,
    keys: Arc<Keys>,
    writer: WriterId,
}

impl DataPath {
    /// Starts the data path and its background workers. Must be called within a tokio runtime.
    pub fn new(settings: Settings, metadata: Arc<dyn Metadata>, nodes: Vec<Arc<dyn StorageNode>>, keys: Arc<Keys>) -> Arc<DataPath> {
        let _ = (settings, nodes);
        Arc::new(DataPath { metadata, keys, writer: WriterId([0; 16]) })
    }

    /// The metadata service, for whoever resolves names.
    pub fn metadata(&self) -> &Arc<dyn Metadata> {
        &self.metadata
    }

    /// The keys, for whoever makes tenants and access keys.
    pub fn keys(&self) -> &Arc<Keys> {
        &self.keys
    }

    /// This life of the gateway.
    pub fn writer(&self) -> WriterId {
        self.writer
    }

    /// Runs what is still to be confirmed and `command` in one chained batch, and gives the reply to `command` (which may be `Refused`).
    /// The closure gets the body and, for a body in pieces, its manifest, and makes Commit or PutPart of them.
    pub async fn commit(&self, stored: StoredBody, command: impl FnOnce(Body, Option<Manifest>) -> NamespaceCommand + Send) -> Result<Reply, WriteError> {
        let _ = (stored, command(Body::Pieces(Vec::new()), None));
        Err(WriteError::Unavailable { reason: "the write path is being built".into() })
    }

    /// Ends the background workers, after they have handed on what must not be forgotten.
    pub async fn shutdown(&self) {}
}
