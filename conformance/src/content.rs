//! Bodies that follow from a number: what was written can be made again for the comparison, and never needs to be kept.
//!
//! Not here: which body belongs under which key (`ledger.rs`, `oracle.rs`).

use bytes::Bytes;

/// Names one body: the same values always make the same bytes, different seeds make different bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Content {
    pub seed: u64,
    /// Length in bytes.
    pub len: usize,
    /// Whether the bytes compress (text-like) or are dense.
    pub dense: bool,
}

impl Content {
    /// `len` dense bytes.
    pub fn dense(seed: u64, len: usize) -> Self {
        Content { seed, len, dense: true }
    }

    /// `len` bytes that zstd shrinks to a fraction.
    pub fn text(seed: u64, len: usize) -> Self {
        Content { seed, len, dense: false }
    }

    /// The body.
    pub fn bytes(&self) -> Bytes {
        let mut body = vec![0u8; self.len];
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.seed.to_le_bytes());
        hasher.finalize_xof().fill(&mut body);
        if !self.dense {
            for byte in &mut body {
                *byte = b"etaoin shrdlu\ncm"[(*byte & 15) as usize];
            }
        }
        Bytes::from(body)
    }

    /// First 16 hex digits of the body's BLAKE3, for messages.
    pub fn name(&self) -> String {
        fingerprint(&self.bytes())
    }
}

/// Short name of some bytes, for messages.
pub fn fingerprint(bytes: &[u8]) -> String {
    let hex = blake3::hash(bytes).to_hex();
    format!("{}:{}", bytes.len(), &hex[..16])
}

/// A small, fast, seeded source of choices (splitmix64). Not for secrets.
#[derive(Clone, Debug)]
pub struct Dice {
    state: u64,
}

impl Dice {
    pub fn new(seed: u64) -> Self {
        Dice { state: seed ^ 0x9e37_79b9_7f4a_7c15 }
    }

    /// A seed that no earlier run had.
    pub fn fresh_seed() -> u64 {
        getrandom::u64().unwrap_or(0x5eed) >> 16
    }

    pub fn roll(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which must not be 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.roll() % bound as u64) as usize
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// True `percent` times in a hundred.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// An independent source for a worker.
    pub fn fork(&mut self) -> Dice {
        Dice::new(self.roll())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_content_is_made_twice_and_another_seed_makes_another() {
        assert_eq!(Content::dense(1, 1000).bytes(), Content::dense(1, 1000).bytes());
        assert_ne!(Content::dense(1, 1000).bytes(), Content::dense(2, 1000).bytes());
        assert_eq!(Content::text(1, 77).bytes().len(), 77);
    }

    #[test]
    fn dice_of_one_seed_fall_alike() {
        let (mut a, mut b) = (Dice::new(7), Dice::new(7));
        for _ in 0..100 {
            assert_eq!(a.roll(), b.roll());
        }
    }
}
