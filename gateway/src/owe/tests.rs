use super::deliver::propose_one;
use super::round::{Attention, round};
use super::*;
use crate::core::Settings;
use crate::path::DataPath;
use crate::path::fake::{CHUNK, Mood, noise, quiet, rig, rig_with};
use spine::id::ShardIndex;
use spine::wire::Reply;
use spine::wire::chunk::ChunkRecord;
use std::time::Duration;

#[tokio::test]
async fn an_owed_shard_is_delivered_when_its_node_is_back() {
    let rig = rig().await;
    let data = noise(3 * CHUNK as usize, 1);
    rig.nodes[1].set(Mood::Lost);
    rig.put("k", &data).await.unwrap();
    assert_eq!(rig.path.repair_now().await.unwrap(), Delivered { shards: 0, waiting: 3 });
    rig.nodes[1].set(Mood::Well);
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(rig.path.repair_now().await.unwrap(), Delivered { shards: 3, waiting: 0 });
    assert_eq!((rig.shards(), rig.totals().await.owed), (18, 0));
    // The delivered shards are as good as any: the two others may go.
    rig.nodes[0].clear();
    rig.nodes[2].clear();
    assert_eq!(rig.get("k", 0..data.len() as u64).await.unwrap(), data);
}

#[tokio::test]
async fn damage_found_by_a_read_is_made_good() {
    let rig = rig_with(Settings { owe_interval: Duration::from_millis(30), ..quiet() }, 6).await;
    let data = noise(2 * CHUNK as usize, 2);
    rig.put("k", &data).await.unwrap();
    rig.nodes[0].rot();
    rig.nodes[5].clear();
    assert_eq!(rig.get("k", 0..data.len() as u64).await.unwrap(), data);
    for _ in 0..300 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        // A read asks for data shards first: what is wrong with parity it need not notice.
        let _ = rig.get("k", 0..data.len() as u64).await.unwrap();
        rig.nodes[1].set(Mood::Well);
        let whole =
            rig.records().await.iter().all(|(_, record)| record.placement.as_ref().is_some_and(|p| p.shards.iter().all(Option::is_some)));
        if whole && rig.nodes[0].count() >= 2 && rig.totals().await.owed == 0 {
            break;
        }
    }
    assert_eq!(rig.totals().await.owed, 0);
}

#[tokio::test]
async fn a_seventh_node_takes_what_a_lost_one_should_have_had() {
    let rig = rig_with(quiet(), 7).await;
    let data = noise(4 * CHUNK as usize, 3);
    rig.nodes[0].set(Mood::Failing);
    rig.put("k", &data).await.unwrap();
    assert_eq!((rig.shards(), rig.totals().await.owed), (24, 0), "the spare node was asked at once");
    rig.nodes[1].set(Mood::Lost);
    rig.nodes[2].set(Mood::Lost);
    assert_eq!(rig.get("k", 0..data.len() as u64).await.unwrap(), data);
}

#[tokio::test]
async fn a_node_that_is_away_for_too_long_is_given_up_and_rebuilt_elsewhere() {
    let rig = rig_with(Settings { node_repair_after: Duration::ZERO, ..quiet() }, 7).await;
    let data = noise(6 * CHUNK as usize, 4);
    rig.put("k", &data).await.unwrap();
    rig.nodes[2].set(Mood::Lost);
    tokio::time::sleep(Duration::from_millis(60)).await;
    let mut absent = Absent::default();
    absent.give_up(&rig.path.core).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2)).await;
    absent.give_up(&rig.path.core).await.unwrap();
    let done = round(&rig.path.core, &mut Attention::default()).await.unwrap();
    assert!(done.shards > 0 && done.waiting == 0, "{done:?}");
    let elsewhere = rig.records().await.iter().all(|(_, record)| {
        let shards = &record.placement.as_ref().unwrap().shards;
        shards.iter().all(|place| place.is_some_and(|place| place.node != rig.nodes[2].id))
    });
    assert!(elsewhere);
    assert_eq!(rig.get("k", 0..data.len() as u64).await.unwrap(), data);
}

