//! Reed-Solomon: one sealed chunk into `n = k + m` shards, any `k` of which give it back.
//!
//! ```text
//! sealed (sealed_len) + zeros = | shard 0 | shard 1 | ... | shard k-1 |     data: slices of one allocation
//!                               | shard k | ... | shard n-1 |               parity: an allocation each
//! shard_len = sealed_len.div_ceil(k)
//! ```
//!
//! Invariants: systematic (a data shard is a slice of the chunk); the same bytes on every machine, whichever kernel ran;
//! shapes are checked, contents are not: a wrong shard was dropped by its root before it came here.
//!
//! The arithmetic is that of `reed-solomon-erasure`: only its slice kernels over GF(2^8) are called. Its `ReedSolomon` type is not,
//! because it keeps inverses in an `lru` with an unsound iterator, and because it would run AVX2 code without asking whether the
//! machine has it. The matrix is the same, and a test holds the bytes to be the same.
//!
//! Not here: which node holds a shard (`placement`), roots (`wire::shard`), sealing (the gateway).
//!
//! Source: Reed and Solomon 1960; systematic Vandermonde form as in Plank 1997.

use crate::limit;
use bytes::Bytes;
use reed_solomon_erasure::galois_8;

/// Bytes of every operand that are worked on at a time: `k + 1` of them stay in the first two caches.
const BLOCK: usize = 16 << 10;

/// What cannot be coded, or not be rebuilt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ErasureError {
    /// `k` is 0, or `k + m` is over [`limit::SHARDS`].
    #[error("no such code. k=`{k}`, m=`{m}`")]
    Shape { k: u8, m: u8 },
    /// Nothing can be rebuilt until `missing` more shards arrive.
    #[error("too few shards. have=`{have}`, need=`{need}`, missing=`{missing}`")]
    TooFewShards { have: usize, need: usize, missing: usize },
    /// The slice is not `n` long, or the index asked for is not below `n`.
    #[error("not a stripe of this code. got=`{got}`, n=`{n}`")]
    Stripe { got: usize, n: usize },
    /// A shard's length is not what the chunk's length says.
    #[error("shard of wrong length. index=`{index}`, len=`{len}`, expected=`{expected}`")]
    ShardLength { index: usize, len: usize, expected: usize },
}

/// Which code multiplies slices. Both give the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// AVX2 or NEON.
    Simd,
    /// A table of 256 products per coefficient: some 15 times slower. For machines without AVX2.
    Table,
}

impl Kernel {
    /// The fastest one this machine can run. The crate's C is compiled for Haswell and checks nothing itself.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let haswell = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2") && is_x86_feature_detected!("fma");
            if haswell { Self::Simd } else { Self::Table }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            Self::Simd
        }
    }

    /// `out = c * input`, or `out += c * input`. Equal lengths.
    fn multiply(self, c: u8, input: &[u8], out: &mut [u8], add: bool) {
        match (self, add) {
            (Self::Simd, false) => galois_8::mul_slice(c, input, out),
            (Self::Simd, true) => galois_8::mul_slice_xor(c, input, out),
            (Self::Table, add) => {
                let products: [u8; 256] = std::array::from_fn(|x| galois_8::mul(c, x as u8));
                for (o, i) in out.iter_mut().zip(input) {
                    *o = products[*i as usize] ^ if add { *o } else { 0 };
                }
            }
        }
    }
}

/// The code of one `(k, m)`. Making one costs microseconds; keep it all the same.
#[derive(Clone, Debug)]
pub struct Coder {
    k: usize,
    m: usize,
    /// `m` rows of `k` coefficients: parity `j` is the sum over `i` of `parity[j][i] * data[i]`.
    parity: Vec<Vec<u8>>,
    kernel: Kernel,
}

impl Coder {
    /// The code of `k` data and `m` parity shards; `m` may be 0.
    ///
    /// # Errors
    /// [`ErasureError::Shape`].
    pub fn new(k: u8, m: u8) -> Result<Self, ErasureError> {
        Self::with_kernel(k, m, Kernel::detect())
    }

    /// As [`Coder::new`], with a kernel of one's choice: tests and benchmarks.
    pub fn with_kernel(k: u8, m: u8, kernel: Kernel) -> Result<Self, ErasureError> {
        let n = usize::from(k) + usize::from(m);
        if k == 0 || n > limit::SHARDS {
            return Err(ErasureError::Shape { k, m });
        }
        let (k, m) = (usize::from(k), usize::from(m));
        let vandermonde: Vec<Vec<u8>> = (0..n).map(|r| (0..k).map(|c| galois_8::exp(r as u8, c)).collect()).collect();
        let top = invert(vandermonde[..k].to_vec());
        let parity = vandermonde[k..].iter().map(|row| row_times(row, &top)).collect();
        Ok(Self { k, m, parity, kernel })
    }

