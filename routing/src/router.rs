//! The handle on routing of one process.

use crate::drive::{Ask, Drive};
use crate::handshake::Handshake;
use crate::membership::{Known, Membership, Stranger};
use crate::table;
use futures::StreamExt;
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::kad::store::{MemoryStore, MemoryStoreConfig};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{PeerId, StreamProtocol, Swarm, Transport, connection_limits, kad, swarm, tcp, yamux};
use spine::fleet::announcement::{ANNOUNCEMENT_BYTES, SignedAnnouncement};
use spine::fleet::trust::Trust;
use spine::id::NodeId;
use spine::wire::routing::Hello;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Connecting, Noise and hellos together.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// One lookup.
const QUERY: Duration = Duration::from_secs(10);
/// How long a node keeps an announcement that is not brought again.
const KEPT: Duration = Duration::from_secs(3_600);
/// Announcements that one process keeps for others.
const RECORDS: usize = 16_384;
/// Connections that are not let in yet, and open ones, that others may make.
const PENDING: u32 = 64;
const OPEN: u32 = 1_024;
/// Questions that wait for the task.
const ASKED: usize = 256;
/// PKCS#8 of an Ed25519 key, from behind its version to the key (RFC 8410).
const PKCS8: [u8; 11] = [0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// How a router is started.
pub struct Settings {
    /// The process' key, PKCS#8.
    pub key: Vec<u8>,
    /// Certificate of that key, DER.
    pub certificate: Vec<u8>,
    /// Where to listen; port 0 lets the kernel choose. `None`: it asks and is not asked (a gateway).
    pub listen: Option<SocketAddr>,
    /// `host:port` of routers to begin with.
    pub bootstrap: Vec<String>,
    /// Peers in one bucket of the table. Kademlia's 20 is enough to find anybody; more keep more of the fleet in the own table.
    pub bucket: usize,
    /// The longest pause between two announcements of the same thing; the first come sooner.
    pub announce_every: Duration,
    /// How long a connection is kept that nobody uses. Longer: fewer handshakes; shorter: fewer open files.
    pub idle: Duration,
}

impl Settings {
    /// Buckets of 20, announcing every ten minutes, connections kept for one.
    pub fn new(key: Vec<u8>, certificate: Vec<u8>) -> Settings {
        let (announce_every, idle) = (Duration::from_secs(600), Duration::from_secs(60));
        Settings { key, certificate, listen: None, bootstrap: Vec::new(), bucket: 20, announce_every, idle }
    }
}

/// What a process says of itself.
pub struct Own {
    /// Certificate of the router's key, DER.
    pub certificate: Vec<u8>,
    /// One of each of its nodes, that of the router's key first; none: a gateway.
    pub announcements: Vec<SignedAnnouncement>,
}

/// Why there is no routing.
#[derive(Debug, thiserror::Error)]
pub enum RoutingError {
    #[error("the router's key is not an Ed25519 key in PKCS#8")]
    Key,
    #[error("the address cannot be listened on. address=`{address}`, reason=`{reason}`")]
    Listen { address: SocketAddr, reason: String },
    #[error("routing cannot be set up. reason=`{0}`")]
    Setup(String),
    #[error("what is to be said of the process does not encode: {0}")]
    Hello(#[from] Stranger),
    #[error("routing has stopped")]
    Stopped,
}

/// What a lookup came to.
#[derive(Clone, Debug, Default)]
pub struct Lookup {
    /// The peers nearest to the key, nearest first.
    pub nearest: Vec<PeerId>,
    /// Requests sent.
    pub requests: u32,
    pub took: Duration,
}

/// What a router has at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub connected: usize,
    /// The peers of its table.
    pub table: Vec<PeerId>,
}

#[derive(NetworkBehaviour)]
pub(crate) struct Parts {
    pub limits: connection_limits::Behaviour,
    pub kad: kad::Behaviour<MemoryStore>,
}

/// One process' router. Dropping every clone of it ends its task.
#[derive(Clone)]
pub struct Router {
    peer: PeerId,
    /// Where it listens.
    address: Option<SocketAddr>,
    membership: Arc<Membership>,
    asks: mpsc::Sender<Ask>,
}

impl Router {
    /// Listens. It takes part once [`Self::introduce`] said who it is; needs a tokio runtime.
    pub async fn start(settings: Settings, trust: Arc<Trust>, stop: watch::Receiver<bool>) -> Result<Router, RoutingError> {
        let key = keypair(&settings.key)?;
        let peer = key.public().to_peer_id();
        let hello = Hello { certificate: settings.certificate.clone().into(), announcement: None };
        let membership = Arc::new(Membership::new(trust, &hello)?);
        let mut swarm = swarm(&key, &settings, membership.clone())?;
        let address = match settings.listen {
            None => None,
            Some(address) => Some(listen(&mut swarm, address).await?),
        };
        let (asks, asked) = mpsc::channel(ASKED);
        let drive = Drive::new(swarm, membership.clone(), settings.bootstrap, settings.announce_every);
        tokio::spawn(drive.run(asked, stop));
        Ok(Router { peer, address, membership, asks })
    }

    pub fn peer(&self) -> PeerId {
        self.peer
    }

    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Says who this process is, from now on; the first time, it begins to take part.
    pub async fn introduce(&self, own: Own) -> Result<(), RoutingError> {
        let announcement = own.announcements.first().cloned();
        self.membership.set_hello(&Hello { certificate: own.certificate.into(), announcement })?;
        self.asks.send(Ask::Introduce(own.announcements)).await.map_err(|_| RoutingError::Stopped)
    }

    /// What is known of a node without asking anybody.
    pub fn known(&self, node: NodeId) -> Option<Known> {
        self.membership.announced(node)
    }

    /// Asks the fleet for the newest announcement of a node; [`Self::known`] has it then, if there is one.
    pub async fn locate(&self, node: NodeId) -> Result<Lookup, RoutingError> {
        self.ask(|answer| Ask::Locate(node, answer)).await
    }

    /// The peers nearest to a key.
    pub async fn nearest(&self, key: Vec<u8>) -> Result<Lookup, RoutingError> {
        self.ask(|answer| Ask::Nearest(key, answer)).await
    }

    pub async fn snapshot(&self) -> Result<Snapshot, RoutingError> {
        self.ask(Ask::Snapshot).await
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, RoutingError> {
        let (answer, answered) = oneshot::channel();
        self.asks.send(ask(answer)).await.map_err(|_| RoutingError::Stopped)?;
        answered.await.map_err(|_| RoutingError::Stopped)
    }
}

/// libp2p's form of the key.
fn keypair(pkcs8: &[u8]) -> Result<Keypair, RoutingError> {
    let inner = pkcs8.get(5..).and_then(|rest| rest.strip_prefix(&PKCS8[..])).ok_or(RoutingError::Key)?;
    let seed = inner.get(..32).ok_or(RoutingError::Key)?.to_vec();
    Keypair::ed25519_from_bytes(seed).map_err(|_| RoutingError::Key)
}

fn swarm(key: &Keypair, settings: &Settings, membership: Arc<Membership>) -> Result<Swarm<Parts>, RoutingError> {
    let setup = |error: &dyn std::fmt::Display| RoutingError::Setup(error.to_string());
    let handshake = Handshake::new(key, membership).map_err(|error| setup(&error))?;
    let transport = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .upgrade(Version::V1)
        .authenticate(handshake)
        .multiplex(yamux::Config::default())
        .timeout(HANDSHAKE)
        .boxed();
    let peer = key.public().to_peer_id();
    let bucket = NonZeroUsize::new(settings.bucket).ok_or_else(|| setup(&"a bucket of 0 peers"))?;
    let mut config = kad::Config::new(StreamProtocol::new("/breakwater/kad/1"));
    config
        .set_query_timeout(QUERY)
        .set_kbucket_size(bucket)
        // Who is in the table is decided here, after the handshake.
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        // What is stored is judged first.
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_caching(kad::Caching::Disabled)
        .set_record_ttl(Some(KEPT))
        // Announced again by the process whose nodes they are, and by nobody else.
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_publication_interval(None);
    let store =
        MemoryStoreConfig { max_records: RECORDS, max_value_bytes: ANNOUNCEMENT_BYTES, max_provided_keys: 0, max_providers_per_key: 0 };
    let mut kad = kad::Behaviour::with_config(peer, MemoryStore::with_config(peer, store), config);
    kad.set_mode(Some(if settings.listen.is_some() { kad::Mode::Server } else { kad::Mode::Client }));
    let limits = connection_limits::ConnectionLimits::default()
        .with_max_pending_incoming(Some(PENDING))
        .with_max_established_incoming(Some(OPEN))
        .with_max_established_per_peer(Some(2));
    let parts = Parts { limits: connection_limits::Behaviour::new(limits), kad };
    let config = swarm::Config::with_tokio_executor().with_idle_connection_timeout(settings.idle);
    Ok(Swarm::new(transport, parts, peer, config))
}

async fn listen(swarm: &mut Swarm<Parts>, address: SocketAddr) -> Result<SocketAddr, RoutingError> {
    let failed = |reason: String| RoutingError::Listen { address, reason };
    swarm.listen_on(table::multiaddr(address)).map_err(|error| failed(error.to_string()))?;
    loop {
        match swarm.select_next_some().await {
            // All addresses have the port; which of them peers reach is the operator's to say.
            SwarmEvent::NewListenAddr { address, .. } => {
                return table::socket(&address).ok_or_else(|| failed("no TCP address".to_string()));
            }
            SwarmEvent::ListenerClosed { reason: Err(error), .. } => return Err(failed(error.to_string())),
            SwarmEvent::ListenerError { error, .. } => return Err(failed(error.to_string())),
            _ => {}
        }
    }
}
