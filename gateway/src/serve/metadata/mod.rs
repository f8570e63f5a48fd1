//! `breakwater metadata`: one of the processes that keep metadata together, each a whole replica.
//!
//! ```text
//! --init: CA, root key and the first certificate -> gateway-papers, member.json -> founds a cluster of one
//! --papers: of a node whose certificate ended while all was off: a new one (`again.rs`)
//! --found-again: the same of a cluster whose replicas are all lost (`again.rs`); empty, and silent until it is restored
//! --init --from: the same with the metadata, root key and CA of a gateway that kept its own -> `take.rs`
//! --join: an invitation of a gateway -> certificate -> member.json -> taken in by the leader
//! listeners bound -> papers -> replica open -> serving -> `keep.rs`
//! SIGTERM: accept nothing -> finish calls -> replica -> exit 0
//! log or table cannot be written: the same -> exit 1, so that whoever watches it starts it again
//! ```
//! Invariants: the fleet's CA is the one CA of storage nodes, gateways and metadata nodes; its key and the root key are in no metadata
//! process, but for the file that `--init` leaves for the gateways; a second start asks nobody.
//! Not here: what is kept (`metadata`), who gets a certificate (`fleet/enlist.rs`).

mod again;
mod keep;
mod levelling;
pub(super) mod moving;
mod operations;
pub mod papers;
mod replicas;
pub mod take;

use super::{ServeError, bind, local, process};
use crate::boot::{BootError, Home};
use crate::core::now;
use crate::fleet::apply::{self, ApplyError, Gate};
use crate::fleet::authority::{Authority, AuthorityError, fingerprint};
use crate::fleet::cluster::GatewayPapers;
use crate::fleet::enlist::{METADATA, metadata_admission};
use crate::fleet::table;
use crate::fleet::token::{Door, NoToken, Token};
use crate::keys::{KeyError, Keys, RootKey};
use ::metadata::cluster::{Beat, Begin, Bounds, Client, ClientBounds, Membership, Server};
use ::metadata::service::MetadataNode;
use keep::{Keeper, identity};
use papers::Papers;
use spine::fleet::admission::{AdmissionError, Role, is_address};
use spine::fleet::tls::{Served, Shown, client_of};
use spine::fleet::trust::Trust;
use spine::id::{FleetId, NodeId};
use spine::wire::admission::{AdmissionRefusal, Enlisted, Place};
use spine::wire::cluster::Endpoint;
use spine::wire::format::{Format, NEWEST};
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use storage_node::NodeKey;
use tokio::sync::{oneshot, watch};

/// How long running calls may take to finish after SIGTERM.
const SHUTDOWN: Duration = Duration::from_secs(10);
/// How long everything else may take to end once the disk has failed.
const ENDING: Duration = Duration::from_secs(30);
/// How often and how many times a gateway that does not answer is asked to admit: it may be starting itself.
const JOIN_PAUSE: Duration = Duration::from_secs(2);
const JOIN_TRIES: usize = 10;
/// What is said where the node's certificate has ended. It starts all the same: the clock may be wrong.
const ENDED: &str = "this node's certificate has ended, by this machine's clock: gateways and other metadata nodes refuse it. Where a majority of the others serves, start it with an invitation: --join TOKEN (`breakwater admin metadata invite`). Where all have ended: --papers FILE (`breakwater admin metadata papers`, in a gateway's folder, served or not)";
/// Life of the first node's first certificate: thirty days. Gateways renew it long before.
const FIRST_LIFE: Duration = Duration::from_secs(30 * 86_400);

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Settings {
    pub data: PathBuf,
    pub listen: SocketAddr,
    /// `host:port` as gateways and other metadata nodes reach it; `None`: as it is listened on.
    pub advertise: Option<String>,
    pub ops_listen: SocketAddr,
    /// Voters that each group besides the root's should have, where there are so many nodes. The one who leads the root group goes by its own.
    pub replicas: usize,
    pub begin: First,
    /// Whether the metadata processes are levelled out while this one leads the root group.
    pub balance: bool,
    /// The newest format of groups that this process takes part in.
    pub newest: Format,
}

