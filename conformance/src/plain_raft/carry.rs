//! Between members of plain groups: a message a call over HTTP/1.1 and TLS, as the product's links make them, with nothing behind.

use super::{Members, Plain, RpcError, away, lock};
use crate::plane::{Authority, admission};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use metadata::cluster::Link;
use openraft::error::RPCError;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use serde::Serialize;
use serde::de::DeserializeOwned;
use spine::fleet::admission::{Admission, Role};
use spine::fleet::tls::{self, Served, Shown};
use spine::wire::cluster::{Call, Endpoint};
use spine::wire::peer::{decode, encode};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// Connections of one node to another, as many as the product's.
const PLACES: usize = 32;

/// All groups, in the order of their numbers.
pub type Groups = Arc<Mutex<Vec<Members>>>;

/// One node's ways to all nodes.
pub type Lines = Arc<BTreeMap<u64, Arc<Link>>>;

/// Nodes that hear each other.
pub struct Carrier {
    pub lines: Vec<Lines>,
    servers: Vec<JoinHandle<()>>,
}

impl Carrier {
    /// # Errors
    /// A socket, or TLS.
    pub async fn start(nodes: usize, groups: &Groups) -> Result<Carrier, String> {
        let authority = Authority::new()?;
        let (mut endpoints, mut identities, mut servers) = (Vec::new(), Vec::new(), Vec::new());
        for node in 0..nodes as u64 {
            let socket = TcpListener::bind("127.0.0.1:0").await.map_err(|e| e.to_string())?;
            let address = socket.local_addr().map_err(|e| e.to_string())?.to_string();
            let certified = authority.certify(Admission { address: Some(address.clone()), ..admission(Role::Metadata) }, 2100)?;
            let served = Arc::new(Served::default());
            served.set(certified.identity()?);
            let config = tls::server(authority.trust()?, served, &[Role::Metadata]).map_err(|e| e.to_string())?;
            servers.push(tokio::spawn(serve(socket, TlsAcceptor::from(config), node, groups.clone())));
            endpoints.push(Endpoint { node: certified.node, address });
            identities.push(certified.identity()?);
        }
        let mut lines = Vec::new();
        for identity in identities {
            let connect =
                tls::client_of(authority.trust()?, Arc::new(Shown::new(identity)), &[Role::Metadata]).map_err(|e| e.to_string())?;
            let to = (0..).zip(&endpoints).map(|(node, at)| (node, Link::new(at.clone(), connect.clone(), PLACES)));
            lines.push(Arc::new(to.collect()));
        }
        Ok(Carrier { lines, servers })
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        self.servers.iter().for_each(JoinHandle::abort);
    }
}

async fn serve(socket: TcpListener, acceptor: TlsAcceptor, node: u64, groups: Groups) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = socket.accept().await {
        while connections.try_join_next().is_some() {}
        let (acceptor, groups) = (acceptor.clone(), groups.clone());
        connections.spawn(async move {
            let _ = stream.set_nodelay(true);
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |request| {
                let groups = groups.clone();
                async move { Ok::<_, Infallible>(answer(node, &groups, request).await) }
            });
            // A connection that breaks is made again by whoever needs it.
            let _ = http1::Builder::new().auto_date_header(false).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(node: u64, groups: &Groups, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let call = Call::of_path(request.uri().path());
    let mut response = Response::new(Full::default());
    let body = match request.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => Bytes::new(),
    };
    let answered = match call {
        Some(Call::Append) => append(node, groups, &body).await,
        Some(Call::Vote) => vote(node, groups, &body).await,
        _ => None,
    };
    match answered {
        Some(bytes) => *response.body_mut() = Full::new(bytes),
        None => *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE,
    }
    response
}

fn raft(node: u64, groups: &Groups, group: u32) -> Option<openraft::Raft<Plain>> {
    let members = groups.lock().unwrap_or_else(PoisonError::into_inner).get(group as usize)?.clone();
    lock(&members).get(&node).cloned()
}

async fn append(node: u64, groups: &Groups, body: &[u8]) -> Option<Bytes> {
    let (group, request): (u32, AppendEntriesRequest<Plain>) = decode(body).ok()?;
    let response = raft(node, groups, group)?.append_entries(request).await.ok()?;
    Some(encode(&response))
}

async fn vote(node: u64, groups: &Groups, body: &[u8]) -> Option<Bytes> {
    let (group, request): (u32, VoteRequest<u64>) = decode(body).ok()?;
    let response = raft(node, groups, group)?.vote(request).await.ok()?;
    Some(encode(&response))
}

async fn send<Q: Serialize, A: DeserializeOwned>(line: &Link, call: Call, group: u32, request: &Q) -> Result<A, RpcError> {
    line.call(call, &(group, request)).await.map_err(|error| RPCError::Unreachable(away(error)))
}

pub async fn send_append(line: &Link, group: u32, request: &AppendEntriesRequest<Plain>) -> Result<AppendEntriesResponse<u64>, RpcError> {
    send(line, Call::Append, group, request).await
}

pub async fn send_vote(line: &Link, group: u32, request: &VoteRequest<u64>) -> Result<VoteResponse<u64>, RpcError> {
    send(line, Call::Vote, group, request).await
}
