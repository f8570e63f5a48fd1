//! The fleet: its CA, and the newest revocation list.

use crate::key;
use crate::record::{load, save};
use crate::table::{Space, TableError, TableRead, TableWrite};
use bytes::Bytes;
use spine::wire::root::FleetRecord;
use spine::wire::{Refusal, Reply};

pub fn create(table: &mut dyn TableWrite, record: &FleetRecord) -> Result<Reply, TableError> {
    match get(table)? {
        Some(known) if known.id == record.id => Ok(Reply::Done),
        Some(_) => Ok(Reply::Refused(Refusal::FleetExists)),
        None => {
            save(table, Space::Root, key::ROOT_FLEET, record)?;
            Ok(Reply::Done)
        }
    }
}

/// Takes the list after the known one: two gateways that make the same version at once do not both win.
pub fn revoke(table: &mut dyn TableWrite, version: u64, list: &Bytes) -> Result<Reply, TableError> {
    let Some(mut record) = get(table)? else { return Ok(Reply::Refused(Refusal::NoFleet)) };
    if record.revocations_version.checked_add(1) != Some(version) {
        return Ok(Reply::Refused(Refusal::OldRevocations));
    }
    record.revocations_version = version;
    record.revocations = list.clone();
    save(table, Space::Root, key::ROOT_FLEET, &record)?;
    Ok(Reply::Done)
}

/// Version of the next revocation list.
pub fn next_revocations(table: &dyn TableRead) -> Result<u64, TableError> {
    Ok(get(table)?.map_or(1, |record| record.revocations_version.saturating_add(1)))
}

/// After a restore: the next revocation list is of `version`; the known one stays as it is.
pub fn begin_revocations_from(table: &mut dyn TableWrite, version: u64) -> Result<(), TableError> {
    let Some(mut record) = get(table)? else { return Ok(()) };
    record.revocations_version = version.saturating_sub(1);
    save(table, Space::Root, key::ROOT_FLEET, &record)
}

pub fn get(table: &dyn TableRead) -> Result<Option<FleetRecord>, TableError> {
    load(table, Space::Root, key::ROOT_FLEET)
}