/// What a folder without papers does.
#[derive(Clone, Debug)]
pub enum First {
    /// Founds a cluster.
    Init,
    /// Founds again the one that it was a member of, or that these gateway's papers are of: every replica is lost. Members that do not
    /// answer must be among those that are gone.
    Again { papers: Option<PathBuf>, gone: Vec<NodeId> },
    /// Is an error; one with papers makes its node a new certificate by these gateway's papers.
    Certify(PathBuf),
    /// Founds one with the metadata of the gateway in this folder.
    Take(PathBuf),
    /// Joins one, with this invitation.
    Join(String),
    /// Is an error.
    Nothing,
}

/// Why a metadata process does not start.
#[derive(Debug, thiserror::Error)]
pub enum MetadataRoleError {
    #[error(
        "this folder belongs to no cluster. path=`{path}`. Found one with --init, or ask for an invitation (`breakwater admin metadata invite`) and give it with --join."
    )]
    NotJoined { path: PathBuf },
    #[error("--papers: these are not of this node's fleet, or the node's key is not the one that was certified. path=`{path}`")]
    OtherFleet { path: PathBuf },
    #[error("--found-again: the replica is there. path=`{path}`. Start without it.")]
    NotLost { path: PathBuf },
    #[error(
        "--found-again: the metadata node at {address} still has what was thought to be lost. Start without it: this node catches up as soon as a majority of them runs."
    )]
    StillThere { address: String },
    #[error(
        "--found-again: these metadata nodes do not answer and may still have what was thought to be lost: {nodes}. Start them, with whatever their folders have. One that is lost for good, and runs nowhere: --gone with the part before the @."
    )]
    Silent { nodes: String },
    #[error("--found-again: the new replica cannot wait for a restore. reason=`{0}`")]
    Expect(String),
    #[error(
        "this node's disk does not take what it writes, and nothing was acknowledged since. path=`{path}`, reason=`{reason}`. Make room there, or replace the disk, and start the node again: it opens what is really there and catches up."
    )]
    Failed { path: PathBuf, reason: String },
    #[error(
        "--join: the invitation is for another cluster than the one that this folder belongs to. path=`{path}`. Choose an empty folder with --data, or start without --join."
    )]
    OtherCluster { path: PathBuf },
    #[error(
        "this node was removed from its cluster for good, and nobody talks to it any more. path=`{path}`. To use the machine again, choose an empty folder with --data and ask for a new invitation (`breakwater admin metadata invite`)."
    )]
    Removed { path: PathBuf },
    #[error("--init: the folder is in use already. path=`{path}`. Choose an empty one with --data.")]
    NotEmpty { path: PathBuf },
    #[error("--from: the gateway's metadata cannot be taken. path=`{path}`, reason=`{reason}`")]
    Give { path: PathBuf, reason: String },
    #[error("the folder is another role's. path=`{path}`. Choose an empty one with --data.")]
    OtherRole { path: PathBuf },
    #[error("--join: {0}")]
    Token(#[from] NoToken),
    #[error("{0}")]
    Apply(#[from] ApplyError),
    #[error("the node's papers do not read. path=`{path}`, reason=`{reason}`")]
    Papers { path: PathBuf, reason: String },
    #[error("{0} is no address that others could reach; give one with --advertise HOST:PORT")]
    Advertise(String),
    #[error("--advertise: {0}")]
    Place(#[from] AdmissionError),
    #[error("TLS of the metadata plane cannot be set up. reason=`{0}`")]
    Tls(String),
    #[error("{0}")]
    Key(#[from] KeyError),
    #[error("{0}")]
    NodeKey(#[from] storage_node::OpenError),
    #[error("{0}")]
    Authority(#[from] AuthorityError),
    #[error("no randomness. reason=`{0}`")]
    Random(String),
    #[error(transparent)]
    Files(#[from] BootError),
}

/// `breakwater metadata`.
pub fn run(settings: Settings) -> ExitCode {
    super::finish(process::runtime().and_then(|runtime| runtime.block_on(serve(settings))))
}

async fn serve(settings: Settings) -> Result<(), ServeError> {
    let mut signals = process::Signals::listen()?;
    process::raise_open_files();
    let home = Arc::new(Home::open(&settings.data)?);
    suits(&home)?;
    let socket = bind(settings.listen, "--listen").await?;
    let ops_socket = bind(settings.ops_listen, "--ops-listen").await?;
    let (address, ops_address) = (local(&socket)?, local(&ops_socket)?);
    crate::ops::process::Process::register(tokio::runtime::Handle::current());
    let advertised = advertised(&settings, address)?;
    let (key, papers) = papers_of(&home, &settings.begin, &advertised).await?;
    let at = Endpoint { node: key.node(), address: advertised };
    let gone = match &settings.begin {
        First::Again { gone, .. } => &gone[..],
        _ => &[],
    };
    let (server, mut keeper) = open(home.clone(), key, at, papers, (settings.newest, gone)).await?;
    keeper.gate = gate_of(&settings.begin)?;
    let node = keeper.node.clone();
    let client = keeper.client.clone();

    let (stop, stopped) = watch::channel(false);
    let serving = tokio::spawn(server.serve(socket, stopped.clone(), SHUTDOWN));
    let (tell_removed, removed) = oneshot::channel();
    let keeping = tokio::spawn(keeper.run(stopped.clone(), tell_removed));
    let moving = tokio::spawn(moving::run(node.clone(), client.clone(), stopped.clone()));
    let levelling = tokio::spawn(levelling::run(node.clone(), client.clone(), settings.balance, stopped.clone()));
    let replicas = tokio::spawn(replicas::run(node.clone(), client, settings.replicas, stopped.clone()));
    let operations = operations::serve(ops_socket, node.clone(), stopped);
    let mut text = format!("metadata on {address}\noperations on http://{ops_address}\nnode {}\n", node.status().member.at.node);
    if settings.newest < NEWEST {
        text.push_str(&format!("keeps to format {} and understands {NEWEST}\n", settings.newest));
    }
    let left = papers::gateway_papers(home.dir());
    if left.exists() {
        text.push_str(&format!(
            "gateways need {}: carry it to each (`breakwater gateway --metadata FILE`), keep a copy where nobody else reads it, and delete it here.\nIt names this node alone: for a gateway that comes later, `breakwater admin metadata papers --out FILE` at another gateway names all.\nIt holds the root key: without it nothing that is stored can ever be read.\n",
            left.display()
        ));
    }
    let mut out = std::io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());

    let failed = tokio::select! {
        () = signals.wait() => None,
        reason = node.failed() => Some(MetadataRoleError::Failed { path: home.metadata_dir(), reason }),
        Ok(()) = removed => Some(MetadataRoleError::Removed { path: home.dir().to_path_buf() }),
    };
    tracing::info!(target: "breakwater", "stopping: finishing calls");
    let _ = stop.send(true);
    tokio::select! {
        _ = serving => {}
        () = signals.wait() => tracing::warn!(target: "breakwater", "told twice: stopping without waiting for calls"),
    }
    let ending = async {
        let _ = keeping.await;
        let _ = moving.await;
        let _ = levelling.await;
        let _ = replicas.await;
        let _ = operations.await;
        node.shutdown().await;
    };
    // What waits for a disk that failed may wait for ever.
    let longest = if failed.is_some() { ENDING } else { Duration::MAX };
    let _ = tokio::time::timeout(longest, ending).await;
    tracing::info!(target: "breakwater", "stopped");
    failed.map_or(Ok(()), |failed| Err(failed.into()))
}

/// Where an invitation says that nodes are admitted.
fn gate_of(begin: &First) -> Result<Option<Gate>, MetadataRoleError> {
    let First::Join(text) = begin else { return Ok(None) };
    let Token { address, fingerprint, .. } = Token::through(Door::Metadata, text)?;
    Ok(Some(Gate { address, fingerprint }))
}

/// A folder serves one role for life.
fn suits(home: &Home) -> Result<(), MetadataRoleError> {
    let other = [home.slots_file(), table::folder(home.dir()), home.root_key_file()].iter().any(|path| path.exists());
    if other { Err(MetadataRoleError::OtherRole { path: home.dir().to_path_buf() }) } else { Ok(()) }
}

fn advertised(settings: &Settings, address: SocketAddr) -> Result<String, MetadataRoleError> {
    let told = settings.advertise.clone().unwrap_or_else(|| address.to_string());
    let nowhere = settings.advertise.is_none() && address.ip().is_unspecified();
    if nowhere || !is_address(&told) {
        return Err(MetadataRoleError::Advertise(told));
    }
    metadata_admission(FleetId([0; 16]), &told).check()?;
    Ok(told)
}

/// The node's key and papers: those in the folder, or new ones.
async fn papers_of(home: &Home, begin: &First, address: &str) -> Result<(NodeKey, Papers), MetadataRoleError> {
    let known = Papers::load(home.dir())?;
    let token = match begin {
        First::Join(text) => Some(Token::through(Door::Metadata, text)?),
        First::Init | First::Again { .. } | First::Certify(_) | First::Take(_) | First::Nothing => None,
    };
    match (known, begin, token) {
        (Some(known), First::Again { .. }, _) => {
            if !known.again && has_replica(home) {
                return Err(MetadataRoleError::NotLost { path: home.metadata_dir() });
            }
            let known = Papers { founds: true, again: true, ..known };
            known.save(home.dir())?;
            Ok((NodeKey::load_or_make(home.dir())?, known))
        }
        (Some(known), First::Certify(from), _) => again::certify(home, known, address, from),
        (Some(known), _, token) => {
            // The same command line at each start is no error; what it was for is done.
            if token.as_ref().is_some_and(|token| token.fingerprint != fingerprint(&known.authority)) {
                return Err(MetadataRoleError::OtherCluster { path: home.dir().to_path_buf() });
            }
            let key = NodeKey::load_or_make(home.dir())?;
            let over = u64::try_from(known.says.not_after).unwrap_or(0) <= now().0 / 1_000;
            match token {
                // It was away for longer than its certificate lasted; its key is known, and an invitation says where to ask.
                Some(token) if over => Ok((key.clone(), enlist(home, &token, &key, address).await?)),
                None if over => {
                    tracing::error!(target: "breakwater", "{ENDED}");
                    Ok((key, known))
                }
                _ => Ok((key, known)),
            }
        }
        (None, First::Init, _) => found(home, address),
        (None, First::Again { papers: Some(from), .. }, _) => again::of_papers(home, address, from),
        (None, First::Take(from), _) => take::take(home, from, address).await,
        (None, _, Some(token)) => {
            let key = NodeKey::load_or_make(home.dir())?;
            let papers = enlist(home, &token, &key, address).await?;
            Ok((key, papers))
        }
        (None, ..) => Err(MetadataRoleError::NotJoined { path: home.dir().to_path_buf() }),
    }
}

/// Makes the CA and the root key, this node's certificate, and the file for the gateways. `member.json` comes last: a crash before it
/// leaves a folder that begins again.
fn found(home: &Home, address: &str) -> Result<(NodeKey, Papers), MetadataRoleError> {
    if home.metadata_dir().exists() {
        return Err(MetadataRoleError::NotEmpty { path: home.dir().to_path_buf() });
    }
    let key = NodeKey::load_or_make(home.dir())?;
    let mut id = [0; FleetId::LEN];
    getrandom::fill(&mut id).map_err(|error| MetadataRoleError::Random(error.to_string()))?;
    let (fleet, time) = (FleetId(id), now());
    let authority = Authority::create(fleet, time)?;
    let issued = authority.certify(key.node(), &metadata_admission(fleet, address), time, FIRST_LIFE)?;
    let root_key = RootKey::generate()?;
    let authority_key = Keys::of(&root_key).wrap_fleet_key(fleet, &authority.key())?.to_vec();
    let at = Endpoint { node: key.node(), address: address.to_string() };
    let certificate = authority.certificate().to_vec();
    let gateways = GatewayPapers { fleet, authority: certificate.clone(), authority_key, root_key, members: vec![at] };
    gateways.save(&papers::gateway_papers(home.dir()))?;
    let own = Papers::new(certificate, issued.certificate.to_vec(), Vec::new(), true);
    let own = own.map_err(|reason| MetadataRoleError::Papers { path: home.dir().to_path_buf(), reason })?;
    own.save(home.dir())?;
    Ok((key, own))
}

/// Has a gateway admit this node. An invitation that was used may have been used by this very node, which died before it heard.
async fn enlist(home: &Home, token: &Token, key: &NodeKey, address: &str) -> Result<Papers, MetadataRoleError> {
    let place = Place { machine: METADATA.into(), zone: METADATA.into(), address: address.to_string() };
    let mut tries = 1;
    let enlisted: Enlisted = loop {
        match apply::enlist(token, &place, key).await {
            Ok(enlisted) => break enlisted,
            Err(error @ ApplyError::Refused(AdmissionRefusal::InviteUsed | AdmissionRefusal::InviteExpired)) => {
                let gate = Gate { address: token.address.clone(), fingerprint: token.fingerprint };
                break apply::renew_enlisted(&gate, &place, key).await.map_err(|_| error)?;
            }
            Err(error @ (ApplyError::Silent { .. } | ApplyError::Refused(AdmissionRefusal::Unavailable { .. }))) if tries < JOIN_TRIES => {
                tracing::warn!(target: "breakwater", %error, "joining is tried again");
                tries += 1;
                tokio::time::sleep(JOIN_PAUSE).await;
            }
            Err(ApplyError::Refused(AdmissionRefusal::Retired { .. })) => {
                return Err(MetadataRoleError::Removed { path: home.dir().to_path_buf() });
            }
            Err(error) => return Err(error.into()),
        }
    };
    let admitted = enlisted.admitted;
    let certificate = admitted.certificates.first().map(|der| der.to_vec()).unwrap_or_default();
    let papers = Papers::new(admitted.authority.to_vec(), certificate, enlisted.members, false);
    let papers = papers.map_err(|reason| MetadataRoleError::Papers { path: home.dir().to_path_buf(), reason })?;
    if !admitted.revocations.is_empty() {
        papers::keep_revocations(home.dir(), &admitted.revocations)?;
    }
    papers.save(home.dir())?;
    Ok(papers)
}

/// The replica, what serves it, and what keeps it a member; nothing of it runs yet.
async fn open(
    home: Arc<Home>,
    key: NodeKey,
    at: Endpoint,
    papers: Papers,
    (newest, gone): (Format, &[NodeId]),
) -> Result<(Server, Keeper), ServeError> {
    let tls = |error: &dyn std::fmt::Display| MetadataRoleError::Tls(error.to_string());
    let trust = Arc::new(Trust::new(papers.fleet, &papers.authority).map_err(|error| tls(&error))?);
    if let Some(list) = papers::load_revocations(home.dir())? {
        trust.revoke(&list).map_err(|error| tls(&error))?;
    }
    if trust.is_revoked(key.node()) {
        return Err(MetadataRoleError::Removed { path: home.dir().to_path_buf() }.into());
    }
    let own = identity(&key, &papers.certificate).map_err(|error| tls(&error))?;
    let (served, shown) = (Arc::new(Served::default()), Arc::new(Shown::new(own.clone())));
    served.set(own);
    let connect = client_of(trust.clone(), shown.clone(), &[Role::Metadata]).map_err(|error| tls(&error))?;
    let mut seeds = papers.members.clone();
    if !seeds.contains(&at) {
        seeds.push(at.clone());
    }
    let client = Client::start(seeds, connect.clone(), ClientBounds::default());
    let client = client.map_err(|error| MetadataRoleError::Random(error.to_string()))?;
    if papers.again && !has_replica(&home) {
        again::nobody_has_it(&client, &papers, &at, gone).await?;
    }
    let begin = if papers.founds { Begin::Found } else { Begin::Join };
    let membership = Membership { at: at.clone(), connect, begin, beat: Beat::default() };
    let mut settings = ::metadata::service::Settings::new(home.metadata_dir());
    settings.membership = Some(membership);
    settings.newest = newest;
    let node = MetadataNode::open(settings).await?;
    let server = Server::new(node.clone(), trust.clone(), served.clone(), Bounds::default()).map_err(|error| tls(&error))?;
    if papers.again {
        again::expect(&node).await?;
    }
    Ok((server, Keeper { home, key, at, papers, trust, served, shown, node, client, gate: None }))
}

fn has_replica(home: &Home) -> bool {
    std::fs::read_dir(home.metadata_dir()).is_ok_and(|mut entries| entries.next().is_some())
}
