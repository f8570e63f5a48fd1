use super::*;
use crate::body::{BodyRequest, Name};
use crate::path::fake::{CHUNK, Mood, Rig, TENANT, noise, request, rig, stream};
use futures::StreamExt;
use proptest::prelude::*;
use std::sync::atomic::Ordering;

/// Where the body is that is read: any name of the bucket, since all lie in one group.
fn name(rig: &Rig) -> Arc<Name> {
    Name::new(rig.bucket, "some/name")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn with_up_to_m_nodes_bad_the_bytes_are_right_and_with_more_there_is_an_error(
        len in 10_000usize..700_000, bad in proptest::collection::vec((0usize..6, 0u8..4), 0..5), from in any::<prop::sample::Index>(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let rig = rig().await;
            let data = noise(len, 1);
            rig.put("k", &data).await.unwrap();
            let mut hit = std::collections::HashSet::new();
            for (node, how) in bad {
                if !hit.insert(node) {
                    continue;
                }
                match how {
                    0 => rig.nodes[node].set(Mood::Lost),
                    1 => rig.nodes[node].set(Mood::Failing),
                    2 => rig.nodes[node].rot(),
                    _ => rig.nodes[node].clear(),
                }
            }
            let start = from.index(len);
            match rig.get("k", start as u64..len as u64).await {
                Ok(got) => { assert_eq!(got, data[start..]); assert!(hit.len() <= 2); }
                Err(error) => assert!(hit.len() > 2, "{error}"),
            }
        });
    }
}

#[tokio::test]
async fn ranges_fetch_only_the_chunks_they_touch() {
    let rig = rig().await;
    let data = noise(10 * CHUNK as usize, 2);
    rig.put("k", &data).await.unwrap();
    let gets = || rig.nodes.iter().map(|node| node.gets.load(Ordering::Relaxed)).sum::<usize>();
    let start = u64::from(CHUNK) * 3 - 10;
    assert_eq!(rig.get("k", start..start + 20).await.unwrap(), data[start as usize..start as usize + 20]);
    assert_eq!(gets(), 8);
}

#[tokio::test]
async fn a_slow_data_shard_is_hedged_with_parity() {
    let rig = rig().await;
    let data = noise(CHUNK as usize, 3);
    rig.put("k", &data).await.unwrap();
    // A shard that was late is owed: all six have to be there.
    rig.path.repair_now().await.unwrap();
    rig.nodes[0].set(Mood::Slow(std::time::Duration::from_secs(20)));
    rig.nodes[1].set(Mood::Stuck);
    let start = std::time::Instant::now();
    assert_eq!(rig.get("k", 0..data.len() as u64).await.unwrap(), data);
    assert!(start.elapsed() < std::time::Duration::from_secs(5));
}

#[tokio::test]
async fn a_fault_after_the_first_bytes_cuts_the_stream_off() {
    let rig = rig().await;
    let data = noise(40 * CHUNK as usize, 4);
    rig.put("k", &data).await.unwrap();
    let body = rig.body("k").await.unwrap();
    let mut stream = rig.path.read(TENANT, &name(&rig), &body, 0..data.len() as u64).await.unwrap();
    let first = stream.next().await.unwrap().unwrap();
    assert_eq!(first, data[..CHUNK as usize]);
    rig.nodes[..3].iter().for_each(|node| node.clear());
    let mut got = first.len();
    let mut failed = false;
    while let Some(piece) = stream.next().await {
        match piece {
            Ok(piece) => {
                assert_eq!(piece, data[got..got + piece.len()]);
                got += piece.len();
            }
            Err(_) => failed = true,
        }
    }
    assert!(failed && got < data.len());
}

