//! A fleet's data plane in one process: a CA, nodes in memory, the real server and the real links over loopback.

use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, PKCS_ED25519, SanType, SigningKey};
use rustls::ClientConfig;
use rustls::pki_types::PrivateKeyDer;
use spine::fleet::admission::{Admission, Role};
use spine::fleet::revocation::{self, Revocations, SignedRevocations};
use spine::fleet::tls::{self, Identity, Served, Shown};
use spine::fleet::trust::Trust;
use spine::id::{ChunkId, FleetId, Gen, KeyEpoch, NodeId, ShardIndex, ShardRoot, Tag, TenantId};
use spine::wire::chunk::{Sealed, ShardName};
use spine::wire::namespace::Codec;
use spine::wire::shard::{NodeError, NodeState, NodeStatus, ShardHeader, StorageNode};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use storage_node::serve::{Bounds, Keep, Server};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The fleet of an [`Authority`] unless it is told otherwise.
pub const FLEET: FleetId = FleetId([0x42; 16]);
/// Bytes that a node is admitted for.
pub const CAPACITY: u64 = 1 << 40;

/// A peer's key and what the CA said of it.
pub struct Certified {
    pub node: NodeId,
    pub der: Vec<u8>,
    key: KeyPair,
}

impl Certified {
    /// The private key, PKCS#8.
    pub fn pkcs8(&self) -> Vec<u8> {
        self.key.serialize_der()
    }

    pub fn identity(&self) -> Result<Identity, String> {
        let key = PrivateKeyDer::try_from(self.key.serialize_der())?;
        Identity::new(&self.der, key).map_err(|e| e.to_string())
    }
}

/// A CA.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: Vec<u8>,
}

impl Authority {
    pub fn new() -> Result<Authority, String> {
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(|e| e.to_string())?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let der = params.self_signed(&key).map_err(|e| e.to_string())?.der().to_vec();
        Ok(Authority { issuer: Issuer::new(params, key), der })
    }

    pub fn trust(&self) -> Result<Arc<Trust>, String> {
        Trust::new(FLEET, &self.der).map(Arc::new).map_err(|e| e.to_string())
    }

    /// A new peer of this role, admitted until 2100.
    pub fn admit(&self, role: Role) -> Result<Certified, String> {
        self.certify(admission(role), 2100)
    }

    /// A new peer with this admission, until the first day of `until`.
    pub fn certify(&self, admission: Admission, until: i32) -> Result<Certified, String> {
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(|e| e.to_string())?;
        let uri = admission.to_uri().map_err(|e| e.to_string())?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().map_err(|e: rcgen::Error| e.to_string())?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let der = params.signed_by(&key, &self.issuer).map_err(|e| e.to_string())?.der().to_vec();
        let node = NodeId(key.public_key_raw().try_into().map_err(|_| "not 32 bytes of key")?);
        Ok(Certified { node, der, key })
    }

    /// A revocation list as it travels.
    pub fn revoke(&self, version: u64, nodes: &[NodeId]) -> Result<Bytes, String> {
        let list = Revocations { fleet: FLEET, version, nodes: nodes.to_vec() }.encode().map_err(|e| e.to_string())?;
        let signature = self.issuer.key().sign(&revocation::message(&list)).map_err(|e| e.to_string())?.into();
        SignedRevocations { list, signature }.encode().map_err(|e| e.to_string())
    }
}

/// An admission to [`FLEET`]; the address is nobody's.
pub fn admission(role: Role) -> Admission {
    let stores = role == Role::StorageNode;
    Admission {
        fleet: FLEET,
        role,
        machine: "machine-1".to_string(),
        zone: "zone-1".to_string(),
        capacity: if stores { CAPACITY } else { 0 },
        address: stores.then(|| "127.0.0.1:1".to_string()),
    }
}

/// A client's configuration that shows `who`.
pub fn client(trust: &Arc<Trust>, who: &Certified) -> Result<Arc<ClientConfig>, String> {
    tls::client(trust.clone(), Arc::new(Shown::new(who.identity()?))).map_err(|e| e.to_string())
}

/// A running server.
pub struct Plane {
    pub address: SocketAddr,
    pub trust: Arc<Trust>,
    stop: watch::Sender<bool>,
    task: JoinHandle<usize>,
}

