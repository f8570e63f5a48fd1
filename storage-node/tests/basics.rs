//! What one disk promises while nothing goes wrong.

mod fixture;

use fixture::{data, name, put, segments, settings, shard};
use spine::wire::shard::{NodeError, NodeState, StorageNode};
use std::time::Duration;
use storage_node::{Disk, OpenError, Settings, fsck};

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_reads_back_with_its_header_before_and_after_opening_again() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open(settings(dir.path())).unwrap();
    let id = disk.id();
    let mut stored = Vec::new();
    for (n, len) in [0, 1, 159, 4_096, 16_388, 262_148, 3 << 20].into_iter().enumerate() {
        let (header, data) = shard(n as u64, 0, len);
        disk.put(header, data.clone()).await.unwrap();
        stored.push((header, data));
    }
    for _ in 0..2 {
        let disk = Disk::open(settings(dir.path()));
        assert!(matches!(disk, Err(OpenError::InUse { .. })), "the first one is still open");
    }
    for (header, data) in &stored {
        assert_eq!(disk.get(header.name).await.unwrap(), (*header, data.clone()));
    }
    disk.shutdown().await;
    assert!(matches!(disk.get(name(0)).await, Err(NodeError::Unavailable { .. })));
    drop(disk);
    let disk = Disk::open(settings(dir.path())).unwrap();
    assert_eq!(disk.id(), id);
    for (header, data) in &stored {
        assert_eq!(disk.get(header.name).await.unwrap(), (*header, data.clone()));
    }
    let status = disk.status();
    assert_eq!((status.state, status.shards), (NodeState::Serving, 7));
    assert_eq!(status.shard_bytes, stored.iter().map(|(header, _)| u64::from(header.len)).sum::<u64>());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_shard_again_is_ok_and_another_under_its_name_is_invalid() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open(settings(dir.path())).unwrap();
    let (header, bytes) = shard(1, 0, 1_000);
    let (other, other_bytes) = shard(1, 1, 1_000);
    let (a, b, c) = tokio::join!(disk.put(header, bytes.clone()), disk.put(header, bytes.clone()), disk.put(header, bytes.clone()));
    assert_eq!((a, b, c), (Ok(()), Ok(()), Ok(())));
    assert!(matches!(disk.put(other, other_bytes.clone()).await, Err(NodeError::Invalid { .. })));
    assert!(matches!(disk.put(header, other_bytes.slice(1..)).await, Err(NodeError::Invalid { .. })));
    assert_eq!(disk.get(name(1)).await.unwrap(), (header, bytes));
    assert_eq!(disk.status().shards, 1);
    // Once it is in the trash the name is free.
    disk.trash(vec![name(1)]).await.unwrap();
    disk.put(other, other_bytes.clone()).await.unwrap();
    assert_eq!(disk.get(name(1)).await.unwrap(), (other, other_bytes));
}

