//! `/admin/fleet/*` of a gateway's operations listener.
//!
//! ```text
//! POST init {}   POST invite {uses, hours, address?}   GET status[?placed=true]
//! POST suspend {node, reason}   POST resume {node}   POST retire {node}
//! ```
//! A node is named by its id or by enough of its first digits. Not here: what these do (`fleet/table.rs`).

use super::server::{Refused, parse};
use crate::fleet::FleetError;
use crate::fleet::authority::fingerprint;
use crate::fleet::table::{Fleet, word};
use crate::fleet::token::Door;
use crate::ops::operator::Operator;
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use spine::id::{ChunkId, NodeId};
use spine::wire::chunk::{ChunkAnswer, ChunkQuery, Placement};
use spine::wire::root::{FleetNodeRecord, FleetNodeState};
use spine::wire::shard::{NodeState, NodeStatus};
use spine::wire::{Answer, Query};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// Chunks of one step through the index.
const SCAN: usize = 1_000;
/// Chunks that a status names at most.
const NAMED: usize = 20;
/// Least digits of a node's id that name it.
const DIGITS: usize = 4;

impl From<FleetError> for Refused {
    fn from(error: FleetError) -> Self {
        match error {
            FleetError::Boot(error) => error.into(),
            FleetError::Wrong(_) | FleetError::NoFleet => Refused::Wrong(error.to_string()),
            other => Refused::Failed(other.to_string()),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Invite {
    uses: u32,
    hours: u64,
    address: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    node: String,
    #[serde(default)]
    reason: String,
}

/// Answers one request under `/admin/fleet/`.
pub(super) async fn answer(operator: &Operator, method: Method, path: &str, placed: Option<&str>, body: &[u8]) -> Result<Value, Refused> {
    let none = || Refused::Wrong("this process has its disks for itself; a fleet is `breakwater gateway`'s".into());
    let fleet = operator.fleet.as_ref().ok_or_else(none)?;
    match (method, path.trim_start_matches("fleet/")) {
        (Method::POST, "init") => init(fleet).await,
        (Method::POST, "invite") => invite(fleet, parse(body)?).await,
        (Method::POST, "suspend") => {
            let Named { node, reason } = parse(body)?;
            set(fleet, &node, FleetNodeState::Suspended { reason }).await
        }
        (Method::POST, "resume") => set(fleet, &parse::<Named>(body)?.node, FleetNodeState::Active).await,
        (Method::POST, "retire") => {
            let node = find(fleet, &parse::<Named>(body)?.node).await?;
            fleet.retire(node).await?;
            Ok(json!({ "node": node.to_string(), "state": "retired" }))
        }
        (Method::GET, "status") => status(operator, fleet, placed == Some("true")).await,
        _ => Err(Refused::NotFound(format!("there is no admin request {path}"))),
    }
}

async fn init(fleet: &Fleet) -> Result<Value, Refused> {
    let record = fleet.init().await?;
    Ok(json!({
        "fleet": record.id.to_string(), "fingerprint": hex::encode(fingerprint(&record.authority)), "key_file": fleet.key_file(),
    }))
}

async fn invite(fleet: &Fleet, asked: Invite) -> Result<Value, Refused> {
    if !(1..=1_000).contains(&asked.uses) || !(1..=720).contains(&asked.hours) {
        return Err(Refused::Wrong("an invitation is for 1 to 1000 machines and 1 to 720 hours".into()));
    }
    let (token, expires) = fleet.invite(Door::StorageNode, asked.uses, Duration::from_secs(asked.hours * 3_600), asked.address).await?;
    Ok(json!({ "token": token.to_string(), "expires_ms": expires.0, "uses": asked.uses }))
}

async fn set(fleet: &Fleet, node: &str, state: FleetNodeState) -> Result<Value, Refused> {
    let node = find(fleet, node).await?;
    fleet.set_state(node, state.clone()).await?;
    Ok(json!({ "node": node.to_string(), "state": word(&state) }))
}

/// The one node that `text` names.
async fn find(fleet: &Fleet, text: &str) -> Result<NodeId, Refused> {
    if text.len() < DIGITS || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Refused::Wrong(format!("{text} is no node: give its id, or at least its first {DIGITS} digits")));
    }
    let digits = text.to_ascii_lowercase();
    let named: Vec<NodeId> = fleet.nodes().await?.iter().map(|node| node.id).filter(|id| id.to_string().starts_with(&digits)).collect();
    match named[..] {
        [node] => Ok(node),
        [] => Err(Refused::Wrong(format!("the fleet has no node {text}"))),
        _ => Err(Refused::Wrong(format!("{} nodes of the fleet begin with {text}", named.len()))),
    }
}

/// `seen`: what the node said of itself last; a retired node is not asked, and only the index knows what is still placed on it.
async fn status(operator: &Operator, fleet: &Fleet, placed: bool) -> Result<Value, Refused> {
    let record = fleet.record().await?.ok_or(FleetError::NoFleet)?;
    let seen: HashMap<NodeId, NodeStatus> = operator.nodes.links().iter().map(|link| (link.id(), link.status())).collect();
    let counted = if placed { Some(count_placed(operator, &seen).await?) } else { None };
    let show = |node: &FleetNodeRecord| {
        let status = seen.get(&node.id);
        let reason = match &node.state {
            FleetNodeState::Suspended { reason } => Some(reason),
            _ => None,
        };
        json!({
            "node": node.id.to_string(), "machine": node.machine, "zone": node.zone, "address": node.address,
            "state": word(&node.state), "reason": reason, "admitted_ms": node.admitted.0, "certificate_ends_ms": node.not_after.0,
            "seen": status.map(|status| format!("{:?}", status.state).to_lowercase()),
            "capacity_bytes": node.capacity, "free_bytes": status.map(|status| status.free),
            "shards": status.map(|status| status.shards), "shard_bytes": status.map(|status| status.shard_bytes),
            "audit": show_audit(operator, node.id), "scrub": show_scrub(operator, node.id),
            "placed": counted.as_ref().map(|counted| counted.shards.get(&node.id).copied().unwrap_or(0)),
        })
    };
    let nodes: Vec<Value> = fleet.nodes().await?.iter().map(show).collect();
    Ok(json!({
        "fleet": record.id.to_string(), "fingerprint": hex::encode(fingerprint(&record.authority)),
        "revocations_version": record.revocations_version, "nodes": nodes,
        "chunks": counted.as_ref().map(Counted::show),
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

/// What the index places, beside which nodes answer.
#[derive(Default)]
struct Counted {
    /// Shards by node.
    shards: HashMap<NodeId, u64>,
    /// Chunks by how many of their shards may still be lost; negative: as many are missing for a read.
    spare: BTreeMap<i64, u64>,
    /// Some of those that cannot be read, and the nodes that have to return.
    unreadable: Vec<Value>,
}

impl Counted {
    fn add(&mut self, chunk: ChunkId, placement: &Placement, answers: impl Fn(NodeId) -> bool) {
        let places = || placement.shards.iter().flatten().map(|place| place.node);
        places().for_each(|node| *self.shards.entry(node).or_insert(0) += 1);
        let spare = places().filter(|node| answers(*node)).count() as i64 - i64::from(placement.sealed.k);
        *self.spare.entry(spare).or_insert(0) += 1;
        if spare < 0 && self.unreadable.len() < NAMED {
            let away: Vec<String> = places().filter(|node| !answers(*node)).map(|node| node.to_string()).collect();
            self.unreadable.push(json!({ "chunk": chunk.to_string(), "shards_missing": -spare, "nodes_away": away }));
        }
    }

    fn show(&self) -> Value {
        let unreadable: u64 = self.spare.range(..0).map(|(_, chunks)| chunks).sum();
        let spare: serde_json::Map<String, Value> = self.spare.iter().map(|(spare, chunks)| (spare.to_string(), json!(chunks))).collect();
        json!({ "by_spare_shards": spare, "unreadable": unreadable, "unreadable_named": self.unreadable })
    }
}

/// Goes through the whole index.
async fn count_placed(operator: &Operator, seen: &HashMap<NodeId, NodeStatus>) -> Result<Counted, Refused> {
    let answers = |node: NodeId| seen.get(&node).is_some_and(|status| status.state != NodeState::Lost);
    let mut counted = Counted::default();
    let mut after = None;
    loop {
        let answer = operator.path.metadata().query(Query::Chunk(ChunkQuery::Scan { after, max: SCAN })).await?;
        let Answer::Chunk(ChunkAnswer::Scan(page)) = answer else {
            return Err(Refused::Failed("metadata gave an answer to another question".into()));
        };
        let Some((last, _)) = page.last() else { return Ok(counted) };
        after = Some(*last);
        for (chunk, record) in &page {
            if let Some(placement) = &record.placement {
                counted.add(*chunk, placement, answers);
            }
        }
    }
}
