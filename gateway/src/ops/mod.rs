//! The operations listener: metrics, health, administration.
//!
//! ```text
//! GET /metrics        Prometheus text
//! GET /health/live    200 while the process answers
//! GET /health/ready   200 while metadata answers and any k disks serve; the body says whether writes have their quorum
//! *   /admin/...      JSON, with `Authorization: Bearer TOKEN` (admin/)
//! ```
//! Not here: S3. This listener is plain HTTP; keep it on the machine or behind something that encrypts.

pub mod answer;
pub mod health;
pub mod operator;
pub mod process;

use answer::{failure, json};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use operator::Operator;
use prometheus::{Encoder, TextEncoder};
use std::sync::Arc;

/// Answers one request while there is nothing yet that an operator could work with.
pub fn not_yet(request: &Request<Incoming>) -> Response<Full<Bytes>> {
    const WHY: &str = "the server has only just started: what it needs is not there yet; its log says for whom it waits";
    match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => metrics(),
        (&Method::GET | &Method::HEAD, "/health/live") => json(StatusCode::OK, &serde_json::json!({ "live": true })),
        (&Method::GET | &Method::HEAD, "/health/ready") => {
            json(StatusCode::SERVICE_UNAVAILABLE, &serde_json::json!({ "ready": false, "why": WHY }))
        }
        _ => failure(StatusCode::SERVICE_UNAVAILABLE, WHY),
    }
}

/// Answers one request.
pub async fn handle(operator: Arc<Operator>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_string();
    match (request.method(), path.as_str()) {
        (&Method::GET | &Method::HEAD, "/metrics") => metrics(),
        (&Method::GET | &Method::HEAD, "/health/live") => json(StatusCode::OK, &serde_json::json!({ "live": true })),
        (&Method::GET | &Method::HEAD, "/health/ready") => {
            let health = health::look(&operator).await;
            let status = if health.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            json(status, &health)
        }
        (_, path) if path.starts_with("/admin/") => crate::admin::server::handle(operator, request).await,
        (_, "/metrics" | "/health/live" | "/health/ready") => failure(StatusCode::METHOD_NOT_ALLOWED, "this is read with GET"),
        _ => failure(StatusCode::NOT_FOUND, "there are /metrics, /health/live, /health/ready and /admin/"),
    }
}

pub(crate) fn metrics() -> Response<Full<Bytes>> {
    let mut text = Vec::new();
    let encoder = TextEncoder::new();
    if let Err(error) = encoder.encode(&prometheus::gather(), &mut text) {
        return failure(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string());
    }
    let mut response = Response::new(Full::new(Bytes::from(text)));
    if let Ok(kind) = HeaderValue::from_str(encoder.format_type()) {
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    response
}
