//! In the gateway alone: the measuring programs take in the same source without tests.

use super::md5::*;
use ::md5::{Digest, Md5};
use proptest::prelude::*;

fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_stream_gets_the_digest_of_the_plain_library_however_it_is_cut(len in 0usize..2_000, cuts in proptest::collection::vec(0usize..2_000, 0..6)) {
        let data = bytes(len, len as u64);
        let mut state = State::default();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(len)).collect();
        cuts.sort_unstable();
        let mut from = 0;
        for to in cuts.into_iter().chain([len]) {
            state.update(&data[from..to]);
            from = to;
        }
        prop_assert_eq!(state.finalize(), <[u8; 16]>::from(Md5::digest(&data)));
    }

    #[test]
    fn streams_side_by_side_get_their_own_digests(streams in proptest::collection::vec((0usize..300, 0usize..1_500), 1..40)) {
        let data: Vec<Vec<u8>> = streams.iter().enumerate().map(|(i, (before, len))| bytes(before + len, i as u64)).collect();
        let mut states = vec![State::default(); data.len()];
        for ((state, data), (before, _)) in states.iter_mut().zip(&data).zip(&streams) {
            state.update(&data[..*before]);
        }
        let inputs: Vec<&[u8]> = data.iter().zip(&streams).map(|(data, (before, _))| &data[*before..]).collect();
        update_together(&mut states, &inputs);
        for (state, data) in states.into_iter().zip(&data) {
            prop_assert_eq!(state.finalize(), <[u8; 16]>::from(Md5::digest(data)));
        }
    }
}

#[test]
fn whole_blocks_in_any_number_of_streams_take_every_kind_of_group() {
    for n in 1..=2 * WIDE + 5 {
        let data: Vec<Vec<u8>> = (0..n).map(|i| bytes(BLOCK * 9, i as u64)).collect();
        let mut states = vec![State::default(); n];
        update_together(&mut states, &data.iter().map(Vec::as_slice).collect::<Vec<_>>());
        for (state, data) in states.into_iter().zip(&data) {
            assert_eq!(state.finalize(), <[u8; 16]>::from(Md5::digest(data)), "{n} streams");
        }
    }
}

#[test]
fn the_published_digests() {
    let digest = |text: &str| {
        let mut state = State::default();
        state.update(text.as_bytes());
        hex::encode(state.finalize())
    };
    assert_eq!(digest(""), "d41d8cd98f00b204e9800998ecf8427e");
    assert_eq!(digest("message digest"), "f96b697d7cb7938d525a2f31aaf161d0");
    assert_eq!(digest(&"1234567890".repeat(8)), "57edf4a22be3c955ac49da2e2107b67a");
}
