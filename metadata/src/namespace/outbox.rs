//! The outbox: versions that the log has ended and whose chunk references are still to be dropped.
//!
//! Terminal first, only then Unref: an entry is written by the very command that ends its version.
//! Invariants: positions rise and are not given twice; each entry's version is remembered as ended, and its manifest, if it
//! was committed, stays until the entry is done.

use super::intent;
use super::intent::{ENDED, Standing};
use crate::record::{broken, each, load, save};
use crate::table::{Space, TableError, TableRead, TableWrite};
use spine::id::{GroupId, VersionId};
use spine::wire::namespace::{Body, OutboxEntry};
use spine::wire::{Refusal, Reply};
use std::ops::ControlFlow;

/// Key in Meta of the next position.
pub const COUNTER: &[u8] = b"outbox";

/// Queues the Unref of a version that ends here.
pub fn push(table: &mut dyn TableWrite, version: VersionId) -> Result<(), TableError> {
    append(table, version)?;
    ENDED.hold(table, version)
}

/// One more entry, of a version that is known to have ended.
pub fn append(table: &mut dyn TableWrite, version: VersionId) -> Result<(), TableError> {
    let position: u64 = load(table, Space::Meta, COUNTER)?.unwrap_or(0);
    save(table, Space::Meta, COUNTER, &(position + 1))?;
    table.put(Space::Outbox, &position.to_be_bytes(), &version.0)
}

/// Ends a version with this body: every piece goes to the outbox; a version that is not its own piece is only remembered,
/// unless a late OpenIntent had opened it, which ends here too.
pub fn end(table: &mut dyn TableWrite, version: VersionId, body: &Body) -> Result<(), TableError> {
    let mut own_piece = false;
    if let Body::Pieces(pieces) = body {
        for piece in pieces {
            own_piece |= piece.version == version;
            push(table, piece.version)?;
        }
    }
    if own_piece {
        Ok(())
    } else if intent::standing(table, version)? == Standing::Open {
        intent::abort(table, version).map(|_| ())
    } else {
        ENDED.release(table, version)
    }
}

/// The references are dropped: forgets the entries and what only readers of their versions needed.
pub fn done(table: &mut dyn TableWrite, group: GroupId, entries: &[OutboxEntry]) -> Result<Reply, TableError> {
    if entries.iter().any(|entry| entry.group != group) {
        return Ok(Reply::Refused(Refusal::NotHere));
    }
    for entry in entries {
        let at = entry.position.to_be_bytes();
        if table.get(Space::Outbox, &at)? == Some(&entry.version.0[..]) {
            table.delete(Space::Outbox, &at)?;
            table.delete(Space::Manifests, &entry.version.0)?;
            ENDED.release(table, entry.version)?;
        }
    }
    Ok(Reply::Done)
}

/// The oldest entries.
pub fn list(table: &dyn TableRead, group: GroupId, max: usize) -> Result<Vec<OutboxEntry>, TableError> {
    let mut out = Vec::new();
    each(table, Space::Outbox, &[], &[], |at, value| {
        if out.len() == max {
            return Ok(ControlFlow::Break(()));
        }
        let position = at.try_into().map(u64::from_be_bytes).map_err(|_| broken(Space::Outbox, at))?;
        let version = value.try_into().map(VersionId).map_err(|_| broken(Space::Outbox, at))?;
        out.push(OutboxEntry { group, position, version });
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(out)
}
