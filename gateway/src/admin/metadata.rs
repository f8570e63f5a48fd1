//! `/admin/metadata/*` of the operations listener: the metadata cluster of a gateway.
//!
//! ```text
//! GET status   POST invite {hours, address?}   POST remove {node}   map, split, merge, move, give-up: see ranges.rs
//! ```
//! Not here: what members do (`metadata::cluster`), papers (`fleet/enlist.rs`).

use super::roll::{self, Roll, root_of};
use super::server::{Refused, parse};
use super::{heat, ranges};
use crate::boot::BootError;
use crate::fleet::FleetError;
use crate::fleet::table::Fleet;
use crate::fleet::token::Door;
use crate::ops::operator::{Members, Operator};
use crate::reconcile::ReconcileError;
use crate::snapshot::{SnapshotError, kept};
use bytes::Bytes;
use futures::future::join_all;
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use spine::id::{GroupId, MemberId, NodeId, UnixMs};
use spine::wire::MetadataError;
use spine::wire::cluster::{ClusterStatus, Endpoint, GroupStatus, Understood};
use spine::wire::root::MetadataNodeRecord;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const ROOT: GroupId = GroupId(0);
/// Least digits of a node's id that name it.
const DIGITS: usize = 4;
/// How long the root may take to tell of ranges and moves.
const RANGES_TIME: Duration = Duration::from_secs(5);
/// How long taking a member out may take.
const REMOVE_TIME: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Invite {
    hours: u64,
    address: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Snapshot {
    /// `None`: into the store.
    out: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fetch {
    /// `None`: the copies that there are, no file.
    out: Option<PathBuf>,
    /// First digits of the id of the copy that is wanted. `None`: the newest whole one.
    copy: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    node: String,
}

/// Answers one request under `/admin/metadata/`.
pub(super) async fn answer(operator: &Operator, method: Method, path: &str, body: &[u8]) -> Result<Value, Refused> {
    let failed = |error: &dyn std::fmt::Display| Refused::Failed(error.to_string());
    match (&method, path.trim_start_matches("metadata/")) {
        (&Method::POST, "snapshot") => return snapshot(operator, parse(body)?).await,
        (&Method::POST, "fetch") => return fetch(operator, parse(body)?).await,
        (&Method::POST, "reconcile") => {
            let done = operator.path.reconcile_now().await.map_err(|error| match error {
                ReconcileError::Store(error) => failed(&error),
                refused => Refused::Wrong(refused.to_string()),
            })?;
            return serde_json::to_value(done).map_err(|error| failed(&error));
        }
        _ => {}
    }
    let none = || Refused::Wrong("this process keeps its metadata itself; a cluster is begun with `breakwater metadata --init`".into());
    let cluster = &*operator.cluster;
    // Nodes come and go by the fleet's word, and only where there are several.
    let fleet = || operator.fleet.as_deref().filter(|_| cluster.alone().is_none()).ok_or_else(none);
    match (method, path.trim_start_matches("metadata/")) {
        (Method::GET, "status") => status(operator, cluster).await,
        (Method::POST, "invite") => invite(fleet()?, parse(body)?).await,
        (Method::GET, "map") => ranges::map(operator, cluster).await,
        (Method::POST, "split") => ranges::split(operator, cluster, parse(body)?).await,
        (Method::POST, "merge") => ranges::merge(operator, parse(body)?).await,
        (Method::POST, "move") => ranges::lead(operator, cluster, parse(body)?).await,
        (Method::POST, "give-up") => ranges::give_up(operator, parse(body)?).await,
        (Method::POST, "remove") => remove(operator, cluster, fleet()?, &parse::<Named>(body)?.node).await,
        _ => Err(Refused::NotFound(format!("there is no admin request {path}"))),
    }
}

impl From<SnapshotError> for Refused {
    fn from(error: SnapshotError) -> Self {
        match error {
            SnapshotError::Metadata(_) | SnapshotError::Write(_) | SnapshotError::Read(_) => Refused::Failed(error.to_string()),
            other => Refused::Wrong(other.to_string()),
        }
    }
}

async fn snapshot(operator: &Operator, asked: Snapshot) -> Result<Value, Refused> {
    let taken = match &asked.out {
        Some(out) => crate::snapshot::write(operator.path.metadata(), operator.path.keys().clone(), out).await?,
        None => kept::keep(&operator.path).await?,
    };
    Ok(json!({ "out": asked.out, "rows": taken.rows, "bytes": taken.bytes, "made_ms": taken.name.made.0 }))
}

async fn fetch(operator: &Operator, asked: Fetch) -> Result<Value, Refused> {
    let Some(out) = asked.out else {
        return Ok(json!({ "copies": kept::list(&operator.path).await? }));
    };
    let summary = kept::fetch(&operator.path, &out, asked.copy.as_deref()).await?;
    let bytes = std::fs::metadata(&out).map(|file| file.len()).map_err(|error| Refused::Failed(error.to_string()))?;
    let (id, made) = (hex::encode(summary.name.id), summary.name.made.0);
    Ok(json!({ "out": out, "rows": summary.rows, "bytes": bytes, "made_ms": made, "copy": id }))
}

/// All metadata nodes that were ever admitted, or this process where it keeps metadata itself.
pub(super) async fn nodes(operator: &Operator) -> Result<Vec<MetadataNodeRecord>, Refused> {
    if let Some(own) = operator.cluster.alone() {
        let (address, certificate, never) = (own.at.address, Bytes::new(), UnixMs(0));
        let not_after = UnixMs(u64::MAX);
        return Ok(vec![MetadataNodeRecord {
            id: own.at.node,
            address,
            certificate,
            not_after,
            removed: false,
            admitted: never,
            changed: never,
        }]);
    }
    match &operator.fleet {
        Some(fleet) => Ok(fleet.metadata_nodes().await?),
        None => Err(Refused::Failed("a gateway without a fleet has no metadata nodes".into())),
    }
}

async fn invite(fleet: &Fleet, asked: Invite) -> Result<Value, Refused> {
    if !(1..=720).contains(&asked.hours) {
        return Err(Refused::Wrong("an invitation is for 1 to 720 hours".into()));
    }
    let (token, expires) = fleet.invite(Door::Metadata, 1, Duration::from_secs(asked.hours * 3_600), asked.address).await?;
    Ok(json!({ "token": token.to_string(), "expires_ms": expires.0 }))
}

/// Everybody who was admitted and not removed, asked side by side.
pub(super) async fn ask_all(cluster: &dyn Members, records: &[MetadataNodeRecord]) -> Vec<(Endpoint, Result<ClusterStatus, String>)> {
    let there = records.iter().filter(|record| !record.removed);
    let asked = there.map(|record| Endpoint { node: record.id, address: record.address.clone() }).map(|at| async move {
        let status = cluster.status_of(&at).await;
        (at, status)
    });
    join_all(asked).await
}

/// Each node as it says itself and what it bears; the ranges with their heat, and what moved. Told also while the root has no leader, as far
/// as it is known then.
async fn status(operator: &Operator, cluster: &dyn Members) -> Result<Value, Refused> {
    let Roll { records, leaving, told, trouble } = roll::call(operator, cluster).await;
    let loads = heat::ask(cluster, told.iter().filter(|(_, status)| status.is_ok()).map(|(at, _)| at.clone()).collect()).await;
    let formats = formats_of(cluster, &told).await;
    let groups = || told.iter().filter_map(|(_, status)| status.as_ref().ok()).filter_map(root_of);
    // Of several that think they lead, the one of the highest term does.
    let newest = groups().filter(|group| group.leader.is_some()).max_by_key(|group| group.term);
    let leader = newest.and_then(|group| group.leader);
    let members = newest.or_else(|| groups().max_by_key(|group| group.term)).map(|group| group.members.clone()).unwrap_or_default();
    let last = groups().filter(|group| Some(group.term) == newest.map(|newest| newest.term)).map(|group| group.last).max();
    let nodes: Vec<Value> = records
        .iter()
        .map(|record| {
            let said = told.iter().find(|(at, _)| at.node == record.id).map(|(_, status)| status);
            let status = said.and_then(|status| status.as_ref().ok());
            let own = status.and_then(root_of);
            // A node that lost its replica says that it is another member than the one the group still counts in its place.
            let is_it = |id: MemberId| status.is_none_or(|status| status.member.id == id);
            let member = members.iter().find(|known| known.member.at.node == record.id && is_it(known.member.id));
            json!({
                "node": record.id.to_string(), "address": record.address, "removed": record.removed,
                "leaves": trouble.is_none().then(|| leaving.contains(&record.id)),
                "certificate_ends_ms": trouble.is_none().then_some(record.not_after.0), "answers": status.is_some(),
                "silent_because": said.and_then(|status| status.as_ref().err()),
                "member": member.map(|known| known.member.id.to_string()), "votes": member.is_some_and(|known| known.votes),
                "leads": member.is_some_and(|known| Some(known.member.id) == leader),
                "term": own.map(|group| group.term), "last": own.map(|group| group.last), "applied": own.map(|group| group.applied),
                "format": formats.get(&record.id).map(|understood| understood.newest.0),
                "lag": own.and_then(|group| Some(last?.saturating_sub(group.applied))), "load": heat::of_node(&loads, record.id),
            })
        })
        .collect();
    // Who did not tell who is there tells of no ranges either.
    let ranges = match &trouble {
        None => tokio::time::timeout(RANGES_TIME, heat::tell(operator, &loads)).await.ok().and_then(Result::ok),
        Some(_) => None,
    };
    let (leader, term) = (leader.map(|id| id.to_string()), newest.map(|group| group.term));
    let format = formats.values().map(|understood| understood.root.0).max();
    let mut answer = json!({
        "leader": leader, "term": term, "format": format, "records_known": trouble.is_none(), "trouble": trouble, "nodes": nodes,
        "ranges": null, "directories": null, "moves": null,
    });
    if let Some(heat::Told { ranges, directories, directories_left_out, moves }) = ranges {
        (answer["ranges"], answer["directories"], answer["moves"]) = (ranges, directories, moves);
        answer["directories_left_out"] = json!(directories_left_out);
    }
    Ok(answer)
}

/// What each node that answers understands, side by side.
async fn formats_of(cluster: &dyn Members, told: &[(Endpoint, Result<ClusterStatus, String>)]) -> BTreeMap<NodeId, Understood> {
    let there = told.iter().filter(|(_, status)| status.is_ok());
    let asked = there.map(|(at, _)| async move { Some((at.node, cluster.format_of(at).await.ok()?)) });
    join_all(asked).await.into_iter().flatten().collect()
}

/// Has a node leave its groups, waits until it is in none, then revokes it: in this order, a crash between leaves a node that can be removed
/// again.
async fn remove(operator: &Operator, cluster: &dyn Members, fleet: &Fleet, text: &str) -> Result<Value, Refused> {
    let node = find(operator, text).await?;
    let until = Instant::now() + REMOVE_TIME;
    leave(operator, cluster, fleet, node, until).await?;
    loop {
        let left = groups_of(operator, cluster, node).await;
        match left {
            Ok(left) if left.is_empty() => break,
            Ok(left) if Instant::now() > until => {
                let left: Vec<String> = left.iter().map(ToString::to_string).collect();
                let left = left.join(", ");
                let waits = silent(operator, cluster, node).await?;
                return Err(Refused::Failed(format!(
                    "the node leaves, and is still in groups {left}; ask again to have it removed after that{waits}"
                )));
            }
            Err(error) if Instant::now() > until => return Err(error),
            Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
    fleet.remove_metadata_node(node).await?;
    Ok(json!({ "node": node.to_string(), "removed": true }))
}

/// What an operator whose node does not come to leave is told of others that do not answer: what it has may be theirs to take over, and nobody
/// is given it instead of who may be back at any moment.
async fn silent(operator: &Operator, cluster: &dyn Members, leaving: NodeId) -> Result<String, Refused> {
    let told = ask_all(cluster, &nodes(operator).await?).await;
    let silent = told.into_iter().filter(|(at, status)| at.node != leaving && status.is_err()).map(|(at, _)| at.to_string());
    let silent: Vec<String> = silent.collect();
    Ok(match &silent[..] {
        [] => String::new(),
        some => {
            format!(". These do not answer, and may be waited for: {}. Start them, or remove those that are lost as well", some.join(", "))
        }
    })
}

/// Notes that a node leaves. While the cluster's format is too old for that and this very node is why, it goes out of the root's group first:
/// without it the others may agree on a newer one.
async fn leave(operator: &Operator, cluster: &dyn Members, fleet: &Fleet, node: NodeId, until: Instant) -> Result<(), Refused> {
    loop {
        let left = fleet.leave_metadata_node(node).await;
        let Err(FleetError::Boot(BootError::Metadata(MetadataError::TooNew { .. }))) = &left else { return Ok(left?) };
        if Instant::now() >= until {
            return Ok(left?);
        }
        let told = ask_all(cluster, &nodes(operator).await?).await;
        let formats = formats_of(cluster, &told).await;
        // One that does not answer keeps the others back as an old one does; another that is old too is for the operator to upgrade.
        let newest = formats.values().map(|understood| understood.newest).max();
        if formats.get(&node).is_some_and(|understood| Some(understood.newest) == newest) {
            return Ok(left?);
        }
        let groups = ranges::newest(&told);
        let members = groups.get(&ROOT).map(|root| root.members.iter()).into_iter().flatten();
        for known in members.filter(|known| known.member.at.node == node) {
            cluster.take_out(ROOT, known.member.id).await.map_err(Refused::Failed)?;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The groups that a node is a member of, by who leads each.
async fn groups_of(operator: &Operator, cluster: &dyn Members, node: NodeId) -> Result<Vec<GroupId>, Refused> {
    let told = ask_all(cluster, &nodes(operator).await?).await;
    let groups = ranges::newest(&told);
    // A group of which nobody answers may be the node's alone.
    if let Some(silent) = ranges::not_ended(operator).await?.into_iter().find(|group| !groups.contains_key(group)) {
        return Err(Refused::Failed(format!("no metadata node that has group {silent} answers now; ask again")));
    }
    if let Some((id, _)) = groups.iter().find(|(_, group)| group.leader.is_none()) {
        return Err(Refused::Failed(format!("no metadata node leads group {id} now; ask again")));
    }
    if groups.is_empty() {
        return Err(Refused::Failed("no metadata node leads now; ask again".into()));
    }
    let has = |group: &GroupStatus| group.members.iter().any(|known| known.member.at.node == node);
    Ok(groups.iter().filter(|(_, group)| has(group)).map(|(id, _)| *id).collect())
}

/// The one metadata node that `text` names.
pub(super) async fn find(operator: &Operator, text: &str) -> Result<NodeId, Refused> {
    if text.len() < DIGITS || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Refused::Wrong(format!("{text} is no node: give its id, or at least its first {DIGITS} digits")));
    }
    let digits = text.to_ascii_lowercase();
    let nodes = nodes(operator).await?;
    let named: Vec<NodeId> = nodes.iter().map(|node| node.id).filter(|id| id.to_string().starts_with(&digits)).collect();
    match named[..] {
        [node] => Ok(node),
        [] => Err(Refused::Wrong(format!("there is no metadata node {text}"))),
        _ => Err(Refused::Wrong(format!("{} metadata nodes begin with {text}", named.len()))),
    }
}
