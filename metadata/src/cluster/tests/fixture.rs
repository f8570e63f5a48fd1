//! Members in one process over real sockets, each behind a proxy that can cut it off, and the CA that admits them.

use crate::checkpoint::INSTALLED;
use crate::cluster::{Beat, Begin, Bounds, Client, ClientBounds, Membership, Server};
use crate::service::{MetadataNode, OpenError, Settings};
use crate::table::{Space, TableRead};
use crate::{journal, propose};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, SanType};
use rustls::ClientConfig;
use rustls::pki_types::PrivateKeyDer;
use spine::fleet::admission::{Admission, Role};
use spine::fleet::tls::{self, Identity, Served, Shown};
use spine::fleet::trust::Trust;
use spine::id::{FleetId, NodeId, TenantId, UnixMs};
use spine::wire::cluster::Endpoint;
use spine::wire::copy::Tally;
use spine::wire::format::{Format, NEWEST};
use spine::wire::root::{RootAnswer, RootCommand, RootQuery, TenantRecord};
use spine::wire::{Answer, Batch, Chain, Command, Metadata, Query};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};

const FLEET: FleetId = FleetId([3; 16]);

/// A CA.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: Vec<u8>,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Self { issuer: Issuer::new(params, key), der }
    }

    pub fn trust(&self) -> Arc<Trust> {
        Arc::new(Trust::new(FLEET, &self.der).unwrap())
    }

    /// A key with a certificate.
    pub fn admit(&self, role: Role) -> Identity {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let address = (role != Role::Gateway).then(|| "127.0.0.1:7500".to_string());
        let admission = Admission { fleet: FLEET, role, machine: "m".into(), zone: "z".into(), capacity: 0, address };
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(admission.to_uri().unwrap().try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2100, 1, 1);
        let der = params.signed_by(&key, &self.issuer).unwrap().der().to_vec();
        Identity::new(&der, PrivateKeyDer::try_from(key.serialize_der()).unwrap()).unwrap()
    }

    pub fn connect(&self, shown: Arc<Shown>) -> Arc<ClientConfig> {
        tls::client_of(self.trust(), shown, &[Role::Metadata]).unwrap()
    }
}

/// Stands between a member and everybody who calls it.
struct Proxy {
    address: String,
    to: Arc<Mutex<Option<SocketAddr>>>,
    open: Arc<AtomicBool>,
    running: Arc<Mutex<Vec<AbortHandle>>>,
    task: JoinHandle<()>,
}

impl Proxy {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let to: Arc<Mutex<Option<SocketAddr>>> = Arc::default();
        let (open, running) = (Arc::new(AtomicBool::new(true)), Arc::<Mutex<Vec<AbortHandle>>>::default());
        let (target, is_open, tasks) = (to.clone(), open.clone(), running.clone());
        let task = tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                let Some(target) = target.lock().unwrap().filter(|_| is_open.load(Ordering::SeqCst)) else { continue };
                let passing = tokio::spawn(async move {
                    from.set_nodelay(true).unwrap();
                    if let Ok(mut to) = TcpStream::connect(target).await {
                        to.set_nodelay(true).unwrap();
                        let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                    }
                });
                let mut tasks = tasks.lock().unwrap();
                tasks.retain(|task| !task.is_finished());
                tasks.push(passing.abort_handle());
            }
        });
        Self { address, to, open, running, task }
    }

    fn break_connections(&self) {
        self.running.lock().unwrap().drain(..).for_each(|task| task.abort());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.break_connections();
        self.task.abort();
    }
}

/// One member: what stays of it while it is down, and what runs.
pub struct Place {
    pub dir: TempDir,
    identity: Identity,
    shown: Arc<Shown>,
    /// What it understands, from its next start on.
    pub newest: Format,
    proxy: Proxy,
    pub node: Option<Arc<MetadataNode>>,
    server: Option<JoinHandle<usize>>,
    stop: watch::Sender<bool>,
}

pub struct Cluster {
    pub authority: Authority,
    stranger: Authority,
    pub places: Vec<Place>,
    pub client: Arc<Client>,
    kept_entries: u64,
}

impl Cluster {
    /// `count` members, all of which vote.
    pub async fn start(count: usize, kept_entries: u64) -> Self {
        Self::start_of(NEWEST, count, kept_entries).await
    }

