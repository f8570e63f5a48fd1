//! Index records, and the ordered lists of what is due on them, which follow every change of a record.
//!
//! Invariants: a record is Condemned exactly if its (time, chunk, gen) is listed so; it is listed as owed exactly if
//! [`transition::is_owed`]; Deleting records lie in their list and not among the chunks, so that a new generation can live
//! beside several old ones that are still being trashed. Which chunks are unreferenced is `holding.rs`'s to keep.

use super::ledger::Ledger;
use super::transition::is_owed;
use crate::key;
use crate::record::{broken, decode, each, load, save};
use crate::table::{Space, TableError, TableRead, TableWrite};
use spine::id::{ChunkId, Gen, UnixMs};
use spine::wire::chunk::{ChunkRecord, ChunkState};
use spine::wire::range::ChunkSpan;
use std::ops::ControlFlow;

/// The chunk's current record.
pub fn current(table: &dyn TableRead, chunk: ChunkId) -> Result<Option<ChunkRecord>, TableError> {
    load(table, Space::Chunks, &chunk.0)
}

/// Puts `new` in the place of `old`, which is what [`current`] gave, in every list and in the totals.
pub fn replace(
    table: &mut dyn TableWrite,
    ledger: &mut Ledger,
    chunk: ChunkId,
    old: Option<&ChunkRecord>,
    new: &ChunkRecord,
) -> Result<(), TableError> {
    let listed = |record: &ChunkRecord| record.condemned.filter(|_| record.state == ChunkState::Condemned);
    if let Some(old) = old {
        ledger.subtract(old);
        if let Some(time) = listed(old) {
            table.delete(Space::Due, &key::condemned(time, chunk, old.generation))?;
        }
    }
    ledger.add(new);
    let (was_owed, owed) = (old.is_some_and(is_owed), new.state != ChunkState::Deleting && is_owed(new));
    match (was_owed, owed) {
        (false, true) => table.put(Space::Due, &key::owed(chunk), &[])?,
        (true, false) => {
            table.delete(Space::Due, &key::owed(chunk))?;
        }
        _ => {}
    }
    if new.state == ChunkState::Deleting {
        table.delete(Space::Chunks, &chunk.0)?;
        return save(table, Space::Due, &key::deleting(chunk, new.generation), new);
    }
    if let Some(time) = listed(new) {
        table.put(Space::Due, &key::condemned(time, chunk, new.generation), &[])?;
    }
    save(table, Space::Chunks, &chunk.0, new)
}

/// Forgets a Deleting record, if there is one of exactly this generation.
pub fn forget(table: &mut dyn TableWrite, ledger: &mut Ledger, chunk: ChunkId, generation: Gen) -> Result<(), TableError> {
    let at = key::deleting(chunk, generation);
    if let Some(record) = load::<ChunkRecord>(table, Space::Due, &at)? {
        ledger.subtract(&record);
        table.delete(Space::Due, &at)?;
    }
    Ok(())
}

/// Takes the chunk's current record out of every list and of the totals.
pub fn remove(table: &mut dyn TableWrite, ledger: &mut Ledger, chunk: ChunkId) -> Result<(), TableError> {
    let Some(record) = current(table, chunk)? else { return Ok(()) };
    ledger.subtract(&record);
    if let Some(time) = record.condemned {
        table.delete(Space::Due, &key::condemned(time, chunk, record.generation))?;
    }
    table.delete(Space::Due, &key::owed(chunk))?;
    table.delete(Space::Due, &key::unreferenced(chunk, record.generation))?;
    table.delete(Space::Chunks, &chunk.0).map(|_| ())
}

/// A record that is being deleted, as another group has it.
pub fn put_deleting(table: &mut dyn TableWrite, ledger: &mut Ledger, chunk: ChunkId, record: &ChunkRecord) -> Result<(), TableError> {
    ledger.add(record);
    save(table, Space::Due, &key::deleting(chunk, record.generation), record)
}

