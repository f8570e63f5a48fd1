//! Puts a copy into metadata that is empty.
//!
//! The whole file is read and checked before metadata is told anything; then it is read again, and every part of it goes through the log.
//! Each step can be asked for again, so that a leader that dies meanwhile costs time and nothing else.

use super::file::{Reader, Summary, check};
use super::item::Item;
use super::{SnapshotError, strange, wrong};
use crate::core::now;
use crate::keys::Keys;
use spine::id::{FleetId, Seq, UnixMs};
use spine::wire::cluster::{PART_BYTES, Row};
use spine::wire::copy::{BEGINNING, CopyEnd, RestoreCommand, Sum, is_counted};
use spine::wire::root::{RootAnswer, RootQuery};
use spine::wire::{Answer, Batch, Chain, Command, Metadata, MetadataError, Query, Reply};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// How long one step is asked for again while metadata does not answer: the last one reads all that was restored.
const PATIENCE: Duration = Duration::from_secs(3_600);
const PAUSE: Duration = Duration::from_millis(500);
/// Items on their way.
const ITEMS: usize = 2;

/// Restores the copy in `path`. The collection is held afterwards.
///
/// - `fleet`: that the metadata is of, if it knows.
///
/// # Errors
/// `Wrong` and `File` before anything was changed. `Refused` where metadata is not empty, or the copy is another fleet's.
pub async fn restore(metadata: &Arc<dyn Metadata>, keys: Arc<Keys>, path: &Path, fleet: Option<FleetId>) -> Result<Summary, SnapshotError> {
    check_clock(now())?;
    let (checked, checked_keys) = (path.to_owned(), keys.clone());
    let summary = tokio::task::spawn_blocking(move || check(&checked_keys, &checked)).await;
    let summary = summary.map_err(|error| SnapshotError::Refused { what: error.to_string() })??;
    if let (Some(is), Some(of)) = (fleet, summary.fleet)
        && is != of
    {
        return Err(SnapshotError::Refused { what: format!("the copy is of fleet {of}, this is fleet {is}") });
    }
    let Answer::Root(RootAnswer::Format(understood)) = metadata.query(Query::Root(RootQuery::Format)).await? else {
        return Err(strange("the format"));
    };
    if summary.format > understood {
        let what = format!("the copy is of format {} and the metadata nodes have {understood}: upgrade them first", summary.format);
        return Err(SnapshotError::Refused { what });
    }
    let (items, mut coming) = mpsc::channel(ITEMS);
    let path = path.to_owned();
    let reading = tokio::task::spawn_blocking(move || -> Result<(), SnapshotError> {
        let mut reader = Reader::open(&keys, &path)?;
        while let Some(item) = reader.next()? {
            if items.blocking_send(item).is_err() {
                return Ok(());
            }
        }
        Ok(())
    });
    let stream = summary.name.id;
    begin(metadata, stream).await?;
    let (mut number, mut counted, mut end) = (0_u32, Sum::default(), None);
    while let Some(item) = coming.recv().await {
        match item {
            Item::Rows(rows) => {
                for row in rows.iter().filter(|row| is_counted(row.space, &row.key)) {
                    counted.count(row.space, &row.key, &row.value);
                }
                for rows in in_parts(rows) {
                    tell(metadata, RestoreCommand::Rows { stream, number, rows }).await?;
                    number = number.checked_add(1).ok_or_else(|| wrong("more parts than there are numbers"))?;
                }
            }
            Item::EndGroup(CopyEnd { next, .. }) => end = end.max(Some(next)),
            Item::About { .. } | Item::Group(_) | Item::End { .. } => {}
        }
    }
    reading.await.map_err(|error| SnapshotError::Refused { what: error.to_string() })??;
    let next = end.ok_or_else(|| wrong("no group"))?;
    tell(metadata, RestoreCommand::End { stream, next, counted: counted.rows(), sum: counted.digest(), now: now() }).await?;
    Ok(summary)
}

/// Numbers of the restored metadata begin by the time of the restore, so that no other restore gives them.
pub(super) fn check_clock(now: UnixMs) -> Result<(), SnapshotError> {
    if now >= BEGINNING {
        return Ok(());
    }
    Err(SnapshotError::Refused { what: "this machine's clock says a time before 2026: set it right first, numbers go on by it".into() })
}

/// Pieces that fit a log entry each: a long row stands alone, as it did when it was logged.
fn in_parts(rows: Vec<Row>) -> Vec<Vec<Row>> {
    let (mut parts, mut bytes) = (vec![Vec::new()], 0);
    for row in rows {
        let own = row.key.len() + row.value.len() + 16;
        if bytes + own > PART_BYTES && bytes > 0 {
            parts.push(Vec::new());
            bytes = 0;
        }
        bytes += own;
        if let Some(last) = parts.last_mut() {
            last.push(row);
        }
    }
    parts
}

async fn begin(metadata: &Arc<dyn Metadata>, stream: [u8; 16]) -> Result<(), SnapshotError> {
    let refused = match tell(metadata, RestoreCommand::Begin { stream }).await {
        Err(SnapshotError::Refused { what }) => what,
        other => return other,
    };
    // Where metadata is not empty, neither changes anything: the one is refused unless this copy's restore has ended, the other unless one
    // is under way. No table has so many rows.
    let end = RestoreCommand::End { stream, next: Seq(0), counted: u64::MAX, sum: [0; 32], now: now() };
    let what = if tell(metadata, end).await.is_ok() {
        "this metadata came out of this very copy: its restore is at its end, and nothing is left to be done".into()
    } else if tell(metadata, RestoreCommand::Expect).await.is_ok() {
        "a restore of another copy is under way: go on with that one, or begin again with a metadata folder that is empty".into()
    } else {
        refused
    };
    Err(SnapshotError::Refused { what })
}

async fn tell(metadata: &Arc<dyn Metadata>, command: RestoreCommand) -> Result<(), SnapshotError> {
    let batch = Batch { chain: Chain::Stop, commands: vec![Command::Restore(command)] };
    let began = Instant::now();
    loop {
        match metadata.propose(batch.clone()).await {
            Ok(replies) => match replies.into_iter().next() {
                Some(Reply::Done) => return Ok(()),
                Some(Reply::Refused(refusal)) => return Err(SnapshotError::Refused { what: refusal.to_string() }),
                _ => return Err(strange("a part of a restore")),
            },
            Err(MetadataError::Unavailable { reason }) if began.elapsed() < PATIENCE => {
                tracing::info!(target: "breakwater", reason, "a part of the restore is sent again");
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}
