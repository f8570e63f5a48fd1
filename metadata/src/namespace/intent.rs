//! Intents: the fence of one write. A version with pieces is open once, until Commit, PutPart or an abort, and then never again.
//!
//! The rule is pure ([`Standing`] and the `may_` functions) and what the model in `conformance` runs; the rest reads and writes tables.
//! Invariant: a version that is open has no manifest and is not ended.

use super::outbox;
use crate::ended::Ended;
use crate::key;
use crate::record::{broken, decode, each, load, save};
use crate::table::{Space, TableError, TableRead, TableWrite};
use serde::{Deserialize, Serialize};
use spine::id::{BucketId, UnixMs, VersionId, WriterId};
use spine::map::NamePoint;
use spine::wire::namespace::IntentRecord;
use spine::wire::range::NameSpan;
use spine::wire::{Refusal, Reply};
use std::ops::ControlFlow;

/// Versions and uploads that are over.
pub const ENDED: Ended = Ended { space: Space::Intents, kinds: key::INTENT_ENDED, counter: b"namespace-ended" };

/// How far a version's life has come, as its subtree knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// Never heard of, or forgotten.
    Unknown,
    Open,
    /// Committed, as an object or as a part.
    Committed,
    /// Aborted, replaced or deleted: terminal.
    Ended,
}

/// OpenIntent: whether there is an intent to write; `Err`: refused.
pub fn may_open(standing: Standing) -> Result<bool, Refusal> {
    match standing {
        Standing::Unknown => Ok(true),
        Standing::Open => Ok(false),
        Standing::Committed | Standing::Ended => Err(Refusal::IntentClosed),
    }
}

/// Commit of a version that is not current yet: only while its intent is open.
pub fn may_commit(standing: Standing) -> Result<(), Refusal> {
    if standing == Standing::Open { Ok(()) } else { Err(Refusal::IntentClosed) }
}

/// AbortIntent: whether the version ends by it.
pub fn may_abort(standing: Standing) -> bool {
    standing == Standing::Open
}

#[derive(Clone, Serialize, Deserialize)]
struct OpenIntent {
    bucket: BucketId,
    key: String,
    writer: WriterId,
    renewed: UnixMs,
}

/// Where the version of the open intent at `at` is to be.
pub fn name_of(at: &[u8], value: &[u8]) -> Result<NamePoint, TableError> {
    let intent: OpenIntent = decode(Space::Intents, at, value)?;
    Ok(NamePoint::new(intent.bucket, intent.key))
}

/// Where `version` stands.
pub fn standing(table: &dyn TableRead, version: VersionId) -> Result<Standing, TableError> {
    Ok(if table.get(Space::Intents, &key::intent(version))?.is_some() {
        Standing::Open
    } else if ENDED.contains(table, version)? {
        Standing::Ended
    } else if table.get(Space::Manifests, &version.0)?.is_some() {
        Standing::Committed
    } else {
        Standing::Unknown
    })
}

pub fn open(
    table: &mut dyn TableWrite,
    version: VersionId,
    (bucket, key): (BucketId, &str),
    writer: WriterId,
    opened: UnixMs,
) -> Result<Reply, TableError> {
    match may_open(standing(table, version)?) {
        Err(refusal) => Ok(Reply::Refused(refusal)),
        Ok(false) => Ok(Reply::Done),
        Ok(true) => {
            let intent = OpenIntent { bucket, key: key.to_owned(), writer, renewed: opened };
            save(table, Space::Intents, &key::intent(version), &intent)?;
            Ok(Reply::Done)
        }
    }
}

pub fn renew(table: &mut dyn TableWrite, version: VersionId, now: UnixMs) -> Result<Reply, TableError> {
    let at = key::intent(version);
    let Some(mut intent) = load::<OpenIntent>(table, Space::Intents, &at)? else {
        return Ok(Reply::Refused(Refusal::IntentClosed));
    };
    intent.renewed = intent.renewed.max(now);
    save(table, Space::Intents, &at, &intent)?;
    Ok(Reply::Done)
}

pub fn abort(table: &mut dyn TableWrite, version: VersionId) -> Result<Reply, TableError> {
    if may_abort(standing(table, version)?) {
        close(table, version)?;
        outbox::push(table, version)?;
    }
    Ok(Reply::Done)
}

/// Takes the open intent away: the version is committed or ended by the same command.
pub fn close(table: &mut dyn TableWrite, version: VersionId) -> Result<(), TableError> {
    table.delete(Space::Intents, &key::intent(version)).map(|_| ())
}

/// Open intents of names in `owned` and of versions after `after`, in order of the versions.
pub fn list(table: &dyn TableRead, owned: &NameSpan, after: Option<VersionId>, max: usize) -> Result<Vec<IntentRecord>, TableError> {
    let after = after.map(key::intent);
    let mut out = Vec::new();
    each(table, Space::Intents, &[key::INTENT_OPEN], after.as_ref().map_or(&[], |at| at), |at, value| {
        if after.as_ref().is_some_and(|after| after == at) {
            return Ok(ControlFlow::Continue(()));
        }
        if out.len() == max {
            return Ok(ControlFlow::Break(()));
        }
        let version = key::version_at_end(at).ok_or_else(|| broken(Space::Intents, at))?;
        let OpenIntent { bucket, key, writer, renewed } = decode(Space::Intents, at, value)?;
        if !owned.holds(&NamePoint::new(bucket, key.as_str())) {
            return Ok(ControlFlow::Continue(()));
        }
        out.push(IntentRecord { version, bucket, key, writer, renewed });
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(out)
}
