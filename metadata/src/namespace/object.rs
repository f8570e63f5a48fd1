//! Objects: the current version of each key. Commit is the linearization point of a write, Delete that of a removal.

use super::closed;
use super::condition;
use super::intent;
use super::intent::Standing;
use super::outbox;
use crate::key;
use crate::record::{broken, load, save};
use crate::table::{Space, TableError, TableRead, TableWrite};
use spine::id::{BucketId, Seq, VersionId};
use spine::wire::namespace::{Body, Condition, Manifest, NewVersion, VersionBody, VersionHead};
use spine::wire::{Refusal, Reply};

/// Commits a version with a body of its own: inline, or one piece that its open intent guards.
///
/// A body that names pieces of others, or comes without its manifest, has no intent that could guard it: `IntentClosed`.
pub fn commit(
    table: &mut dyn TableWrite,
    bucket: BucketId,
    key: &str,
    new: &NewVersion,
    condition: &Condition,
    seq: Seq,
) -> Result<Reply, TableError> {
    let current = match begin(table, bucket, key, new)? {
        Ok(current) => current,
        Err(reply) => return Ok(reply),
    };
    let guarded = guard(table, new.head.id, &new.body.body, new.manifest.as_ref())?;
    if let Err(refusal) = guarded.and_then(|()| condition::check(condition, current.as_ref())) {
        return Ok(Reply::Refused(refusal));
    }
    install(table, bucket, key, new, current, seq)
}

/// What Commit and CompleteUpload look at before anything else. The version that `new` would replace.
///
/// # Errors
/// The inner one is the reply: the bucket is gone; or `new` is current already, since an answer was lost and the command sent again.
pub fn begin(
    table: &dyn TableRead,
    bucket: BucketId,
    key: &str,
    new: &NewVersion,
) -> Result<Result<Option<VersionHead>, Reply>, TableError> {
    if let Err(refusal) = closed::may_write(table, bucket)? {
        return Ok(Err(Reply::Refused(refusal)));
    }
    let current = head(table, bucket, key)?;
    Ok(match current {
        Some(current) if current.id == new.head.id => Err(Reply::Committed { seq: current.seq, modified: current.modified }),
        current => Ok(current),
    })
}

/// Whether a version, or a part, with this body may become visible now.
///
/// # Errors
/// The inner one: `IntentClosed`.
pub fn guard(
    table: &dyn TableRead,
    version: VersionId,
    body: &Body,
    manifest: Option<&Manifest>,
) -> Result<Result<(), Refusal>, TableError> {
    let standing = intent::standing(table, version)?;
    Ok(match (body, manifest) {
        (Body::Inline { .. }, None) if matches!(standing, Standing::Unknown | Standing::Open) => Ok(()),
        (Body::Pieces(pieces), Some(_)) if pieces.len() == 1 && pieces[0].version == version => intent::may_commit(standing),
        _ => Err(Refusal::IntentClosed),
    })
}

/// Closes the intent of a version that becomes visible and keeps its manifest.
///
/// A version without a manifest has no references to keep: if its writer opened an intent all the same (it could not know how long the body
/// would be), whatever it reserved goes to the outbox.
pub fn settle(table: &mut dyn TableWrite, version: VersionId, manifest: Option<&Manifest>) -> Result<(), TableError> {
    match manifest {
        Some(manifest) => {
            intent::close(table, version)?;
            save(table, Space::Manifests, &version.0, manifest)
        }
        None => intent::abort(table, version).map(|_| ()),
    }
}

/// Makes `new` the current version, which [`condition::check`] and the guards have allowed, settles it, and ends the one it replaces.
pub fn install(
    table: &mut dyn TableWrite,
    bucket: BucketId,
    key: &str,
    new: &NewVersion,
    current: Option<VersionHead>,
    seq: Seq,
) -> Result<Reply, TableError> {
    settle(table, new.head.id, new.manifest.as_ref())?;
    let mut head = new.head.clone();
    head.seq = seq;
    if let Some(current) = current {
        head.modified = head.modified.max(current.modified);
        end(table, current.id)?;
    }
    save(table, Space::Objects, &key::object(bucket, key.as_bytes()), &head)?;
    save(table, Space::Bodies, &head.id.0, &new.body)?;
    Ok(Reply::Committed { seq, modified: head.modified })
}

/// Ends a version that was current.
fn end(table: &mut dyn TableWrite, version: VersionId) -> Result<(), TableError> {
    let body = body(table, version)?;
    table.delete(Space::Bodies, &version.0)?;
    outbox::end(table, version, &body.body)
}

pub fn delete(table: &mut dyn TableWrite, bucket: BucketId, key: &str, condition: &Condition) -> Result<Reply, TableError> {
    let current = head(table, bucket, key)?;
    if let Err(refusal) = condition::check(condition, current.as_ref()) {
        return Ok(Reply::Refused(refusal));
    }
    let Some(current) = current else { return Ok(Reply::Deleted { was: None }) };
    table.delete(Space::Objects, &key::object(bucket, key.as_bytes()))?;
    end(table, current.id)?;
    Ok(Reply::Deleted { was: Some(Box::new(current)) })
}

pub fn set_tags(table: &mut dyn TableWrite, bucket: BucketId, key: &str, tags: &[(String, String)]) -> Result<Reply, TableError> {
    let Some(mut current) = head(table, bucket, key)? else {
        return Ok(Reply::Refused(Refusal::NoSuchObject));
    };
    current.tags = tags.to_vec();
    save(table, Space::Objects, &key::object(bucket, key.as_bytes()), &current)?;
    Ok(Reply::Done)
}

/// Head of the current version.
pub fn head(table: &dyn TableRead, bucket: BucketId, key: &str) -> Result<Option<VersionHead>, TableError> {
    load(table, Space::Objects, &key::object(bucket, key.as_bytes()))
}

/// Head and body of the current version.
pub fn open(table: &dyn TableRead, bucket: BucketId, key: &str) -> Result<Option<(VersionHead, VersionBody)>, TableError> {
    let Some(head) = head(table, bucket, key)? else { return Ok(None) };
    let body = body(table, head.id)?;
    Ok(Some((head, body)))
}

/// Head of the current version, and its body if it is another version's than the known one.
pub fn reopen(
    table: &dyn TableRead,
    bucket: BucketId,
    key: &str,
    known: VersionId,
) -> Result<Option<(VersionHead, Option<VersionBody>)>, TableError> {
    let Some(head) = head(table, bucket, key)? else { return Ok(None) };
    let body = if head.id == known { None } else { Some(body(table, head.id)?) };
    Ok(Some((head, body)))
}

fn body(table: &dyn TableRead, version: VersionId) -> Result<VersionBody, TableError> {
    load(table, Space::Bodies, &version.0)?.ok_or_else(|| broken(Space::Bodies, &version.0))
}

/// Manifests in the order asked.
pub fn manifests(table: &dyn TableRead, versions: &[VersionId]) -> Result<Vec<Option<Manifest>>, TableError> {
    versions.iter().map(|version| load(table, Space::Manifests, &version.0)).collect()
}
