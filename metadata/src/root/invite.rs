//! Invitations into the fleet, by the hash of their secret.
//!
//! A used or expired one is kept for a while, so that whoever comes with it hears what is wrong with it.

use super::fleet;
use crate::key;
use crate::record::{decode, each, load, save};
use crate::table::{Space, TableError, TableRead, TableWrite};
use spine::id::{InviteId, UnixMs};
use spine::wire::root::InviteRecord;
use spine::wire::{Refusal, Reply};
use std::ops::ControlFlow;

/// How long an invitation is remembered after its end.
const KEPT_MS: u64 = 30 * 86_400_000;

pub fn create(table: &mut dyn TableWrite, record: &InviteRecord) -> Result<Reply, TableError> {
    if fleet::get(table)?.is_none() {
        return Ok(Reply::Refused(Refusal::NoFleet));
    }
    if get(table, record.id)?.is_some() {
        return Ok(Reply::Refused(Refusal::InviteExists));
    }
    for old in ended_before(table, record.created.0.saturating_sub(KEPT_MS))? {
        table.delete(Space::Root, &key::invite(old))?;
    }
    save(table, Space::Root, &key::invite(record.id), record)?;
    Ok(Reply::Done)
}

/// Takes one use.
pub fn take(table: &mut dyn TableWrite, id: InviteId, now: UnixMs) -> Result<Reply, TableError> {
    let Some(mut record) = get(table, id)? else { return Ok(Reply::Refused(Refusal::NoSuchInvite)) };
    if now >= record.expires {
        return Ok(Reply::Refused(Refusal::InviteExpired));
    }
    let Some(left) = record.uses_left.checked_sub(1) else { return Ok(Reply::Refused(Refusal::InviteUsed)) };
    record.uses_left = left;
    save(table, Space::Root, &key::invite(id), &record)?;
    Ok(Reply::Done)
}

pub fn get(table: &dyn TableRead, id: InviteId) -> Result<Option<InviteRecord>, TableError> {
    load(table, Space::Root, &key::invite(id))
}

fn ended_before(table: &dyn TableRead, time: u64) -> Result<Vec<InviteId>, TableError> {
    let mut out = Vec::new();
    each(table, Space::Root, &[key::ROOT_INVITE], &[], |key, value| {
        let record: InviteRecord = decode(Space::Root, key, value)?;
        if record.expires.0 < time {
            out.push(record.id);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(out)
}
