//! One call: what came in is checked, the node is asked, its answer goes out.

use super::Shared;
use super::body;
use super::listen::Session;
use crate::metric::PEER_CALLS;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use serde::Serialize;
use serde::de::DeserializeOwned;
use spine::audit::Question;
use spine::limit::{AUDIT_QUESTIONS, CALL_HEADERS, CALL_NAMES, SEALED_MAX_BYTES};
use spine::wire::chunk::ShardName;
use spine::wire::peer::{self, Call, Listing, PeerStatus, SUBJECT, Slice};
use spine::wire::shard::{NodeError, ShardHeader, StorageNode};
use std::sync::Arc;

/// Memory that a get takes before its shard's length is known: the largest shard of the default code.
const GET_GUESS: usize = SEALED_MAX_BYTES / 4;

/// What goes out with 200.
struct Answer {
    subject: Option<String>,
    body: Bytes,
}

impl Answer {
    fn message<T: Serialize>(message: &T) -> Answer {
        Answer { subject: None, body: peer::encode(message) }
    }

    const EMPTY: Answer = Answer { subject: None, body: Bytes::new() };
}

/// Answers one request; whatever is wrong with it is an answer too.
pub(super) async fn answer(shared: &Arc<Shared>, session: &Session, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let known = Call::of_path(request.uri().path()).filter(|_| request.method() == http::Method::POST && request.uri().query().is_none());
    let result = match known {
        Some(call) => admitted(shared, session, call, request).await,
        None => Err(invalid("no such call")),
    };
    let outcome = if result.is_ok() { "ok" } else { "error" };
    PEER_CALLS.with_label_values(&[known.map_or("unknown", Call::name), outcome]).inc();
    let mut response = Response::new(Full::default());
    match result {
        Ok(Answer { subject, body }) => {
            if let Some(value) = subject.and_then(|subject| HeaderValue::try_from(subject).ok()) {
                response.headers_mut().insert(SUBJECT, value);
            }
            *response.body_mut() = Full::new(body);
        }
        Err(error) => {
            tracing::debug!(peer = %session.peer.node, node = %session.node.id(), %error, "a call was not done");
            *response.status_mut() = StatusCode::from_u16(peer::http_status(&error)).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            *response.body_mut() = Full::new(peer::encode(&bounded(error)));
        }
    }
    response
}

/// Checks that the peer may still speak and has room for a call, and runs it.
async fn admitted(shared: &Arc<Shared>, session: &Session, call: Call, request: Request<Incoming>) -> Result<Answer, NodeError> {
    session.still_in(shared).map_err(|refusal| NodeError::Unavailable { reason: refusal.to_string() })?;
    // A node with too much to do is not lost: the status is told all the same, and costs nothing.
    let calling = (call != Call::Status).then(|| session.connected.call());
    if let Some(None) = calling {
        return Err(NodeError::Unavailable { reason: "too many calls at a time".to_string() });
    }
    let node = &session.node;
    if node.id() != session.named {
        return Err(NodeError::Unavailable { reason: "the disk has become another node".to_string() });
    }
    match call {
        Call::Put => put(shared, node, request).await,
        Call::Get => get(shared, session, subject(&request)?).await,
        Call::Range => range(shared, session, subject(&request)?).await,
        Call::Has => {
            let held = node.has(names(shared, call, request).await?).await?;
            Ok(Answer::message(&held))
        }
        Call::Trash => node.trash(names(shared, call, request).await?).await.map(|()| Answer::EMPTY),
        Call::List => {
            let Listing { after, max } = message(shared, call, request).await?;
            let page = node.list(after, (max as usize).min(CALL_NAMES)).await?;
            Ok(Answer::message(&page))
        }
        Call::Headers => {
            let Listing { after, max } = message(shared, call, request).await?;
            let page = node.headers(after, (max as usize).min(CALL_HEADERS)).await?;
            Ok(Answer::message(&page))
        }
        Call::Status => Ok(Answer::message(&PeerStatus { status: node.status(), revocations: shared.trust.revocations().0 })),
        Call::Revoke => revoke(shared, request).await,
        Call::Audit => audit(shared, node, request).await,
        Call::Scrub => Ok(Answer::message(&node.scrubbed().await?)),
    }
}

async fn put(shared: &Arc<Shared>, node: &Arc<dyn StorageNode>, request: Request<Incoming>) -> Result<Answer, NodeError> {
    let header: ShardHeader = subject(&request)?;
    let body = request.into_body();
    let len = body::announced(&body, Call::Put.body_limit())?;
    if len != header.len as usize {
        return Err(invalid("the body is not as long as its header says"));
    }
    let permit = body::room(shared, len).await?;
    let bytes = body::read(shared, body, len).await?;
    if blake3::hash(&bytes).as_bytes() != &header.root.0 {
        return Err(invalid("the bytes are not those of the root"));
    }
    node.put(header, body::hold(bytes, permit, None)).await.map(|()| Answer::EMPTY)
}

