//! Compression that pays, or none.
//!
//! A sample decides first: most of a backup is dense already (compressed or encrypted by the client), and compressing
//! it to find that out would cost more than everything else done to it. What was compressed is kept only if it saves 5 %.
//! Not here: encryption (`seal.rs`), which binds the codec into the chunk's key.

use std::cell::RefCell;

/// zstd's fast end: about 2 ms a MiB. Not part of any format: a reader never asks.
const LEVEL: i32 = 1;
/// Bytes of one sample; three are taken from a chunk.
const SAMPLE: usize = 4 << 10;
/// Chunks up to this are compressed without a sample.
const SAMPLED_ABOVE: usize = 32 << 10;
/// Below this there is nothing to win: zstd's frame alone has a dozen bytes.
const SMALLEST: usize = 64;

thread_local! {
    static COMPRESSOR: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// `plain` compressed, if that saves at least 5 %.
pub fn compress(plain: &[u8]) -> Option<Vec<u8>> {
    if plain.len() < SMALLEST || (plain.len() > SAMPLED_ABOVE && dense(plain)) {
        return None;
    }
    let most = plain.len() - plain.len().div_ceil(20);
    let mut out = Vec::with_capacity(most);
    // zstd stops with an error once it would exceed `most`: what does not pay is not finished either.
    compress_into(plain, &mut out).then_some(out)
}

/// The bytes that [`compress`] was given; `None` if `packed` is not a frame of exactly `len` bytes.
pub fn decompress(packed: &[u8], len: usize) -> Option<Vec<u8>> {
    DECOMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = zstd::bulk::Decompressor::new().ok();
        }
        let mut out = Vec::with_capacity(len);
        let got = slot.as_mut()?.decompress_to_buffer(packed, &mut out).ok()?;
        (got == len).then_some(out)
    })
}

/// Whether three samples together save less than 4 %.
fn dense(plain: &[u8]) -> bool {
    let mut sample = [0; 3 * SAMPLE];
    for (i, at) in [0, (plain.len() - SAMPLE) / 2, plain.len() - SAMPLE].into_iter().enumerate() {
        sample[i * SAMPLE..(i + 1) * SAMPLE].copy_from_slice(&plain[at..at + SAMPLE]);
    }
    let mut out = Vec::with_capacity(sample.len() - sample.len() / 25);
    !compress_into(&sample, &mut out)
}

fn compress_into(plain: &[u8], out: &mut Vec<u8>) -> bool {
    COMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = zstd::bulk::Compressor::new(LEVEL).ok();
        }
        slot.as_mut().is_some_and(|zstd| zstd.compress_to_buffer(plain, out).is_ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn random(len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        blake3::Hasher::new().update(b"random").finalize_xof().fill(&mut out);
        out
    }

    #[test]
    fn dense_bytes_are_left_alone_at_every_size() {
        for len in [0, 1, 63, 64, 100, 4_096, 32 << 10, (32 << 10) + 1, 1 << 20] {
            assert!(compress(&random(len)).is_none(), "{len}");
        }
    }

    #[test]
    fn text_and_zeros_shrink_and_come_back() {
        for plain in [vec![0; 1 << 20], b"the quick brown fox ".repeat(5_000), b"abcabcabc".repeat(20)] {
            let packed = compress(&plain).unwrap();
            assert!(packed.len() * 20 <= plain.len() * 19);
            assert_eq!(decompress(&packed, plain.len()).unwrap(), plain);
            assert!(decompress(&packed, plain.len() - 1).is_none());
            assert!(decompress(&packed, plain.len() + 1).is_none());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_is_kept_saves_five_percent_and_comes_back(noise in 0usize..200_000, zeros in 0usize..200_000) {
            let mut plain = random(noise);
            plain.resize(noise + zeros, 0);
            if let Some(packed) = compress(&plain) {
                prop_assert!(packed.len() * 20 <= plain.len() * 19);
                prop_assert_eq!(decompress(&packed, plain.len()), Some(plain));
            }
        }

        #[test]
        fn garbage_is_no_frame(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            prop_assert!(decompress(&bytes, 1_000).is_none());
        }
    }
}
