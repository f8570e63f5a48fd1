//! What is left after the process, or the power, went away at some moment.

mod fixture;

use fixture::{copy_tree, data, name, put, segments, settings, shard};
use spine::wire::shard::StorageNode;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;
use storage_node::{Disk, Settings, fsck};

/// A disk with three small shards and the fourth's record at the end of an open segment, and where that record lies.
async fn with_a_last_record(dir: &std::path::Path) -> (u64, u64) {
    // Without folding the index knows nothing: all is found by reading the segment.
    let disk = Disk::open(Settings { fold_every: Duration::from_secs(3_600), ..settings(dir) }).unwrap();
    for n in 0..3 {
        put(&disk, n, 700).await;
    }
    disk.trash(vec![name(2)]).await.unwrap();
    let end_of_third = 4 * 4_096;
    put(&disk, 3, 9_000).await;
    let open = dir.join("open");
    copy_tree(dir.join("segments").as_path(), &open);
    disk.shutdown().await;
    drop(disk);
    fs::remove_dir_all(dir.join("segments")).unwrap();
    fs::rename(open, dir.join("segments")).unwrap();
    fs::remove_dir_all(dir.join("index")).unwrap();
    (end_of_third, end_of_third + 160 + 9_000)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_last_record_is_cut_wherever_it_was_torn() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    let (start, end) = with_a_last_record(&from).await;
    let whole = fs::read(&segments(&from)[0]).unwrap();
    assert_eq!(&whole[start as usize..start as usize + 4], b"BWR1");
    // Every byte is tried in `scan.rs`; here, that the whole disk stands on it.
    let mut cuts = vec![start + 1, start + 80, start + 159, start + 160, start + 161];
    cuts.extend((start + 200..end).step_by(1_501));
    cuts.push(end - 1);
    cuts.push(end);
    for cut in cuts {
        let to = dir.path().join("to");
        copy_tree(&from, &to);
        let file = OpenOptions::new().write(true).open(&segments(&to)[0]).unwrap();
        // What was not written is zeros up to the preallocated end.
        file.write_all_at(&vec![0; (whole.len() as u64 - cut) as usize], cut).unwrap();
        drop(file);
        for _ in 0..2 {
            let disk = Disk::open(settings(&to)).unwrap();
            for n in 0..2 {
                assert_eq!(disk.get(name(n)).await.unwrap().1, data(n, 0, 700), "cut at {cut}");
            }
            let expected = [true, true, false, cut == end];
            assert_eq!(disk.has((0..4).map(name).collect()).await.unwrap(), expected, "cut at {cut}");
            if cut == end {
                disk.get(name(3)).await.unwrap();
            }
            disk.shutdown().await;
        }
        // What was cut can be stored again.
        let disk = Disk::open(settings(&to)).unwrap();
        put(&disk, 3, 9_000).await;
        assert_eq!(disk.get(name(3)).await.unwrap().1, data(3, 0, 9_000));
        drop(disk);
        let report = fsck(&to).unwrap();
        assert!(report.is_clean() && report.live.len() == 3, "cut at {cut}: {report:?}");
        fs::remove_dir_all(&to).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_which_only_some_blocks_arrived_is_cut_at_the_first_missing_one() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    let disk = Disk::open(Settings { fold_every: Duration::from_secs(3_600), ..settings(&from) }).unwrap();
    put(&disk, 0, 700).await;
    // Queued while the first of them is synced, the others share a group.
    let disk = Arc::new(disk);
    let puts: Vec<_> = (1..40)
        .map(|n| {
            tokio::spawn({
                let disk = disk.clone();
                async move { put(&disk, n, 3_000).await }
            })
        })
        .collect();
    for task in puts {
        task.await.unwrap();
    }
    copy_tree(&from, &dir.path().join("open"));
    drop(disk);
    let from = dir.path().join("open");
    fs::remove_dir_all(from.join("index")).unwrap();
    let whole = fs::read(&segments(&from)[0]).unwrap();
    let blocks = (whole.iter().rposition(|b| *b != 0).unwrap() / 4_096) + 1;
    for missing in (1..blocks).step_by(blocks.div_ceil(12)).chain([blocks - 1]) {
        let to = dir.path().join("to");
        copy_tree(&from, &to);
        let file = OpenOptions::new().write(true).open(&segments(&to)[0]).unwrap();
        file.write_all_at(&[0; 4_096], missing as u64 * 4_096).unwrap();
        let disk = Disk::open(settings(&to)).unwrap();
        let kept = disk.list(None, 100).await.unwrap();
        for (name, _) in &kept {
            let (header, data) = disk.get(*name).await.unwrap();
            let whole = blake3::hash(&data).as_bytes() == &header.root.0;
            // In an earlier group a missing block is damage, found by whoever reads; in the last one it is torn and gone.
            assert!(whole || missing < blocks - 1, "block {missing} of {blocks}");
        }
        assert!(kept.iter().any(|(kept, _)| *kept == name(0)));
        fs::remove_dir_all(&to).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_copy_of_the_directory_taken_at_any_moment_has_everything_acknowledged_before() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    let with = |dir: &std::path::Path| Settings { segment_bytes: 512 << 10, compact_share: 0.1, ..settings(dir) };
    let disk = Arc::new(Disk::open(with(&from)).unwrap());
    // Writer w puts its own names in order and removes every third; `done` is how far it was acknowledged.
    const WRITERS: u64 = 8;
    const QUICK_PUTS: u64 = 5_000;
    let done: Arc<Vec<AtomicU64>> = Arc::new((0..WRITERS).map(|_| AtomicU64::new(0)).collect());
    let id = |w: u64, i: u64| w * 1_000_000 + i;
    let len = |i: u64| [300, 16_388, 2_000, 65_540][(i % 4) as usize];
    let stop = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for w in 0..WRITERS {
        let (disk, done, stop) = (disk.clone(), done.clone(), stop.clone());
        tasks.push(tokio::spawn(async move {
            let mut i = 0;
            while stop.load(SeqCst) == 0 {
                let (header, bytes) = shard(id(w, i), 0, len(i));
                disk.put(header, bytes).await.unwrap();
                if i % 3 == 0 {
                    disk.trash(vec![name(id(w, i))]).await.unwrap();
                }
                i += 1;
                done[w as usize].store(i, SeqCst);
                if i > QUICK_PUTS {
                    // However long the copies take: no disk of the machine is filled by this.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }));
    }
    let compacted = Arc::new(AtomicU64::new(0));
    let compacting = tokio::spawn({
        let (disk, stop, compacted) = (disk.clone(), stop.clone(), compacted.clone());
        async move {
            while stop.load(SeqCst) == 0 {
                compacted.fetch_add(disk.compact().await.unwrap().segments, SeqCst);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });
    // A slow disk needs longer until there is something to compact.
    let rounds = (0..120u64).take_while(|round| *round < 15 || compacted.load(SeqCst) == 0);
    for round in rounds {
        tokio::time::sleep(Duration::from_millis(20 + 7 * round.min(15))).await;
        let to = dir.path().join("to");
        let before: Vec<u64> = done.iter().map(|n| n.load(SeqCst)).collect();
        if !snapshot(&from, &to, round % 2 == 0) {
            // Compaction deleted a file between listing and copying: not what a crash leaves.
            fs::remove_dir_all(&to).unwrap();
            continue;
        }
        let copy = Disk::open(with(&to)).unwrap();
        for w in 0..WRITERS {
            for i in 0..before[w as usize] {
                let got = copy.get(name(id(w, i))).await;
                match i % 3 {
                    0 => assert!(got.is_err(), "round {round}: a removed shard is back"),
                    _ => assert_eq!(got.unwrap().1, data(id(w, i), 0, len(i)), "round {round}"),
                }
            }
        }
        copy.shutdown().await;
        drop(copy);
        let report = fsck(&to).unwrap();
        assert!(report.is_clean(), "round {round}: {:?}", (&report.damaged, report.unreadable_bytes, &report.index_wrong));
        fs::remove_dir_all(&to).unwrap();
    }
    stop.store(1, SeqCst);
    for task in tasks {
        task.await.unwrap();
    }
    compacting.await.unwrap();
    assert!(compacted.load(SeqCst) > 0, "compaction was at work");
}

/// A disk is opened after its newest segment was compacted away; what is stored then, and the index does not know yet.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_after_the_newest_segment_went_is_found_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    let disk = Disk::open(settings(&from)).unwrap();
    // Until one is in a second segment; the first has room for a small one.
    let mut n = 0;
    while segments(&from).len() < 2 {
        put(&disk, n, 30_000).await;
        n += 1;
    }
    disk.trash(vec![name(n - 1)]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(3)).await;
    disk.compact().await.unwrap();
    assert_eq!(segments(&from).len(), 1, "the second held nothing that counts");
    disk.shutdown().await;
    drop(disk);
    let disk = Disk::open(Settings { fold_every: Duration::from_secs(3_600), ..settings(&from) }).unwrap();
    for n in 100..105 {
        put(&disk, n, 700).await;
    }
    let to = dir.path().join("to");
    copy_tree(&from, &to);
    let disk = Disk::open(settings(&to)).unwrap();
    for n in 100..105 {
        assert_eq!(disk.get(name(n)).await.unwrap().1, data(n, 0, 700));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_grows_with_what_it_holds_and_a_crash_then_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    let with = |dir: &std::path::Path| Settings { segment_bytes: 64 << 20, ..settings(dir) };
    let disk = Arc::new(Disk::open(with(&from)).unwrap());
    let mut stored = 0;
    for round in 0..6u64 {
        // 8 MiB at once, more than a step; then one by one.
        let puts: Vec<_> = (stored..stored + 32)
            .map(|n| {
                let disk = disk.clone();
                tokio::spawn(async move { put(&disk, n, 262_144).await })
            })
            .collect();
        for task in puts {
            task.await.unwrap();
        }
        stored += 32;
        for _ in 0..round {
            put(&disk, stored, 262_144).await;
            stored += 1;
        }
        let [segment] = segments(&from).try_into().unwrap();
        let (len, used) = (fs::metadata(&segment).unwrap().len(), disk.used_bytes());
        assert!(len > used - (1 << 20) && len <= used + (20 << 20), "{len} bytes for {used}");
        let to = dir.path().join("to");
        assert!(snapshot(&from, &to, round % 2 == 0));
        let copy = Disk::open(with(&to)).unwrap();
        assert_eq!(copy.status().shards, stored);
        for n in 0..stored {
            assert_eq!(copy.get(name(n)).await.unwrap().1, data(n, 0, 262_144));
        }
        drop(copy);
        fs::remove_dir_all(&to).unwrap();
    }
    disk.shutdown().await;
    let used = fs::metadata(&segments(&from)[0]).unwrap().len();
    assert!(used < stored * (262_144 + 4_096), "the rest is given back: {used}");
}

/// Copies as a crash would leave it, with or without the index; false if a file vanished meanwhile.
fn snapshot(from: &std::path::Path, to: &std::path::Path, with_index: bool) -> bool {
    fs::create_dir_all(to.join("segments")).unwrap();
    fs::copy(from.join("node.json"), to.join("node.json")).unwrap();
    // The index first: what it knows is then in the segments, which only grow.
    if with_index && let Err(e) = copy_index(from, to) {
        panic!("{e}");
    }
    // Newest last would miss what is moved meanwhile; oldest first sees a record at its old or its new place.
    let paths = segments(from);
    let (sealed, open) = paths.split_at(paths.len().saturating_sub(2));
    let target = |path: &std::path::Path| to.join("segments").join(path.file_name().unwrap());
    sealed.iter().all(|path| fs::copy(path, target(path)).is_ok()) && open.iter().all(|path| copy_backwards(path, &target(path)).is_ok())
}

/// A group is written once the one before it is synced, and behind the file's size of before once that is. A copy made while both happen
/// could have the second without the first, which no crash leaves. Read backwards, what it has of a later block it has of the earlier
/// ones; and it is made again if the file got another size meanwhile.
fn copy_backwards(from: &std::path::Path, to: &std::path::Path) -> std::io::Result<()> {
    let source = fs::File::open(from)?;
    let mut block = [0; 4_096];
    loop {
        let copy = fs::File::create(to)?;
        let len = source.metadata()?.len();
        copy.set_len(len)?;
        for at in (0..len).step_by(block.len()).collect::<Vec<_>>().into_iter().rev() {
            let bytes = block.len().min((len - at) as usize);
            match source.read_at(&mut block[..bytes], at)? {
                read if read == bytes => copy.write_all_at(&block[..bytes], at)?,
                _ => break,
            }
        }
        if source.metadata()?.len() == len {
            return Ok(());
        }
    }
}

/// A copy of LMDB's file is only whole if no transaction was committed meanwhile: copies until it is.
fn copy_index(from: &std::path::Path, to: &std::path::Path) -> std::io::Result<()> {
    fs::create_dir_all(to.join("index"))?;
    loop {
        let before = fs::read(from.join("index/data.mdb"))?;
        if fs::read(from.join("index/data.mdb"))? == before {
            return fs::write(to.join("index/data.mdb"), before);
        }
    }
}
