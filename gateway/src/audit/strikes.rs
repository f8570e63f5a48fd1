//! What reads and scrubs found wrong, held against the node.
//!
//! Invariant: as with audits, it counts only if the index, asked after the node, still places the shard there: a shard that was moved or
//! deleted between the index's answer and the node's is nobody's failure. A shard counts once, however often it is read; what the node
//! says itself is damaged counts as that (`seen.rs`).

use super::is_placed;
use crate::body::WriteError;
use crate::collect::sweep::records;
use crate::core::Core;
use crate::damage::{Fault, Finder, Report};
use crate::metric::STRIKES;
use spine::wire::chunk::ShardName;

/// Books those of `reports` that reads and scrubs made.
pub(crate) async fn book(core: &Core, reports: &[Report]) -> Result<(), WriteError> {
    let counts = |report: &&Report| matches!(report.finder, Finder::Read(_) | Finder::Scrub);
    let found: Vec<&Report> = reports.iter().filter(counts).collect();
    if found.is_empty() {
        return Ok(());
    }
    let names: Vec<ShardName> = found.iter().map(|report| report.shard).collect();
    let records = records(core, &names).await?;
    for report in found {
        if !records.get(&report.shard.chunk).is_some_and(|record| is_placed(record, &report.shard, report.node)) {
            continue;
        }
        match report.finder {
            Finder::Scrub | Finder::Read(Fault::Damaged) => {
                if core.board.admitted(report.node, report.shard) {
                    STRIKES.with_label_values(&["damaged"]).inc();
                }
            }
            _ => {
                if core.board.misread(report.node, report.shard) {
                    STRIKES.with_label_values(&["read"]).inc();
                }
            }
        }
    }
    Ok(())
}
