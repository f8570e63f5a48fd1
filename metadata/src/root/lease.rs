//! Which gateway does what only one needs to do.
//!
//! A compare-and-set of a count: two that saw the same count do not both win. How long a count must stand still before somebody takes
//! over is the gateways' to measure; nothing here knows of time.

use crate::key;
use crate::record::{load, save};
use crate::table::{Space, TableError, TableRead, TableWrite};
use spine::id::WriterId;
use spine::wire::root::LeaseRecord;
use spine::wire::{Refusal, Reply};

pub fn take(table: &mut dyn TableWrite, holder: WriterId, seen: u64) -> Result<Reply, TableError> {
    let beat = get(table)?.map_or(0, |lease| lease.beat);
    match beat.checked_add(1) {
        Some(next) if beat == seen => {
            save(table, Space::Root, key::ROOT_LEASE, &LeaseRecord { holder, beat: next })?;
            Ok(Reply::Done)
        }
        _ => Ok(Reply::Refused(Refusal::LeaseTaken)),
    }
}

pub fn get(table: &dyn TableRead) -> Result<Option<LeaseRecord>, TableError> {
    load(table, Space::Root, key::ROOT_LEASE)
}
