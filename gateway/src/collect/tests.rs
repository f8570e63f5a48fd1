use super::*;
use crate::core::Settings;
use crate::path::fake::{CHUNK, Mood, TENANT, noise, quiet, rig, rig_with};
use crate::readers::Readers;

#[tokio::test]
async fn deleted_and_overwritten_objects_give_everything_back() {
    let rig = rig().await;
    for i in 0..5u64 {
        rig.put("same", &noise(400_000, i)).await.unwrap();
        rig.put(&format!("k{i}"), &noise(600_000, 100 + i)).await.unwrap();
    }
    for i in 0..5 {
        rig.delete(&format!("k{i}")).await;
    }
    rig.collect().await;
    assert_eq!(rig.totals().await.chunks, 2);
    rig.delete("same").await;
    rig.collect().await;
    assert_eq!((rig.totals().await, rig.shards()), (Default::default(), 0));
}

#[tokio::test]
async fn a_chunk_within_its_grace_is_found_again_by_the_next_writer() {
    let rig = rig().await;
    let data = noise(CHUNK as usize, 1);
    rig.put("a", &data).await.unwrap();
    rig.delete("a").await;
    rig.path.collect_now(Duration::from_secs(3_600)).await.unwrap();
    assert_eq!(rig.shards(), 6);
    let puts = rig.nodes[0].puts.load(std::sync::atomic::Ordering::Relaxed);
    rig.put("b", &data).await.unwrap();
    assert_eq!(rig.nodes[0].puts.load(std::sync::atomic::Ordering::Relaxed), puts, "a hit");
    rig.collect().await;
    assert_eq!(rig.get("b", 0..data.len() as u64).await.unwrap(), data);
}

#[tokio::test]
async fn a_chunk_that_is_shared_goes_with_its_last_holder() {
    let rig = rig().await;
    let data = noise(CHUNK as usize, 2);
    rig.put("a", &data).await.unwrap();
    rig.put("b", &data).await.unwrap();
    rig.delete("a").await;
    rig.collect().await;
    assert_eq!(rig.get("b", 0..data.len() as u64).await.unwrap(), data);
    rig.delete("b").await;
    rig.collect().await;
    assert_eq!(rig.shards(), 0);
}

#[tokio::test]
async fn deletion_waits_for_a_node_that_is_away_and_after_the_patience_leaves_its_shards_to_the_sweep() {
    let rig = rig_with(Settings { node_patience: Duration::from_secs(3_600), ..quiet() }, 6).await;
    rig.put("keep", &noise(CHUNK as usize, 3)).await.unwrap();
    rig.put("a", &noise(CHUNK as usize, 4)).await.unwrap();
    rig.delete("a").await;
    rig.nodes[3].set(Mood::Lost);
    let collected = rig.path.collect_now(Duration::ZERO).await.unwrap();
    assert_eq!((collected.deleted, collected.waiting), (0, 1));
    rig.nodes[3].set(Mood::Well);
    let collected = rig.path.collect_now(Duration::ZERO).await.unwrap();
    assert_eq!((collected.deleted, collected.waiting), (1, 0));
    assert_eq!(rig.shards(), 6);

    rig.put("b", &noise(CHUNK as usize, 5)).await.unwrap();
    rig.delete("b").await;
    rig.nodes[3].set(Mood::Lost);
    let mut patience = Patience::default();
    patience.silent_since.insert(rig.nodes[3].id, Instant::now() - Duration::from_secs(2 * 3_600));
    let collected = cycle(&rig.path.core, &mut patience, Duration::ZERO).await.unwrap();
    assert_eq!((collected.deleted, collected.waiting), (1, 0));
    rig.nodes[3].set(Mood::Well);
    assert_eq!(rig.shards(), 7);
    let swept = rig.path.sweep_now(false).await.unwrap();
    assert_eq!(swept.iter().map(|swept| swept.orphans).sum::<u64>(), 1);
    assert_eq!(rig.shards(), 6);
    assert!(rig.get("keep", 0..u64::from(CHUNK)).await.is_ok());
}

#[tokio::test]
async fn a_node_back_after_it_was_rebuilt_elsewhere_is_swept_whole_however_much_it_holds() {
    let rig = rig_with(Settings { node_repair_after: Duration::ZERO, ..quiet() }, 7).await;
    let chunks = sweep::FLOOR as usize + 100;
    let data = noise(chunks * CHUNK as usize, 12);
    rig.put("k", &data).await.unwrap();
    let (held, before) = (rig.nodes[0].count() as u64, rig.shards());
    rig.nodes[0].set(Mood::Lost);
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(60)).await;
        rig.path.repair_now().await.unwrap();
    }
    rig.nodes[0].set(Mood::Well);
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(rig.nodes[0].count() as u64, held, "being away deletes nothing");
    let swept = rig.path.sweep_now(false).await.unwrap();
    assert_eq!(swept[0].outcome, sweep::Outcome::Done);
    assert!(held > sweep::FLOOR && swept[0].orphans == held, "{held} held, {swept:?}");
    assert_eq!(rig.shards(), before);
    assert!(rig.get("k", 0..data.len() as u64).await.is_ok());
}