    /// The same of a version that understands no newer format.
    pub async fn start_of(newest: Format, count: usize, kept_entries: u64) -> Self {
        let (authority, stranger) = (Authority::new(), Authority::new());
        let mut places = Vec::new();
        for _ in 0..count {
            places.push(Place { newest, ..Place::new(&authority).await });
        }
        let seeds = places.iter().map(Place::endpoint).collect();
        let client = client_of(&authority, seeds);
        let mut cluster = Self { authority, stranger, places, client, kept_entries };
        for n in 0..count {
            cluster.run(n, if n == 0 { Begin::Found } else { Begin::Join }).await;
            cluster.join(n).await;
        }
        cluster
    }

    /// A place for one more member, which does not run yet.
    pub async fn prepare(&mut self) -> usize {
        self.places.push(Place::new(&self.authority).await);
        self.places.len() - 1
    }

    /// One more member, without a vote yet.
    pub async fn add(&mut self) -> usize {
        let n = self.prepare().await;
        self.run(n, Begin::Join).await;
        n
    }

    pub async fn join(&self, n: usize) {
        self.node(n).join(&self.client, Duration::from_secs(60)).await.unwrap();
    }

    pub fn node(&self, n: usize) -> &Arc<MetadataNode> {
        self.places[n].node.as_ref().unwrap()
    }

    fn settings(&self, n: usize, begin: Begin) -> Settings {
        let (authority, kept_entries, place) = (&self.authority, self.kept_entries, &self.places[n]);
        let beat = Beat { every: Duration::from_millis(150), election: Duration::from_millis(500), kept_entries };
        let membership = Membership { at: place.endpoint(), connect: authority.connect(place.shown.clone()), begin, beat };
        Settings {
            newest: place.newest,
            map_bytes: 1 << 30,
            journal: journal::Settings { segment_bytes: 1 << 20, ..journal::Settings::default() },
            propose: propose::Settings { door_deadline: Duration::from_secs(2), ..propose::Settings::default() },
            checkpoint_interval: Duration::from_secs(2),
            quiet: Duration::from_secs(1),
            log_bytes: 8 << 20,
            membership: Some(membership),
            ..Settings::new(place.dir.path())
        }
    }

    /// Opens the folder and serves it.
    pub async fn run(&mut self, n: usize, begin: Begin) {
        self.try_run(n, begin).await.unwrap();
    }

    /// # Errors
    /// The folder cannot be opened.
    pub async fn try_run(&mut self, n: usize, begin: Begin) -> Result<(), OpenError> {
        let node = MetadataNode::open(self.settings(n, begin)).await?;
        let (authority, place) = (&self.authority, &mut self.places[n]);
        let served = Arc::new(Served::default());
        served.set(place.identity.clone());
        let server = Server::new(node.clone(), authority.trust(), served, Bounds::default()).unwrap();
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        *place.proxy.to.lock().unwrap() = Some(socket.local_addr().unwrap());
        place.stop = watch::Sender::new(false);
        place.server = Some(tokio::spawn(server.serve(socket, place.stop.subscribe(), Duration::from_secs(1))));
        place.node = Some(node);
        Ok(())
    }

    /// Bytes of a member's log files that hold entries.
    pub fn log_bytes(&self, n: usize) -> u64 {
        self.node(n).log_bytes()
    }

    /// Ends a member as a kill does: nothing is finished.
    pub async fn kill(&mut self, n: usize) {
        self.end(n, true).await;
    }

    /// Ends a member in order: its table has a checkpoint of all that it applied.
    pub async fn shut_down(&mut self, n: usize) {
        self.end(n, false).await;
    }

