//! The data plane's server: the nodes of this process, answering gateways of their fleet.
//!
//! ```text
//! socket -> listen.rs: TLS, who is it, which node -> answer.rs: one call -> the node
//!                      peers.rs: how much one peer has at once   body.rs: bytes in and out against one budget
//! ```
//! Invariants: nobody is heard before the handshake judged them, and nobody stays after being retired or running out; bytes from
//! outside are bounded in size, count, time and memory before anything is made of them; a shard is acknowledged only after its
//! length and root were found right and the node has synced it.
//! Not here: who is trusted (`spine::fleet`), what is said (`spine::wire::peer`), certificates on disk.

mod answer;
mod body;
mod gather;
mod listen;
mod peers;

use peers::Peers;
use spine::fleet::admission::Role;
use spine::fleet::tls::{self, Served};
use spine::fleet::trust::Trust;
use spine::id::NodeId;
use spine::limit::SEALED_MAX_BYTES;
use spine::wire::shard::StorageNode;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::Semaphore;

/// How much one process takes on.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Handshakes at a time; the next is closed. Only these can be held by somebody who was not admitted. Default 256.
    pub handshakes: usize,
    /// Longest handshake. Default 5 s.
    pub handshake: Duration,
    /// Connections of admitted peers at a time, of all and of one. Default 4,096 and 1,024.
    pub connections: usize,
    pub connections_per_peer: usize,
    /// Calls of one peer at a time; the next answers `Unavailable`. Default 512: a pool of 32 for each of 16 disks.
    pub calls_per_peer: usize,
    /// Longest wait for a whole request head, idle time between requests included. Default 60 s.
    pub head: Duration,
    /// Longest pause within a request's body. Default 10 s.
    pub pause: Duration,
    /// Longest time for a request's body, for a place in memory, and for a reader to take an answer. Default 30 s.
    pub body: Duration,
    /// Bytes of shards in memory on their way in or out. Default 64 MiB; never less than two of the largest shards.
    pub memory: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            handshakes: 256,
            handshake: Duration::from_secs(5),
            connections: 4_096,
            connections_per_peer: 1_024,
            calls_per_peer: 512,
            head: Duration::from_secs(60),
            pause: Duration::from_secs(10),
            body: Duration::from_secs(30),
            memory: 64 << 20,
        }
    }
}

/// Keeps a revocation list (as it came) where the next start finds it. Blocks; the peer hears of it only after it returned.
pub type Keep = Box<dyn Fn(&[u8]) -> std::io::Result<()> + Send + Sync>;

/// A server that has no socket yet: [`Server::serve`] gives it one.
pub struct Server {
    shared: Arc<Shared>,
    config: Arc<rustls::ServerConfig>,
}

/// The nodes of a server, while it serves.
#[derive(Clone)]
pub struct Hosted(Arc<Shared>);

impl Hosted {
    /// Serves one more node. Its certificate comes first (`Served`): a node without one is asked for by nobody.
    pub fn add(&self, node: Arc<dyn StorageNode>) {
        self.0.nodes.write().unwrap_or_else(PoisonError::into_inner).insert(node.id(), node);
    }
}

struct Shared {
    nodes: RwLock<HashMap<NodeId, Arc<dyn StorageNode>>>,
    trust: Arc<Trust>,
    bounds: Bounds,
    /// Bytes of shards that may still come into memory.
    memory: Arc<Semaphore>,
    peers: Arc<Peers>,
    keep: Keep,
}

impl Server {
    /// Serves `nodes` under the certificates that `served` has for them. Only gateways are let in: a node has no business with
    /// another one's shards until nodes repair each other.
    ///
    /// # Errors
    /// What rustls finds wrong with its own configuration.
    pub fn new(
        trust: Arc<Trust>,
        served: Arc<Served>,
        nodes: Vec<Arc<dyn StorageNode>>,
        bounds: Bounds,
        keep: Keep,
    ) -> Result<Server, rustls::Error> {
        let config = tls::server(trust.clone(), served, &[Role::Gateway])?;
        let memory = bounds.memory.clamp(2 * SEALED_MAX_BYTES, Semaphore::MAX_PERMITS);
        let peers = Arc::new(Peers::new(bounds.connections, bounds.connections_per_peer, bounds.calls_per_peer));
        let nodes = RwLock::new(nodes.into_iter().map(|node| (node.id(), node)).collect());
        let shared = Shared { nodes, trust, bounds, memory: Arc::new(Semaphore::new(memory)), peers, keep };
        Ok(Server { shared: Arc::new(shared), config })
    }

    /// Where nodes are added while it serves.
    pub fn hosted(&self) -> Hosted {
        Hosted(self.shared.clone())
    }
}