#[tokio::test]
async fn a_target_left_by_a_crash_is_taken_up() {
    let rig = rig().await;
    let data = noise(CHUNK as usize, 5);
    rig.nodes[4].set(Mood::Lost);
    rig.put("k", &data).await.unwrap();
    rig.nodes[4].set(Mood::Well);
    tokio::time::sleep(Duration::from_millis(60)).await;
    let (chunk, record) = rig.records().await.remove(0);
    let index = record.placement.as_ref().unwrap().shards.iter().position(Option::is_none).unwrap();
    let command =
        ChunkCommand::ReserveTarget { chunk, generation: record.generation, index: ShardIndex(index as u8), node: rig.nodes[4].id };
    assert!(matches!(propose_one(&rig.path.core, command).await.unwrap(), Reply::Target(_)));
    assert_eq!(rig.path.repair_now().await.unwrap().shards, 1);
    let (_, record) = rig.records().await.remove(0);
    assert!(record.targets.is_empty());
    assert_eq!((rig.totals().await.owed, rig.nodes[4].count()), (0, 1));
}

#[tokio::test]
async fn what_lay_on_a_disk_that_was_replaced_before_the_start_is_made_again() {
    let rig = rig_with(quiet(), 6).await;
    let data = noise(3 * CHUNK as usize, 6);
    for node in &rig.nodes {
        let record = spine::wire::root::NodeRecord {
            id: node.id,
            machine: node.id.to_string(),
            zone: String::new(),
            first_seen: spine::id::UnixMs(0),
        };
        let batch = Batch { chain: Chain::Independent, commands: vec![Command::Root(spine::wire::root::RootCommand::NoteNode(record))] };
        rig.path.metadata().propose(batch).await.unwrap();
    }
    rig.put("k", &data).await.unwrap();
    let other = rig_with(quiet(), 7).await;
    let mut links: Vec<Arc<dyn spine::wire::shard::StorageNode>> = rig.nodes[1..].iter().map(|node| node.clone() as _).collect();
    links.push(other.nodes[6].clone());
    let next = DataPath::new(quiet(), rig.metadata.clone(), links, rig.keys.clone()).unwrap();
    assert_eq!(next.repair_now().await.unwrap(), Delivered { shards: 3, waiting: 0 });
    assert_eq!((rig.totals().await.owed, other.nodes[6].count()), (0, 3));
}

#[tokio::test]
async fn a_chunk_that_cannot_be_made_again_keeps_its_places_until_it_can() {
    let rig = rig_with(Settings { node_repair_after: Duration::ZERO, ..quiet() }, 9).await;
    let data = noise(12 * CHUNK as usize, 8);
    rig.put("k", &data).await.unwrap();
    let places = |records: &[(ChunkId, ChunkRecord)]| -> usize {
        records.iter().map(|(_, record)| record.placement.as_ref().unwrap().shards.iter().flatten().count()).sum()
    };
    let lost_more_than_m = |records: &[(ChunkId, ChunkRecord)]| {
        let on_lost = |node: NodeId| rig.nodes[..4].iter().any(|lost| lost.id == node);
        let of = |record: &ChunkRecord| record.placement.as_ref().unwrap().shards.iter().flatten().filter(|p| on_lost(p.node)).count();
        records.iter().filter(|(_, record)| of(record) > 2).count()
    };
    assert!(lost_more_than_m(&rig.records().await) > 0, "no chunk is as unlucky as the test wants it");
    rig.nodes[..4].iter().for_each(|node| node.set(Mood::Lost));
    tokio::time::sleep(Duration::from_millis(60)).await;
    let mut absent = Absent::default();
    for _ in 0..3 {
        absent.give_up(&rig.path.core).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for (chunk, record) in rig.records().await {
        let shards = &record.placement.as_ref().unwrap().shards;
        let reachable = shards.iter().flatten().filter(|place| rig.nodes[4..].iter().any(|node| node.id == place.node)).count();
        let named = shards.iter().flatten().count();
        assert!(if reachable < 4 { named == 6 } else { named == reachable }, "{chunk}: {named} named, {reachable} reachable");
    }
    // Two return, two never do: now all can be made again, since nothing was forgotten meanwhile.
    rig.nodes[..2].iter().for_each(|node| node.set(Mood::Well));
    tokio::time::sleep(Duration::from_millis(60)).await;
    absent.give_up(&rig.path.core).await.unwrap();
    assert!(round(&rig.path.core, &mut Attention::default()).await.unwrap().waiting == 0);
    assert_eq!(places(&rig.records().await), 12 * 6);
    assert_eq!(rig.get("k", 0..data.len() as u64).await.unwrap(), data);
}
