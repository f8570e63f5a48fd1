use crate::body::BodyError;
use crate::path::fake::{CHUNK, Mood, TENANT, noise, quiet, request, rig, rig_with, stream};
use crate::write::*;
use futures::FutureExt;
use proptest::prelude::*;
use spine::id::UnixMs;
use spine::id::{BucketId, TenantId};
use spine::wire::Metadata;
use spine::wire::chunk::ChunkState;
use spine::wire::namespace::NamespaceCommand;
use spine::wire::{Command, Refusal};
use std::sync::atomic::Ordering;
use std::time::Duration;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn bodies_of_every_size_and_kind_read_back_whole_and_in_ranges(
        len in prop_oneof![0usize..20, 8_000usize..8_400, 0usize..900_000, Just(CHUNK as usize), Just(2 * CHUNK as usize), Just(3 * CHUNK as usize + 1)],
        dense in any::<bool>(), declare in any::<bool>(), inline in any::<bool>(), from in any::<prop::sample::Index>(), to in any::<prop::sample::Index>(),
    ) {
        runtime().block_on(async {
            let rig = rig().await;
            let data = if dense { noise(len, len as u64) } else { (0..len).map(|i| (i / 1_000) as u8).collect() };
            let declared_len = declare.then_some(len as u64);
            let checksums = vec![ChecksumAlgorithm::Crc32, ChecksumAlgorithm::Sha256];
            let stored = rig.path.store(BodyRequest { declared_len, inline_allowed: inline, checksums, ..request() }, stream(&data)).await.unwrap();
            assert_eq!(stored.size, len as u64);
            assert_eq!(stored.md5, <[u8; 16]>::from(<md5::Md5 as md5::Digest>::digest(&data)));
            assert_eq!(stored.checksums[1].1, <sha2::Sha256 as sha2::Digest>::digest(&data).to_vec());
            assert_eq!(matches!(stored.content, Content::Inline(_)), inline && len <= limit::INLINE_BYTES);
            assert!(matches!(rig.commit("k", stored).await.unwrap(), Reply::Committed { .. }));
            let (a, b) = (from.index(len + 1), to.index(len + 1));
            let range = a.min(b)..a.max(b);
            assert_eq!(rig.get("k", 0..len as u64).await.unwrap(), data);
            assert_eq!(rig.get("k", range.start as u64..range.end as u64).await.unwrap(), data[range]);
            assert_eq!(rig.intents().await, 0);
        });
    }
}

#[tokio::test]
async fn a_small_body_takes_one_round_and_a_body_of_one_chunk_two() {
    let rig = rig().await;
    for (len, rounds, shards) in [(100, 1, 0), (limit::INLINE_BYTES, 1, 0), (64 << 10, 2, 6)] {
        let (before, held) = (rig.metadata.rounds.load(Ordering::Relaxed), rig.shards());
        rig.put("k", &noise(len, len as u64)).await.unwrap();
        assert_eq!(rig.metadata.rounds.load(Ordering::Relaxed) - before, rounds, "{len}");
        assert_eq!(rig.shards() - held, shards, "{len}");
    }
}

#[tokio::test]
async fn what_is_stored_already_is_sealed_and_sent_once_and_never_shared_with_another_tenant() {
    let rig = rig().await;
    let data = noise(3 * CHUNK as usize, 1);
    for key in ["a", "b", "c"] {
        rig.put(key, &data).await.unwrap();
    }
    assert_eq!(rig.shards(), 18);
    assert_eq!(rig.totals().await.references, 9);
    let other = BodyRequest { tenant: TenantId(8), ..request() };
    drop(rig.path.store(other, stream(&data)).await.unwrap());
    assert_eq!(rig.shards(), 36);
}

