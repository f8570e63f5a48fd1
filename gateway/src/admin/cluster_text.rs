//! `admin metadata status` as lines for a person: who is there, the ranges with their heat, the hottest directories as a tree, what moved and
//! why.
//!
//! Bounded for one who reads: the last moves, the hottest directories; how many more there are is said, and `--json` has them.

use serde_json::Value;

/// Moves that are shown, the last ones.
const MOVES: usize = 32;
/// Directories that are shown, the hottest ones.
const DIRECTORIES: usize = 48;
/// The end of a certificate is shown when it is nearer than this: a week, of the thirty days that it lasts where nothing else is configured.
const NEAR_MS: u64 = 7 * 86_400_000;

/// - `now_ms`: moves and ends of certificates are told by how far away they are.
pub(super) fn text(answer: &Value, now_ms: u64) -> String {
    let mut lines = vec![format!("format {}", number(&answer["format"]))];
    lines.extend(answer["trouble"].as_str().map(str::to_string));
    lines.extend(each(&answer["nodes"]).map(|record| node(record, now_ms)));
    lines.push(if answer["ranges"].is_null() { "ranges: not known, the root group did not say" } else { "ranges:" }.to_string());
    lines.extend(each(&answer["ranges"]).map(range));
    lines.extend(tree(answer));
    lines.extend(moves(&answer["moves"], now_ms));
    lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n")
}

fn each(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().map_or(&[][..], Vec::as_slice).iter()
}

fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}

fn words(list: &Value) -> String {
    each(list).map(word).collect::<Vec<_>>().join(", ")
}

fn number(value: &Value) -> String {
    value.as_u64().map_or_else(|| "-".to_string(), |number| number.to_string())
}

fn tenths(value: &Value) -> String {
    value.as_f64().map_or_else(|| "-".to_string(), |number| format!("{number:.1}"))
}

fn node(node: &Value, now_ms: u64) -> String {
    let is = |field: &str| node[field] == true;
    let short: String = word(&node["node"]).chars().take(12).collect();
    let role = match () {
        () if is("removed") => "removed",
        () if is("leads") => "leads",
        () if is("votes") => "votes",
        () if node["member"].is_string() => "learns",
        () => "outside",
    };
    let leaves = if is("leaves") && !is("removed") { ", leaves" } else { "" };
    let (role, ends) = (format!("{role}{leaves}"), certificate(node, now_ms));
    let head = format!("{short}  {:<24} {role:<13}", word(&node["address"]));
    if !is("answers") {
        let why = node["silent_because"].as_str().map_or_else(String::new, |why| format!(": {why}"));
        return format!("{head} silent{why}{ends}");
    }
    let load = &node["load"];
    let pressure = load["pressure"].as_f64().map_or_else(|| "-".to_string(), |pressure| format!("{:.1} %", pressure * 100.0));
    format!(
        "{head} answers  format {}  term {}  applied {}  behind {}  {} ops/s, load {pressure}, leads {} of {} groups{ends}",
        number(&node["format"]),
        number(&node["term"]),
        number(&node["applied"]),
        number(&node["lag"]),
        tenths(&load["ops"]),
        number(&load["leads"]),
        number(&load["groups"]),
    )
}

/// Nothing unless it ends soon, or has.
fn certificate(node: &Value, now_ms: u64) -> String {
    let Some(ends) = node["certificate_ends_ms"].as_u64().filter(|_| node["removed"] != true) else { return String::new() };
    match ends.checked_sub(now_ms) {
        Some(left) if left >= NEAR_MS => String::new(),
        Some(left) => format!("  certificate ends in {}", span(left)),
        None => format!("  certificate ended {} ago", span(now_ms.saturating_sub(ends))),
    }
}

