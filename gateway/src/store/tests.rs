use super::*;
use crate::keys::EpochKeys;
use crate::path::fake::{Mood, noise, quiet, rig, rig_with};
use spine::erasure::Coder;
use spine::id::{KeyEpoch, TenantId};

fn encoded(seed: u64) -> (Target, Encoded) {
    let keys = EpochKeys::derive(TenantId(1), KeyEpoch(0), &[1; 32]);
    let plain = noise(100_000, seed);
    let chunk = crate::seal::chunk_id(&keys, &plain);
    let target = Target { chunk, generation: Gen(3), tag: Tag(3) };
    (target, crate::encode::encode(&Coder::new(4, 2).unwrap(), &keys, chunk, &plain))
}

#[tokio::test]
async fn every_place_recorded_is_a_shard_its_node_has() {
    let rig = rig().await;
    for (seed, lost) in [(1, None), (2, Some(0)), (3, Some(5))] {
        rig.nodes.iter().for_each(|node| node.set(Mood::Well));
        if let Some(lost) = lost {
            rig.nodes[lost].set(Mood::Failing);
        }
        let (target, encoded) = encoded(seed);
        let quorum = store(&rig.path.core.nodes, target, encoded).await.unwrap();
        for (index, place) in quorum.placement().shards.iter().enumerate() {
            let Some(place) = place else { continue };
            let name = ShardName { chunk: target.chunk, generation: target.generation, index: ShardIndex(index as u8), tag: target.tag };
            let node = rig.nodes.iter().find(|node| node.id == place.node).unwrap();
            assert!(node.shards.lock().unwrap().contains_key(&name));
        }
        let nodes: std::collections::HashSet<NodeId> = quorum.placement().shards.iter().flatten().map(|place| place.node).collect();
        assert_eq!(nodes.len(), 6 - usize::from(lost.is_some()));
    }
}

#[tokio::test]
async fn below_the_quorum_the_write_ends_as_soon_as_that_is_certain() {
    let rig = rig().await;
    rig.nodes[0].set(Mood::Failing);
    rig.nodes[1].set(Mood::Failing);
    rig.nodes[2].set(Mood::Stuck);
    let (target, encoded) = encoded(4);
    let outcome = tokio::time::timeout(Duration::from_secs(2), store(&rig.path.core.nodes, target, encoded)).await;
    assert!(matches!(outcome, Ok(Err(WriteError::QuorumNotReached { quorum: 5, .. }))));
}

/// Which nodes this chunk's shards go to, and who is asked next.
fn choice(rig: &crate::path::fake::Rig, target: Target) -> placement::Choice {
    placement::choose(target.chunk, 4, 2, &rig.path.core.nodes.candidates())
}

fn stick(rig: &crate::path::fake::Rig, id: NodeId) {
    rig.nodes.iter().find(|node| node.id == id).unwrap().set(Mood::Stuck);
}

async fn stored(rig: &crate::path::fake::Rig, seed: u64) -> (Quorum, Duration) {
    let (target, encoded) = encoded(seed);
    let began = Instant::now();
    let stored = tokio::time::timeout(Duration::from_secs(5), store(&rig.path.core.nodes, target, encoded)).await;
    (stored.unwrap().unwrap(), began.elapsed())
}

#[tokio::test]
async fn nodes_that_never_answer_are_gone_round_also_where_the_next_one_does_not_either() {
    for silent_spares in [0, 1] {
        let rig = rig_with(quiet(), 10).await;
        let chosen = choice(&rig, encoded(1).0);
        let silent: Vec<NodeId> =
            [chosen.shards[0], chosen.shards[3]].into_iter().flatten().chain(chosen.spares[..silent_spares].iter().copied()).collect();
        silent.iter().for_each(|id| stick(&rig, *id));
        let (quorum, first) = stored(&rig, 1).await;
        let places: Vec<Place> = quorum.placement().shards.iter().flatten().copied().collect();
        assert!(places.len() >= 5 && places.iter().all(|place| !silent.contains(&place.node)), "{places:?}");
        let machines: std::collections::HashSet<NodeId> = places.iter().map(|place| place.node).collect();
        assert_eq!(machines.len(), places.len(), "no two on one machine");
        // Now they are known to be late.
        let (_, second) = stored(&rig, 1).await;
        assert!(second < first, "{second:?} after {first:?}");
    }
}

#[tokio::test]
async fn a_node_that_was_late_and_is_hardly_slower_than_the_others_has_its_shard_again() {
    let rig = rig().await;
    rig.nodes.iter().for_each(|node| node.set(Mood::SlowPuts(Duration::from_millis(120))));
    rig.nodes[2].set(Mood::SlowPuts(Duration::from_millis(180)));
    rig.path.core.nodes.get(rig.nodes[2].id).unwrap().was_late();
    let (quorum, _) = stored(&rig, 1).await;
    assert_eq!(quorum.placement().shards.iter().flatten().count(), 6);
}

#[tokio::test]
async fn as_long_as_less_than_half_is_synced_nobody_is_given_more_work() {
    let rig = rig_with(quiet(), 10).await;
    let (target, encoded) = encoded(1);
    let chosen = choice(&rig, target);
    chosen.shards.iter().flatten().take(4).for_each(|id| stick(&rig, *id));
    let outcome = tokio::time::timeout(STRAGGLER_MOST * 3 / 2, store(&rig.path.core.nodes, target, encoded)).await;
    assert!(outcome.is_err(), "it waits for the puts themselves");
    let asked: usize = rig.nodes.iter().map(|node| node.puts.load(std::sync::atomic::Ordering::Relaxed)).sum();
    assert_eq!(asked, 6);
}

#[tokio::test]
async fn who_stands_in_for_a_node_that_fails_makes_no_zone_hold_more_than_chunks_may_lose() {
    let rig = rig_with(quiet(), 12).await;
    let zone = |id: NodeId| id.0[0] % 3;
    let member = |node: &Arc<crate::path::fake::FakeNode>| crate::roster::Member {
        link: node.clone(),
        zone: zone(node.id).to_string().into(),
        takes_shards: true,
        leaves: false,
        distrusted: false,
    };
    let roster = crate::roster::Roster::default();
    roster.set(rig.nodes.iter().map(member).collect());
    let nodes = Nodes::new(roster);
    for seed in 0..24 {
        rig.nodes.iter().for_each(|node| node.set(Mood::Well));
        let bad = [seed as usize % 12, (seed as usize + 5) % 12];
        let moods = [[Mood::Failing, Mood::Failing], [Mood::Stuck, Mood::Failing], [Mood::Stuck, Mood::Stuck]][seed as usize / 4 % 3];
        bad.iter().zip(moods).for_each(|(node, mood)| rig.nodes[*node].set(mood));
        let (target, encoded) = encoded(seed);
        let quorum = store(&nodes, target, encoded).await.unwrap();
        for which in 0..3 {
            let here = quorum.placement().shards.iter().flatten().filter(|place| zone(place.node) == which).count();
            assert!(here <= 2, "seed {seed}: {here} of 6 shards are in zone {which}");
        }
    }
}