#[tokio::test]
async fn what_is_collected_between_resolving_and_reading_is_gone_and_a_read_under_way_is_not_disturbed() {
    let rig = rig().await;
    let data = noise(30 * CHUNK as usize, 5);
    rig.put("k", &data).await.unwrap();
    let body = rig.body("k").await.unwrap();
    let mut stream = rig.path.read(TENANT, &name(&rig), &body, 0..data.len() as u64).await.unwrap();
    rig.delete("k").await;
    rig.collect().await;
    let mut got = Vec::new();
    while let Some(piece) = stream.next().await {
        got.extend_from_slice(&piece.unwrap());
    }
    assert_eq!(got, data);
    drop(stream);
    // The task that read ahead lets go of the version when it is dropped.
    for _ in 0..100 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        rig.collect().await;
        if rig.shards() == 0 {
            break;
        }
    }
    assert_eq!(rig.shards(), 0);
    assert!(matches!(rig.path.read(TENANT, &name(&rig), &body, 0..10).await, Err(ReadError::Gone { .. })));
}

#[tokio::test]
async fn a_range_outside_the_body_is_the_callers_bug_and_an_empty_one_reads_nothing() {
    let rig = rig().await;
    rig.put("k", &noise(20_000, 6)).await.unwrap();
    let body = rig.body("k").await.unwrap();
    assert!(matches!(rig.path.read(TENANT, &name(&rig), &body, 0..20_001).await, Err(ReadError::Range { size: 20_000, .. })));
    assert!(rig.path.read(TENANT, &name(&rig), &body, 5..5).await.unwrap().next().await.is_none());
}

#[tokio::test]
async fn another_tenants_keys_do_not_open_a_body() {
    let rig = rig().await;
    for len in [100usize, 300_000] {
        rig.put("k", &noise(len, 7)).await.unwrap();
        let body = rig.body("k").await.unwrap();
        assert!(matches!(rig.path.read(TenantId(8), &name(&rig), &body, 0..len as u64).await, Err(ReadError::Damaged { .. })), "{len}");
    }
}

#[tokio::test]
async fn a_body_of_many_pieces_reads_as_one() {
    let rig = rig().await;
    let mut pieces = Vec::new();
    let mut all = Vec::new();
    for i in 0..40u64 {
        let data = noise(1_000 + 9_000 * i as usize, i);
        let stored = rig.path.store(BodyRequest { inline_allowed: false, ..request() }, stream(&data)).await.unwrap();
        match stored.body() {
            Body::Pieces(piece) => pieces.extend(piece),
            other => panic!("{other:?}"),
        }
        rig.commit(&format!("part{i}"), stored).await.unwrap();
        all.extend_from_slice(&data);
    }
    let body = Body::Pieces(pieces);
    for range in [0..all.len(), 999..1_001, 50_000..5_000_000, all.len() - 1..all.len()] {
        let mut stream = rig.path.read(TENANT, &name(&rig), &body, range.start as u64..range.end as u64).await.unwrap();
        let mut got = Vec::new();
        while let Some(piece) = stream.next().await {
            got.extend_from_slice(&piece.unwrap());
        }
        assert_eq!(got, all[range]);
    }
    let copy = rig.path.reference(TENANT, (&*name(&rig), &body), name(&rig)).await.unwrap().unwrap();
    assert_eq!(copy.size, all.len() as u64);
    rig.commit("copy", copy).await.unwrap();
    for i in 0..40 {
        rig.delete(&format!("part{i}")).await;
    }
    rig.collect().await;
    assert_eq!(rig.get("copy", 0..all.len() as u64).await.unwrap(), all);
}

#[tokio::test]
async fn a_copy_is_refused_where_the_bytes_are_not_the_tenants_or_are_gone() {
    let rig = rig().await;
    for (key, len) in [("small", 100usize), ("large", 300_000)] {
        rig.put(key, &noise(len, 9)).await.unwrap();
        let body = rig.body(key).await.unwrap();
        assert!(rig.path.reference(TenantId(8), (&*name(&rig), &body), name(&rig)).await.unwrap().is_none(), "{key}");
        assert!(rig.path.reference(TENANT, (&*name(&rig), &body), name(&rig)).await.unwrap().is_some(), "{key}");
    }
    let body = rig.body("large").await.unwrap();
    rig.delete("large").await;
    rig.collect().await;
    assert!(rig.path.reference(TENANT, (&*name(&rig), &body), name(&rig)).await.unwrap().is_none());
    rig.collect().await;
    assert_eq!((rig.shards(), rig.intents().await), (0, 0));
}

