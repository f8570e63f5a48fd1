//! Nodes that the fleet's CA has admitted, and what each may do.
//!
//! Invariants: a node is never forgotten; a retired one stays retired.

use super::{fleet, node};
use crate::key;
use crate::record::{decode, each, load, save};
use crate::table::{Space, TableError, TableRead, TableWrite};
use spine::id::{NodeId, UnixMs};
use spine::wire::root::{FleetNodeRecord, FleetNodeState, NodeRecord};
use spine::wire::{Refusal, Reply};
use std::ops::ControlFlow;

pub fn admit(table: &mut dyn TableWrite, new: &FleetNodeRecord) -> Result<Reply, TableError> {
    if fleet::get(table)?.is_none() {
        return Ok(Reply::Refused(Refusal::NoFleet));
    }
    let at = key::fleet_node(new.id);
    let record = match load::<FleetNodeRecord>(table, Space::Root, &at)? {
        Some(known) if known.state == FleetNodeState::Retired => return Ok(Reply::Refused(Refusal::NodeRetired)),
        Some(known) => FleetNodeRecord { state: known.state, admitted: known.admitted, ..new.clone() },
        None => new.clone(),
    };
    save(table, Space::Root, &at, &record)?;
    // The nodes that ever held shards are listed in one place, in a fleet and without one.
    node::note(table, &NodeRecord { id: new.id, machine: new.machine.clone(), zone: new.zone.clone(), first_seen: new.changed })
}

pub fn set_state(table: &mut dyn TableWrite, node: NodeId, state: &FleetNodeState, now: UnixMs) -> Result<Reply, TableError> {
    let at = key::fleet_node(node);
    let Some(mut record) = load::<FleetNodeRecord>(table, Space::Root, &at)? else {
        return Ok(Reply::Refused(Refusal::NoSuchNode));
    };
    if record.state == *state {
        return Ok(Reply::Done);
    }
    if record.state == FleetNodeState::Retired {
        return Ok(Reply::Refused(Refusal::NodeRetired));
    }
    record.state = state.clone();
    record.changed = now;
    save(table, Space::Root, &at, &record)?;
    Ok(Reply::Done)
}

/// All of them, by id.
pub fn all(table: &dyn TableRead) -> Result<Vec<FleetNodeRecord>, TableError> {
    let mut out = Vec::new();
    each(table, Space::Root, &[key::ROOT_FLEET_NODE], &[], |key, value| {
        out.push(decode(Space::Root, key, value)?);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(out)
}
