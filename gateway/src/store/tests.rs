use super::*;
use crate::keys::EpochKeys;
use crate::path::fake::{Mood, noise, rig};
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
