//! A storage node of a real fleet that lies: on the disk, with the key and the certificate and under the address of an honest one.
//!
//! The honest process is stopped; what it kept is opened here and served by the real server over the real data plane, and one lie is put
//! in between. Stopped, the honest process can go on where it was.
//! Invariant: the disk is only ever written as an honest node writes it. What a lie drops was never there, or is there and not shown.
//! Not here: lies on the level of bytes against one link (`tests/data_plane/liars.rs`).

use crate::fleet::StorageNode as Process;
use crate::plane::keep_nothing;
use bytes::Bytes;
use serde_json::Value;
use spine::audit::{self, Answered, Question};
use spine::fleet::certificate;
use spine::fleet::tls::{Identity, Served};
use spine::fleet::trust::Trust;
use spine::id::NodeId;
use spine::wire::chunk::ShardName;
use spine::wire::shard::{NodeError, NodeStatus, ScrubReport, ShardHeader, StorageNode};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use storage_node::serve::{Bounds, Server};
use storage_node::{Disk, NodeKey, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How often a node that denies what it has claims to have finished a scrub, so that it is asked.
const ROUND: Duration = Duration::from_secs(5);
/// Bytes that a connection whose bodies are cut carries to the gateway: a handshake and many a status, and no shard of
/// [`CUT_SHARD`] bytes.
const CUT_AFTER: u64 = 16 << 10;
/// Shards that are shorter than this may come through whole.
pub const CUT_SHARD: usize = 17 << 10;
/// How long the end of a disk is waited for.
const CLOSE: Duration = Duration::from_secs(20);

/// The lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// The right header, other bytes.
    OtherBytes,
    /// Another shard, as what it is.
    AnotherShard,
    /// The oldest shard that it has, as what was asked for.
    Stale,
    /// The right header, and a byte less than it says.
    Truncated,
    /// Bodies break off in the middle, and the connection with them.
    CutOff,
    /// Says that it has everything, has lost it, and makes up proofs.
    FalseHas,
    /// Acknowledges what it is given, and keeps none of it.
    Forgets,
    /// Says that it has nothing, and has everything.
    DeniesAll,
}

impl Lie {
    pub const ALL: [Lie; 8] =
        [Lie::OtherBytes, Lie::AnotherShard, Lie::Stale, Lie::Truncated, Lie::CutOff, Lie::FalseHas, Lie::Forgets, Lie::DeniesAll];

    /// Whether what the node holds is still there when it stops lying.
    pub fn keeps(self) -> bool {
        !matches!(self, Lie::FalseHas | Lie::Forgets)
    }
}

/// An honest node's disk behind a lie.
struct Liar {
    disk: Arc<Disk>,
    lie: Lie,
    oldest: Option<ShardName>,
    began: Instant,
    told: AtomicU64,
}

impl Liar {
    fn tells(&self) {
        self.told.fetch_add(1, Ordering::Relaxed);
    }

    async fn another(&self, name: ShardName) -> Result<(ShardHeader, Bytes), NodeError> {
        let two = self.disk.list(None, 2).await?;
        let (other, _) = two.into_iter().find(|(other, _)| *other != name).ok_or(NodeError::NotFound)?;
        self.disk.get(other).await
    }
}

#[async_trait::async_trait]
impl StorageNode for Liar {
    fn id(&self) -> NodeId {
        self.disk.id()
    }

    fn machine(&self) -> String {
        self.disk.machine()
    }

    fn status(&self) -> NodeStatus {
        self.disk.status()
    }

    async fn put(&self, header: ShardHeader, data: Bytes) -> Result<(), NodeError> {
        if matches!(self.lie, Lie::FalseHas | Lie::Forgets) {
            self.tells();
            return Ok(());
        }
        self.disk.put(header, data).await
    }

