//! MD5: two or three chains woven into each other by plain code fill a core, and cost what one does; from six on, sixteen chains in the
//! lanes of AVX-512 are cheaper yet.

use super::{Algorithm, BLOCK, Blocks, WIDE};
use std::array;

/// Chains woven together by scalar code at most: more of them run out of registers.
const WOVEN: usize = 4;
/// From so many streams on the vector lanes win, idle ones included.
const WIDE_FROM: usize = 6;

/// A, B, C and D.
type Words = [u32; 4];

/// `floor(2^32 * |sin(i + 1)|)`.
const SINES: [u32; 64] = [
    0xd76a_a478,
    0xe8c7_b756,
    0x2420_70db,
    0xc1bd_ceee,
    0xf57c_0faf,
    0x4787_c62a,
    0xa830_4613,
    0xfd46_9501,
    0x6980_98d8,
    0x8b44_f7af,
    0xffff_5bb1,
    0x895c_d7be,
    0x6b90_1122,
    0xfd98_7193,
    0xa679_438e,
    0x49b4_0821,
    0xf61e_2562,
    0xc040_b340,
    0x265e_5a51,
    0xe9b6_c7aa,
    0xd62f_105d,
    0x0244_1453,
    0xd8a1_e681,
    0xe7d3_fbc8,
    0x21e1_cde6,
    0xc337_07d6,
    0xf4d5_0d87,
    0x455a_14ed,
    0xa9e3_e905,
    0xfcef_a3f8,
    0x676f_02d9,
    0x8d2a_4c8a,
    0xfffa_3942,
    0x8771_f681,
    0x6d9d_6122,
    0xfde5_380c,
    0xa4be_ea44,
    0x4bde_cfa9,
    0xf6bb_4b60,
    0xbebf_bc70,
    0x289b_7ec6,
    0xeaa1_27fa,
    0xd4ef_3085,
    0x0488_1d05,
    0xd9d4_d039,
    0xe6db_99e5,
    0x1fa2_7cf8,
    0xc4ac_5665,
    0xf429_2244,
    0x432a_ff97,
    0xab94_23a7,
    0xfc93_a039,
    0x655b_59c3,
    0x8f0c_cc92,
    0xffef_f47d,
    0x8584_5dd1,
    0x6fa8_7e4f,
    0xfe2c_e6e0,
    0xa301_4314,
    0x4e08_11a1,
    0xf753_7e82,
    0xbd3a_f235,
    0x2ad7_d2bb,
    0xeb86_d391,
];
/// Left rotations of the four steps that each round repeats.
const TURNS: [[u32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];

/// Which word of the block step `i` takes.
const fn word(i: usize) -> usize {
    match i / 16 {
        0 => i,
        1 => (5 * i + 1) % 16,
        2 => (3 * i + 5) % 16,
        _ => (7 * i) % 16,
    }
}

/// The algorithm.
#[derive(Clone, Copy)]
pub struct Md5;

impl Algorithm for Md5 {
    type Words = Words;
    type Digest = [u8; 16];
    const START: Words = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];

    fn advance(streams: &mut [(&mut Words, Blocks)]) {
        by_groups(streams);
    }

    fn length(bits: u64) -> [u8; 8] {
        bits.to_le_bytes()
    }

    fn digest(words: Words) -> [u8; 16] {
        let mut out = [0; 16];
        for (bytes, word) in out.chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        out
    }
}

/// In the groups that are cheapest here.
fn by_groups(mut streams: &mut [(&mut Words, Blocks)]) {
    while !streams.is_empty() {
        let size = match streams.len() {
            n if n >= WIDE_FROM && wide::is_there() => n.min(WIDE),
            n if n <= WOVEN => n,
            _ => 3,
        };
        let (group, rest) = streams.split_at_mut(size);
        match group {
            [(a, x)] => woven::<1>([a], [x]),
            [(a, x), (b, y)] => woven::<2>([a, b], [x, y]),
            [(a, x), (b, y), (c, z)] => woven::<3>([a, b, c], [x, y, z]),
            [(a, x), (b, y), (c, z), (d, w)] => woven::<4>([a, b, c, d], [x, y, z, w]),
            many => wide::advance(many),
        }
        streams = rest;
    }
}

