//! In the gateway alone: the measuring programs take in the same source without tests.

use super::chain::md5::Md5;
use super::chain::sha256::Sha256;
use super::chain::*;
use proptest::prelude::*;

fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// The plain library's digest.
trait Known: Algorithm<Digest: AsRef<[u8]>> {
    fn known(data: &[u8]) -> Vec<u8>;
}

impl Known for Md5 {
    fn known(data: &[u8]) -> Vec<u8> {
        <::md5::Md5 as ::md5::Digest>::digest(data).to_vec()
    }
}

impl Known for Sha256 {
    fn known(data: &[u8]) -> Vec<u8> {
        <sha2::Sha256 as sha2::Digest>::digest(data).to_vec()
    }
}

fn cut<A: Known>(data: &[u8], cuts: &[usize]) {
    let mut state = State::<A>::default();
    let mut from = 0;
    for to in cuts.iter().copied().chain([data.len()]) {
        state.update(&data[from..to]);
        from = to;
    }
    assert_eq!(state.finalize().as_ref(), A::known(data));
}

fn side_by_side<A: Known>(data: &[Vec<u8>], before: &[usize]) {
    let mut states = vec![State::<A>::default(); data.len()];
    for ((state, data), before) in states.iter_mut().zip(data).zip(before) {
        state.update(&data[..*before]);
    }
    let inputs: Vec<&[u8]> = data.iter().zip(before).map(|(data, before)| &data[*before..]).collect();
    update_together(&mut states, &inputs);
    for (state, data) in states.into_iter().zip(data) {
        assert_eq!(state.finalize().as_ref(), A::known(data), "{} streams", before.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_stream_gets_the_digest_of_the_plain_library_however_it_is_cut(len in 0usize..2_000, cuts in proptest::collection::vec(0usize..2_000, 0..6)) {
        let data = bytes(len, len as u64);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(len)).collect();
        cuts.sort_unstable();
        cut::<Md5>(&data, &cuts);
        cut::<Sha256>(&data, &cuts);
    }

    #[test]
    fn streams_side_by_side_get_their_own_digests(streams in proptest::collection::vec((0usize..300, 0usize..1_500), 1..40)) {
        let data: Vec<Vec<u8>> = streams.iter().enumerate().map(|(i, (before, len))| bytes(before + len, i as u64)).collect();
        let before: Vec<usize> = streams.iter().map(|(before, _)| *before).collect();
        side_by_side::<Md5>(&data, &before);
        side_by_side::<Sha256>(&data, &before);
    }
}

#[test]
fn whole_blocks_in_any_number_of_streams_take_every_kind_of_group() {
    for n in 1..=2 * WIDE + 5 {
        let data: Vec<Vec<u8>> = (0..n).map(|i| bytes(BLOCK * 9, i as u64)).collect();
        side_by_side::<Md5>(&data, &vec![0; n]);
        side_by_side::<Sha256>(&data, &vec![0; n]);
    }
}

#[test]
fn the_published_digests() {
    fn digest<A: Algorithm<Digest: AsRef<[u8]>>>(text: &str) -> String {
        let mut state = State::<A>::default();
        state.update(text.as_bytes());
        hex::encode(state.finalize())
    }
    assert_eq!(digest::<Md5>(""), "d41d8cd98f00b204e9800998ecf8427e");
    assert_eq!(digest::<Md5>("message digest"), "f96b697d7cb7938d525a2f31aaf161d0");
    assert_eq!(digest::<Md5>(&"1234567890".repeat(8)), "57edf4a22be3c955ac49da2e2107b67a");
    assert_eq!(digest::<Sha256>("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(
        digest::<Sha256>("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
    );
}