    /// Data shards.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Parity shards.
    pub fn m(&self) -> usize {
        self.m
    }

    /// All shards.
    pub fn n(&self) -> usize {
        self.k + self.m
    }

    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Bytes of each shard of a sealed chunk.
    pub fn shard_len(&self, sealed_len: usize) -> usize {
        sealed_len.div_ceil(self.k)
    }

    /// Bytes of all data shards: give a buffer for [`Coder::encode`] this capacity and it is not moved.
    pub fn padded_len(&self, sealed_len: usize) -> usize {
        self.shard_len(sealed_len) * self.k
    }

    /// All `n` shards of one sealed chunk, by index. The data shards are slices of `sealed`'s own allocation, padded with zeros.
    pub fn encode(&self, mut sealed: Vec<u8>) -> Vec<Bytes> {
        let len = self.shard_len(sealed.len());
        sealed.resize(len * self.k, 0);
        let parity = match len {
            0 => vec![Bytes::new(); self.m],
            _ => self.combine(&self.parity, &sealed.chunks_exact(len).collect::<Vec<_>>()),
        };
        let sealed = Bytes::from(sealed);
        (0..self.k).map(|i| sealed.slice(i * len..(i + 1) * len)).chain(parity).collect()
    }

    /// Fills in the data shards that are missing, from any `k` of the `n` shards. Missing parity stays missing.
    ///
    /// - `shards[i]`: `Some` if shard `i` arrived; the slice is exactly `n` long.
    /// - Each shard is [`Coder::shard_len`] bytes of `sealed_len`.
    ///
    /// # Errors
    /// [`ErasureError::TooFewShards`] below `k`; [`ErasureError::Stripe`] and [`ErasureError::ShardLength`] for wrong shapes.
    pub fn rebuild(&self, shards: &mut [Option<Bytes>], sealed_len: usize) -> Result<(), ErasureError> {
        let missing: Vec<usize> = self.checked(shards, sealed_len)?;
        let missing: Vec<usize> = missing.into_iter().filter(|i| *i < self.k).collect();
        let rebuilt = self.rebuild_indices(shards, &missing)?;
        for (i, shard) in missing.into_iter().zip(rebuilt) {
            shards[i] = Some(shard);
        }
        Ok(())
    }

    /// One shard, data or parity, from any `k` others: what repair stores again.
    ///
    /// # Errors
    /// As [`Coder::rebuild`].
    pub fn rebuild_one(&self, shards: &[Option<Bytes>], index: usize, sealed_len: usize) -> Result<Bytes, ErasureError> {
        self.checked(shards, sealed_len)?;
        match shards.get(index) {
            Some(Some(there)) => Ok(there.clone()),
            Some(None) => Ok(self.rebuild_indices(shards, &[index])?.remove(0)),
            None => Err(ErasureError::Stripe { got: index, n: self.n() }),
        }
    }

    /// The sealed chunk itself, in a buffer of its own so that it can be decrypted in place. Missing data shards are
    /// computed: there is no need to call [`Coder::rebuild`] first.
    ///
    /// # Errors
    /// As [`Coder::rebuild`].
    pub fn join(&self, shards: &[Option<Bytes>], sealed_len: usize) -> Result<Vec<u8>, ErasureError> {
        let missing = self.checked(shards, sealed_len)?;
        let missing: Vec<usize> = missing.into_iter().filter(|i| *i < self.k).collect();
        let mut rebuilt = self.rebuild_indices(shards, &missing)?.into_iter();
        let mut whole = Vec::with_capacity(self.padded_len(sealed_len));
        for shard in &shards[..self.k] {
            let shard = shard.clone().or_else(|| rebuilt.next()).unwrap_or_default();
            whole.extend_from_slice(&shard);
        }
        whole.truncate(sealed_len);
        Ok(whole)
    }

    /// Indices that are missing, once the shapes are right.
    fn checked(&self, shards: &[Option<Bytes>], sealed_len: usize) -> Result<Vec<usize>, ErasureError> {
        if shards.len() != self.n() {
            return Err(ErasureError::Stripe { got: shards.len(), n: self.n() });
        }
        let expected = self.shard_len(sealed_len);
        let wrong =
            shards.iter().enumerate().find_map(|(index, shard)| shard.as_ref().filter(|s| s.len() != expected).map(|s| (index, s.len())));
        if let Some((index, len)) = wrong {
            return Err(ErasureError::ShardLength { index, len, expected });
        }
        Ok((0..shards.len()).filter(|i| shards[*i].is_none()).collect())
    }

