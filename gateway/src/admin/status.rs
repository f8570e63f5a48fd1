//! `admin fleet status` and `admin fleet rebalance`: what the gateway answers, and how it is printed.
//!
//! Without `--placed` the counts of the index are those of the last look (`balance.rs`), with their time beside them.

use super::server::Refused;
use crate::census::Census;
use crate::fleet::FleetError;
use crate::fleet::authority::fingerprint;
use crate::fleet::table::{Fleet, word};
use crate::ops::operator::Operator;
use crate::progress::{Drain, Progress, Why};
use serde_json::{Value, json};
use spine::id::NodeId;
use spine::wire::root::{FleetNodeRecord, FleetNodeState};
use spine::wire::shard::NodeStatus;
use std::collections::HashMap;
use std::time::Instant;

/// `seen`: what the node said of itself last; a retired node is not asked, and only the index knows what is still placed on it.
pub(super) async fn answer(operator: &Operator, fleet: &Fleet, placed: bool) -> Result<Value, Refused> {
    let record = fleet.record().await?.ok_or(FleetError::NoFleet)?;
    let seen: HashMap<NodeId, NodeStatus> = operator.nodes.links().iter().map(|link| (link.id(), link.status())).collect();
    let counted = match placed {
        true => Some(operator.path.census_now().await.map_err(|error| Refused::Failed(error.to_string()))?),
        false => None,
    };
    let progress = operator.path.progress();
    let (drains, last) = (progress.drains(), progress.census());
    let census = counted.as_ref().or(last.as_deref());
    let show = |node: &FleetNodeRecord| {
        let status = seen.get(&node.id);
        let reason = match &node.state {
            FleetNodeState::Suspended { reason } => Some(reason),
            _ => None,
        };
        let drain = drains.get(&node.id).filter(|_| node.state == FleetNodeState::Draining);
        json!({
            "node": node.id.to_string(), "machine": node.machine, "zone": node.zone, "address": node.address,
            "state": word(&node.state), "reason": reason, "admitted_ms": node.admitted.0, "certificate_ends_ms": node.not_after.0,
            "seen": status.map(|status| format!("{:?}", status.state).to_lowercase()),
            "capacity_bytes": node.capacity, "free_bytes": status.map(|status| status.free),
            "shards": status.map(|status| status.shards), "shard_bytes": status.map(|status| status.shard_bytes),
            "audit": show_audit(operator, node.id), "scrub": show_scrub(operator, node.id),
            "drain": drain.map(|drain| show_drain(progress, drain)),
            "placed": counted.as_ref().map(|counted| counted.nodes.get(&node.id).map_or(0, |held| held.shards)),
            "placed_bytes": counted.as_ref().map(|counted| counted.nodes.get(&node.id).map_or(0, |held| held.bytes)),
        })
    };
    let nodes: Vec<Value> = fleet.nodes().await?.iter().map(show).collect();
    Ok(json!({
        "fleet": record.id.to_string(), "fingerprint": hex::encode(fingerprint(&record.authority)),
        "revocations_version": record.revocations_version, "nodes": nodes,
        "chunks": census.map(show_census), "repair": show_repair(progress), "rebalance": rebalance(operator).await?,
    }))
}

/// What audits since the gateway's start have shown.
fn show_audit(operator: &Operator, node: NodeId) -> Value {
    let seen = operator.path.audited(node);
    json!({ "proven": seen.proven, "failed": seen.failed, "strikes": seen.strikes, "last_ms": seen.audited.map(|time| time.0) })
}

/// How far the node is with reading all it has, as it said last.
fn show_scrub(operator: &Operator, node: NodeId) -> Value {
    operator.path.audited(node).scrub.map_or(Value::Null, |scrub| {
        json!({
            "rounds": scrub.rounds, "round_began_ms": scrub.round_began.0, "round_bytes": scrub.round_bytes,
            "shards": scrub.shards, "bytes": scrub.bytes, "found": scrub.found,
        })
    })
}

/// Drained: the last pass through the index found nothing placed on the node, and writes that had chosen it before are looked for again.
fn show_drain(progress: &Progress, drain: &Drain) -> Value {
    let rate = progress.rate(Why::Drain, Instant::now());
    json!({
        "drained": drain.shards_left == 0, "shards_left": drain.shards_left, "bytes_left": drain.bytes_left, "stuck": drain.stuck,
        "bytes_per_second": rate.bytes as u64, "eta_seconds": rate.seconds(drain.shards_left),
    })
}

fn show_repair(progress: &Progress) -> Value {
    let (rate, (waiting, more)) = (progress.rate(Why::Repair, Instant::now()), progress.waiting());
    json!({
        "chunks_waiting": waiting, "more": more, "shards_per_second": (rate.shards * 10.0).round() / 10.0,
        "bytes_per_second": rate.bytes as u64, "eta_seconds": rate.seconds(waiting),
    })
}

fn show_census(census: &Census) -> Value {
    let spare: serde_json::Map<String, Value> = census.by_spare.iter().map(|(spare, chunks)| (spare.to_string(), json!(chunks))).collect();
    let named = census.unreadable.iter().map(|one| {
        let away: Vec<String> = one.away.iter().map(NodeId::to_string).collect();
        json!({ "chunk": one.chunk.to_string(), "shards_missing": one.missing, "nodes_away": away })
    });
    json!({
        "counted_ms": census.at.0, "by_spare_shards": spare, "unreadable": census.lost(), "unreadable_named": named.collect::<Vec<_>>(),
    })
}

