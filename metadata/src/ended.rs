//! Ids that are over, remembered for as long as a message about them may still be under way.
//!
//! Two machines need it: the namespace, so that a late OpenIntent, Commit or CreateUpload does not begin anew what has ended,
//! and the chunk index, so that a late Reserve adds no reference that nobody would ever drop.
//! An id is forgotten when [`spine::limit::ENDED_KEPT`] younger ones have been released: by count, because a state machine
//! reads no clock and must stay bounded. Ids are random, so a forgotten one comes back only with a message that old.
//!
//! Invariant: every position in `tail..next` has exactly one entry, and its id's tombstone names that position.

use crate::key;
use crate::record;
use crate::table::{Space, TableError, TableRead, TableWrite};
use spine::id::VersionId;
use spine::limit::ENDED_KEPT;

/// Where a machine keeps its ended ids.
pub struct Ended {
    pub space: Space,
    /// First key bytes of the tombstones and of the ring.
    pub kinds: (u8, u8),
    /// Name of the counters in Meta.
    pub counter: &'static [u8],
}

impl Ended {
    /// Whether `id` is known to be over.
    pub fn contains(&self, table: &dyn TableRead, id: VersionId) -> Result<bool, TableError> {
        Ok(table.get(self.space, &key::tagged(self.kinds.0, id))?.is_some())
    }

    /// Remembers `id` until [`Self::release`] and beyond. Idempotent.
    pub fn hold(&self, table: &mut dyn TableWrite, id: VersionId) -> Result<(), TableError> {
        if self.contains(table, id)? {
            return Ok(());
        }
        table.put(self.space, &key::tagged(self.kinds.0, id), &[])
    }

    /// Remembers `id` for the next [`ENDED_KEPT`] released ones only. Idempotent.
    pub fn release(&self, table: &mut dyn TableWrite, id: VersionId) -> Result<(), TableError> {
        let tombstone = key::tagged(self.kinds.0, id);
        if table.get(self.space, &tombstone)?.is_some_and(|position| !position.is_empty()) {
            return Ok(());
        }
        let (next, mut tail): (u64, u64) = record::load(table, Space::Meta, self.counter)?.unwrap_or((0, 0));
        table.put(self.space, &tombstone, &next.to_be_bytes())?;
        table.put(self.space, &key::positioned(self.kinds.1, next), &id.0)?;
        if next - tail >= ENDED_KEPT {
            let entry = key::positioned(self.kinds.1, tail);
            let oldest = table.get(self.space, &entry)?.and_then(key::version_at_end);
            let oldest = oldest.ok_or_else(|| record::broken(self.space, &entry))?;
            table.delete(self.space, &key::tagged(self.kinds.0, oldest))?;
            table.delete(self.space, &entry)?;
            tail += 1;
        }
        record::save(table, Space::Meta, self.counter, &(next + 1, tail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::memory::MemoryTable;

    const ENDED: Ended = Ended { space: Space::Intents, kinds: key::INTENT_ENDED, counter: b"test" };

    fn id(n: u64) -> VersionId {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        VersionId(bytes)
    }

    #[test]
    fn the_oldest_is_forgotten_when_enough_younger_ones_have_ended() {
        let mut table = MemoryTable::default();
        for n in 0..ENDED_KEPT {
            ENDED.release(&mut table, id(n)).unwrap();
        }
        ENDED.release(&mut table, id(0)).unwrap();
        assert!(ENDED.contains(&table, id(0)).unwrap());
        ENDED.release(&mut table, id(ENDED_KEPT)).unwrap();
        assert!(!ENDED.contains(&table, id(0)).unwrap());
        assert!(ENDED.contains(&table, id(1)).unwrap());
        assert_eq!(table.len(Space::Intents) as u64, 2 * ENDED_KEPT);
    }

    #[test]
    fn what_is_held_is_not_forgotten_before_it_is_released() {
        let mut table = MemoryTable::default();
        ENDED.hold(&mut table, id(0)).unwrap();
        for n in 1..=2 * ENDED_KEPT {
            ENDED.release(&mut table, id(n)).unwrap();
        }
        assert!(ENDED.contains(&table, id(0)).unwrap());
    }
}
