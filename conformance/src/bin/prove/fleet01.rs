//! Row 1 of the fleet: restic over sixteen machines in four zones, RS 8+4, while machines vanish: four at once, then a whole zone.
//!
//! Each case: a backup in whose middle they vanish (link cut, then SIGKILL) and a restore with them gone; they return; a restore in
//! whose middle they vanish again. A probe writes 64 KiB objects all the time and reads each back; in the end every one that was
//! acknowledged is read once more. A probe that failed counts as one that never ended. Its p99 has recovered at the first moment from
//! which on the p99 of eight seconds is at most twice the quiet one, or 500 ms.

use crate::row::{Outcome, Run, Said, runtime};
use crate::stage::{CONFIG, Stage};
use aws_sdk_s3::Client;
use conformance::client;
use conformance::content::Content;
use conformance::restic::{Restic, made_tree};
use conformance::server::walk;
use conformance::tools::compare_trees;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

const PROBES: usize = 4;
const PROBE_BYTES: usize = 64 << 10;
const BUCKET: &str = "probe";
const RECOVERY_BAR: Duration = Duration::from_secs(10);
const WINDOW: Duration = Duration::from_secs(8);
const LIMIT_LEAST: Duration = Duration::from_millis(500);
const NEVER: Duration = Duration::from_secs(3_600);

pub fn run(run: &Run) -> Outcome {
    let files = run.size(4_000, 700);
    let mut dice = run.dice();
    let mut stage = Stage::start(run, CONFIG)?;
    let runtime = runtime()?;
    let probe = Probe::start(&stage, &runtime, run.seed)?;
    let home = stage.fleet.place().join("home");
    std::fs::create_dir_all(&home).said("a home")?;
    restic(&stage, &home).run(&["init"])?;
    let mut slowest = Duration::ZERO;
    let four = stage.draw(&mut dice, 4);
    let zone = stage.zone(dice.below(4));
    for (name, victims) in [("four machines", four), ("a zone", zone)] {
        println!("  {name}: {victims:?}");
        let tree = made_tree(&stage.fleet.place().join(name), files, dice.roll()).said("a tree")?;
        slowest = slowest.max(case(&mut stage, &probe, &home, &tree, &victims)?);
    }
    probe.stop();
    let (acknowledged, failed) = runtime.block_on(probe.verify())?;
    restic(&stage, &home).run(&["check", "--read-data"])?;
    let figure = format!(
        "2 backups and 4 restores through the loss of 4 machines and of a zone: identical; {acknowledged} probes acknowledged, 0 lost, {failed} failed; p99 back within {:.1} s",
        slowest.as_secs_f64()
    );
    if slowest <= RECOVERY_BAR { Ok(figure) } else { Err(figure) }
}

fn restic(stage: &Stage, home: &Path) -> Restic {
    Restic::new(&stage.fleet.gateway, "restic", home)
}

/// A backup and two restores; gives how long the probe's p99 took to recover at worst.
fn case(stage: &mut Stage, probe: &Probe, home: &Path, tree: &Path, victims: &[usize]) -> Result<Duration, String> {
    let target = stage.fleet.place().join("restored");
    let sealed = |stage: &Stage| stage.fleet.gateway.metric("breakwater_path_sealed_bytes_total");
    let bytes: u64 = walk(tree).iter().filter_map(|file| Some(file.metadata().ok()?.len())).sum();

    let (quiet, from) = (Instant::now(), sealed(stage));
    let source = tree.to_string_lossy().into_owned();
    let backup = amid(stage, home, &["backup", "--quiet", &source], victims, |stage| sealed(stage) - from > bytes as f64 / 5.0)?;
    println!("  backup of {:.0} MiB, cut after {:.1?}, took {:.1?}", bytes as f64 / f64::from(1 << 20), backup.0 - quiet, quiet.elapsed());
    let first = probe.recovery(quiet, backup.0)?;
    stage.lost(victims.len())?;
    restore(stage, home, tree, &target).said("restore without them")?;
    println!("  restored without them: identical");
    stage.back(victims)?;
    stage.repaired()?;

    let quiet = Instant::now();
    let place = target.to_string_lossy().into_owned();
    let fifth = walk(tree).len() / 5;
    let cut = amid(stage, home, &["restore", "latest", "--target", &place], victims, |_| walk(&target).len() > fifth)?;
    same(tree, &target).said("restore while they vanish")?;
    println!("  restored while they vanished: identical; p99 after the first {:.1} s", first.as_secs_f64());
    let second = probe.recovery(quiet, cut.0)?;
    println!("  p99 after the second: {:.1} s", second.as_secs_f64());
    stage.back(victims)?;
    stage.repaired()?;
    Ok(first.max(second))
}

/// Runs restic and has the victims vanish once `when` holds; when that was.
fn amid(
    stage: &mut Stage,
    home: &Path,
    arguments: &[&str],
    victims: &[usize],
    when: impl Fn(&Stage) -> bool,
) -> Result<(Instant, String), String> {
    let endpoint = stage.fleet.gateway.endpoint().to_owned();
    let own = Restic::at(&endpoint, "restic", home);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| own.run(arguments));
        while !when(stage) && !running.is_finished() {
            std::thread::sleep(Duration::from_millis(20));
        }
        let over = running.is_finished();
        let cut = stage.vanish(victims);
        let printed = running.join().map_err(|_| "restic's thread ended".to_string())??;
        if over { Err(format!("restic ended before the machines vanished:\n{printed}")) } else { Ok((cut?, printed)) }
    })
}

