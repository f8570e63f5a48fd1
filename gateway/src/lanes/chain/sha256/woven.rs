//! Chains of SHA-256 side by side with the instructions of x86.
//!
//! The instructions hold the eight words as | A B E F | and | C D G H |, the highest lane first.
//! Source: Gulley and others, Intel SHA Extensions, 2013.

use super::super::BLOCK;
use super::{Blocks, WOVEN};
use std::arch::x86_64::*;

/// The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
#[rustfmt::skip]
const ROOTS: [u32; 64] = [
    0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5, 0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5,
    0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3, 0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174,
    0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc, 0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da,
    0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7, 0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967,
    0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13, 0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85,
    0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3, 0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070,
    0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5, 0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3,
    0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208, 0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2,
];

/// Whether this processor has the instructions.
pub fn is_there() -> bool {
    is_x86_feature_detected!("sha") && is_x86_feature_detected!("sse4.1")
}

/// Advances any number of streams, as many at once as fit; every one has as many blocks.
///
/// # Panics
/// Without [`is_there`].
pub fn advance(streams: &mut [(&mut [u32; 8], Blocks)]) {
    assert!(is_there(), "instructions that are not there");
    for group in streams.chunks_mut(WOVEN) {
        // SAFETY: the processor has the instructions, as was asserted.
        unsafe {
            match group {
                [(a, x)] => chain::<1>([a], [x]),
                [(a, x), (b, y)] => chain::<2>([a, b], [x, y]),
                [(a, x), (b, y), (c, z)] => chain::<3>([a, b, c], [x, y, z]),
                [(a, x), (b, y), (c, z), (d, w)] => chain::<4>([a, b, c, d], [x, y, z, w]),
                _ => unreachable!("no more than {WOVEN} in a group"),
            }
        }
    }
}

/// Four rounds of every chain, and the four words of its schedule that come sixteen later.
macro_rules! four_rounds {
    ($i:literal, $abef:ident, $cdgh:ident, $schedule:ident) => {
        let roots = load(ROOTS[4 * $i..].first_chunk());
        for n in 0..N {
            let sum = _mm_add_epi32($schedule[n][$i % 4], roots);
            $cdgh[n] = _mm_sha256rnds2_epu32($cdgh[n], $abef[n], sum);
            $abef[n] = _mm_sha256rnds2_epu32($abef[n], $cdgh[n], _mm_shuffle_epi32::<0x0E>(sum));
        }
        if $i < 12 {
            for words in &mut $schedule {
                let [w0, w1, w2, w3] = [words[$i % 4], words[($i + 1) % 4], words[($i + 2) % 4], words[($i + 3) % 4]];
                let sum = _mm_add_epi32(_mm_sha256msg1_epu32(w0, w1), _mm_alignr_epi8::<4>(w3, w2));
                words[$i % 4] = _mm_sha256msg2_epu32(sum, w3);
            }
        }
    };
    ($abef:ident, $cdgh:ident, $schedule:ident; $($i:literal)*) => { $( four_rounds!($i, $abef, $cdgh, $schedule); )* };
}

/// `N` chains woven together; the inputs have one length.
#[target_feature(enable = "sha,sse4.1")]
#[inline(never)]
#[allow(clippy::needless_range_loop)] // the chains are walked side by side
fn chain<const N: usize>(words: [&mut [u32; 8]; N], inputs: [Blocks; N]) {
    let zero = _mm_setzero_si128();
    let (mut abef, mut cdgh) = ([zero; N], [zero; N]);
    for n in 0..N {
        let (low, high) = words[n].split_at(4);
        let (badc, hgfe) = (_mm_shuffle_epi32::<0xB1>(load(low.first_chunk())), _mm_shuffle_epi32::<0x1B>(load(high.first_chunk())));
        abef[n] = _mm_alignr_epi8::<8>(badc, hgfe);
        cdgh[n] = _mm_blend_epi16::<0xF0>(hgfe, badc);
    }
    let count = inputs.iter().map(|input| input.len()).min().unwrap_or(0);
    for at in 0..count {
        let (abef_before, cdgh_before) = (abef, cdgh);
        let mut schedule: [[__m128i; 4]; N] = std::array::from_fn(|n| big_endian(&inputs[n][at]));
        four_rounds!(abef, cdgh, schedule; 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        for n in 0..N {
            abef[n] = _mm_add_epi32(abef[n], abef_before[n]);
            cdgh[n] = _mm_add_epi32(cdgh[n], cdgh_before[n]);
        }
    }
    for n in 0..N {
        let (feba, dchg) = (_mm_shuffle_epi32::<0x1B>(abef[n]), _mm_shuffle_epi32::<0xB1>(cdgh[n]));
        let (low, high) = words[n].split_at_mut(4);
        store(low.first_chunk_mut(), _mm_blend_epi16::<0xF0>(feba, dchg));
        store(high.first_chunk_mut(), _mm_alignr_epi8::<8>(dchg, feba));
    }
}

/// The sixteen words of a block.
#[target_feature(enable = "sha,sse4.1")]
fn big_endian(block: &[u8; BLOCK]) -> [__m128i; 4] {
    let turn = _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
    // SAFETY: four times 16 bytes are the block, and the loads need no alignment.
    std::array::from_fn(|i| unsafe { _mm_shuffle_epi8(_mm_loadu_si128(block[16 * i..].as_ptr().cast()), turn) })
}

#[target_feature(enable = "sha,sse4.1")]
fn load(words: Option<&[u32; 4]>) -> __m128i {
    let words = words.unwrap_or_else(|| unreachable!("four words at each place"));
    // SAFETY: four words of four bytes are 16 bytes, and the load needs no alignment.
    unsafe { _mm_loadu_si128(words.as_ptr().cast()) }
}

#[target_feature(enable = "sha,sse4.1")]
fn store(words: Option<&mut [u32; 4]>, value: __m128i) {
    let words = words.unwrap_or_else(|| unreachable!("four words at each place"));
    // SAFETY: four words of four bytes are 16 bytes, and the store needs no alignment.
    unsafe { _mm_storeu_si128(words.as_mut_ptr().cast(), value) }
}
