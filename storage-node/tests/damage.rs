//! Bytes that are not what was written.

mod fixture;

use fixture::{data, name, put, segments, settings, shard};
use spine::wire::shard::{NodeError, StorageNode};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;
use storage_node::{Disk, Settings, fsck};

/// Flips one bit of the `n`th shard's record, found by its bytes: in the shard, or `before` it.
fn flip(dir: &Path, n: u64, len: usize, before: usize) {
    let bytes = data(n, 0, len);
    for path in segments(dir) {
        let whole = fs::read(&path).unwrap();
        if let Some(at) = whole.windows(64).position(|window| window == &bytes[..64]) {
            let at = at - before;
            OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&[whole[at] ^ 4], at as u64).unwrap();
            return;
        }
    }
    panic!("shard {n} is in no segment");
}

#[tokio::test(flavor = "multi_thread")]
async fn flipped_bits_are_found_by_reading_scrubbing_and_fsck() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open(settings(dir.path())).unwrap();
    for n in 0..30 {
        put(&disk, n, 2_000).await;
    }
    disk.shutdown().await;
    drop(disk);
    flip(dir.path(), 3, 2_000, 100); // the header
    flip(dir.path(), 7, 2_000, 0); // the shard
    let mut wrong = vec![name(3), name(7)];
    wrong.sort();

    let report = fsck(dir.path()).unwrap();
    assert!(!report.is_clean());
    assert_eq!(report.damaged, [name(7)]);
    assert!(report.unreadable_bytes > 0, "the record without a header: {report:?}");
    assert_eq!(report.index_wrong_count, 1);

    let disk = Disk::open(settings(dir.path())).unwrap();
    assert!(matches!(disk.get(name(3)).await, Err(NodeError::Damaged { .. })));
    assert_ne!(disk.get(name(7)).await.unwrap().1, data(7, 0, 2_000), "the root is the caller's to check");
    let mut found = disk.scrub(None).await.unwrap();
    found.push(name(3)); // set aside by the read already
    found.sort();
    found.dedup();
    assert_eq!(found, wrong);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(matches!(disk.get(name(7)).await, Err(NodeError::Damaged { .. })));
    assert_eq!(disk.has(vec![name(2), name(3), name(7)]).await.unwrap(), [true, false, false]);
    assert_eq!(disk.status().shards, 28);
    // Stored again they are whole again, also after the segments are compacted and the index is made anew.
    for n in [3, 7] {
        put(&disk, n, 2_000).await;
    }
    disk.trash((10..30).map(name).collect()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(3)).await;
    disk.compact().await.unwrap();
    drop(disk);
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    let disk = Disk::open(settings(dir.path())).unwrap();
    assert_eq!(disk.scrub(Some(1 << 30)).await.unwrap(), []);
    for n in 0..10 {
        assert_eq!(disk.get(name(n)).await.unwrap().1, data(n, 0, 2_000));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compaction_copies_no_damaged_shard_and_loses_no_good_one() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open(settings(dir.path())).unwrap();
    for n in 0..60 {
        put(&disk, n, 30_000).await;
    }
    disk.shutdown().await;
    drop(disk);
    flip(dir.path(), 20, 30_000, 0);
    flip(dir.path(), 21, 30_000, 150);
    let disk = Disk::open(settings(dir.path())).unwrap();
    disk.trash((0..60).filter(|n| n % 2 == 1 && *n != 21).map(name).collect()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(3)).await;
    assert!(disk.compact().await.unwrap().segments > 0);
    for n in (0..60).filter(|n| n % 2 == 0 && *n != 20) {
        assert_eq!(disk.get(name(n)).await.unwrap().1, data(n, 0, 30_000));
    }
    for n in [20, 21] {
        assert!(matches!(disk.get(name(n)).await, Err(NodeError::NotFound | NodeError::Damaged { .. })));
    }
    drop(disk);
    let report = fsck(dir.path()).unwrap();
    assert!(report.is_clean(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_missing_cut_or_garbled_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open(settings(dir.path())).unwrap();
    for n in 0..300 {
        put(&disk, n, 200).await;
    }
    disk.trash((0..100).map(name).collect()).await.unwrap();
    disk.shutdown().await;
    drop(disk);
    let index = dir.path().join("index/data.mdb");
    let whole = fs::read(&index).unwrap();
    for harm in 0..5 {
        match harm {
            0 => fs::remove_file(&index).unwrap(),
            1 => fs::write(&index, &whole[..whole.len() / 2]).unwrap(),
            2 => fs::write(&index, &whole[..100]).unwrap(),
            3 => fs::write(&index, vec![0x5A; whole.len()]).unwrap(),
            _ => fs::remove_dir_all(dir.path().join("index")).unwrap(),
        }
        let disk = Disk::open(settings(dir.path())).unwrap();
        assert_eq!(disk.status().shards, 200, "harm {harm}");
        for n in 0..300 {
            assert_eq!(disk.get(name(n)).await.is_ok(), n >= 100, "harm {harm}, shard {n}");
        }
        disk.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_went_missing_is_noticed_when_opening() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open(settings(dir.path())).unwrap();
    for n in 0..100 {
        put(&disk, n, 30_000).await;
    }
    disk.shutdown().await;
    drop(disk);
    fs::remove_file(&segments(dir.path())[1]).unwrap();
    let disk = Disk::open(settings(dir.path())).unwrap();
    let left = disk.list(None, 1_000).await.unwrap();
    assert!(left.len() > 50 && left.len() < 75, "{}", left.len());
    for (name, _) in left {
        disk.get(name).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_that_runs_full_refuses_puts_and_keeps_what_it_has() {
    // A RAM disk of its own needs privileges; without them there is nothing to test here.
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("small");
    fs::create_dir(&at).unwrap();
    let mounted = std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"]).arg(&at).status();
    if !mounted.is_ok_and(|status| status.success()) {
        // Past the harness, which keeps to itself what a test prints that does not fail; `conformance/run` counts these lines.
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        writeln!(std::io::stderr(), "NOT RUN: {test}: a RAM disk needs root, to be mounted").unwrap();
        return;
    }
    struct Unmount<'a>(&'a Path);
    impl Drop for Unmount<'_> {
        fn drop(&mut self) {
            // The directory cannot be removed otherwise; nothing depends on it.
            let _ = std::process::Command::new("umount").arg("-l").arg(self.0).status();
        }
    }
    let _unmount = Unmount(&at);
    let with = || Settings { segment_bytes: 8 << 20, ..settings(&at) };
    let disk = Disk::open(with()).unwrap();
    let mut stored = Vec::new();
    let mut refused = 0;
    for n in 0..300 {
        let (header, bytes) = shard(n, 0, 100_000);
        match disk.put(header, bytes).await {
            Ok(()) => stored.push(n),
            Err(NodeError::Full { .. }) => refused += 1,
            Err(e) => panic!("{e}"),
        }
        if n == 100 {
            // Somebody else takes space too.
            fs::write(at.join("other"), vec![1; 6 << 20]).unwrap();
        }
    }
    assert!(stored.len() > 100 && refused > 50, "{} stored, {refused} refused", stored.len());
    for n in &stored {
        assert_eq!(disk.get(name(*n)).await.unwrap().1, data(*n, 0, 100_000));
    }
    // Removing works on the full disk, and makes room.
    disk.trash(stored.iter().copied().map(name).collect()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    disk.compact().await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    put(&disk, 1_000, 100_000).await;
    disk.shutdown().await;
    drop(disk);
    assert!(fsck(&at).unwrap().is_clean());
}
