//! Metadata processes over the network: members that replicate their groups, and gateways that ask them.
//!
//! ```text
//! gateway: Client -> link.rs -> TLS -> listen.rs: who is it -> answer.rs: one call -> MetadataNode -> its group
//! member:  group/network.rs -> ways.rs -> link.rs -> the same way in
//! ```
//! Invariants: nobody is heard before the handshake judged them, and nobody stays after being retired or running out; only members speak
//! raft; what comes from outside is bounded in size, count, time and memory before anything is made of it, and gateways cannot take what
//! members need; a message for a member that is not this folder's is refused.
//! Not here: who is trusted (`spine::fleet`), what is said (`spine::wire::cluster`), certificates on disk.

mod answer;
mod client;
mod link;
mod listen;
mod many;
mod peers;
mod roster;
mod settings;
mod ways;

pub use client::{Client, ClientBounds};
pub use link::{CallError, Link};
pub use settings::{Beat, Begin, Membership};
pub use ways::{Way, Ways};

use crate::service::MetadataNode;
use peers::Peers;
use spine::fleet::admission::Role;
use spine::fleet::tls::{self, Served};
use spine::fleet::trust::Trust;
use spine::wire::cluster::Call;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// How much one process takes on.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Handshakes at a time; the next is closed. Only these can be held by somebody who was not admitted. Default 256.
    pub handshakes: usize,
    /// Longest handshake. Default 5 s.
    pub handshake: Duration,
    /// Connections of admitted peers at a time, of all and of one. Default 4,096 and 512.
    pub connections: usize,
    pub connections_per_peer: usize,
    /// Calls of one peer at a time; the next answers `Unavailable`. Default 256.
    pub calls_per_peer: usize,
    /// Longest wait for a whole request head, idle time between requests included. Default 60 s.
    pub head: Duration,
    /// Longest time for a request's body, for a place in memory, and for a reader to take an answer. Default 30 s.
    pub body: Duration,
    /// Bytes of gateways' requests and answers in memory on their way in or out, and as many again for the members' own. Default 160 MiB;
    /// never less than the longest answer.
    pub memory: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            handshakes: 256,
            handshake: Duration::from_secs(5),
            connections: 4_096,
            connections_per_peer: 512,
            calls_per_peer: 256,
            head: Duration::from_secs(60),
            body: Duration::from_secs(30),
            memory: 160 << 20,
        }
    }
}

/// A server that has no socket yet: [`Server::serve`] gives it one.
pub struct Server {
    shared: Arc<Shared>,
    config: Arc<rustls::ServerConfig>,
}

struct Shared {
    node: Arc<MetadataNode>,
    trust: Arc<Trust>,
    bounds: Bounds,
    /// Bytes that may still come into memory: for gateways, and for members.
    memory: [Arc<Semaphore>; 2],
    peers: Arc<Peers>,
}

impl Shared {
    fn memory_of(&self, call: Call) -> &Arc<Semaphore> {
        &self.memory[usize::from(call.is_for_members())]
    }
}

impl Server {
    /// Serves `node` under the certificate that `served` has for it. Gateways and metadata nodes are let in.
    ///
    /// # Errors
    /// What rustls finds wrong with its own configuration.
    pub fn new(node: Arc<MetadataNode>, trust: Arc<Trust>, served: Arc<Served>, bounds: Bounds) -> Result<Server, rustls::Error> {
        let config = tls::server(trust.clone(), served, &[Role::Gateway, Role::Metadata])?;
        let memory = bounds.memory.clamp(2 * spine::wire::cluster::ANSWER_BYTES, Semaphore::MAX_PERMITS);
        let memory = [Arc::new(Semaphore::new(memory)), Arc::new(Semaphore::new(memory))];
        let peers = Arc::new(Peers::new(bounds.connections, bounds.connections_per_peer, bounds.calls_per_peer));
        Ok(Server { shared: Arc::new(Shared { node, trust, bounds, memory, peers }), config })
    }
}

#[cfg(test)]
mod tests;
