//! An index that is made again from what lies on nodes, and the hold that keeps the collector away from it.
//!
//! Re-indexing knows chunks and no objects: nothing refers to what it restores, and to a collector that looks like garbage. So the
//! step that restores the first chunk also holds the collection, and only an operator releases it.
//!
//! After a restore of metadata the index says what was true when the copy was made. What it knows then is doubted until the collection is
//! released: every older record is of a generation below one number, and whoever reserves such a chunk stores it again under that number.
//! Invariants: chunks are doubted only while the collection is held, so that nobody sweeps what their writers store; what the index knows of
//! a chunk, also that it is being deleted, is never overruled by what a node has, except that what is doubted and nobody's is forgotten
//! where nodes have too few of its shards; a restored chunk is Live and without references; no generation or tag is given again that a
//! shard may have, and none is believed that would use the counter up.
//! Not here: judging shards (the gateway's `reindex`).

use super::ledger::Ledger;
use super::{due, holding, transition};
use crate::record::{load, save};
use crate::table::{Space, TableError, TableRead, TableWrite};
use spine::id::{ChunkId, Gen};
use spine::limit::FOUND_NUMBERS;
use spine::wire::chunk::{ChunkRecord, ChunkState, Confirmation};

const HELD: &[u8] = b"chunks-held";
/// Key in Meta of the generation below which chunks are doubted, and that they are stored again as.
const DOUBTED: &[u8] = b"chunks-doubted";

/// Whether the collection is held.
pub fn is_held(table: &dyn TableRead) -> Result<bool, TableError> {
    Ok(load(table, Space::Meta, HELD)?.unwrap_or(false))
}

/// Holds the collection, or releases it: then nothing is doubted any more.
pub fn hold(table: &mut dyn TableWrite, held: bool) -> Result<(), TableError> {
    if is_held(table)? != held {
        save(table, Space::Meta, HELD, &held)?;
    }
    if !held {
        table.delete(Space::Meta, DOUBTED)?;
    }
    Ok(())
}

/// Holds the collection and doubts every chunk that there is.
pub fn doubt(table: &mut dyn TableWrite, ledger: &mut Ledger) -> Result<(), TableError> {
    hold(table, true)?;
    save(table, Space::Meta, DOUBTED, &ledger.fresh())?;
    ledger.take();
    Ok(())
}

/// The generation below which chunks are doubted; `None`: none is.
pub fn renewed(table: &dyn TableRead) -> Result<Option<Gen>, TableError> {
    load(table, Space::Meta, DOUBTED)
}

/// Forgets those of these that are doubted, of exactly this generation, and that nothing refers to, one bool a chunk; `false`: it is doubted
/// still, since something refers to it. Nodes were asked for their shards, and have too few: once nothing is doubted any more, whoever
/// writes the same data would be told that it is there.
pub fn forget(table: &mut dyn TableWrite, ledger: &mut Ledger, chunks: &[(ChunkId, Gen)]) -> Result<Vec<bool>, TableError> {
    let renewed = renewed(table)?;
    let mut outcomes = Vec::with_capacity(chunks.len());
    for &(chunk, generation) in chunks {
        let record = due::current(table, chunk)?.filter(|record| record.generation == generation);
        let doubted = record.zip(renewed).is_some_and(|(record, renewed)| transition::is_doubted(&record, renewed));
        let wanted = doubted && holding::is_referenced(table, chunk)?;
        if doubted && !wanted {
            due::remove(table, ledger, chunk)?;
        }
        outcomes.push(!wanted);
    }
    Ok(outcomes)
}

/// Makes chunks that the index does not know Live, one bool a chunk: whether it did.
pub fn restore(table: &mut dyn TableWrite, ledger: &mut Ledger, chunks: &[Confirmation], above: u64) -> Result<Vec<bool>, TableError> {
    hold(table, true)?;
    ledger.pass(above);
    let mut restored = Vec::with_capacity(chunks.len());
    for Confirmation { chunk, generation, placement } in chunks {
        let is_old = |number: u64| number < ledger.fresh().0.min(FOUND_NUMBERS);
        let tags_are_old = placement.shards.iter().flatten().all(|place| is_old(place.tag.0));
        if !transition::is_whole(placement) || !is_old(generation.0) || !tags_are_old || due::known(table, *chunk)?.is_some() {
            restored.push(false);
            continue;
        }
        let record = ChunkRecord {
            generation: *generation,
            state: ChunkState::Live,
            placement: Some(placement.clone()),
            condemned: None,
            targets: Vec::new(),
        };
        due::replace(table, ledger, *chunk, None, &record)?;
        holding::list_unreferenced(table, *chunk)?;
        restored.push(true);
    }
    Ok(restored)
}
