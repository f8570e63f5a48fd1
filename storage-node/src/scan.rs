//! Finds the records of a segment again, and where a torn tail begins.
//!
//! A crash tears at most the last group of the segment that was being written, because a group is begun only when the one
//! before it is synced. So a wrong record in an earlier group is damage to something acknowledged and everything behind it
//! counts, while the first wrong record of the last group ends the segment: nothing from there on was acknowledged.
//! A sealed segment is not longer than its records, an open one always is: only the latter can have a torn tail.
//!
//! Invariant: records behind unreadable bytes are found, by their magic, checksum, segment and offset.
//! Not here: what records mean together (`recover.rs`).

use crate::record::{ALIGN, BLOCK, Body, HEADER, MAGIC, Record, SegmentId, align_up};
use bytes::Bytes;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

const CHUNK: usize = 256 << 10;
/// A crash garbles at most one group: 16 MiB, and one record more.
const MOST_TORN: u64 = 32 << 20;

/// Walks one segment's records from front to back.
pub struct Walk<'a> {
    file: &'a File,
    segment: SegmentId,
    at: u64,
    end: u64,
    /// Bytes that are neither records nor zeros, in units of 32.
    pub garbage: u64,
}

impl<'a> Walk<'a> {
    /// From offset `from`, where a record or a group may start.
    pub fn new(file: &'a File, segment: SegmentId, from: u64) -> io::Result<Walk<'a>> {
        let end = file.metadata()?.len();
        Ok(Walk { file, segment, at: align_up(from, ALIGN), end, garbage: 0 })
    }

    /// The next record; its shard may still be wrong.
    pub fn next(&mut self) -> io::Result<Option<Record>> {
        let mut near = [0; BLOCK as usize + HEADER];
        while self.at + HEADER as u64 <= self.end {
            let boundary = align_up(self.at + 1, BLOCK);
            let want = (boundary - self.at) as usize + HEADER;
            let got = read_some(self.file, &mut near[..want], self.at)?;
            if let Some(record) = self.accept(&near[..got], self.at) {
                return Ok(Some(record));
            }
            let padding = (boundary - self.at) as usize;
            if got > padding
                && near[..padding].iter().all(|b| *b == 0)
                && let Some(record) = self.accept(&near[padding..got], boundary)
            {
                return Ok(Some(record));
            }
            match self.search(self.at)? {
                Some(found) => self.at = found,
                None => self.at = self.end,
            }
        }
        Ok(None)
    }

    fn accept(&mut self, bytes: &[u8], offset: u64) -> Option<Record> {
        let record = Record::decode(bytes, self.segment, offset)?;
        let location = record.location();
        if offset + HEADER as u64 + u64::from(location.len) > self.end {
            return None;
        }
        self.at = location.end();
        Some(record)
    }

    /// The next place at or after `from` where a record starts, looking everywhere one could.
    fn search(&mut self, from: u64) -> io::Result<Option<u64>> {
        let mut chunk = vec![0; CHUNK + HEADER];
        let mut at = from;
        while at < self.end {
            let Some(data) = next_data(self.file, at)? else { return Ok(None) };
            at = at.max(data / ALIGN * ALIGN);
            let got = read_some(self.file, &mut chunk, at)?;
            let inside = got.min(CHUNK);
            for start in (0..inside).step_by(ALIGN as usize) {
                let unit = &chunk[start..inside.min(start + ALIGN as usize)];
                if unit.starts_with(&MAGIC) {
                    let offset = at + start as u64;
                    let found = Record::decode(&chunk[start..got], self.segment, offset);
                    if found.is_some_and(|record| offset + HEADER as u64 + u64::from(record.location().len) <= self.end) {
                        return Ok(Some(offset));
                    }
                }
                if unit.iter().any(|b| *b != 0) {
                    self.garbage += ALIGN;
                }
            }
            if inside == 0 {
                break;
            }
            at += inside as u64;
        }
        Ok(None)
    }
}

/// What a segment holds.
pub struct Contents {
    pub records: Vec<Record>,
    /// Where a torn tail begins: the segment is to be cut there. `None`: it is sealed, or ends well.
    pub torn: Option<u64>,
    pub garbage: u64,
}

/// Reads the headers of a segment from `from` on, and the shards of the last group if the segment may be torn.
pub fn read_segment(file: &File, segment: SegmentId, from: u64) -> io::Result<Contents> {
    let len = file.metadata()?.len();
    let mut walk = Walk::new(file, segment, from)?;
    let mut records = Vec::new();
    while let Some(record) = walk.next()? {
        records.push(record);
    }
    let garbage = walk.garbage;
    let end = records.last().map_or(from, |record| record.location().end());
    if len <= align_up(end, BLOCK) {
        return Ok(Contents { records, torn: None, garbage });
    }
    // An open segment: of the last group, keep the records that follow each other without a gap and are whole.
    let group = records.last().map_or(from, |record| record.group);
    let first = records.partition_point(|record| record.group < group);
    let mut next = if group < from { records.get(first).map_or(from, |record| record.offset) } else { group };
    let mut keep = first;
    for record in &records[first..] {
        if record.offset != next || !is_whole(file, record)? {
            break;
        }
        next = record.location().end();
        keep += 1;
    }
    if garbage > MOST_TORN {
        // More than one group is unreadable: that is no torn tail. Nothing is cut off that might be looked at again.
        return Ok(Contents { records, torn: None, garbage });
    }
    records.truncate(keep);
    let cut = records.last().map_or(from, |record| record.location().end());
    Ok(Contents { records, torn: Some(cut), garbage })
}

/// Whether the record's shard has the root that its header says. A trash record always is.
pub fn is_whole(file: &File, record: &Record) -> io::Result<bool> {
    match &record.body {
        Body::Trash(_) => Ok(true),
        Body::Put(header) => {
            let shard = read_shard(file, record)?;
            Ok(shard.len() == header.len as usize && blake3::hash(&shard).as_bytes() == &header.root.0)
        }
    }
}

/// The bytes behind a record's header; fewer if the file ends before.
pub fn read_shard(file: &File, record: &Record) -> io::Result<Bytes> {
    read_at(file, record.offset + HEADER as u64, record.location().len as usize)
}

/// Up to `len` bytes at `offset`; fewer only at the end of the file.
pub fn read_at(file: &File, offset: u64, len: usize) -> io::Result<Bytes> {
    let mut out: Vec<u8> = Vec::with_capacity(len);
    while out.len() < len {
        let at = libc::off_t::try_from(offset + out.len() as u64).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let missing = len - out.len();
        let room = &mut out.spare_capacity_mut()[..missing];
        let want = room.len();
        // SAFETY: `room` has at least `want` bytes, and the kernel fills what it says it read.
        let got = unsafe { libc::pread(file.as_raw_fd(), room.as_mut_ptr().cast(), want, at) };
        match got {
            0 => break,
            n if n > 0 => {
                let filled = out.len() + n as usize;
                // SAFETY: the kernel has just initialised bytes up to `filled`, which is within the capacity.
                unsafe { out.set_len(filled) };
            }
            _ => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => (),
                e => return Err(e),
            },
        }
    }
    Ok(Bytes::from(out))
}

