//! What a copy says, in which order, and how that lies in its blocks.
//!
//! ```text
//! About -> ( Group -> Rows .. -> EndGroup ) for every group -> End
//! each: | length 4, little-endian | postcard |, one behind the other through all blocks
//! ```
//! Invariant: out of [`Order`] come only items in this order, and the end of a group only if its rows are those that were counted.

use super::block::{ROOM, Sealer};
use super::{SnapshotError, wrong};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use spine::id::{FleetId, GroupId};
use spine::limit::LOG_ENTRY_BYTES;
use spine::wire::cluster::{PART_BYTES, Row};
use spine::wire::copy::{CopyEnd, Tally};
use spine::wire::format::Format;
use spine::wire::peer;

/// Bytes of the longest item: a part, and one longest row.
const ITEM_BYTES: usize = LOG_ENTRY_BYTES + 2 * PART_BYTES;
/// Most groups of one copy.
const GROUPS: usize = 1 << 16;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Item {
    /// `format`: no group of it has a newer one.
    About {
        fleet: Option<FleetId>,
        format: Format,
    },
    Group(GroupId),
    Rows(Vec<Row>),
    EndGroup(CopyEnd),
    End {
        groups: u32,
    },
}

/// Items in, blocks out.
pub struct Packer {
    sealer: Sealer,
    waiting: Vec<u8>,
    number: u32,
}

impl Packer {
    pub fn new(sealer: Sealer) -> Packer {
        Packer { sealer, waiting: Vec::new(), number: 0 }
    }

    /// The blocks that are full with it.
    pub fn push(&mut self, item: &Item) -> Result<Vec<Bytes>, SnapshotError> {
        let bytes = peer::encode(item);
        if bytes.len() > ITEM_BYTES {
            return Err(wrong("a row longer than a log entry"));
        }
        self.waiting.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        self.waiting.extend_from_slice(&bytes);
        let mut blocks = Vec::new();
        let mut from = 0;
        // One that would be empty after these is kept full: the last is never empty.
        while self.waiting.len() - from > ROOM {
            blocks.push(self.seal(false, from, from + ROOM)?);
            from += ROOM;
        }
        self.waiting.drain(..from);
        Ok(blocks)
    }

    /// The last block.
    pub fn finish(&mut self) -> Result<Bytes, SnapshotError> {
        self.seal(true, 0, self.waiting.len())
    }

    fn seal(&mut self, last: bool, from: usize, to: usize) -> Result<Bytes, SnapshotError> {
        let sealed = self.sealer.seal(self.number, last, &self.waiting[from..to]).ok_or_else(|| wrong("a block that cannot be sealed"))?;
        self.number = self.number.checked_add(1).ok_or_else(|| wrong("more blocks than there are numbers"))?;
        Ok(sealed)
    }
}

/// What blocks hold in, items out.
#[derive(Default)]
pub struct Unpacker {
    waiting: Vec<u8>,
    from: usize,
}

impl Unpacker {
    pub fn feed(&mut self, payload: &[u8]) {
        self.waiting.drain(..std::mem::take(&mut self.from));
        self.waiting.extend_from_slice(payload);
    }

    /// The next item; `None`: it needs more.
    pub fn next(&mut self) -> Result<Option<Item>, SnapshotError> {
        let waiting = &self.waiting[self.from..];
        let Some((len, rest)) = waiting.split_first_chunk::<4>() else { return Ok(None) };
        let len = usize::try_from(u32::from_le_bytes(*len)).unwrap_or(usize::MAX);
        if len > ITEM_BYTES {
            return Err(wrong("an item too long"));
        }
        let Some(bytes) = rest.get(..len) else { return Ok(None) };
        let item = peer::decode(bytes).map_err(|_| wrong("an item that does not read"))?;
        self.from += 4 + len;
        Ok(Some(item))
    }

    /// Whether nothing is left over.
    pub fn is_empty(&self) -> bool {
        self.from == self.waiting.len()
    }
}

/// What a copy has been found to hold so far.
#[derive(Clone, Debug, Default)]
pub struct Order {
    about: Option<(Option<FleetId>, Format)>,
    open: Option<(GroupId, Tally)>,
    pub groups: Vec<GroupId>,
    pub rows: u64,
    over: bool,
}

impl Order {
    /// # Errors
    /// `Wrong` where this cannot come next, or a group is not what its end says.
    pub fn take(&mut self, item: &Item) -> Result<(), SnapshotError> {
        match (item, &mut self.open) {
            _ if self.over => return Err(wrong("something behind its end")),
            (Item::About { fleet, format }, None) if self.about.is_none() => self.about = Some((*fleet, *format)),
            _ if self.about.is_none() => return Err(wrong("it does not begin with what it is of")),
            (Item::Group(group), None) if !self.groups.contains(group) && self.groups.len() < GROUPS => {
                self.open = Some((*group, Tally::default()));
            }
            (Item::Rows(rows), Some((_, tally))) => rows.iter().for_each(|row| tally.count(row.space, &row.key, &row.value)),
            (Item::EndGroup(end), Some((group, tally))) => {
                if (tally.rows(), tally.digest()) != (end.rows, end.digest) {
                    return Err(wrong("a group's rows are not those that were counted"));
                }
                self.groups.push(*group);
                self.rows += tally.rows();
                self.open = None;
            }
            (Item::End { groups }, None) if usize::try_from(*groups) == Ok(self.groups.len()) => self.over = true,
            _ => return Err(wrong("items out of order")),
        }
        Ok(())
    }

    pub fn is_over(&self) -> bool {
        self.over
    }

    /// The fleet that it is of, if it is one's.
    pub fn fleet(&self) -> Option<FleetId> {
        self.about.and_then(|(fleet, _)| fleet)
    }

    /// Whoever understands it understands every row.
    pub fn format(&self) -> Option<Format> {
        self.about.map(|(_, format)| format)
    }
}