fn restore(stage: &Stage, home: &Path, tree: &Path, target: &Path) -> Result<(), String> {
    restic(stage, home).run(&["restore", "latest", "--target", &target.to_string_lossy()])?;
    same(tree, target)
}

fn same(tree: &Path, target: &Path) -> Result<(), String> {
    let differences = compare_trees(tree, &target.join(tree.strip_prefix("/").unwrap_or(tree)));
    let _ = std::fs::remove_dir_all(target);
    match differences.as_slice() {
        [] => Ok(()),
        some => Err(format!("{} differences: {}", some.len(), some[..some.len().min(5)].join("; "))),
    }
}

/// One probe: when it began, how long it took; a failed one [`NEVER`] ended.
type Sample = (Instant, Duration);

/// Objects written and read back all the while.
struct Probe {
    client: Client,
    stop: Arc<AtomicBool>,
    next: Arc<AtomicU64>,
    seed: u64,
    samples: Arc<Mutex<Vec<Sample>>>,
    acknowledged: Arc<Mutex<Vec<u64>>>,
    /// What was read wrong: nothing else matters then.
    wrong: Arc<Mutex<Vec<String>>>,
}

impl Probe {
    fn start(stage: &Stage, runtime: &Runtime, seed: u64) -> Result<Probe, String> {
        let client = client::of(&stage.fleet.gateway);
        runtime.block_on(client.create_bucket().bucket(BUCKET).send()).said("bucket")?;
        let probe = Probe {
            client,
            stop: Arc::default(),
            next: Arc::default(),
            seed,
            samples: Arc::default(),
            acknowledged: Arc::default(),
            wrong: Arc::default(),
        };
        for _ in 0..PROBES {
            let (client, stop, next) = (probe.client.clone(), probe.stop.clone(), probe.next.clone());
            let (samples, acknowledged, wrong) = (probe.samples.clone(), probe.acknowledged.clone(), probe.wrong.clone());
            runtime.spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    let began = Instant::now();
                    let body = Content::dense(seed.wrapping_add(number), PROBE_BYTES).bytes();
                    let put = client.put_object().bucket(BUCKET).key(number.to_string()).body(body.clone().into());
                    let stored = put.send().await.is_ok();
                    if stored {
                        locked(&acknowledged).push(number);
                    }
                    let took = match read(&client, number).await {
                        _ if !stored => NEVER,
                        Ok(got) if got == body => began.elapsed(),
                        Ok(_) => {
                            locked(&wrong).push(format!("probe {number} reads back wrong"));
                            NEVER
                        }
                        Err(_) => NEVER,
                    };
                    locked(&samples).push((began, took));
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            });
        }
        Ok(probe)
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// How long after `cut` the p99 was back to what it was from `quiet` to `cut`; waits until it can tell.
    fn recovery(&self, quiet: Instant, cut: Instant) -> Result<Duration, String> {
        let until = cut + RECOVERY_BAR + WINDOW;
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
        let samples = locked(&self.samples).clone();
        let between =
            |from: Instant, to: Instant| samples.iter().filter(move |sample| sample.0 >= from && sample.0 < to).map(|sample| sample.1);
        let before = p99(between(quiet, cut)).ok_or("no probe ended before the cut")?;
        let limit = (before * 2).max(LIMIT_LEAST);
        let failed = between(cut, until).filter(|took| *took == NEVER).count();
        let steps = (0..=20).map(|half| Duration::from_millis(500 * half));
        let back = steps.into_iter().find(|after| p99(between(cut + *after, cut + *after + WINDOW)).is_some_and(|p99| p99 <= limit));
        let at_first = p99(between(cut, cut + WINDOW)).unwrap_or(NEVER);
        println!("  probe: p99 {before:.0?} before, {at_first:.0?} in the first {WINDOW:?}, limit {limit:.0?}, {failed} failed");
        back.ok_or_else(|| format!("the p99 of probes was not back at {limit:?} within {RECOVERY_BAR:?}"))
    }

    /// Reads every acknowledged object again; gives how many, and how many probes failed.
    async fn verify(&self) -> Result<(usize, usize), String> {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if let Some(wrong) = locked(&self.wrong).first() {
            return Err(wrong.clone());
        }
        let acknowledged = locked(&self.acknowledged).clone();
        for number in &acknowledged {
            let got = read(&self.client, *number).await.said(&format!("acknowledged probe {number}"))?;
            if got != Content::dense(self.seed.wrapping_add(*number), PROBE_BYTES).bytes() {
                return Err(format!("acknowledged probe {number} reads back wrong"));
            }
        }
        let failed = locked(&self.samples).iter().filter(|sample| sample.1 == NEVER).count();
        Ok((acknowledged.len(), failed))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop();
    }
}

fn locked<T>(what: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn read(client: &Client, number: u64) -> Result<bytes::Bytes, String> {
    let answer = client.get_object().bucket(BUCKET).key(number.to_string()).send().await.map_err(client::failure).said("get")?;
    Ok(answer.body.collect().await.said("body")?.into_bytes())
}

fn p99(samples: impl Iterator<Item = Duration>) -> Option<Duration> {
    let mut all: Vec<Duration> = samples.collect();
    all.sort_unstable();
    all.get(all.len().checked_sub(1)? * 99 / 100).copied()
}