fn span(ms: u64) -> String {
    match ms / 1_000 {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7_199 => format!("{} min", seconds / 60),
        seconds @ 7_200..=172_799 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

fn range(range: &Value) -> String {
    let from = range["from"].as_str().filter(|from| !from.is_empty()).unwrap_or("(the beginning)");
    let (kind, ops) = (word(&range["kind"]), tenths(&range["load"]["ops"]));
    let head = format!("  {kind:<7} from {from:<40} group {:<5} {ops:>9} ops/s  led by", range["group"]);
    match range["leader"].as_str() {
        Some(leader) => format!("{head} {leader}, replicas at {}", words(&range["replicas"])),
        None => format!("{head} nobody who answers"),
    }
}

/// The hottest directories in the order in which they come: each after the one that it lies in, which is never colder.
fn tree(answer: &Value) -> Vec<String> {
    let all: Vec<&Value> = each(&answer["directories"]).collect();
    let heat = |at: usize| all.get(at).and_then(|branch| branch["ops"].as_f64()).unwrap_or(0.0);
    let mut hottest: Vec<usize> = (0..all.len()).collect();
    // Stable: of two that are as hot, the one that comes first, which is the one above.
    hottest.sort_by(|a, b| heat(*b).total_cmp(&heat(*a)));
    hottest.truncate(DIRECTORIES);
    hottest.sort_unstable();
    let mut lines = Vec::new();
    if !hottest.is_empty() {
        lines.push("hot directories, each with all below it:".to_string());
    }
    for branch in hottest.iter().filter_map(|at| all.get(*at)) {
        let indent = "  ".repeat(1 + usize::try_from(branch["depth"].as_u64().unwrap_or(0)).unwrap_or(0).min(32));
        let what = format!("{indent}{}", word(&branch["directory"]));
        let groups = each(&branch["groups"]).count();
        let owner =
            format!("{} {}, led by {}", if groups == 1 { "group" } else { "groups" }, words(&branch["groups"]), words(&branch["leaders"]));
        lines.push(format!("{what:<62} {:>9} ops/s  {owner}", tenths(&branch["ops"])));
    }
    let more = (all.len() - hottest.len()) as u64 + answer["directories_left_out"].as_u64().unwrap_or(0);
    if more > 0 {
        lines.push(format!("  {more} more: --json"));
    }
    lines
}

fn moves(moves: &Value, now_ms: u64) -> Vec<String> {
    let all: Vec<&Value> = each(moves).collect();
    if all.is_empty() {
        return Vec::new();
    }
    let mut lines = vec!["last moves:".to_string()];
    lines.extend(all.iter().take(MOVES).map(|told| a_move(told, now_ms)));
    if all.len() > MOVES {
        lines.push(format!("  {} more: --json", all.len() - MOVES));
    }
    lines
}

fn a_move(told: &Value, now_ms: u64) -> String {
    let ago = now_ms.saturating_sub(told["begun_ms"].as_u64().unwrap_or(now_ms)) / 1_000;
    let where_to = match told["to_group"].as_u64() {
        Some(to) => format!("group {} -> group {to}", told["group"]),
        None => format!("group {}, {} -> {}", told["group"], word(&told["from"]), word(&told["to"])),
    };
    format!("  {ago:>7} s ago  {:<10} {where_to}, {}, {}", word(&told["what"]), word(&told["state"]), word(&told["reason"]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const DAY: u64 = 86_400_000;
    const NOW: u64 = 100 * DAY;

    fn a_node(more: Value) -> Value {
        let mut node = json!({
            "node": "ab".repeat(32), "address": "10.0.0.1:7500", "removed": false, "leaves": false, "answers": true, "votes": true,
            "leads": false, "member": "1", "certificate_ends_ms": NOW + 20 * DAY, "silent_because": null, "term": 3, "applied": 40,
            "lag": 2, "format": 2, "load": { "ops": 12.34, "pressure": 0.123, "leads": 1, "groups": 4 },
        });
        for (field, value) in more.as_object().into_iter().flatten() {
            node[field] = value.clone();
        }
        node
    }

    #[test]
    fn a_silent_node_says_why_a_leaving_one_that_it_leaves_and_a_certificate_that_its_end_is_near() {
        let line = |more: Value| node(&a_node(more), NOW);
        let usual = line(json!({}));
        assert!(usual.contains("votes ") && usual.contains("behind 2") && usual.contains("load 12.3 %, leads 1 of 4 groups"), "{usual}");
        assert!(!usual.contains("certificate") && !usual.contains("leaves"), "{usual}");
        let silent = line(json!({ "answers": false, "silent_because": "connecting failed" }));
        assert!(silent.contains("silent: connecting failed") && !silent.contains("applied"), "{silent}");
        assert!(line(json!({ "leaves": true })).contains("votes, leaves"));
        let gone = line(json!({ "leaves": true, "removed": true, "answers": false, "certificate_ends_ms": NOW - DAY }));
        assert!(gone.contains("removed") && !gone.contains("leaves") && !gone.contains("certificate"), "{gone}");
        assert!(line(json!({ "certificate_ends_ms": NOW + 6 * DAY })).contains("certificate ends in 6 days"));
        assert!(line(json!({ "certificate_ends_ms": NOW - 3 * DAY })).contains("certificate ended 3 days ago"));
        assert!(!line(json!({ "certificate_ends_ms": null })).contains("certificate"));
        assert!(!line(json!({ "certificate_ends_ms": u64::MAX })).contains("certificate"));
    }

    #[test]
    fn the_last_moves_are_shown_with_their_reasons_and_how_many_more_there_were() {
        let moved = |n: u64| {
            json!({
                "number": n, "what": "split", "group": 0, "to_group": n, "state": "Done", "begun_ms": NOW - 5_000, "reason": format!("relief {n}"),
            })
        };
        let moves: Vec<Value> = (1..=40).rev().map(moved).collect();
        let lines = text(&json!({ "format": 2, "ranges": [], "moves": moves }), NOW);
        assert!(lines.contains("      5 s ago  split      group 0 -> group 40, Done, relief 40"), "{lines}");
        assert!(lines.contains("relief 9\n  8 more: --json") && !lines.contains("relief 8"), "{lines}");
    }

    #[test]
    fn directories_are_shown_as_a_tree_of_the_hottest_and_a_range_with_its_replicas() {
        let branch = |at: String, depth: u64, ops: f64| json!({ "directory": at, "depth": depth, "ops": ops, "groups": [0, 5], "leaders": ["10.0.0.1:7500", "10.0.0.2:7500"] });
        let cold = (0..60).map(|n| branch(format!("b/cold/{n}/"), 2, 1.0));
        let first = [branch("b/".into(), 0, 100.0), branch("b/cold/".into(), 1, 60.0)];
        let all: Vec<Value> = first.into_iter().chain(cold).chain([branch("b/hot/".into(), 1, 40.0)]).collect();
        let range = json!({
            "kind": "names", "from": "", "group": 5, "leader": "10.0.0.2:7500", "replicas": ["10.0.0.2:7500", "10.0.0.3:7500"],
            "load": { "ops": 40.0 },
        });
        let lines = text(&json!({ "ranges": [range], "directories": all, "directories_left_out": 3, "moves": [] }), NOW);
        let at =
            |what: &str| lines.lines().position(|line| line.trim_start().starts_with(what)).unwrap_or_else(|| panic!("{what}: {lines}"));
        assert!(at("b/ ") < at("b/cold/ ") && at("b/cold/ ") < at("b/cold/0/") && at("b/cold/44/") < at("b/hot/"), "{lines}");
        assert!(!lines.contains("b/cold/45/") && lines.contains("\n  18 more: --json"), "{lines}");
        assert!(lines.contains("led by 10.0.0.2:7500, replicas at 10.0.0.2:7500, 10.0.0.3:7500"), "{lines}");
        assert!(lines.contains("groups 0, 5, led by 10.0.0.1:7500, 10.0.0.2:7500"), "{lines}");
    }

    #[test]
    fn what_the_root_group_did_not_say_is_not_shown_as_nothing() {
        let lines = text(&json!({ "trouble": "nobody leads", "nodes": [a_node(json!({}))], "ranges": null, "moves": null }), NOW);
        assert!(lines.starts_with("format -\nnobody leads\nabababababab  10.0.0.1:7500"), "{lines}");
        assert!(lines.contains("ranges: not known"), "{lines}");
    }
}
