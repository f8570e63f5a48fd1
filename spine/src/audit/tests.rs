use super::*;
use crate::id::{ChunkId, Gen, ShardIndex, Tag};
use proptest::prelude::*;

fn name(number: u64) -> ShardName {
    let mut chunk = [0; 32];
    chunk[..8].copy_from_slice(&number.to_le_bytes());
    ShardName { chunk: ChunkId(chunk), generation: Gen(1), index: ShardIndex(3), tag: Tag(number) }
}

fn placed(number: u64) -> Placed {
    Placed { name: name(number), root: ShardRoot([0; 32]), len: 10_000 }
}

fn shard(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(b"audited").finalize_xof().fill(&mut bytes);
    bytes
}

fn draw(nonce: Nonce, count: usize, of: u64) -> Draw {
    let mut draw = Draw::new(nonce, count);
    (0..of).for_each(|number| draw.offer(placed(number)));
    draw
}

#[test]
fn every_slice_of_shards_of_all_shapes_is_proven_by_the_plain_root() {
    for len in [0, 1, 1_023, 1_024, 1_025, 4_096, 5_000, 262_148] {
        let bytes = shard(len);
        let root = ShardRoot(*blake3::hash(&bytes).as_bytes());
        for slice in (0..slices(len as u32)).filter(|slice| len < 10_000 || slice % 37 == 0) {
            let (proof, led_to) = prove(&bytes, slice).unwrap();
            assert_eq!(led_to, root);
            assert_eq!(verify(&proof, &root, len as u32, slice), Ok(()), "{len} bytes, slice {slice}");
        }
        assert_eq!(prove(&bytes, slices(len as u32)), None);
    }
}

#[test]
fn the_longest_proof_is_that_of_the_largest_shard() {
    let bytes = shard(SEALED_MAX_BYTES);
    let root = ShardRoot(*blake3::hash(&bytes).as_bytes());
    let longest = [0, 4_095, 8_191, 8_192].into_iter().map(|slice| {
        let (proof, _) = prove(&bytes, slice).unwrap();
        assert_eq!(verify(&proof, &root, bytes.len() as u32, slice), Ok(()));
        proof.len()
    });
    assert_eq!(longest.max(), Some(PROOF_BYTES));
}

#[test]
fn a_proof_of_anything_else_is_refused_by_kind() {
    let bytes = shard(50_000);
    let (proof, root) = prove(&bytes, 20).unwrap();
    assert_eq!(verify(&proof, &root, 50_000, 21), Err(NoProof::Root), "another slice");
    assert_eq!(verify(&proof, &ShardRoot([7; 32]), 50_000, 20), Err(NoProof::Root), "another root");
    assert_eq!(verify(&proof, &root, 49_999, 20), Err(NoProof::Length));
    assert_eq!(verify(&proof, &root, 50_000, 49), Err(NoProof::NoSlice));
    assert_eq!(verify(&proof[..proof.len() - 1], &root, 50_000, 20), Err(NoProof::Root), "cut off");
    assert_eq!(verify(&[proof.as_slice(), &[0]].concat(), &root, 50_000, 20), Err(NoProof::Trailing));
    assert_eq!(verify(&vec![0; PROOF_BYTES + 1], &root, 50_000, 20), Err(NoProof::TooLong));
    assert_eq!(verify(&[], &root, 50_000, 20), Err(NoProof::Length));
}

#[test]
fn no_byte_of_a_proof_may_be_another() {
    let bytes = shard(9_000);
    let (proof, root) = prove(&bytes, 5).unwrap();
    for at in 0..proof.len() {
        let mut spoiled = proof.clone();
        spoiled[at] ^= 1;
        assert!(verify(&spoiled, &root, 9_000, 5).is_err(), "byte {at} of {}", proof.len());
    }
}

proptest! {
    #[test]
    fn bytes_of_nobody_prove_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..PROOF_BYTES), len in 0u32..100_000, slice in 0u32..100) {
        let mut proof = u64::from(len).to_le_bytes().to_vec();
        proof.extend_from_slice(&bytes);
        prop_assert!(verify(&proof, &ShardRoot([9; 32]), len, slice).is_err());
    }
}

#[test]
fn the_draw_follows_from_the_nonce_whatever_the_order_of_the_offers() {
    let forward: Vec<_> = draw([1; 32], 50, 2_000).drawn().collect();
    let mut other = Draw::new([1; 32], 50);
    (0..2_000).rev().for_each(|number| other.offer(placed(number)));
    assert_eq!(forward, other.drawn().collect::<Vec<_>>());
    assert_eq!((forward.len(), other.offered()), (50, 2_000));
    assert_ne!(forward, draw([2; 32], 50, 2_000).drawn().collect::<Vec<_>>());
    assert!(forward.iter().all(|(_, slice)| *slice < slices(10_000)));
    assert_eq!(draw([1; 32], 50, 7).drawn().count(), 7, "a node with fewer shards is asked for all");
}

#[test]
fn every_shard_is_drawn_and_every_slice_asked_for_about_equally_often() {
    let (mut shards, mut asked) = ([0u32; 100], [0u32; 10]);
    for nonce in 0..4_000u64 {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&nonce.to_le_bytes());
        for (shard, slice) in draw(key, 10, 100).drawn() {
            shards[shard.name.tag.0 as usize] += 1;
            asked[slice as usize] += 1;
        }
    }
    // 400 and 4,000 expected; five standard deviations are 100 and 300.
    assert!(shards.iter().all(|times| (300..=500).contains(times)), "{shards:?}");
    assert!(asked.iter().all(|times| (3_700..=4_300).contains(times)), "{asked:?}");
}

/// The odds that `SEMANTICS.md` states.
#[test]
fn a_node_that_dropped_one_shard_in_a_hundred_is_caught_by_459_slices_in_99_of_100_audits() {
    assert_eq!(slices_for(1, 100, 990_000), 459);
    let trials = 2_000u64;
    let caught = (0..trials).filter(|trial| {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&trial.to_le_bytes());
        // Those it dropped are the same in every trial: only the nonce differs.
        draw(key, 459, 5_000).drawn().any(|(shard, _)| shard.name.tag.0 % 100 == 17)
    });
    let caught = caught.count();
    // 1,981 expected: 50 of 5,000 shards dropped, 459 drawn without replacement. Six standard deviations are some 26.
    assert!(caught >= 1_955, "{caught} of {trials}");
}
