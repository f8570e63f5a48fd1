//! The orders of a mover: what each makes of the group's ranges, and of its tables.

use super::holding::{self, Rubbish};
use super::noting::{self, Noted, Noting};
use super::{Ranges, chunks, names, page};
use crate::chunk_index::ledger::Ledger;
use crate::chunk_index::{self, restore};
use crate::format;
use crate::namespace::closed;
use crate::record::{broken, each};
use crate::table::{Space, TableError, TableRead, TableWrite};
use spine::id::{BucketId, ChunkId, GroupId, Seq};
use spine::limit::MOVE_ROWS;
use spine::map::NamePoint;
use spine::wire::format::LEVELLED;
use spine::wire::range::{BucketStep, Handover, Holding, MovedRow, Mover, Progress, Range, RangeCommand, RangeKind};
use spine::wire::{Refusal, Reply};
use std::ops::ControlFlow;

/// What an order came to: a reply, or why not.
type Done = Result<Result<Reply, Refusal>, TableError>;

/// Applies one order at position `at` of the group's log; a refusal changed nothing, but for `Mismatch`.
pub fn apply(table: &mut dyn TableWrite, ranges: &mut Ranges, command: &RangeCommand, at: Seq) -> Result<Reply, TableError> {
    let mut new = ranges.clone();
    match order(table, &mut new, command, at)? {
        Err(refusal) => Ok(Reply::Refused(refusal)),
        Ok(reply) => {
            if new != *ranges {
                *ranges = new;
                ranges.save(table)?;
            }
            Ok(reply)
        }
    }
}

fn order(table: &mut dyn TableWrite, ranges: &mut Ranges, command: &RangeCommand, at: Seq) -> Done {
    match command {
        RangeCommand::Prepare { by, range, from } => Ok(prepare(ranges, *by, range, *from).map(|()| Reply::Done)),
        RangeCommand::Export { by, range, to } => Ok(export(ranges, *by, range, *to).map(|()| Reply::Done)),
        RangeCommand::Import { by, kind, after, upto, rows } => take_page(table, ranges, *by, *kind, (after, upto), rows, None),
        RangeCommand::ImportChecked { by, kind, after, upto, rows, digest } => {
            take_page(table, ranges, *by, *kind, (after, upto), rows, Some(digest))
        }
        RangeCommand::Freeze { by, kind } => Ok(freeze(ranges, *by, *kind, true)),
        RangeCommand::Thaw { by, kind } => Ok(freeze(ranges, *by, *kind, false)),
        RangeCommand::Release { by, kind, change } => release(table, ranges, *by, *kind, *change, at),
        RangeCommand::Serve { by, kind, handover } => serve(table, ranges, *by, *kind, handover, at),
        RangeCommand::Purge { by, kind, max } => clear(table, ranges, *by, *kind, *max, holding::purge, holding::purge),
        RangeCommand::Cancel { by, kind, max } => clear(table, ranges, *by, *kind, *max, holding::cancel, holding::cancel),
        RangeCommand::Drop { by, kind, max } => clear(table, ranges, *by, *kind, *max, holding::discard, holding::discard),
        RangeCommand::Bucket { bucket, round, step, from } => bucket_step(table, ranges, (*bucket, from), *round, *step),
    }
}

fn prepare(ranges: &mut Ranges, by: Mover, range: &Range, from: GroupId) -> Result<(), Refusal> {
    match range {
        Range::Names(span) => holding::prepare(&mut ranges.names, by, span, from),
        Range::Chunks(span) => holding::prepare(&mut ranges.chunks, by, span, from),
    }
}

fn export(ranges: &mut Ranges, by: Mover, range: &Range, to: GroupId) -> Result<(), Refusal> {
    match range {
        Range::Names(span) => holding::export(&mut ranges.names, by, span, to),
        Range::Chunks(span) => holding::export(&mut ranges.chunks, by, span, to),
    }
}

fn freeze(ranges: &mut Ranges, by: Mover, kind: RangeKind, frozen: bool) -> Result<Reply, Refusal> {
    match kind {
        RangeKind::Names => holding::freeze(&mut ranges.names, by, frozen),
        RangeKind::Chunks => holding::freeze(&mut ranges.chunks, by, frozen),
    }?;
    Ok(Reply::Done)
}

/// Takes a page over, if the target has come to where it begins.
///
/// - `given`: the rows' digest, if it was told.
fn take_page(
    table: &mut dyn TableWrite,
    ranges: &mut Ranges,
    by: Mover,
    kind: RangeKind,
    (after, upto): (&Progress, &Progress),
    rows: &[MovedRow],
    given: Option<&[u8; 32]>,
) -> Done {
    let taken = match kind {
        RangeKind::Names => holding::import(&mut ranges.names, by, after, upto),
        RangeKind::Chunks => holding::import(&mut ranges.chunks, by, after, upto),
    };
    match taken {
        Ok(()) => import(table, kind, rows, given),
        Err(refusal) => Ok(Err(refusal)),
    }
}

