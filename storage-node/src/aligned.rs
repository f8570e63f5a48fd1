//! Memory for O_DIRECT, which wants buffers, offsets and lengths at multiples of a block.

use crate::record::{BLOCK, align_up};
use bytes::Bytes;
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Memory that starts at a multiple of 4 KiB. Only the first `filled` bytes are anything.
pub struct AlignedBuffer {
    at: *mut u8,
    layout: Layout,
    filled: usize,
}

// SAFETY: the memory is owned by this value alone, and shared only for reading.
unsafe impl Send for AlignedBuffer {}
// SAFETY: as above.
unsafe impl Sync for AlignedBuffer {}

impl AlignedBuffer {
    /// All zeros. `len` must not be 0.
    pub fn new(len: usize) -> Self {
        let mut buffer = Self::reserve(len);
        // SAFETY: `at` owns `len` bytes.
        unsafe { std::ptr::write_bytes(buffer.at, 0, len) };
        buffer.filled = len;
        buffer
    }

    fn reserve(len: usize) -> Self {
        assert!(len > 0, "an empty aligned buffer");
        let layout = Layout::from_size_align(len, BLOCK as usize).expect("a buffer below isize::MAX");
        // SAFETY: the layout is not empty.
        let at = unsafe { alloc(layout) };
        if at.is_null() {
            handle_alloc_error(layout);
        }
        Self { at, layout, filled: 0 }
    }

    pub fn all(&self) -> &[u8] {
        // SAFETY: the first `filled` bytes are initialised.
        unsafe { std::slice::from_raw_parts(self.at, self.filled) }
    }

    pub fn all_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.filled) }
    }
}

impl AsRef<[u8]> for AlignedBuffer {
    fn as_ref(&self) -> &[u8] {
        self.all()
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `reserve` with this layout.
        unsafe { dealloc(self.at, self.layout) }
    }
}

/// Reads `len` bytes at `offset` by whole blocks; fewer only at the end of the file. `file` may be open with O_DIRECT.
pub fn read_blocks(file: &File, offset: u64, len: usize) -> io::Result<Bytes> {
    let start = offset / BLOCK * BLOCK;
    let skip = (offset - start) as usize;
    let mut buffer = AlignedBuffer::reserve(align_up((skip + len) as u64, BLOCK).max(BLOCK) as usize);
    let size = buffer.layout.size();
    while buffer.filled < size {
        let at = libc::off_t::try_from(start + buffer.filled as u64).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: there are `size - filled` bytes from there on, and the kernel fills what it says it read.
        let got = unsafe { libc::pread(file.as_raw_fd(), buffer.at.add(buffer.filled).cast(), size - buffer.filled, at) };
        match got {
            0 => break,
            n if n > 0 => {
                buffer.filled += n as usize;
                // A read that ends within a block ended with the file; going on there would not be aligned.
                if !buffer.filled.is_multiple_of(BLOCK as usize) {
                    break;
                }
            }
            _ => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => (),
                e => return Err(e),
            },
        }
    }
    let end = buffer.filled.min(skip + len);
    let bytes = Bytes::from_owner(buffer);
    Ok(bytes.slice(skip.min(end)..end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, OpenOptionsExt};

    #[test]
    fn blocks_give_any_range_up_to_the_end_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let whole: Vec<u8> = (0..50_001u32).map(|i| ((i * 31) >> 3) as u8).collect();
        File::create(&path).unwrap().write_all_at(&whole, 0).unwrap();
        let direct = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&path);
        for file in [File::open(&path).ok(), direct.ok()].into_iter().flatten() {
            for (offset, len) in [(0, 0), (0, 1), (4_095, 2), (4_096, 4_096), (33, 50_000), (49_999, 10), (50_001, 5), (60_000, 1)] {
                let expected = &whole[offset.min(whole.len())..(offset + len).min(whole.len())];
                assert_eq!(read_blocks(&file, offset as u64, len).unwrap(), expected, "{len} bytes at {offset}");
            }
        }
    }
}
