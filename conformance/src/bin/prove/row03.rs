//! Row 3: the power goes, the disk keeps only what was synced.
//!
//! The data folder lies on an ext4 file system in a loop device. EXT4_IOC_SHUTDOWN with flag 2 (no flush of the journal or of
//! data) stops it as a power cut would; the server is killed, the file system unmounted, its journal replayed by the next
//! mount, and the server started again. Needs root, `mkfs.ext4`, `losetup`, `mount`.

use crate::row::{FAST_COLLECTOR, Outcome, Progress, Run, Said, none_of, runtime};
use conformance::client;
use conformance::loop_disk::LoopDisk;
use conformance::server::{Server, Settings};
use conformance::workload::Workload;
use std::sync::atomic::Ordering;
use std::time::Duration;

const WORKERS: usize = 6;
const IMAGE_BYTES: u64 = 16 << 30;

pub fn run(run: &Run) -> Outcome {
    let cycles = run.size(20, 3);
    let mut dice = run.dice();
    let place = run.place()?;
    let disk = LoopDisk::make(place.path(), IMAGE_BYTES).said("a disk of its own")?;
    let settings = Settings {
        place: Some(place.path().to_path_buf()),
        data: Some(disk.path().join("data")),
        config: Some(FAST_COLLECTOR.to_owned()),
        ..Settings::default()
    };
    let mut server = Server::start_with(settings).said("start")?;
    let runtime = runtime()?;
    let mut load = Workload::new(client::of(&server), "cuts");
    runtime.block_on(load.prepare()).said("create the bucket")?;
    let (mut slowest, mut progress) = (Duration::ZERO, Progress::new());

    for cycle in 1..=cycles {
        let writing = Duration::from_millis(dice.between(300, 4_000) as u64);
        runtime.block_on(async {
            let running = load.clone();
            let mut own = dice.fork();
            let workers = tokio::spawn(async move { running.run(WORKERS, &mut own).await });
            tokio::time::sleep(writing).await;
            let cut = disk.cut_power();
            // What the server answers now, on a dead disk, must not be an acknowledgement; give it the chance to be wrong.
            tokio::time::sleep(Duration::from_millis(200)).await;
            load.stop.store(true, Ordering::SeqCst);
            server.kill();
            workers.await.said("workers").and(cut.said("cut"))
        })?;
        disk.remount().said("mount")?;
        server.restart().said(&format!("start after cut {cycle}"))?;
        slowest = slowest.max(server.start_time);
        if server.start_time > Duration::from_secs(5) {
            return Err(format!("start after cut {cycle} took {:?}", server.start_time));
        }
        load.client = client::of(&server);
        runtime.block_on(load.verify());
        none_of(&load.ledger().violations).said(&format!("after cut {cycle}"))?;
        progress.say(|| format!("cut {cycle} of {cycles}: {}; slowest start {slowest:.1?}", load.tally_text()));
    }

    server.terminate(Duration::from_secs(60)).ok_or("SIGTERM did not end the server in 60 s")?;
    server.fsck().said("fsck at the end")?;
    let ledger = load.ledger();
    Ok(format!(
        "{cycles} cuts, {} acknowledged and {} unanswered changes, 0 lost, 0 returned, slowest start {:.2} s, fsck clean",
        ledger.acknowledged,
        ledger.unanswered,
        slowest.as_secs_f64()
    ))
}
