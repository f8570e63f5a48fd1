//! Rows of a copy put into metadata that is empty: what is lost comes back through the log, to every replica alike.
//!
//! ```text
//! Meta "restore" -> Standing      nothing | Expected -> UnderWay { next } -> Done
//! ```
//! From `Expected` or `UnderWay` until `Done` nobody is answered from what is there and nothing else is applied, but for what a cluster notes
//! of itself when it is founded. `restore/row.rs` says where a row goes, `restore/mend.rs` makes copies of different moments agree.
//! Invariants: nothing is restored over anything; what is served afterwards was counted and summed in the tables; versions go on above the
//! copy's, generations and tags above all that can have been given since; the collection is held.
//! Not here: where rows come from (the gateway's `snapshot`).

mod mend;
mod row;

pub use row::{are_rows, is_left_out};

use crate::namespace::closed;
use crate::range::{Ranges, holding};
use crate::record::{load, save};
use crate::table::{Space, TableError, TableRead, TableWrite};
use crate::{chunk_index, key, requests, root};
use serde::{Deserialize, Serialize};
use spine::id::{BucketId, Epoch, Seq};
use spine::wire::copy::{RestoreCommand, Sum, is_counted};
use spine::wire::root::RootCommand;
use spine::wire::{Command, Refusal, Reply};

const STANDING: &[u8] = b"restore";
/// Key in Meta of how often what is here came out of a copy.
const RESTORES: &[u8] = b"restored";
/// How far above the copy's generations, tags and map new ones begin, and how many proposals a log has at most: twelve days of a
/// million a second.
const MARGIN: u64 = 1 << 40;
/// Kinds of Root's rows without which there is nothing to lose: what a cluster notes when it is founded.
const FOUNDED: [u8; 3] = [key::ROOT_FLEET[0], key::ROOT_METADATA_NODE, key::ROOT_LEASE[0]];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Standing {
    Expected,
    UnderWay { stream: [u8; 16], next: u32 },
    Done { stream: [u8; 16] },
}

/// Whether there is a restore that is not at its end.
pub fn is_under_way(table: &dyn TableRead) -> Result<bool, TableError> {
    Ok(load(table, Space::Meta, STANDING)?.is_some_and(|standing: Standing| !matches!(standing, Standing::Done { .. })))
}

/// Whether a command is applied while a restore is under way.
pub fn admits(command: &Command) -> bool {
    matches!(
        command,
        Command::Restore(_)
            | Command::Root(RootCommand::CreateFleet(_) | RootCommand::AdmitMetadataNode(_) | RootCommand::RemoveMetadataNode { .. })
    )
}

/// Applies one step at position `at` of the group's log; a refusal changed nothing.
///
/// # Errors
/// The table's.
pub fn apply(table: &mut dyn TableWrite, ranges: &mut Ranges, command: &RestoreCommand, at: Seq) -> Result<Reply, TableError> {
    let standing: Option<Standing> = load(table, Space::Meta, STANDING)?;
    let refuse = |refusal| Ok(Reply::Refused(refusal));
    let new = match (command, standing) {
        (RestoreCommand::Expect, Some(Standing::Expected | Standing::UnderWay { .. })) => return Ok(Reply::Done),
        (RestoreCommand::Expect, _) if is_empty(table, ranges)? => Standing::Expected,
        (RestoreCommand::Expect, _) => return refuse(Refusal::NotEmpty),
        (RestoreCommand::Begin { stream }, Some(Standing::UnderWay { stream: known, .. })) if *stream == known => return Ok(Reply::Done),
        (RestoreCommand::Begin { stream }, _) if is_empty(table, ranges)? => Standing::UnderWay { stream: *stream, next: 0 },
        (RestoreCommand::Begin { .. }, _) => return refuse(Refusal::NotEmpty),
        (RestoreCommand::Rows { stream, number, rows }, Some(Standing::UnderWay { stream: known, next })) if *stream == known => {
            match number.cmp(&next) {
                std::cmp::Ordering::Less => return Ok(Reply::Done),
                std::cmp::Ordering::Greater => return refuse(Refusal::NotRestored),
                std::cmp::Ordering::Equal => rows.iter().try_for_each(|row| row::put(table, row))?,
            }
            Standing::UnderWay { stream: known, next: next.saturating_add(1) }
        }
        (RestoreCommand::End { stream, next, counted, sum }, Some(Standing::UnderWay { stream: known, .. })) if *stream == known => {
            let Some(above) = Above::of(table)? else { return refuse(Refusal::Exhausted) };
            if !is_whole(table, *counted, *sum)? {
                return refuse(Refusal::NotRestored);
            }
            mend::all(table, at)?;
            above.go_on(table)?;
            // Whatever comes after this entry has a greater position.
            ranges.base = ranges.base.max(next.0.saturating_sub(at.0));
            ranges.save(table)?;
            Standing::Done { stream: known }
        }
        (RestoreCommand::End { stream, .. }, Some(Standing::Done { stream: known })) if *stream == known => return Ok(Reply::Done),
        (RestoreCommand::Rows { .. } | RestoreCommand::End { .. }, _) => return refuse(Refusal::NotRestored),
    };
    save(table, Space::Meta, STANDING, &new)?;
    Ok(Reply::Done)
}

