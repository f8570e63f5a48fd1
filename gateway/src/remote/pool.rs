//! Connections to one node: so many at a time, kept while they are good, made again with a pause after failures.
//!
//! Invariants: connections in use and idle ones together are at most `places`; a connection that did anything unexpected is closed,
//! never kept; dropping a [`Lane`] closes its socket, whatever hangs on it.

use super::gather::Gather;
use super::{Bounds, Peer, unavailable};
use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use spine::fleet::{name, tls};
use spine::wire::shard::NodeError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// hyper reads and writes, and TLS is filled, in pieces of up to this.
const BUFFER_BYTES: usize = 256 << 10;
/// Most header lines of an answer.
const HEADERS: usize = 32;
/// The longest pause between attempts, as a multiple of the first.
const BACK_OFF_MOST: u32 = 20;
/// A kept connection that has not finished its last exchange by now is given up.
const READY: Duration = Duration::from_millis(200);

pub(super) struct Pool {
    address: String,
    name: Option<ServerName<'static>>,
    connector: TlsConnector,
    pub bounds: Bounds,
    places: Semaphore,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The last one used is last.
    idle: Vec<Lane>,
    failures: u32,
    not_before: Option<Instant>,
}

/// One connection.
pub(super) struct Lane {
    pub sender: SendRequest<Full<Bytes>>,
    /// Whether an exchange went well on it before: the peer may have closed it since.
    pub kept: bool,
    made: Instant,
    used: Instant,
    task: JoinHandle<()>,
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Pool {
    pub fn new(peer: &Peer, config: Arc<ClientConfig>, bounds: Bounds, places: usize) -> Pool {
        Pool {
            address: peer.address.clone(),
            name: ServerName::try_from(name::name_of(peer.node)).ok(),
            connector: TlsConnector::from(config),
            bounds,
            places: Semaphore::new(places),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place; it is held for one exchange.
    pub async fn place(&self) -> Result<SemaphorePermit<'_>, NodeError> {
        self.places.acquire().await.map_err(|_| unavailable("the link is closed"))
    }

    /// A connection that is ready: a kept one, or a new one.
    pub async fn lane(&self) -> Result<Lane, NodeError> {
        loop {
            let Some(mut lane) = self.state().idle.pop() else { return self.connect().await };
            let young = lane.used.elapsed() < self.bounds.idle && lane.made.elapsed() < self.bounds.life;
            let fresh = young && !lane.sender.is_closed();
            if fresh && timeout(READY, lane.sender.ready()).await.is_ok_and(|ready| ready.is_ok()) {
                return Ok(lane);
            }
        }
    }

    /// Keeps a connection whose exchange is over.
    pub fn keep(&self, mut lane: Lane) {
        lane.kept = true;
        lane.used = Instant::now();
        let mut state = self.state();
        state.failures = 0;
        state.not_before = None;
        state.idle.push(lane);
    }

    /// Closes connections that were idle for too long.
    pub fn reap(&self) {
        let old: Vec<Lane> = {
            let mut state = self.state();
            let (old, young) = std::mem::take(&mut state.idle).into_iter().partition(|lane| lane.used.elapsed() >= self.bounds.idle);
            state.idle = young;
            old
        };
        drop(old);
    }

    /// Closes all idle connections: what is on the other side has gone or changed.
    pub fn clear(&self) {
        let idle = std::mem::take(&mut self.state().idle);
        drop(idle);
    }

    /// A new connection, unless the last attempt failed only just.
    pub async fn connect(&self) -> Result<Lane, NodeError> {
        if self.state().not_before.is_some_and(|until| Instant::now() < until) {
            return Err(unavailable("connecting failed, and is tried again in a moment"));
        }
        self.dial().await.inspect_err(|_| self.failed())
    }

    /// Books a failed attempt: a connection that was not made, or whose very first exchange had no answer.
    pub fn failed(&self) {
        let mut state = self.state();
        let times = 1u32.checked_shl(state.failures).unwrap_or(BACK_OFF_MOST).min(BACK_OFF_MOST);
        state.failures = (state.failures + 1).min(16);
        state.not_before = Some(Instant::now() + self.bounds.back_off * times);
    }

    async fn dial(&self) -> Result<Lane, NodeError> {
        let name = self.name.clone().ok_or_else(|| unavailable("the node's name is no name"))?;
        let stream = timeout(self.bounds.connect, TcpStream::connect(&self.address)).await;
        let stream = stream.map_err(|_| unavailable("connecting took too long"))?;
        let stream = stream.map_err(|error| unavailable(&format!("connecting failed: {error}")))?;
        let _ = stream.set_nodelay(true);
        let shaken = timeout(self.bounds.connect, self.connector.connect(name, stream)).await;
        let mut stream = shaken.map_err(|_| unavailable("the handshake took too long"))?.map_err(|error| {
            let refusal = error.get_ref().and_then(|inner| inner.downcast_ref()).and_then(tls::refusal);
            match refusal {
                Some(refusal) => unavailable(&format!("the node is refused: {refusal}")),
                None => unavailable(&format!("the handshake failed: {error}")),
            }
        })?;
        stream.get_mut().1.set_buffer_limit(Some(BUFFER_BYTES));
        let mut builder = http1::Builder::new();
        builder.max_buf_size(BUFFER_BYTES).max_headers(HEADERS);
        let (sender, connection) = builder
            .handshake(TokioIo::new(Gather(stream)))
            .await
            .map_err(|error| unavailable(&format!("the connection failed: {error}")))?;
        let task = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a node ended");
            }
        });
        Ok(Lane { sender, kept: false, made: Instant::now(), used: Instant::now(), task })
    }
}
