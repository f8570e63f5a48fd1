//! What follows a loss of the metadata, and prepares for it:
//!
//! ```text
//! POST export {}              the escrow's text
//! POST fleet/reindex {}       see `reindex`
//! GET  chunks[?after=ID]      names and lengths of chunks, a page
//! POST chunks/get {chunk}     one chunk's plaintext, base64
//! GET  collection             POST collection {held, force}
//! ```
//! Not here: the work itself (`boot/escrow.rs`, `reindex`, `fetch.rs`).

use super::arguments::{AdminCommand, ChunkCommand};
use super::server::{Refused, parse};
use crate::boot::{escrow, write_whole};
use crate::ops::operator::Operator;
use crate::reconcile::ReleaseError;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use spine::id::ChunkId;
use spine::wire::chunk::{ChunkAnswer, ChunkQuery};
use spine::wire::{Answer, Query};
use std::io::Write;
use std::path::Path;

/// Chunks of one page.
const PAGE: usize = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    chunk: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Hold {
    held: bool,
    #[serde(default)]
    force: bool,
}

fn failed(error: impl std::fmt::Display) -> Refused {
    Refused::Failed(error.to_string())
}

fn named(text: &str) -> Result<ChunkId, Refused> {
    let mut id = [0; 32];
    hex::decode_to_slice(text, &mut id).map_err(|_| Refused::Wrong(format!("{text} is no chunk: its name has 64 hexadecimal digits")))?;
    Ok(ChunkId(id))
}

pub(super) async fn export(operator: &Operator) -> Result<Value, Refused> {
    let (text, escrow) = escrow::export(&operator.data, operator.path.keys(), operator.path.metadata()).await?;
    let (tenants, keys, nodes) = escrow.counts();
    Ok(json!({ "escrow": text, "tenants": tenants, "access_keys": keys, "nodes": nodes }))
}

pub(super) async fn reindex(operator: &Operator) -> Result<Value, Refused> {
    serde_json::to_value(operator.path.reindex_now().await.map_err(failed)?).map_err(failed)
}

pub(super) async fn collection(operator: &Operator) -> Result<Value, Refused> {
    Ok(json!({ "held": operator.path.is_held().await.map_err(failed)? }))
}

pub(super) async fn set_collection(operator: &Operator, body: &[u8]) -> Result<Value, Refused> {
    let Hold { held, force } = parse(body)?;
    if held {
        operator.path.hold().await.map_err(failed)?;
    } else {
        operator.path.release(force).await.map_err(|error| match error {
            ReleaseError::Store(error) => failed(error),
            ReleaseError::Unreconciled => Refused::Wrong(error.to_string()),
        })?;
    }
    Ok(json!({ "held": held }))
}

pub(super) async fn chunks(operator: &Operator, after: Option<&str>) -> Result<Value, Refused> {
    let after = after.map(named).transpose()?;
    let answer = operator.path.metadata().query(Query::Chunk(ChunkQuery::Scan { after, max: PAGE })).await?;
    let Answer::Chunk(ChunkAnswer::Scan(page)) = answer else { return Err(failed("metadata gave an answer to another question")) };
    let more = page.len() == PAGE;
    let show = |(chunk, record): &(ChunkId, spine::wire::chunk::ChunkRecord)| {
        let placement = record.placement.as_ref();
        json!({
            "chunk": chunk.to_string(), "state": format!("{:?}", record.state),
            "bytes": placement.map(|placement| placement.sealed.len),
            "tenant": placement.map(|placement| placement.sealed.tenant.to_string()),
            "shards": placement.map(|placement| placement.shards.iter().flatten().count()),
        })
    };
    Ok(json!({ "chunks": page.iter().map(show).collect::<Vec<_>>(), "more": more }))
}

pub(super) async fn chunk(operator: &Operator, body: &[u8]) -> Result<Value, Refused> {
    let Named { chunk } = parse(body)?;
    match operator.path.chunk(named(&chunk)?).await.map_err(failed)? {
        Some(plain) => Ok(json!({ "chunk": chunk, "bytes": plain.len(), "base64": STANDARD.encode(plain) })),
        None => Err(Refused::Wrong(format!("the index does not know chunk {chunk}"))),
    }
}

/// What goes into a file or comes out raw rather than as a table: `None` for every other command.
pub(super) fn keep(command: &AdminCommand, answer: &Value) -> Option<Result<String, String>> {
    match command {
        AdminCommand::Export { out } => Some(keep_export(answer, out)),
        AdminCommand::Chunk { command: ChunkCommand::Get { out, .. } } => Some(keep_chunk(answer, out.as_deref())),
        _ => None,
    }
}

fn keep_export(answer: &Value, out: &Path) -> Result<String, String> {
    let text = answer["escrow"].as_str().ok_or("the server's answer has no escrow")?;
    write_whole(out, text, 0o600).map_err(|error| error.to_string())?;
    Ok(format!(
        "{} tenants, {} access keys and {} nodes are in {}. Keep it with a copy of the root key, away from this machine, and make it anew after every change of them.",
        answer["tenants"],
        answer["access_keys"],
        answer["nodes"],
        out.display()
    ))
}

