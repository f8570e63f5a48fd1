//! Rows of a copy put into metadata that is empty: what is lost comes back through the log, to every replica alike.
//!
//! ```text
//! Meta "restore" -> Standing      nothing | Expected -> UnderWay { next } -> Done
//! ```
//! From `Expected` or `UnderWay` until `Done` nobody is answered from what is there and nothing else is applied, but for what a cluster notes
//! of itself when it is founded. `restore/row.rs` says where a row goes, `restore/mend.rs` makes copies of different moments agree.
//! Invariants: nothing is restored over anything; what is served afterwards was counted and summed in the tables; versions go on above the
//! copy's; ids and numbers go on above all that can have been given since, also by a life that came out of a copy of the same one and was
//! lost again, unless this restore's clock is behind that one's (group ids: by up to [`GROUPS_SINCE`] since); the collection is held, and chunks are doubted until it is released.
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
use spine::id::{BucketId, Epoch, GroupId, MoveId, Seq, UnixMs};
use spine::limit::GROUPS_EVER;
use spine::wire::copy::{BEGINNING, RestoreCommand, Sum, is_counted};
use spine::wire::root::RootCommand;
use spine::wire::{Command, Refusal, Reply};

const STANDING: &[u8] = b"restore";
/// Key in Meta of the era that the last restore began: the minutes from the beginning of 2026 to it, or one more than the era before.
const ERA: &[u8] = b"restored";
const MINUTE_MS: u64 = 60_000;
/// Bits of a number within its era, of which there are 2^24: buckets, moves, proposals of a log, changes of the map, revocation lists. Twelve days of a million
/// a second, where the clock has stood still.
const BITS: u32 = 40;
/// The same of generations and tags: they stay below what is believed of a node's shards ([`spine::limit::FOUND_NUMBERS`]).
const CHUNK_BITS: u32 = 39;
/// Groups that can have been made since the copy. They are few for good ([`GROUPS_EVER`]), and have no era.
const GROUPS_SINCE: u32 = 1_024;
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
        (RestoreCommand::End { stream, next, counted, sum, now }, Some(Standing::UnderWay { stream: known, .. })) if *stream == known => {
            let Some(above) = Above::of(table, *now)? else { return refuse(Refusal::Exhausted) };
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
    era: u64,
    requests: u64,
    chunks: u64,
    epoch: Epoch,
    moves: MoveId,
    groups: GroupId,
    revocations: u64,
    /// From where on ids of buckets are lost, and the era that they go on in.
    buckets: (BucketId, BucketId),
}

impl Above {
    /// `None`: there are none left.
    fn of(table: &dyn TableRead, now: UnixMs) -> Result<Option<Above>, TableError> {
        let before = load(table, Space::Meta, ERA)?.unwrap_or(0u64);
        let era = before.saturating_add(1).max(now.0.saturating_sub(BEGINNING.0) / MINUTE_MS);
        let begins = |next: u64, bits: u32| begins(next, before, era, bits);
        let lost = root::bucket::next(table)?;
        let (requests, chunks) = (begins(0, BITS), begins(chunk_index::given(table)?, CHUNK_BITS));
        let (epoch, moves) = (begins(root::map::get(table)?.epoch().0, BITS), begins(root::moves::next(table)?.0, BITS));
        let most = u32::try_from(GROUPS_EVER).unwrap_or(u32::MAX);
        let next_group = root::map::next_group(table)?.0;
        let groups = GroupId(next_group.saturating_add(GROUPS_SINCE).min(most.max(next_group)));
        let (bucket, revocations) = (begins(lost.0, BITS), begins(root::fleet::next_revocations(table)?, BITS));
        let (Some(requests), Some(chunks), Some(epoch), Some(moves), Some(bucket), Some(revocations)) =
            (requests, chunks, epoch, moves, bucket, revocations)
        else {
            return Ok(None);
        };
        let (epoch, moves, buckets) = (Epoch(epoch), MoveId(moves), (lost, BucketId(bucket)));
        Ok(Some(Above { era, requests, chunks, epoch, moves, groups, revocations, buckets }))
    }

    fn go_on(&self, table: &mut dyn TableWrite) -> Result<(), TableError> {
        save(table, Space::Meta, ERA, &self.era)?;
        requests::begin_anew(table, self.requests)?;
        root::map::begin_anew(table, self.epoch)?;
        root::map::begin_groups_from(table, self.groups)?;
        root::moves::begin_from(table, self.moves)?;
        root::fleet::begin_revocations_from(table, self.revocations)?;
        closed::lose(table, self.buckets.0)?;
        let first = closed::begin_era(table, self.buckets.1)?;
        root::bucket::begin_from(table, first)?;
        chunk_index::go_on_above(table, self.chunks)
    }
}

/// Where numbers of the era begin; where the copy's are beyond that (what was found on nodes may have moved them there), as many eras above
/// those as have passed.
///
/// - `next`: the copy's next number, of era `before`.
fn begins(next: u64, before: u64, era: u64, bits: u32) -> Option<u64> {
    let span = |eras: u64| eras.checked_mul(1 << bits);
    let first = span(era)?;
    if next < first { Some(first) } else { next.checked_add(span(era.checked_sub(before)?)?) }
}

#[cfg(test)]
mod tests;