#[tokio::test]
async fn a_reader_that_goes_away_gives_its_memory_back() {
    let rig = rig().await;
    let data = noise(20 * CHUNK as usize, 10);
    rig.put("k", &data).await.unwrap();
    let body = rig.body("k").await.unwrap();
    let free = rig.path.core.read_memory.free_bytes();
    let mut stream = rig.path.read(TENANT, &name(&rig), &body, 0..data.len() as u64).await.unwrap();
    stream.next().await.unwrap().unwrap();
    assert!(rig.path.core.read_memory.free_bytes() < free);
    drop(stream);
    for _ in 0..100 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        if rig.path.core.read_memory.free_bytes() == free {
            return;
        }
    }
    panic!("memory was not given back");
}

#[tokio::test]
async fn a_chunk_that_is_not_where_it_was_is_looked_up_again_and_only_then_somebody_is_to_blame() {
    let rig = rig().await;
    let data = noise(CHUNK as usize, 11);
    rig.put("k", &data).await.unwrap();
    rig.path.repair_now().await.unwrap();
    let all = 0..data.len() as u64;
    assert_eq!(rig.get("k", all.clone()).await.unwrap(), data);
    let (chunk, record) = rig.records().await.pop().unwrap();
    let known = |rig: &Rig| rig.path.core.known.place(chunk).map(|located| located.placement);
    assert_eq!(known(&rig), record.placement, "what was looked up is remembered");
    // The first data shard goes: the read takes another, says nothing of what may be old news, and remembers the place no longer.
    let first = record.placement.unwrap().shards[0].unwrap().node;
    let node = rig.nodes.iter().find(|node| node.id == first).unwrap();
    node.clear();
    assert_eq!(rig.get("k", all.clone()).await.unwrap(), data);
    assert!(known(&rig).is_none());
    // The next one looks where it is now, does not find it there, and says so.
    assert_eq!(rig.get("k", all.clone()).await.unwrap(), data);
    for _ in 0..200 {
        if node.count() == 1 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        rig.path.repair_now().await.unwrap();
    }
    assert_eq!(rig.shards(), 6, "what was found missing was made again");
    // All of it goes elsewhere while it is remembered: not one shard is where it was. (The first of these reads forgets what is old by now.)
    for _ in 0..2 {
        assert_eq!(rig.get("k", all.clone()).await.unwrap(), data);
    }
    let stale = Located { generation: spine::id::Gen(999_999), ..rig.path.core.known.place(chunk).unwrap() };
    rig.path.core.known.learn_place(&stale);
    assert_eq!(rig.get("k", all).await.unwrap(), data);
    assert_ne!(rig.path.core.known.place(chunk).unwrap().generation, stale.generation);
}

#[tokio::test]
async fn where_one_shard_is_wrong_and_others_are_slow_those_are_asked_again() {
    let rig = rig().await;
    let data = noise(CHUNK as usize, 12);
    rig.put("k", &data).await.unwrap();
    rig.path.repair_now().await.unwrap();
    let (_, record) = rig.records().await.pop().unwrap();
    let shards = record.placement.unwrap().shards;
    let node = |index: usize| rig.nodes.iter().find(|node| node.id == shards[index].unwrap().node).unwrap();
    node(1).rot();
    // One data shard and both of parity take so long that all of them are asked for before the first comes.
    for index in [2, 4, 5] {
        node(index).set(Mood::Slow(std::time::Duration::from_secs(1)));
    }
    assert_eq!(rig.get("k", 0..data.len() as u64).await.unwrap(), data);
}
