//! Sockets: accepting, the handshake, and a connection's life.
//!
//! Invariants: TCP_NODELAY on every socket; whoever has not finished a handshake holds one of few places for a few seconds and nothing else;
//! after the stop signal nothing new is accepted, running calls finish until the deadline, and then no task is left.

use super::peers::Connected;
use super::{Server, Shared, answer};
use crate::metric::{CLUSTER_CONNECTIONS, CLUSTER_REFUSALS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::UnixTime;
use spine::fleet::certificate::{self, Certified};
use spine::fleet::tls;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Most bytes of a request's head.
const HEAD_BYTES: usize = 8 << 10;
/// Most header lines of a request.
const HEADERS: usize = 32;
/// hyper reads and writes, and TLS is filled, in pieces of up to this.
const BUFFER_BYTES: usize = 256 << 10;
/// How often a connection is looked at: whether its peer may stay, and whether it takes its answer.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Server {
    /// Serves until `stop` turns true; then finishes running calls, for at most `deadline`. Returns how many connections were cut off.
    pub async fn serve(self, socket: TcpListener, mut stop: watch::Receiver<bool>, deadline: Duration) -> usize {
        let handshakes = Arc::new(Semaphore::new(self.shared.bounds.handshakes));
        let acceptor = TlsAcceptor::from(self.config);
        let mut tasks = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                Some(_) = tasks.join_next(), if !tasks.is_empty() => continue,
                () = stopped(&mut stop) => break,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors or a peer already gone: go on, and not in a busy loop.
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            };
            let Ok(place) = handshakes.clone().try_acquire_owned() else {
                CLUSTER_REFUSALS.with_label_values(&["handshakes"]).inc();
                continue;
            };
            let (shared, acceptor, stop) = (self.shared.clone(), acceptor.clone(), stop.clone());
            tasks.spawn(async move {
                let greeted = greet(&shared, &acceptor, stream).await;
                drop(place);
                if let Some((stream, session)) = greeted {
                    CLUSTER_CONNECTIONS.inc();
                    speak(shared, stream, session, stop).await;
                    CLUSTER_CONNECTIONS.dec();
                }
            });
        }
        drop(socket);
        let finished = tokio::time::timeout(deadline, async { while tasks.join_next().await.is_some() {} }).await;
        let cut_off = if finished.is_ok() { 0 } else { tasks.len() };
        tasks.shutdown().await;
        cut_off
    }
}

/// One connection: who speaks.
pub(super) struct Session {
    pub peer: Certified,
    pub connected: Connected,
    start: Instant,
    /// Since when the newest answer has been on its way out: milliseconds after `start` and one, 0 for none.
    answering: AtomicU64,
}

impl Session {
    /// To be dropped when the socket has taken an answer.
    pub fn answering(self: &Arc<Self>) -> Answering {
        let since = self.start.elapsed().as_millis() as u64 + 1;
        self.answering.store(since, Relaxed);
        Answering { session: self.clone(), since }
    }

    /// Why this connection must end now, whatever it is doing.
    fn to_be_cut(&self, shared: &Shared) -> Option<&'static str> {
        if shared.trust.still_in(&self.peer, UnixTime::now()).is_err() {
            return Some("certificate");
        }
        let since = self.answering.load(Relaxed);
        let most = shared.bounds.body.as_millis() as u64;
        (since > 0 && (self.start.elapsed().as_millis() as u64).saturating_sub(since) > most).then_some("stalled")
    }
}

pub(super) struct Answering {
    session: Arc<Session>,
    since: u64,
}

impl Drop for Answering {
    fn drop(&mut self) {
        // A peer that asked again before it had read this one is watched for the later answer; that one's time counts then.
        let _ = self.session.answering.compare_exchange(self.since, 0, Relaxed, Relaxed);
    }
}

/// The handshake, and a place among the peer's connections.
async fn greet(shared: &Arc<Shared>, acceptor: &TlsAcceptor, stream: TcpStream) -> Option<(TlsStream<TcpStream>, Session)> {
    let refused = |why: &'static str| CLUSTER_REFUSALS.with_label_values(&[why]).inc();
    let _ = stream.set_nodelay(true);
    let mut stream = match tokio::time::timeout(shared.bounds.handshake, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            let refusal = error.get_ref().and_then(|inner| inner.downcast_ref()).and_then(tls::refusal);
            tracing::debug!(%error, refusal = refusal.map(tracing::field::display), "a handshake failed");
            refused(if refusal.is_some() { "certificate" } else { "handshake" });
            return None;
        }
        Err(_) => {
            refused("slow");
            return None;
        }
    };
    let (_, tls) = stream.get_mut();
    tls.set_buffer_limit(Some(BUFFER_BYTES));
    let peer = certificate::read(tls.peer_certificates()?.first()?).ok()?;
    let Some(connected) = shared.peers.connect(peer.node) else {
        refused("connections");
        return None;
    };
    Some((stream, Session { peer, connected, start: Instant::now(), answering: AtomicU64::new(0) }))
}

async fn speak(shared: Arc<Shared>, stream: TlsStream<TcpStream>, session: Session, mut stop: watch::Receiver<bool>) {
    let session = Arc::new(session);
    let (of_service, by) = (shared.clone(), session.clone());
    let service = service_fn(move |request| {
        let (shared, session) = (of_service.clone(), by.clone());
        async move { Ok::<_, Infallible>(answer::answer(&shared, &session, request).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(shared.bounds.head).auto_date_header(false);
    builder.max_buf_size(BUFFER_BYTES).max_header_size(HEAD_BYTES).max_headers(HEADERS);
    let mut served = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut look = tokio::time::interval(LOOK_EVERY);
    let mut stopping = false;
    loop {
        tokio::select! {
            ended = served.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(peer = %session.peer.node, %error, "a connection ended early");
                }
                return;
            }
            () = stopped(&mut stop), if !stopping => {
                stopping = true;
                served.as_mut().graceful_shutdown();
            }
            _ = look.tick() => if let Some(why) = session.to_be_cut(&shared) {
                tracing::debug!(peer = %session.peer.node, why, "a connection was cut");
                CLUSTER_REFUSALS.with_label_values(&[why]).inc();
                return;
            }
        }
    }
}

/// Returns when the signal is given, or can be given no more.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}
