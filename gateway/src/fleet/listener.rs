//! Where nodes ask to be admitted: TLS 1.3 with a certificate of the fleet's CA, no client certificate, one request to join and one to renew.
//!
//! Whoever comes is a stranger. Invariants: connections, requests of one address, bytes and seconds are bounded, and what goes over a
//! bound is closed; one request a connection; without a fleet nothing is answered.
//! Not here: who is admitted (`admit.rs`).

use crate::metric::ADMISSIONS;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use spine::wire::admission::{
    AdmissionRefusal, Admitted, ENLIST, ENLIST_RENEW, EXPORTER, Enlisted, JOIN, JoinRequest, RENEW, REQUEST_BYTES, RenewRequest,
};
use spine::wire::peer;
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// Connections at a time; a join takes milliseconds.
const CONNECTIONS: usize = 32;
/// From the first byte of the handshake to the last of the answer.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// Requests that one address may make at once, and how soon it may make one more.
const BURST: f64 = 64.0;
const PER_SECOND: f64 = 2.0;
/// Addresses that are remembered. One more, and those that have been quiet are forgotten.
const ADDRESSES: usize = 4_096;
const HEAD_BYTES: usize = 8 << 10;

/// Who decides.
#[async_trait::async_trait]
pub trait Admissions: Send + Sync + 'static {
    /// TLS as it is shown now; `None` where there is no fleet yet.
    fn tls(&self) -> Option<Arc<ServerConfig>>;
    /// `binding`: what this connection exports.
    async fn join(&self, request: JoinRequest, binding: [u8; 32]) -> Result<Admitted, AdmissionRefusal>;
    async fn renew(&self, request: RenewRequest, binding: [u8; 32]) -> Result<Admitted, AdmissionRefusal>;
    /// The same for metadata nodes.
    async fn enlist(&self, request: JoinRequest, binding: [u8; 32]) -> Result<Enlisted, AdmissionRefusal>;
    async fn renew_enlisted(&self, request: RenewRequest, binding: [u8; 32]) -> Result<Enlisted, AdmissionRefusal>;
}

/// Serves until `stop` turns true; what runs then has [`CONNECTION_TIME`] at most anyway and is cut off.
pub async fn serve(socket: TcpListener, admissions: Arc<dyn Admissions>, mut stop: watch::Receiver<bool>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let mut pace = Pace::default();
    let mut tasks = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            Some(_) = tasks.join_next(), if !tasks.is_empty() => continue,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(target: "breakwater", %error, "an admission connection was not accepted");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        if !pace.allows(peer.ip(), Instant::now()) {
            continue;
        }
        let (Some(tls), Ok(permit)) = (admissions.tls(), permits.clone().try_acquire_owned()) else { continue };
        let admissions = admissions.clone();
        tasks.spawn(async move {
            let done = tokio::time::timeout(CONNECTION_TIME, connection(stream, tls, admissions)).await;
            if let Ok(Err(reason)) = done {
                tracing::debug!(%peer, reason, "an admission connection ended early");
            }
            drop(permit);
        });
    }
    tasks.shutdown().await;
}