/// Takes rows over and reads back what came of it. What is refused here has been written: nobody reads it, and it is written again.
fn import(table: &mut dyn TableWrite, kind: RangeKind, rows: &[MovedRow], given: Option<&[u8; 32]>) -> Done {
    let mut ledger = Ledger::load(table)?;
    for row in rows {
        let space = *Space::ALL.get(usize::from(row.space)).ok_or_else(|| broken(Space::Changed, &row.key))?;
        match kind {
            RangeKind::Names => import_name(table, space, row)?,
            RangeKind::Chunks => chunks::import(table, &mut ledger, space, &row.key, row.value.as_deref())?,
        }
    }
    if kind == RangeKind::Chunks {
        ledger.save(table)?;
    }
    let mut held = Vec::with_capacity(rows.len());
    for row in rows {
        held.push((row.space, &row.key[..], held_of(table, kind, row)?));
    }
    let digest = page::digest(held.into_iter());
    Ok(if given.is_none_or(|given| digest == *given) { Ok(Reply::Imported { digest }) } else { Err(Refusal::Mismatch) })
}

fn import_name(table: &mut dyn TableWrite, space: Space, row: &MovedRow) -> Result<(), TableError> {
    if !noting::is_of_names(space, &row.key) {
        return Err(broken(space, &row.key));
    }
    match &row.value {
        // The other part of the bucket may be here, and know more.
        Some(value) if space == Space::Meta => {
            if closed::is_later(table, &row.key, value)? {
                table.put(space, &row.key, value)?;
            }
            return Ok(());
        }
        Some(value) => table.put(space, &row.key, value)?,
        None => {
            table.delete(space, &row.key)?;
        }
    }
    table.put(Space::Changed, &noting::row_key(noting::imported(RangeKind::Names), space, &row.key), &[])
}

/// What the target has of a row, in the source's words.
fn held_of<'a>(table: &'a dyn TableRead, kind: RangeKind, row: &'a MovedRow) -> Result<Option<&'a [u8]>, TableError> {
    let space = *Space::ALL.get(usize::from(row.space)).ok_or_else(|| broken(Space::Changed, &row.key))?;
    match (kind, space, &row.value) {
        (RangeKind::Names, Space::Meta, Some(value)) if !closed::is_later(table, &row.key, value)? => Ok(Some(&value[..])),
        // Which of the versions that have ended are remembered, each group says itself: one may be forgotten here for another of this page.
        (RangeKind::Chunks, Space::Due, value) if noting::is_fence(&row.key) && (value.is_none() || format::of(table)? >= LEVELLED) => {
            Ok(value.as_deref())
        }
        (RangeKind::Chunks, ..) => chunks::as_noted(table, space, &row.key),
        (RangeKind::Names, ..) => table.get(space, &row.key),
    }
}

fn release(table: &dyn TableRead, ranges: &mut Ranges, by: Mover, kind: RangeKind, change: u64, at: Seq) -> Done {
    let above = Ledger::load(table)?.fresh().0;
    let handover = Handover { change, seq: Seq(ranges.base.saturating_add(at.0)), above, held: restore::is_held(table)? };
    Ok(match kind {
        RangeKind::Names => holding::release(&mut ranges.names, by, change, Handover { above: 0, held: false, ..handover }),
        RangeKind::Chunks => holding::release(&mut ranges.chunks, by, change, handover),
    }
    .map(Reply::Released))
}

fn serve(table: &mut dyn TableWrite, ranges: &mut Ranges, by: Mover, kind: RangeKind, handover: &Handover, at: Seq) -> Done {
    let served = match kind {
        RangeKind::Names => holding::serve(&mut ranges.names, by, handover),
        RangeKind::Chunks => holding::serve(&mut ranges.chunks, by, handover),
    };
    let first = match served {
        Err(refusal) => return Ok(Err(refusal)),
        Ok(first) => first,
    };
    if first {
        // Whatever comes after this entry has a greater position.
        ranges.base = ranges.base.max(handover.seq.0.saturating_sub(at.0));
        if kind == RangeKind::Chunks {
            go_on(table, handover)?;
        }
    }
    Ok(Ok(Reply::Done))
}

/// Has the chunks of a range that is taken over go on from where the other group was with them.
fn go_on(table: &mut dyn TableWrite, handover: &Handover) -> Result<(), TableError> {
    if handover.held && format::of(table)? >= LEVELLED {
        // Perhaps by a restore: what is doubted there is doubted here.
        return chunk_index::go_on_above(table, handover.above);
    }
    let mut ledger = Ledger::load(table)?;
    ledger.follow(handover.above);
    ledger.save(table)?;
    if handover.held { restore::hold(table, true) } else { Ok(()) }
}

/// Says what is to be deleted.
type Clear<P> = fn(&mut Holding<P>, Mover) -> Result<Option<Rubbish<P>>, Refusal>;

