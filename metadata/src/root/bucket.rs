//! Buckets: names are global, ids are for life, and a tenant's own are listed from an index of their own.
//!
//! ```text
//!           delete, and all names are in this group                       -> gone
//! there ----------------------------------------------
//!           delete ->  marked, round n  -- end_delete(gone) -------------> gone
//!           <-- end_delete(not gone) --/     (delete again: round n + 1)
//! ```
//! A marked bucket is not found and its name stays taken, until whoever has gone through the groups says what came of it.

use crate::key;
use crate::namespace::closed;
use crate::range::{Ranges, holding};
use crate::record::{any, broken, decode, each, load, save};
use crate::table::{Space, TableError, TableRead, TableWrite};
use spine::id::{BucketId, GroupId, TenantId};
use spine::limit::BUCKETS_PER_TENANT;
use spine::wire::range::BucketStep;
use spine::wire::root::BucketRecord;
use spine::wire::{Refusal, Reply};
use std::ops::ControlFlow;

/// The group whose machine this is.
const ROOT: GroupId = GroupId(0);

pub fn create(table: &mut dyn TableWrite, wanted: &BucketRecord) -> Result<Reply, TableError> {
    if let Some(known) = get(table, &wanted.name)? {
        let mine = known.tenant == wanted.tenant;
        return Ok(Reply::Refused(if mine { Refusal::BucketOwnedByYou } else { Refusal::BucketExists }));
    }
    if let Some((known, _)) = marked(table, &wanted.name)? {
        let mine = known.tenant == wanted.tenant;
        return Ok(Reply::Refused(if mine { Refusal::BucketDeleting } else { Refusal::BucketExists }));
    }
    if names_of_tenant(table, wanted.tenant)?.len() >= BUCKETS_PER_TENANT {
        return Ok(Reply::Refused(Refusal::TooManyBuckets));
    }
    let id = next(table)?;
    begin_from(table, BucketId(id.0 + 1))?;
    let record = BucketRecord { id, ..wanted.clone() };
    put(table, &record)?;
    Ok(Reply::Bucket(record))
}

/// The id of the next bucket.
pub fn next(table: &dyn TableRead) -> Result<BucketId, TableError> {
    Ok(BucketId(load(table, Space::Root, key::ROOT_COUNTER)?.unwrap_or(1)))
}

/// Has the next bucket be this one.
pub fn begin_from(table: &mut dyn TableWrite, next: BucketId) -> Result<(), TableError> {
    save(table, Space::Root, key::ROOT_COUNTER, &next)
}

fn put(table: &mut dyn TableWrite, record: &BucketRecord) -> Result<(), TableError> {
    save(table, Space::Root, &key::named(key::ROOT_BUCKET, &record.name), record)?;
    table.put(Space::Root, &key::owned(record.tenant, &record.name), &[])
}

fn take(table: &mut dyn TableWrite, record: &BucketRecord) -> Result<(), TableError> {
    table.delete(Space::Root, &key::named(key::ROOT_BUCKET, &record.name))?;
    table.delete(Space::Root, &key::owned(record.tenant, &record.name)).map(|_| ())
}

pub fn delete(table: &mut dyn TableWrite, name: &str, tenant: TenantId) -> Result<Reply, TableError> {
    let there = get(table, name)?;
    let begun = marked(table, name)?;
    let Some(record) = there.as_ref().or(begun.as_ref().map(|(record, _)| record)) else {
        return Ok(Reply::Refused(Refusal::NoSuchBucket));
    };
    if record.tenant != tenant {
        return Ok(Reply::Refused(Refusal::NotYours));
    }
    if begun.is_some() || !holding::is_whole(&Ranges::load(table, ROOT)?.names) {
        return mark(table, record);
    }
    let inside = key::bucket(record.id);
    if any(table, Space::Objects, &inside)? || any(table, Space::Uploads, &inside)? {
        return Ok(Reply::Refused(Refusal::BucketNotEmpty));
    }
    let round = next_round(table, record.id)?;
    if let Err(refusal) = closed::note(table, record.id, round, BucketStep::End)? {
        return Ok(Reply::Refused(refusal));
    }
    take(table, record)?;
    Ok(Reply::Done)
}

/// Begins a round of a deletion, also where one has begun before.
fn mark(table: &mut dyn TableWrite, record: &BucketRecord) -> Result<Reply, TableError> {
    let round = next_round(table, record.id)?;
    save(table, Space::Root, &key::bucket_round(record.id), &round)?;
    take(table, record)?;
    save(table, Space::Root, &key::named(key::ROOT_DELETING, &record.name), &(record, round))?;
    Ok(Reply::BucketDeleting { bucket: record.id, round })
}

fn next_round(table: &dyn TableRead, bucket: BucketId) -> Result<u64, TableError> {
    Ok(load::<u64>(table, Space::Root, &key::bucket_round(bucket))?.unwrap_or(0) + 1)
}

pub fn end_delete(table: &mut dyn TableWrite, name: &str, round: u64, gone: bool) -> Result<Reply, TableError> {
    let Some((record, last)) = marked(table, name)? else { return Ok(Reply::Refused(Refusal::NoSuchBucket)) };
    if round != last {
        return Ok(Reply::Refused(Refusal::OldAttempt));
    }
    table.delete(Space::Root, &key::named(key::ROOT_DELETING, name))?;
    if gone {
        table.delete(Space::Root, &key::bucket_round(record.id))?;
    } else {
        put(table, &record)?;
    }
    Ok(Reply::Done)
}

/// A bucket that is marked, and its last round.
fn marked(table: &dyn TableRead, name: &str) -> Result<Option<(BucketRecord, u64)>, TableError> {
    load(table, Space::Root, &key::named(key::ROOT_DELETING, name))
}

/// All that are marked, in byte order of their names.
pub fn deleting(table: &dyn TableRead) -> Result<Vec<(BucketRecord, u64)>, TableError> {
    let mut out = Vec::new();
    each(table, Space::Root, &[key::ROOT_DELETING], &[], |key, value| {
        out.push(decode(Space::Root, key, value)?);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(out)
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