/// What the rebalancer does.
pub(super) async fn rebalance(operator: &Operator) -> Result<Value, Refused> {
    let stopped = operator.path.rebalance_stopped().await.map_err(|error| Refused::Failed(error.to_string()))?;
    let progress = operator.path.progress();
    let (balance, rate) = (progress.balance(), progress.rate(Why::Rebalance, Instant::now()));
    let seconds = (rate.bytes > 0.0).then(|| (balance.surplus as f64 / rate.bytes).ceil() as u64);
    Ok(json!({
        "state": balance.state.word(), "stopped": stopped, "asked": balance.asked,
        "worst_percent": balance.worst_permille as f64 / 10.0, "bytes_left": balance.surplus,
        "shards_moved": balance.shards_moved, "bytes_moved": balance.bytes_moved, "bytes_per_second": rate.bytes as u64,
        "eta_seconds": seconds,
    }))
}

/// Prints the status.
pub(super) fn text(answer: &Value) -> String {
    let mut out = format!("fleet {}, {} nodes", word_of(&answer["fleet"]), answer["nodes"].as_array().map_or(0, Vec::len));
    for node in answer["nodes"].as_array().into_iter().flatten() {
        out.push('\n');
        out.push_str(line(node).trim_end());
    }
    out.push_str(&chunks_text(&answer["chunks"]));
    let repair = &answer["repair"];
    if repair["chunks_waiting"].as_u64().unwrap_or(0) > 0 || repair["bytes_per_second"].as_u64().unwrap_or(0) > 0 {
        let more = if repair["more"] == true { " and more" } else { "" };
        out.push_str(&format!("\nrepair: {}{more} chunks wait{}", repair["chunks_waiting"], speed(repair)));
    }
    format!("{out}\n{}", rebalance_text(&answer["rebalance"]))
}

fn line(node: &Value) -> String {
    let gib =
        |field: &str| node[field].as_u64().map_or_else(|| "-".to_string(), |bytes| format!("{:.1}", bytes as f64 / (1u64 << 30) as f64));
    let short: String = word_of(&node["node"]).chars().take(12).collect();
    let placed = node["placed"].as_u64().map_or_else(String::new, |shards| format!(" {shards} placed"));
    let state = if node["drain"]["drained"] == true { "drained".to_string() } else { word_of(&node["state"]) };
    let left = match node["drain"]["shards_left"].as_u64() {
        Some(left) if left > 0 && node["drain"]["stuck"].as_u64().unwrap_or(0) > 0 => format!("{left} shards left: no node can take them"),
        Some(left) if left > 0 => format!("{left} shards left{}", speed(&node["drain"])),
        _ => String::new(),
    };
    format!(
        "{short}  {:<16} {:<12} {:<22} {:<10} {:<8} {:>9} shards{placed}  {} of {} GiB free  {}{left}",
        word_of(&node["machine"]),
        word_of(&node["zone"]),
        word_of(&node["address"]),
        state,
        node["seen"].as_str().unwrap_or("-"),
        node["shards"].as_u64().map_or_else(|| "-".to_string(), |shards| shards.to_string()),
        gib("free_bytes"),
        gib("capacity_bytes"),
        node["reason"].as_str().unwrap_or(""),
    )
}

/// Prints what the rebalancer does.
pub(super) fn rebalance_text(answer: &Value) -> String {
    let stopped = if answer["stopped"] == true { ", stopped by an operator" } else { "" };
    let left = if answer["state"] == "moving" { format!("; {} bytes left{}", answer["bytes_left"], speed(answer)) } else { String::new() };
    format!(
        "rebalance: {}{stopped}, the farthest node is {} % off its share; {} shards, {} bytes moved{left}",
        word_of(&answer["state"]),
        answer["worst_percent"],
        answer["shards_moved"],
        answer["bytes_moved"],
    )
}

fn speed(of: &Value) -> String {
    let mib = of["bytes_per_second"].as_u64().unwrap_or(0) as f64 / f64::from(1 << 20);
    let eta = of["eta_seconds"].as_u64().map_or_else(String::new, |seconds| format!(", done in about {seconds} s"));
    format!(", {mib:.1} MiB/s{eta}")
}

/// How many shards the chunks can still lose, and those that cannot be read.
fn chunks_text(chunks: &Value) -> String {
    let Some(spare) = chunks["by_spare_shards"].as_object() else { return String::new() };
    let mut classes: Vec<(i64, u64)> = spare.iter().filter_map(|(spare, n)| Some((spare.parse().ok()?, n.as_u64()?))).collect();
    classes.sort_unstable();
    let mut text = String::new();
    for (spare, chunks) in classes {
        let what =
            if spare < 0 { format!("cannot be read: {} shards are missing", -spare) } else { format!("can lose {spare} more shards") };
        text.push_str(&format!("\n{chunks} chunks {what}"));
    }
    for one in chunks["unreadable_named"].as_array().into_iter().flatten() {
        text.push_str(&format!("\nunreadable {} until {} return", one["chunk"], one["nodes_away"]).replace('"', ""));
    }
    text
}

fn word_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}
