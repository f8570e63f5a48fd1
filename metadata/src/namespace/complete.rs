//! CompleteMultipartUpload: the listed parts' pieces become the body of the key's new version.
//!
//! References stay where they are, held by the part versions; only who names the pieces changes.
//! Invariant: afterwards every part version is a piece of the new body or in the outbox.

use super::condition;
use super::intent;
use super::object::{begin, guard, install};
use super::outbox;
use super::upload::{forget, get, parts as parts_of};
use crate::key;
use crate::table::{Space, TableError, TableRead, TableWrite};
use spine::id::{BucketId, Seq, UploadId, VersionId};
use spine::wire::namespace::{Body, Condition, NewVersion, PartRecord};
use spine::wire::{Refusal, Reply};
use std::collections::BTreeSet;

#[expect(clippy::too_many_arguments, reason = "the fields of one command")]
pub fn complete(
    table: &mut dyn TableWrite,
    upload: UploadId,
    bucket: BucketId,
    key: &str,
    listed: &[(u32, VersionId)],
    new: &NewVersion,
    condition: &Condition,
    seq: Seq,
) -> Result<Reply, TableError> {
    let current = match begin(table, bucket, key, new)? {
        Ok(current) => current,
        Err(reply) => return Ok(reply),
    };
    if get(table, bucket, key, upload)?.is_none() {
        return Ok(Reply::Refused(Refusal::NoSuchUpload));
    }
    let (stored, _) = parts_of(table, upload, 0, usize::MAX)?;
    let allowed = check_parts(table, listed, &stored, new)?;
    if let Err(refusal) = allowed.and_then(|()| condition::check(condition, current.as_ref())) {
        return Ok(Reply::Refused(refusal));
    }

    let used = piece_versions(&new.body.body);
    for part in stored {
        table.delete(Space::Parts, &key::part(upload, part.number))?;
        if !used.contains(&part.version) {
            outbox::end(table, part.version, &part.body)?;
        }
    }
    forget(table, upload, bucket, key)?;
    install(table, bucket, key, new, current, seq)
}

/// Whether the listed parts are exactly the stored ones of those numbers, in ascending order, and the new body has only pieces of
/// theirs, each once, and at most one of its own with an open intent.
fn check_parts(
    table: &dyn TableRead,
    listed: &[(u32, VersionId)],
    stored: &[PartRecord],
    new: &NewVersion,
) -> Result<Result<(), Refusal>, TableError> {
    let version_of = |number: u32| stored.binary_search_by_key(&number, |part| part.number).ok().map(|at| stored[at].version);
    let unchanged = listed.iter().all(|&(number, version)| version_of(number) == Some(version));
    let ascending = listed.is_sorted_by(|left, right| left.0 < right.0);
    if !unchanged || !ascending || listed.is_empty() {
        return Ok(Err(Refusal::PartChanged));
    }
    let versions: BTreeSet<VersionId> = listed.iter().map(|part| part.1).collect();
    let Body::Pieces(pieces) = &new.body.body else {
        return guard(table, new.head.id, &new.body.body, new.manifest.as_ref());
    };
    let used = piece_versions(&new.body.body);
    let own = new.manifest.is_some();
    let known = used.iter().all(|version| versions.contains(version) || (own && *version == new.head.id));
    if used.len() != pieces.len() || !known || own != used.contains(&new.head.id) {
        return Ok(Err(Refusal::PartChanged));
    }
    Ok(if own { intent::may_commit(intent::standing(table, new.head.id)?) } else { Ok(()) })
}

fn piece_versions(body: &Body) -> BTreeSet<VersionId> {
    match body {
        Body::Inline { .. } => BTreeSet::new(),
        Body::Pieces(pieces) => pieces.iter().map(|piece| piece.version).collect(),
    }
}
