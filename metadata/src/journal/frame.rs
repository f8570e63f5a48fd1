//! The bytes of the log.
//!
//! ```text
//! frame   one write and one sync: header, records, zeros up to the next multiple of 512
//! header  magic u32 | crc u32 | segment u64 | number u64 | body bytes u32 | records u32          (32 bytes, little-endian)
//! record  crc u32 | payload bytes u32 | group u32 | kind u32 | term u64 | node u64 | index u64   (40 bytes), payload
//! ```
//! Every CRC-32C covers what follows it and is masked with the segment's number: segment files are used again, and what an
//! earlier use left behind never passes for this one's. Frames are numbered without gaps through all segments, and frame
//! n + 1 is written only after n was synced: n being wrong while n + 1 is whole means damage, not a torn write.
//! Invariant: no 512-byte sector holds bytes of two frames, so that a torn write touches nothing that was synced.

use super::{GroupId, Position};
use std::ops::Range;

/// Frames begin at multiples of this: the unit that disks write whole.
pub const ALIGN: u64 = 512;
pub const FRAME_HEAD: usize = 32;
pub const RECORD_HEAD: usize = 40;
const MAGIC: u32 = 0x4A57_4231;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Entry = 1,
    /// Payload: the vote. Position unused.
    Vote = 2,
    /// Entries from `position.index` on are gone.
    Truncate = 3,
    /// Entries up to `position` are in a checkpoint, and gone.
    Purge = 4,
    /// Entries up to `position` are committed.
    Committed = 5,
    /// The group is not here any more: nothing before counts but its vote. Position unused.
    Forget = 6,
}

impl Kind {
    fn parse(number: u32) -> Option<Self> {
        [Self::Entry, Self::Vote, Self::Truncate, Self::Purge, Self::Committed, Self::Forget]
            .into_iter()
            .find(|kind| *kind as u32 == number)
    }
}

/// A record's fields; `payload` is where its payload lies in the buffer it was parsed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub group: GroupId,
    pub kind: Kind,
    pub position: Position,
    pub payload: Range<usize>,
}

impl Record {
    /// Where the record begins in the same buffer.
    pub fn start(&self) -> usize {
        self.payload.start - RECORD_HEAD
    }
}

/// A frame in the making.
pub struct Builder {
    buffer: Vec<u8>,
    segment: u64,
    records: u32,
}

impl Builder {
    /// `buffer` is cleared and used again.
    pub fn new(mut buffer: Vec<u8>, segment: u64) -> Self {
        buffer.clear();
        buffer.resize(FRAME_HEAD, 0);
        Self { buffer, segment, records: 0 }
    }

    /// Appends a record and returns where in the frame it begins. The caller keeps payloads below 4 GiB.
    pub fn push(&mut self, group: GroupId, kind: Kind, position: Position, payload: &[u8]) -> usize {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; 4]);
        self.buffer.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        self.buffer.extend_from_slice(&group.0.to_le_bytes());
        self.buffer.extend_from_slice(&(kind as u32).to_le_bytes());
        for word in [position.term, position.node, position.index] {
            self.buffer.extend_from_slice(&word.to_le_bytes());
        }
        self.buffer.extend_from_slice(payload);
        let crc = masked(self.segment, &self.buffer[start + 4..]);
        self.buffer[start..start + 4].copy_from_slice(&crc.to_le_bytes());
        self.records += 1;
        start
    }

    /// The frame's bytes, padded.
    pub fn finish(mut self, number: u64) -> Vec<u8> {
        let body = (self.buffer.len() - FRAME_HEAD) as u32;
        self.buffer[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        self.buffer[8..16].copy_from_slice(&self.segment.to_le_bytes());
        self.buffer[16..24].copy_from_slice(&number.to_le_bytes());
        self.buffer[24..28].copy_from_slice(&body.to_le_bytes());
        self.buffer[28..32].copy_from_slice(&self.records.to_le_bytes());
        let crc = masked(self.segment, &self.buffer[8..FRAME_HEAD]);
        self.buffer[4..8].copy_from_slice(&crc.to_le_bytes());
        let padded = padded(self.buffer.len() as u64) as usize;
        self.buffer.resize(padded, 0);
        self.buffer
    }
}

/// A whole, verified frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    pub number: u64,
    /// Payload ranges count from the beginning of the buffer given to [`parse`].
    pub records: Vec<Record>,
    /// Where the next frame begins in that buffer.
    pub end: usize,
}

