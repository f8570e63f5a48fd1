//! What the index knows of one name, and how two records of a name become one truth.
//!
//! ```text
//! offset bytes                                    offset bytes
//!      0     1  bits: 1 put, 2 trash, 4 damaged      29     8  trash segment
//!      1     8  put segment                          37     8  trash offset
//!      9     8  put offset                           45     8  trash stamp
//!     17     4  shard bytes                          53     8  trashed at, ms since the epoch
//!     21     8  put stamp                            61     4  CRC32C of bytes 0 to 60
//! ```
//! Invariant: merging is commutative, associative and idempotent, so that segments may be read in any order: the highest
//! stamp of each kind wins, and the shard lives if its put is later than its trash.
//! Not here: where entries are kept (`catalog.rs`, `index.rs`).

use crate::record::{Body, Location, Record, SegmentId, Stamp};
use spine::id::{ChunkId, Gen, ShardIndex, Tag, UnixMs};
use spine::wire::chunk::ShardName;

/// Bytes of an encoded entry.
pub const ENTRY: usize = 65;
/// Bytes of an encoded name.
pub const NAME: usize = 49;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Put {
    pub at: Location,
    pub stamp: Stamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trash {
    pub at: Location,
    pub stamp: Stamp,
    pub since: UnixMs,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The latest put. `None` only while segments are read.
    pub put: Option<Put>,
    /// The latest trash record.
    pub trash: Option<Trash>,
    /// The bytes were found wrong: set aside until put again.
    pub damaged: bool,
}

/// What a caller may do with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Absent,
    Live(Put),
    Trashed(Put, Trash),
    Damaged(Put),
}

impl Entry {
    pub fn standing(&self) -> Standing {
        match (self.put, self.trash) {
            (None, _) => Standing::Absent,
            (Some(put), Some(trash)) if trash.stamp > put.stamp => Standing::Trashed(put, trash),
            (Some(put), _) if self.damaged => Standing::Damaged(put),
            (Some(put), _) => Standing::Live(put),
        }
    }

    /// Takes in a put; returns the put that lost, whose bytes are dead but still on disk.
    pub fn merge_put(&mut self, put: Put) -> Option<Put> {
        match self.put {
            None => {
                self.put = Some(put);
                None
            }
            Some(old) if old.at == put.at => None,
            Some(old) => {
                // Equal stamps are two copies of one record: the later place is the copy that compaction made.
                let newer = (put.stamp, put.at.segment, put.at.offset) > (old.stamp, old.at.segment, old.at.offset);
                if !newer {
                    return Some(put);
                }
                if put.stamp > old.stamp {
                    self.damaged = false;
                }
                self.put = Some(put);
                Some(old)
            }
        }
    }

    pub fn merge_trash(&mut self, trash: Trash) {
        let place = |t: &Trash| (t.stamp, t.at.segment, t.at.offset);
        if self.trash.is_none_or(|old| place(&trash) > place(&old)) {
            self.trash = Some(trash);
        }
    }

    /// Takes in a record; returns the put that lost, if one did.
    pub fn merge(&mut self, record: &Record) -> Option<Put> {
        match record.body {
            Body::Put(_) => self.merge_put(Put { at: record.location(), stamp: record.stamp }),
            Body::Trash(_) => {
                self.merge_trash(Trash { at: record.location(), stamp: record.stamp, since: record.at });
                None
            }
        }
    }

    /// Forgets what decides nothing: `None` if no put is left, and a trash record that a later put overruled.
    pub fn settle(mut self) -> Option<Entry> {
        let put = self.put?;
        if self.trash.is_some_and(|trash| trash.stamp < put.stamp) {
            self.trash = None;
        }
        Some(self)
    }

