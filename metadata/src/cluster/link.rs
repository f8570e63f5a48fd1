//! One metadata process at the other end: so many connections at a time, kept while they are good, made again with a pause after failures.
//!
//! Invariants: an answer is read to its announced length, and that length is bounded before anything is allocated; a connection goes back to
//! the idle ones only after an exchange that was right to its end; dropping a call closes its connection. What a kept connection could not
//! begin to answer is asked once more on a new one: every call may be sent twice.

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use spine::fleet::trust::Refusal;
use spine::fleet::{name, tls};
use spine::wire::cluster::{self, Call, ClusterError, Endpoint};
use spine::wire::peer;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// hyper reads and writes, and TLS is filled, in pieces of up to this.
const BUFFER_BYTES: usize = 256 << 10;
/// Most header lines of an answer.
const HEADERS: usize = 32;
/// Longest TCP connect, and longest handshake.
const CONNECT: Duration = Duration::from_secs(1);
/// How long an idle connection is kept; below the server's own limit.
const IDLE: Duration = Duration::from_secs(30);
/// How long a connection is used in all: the next one is judged anew, certificate, days and revocation.
const LIFE: Duration = Duration::from_secs(600);
/// Pause before the next attempt after a failed one; doubles up to [`PAUSE_MOST`].
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MOST: Duration = Duration::from_millis(800);
/// A kept connection that has not finished its last exchange by now is given up.
const READY: Duration = Duration::from_millis(100);
/// Characters of a peer's reason that are passed on.
const REASON_CHARS: usize = 256;

/// Why a call has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// Nothing was sent.
    #[error("not reached: {0}")]
    Unreachable(String),
    /// Nothing was sent: who answers there is not the node, or of another fleet. No time mends that.
    #[error("not reached: {0}")]
    Stranger(String),
    /// It was sent, and may have been done.
    #[error("no answer: {0}")]
    Lost(String),
    #[error(transparent)]
    Refused(ClusterError),
}

pub struct Link {
    endpoint: Endpoint,
    name: Option<ServerName<'static>>,
    connector: TlsConnector,
    places: Semaphore,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The last one used is last.
    idle: Vec<Lane>,
    failures: u32,
    not_before: Option<Instant>,
    /// What came of the last attempt, if it failed.
    why: String,
}