/// Keeps the compiler from joining what was added before with what is added after: the sum must be ready when the slow term comes.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn settled(mut sum: u32) -> u32 {
    // SAFETY: no instruction at all; it only says that the value is used and changed here.
    unsafe { std::arch::asm!("/* {0:e} */", inout(reg) sum, options(pure, nomem, nostack, preserves_flags)) };
    sum
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn settled(sum: u32) -> u32 {
    sum
}

/// `sum` plus the round's function of B, C and D, with the shortest way from B.
#[inline(always)]
fn mix<const ROUND: usize>(sum: u32, b: u32, c: u32, d: u32) -> u32 {
    match ROUND {
        0 => sum.wrapping_add(d ^ (b & (c ^ d))),
        // The halves have no bit in common: adding is as good as or-ing, and one half can be added early.
        1 => settled(sum.wrapping_add(!d & c)).wrapping_add(d & b),
        2 => sum.wrapping_add(settled(c ^ d) ^ b),
        _ => sum.wrapping_add(c ^ (b | !d)),
    }
}

#[inline(always)]
fn step<const ROUND: usize, const N: usize>(chains: &mut [Words; N], blocks: &[&[u8; BLOCK]; N], i: usize) {
    for (chain, block) in chains.iter_mut().zip(blocks) {
        let ([a, b, c, d], at) = (*chain, word(i) * 4);
        let taken = u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
        let sum = settled(a.wrapping_add(SINES[i]).wrapping_add(taken));
        let next = b.wrapping_add(mix::<ROUND>(sum, b, c, d).rotate_left(TURNS[ROUND][i % 4]));
        *chain = [d, next, b, c];
    }
}

/// Sixteen steps written out: a loop over them would keep the rotations and the words in tables.
macro_rules! round {
    ($round:literal, $chains:expr, $blocks:expr) => {
        round!($round, $chains, $blocks; 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    ($round:literal, $chains:expr, $blocks:expr; $($i:literal)*) => {
        $( step::<$round, N>(&mut $chains, &$blocks, const { $round * 16 + $i }); )*
    };
}

/// `N` chains woven together; the inputs have one length. Compiled incrementally it is half as fast: measure release builds as users make them.
#[inline(never)]
#[allow(clippy::needless_range_loop)] // the inputs are walked side by side
fn woven<const N: usize>(words: [&mut Words; N], inputs: [Blocks; N]) {
    let mut chains: [Words; N] = array::from_fn(|i| *words[i]);
    let count = inputs.iter().map(|input| input.len()).min().unwrap_or(0);
    for at in 0..count {
        let blocks: [&[u8; BLOCK]; N] = array::from_fn(|i| &inputs[i][at]);
        let before = chains;
        round!(0, chains, blocks);
        round!(1, chains, blocks);
        round!(2, chains, blocks);
        round!(3, chains, blocks);
        for (chain, before) in chains.iter_mut().zip(before) {
            *chain = array::from_fn(|i| chain[i].wrapping_add(before[i]));
        }
    }
    for (words, chain) in words.into_iter().zip(chains) {
        *words = chain;
    }
}

/// Sixteen chains in the lanes of AVX-512.
#[cfg(target_arch = "x86_64")]
mod wide;

#[cfg(not(target_arch = "x86_64"))]
mod wide {
    //! Other processors weave scalar code only.
    pub fn is_there() -> bool {
        false
    }

    pub fn advance(_: &mut [(&mut super::Words, super::Blocks)]) {
        unreachable!("asked for lanes that are not there")
    }
}
