//! A storage node on another machine, as if it were a disk of this one.
//!
//! ```text
//! StorageNode call -> a place (pool.rs bounds how many) -> a connection, kept or new -> one HTTP exchange (exchange.rs)
//! watch.rs: asks for the status every second on a connection of its own; three misses and the node is lost until it answers again
//! ```
//! Invariants: a peer can be dead, slow or lying, and the worst that comes out is `Unavailable` or `Damaged`, in bounded time and
//! memory; bytes come out only under the name that was asked for and exactly as many as their header says. That they are the right
//! bytes is the caller's to check: a link trusts no root. `status` never waits.
//! Not here: which nodes there are, who is trusted (`spine::fleet`).

mod exchange;
mod gather;
mod pool;
mod watch;

use crate::metric::LINK_FAILURES;
use bytes::Bytes;
use exchange::{Reply, exchange};
use pool::Pool;
use rustls::ClientConfig;
use spine::audit::{Answered, Question};
use spine::fleet::trust::Trust;
use spine::id::NodeId;
use spine::limit::{AUDIT_QUESTIONS, CALL_HEADERS, CALL_NAMES, SEALED_MAX_BYTES};
use spine::wire::chunk::ShardName;
use spine::wire::peer::{self, Call, Listing, Slice};
use spine::wire::shard::{Held, NodeError, NodeState, NodeStatus, ScrubReport, ShardHeader, StorageNode};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch as channel;
use watch::Watcher;

/// What the fleet knows of a node, from its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub node: NodeId,
    pub machine: String,
    pub zone: String,
    /// Bytes it was admitted for: it is not believed to have more.
    pub capacity: u64,
    /// `host:port` of its data plane.
    pub address: String,
}

/// How a link behaves.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Calls at a time, and so connections; the next waits. Default 32.
    pub calls: usize,
    /// How long an idle connection is kept; below the server's own limit. Default 30 s.
    pub idle: Duration,
    /// How long a connection is used in all: the next one is judged anew, certificate, days and revocation. Default 10 min.
    pub life: Duration,
    /// Longest TCP connect, and longest handshake. Default 2 s each.
    pub connect: Duration,
    /// Pause before the next attempt after a failed one; doubles up to 20 times as long. Default 100 ms.
    pub back_off: Duration,
    /// Longest call, waiting for a place included. Default 20 s.
    pub call: Duration,
    /// Longest pause within an answer's body. Default 5 s.
    pub pause: Duration,
    /// How often the status is asked for, and how long it may take. Default 1 s and 1.5 s.
    pub look_every: Duration,
    pub look: Duration,
    /// Status answers missed in a row that make a node lost. Default 3.
    pub misses: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            calls: 32,
            idle: Duration::from_secs(30),
            life: Duration::from_secs(600),
            connect: Duration::from_secs(2),
            back_off: Duration::from_millis(100),
            call: Duration::from_secs(20),
            pause: Duration::from_secs(5),
            look_every: Duration::from_secs(1),
            look: Duration::from_millis(1_500),
            misses: 3,
        }
    }
}

/// The node at the other end. Dropping it closes its connections and ends its background work.
pub struct Link {
    inner: Arc<Inner>,
    watcher: Watcher,
}

struct Inner {
    peer: Peer,
    bounds: Bounds,
    trust: Arc<Trust>,
    /// For calls.
    pool: Pool,
    /// For the status alone, so that it does not wait behind calls.
    looks: Pool,
    status: Mutex<NodeStatus>,
    /// True while the node is lost: running calls end at once.
    lost: channel::Sender<bool>,
}

const UNSEEN: NodeStatus = NodeStatus { state: NodeState::Lost, capacity: 0, free: 0, shards: 0, shard_bytes: 0, trash_bytes: 0 };

impl Link {
    /// Starts looking for the node; needs a runtime. `tls`: as [`spine::fleet::tls::client`] makes it, one for all links.
    pub fn start(peer: Peer, tls: Arc<ClientConfig>, trust: Arc<Trust>, bounds: Bounds) -> Arc<Link> {
        let pool = Pool::new(&peer, tls.clone(), bounds, bounds.calls);
        let looks = Pool::new(&peer, tls, bounds, 1);
        let inner = Inner { peer, bounds, trust, pool, looks, status: Mutex::new(UNSEEN), lost: channel::Sender::new(false) };
        let inner = Arc::new(inner);
        let watcher = Watcher::start(&inner);
        Arc::new(Link { inner, watcher })
    }

    pub fn peer(&self) -> &Peer {
        &self.inner.peer
    }

    /// Waits for the first answer or the first failure, at most `longest`. Returns whether the node serves.
    pub async fn first_look(&self, longest: Duration) -> bool {
        self.watcher.first_look(longest).await;
        self.status().state != NodeState::Lost
    }

    /// Part of a shard: `slice.len` bytes. The caller can check them against nothing but what it knows.
    pub async fn range(&self, slice: Slice) -> Result<(ShardHeader, Bytes), NodeError> {
        let reply = self.call(Call::Range, Some(peer::encode_subject(&slice)), Bytes::new(), slice.len as usize).await?;
        let header = header_of(&reply, slice.name)?;
        if reply.body.len() != slice.len as usize {
            return Err(damaged("the node answered with another number of bytes"));
        }
        Ok((header, reply.body))
    }

