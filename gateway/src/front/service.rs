//! One request, from its head to its answer: guard, s3s, fault, drain, finish.

use crate::front::answer;
use crate::front::auth::{Authenticator, Gate, KeyRing};
use crate::front::body::{Hashed, Inbound, RequestBody};
use crate::front::document::{DocumentRoute, FramedDocument};
use crate::front::fault::{Fault, Kind};
use crate::front::guard::{self, BodyShape, Rules};
use crate::front::host::BelowDomain;
use crate::front::observe::{Notes, Outbound, RequestId};
use crate::front::xml::XML_BYTES;
use futures::FutureExt;
use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::service::{S3Service, S3ServiceBuilder};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

/// How long a body that nobody wants is read for, so that its sender can read the answer.
const DRAIN_TIME: Duration = Duration::from_secs(10);
/// A sender that is silent for this long waits for its answer.
const DRAIN_SILENCE: Duration = Duration::from_secs(2);

/// What an operator may choose about bodies.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// Longest time without a byte of a body.
    pub idle: Duration,
    /// Most bytes of an unwanted body that are read and thrown away before the answer.
    pub drain_bytes: u64,
}

/// The S3 listener's service.
pub struct Front {
    s3: S3Service,
    rules: Rules,
    limits: BodyLimits,
}

impl Front {
    /// - `operations`: makes the S3 operations. They find a [`crate::front::auth::Caller`] in every request's extensions.
    pub fn new<S: s3s::S3>(
        operations: impl Fn() -> S,
        ring: Arc<KeyRing>,
        rules: Rules,
        limits: BodyLimits,
    ) -> Result<Arc<Front>, s3s::region::InvalidRegion> {
        let mut config = S3Config::default();
        config.xml_max_body_size = usize::try_from(XML_BYTES).unwrap_or(usize::MAX);
        // Documents that take the way of `document.rs` are bounded there and by the guard.
        config.custom_route_max_body_size = None;
        config.put_object_max_size = Some(spine::limit::PUT_BYTES);
        config.aws_chunked_stream_max_chunk_size = usize::try_from(rules.signed_chunk_bytes).unwrap_or(usize::MAX);
        config.expected_region = Some(rules.region.parse()?);
        config.sig_v4_allowed_services = vec!["s3".into()];
        config.enable_sig_v2 = rules.allow_signature_v2;
        config.allow_post_signature = false;
        // The operation follows from what is asked, not from what the client calls it: x-id is ignored.
        config.operation_id_routing = false;
        let config = Arc::new(StaticConfigProvider::new(Arc::new(config)));
        let mut builder = S3ServiceBuilder::new(operations());
        builder.set_config(config.clone());
        builder.set_auth(Authenticator(ring.clone()));
        builder.set_access(Gate(ring.clone()));
        builder.set_route(DocumentRoute::new(operations(), config, rules.domain.clone(), ring));
        if let Some(domain) = &rules.domain {
            builder.set_host(BelowDomain(domain.clone()));
        }
        Ok(Arc::new(Front { s3: builder.build(), rules, limits }))
    }

    /// Answers one request. Never fails: what goes wrong is the answer.
    pub async fn handle(&self, request: Request<Incoming>) -> Response<Outbound> {
        let notes = Notes::new(RequestId::next(), request.method().clone());
        let (mut parts, incoming) = request.into_parts();
        let inbound = Inbound::new(incoming);
        let method = parts.method.clone();
        let path = parts.uri.path().to_string();
        let (mut response, waits) = match guard::judge(&parts, &self.rules) {
            Err(fault) => {
                let waits = parts.headers.contains_key(header::EXPECT);
                (answer::refusal(&fault, &method), waits)
            }
            Ok(verdict) => {
                let body = || RequestBody::new(inbound.clone(), &verdict.body, self.limits.idle);
                if let BodyShape::Hashed(sha256) = verdict.body {
                    parts.extensions.insert(Hashed::new(sha256, body()));
                }
                parts.uri = verdict.uri.unwrap_or(parts.uri);
                let request = Request::from_parts(parts, s3s::Body::http_body(body()));
                (self.pass_on(request, &verdict.body, &notes).await, verdict.expects_continue)
            }
        };
        if let Some(fault) = inbound.fault()
            && !response.status().is_success()
        {
            response = answer::refusal(fault, &method);
        }
        settle(&mut response, &inbound, waits, self.limits).await;
        let code = answer::finish(&mut response, notes.id, &path);
        Outbound::new(response, notes, inbound, code)
    }

    async fn pass_on(&self, mut request: Request<s3s::Body>, shape: &BodyShape, notes: &Arc<Notes>) -> Response<s3s::Body> {
        let method = request.method().clone();
        request.extensions_mut().insert(notes.clone());
        // s3s answers 500 to a document whose hash is wrong; on this way it is told apart.
        let document = match shape {
            BodyShape::FramedXml(_) => true,
            BodyShape::Xml => request.headers().get(header::CONTENT_LENGTH).is_some_and(|length| length != "0"),
            _ => false,
        };
        if document {
            request.extensions_mut().insert(FramedDocument);
        }
        let internal = || Fault::new(Kind::Internal, "We encountered an internal error. Please try again.");
        match AssertUnwindSafe(self.s3.call(request)).catch_unwind().await {
            Ok(Ok(response)) => crate::s3::finish(response),
            Ok(Err(error)) => {
                tracing::error!(request = notes.id.text(), %error, "a request could not be answered");
                answer::refusal(&internal(), &method)
            }
            Err(_) => {
                tracing::error!(request = notes.id.text(), "an operation panicked");
                answer::refusal(&internal(), &method)
            }
        }
    }
}

/// Answers one request while there is nothing yet that could: it is to be asked again.
///
/// - `again`: seconds until then.
pub async fn not_yet(request: Request<Incoming>, limits: BodyLimits, again: u32) -> Response<Outbound> {
    let notes = Notes::new(RequestId::next(), request.method().clone());
    let (parts, incoming) = request.into_parts();
    let inbound = Inbound::new(incoming);
    let fault = Fault::new(Kind::SlowDown, "This server has only just started and does not serve yet. Please try again.");
    let mut response = answer::refusal(&fault, &parts.method);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(again));
    settle(&mut response, &inbound, parts.headers.contains_key(header::EXPECT), limits).await;
    let code = answer::finish(&mut response, notes.id, parts.uri.path());
    Outbound::new(response, notes, inbound, code)
}

/// Reads what the client still sends, within bounds; what is beyond them ends the connection after the answer.
async fn settle(response: &mut Response<s3s::Body>, inbound: &Inbound, waits: bool, limits: BodyLimits) {
    let timed_out = inbound.fault().is_some_and(|fault| fault.kind == Kind::RequestTimeout);
    // A client that waits for 100 Continue sends nothing after a final answer; asking for the body would make it. A connection that got
    // no 100 is closed: botocore reads the next answer on it wrongly.
    let may_drain = !timed_out && (!waits || inbound.touched());
    if !may_drain || !inbound.drain(limits.drain_bytes, DRAIN_TIME, DRAIN_SILENCE).await {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}