#[tokio::test(flavor = "multi_thread")]
async fn trashed_shards_are_not_found_and_a_new_put_brings_the_name_back() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open(settings(dir.path())).unwrap();
    for n in 0..5 {
        put(&disk, n, 500).await;
    }
    disk.trash(vec![name(1), name(3), name(99)]).await.unwrap();
    disk.trash(vec![name(1)]).await.unwrap();
    assert_eq!(disk.get(name(1)).await, Err(NodeError::NotFound));
    assert_eq!(disk.has((0..6).map(name).collect()).await.unwrap(), [true, false, true, false, true, false]);
    let mut expected = vec![(name(0), 500), (name(2), 500), (name(4), 500)];
    expected.sort();
    assert_eq!(disk.list(None, 100).await.unwrap(), expected);
    assert_eq!(disk.list(Some(expected[0].0), 1).await.unwrap(), expected[1..2]);
    assert_eq!(disk.status().trash_bytes, 1_000);
    put(&disk, 1, 500).await;
    assert_eq!(disk.get(name(1)).await.unwrap().1, data(1, 0, 500));
    assert_eq!((disk.status().shards, disk.status().trash_bytes), (4, 500));
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_everything_gives_the_space_back() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open(settings(dir.path())).unwrap();
    for n in 0..200 {
        put(&disk, n, 30_000).await;
    }
    disk.trash((0..100).map(name).collect()).await.unwrap();
    for n in 200..250 {
        put(&disk, n, 30_000).await;
    }
    disk.trash((100..250).map(name).collect()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    let freed = disk.compact().await.unwrap();
    assert!(freed.segments > 5, "{freed:?}");
    assert_eq!(segments(dir.path()), Vec::<std::path::PathBuf>::new());
    let status = disk.status();
    assert_eq!((status.shards, status.shard_bytes, status.trash_bytes), (0, 0, 0));
    put(&disk, 1, 10).await;
    drop(disk);
    assert!(fsck(dir.path()).unwrap().is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn trash_is_kept_for_its_age() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open(Settings { trash_age: Duration::from_secs(3_600), ..settings(dir.path()) }).unwrap();
    for n in 0..100 {
        put(&disk, n, 30_000).await;
    }
    disk.trash((0..100).map(name).collect()).await.unwrap();
    disk.compact().await.unwrap();
    assert_eq!(disk.status().trash_bytes, 3_000_000);
    drop(disk);
    assert_eq!(fsck(dir.path()).unwrap().trashed, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_puts_and_still_removes_and_reads() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open(Settings { capacity: Some(8 << 20), ..settings(dir.path()) }).unwrap();
    let mut n = 0;
    let error = loop {
        let (header, data) = shard(n, 0, 100_000);
        match disk.put(header, data).await {
            Ok(()) => n += 1,
            Err(e) => break e,
        }
        assert!(n < 90, "8 MiB hold at most 83 of these");
    };
    assert!(matches!(error, NodeError::Full { .. }), "{error}");
    assert!(n > 60, "only {n} fit");
    assert_eq!(disk.status().state, NodeState::Full);
    disk.get(name(0)).await.unwrap();
    disk.trash((0..n / 2).map(name).collect()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    disk.compact().await.unwrap();
    assert_eq!(disk.status().state, NodeState::Serving);
    put(&disk, 1_000, 100_000).await;
    for kept in n / 2..n {
        assert_eq!(disk.get(name(kept)).await.unwrap().1, data(kept, 0, 100_000));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowded_disk_gets_its_space_back_in_a_life_too_short_for_the_usual_look() {
    let dir = tempfile::tempdir().unwrap();
    let rare = || Settings { capacity: Some(8 << 20), compact_every: Some(Duration::from_secs(3_600)), ..settings(dir.path()) };
    let disk = Disk::open(rare()).unwrap();
    for n in 0..60 {
        put(&disk, n, 100_000).await;
    }
    disk.trash((0..50).map(name).collect()).await.unwrap();
    disk.shutdown().await;
    drop(disk);
    let disk = Disk::open(rare()).unwrap();
    let mut waited = 0;
    while disk.status().free < 5 << 20 {
        assert!(waited < 1_000, "still {:?}", disk.status());
        waited += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for kept in 50..60 {
        assert_eq!(disk.get(name(kept)).await.unwrap().1, data(kept, 0, 100_000));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_disk_holds_no_more_than_its_data_and_goes_on_in_the_same_segment() {
    let dir = tempfile::tempdir().unwrap();
    let quick = || Settings { segment_bytes: 64 << 20, seal_idle: Duration::from_millis(100), ..settings(dir.path()) };
    for n in 0..5 {
        let disk = Disk::open(quick()).unwrap();
        put(&disk, n, 5_000).await;
        assert!(segments(dir.path())[0].metadata().unwrap().len() > 1 << 20);
        let started = std::time::Instant::now();
        while segments(dir.path())[0].metadata().unwrap().len() > 1 << 20 {
            assert!(started.elapsed() < Duration::from_secs(5));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        put(&disk, 100 + n, 5_000).await;
        drop(disk);
        assert_eq!(segments(dir.path()).len(), 1);
    }
    let report = fsck(dir.path()).unwrap();
    assert!(report.is_clean() && report.live.len() == 10, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_directory_is_adopted_only_when_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let strict = Settings { adopt_empty: false, ..settings(&dir.path().join("disk")) };
    assert!(matches!(Disk::open(strict.clone()), Err(OpenError::Missing { .. })));
    assert!(!dir.path().join("disk").exists());
    std::fs::create_dir(dir.path().join("disk")).unwrap();
    assert!(matches!(Disk::open(strict.clone()), Err(OpenError::Missing { .. })));
    let id = Disk::open(Settings { adopt_empty: true, ..strict.clone() }).unwrap().id();
    assert_eq!(Disk::open(strict).unwrap().id(), id);
}

#[tokio::test(flavor = "multi_thread")]
async fn removals_wait_for_room_in_the_queue_as_puts_do_and_too_many_at_once_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let disk = std::sync::Arc::new(Disk::open(Settings { queue_bytes: 1 << 10, ..settings(dir.path()) }).unwrap());
    for n in 0..50 {
        put(&disk, n, 300).await;
    }
    let removals: Vec<_> = (0..50)
        .map(|n| {
            let disk = disk.clone();
            tokio::spawn(async move { disk.trash((n..50).map(name).collect()).await })
        })
        .collect();
    for removal in removals {
        removal.await.unwrap().unwrap();
    }
    assert_eq!(disk.status().shards, 0);
    let many = vec![name(1); 100_001];
    assert!(matches!(disk.trash(many).await, Err(NodeError::Invalid { .. })));
}
