//! The map of ranges to groups, and the records of groups.
//!
//! The map is where to look. Who owns a range is said by the groups' own tables, so that a map that is a moment behind misleads nobody.
//! Invariants: the map changes only by a step of a move; a group's id is given once.
//! Not here: how a map changes ([`spine::map`]), moves (`moves.rs`).

use super::moves;
use crate::key;
use crate::record::{decode, each, load, save};
use crate::table::{Space, TableError, TableRead, TableWrite};
use spine::id::{Epoch, GroupId, UnixMs};
use spine::limit::{GROUPS, GROUPS_EVER};
use spine::map::{Change, Map, MapError};
use spine::wire::cluster::Member;
use spine::wire::root::GroupRecord;
use spine::wire::{Refusal, Reply};
use std::ops::ControlFlow;

/// The group that every cluster begins with, and that has the map.
pub const ROOT: GroupId = GroupId(0);

pub fn get(table: &dyn TableRead) -> Result<Map, TableError> {
    Ok(load(table, Space::Root, key::ROOT_MAP)?.unwrap_or_else(|| Map::of_one(ROOT)))
}

/// The map, unless it is the known one.
pub fn newer(table: &dyn TableRead, known: Option<Epoch>) -> Result<Option<Map>, TableError> {
    Ok(Some(get(table)?).filter(|map| known != Some(map.epoch())))
}

/// Makes one change; `Err` inside: it cannot be, and nothing was written.
pub fn change(table: &mut dyn TableWrite, change: &Change) -> Result<Result<(), MapError>, TableError> {
    let mut map = get(table)?;
    let epoch = map.epoch();
    if let Err(error) = map.change(epoch, change) {
        return Ok(Err(error));
    }
    save(table, Space::Root, key::ROOT_MAP, &map)?;
    Ok(Ok(()))
}

/// After a restore: the root's group has everything, as of an epoch that no map had before.
pub fn begin_anew(table: &mut dyn TableWrite, epoch: Epoch) -> Result<(), TableError> {
    save(table, Space::Root, key::ROOT_MAP, &Map::of_one_as_of(ROOT, epoch))
}

/// The id of the next group.
pub fn next_group(table: &dyn TableRead) -> Result<GroupId, TableError> {
    Ok(GroupId(load(table, Space::Root, key::ROOT_GROUP_COUNTER)?.unwrap_or(ROOT.0 + 1)))
}

/// Has the next group be this one.
pub fn begin_groups_from(table: &mut dyn TableWrite, next: GroupId) -> Result<(), TableError> {
    save(table, Space::Root, key::ROOT_GROUP_COUNTER, &next.0)
}

/// A new group's id, its record written; `None`: there are as many as there may be.
pub fn new_group(table: &mut dyn TableWrite, members: &[Member], made: UnixMs) -> Result<Option<GroupId>, TableError> {
    let next = next_group(table)?.0;
    if usize::try_from(next).is_ok_and(|next| next >= GROUPS_EVER) {
        return Ok(None);
    }
    begin_groups_from(table, GroupId(next + 1))?;
    let record = GroupRecord { id: GroupId(next), members: members.to_vec(), made, ended: false };
    save(table, Space::Root, &key::group(record.id), &record)?;
    Ok(Some(record.id))
}

/// Notes that the group has ended, unless the map has it, or a move.
pub fn end_group(table: &mut dyn TableWrite, group: GroupId) -> Result<Reply, TableError> {
    let map = get(table)?;
    let used = group == ROOT || map.names().of_group(group).is_some() || map.chunks().of_group(group).is_some();
    if used || moves::has(table, group)? {
        return Ok(Reply::Refused(Refusal::GroupMoves));
    }
    note_ended(table, group)?;
    Ok(Reply::Done)
}

/// Notes that a group that nobody has a use for has ended.
pub fn note_ended(table: &mut dyn TableWrite, group: GroupId) -> Result<(), TableError> {
    let at = key::group(group);
    match load::<GroupRecord>(table, Space::Root, &at)? {
        Some(record) if !record.ended => save(table, Space::Root, &at, &GroupRecord { ended: true, ..record }),
        _ => Ok(()),
    }
}

/// Groups that have not ended, but the root's, by id: no more than ranges of the map, moves, and what is about to end.
pub fn groups(table: &dyn TableRead) -> Result<Vec<GroupRecord>, TableError> {
    let mut out = Vec::new();
    each(table, Space::Root, &[key::ROOT_GROUP], &[], |at, value| {
        let record: GroupRecord = decode(Space::Root, at, value)?;
        if !record.ended {
            out.push(record);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(out)
}

/// The records of these groups, of at most [`GROUPS`].
pub fn groups_of(table: &dyn TableRead, ids: &[GroupId]) -> Result<Vec<GroupRecord>, TableError> {
    let found = ids.iter().take(GROUPS).map(|id| load(table, Space::Root, &key::group(*id)));
    found.filter_map(Result::transpose).collect()
}