/// Whether there is nothing that a restore could overrule, and this group has everything: it is the first of its cluster, and the only one.
fn is_empty(table: &dyn TableRead, ranges: &Ranges) -> Result<bool, TableError> {
    if !holding::is_whole(&ranges.names) || !holding::is_whole(&ranges.chunks) {
        return Ok(false);
    }
    for space in Space::ALL {
        let mut scan = table.scan(space, &[])?;
        match space {
            // Counters stand at what was given; there are none before anything was.
            Space::Meta => {}
            Space::Root => {
                while let Some((key, _)) = scan.next()? {
                    if !key.first().is_some_and(|kind| FOUNDED.contains(kind)) {
                        return Ok(false);
                    }
                }
            }
            _ if scan.next()?.is_some() => return Ok(false),
            _ => {}
        }
    }
    Ok(true)
}

/// Reads all that counts again. Blocks for as long as that takes: it is done once, before anybody is served.
fn is_whole(table: &dyn TableRead, rows: u64, digest: [u8; 32]) -> Result<bool, TableError> {
    let mut sum = Sum::default();
    for space in Space::ALL {
        let mut scan = table.scan(space, &[])?;
        while let Some((key, value)) = scan.next()? {
            if is_counted(space as u8, key) {
                sum.count(space as u8, key, value);
            }
        }
    }
    Ok((sum.rows(), sum.digest()) == (rows, digest))
}

/// Numbers above all that were given, also after the copy was made.
struct Above {
    restores: u64,
    requests: u64,
    chunks: u64,
    epoch: Epoch,
    /// From where on ids of buckets are lost, and where they go on.
    buckets: (BucketId, BucketId),
}

impl Above {
    /// `None`: there are none left.
    fn of(table: &dyn TableRead) -> Result<Option<Above>, TableError> {
        let restores = load(table, Space::Meta, RESTORES)?.unwrap_or(0u64).saturating_add(1);
        let requests = restores.checked_mul(MARGIN);
        let chunks = chunk_index::given(table)?.checked_add(MARGIN);
        let epoch = root::map::get(table)?.epoch().0.checked_add(MARGIN).map(Epoch);
        let lost = root::bucket::next(table)?;
        let buckets = closed::next_era(lost).map(|next| (lost, next));
        let (Some(requests), Some(chunks), Some(epoch), Some(buckets)) = (requests, chunks, epoch, buckets) else { return Ok(None) };
        Ok(Some(Above { restores, requests, chunks, epoch, buckets }))
    }

    fn go_on(&self, table: &mut dyn TableWrite) -> Result<(), TableError> {
        save(table, Space::Meta, RESTORES, &self.restores)?;
        requests::begin_anew(table, self.requests)?;
        root::map::begin_anew(table, self.epoch)?;
        closed::lose(table, self.buckets.0)?;
        root::bucket::begin_from(table, self.buckets.1)?;
        chunk_index::go_on_above(table, self.chunks)
    }
}

#[cfg(test)]
mod tests;
