//! `breakwater storage-node`: the disks of one machine, each a node of a fleet.
//!
//! ```text
//! listeners bound -> disks open (new ones make a key) -> papers, or join once -> data plane, operations -> serving
//! disks that are away: looked for, and served as soon as they are back        --request, --admitted: papers by a file (offline.rs)
//! SIGTERM: accept nothing -> finish calls -> disks -> exit 0
//! ```
//! Invariants: an empty folder becomes a node only with an invitation in hand; nothing is served before every disk that opened has
//! papers of one and the same fleet; a second start asks nobody.
//! Not here: judging peers, calls (`storage_node::serve`), asking (`fleet/apply.rs`).

mod announce;
mod disks;
mod offline;
mod operations;
mod papers;
mod renew;

use super::{ServeError, bind, local, process};
use crate::boot::BootError;
use crate::fleet::apply::{self, ApplyError, Gate, NodeSigner};
use crate::fleet::authority::fingerprint;
use crate::fleet::token::{Door, NoToken, Token};
use announce::Announcer;
use disks::{Disks, Node, Seeker};
use papers::Papers;
use spine::fleet::admission::{AdmissionError, is_address};
use spine::fleet::tls::{Identity, Served};
use spine::fleet::trust::Trust;
use spine::id::NodeId;
use spine::wire::admission::{AdmissionRefusal, Admitted, NODES, Place};
use spine::wire::shard::StorageNode;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use storage_node::serve::{Bounds, Server};
use storage_node::{NodeKey, OpenError};
use tokio::sync::{mpsc, watch};

/// How long running calls may take to finish after SIGTERM.
const SHUTDOWN: Duration = Duration::from_secs(20);
/// How often and how many times a gateway that does not answer is asked to admit: it may be starting itself.
const JOIN_PAUSE: Duration = Duration::from_secs(2);
const JOIN_TRIES: usize = 10;

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Settings {
    pub disks: Vec<PathBuf>,
    pub listen: SocketAddr,
    /// `host:port` as gateways reach it; `None`: as it is listened on.
    pub advertise: Option<String>,
    pub machine: String,
    pub zone: String,
    pub ops_listen: SocketAddr,
    pub join: Option<String>,
    /// Where a request to be admitted by file goes; the process ends then.
    pub request: Option<PathBuf>,
    /// What `breakwater admin fleet admit` answered to one.
    pub admitted: Option<PathBuf>,
    /// Bytes of each disk.
    pub capacity: Option<u64>,
    /// Where the routing layer listens; `None`: this process takes no part in it.
    pub routing_listen: Option<SocketAddr>,
    /// `host:port` of routers to begin with.
    pub bootstrap: Vec<String>,
    /// How long reading and checking everything takes.
    pub scrub_round: Duration,
}