/// Fills `buffer` from `offset`; returns how much there was.
fn read_some(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    use std::os::unix::fs::FileExt;
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => (),
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// Where data goes on at or after `at`; `None` if only a hole is left. Preallocated and unused blocks are a hole.
fn next_data(file: &File, at: u64) -> io::Result<Option<u64>> {
    let from = libc::off_t::try_from(at).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: lseek only looks at the descriptor. Its position is not used by anyone.
    let found = unsafe { libc::lseek(file.as_raw_fd(), from, libc::SEEK_DATA) };
    match found {
        n if n >= 0 => Ok(Some(n as u64)),
        _ => match io::Error::last_os_error().raw_os_error() {
            Some(libc::ENXIO) => Ok(None),
            _ => Ok(Some(at)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Stamp;
    use crate::stage::Stage;
    use spine::id::{ChunkId, Gen, KeyEpoch, ShardIndex, ShardRoot, Tag, TenantId, UnixMs};
    use spine::wire::chunk::{Sealed, ShardName};
    use spine::wire::namespace::Codec;
    use spine::wire::shard::ShardHeader;

    const ID: SegmentId = SegmentId(5);

    fn record(n: u64, offset: u64, group: u64, shard: &Bytes) -> Record {
        let sealed = Sealed { tenant: TenantId(1), epoch: KeyEpoch(1), codec: Codec::Plain, len: 1, sealed_len: 1, k: 4, m: 2 };
        let name = ShardName { chunk: ChunkId([n as u8; 32]), generation: Gen(n), index: ShardIndex(0), tag: Tag(0) };
        let root = ShardRoot(*blake3::hash(shard).as_bytes());
        let header = ShardHeader { name, sealed, root, len: shard.len() as u32 };
        Record { body: Body::Put(header), stamp: Stamp(n), at: UnixMs(n), segment: ID, offset, group }
    }

    /// Groups of records with shards of these lengths, then a preallocated rest.
    fn segment(file: &File, groups: &[&[usize]]) -> Vec<Record> {
        let (mut out, mut stage, mut end) = (Vec::new(), Stage::new(false), 0);
        for group in groups {
            stage.begin(end);
            let (start, mut offset) = (end, end);
            for len in *group {
                let shard = Bytes::from(vec![out.len() as u8 + 1; *len]);
                let next = record(out.len() as u64, offset, start, &shard);
                stage.push(file, next.encode(), &shard).unwrap();
                offset = next.location().end();
                out.push(next);
            }
            end = stage.finish(file).unwrap();
        }
        file.set_len(end + (1 << 20)).unwrap();
        out
    }

    #[test]
    fn a_tail_torn_at_any_byte_of_the_last_record_is_cut_before_it() {
        use std::os::unix::fs::FileExt;
        let file = tempfile::tempfile().unwrap();
        let all = segment(&file, &[&[700], &[10, 0, 5_000], &[300, 600]]);
        let last = all.last().unwrap().location();
        let end = last.offset + HEADER as u64 + u64::from(last.len);
        let mut bytes = vec![0; (end - last.offset) as usize];
        file.read_exact_at(&mut bytes, last.offset).unwrap();
        for cut in last.offset..=end {
            let kept = (cut - last.offset) as usize;
            file.write_all_at(&bytes[..kept], last.offset).unwrap();
            file.write_all_at(&vec![0; bytes.len() - kept], cut).unwrap();
            let found = read_segment(&file, ID, 0).unwrap();
            let whole = cut == end;
            assert_eq!(found.records, all[..all.len() - usize::from(!whole)], "cut at {cut}");
            assert_eq!(found.torn, Some(if whole { last.end() } else { last.offset }), "cut at {cut}");
        }
    }

    #[test]
    fn what_follows_damage_in_an_earlier_group_is_kept() {
        use std::os::unix::fs::FileExt;
        let file = tempfile::tempfile().unwrap();
        let all = segment(&file, &[&[700], &[10, 4_200, 5_000], &[300, 600]]);
        let hurt = all[2].location();
        file.write_all_at(&[0xFF; 200], hurt.offset).unwrap();
        let found = read_segment(&file, ID, 0).unwrap();
        let kept: Vec<_> = all.iter().filter(|record| record.offset != hurt.offset).copied().collect();
        assert_eq!(found.records, kept);
        assert!(found.garbage > 0);
        // In the last group the same cuts what follows.
        let hurt = all[4].location();
        file.write_all_at(&[0xFF; 200], hurt.offset).unwrap();
        let found = read_segment(&file, ID, 0).unwrap();
        assert_eq!(found.records.last().unwrap().offset, all[3].offset);
        assert_eq!(found.torn, Some(all[3].location().end()));
    }

    #[test]
    fn a_sealed_segment_has_no_torn_tail() {
        use std::os::unix::fs::FileExt;
        let file = tempfile::tempfile().unwrap();
        let all = segment(&file, &[&[700, 800, 900]]);
        file.set_len(align_up(all[2].location().end(), BLOCK)).unwrap();
        file.write_all_at(&[0xFF; 10], all[1].offset + 300).unwrap();
        let found = read_segment(&file, ID, 0).unwrap();
        assert_eq!((found.records, found.torn), (all, None));
    }
}
