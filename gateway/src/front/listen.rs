//! Accepts connections and bounds them: how many, how long a head may take, how long an answer may stall.
//!
//! Invariants: TCP_NODELAY on every socket; at most `connections` at a time, the next is told 503 and closed; after the stop signal
//! nothing new is accepted, running requests finish until the deadline, and then no task of a connection is left.
//! Not here: what a request means (`service.rs`).

use crate::front::metric;
use crate::front::stall::Stall;
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// Most bytes of a request's head; hyper answers 431 above.
const HEAD_BYTES: usize = 64 << 10;
/// hyper reads and writes in pieces of up to this; a body of 1 MiB takes four reads.
const BUFFER_BYTES: usize = 256 << 10;

/// How connections are bounded.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Most connections at a time.
    pub connections: usize,
    /// Longest wait for a whole request head, idle time between requests included; also for a TLS handshake.
    pub head: Duration,
    /// Longest time an answer makes no progress because the client does not read.
    pub stall: Duration,
}

/// In the extensions of requests that came over TLS.
#[derive(Clone, Copy, Debug)]
pub struct Secure;

/// A listener that is not serving yet.
pub struct Listener {
    pub socket: TcpListener,
    /// Label of its metrics.
    pub name: &'static str,
    pub tls: Option<TlsAcceptor>,
    pub bounds: Bounds,
}

impl Listener {
    /// Serves until `stop` turns true; then finishes running requests, for at most `deadline`. Returns how many were cut off.
    pub async fn serve<H, F, B>(self, handle: H, mut stop: watch::Receiver<bool>, deadline: Duration) -> usize
    where
        H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        metric::declare(self.name);
        let permits = Arc::new(Semaphore::new(self.bounds.connections));
        let mut tasks = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                Some(_) = tasks.join_next(), if !tasks.is_empty() => continue,
                () = stopped(&mut stop) => break,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors or a peer already gone: go on, and not in a busy loop.
                    tracing::warn!(listener = self.name, %error, "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            };
            let _ = stream.set_nodelay(true);
            let Ok(permit) = permits.clone().try_acquire_owned() else {
                metric::CONNECTIONS_REFUSED.with_label_values(&[self.name]).inc();
                let secure = self.tls.is_some();
                tasks.spawn(turn_away(stream, secure));
                continue;
            };
            let (name, tls, bounds, handle, stop) = (self.name, self.tls.clone(), self.bounds, handle.clone(), stop.clone());
            tasks.spawn(async move {
                let _open = Open::new(name);
                connection(stream, tls, bounds, handle, stop).await;
                drop(permit);
            });
        }
        drop(self.socket);
        let finished = tokio::time::timeout(deadline, async { while tasks.join_next().await.is_some() {} }).await;
        let cut_off = if finished.is_ok() { 0 } else { tasks.len() };
        tasks.shutdown().await;
        cut_off
    }
}

async fn connection<H, F, B>(stream: TcpStream, tls: Option<TlsAcceptor>, bounds: Bounds, handle: H, stop: watch::Receiver<bool>)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = Stall::new(stream, bounds.stall);
    match tls {
        None => speak(stream, bounds, handle, stop).await,
        Some(tls) => match tokio::time::timeout(bounds.head, tls.accept(stream)).await {
            Ok(Ok(stream)) => {
                let handle = move |mut request: Request<Incoming>| {
                    request.extensions_mut().insert(Secure);
                    handle(request)
                };
                speak(stream, bounds, handle, stop).await;
            }
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        },
    }
}

async fn speak<S, H, F, B>(stream: S, bounds: Bounds, handle: H, mut stop: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let service = service_fn(move |request| {
        let answer = handle(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(bounds.head).max_buf_size(BUFFER_BYTES).max_header_size(HEAD_BYTES);
    // A client that shut its side in the middle of a body is still told that the body was incomplete.
    builder.half_close(true);
    let mut served = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let result = tokio::select! {
        result = served.as_mut() => result,
        () = stopped(&mut stop) => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Returns when the signal is given, or can be given no more.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Tells a client over plain HTTP that there are too many; over TLS it is closed.
async fn turn_away(mut stream: TcpStream, secure: bool) {
    const ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/xml\r\nconnection: close\r\nretry-after: 1\r\ncontent-length: 116\r\n\r\n<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>SlowDown</Code><Message>Too many connections.</Message></Error>\n";
    if !secure {
        let _ = tokio::time::timeout(Duration::from_secs(1), stream.write_all(ANSWER)).await;
        let _ = tokio::time::timeout(Duration::from_secs(1), stream.shutdown()).await;
    }
}

struct Open(&'static str);

impl Open {
    fn new(name: &'static str) -> Open {
        metric::CONNECTIONS.with_label_values(&[name]).inc();
        Open(name)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        metric::CONNECTIONS.with_label_values(&[self.0]).dec();
    }
}
