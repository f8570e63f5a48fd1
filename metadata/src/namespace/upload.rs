//! Multipart uploads and their parts, until they are completed (`complete.rs`) or aborted.
//!
//! Invariants: an upload is in Uploads under its bucket and key, and in Parts alone under its id, or in neither; parts lie only
//! under uploads that are there; an upload that is over is remembered as ended (`ended.rs`).

use super::closed;
use super::intent::ENDED;
use super::object::{guard, settle};
use super::outbox;
use crate::key;
use crate::record::{broken, decode, each, load, save};
use crate::table::{Space, TableError, TableRead, TableWrite};
use spine::id::{BucketId, UploadId, VersionId};
use spine::wire::namespace::{Manifest, PartRecord, UploadRecord};
use spine::wire::{Refusal, Reply};
use std::ops::ControlFlow;

pub fn create(table: &mut dyn TableWrite, record: &UploadRecord) -> Result<Reply, TableError> {
    if let Err(refusal) = closed::may_write(table, record.bucket)? {
        return Ok(Reply::Refused(refusal));
    }
    if table.get(Space::Parts, &record.id.0)?.is_some() {
        return Ok(Reply::Done);
    }
    if ENDED.contains(table, VersionId(record.id.0))? {
        return Ok(Reply::Refused(Refusal::NoSuchUpload));
    }
    let at = key::upload(record.bucket, &record.key, record.id);
    table.put(Space::Parts, &record.id.0, &at)?;
    save(table, Space::Uploads, &at, record)?;
    Ok(Reply::Done)
}

pub fn put_part(table: &mut dyn TableWrite, upload: UploadId, part: &PartRecord, manifest: Option<&Manifest>) -> Result<Reply, TableError> {
    if table.get(Space::Parts, &upload.0)?.is_none() {
        return Ok(Reply::Refused(Refusal::NoSuchUpload));
    }
    let at = key::part(upload, part.number);
    let old: Option<PartRecord> = load(table, Space::Parts, &at)?;
    if old.as_ref().is_some_and(|old| old.version == part.version) {
        return Ok(Reply::Done);
    }
    if let Err(refusal) = guard(table, part.version, &part.body, manifest)? {
        return Ok(Reply::Refused(refusal));
    }
    if let Some(old) = old {
        outbox::end(table, old.version, &old.body)?;
    }
    settle(table, part.version, manifest)?;
    save(table, Space::Parts, &at, part)?;
    Ok(Reply::Done)
}

pub fn abort(table: &mut dyn TableWrite, upload: UploadId, bucket: BucketId, key: &str) -> Result<Reply, TableError> {
    if get(table, bucket, key, upload)?.is_none() {
        return Ok(Reply::Refused(Refusal::NoSuchUpload));
    }
    for part in parts(table, upload, 0, usize::MAX)?.0 {
        outbox::end(table, part.version, &part.body)?;
        table.delete(Space::Parts, &key::part(upload, part.number))?;
    }
    forget(table, upload, bucket, key)?;
    Ok(Reply::Done)
}

/// Takes an upload away whose parts are gone.
pub fn forget(table: &mut dyn TableWrite, upload: UploadId, bucket: BucketId, key: &str) -> Result<(), TableError> {
    table.delete(Space::Parts, &upload.0)?;
    table.delete(Space::Uploads, &key::upload(bucket, key, upload))?;
    ENDED.release(table, VersionId(upload.0))
}

/// The upload, if it is open and of this bucket and key.
pub fn get(table: &dyn TableRead, bucket: BucketId, key: &str, upload: UploadId) -> Result<Option<UploadRecord>, TableError> {
    load(table, Space::Uploads, &key::upload(bucket, key, upload))
}

/// Parts with numbers after `after`, ascending, and whether there are more.
pub fn parts(table: &dyn TableRead, upload: UploadId, after: u32, max: usize) -> Result<(Vec<PartRecord>, bool), TableError> {
    let mut out = Vec::new();
    let mut truncated = false;
    let Some(first) = after.checked_add(1).filter(|_| max > 0) else { return Ok((out, false)) };
    each(table, Space::Parts, &upload.0, &key::part(upload, first), |at, value| {
        if at.len() != 20 {
            return Err(broken(Space::Parts, at));
        }
        if out.len() == max {
            truncated = true;
            return Ok(ControlFlow::Break(()));
        }
        out.push(decode(Space::Parts, at, value)?);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok((out, truncated))
}