#[tokio::test]
async fn a_body_that_repeats_one_chunk_stores_it_once() {
    let rig = rig().await;
    let data = noise(CHUNK as usize, 3).repeat(9);
    rig.put("k", &data).await.unwrap();
    assert_eq!(rig.shards(), 6);
    assert_eq!(rig.nodes.iter().map(|node| node.puts.load(Ordering::Relaxed)).sum::<usize>(), 6);
    assert_eq!(rig.get("k", 0..data.len() as u64).await.unwrap(), data);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writers_of_the_same_bytes_share_one_upload() {
    let rig = std::sync::Arc::new(rig().await);
    rig.metadata.delay.store(3, Ordering::Relaxed);
    let data = std::sync::Arc::new(noise(5 * CHUNK as usize + 77, 4));
    let writers: Vec<_> = (0..5)
        .map(|i| {
            let (rig, data) = (rig.clone(), data.clone());
            tokio::spawn(async move { rig.put(&format!("k{i}"), &data).await })
        })
        .collect();
    for writer in writers {
        assert!(matches!(writer.await.unwrap(), Ok(Reply::Committed { .. })));
    }
    assert_eq!(rig.shards(), 36);
    for i in 0..5 {
        assert_eq!(rig.get(&format!("k{i}"), 0..data.len() as u64).await.unwrap(), *data);
    }
}

#[tokio::test]
async fn a_second_writer_goes_on_by_itself_when_the_first_ones_client_leaves() {
    let rig = rig().await;
    let data = noise(CHUNK as usize, 5);
    rig.nodes.iter().for_each(|node| node.set(Mood::Stuck));
    let mut first = Box::pin(rig.store(&data));
    let mut second = Box::pin(rig.store(&data));
    for _ in 0..20 {
        assert!((&mut first).now_or_never().is_none());
        assert!((&mut second).now_or_never().is_none());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(first);
    rig.nodes.iter().for_each(|node| node.set(Mood::Well));
    let stored = second.await.unwrap();
    rig.commit("k", stored).await.unwrap();
    rig.collect().await;
    assert_eq!(rig.get("k", 0..data.len() as u64).await.unwrap(), data);
    assert_eq!(rig.intents().await, 0);
    assert_eq!(rig.totals().await.references, 1);
}

#[tokio::test]
async fn a_write_dropped_at_any_moment_leaves_nothing_behind() {
    let rig = rig().await;
    rig.metadata.delay.store(1, Ordering::Relaxed);
    let data = noise(5 * CHUNK as usize, 6);
    for polls in 0..40u64 {
        let mut write = Box::pin(rig.store(&data));
        let stored = tokio::time::timeout(Duration::from_micros(polls * 400), &mut write).await;
        drop(stored);
        drop(write);
    }
    rig.metadata.delay.store(0, Ordering::Relaxed);
    rig.path.core.intents.settle().await;
    // A reservation that was under way when its write was dropped may have been applied later: the reaper's.
    let reaper = rig.restart(crate::core::Settings {
        only_gateway: true,
        collect_interval: Duration::from_millis(20),
        collect_grace: Duration::ZERO,
        ..quiet()
    });
    for _ in 0..200 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if rig.totals().await.chunks == 0 && rig.intents().await == 0 {
            break;
        }
    }
    reaper.shutdown().await;
    assert_eq!((rig.intents().await, rig.totals().await), (0, Default::default()));
    let swept = rig.path.sweep_now(true).await.unwrap();
    assert_eq!(rig.shards(), 0, "{swept:?}");
}

#[tokio::test]
async fn an_aborted_upload_is_collected_without_a_sweep() {
    let rig = rig().await;
    drop(rig.store(&noise(3 * CHUNK as usize, 7)).await.unwrap());
    rig.collect().await;
    assert_eq!((rig.shards(), rig.intents().await, rig.totals().await), (0, 0, Default::default()));
}

#[tokio::test]
async fn a_bad_body_is_the_clients_fault_and_leaves_nothing() {
    let rig = rig().await;
    let pieces: Vec<Result<Bytes, BodyError>> = vec![Ok(noise(600_000, 8).into()), Err("signature".into())];
    match rig.path.store(request(), Box::pin(futures::stream::iter(pieces))).await {
        Err(WriteError::Body(error)) => assert_eq!(error.to_string(), "signature"),
        _ => panic!("stored"),
    }
    rig.collect().await;
    rig.path.sweep_now(true).await.unwrap();
    assert_eq!((rig.shards(), rig.intents().await, rig.totals().await), (0, 0, Default::default()));
}

#[tokio::test]
async fn one_lost_node_is_owed_and_two_refuse_the_write() {
    let rig = rig().await;
    rig.nodes[2].set(Mood::Lost);
    rig.put("one", &noise(CHUNK as usize, 9)).await.unwrap();
    assert_eq!((rig.shards(), rig.totals().await.owed), (5, 1));
    rig.nodes[4].set(Mood::Failing);
    match rig.put("two", &noise(CHUNK as usize, 10)).await {
        Err(WriteError::QuorumNotReached { acked, quorum, .. }) => assert!(acked < 5 && quorum == 5),
        other => panic!("{other:?}"),
    }
    assert!(rig.body("two").await.is_none());
    rig.nodes[4].set(Mood::Well);
    rig.collect().await;
    assert_eq!(rig.intents().await, 0);
    assert_eq!(rig.totals().await.chunks, 1);
    rig.put("three", &noise(CHUNK as usize, 10)).await.unwrap();
}

#[tokio::test]
async fn a_stuck_node_is_waited_for_briefly_once_and_then_hardly_at_all() {
    let rig = rig().await;
    rig.nodes[0].set(Mood::Stuck);
    let time = |start: std::time::Instant| start.elapsed();
    let start = std::time::Instant::now();
    rig.put("a", &noise(CHUNK as usize, 11)).await.unwrap();
    assert!(time(start) < Duration::from_secs(3));
    let start = std::time::Instant::now();
    rig.put("b", &noise(CHUNK as usize, 12)).await.unwrap();
    assert!(time(start) < Duration::from_millis(200), "{:?}", time(start));
    assert_eq!(rig.totals().await.owed, 2);
}

#[tokio::test]
async fn a_write_whose_intent_was_reaped_commits_nothing() {
    let rig = rig().await;
    let stored = rig.store(&noise(CHUNK as usize, 13)).await.unwrap();
    let abort = Command::Namespace(NamespaceCommand::AbortIntent { version: stored.version, bucket: BucketId(1), key: "some/name".into() });
    rig.metadata.propose(Batch { chain: Chain::Independent, commands: vec![abort] }).await.unwrap();
    assert!(matches!(rig.commit("k", stored).await, Err(WriteError::Aborted { .. })));
    assert!(rig.body("k").await.is_none());
    rig.collect().await;
    assert_eq!(rig.totals().await.chunks, 0);
}

#[tokio::test]
async fn a_refused_commit_says_so_and_its_chunks_are_collected() {
    let rig = rig().await;
    let stored = rig.store(&noise(CHUNK as usize, 14)).await.unwrap();
    let id = stored.version;
    let reply = rig
        .path
        .commit(stored, |_, _| NamespaceCommand::RenewIntent {
            version: VersionId([9; 16]),
            bucket: BucketId(1),
            key: "some/name".into(),
            now: UnixMs(0),
        })
        .await;
    assert!(matches!(reply, Ok(Reply::Refused(Refusal::IntentClosed)) | Err(WriteError::Aborted { .. })), "{id} {reply:?}");
    rig.collect().await;
    assert_eq!((rig.shards(), rig.totals().await.chunks), (0, 0));
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_an_error_and_what_it_committed_stays_whole() {
    let rig = rig().await;
    let data = noise(CHUNK as usize, 15);
    let stored = rig.store(&data).await.unwrap();
    rig.metadata.lose_answers.store(1, Ordering::Relaxed);
    assert!(matches!(rig.commit("k", stored).await, Err(WriteError::Metadata(_))));
    rig.collect().await;
    rig.collect().await;
    assert_eq!(rig.get("k", 0..data.len() as u64).await.unwrap(), data);
    assert!(rig.records().await.iter().all(|(_, record)| record.state == ChunkState::Live));
}

#[tokio::test]
async fn long_bodies_are_confirmed_on_the_way() {
    let rig = rig().await;
    let data = noise((CONFIRM_STEP + 3) * CHUNK as usize, 16);
    let stored = rig.store(&data).await.unwrap();
    let live = rig.records().await.iter().filter(|(_, record)| record.state == ChunkState::Live).count();
    assert_eq!(live, CONFIRM_STEP);
    rig.commit("k", stored).await.unwrap();
    assert_eq!(rig.get("k", 0..data.len() as u64).await.unwrap(), data);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_bodies_at_once_stay_within_a_small_memory_and_all_finish() {
    // Room for three chunks of 256 KiB with their shards (but at least what one chunk of the largest size needs).
    let rig = std::sync::Arc::new(rig_with(crate::core::Settings { write_memory: 1, ..quiet() }, 6).await);
    let writers: Vec<_> = (0..16)
        .map(|i| {
            let rig = rig.clone();
            tokio::spawn(async move {
                let data = noise(10 * CHUNK as usize + i, i as u64);
                rig.put(&format!("k{i}"), &data).await.unwrap();
                assert_eq!(rig.get(&format!("k{i}"), 0..data.len() as u64).await.unwrap(), data);
            })
        })
        .collect();
    for writer in writers {
        tokio::time::timeout(Duration::from_secs(60), writer).await.expect("nobody waits in a circle").unwrap();
    }
}

#[tokio::test]
async fn the_body_is_not_polled_while_its_window_is_full() {
    let rig = rig().await;
    rig.nodes.iter().for_each(|node| node.set(Mood::Stuck));
    let polled = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = polled.clone();
    let body = futures::stream::repeat_with(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        Ok(Bytes::from(noise(64 << 10, counted.load(Ordering::Relaxed) as u64)))
    });
    let mut write = Box::pin(rig.path.store(request(), Box::pin(body)));
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut write).await.is_err());
    // Four chunks in flight and one being begun, of four pieces each.
    assert!(polled.load(Ordering::Relaxed) <= 24, "{}", polled.load(Ordering::Relaxed));
    let _ = TENANT;
}
