//! One record of a segment: what is stored of a shard, or of its removal.
//!
//! ```text
//! offset bytes                                    offset bytes
//!      0     4  magic "BWR1"                          80     4  key epoch
//!      4     1  kind: 1 put, 2 trash                  84     4  plaintext bytes of the chunk
//!      5     1  shard index                           88     4  sealed bytes of the chunk
//!      6     1  k                                     92     4  shard bytes that follow
//!      7     1  m                                     96    32  BLAKE3 root of the shard
//!      8     8  stamp                                128     1  codec: 0 plain, 1 zstd
//!     16     8  milliseconds since the epoch         129     7  zero
//!     24    32  chunk id                             136     8  segment number
//!     56     8  generation                           144     8  offset of this header in the segment
//!     64     8  tag                                  152     4  bytes back to the group's first record
//!     72     8  tenant                               156     4  CRC32C of bytes 0 to 155
//!                                                    160   len  the shard (put only)
//! ```
//! Integers are little endian. Records follow each other at multiples of 32 bytes; a group (what one sync made durable)
//! starts at a multiple of 4 KiB and is padded with zeros to one, so that no later write touches a durable block.
//!
//! Invariants: a stamp is given once, and a copy made by compaction keeps it; the highest stamp under a name decides what
//! is true of it; a header that says another place than where it was read is not a record.
//! Not here: where records are written (`writer.rs`), how they are found again (`scan.rs`).

use spine::id::{ChunkId, Gen, KeyEpoch, ShardIndex, ShardRoot, Tag, TenantId, UnixMs};
use spine::wire::chunk::{Sealed, ShardName};
use spine::wire::namespace::Codec;
use spine::wire::shard::ShardHeader;

/// Bytes of a record before its shard.
pub const HEADER: usize = 160;
/// Records start at multiples of this.
pub const ALIGN: u64 = 32;
/// Groups start at multiples of this, and O_DIRECT writes are multiples of it.
pub const BLOCK: u64 = 4_096;
/// What a record starts with.
pub const MAGIC: [u8; 4] = *b"BWR1";

const KIND_PUT: u8 = 1;
const KIND_TRASH: u8 = 2;

/// Order of what was said about a name; from a counter of this disk, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Stamp(pub u64);

/// Number of a segment file; a later segment has a higher number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SegmentId(pub u64);

impl std::fmt::Display for SegmentId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    pub segment: SegmentId,
    pub offset: u64,
    /// Bytes of the shard behind the header; 0 for a trash record.
    pub len: u32,
}

impl Location {
    /// Bytes the record takes, with its padding.
    pub fn size(&self) -> u64 {
        record_size(self.len)
    }

    pub fn end(&self) -> u64 {
        self.offset + self.size()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    Put(ShardHeader),
    Trash(ShardName),
}

/// A decoded header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub body: Body,
    pub stamp: Stamp,
    /// When it was first written.
    pub at: UnixMs,
    pub segment: SegmentId,
    pub offset: u64,
    /// Offset of the first record of the group this one was synced with.
    pub group: u64,
}

/// Bytes a record with a shard of `len` takes in a segment, padding included.
pub fn record_size(len: u32) -> u64 {
    align_up(HEADER as u64 + u64::from(len), ALIGN)
}

/// The first multiple of `unit` that is not below `n`.
pub fn align_up(n: u64, unit: u64) -> u64 {
    n.div_ceil(unit) * unit
}

impl Record {
    pub fn name(&self) -> ShardName {
        match &self.body {
            Body::Put(header) => header.name,
            Body::Trash(name) => *name,
        }
    }

    pub fn location(&self) -> Location {
        let len = match &self.body {
            Body::Put(header) => header.len,
            Body::Trash(_) => 0,
        };
        Location { segment: self.segment, offset: self.offset, len }
    }