/// The frame at `at` of a segment's bytes, if it is whole.
pub fn parse(buffer: &[u8], at: usize, segment: u64) -> Option<Frame> {
    let head = head(buffer.get(at..)?, segment)?;
    let body_end = at.checked_add(FRAME_HEAD)?.checked_add(head.body)?;
    buffer.get(..body_end)?;
    let mut records = Vec::with_capacity(head.records.min(4_096));
    let mut next = at + FRAME_HEAD;
    for _ in 0..head.records {
        let record = parse_record(&buffer[..body_end], next, segment)?;
        next = record.payload.end;
        records.push(record);
    }
    (next == body_end).then(|| Frame { number: head.number, records, end: padded(body_end as u64) as usize })
}

/// The number of the frame whose header begins here, whether or not its body is whole.
pub fn number_at(bytes: &[u8], segment: u64) -> Option<u64> {
    head(bytes, segment).map(|head| head.number)
}

/// The record that begins at `at`, if it is whole.
pub fn parse_record(buffer: &[u8], at: usize, segment: u64) -> Option<Record> {
    let head = buffer.get(at..at.checked_add(RECORD_HEAD)?)?;
    let payload_start = at + RECORD_HEAD;
    let payload_end = payload_start.checked_add(u32_at(head, 4) as usize)?;
    let covered = buffer.get(at + 4..payload_end)?;
    if masked(segment, covered) != u32_at(head, 0) {
        return None;
    }
    Some(Record {
        group: GroupId(u32_at(head, 8)),
        kind: Kind::parse(u32_at(head, 12))?,
        position: Position { term: u64_at(head, 16), node: u64_at(head, 24), index: u64_at(head, 32) },
        payload: payload_start..payload_end,
    })
}

struct Head {
    number: u64,
    body: usize,
    records: usize,
}

fn head(bytes: &[u8], segment: u64) -> Option<Head> {
    let head = bytes.get(..FRAME_HEAD)?;
    let whole = u32_at(head, 0) == MAGIC && u32_at(head, 4) == masked(segment, &head[8..]) && u64_at(head, 8) == segment;
    whole.then(|| Head { number: u64_at(head, 16), body: u32_at(head, 24) as usize, records: u32_at(head, 28) as usize })
}

pub fn padded(len: u64) -> u64 {
    len.next_multiple_of(ALIGN)
}

fn masked(segment: u64, bytes: &[u8]) -> u32 {
    // Odd multiplier: no two segments within 2^32 of each other share a mask.
    crc_fast::crc32_iscsi(bytes) ^ (segment as u32).wrapping_mul(0x9E37_79B1)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId(3);

    fn position(index: u64) -> Position {
        Position { term: 2, node: 1, index }
    }

    fn frame(segment: u64, number: u64, payloads: &[&[u8]]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new(), segment);
        for (index, payload) in (0..).zip(payloads) {
            builder.push(GROUP, Kind::Entry, position(index), payload);
        }
        builder.finish(number)
    }

    #[test]
    fn a_frame_reads_back_at_any_place() {
        let mut bytes = vec![0; 512];
        bytes.extend(frame(7, 9, &[b"one", b"", &[1; 5_000]]));
        let frame = parse(&bytes, 512, 7).unwrap();
        assert_eq!((frame.number, frame.end, frame.records.len()), (9, bytes.len(), 3));
        assert_eq!(&bytes[frame.records[0].payload.clone()], b"one");
        assert_eq!(frame.records[2].position, position(2));
        assert_eq!(parse_record(&bytes, frame.records[1].start(), 7).as_ref(), Some(&frame.records[1]));
    }

    #[test]
    fn any_flipped_bit_of_a_frame_is_seen() {
        let whole = frame(7, 9, &[b"one", b"two"]);
        let used = FRAME_HEAD + 2 * RECORD_HEAD + 6;
        for bit in 0..used * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse(&bytes, 0, 7), None, "bit {bit}");
        }
    }

    #[test]
    fn what_an_earlier_use_of_the_file_left_never_passes() {
        let old = frame(7, 9, &[b"one", b"two"]);
        assert_eq!(parse(&old, 0, 8), None);
        // A torn write: the new header, and behind it the old records of the same shape.
        let mut torn = frame(8, 9, &[b"one", b"two"]);
        torn[FRAME_HEAD..].copy_from_slice(&old[FRAME_HEAD..]);
        assert_eq!(parse(&torn, 0, 8), None);
        assert_eq!(number_at(&torn, 8), Some(9));
    }

    #[test]
    fn a_cut_frame_is_not_whole_at_any_length() {
        let whole = frame(7, 9, &[b"one", &[7; 700]]);
        let used = FRAME_HEAD + 2 * RECORD_HEAD + 703;
        for len in 0..used {
            assert_eq!(parse(&whole[..len], 0, 7), None, "{len} bytes");
        }
    }
}
