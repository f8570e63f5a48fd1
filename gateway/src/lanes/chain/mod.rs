//! Digests that chain blocks of 64 bytes, of one stream and of several side by side.
//!
//! A stream's digest is one chain, each step waiting for the last: a core is mostly idle. Chains of several streams woven into
//! each other fill it. Invariant: however streams are grouped, each gets the standard's digest of its own bytes.
//! Not here: which streams meet when (`lanes.rs`).
//!
//! Source: RFC 1321 (MD5), FIPS 180-4 (SHA-256); both pad alike but for the order of the length's bytes.

pub mod md5;
pub mod sha256;

pub const BLOCK: usize = 64;
/// Streams that one call may bring: more of them gain nothing.
pub const WIDE: usize = 16;

/// Blocks, as they are chained.
pub type Blocks<'a> = &'a [[u8; BLOCK]];

/// A digest of this kind.
pub trait Algorithm: Copy + Send + 'static {
    type Words: Copy + Send;
    type Digest;
    const START: Self::Words;

    /// Chains blocks; every stream has as many.
    fn advance(streams: &mut [(&mut Self::Words, Blocks)]);
    /// How a message's length in bits ends it.
    fn length(bits: u64) -> [u8; 8];
    fn digest(words: Self::Words) -> Self::Digest;
}

/// A digest on its way.
#[derive(Clone, Copy)]
pub struct State<A: Algorithm> {
    words: A::Words,
    /// Bytes behind the last whole block.
    tail: [u8; BLOCK],
    /// All bytes so far.
    bytes: u64,
}

impl<A: Algorithm> Default for State<A> {
    fn default() -> Self {
        State { words: A::START, tail: [0; BLOCK], bytes: 0 }
    }
}

impl<A: Algorithm> State<A> {
    /// Appends `data`.
    pub fn update(&mut self, data: &[u8]) {
        let (blocks, rest) = self.fill_tail(data).as_chunks();
        A::advance(&mut [(&mut self.words, blocks)]);
        self.tail[..rest.len()].copy_from_slice(rest);
        self.bytes += (blocks.len() * BLOCK + rest.len()) as u64;
    }

    /// Completes a block that an earlier call began; gives what is left of `data`.
    fn fill_tail<'a>(&mut self, data: &'a [u8]) -> &'a [u8] {
        let held = self.held();
        if held == 0 {
            return data;
        }
        let (mine, rest) = data.split_at(data.len().min(BLOCK - held));
        self.tail[held..held + mine.len()].copy_from_slice(mine);
        self.bytes += mine.len() as u64;
        if held + mine.len() == BLOCK {
            A::advance(&mut [(&mut self.words, &[self.tail])]);
        }
        rest
    }

    fn held(&self) -> usize {
        (self.bytes % BLOCK as u64) as usize
    }

    /// The digest of all bytes so far.
    pub fn finalize(mut self) -> A::Digest {
        let bits = self.bytes.wrapping_mul(8);
        let zeros = (BLOCK * 2 - 9 - self.held()) % BLOCK;
        let mut padding = [0; BLOCK * 2];
        padding[0] = 0x80;
        padding[1 + zeros..9 + zeros].copy_from_slice(&A::length(bits));
        self.update(&padding[..9 + zeros]);
        A::digest(self.words)
    }
}

/// Appends `inputs[i]` to `states[i]`. What all of them can take in whole blocks goes side by side, the rest one by one.
///
/// # Panics
/// If there are not as many inputs as states.
pub fn update_together<A: Algorithm>(states: &mut [State<A>], inputs: &[&[u8]]) {
    assert_eq!(states.len(), inputs.len(), "an input for every state");
    let rests: Vec<&[u8]> = states.iter_mut().zip(inputs).map(|(state, input)| state.fill_tail(input)).collect();
    let shared = rests.iter().map(|rest| rest.len()).min().unwrap_or(0) / BLOCK * BLOCK;
    if shared > 0 && states.iter().all(|state| state.held() == 0) {
        let mut streams: Vec<(&mut A::Words, Blocks)> =
            states.iter_mut().zip(&rests).map(|(state, rest)| (&mut state.words, rest[..shared].as_chunks().0)).collect();
        A::advance(&mut streams);
        states.iter_mut().for_each(|state| state.bytes += shared as u64);
        states.iter_mut().zip(&rests).for_each(|(state, rest)| state.update(&rest[shared..]));
    } else {
        states.iter_mut().zip(&rests).for_each(|(state, rest)| state.update(rest));
    }
}