impl Plane {
    /// Serves `node` under the certificate `who`, on a port that the kernel gives.
    pub async fn start(
        trust: Arc<Trust>,
        who: &Certified,
        node: Arc<dyn StorageNode>,
        bounds: Bounds,
        keep: Keep,
    ) -> Result<Plane, String> {
        let served = Arc::new(Served::default());
        served.set(who.identity()?);
        let server = Server::new(trust.clone(), served, vec![node], bounds, keep).map_err(|e| e.to_string())?;
        let socket = TcpListener::bind("127.0.0.1:0").await.map_err(|e| e.to_string())?;
        let address = socket.local_addr().map_err(|e| e.to_string())?;
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(server.serve(socket, stopped, Duration::from_secs(5)));
        Ok(Plane { address, trust, stop, task })
    }

    /// Stops it as a signal would; how many connections were cut off.
    pub async fn stop(self) -> Result<usize, String> {
        self.stop.send_replace(true);
        self.task.await.map_err(|e| e.to_string())
    }
}

/// A [`Keep`] that keeps nothing.
pub fn keep_nothing() -> Keep {
    Box::new(|_| Ok(()))
}

/// A node in memory.
pub struct MemoryNode {
    id: NodeId,
    shards: Mutex<BTreeMap<ShardName, (ShardHeader, Bytes)>>,
}

impl MemoryNode {
    pub fn new(id: NodeId) -> Arc<MemoryNode> {
        Arc::new(MemoryNode { id, shards: Mutex::default() })
    }

    pub fn shards(&self) -> MutexGuard<'_, BTreeMap<ShardName, (ShardHeader, Bytes)>> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait::async_trait]
impl StorageNode for MemoryNode {
    fn id(&self) -> NodeId {
        self.id
    }

    fn machine(&self) -> String {
        "machine-1".to_string()
    }

    fn status(&self) -> NodeStatus {
        let shards = self.shards();
        let shard_bytes = shards.values().map(|(_, data)| data.len() as u64).sum();
        let (state, capacity) = (NodeState::Serving, CAPACITY);
        NodeStatus { state, capacity, free: capacity - shard_bytes, shards: shards.len() as u64, shard_bytes, trash_bytes: 0 }
    }

    async fn put(&self, header: ShardHeader, data: Bytes) -> Result<(), NodeError> {
        let mut shards = self.shards();
        match shards.get(&header.name) {
            Some((known, _)) if known.root == header.root => Ok(()),
            Some(_) => Err(NodeError::Invalid { what: "another root under a known name".to_string() }),
            None => {
                // A copy, as a disk makes one: the bytes that came stand for the server's memory.
                shards.insert(header.name, (header, Bytes::copy_from_slice(&data)));
                Ok(())
            }
        }
    }

    async fn get(&self, name: ShardName) -> Result<(ShardHeader, Bytes), NodeError> {
        self.shards().get(&name).cloned().ok_or(NodeError::NotFound)
    }

    async fn has(&self, names: Vec<ShardName>) -> Result<Vec<bool>, NodeError> {
        let shards = self.shards();
        Ok(names.iter().map(|name| shards.contains_key(name)).collect())
    }

    async fn trash(&self, names: Vec<ShardName>) -> Result<(), NodeError> {
        let mut shards = self.shards();
        for name in names {
            shards.remove(&name);
        }
        Ok(())
    }

    async fn list(&self, after: Option<ShardName>, max: usize) -> Result<Vec<(ShardName, u32)>, NodeError> {
        let shards = self.shards();
        let later = shards.iter().filter(|(name, _)| after.is_none_or(|after| **name > after));
        Ok(later.take(max).map(|(name, (header, _))| (*name, header.len)).collect())
    }
}

/// A shard of `len` bytes that `seed` makes, with its header.
pub fn shard(seed: u64, len: usize) -> (ShardHeader, Bytes) {
    let mut data = vec![0; len];
    blake3::Hasher::new_derive_key("a shard").update(&seed.to_le_bytes()).finalize_xof().fill(&mut data);
    let name = ShardName { chunk: chunk(seed), generation: Gen(7), index: ShardIndex(2), tag: Tag(seed) };
    let sealed_len = 4 * len as u32;
    let sealed = Sealed { tenant: TenantId(1), epoch: KeyEpoch(1), codec: Codec::Plain, len: sealed_len, sealed_len, k: 4, m: 2 };
    let header = ShardHeader { name, sealed, root: ShardRoot(*blake3::hash(&data).as_bytes()), len: len as u32 };
    (header, data.into())
}

fn chunk(seed: u64) -> ChunkId {
    ChunkId(*blake3::hash(&seed.to_be_bytes()).as_bytes())
}
