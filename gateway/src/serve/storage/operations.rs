//! `/metrics` and `/health` of a storage process.

use super::disks::Disks;
use crate::front::listen::{Bounds, Listener};
use crate::ops::answer::{failure, json};
use crate::ops::metrics;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::json as value;
use spine::wire::shard::{NodeState, StorageNode};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub fn serve(socket: TcpListener, disks: Arc<Disks>, stopped: watch::Receiver<bool>) -> JoinHandle<usize> {
    let bounds = Bounds { connections: 64, head: Duration::from_secs(60), stall: Duration::from_secs(60) };
    let listener = Listener { socket, name: "operations", tls: None, bounds };
    let handle = move |request| {
        let disks = disks.clone();
        async move { answer(&disks, &request) }
    };
    tokio::spawn(listener.serve(handle, stopped, Duration::from_secs(2)))
}

fn answer(disks: &Disks, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => metrics(),
        (&Method::GET | &Method::HEAD, "/health/live") => json(StatusCode::OK, &value!({ "live": true })),
        (&Method::GET | &Method::HEAD, "/health/ready") => ready(disks),
        (_, "/metrics" | "/health/live" | "/health/ready") => failure(StatusCode::METHOD_NOT_ALLOWED, "this is read with GET"),
        _ => failure(StatusCode::NOT_FOUND, "there are /metrics, /health/live and /health/ready"),
    }
}

/// 200 while any disk serves reads; the body has them all, those too that were away at the start and are looked for.
fn ready(disks: &Disks) -> Response<Full<Bytes>> {
    let mut any = false;
    let mut shown: Vec<serde_json::Value> = disks
        .nodes()
        .iter()
        .map(|node| {
            let status = node.disk.status();
            any |= status.state != NodeState::Lost;
            value!({
                "node": node.key.node().to_string(), "dir": node.dir, "state": format!("{:?}", status.state),
                "capacity_bytes": status.capacity, "free_bytes": status.free, "shards": status.shards,
            })
        })
        .collect();
    let away = disks.missing();
    shown.extend(away.iter().map(|missing| value!({ "node": null, "dir": missing.dir, "state": "Missing", "reason": missing.reason })));
    json(if any { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &value!({ "ready": any, "disks": shown }))
}