/// Why a storage process does not start.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error("{0}")]
    Disk(#[from] OpenError),
    #[error("no disk opens. {reasons}. New disks need an invitation: --join TOKEN")]
    NoDisk { reasons: String },
    #[error("there are {0} disks, a process has at most {NODES}")]
    TooMany(usize),
    #[error("--join: {0}")]
    Token(#[from] NoToken),
    #[error("the disk has joined no fleet. dir=`{dir}`. Ask for an invitation (`breakwater admin fleet invite`) and give it with --join.")]
    NotJoined { dir: PathBuf },
    #[error("{0}")]
    Apply(#[from] ApplyError),
    #[error("the disk's papers do not read. dir=`{dir}`, reason=`{reason}`")]
    Papers { dir: PathBuf, reason: String },
    /// A request or an admission that is carried by hand.
    #[error("the file cannot be used. file=`{file}`, reason=`{reason}`")]
    Carried { file: PathBuf, reason: String },
    #[error("the disks are of different fleets. dirs=`{one}`, `{other}`")]
    TwoFleets { one: PathBuf, other: PathBuf },
    #[error("{0} is no address that gateways could reach; give one with --advertise HOST:PORT")]
    Advertise(String),
    #[error("--machine or --zone: {0}")]
    Place(#[from] AdmissionError),
    #[error("TLS of the data plane cannot be set up. reason=`{0}`")]
    Tls(String),
    #[error("--routing-listen: {0}")]
    Routing(#[from] routing::RoutingError),
    #[error(transparent)]
    Files(#[from] BootError),
}

/// `breakwater storage-node`.
pub fn run(settings: Settings) -> ExitCode {
    super::finish(process::runtime().and_then(|runtime| runtime.block_on(serve(settings))))
}

impl NodeSigner for NodeKey {
    fn node(&self) -> NodeId {
        NodeKey::node(self)
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, String> {
        NodeKey::sign(self, message)
    }
}

async fn serve(settings: Settings) -> Result<(), ServeError> {
    let mut signals = process::Signals::listen()?;
    process::raise_open_files();
    let token = settings.join.as_deref().map(|text| Token::through(Door::StorageNode, text)).transpose().map_err(StorageError::from)?;
    if let Some(file) = &settings.request {
        return Ok(offline::request(&settings, file).await?);
    }
    let socket = bind(settings.listen, "--listen").await?;
    let ops_socket = bind(settings.ops_listen, "--ops-listen").await?;
    let (address, ops_address) = (local(&socket)?, local(&ops_socket)?);
    let place = place(&settings, address)?;
    crate::ops::process::Process::register(tokio::runtime::Handle::current());
    let disks = Arc::new(Disks::open(&settings, token.is_some()).await?);
    let (stop, stopped) = watch::channel(false);
    let started = match start(&settings, &disks, place, token.as_ref(), stopped.clone()).await {
        Ok(started) => started,
        Err(error) => {
            disks.close().await;
            return Err(error.into());
        }
    };
    let data = tokio::spawn(started.server.serve(socket, stopped.clone(), SHUTDOWN));
    let renewing = tokio::spawn(started.renewal.run(stopped.clone()));
    let seeking = tokio::spawn(started.seeker.run(stopped.clone()));
    let operations = operations::serve(ops_socket, disks.clone(), stopped);

    let mut text = format!("data on {address}\noperations on http://{ops_address}\n");
    text.extend(started.routing.map(|address| format!("routing on {address}\n")));
    for node in disks.nodes() {
        text.push_str(&format!("node {} in {}\n", node.key.node(), node.dir.display()));
    }
    for missing in disks.missing() {
        text.push_str(&format!("away {}: {}\n", missing.dir.display(), missing.reason));
    }
    let mut out = std::io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());

    signals.wait().await;
    tracing::info!(target: "breakwater", "stopping: finishing calls");
    let _ = stop.send(true);
    tokio::select! {
        ended = data => if ended.as_ref().is_ok_and(|cut_off| *cut_off > 0) {
            tracing::warn!(target: "breakwater", connections = ended.unwrap_or(0), "calls were cut off at the deadline");
        },
        () = signals.wait() => tracing::warn!(target: "breakwater", "told twice: stopping without waiting for calls"),
    }
    let _ = operations.await;
    let _ = renewing.await;
    let _ = seeking.await;
    disks.close().await;
    tracing::info!(target: "breakwater", "stopped");
    Ok(())
}

/// Machine, zone and address as they are asked for.
fn place(settings: &Settings, address: SocketAddr) -> Result<Place, StorageError> {
    let told = settings.advertise.clone().unwrap_or_else(|| address.to_string());
    let nowhere = settings.advertise.is_none() && address.ip().is_unspecified();
    if nowhere || !is_address(&told) {
        return Err(StorageError::Advertise(told));
    }
    let asked = spine::fleet::admission::Admission {
        fleet: spine::id::FleetId([0; 16]),
        role: spine::fleet::admission::Role::StorageNode,
        machine: settings.machine.clone(),
        zone: settings.zone.clone(),
        capacity: 1,
        address: Some(told.clone()),
    };
    asked.check()?;
    Ok(Place { machine: settings.machine.clone(), zone: settings.zone.clone(), address: told })
}

/// Every node's papers: those on the disks, and for disks that have none those that the invitation gets.
async fn papers_of(nodes: &[Arc<Node>], place: &Place, token: Option<&Token>) -> Result<Vec<Papers>, StorageError> {
    let mut papers: Vec<Option<Papers>> = nodes.iter().map(|node| Papers::load(&node.dir)).collect::<Result<_, _>>()?;
    let new: Vec<usize> = (0..nodes.len()).filter(|at| papers[*at].is_none()).collect();
    if let Some(first) = new.first() {
        let token = token.ok_or_else(|| StorageError::NotJoined { dir: nodes[*first].dir.clone() })?;
        let applicants: Vec<(NodeKey, u64)> = new.iter().map(|at| (nodes[*at].key.clone(), nodes[*at].disk.status().capacity)).collect();
        let admitted = join(token, place, &applicants).await?;
        for (at, certificate) in new.iter().zip(&admitted.certificates) {
            let dir = &nodes[*at].dir;
            let own = Papers::new(dir, token.address.clone(), admitted.authority.to_vec(), certificate.to_vec())?;
            own.save(dir)?;
            papers[*at] = Some(own);
        }
        if !admitted.revocations.is_empty() {
            let dirs: Vec<PathBuf> = new.iter().map(|at| nodes[*at].dir.clone()).collect();
            let kept = papers::keep_revocations(&dirs, &admitted.revocations);
            kept.map_err(|source| BootError::Folder { path: dirs[0].clone(), source })?;
        }
    }
    let mut papers: Vec<Papers> = papers.into_iter().flatten().collect();
    // An invitation also says where the fleet admits now: a gateway may have moved.
    for (own, node) in papers.iter_mut().zip(nodes) {
        if let Some(token) = token.filter(|token| token.fingerprint == fingerprint(&own.authority) && token.address != own.gate) {
            own.gate.clone_from(&token.address);
            own.save(&node.dir)?;
        }
    }
    match papers.iter().position(|other| other.authority != papers[0].authority) {
        Some(at) => Err(StorageError::TwoFleets { one: nodes[0].dir.clone(), other: nodes[at].dir.clone() }),
        None => Ok(papers),
    }
}

/// Joins. An invitation that was used may have been used by these very nodes, whose process died before it heard: then their keys
/// are known, and that is enough for a certificate.
async fn join(token: &Token, place: &Place, applicants: &[(NodeKey, u64)]) -> Result<Admitted, StorageError> {
    let mut tries = 1;
    loop {
        match apply::join(token, place, applicants).await {
            Ok(admitted) => return Ok(admitted),
            Err(error @ ApplyError::Refused(AdmissionRefusal::InviteUsed | AdmissionRefusal::InviteExpired)) => {
                let gate = Gate { address: token.address.clone(), fingerprint: token.fingerprint };
                return apply::renew(&gate, place, applicants).await.map_err(|_| error.into());
            }
            Err(error @ (ApplyError::Silent { .. } | ApplyError::Refused(AdmissionRefusal::Unavailable { .. }))) if tries < JOIN_TRIES => {
                tracing::warn!(target: "breakwater", %error, "joining is tried again");
                tries += 1;
                tokio::time::sleep(JOIN_PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// What serves, not yet started.
struct Started {
    server: Server,
    renewal: renew::Renewal,
    seeker: Seeker,
    /// Where the routing layer listens.
    routing: Option<SocketAddr>,
}

async fn start(
    settings: &Settings,
    disks: &Arc<Disks>,
    place: Place,
    token: Option<&Token>,
    stop: watch::Receiver<bool>,
) -> Result<Started, StorageError> {
    let tls = |error: &dyn std::fmt::Display| StorageError::Tls(error.to_string());
    let nodes = disks.nodes();
    if let Some(file) = &settings.admitted {
        offline::take_in(file, &nodes)?;
    }
    let papers = papers_of(&nodes, &place, token).await?;
    let (fleet, authority) = (papers[0].says.admission.fleet, papers[0].authority.clone());
    let trust = Arc::new(Trust::new(fleet, &authority).map_err(|error| tls(&error))?);
    for node in &nodes {
        if let Some(list) = papers::load_revocations(&node.dir)?
            && let Err(error) = trust.revoke(&list)
        {
            // Disks that were away have older ones; the newest counts, and gateways bring newer.
            tracing::debug!(%error, dir = %node.dir.display(), "a revocation list was left aside");
        }
    }
    let served = Arc::new(Served::default());
    for (node, papers) in nodes.iter().zip(&papers) {
        served.set(identity(&node.key, papers).map_err(|error| tls(&error))?);
    }
    let own: Vec<NodeId> = nodes.iter().map(|node| node.key.node()).filter(|node| trust.is_revoked(*node)).collect();
    if !own.is_empty() {
        tracing::error!(target: "breakwater", nodes = ?own, "these nodes were retired: no gateway talks to them any more");
    }
    let dirs = settings.disks.clone();
    let keep = Box::new(move |list: &[u8]| papers::keep_revocations(&dirs, list));
    let links = nodes.iter().map(|node| node.disk.clone() as Arc<dyn StorageNode>).collect();
    let server = Server::new(trust.clone(), served.clone(), links, Bounds::default(), keep).map_err(|error| tls(&error))?;
    let announcer = Announcer::start(settings, &nodes, &papers, &place, trust.clone(), stop).await?;
    let routing = announcer.as_ref().and_then(Announcer::listens);
    let (found, coming) = mpsc::unbounded_channel();
    let hosted = server.hosted();
    let seeker = Seeker { settings: settings.clone(), disks: disks.clone(), trust, served: served.clone(), hosted, authority, found };
    let renewal = renew::Renewal::new(nodes, papers, place, served, announcer, coming);
    Ok(Started { server, renewal, seeker, routing })
}

fn identity(key: &NodeKey, papers: &Papers) -> Result<Identity, spine::fleet::tls::IdentityError> {
    let private = rustls::pki_types::PrivatePkcs8KeyDer::from(key.pkcs8().to_vec()).into();
    Identity::new(&papers.certificate, private)
}
