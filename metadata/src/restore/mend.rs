//! Makes copies of different moments agree, once all of them lie in one table.
//!
//! Each group was copied as of a moment of its own: names first, then the root, chunks last (the gateway's `snapshot/take.rs`). So every
//! chunk of a version that is there was durable; but its references may have been dropped since, and versions began that no name has.
//! ```text
//! intents that are open        are aborted: whoever wrote then, has not been answered and must not commit without what it reserved since
//! versions that are there      get the references back that they had
//! references of other versions go
//! chunks that nothing refers to then are forgotten, but for those being deleted: they may have been collected since
//! buckets that are there       are open, whatever was about to be done with them, and of an era that is there
//! names of buckets that are not there go: the bucket was deleted between two moments
//! ```
//! Invariant: afterwards every committed version holds all of its chunks that are known and not being deleted, and nothing else holds any.
//! All of it is one entry's work, done once, before anybody is served; with one group it finds nothing but intents.

use crate::chunk_index;
use crate::key;
use crate::namespace::intent::{self, Standing};
use crate::namespace::{self, closed};
use crate::record::{broken, decode, each, load};
use crate::table::{Space, TableError, TableRead, TableWrite};
use spine::id::{BucketId, ChunkId, GroupId, Seq, UploadId, VersionId};
use spine::wire::namespace::{Condition, Manifest, NamespaceCommand};
use spine::wire::root::BucketRecord;
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// Keys that are looked at between changes.
const PAGE: usize = 1_024;
/// The group that everything is restored into.
const ROOT: GroupId = GroupId(0);

/// - `at`: the entry's position, for what is deleted.
pub fn all(table: &mut dyn TableWrite, at: Seq) -> Result<(), TableError> {
    let buckets = buckets(table)?;
    for bucket in &buckets {
        closed::begin_era(table, *bucket)?;
        closed::forget(table, *bucket)?;
    }
    end_intents(table)?;
    end_names(table, &buckets, at)?;
    refer(table)?;
    drop_strays(table)?;
    forget_unreferenced(table)
}

/// Buckets that are there, marked or not.
fn buckets(table: &dyn TableRead) -> Result<BTreeSet<BucketId>, TableError> {
    let mut out = BTreeSet::new();
    each(table, Space::Root, &[key::ROOT_BUCKET], &[], |at, value| {
        out.insert(decode::<BucketRecord>(Space::Root, at, value)?.id);
        Ok(ControlFlow::Continue(()))
    })?;
    each(table, Space::Root, &[key::ROOT_DELETING], &[], |at, value| {
        out.insert(decode::<(BucketRecord, u64)>(Space::Root, at, value)?.0.id);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(out)
}

/// Up to a page of keys that begin with `prefix`, from `from` on.
fn keys(table: &dyn TableRead, space: Space, prefix: &[u8], from: &[u8]) -> Result<Vec<Vec<u8>>, TableError> {
    let mut out = Vec::new();
    each(table, space, prefix, from, |at, _| {
        out.push(at.to_vec());
        Ok(if out.len() < PAGE { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    Ok(out)
}

/// The first key that is not less than `from`.
fn first(table: &dyn TableRead, space: Space, from: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
    let mut scan = table.scan(space, from)?;
    let found = scan.next()?.map(|(key, _)| key.to_vec());
    Ok(found)
}

/// Where keys after `last` begin.
fn behind(last: &[u8]) -> Vec<u8> {
    [last, &[0]].concat()
}

fn end_intents(table: &mut dyn TableWrite) -> Result<(), TableError> {
    let mut from = Vec::new();
    loop {
        let page = keys(table, Space::Intents, &[key::INTENT_OPEN], &from)?;
        let Some(last) = page.last() else { return Ok(()) };
        from = behind(last);
        for at in &page {
            intent::abort(table, key::version_at_end(at).ok_or_else(|| broken(Space::Intents, at))?)?;
        }
    }
}

/// Ends objects and uploads of buckets that are not there.
fn end_names(table: &mut dyn TableWrite, buckets: &BTreeSet<BucketId>, at: Seq) -> Result<(), TableError> {
    for space in [Space::Objects, Space::Uploads] {
        let mut from = Vec::new();
        while let Some(first) = first(table, space, &from)? {
            let bucket = first.first_chunk().copied().map(u64::from_be_bytes).ok_or_else(|| broken(space, &first))?;
            if !buckets.contains(&BucketId(bucket)) {
                let page = keys(table, space, &key::bucket(BucketId(bucket)), &first)?;
                for name in &page {
                    let command = ending(space, BucketId(bucket), name).ok_or_else(|| broken(space, name))?;
                    namespace::apply(table, ROOT, &command, at)?;
                }
                from = page.last().map_or(first, |last| behind(last));
                continue;
            }
            let Some(next) = bucket.checked_add(1) else { break };
            from = key::bucket(BucketId(next)).to_vec();
        }
    }
    Ok(())
}

/// What ends the object or the upload at `name`.
fn ending(space: Space, bucket: BucketId, name: &[u8]) -> Option<NamespaceCommand> {
    Some(match space {
        Space::Objects => {
            let key = String::from_utf8(name.get(8..)?.to_vec()).ok()?;
            NamespaceCommand::Delete { bucket, key, condition: Condition::default() }
        }
        _ => {
            let upload = UploadId(*name.last_chunk()?);
            NamespaceCommand::AbortUpload { upload, bucket, key: key::key_of_upload(name)? }
        }
    })
}

/// Gives committed versions the references back that are missing.
fn refer(table: &mut dyn TableWrite) -> Result<(), TableError> {
    let mut from = Vec::new();
    loop {
        let page = keys(table, Space::Manifests, &[], &from)?;
        let Some(last) = page.last() else { return Ok(()) };
        from = behind(last);
        for at in &page {
            let version = at.as_slice().try_into().map(VersionId).map_err(|_| broken(Space::Manifests, at))?;
            if intent::standing(table, version)? != Standing::Committed {
                continue;
            }
            let Some(manifest) = load::<Manifest>(table, Space::Manifests, at)? else { continue };
            chunk_index::refer(table, version, manifest.chunks.iter().map(|chunk| chunk.id))?;
        }
    }
}

fn forget_unreferenced(table: &mut dyn TableWrite) -> Result<(), TableError> {
    let mut from = Vec::new();
    loop {
        let page = keys(table, Space::Chunks, &[], &from)?;
        let Some(last) = page.last() else { return Ok(()) };
        from = behind(last);
        let ids = page.iter().map(|at| at.as_slice().try_into().map(ChunkId).map_err(|_| broken(Space::Chunks, at)));
        chunk_index::forget_unreferenced(table, ids.collect::<Result<Vec<_>, _>>()?.into_iter())?;
    }
}

/// Drops what versions hold that are not committed.
fn drop_strays(table: &mut dyn TableWrite) -> Result<(), TableError> {
    let mut from = Vec::new();
    while let Some(first) = first(table, Space::Holdings, &from)? {
        let version = first.first_chunk().copied().map(VersionId).ok_or_else(|| broken(Space::Holdings, &first))?;
        if intent::standing(table, version)? != Standing::Committed {
            chunk_index::drop_all(table, version)?;
        }
        // Longer than any key of the version.
        from = [&version.0[..], &[u8::MAX; 33]].concat();
    }
    Ok(())
}
