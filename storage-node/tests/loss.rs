//! Disks that vanish, come back, or are other disks.

mod fixture;

use fixture::{data, name, put, settings, shard, wait_for};
use spine::wire::shard::{NodeError, NodeState, StorageNode};
use std::fs;
use std::time::{Duration, Instant};
use storage_node::{Disk, OpenError, Settings};

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_disk_is_lost_at_the_next_write_and_is_not_adopted_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open(Settings { watch_every: Duration::from_secs(3_600), ..settings(dir.path()) }).unwrap();
    let id = disk.id();
    put(&disk, 1, 5_000).await;
    for entry in fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }
    let (header, bytes) = shard(2, 0, 100);
    assert!(matches!(disk.put(header, bytes).await, Err(NodeError::Unavailable { .. })));
    wait_for(&disk, NodeState::Lost, Duration::from_secs(1)).await;
    assert!(matches!(disk.get(name(1)).await, Err(NodeError::Unavailable { .. })));
    assert!(matches!(disk.trash(vec![name(1)]).await, Err(NodeError::Unavailable { .. })));
    assert!(matches!(disk.has(vec![name(1)]).await, Err(NodeError::Unavailable { .. })));
    assert!(matches!(disk.list(None, 1).await, Err(NodeError::Unavailable { .. })));
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!((disk.status().state, disk.id()), (NodeState::Lost, id));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is written into an empty directory");
    let started = Instant::now();
    let adopted = loop {
        match disk.adopt() {
            Ok(adopted) => break adopted,
            Err(OpenError::InUse { .. }) if started.elapsed() < Duration::from_secs(2) => (),
            Err(e) => panic!("{e}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_ne!(adopted, id);
    assert_eq!((disk.status().state, disk.id()), (NodeState::Serving, adopted));
    assert_eq!(disk.get(name(1)).await, Err(NodeError::NotFound));
    put(&disk, 2, 100).await;
    assert!(matches!(disk.adopt(), Err(OpenError::InUse { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_was_moved_away_is_noticed_within_a_second_and_serves_when_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let (here, away) = (dir.path().join("disk"), dir.path().join("away"));
    let defaults = Settings::new(&here);
    let with = Settings { watch_every: defaults.watch_every, ..settings(&here) };
    let disk = Disk::open(with).unwrap();
    for n in 0..20 {
        put(&disk, n, 5_000).await;
    }
    for round in 0..3 {
        fs::rename(&here, &away).unwrap();
        wait_for(&disk, NodeState::Lost, Duration::from_secs(1)).await;
        let (header, bytes) = shard(100, 0, 100);
        assert!(matches!(disk.put(header, bytes).await, Err(NodeError::Unavailable { .. })));
        if round == 1 {
            // Another disk in its place is left alone.
            Disk::open(settings(&here)).unwrap().shutdown().await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert_eq!(disk.status().state, NodeState::Lost);
            fs::remove_dir_all(&here).unwrap();
        }
        fs::rename(&away, &here).unwrap();
        wait_for(&disk, NodeState::Serving, Duration::from_secs(3)).await;
        for n in 0..20 {
            assert_eq!(disk.get(name(n)).await.unwrap().1, data(n, 0, 5_000));
        }
        put(&disk, 200 + round, 5_000).await;
    }
    assert_eq!(disk.status().shards, 23);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_put_is_acknowledged_that_a_vanished_disk_does_not_have_when_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let (here, away) = (dir.path().join("disk"), dir.path().join("away"));
    let disk = Disk::open(settings(&here)).unwrap();
    let mut n = 0;
    let mut acknowledged = Vec::new();
    for round in 0..10u64 {
        let started = Instant::now();
        let mover = {
            let (here, away) = (here.clone(), away.clone());
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(5 + 3 * round));
                fs::rename(&here, &away).unwrap();
                std::thread::sleep(Duration::from_millis(120));
                fs::rename(&away, &here).unwrap();
            })
        };
        while started.elapsed() < Duration::from_millis(80 + 3 * round) {
            let (header, bytes) = shard(n, 0, 3_000);
            match disk.put(header, bytes).await {
                Ok(()) => acknowledged.push(n),
                Err(NodeError::Unavailable { .. }) => tokio::time::sleep(Duration::from_millis(1)).await,
                Err(e) => panic!("{e}"),
            }
            n += 1;
        }
        mover.join().unwrap();
        wait_for(&disk, NodeState::Serving, Duration::from_secs(3)).await;
        for n in &acknowledged {
            assert_eq!(disk.get(name(*n)).await.unwrap().1, data(*n, 0, 3_000));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expected_disk_that_is_missing_opens_as_lost_and_serves_when_it_comes() {
    let dir = tempfile::tempdir().unwrap();
    let (here, away) = (dir.path().join("disk"), dir.path().join("away"));
    let disk = Disk::open(settings(&here)).unwrap();
    put(&disk, 1, 100).await;
    let id = disk.id();
    disk.shutdown().await;
    drop(disk);
    fs::rename(&here, &away).unwrap();
    fs::create_dir(&here).unwrap();
    let disk = Disk::open(Settings { expected: Some(id), ..settings(&here) }).unwrap();
    assert_eq!((disk.id(), disk.status().state), (id, NodeState::Lost));
    assert!(matches!(disk.get(name(1)).await, Err(NodeError::Unavailable { .. })));
    fs::remove_dir(&here).unwrap();
    fs::rename(&away, &here).unwrap();
    wait_for(&disk, NodeState::Serving, Duration::from_secs(2)).await;
    assert_eq!(disk.get(name(1)).await.unwrap().1, data(1, 0, 100));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_whose_segments_vanish_is_lost_and_serves_them_again_when_they_are_back() {
    let dir = tempfile::tempdir().unwrap();
    let (here, away) = (dir.path().join("segments"), dir.path().join("elsewhere"));
    let disk = Disk::open(settings(dir.path())).unwrap();
    for n in 0..10 {
        put(&disk, n, 5_000).await;
    }
    disk.shutdown().await;
    drop(disk);
    let disk = Disk::open(settings(dir.path())).unwrap();
    fs::rename(&here, &away).unwrap();
    wait_for(&disk, NodeState::Lost, Duration::from_secs(1)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!here.exists(), "a disk without its segments is not served as if it were empty");
    // Nor after a restart.
    drop(disk);
    let disk = Disk::open(settings(dir.path())).unwrap();
    assert_eq!(disk.status().state, NodeState::Lost);
    fs::rename(&away, &here).unwrap();
    wait_for(&disk, NodeState::Serving, Duration::from_secs(3)).await;
    for n in 0..10 {
        assert_eq!(disk.get(name(n)).await.unwrap().1, data(n, 0, 5_000));
    }
}
