//! Everything in one process, or a gateway over a fleet's nodes: opens the parts in order, serves, closes them in the other order.
//!
//! ```text
//! data folder -> listeners bound -> root key -> metadata -> disks or fleet -> data path -> credentials -> serving
//! SIGTERM: accept nothing -> finish requests -> fleet -> data path -> metadata -> disks -> exit 0
//! ```
//! `breakwater metadata` (`serve/metadata/`) and `breakwater storage-node` (`serve/storage/`) are processes of their own.
//! Invariants: until everything is open requests wait, and are told to ask again if it takes long (`waiting.rs`); a disk that does not
//! open is a lost disk as long as enough others do; the two address lines are printed once everything is open. This and `main.rs` alone
//! name all of gateway, metadata and storage node.

mod alone;
mod compose;
mod elsewhere;
mod joined;
pub mod metadata;
pub mod papers;
mod process;
pub mod restore;
mod routes;
pub mod storage;
mod waiting;

use crate::boot::credentials::RootCredentials;
use crate::boot::escrow::Escrow;
use crate::boot::{BootError, Home, welcome};
use crate::config::Config;
use crate::fleet::cluster::Cluster;
use crate::front::auth::KeyRing;
use crate::front::guard::Rules;
use crate::front::listen::{Bounds, Listener};
use crate::front::service::{self, BodyLimits, Front};
use crate::front::tls::{self, TlsError};
use crate::keys::Keys;
use crate::ops;
use crate::ops::operator::Operator;
use crate::s3::Breakwater;
use compose::{Parts, Store};
use elsewhere::Elsewhere;
use joined::Joined;
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// How long operations may take to finish once S3 has.
const OPS_SHUTDOWN: Duration = Duration::from_secs(2);

