//! What a group owns of the names and of the chunks, and moving a range from a group to another.
//!
//! - `holding.rs`: what each order does to what a group has of one kind; pure
//!
//! One record a table says it all. Group 0 begins with everything, every other group with nothing.

pub mod holding;

use crate::record::{load, save};
use crate::table::{Space, TableError, TableRead, TableWrite};
use serde::{Deserialize, Serialize};
use spine::id::{ChunkId, GroupId};
use spine::map::{NamePoint, Point};
use spine::wire::range::Holding;

const RANGES: &[u8] = b"ranges";
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

/// Whether nothing of this kind is in any other group.
pub fn is_whole<P: Point>(holding: &Holding<P>) -> bool {
    holding.owned.as_ref().is_some_and(|owned| owned.start == P::first() && owned.end.is_none())
}
