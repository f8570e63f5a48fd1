//! Row 2: SIGKILL at random moments during mixed writes.
//!
//! Each cycle: workers write, overwrite, copy, delete and upload in parts for a random while; the server is killed; it starts
//! again; every key and the listing are read and judged by the ledger. `fsck` runs on the killed server's folder every few cycles.

use crate::row::{FAST_COLLECTOR, Outcome, Progress, Run, Said, none_of, runtime};
use conformance::client;
use conformance::workload::Workload;
use std::sync::atomic::Ordering;
use std::time::Duration;

const WORKERS: usize = 6;
const START_BAR: Duration = Duration::from_secs(5);

pub fn run(run: &Run) -> Outcome {
    let cycles = run.size(200, 12);
    let fsck_every = run.size(20, 4);
    let mut dice = run.dice();
    let place = run.place()?;
    let mut server = run.server(&place, FAST_COLLECTOR)?;
    let runtime = runtime()?;
    let mut load = Workload::new(client::of(&server), "kills");
    runtime.block_on(load.prepare()).said("create the bucket")?;
    let (mut slowest, mut progress, mut checks) = (Duration::ZERO, Progress::new(), 0);

    for cycle in 1..=cycles {
        let writing = Duration::from_millis(dice.between(60, 1_800) as u64);
        runtime.block_on(async {
            let running = load.clone();
            let mut own = dice.fork();
            let workers = tokio::spawn(async move { running.run(WORKERS, &mut own).await });
            tokio::time::sleep(writing).await;
            server.kill();
            load.stop.store(true, Ordering::SeqCst);
            workers.await.said("workers")
        })?;
        if cycle % fsck_every == 0 {
            server.fsck().said(&format!("fsck after kill {cycle}"))?;
            checks += 1;
        }
        server.restart().said(&format!("start after kill {cycle}"))?;
        slowest = slowest.max(server.start_time);
        if server.start_time > START_BAR {
            return Err(format!("start after kill {cycle} took {:?}", server.start_time));
        }
        // Connections of the killed process must not be found in the pool.
        load.client = client::of(&server);
        runtime.block_on(load.verify());
        none_of(&load.ledger().violations).said(&format!("after kill {cycle}"))?;
        progress.say(|| format!("kill {cycle} of {cycles}: {}; slowest start {slowest:.1?}", load.tally_text()));
    }

    let status = server.terminate(Duration::from_secs(60)).ok_or("SIGTERM did not end the server in 60 s")?;
    if !status.success() {
        return Err(format!("SIGTERM ended the server with {status}"));
    }
    server.fsck().said("fsck at the end")?;
    let ledger = load.ledger();
    Ok(format!(
        "{cycles} kills, {} acknowledged and {} unanswered changes, 0 lost, 0 returned, slowest start {:.2} s, fsck clean {} times",
        ledger.acknowledged,
        ledger.unanswered,
        slowest.as_secs_f64(),
        checks + 1
    ))
}