/// Why a start failed. Every one says what to do next. Exit code 1.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the address is in use. address=`{address}`. Stop what uses it, or choose another with {option}.")]
    AddressInUse { address: SocketAddr, option: &'static str },
    #[error("the address cannot be listened on. address=`{address}`, reason=`{reason}`. Choose another with {option}.")]
    Address { address: SocketAddr, option: &'static str, reason: String },
    #[error(transparent)]
    Boot(#[from] BootError),
    #[error("TLS cannot be served. {0}")]
    Tls(#[from] TlsError),
    #[error("metadata does not open. {0}")]
    Metadata(#[from] ::metadata::service::OpenError),
    #[error("{0}")]
    MetadataRole(#[from] metadata::MetadataRoleError),
    #[error("too few disks open. opened=`{opened}`, needed=`{needed}`, places=`{places}`. {reasons}")]
    Disks { opened: usize, needed: usize, places: usize, reasons: String },
    #[error("the data path does not start. {0}")]
    Path(#[from] crate::path::StartError),
    #[error("the region is not one. {0}")]
    Region(#[from] s3s::region::InvalidRegion),
    #[error("the fleet cannot be served. {0}")]
    Fleet(#[from] crate::fleet::FleetError),
    /// The data folder belongs to another role.
    #[error("{0}")]
    OtherRole(String),
    /// Whoever answers where metadata should be is not it.
    #[error(
        "metadata is not where this gateway knows it to be. {0}. Bring it the papers of now: `breakwater admin metadata papers --out FILE` of a gateway that serves, then --metadata FILE, with an empty --data where it is another fleet."
    )]
    Strangers(String),
    #[error("the disks cannot be served to a fleet. {0}")]
    Storage(#[from] storage::StorageError),
    #[error("the metadata was not restored. {0}")]
    Restore(#[from] crate::snapshot::SnapshotError),
    #[error("the system refused what a server needs. what=`{what}`, reason=`{reason}`")]
    System { what: &'static str, reason: String },
}

/// What serves the S3 requests of this process.
#[derive(Clone, PartialEq, Eq)]
enum Behind {
    /// Disks in this process.
    Disks,
    /// A fleet's nodes.
    Fleet(Beginning),
}

/// What a gateway is told at its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beginning {
    /// `host:port` of storage processes' routers: where routing begins to look for nodes.
    pub bootstrap: Vec<String>,
    /// An escrow, where the metadata was lost.
    pub recover: Option<PathBuf>,
    /// What `breakwater metadata --init` left for it, where metadata is other processes'.
    pub papers: Option<PathBuf>,
}

/// `breakwater serve`.
pub fn run(config: Config) -> ExitCode {
    finish(process::runtime().and_then(|runtime| runtime.block_on(serve(config, Behind::Disks))))
}

/// `breakwater gateway`.
pub fn run_gateway(config: Config, beginning: Beginning) -> ExitCode {
    finish(process::runtime().and_then(|runtime| runtime.block_on(serve(config, Behind::Fleet(beginning)))))
}

/// `breakwater fsck`: opens what a stopped server left, checks it, closes it. 0: clean; 1: not, or it could not be checked.
pub fn fsck(config: Config, deep: bool, as_json: bool) -> ExitCode {
    let checked = process::runtime().and_then(|runtime| runtime.block_on(check(config, deep)));
    match checked {
        Err(error) => finish(Err(error)),
        Ok(report) => {
            let text = if as_json { serde_json::to_string(&report) } else { serde_json::to_string_pretty(&report) };
            println!("{}", text.unwrap_or_default());
            println!("{}", if report.clean { "clean" } else { "NOT CLEAN" });
            if report.clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
    }
}

fn finish(result: Result<(), ServeError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("breakwater: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn check(config: Config, deep: bool) -> Result<crate::fsck::Report, ServeError> {
    if !config.data.is_dir() {
        let source = std::io::Error::from(ErrorKind::NotFound);
        return Err(BootError::Folder { path: config.data, source }.into());
    }
    let home = Home::open(&config.data)?;
    joined::suits(&home, &Behind::Disks)?;
    let store = Store::open(&config, &home).await?;
    let scope = crate::fsck::Scope { deep, at_rest: true };
    let report = crate::fsck::run(&store.metadata(), &store.nodes(), scope).await;
    store.shutdown().await;
    report.map_err(|error| ServeError::System { what: "fsck", reason: error.to_string() })
}

async fn serve(config: Config, behind: Behind) -> Result<(), ServeError> {
    let mut signals = process::Signals::listen()?;
    process::raise_open_files();
    let home = Arc::new(Home::open(&config.data)?);
    joined::suits(&home, &behind)?;
    let tls = config.tls_files().map(|(cert, key)| tls::acceptor(cert, key)).transpose()?;
    let s3_socket = bind(config.listen, "--listen").await?;
    let ops_socket = bind(config.ops_listen, "--ops-listen").await?;
    let (s3_address, ops_address) = (local(&s3_socket)?, local(&ops_socket)?);
    // Before the root key: a cluster's papers bring it.
    let cluster = cluster(&home, &behind)?;
    let keys = Arc::new(open_keys(&home, &behind)?);
    let credentials = RootCredentials::find(&home, |name| std::env::var(name).ok())?;
    let (stop_s3, stopped_s3) = watch::channel(false);
    let (stop_ops, stopped_ops) = watch::channel(false);
    let ((set_front, front_is), (set_operator, operator_is)) = (watch::channel(None), watch::channel(None));
    let secure = tls.is_some();
    let s3 = serve_s3(&config, s3_socket, tls, front_is, stopped_s3);
    let operations = serve_operations(ops_socket, operator_is, stopped_ops);
    let waits = cluster.is_some();
    let started = tokio::select! {
        started = start(&config, &home, keys, behind, cluster, &credentials) => Some(started?),
        () = signals.wait(), if waits => None,
    };
    let Some((parts, joined)) = started else {
        tracing::info!(target: "breakwater", "stopped before it served");
        return Ok(());
    };
    note(&home, ops_address)?;
    let ring = KeyRing::new(parts.path.metadata().clone(), parts.path.keys().clone());
    set_front.send_replace(Some(front(&config, &parts, ring.clone())?));
    let operator = parts.operator(&config, &home, ring, joined.as_ref().map(|joined| joined.fleet.clone()))?;
    set_operator.send_replace(Some(operator));

    let mut text = welcome::text(s3_address, ops_address, secure, &config.region, &credentials);
    text.extend(joined.as_ref().map(|joined| format!("admission on {}\n", joined.address)));
    let mut out = std::io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());

    signals.wait().await;
    tracing::info!(target: "breakwater", "stopping: finishing requests");
    let _ = stop_s3.send(true);
    let ended = tokio::select! {
        ended = s3 => ended.unwrap_or(0),
        () = signals.wait() => {
            tracing::warn!(target: "breakwater", "told twice: stopping without waiting for requests");
            0
        }
    };
    if ended > 0 {
        tracing::warn!(target: "breakwater", connections = ended, "requests were cut off at the deadline");
    }
    let _ = stop_ops.send(true);
    let _ = operations.await;
    drop((set_front, set_operator));
    if let Some(joined) = joined {
        joined.shutdown().await;
    }
    parts.shutdown().await;
    tracing::info!(target: "breakwater", "stopped");
    Ok(())
}

/// Everything behind the listeners.
async fn start(
    config: &Config,
    home: &Arc<Home>,
    keys: Arc<Keys>,
    behind: Behind,
    cluster: Option<Cluster>,
    credentials: &RootCredentials,
) -> Result<(Parts, Option<Joined>), ServeError> {
    let (store, joined) = open(config, home, keys.clone(), behind, cluster).await?;
    let roster = joined.as_ref().map_or_else(|| store.nodes().into(), |joined| joined.fleet.roster());
    let parts = Parts::start(config, home, store, roster, keys, credentials).await?;
    if let Some(joined) = &joined {
        parts.path.watch_fleet(joined.fleet.clone(), config.fleet.audits_per_day);
    }
    Ok((parts, joined))
}

/// Notes where operations are served. On a full disk that is left out: deleting is what helps then, and it takes a server.
fn note(home: &Home, ops_address: SocketAddr) -> Result<(), BootError> {
    match home.note_ops_address(ops_address) {
        Err(BootError::Folder { source, .. }) if source.kind() == ErrorKind::StorageFull => {
            tracing::error!(target: "breakwater", %ops_address, "the disk is full: `breakwater admin` will not find this server");
            Ok(())
        }
        noted => noted,
    }
}

/// Where metadata is, if not in this process.
fn cluster(home: &Home, behind: &Behind) -> Result<Option<Cluster>, ServeError> {
    match behind {
        Behind::Fleet(beginning) => elsewhere::find(home, beginning.papers.as_deref()),
        Behind::Disks => Ok(None),
    }
}

/// What is served: this process' disks, or the fleet.
async fn open(
    config: &Config,
    home: &Arc<Home>,
    keys: Arc<Keys>,
    behind: Behind,
    cluster: Option<Cluster>,
) -> Result<(Store, Option<Joined>), ServeError> {
    match behind {
        Behind::Disks => Ok((Store::open(config, home).await?, None)),
        Behind::Fleet(Beginning { bootstrap, recover, .. }) => {
            let socket = bind(config.fleet.admission_listen, "--admission-listen").await?;
            let life = Duration::from_secs(config.fleet.certificate_seconds);
            let store = match cluster {
                Some(cluster) => {
                    let elsewhere = Arc::new(Elsewhere::open(home, cluster, &keys, life)?);
                    waiting::for_metadata(&elsewhere).await?;
                    Store::nothing_here(elsewhere)
                }
                None => Store::without_disks(home).await?,
            };
            if let Some(path) = recover
                && let Err(error) = take_in(home, &store, &keys, &path).await
            {
                store.shutdown().await;
                return Err(error.into());
            }
            let joined = Joined::open(config, home, &store, keys, socket, bootstrap).await?;
            Ok((store, Some(joined)))
        }
    }
}

/// Where an escrow is to be taken in, the root key must be there: one that is made now would not open it.
fn open_keys(home: &Home, behind: &Behind) -> Result<Keys, BootError> {
    if let Behind::Fleet(Beginning { recover: Some(_), .. }) = behind {
        home.must_have_root_key()?;
    }
    Ok(Keys::new(home.root_key()?))
}

/// What an operator kept, into metadata that was lost.
async fn take_in(home: &Home, store: &Store, keys: &Keys, path: &Path) -> Result<(), BootError> {
    let escrow = Escrow::open(keys, path)?;
    escrow.restore(home, keys, &store.metadata()).await?;
    let (tenants, access_keys, nodes) = escrow.counts();
    tracing::info!(target: "breakwater", tenants, access_keys, nodes, "the escrow is taken in; nothing is collected until an operator releases it");
    Ok(())
}

fn front(config: &Config, parts: &Parts, ring: Arc<KeyRing>) -> Result<Arc<Front>, ServeError> {
    let rules = Rules {
        region: config.region.clone(),
        domain: Some(config.domain.clone()).filter(|domain| !domain.is_empty()),
        allow_signature_v2: config.allow_signature_v2,
        signed_chunk_bytes: config.limits.signed_chunk_bytes,
    };
    let operations = || Breakwater::new(parts.path.clone()).with_region(&config.region);
    Ok(Front::new(operations, ring, rules, body_limits(config))?)
}

fn body_limits(config: &Config) -> BodyLimits {
    BodyLimits { idle: Duration::from_secs(config.limits.body_idle_seconds), drain_bytes: config.limits.drain_bytes }
}

fn serve_s3(
    config: &Config,
    socket: TcpListener,
    tls: Option<TlsAcceptor>,
    front: watch::Receiver<Option<Arc<Front>>>,
    stopped: watch::Receiver<bool>,
) -> JoinHandle<usize> {
    let bounds = Bounds {
        connections: config.limits.connections,
        head: Duration::from_secs(config.limits.header_seconds),
        stall: Duration::from_secs(config.limits.body_idle_seconds),
    };
    let listener = Listener { socket, name: "s3", tls, bounds };
    let limits = body_limits(config);
    let handle = move |request| {
        let front = front.clone();
        async move {
            match waiting::there(front, waiting::HOLD).await {
                Some(front) => front.handle(request).await,
                None => service::not_yet(request, limits, waiting::AGAIN).await,
            }
        }
    };
    tokio::spawn(listener.serve(handle, stopped, config.shutdown()))
}

fn serve_operations(
    socket: TcpListener,
    operator: watch::Receiver<Option<Arc<Operator>>>,
    stopped: watch::Receiver<bool>,
) -> JoinHandle<usize> {
    let bounds = Bounds { connections: 256, head: Duration::from_secs(60), stall: Duration::from_secs(60) };
    let listener = Listener { socket, name: "operations", tls: None, bounds };
    let begun = Instant::now();
    let handle = move |request| {
        // An ordinary start is over in a moment, and what comes next in a script counts on that; after it nobody who asks how it is waits.
        let (operator, left) = (operator.clone(), waiting::HOLD.saturating_sub(begun.elapsed()));
        async move {
            match waiting::there(operator, left).await {
                Some(operator) => ops::handle(operator, request).await,
                None => ops::not_yet(&request),
            }
        }
    };
    tokio::spawn(listener.serve(handle, stopped, OPS_SHUTDOWN))
}

async fn bind(address: SocketAddr, option: &'static str) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => ServeError::AddressInUse { address, option },
        _ => ServeError::Address { address, option, reason: error.to_string() },
    })
}

fn local(socket: &TcpListener) -> Result<SocketAddr, ServeError> {
    socket.local_addr().map_err(|error| ServeError::System { what: "a socket's own address", reason: error.to_string() })
}
