//! One request from its head to the last byte of its answer: its name, its figures, its line in the log.
//!
//! Log lines go out at info on the target `breakwater::access`. They name the operation and the bucket, never a key, a query or a header.

use crate::front::body::Inbound;
use crate::front::metric;
use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::task::{Context, Poll};
use std::time::Instant;

/// What S3 calls `x-amz-request-id`: 16 hex digits, different for every request of every life of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId(u64);

impl RequestId {
    pub fn next() -> RequestId {
        static START: LazyLock<u64> = LazyLock::new(|| {
            let mut seed = [0; 8];
            // Without randomness ids may repeat those of another process, no more.
            let _ = getrandom::fill(&mut seed);
            u64::from_le_bytes(seed)
        });
        static COUNT: AtomicU64 = AtomicU64::new(0);
        // Odd, so that the product visits every value once.
        RequestId(START.wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9E37_79B9_7F4A_7C15)))
    }

    pub fn text(self) -> String {
        format!("{:016X}", self.0)
    }
}

/// What is learned about a request while it runs. Travels in its extensions.
pub struct Notes {
    pub id: RequestId,
    started: Instant,
    method: http::Method,
    operation: OnceLock<String>,
    bucket: OnceLock<String>,
}

impl Notes {
    pub fn new(id: RequestId, method: http::Method) -> Arc<Notes> {
        metric::IN_FLIGHT.inc();
        Arc::new(Notes { id, started: Instant::now(), method, operation: OnceLock::new(), bucket: OnceLock::new() })
    }

    /// The operation was told and its caller may run it.
    pub fn resolved(&self, operation: String, bucket: Option<String>) {
        let _ = self.operation.set(operation);
        if let Some(bucket) = bucket {
            let _ = self.bucket.set(bucket);
        }
    }

    fn operation(&self) -> &str {
        self.operation.get().map_or("None", String::as_str)
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        // Here and not with the answer: a request whose connection breaks under it never gets one.
        metric::IN_FLIGHT.dec();
    }
}

/// An answer's body on its way out. Ends the request's measurement when it ends, or is dropped before.
pub struct Outbound {
    inner: s3s::Body,
    notes: Arc<Notes>,
    inbound: Arc<Inbound>,
    status: StatusCode,
    code: Option<String>,
    sent: u64,
    /// Bytes that a whole answer has, where that is known.
    length: Option<u64>,
    ended: bool,
}

impl Outbound {
    /// - `code`: S3's code, where the answer is an error.
    pub fn new(
        answer: http::Response<s3s::Body>,
        notes: Arc<Notes>,
        inbound: Arc<Inbound>,
        code: Option<String>,
    ) -> http::Response<Outbound> {
        let (parts, inner) = answer.into_parts();
        let declared = parts.headers.get(http::header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let length = declared.or_else(|| inner.size_hint().exact());
        let ended = inner.is_end_stream() || notes.method == http::Method::HEAD;
        let status = parts.status;
        http::Response::from_parts(parts, Outbound { inner, notes, inbound, status, code, sent: 0, length, ended })
    }
}

impl Body for Outbound {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        match &polled {
            Poll::Ready(None) => self.ended = true,
            Poll::Ready(Some(Ok(frame))) => {
                self.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
            }
            Poll::Ready(Some(Err(error))) => {
                tracing::warn!(request = self.notes.id.text(), operation = self.notes.operation(), %error, "an answer was cut off");
            }
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Outbound {
    fn drop(&mut self) {
        let operation = self.notes.operation();
        let received = self.inbound.received();
        let seconds = self.notes.started.elapsed().as_secs_f64();
        // hyper stops asking once it has the declared bytes.
        let whole = self.ended || self.length == Some(self.sent);
        metric::REQUESTS.with_label_values(&[operation, self.status.as_str()]).inc();
        metric::RECEIVED_BYTES.with_label_values(&[operation]).inc_by(received);
        metric::SENT_BYTES.with_label_values(&[operation]).inc_by(self.sent);
        if let Some(code) = &self.code {
            metric::ERRORS.with_label_values(&[code.as_str()]).inc();
        } else if whole {
            metric::REQUEST_SECONDS.with_label_values(&[operation, metric::size_class(received.max(self.sent))]).observe(seconds);
        }
        if !whole {
            metric::CUT_OFF.inc();
        }
        tracing::info!(
            target: "breakwater::access",
            request = self.notes.id.text(),
            method = self.notes.method.as_str(),
            operation,
            bucket = self.notes.bucket.get().map(String::as_str),
            status = self.status.as_u16(),
            code = self.code.as_deref(),
            received,
            sent = self.sent,
            ms = seconds * 1e3,
            whole,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_sixteen_digits_and_differ() {
        let ids: std::collections::HashSet<String> = (0..1_000).map(|_| RequestId::next().text()).collect();
        assert_eq!(ids.len(), 1_000);
        assert!(ids.iter().all(|id| id.len() == 16));
    }

    #[test]
    fn a_request_without_an_answer_is_no_longer_in_flight() {
        let before = metric::IN_FLIGHT.get();
        let notes = Notes::new(RequestId::next(), http::Method::GET);
        assert_eq!(metric::IN_FLIGHT.get(), before + 1);
        drop(notes);
        assert_eq!(metric::IN_FLIGHT.get(), before);
    }
}
