//! Leaderships and replicas that go from one server to another: what is under way, what was, and why.
//!
//! Written before anything is done, so that whoever leads the root next knows what rests for a while, and finishes what is half done.
//! Invariant: of one group one is under way at a time. Not here: doing it (`balancing/`), who leads a group in truth (its own members).

use super::moves::next_id;
use crate::key;
use crate::record::{decode, each, load, save};
use crate::table::{Space, TableError, TableRead, TableWrite};
use spine::id::{GroupId, MoveId, UnixMs};
use spine::limit::{SHIFTS, SHIFTS_KEPT};
use spine::wire::cluster::Member;
use spine::wire::root::{ShiftKind, ShiftRecord};
use spine::wire::{Refusal, Reply};
use std::ops::ControlFlow;

/// What is to go where.
pub struct Shift<'a> {
    pub kind: ShiftKind,
    pub group: GroupId,
    pub from: &'a Member,
    pub to: &'a Member,
    pub reason: &'a str,
}

pub fn begin(table: &mut dyn TableWrite, shift: Shift<'_>, now: UnixMs) -> Result<Reply, TableError> {
    let (over, under_way): (Vec<ShiftRecord>, Vec<ShiftRecord>) = all(table)?.into_iter().partition(|known| known.ended.is_some());
    if under_way.iter().any(|known| known.group == shift.group) {
        return Ok(Reply::Refused(Refusal::GroupMoves));
    }
    if under_way.len() >= SHIFTS {
        return Ok(Reply::Refused(Refusal::TooManyMoves));
    }
    let id = next_id(table)?;
    let Shift { kind, group, from, to, reason } = shift;
    let (from, to, reason) = (from.clone(), to.clone(), reason.to_owned());
    let record = ShiftRecord { id, kind, group, from, to, reason, begun: now, ended: None, done: false };
    save(table, Space::Root, &key::shift(id), &record)?;
    for old in over.iter().take((over.len() + 1).saturating_sub(SHIFTS_KEPT)) {
        table.delete(Space::Root, &key::shift(old.id))?;
    }
    Ok(Reply::Moving(id))
}

pub fn end(table: &mut dyn TableWrite, id: MoveId, done: bool, now: UnixMs) -> Result<Reply, TableError> {
    let at = key::shift(id);
    match load::<ShiftRecord>(table, Space::Root, &at)? {
        None => return Ok(Reply::Refused(Refusal::NoSuchMove)),
        Some(record) if record.ended.is_none() => save(table, Space::Root, &at, &ShiftRecord { ended: Some(now), done, ..record })?,
        Some(_) => {}
    }
    Ok(Reply::Done)
}

/// All that are known, by id.
pub fn all(table: &dyn TableRead) -> Result<Vec<ShiftRecord>, TableError> {
    let mut out = Vec::new();
    each(table, Space::Root, &[key::ROOT_SHIFT], &[], |at, value| {
        out.push(decode(Space::Root, at, value)?);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(out)
}