    pub fn encode(&self) -> [u8; ENTRY] {
        let mut out = [0; ENTRY];
        if let Some(put) = self.put {
            out[0] |= 1;
            out[1..9].copy_from_slice(&put.at.segment.0.to_le_bytes());
            out[9..17].copy_from_slice(&put.at.offset.to_le_bytes());
            out[17..21].copy_from_slice(&put.at.len.to_le_bytes());
            out[21..29].copy_from_slice(&put.stamp.0.to_le_bytes());
        }
        if let Some(trash) = self.trash {
            out[0] |= 2;
            out[29..37].copy_from_slice(&trash.at.segment.0.to_le_bytes());
            out[37..45].copy_from_slice(&trash.at.offset.to_le_bytes());
            out[45..53].copy_from_slice(&trash.stamp.0.to_le_bytes());
            out[53..61].copy_from_slice(&trash.since.0.to_le_bytes());
        }
        if self.damaged {
            out[0] |= 4;
        }
        let crc = crc_fast::crc32_iscsi(&out[..61]);
        out[61..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// `None` if the bytes are not an entry as it was written.
    pub fn decode(bytes: &[u8]) -> Option<Entry> {
        let bytes: &[u8; ENTRY] = bytes.try_into().ok()?;
        let long = |at: usize| u64::from_le_bytes(array(&bytes[at..at + 8]));
        let short = |at: usize| u32::from_le_bytes(array(&bytes[at..at + 4]));
        if crc_fast::crc32_iscsi(&bytes[..61]) != short(61) {
            return None;
        }
        let put = Put { at: Location { segment: SegmentId(long(1)), offset: long(9), len: short(17) }, stamp: Stamp(long(21)) };
        let trash = Trash {
            at: Location { segment: SegmentId(long(29)), offset: long(37), len: 0 },
            stamp: Stamp(long(45)),
            since: UnixMs(long(53)),
        };
        Some(Entry { put: (bytes[0] & 1 != 0).then_some(put), trash: (bytes[0] & 2 != 0).then_some(trash), damaged: bytes[0] & 4 != 0 })
    }
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(bytes);
    out
}

/// The name as a key that orders as the name does: chunk, generation, index, tag, big endian.
pub fn name_key(name: &ShardName) -> [u8; NAME] {
    let mut key = [0; NAME];
    key[..32].copy_from_slice(&name.chunk.0);
    key[32..40].copy_from_slice(&name.generation.0.to_be_bytes());
    key[40] = name.index.0;
    key[41..49].copy_from_slice(&name.tag.0.to_be_bytes());
    key
}

/// The name a key stands for.
pub fn key_name(key: &[u8]) -> Option<ShardName> {
    let key: &[u8; NAME] = key.try_into().ok()?;
    Some(ShardName {
        chunk: ChunkId(array(&key[..32])),
        generation: Gen(u64::from_be_bytes(array(&key[32..40]))),
        index: ShardIndex(key[40]),
        tag: Tag(u64::from_be_bytes(array(&key[41..49]))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place(n: u64, len: u32) -> Location {
        Location { segment: SegmentId(n / 7), offset: n * 32, len }
    }

    fn puts_and_trashes() -> impl Strategy<Value = Vec<(bool, u64, u64)>> {
        proptest::collection::vec((any::<bool>(), 0..20u64, 0..40u64), 0..12)
    }

    fn merged(facts: &[(bool, u64, u64)]) -> Entry {
        let mut entry = Entry::default();
        for &(is_put, stamp, n) in facts {
            if is_put {
                entry.merge_put(Put { at: place(1_000 * stamp + n, 5), stamp: Stamp(2 * stamp) });
            } else {
                entry.merge_trash(Trash { at: place(1_000 * stamp + n, 0), stamp: Stamp(2 * stamp + 1), since: UnixMs(n) });
            }
        }
        entry
    }

    proptest! {
        #[test]
        fn the_order_in_which_records_are_read_decides_nothing(facts in puts_and_trashes(), seed in any::<u64>()) {
            let mut shuffled = facts.clone();
            let len = shuffled.len().max(1);
            for i in 0..shuffled.len() {
                shuffled.swap(i, (seed.rotate_left(i as u32 * 7) as usize) % len);
            }
            shuffled.extend(facts.iter().take(3));
            prop_assert_eq!(merged(&facts).settle(), merged(&shuffled).settle());
        }

        #[test]
        fn an_entry_decodes_to_what_was_encoded(facts in puts_and_trashes(), damaged in any::<bool>()) {
            let entry = Entry { damaged, ..merged(&facts) };
            prop_assert_eq!(Entry::decode(&entry.encode()), Some(entry));
        }

        #[test]
        fn keys_order_as_names_do(a in any::<([u8; 32], u64, u8, u64)>(), b in any::<([u8; 32], u64, u8, u64)>(), same in any::<bool>()) {
            let name = |x: ([u8; 32], u64, u8, u64)| ShardName { chunk: ChunkId(x.0), generation: Gen(x.1), index: ShardIndex(x.2), tag: Tag(x.3) };
            let (a, b) = (name(a), name(if same { (a.0, b.1, b.2, b.3) } else { b }));
            prop_assert_eq!(a.cmp(&b), name_key(&a).cmp(&name_key(&b)));
            prop_assert_eq!(key_name(&name_key(&a)), Some(a));
        }
    }

    #[test]
    fn a_flipped_bit_in_an_entry_is_seen() {
        let bytes = merged(&[(true, 3, 3), (false, 4, 4)]).encode();
        for bit in 0..ENTRY * 8 {
            let mut wrong = bytes;
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Entry::decode(&wrong), None, "bit {bit}");
        }
    }
}
