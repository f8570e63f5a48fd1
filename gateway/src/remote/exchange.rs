//! One question and its answer over HTTP.
//!
//! Invariants: an answer's body is read to its announced length and not a byte further, and that length is bounded before anything is
//! allocated; a connection goes back to the pool only after an exchange that was right to its end. What a kept connection could not
//! even begin to answer is asked once more on a new one: every call may be sent twice.

use super::pool::{Lane, Pool};
use super::unavailable;
use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use spine::wire::peer::{self, Call, SUBJECT};
use spine::wire::shard::NodeError;
use tokio::time::timeout;

/// Characters of a peer's reason that are passed on.
const REASON_CHARS: usize = 256;

/// A call's 200.
pub(super) struct Reply {
    pub subject: Option<HeaderValue>,
    pub body: Bytes,
}

/// Asks, and reads an answer of at most `most` bytes. The caller bounds the time.
pub(super) async fn exchange(pool: &Pool, call: Call, subject: Option<String>, body: Bytes, most: usize) -> Result<Reply, NodeError> {
    let _place = pool.place().await?;
    let mut lane = pool.lane().await?;
    let mut response = lane.sender.send_request(request(call, subject.as_deref(), body.clone())?).await;
    if response.is_err() && lane.kept {
        // The peer closed it while it was idle; the others may be as dead.
        pool.clear();
        lane = pool.connect().await?;
        response = lane.sender.send_request(request(call, subject.as_deref(), body)?).await;
    }
    let response = response.map_err(|error| {
        pool.failed();
        unavailable(&format!("no answer: {error}"))
    })?;
    read(pool, lane, response, most).await
}

fn request(call: Call, subject: Option<&str>, body: Bytes) -> Result<Request<Full<Bytes>>, NodeError> {
    let mut request = Request::post(call.path()).header(HOST, HeaderValue::from_static("node.breakwater"));
    if let Some(subject) = subject {
        request = request.header(SUBJECT, subject);
    }
    request.body(Full::new(body)).map_err(|error| unavailable(&format!("the request cannot be sent: {error}")))
}

async fn read(pool: &Pool, lane: Lane, response: Response<Incoming>, most: usize) -> Result<Reply, NodeError> {
    let (head, body) = response.into_parts();
    let most = if head.status == StatusCode::OK { most } else { peer::ERROR_BYTES };
    let body = whole(pool, body, most).await?;
    pool.keep(lane);
    if head.status == StatusCode::OK {
        return Ok(Reply { subject: head.headers.get(SUBJECT).cloned(), body });
    }
    let error = peer::decode::<NodeError>(&body).ok().filter(|error| peer::http_status(error) == head.status.as_u16());
    Err(error.map_or_else(|| unavailable(&format!("the node answered {}", head.status)), plain))
}

/// All of a body that announces its length.
async fn whole(pool: &Pool, mut body: Incoming, most: usize) -> Result<Bytes, NodeError> {
    let len = body.size_hint().exact().ok_or_else(|| unavailable("an answer without a length"))?;
    let len = usize::try_from(len).ok().filter(|len| *len <= most).ok_or_else(|| unavailable("the answer is too long"))?;
    let mut bytes = Vec::new();
    loop {
        let frame = timeout(pool.bounds.pause, body.frame()).await.map_err(|_| unavailable("the answer paused for too long"))?;
        let Some(frame) = frame else { break };
        let Ok(data) = frame.map_err(|error| unavailable(&format!("the answer broke off: {error}")))?.into_data() else { continue };
        if data.len() > len - bytes.len() {
            return Err(unavailable("the answer is longer than it said"));
        }
        if bytes.capacity() == 0 {
            bytes.reserve_exact(len);
        }
        bytes.extend_from_slice(&data);
    }
    if bytes.len() == len { Ok(Bytes::from(bytes)) } else { Err(unavailable("the answer ended early")) }
}

/// A peer's error with its text made fit for a log: short, and one line.
fn plain(error: NodeError) -> NodeError {
    let fit = |text: String| text.chars().filter(|c| !c.is_control()).take(REASON_CHARS).collect();
    match error {
        NodeError::Damaged { what } => NodeError::Damaged { what: fit(what) },
        NodeError::Unavailable { reason } => NodeError::Unavailable { reason: fit(reason) },
        NodeError::Invalid { what } => NodeError::Invalid { what: fit(what) },
        error @ (NodeError::NotFound | NodeError::Full { .. }) => error,
    }
}