/// The chunk's record; if it has none but generations that are being deleted, the youngest of those.
pub fn known(table: &dyn TableRead, chunk: ChunkId) -> Result<Option<ChunkRecord>, TableError> {
    if let Some(record) = current(table, chunk)? {
        return Ok(Some(record));
    }
    let from = key::deleting(chunk, Gen(0));
    let mut youngest = None;
    each(table, Space::Due, &from[..33], &[], |at, value| {
        youngest = Some(decode(Space::Due, at, value)?);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(youngest)
}

/// Chunks of `span` that nothing refers to.
pub fn unreferenced(table: &dyn TableRead, span: &ChunkSpan, max: usize) -> Result<Vec<(ChunkId, Gen)>, TableError> {
    let mut out = Vec::new();
    each(table, Space::Due, &[key::DUE_UNREFERENCED], &key::unreferenced(span.start, Gen(0)), |at, _| {
        let (chunk, generation) = key::chunk_and_gen_at_end(at).ok_or_else(|| broken(Space::Due, at))?;
        if out.len() == max || !span.holds(&chunk) {
            return Ok(ControlFlow::Break(()));
        }
        out.push((chunk, generation));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(out)
}

/// Of `span`, condemned at or before `before`, oldest first.
pub fn condemned(table: &dyn TableRead, span: &ChunkSpan, before: UnixMs, max: usize) -> Result<Vec<(ChunkId, Gen)>, TableError> {
    let mut out = Vec::new();
    each(table, Space::Due, &[key::DUE_CONDEMNED], &[], |at, _| {
        let time = at.get(1..9).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
        if out.len() == max || time.is_none_or(|time| time > before.0) {
            return Ok(ControlFlow::Break(()));
        }
        let (chunk, generation) = key::chunk_and_gen_at_end(at).ok_or_else(|| broken(Space::Due, at))?;
        if span.holds(&chunk) {
            out.push((chunk, generation));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(out)
}

/// Of `span`, deleting, with what was placed.
pub fn deleting(table: &dyn TableRead, span: &ChunkSpan, max: usize) -> Result<Vec<(ChunkId, ChunkRecord)>, TableError> {
    let mut out = Vec::new();
    each(table, Space::Due, &[key::DUE_DELETING], &key::deleting(span.start, Gen(0)), |at, value| {
        let (chunk, _) = key::chunk_and_gen_at_end(at).ok_or_else(|| broken(Space::Due, at))?;
        if out.len() == max || !span.holds(&chunk) {
            return Ok(ControlFlow::Break(()));
        }
        out.push((chunk, decode(Space::Due, at, value)?));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(out)
}

/// Records of chunks of `span` after `after` that owe shards or have targets.
pub fn owed(
    table: &dyn TableRead,
    span: &ChunkSpan,
    after: Option<ChunkId>,
    max: usize,
) -> Result<Vec<(ChunkId, ChunkRecord)>, TableError> {
    let from = after.unwrap_or(span.start).max(span.start);
    let mut out = Vec::new();
    each(table, Space::Due, &[key::DUE_OWED], &key::owed(from), |at, _| {
        let chunk = at.last_chunk().copied().map(ChunkId).ok_or_else(|| broken(Space::Due, at))?;
        if after == Some(chunk) {
            return Ok(ControlFlow::Continue(()));
        }
        if out.len() == max || !span.holds(&chunk) {
            return Ok(ControlFlow::Break(()));
        }
        let record = current(table, chunk)?.ok_or_else(|| broken(Space::Chunks, &chunk.0))?;
        out.push((chunk, record));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(out)
}

/// Current records of chunks of `span` after `after`, in order.
pub fn scan(
    table: &dyn TableRead,
    span: &ChunkSpan,
    after: Option<ChunkId>,
    max: usize,
) -> Result<Vec<(ChunkId, ChunkRecord)>, TableError> {
    let mut out = Vec::new();
    let from = after.unwrap_or(span.start).max(span.start);
    each(table, Space::Chunks, &[], &from.0, |at, value| {
        let chunk = at.try_into().map(ChunkId).map_err(|_| broken(Space::Chunks, at))?;
        if after == Some(chunk) {
            return Ok(ControlFlow::Continue(()));
        }
        if out.len() == max || !span.holds(&chunk) {
            return Ok(ControlFlow::Break(()));
        }
        out.push((chunk, decode(Space::Chunks, at, value)?));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(out)
}
