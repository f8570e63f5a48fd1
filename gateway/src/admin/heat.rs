//! What `admin metadata status` shows of the load: what each metadata node bears, the ranges with their heat, and what moved last and why.
//!
//! Bounded: as many ranges as there are, the hottest directories that each group names, and those of all groups as one tree; moves as
//! many as the root group keeps. Not here: which node is who (`metadata.rs`), how it is printed (`cluster_text.rs`).

use super::heat_tree::{Branch, tree};
use super::ranges::{bucket_names, moves, show_point, show_range, the_map, wrong_answer};
use super::server::Refused;
use crate::boot::credentials::root_query;
use crate::ops::operator::{Members, Operator};
use futures::future::join_all;
use serde_json::{Value, json};
use spine::id::{BucketId, GroupId};
use spine::map::NamePoint;
use spine::wire::cluster::{Endpoint, GroupLoad, HotDirectory, Loads, Work};
use spine::wire::root::{MoveAsk, MoveRecord, RootAnswer, RootQuery, ShiftKind, ShiftRecord};
use std::collections::{BTreeMap, BTreeSet};

/// Directories of the tree.
const DIRECTORIES: usize = 512;

/// What the root group and the leaders say together.
pub(super) struct Told {
    pub ranges: Value,
    /// The hottest directories as a tree, each after the one that it lies in.
    pub directories: Value,
    /// How many more of those were named.
    pub directories_left_out: usize,
    /// Newest first.
    pub moves: Value,
}

fn per_second(work: &Work) -> Value {
    let ops = work.milli_ops as f64 / 1e3;
    json!({ "ops": (ops * 10.0).round() / 10.0, "bytes": work.bytes, "cpu": work.cpu_micros as f64 / 1e6 })
}

fn sum(loads: &Loads) -> Work {
    loads.groups.iter().fold(Work::default(), |sum, group| Work {
        milli_ops: sum.milli_ops.saturating_add(group.work.milli_ops),
        bytes: sum.bytes.saturating_add(group.work.bytes),
        cpu_micros: sum.cpu_micros.saturating_add(group.work.cpu_micros),
    })
}

/// Of what is scarcest, how much is used: what the balancer levels.
fn pressure(used: &Work, capacity: &Work) -> f64 {
    let share = |used: u64, most: u64| if most > 0 { used as f64 / most as f64 } else { 0.0 };
    let ops = share(used.milli_ops, capacity.milli_ops);
    ops.max(share(used.bytes, capacity.bytes)).max(share(used.cpu_micros, capacity.cpu_micros))
}

/// What each node that answers bears.
pub(super) async fn ask(cluster: &dyn Members, endpoints: Vec<Endpoint>) -> Vec<Loads> {
    let asked = endpoints.iter().map(|at| cluster.loads_of(at));
    join_all(asked).await.into_iter().flatten().collect()
}

/// One node's load; `None`: it did not say.
pub(super) fn of_node(loads: &[Loads], node: spine::id::NodeId) -> Option<Value> {
    let loads = loads.iter().find(|loads| loads.member.at.node == node)?;
    let (used, leads) = (sum(loads), loads.groups.iter().filter(|group| group.leads).count());
    let mut told = per_second(&used);
    told["pressure"] = json!((pressure(&used, &loads.capacity) * 1e4).round() / 1e4);
    told["leads"] = json!(leads);
    told["groups"] = json!(loads.groups.len());
    Some(told)
}

/// Each group as who leads it says: of several, the one of the highest term.
fn leaders(loads: &[Loads]) -> BTreeMap<GroupId, (&Loads, &GroupLoad)> {
    let mut out: BTreeMap<GroupId, (&Loads, &GroupLoad)> = BTreeMap::new();
    for (of, group) in loads.iter().flat_map(|of| of.groups.iter().map(move |group| (of, group))).filter(|(_, group)| group.leads) {
        if out.get(&group.group).is_none_or(|(_, known)| known.term < group.term) {
            out.insert(group.group, (of, group));
        }
    }
    out
}

/// Operations a second, of thousandths.
fn one(heat: u64) -> f64 {
    (heat as f64 / 100.0).round() / 10.0
}

fn show_directory(bucket: BucketId, directory: &[u8], names: &BTreeMap<BucketId, String>) -> String {
    show_point(&NamePoint::new(bucket, directory), names)
}

fn hottest(group: &GroupLoad, names: &BTreeMap<BucketId, String>) -> Vec<Value> {
    let show = |hot: &HotDirectory| json!({ "directory": show_directory(hot.bucket, &hot.directory, names), "ops": one(hot.heat) });
    group.hottest.iter().map(show).collect()
}

