//! The chunk range's counters: the next generation or tag, and the totals. Loaded and saved once a command.
//!
//! Invariants: the totals are exactly what counting the tables would give; the counter never wraps, and what is found on nodes moves it no
//! farther than to [`FOUND_NUMBERS`].

use crate::record::{load, save};
use crate::table::{Space, TableError, TableRead, TableWrite};
use serde::{Deserialize, Serialize};
use spine::id::{Gen, Tag};
use spine::limit::FOUND_NUMBERS;
use spine::wire::chunk::{ChunkRecord, Totals};

use super::transition::owes_shards;

/// Key in Meta.
pub const COUNTER: &[u8] = b"chunks";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Generations and tags share one counter and are never given twice.
    next: u64,
    pub totals: Totals,
}

impl Ledger {
    pub fn load(table: &dyn TableRead) -> Result<Self, TableError> {
        Ok(load(table, Space::Meta, COUNTER)?.unwrap_or(Self { next: 1, totals: Totals::default() }))
    }

    pub fn save(&self, table: &mut dyn TableWrite) -> Result<(), TableError> {
        save(table, Space::Meta, COUNTER, self)
    }

    /// Has the counter stand at `next`.
    #[cfg(test)]
    pub fn at(next: u64, table: &mut dyn TableWrite) {
        let totals = Self::load(table).map_or(Totals::default(), |ledger| ledger.totals);
        let _ = Self { next, totals }.save(table);
    }

    /// The generation that [`Self::take`] takes.
    pub fn fresh(&self) -> Gen {
        Gen(self.next)
    }

    /// As [`Self::fresh`], for a tag.
    pub fn fresh_tag(&self) -> Tag {
        Tag(self.next)
    }

    /// How many can be taken yet. A command that needs more is refused before it has written anything: none is ever given twice.
    pub fn left(&self) -> u64 {
        u64::MAX - self.next
    }

    /// Takes the fresh number, of which some are left.
    pub fn take(&mut self) {
        self.next = self.next.saturating_add(1);
    }

    /// Gives no number below `above` from here on, as far as that is at most [`FOUND_NUMBERS`].
    pub fn pass(&mut self, above: u64) {
        self.next = self.next.max(above.min(FOUND_NUMBERS));
    }

    /// Gives no number below `above` from here on: one that another group's own counter has reached, not one that a node told.
    pub fn follow(&mut self, above: u64) {
        self.next = self.next.max(above);
    }

    /// Of this range and another, whose chunks are put together with its.
    pub fn joined(&self, other: &Ledger) -> Ledger {
        let (one, two) = (&self.totals, &other.totals);
        let totals = Totals {
            chunks: one.chunks.saturating_add(two.chunks),
            references: one.references.saturating_add(two.references),
            owed: one.owed.saturating_add(two.owed),
            plain_bytes: one.plain_bytes.saturating_add(two.plain_bytes),
            sealed_bytes: one.sealed_bytes.saturating_add(two.sealed_bytes),
        };
        Ledger { next: self.next.max(other.next), totals }
    }

    /// Counts a record in.
    pub fn add(&mut self, record: &ChunkRecord) {
        let (owed, plain, sealed) = share(record);
        self.totals.chunks += 1;
        self.totals.owed += owed;
        self.totals.plain_bytes += plain;
        self.totals.sealed_bytes += sealed;
    }

    /// Counts a record out.
    pub fn subtract(&mut self, record: &ChunkRecord) {
        let (owed, plain, sealed) = share(record);
        self.totals.chunks -= 1;
        self.totals.owed -= owed;
        self.totals.plain_bytes -= plain;
        self.totals.sealed_bytes -= sealed;
    }
}

/// What one record adds to the totals: chunks that owe shards, plain and sealed bytes.
fn share(record: &ChunkRecord) -> (u64, u64, u64) {
    let sealed = record.placement.as_ref().map(|placement| placement.sealed);
    let owed = record.state != spine::wire::chunk::ChunkState::Deleting && owes_shards(record);
    (u64::from(owed), sealed.map_or(0, |sealed| sealed.len.into()), sealed.map_or(0, |sealed| sealed.sealed_len.into()))
}