/// Nothing is said beside the bytes where they go to the standard output.
fn keep_chunk(answer: &Value, out: Option<&Path>) -> Result<String, String> {
    let text = answer["base64"].as_str().ok_or("the server's answer has no chunk")?;
    let bytes = STANDARD.decode(text).map_err(|error| error.to_string())?;
    match out {
        Some(path) => {
            std::fs::write(path, &bytes).map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
            Ok(format!("{} bytes are in {}", bytes.len(), path.display()))
        }
        None => {
            let mut out = std::io::stdout();
            out.write_all(&bytes).and_then(|()| out.flush()).map_err(|error| error.to_string())?;
            Ok(String::new())
        }
    }
}

/// What the others show.
pub(super) fn show(command: &AdminCommand, answer: &Value) -> String {
    match command {
        AdminCommand::Collection { .. } if answer["held"] == true => {
            "held: nothing is condemned, deleted or swept until `breakwater admin collection release`".into()
        }
        AdminCommand::Collection { .. } => "released: what no object refers to is collected".into(),
        _ => {
            let all = answer["chunks"].as_array().map_or(&[][..], Vec::as_slice);
            let line =
                |one: &Value| format!("{} {:>9} bytes, {} shards, {}", text(one, "chunk"), one["bytes"], one["shards"], text(one, "state"));
            let mut lines: Vec<String> = all.iter().map(line).collect();
            if let (Some(last), true) = (all.last(), answer["more"] == true) {
                lines.push(format!("and more: --after {}", text(last, "chunk")));
            }
            lines.join("\n")
        }
    }
}

pub(super) fn show_reindexed(answer: &Value) -> String {
    let mut out = format!(
        "{} shards on {} nodes; chunks: {} restored ({} of them owe shards), {} known before",
        answer["shards"], answer["nodes"], answer["restored"], answer["owing"], answer["known"]
    );
    let left = [("too_few", "have too few shards"), ("locked", "wait for a secret"), ("damaged", "are not what their name says")];
    for (field, what) in left {
        if answer[field].as_u64().unwrap_or(0) > 0 {
            out.push_str(&format!("\n{} chunks {what}", answer[field]));
        }
    }
    for one in answer["left"].as_array().into_iter().flatten() {
        out.push_str(&format!(
            "\nnot restored {}: {} ({} of {} shards)",
            text(one, "chunk"),
            text(one, "why"),
            one["found"],
            one["needed"]
        ));
    }
    for node in answer["nodes_away"].as_array().into_iter().flatten() {
        out.push_str(&format!("\nnot answered: node {}", node.as_str().unwrap_or("")));
    }
    out + "\nThe collection is held until `breakwater admin collection release`: no object refers to what was restored."
}

pub(super) fn show_copies(answer: &Value) -> String {
    let all = answer["copies"].as_array().map_or(&[][..], Vec::as_slice);
    if all.is_empty() {
        return "no copy of metadata is in the chunks that are indexed".into();
    }
    let line = |one: &Value| {
        let fleet = one["fleet"].as_str().map_or_else(|| "no fleet".to_string(), |fleet| format!("fleet {fleet}"));
        let whole = if one["whole"] == true { "whole" } else { "not whole: chunks of it cannot be read now" };
        format!("{}  as of {} ms  {:>12} bytes  {fleet}  {whole}", text(one, "id"), one["made_ms"], one["bytes"])
    };
    all.iter().map(line).collect::<Vec<_>>().join("\n")
}

pub(super) fn show_reconciled(answer: &Value) -> String {
    let mut out = format!(
        "{} objects, {} chunks, {} shards; {} shards are gone, {} were found elsewhere and are placed again, {} are on nodes that do not answer",
        answer["objects"], answer["chunks"], answer["shards"], answer["shards_gone"], answer["shards_found"], answer["shards_away"]
    );
    let idle = [
        ("copies_short", "chunks of copies of metadata cannot be read"),
        ("idle_short", "chunks that nothing refers to could not be read"),
    ];
    for (field, what) in idle {
        if answer[field].as_u64().unwrap_or(0) > 0 {
            out.push_str(&format!("\n{} {what}: they hold nothing up", answer[field]));
        }
    }
    for (field, what) in [("spelled_out", "lost: "), ("untold_spelled_out", "not told: "), ("nodes_away", "not answered: node ")] {
        for one in answer[field].as_array().into_iter().flatten() {
            out.push_str(&format!("\n{what}{}", one.as_str().unwrap_or("")));
        }
    }
    let count = |field: &str| answer[field].as_u64().unwrap_or(0);
    out + match (answer["released"] == true, count("lost")) {
        (true, _) => "\nNothing is lost. The collection is released.",
        (false, 0) => {
            "\nThe collection stays held until this finds all of it: bring the nodes that do not answer back, or retire those that are gone for good, then reconcile again."
        }
        (false, _) => "\nThe collection stays held. Write again what is lost, or delete it, then reconcile again: that releases it.",
    }
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or("")
}