    /// One exchange, within the deadline, while the node is not lost.
    async fn call(&self, call: Call, subject: Option<String>, body: Bytes, most: usize) -> Result<Reply, NodeError> {
        let inner = &self.inner;
        if inner.trust.is_revoked(inner.peer.node) {
            return Err(unavailable("the node was retired"));
        }
        let mut lost = inner.lost.subscribe();
        let result = tokio::select! {
            biased;
            _ = lost.wait_for(|lost| *lost) => Err(unavailable("the node does not answer")),
            done = tokio::time::timeout(inner.bounds.call, exchange(&inner.pool, call, subject, body, most)) => {
                done.unwrap_or_else(|_| Err(unavailable("the node took too long")))
            }
        };
        if let Err(NodeError::Unavailable { .. }) = &result {
            LINK_FAILURES.with_label_values(&[call.name()]).inc();
        }
        result
    }
}

#[async_trait::async_trait]
impl StorageNode for Link {
    fn id(&self) -> NodeId {
        self.inner.peer.node
    }

    fn machine(&self) -> String {
        self.inner.peer.machine.clone()
    }

    fn status(&self) -> NodeStatus {
        *self.inner.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn put(&self, header: ShardHeader, data: Bytes) -> Result<(), NodeError> {
        if data.len() != header.len as usize || data.len() > SEALED_MAX_BYTES {
            return Err(NodeError::Invalid { what: format!("{} bytes for a header that says {}", data.len(), header.len) });
        }
        self.call(Call::Put, Some(peer::encode_subject(&header)), data, 0).await.map(|_| ())
    }

    async fn get(&self, name: ShardName) -> Result<(ShardHeader, Bytes), NodeError> {
        let reply = self.call(Call::Get, Some(peer::encode_subject(&name)), Bytes::new(), SEALED_MAX_BYTES).await?;
        let header = header_of(&reply, name)?;
        if reply.body.len() != header.len as usize {
            return Err(damaged("the shard is not as long as its header says"));
        }
        Ok((header, reply.body))
    }

    async fn has(&self, names: Vec<ShardName>) -> Result<Vec<bool>, NodeError> {
        let mut all = Vec::with_capacity(names.len());
        for some in names.chunks(CALL_NAMES) {
            let reply = self.call(Call::Has, None, peer::encode(&some), some.len() + 16).await?;
            let held: Vec<bool> = message(&reply)?;
            if held.len() != some.len() {
                return Err(unavailable("the node answered for another number of shards"));
            }
            all.extend(held);
        }
        Ok(all)
    }

    async fn trash(&self, names: Vec<ShardName>) -> Result<(), NodeError> {
        for some in names.chunks(CALL_NAMES) {
            self.call(Call::Trash, None, peer::encode(&some), 0).await?;
        }
        Ok(())
    }

    async fn list(&self, mut after: Option<ShardName>, max: usize) -> Result<Vec<(ShardName, u32)>, NodeError> {
        let mut all = Vec::new();
        while all.len() < max {
            let asked = (max - all.len()).min(CALL_NAMES);
            let listing = Listing { after, max: asked as u32 };
            let reply = self.call(Call::List, None, peer::encode(&listing), peer::ANSWER_BYTES).await?;
            let page: Vec<(ShardName, u32)> = message(&reply)?;
            let Some((last, _)) = page.last() else { break };
            // Out of order or before what was asked for: such a listing could be endless, or leave shards out unseen.
            let ascending = page.windows(2).all(|pair| pair[0].0 < pair[1].0) && after.is_none_or(|after| page[0].0 > after);
            if !ascending || page.len() > asked {
                return Err(unavailable("the node's listing is out of order"));
            }
            after = Some(*last);
            all.extend(page);
        }
        Ok(all)
    }

    async fn headers(&self, after: Option<ShardName>, max: usize) -> Result<Vec<Held>, NodeError> {
        let asked = max.min(CALL_HEADERS);
        let listing = Listing { after, max: asked as u32 };
        let reply = self.call(Call::Headers, None, peer::encode(&listing), peer::HEADERS_BYTES).await?;
        let page: Vec<Held> = message(&reply)?;
        let ascending = page.windows(2).all(|pair| pair[0].name() < pair[1].name())
            && page.first().is_none_or(|first| after.is_none_or(|after| first.name() > after));
        if ascending && page.len() <= asked { Ok(page) } else { Err(unavailable("the node's listing is out of order")) }
    }

    async fn audit(&self, questions: Vec<Question>) -> Result<Vec<Answered>, NodeError> {
        let mut all = Vec::with_capacity(questions.len());
        for some in questions.chunks(AUDIT_QUESTIONS) {
            let reply = self.call(Call::Audit, None, peer::encode(&some), peer::AUDIT_BYTES).await?;
            let answers: Vec<Answered> = message(&reply)?;
            if answers.len() != some.len() {
                return Err(unavailable("the node answered another number of questions"));
            }
            all.extend(answers);
        }
        Ok(all)
    }

    async fn scrubbed(&self) -> Result<Option<ScrubReport>, NodeError> {
        message(&self.call(Call::Scrub, None, Bytes::new(), peer::SCRUB_BYTES).await?)
    }
}

fn header_of(reply: &Reply, name: ShardName) -> Result<ShardHeader, NodeError> {
    let subject = reply.subject.as_ref().ok_or_else(|| damaged("a shard without a header"))?;
    let header: ShardHeader = peer::decode_subject(subject.as_bytes()).map_err(|_| damaged("the shard's header does not read"))?;
    if header.name == name { Ok(header) } else { Err(damaged("the node answered with another shard")) }
}

fn message<T: serde::de::DeserializeOwned>(reply: &Reply) -> Result<T, NodeError> {
    peer::decode(&reply.body).map_err(|_| unavailable("the node's answer does not read"))
}

fn unavailable(reason: &str) -> NodeError {
    NodeError::Unavailable { reason: reason.to_string() }
}

fn damaged(what: &str) -> NodeError {
    NodeError::Damaged { what: what.to_string() }
}