    async fn get(&self, name: ShardName) -> Result<(ShardHeader, Bytes), NodeError> {
        match self.lie {
            Lie::OtherBytes => {
                let (header, data) = self.disk.get(name).await?;
                self.tells();
                Ok((header, data.iter().map(|byte| byte ^ 0x55).collect()))
            }
            Lie::AnotherShard => {
                let another = self.another(name).await?;
                self.tells();
                Ok(another)
            }
            Lie::Stale => {
                let (header, data) = match self.oldest.filter(|oldest| *oldest != name) {
                    Some(oldest) => self.disk.get(oldest).await?,
                    None => self.another(name).await?,
                };
                self.tells();
                Ok((ShardHeader { name, ..header }, data))
            }
            Lie::Truncated => {
                let (header, data) = self.disk.get(name).await?;
                self.tells();
                Ok((header, data.slice(..data.len().saturating_sub(1))))
            }
            Lie::FalseHas => Err(NodeError::NotFound),
            Lie::Forgets | Lie::DeniesAll | Lie::CutOff => self.disk.get(name).await,
        }
    }

    async fn has(&self, names: Vec<ShardName>) -> Result<Vec<bool>, NodeError> {
        match self.lie {
            Lie::FalseHas => {
                self.tells();
                Ok(vec![true; names.len()])
            }
            Lie::DeniesAll => {
                self.tells();
                Ok(vec![false; names.len()])
            }
            _ => self.disk.has(names).await,
        }
    }

    async fn trash(&self, names: Vec<ShardName>) -> Result<(), NodeError> {
        self.disk.trash(names).await
    }

    async fn list(&self, after: Option<ShardName>, max: usize) -> Result<Vec<(ShardName, u32)>, NodeError> {
        self.disk.list(after, max).await
    }

    async fn audit(&self, questions: Vec<Question>) -> Result<Vec<Answered>, NodeError> {
        if self.lie == Lie::FalseHas {
            self.tells();
            let made_up = || audit::prove(&[0x55; 4_096], 0).map_or(Answered::Missing, |(proof, _)| Answered::Proof(proof.into()));
            return Ok(questions.iter().map(|_| made_up()).collect());
        }
        let mut answers = Vec::with_capacity(questions.len());
        for Question { name, slice } in questions {
            // Proves whatever it would send: of bytes that are not the shard's, a proof that leads elsewhere.
            answers.push(match self.get(name).await {
                Ok((_, data)) => audit::prove(&data, slice).map_or(Answered::Missing, |(proof, _)| Answered::Proof(proof.into())),
                Err(NodeError::NotFound) => Answered::Missing,
                Err(error) => return Err(error),
            });
        }
        Ok(answers)
    }

    async fn scrubbed(&self) -> Result<Option<ScrubReport>, NodeError> {
        let rounds = self.began.elapsed().as_secs() / ROUND.as_secs();
        Ok(Some(ScrubReport { rounds, ..ScrubReport::default() }))
    }
}

/// A liar that serves.
pub struct Lying {
    liar: Arc<Liar>,
    stop: watch::Sender<bool>,
    server: JoinHandle<usize>,
    relay: Option<Relay>,
}

impl Lying {
    /// Stops `process` and lies in its place. Needs a runtime that lives on.
    ///
    /// # Errors
    /// The process does not stop, or its folder has no papers.
    pub async fn start(process: &mut Process, lie: Lie) -> io::Result<Lying> {
        process.terminate(CLOSE).ok_or_else(|| io::Error::other("the honest process did not stop"))?;
        let (dir, address) = (process.disk().to_path_buf(), process.address().to_owned());
        let opened = dir.clone();
        let opening = move || Disk::open(Settings { keyed: true, adopt_empty: false, ..Settings::new(opened) });
        let disk = tokio::task::spawn_blocking(opening).await.map_err(io::Error::other)?.map_err(io::Error::other)?;
        let oldest = disk.list(None, 100_000).await.map_err(io::Error::other)?;
        let oldest = oldest.into_iter().map(|(name, _)| name).min_by_key(|name| name.tag);
        let (trust, served) = papers(&dir, disk.id())?;
        let liar = Arc::new(Liar { disk, lie, oldest, began: Instant::now(), told: AtomicU64::new(0) });
        let nodes: Vec<Arc<dyn StorageNode>> = vec![liar.clone()];
        let server = Server::new(trust, served, nodes, Bounds::default(), keep_nothing()).map_err(io::Error::other)?;
        let cut = lie == Lie::CutOff;
        let socket = TcpListener::bind(if cut { "127.0.0.1:0" } else { address.as_str() }).await?;
        let relay = if cut { Some(Relay::start(&address, socket.local_addr()?.to_string()).await?) } else { None };
        let (stop, stopped) = watch::channel(false);
        let server = tokio::spawn(server.serve(socket, stopped, CLOSE));
        Ok(Lying { liar, stop, server, relay })
    }

