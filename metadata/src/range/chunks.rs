//! The rows of a span of the chunk index: in which order they are copied, what a target does with one, and how they are deleted.
//!
//! Copied: the fence against writers that come too late, whole; the chunks' records; their references; records that are being deleted.
//! What follows from those (holdings, the lists of what is due, totals) the target makes itself.

use super::noting;
use super::page::{Place, Rows};
use crate::chunk_index::ledger::Ledger;
use crate::chunk_index::{due, holding};
use crate::key;
use crate::record::{broken, decode, each};
use crate::table::{Space, TableError, TableRead, TableWrite};
use spine::id::{ChunkId, Gen, VersionId};
use spine::wire::range::ChunkSpan;
use std::ops::ControlFlow;

/// Stages of copying.
pub const STAGES: u8 = 4;

/// Copies what comes at `place` and after it; where the page became full, or `None` at the end of the stage.
pub fn copy(table: &dyn TableRead, span: &ChunkSpan, place: &Place, page: &mut Rows) -> Result<Option<Place>, TableError> {
    let start = &span.start.0[..];
    match place.stage {
        0 => flat(table, (Space::Due, &[key::DUE_ENDED.1], 1), None, place, page),
        1 => flat(table, (Space::Chunks, start, 0), Some(span), place, page),
        2 => flat(table, (Space::References, start, 0), Some(span), place, page),
        _ => flat(table, (Space::Due, &[&[key::DUE_DELETING][..], start].concat(), 1), Some(span), place, page),
    }
}

/// Rows of one table from `from` on, those of chunks within `span`; `prefix` bytes of `from` are what all of them begin with.
fn flat(
    table: &dyn TableRead,
    (space, from, prefix): (Space, &[u8], usize),
    span: Option<&ChunkSpan>,
    place: &Place,
    page: &mut Rows,
) -> Result<Option<Place>, TableError> {
    let mut full = None;
    each(table, space, &from[..prefix], place.key.as_slice().max(from), |at, value| {
        if span.is_some_and(|span| !chunk_at(at, prefix).is_some_and(|chunk| span.holds(&chunk))) {
            return Ok(ControlFlow::Break(()));
        }
        if page.is_full() {
            full = Some(place.at(at, 0));
            return Ok(ControlFlow::Break(()));
        }
        match span {
            Some(_) => page.push(space, at, Some(value)),
            // Of the fence only the versions go, in the order in which they ended: positions are each group's own.
            None => {
                let version = value.try_into().map(VersionId).map_err(|_| broken(space, at))?;
                page.push(space, &key::tagged(key::DUE_ENDED.0, version), Some(&[]));
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(full)
}

fn chunk_at(key: &[u8], offset: usize) -> Option<ChunkId> {
    key.get(offset..)?.first_chunk().copied().map(ChunkId)
}

/// What a noted row is for the target.
pub fn as_noted<'a>(table: &'a dyn TableRead, space: Space, key: &[u8]) -> Result<Option<&'a [u8]>, TableError> {
    let value = table.get(space, key)?;
    Ok(if space == Space::Due && noting::is_fence(key) { value.map(|_| &[][..]) } else { value })
}

/// Takes one row over, and all that follows from it.
pub fn import(table: &mut dyn TableWrite, ledger: &mut Ledger, space: Space, key: &[u8], value: Option<&[u8]>) -> Result<(), TableError> {
    let wrong = || broken(space, key);
    match (space, key.first()) {
        (Space::Chunks, _) => {
            let chunk = key.try_into().map(ChunkId).map_err(|_| wrong())?;
            let old = due::current(table, chunk)?;
            match value {
                Some(value) => {
                    if let Some(old) = &old {
                        table.delete(Space::Due, &key::unreferenced(chunk, old.generation))?;
                    }
                    due::replace(table, ledger, chunk, old.as_ref(), &decode(space, key, value)?)?;
                }
                None => due::remove(table, ledger, chunk)?,
            }
            holding::list_if_unreferenced(table, chunk)
        }
        (Space::References, _) => {
            let chunk = chunk_at(key, 0).ok_or_else(wrong)?;
            let version = key::version_at_end(key).ok_or_else(wrong)?;
            match value {
                Some(_) => holding::put(table, ledger, chunk, version)?,
                None => holding::take(table, ledger, chunk, version)?,
            }
            holding::list_if_unreferenced(table, chunk)
        }
        (Space::Due, Some(&key::DUE_DELETING)) => {
            let (chunk, generation) = key::chunk_and_gen_at_end(key).ok_or_else(wrong)?;
            due::forget(table, ledger, chunk, generation)?;
            match value {
                Some(value) => due::put_deleting(table, ledger, chunk, &decode(space, key, value)?),
                None => Ok(()),
            }
        }
        (Space::Due, _) if noting::is_fence(key) => match value {
            Some(_) => holding::ENDED.release(table, key::version_at_end(key).ok_or_else(wrong)?),
            // Forgotten there, because enough have ended since; here it goes the same way.
            None => Ok(()),
        },
        _ => Err(wrong()),
    }
}

/// Deletes up to `budget` rows of the span; the budget that is left.
pub fn purge(table: &mut dyn TableWrite, ledger: &mut Ledger, span: &ChunkSpan, mut budget: u32) -> Result<u32, TableError> {
    let start = &span.start.0[..];
    for at in keys(table, (Space::Chunks, start, 0), span, budget)? {
        due::remove(table, ledger, chunk_at(&at, 0).ok_or_else(|| broken(Space::Chunks, &at))?)?;
        budget -= 1;
    }
    for at in keys(table, (Space::References, start, 0), span, budget)? {
        let wrong = || broken(Space::References, &at);
        holding::take(table, ledger, chunk_at(&at, 0).ok_or_else(wrong)?, key::version_at_end(&at).ok_or_else(wrong)?)?;
        budget -= 1;
    }
    for at in keys(table, (Space::Due, &[&[key::DUE_DELETING][..], start].concat(), 1), span, budget)? {
        let (chunk, generation): (ChunkId, Gen) = key::chunk_and_gen_at_end(&at).ok_or_else(|| broken(Space::Due, &at))?;
        due::forget(table, ledger, chunk, generation)?;
        budget -= 1;
    }
    Ok(budget)
}

fn keys(
    table: &dyn TableRead,
    (space, from, prefix): (Space, &[u8], usize),
    span: &ChunkSpan,
    most: u32,
) -> Result<Vec<Vec<u8>>, TableError> {
    let mut out = Vec::new();
    each(table, space, &from[..prefix], from, |at, _| {
        if out.len() >= most as usize || !chunk_at(at, prefix).is_some_and(|chunk| span.holds(&chunk)) {
            return Ok(ControlFlow::Break(()));
        }
        out.push(at.to_vec());
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(out)
}