/// Deletes, in bounded steps, what a move leaves behind.
fn clear(
    table: &mut dyn TableWrite,
    ranges: &mut Ranges,
    by: Mover,
    kind: RangeKind,
    max: u32,
    of_names: Clear<NamePoint>,
    of_chunks: Clear<ChunkId>,
) -> Done {
    let max = max.clamp(1, MOVE_ROWS as u32);
    let left = match kind {
        RangeKind::Names => match of_names(&mut ranges.names, by) {
            Err(refusal) => return Ok(Err(refusal)),
            Ok(None) => max,
            Ok(Some(rubbish)) => clear_names(table, &rubbish, max)?,
        },
        RangeKind::Chunks => match of_chunks(&mut ranges.chunks, by) {
            Err(refusal) => return Ok(Err(refusal)),
            Ok(None) => max,
            Ok(Some(rubbish)) => clear_chunks(table, &rubbish, max)?,
        },
    };
    // With something left of the budget there is nothing left to delete.
    let more = left == 0;
    if !more {
        match kind {
            RangeKind::Names => holding::over(&mut ranges.names, by.id),
            RangeKind::Chunks => holding::over(&mut ranges.chunks, by.id),
        }
    }
    Ok(Ok(Reply::Purged { more }))
}

fn clear_names(table: &mut dyn TableWrite, rubbish: &Rubbish<NamePoint>, max: u32) -> Result<u32, TableError> {
    let kind = RangeKind::Names;
    match rubbish {
        Rubbish::Left(span) => {
            let left = names::purge(table, span, max)?;
            clear_changes(table, kind, left)
        }
        Rubbish::Changes => clear_changes(table, kind, max),
        Rubbish::Notes => clear_entries(table, &noting::imported(kind), max, |_, _| Ok(())),
        Rubbish::Imported(_) => clear_entries(table, &noting::imported(kind), max, |table, row| {
            let (space, key) = noting::named(row)?;
            table.delete(space, key).map(|_| ())
        }),
    }
}

fn clear_chunks(table: &mut dyn TableWrite, rubbish: &Rubbish<ChunkId>, max: u32) -> Result<u32, TableError> {
    let kind = RangeKind::Chunks;
    match rubbish {
        Rubbish::Left(span) | Rubbish::Imported(span) => {
            let mut ledger = Ledger::load(table)?;
            let left = chunks::purge(table, &mut ledger, span, max)?;
            ledger.save(table)?;
            clear_changes(table, kind, left)
        }
        Rubbish::Changes => clear_changes(table, kind, max),
        Rubbish::Notes => Ok(max),
    }
}

fn clear_changes(table: &mut dyn TableWrite, kind: RangeKind, budget: u32) -> Result<u32, TableError> {
    let left = clear_entries(table, &noting::numbers(kind), budget, |_, _| Ok(()))?;
    clear_entries(table, &noting::rows(kind), left, |_, _| Ok(()))
}

/// Deletes up to `budget` entries of Changed that begin with `prefix`, each after `with` was done with the rest of its key; the budget left.
fn clear_entries(
    table: &mut dyn TableWrite,
    prefix: &[u8; 2],
    budget: u32,
    with: impl Fn(&mut dyn TableWrite, &[u8]) -> Result<(), TableError>,
) -> Result<u32, TableError> {
    let mut entries = Vec::new();
    if budget > 0 {
        each(table, Space::Changed, prefix, &[], |at, _| {
            entries.push(at.to_vec());
            Ok(if entries.len() < budget as usize { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
    }
    for entry in &entries {
        with(table, &entry[prefix.len()..])?;
        table.delete(Space::Changed, entry)?;
    }
    Ok(budget - entries.len() as u32)
}

/// One step of a bucket's deletion, for the part of it that is here.
fn bucket_step(table: &mut dyn TableWrite, ranges: &mut Ranges, (bucket, from): (BucketId, &[u8]), round: u64, step: BucketStep) -> Done {
    let owned = ranges.names.owned.as_ref().filter(|owned| owned.holds(&NamePoint::new(bucket, from)));
    let Some(part) = owned.and_then(|owned| names::of_bucket(owned, bucket, from)) else { return Ok(Err(Refusal::NotHere)) };
    let whole = owned.and_then(|owned| names::of_bucket(owned, bucket, &[]));
    let moving =
        ranges.names.outgoing.as_ref().filter(|outgoing| whole.as_ref().is_some_and(|whole| holding::overlap(&outgoing.span, whole)));
    if moving.is_some_and(|outgoing| outgoing.frozen) {
        return Ok(Err(Refusal::Frozen));
    }
    if step == BucketStep::Close && names::any(table, &part)? {
        return Ok(Err(Refusal::BucketNotEmpty));
    }
    let noted = moving.filter(|outgoing| !outgoing.cancelled).map(|outgoing| outgoing.changes);
    let outcome = match noted {
        None => closed::note(table, bucket, round, step)?,
        Some(changes) => {
            let mut noting = Noting::new(table, Noted::Names, changes);
            let outcome = closed::note(&mut noting, bucket, round, step)?;
            let changes = noting.changes;
            ranges.names.outgoing.iter_mut().for_each(|outgoing| outgoing.changes = changes);
            outcome
        }
    };
    let inside = |end: &NamePoint| end.bucket == bucket;
    let end = ranges.names.owned.as_ref().and_then(|owned| owned.end.clone()).filter(inside);
    Ok(outcome.map(|()| Reply::Stepped { end }))
}
