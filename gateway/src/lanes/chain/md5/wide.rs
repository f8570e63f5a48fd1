//! Sixteen chains side by side, a lane each. A lane without a stream repeats the first one.

use super::{BLOCK, Blocks, SINES, TURNS, WIDE, Words, word};
use std::arch::x86_64::*;

/// Whether this processor has the lanes.
pub fn is_there() -> bool {
    is_x86_feature_detected!("avx512f")
}

/// Advances up to [`WIDE`] streams; the inputs have one length.
///
/// # Panics
/// Without [`is_there`], without a stream, or with more than [`WIDE`].
pub fn advance(streams: &mut [(&mut Words, Blocks)]) {
    assert!(is_there() && (1..=WIDE).contains(&streams.len()), "lanes that are not there");
    let lane = |i: usize| if i < streams.len() { i } else { 0 };
    let inputs: [Blocks; WIDE] = std::array::from_fn(|i| streams[lane(i)].1);
    // By word, then by lane, as the vectors are.
    let mut chains: [[u32; WIDE]; 4] = std::array::from_fn(|w| std::array::from_fn(|i| streams[lane(i)].0[w]));
    // SAFETY: the processor has AVX-512F, as was asserted.
    unsafe { advance_lanes(&mut chains, &inputs) };
    for (i, (words, _)) in streams.iter_mut().enumerate() {
        **words = std::array::from_fn(|w| chains[w][i]);
    }
}

/// One step of all chains. `$table`: the round's function as a truth table over B, C and D.
macro_rules! step {
    ($round:literal, $table:literal, $i:expr, $words:ident, $a:ident, $b:ident, $c:ident, $d:ident) => {
        let sum = _mm512_add_epi32(_mm512_add_epi32($a, _mm512_set1_epi32(const { SINES[$i] as i32 })), $words[const { word($i) }]);
        let sum = _mm512_add_epi32(sum, _mm512_ternarylogic_epi32::<$table>($b, $c, $d));
        let next = _mm512_add_epi32($b, _mm512_rol_epi32::<{ TURNS[$round][$i % 4] as i32 }>(sum));
        ($a, $d, $c, $b) = ($d, $c, $b, next);
    };
}

macro_rules! round {
    ($round:literal, $table:literal, $words:ident, $a:ident, $b:ident, $c:ident, $d:ident) => {
        round!($round, $table, $words, $a, $b, $c, $d; 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    ($round:literal, $table:literal, $words:ident, $a:ident, $b:ident, $c:ident, $d:ident; $($i:literal)*) => {
        $( step!($round, $table, { $round * 16 + $i }, $words, $a, $b, $c, $d); )*
    };
}

#[target_feature(enable = "avx512f")]
#[allow(clippy::needless_range_loop)] // the inputs are walked side by side
fn advance_lanes(chains: &mut [[u32; WIDE]; 4], inputs: &[Blocks; WIDE]) {
    let [mut a0, mut b0, mut c0, mut d0] = chains.each_ref().map(|lanes| load(lanes));
    let count = inputs.iter().map(|input| input.len()).min().unwrap_or(0);
    for at in 0..count {
        let words = transposed(std::array::from_fn(|i| load_block(&inputs[i][at])));
        let (mut a, mut b, mut c, mut d) = (a0, b0, c0, d0);
        round!(0, 0xCA, words, a, b, c, d);
        round!(1, 0xE4, words, a, b, c, d);
        round!(2, 0x96, words, a, b, c, d);
        round!(3, 0x39, words, a, b, c, d);
        (a0, b0) = (_mm512_add_epi32(a0, a), _mm512_add_epi32(b0, b));
        (c0, d0) = (_mm512_add_epi32(c0, c), _mm512_add_epi32(d0, d));
    }
    for (lanes, vector) in chains.iter_mut().zip([a0, b0, c0, d0]) {
        // SAFETY: sixteen words of four bytes are 64 bytes, and the store needs no alignment.
        unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), vector) };
    }
}

#[target_feature(enable = "avx512f")]
fn load(lanes: &[u32; WIDE]) -> __m512i {
    // SAFETY: sixteen words of four bytes are 64 bytes, and the load needs no alignment.
    unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
fn load_block(block: &[u8; BLOCK]) -> __m512i {
    // SAFETY: a block is 64 bytes, and the load needs no alignment.
    unsafe { _mm512_loadu_si512(block.as_ptr().cast()) }
}

/// From a block a lane to a word a vector: vector `w` of the result holds word `w` of every block, in the order of the lanes.
#[target_feature(enable = "avx512f")]
fn transposed(r: [__m512i; WIDE]) -> [__m512i; WIDE] {
    let mut t = r;
    // Words of pairs of rows, then pairs of words of four rows: each 128-bit piece q of t[4g + w] has word 4q + w of rows 4g..4g+4.
    for g in 0..4 {
        let [r0, r1, r2, r3] = [r[4 * g], r[4 * g + 1], r[4 * g + 2], r[4 * g + 3]];
        let (lo01, hi01) = (_mm512_unpacklo_epi32(r0, r1), _mm512_unpackhi_epi32(r0, r1));
        let (lo23, hi23) = (_mm512_unpacklo_epi32(r2, r3), _mm512_unpackhi_epi32(r2, r3));
        t[4 * g] = _mm512_unpacklo_epi64(lo01, lo23);
        t[4 * g + 1] = _mm512_unpackhi_epi64(lo01, lo23);
        t[4 * g + 2] = _mm512_unpacklo_epi64(hi01, hi23);
        t[4 * g + 3] = _mm512_unpackhi_epi64(hi01, hi23);
    }
    // Then the pieces: word 4q + w wants piece q of the four groups.
    let mut out = t;
    for w in 0..4 {
        let [g0, g1, g2, g3] = [t[w], t[4 + w], t[8 + w], t[12 + w]];
        let (low01, high01) = (_mm512_shuffle_i32x4::<0x44>(g0, g1), _mm512_shuffle_i32x4::<0xEE>(g0, g1));
        let (low23, high23) = (_mm512_shuffle_i32x4::<0x44>(g2, g3), _mm512_shuffle_i32x4::<0xEE>(g2, g3));
        out[w] = _mm512_shuffle_i32x4::<0x88>(low01, low23);
        out[4 + w] = _mm512_shuffle_i32x4::<0xDD>(low01, low23);
        out[8 + w] = _mm512_shuffle_i32x4::<0x88>(high01, high23);
        out[12 + w] = _mm512_shuffle_i32x4::<0xDD>(high01, high23);
    }
    out
}
