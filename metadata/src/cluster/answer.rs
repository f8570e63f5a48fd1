//! One call: what came in is checked, the node is asked, its answer goes out.
//!
//! Invariant: bytes lie in memory only with as many permits, and an answer's permits go back when the socket has taken it.

use super::Shared;
use super::link::plain;
use super::listen::Session;
use crate::metric::CLUSTER_CALLS;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use serde::Serialize;
use serde::de::DeserializeOwned;
use spine::fleet::admission::Role;
use spine::wire::MetadataError;
use spine::wire::cluster::{self, Ask, Call, Change, ClusterError, GroupCall, MemberChange};
use spine::wire::peer;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

/// Answers one request; whatever is wrong with it is an answer too.
pub(super) async fn answer(shared: &Arc<Shared>, session: &Arc<Session>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let known = Call::of_path(request.uri().path()).filter(|_| request.method() == http::Method::POST && request.uri().query().is_none());
    let result = match known {
        Some(call) => admitted(shared, session, call, request).await,
        None => Err(invalid("no such call")),
    };
    let outcome = if result.is_ok() { "ok" } else { "error" };
    CLUSTER_CALLS.with_label_values(&[known.map_or("unknown", Call::name), outcome]).inc();
    let mut response = Response::new(Full::default());
    match result {
        Ok(body) => *response.body_mut() = Full::new(body),
        Err(error) => {
            tracing::debug!(peer = %session.peer.node, %error, "a call was not done");
            *response.status_mut() = StatusCode::from_u16(cluster::http_status(&error)).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            *response.body_mut() = Full::new(peer::encode(&bounded(error)));
        }
    }
    response
}

/// Checks that the peer may ask this and has room for a call, and runs it.
async fn admitted(shared: &Arc<Shared>, session: &Arc<Session>, call: Call, request: Request<Incoming>) -> Result<Bytes, ClusterError> {
    let is_member = session.peer.admission.role == Role::Metadata;
    if call.is_for_members() && !is_member {
        return Err(invalid("only metadata nodes may call this"));
    }
    // Signs of life of a leader never wait behind anything.
    let calling = (!call.is_for_members()).then(|| session.connected.call());
    if let Some(None) = calling {
        return Err(unavailable("too many calls at a time"));
    }
    let node = &shared.node;
    if call == Call::Status {
        return outgoing(shared, session, call, peer::encode(&node.status())).await;
    }
    if call == Call::Format {
        return outgoing(shared, session, call, peer::encode(&node.understood())).await;
    }
    if call == Call::Loads {
        return outgoing(shared, session, call, peer::encode(&node.loads().await?)).await;
    }
    let (body, room) = body(shared, call, request.into_body()).await?;
    let answer = match call {
        Call::Propose => done(node.propose_once(message(&body)?).await)?,
        Call::Query => {
            let ask: Ask = message(&body)?;
            let group = ask.group;
            let answer = done(node.ask(ask).await)?;
            node.sent(group, answer.len() as u64);
            answer
        }
        Call::Change => {
            let change: Change = message(&body)?;
            // A metadata node speaks for itself; gateways for an operator.
            if is_member && matches!(&change.change, MemberChange::Join(member) if member.at.node != session.peer.node) {
                return Err(invalid("a metadata node can only join as itself"));
            }
            done(node.change(change).await)?
        }
        Call::Append => done(node.append(message(&body)?).await)?,
        Call::Vote => done(node.vote(message(&body)?).await)?,
        Call::Snapshot => done(node.take_part(message(&body)?).await)?,
        Call::Beats => done(node.beats(message(&body)?).await)?,
        Call::Appends => done(node.appends(message(&body)?).await)?,
        Call::Group => {
            let order: GroupCall = message(&body)?;
            if order.is_for_members() && !is_member {
                return Err(invalid("only metadata nodes may order this"));
            }
            done(node.order(order).await)?
        }
        Call::Status | Call::Loads | Call::Format => return Err(invalid("answered above")),
    };
    drop((body, room));
    outgoing(shared, session, call, answer).await
}

/// An answer with what stands for it until the socket has taken it.
async fn outgoing(shared: &Shared, session: &Arc<Session>, call: Call, answer: Bytes) -> Result<Bytes, ClusterError> {
    if answer.len() > call.answer_limit() {
        return Err(MetadataError::TooLarge { what: format!("answer of {} bytes", answer.len()) }.into());
    }
    if answer.len() <= cluster::SHORT_ANSWER_BYTES {
        return Ok(answer);
    }
    let room = room_for(shared, call, answer.len()).await?;
    Ok(Bytes::from_owner(Held { bytes: answer, _for: (room, session.answering()) }))
}

fn done<T: Serialize>(result: Result<T, ClusterError>) -> Result<Bytes, ClusterError> {
    result.map(|answer| peer::encode(&answer))
}

/// Bytes and what stands for them.
struct Held<T> {
    bytes: Bytes,
    _for: T,
}

impl<T> AsRef<[u8]> for Held<T> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Waits for room in memory, as the sender or reader waits with it.
async fn room_for(shared: &Shared, call: Call, bytes: usize) -> Result<OwnedSemaphorePermit, ClusterError> {
    let permits = u32::try_from(bytes.max(1)).unwrap_or(u32::MAX);
    match timeout(shared.bounds.body, shared.memory_of(call).clone().acquire_many_owned(permits)).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(unavailable("no memory for the call")),
    }
}

/// All of a request's body, which announces its length, and what it takes of the memory.
async fn body(shared: &Shared, call: Call, mut body: Incoming) -> Result<(Vec<u8>, OwnedSemaphorePermit), ClusterError> {
    let len = body.size_hint().exact().and_then(|len| usize::try_from(len).ok());
    let len = len.ok_or_else(|| invalid("a body without a length"))?;
    if len > call.body_limit() {
        return Err(invalid("the body is too long"));
    }
    let room = room_for(shared, call, len).await?;
    let mut bytes = Vec::with_capacity(len);
    let whole = async {
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| unavailable("the body broke off"))?.into_data() else { continue };
            if data.len() > len - bytes.len() {
                return Err(invalid("more bytes than announced"));
            }
            bytes.extend_from_slice(&data);
        }
        if bytes.len() == len { Ok(()) } else { Err(unavailable("the body ended early")) }
    };
    timeout(shared.bounds.body, whole).await.map_err(|_| unavailable("the body took too long"))??;
    Ok((bytes, room))
}

fn message<T: DeserializeOwned>(body: &[u8]) -> Result<T, ClusterError> {
    peer::decode(body).map_err(|_| invalid("not a message of the metadata plane"))
}

fn invalid(what: &str) -> ClusterError {
    ClusterError::Invalid { what: what.to_string() }
}

fn unavailable(reason: &str) -> ClusterError {
    MetadataError::Unavailable { reason: reason.to_string() }.into()
}

/// The error with its text cut to what a peer may be told at most.
fn bounded(error: ClusterError) -> ClusterError {
    match error {
        ClusterError::Invalid { what } => ClusterError::Invalid { what: plain(&what) },
        ClusterError::Metadata(MetadataError::Unavailable { reason }) => MetadataError::Unavailable { reason: plain(&reason) }.into(),
        ClusterError::Metadata(MetadataError::Storage { reason }) => MetadataError::Storage { reason: plain(&reason) }.into(),
        ClusterError::Metadata(MetadataError::TooNew { what }) => MetadataError::TooNew { what: plain(&what) }.into(),
        ClusterError::Metadata(MetadataError::TooLarge { what }) => MetadataError::TooLarge { what: plain(&what) }.into(),
        error => error,
    }
}
