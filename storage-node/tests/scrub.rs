//! Reading everything again and again, and proofs.

mod fixture;

use fixture::{data, name, put, segments, settings};
use spine::audit::{self, Answered, Question};
use spine::id::ShardRoot;
use spine::wire::shard::{NodeError, ScrubReport, StorageNode};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};
use storage_node::{Disk, Settings};

const LEN: usize = 20_000;

/// Flips one bit within the `n`th shard.
fn flip(dir: &Path, n: u64) {
    let bytes = data(n, 0, LEN);
    for path in segments(dir) {
        let whole = fs::read(&path).unwrap();
        if let Some(at) = whole.windows(64).position(|window| window == &bytes[..64]) {
            let at = at + 5_000;
            OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&[whole[at] ^ 4], at as u64).unwrap();
            return;
        }
    }
    panic!("shard {n} is in no segment");
}

async fn filled(dir: &Path, shards: u64) {
    let disk = Disk::open(settings(dir)).unwrap();
    for n in 0..shards {
        put(&disk, n, LEN).await;
    }
    disk.shutdown().await;
}

fn scrubbing(dir: &Path, round: Duration) -> Settings {
    Settings { scrub_round: Some(round), ..settings(dir) }
}

async fn until(disk: &Disk, what: impl Fn(&ScrubReport) -> bool) -> ScrubReport {
    let began = Instant::now();
    loop {
        let report = disk.scrubbed().await.unwrap().unwrap();
        if what(&report) {
            return report;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{report:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scrub_finds_names_and_sets_aside_what_was_flipped_round_after_round() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 30).await;
    flip(dir.path(), 3);
    flip(dir.path(), 17);
    let disk = Disk::open(scrubbing(dir.path(), Duration::from_millis(400))).unwrap();
    let report = until(&disk, |report| report.rounds >= 2).await;
    let (mut found, mut wrong) = (report.damaged.clone(), vec![name(3), name(17)]);
    found.sort();
    wrong.sort();
    assert_eq!((found, report.found), (wrong, 2), "each once, however often it was seen");
    assert_eq!(disk.has((0..30).map(name).collect()).await.unwrap().iter().filter(|held| !**held).count(), 2);
    assert!(matches!(disk.get(name(17)).await, Err(NodeError::Damaged { .. })));
    assert!(report.shards >= 30 + 28 && report.bytes == report.shards * LEN as u64, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_takes_the_time_it_is_given_and_goes_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 40).await;
    let round = Duration::from_secs(4);
    let disk = Disk::open(scrubbing(dir.path(), round)).unwrap();
    let began = Instant::now();
    let half = until(&disk, |report| report.shards >= 20).await;
    let took = began.elapsed();
    assert!((1_200..6_000).contains(&took.as_millis()) && half.rounds == 0, "20 of 40 shards in {took:?} of {round:?}");
    disk.shutdown().await;
    drop(disk);
    let disk = Disk::open(scrubbing(dir.path(), round)).unwrap();
    let report = until(&disk, |report| report.rounds == 1).await;
    assert!(report.shards <= 21, "{} shards were read after the restart: the round began again", report.shards);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_a_scrub_reports_none_and_an_empty_one_finishes_no_round() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open(settings(dir.path())).unwrap();
    assert_eq!(disk.scrubbed().await.unwrap(), None);
    drop(disk);
    let disk = Disk::open(scrubbing(dir.path(), Duration::from_millis(20))).unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(disk.scrubbed().await.unwrap().unwrap().rounds, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_proves_what_it_has_and_sets_aside_what_it_cannot_prove() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 4).await;
    flip(dir.path(), 2);
    let disk = Disk::open(settings(dir.path())).unwrap();
    let question = |n, slice| Question { name: name(n), slice };
    let answers = disk.audit(vec![question(0, 19), question(9, 0), question(2, 0), question(1, 0)]).await.unwrap();
    let proven = |at: usize, n: u64, slice| {
        let Answered::Proof(proof) = &answers[at] else { panic!("{:?}", answers[at]) };
        let root = ShardRoot(*blake3::hash(&data(n, 0, LEN)).as_bytes());
        audit::verify(proof, &root, LEN as u32, slice)
    };
    assert_eq!((proven(0, 0, 19), proven(3, 1, 0)), (Ok(()), Ok(())));
    assert_eq!(answers[1..3], [Answered::Missing, Answered::Damaged], "slice 0 is whole, but the shard is not");
    assert!(matches!(disk.audit(vec![question(0, 20)]).await, Err(NodeError::Invalid { .. })));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(disk.has(vec![name(1), name(2)]).await.unwrap(), [true, false]);
    let many = vec![question(0, 0); spine::limit::AUDIT_QUESTIONS + 1];
    assert!(matches!(disk.audit(many).await, Err(NodeError::Invalid { .. })));
}