    pub fn encode(&self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        let name = self.name();
        out[0..4].copy_from_slice(&MAGIC);
        out[5] = name.index.0;
        out[8..16].copy_from_slice(&self.stamp.0.to_le_bytes());
        out[16..24].copy_from_slice(&self.at.0.to_le_bytes());
        out[24..56].copy_from_slice(&name.chunk.0);
        out[56..64].copy_from_slice(&name.generation.0.to_le_bytes());
        out[64..72].copy_from_slice(&name.tag.0.to_le_bytes());
        match &self.body {
            Body::Trash(_) => out[4] = KIND_TRASH,
            Body::Put(header) => {
                out[4] = KIND_PUT;
                let sealed = &header.sealed;
                out[6] = sealed.k;
                out[7] = sealed.m;
                out[72..80].copy_from_slice(&sealed.tenant.0.to_le_bytes());
                out[80..84].copy_from_slice(&sealed.epoch.0.to_le_bytes());
                out[84..88].copy_from_slice(&sealed.len.to_le_bytes());
                out[88..92].copy_from_slice(&sealed.sealed_len.to_le_bytes());
                out[92..96].copy_from_slice(&header.len.to_le_bytes());
                out[96..128].copy_from_slice(&header.root.0);
                out[128] = match sealed.codec {
                    Codec::Plain => 0,
                    Codec::Zstd => 1,
                };
            }
        }
        out[136..144].copy_from_slice(&self.segment.0.to_le_bytes());
        out[144..152].copy_from_slice(&self.offset.to_le_bytes());
        let back = u32::try_from(self.offset - self.group).unwrap_or(u32::MAX);
        out[152..156].copy_from_slice(&back.to_le_bytes());
        let crc = crc_fast::crc32_iscsi(&out[..156]);
        out[156..160].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The record whose header `bytes` starts with, if it is one that was written to exactly this place.
    pub fn decode(bytes: &[u8], segment: SegmentId, offset: u64) -> Option<Record> {
        let bytes: &[u8; HEADER] = bytes.get(..HEADER)?.try_into().ok()?;
        if bytes[0..4] != MAGIC || crc_fast::crc32_iscsi(&bytes[..156]) != u32_at(bytes, 156) {
            return None;
        }
        if u64_at(bytes, 136) != segment.0 || u64_at(bytes, 144) != offset {
            return None;
        }
        let name = ShardName {
            chunk: ChunkId(array_at(bytes, 24)),
            generation: Gen(u64_at(bytes, 56)),
            index: ShardIndex(bytes[5]),
            tag: Tag(u64_at(bytes, 64)),
        };
        let body = match bytes[4] {
            KIND_TRASH => Body::Trash(name),
            KIND_PUT => Body::Put(ShardHeader {
                name,
                sealed: Sealed {
                    tenant: TenantId(u64_at(bytes, 72)),
                    epoch: KeyEpoch(u32_at(bytes, 80)),
                    codec: match bytes[128] {
                        0 => Codec::Plain,
                        1 => Codec::Zstd,
                        _ => return None,
                    },
                    len: u32_at(bytes, 84),
                    sealed_len: u32_at(bytes, 88),
                    k: bytes[6],
                    m: bytes[7],
                },
                root: ShardRoot(array_at(bytes, 96)),
                len: u32_at(bytes, 92),
            }),
            _ => return None,
        };
        Some(Record {
            body,
            stamp: Stamp(u64_at(bytes, 8)),
            at: UnixMs(u64_at(bytes, 16)),
            segment,
            offset,
            group: offset.checked_sub(u64::from(u32_at(bytes, 152)))?,
        })
    }
}

fn array_at<const N: usize>(bytes: &[u8; HEADER], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

fn u32_at(bytes: &[u8; HEADER], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8; HEADER], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put() -> Record {
        Record {
            body: Body::Put(ShardHeader {
                name: ShardName { chunk: ChunkId([7; 32]), generation: Gen(1 << 40), index: ShardIndex(5), tag: Tag(9) },
                sealed: Sealed {
                    tenant: TenantId(u64::MAX),
                    epoch: KeyEpoch(3),
                    codec: Codec::Zstd,
                    len: 1 << 20,
                    sealed_len: 900_000,
                    k: 4,
                    m: 2,
                },
                root: ShardRoot([8; 32]),
                len: 225_000,
            }),
            stamp: Stamp(77),
            at: UnixMs(1_800_000_000_000),
            segment: SegmentId(12),
            offset: 8_192 + 64,
            group: 8_192,
        }
    }

    #[test]
    fn a_record_decodes_to_what_was_encoded() {
        let trash = Record { body: Body::Trash(put().name()), ..put() };
        for record in [put(), trash] {
            assert_eq!(Record::decode(&record.encode(), record.segment, record.offset), Some(record));
        }
    }

    #[test]
    fn a_flip_of_any_bit_of_the_header_is_seen() {
        let record = put();
        let bytes = record.encode();
        for bit in 0..HEADER * 8 {
            let mut wrong = bytes;
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Record::decode(&wrong, record.segment, record.offset), None, "bit {bit}");
        }
    }

    #[test]
    fn a_record_read_at_another_place_is_none() {
        let record = put();
        assert_eq!(Record::decode(&record.encode(), SegmentId(13), record.offset), None);
        assert_eq!(Record::decode(&record.encode(), record.segment, record.offset + 32), None);
        assert_eq!(Record::decode(&record.encode()[..159], record.segment, record.offset), None);
    }

    #[test]
    fn the_bytes_of_a_header_stay_as_they_are() {
        let digest = blake3::hash(&put().encode());
        assert_eq!(digest.to_hex().as_str(), GOLDEN);
    }

    const GOLDEN: &str = "7addcc34ff297cf4fc92553c4cffaeabeb05a0275bd2406ffdcf4dfe141ff112";
}
