//! A chunk range's machine: reference first, data second, commit third.
//!
//! - `transition.rs`: what each step makes of one record; pure, and checked by the model in `conformance`
//! - `holding.rs`: the references, and the fence against writers that come too late
//! - `due.rs`: the records in their table, and the ordered lists of what is due on them
//! - `restore.rs`: chunks found again on nodes, and the hold on the collection
//! - `ledger.rs`: the counter of generations and tags, and the totals
//!
//! Invariants: those of the files, and: a committed version's chunks are Live, because its references were added before the
//! commit and are dropped only after the version is terminal.
//! Not here: which version is live (`namespace/`), when to condemn and to delete (the gateway's collector), the shards.

pub(crate) mod due;
pub(crate) mod holding;
pub(crate) mod ledger;
pub(crate) mod restore;
#[cfg(test)]
pub mod tests;
pub mod transition;

use crate::key;
use crate::table::{Space, TableError, TableRead, TableWrite};
use ledger::Ledger;
use spine::id::{ChunkId, Gen, NodeId, ShardIndex, UnixMs, VersionId};
use spine::wire::chunk::{ChunkAnswer, ChunkCommand, ChunkQuery, Confirmation, Place, ReserveOutcome, ShardName};
use spine::wire::range::{ALL_CHUNKS, ChunkSpan};
use spine::wire::{Refusal, Reply};
use transition::Confirmed;

/// Applies one command; a refusal changed nothing.
pub fn apply(table: &mut dyn TableWrite, command: &ChunkCommand) -> Result<Reply, TableError> {
    let before = Ledger::load(table)?;
    let mut ledger = before;
    let reply = match command {
        ChunkCommand::Reserve { version, chunks } => reserve(table, &mut ledger, *version, chunks)?,
        ChunkCommand::Confirm { version, chunks } => confirm(table, &mut ledger, *version, chunks)?,
        ChunkCommand::Unref { version, span } => {
            holding::ENDED.release(table, *version)?;
            Reply::Unreferenced { more: holding::drop_some(table, &mut ledger, *version, span)? }
        }
        ChunkCommand::Condemn { chunks, now } => condemn(table, &mut ledger, chunks, *now)?,
        ChunkCommand::BeginDelete { chunks } => begin_delete(table, &mut ledger, chunks)?,
        ChunkCommand::FinishDelete { chunks } => {
            for (chunk, generation) in chunks {
                due::forget(table, &mut ledger, *chunk, *generation)?;
            }
            Reply::Done
        }
        ChunkCommand::ReserveTarget { chunk, generation, index, node } => {
            reserve_target(table, &mut ledger, *chunk, *generation, *index, *node)?
        }
        ChunkCommand::Move { chunk, generation, index, place } => relocate(table, &mut ledger, *chunk, *generation, *index, *place)?,
        ChunkCommand::MarkLost { shard, node } => mark_lost(table, &mut ledger, *shard, *node)?,
        ChunkCommand::Restore { chunks, above } => Reply::Confirmed(restore::restore(table, &mut ledger, chunks, *above)?),
        ChunkCommand::Hold { held, .. } => {
            restore::hold(table, *held)?;
            Reply::Done
        }
        ChunkCommand::Forget { chunks } => Reply::Confirmed(restore::forget(table, &mut ledger, chunks)?),
    };
    if ledger != before {
        ledger.save(table)?;
    }
    Ok(reply)
}

/// The lowest generation or tag that was not given yet.
pub fn given(table: &dyn TableRead) -> Result<u64, TableError> {
    Ok(Ledger::load(table)?.fresh().0)
}

/// After a restore, or where a range comes from a group that may have seen one: holds the collection, doubts every chunk that is here, and
/// gives no generation or tag below `above`.
pub fn go_on_above(table: &mut dyn TableWrite, above: u64) -> Result<(), TableError> {
    let mut ledger = Ledger::load(table)?;
    ledger.follow(above);
    restore::doubt(table, &mut ledger)?;
    ledger.save(table)
}

/// After a restore: forgets those of `chunks` that nothing refers to. When the copy was made, they may have been about to be collected, and
/// since then have been; whoever writes one again gets another generation. What is being deleted goes on being deleted.
pub fn forget_unreferenced(table: &mut dyn TableWrite, chunks: impl Iterator<Item = ChunkId>) -> Result<(), TableError> {
    let before = Ledger::load(table)?;
    let mut ledger = before;
    for chunk in chunks {
        if !holding::is_referenced(table, chunk)? {
            due::remove(table, &mut ledger, chunk)?;
        }
    }
    if ledger != before { ledger.save(table) } else { Ok(()) }
}

