//! What reads found wrong, held against the node that sent it.
//!
//! Invariant: as with audits, it counts only if the index, asked after the node, still places the shard there: a shard that was moved or
//! deleted between the index's answer and the node's is nobody's failure. A shard counts once, however often it is read.

use super::is_placed;
use crate::body::WriteError;
use crate::collect::sweep::records;
use crate::core::Core;
use crate::damage::{Finder, Report};
use crate::metric::STRIKES;
use spine::wire::chunk::ShardName;

/// Books those of `reports` that reads made.
pub(crate) async fn book(core: &Core, reports: &[Report]) -> Result<(), WriteError> {
    let read: Vec<&Report> = reports.iter().filter(|report| matches!(report.finder, Finder::Read(_))).collect();
    if read.is_empty() {
        return Ok(());
    }
    let names: Vec<ShardName> = read.iter().map(|report| report.shard).collect();
    let records = records(core, &names).await?;
    for report in read {
        let placed = records.get(&report.shard.chunk).is_some_and(|record| is_placed(record, &report.shard, report.node));
        if placed && core.board.misread(report.node, report.shard) {
            STRIKES.with_label_values(&["read"]).inc();
        }
    }
    Ok(())
}
