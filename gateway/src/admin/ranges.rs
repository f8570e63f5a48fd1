//! `/admin/metadata/{map,split,merge,move,give-up}`: which group has which names and chunks, and changing that.
//!
//! ```text
//! GET  map
//! POST split {at: BUCKET/KEY | chunk: first digits}   POST merge {group, chunks}   POST move {group, node}   POST give-up {move}
//! ```
//! A split and a merge are begun here and carried out where the root group is led; `map` shows how far they are.
//! Not here: carrying them out (`metadata::mover`), when to (an operator's word, or `metadata::balancing`).

use super::metadata::{ask_all, find, nodes};
use super::roll::{self, Roll};
use super::server::Refused;
use crate::boot::BootError;
use crate::boot::credentials::root_query;
use crate::core::now;
use crate::ops::operator::{Members, Operator};
use serde::Deserialize;
use serde_json::{Value, json};
use spine::id::{BucketId, ChunkId, GroupId, MoveId};
use spine::map::{Map, NamePoint};
use spine::wire::cluster::{ClusterStatus, Endpoint, GroupStatus, Member};
use spine::wire::range::Range;
use spine::wire::root::{MoveAsk, MoveRecord, RootAnswer, RootCommand, RootQuery};
use spine::wire::{Batch, Chain, Command, Reply};
use std::collections::BTreeMap;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Split {
    /// `BUCKET/KEY`.
    at: Option<String>,
    /// The first digits of a chunk's name.
    chunk: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Merge {
    group: u32,
    chunks: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lead {
    group: u32,
    node: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GiveUp {
    #[serde(rename = "move")]
    id: u64,
}

pub(super) fn wrong_answer() -> Refused {
    Refused::Failed("metadata gave an answer to another question".into())
}

pub(super) async fn the_map(operator: &Operator) -> Result<Map, Refused> {
    match root_query(operator.path.metadata(), RootQuery::Map { known: None }).await? {
        RootAnswer::Map(Some(map)) => Ok(map),
        _ => Err(wrong_answer()),
    }
}

pub(super) async fn moves(operator: &Operator) -> Result<Vec<MoveRecord>, Refused> {
    match root_query(operator.path.metadata(), RootQuery::Moves).await? {
        RootAnswer::Moves(moves) => Ok(moves),
        _ => Err(wrong_answer()),
    }
}

/// Groups that were made, or are about to be, and have not ended; not the root's own.
pub(super) async fn not_ended(operator: &Operator) -> Result<Vec<GroupId>, Refused> {
    match root_query(operator.path.metadata(), RootQuery::Groups).await? {
        RootAnswer::Groups(records) => Ok(records.iter().map(|record| record.id).collect()),
        _ => Err(wrong_answer()),
    }
}

async fn order(operator: &Operator, command: RootCommand) -> Result<Reply, Refused> {
    let batch = Batch { chain: Chain::Stop, commands: vec![Command::Root(command)] };
    match operator.path.metadata().propose(batch).await?.pop() {
        Some(Reply::Refused(why)) => Err(BootError::Refused { what: why.to_string() }.into()),
        Some(reply) => Ok(reply),
        None => Err(wrong_answer()),
    }
}

/// The names of buckets, for points that begin in them.
pub(super) async fn bucket_names(operator: &Operator) -> Result<BTreeMap<BucketId, String>, Refused> {
    let RootAnswer::Tenants(tenants) = root_query(operator.path.metadata(), RootQuery::Tenants).await? else { return Err(wrong_answer()) };
    let mut names = BTreeMap::new();
    for tenant in tenants {
        let RootAnswer::Buckets(buckets) = root_query(operator.path.metadata(), RootQuery::Buckets(tenant.id)).await? else {
            return Err(wrong_answer());
        };
        names.extend(buckets.into_iter().map(|bucket| (bucket.id, bucket.name)));
    }
    Ok(names)
}

pub(super) fn show_point(point: &NamePoint, names: &BTreeMap<BucketId, String>) -> String {
    match (point.bucket, names.get(&point.bucket)) {
        (BucketId(0), _) => String::new(),
        (_, Some(name)) => format!("{name}/{}", String::from_utf8_lossy(&point.key)),
        (id, None) => format!("#{id}/{}", String::from_utf8_lossy(&point.key)),
    }
}

pub(super) fn show_range(range: &Range, names: &BTreeMap<BucketId, String>) -> Value {
    match range {
        Range::Names(span) => json!({
            "names_from": show_point(&span.start, names), "names_to": span.end.as_ref().map(|end| show_point(end, names)),
        }),
        Range::Chunks(span) => json!({ "chunks_from": span.start.to_string(), "chunks_to": span.end.map(|end| end.to_string()) }),
    }
}

/// Each group as who leads it says, or else whoever knows most.
pub(super) fn newest(told: &[(Endpoint, Result<ClusterStatus, String>)]) -> BTreeMap<GroupId, GroupStatus> {
    let mut out: BTreeMap<GroupId, GroupStatus> = BTreeMap::new();
    for group in told.iter().filter_map(|(_, status)| status.as_ref().ok()).flat_map(|status| &status.groups) {
        let newer = out.get(&group.group).is_none_or(|known| (known.leader.is_some(), known.term) < (group.leader.is_some(), group.term));
        if newer {
            out.insert(group.group, group.clone());
        }
    }
    out
}

/// What the root group has to say of the map.
async fn from_the_root(operator: &Operator) -> Result<(Map, Vec<MoveRecord>, BTreeMap<BucketId, String>), Refused> {
    Ok((the_map(operator).await?, moves(operator).await?, bucket_names(operator).await?))
}

/// The ranges in order, with who leads their groups, and the moves. While the root group does not tell: as this process saw the map last,
/// without the names of buckets.
pub(super) async fn map(operator: &Operator, cluster: &dyn Members) -> Result<Value, Refused> {
    let Roll { told, trouble, .. } = roll::call(operator, cluster).await;
    let (map, moves, names) = match (&trouble, cluster.known_map()) {
        (Some(_), Some(known)) => (Map::clone(&known), Vec::new(), BTreeMap::new()),
        _ => from_the_root(operator).await?,
    };
    let groups = newest(&told);
    let owner = |group: GroupId| {
        let known = groups.get(&group);
        let leader = known.and_then(|known| known.members.iter().find(|member| Some(member.member.id) == known.leader));
        let addresses = |votes: bool| -> Option<Vec<&str>> {
            Some(known?.members.iter().filter(|member| member.votes == votes).map(|member| &*member.member.at.address).collect())
        };
        json!({
            "group": group.0, "leader": leader.map(|leader| leader.member.at.node.to_string()),
            "address": leader.map(|leader| &leader.member.at.address),
            "members": addresses(true), "learning": addresses(false),
        })
    };
    let subtrees: Vec<Value> =
        map.names().iter().map(|route| json!({ "from": show_point(route.start, &names), "owner": owner(route.group) })).collect();
    let chunks: Vec<Value> =
        map.chunks().iter().map(|route| json!({ "from": route.start.to_string(), "owner": owner(route.group) })).collect();
    let moves: Vec<Value> = moves
        .iter()
        .map(|record| {
            json!({
                "move": record.id.0, "range": show_range(&record.span, &names), "from": record.from.0, "to": record.to.0,
                "step": format!("{:?}", record.step), "over": record.step.is_over(), "attempt": record.attempt,
                "unwanted": record.unwanted, "reason": record.reason, "begun_ms": record.begun.0, "changed_ms": record.changed.0,
            })
        })
        .collect();
    Ok(json!({ "epoch": map.epoch().0, "trouble": trouble, "names": subtrees, "chunks": chunks, "moves": moves }))
}

/// Who votes in the group that is to be split: the same found the new one, for which all of them have to be there.
async fn founders(operator: &Operator, cluster: &dyn Members, group: GroupId) -> Result<Vec<Member>, Refused> {
    let told = ask_all(cluster, &nodes(operator).await?).await;
    let members = voters_of(&told, group)?;
    let answers = |member: &Member| told.iter().any(|(at, status)| at.node == member.at.node && status.is_ok());
    match members.iter().find(|member| !answers(member)) {
        Some(silent) => Err(Refused::Failed(format!("{} votes in group {group} and does not answer now; ask again", silent.at.address))),
        None => Ok(members),
    }
}

async fn voters(operator: &Operator, cluster: &dyn Members, group: GroupId) -> Result<Vec<Member>, Refused> {
    voters_of(&ask_all(cluster, &nodes(operator).await?).await, group)
}

fn voters_of(told: &[(Endpoint, Result<ClusterStatus, String>)], group: GroupId) -> Result<Vec<Member>, Refused> {
    let groups = newest(told);
    let known = groups.get(&group).filter(|known| known.leader.is_some());
    let known = known.ok_or_else(|| Refused::Failed(format!("nobody leads group {group} now; ask again")))?;
    Ok(known.members.iter().filter(|member| member.votes).map(|member| member.member.clone()).collect())
}

pub(super) async fn split(operator: &Operator, cluster: &dyn Members, asked: Split) -> Result<Value, Refused> {
    let map = the_map(operator).await?;
    let ask = match (asked.at, asked.chunk) {
        (Some(at), None) => {
            let (bucket, key) = at.split_once('/').unwrap_or((&at, ""));
            let RootAnswer::Bucket(Some(bucket)) = root_query(operator.path.metadata(), RootQuery::Bucket(bucket.to_string())).await?
            else {
                return Err(Refused::Wrong(format!("there is no bucket {bucket}")));
            };
            let at = NamePoint::new(bucket.id, key);
            let members = founders(operator, cluster, map.names().of(&at).group).await?;
            MoveAsk::SplitNames { at, members }
        }
        (None, Some(digits)) => {
            let padded = format!("{digits:0<64}");
            let at =
                ChunkId::parse_hex(&padded).ok_or_else(|| Refused::Wrong(format!("{digits} are no first digits of a chunk's name")))?;
            let members = founders(operator, cluster, map.chunks().of(&at).group).await?;
            MoveAsk::SplitChunks { at, members }
        }
        _ => return Err(Refused::Wrong("say where: a bucket and key, or a chunk".into())),
    };
    begin(operator, &map, ask).await
}

pub(super) async fn merge(operator: &Operator, asked: Merge) -> Result<Value, Refused> {
    let (map, into) = (the_map(operator).await?, GroupId(asked.group));
    let ask = if asked.chunks { MoveAsk::MergeChunks { into } } else { MoveAsk::MergeNames { into } };
    begin(operator, &map, ask).await
}

async fn begin(operator: &Operator, map: &Map, ask: MoveAsk) -> Result<Value, Refused> {
    let command = RootCommand::BeginMove { ask, expected: map.epoch(), reason: "asked for by an operator".into(), now: now() };
    match order(operator, command).await? {
        Reply::Moving(id) => Ok(json!({ "move": id.0 })),
        _ => Err(wrong_answer()),
    }
}

/// Hands a group's leadership to a node.
pub(super) async fn lead(operator: &Operator, cluster: &dyn Members, asked: Lead) -> Result<Value, Refused> {
    let (group, node) = (GroupId(asked.group), find(operator, &asked.node).await?);
    let voters = voters(operator, cluster, group).await?;
    let to = voters.iter().find(|member| member.at.node == node);
    let to = to.ok_or_else(|| Refused::Wrong(format!("the node does not vote in group {group}")))?;
    cluster.transfer(group, to.id).await.map_err(Refused::Failed)?;
    Ok(json!({ "group": group.0, "leader": node.to_string() }))
}

pub(super) async fn give_up(operator: &Operator, asked: GiveUp) -> Result<Value, Refused> {
    match order(operator, RootCommand::GiveUpMove { id: MoveId(asked.id) }).await? {
        Reply::Done => Ok(json!({ "move": asked.id, "unwanted": true })),
        _ => Err(wrong_answer()),
    }
}