    fn rebuild_indices(&self, shards: &[Option<Bytes>], wanted: &[usize]) -> Result<Vec<Bytes>, ErasureError> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let (sources, rows) = self.solve(shards, wanted)?;
        let inputs: Vec<&[u8]> = sources.iter().filter_map(|i| shards[*i].as_deref()).collect();
        Ok(self.combine(&rows, &inputs))
    }

    /// `k` shards to start from (data first) and, per wanted index, the coefficients that make it out of them.
    fn solve(&self, shards: &[Option<Bytes>], wanted: &[usize]) -> Result<(Vec<usize>, Vec<Vec<u8>>), ErasureError> {
        let sources: Vec<usize> = (0..self.n()).filter(|i| shards[*i].is_some()).take(self.k).collect();
        if sources.len() < self.k {
            let have = sources.len();
            return Err(ErasureError::TooFewShards { have, need: self.k, missing: self.k - have });
        }
        let inverse = invert(sources.iter().map(|i| self.row(*i)).collect());
        let rows = wanted.iter().map(|i| row_times(&self.row(*i), &inverse)).collect();
        Ok((sources, rows))
    }

    /// Row `index` of the `n x k` matrix that makes shards out of data.
    fn row(&self, index: usize) -> Vec<u8> {
        match index.checked_sub(self.k) {
            Some(j) => self.parity[j].clone(),
            None => (0..self.k).map(|c| u8::from(c == index)).collect(),
        }
    }

    /// Output `j` is the sum over `i` of `rows[j][i] * inputs[i]`, made block by block; all inputs have one length.
    fn combine(&self, rows: &[Vec<u8>], inputs: &[&[u8]]) -> Vec<Bytes> {
        let len = inputs.first().map_or(0, |input| input.len());
        let mut outs: Vec<Vec<u8>> = rows.iter().map(|_| Vec::with_capacity(len)).collect();
        for start in (0..len).step_by(BLOCK) {
            let block = start..(start + BLOCK).min(len);
            for (row, out) in rows.iter().zip(&mut outs) {
                // A block at a time: its zeros are still in the first cache when the products come over them.
                out.resize(block.end, 0);
                let out = &mut out[block.clone()];
                for (i, (c, input)) in row.iter().zip(inputs).enumerate() {
                    self.kernel.multiply(*c, &input[block.clone()], out, i > 0);
                }
            }
        }
        outs.into_iter().map(Bytes::from).collect()
    }
}

/// `row * matrix`.
fn row_times(row: &[u8], matrix: &[Vec<u8>]) -> Vec<u8> {
    let columns = matrix.first().map_or(0, Vec::len);
    (0..columns).map(|c| row.iter().zip(matrix).fold(0, |sum, (x, r)| sum ^ galois_8::mul(*x, r[c]))).collect()
}

