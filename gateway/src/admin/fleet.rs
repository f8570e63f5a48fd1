//! `/admin/fleet/*` of a gateway's operations listener.
//!
//! ```text
//! POST init {}   POST invite {uses, hours, address?}   GET status[?placed=true] (status.rs)
//! POST admit {request, days?}, reindex {}: see admission.rs, recovery.rs
//! POST suspend {node, reason}   POST resume {node}   POST drain {node}   POST retire {node}
//! POST rebalance {starts}   GET rebalance
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
use spine::id::NodeId;
use spine::wire::root::FleetNodeState;
use std::time::Duration;

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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rebalance {
    starts: bool,
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
        (Method::POST, "admit") => super::admission::answer(fleet, body).await,
        (Method::POST, "reindex") => super::recovery::reindex(operator).await,
        (Method::POST, "drain") => set(fleet, &parse::<Named>(body)?.node, FleetNodeState::Draining).await,
        (Method::POST, "rebalance") => {
            let told = operator.path.rebalance(parse::<Rebalance>(body)?.starts).await;
            told.map_err(|error| Refused::Failed(error.to_string()))?;
            super::status::rebalance(operator).await
        }
        (Method::GET, "rebalance") => super::status::rebalance(operator).await,
        (Method::GET, "status") => super::status::answer(operator, fleet, placed == Some("true")).await,
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
