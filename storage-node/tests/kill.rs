//! A child process stores, removes and compacts and prints what was acknowledged; it is killed, and all of that is there after.

mod fixture;

use fixture::{data, name, put, settings};
use spine::wire::shard::StorageNode;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use storage_node::{Disk, Settings, fsck};

const DIR: &str = "BREAKWATER_TEST_DISK_DIR";
const FIRST: &str = "BREAKWATER_TEST_DISK_FIRST";
const LEN: usize = 300;
/// Names stored, and then removed but for the last few, in one turn: enough for the index to be made smaller each time.
const TURN: u64 = 3_000;
const KEPT: u64 = 5;

/// Not a test by itself: what the other one starts as its child process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storing_process_of_the_other_test() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let mut first: u64 = std::env::var(FIRST).unwrap().parse().unwrap();
    let disk = Arc::new(Disk::open(with(Path::new(&dir))).unwrap());
    loop {
        let storing: Vec<_> = (first..first + TURN)
            .map(|n| {
                let disk = disk.clone();
                tokio::spawn(async move { put(&disk, n, LEN).await })
            })
            .collect();
        for one in storing {
            one.await.unwrap();
        }
        println!("stored {first}");
        disk.trash((first..first + TURN - KEPT).map(name).collect()).await.unwrap();
        println!("removed {first}");
        tokio::time::sleep(Duration::from_millis(2)).await;
        let before = index_bytes(Path::new(&dir));
        disk.compact().await.unwrap();
        println!("compacted {before} {}", index_bytes(Path::new(&dir)));
        first += TURN;
    }
}

fn with(dir: &Path) -> Settings {
    Settings { fold_every: Duration::from_millis(5), ..settings(dir) }
}

fn index_bytes(dir: &Path) -> u64 {
    std::fs::metadata(dir.join("index/data.mdb")).map_or(0, |meta| meta.len())
}

/// What a life printed: by turn, whether it was removed too; and how often the index was made smaller.
fn live(dir: &Path, first: u64, time: Duration) -> (BTreeMap<u64, bool>, usize) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "storing_process_of_the_other_test", "--nocapture"])
        .env(DIR, dir)
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let reader = std::thread::spawn(move || {
        let (mut turns, mut shrunk) = (BTreeMap::new(), 0);
        for line in lines.map_while(Result::ok) {
            let words: Vec<&str> = line.split(' ').rev().take(3).collect();
            match words.as_slice() {
                [turn, "stored", ..] => drop(turns.insert(turn.parse().unwrap(), false)),
                [turn, "removed", ..] => drop(turns.insert(turn.parse().unwrap(), true)),
                [after, before, "compacted"] => shrunk += usize::from(after.parse::<u64>().unwrap() < before.parse::<u64>().unwrap()),
                _ => {}
            }
        }
        (turns, shrunk)
    });
    std::thread::sleep(time);
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_the_process_is_killed_while_it_compacts_its_index() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let (mut turns, mut shrunk) = (BTreeMap::new(), 0);
    for life in 0..10u64 {
        let (at, time) = (path.clone(), Duration::from_millis(400 + life * 83 % 400));
        let (more, times) = tokio::task::spawn_blocking(move || live(&at, life << 40, time)).await.unwrap();
        turns.extend(more);
        shrunk += times;
        if !path.exists() {
            continue;
        }
        let disk = Disk::open(with(&path)).unwrap();
        for (&first, &removed) in &turns {
            for n in [first + TURN - KEPT, first + TURN - 1] {
                assert_eq!(disk.get(name(n)).await.unwrap().1, data(n, 0, LEN), "life {life}");
            }
            let gone = !disk.has(vec![name(first), name(first + TURN - KEPT - 1)]).await.unwrap().contains(&true);
            assert!(gone || !removed, "life {life}: removed shards are back");
        }
        disk.shutdown().await;
        drop(disk);
        assert!(fsck(&path).unwrap().is_clean(), "life {life}");
    }
    assert!(turns.len() > 10 && shrunk > 5, "{} turns, the index was made smaller {shrunk} times", turns.len());
}
