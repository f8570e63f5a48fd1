//! Metadata nodes that the fleet's CA has admitted.
//!
//! Invariants: a node is never forgotten; a removed one stays removed; one that is to leave stays so until it is removed, and never is the
//! last that stays. Not here: who votes (the groups' memberships), taking nodes into groups and out of them (`replicas.rs`).

use super::fleet;
use crate::key;
use crate::record::{decode, each, load, save};
use crate::table::{Space, TableError, TableRead, TableWrite};
use spine::id::{NodeId, UnixMs};
use spine::wire::root::MetadataNodeRecord;
use spine::wire::{Refusal, Reply};
use std::ops::ControlFlow;

pub fn admit(table: &mut dyn TableWrite, new: &MetadataNodeRecord) -> Result<Reply, TableError> {
    if fleet::get(table)?.is_none() {
        return Ok(Reply::Refused(Refusal::NoFleet));
    }
    let at = key::metadata_node(new.id);
    let record = match load::<MetadataNodeRecord>(table, Space::Root, &at)? {
        Some(known) if known.removed => return Ok(Reply::Refused(Refusal::NodeRetired)),
        Some(known) => MetadataNodeRecord { admitted: known.admitted, removed: false, ..new.clone() },
        None => MetadataNodeRecord { removed: false, ..new.clone() },
    };
    save(table, Space::Root, &at, &record)?;
    Ok(Reply::Done)
}

pub fn remove(table: &mut dyn TableWrite, node: NodeId, now: UnixMs) -> Result<Reply, TableError> {
    let at = key::metadata_node(node);
    let Some(record) = load::<MetadataNodeRecord>(table, Space::Root, &at)? else {
        return Ok(Reply::Refused(Refusal::NoSuchNode));
    };
    if !record.removed {
        save(table, Space::Root, &at, &MetadataNodeRecord { removed: true, changed: now, ..record })?;
    }
    table.delete(Space::Root, &key::leaving(node))?;
    Ok(Reply::Done)
}

pub fn leave(table: &mut dyn TableWrite, node: NodeId, now: UnixMs) -> Result<Reply, TableError> {
    let nodes = all(table)?;
    let leaving = leaving(table)?;
    match nodes.iter().find(|known| known.id == node) {
        None => return Ok(Reply::Refused(Refusal::NoSuchNode)),
        Some(known) if known.removed || leaving.contains(&node) => return Ok(Reply::Done),
        Some(_) => {}
    }
    if !nodes.iter().any(|other| other.id != node && !other.removed && !leaving.contains(&other.id)) {
        return Ok(Reply::Refused(Refusal::LastNode));
    }
    save(table, Space::Root, &key::leaving(node), &now)?;
    Ok(Reply::Done)
}

/// Those that are to leave, by id.
pub fn leaving(table: &dyn TableRead) -> Result<Vec<NodeId>, TableError> {
    let mut out = Vec::new();
    each(table, Space::Root, &[key::ROOT_LEAVING], &[], |at, _| {
        let id = at.get(1..).and_then(|id| id.try_into().ok());
        out.push(NodeId(id.ok_or_else(|| TableError::Decode { space: Space::Root, key: String::from_utf8_lossy(at).into_owned() })?));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(out)
}

/// All of them, by id.
pub fn all(table: &dyn TableRead) -> Result<Vec<MetadataNodeRecord>, TableError> {
    let mut out = Vec::new();
    each(table, Space::Root, &[key::ROOT_METADATA_NODE], &[], |key, value| {
        out.push(decode(Space::Root, key, value)?);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(out)
}
