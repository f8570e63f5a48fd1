//! Where one row of a copy goes. What several groups had lies in one table then.
//!
//! ```text
//! by name, version or chunk   as it is: of two groups one has it
//! outbox, rings of the ended  behind what is there, in the order of each group: positions are a group's own
//! root                        but for the lease, and the groups that are no more: of the map its epoch; metadata nodes that are there, know better
//! counters                    the greatest, or the sum; a bucket's closing: the latest
//! ```

use super::{ERA, STANDING};
use crate::chunk_index::holding;
use crate::chunk_index::ledger::{self, Ledger};
use crate::ended::Ended;
use crate::format;
use crate::key;
use crate::namespace::{closed, intent, outbox};
use crate::range;
use crate::record::{broken, decode, load, save};
use crate::root::map;
use crate::table::{Space, TableError, TableWrite};
use spine::id::{MoveId, VersionId};
use spine::map::Map;
use spine::wire::cluster::Row;

/// What a replica's Meta has of its own, and its log's.
const OWN: [&[u8]; 5] = [b"raft.", b"request", STANDING, range::RANGES, format::FORMAT];
/// Counters that follow from the rows that are given new positions.
const COUNTERS: [&[u8]; 3] = [outbox::COUNTER, intent::ENDED.counter, holding::ENDED.counter];

/// Whether a row belongs to this replica or this log, and is in no copy.
pub fn is_left_out(space: Space, key: &[u8]) -> bool {
    match space {
        Space::Changed => true,
        // "restored" is the era of the last restore, and not the standing of one.
        Space::Meta => key != ERA && OWN.iter().any(|own| key.starts_with(own)),
        _ => false,
    }
}

/// Whether all rows have a place and may come from elsewhere.
pub fn are_rows(rows: &[Row]) -> bool {
    rows.iter().all(is_row)
}

fn is_row(row: &Row) -> bool {
    let Some(&space) = Space::ALL.get(usize::from(row.space)) else { return false };
    let (key, value) = (&row.key[..], &row.value[..]);
    if is_left_out(space, key) || key.is_empty() || key.len() > crate::lmdb::KEY_BYTES {
        return false;
    }
    match (space, key[0]) {
        (Space::Outbox, _) => value.len() == VersionId::LEN,
        (Space::Intents, kind) if kind == key::INTENT_ENDED.0 => key.len() == 1 + VersionId::LEN,
        (Space::Intents, kind) if kind == key::INTENT_ENDED.1 => value.len() == VersionId::LEN,
        (Space::Due, kind) if kind == key::DUE_ENDED.1 => value.len() == VersionId::LEN,
        (Space::Root, _) if key == key::ROOT_COUNTER => decode::<u64>(space, key, value).is_ok(),
        (Space::Root, _) if key == key::ROOT_GROUP_COUNTER => decode::<u32>(space, key, value).is_ok(),
        (Space::Root, _) if key == key::ROOT_MOVE_COUNTER => decode::<MoveId>(space, key, value).is_ok(),
        (Space::Root, _) if key == key::ROOT_MAP => decode::<Map>(space, key, value).is_ok(),
        (Space::Meta, _) if key == ledger::COUNTER => decode::<Ledger>(space, key, value).is_ok(),
        (Space::Meta, _) if key == ERA => decode::<u64>(space, key, value).is_ok(),
        (Space::Meta, _) if key.starts_with(key::CLOSING) => decode::<closed::Closing>(space, key, value).is_ok(),
        _ => true,
    }
}

/// Puts one row, which [`are_rows`] has let in.
pub fn put(table: &mut dyn TableWrite, row: &Row) -> Result<(), TableError> {
    let (key, value) = (&row.key[..], &row.value[..]);
    let space = *Space::ALL.get(usize::from(row.space)).ok_or_else(|| broken(Space::Meta, key))?;
    let kind = key.first().copied();
    match space {
        Space::Root => put_root(table, key, value),
        Space::Meta => put_counter(table, key, value),
        Space::Outbox => outbox::append(table, version(space, key, value)?),
        Space::Intents if kind == Some(key::INTENT_ENDED.0) => match value {
            // Held until the outbox has let go of it; the others are in the ring.
            [] => intent::ENDED.hold(table, key::version_at_end(key).ok_or_else(|| broken(space, key))?),
            _ => Ok(()),
        },
        Space::Intents if kind == Some(key::INTENT_ENDED.1) => release(table, &intent::ENDED, key, value),
        Space::Due if kind == Some(key::DUE_ENDED.0) => Ok(()),
        Space::Due if kind == Some(key::DUE_ENDED.1) => release(table, &holding::ENDED, key, value),
        _ => table.put(space, key, value),
    }
}

fn version(space: Space, key: &[u8], value: &[u8]) -> Result<VersionId, TableError> {
    value.try_into().map(VersionId).map_err(|_| broken(space, key))
}

fn release(table: &mut dyn TableWrite, ended: &Ended, key: &[u8], value: &[u8]) -> Result<(), TableError> {
    ended.release(table, version(ended.space, key, value)?)
}

fn put_root(table: &mut dyn TableWrite, key: &[u8], value: &[u8]) -> Result<(), TableError> {
    if key == key::ROOT_MAP {
        return map::begin_anew(table, decode::<Map>(Space::Root, key, value)?.epoch());
    }
    let is_of_groups = matches!(key.first(), Some(&(key::ROOT_GROUP | key::ROOT_MOVE | key::ROOT_SHIFT | key::ROOT_LEAVING)));
    let is_known = key.first() == Some(&key::ROOT_METADATA_NODE) && table.get(Space::Root, key)?.is_some();
    if key == key::ROOT_LEASE || is_of_groups || is_known { Ok(()) } else { table.put(Space::Root, key, value) }
}

fn put_counter(table: &mut dyn TableWrite, key: &[u8], value: &[u8]) -> Result<(), TableError> {
    if COUNTERS.contains(&key) {
        return Ok(());
    }
    if key == ledger::COUNTER {
        return Ledger::load(table)?.joined(&decode(Space::Meta, key, value)?).save(table);
    }
    if key == ERA {
        let known = load(table, Space::Meta, key)?.unwrap_or(0u64);
        return save(table, Space::Meta, key, &known.max(decode(Space::Meta, key, value)?));
    }
    if key.starts_with(key::CLOSING) && !closed::is_later(table, key, value)? {
        return Ok(());
    }
    table.put(Space::Meta, key, value)
}
