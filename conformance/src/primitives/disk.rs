//! Appending shards to segments, and reading them back: six files, records of 256 KiB, O_DIRECT where the file system has it.

use super::{K, M, per_gib, thread_cpu};
use std::alloc::Layout;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const RECORD: usize = 256 << 10;
/// Records between syncs of one file: the middle of what crates.md found equal.
const PER_SYNC: usize = 16;
/// Records that a file is preallocated ahead; not on a RAM disk, where it would only clear pages twice.
const PER_STEP: usize = 64;
const ALIGN: usize = 4096;

/// A buffer that O_DIRECT accepts.
struct Aligned {
    at: *mut u8,
    layout: Layout,
}

impl Aligned {
    fn from(bytes: &[u8]) -> Self {
        let layout = Layout::from_size_align(bytes.len(), ALIGN).unwrap_or_else(|_| unreachable!("a power of two, and a length that fits"));
        // SAFETY: the layout's size is not zero (callers pass whole chunks); null is checked before use.
        let at = unsafe { std::alloc::alloc(layout) };
        assert!(!at.is_null(), "out of memory");
        // SAFETY: `at` is valid for `bytes.len()` bytes and was just allocated, so nothing overlaps.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len()) };
        Self { at, layout }
    }

    fn slice(&mut self) -> &mut [u8] {
        // SAFETY: `at` is valid and initialised for the layout's size, and borrowed mutably through `self`.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.layout.size()) }
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout in `from`, freed once.
        unsafe { std::alloc::dealloc(self.at, self.layout) };
    }
}

fn open(path: &Path, flags: i32) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).custom_flags(flags).open(path)
}

/// CPU per GiB of body of the append (1.5 bytes a byte) and of the read (1 byte a byte).
///
/// # Errors
/// No room, or no right to write in `place`.
pub fn measure(place: &Path, arena: &[u8], bytes: usize) -> io::Result<(f64, f64)> {
    let files = usize::from(K + M);
    let paths: Vec<PathBuf> = (0..files).map(|i| place.join(format!("primitive-{i}.segment"))).collect();
    let _warmth = crate::ram::Warmth::new(place, bytes as u64 * 7 / 4);
    let measured = run(&paths, arena, bytes, crate::ram::is_ram(place));
    for path in &paths {
        let _ = std::fs::remove_file(path);
    }
    measured
}

/// Once, with a RAM disk's memory at hand.
fn run(paths: &[PathBuf], arena: &[u8], bytes: usize, ram: bool) -> io::Result<(f64, f64)> {
    let mut own = Aligned::from(arena);
    let per_file = (bytes / usize::from(K) / RECORD).max(1);
    let mut segments = Vec::new();
    for path in paths {
        let segment = open(path, libc::O_DIRECT).or_else(|_| open(path, 0))?;
        segments.push(segment);
    }
    let records = arena.len() / RECORD;
    let before = thread_cpu();
    for round in 0..per_file {
        for (f, segment) in segments.iter().enumerate() {
            if round % PER_STEP == 0 && !ram {
                preallocate(segment, round * RECORD, PER_STEP.min(per_file - round) * RECORD)?;
            }
            let from = (round * segments.len() + f) % records * RECORD;
            segment.write_all_at(&own.slice()[from..from + RECORD], (round * RECORD) as u64)?;
            if round % PER_SYNC == PER_SYNC - 1 || round == per_file - 1 {
                segment.sync_data()?;
            }
        }
    }
    let body = per_file * usize::from(K) * RECORD;
    let append = per_gib(thread_cpu() - before, body);

    let before = thread_cpu();
    for round in 0..per_file {
        for (f, segment) in segments[..usize::from(K)].iter().enumerate() {
            let to = (round * segments.len() + f) % records * RECORD;
            segment.read_exact_at(&mut own.slice()[to..to + RECORD], (round * RECORD) as u64)?;
        }
    }
    Ok((append, per_gib(thread_cpu() - before, body)))
}

fn preallocate(file: &File, from: usize, bytes: usize) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: the descriptor is open for the length of the call.
    let done = unsafe { libc::posix_fallocate(file.as_raw_fd(), from as libc::off_t, bytes as libc::off_t) };
    if done == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(done)) }
}