/// Gauss-Jordan over GF(2^8). Any `k` rows of a systematic Vandermonde matrix are independent, so there is always a pivot.
fn invert(mut a: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let n = a.len();
    let mut b: Vec<Vec<u8>> = (0..n).map(|r| (0..n).map(|c| u8::from(r == c)).collect()).collect();
    for col in 0..n {
        let pivot = (col..n).find(|r| a[*r][col] != 0);
        let pivot = pivot.unwrap_or_else(|| unreachable!("any k rows of the matrix are independent"));
        a.swap(col, pivot);
        b.swap(col, pivot);
        let scale = galois_8::div(1, a[col][col]);
        for x in a[col].iter_mut().chain(b[col].iter_mut()) {
            *x = galois_8::mul(*x, scale);
        }
        let (pivot_a, pivot_b) = (a[col].clone(), b[col].clone());
        for r in (0..n).filter(|r| *r != col) {
            let factor = a[r][col];
            for (x, p) in a[r].iter_mut().zip(&pivot_a).chain(b[r].iter_mut().zip(&pivot_b)) {
                *x ^= galois_8::mul(factor, *p);
            }
        }
    }
    b
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sealed(len: usize, seed: u64) -> Vec<u8> {
        let mut out = vec![0; len];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
        out
    }

    /// A code, a chunk's length, a seed and which shards to drop (more than needed; a test takes as many as it wants).
    fn case() -> impl Strategy<Value = (u8, u8, usize, u64, Vec<usize>)> {
        (1u8..=12, 0u8..=6).prop_flat_map(|(k, m)| {
            let all: Vec<usize> = (0..usize::from(k + m)).collect();
            (Just(k), Just(m), 0usize..40_000, any::<u64>(), Just(all).prop_shuffle())
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn any_k_of_n_shards_give_the_chunk_back((k, m, len, seed, order) in case()) {
            let coder = Coder::new(k, m).unwrap();
            let chunk = sealed(len, seed);
            let all = coder.encode(chunk.clone());
            prop_assert_eq!(all.len(), coder.n());
            let mut shards: Vec<Option<Bytes>> = all.iter().cloned().map(Some).collect();
            for i in &order[..usize::from(m)] {
                shards[*i] = None;
            }
            prop_assert_eq!(&coder.join(&shards, len).unwrap(), &chunk);
            for (i, shard) in all.iter().enumerate() {
                prop_assert_eq!(&coder.rebuild_one(&shards, i, len).unwrap(), shard);
            }
            coder.rebuild(&mut shards, len).unwrap();
            for i in 0..coder.k() {
                prop_assert_eq!(shards[i].as_ref(), Some(&all[i]));
            }
        }

        #[test]
        fn rebuild_with_fewer_than_k_shards_reports_how_many_are_missing((k, m, len, seed, order) in case(), beyond in 1usize..4) {
            let coder = Coder::new(k, m).unwrap();
            let lost = (usize::from(m) + beyond).min(coder.n());
            let mut shards: Vec<Option<Bytes>> = coder.encode(sealed(len.max(1), seed)).into_iter().map(Some).collect();
            for i in &order[..lost] {
                shards[*i] = None;
            }
            let have = coder.n() - lost;
            let error = ErasureError::TooFewShards { have, need: coder.k(), missing: coder.k() - have };
            prop_assert_eq!(coder.rebuild(&mut shards.clone(), len.max(1)), Err(error.clone()));
            prop_assert_eq!(coder.join(&shards, len.max(1)), Err(error.clone()));
            prop_assert_eq!(coder.rebuild_one(&shards, order[0], len.max(1)), Err(error));
        }

        #[test]
        fn both_kernels_and_the_library_make_the_same_bytes((k, m, len, seed, _) in case()) {
            let chunk = sealed(len.max(1), seed);
            let fast = Coder::new(k, m).unwrap().encode(chunk.clone());
            let slow = Coder::with_kernel(k, m, Kernel::Table).unwrap().encode(chunk.clone());
            prop_assert_eq!(&fast, &slow);
            if m > 0 {
                let mut library: Vec<Vec<u8>> = fast[..usize::from(k)].iter().map(|s| s.to_vec()).collect();
                library.resize(fast.len(), vec![0; fast[0].len()]);
                galois_8::ReedSolomon::new(k.into(), m.into()).unwrap().encode(&mut library).unwrap();
                prop_assert_eq!(fast, library);
            }
        }
    }

    #[test]
    fn data_shards_are_slices_of_the_chunk_itself() {
        let coder = Coder::new(4, 2).unwrap();
        let mut chunk = Vec::with_capacity(coder.padded_len(1_001));
        chunk.extend(sealed(1_001, 7));
        let at = chunk.as_ptr();
        let shards = coder.encode(chunk);
        assert_eq!(shards[0].as_ptr(), at);
        assert_eq!(shards[1].as_ptr(), at.wrapping_add(251));
    }

    #[test]
    fn wrong_shapes_are_errors_with_the_facts() {
        assert_eq!(Coder::new(0, 2).unwrap_err(), ErasureError::Shape { k: 0, m: 2 });
        assert_eq!(Coder::new(30, 3).unwrap_err(), ErasureError::Shape { k: 30, m: 3 });
        let coder = Coder::new(4, 2).unwrap();
        assert_eq!(coder.join(&[None, None], 100), Err(ErasureError::Stripe { got: 2, n: 6 }));
        let mut shards: Vec<Option<Bytes>> = coder.encode(sealed(100, 1)).into_iter().map(Some).collect();
        assert_eq!(coder.rebuild_one(&shards, 6, 100), Err(ErasureError::Stripe { got: 6, n: 6 }));
        shards[3] = Some(Bytes::from_static(&[0; 24]));
        assert_eq!(coder.join(&shards, 100), Err(ErasureError::ShardLength { index: 3, len: 24, expected: 25 }));
    }

    #[test]
    fn the_bytes_of_a_stripe_never_change() {
        let shards = Coder::new(4, 2).unwrap().encode((0..10).collect());
        let text: Vec<String> = shards.iter().map(hex::encode).collect();
        assert_eq!(text, ["000102", "030405", "060708", "090000", "fc15ca", "d71cef"]);
    }
}
