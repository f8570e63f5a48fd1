//! Rows of a copy put into metadata that is empty: what is lost comes back through the log, to every replica alike.
//!
//! ```text
//! Meta "restore" -> Standing      nothing | Expected -> UnderWay { next } -> Done
//! ```
//! From `Expected` or `UnderWay` until `Done` nobody is answered from what is there and nothing else is applied, but for what a cluster notes
//! of itself when it is founded. Invariants: nothing is restored over anything; what is served afterwards was counted and hashed in the
//! tables; versions go on above the copy's, generations and tags above all that can have been given since; the collection is held.
//! Not here: where rows come from (the gateway's `snapshot`).

use crate::record::{broken, load, save};
use crate::table::{Space, TableError, TableRead, TableWrite};
use crate::{chunk_index, key, requests};
use serde::{Deserialize, Serialize};
use spine::wire::cluster::Row;
use spine::wire::copy::{CopyEnd, RestoreCommand, Tally, UNCOUNTED};
use spine::wire::root::RootCommand;
use spine::wire::{Command, Refusal, Reply};

const STANDING: &[u8] = b"restore";
/// Key in Meta of what versions' order has on top of the log's: a log that began anew gives numbers that were given already.
const SEQUENCE: &[u8] = b"sequence";
/// Key in Meta of how often what is here came out of a copy.
const RESTORES: &[u8] = b"restores";
/// What a replica's Meta has of its own.
const OWN: [&[u8]; 2] = [b"raft.", b"request"];
/// How far above the copy's generations and tags new ones begin, and how many proposals a log has at most: twelve days of a million a second.
const MARGIN: u64 = 1 << 40;
/// Kinds of Root's rows without which there is nothing to lose: what a cluster notes when it is founded.
const FOUNDED: [u8; 3] = [key::ROOT_FLEET[0], key::ROOT_METADATA_NODE, key::ROOT_LEASE[0]];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Standing {
    Expected,
    UnderWay { stream: [u8; 16], next: u32 },
    Done { stream: [u8; 16] },
}

/// Whether a row belongs to this replica or this log, and is in no copy.
pub fn is_own(space: Space, key: &[u8]) -> bool {
    space == Space::Meta && (key == STANDING || OWN.iter().any(|own| key.starts_with(own)))
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

/// What is added to the log's own numbers.
pub fn sequence(table: &dyn TableRead) -> Result<u64, TableError> {
    Ok(load(table, Space::Meta, SEQUENCE)?.unwrap_or(0))
}

/// Whether all rows have a place and may come from elsewhere.
pub fn are_rows(rows: &[Row]) -> bool {
    let fits = |row: &Row| {
        let space = Space::ALL.get(usize::from(row.space));
        space.is_some_and(|space| !is_own(*space, &row.key)) && !row.key.is_empty() && row.key.len() <= crate::lmdb::KEY_BYTES
    };
    rows.iter().all(fits)
}

/// - `bits`: of a version's number below the log's index.
///
/// # Errors
/// The table's.
pub fn apply(table: &mut dyn TableWrite, command: &RestoreCommand, bits: u32) -> Result<Reply, TableError> {
    let standing: Option<Standing> = load(table, Space::Meta, STANDING)?;
    let refuse = |refusal| Ok(Reply::Refused(refusal));
    let new = match (command, standing) {
        (RestoreCommand::Expect, Some(Standing::Expected | Standing::UnderWay { .. })) => return Ok(Reply::Done),
        (RestoreCommand::Expect, _) if is_empty(table)? => Standing::Expected,
        (RestoreCommand::Expect, _) => return refuse(Refusal::NotEmpty),
        (RestoreCommand::Begin { stream }, Some(Standing::UnderWay { stream: known, .. })) if *stream == known => return Ok(Reply::Done),
        (RestoreCommand::Begin { stream }, _) if is_empty(table)? => Standing::UnderWay { stream: *stream, next: 0 },
        (RestoreCommand::Begin { .. }, _) => return refuse(Refusal::NotEmpty),
        (RestoreCommand::Rows { stream, number, rows }, Some(Standing::UnderWay { stream: known, next })) if *stream == known => {
            match number.cmp(&next) {
                std::cmp::Ordering::Less => return Ok(Reply::Done),
                std::cmp::Ordering::Greater => return refuse(Refusal::NotRestored),
                std::cmp::Ordering::Equal => put(table, rows)?,
            }
            Standing::UnderWay { stream: known, next: next.saturating_add(1) }
        }
        (RestoreCommand::End { stream, copied, counted, digest }, Some(Standing::UnderWay { stream: known, .. })) if *stream == known => {
            if !is_whole(table, *counted, *digest)? || !go_on(table, copied, bits)? {
                return refuse(Refusal::NotRestored);
            }
            Standing::Done { stream: known }
        }
        (RestoreCommand::End { stream, .. }, Some(Standing::Done { stream: known })) if *stream == known => return Ok(Reply::Done),
        (RestoreCommand::Rows { .. } | RestoreCommand::End { .. }, _) => return refuse(Refusal::NotRestored),
    };
    save(table, Space::Meta, STANDING, &new)?;
    Ok(Reply::Done)
}

/// Whether there is nothing that a restore could overrule.
fn is_empty(table: &dyn TableRead) -> Result<bool, TableError> {
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

fn put(table: &mut dyn TableWrite, rows: &[Row]) -> Result<(), TableError> {
    for row in rows {
        // `machine::check` let it in.
        let space = *Space::ALL.get(usize::from(row.space)).ok_or_else(|| broken(Space::Meta, STANDING))?;
        // Who is a metadata node now, and with which certificate, the cluster that is there knows better; a lease is its holder's.
        let is_known = space == Space::Root
            && (row.key.starts_with(key::ROOT_LEASE)
                || (row.key.first() == Some(&key::ROOT_METADATA_NODE) && table.get(space, &row.key)?.is_some()));
        if !is_known {
            table.put(space, &row.key, &row.value)?;
        }
    }
    Ok(())
}

/// Reads all that counts again. Blocks for as long as that takes: it is done once, before anybody is served.
fn is_whole(table: &dyn TableRead, rows: u64, digest: [u8; 32]) -> Result<bool, TableError> {
    let mut tally = Tally::default();
    for space in Space::ALL.into_iter().filter(|space| !UNCOUNTED.contains(&(*space as u8))) {
        let mut scan = table.scan(space, &[])?;
        while let Some((key, value)) = scan.next()? {
            tally.count(space as u8, key, value);
        }
    }
    Ok((tally.rows(), tally.digest()) == (rows, digest))
}

/// Numbers begin above all that were given, also after the copy was made; `false` where there are none left.
fn go_on(table: &mut dyn TableWrite, copied: &CopyEnd, bits: u32) -> Result<bool, TableError> {
    let given = copied.applied.checked_add(1).and_then(|next| next.checked_mul(1 << bits));
    // What was restored of this is the base of the log that the copy is of.
    let base = sequence(table)?;
    let Some(base) = given.and_then(|given| base.checked_add(given)) else { return Ok(false) };
    save(table, Space::Meta, SEQUENCE, &base)?;
    let restores = load(table, Space::Meta, RESTORES)?.unwrap_or(0u64) + 1;
    save(table, Space::Meta, RESTORES, &restores)?;
    let Some(before) = restores.checked_mul(MARGIN) else { return Ok(false) };
    requests::begin_anew(table, before)?;
    chunk_index::go_on_above(table, MARGIN)?;
    Ok(true)
}

#[cfg(test)]
mod tests;
