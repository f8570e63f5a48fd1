//! Bytes in and out of a call, against the process's budget.
//!
//! Invariant: bytes of a shard lie in memory only with as many permits, and the permits go back when the last view of the bytes does:
//! after the disk has staged them, or after the socket has taken them.

use super::Shared;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use spine::wire::shard::NodeError;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

/// Bytes and what stands for them.
struct Held<T> {
    bytes: T,
    _for: (OwnedSemaphorePermit, Option<Box<dyn Send>>),
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Held<T> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

/// `bytes` that hold `permit`, and drop `also` with it.
pub(super) fn hold<T: AsRef<[u8]> + Send + 'static>(bytes: T, permit: OwnedSemaphorePermit, also: Option<Box<dyn Send>>) -> Bytes {
    Bytes::from_owner(Held { bytes, _for: (permit, also) })
}

/// Waits for room in memory, as the sender or reader waits with it.
pub(super) async fn room(shared: &Shared, bytes: usize) -> Result<OwnedSemaphorePermit, NodeError> {
    let permits = u32::try_from(bytes.max(1)).unwrap_or(u32::MAX);
    match timeout(shared.bounds.body, shared.memory.clone().acquire_many_owned(permits)).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(NodeError::Unavailable { reason: "no memory for another shard".to_string() }),
    }
}

/// Takes a permit for `bytes` that are there already: what was too much goes back, what is missing must be free now.
pub(super) fn fit(shared: &Shared, mut permit: OwnedSemaphorePermit, bytes: usize) -> Result<OwnedSemaphorePermit, NodeError> {
    let had = permit.num_permits();
    if bytes < had {
        drop(permit.split(had - bytes));
    } else if bytes > had {
        let more = u32::try_from(bytes - had).unwrap_or(u32::MAX);
        let more = shared.memory.clone().try_acquire_many_owned(more);
        permit.merge(more.map_err(|_| NodeError::Unavailable { reason: "no memory for a shard this large".to_string() })?);
    }
    Ok(permit)
}

/// The announced length of a request's body.
///
/// # Errors
/// `Invalid` if it is not announced or above `most`: nothing was read.
pub(super) fn announced(body: &Incoming, most: usize) -> Result<usize, NodeError> {
    let len = body.size_hint().exact().and_then(|len| usize::try_from(len).ok());
    let len = len.ok_or_else(|| NodeError::Invalid { what: "a body without a length".to_string() })?;
    if len > most { Err(NodeError::Invalid { what: format!("a body of {len} bytes, more than {most}") }) } else { Ok(len) }
}

/// Reads all of a body of `len` bytes.
///
/// # Errors
/// `Unavailable` if it ends early, pauses or takes too long: the connection is of no more use.
pub(super) async fn read(shared: &Arc<Shared>, mut body: Incoming, len: usize) -> Result<Vec<u8>, NodeError> {
    let cut = |reason: &str| NodeError::Unavailable { reason: reason.to_string() };
    let mut bytes = Vec::with_capacity(len);
    let whole = async {
        while bytes.len() < len {
            let frame = timeout(shared.bounds.pause, body.frame()).await.map_err(|_| cut("the body paused for too long"))?;
            let frame = frame.ok_or_else(|| cut("the body ended early"))?.map_err(|_| cut("the body broke off"))?;
            let Ok(data) = frame.into_data() else { continue };
            if data.len() > len - bytes.len() {
                return Err(NodeError::Invalid { what: "more bytes than announced".to_string() });
            }
            bytes.extend_from_slice(&data);
        }
        Ok(())
    };
    timeout(shared.bounds.body, whole).await.map_err(|_| cut("the body took too long"))??;
    // The end of the body, so that the connection can be used again.
    match timeout(shared.bounds.pause, body.frame()).await {
        Ok(None) => Ok(bytes),
        _ => Err(NodeError::Invalid { what: "more bytes than announced".to_string() }),
    }
}
