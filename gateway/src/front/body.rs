//! A request's body on its way in: watched, and still there to be drained when the operation has given it up.
//!
//! Invariants: a body that stalls, breaks its framing or is not the document it should be ends in an error and never in a clean end;
//! the first such [`Fault`] is kept, so that the answer names it whatever the layers between made of the error.

use crate::body::BodyStream;
use crate::front::fault::{Fault, Kind};
use crate::front::framing::{Framing, Promise};
use crate::front::guard::BodyShape;
use crate::front::xml::XmlScan;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::{Body, Incoming};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Sleep;

type StdError = Box<dyn std::error::Error + Send + Sync>;

/// What is known of a request's body beside whoever reads it.
pub struct Inbound {
    incoming: Mutex<Incoming>,
    fault: OnceLock<Fault>,
    received: AtomicU64,
    touched: AtomicBool,
    ended: AtomicBool,
}

impl Inbound {
    pub fn new(incoming: Incoming) -> Arc<Inbound> {
        let ended = AtomicBool::new(incoming.is_end_stream());
        Arc::new(Inbound {
            incoming: Mutex::new(incoming),
            fault: OnceLock::new(),
            received: AtomicU64::new(0),
            touched: AtomicBool::new(false),
            ended,
        })
    }

    /// What broke first, if anything did.
    pub fn fault(&self) -> Option<&Fault> {
        self.fault.get()
    }

    /// Bytes taken off the wire so far, framing included.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Whether anybody asked for a body that has bytes: `100 Continue` was sent then, if it was waited for. For an empty body it never is.
    pub fn touched(&self) -> bool {
        self.touched.load(Ordering::Relaxed)
    }

    /// Reads what is left and throws it away, so that a client which is still sending can read its answer and use the connection again.
    ///
    /// Gives up after `max_bytes`, `within`, or `silence` without a byte, and at once where more than `max_bytes` were promised. True if the
    /// body has ended cleanly.
    pub async fn drain(&self, max_bytes: u64, within: Duration, silence: Duration) -> bool {
        if self.size_hint().lower() > max_bytes {
            return false;
        }
        let until = self.received().saturating_add(max_bytes);
        let all = async {
            while !self.ended.load(Ordering::Relaxed) {
                if self.received() > until {
                    return false;
                }
                match tokio::time::timeout(silence, std::future::poll_fn(|cx| self.poll(cx))).await {
                    Ok(Some(Ok(_))) => {}
                    Ok(Some(Err(_))) | Err(_) => return false,
                    Ok(None) => return true,
                }
            }
            true
        };
        tokio::time::timeout(within, all).await.unwrap_or(false)
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if !self.ended.load(Ordering::Relaxed) {
            self.touched.store(true, Ordering::Relaxed);
        }
        let mut incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        let polled = Pin::new(&mut *incoming).poll_frame(cx);
        match &polled {
            Poll::Ready(None) => self.ended.store(true, Ordering::Relaxed),
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                self.received.fetch_add(bytes, Ordering::Relaxed);
            }
            _ => {}
        }
        polled
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.lock().unwrap_or_else(PoisonError::into_inner).size_hint()
    }
}

enum Watch {
    Nothing,
    Framing(Framing),
    Xml(XmlScan),
}

/// A body whose SHA-256 the signature covers, past s3s: that would hash it piece by piece where it is received. Whoever takes the
/// body out of here compares the hash before anything of it counts; nobody has to, the one that s3s gives is checked by it.
#[derive(Clone)]
pub struct Hashed {
    pub sha256: [u8; 32],
    body: Arc<Mutex<Option<RequestBody>>>,
}

impl Hashed {
    pub fn new(sha256: [u8; 32], body: RequestBody) -> Hashed {
        Hashed { sha256, body: Arc::new(Mutex::new(Some(body))) }
    }

    /// The body, once.
    pub fn take(&self) -> Option<BodyStream> {
        let body = self.body.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some(Box::pin(http_body_util::BodyDataStream::new(body)))
    }
}

/// The body as s3s gets it.
pub struct RequestBody {
    inbound: Arc<Inbound>,
    watch: Watch,
    idle: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    done: bool,
}

impl RequestBody {
    /// - `idle`: the longest time without a byte.
    pub fn new(inbound: Arc<Inbound>, shape: &BodyShape, idle: Duration) -> RequestBody {
        let framing = |promise: &Promise| Watch::Framing(Framing::new(promise.clone()));
        let watch = match shape {
            BodyShape::Plain | BodyShape::Hashed(_) => Watch::Nothing,
            BodyShape::Xml => Watch::Xml(XmlScan::default()),
            BodyShape::Framed(promise) | BodyShape::FramedXml(promise) => framing(promise),
        };
        RequestBody { inbound, watch, idle, timer: None, done: false }
    }

    fn fail(&mut self, fault: Fault) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        self.done = true;
        let fault = self.inbound.fault.get_or_init(|| fault).clone();
        Poll::Ready(Some(Err(Box::new(fault))))
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let idle = self.idle;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
        match timer.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => self.fail(Fault::new(
                Kind::RequestTimeout,
                "Your socket connection to the server was not read from or written to within the timeout period. Idle connections will be closed.",
            )),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let this = &mut *self;
        if this.done {
            return match this.inbound.fault() {
                Some(fault) => Poll::Ready(Some(Err(Box::new(fault.clone())))),
                None => Poll::Ready(None),
            };
        }
        let frame = match this.inbound.poll(cx) {
            Poll::Pending => return this.poll_idle(cx),
            Poll::Ready(frame) => frame,
        };
        this.timer = None;
        match frame {
            Some(Ok(frame)) => {
                let checked = match (&mut this.watch, frame.data_ref()) {
                    (Watch::Framing(framing), Some(data)) => framing.feed(data),
                    (Watch::Xml(scan), Some(data)) => scan.feed(data),
                    _ => Ok(()),
                };
                match checked {
                    Ok(()) => Poll::Ready(Some(Ok(frame))),
                    Err(fault) => this.fail(fault),
                }
            }
            Some(Err(_)) => this.fail(Fault::new(
                Kind::IncompleteBody,
                "You did not provide the number of bytes specified by the Content-Length HTTP header.",
            )),
            None => {
                if let Watch::Framing(framing) = &this.watch
                    && let Err(fault) = framing.finish()
                {
                    return this.fail(fault);
                }
                this.done = true;
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        // Not what hyper says: the end is judged when it is reached.
        self.done
    }

    fn size_hint(&self) -> SizeHint {
        self.inbound.size_hint()
    }
}
