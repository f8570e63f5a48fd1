//! What `admin metadata status` shows of the load: what each metadata node bears, the ranges with their heat, and what moved last and why.
//!
//! Bounded: as many ranges as there are, hottest directories of the hottest ones, the last moves. Not here: which node is who (`metadata.rs`).

use super::ranges::{bucket_names, moves, show_point, show_range, the_map, wrong_answer};
use super::server::Refused;
use crate::boot::credentials::root_query;
use crate::ops::operator::{Members, Operator};
use futures::future::join_all;
use serde_json::{Value, json};
use spine::id::{BucketId, GroupId};
use spine::map::NamePoint;
use spine::wire::cluster::{Endpoint, GroupLoad, Loads, Work};
use spine::wire::root::{MoveAsk, MoveRecord, RootAnswer, RootQuery, ShiftKind, ShiftRecord};
use std::collections::BTreeMap;

/// Moves that are shown, the last ones.
const MOVES: usize = 32;
/// Ranges whose hottest directories are shown.
const HOT: usize = 16;

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

fn hottest(group: &GroupLoad, names: &BTreeMap<BucketId, String>) -> Vec<Value> {
    let show = |bucket: BucketId, directory: &[u8]| show_point(&NamePoint::new(bucket, directory), names);
    let one = |heat: u64| (heat as f64 / 100.0).round() / 10.0;
    group.hottest.iter().map(|hot| json!({ "directory": show(hot.bucket, &hot.directory), "ops": one(hot.heat) })).collect()
}

/// Ranges with their heat, and what moved last, newest first.
pub(super) async fn tell(operator: &Operator, loads: &[Loads]) -> Result<(Value, Value), Refused> {
    let (map, names) = (the_map(operator).await?, bucket_names(operator).await?);
    let led = leaders(loads);
    let mut by_heat: Vec<(u64, GroupId)> = led.iter().map(|(id, (_, group))| (group.work.milli_ops, *id)).collect();
    by_heat.sort_unstable_by(|a, b| b.cmp(a));
    by_heat.truncate(HOT);
    let range = |kind: &str, from: String, group: GroupId| {
        let known = led.get(&group);
        let hot = known.filter(|_| kind == "names" && by_heat.iter().any(|(_, hot)| *hot == group));
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
    told.truncate(MOVES);
    Ok((json!(ranges), told.into_iter().map(|(_, told)| told).collect()))
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

/// As lines for a person; `now_ms`: moves are told by how long ago they were.
pub(super) fn text(answer: &Value, now_ms: u64) -> String {
    let each = |field: &str| answer[field].as_array().cloned().unwrap_or_default();
    let word = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_string);
    let number = |value: &Value| value.as_f64().map_or_else(|| "-".to_string(), |number| format!("{number:.1}"));
    let mut lines = vec!["ranges:".to_string()];
    for range in each("ranges") {
        let from = range["from"].as_str().filter(|from| !from.is_empty()).unwrap_or("(the beginning)").to_string();
        let leader = range["leader"].as_str().unwrap_or("nobody who answers");
        let ops = number(&range["load"]["ops"]);
        let kind = word(&range["kind"]);
        lines.push(format!("  {kind:<7} from {from:<40} group {:<5} {ops:>9} ops/s  led by {leader}", range["group"]));
        for hot in range["hottest"].as_array().into_iter().flatten() {
            lines.push(format!("          {:<45} {:>21} ops/s", word(&hot["directory"]), number(&hot["ops"])));
        }
    }
    let moves = each("moves");
    if !moves.is_empty() {
        lines.push("last moves:".to_string());
    }
    for told in moves {
        let ago = now_ms.saturating_sub(told["begun_ms"].as_u64().unwrap_or(now_ms)) / 1_000;
        let where_to = match told["to_group"].as_u64() {
            Some(to) => format!("group {} -> group {to}", told["group"]),
            None => format!("group {}, {} -> {}", told["group"], word(&told["from"]), word(&told["to"])),
        };
        lines.push(format!(
            "  {ago:>7} s ago  {:<10} {where_to}, {}, {}",
            word(&told["what"]),
            word(&told["state"]),
            word(&told["reason"])
        ));
    }
    lines.join("\n")
}
