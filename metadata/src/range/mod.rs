//! What a group owns of the names and of the chunks, and moving a range from a group to another.
//!
//! - `holding.rs`: what each order does to what a group has of one kind; pure
//! - `access.rs`: which names and chunks a command or a query is about, and whether the group owns them
//! - `noting.rs`: the changes in a range that moves
//! - `names.rs`, `chunks.rs`: the rows that move; `page.rs`: what is given at a time
//! - `orders.rs`: the orders, with the tables they change; `sound.rs`: which rows may come in
//!
//! One record a table says what is owned. Group 0 begins with everything, every other group with nothing. A command is applied, and a query
//! answered, only where that record has what it is about: at the command's place in the log, in the query's moment of the table.
//! Invariants: of two groups that move a range, one owns it at any time, or none between Release and Serve; what the target serves is row for
//! row what the source had when it released; a move that is taken back leaves the source as it was and nothing at the target.
//! Not here: who gives the orders (the mover), where a range is looked for (the root's map).

pub mod access;
mod chunks;
pub mod holding;
pub mod names;
mod noting;
mod orders;
pub(crate) mod page;
pub mod sound;
#[cfg(test)]
mod tests;

use crate::record::{load, save};
use crate::table::{Space, TableError, TableRead, TableWrite};
use crate::{chunk_index, namespace};
use noting::{Noted, Noting};
use serde::{Deserialize, Serialize};
use spine::id::{ChunkId, GroupId, Seq};
use spine::map::NamePoint;
use spine::wire::chunk::ChunkCommand;
use spine::wire::namespace::NamespaceCommand;
use spine::wire::range::{Holding, Mover, Range, RangeAnswer, RangeCommand, RangeKind, RangeQuery, RangeStatus};
use spine::wire::{MetadataError, Reply};

/// Key in Meta of what the group has.
pub const RANGES: &[u8] = b"ranges";
/// The group that has everything until something is moved.
const FIRST: GroupId = GroupId(0);

/// What one group has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranges {
    pub names: Holding<NamePoint>,
    pub chunks: Holding<ChunkId>,
    /// Added to a position of this log, it is a place in the order of versions: raised so that no version comes before one that another
    /// group gave a place to.
    pub base: u64,
}

impl Ranges {
    pub fn load(table: &dyn TableRead, group: GroupId) -> Result<Self, TableError> {
        let at_start = || Self { names: holding::at_start(group == FIRST), chunks: holding::at_start(group == FIRST), base: 0 };
        Ok(load(table, Space::Meta, RANGES)?.unwrap_or_else(at_start))
    }

    pub fn save(&self, table: &mut dyn TableWrite) -> Result<(), TableError> {
        save(table, Space::Meta, RANGES, self)
    }
}

/// Applies a command about names at position `at` of the group's log.
pub fn apply_name(
    table: &mut dyn TableWrite,
    group: GroupId,
    ranges: &mut Ranges,
    command: &NamespaceCommand,
    at: Seq,
) -> Result<Reply, TableError> {
    let seq = Seq(ranges.base.saturating_add(at.0));
    match access::write_name(ranges, command) {
        Err(refusal) => Ok(Reply::Refused(refusal)),
        Ok(false) => namespace::apply(table, group, command, seq),
        Ok(true) => {
            let before = ranges.names.outgoing.as_ref().map_or(0, |outgoing| outgoing.changes);
            let mut noting = Noting::new(table, Noted::Names, before);
            let reply = namespace::apply(&mut noting, group, command, seq)?;
            let changes = noting.changes;
            if changes != before {
                ranges.names.outgoing.iter_mut().for_each(|outgoing| outgoing.changes = changes);
                ranges.save(table)?;
            }
            Ok(reply)
        }
    }
}

/// Applies a command about chunks.
pub fn apply_chunk(table: &mut dyn TableWrite, ranges: &mut Ranges, command: &ChunkCommand) -> Result<Reply, TableError> {
    if let Err(refusal) = access::write_chunks(ranges, command) {
        return Ok(Reply::Refused(refusal));
    }
    let Some(outgoing) = ranges.chunks.outgoing.as_ref().filter(|outgoing| !outgoing.cancelled) else {
        return chunk_index::apply(table, command);
    };
    let (span, before) = (outgoing.span, outgoing.changes);
    let mut noting = Noting::new(table, Noted::Chunks(span), before);
    let reply = chunk_index::apply(&mut noting, command)?;
    let changes = noting.changes;
    if changes != before {
        ranges.chunks.outgoing.iter_mut().for_each(|outgoing| outgoing.changes = changes);
        ranges.save(table)?;
    }
    Ok(reply)
}

/// Applies an order at position `at` of the group's log; a refusal changed nothing but rows that nobody reads yet.
pub fn apply(table: &mut dyn TableWrite, ranges: &mut Ranges, command: &RangeCommand, at: Seq) -> Result<Reply, TableError> {
    orders::apply(table, ranges, command, at)
}

/// # Errors
/// `NotHere`: the group exports nothing for this move. The table's.
pub fn answer(table: &dyn TableRead, ranges: Ranges, query: &RangeQuery) -> Result<RangeAnswer, MetadataError> {
    Ok(match query {
        RangeQuery::Status => RangeAnswer::Status(Box::new(RangeStatus { names: ranges.names, chunks: ranges.chunks })),
        RangeQuery::Export { by, kind, after, max_bytes } => {
            let (range, changes) = exported(&ranges, *by, *kind).ok_or(MetadataError::NotHere)?;
            RangeAnswer::Exported(page::page(table, &range, changes, after, *max_bytes)?)
        }
    })
}

/// The range that this mover takes from here, and the last change noted in it.
fn exported(ranges: &Ranges, by: Mover, kind: RangeKind) -> Option<(Range, u64)> {
    let goes_on = |known: Mover, cancelled: bool| known.id == by.id && known.attempt <= by.attempt && !cancelled;
    match kind {
        RangeKind::Names => {
            let outgoing = ranges.names.outgoing.as_ref().filter(|outgoing| goes_on(outgoing.by, outgoing.cancelled))?;
            Some((Range::Names(outgoing.span.clone()), outgoing.changes))
        }
        RangeKind::Chunks => {
            let outgoing = ranges.chunks.outgoing.as_ref().filter(|outgoing| goes_on(outgoing.by, outgoing.cancelled))?;
            Some((Range::Chunks(outgoing.span), outgoing.changes))
        }
    }
}
