//! Hashes, sealing and coding over an arena, chunk by chunk.

use super::chain::md5::Md5;
use super::chain::{State, update_together};
use super::{CHUNK, K, M, per_gib, thread_cpu};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use spine::erasure::Coder;
use std::hint::black_box;

/// Bytes of one signed chunk as the SDK frames them.
const SIGNED_CHUNK: usize = 64 << 10;

/// Dense bytes, a multiple of the chunk.
pub fn arena(bytes: usize) -> Vec<u8> {
    let mut arena = vec![0; bytes / CHUNK * CHUNK];
    blake3::Hasher::new().update(b"arena").finalize_xof().fill(&mut arena);
    arena
}

/// CPU per GiB of `work` over `bytes` in whole chunks, which come round and round.
fn over(arena: &[u8], bytes: usize, mut work: impl FnMut(&[u8])) -> f64 {
    let chunks = bytes / CHUNK;
    let before = thread_cpu();
    for chunk in arena.chunks_exact(CHUNK).cycle().take(chunks) {
        work(chunk);
    }
    per_gib(thread_cpu() - before, chunks * CHUNK)
}

pub fn sha256(arena: &[u8], bytes: usize) -> f64 {
    over(arena, bytes, |chunk| {
        for piece in chunk.chunks(SIGNED_CHUNK) {
            black_box(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, piece));
        }
    })
}

/// MD5 of `lanes` streams side by side; each chunk is a quarter megabyte of each of four, or one of one.
pub fn md5(arena: &[u8], bytes: usize, lanes: usize) -> f64 {
    let mut states = vec![State::<Md5>::default(); lanes];
    over(arena, bytes, |chunk| {
        let inputs: Vec<&[u8]> = chunk.chunks_exact(CHUNK / lanes).collect();
        update_together(&mut states, &inputs);
        black_box(&states);
    })
}

pub fn crc32(arena: &[u8], bytes: usize) -> f64 {
    over(arena, bytes, |chunk| {
        black_box(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, chunk));
    })
}

pub fn blake3_keyed(arena: &[u8], bytes: usize) -> f64 {
    let key = [7; 32];
    over(arena, bytes, |chunk| {
        black_box(blake3::keyed_hash(&key, chunk));
    })
}

fn key() -> LessSafeKey {
    let unbound = UnboundKey::new(&AES_256_GCM, &[7; 32]).unwrap_or_else(|_| unreachable!("32 bytes are a key"));
    LessSafeKey::new(unbound)
}

/// Encrypts each chunk in a buffer of its own (the copy into it is not counted: a server has the body in one already).
pub fn seal(arena: &[u8], bytes: usize) -> f64 {
    let key = key();
    let mut own = arena.to_vec();
    let chunks = bytes / CHUNK;
    let before = thread_cpu();
    for round in 0..chunks {
        let at = round % (own.len() / CHUNK) * CHUNK;
        let tag = key.seal_in_place_separate_tag(Nonce::assume_unique_for_key([0; 12]), Aad::from([0u8; 64]), &mut own[at..at + CHUNK]);
        black_box(tag.is_ok());
    }
    per_gib(thread_cpu() - before, chunks * CHUNK)
}

/// Decrypts with verification, in place. The chunks are sealed beforehand.
pub fn open(arena: &[u8], bytes: usize) -> f64 {
    let key = key();
    let nonce = || Nonce::assume_unique_for_key([0; 12]);
    let mut cpu = std::time::Duration::ZERO;
    let mut done = 0;
    while done < bytes / CHUNK * CHUNK {
        let mut sealed: Vec<Vec<u8>> = arena.chunks_exact(CHUNK).map(<[u8]>::to_vec).collect();
        for chunk in &mut sealed {
            let _ = key.seal_in_place_append_tag(nonce(), Aad::from([0u8; 64]), chunk);
        }
        let before = thread_cpu();
        for chunk in &mut sealed {
            black_box(key.open_in_place(nonce(), Aad::from([0u8; 64]), chunk).is_ok());
        }
        cpu += thread_cpu() - before;
        done += sealed.len() * CHUNK;
    }
    per_gib(cpu, done)
}

pub fn encode(arena: &[u8], bytes: usize) -> f64 {
    let Ok(coder) = Coder::new(K, M) else { return 0.0 };
    let chunks = bytes / CHUNK;
    let mut cpu = std::time::Duration::ZERO;
    for chunk in arena.chunks_exact(CHUNK).cycle().take(chunks) {
        let own = chunk.to_vec();
        let before = thread_cpu();
        black_box(coder.encode(own));
        cpu += thread_cpu() - before;
    }
    per_gib(cpu, chunks * CHUNK)
}
