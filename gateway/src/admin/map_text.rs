//! The map of ranges to groups, as lines for a person.

use serde_json::Value;

/// What `admin metadata map` prints.
pub(super) fn text(answer: &Value) -> String {
    let mut lines = vec![format!("map of epoch {}", answer["epoch"])];
    if let Some(trouble) = answer["trouble"].as_str() {
        lines.push(format!("as this gateway saw it last: {trouble}"));
    }
    for (title, field) in [("names", "names"), ("chunks", "chunks")] {
        lines.push(format!("{title}:"));
        lines.extend(each(&answer[field]).map(range));
    }
    let moves: Vec<String> = each(&answer["moves"]).map(a_move).collect();
    if !moves.is_empty() {
        lines.push("moves:".to_string());
        lines.extend(moves);
    }
    lines.join("\n")
}

fn each(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().map_or(&[][..], Vec::as_slice).iter()
}

fn range(range: &Value) -> String {
    let from = range["from"].as_str().filter(|from| !from.is_empty()).unwrap_or("(the beginning)");
    let owner = &range["owner"];
    let leader = owner["address"].as_str().map_or_else(|| "nobody leads it now".to_string(), |address| format!("led by {address}"));
    let all = |field: &str| each(&owner[field]).filter_map(Value::as_str).collect::<Vec<_>>().join(", ");
    let (members, learning) = (all("members"), all("learning"));
    let members = if members.is_empty() { String::new() } else { format!(", replicas at {members}") };
    let learning = if learning.is_empty() { String::new() } else { format!(", learning: {learning}") };
    format!("  from {from:<48} group {:<5} {leader}{members}{learning}", owner["group"])
}

fn a_move(record: &Value) -> String {
    let range = &record["range"];
    let field = |name: &str| range[name].as_str();
    let from = field("names_from").or(field("chunks_from")).unwrap_or_default();
    let to = field("names_to").or(field("chunks_to")).unwrap_or("the end");
    let word = |name: &str| record[name].as_str().unwrap_or_default().to_string();
    let took = record["changed_ms"].as_u64().unwrap_or(0).saturating_sub(record["begun_ms"].as_u64().unwrap_or(0));
    let unwanted = if record["unwanted"] == true && record["over"] != true { ", to be given up" } else { "" };
    format!(
        "  {:<5} {from} to {to}: group {} -> {}, {}{unwanted}, {took} ms so far, {}",
        record["move"],
        record["from"],
        record["to"],
        word("step"),
        word("reason"),
    )
}