/// One connection.
struct Lane {
    sender: SendRequest<Full<Bytes>>,
    /// Whether an exchange went well on it before: the peer may have closed it since.
    kept: bool,
    made: Instant,
    used: Instant,
    task: JoinHandle<()>,
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    /// - `places`: connections at a time; the next call waits.
    pub fn new(endpoint: Endpoint, config: Arc<ClientConfig>, places: usize) -> Arc<Link> {
        Arc::new(Link {
            name: ServerName::try_from(name::name_of(endpoint.node)).ok(),
            endpoint,
            connector: TlsConnector::from(config),
            places: Semaphore::new(places),
            state: Mutex::default(),
        })
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Asks, and decodes the answer. The caller bounds the time.
    pub async fn call<Q: Serialize, A: DeserializeOwned>(&self, call: Call, question: &Q) -> Result<A, CallError> {
        let answer = self.send(call, peer::encode(question)).await?;
        peer::decode(&answer).map_err(|_| CallError::Lost("the answer does not read".to_string()))
    }

    /// The same with an encoded question, for an encoded answer.
    pub async fn send(&self, call: Call, body: Bytes) -> Result<Bytes, CallError> {
        let _place = self.places.acquire().await.map_err(|e| CallError::Unreachable(e.to_string()))?;
        let mut lane = self.lane().await?;
        let mut response = lane.sender.send_request(request(call, body.clone())?).await;
        if response.is_err() && lane.kept {
            // The peer closed it while it was idle; the others may be as dead.
            drop(std::mem::take(&mut self.state().idle));
            // It may have been sent before the peer went.
            lane = self.connect().await.map_err(|error| CallError::Lost(error.to_string()))?;
            response = lane.sender.send_request(request(call, body)?).await;
        }
        let response = response.map_err(|error| {
            self.failed(&error.to_string());
            CallError::Lost(error.to_string())
        })?;
        self.read(call, lane, response).await
    }

    async fn read(&self, call: Call, lane: Lane, response: Response<Incoming>) -> Result<Bytes, CallError> {
        let (head, body) = response.into_parts();
        let good = head.status == StatusCode::OK;
        let body = whole(body, if good { call.answer_limit() } else { cluster::ERROR_BYTES }).await.map_err(CallError::Lost)?;
        self.keep(lane);
        if good {
            return Ok(body);
        }
        let error = peer::decode::<ClusterError>(&body).ok().filter(|error| cluster::http_status(error) == head.status.as_u16());
        Err(match error {
            Some(error) => CallError::Refused(error),
            None => CallError::Lost(format!("the process answered {}", head.status)),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that is ready: a kept one, or a new one.
    async fn lane(&self) -> Result<Lane, CallError> {
        loop {
            let Some(mut lane) = self.state().idle.pop() else { return self.connect().await };
            let young = lane.used.elapsed() < IDLE && lane.made.elapsed() < LIFE;
            let fresh = young && !lane.sender.is_closed();
            if fresh && timeout(READY, lane.sender.ready()).await.is_ok_and(|ready| ready.is_ok()) {
                return Ok(lane);
            }
        }
    }

    /// Keeps a connection whose exchange is over, and lets go of those that nobody has needed for long.
    fn keep(&self, mut lane: Lane) {
        lane.kept = true;
        lane.used = Instant::now();
        let mut state = self.state();
        state.failures = 0;
        state.not_before = None;
        state.idle.push(lane);
        let old = state.idle.iter().take_while(|lane| lane.used.elapsed() >= IDLE).count();
        let old: Vec<Lane> = state.idle.drain(..old).collect();
        drop(state);
        drop(old);
    }

    /// A new connection, unless the last attempt failed only just.
    async fn connect(&self) -> Result<Lane, CallError> {
        if let Some(why) = self.rests() {
            return Err(CallError::Unreachable(format!("{why}; tried again in a moment")));
        }
        self.dial().await.inspect_err(|error| match error {
            CallError::Unreachable(why) | CallError::Stranger(why) | CallError::Lost(why) => self.failed(why),
            CallError::Refused(error) => self.failed(&error.to_string()),
        })
    }

    /// Why nothing is tried now; `None`: it may be.
    fn rests(&self) -> Option<String> {
        let state = self.state();
        state.not_before.is_some_and(|until| Instant::now() < until).then(|| state.why.clone())
    }

    /// Books a failed attempt: a connection that was not made, or whose very first exchange had no answer.
    fn failed(&self, why: &str) {
        let mut state = self.state();
        state.why = why.to_string();
        let pause = PAUSE.saturating_mul(1 << state.failures.min(8)).min(PAUSE_MOST);
        state.failures += 1;
        state.not_before = Some(Instant::now() + pause);
    }

    async fn dial(&self) -> Result<Lane, CallError> {
        let unreachable = |reason: &str| CallError::Unreachable(reason.to_string());
        let name = self.name.clone().ok_or_else(|| unreachable("the node's name is no name"))?;
        let connecting = timeout(CONNECT, TcpStream::connect(&self.endpoint.address)).await;
        let stream = connecting.map_err(|_| unreachable("connecting took too long"))?;
        let stream = stream.map_err(|error| unreachable(&format!("connecting failed: {error}")))?;
        let _ = stream.set_nodelay(true);
        let shaken = timeout(CONNECT, self.connector.connect(name, stream)).await;
        let mut stream = shaken.map_err(|_| unreachable("the handshake took too long"))?.map_err(|error| not_shaken(&error))?;
        stream.get_mut().1.set_buffer_limit(Some(BUFFER_BYTES));
        let mut builder = http1::Builder::new();
        builder.max_buf_size(BUFFER_BYTES).max_headers(HEADERS);
        let (sender, connection) =
            builder.handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(&format!("the connection failed: {error}")))?;
        let task = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a metadata process ended");
            }
        });
        Ok(Lane { sender, kept: false, made: Instant::now(), used: Instant::now(), task })
    }
}

/// Why there is no TLS. Days pass, clocks are put right and certificates renewed; who is somebody else, or does not know the node's name,
/// stays so.
fn not_shaken(error: &io::Error) -> CallError {
    let tls_error = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match (tls_error.and_then(tls::refusal), tls_error) {
        (Some(refusal @ (Refusal::Expired | Refusal::NotYet)), _) => CallError::Unreachable(format!("the node is refused: {refusal}")),
        (Some(refusal), _) => CallError::Stranger(format!("the node is refused: {refusal}")),
        (None, Some(rustls::Error::AlertReceived(_))) => CallError::Stranger(format!("the handshake was refused: {error}")),
        (None, _) => CallError::Unreachable(format!("the handshake failed: {error}")),
    }
}

fn request(call: Call, body: Bytes) -> Result<Request<Full<Bytes>>, CallError> {
    let request = Request::post(call.path()).header(HOST, HeaderValue::from_static("metadata.breakwater"));
    request.body(Full::new(body)).map_err(|error| CallError::Unreachable(format!("the request cannot be sent: {error}")))
}

/// All of a body that announces its length.
async fn whole(mut body: Incoming, most: usize) -> Result<Bytes, String> {
    let len = body.size_hint().exact().ok_or("an answer without a length")?;
    let len = usize::try_from(len).ok().filter(|len| *len <= most).ok_or("the answer is too long")?;
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|error| format!("the answer broke off: {error}"))?.into_data() else { continue };
        if data.len() > len - bytes.len() {
            return Err("the answer is longer than it said".to_string());
        }
        if bytes.capacity() == 0 {
            bytes.reserve_exact(len);
        }
        bytes.extend_from_slice(&data);
    }
    if bytes.len() == len { Ok(Bytes::from(bytes)) } else { Err("the answer ended early".to_string()) }
}

/// A peer's text made fit for a log: short, and one line.
pub fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(REASON_CHARS).collect()
}
