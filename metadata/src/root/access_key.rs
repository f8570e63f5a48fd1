//! Access keys, by the name that S3 requests carry.

use super::tenant;
use crate::key;
use crate::record::{decode, each, load, save};
use crate::table::{Space, TableError, TableRead, TableWrite};
use spine::id::TenantId;
use spine::wire::root::KeyRecord;
use spine::wire::{Refusal, Reply};
use std::ops::ControlFlow;

pub fn create(table: &mut dyn TableWrite, record: &KeyRecord) -> Result<Reply, TableError> {
    let at = key::named(key::ROOT_KEY, &record.access_key);
    if table.get(Space::Root, &at)?.is_some() {
        return Ok(Reply::Refused(Refusal::KeyExists));
    }
    if tenant::get(table, record.tenant)?.is_none() {
        return Ok(Reply::Refused(Refusal::NoSuchTenant));
    }
    save(table, Space::Root, &at, record)?;
    Ok(Reply::Done)
}

pub fn revoke(table: &mut dyn TableWrite, access_key: &str) -> Result<Reply, TableError> {
    let Some(mut record) = get(table, access_key)? else {
        return Ok(Reply::Refused(Refusal::NoSuchKey));
    };
    if !record.revoked {
        record.revoked = true;
        save(table, Space::Root, &key::named(key::ROOT_KEY, access_key), &record)?;
    }
    Ok(Reply::Done)
}

pub fn replace(table: &mut dyn TableWrite, new: &KeyRecord) -> Result<Reply, TableError> {
    let known = get(table, &new.access_key)?.filter(|known| known.tenant == new.tenant);
    let Some(known) = known else {
        return Ok(Reply::Refused(Refusal::NoSuchKey));
    };
    let record = KeyRecord { secret: new.secret.clone(), revoked: false, ..known };
    save(table, Space::Root, &key::named(key::ROOT_KEY, &record.access_key), &record)?;
    Ok(Reply::Done)
}

pub fn get(table: &dyn TableRead, access_key: &str) -> Result<Option<KeyRecord>, TableError> {
    load(table, Space::Root, &key::named(key::ROOT_KEY, access_key))
}

/// Keys of one tenant, or of all, by name.
pub fn all(table: &dyn TableRead, tenant: Option<TenantId>) -> Result<Vec<KeyRecord>, TableError> {
    let mut out = Vec::new();
    each(table, Space::Root, &[key::ROOT_KEY], &[], |key, value| {
        let record: KeyRecord = decode(Space::Root, key, value)?;
        if tenant.is_none_or(|tenant| tenant == record.tenant) {
            out.push(record);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(out)
}