    pub fn lie(&self) -> Lie {
        self.liar.lie
    }

    /// How many lies it has told so far.
    pub fn told(&self) -> u64 {
        self.liar.told.load(Ordering::Relaxed) + self.relay.as_ref().map_or(0, |relay| relay.cut.load(Ordering::Relaxed))
    }

    /// Ends it; the folder is free for the honest process again.
    pub async fn stop(self) -> io::Result<()> {
        self.stop.send_replace(true);
        drop(self.relay);
        self.server.await.map_err(io::Error::other)?;
        self.liar.disk.shutdown().await;
        Ok(())
    }
}

/// Whom the process trusts, and as whom it serves.
fn papers(dir: &Path, node: NodeId) -> io::Result<(Arc<Trust>, Arc<Served>)> {
    let said: Value = serde_json::from_str(&std::fs::read_to_string(dir.join("fleet.json"))?).map_err(io::Error::other)?;
    let bytes = |field: &str| hex::decode(said[field].as_str().unwrap_or_default()).map_err(io::Error::other);
    let (authority, own) = (bytes("authority")?, bytes("certificate")?);
    let fleet = certificate::read(&own).map_err(io::Error::other)?.admission.fleet;
    let trust = Arc::new(Trust::new(fleet, &authority).map_err(io::Error::other)?);
    let key = NodeKey::of(dir, node).map_err(io::Error::other)?;
    let private = rustls::pki_types::PrivatePkcs8KeyDer::from(key.pkcs8().to_vec()).into();
    let served = Arc::new(Served::default());
    served.set(Identity::new(&own, private).map_err(io::Error::other)?);
    Ok((trust, served))
}

/// Passes bytes on, and breaks every connection after [`CUT_AFTER`] bytes of answers.
struct Relay {
    cut: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Relay {
    async fn start(at: &str, to: String) -> io::Result<Relay> {
        let socket = TcpListener::bind(at).await?;
        let cut = Arc::new(AtomicU64::new(0));
        let counted = cut.clone();
        let task = tokio::spawn(async move {
            let mut running = tokio::task::JoinSet::new();
            while let Ok((near, _)) = socket.accept().await {
                let (to, counted) = (to.clone(), counted.clone());
                running.spawn(async move {
                    if let Ok(far) = TcpStream::connect(to).await
                        && pass(near, far).await
                    {
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                });
                while running.try_join_next().is_some() {}
            }
        });
        Ok(Relay { cut, task })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Both directions until one ends; whether it was cut.
async fn pass(mut near: TcpStream, mut far: TcpStream) -> bool {
    let (mut near_in, mut near_out) = near.split();
    let (mut far_in, mut far_out) = far.split();
    let answers = async {
        let (mut left, mut buffer) = (CUT_AFTER, vec![0; 4 << 10]);
        loop {
            let got = far_in.read(&mut buffer).await.unwrap_or(0);
            if got == 0 {
                return false;
            }
            let now = got.min(left as usize);
            if near_out.write_all(&buffer[..now]).await.is_err() {
                return false;
            }
            left -= now as u64;
            if left == 0 {
                return true;
            }
        }
    };
    tokio::select! {
        cut = answers => cut,
        _ = tokio::io::copy(&mut near_in, &mut far_out) => false,
    }
}