async fn connection(stream: TcpStream, tls: Arc<ServerConfig>, admissions: Arc<dyn Admissions>) -> Result<(), String> {
    let _ = stream.set_nodelay(true);
    let stream = TlsAcceptor::from(tls).accept(stream).await.map_err(|error| error.to_string())?;
    let binding = stream.get_ref().1.export_keying_material([0; 32], EXPORTER, None).map_err(|error| error.to_string())?;
    let service = service_fn(move |request| {
        let admissions = admissions.clone();
        async move { Ok::<_, Infallible>(answer(request, binding, admissions).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(CONNECTION_TIME).keep_alive(false).max_buf_size(HEAD_BYTES).max_headers(32);
    builder.serve_connection(TokioIo::new(stream), service).await.map_err(|error| error.to_string())
}

async fn answer(request: Request<Incoming>, binding: [u8; 32], admissions: Arc<dyn Admissions>) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_string();
    if request.method() != Method::POST {
        return response(StatusCode::METHOD_NOT_ALLOWED, Bytes::new());
    }
    let invalid = |what: &str| AdmissionRefusal::Invalid { what: what.to_string() };
    let body = Limited::new(request.into_body(), REQUEST_BYTES).collect().await;
    let no_join = |_| invalid("a body that is no request to join");
    let no_renewal = |_| invalid("a body that is no request to renew");
    let decided = match (path.as_str(), body) {
        (JOIN | RENEW | ENLIST | ENLIST_RENEW, Err(_)) => Err(invalid("a body that is too long or broken")),
        (JOIN, Ok(body)) => match peer::decode(&body.to_bytes()).map_err(no_join) {
            Ok(request) => admissions.join(request, binding).await.map(|admitted| peer::encode(&admitted)),
            Err(refusal) => Err(refusal),
        },
        (RENEW, Ok(body)) => match peer::decode(&body.to_bytes()).map_err(no_renewal) {
            Ok(request) => admissions.renew(request, binding).await.map(|admitted| peer::encode(&admitted)),
            Err(refusal) => Err(refusal),
        },
        (ENLIST, Ok(body)) => match peer::decode(&body.to_bytes()).map_err(no_join) {
            Ok(request) => admissions.enlist(request, binding).await.map(|enlisted| peer::encode(&enlisted)),
            Err(refusal) => Err(refusal),
        },
        (ENLIST_RENEW, Ok(body)) => match peer::decode(&body.to_bytes()).map_err(no_renewal) {
            Ok(request) => admissions.renew_enlisted(request, binding).await.map(|enlisted| peer::encode(&enlisted)),
            Err(refusal) => Err(refusal),
        },
        _ => return response(StatusCode::NOT_FOUND, Bytes::new()),
    };
    let outcome = if decided.is_ok() { "admitted" } else { "refused" };
    ADMISSIONS.with_label_values(&[path.trim_start_matches("/1/"), outcome]).inc();
    match decided {
        Ok(granted) => response(StatusCode::OK, granted),
        Err(refusal @ AdmissionRefusal::Unavailable { .. }) => response(StatusCode::SERVICE_UNAVAILABLE, peer::encode(&refusal)),
        Err(refusal) => {
            tracing::warn!(target: "breakwater", %refusal, "nobody was admitted");
            response(StatusCode::FORBIDDEN, peer::encode(&refusal))
        }
    }
}

fn response(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
}

/// How many connections each address has left.
#[derive(Default)]
struct Pace {
    left: HashMap<IpAddr, (f64, Instant)>,
}

impl Pace {
    fn allows(&mut self, address: IpAddr, now: Instant) -> bool {
        if self.left.len() >= ADDRESSES && !self.left.contains_key(&address) {
            // Whoever has been quiet this long has its whole burst again: forgetting it changes nothing.
            let full = Duration::from_secs_f64(BURST / PER_SECOND);
            self.left.retain(|_, (_, at)| now.duration_since(*at) < full);
            if self.left.len() >= ADDRESSES {
                return false;
            }
        }
        let (left, at) = self.left.entry(address).or_insert((BURST, now));
        *left = (*left + now.duration_since(*at).as_secs_f64() * PER_SECOND).min(BURST);
        *at = now;
        if *left < 1.0 {
            return false;
        }
        *left -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_burst_and_then_waits_while_others_do_not() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        let (one, other) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let allowed = (0..100).filter(|_| pace.allows(one, now)).count();
        assert_eq!(allowed, BURST as usize);
        assert!(pace.allows(other, now));
        assert!(!pace.allows(one, now + Duration::from_millis(100)));
        assert!(pace.allows(one, now + Duration::from_secs(1)));
    }

    #[test]
    fn a_flood_of_addresses_is_not_remembered_for_ever() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        let address = |n: u32| IpAddr::from(n.to_be_bytes());
        assert!((0..ADDRESSES as u32).all(|n| pace.allows(address(n), now)));
        assert!(!pace.allows(address(u32::MAX), now));
        assert!(pace.allows(address(u32::MAX), now + Duration::from_secs(60)));
        assert_eq!(pace.left.len(), 1);
    }
}