/// After a restore: `version`, which is committed, holds these chunks. One that is not durable, or is being deleted, is left as it is: nobody
/// could write it again under this name.
pub fn refer(table: &mut dyn TableWrite, version: VersionId, chunks: impl Iterator<Item = ChunkId>) -> Result<(), TableError> {
    let before = Ledger::load(table)?;
    let mut ledger = before;
    for chunk in chunks {
        if holding::is_held(table, chunk, version)? {
            continue;
        }
        let old = due::current(table, chunk)?;
        let (new, outcome) = transition::reserve(old.as_ref(), ledger.fresh());
        let (Some(old), ReserveOutcome::Hit) = (old, outcome) else { continue };
        if let Some(new) = &new {
            due::replace(table, &mut ledger, chunk, Some(&old), new)?;
        }
        holding::add(table, &mut ledger, chunk, version, old.generation)?;
    }
    if ledger != before { ledger.save(table) } else { Ok(()) }
}

/// After a restore: `version`, of which no name is left, holds nothing and never will.
pub fn drop_all(table: &mut dyn TableWrite, version: VersionId) -> Result<(), TableError> {
    let mut ledger = Ledger::load(table)?;
    holding::ENDED.release(table, version)?;
    while holding::drop_some(table, &mut ledger, version, &ALL_CHUNKS)? {}
    ledger.save(table)
}

fn reserve(table: &mut dyn TableWrite, ledger: &mut Ledger, version: VersionId, chunks: &[ChunkId]) -> Result<Reply, TableError> {
    if holding::ENDED.contains(table, version)? {
        return Ok(Reply::Refused(Refusal::IntentClosed));
    }
    if ledger.left() < chunks.len() as u64 && ledger.left() < numbers_for(table, ledger, chunks)? {
        return Ok(Reply::Refused(Refusal::Exhausted));
    }
    let renewed = restore::renewed(table)?;
    let mut outcomes = Vec::with_capacity(chunks.len());
    for &chunk in chunks {
        let old = due::current(table, chunk)?;
        let (new, outcome) = match (&old, renewed) {
            (Some(old), Some(renewed)) if transition::is_doubted(old, renewed) => transition::reserve_doubted(old, renewed),
            _ => transition::reserve(old.as_ref(), ledger.fresh()),
        };
        if let Some(new) = &new {
            if new.generation == ledger.fresh() {
                ledger.take();
            }
            due::replace(table, ledger, chunk, old.as_ref(), new)?;
        }
        if let Some(record) = new.or(old) {
            holding::add(table, ledger, chunk, version, record.generation)?;
        }
        outcomes.push(outcome);
    }
    Ok(Reply::Reserved(outcomes))
}

/// How many generations a reservation of these takes, or more where one is named twice.
fn numbers_for(table: &dyn TableRead, ledger: &Ledger, chunks: &[ChunkId]) -> Result<u64, TableError> {
    let mut needed = 0;
    for &chunk in chunks {
        let (new, _) = transition::reserve(due::current(table, chunk)?.as_ref(), ledger.fresh());
        needed += u64::from(new.is_some_and(|new| new.generation == ledger.fresh()));
    }
    Ok(needed)
}

fn confirm(table: &mut dyn TableWrite, ledger: &mut Ledger, version: VersionId, chunks: &[Confirmation]) -> Result<Reply, TableError> {
    let renewed = restore::renewed(table)?;
    let mut outcomes = Vec::with_capacity(chunks.len());
    for Confirmation { chunk, generation, placement } in chunks {
        let old = due::current(table, *chunk)?;
        let held = holding::is_held(table, *chunk, version)?;
        let renewal = renewed.and_then(|renewed| transition::renew(old.as_ref(), held, renewed, *generation, placement));
        let confirmed = renewal.map_or_else(|| transition::confirm(old.as_ref(), held, *generation, placement), Confirmed::Now);
        if let Confirmed::Now(new) = &confirmed {
            due::replace(table, ledger, *chunk, old.as_ref(), new)?;
        }
        outcomes.push(confirmed != Confirmed::No);
    }
    Ok(Reply::Confirmed(outcomes))
}

