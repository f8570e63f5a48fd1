//! What a body's bytes add up to: MD5 for the ETag, and the checksums that S3 clients ask for.
//!
//! A [`Digester`] is handed from chunk to chunk, so that the order of the body is kept whatever else overtakes.
//! Not here: comparing with what the client promised (the S3 operations).

use crate::compute::{Compute, Lost};
use crate::lanes::chain::State;
use crate::lanes::chain::md5::Md5;
use crate::lanes::chain::sha256::Sha256;
use crate::lanes::{HERE, Lanes, Stream};
use crate::metric::Stage;
use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use sha1::Digest as _;
use spine::wire::namespace::ChecksumAlgorithm;
use std::sync::Arc;

/// One checksum on its way.
#[derive(Clone)]
enum Sum {
    Crc(ChecksumAlgorithm, Box<crc_fast::Digest>),
    Sha1(Box<sha1::Sha1>),
}

impl Sum {
    /// `None` for what has lanes.
    fn new(algorithm: ChecksumAlgorithm) -> Option<Sum> {
        let crc = |which| Sum::Crc(algorithm, Box::new(crc_fast::Digest::new(which)));
        Some(match algorithm {
            ChecksumAlgorithm::Crc32 => crc(CrcAlgorithm::Crc32IsoHdlc),
            ChecksumAlgorithm::Crc32c => crc(CrcAlgorithm::Crc32Iscsi),
            ChecksumAlgorithm::Crc64Nvme => crc(CrcAlgorithm::Crc64Nvme),
            ChecksumAlgorithm::Sha1 => Sum::Sha1(Box::default()),
            ChecksumAlgorithm::Sha256 => return None,
        })
    }

    /// Below so many bytes it is computed where it is asked for: handing them over would cost more. A CRC of a mebibyte takes 30 us.
    fn here(&self) -> usize {
        match self {
            Sum::Crc(..) => 2 << 20,
            Sum::Sha1(_) => HERE,
        }
    }

    fn update(&mut self, data: &[u8]) {
        match self {
            Sum::Crc(_, crc) => crc.update(data),
            Sum::Sha1(sha) => sha.update(data),
        }
    }

    fn finish(self) -> (ChecksumAlgorithm, Vec<u8>) {
        match self {
            Sum::Crc(ChecksumAlgorithm::Crc64Nvme, crc) => (ChecksumAlgorithm::Crc64Nvme, crc.finalize().to_be_bytes().to_vec()),
            Sum::Crc(algorithm, crc) => (algorithm, crc.finalize().to_be_bytes()[4..].to_vec()),
            Sum::Sha1(sha) => (ChecksumAlgorithm::Sha1, sha.finalize().to_vec()),
        }
    }
}

/// All digests of one body so far.
pub struct Digester {
    md5: State<Md5>,
    sha256: Option<State<Sha256>>,
    sums: Vec<Sum>,
    streams: Arc<Streams>,
    compute: Arc<Compute>,
}

/// The body in the lanes.
struct Streams {
    md5: Stream<Md5>,
    sha256: Option<Stream<Sha256>>,
}

impl Digester {
    pub fn new(lanes: &Lanes, compute: &Arc<Compute>, checksums: &[ChecksumAlgorithm]) -> Digester {
        let hashed = checksums.contains(&ChecksumAlgorithm::Sha256);
        Digester {
            md5: State::default(),
            sha256: hashed.then(State::default),
            sums: checksums.iter().copied().filter_map(Sum::new).collect(),
            streams: Arc::new(Streams { md5: lanes.md5(), sha256: hashed.then(|| lanes.sha256()) }),
            compute: compute.clone(),
        }
    }

    /// The digests after `data`. `last`: the body ends here, for all that is known.
    pub async fn update(mut self, data: Bytes, last: bool) -> Result<Digester, Lost> {
        let streams = self.streams.clone();
        let md5 = streams.md5.advance(self.md5, data.clone(), last);
        let sha256 = async {
            match (&streams.sha256, self.sha256) {
                (Some(stream), Some(state)) => stream.advance(state, data.clone(), last).await.map(Some),
                _ => Some(None),
            }
        };
        let mut sums = std::mem::take(&mut self.sums);
        let sums = async {
            let (here, data) = (sums.iter().all(|sum| data.len() < sum.here()), data.clone());
            let advance = move || {
                Stage::Checksum.time(|| sums.iter_mut().for_each(|sum| sum.update(&data)));
                sums
            };
            if here { Ok(advance()) } else { self.compute.run(advance).await }
        };
        let (md5, sha256, sums) = futures::join!(md5, sha256, sums);
        Ok(Digester { md5: md5.ok_or(Lost)?, sha256: sha256.ok_or(Lost)?, sums: sums?, streams: self.streams, compute: self.compute })
    }

    /// MD5 and the checksums that were asked for, one each.
    pub fn finish(self) -> ([u8; 16], Vec<(ChecksumAlgorithm, Vec<u8>)>) {
        let sha256 = self.sha256.map(|state| (ChecksumAlgorithm::Sha256, state.finalize().to_vec()));
        (self.md5.finalize(), self.sums.into_iter().map(Sum::finish).chain(sha256).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_digests_of_a_known_text_are_the_published_ones_however_it_is_cut() {
        let lanes = Lanes::start().unwrap();
        let compute = Arc::new(Compute::start(1).unwrap());
        let all = [
            ChecksumAlgorithm::Crc32,
            ChecksumAlgorithm::Crc32c,
            ChecksumAlgorithm::Crc64Nvme,
            ChecksumAlgorithm::Sha1,
            ChecksumAlgorithm::Sha256,
        ];
        for cut in [0, 1, 4, 9] {
            let text = Bytes::from_static(b"123456789");
            let digester = Digester::new(&lanes, &compute, &all);
            let digester = digester.update(text.slice(..cut), false).await.unwrap();
            let (md5, sums) = digester.update(text.slice(cut..), true).await.unwrap().finish();
            assert_eq!(hex::encode(md5), "25f9e794323b453885f5181f1b624d0b");
            let values: Vec<String> = sums.iter().map(|(_, value)| hex::encode(value)).collect();
            assert_eq!(values[..4], ["cbf43926", "e3069283", "ae8b14860a799888", "f7c3bc1d808e04732adf679965ccc34ca7ae3441"]);
            assert_eq!(values[4], "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225");
            assert_eq!(sums.iter().map(|(algorithm, _)| *algorithm).collect::<Vec<_>>(), all);
        }
    }

    #[tokio::test]
    async fn large_pieces_go_through_the_lanes_and_the_pool_in_order() {
        let lanes = Lanes::start().unwrap();
        let compute = Arc::new(Compute::start(2).unwrap());
        let mut digester = Digester::new(&lanes, &compute, &[ChecksumAlgorithm::Sha256]);
        let mut all = Vec::new();
        for i in 0..5u8 {
            let piece = vec![i; 100_000 + usize::from(i)];
            all.extend_from_slice(&piece);
            digester = digester.update(piece.into(), i == 4).await.unwrap();
        }
        let (md5, sums) = digester.finish();
        assert_eq!(md5, <[u8; 16]>::from(<md5::Md5 as md5::Digest>::digest(&all)));
        assert_eq!(sums[0].1, sha2::Sha256::digest(&all).to_vec());
    }
}
