//! Buckets that take no writes: about to be deleted, or deleted.
//!
//! A bucket that a group has no record of takes writes: ids come from the root, and only of buckets that are there. A record stays for
//! good, some twenty bytes, since an id is never given again and a late write must not find its bucket open.
//! Ids fall into eras of 2^40, and each restore of metadata begins one of its own. A gateway may remember a bucket that was made after the
//! copy, or in a life that was lost: the record of an era's first id says that the era was ever begun here (the first of all needs none),
//! that of its last id, where ids ended in the copy. No bucket ever has one of the two.
//! Invariant: what comes from an older round of a deletion than one that was seen changes nothing.

use crate::key;
use crate::record::{decode, load, save};
use crate::table::{Space, TableError, TableRead, TableWrite};
use serde::{Deserialize, Serialize};
use spine::id::BucketId;
use spine::wire::Refusal;
use spine::wire::range::BucketStep;

/// The last step and its round. Of two, the greater holds: a later round, or the later step of one round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Closing {
    round: u64,
    step: BucketStep,
}

/// Bits of an id within its era.
const ERA_BITS: u32 = 40;

fn last_of_era(bucket: BucketId) -> BucketId {
    BucketId(bucket.0 | ((1 << ERA_BITS) - 1))
}

fn first_of_era(bucket: BucketId) -> BucketId {
    BucketId(bucket.0 >> ERA_BITS << ERA_BITS)
}

/// The records that say of `bucket` whether it can be one of this metadata at all: they belong to every range that has a part of its era.
pub fn of_era(bucket: BucketId) -> [BucketId; 2] {
    [first_of_era(bucket), last_of_era(bucket)]
}

/// Begins the era that `bucket` is in, if nobody has; its first bucket.
pub fn begin_era(table: &mut dyn TableWrite, bucket: BucketId) -> Result<BucketId, TableError> {
    let first = first_of_era(bucket);
    if first.0 > 0 {
        save(table, Space::Meta, &key::closing(first), &Closing { round: 0, step: BucketStep::Open })?;
    }
    Ok(BucketId(first.0 + 1))
}

/// After a restore: buckets from `from` on to the end of its era are no more, if there ever were any.
pub fn lose(table: &mut dyn TableWrite, from: BucketId) -> Result<(), TableError> {
    save(table, Space::Meta, &key::closing(last_of_era(from)), &Closing { round: from.0, step: BucketStep::End })
}

/// Whether the bucket takes writes.
///
/// # Errors
/// The inner one: `Frozen` while it is being deleted, `NoSuchBucket` afterwards.
pub fn may_write(table: &dyn TableRead, bucket: BucketId) -> Result<Result<(), Refusal>, TableError> {
    let [first, last] = of_era(bucket);
    let is_unknown = first.0 > 0 && (bucket == first || load::<Closing>(table, Space::Meta, &key::closing(first))?.is_none());
    if is_unknown || load::<Closing>(table, Space::Meta, &key::closing(last))?.is_some_and(|lost| lost.round <= bucket.0) {
        return Ok(Err(Refusal::NoSuchBucket));
    }
    Ok(match load::<Closing>(table, Space::Meta, &key::closing(bucket))?.map(|closing| closing.step) {
        None | Some(BucketStep::Open) => Ok(()),
        Some(BucketStep::Close) => Err(Refusal::Frozen),
        Some(BucketStep::End) => Err(Refusal::NoSuchBucket),
    })
}

/// Notes a step.
///
/// # Errors
/// The inner one: `OldAttempt` if a later round was seen, or a later step of this one.
pub fn note(table: &mut dyn TableWrite, bucket: BucketId, round: u64, step: BucketStep) -> Result<Result<(), Refusal>, TableError> {
    let at = key::closing(bucket);
    let (known, wanted) = (load::<Closing>(table, Space::Meta, &at)?, Closing { round, step });
    if known.is_some_and(|known| known > wanted) {
        return Ok(Err(Refusal::OldAttempt));
    }
    if known != Some(wanted) {
        save(table, Space::Meta, &at, &wanted)?;
    }
    Ok(Ok(()))
}

/// After a restore: the bucket is there and takes writes, and the next round of its deletion is the first.
pub fn forget(table: &mut dyn TableWrite, bucket: BucketId) -> Result<(), TableError> {
    table.delete(Space::Meta, &key::closing(bucket)).map(|_| ())
}

/// Whether `other`, what another group knows of the bucket at `at`, holds rather than what is known here.
///
/// # Errors
/// A record that does not decode.
pub fn is_later(table: &dyn TableRead, at: &[u8], other: &[u8]) -> Result<bool, TableError> {
    let other: Closing = decode(Space::Meta, at, other)?;
    Ok(load::<Closing>(table, Space::Meta, at)?.is_none_or(|known| known < other))
}
