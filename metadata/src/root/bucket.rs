//! Buckets: names are global, ids are for life, and a tenant's own are listed from an index of their own.

use crate::key;
use crate::record::{any, broken, each, load, save};
use crate::table::{Space, TableError, TableRead, TableWrite};
use spine::id::{BucketId, TenantId};
use spine::limit::BUCKETS_PER_TENANT;
use spine::wire::root::BucketRecord;
use spine::wire::{Refusal, Reply};
use std::ops::ControlFlow;

pub fn create(table: &mut dyn TableWrite, wanted: &BucketRecord) -> Result<Reply, TableError> {
    if let Some(known) = get(table, &wanted.name)? {
        let mine = known.tenant == wanted.tenant;
        return Ok(Reply::Refused(if mine { Refusal::BucketOwnedByYou } else { Refusal::BucketExists }));
    }
    if names_of_tenant(table, wanted.tenant)?.len() >= BUCKETS_PER_TENANT {
        return Ok(Reply::Refused(Refusal::TooManyBuckets));
    }
    let id = load(table, Space::Root, key::ROOT_COUNTER)?.unwrap_or(1u64);
    save(table, Space::Root, key::ROOT_COUNTER, &(id + 1))?;
    let record = BucketRecord { id: BucketId(id), ..wanted.clone() };
    save(table, Space::Root, &key::named(key::ROOT_BUCKET, &record.name), &record)?;
    table.put(Space::Root, &key::bucket_id(record.id), &[])?;
    table.put(Space::Root, &key::owned(record.tenant, &record.name), &[])?;
    Ok(Reply::Bucket(record))
}

pub fn delete(table: &mut dyn TableWrite, name: &str, tenant: TenantId) -> Result<Reply, TableError> {
    let Some(record) = get(table, name)? else {
        return Ok(Reply::Refused(Refusal::NoSuchBucket));
    };
    if record.tenant != tenant {
        return Ok(Reply::Refused(Refusal::NotYours));
    }
    let inside = key::bucket(record.id);
    if any(table, Space::Objects, &inside)? || any(table, Space::Uploads, &inside)? {
        return Ok(Reply::Refused(Refusal::BucketNotEmpty));
    }
    table.delete(Space::Root, &key::named(key::ROOT_BUCKET, name))?;
    table.delete(Space::Root, &key::bucket_id(record.id))?;
    table.delete(Space::Root, &key::owned(tenant, name))?;
    Ok(Reply::Done)
}

/// Whether a bucket of this id exists.
pub fn exists(table: &dyn TableRead, bucket: BucketId) -> Result<bool, TableError> {
    Ok(table.get(Space::Root, &key::bucket_id(bucket))?.is_some())
}

pub fn get(table: &dyn TableRead, name: &str) -> Result<Option<BucketRecord>, TableError> {
    load(table, Space::Root, &key::named(key::ROOT_BUCKET, name))
}

/// A tenant's buckets in byte order of their names.
pub fn of_tenant(table: &dyn TableRead, tenant: TenantId) -> Result<Vec<BucketRecord>, TableError> {
    let mut out = Vec::new();
    for name in names_of_tenant(table, tenant)? {
        let at = key::named(key::ROOT_BUCKET, &name);
        out.push(load(table, Space::Root, &at)?.ok_or_else(|| broken(Space::Root, &at))?);
    }
    Ok(out)
}

fn names_of_tenant(table: &dyn TableRead, tenant: TenantId) -> Result<Vec<String>, TableError> {
    let prefix = key::owned(tenant, "");
    let mut out = Vec::new();
    each(table, Space::Root, &prefix, &[], |key, _| {
        let name = std::str::from_utf8(&key[prefix.len()..]).map_err(|_| broken(Space::Root, key))?;
        out.push(name.to_owned());
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(out)
}
