//! The root group's machine: tenants, access keys, buckets, storage nodes, the fleet, metadata nodes, the lease of gateways,
//! the operator's word about levelling out, the map of ranges to groups and its moves, and which leaderships and replicas went where.
//!
//! One file a noun. Invariants: names of tenants, access keys and buckets are unique; a bucket id is never given twice;
//! a bucket is in the name table and its owner's list, or in
//! neither.
//! Not here: who may ask (the gateway), what lies in a bucket (`namespace/`).

mod access_key;
pub mod bucket;
pub mod fleet;
mod fleet_node;
mod invite;
mod lease;
pub mod map;
mod metadata_node;
pub mod moves;
mod node;
mod rebalance;
mod shifts;
mod tenant;
#[cfg(test)]
mod tests;

use crate::format;
use crate::table::{TableError, TableRead, TableWrite};
use spine::wire::Reply;
use spine::wire::root::{RootAnswer, RootCommand, RootQuery};

/// Applies one command; a refusal changed nothing.
pub fn apply(table: &mut dyn TableWrite, command: &RootCommand) -> Result<Reply, TableError> {
    match command {
        RootCommand::CreateTenant(record) => tenant::create(table, record),
        RootCommand::RevokeTenant { name } => tenant::revoke(table, name),
        RootCommand::CreateKey(record) => access_key::create(table, record),
        RootCommand::RevokeKey { access_key } => access_key::revoke(table, access_key),
        RootCommand::ReplaceKey(record) => access_key::replace(table, record),
        RootCommand::CreateBucket(record) => bucket::create(table, record),
        RootCommand::DeleteBucket { name, tenant } => bucket::delete(table, name, *tenant),
        RootCommand::NoteNode(record) => node::note(table, record),
        RootCommand::CreateFleet(record) => fleet::create(table, record),
        RootCommand::Revoke { version, list } => fleet::revoke(table, *version, list),
        RootCommand::AdmitNode(record) => fleet_node::admit(table, record),
        RootCommand::SetNodeState { node, state, now } => fleet_node::set_state(table, *node, state, *now),
        RootCommand::CreateInvite(record) => invite::create(table, record),
        RootCommand::UseInvite { id, now } => invite::take(table, *id, *now),
        RootCommand::AdmitMetadataNode(record) => metadata_node::admit(table, record),
        RootCommand::RemoveMetadataNode { node, now } => metadata_node::remove(table, *node, *now),
        RootCommand::TakeLease { holder, seen } => lease::take(table, *holder, *seen),
        RootCommand::StopRebalance { stopped } => rebalance::stop(table, *stopped),
        RootCommand::EndDelete { name, round, gone } => bucket::end_delete(table, name, *round, *gone),
        RootCommand::BeginMove { ask, expected, reason, now } => moves::begin(table, ask, *expected, reason, *now),
        RootCommand::TakeMove { id } => moves::take(table, *id),
        RootCommand::StepMove { id, attempt, step, now } => moves::step(table, *id, *attempt, *step, *now),
        RootCommand::GiveUpMove { id } => moves::give_up(table, *id),
        RootCommand::EndGroup { group } => map::end_group(table, *group),
        RootCommand::LeaveMetadataNode { node, now } => metadata_node::leave(table, *node, *now),
        RootCommand::BeginShift { kind, group, from, to, reason, now } => {
            let shift = shifts::Shift { kind: *kind, group: *group, from, to, reason };
            shifts::begin(table, shift, *now)
        }
        RootCommand::EndShift { id, done, now } => shifts::end(table, *id, *done, *now),
    }
}

/// Answers one query.
pub fn answer(table: &dyn TableRead, query: &RootQuery) -> Result<RootAnswer, TableError> {
    Ok(match query {
        RootQuery::Tenants => RootAnswer::Tenants(tenant::all(table)?),
        RootQuery::Tenant(id) => RootAnswer::Tenant(tenant::get(table, *id)?),
        RootQuery::TenantByName(name) => RootAnswer::Tenant(tenant::by_name(table, name)?),
        RootQuery::Keys(tenant) => RootAnswer::Keys(access_key::all(table, *tenant)?),
        RootQuery::Key(access_key) => RootAnswer::Key(access_key::get(table, access_key)?),
        RootQuery::Bucket(name) => RootAnswer::Bucket(bucket::get(table, name)?),
        RootQuery::Buckets(tenant) => RootAnswer::Buckets(bucket::of_tenant(table, *tenant)?),
        RootQuery::Nodes => RootAnswer::Nodes(node::all(table)?),
        RootQuery::Fleet => RootAnswer::Fleet(fleet::get(table)?),
        RootQuery::FleetNodes => RootAnswer::FleetNodes(fleet_node::all(table)?),
        RootQuery::Invite(id) => RootAnswer::Invite(invite::get(table, *id)?),
        RootQuery::MetadataNodes => RootAnswer::MetadataNodes(metadata_node::all(table)?),
        RootQuery::Lease => RootAnswer::Lease(lease::get(table)?),
        RootQuery::RebalanceStopped => RootAnswer::RebalanceStopped(rebalance::is_stopped(table)?),
        RootQuery::Deleting => RootAnswer::Deleting(bucket::deleting(table)?),
        RootQuery::Map { known } => RootAnswer::Map(map::newer(table, *known)?),
        RootQuery::Groups => RootAnswer::Groups(map::groups(table)?),
        RootQuery::Moves => RootAnswer::Moves(moves::all(table)?),
        RootQuery::LeavingMetadataNodes => RootAnswer::LeavingMetadataNodes(metadata_node::leaving(table)?),
        RootQuery::GroupsOf(ids) => RootAnswer::Groups(map::groups_of(table, ids)?),
        RootQuery::Shifts => RootAnswer::Shifts(shifts::all(table)?),
        RootQuery::Format => RootAnswer::Format(format::of(table)?),
    })
}
