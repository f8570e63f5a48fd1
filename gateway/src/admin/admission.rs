//! `breakwater admin fleet admit`: `POST /admin/fleet/admit {request, days?}` of a gateway, and the files on both sides of it.

use super::arguments::{AdminCommand, FleetCommand};
use super::server::{Refused, parse};
use crate::boot::write_whole;
use crate::fleet::offline::{self, FILE_BYTES};
use crate::fleet::table::Fleet;
use serde::Deserialize;
use serde_json::{Value, json};
use spine::wire::admission::AdmissionRefusal;
use std::path::Path;
use std::time::Duration;

const DAYS: std::ops::RangeInclusive<u64> = 1..=3_650;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    request: offline::Request,
    days: Option<u64>,
}

/// Admits; the answer carries the text of the file that goes back.
pub(super) async fn answer(fleet: &Fleet, body: &[u8]) -> Result<Value, Refused> {
    let Asked { request, days } = parse(body)?;
    if days.is_some_and(|days| !DAYS.contains(&days)) {
        return Err(Refused::Wrong(format!("a certificate lives {} to {} days", DAYS.start(), DAYS.end())));
    }
    let life = days.map(|days| Duration::from_secs(days * 86_400));
    let admitted = fleet.admit_request(&request, life).await.map_err(|refusal| match refusal {
        AdmissionRefusal::Unavailable { .. } => Refused::Failed(refusal.to_string()),
        refusal => Refused::Wrong(refusal.to_string()),
    })?;
    let text = serde_json::to_string_pretty(&admitted).map_err(|error| Refused::Failed(error.to_string()))?;
    let place = &request.place;
    Ok(json!({ "admitted": text, "machine": place.machine, "zone": place.zone, "address": place.address, "nodes": request.nodes() }))
}

/// A request file, as it goes to the server.
pub(super) fn read(path: &Path) -> Result<Value, String> {
    let read = std::fs::metadata(path).and_then(|meta| match meta.len() {
        0..=FILE_BYTES => std::fs::read(path),
        _ => Err(std::io::Error::other("it is too large for one")),
    });
    let text = read.map_err(|error| format!("the request cannot be read. path=`{}`, reason=`{error}`", path.display()))?;
    serde_json::from_slice(&text).map_err(|error| format!("the request does not read. path=`{}`, reason=`{error}`", path.display()))
}

/// Writes the answer's file; `None` for every other command.
pub(super) fn keep(command: &AdminCommand, answer: &Value) -> Option<Result<String, String>> {
    let AdminCommand::Fleet { command: FleetCommand::Admit { out, .. } } = command else { return None };
    let text = answer["admitted"].as_str().unwrap_or("");
    let nodes: Vec<&str> = answer["nodes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let said = format!(
        "admitted machine {} in zone {} at {}: nodes {}\nIts certificates are in {}: `breakwater storage-node ... --admitted FILE` takes them in.",
        answer["machine"],
        answer["zone"],
        answer["address"],
        nodes.join(", "),
        out.display()
    );
    Some(write_whole(out, text, 0o644).map(|()| said).map_err(|error| error.to_string()))
}
