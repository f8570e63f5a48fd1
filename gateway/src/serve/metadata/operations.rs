//! `/metrics` and `/health` of a metadata process.

use crate::front::listen::{Bounds, Listener};
use crate::ops::answer::{failure, json};
use crate::ops::metrics;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use metadata::service::MetadataNode;
use serde_json::json as value;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub fn serve(socket: TcpListener, node: Arc<MetadataNode>, stopped: watch::Receiver<bool>) -> JoinHandle<usize> {
    let bounds = Bounds { connections: 64, head: Duration::from_secs(60), stall: Duration::from_secs(60) };
    let listener = Listener { socket, name: "operations", tls: None, bounds };
    let handle = move |request| {
        let node = node.clone();
        async move { answer(&node, &request) }
    };
    tokio::spawn(listener.serve(handle, stopped, Duration::from_secs(2)))
}

fn answer(node: &MetadataNode, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => metrics(),
        (&Method::GET | &Method::HEAD, "/health/live") => json(StatusCode::OK, &value!({ "live": true })),
        (&Method::GET | &Method::HEAD, "/health/ready") => ready(node),
        (_, "/metrics" | "/health/live" | "/health/ready") => failure(StatusCode::METHOD_NOT_ALLOWED, "this is read with GET"),
        _ => failure(StatusCode::NOT_FOUND, "there are /metrics, /health/live and /health/ready"),
    }
}

/// 200 while the root group, which comes first, has a leader that this node knows of and gives this node a vote, and its disk takes what is
/// written. The others come and go.
fn ready(node: &MetadataNode) -> Response<Full<Bytes>> {
    let status = node.status();
    let me = status.member.id;
    let votes = |group: &spine::wire::cluster::GroupStatus| group.members.iter().any(|m| m.member.id == me && m.votes);
    let failure = node.failure();
    let ready = failure.is_none() && status.groups.first().is_some_and(|group| group.leader.is_some() && votes(group));
    let groups: Vec<serde_json::Value> = status
        .groups
        .iter()
        .map(|group| {
            value!({
                "group": group.group.to_string(), "leads": group.leader == Some(me), "leader": group.leader.map(|id| id.to_string()),
                "votes": votes(group), "term": group.term, "last": group.last, "applied": group.applied,
            })
        })
        .collect();
    json(
        if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE },
        &value!({ "ready": ready, "why": failure, "groups": groups }),
    )
}