fn condemn(table: &mut dyn TableWrite, ledger: &mut Ledger, chunks: &[(ChunkId, Gen)], now: UnixMs) -> Result<Reply, TableError> {
    if restore::is_held(table)? {
        return Ok(Reply::Done);
    }
    for &(chunk, generation) in chunks {
        let old = due::current(table, chunk)?;
        let referenced = holding::is_referenced(table, chunk)?;
        if let Some(new) = transition::condemn(old.as_ref(), generation, referenced, now) {
            table.delete(Space::Due, &key::unreferenced(chunk, generation))?;
            due::replace(table, ledger, chunk, old.as_ref(), &new)?;
        }
    }
    Ok(Reply::Done)
}

fn begin_delete(table: &mut dyn TableWrite, ledger: &mut Ledger, chunks: &[(ChunkId, Gen)]) -> Result<Reply, TableError> {
    let mut begun = Vec::new();
    if restore::is_held(table)? {
        return Ok(Reply::Deleting(begun));
    }
    for &(chunk, generation) in chunks {
        let old = due::current(table, chunk)?;
        let referenced = holding::is_referenced(table, chunk)?;
        if let Some(new) = transition::begin_delete(old.as_ref(), generation, referenced) {
            due::replace(table, ledger, chunk, old.as_ref(), &new)?;
            begun.push((chunk, generation));
        }
    }
    Ok(Reply::Deleting(begun))
}

fn reserve_target(
    table: &mut dyn TableWrite,
    ledger: &mut Ledger,
    chunk: ChunkId,
    generation: Gen,
    index: ShardIndex,
    node: NodeId,
) -> Result<Reply, TableError> {
    let old = due::current(table, chunk)?;
    let tag = ledger.fresh_tag();
    match transition::reserve_target(old.as_ref(), generation, index, node, tag) {
        Err(refusal) => Ok(Reply::Refused(refusal)),
        Ok(_) if ledger.left() == 0 => Ok(Reply::Refused(Refusal::Exhausted)),
        Ok(new) => {
            ledger.take();
            due::replace(table, ledger, chunk, old.as_ref(), &new)?;
            Ok(Reply::Target(tag))
        }
    }
}

fn relocate(
    table: &mut dyn TableWrite,
    ledger: &mut Ledger,
    chunk: ChunkId,
    generation: Gen,
    index: ShardIndex,
    place: Place,
) -> Result<Reply, TableError> {
    let record = due::current(table, chunk)?;
    match transition::relocate(record.as_ref(), generation, index, place) {
        Err(refusal) => Ok(Reply::Refused(refusal)),
        Ok((new, old)) => {
            due::replace(table, ledger, chunk, record.as_ref(), &new)?;
            Ok(Reply::Moved { old })
        }
    }
}

fn mark_lost(table: &mut dyn TableWrite, ledger: &mut Ledger, shard: ShardName, node: NodeId) -> Result<Reply, TableError> {
    let old = due::current(table, shard.chunk)?;
    if let Some(new) = transition::mark_lost(old.as_ref(), shard, node) {
        due::replace(table, ledger, shard.chunk, old.as_ref(), &new)?;
    }
    Ok(Reply::Done)
}

/// Answers one query from the chunks of `span`. `Scan` gives each chunk's current record; generations that are being deleted are in `Deleting` alone.
pub fn answer(table: &dyn TableRead, span: &ChunkSpan, query: &ChunkQuery) -> Result<ChunkAnswer, TableError> {
    Ok(match query {
        ChunkQuery::Records(chunks) => {
            ChunkAnswer::Records(chunks.iter().map(|chunk| due::known(table, *chunk)).collect::<Result<_, _>>()?)
        }
        ChunkQuery::Unreferenced { max } => ChunkAnswer::Ids(due::unreferenced(table, span, *max)?),
        ChunkQuery::Condemned { before, max } => ChunkAnswer::Ids(due::condemned(table, span, *before, *max)?),
        ChunkQuery::Deleting { max } => ChunkAnswer::Scan(due::deleting(table, span, *max)?),
        ChunkQuery::Owed { after, max } => ChunkAnswer::Scan(due::owed(table, span, *after, *max)?),
        ChunkQuery::Scan { after, max } => ChunkAnswer::Scan(due::scan(table, span, *after, *max)?),
        ChunkQuery::References { chunk, max } => ChunkAnswer::References(holding::of_chunk(table, *chunk, *max)?),
        ChunkQuery::Totals => ChunkAnswer::Totals(Ledger::load(table)?.totals),
        ChunkQuery::Held => ChunkAnswer::Held(restore::is_held(table)?),
        ChunkQuery::Doubted => ChunkAnswer::Doubted(restore::renewed(table)?.is_some()),
        ChunkQuery::Given => ChunkAnswer::Given(given(table)?),
    })
}
