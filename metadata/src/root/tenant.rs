//! Tenants: by id, and which id a name has.

use crate::key;
use crate::record::{decode, each, load, save};
use crate::table::{Space, TableError, TableRead, TableWrite};
use spine::id::TenantId;
use spine::wire::root::TenantRecord;
use spine::wire::{Refusal, Reply};
use std::ops::ControlFlow;

pub fn create(table: &mut dyn TableWrite, record: &TenantRecord) -> Result<Reply, TableError> {
    let name = key::named(key::ROOT_TENANT_NAME, &record.name);
    let id = key::tenant(record.id);
    if table.get(Space::Root, &name)?.is_some() || table.get(Space::Root, &id)?.is_some() {
        return Ok(Reply::Refused(Refusal::TenantExists));
    }
    save(table, Space::Root, &id, record)?;
    save(table, Space::Root, &name, &record.id)?;
    Ok(Reply::Done)
}

pub fn revoke(table: &mut dyn TableWrite, name: &str) -> Result<Reply, TableError> {
    let Some(mut record) = by_name(table, name)? else {
        return Ok(Reply::Refused(Refusal::NoSuchTenant));
    };
    if !record.revoked {
        record.revoked = true;
        save(table, Space::Root, &key::tenant(record.id), &record)?;
    }
    Ok(Reply::Done)
}

pub fn get(table: &dyn TableRead, tenant: TenantId) -> Result<Option<TenantRecord>, TableError> {
    load(table, Space::Root, &key::tenant(tenant))
}

pub fn by_name(table: &dyn TableRead, name: &str) -> Result<Option<TenantRecord>, TableError> {
    match load(table, Space::Root, &key::named(key::ROOT_TENANT_NAME, name))? {
        Some(id) => get(table, id),
        None => Ok(None),
    }
}

/// All of them, by id.
pub fn all(table: &dyn TableRead) -> Result<Vec<TenantRecord>, TableError> {
    let mut out = Vec::new();
    each(table, Space::Root, &[key::ROOT_TENANT], &[], |key, value| {
        out.push(decode(Space::Root, key, value)?);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(out)
}
