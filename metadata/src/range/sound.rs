//! Whether a row that somebody wants imported is one that a source could have had.
//!
//! Looked at before it goes into the log: behind it, a row that does not decode would stop every replica.
//! Not here: whether it is the right one, which the pages' digests tell.

use super::noting;
use crate::key;
use crate::namespace::{closed, intent};
use crate::record;
use crate::table::Space;
use serde::de::DeserializeOwned;
use spine::id::{UploadId, VersionId};
use spine::limit::KEY_BYTES;
use spine::wire::chunk::{ChunkRecord, ChunkState};
use spine::wire::namespace::{Manifest, PartRecord, UploadRecord, VersionBody, VersionHead};
use spine::wire::range::{MovedRow, RangeKind};

/// Bytes of a bucket's id before a key.
const BUCKET: usize = 8;

pub fn is_sound(kind: RangeKind, row: &MovedRow) -> bool {
    let Some(space) = Space::ALL.get(usize::from(row.space)).copied() else { return false };
    let value = row.value.as_deref();
    match kind {
        RangeKind::Names => noting::is_of_names(space, &row.key) && is_name(space, &row.key, value),
        RangeKind::Chunks => is_chunk(space, &row.key, value),
    }
}

/// `None` is sound under any key that is.
fn is<T: DeserializeOwned>(space: Space, key: &[u8], value: Option<&[u8]>) -> bool {
    value.is_none_or(|value| record::decode::<T>(space, key, value).is_ok())
}

fn is_name(space: Space, key: &[u8], value: Option<&[u8]>) -> bool {
    let id = key.len() == VersionId::LEN;
    match space {
        Space::Objects => {
            let name = key.get(BUCKET..).filter(|name| name.len() <= KEY_BYTES && std::str::from_utf8(name).is_ok());
            name.is_some() && is::<VersionHead>(space, key, value)
        }
        Space::Bodies => id && is::<VersionBody>(space, key, value),
        Space::Manifests => id && is::<Manifest>(space, key, value),
        Space::Uploads => {
            let short = key.len() <= BUCKET + KEY_BYTES + 1 + UploadId::LEN;
            short && key::key_of_upload(key).is_some() && is::<UploadRecord>(space, key, value)
        }
        Space::Parts if id => value.is_none_or(|at| at.len() <= BUCKET + KEY_BYTES + 1 + UploadId::LEN),
        Space::Parts => key.len() == key::part(UploadId([0; 16]), 0).len() && is::<PartRecord>(space, key, value),
        Space::Intents => key.len() == 1 + VersionId::LEN && value.is_none_or(|value| intent::name_of(key, value).is_ok()),
        Space::Meta => key.len() == key::CLOSING.len() + BUCKET && is::<closed::Closing>(space, key, value),
        _ => false,
    }
}

fn is_chunk(space: Space, key: &[u8], value: Option<&[u8]>) -> bool {
    let record = |deleting: bool| {
        value.is_none_or(|value| {
            let record = record::decode::<ChunkRecord>(space, key, value);
            record.is_ok_and(|record| (record.state == ChunkState::Deleting) == deleting)
        })
    };
    let empty = value.is_none_or(<[u8]>::is_empty);
    match (space, key.first()) {
        (Space::Chunks, _) => key.len() == 32 && record(false),
        (Space::References, _) => key.len() == 48 && empty,
        (Space::Due, Some(&key::DUE_DELETING)) => key.len() == 41 && record(true),
        (Space::Due, _) => noting::is_fence(key) && key.len() == 1 + VersionId::LEN && empty,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn rows_that_no_source_has_are_refused_before_they_are_logged() {
        let row = |space: Space, key: &[u8], value: Option<&[u8]>| MovedRow {
            space: space as u8,
            key: Bytes::copy_from_slice(key),
            value: value.map(Bytes::copy_from_slice),
        };
        let (names, chunks) = (RangeKind::Names, RangeKind::Chunks);
        assert!(is_sound(names, &row(Space::Bodies, &[1; 16], None)));
        assert!(is_sound(chunks, &row(Space::References, &[1; 48], Some(&[]))));
        for (kind, wrong) in [
            (names, row(Space::Bodies, &[1; 15], None)),
            (names, row(Space::Bodies, &[1; 16], Some(b"no record"))),
            (names, row(Space::Objects, &[0xFF; 9], None)),
            (names, row(Space::Meta, b"ranges", None)),
            (names, row(Space::Outbox, &[0; 8], None)),
            (names, row(Space::Chunks, &[1; 32], None)),
            (names, row(Space::Intents, &[1; 17], None)),
            (chunks, row(Space::Chunks, &[1; 32], Some(b"no record"))),
            (chunks, row(Space::References, &[1; 47], None)),
            (chunks, row(Space::Due, &[key::DUE_OWED; 33], None)),
            (chunks, row(Space::Bodies, &[1; 16], None)),
            (chunks, MovedRow { space: 200, key: Bytes::new(), value: None }),
        ] {
            assert!(!is_sound(kind, &wrong), "{wrong:?}");
        }
    }
}
