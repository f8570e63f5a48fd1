//! References: which version holds which chunk, both ways round, and which chunks none holds.
//!
//! A reference is a member of a set, never a count: adding it again or dropping it again changes nothing.
//! Invariants: (chunk, version) is in References exactly if (version, chunk) is in Holdings; a Pending or Live chunk is listed as
//! unreferenced exactly if References has none of it; a version whose references were dropped gets no new ones.
//!
//! The last one is a fence against slow writers. A gateway that stalls has its intent aborted and its references dropped; what it
//! sends then must not add a reference, since nobody would ever drop it again, and in a cluster the chunk range cannot see
//! intents. So Unref remembers the version (`ended.rs`), and Reserve refuses it. Confirm needs no fence: it asks for the
//! reference itself.

use super::due;
use super::ledger::Ledger;
use crate::ended::Ended;
use crate::key;
use crate::record::{any, broken, each};
use crate::table::{Space, TableError, TableRead, TableWrite};
use spine::id::{ChunkId, Gen, VersionId};
use spine::limit::UNREF_STEP;
use spine::wire::chunk::ChunkState;
use spine::wire::range::ChunkSpan;
use std::ops::ControlFlow;

/// Versions whose references were dropped.
pub const ENDED: Ended = Ended { space: Space::Due, kinds: key::DUE_ENDED, counter: b"chunks-ended" };

/// Whether `version` holds `chunk`.
pub fn is_held(table: &dyn TableRead, chunk: ChunkId, version: VersionId) -> Result<bool, TableError> {
    Ok(table.get(Space::References, &key::reference(chunk, version))?.is_some())
}

/// Whether any version holds `chunk`.
pub fn is_referenced(table: &dyn TableRead, chunk: ChunkId) -> Result<bool, TableError> {
    any(table, Space::References, &chunk.0)
}

/// Adds a reference to a chunk whose current record is of `generation`.
pub fn add(table: &mut dyn TableWrite, ledger: &mut Ledger, chunk: ChunkId, version: VersionId, generation: Gen) -> Result<(), TableError> {
    if is_held(table, chunk, version)? {
        return Ok(());
    }
    put(table, ledger, chunk, version)?;
    table.delete(Space::Due, &key::unreferenced(chunk, generation)).map(|_| ())
}

/// A reference, both ways round. Whether the chunk is listed as unreferenced is the caller's to see to.
pub fn put(table: &mut dyn TableWrite, ledger: &mut Ledger, chunk: ChunkId, version: VersionId) -> Result<(), TableError> {
    if !is_held(table, chunk, version)? {
        table.put(Space::References, &key::reference(chunk, version), &[])?;
        table.put(Space::Holdings, &key::holding(version, chunk), &[])?;
        ledger.totals.references += 1;
    }
    Ok(())
}

/// The same, away.
pub fn take(table: &mut dyn TableWrite, ledger: &mut Ledger, chunk: ChunkId, version: VersionId) -> Result<(), TableError> {
    table.delete(Space::Holdings, &key::holding(version, chunk))?;
    if table.delete(Space::References, &key::reference(chunk, version))? {
        ledger.totals.references -= 1;
    }
    Ok(())
}

/// Drops up to [`UNREF_STEP`] references of `version` to chunks of `span`; whether it has more.
pub fn drop_some(table: &mut dyn TableWrite, ledger: &mut Ledger, version: VersionId, span: &ChunkSpan) -> Result<bool, TableError> {
    let mut held = Vec::new();
    each(table, Space::Holdings, &version.0, &key::holding(version, span.start), |at, _| {
        let chunk = at.last_chunk().copied().map(ChunkId).ok_or_else(|| broken(Space::Holdings, at))?;
        if !span.holds(&chunk) {
            return Ok(ControlFlow::Break(()));
        }
        held.push(chunk);
        Ok(if held.len() > UNREF_STEP { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    let more = held.len() > UNREF_STEP;
    held.truncate(UNREF_STEP);
    for chunk in held {
        take(table, ledger, chunk, version)?;
        if !is_referenced(table, chunk)? {
            list_unreferenced(table, chunk)?;
        }
    }
    Ok(more)
}

/// Lists a chunk that nothing refers to, if it is one to be condemned.
pub fn list_unreferenced(table: &mut dyn TableWrite, chunk: ChunkId) -> Result<(), TableError> {
    match due::current(table, chunk)? {
        Some(record) if matches!(record.state, ChunkState::Pending | ChunkState::Live) => {
            table.put(Space::Due, &key::unreferenced(chunk, record.generation), &[])
        }
        _ => Ok(()),
    }
}

/// Lists a chunk that nothing refers to, or takes it from the list.
pub fn list_if_unreferenced(table: &mut dyn TableWrite, chunk: ChunkId) -> Result<(), TableError> {
    if !is_referenced(table, chunk)? {
        return list_unreferenced(table, chunk);
    }
    match due::current(table, chunk)? {
        Some(record) => table.delete(Space::Due, &key::unreferenced(chunk, record.generation)).map(|_| ()),
        None => Ok(()),
    }
}

/// Versions that hold `chunk`, in order.
pub fn of_chunk(table: &dyn TableRead, chunk: ChunkId, max: usize) -> Result<Vec<VersionId>, TableError> {
    let mut out = Vec::new();
    each(table, Space::References, &chunk.0, &[], |at, _| {
        if out.len() == max {
            return Ok(ControlFlow::Break(()));
        }
        out.push(key::version_at_end(at).ok_or_else(|| broken(Space::References, at))?);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(out)
}
