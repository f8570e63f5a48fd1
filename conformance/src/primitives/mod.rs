//! What the work of a PUT and a GET costs at least: each primitive alone, on one core, over fresh memory.
//!
//! ```text
//! PUT: receive, chunk signatures (SHA-256), ETag (MD5), checksum (CRC32), ChunkId (BLAKE3), seal (AES-GCM),
//!      encode (RS 4+2), shard roots (BLAKE3 x 1.5), append 1.5 bytes a byte
//! GET: read a byte a byte, shard roots (BLAKE3), open (AES-GCM), ChunkId again (BLAKE3), send
//! ```
//!
//! Figures are CPU milliseconds (user and system of the thread that works) per GiB of body. They are a floor for a server that
//! does each step once and nothing else; the server's own figure is compared with their sum (design section 10).
//! The data goes by in 1 MiB chunks out of an arena larger than the caches, as bodies do.
//!
//! Not here: the server's figures (`bench`).

/// The server's own MD5: a primitive of it. As a file, because linking the gateway into every test would double the time to build them.
#[path = "../../../gateway/src/lanes/chain/mod.rs"]
#[allow(dead_code)] // of its SHA-256, which the sum takes from the library, one stream at a time, nothing is used here
mod chain;
mod compute;
mod disk;
mod transport;

use std::io;
use std::path::Path;
use std::time::Duration;

const CHUNK: usize = 1 << 20;
/// Larger than the caches of the machines this runs on, so that every chunk comes from memory.
const ARENA: usize = 64 << 20;
/// The code of the default configuration.
const K: u8 = 4;
const M: u8 = 2;

/// CPU milliseconds per GiB of body.
#[derive(Clone, Debug, PartialEq)]
pub struct Primitives {
    pub receive: f64,
    pub send: f64,
    pub sha256: f64,
    /// One stream, and four streams whose lanes are shared.
    pub md5_1: f64,
    pub md5_4: f64,
    pub crc32: f64,
    pub blake3: f64,
    /// Over the coded shards: 1.5 bytes a byte.
    pub roots: f64,
    pub seal: f64,
    pub open: f64,
    pub encode: f64,
    pub append: f64,
    pub read: f64,
}

/// One primitive of a sum.
pub type Part = (&'static str, f64);

impl Primitives {
    /// The parts of a signed PUT of one or of several streams.
    pub fn put(&self, streams: usize) -> Vec<Part> {
        let md5 = if streams >= 4 { ("MD5, 4 lanes", self.md5_4) } else { ("MD5, 1 lane", self.md5_1) };
        vec![
            ("receive", self.receive),
            ("SHA-256 of signed chunks", self.sha256),
            md5,
            ("CRC32", self.crc32),
            ("BLAKE3 keyed", self.blake3),
            ("AES-256-GCM seal", self.seal),
            ("Reed-Solomon 4+2", self.encode),
            ("BLAKE3 of shards", self.roots),
            ("append 1.5x", self.append),
        ]
    }

    /// The parts of a verified GET.
    pub fn get(&self) -> Vec<Part> {
        vec![
            ("read", self.read),
            ("BLAKE3 of shards", self.blake3),
            ("AES-256-GCM open", self.open),
            ("BLAKE3 keyed", self.blake3),
            ("send", self.send),
        ]
    }

    pub fn put_sum(&self, streams: usize) -> f64 {
        sum(&self.put(streams))
    }

    pub fn get_sum(&self) -> f64 {
        sum(&self.get())
    }
}

fn sum(parts: &[Part]) -> f64 {
    parts.iter().map(|(_, ms)| ms).sum()
}

/// Measures every primitive over `bytes` each (a multiple of 1 MiB), the disk ones in `place`.
///
/// # Errors
/// Of the files in `place` and of loopback sockets.
pub fn measure(place: &Path, bytes: usize) -> io::Result<Primitives> {
    let arena = compute::arena(ARENA.min(bytes.max(CHUNK)));
    let third = (bytes / 3).max(CHUNK);
    // Twice, and the lesser: a disk may be busy with something else.
    let (append, read) = disk::measure(place, &arena, bytes)?;
    let (append_again, read_again) = disk::measure(place, &arena, bytes)?;
    let shards = f64::from(K + M) / f64::from(K);
    Ok(Primitives {
        receive: steady(|| transport::receive(&arena, third))?,
        send: steady(|| transport::send(&arena, third))?,
        sha256: steady(|| Ok(compute::sha256(&arena, third)))?,
        md5_1: steady(|| Ok(compute::md5(&arena, third, 1)))?,
        md5_4: steady(|| Ok(compute::md5(&arena, third, 4)))?,
        crc32: steady(|| Ok(compute::crc32(&arena, third)))?,
        blake3: steady(|| Ok(compute::blake3_keyed(&arena, third)))?,
        roots: steady(|| Ok(compute::blake3_keyed(&arena, third)))? * shards,
        seal: steady(|| Ok(compute::seal(&arena, third)))?,
        open: steady(|| Ok(compute::open(&arena, third)))?,
        encode: steady(|| Ok(compute::encode(&arena, third)))?,
        append: append.min(append_again),
        read: read.min(read_again),
    })
}

/// Median of three.
fn steady(mut once: impl FnMut() -> io::Result<f64>) -> io::Result<f64> {
    Ok(crate::bench::figure::median(vec![once()?, once()?, once()?]))
}

/// CPU of the calling thread so far, user and system.
fn thread_cpu() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec for the call to fill.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Milliseconds per GiB, from the CPU that `bytes` took.
fn per_gib(cpu: Duration, bytes: usize) -> f64 {
    cpu.as_secs_f64() * 1e3 * (1u64 << 30) as f64 / bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_primitive_takes_some_time_and_the_sums_hold_all_of_them() {
        let place = tempfile::tempdir().unwrap();
        let all = measure(place.path(), 8 << 20).unwrap();
        assert!(all.put(1).iter().chain(&all.get()).all(|(name, ms)| *ms > 0.0 || panic!("{name} took nothing")));
        assert!((all.put_sum(4) - (all.put_sum(1) - all.md5_1 + all.md5_4)).abs() < 1e-6);
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0, "its files are gone");
    }
}
