//! `breakwater admin audit`: `POST /admin/audit {node?, count}` of the operations listener, and checking what it answered, offline.

use super::arguments::AuditRun;
use super::server::{Refused, parse};
use crate::audit::transcript::{Shown, Transcript};
use crate::ops::operator::Operator;
use serde::Deserialize;
use serde_json::Value;
use spine::id::NodeId;
use std::path::Path;

/// Slices of each node in one audit: an answer of some 5 MiB a node.
const COUNT: std::ops::RangeInclusive<u32> = 1..=2_000;
/// Bytes of the largest transcript that is read.
const FILE_BYTES: u64 = 1 << 30;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    node: Option<String>,
    count: u32,
}

/// Audits now; the answer is the transcript.
pub(super) async fn answer(operator: &Operator, body: &[u8]) -> Result<Value, Refused> {
    let Asked { node, count } = parse(body)?;
    if !COUNT.contains(&count) {
        return Err(Refused::Wrong(format!("an audit asks for {} to {} slices of each node", COUNT.start(), COUNT.end())));
    }
    let node = node.map(|text| find(operator, &text)).transpose()?;
    let transcript = operator.path.audit_now(node, count as usize).await.map_err(|error| Refused::Failed(error.to_string()))?;
    serde_json::to_value(transcript).map_err(|error| Refused::Failed(error.to_string()))
}

/// The one node that `text` names: its id, or its first digits.
fn find(operator: &Operator, text: &str) -> Result<NodeId, Refused> {
    let digits = text.to_ascii_lowercase();
    let links = operator.nodes.links();
    let named: Vec<NodeId> = links.iter().map(|link| link.id()).filter(|id| id.to_string().starts_with(&digits)).collect();
    match named[..] {
        [node] if digits.len() >= 4 => Ok(node),
        [] => Err(Refused::Wrong(format!("there is no node {text}"))),
        _ => Err(Refused::Wrong(format!("{text} does not name one node: give more digits"))),
    }
}

/// What an audit shows, as text, and whether every slice was proven or is open.
pub(super) type Told = Result<(String, bool), String>;

/// Writes the transcript, and says what it shows.
pub(super) fn keep(run: &AuditRun, answer: &Value, as_json: bool) -> Told {
    let text = answer.to_string();
    if let Some(path) = &run.out {
        let failed = |error: std::io::Error| format!("the transcript cannot be written. path=`{}`, reason=`{error}`", path.display());
        std::fs::write(path, &text).map_err(failed)?;
    }
    show(text.as_bytes(), as_json)
}

/// `breakwater admin audit verify FILE`.
pub(super) fn verify(path: &Path, as_json: bool) -> Told {
    let read = std::fs::metadata(path).and_then(|meta| match meta.len() {
        0..=FILE_BYTES => std::fs::read(path),
        _ => Err(std::io::Error::other("it is too large for one")),
    });
    let text = read.map_err(|error| format!("the transcript cannot be read. path=`{}`, reason=`{error}`", path.display()))?;
    show(&text, as_json)
}

fn show(text: &[u8], as_json: bool) -> Told {
    let shown = Transcript::verify(text).map_err(|error| error.to_string())?;
    let text = if as_json { serde_json::to_string(&shown).unwrap_or_default() } else { shown.iter().map(line).collect() };
    Ok((text, shown.iter().all(|node| node.failed == 0)))
}

fn line(node: &Shown) -> String {
    let short: String = node.node.chars().take(12).collect();
    let open = if node.open == 0 { String::new() } else { format!(", {} open", node.open) };
    format!(
        "{short}  {:<16} {} of {} shards: {} proven, {} failed{open}\n",
        node.machine,
        node.proven + node.failed + node.open,
        node.placed,
        node.proven,
        node.failed
    )
}
