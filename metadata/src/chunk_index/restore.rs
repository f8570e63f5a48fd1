//! An index that is made again from what lies on nodes, and the hold that keeps the collector away from it.
//!
//! Re-indexing knows chunks and no objects: nothing refers to what it restores, and to a collector that looks like garbage. So the
//! step that restores the first chunk also holds the collection, and only an operator releases it.
//! Invariants: what the index knows of a chunk, also that it is being deleted, is never overruled by what a node has; a restored chunk
//! is Live and without references; no generation or tag is given again that a shard may have, and none is believed that would use the
//! counter up.
//! Not here: judging shards (the gateway's `reindex`).

use super::ledger::Ledger;
use super::{due, holding, transition};
use crate::record::{load, save};
use crate::table::{Space, TableError, TableRead, TableWrite};
use spine::limit::FOUND_NUMBERS;
use spine::wire::chunk::{ChunkRecord, ChunkState, Confirmation};

const HELD: &[u8] = b"chunks-held";

/// Whether the collection is held.
pub fn is_held(table: &dyn TableRead) -> Result<bool, TableError> {
    Ok(load(table, Space::Meta, HELD)?.unwrap_or(false))
}

/// Holds the collection, or releases it.
pub fn hold(table: &mut dyn TableWrite, held: bool) -> Result<(), TableError> {
    if is_held(table)? != held {
        save(table, Space::Meta, HELD, &held)?;
    }
    Ok(())
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