#[tokio::test]
async fn an_index_that_was_lost_does_not_take_the_shards_with_it() {
    let rig = rig().await;
    rig.put("a", &noise(3 * CHUNK as usize, 6)).await.unwrap();
    let other = rig_with(quiet(), 6).await;
    for (mine, theirs) in rig.nodes.iter().zip(&other.nodes) {
        *theirs.shards.lock().unwrap() = mine.shards.lock().unwrap().clone();
    }
    let swept = other.path.sweep_now(false).await.unwrap();
    assert!(swept.iter().all(|swept| swept.outcome == sweep::Outcome::Halted && swept.orphans == 3));
    assert_eq!(other.shards(), 18);
    other.path.sweep_now(true).await.unwrap();
    assert_eq!(other.shards(), 0);
}

#[tokio::test]
async fn the_intents_of_a_dead_writer_are_aborted_at_the_next_start_and_those_of_the_living_are_not() {
    let rig = rig().await;
    let dead = rig.store(&noise(CHUNK as usize, 7)).await.unwrap();
    let _dead = std::mem::ManuallyDrop::new(dead);
    assert_eq!(rig.intents().await, 1);
    let next = rig.restart(Settings { only_gateway: true, collect_interval: Duration::from_secs(3_600), ..quiet() });
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if rig.intents().await == 0 {
            break;
        }
    }
    assert_eq!(rig.intents().await, 0);
    let alive = next.store(crate::path::fake::request(), crate::path::fake::stream(&noise(CHUNK as usize, 8))).await.unwrap();
    next.collect_now(Duration::ZERO).await.unwrap();
    assert_eq!(rig.intents().await, 1);
    drop(alive);
    next.shutdown().await;
    assert_eq!(rig.intents().await, 0);
}

#[tokio::test]
async fn an_intent_out_of_time_is_aborted_though_its_writer_lives() {
    let rig = rig_with(Settings { intent_ttl: Duration::ZERO, ..quiet() }, 6).await;
    let stored = rig.store(&noise(CHUNK as usize, 9)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(rig.path.collect_now(Duration::ZERO).await.unwrap().aborted, 1);
    assert!(matches!(rig.commit("k", stored).await, Err(WriteError::Aborted { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_deleters_and_the_collector_at_once_never_lose_a_committed_byte() {
    let rig = Arc::new(rig().await);
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let collector = tokio::spawn({
        let (rig, stop) = (rig.clone(), stop.clone());
        async move {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                rig.path.collect_now(Duration::ZERO).await.unwrap();
                rig.path.sweep_now(true).await.unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    let writers: Vec<_> = (0..4u64)
        .map(|w| {
            let rig = rig.clone();
            tokio::spawn(async move {
                for i in 0..30u64 {
                    // A few contents that all writers share, so that chunks die and are born again under each other's hands.
                    let data = noise(CHUNK as usize + 5_000, (w + i) % 3);
                    let key = format!("w{w}");
                    rig.put(&key, &data).await.unwrap();
                    assert_eq!(rig.get(&key, 0..data.len() as u64).await.unwrap(), data, "{w} {i}");
                    if i % 3 == 0 {
                        rig.delete(&key).await;
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    collector.await.unwrap();
    for w in 0..4 {
        rig.delete(&format!("w{w}")).await;
    }
    rig.collect().await;
    rig.path.sweep_now(true).await.unwrap();
    assert_eq!((rig.totals().await, rig.shards()), (Default::default(), 0));
    let _ = TENANT;
}

#[test]
fn a_version_being_read_is_not_released_and_one_being_released_is_not_entered() {
    let readers = Arc::new(Readers::default());
    let (a, b) = (VersionId([1; 16]), VersionId([2; 16]));
    let reading = readers.enter(vec![a, b]).unwrap();
    let again = readers.enter(vec![a]).unwrap();
    drop(reading);
    assert!(!readers.begin_release(a));
    assert!(readers.begin_release(b));
    assert!(readers.enter(vec![a, b]).is_err());
    readers.end_release([b].into_iter());
    drop(again);
    assert!(readers.begin_release(a));
}