    async fn end(&mut self, n: usize, kill: bool) {
        let place = &mut self.places[n];
        place.proxy.break_connections();
        if let Some(server) = place.server.take() {
            server.abort();
            let _ = server.await;
        }
        let node = place.node.take().unwrap();
        if kill {
            node.kill().await;
        } else {
            node.shutdown().await;
        }
        let begun = Instant::now();
        while Arc::strong_count(&node) > 1 {
            assert!(begun.elapsed() < Duration::from_secs(20), "somebody keeps the node");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Nobody hears it, and it hears nobody.
    pub fn cut_off(&self, n: usize) {
        self.places[n].shown.set(self.stranger.admit(Role::Metadata));
        self.places[n].proxy.open.store(false, Ordering::SeqCst);
        // What runs already was shown the old certificate.
        self.places.iter().for_each(|place| place.proxy.break_connections());
    }

    pub fn reconnect(&self, n: usize) {
        let place = &self.places[n];
        place.shown.set(place.identity.clone());
        place.proxy.open.store(true, Ordering::SeqCst);
        self.places.iter().for_each(|place| place.proxy.break_connections());
    }

    /// The member that most recently was elected, of those that think they lead.
    pub async fn leader(&self) -> usize {
        let begun = Instant::now();
        loop {
            let leads = |n: &usize| self.places[*n].node.as_ref().is_some_and(|node| leads(node));
            let term = |n: &usize| self.node(*n).status().groups[0].term;
            if let Some(n) = (0..self.places.len()).filter(leads).max_by_key(term) {
                return n;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "nobody leads");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Returns when all running members have applied the same, and checks that their tables are the same.
    pub async fn agree(&self) {
        let nodes: Vec<_> = self.places.iter().filter_map(|place| place.node.clone()).collect();
        let begun = Instant::now();
        loop {
            let applied: Vec<(u64, u64)> = nodes.iter().map(|node| node.status().groups.remove(0)).map(|g| (g.applied, g.last)).collect();
            if applied.iter().all(|(applied, last)| applied == last && *applied == applied_max(&nodes)) {
                let tables: Vec<_> = nodes.iter().map(|node| tally(node)).collect();
                // An election in between adds an entry.
                if nodes.iter().all(|node| node.status().groups[0].applied == applied[0].0) {
                    assert!(tables.windows(2).all(|pair| pair[0] == pair[1]), "tables differ: {tables:?}");
                    return;
                }
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "members do not catch up: {applied:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

pub fn client_of(authority: &Authority, seeds: Vec<Endpoint>) -> Arc<Client> {
    let shown = Arc::new(Shown::new(authority.admit(Role::Gateway)));
    let bounds = ClientBounds { deadline: Duration::from_secs(30), refresh: Duration::from_millis(500), ..ClientBounds::default() };
    Client::start(seeds, authority.connect(shown), bounds).unwrap()
}

fn applied_max(nodes: &[Arc<MetadataNode>]) -> u64 {
    nodes.iter().map(|node| node.status().groups[0].applied).max().unwrap()
}

pub fn leads(node: &MetadataNode) -> bool {
    let status = node.status();
    status.groups[0].leader == Some(status.member.id)
}

/// Rows and digest of a node's table, but for what is its own.
pub fn tally(node: &MetadataNode) -> (u64, [u8; 32]) {
    let read = node.checkpoints().table().read().unwrap();
    let mut tally = Tally::default();
    for space in Space::ALL {
        let mut scan = read.scan(space, b"").unwrap();
        while let Some((key, value)) = scan.next().unwrap() {
            if !(space == Space::Meta && key == INSTALLED) {
                tally.count(space as u8, key, value);
            }
        }
    }
    (tally.rows(), tally.digest())
}

impl Place {
    async fn new(authority: &Authority) -> Self {
        let identity = authority.admit(Role::Metadata);
        Self {
            dir: tempfile::tempdir().unwrap(),
            shown: Arc::new(Shown::new(identity.clone())),
            newest: NEWEST,
            identity,
            proxy: Proxy::start().await,
            node: None,
            server: None,
            stop: watch::Sender::new(false),
        }
    }

    pub fn endpoint(&self) -> Endpoint {
        Endpoint { node: self.key(), address: self.proxy.address.clone() }
    }

    fn key(&self) -> NodeId {
        self.identity.node()
    }

    /// Gives it an empty folder.
    pub fn lose_folder(&mut self) {
        self.dir = tempfile::tempdir().unwrap();
    }
}

pub fn tenant(id: u64) -> Batch {
    let record = TenantRecord { id: TenantId(id), name: format!("tenant-{id}"), secrets: Vec::new(), created: UnixMs(id), revoked: false };
    Batch { chain: Chain::Stop, commands: vec![Command::Root(RootCommand::CreateTenant(record))] }
}

pub async fn has(metadata: &dyn Metadata, id: u64) -> bool {
    match metadata.query(Query::Root(RootQuery::Tenant(TenantId(id)))).await.unwrap() {
        Answer::Root(RootAnswer::Tenant(found)) => found.is_some(),
        other => panic!("{other:?}"),
    }
}