/// The hottest directories of all groups, those above them, and who has them; and how many more there are.
fn directories(led: &BTreeMap<GroupId, (&Loads, &GroupLoad)>, names: &BTreeMap<BucketId, String>) -> (Value, usize) {
    let (branches, more) = tree(led.iter().map(|(id, (_, group))| (*id, &group.hottest[..])), DIRECTORIES);
    let leaders = |groups: &BTreeSet<GroupId>| -> BTreeSet<String> {
        groups.iter().filter_map(|id| led.get(id)).map(|(of, _)| of.member.at.address.clone()).collect()
    };
    let show = |branch: &Branch| {
        json!({
            "directory": show_directory(branch.bucket, &branch.directory, names), "depth": branch.depth, "ops": one(branch.heat),
            "groups": branch.groups.iter().map(|id| id.0).collect::<Vec<_>>(), "leaders": leaders(&branch.groups),
        })
    };
    (branches.iter().map(show).collect(), more)
}

/// Ranges with their heat, the hottest directories, and what moved, newest first.
pub(super) async fn tell(operator: &Operator, loads: &[Loads]) -> Result<Told, Refused> {
    let (map, names) = (the_map(operator).await?, bucket_names(operator).await?);
    let led = leaders(loads);
    let range = |kind: &str, from: String, group: GroupId| {
        let known = led.get(&group);
        let hot = known.filter(|_| kind == "names");
        json!({
            "kind": kind, "from": from, "group": group.0, "leader": known.map(|(of, _)| of.member.at.address.clone()),
            "replicas": known.map(|(_, group)| group.voters.iter().map(|voter| voter.at.address.clone()).collect::<Vec<_>>()),
            "load": known.map(|(_, group)| per_second(&group.work)), "table_bytes": known.map(|(_, group)| group.table_bytes),
            "hottest": hot.map(|(_, group)| hottest(group, &names)).unwrap_or_default(),
        })
    };
    let subtrees = map.names().iter().map(|route| range("names", show_point(route.start, &names), route.group));
    let ranges: Vec<Value> =
        subtrees.chain(map.chunks().iter().map(|route| range("chunks", route.start.to_string(), route.group))).collect();
    let RootAnswer::Shifts(shifts) = root_query(operator.path.metadata(), RootQuery::Shifts).await? else { return Err(wrong_answer()) };
    let ranges_moved = moves(operator).await?;
    let mut told: Vec<(u64, Value)> = ranges_moved.iter().map(|record| (record.id.0, of_move(record, &names))).collect();
    told.extend(shifts.iter().map(|record| (record.id.0, of_shift(record))));
    told.sort_by_key(|(id, _)| std::cmp::Reverse(*id));
    let (directories, directories_left_out) = directories(&led, &names);
    Ok(Told { ranges: json!(ranges), directories, directories_left_out, moves: told.into_iter().map(|(_, told)| told).collect() })
}

fn of_move(record: &MoveRecord, names: &BTreeMap<BucketId, String>) -> Value {
    let what = match &record.ask {
        MoveAsk::SplitNames { .. } | MoveAsk::SplitChunks { .. } => "split",
        MoveAsk::MergeNames { .. } | MoveAsk::MergeChunks { .. } => "merge",
        MoveAsk::MoveNames { .. } | MoveAsk::MoveChunks { .. } => "move",
    };
    let over = record.step.is_over();
    json!({
        "number": record.id.0, "what": what, "group": record.from.0, "to_group": record.to.0, "range": show_range(&record.span, names),
        "state": format!("{:?}", record.step), "over": over, "begun_ms": record.begun.0, "ended_ms": over.then_some(record.changed.0),
        "reason": record.reason,
    })
}

fn of_shift(record: &ShiftRecord) -> Value {
    let what = match record.kind {
        ShiftKind::Leadership => "leadership",
        ShiftKind::Replica => "replica",
    };
    let state = match (record.ended, record.done) {
        (None, _) => "UnderWay",
        (Some(_), true) => "Done",
        (Some(_), false) => "Failed",
    };
    json!({
        "number": record.id.0, "what": what, "group": record.group.0, "from": record.from.at.address, "to": record.to.at.address,
        "state": state, "over": record.ended.is_some(), "begun_ms": record.begun.0, "ended_ms": record.ended.map(|at| at.0),
        "reason": record.reason,
    })
}