async fn get(shared: &Arc<Shared>, session: &Session, name: ShardName) -> Result<Answer, NodeError> {
    let permit = body::room(shared, GET_GUESS).await?;
    let (header, shard) = session.node.get(name).await?;
    let permit = body::fit(shared, permit, shard.len())?;
    let body = body::hold(shard, permit, Some(Box::new(session.answering())));
    Ok(Answer { subject: Some(peer::encode_subject(&header)), body })
}

/// The node reads and checks the whole shard; only the part that was asked for travels.
async fn range(shared: &Arc<Shared>, session: &Session, slice: Slice) -> Result<Answer, NodeError> {
    let permit = body::room(shared, GET_GUESS).await?;
    let (header, shard) = session.node.get(slice.name).await?;
    let (from, len) = (slice.from as usize, slice.len as usize);
    let end = from.checked_add(len).filter(|end| *end <= shard.len()).ok_or_else(|| invalid("the range is not within the shard"))?;
    let permit = body::fit(shared, permit, shard.len())?;
    let body = body::hold(shard.slice(from..end), permit, Some(Box::new(session.answering())));
    Ok(Answer { subject: Some(peer::encode_subject(&header)), body })
}

/// The node has one of the shards in memory at a time, and sends little of it.
async fn audit(shared: &Arc<Shared>, node: &Arc<dyn StorageNode>, request: Request<Incoming>) -> Result<Answer, NodeError> {
    let questions: Vec<Question> = message(shared, Call::Audit, request).await?;
    if questions.len() > AUDIT_QUESTIONS {
        return Err(invalid("too many questions"));
    }
    let _room = body::room(shared, GET_GUESS).await?;
    let answers = node.audit(questions).await?;
    Ok(Answer::message(&answers))
}

async fn revoke(shared: &Arc<Shared>, request: Request<Incoming>) -> Result<Answer, NodeError> {
    let signed = bytes(shared, Call::Revoke, request).await?;
    let news = shared.trust.revoke(&signed).map_err(|error| invalid(&error.to_string()))?;
    let keeper = shared.clone();
    let kept = tokio::task::spawn_blocking(move || (keeper.keep)(&signed)).await;
    let failed = |error: String| NodeError::Unavailable { reason: format!("the revocation list was not kept: {error}") };
    kept.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))?;
    if news {
        tracing::info!(version = shared.trust.revocations().0, "a newer revocation list is in force");
    }
    Ok(Answer::EMPTY)
}

async fn names(shared: &Arc<Shared>, call: Call, request: Request<Incoming>) -> Result<Vec<ShardName>, NodeError> {
    let names: Vec<ShardName> = message(shared, call, request).await?;
    if names.len() > CALL_NAMES { Err(invalid("too many names")) } else { Ok(names) }
}

async fn message<T: DeserializeOwned>(shared: &Arc<Shared>, call: Call, request: Request<Incoming>) -> Result<T, NodeError> {
    peer::decode(&bytes(shared, call, request).await?).map_err(|error| invalid(&error.to_string()))
}

/// The body of a call that carries no shard. It takes room in memory while it is read; what it says is no larger.
async fn bytes(shared: &Arc<Shared>, call: Call, request: Request<Incoming>) -> Result<Vec<u8>, NodeError> {
    let body = request.into_body();
    let len = body::announced(&body, call.body_limit())?;
    let _room = body::room(shared, len).await?;
    body::read(shared, body, len).await
}

fn subject<T: DeserializeOwned>(request: &Request<Incoming>) -> Result<T, NodeError> {
    let value = request.headers().get(SUBJECT).ok_or_else(|| invalid("no subject"))?;
    peer::decode_subject(value.as_bytes()).map_err(|error| invalid(&error.to_string()))
}

fn invalid(what: &str) -> NodeError {
    NodeError::Invalid { what: what.to_string() }
}

/// The error with its text cut to what a peer may be told at most.
fn bounded(error: NodeError) -> NodeError {
    let cut = |text: String| if text.len() <= peer::ERROR_BYTES / 2 { text } else { text.chars().take(peer::ERROR_BYTES / 8).collect() };
    match error {
        NodeError::Damaged { what } => NodeError::Damaged { what: cut(what) },
        NodeError::Unavailable { reason } => NodeError::Unavailable { reason: cut(reason) },
        NodeError::Invalid { what } => NodeError::Invalid { what: cut(what) },
        error @ (NodeError::NotFound | NodeError::Full { .. }) => error,
    }
}
