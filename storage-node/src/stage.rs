//! Puts the records of one group on disk: staged into one aligned buffer for O_DIRECT, gathered in place otherwise.
//!
//! ```text
//! group  = record, padding to 32, record, ..., padding to 4 KiB
//! direct = copy into a 4 KiB-aligned buffer -> pwrite whenever it is full -> pwrite of the rest
//! cached = keep (header, shard) as they are  -> pwritev
//! ```
//! Invariant: nothing is written outside the group's own blocks. Not here: syncing, and what a failure means (`writer.rs`).

use crate::aligned::AlignedBuffer;
use crate::record::{ALIGN, BLOCK, HEADER, align_up};
use bytes::Bytes;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

/// Bytes staged before they are written: 16 shards of 256 KiB.
const STAGE: usize = 4 << 20;
/// Gathered bytes and pieces before they are written.
const GATHER: u64 = 4 << 20;
const PIECES: usize = 768;

enum Way {
    Direct { buffer: AlignedBuffer, filled: usize },
    Cached { pieces: Vec<Piece>, bytes: u64 },
}

enum Piece {
    Header(Box<[u8; HEADER]>),
    Shard(Bytes),
    Zeros(usize),
}

static ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];

/// Where the next bytes of the current group go.
pub struct Stage {
    way: Way,
    /// File offset of the first byte that is not written yet.
    written: u64,
}

impl Stage {
    pub fn new(direct: bool) -> Self {
        let way = match direct {
            true => Way::Direct { buffer: AlignedBuffer::new(STAGE), filled: 0 },
            false => Way::Cached { pieces: Vec::new(), bytes: 0 },
        };
        Self { way, written: 0 }
    }

    /// Starts a group at `offset`, a multiple of 4 KiB. What an earlier group left behind is forgotten.
    pub fn begin(&mut self, offset: u64) {
        debug_assert_eq!(offset % BLOCK, 0);
        self.written = offset;
        match &mut self.way {
            Way::Direct { filled, .. } => *filled = 0,
            Way::Cached { pieces, bytes } => {
                pieces.clear();
                *bytes = 0;
            }
        }
    }

    /// Adds one record, padded to the next record's place.
    pub fn push(&mut self, file: &File, header: [u8; HEADER], shard: &Bytes) -> io::Result<()> {
        let size = (HEADER + shard.len()) as u64;
        let padding = (align_up(size, ALIGN) - size) as usize;
        if let Way::Cached { pieces, bytes } = &mut self.way {
            pieces.push(Piece::Header(Box::new(header)));
            if !shard.is_empty() {
                pieces.push(Piece::Shard(shard.clone()));
            }
            if padding > 0 {
                pieces.push(Piece::Zeros(padding));
            }
            *bytes += size + padding as u64;
            if *bytes >= GATHER || pieces.len() >= PIECES {
                self.gather(file)?;
            }
            return Ok(());
        }
        self.copy(file, &header)?;
        self.copy(file, shard)?;
        self.copy(file, &ZEROS[..padding])
    }

    /// Writes what is left of the group, padded to 4 KiB. Returns the offset behind it.
    pub fn finish(&mut self, file: &File) -> io::Result<u64> {
        match &mut self.way {
            Way::Direct { buffer, filled } => {
                let end = align_up(*filled as u64, BLOCK) as usize;
                buffer.all_mut()[*filled..end].fill(0);
                file.write_all_at(&buffer.all()[..end], self.written)?;
                self.written += end as u64;
                *filled = 0;
            }
            Way::Cached { pieces, bytes } => {
                let end = align_up(self.written + *bytes, BLOCK);
                let padding = (end - self.written - *bytes) as usize;
                if padding > 0 {
                    pieces.push(Piece::Zeros(padding));
                    *bytes += padding as u64;
                }
                self.gather(file)?;
            }
        }
        Ok(self.written)
    }

    fn copy(&mut self, file: &File, mut bytes: &[u8]) -> io::Result<()> {
        let Way::Direct { buffer, filled } = &mut self.way else { return Ok(()) };
        while !bytes.is_empty() {
            let take = bytes.len().min(STAGE - *filled);
            buffer.all_mut()[*filled..*filled + take].copy_from_slice(&bytes[..take]);
            *filled += take;
            bytes = &bytes[take..];
            if *filled == STAGE {
                file.write_all_at(buffer.all(), self.written)?;
                self.written += STAGE as u64;
                *filled = 0;
            }
        }
        Ok(())
    }

    fn gather(&mut self, file: &File) -> io::Result<()> {
        let Way::Cached { pieces, bytes } = &mut self.way else { return Ok(()) };
        let mut slices: Vec<IoSlice<'_>> = pieces
            .iter()
            .map(|piece| match piece {
                Piece::Header(header) => IoSlice::new(&header[..]),
                Piece::Shard(shard) => IoSlice::new(shard),
                Piece::Zeros(len) => IoSlice::new(&ZEROS[..*len]),
            })
            .collect();
        let mut rest = &mut slices[..];
        let mut at = self.written;
        while !rest.is_empty() {
            let count = rest.len().min(PIECES) as libc::c_int;
            let offset = libc::off_t::try_from(at).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
            // SAFETY: IoSlice has the layout of iovec, and the pieces outlive the call.
            let wrote = unsafe { libc::pwritev(file.as_raw_fd(), rest.as_ptr().cast(), count, offset) };
            match wrote {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                n if n > 0 => {
                    at += n as u64;
                    IoSlice::advance_slices(&mut rest, n as usize);
                }
                _ => match io::Error::last_os_error() {
                    e if e.kind() == io::ErrorKind::Interrupted => (),
                    e => return Err(e),
                },
            }
        }
        self.written += *bytes;
        *bytes = 0;
        pieces.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_write_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let shards: Vec<Bytes> = [0usize, 1, 31, 32, 5_000, 3 << 20, 2 << 20, 160, STAGE]
            .iter()
            .map(|len| Bytes::from((0..*len).map(|i| (i * 7 + len) as u8).collect::<Vec<_>>()))
            .collect();
        let mut files = Vec::new();
        for direct in [true, false] {
            let path = dir.path().join(format!("{direct}"));
            let file = File::create(&path).unwrap();
            let mut stage = Stage::new(direct);
            let mut end = BLOCK;
            for group in shards.chunks(4) {
                stage.begin(end);
                for shard in group {
                    stage.push(&file, [0xAB; HEADER], shard).unwrap();
                }
                end = stage.finish(&file).unwrap();
                assert_eq!(end % BLOCK, 0);
            }
            files.push(std::fs::read(&path).unwrap());
            assert_eq!(files.last().unwrap().len() as u64, end);
        }
        assert!(files[0] == files[1]);
    }
}
