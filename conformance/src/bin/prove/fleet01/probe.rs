//! What a client feels meanwhile: 64 KiB objects, written and read back.
//!
//! Probes begin at a fixed rate, whether those before them have ended or not: a client that waits for an answer would ask for nothing
//! just while nothing is answered. One that failed counts as one that never ended, and so does one that could not even begin. The p99
//! has recovered at the first moment from which on the p99 of eight seconds is at most twice the quiet one, or 500 ms. In the end every
//! probe that was acknowledged is read once more.

use crate::row::Said;
use crate::stage::Stage;
use aws_sdk_s3::Client;
use conformance::client;
use conformance::content::Content;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

pub const RECOVERY_BAR: Duration = Duration::from_secs(10);
const EVERY: Duration = Duration::from_millis(60);
/// Probes at once: twelve seconds of them without an answer.
const AT_ONCE: usize = 200;
const BYTES: usize = 64 << 10;
const BUCKET: &str = "probe";
const WINDOW: Duration = Duration::from_secs(8);
const LIMIT_LEAST: Duration = Duration::from_millis(500);
/// How long the last probes of a window may take to end.
const SETTLE: Duration = Duration::from_secs(60);
const NEVER: Duration = Duration::from_secs(3_600);

/// One probe.
#[derive(Clone, Copy)]
struct Sample {
    began: Instant,
    /// Once it has ended; [`NEVER`] if it failed.
    took: Option<Duration>,
}

/// All probes by their numbers.
#[derive(Default)]
struct Seen {
    samples: BTreeMap<u64, Sample>,
    acknowledged: Vec<u64>,
    /// What was read wrong: nothing else matters then.
    wrong: Vec<String>,
}

pub struct Probe {
    client: Client,
    seed: u64,
    stop: Arc<AtomicBool>,
    rest: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
}

impl Probe {
    pub fn start(stage: &Stage, runtime: &Runtime, seed: u64) -> Result<Probe, String> {
        let client = client::of(&stage.fleet.gateway);
        runtime.block_on(client.create_bucket().bucket(BUCKET).send()).said("bucket")?;
        let probe = Probe { client, seed, stop: Arc::default(), rest: Arc::default(), seen: Arc::default() };
        let (client, stop, rest, seen) = (probe.client.clone(), probe.stop.clone(), probe.rest.clone(), probe.seen.clone());
        runtime.spawn(async move {
            let places = Arc::new(Semaphore::new(AT_ONCE));
            let mut ticks = tokio::time::interval(EVERY);
            for number in 0.. {
                ticks.tick().await;
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                if rest.load(Ordering::SeqCst) {
                    continue;
                }
                let (began, place) = (Instant::now(), places.clone().try_acquire_owned());
                let took = if place.is_ok() { None } else { Some(NEVER) };
                locked(&seen).samples.insert(number, Sample { began, took });
                let Ok(place) = place else { continue };
                let (client, seen) = (client.clone(), seen.clone());
                tokio::spawn(async move {
                    let well = one(&client, seed, number, &seen).await;
                    let took = Some(if well { began.elapsed() } else { NEVER });
                    locked(&seen).samples.insert(number, Sample { began, took });
                    drop(place);
                });
            }
        });
        Ok(probe)
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// No probe begins while `wait` runs: repair, which is not judged here, goes slowly beside clients.
    pub fn resting<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.rest.store(true, Ordering::SeqCst);
        let done = wait();
        self.rest.store(false, Ordering::SeqCst);
        done
    }

    /// How long after `cut` the p99 was back to what it was from `quiet` to `cut`; waits until it can tell.
    ///
    /// # Errors
    /// It was not back within [`RECOVERY_BAR`], or no probe ended before the cut.
    pub fn recovery(&self, quiet: Instant, cut: Instant) -> Result<Duration, String> {
        let until = cut + RECOVERY_BAR + WINDOW;
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
        while self.running(until) && until.elapsed() < SETTLE {
            std::thread::sleep(Duration::from_millis(100));
        }
        let samples: Vec<Sample> = locked(&self.seen).samples.values().copied().collect();
        let untouched = |sample: &&Sample| sample.began >= quiet && sample.took.is_some_and(|took| sample.began + took <= cut);
        let before = p99(samples.iter().filter(untouched)).ok_or("no probe ended before the cut")?;
        let between = |from: Instant, to: Instant| samples.iter().filter(move |sample| sample.began >= from && sample.began < to);
        let limit = (before * 2).max(LIMIT_LEAST);
        let failed = between(cut, until).filter(|sample| sample.took.is_none_or(|took| took == NEVER)).count();
        let longest = between(cut, until).filter_map(|sample| sample.took.filter(|took| *took != NEVER)).max().unwrap_or_default();
        let steps = (0..=20).map(|half| Duration::from_millis(500 * half));
        let back = steps.into_iter().find(|after| p99(between(cut + *after, cut + *after + WINDOW)).is_some_and(|p99| p99 <= limit));
        let at_first = p99(between(cut, cut + WINDOW)).unwrap_or(NEVER);
        println!(
            "  probes: p99 {before:.0?} before, {at_first:.1?} in the first {WINDOW:?} (longest {longest:.1?}, {failed} failed), back at {limit:.0?} after {back:.1?}"
        );
        back.ok_or_else(|| format!("the p99 of probes was not back at {limit:?} within {RECOVERY_BAR:?}"))
    }

    /// Whether a probe that began before `until` has not ended yet.
    fn running(&self, until: Instant) -> bool {
        locked(&self.seen).samples.values().any(|sample| sample.began < until && sample.took.is_none())
    }

    /// Reads every acknowledged object again; gives how many, and how many probes failed.
    ///
    /// # Errors
    /// One does not read, or reads wrong.
    pub async fn verify(&self) -> Result<(usize, usize), String> {
        let began = Instant::now();
        while self.running(Instant::now()) && began.elapsed() < SETTLE {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let (acknowledged, samples) = {
            let seen = locked(&self.seen);
            match seen.wrong.first() {
                Some(wrong) => return Err(wrong.clone()),
                None => (seen.acknowledged.clone(), seen.samples.clone()),
            }
        };
        for number in &acknowledged {
            let got = read(&self.client, *number).await.said(&format!("acknowledged probe {number}"))?;
            if got != body(self.seed, *number) {
                return Err(format!("acknowledged probe {number} reads back wrong"));
            }
        }
        let failed = samples.values().filter(|sample| sample.took.is_none_or(|took| took == NEVER)).count();
        Ok((acknowledged.len(), failed))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop();
    }
}

fn body(seed: u64, number: u64) -> bytes::Bytes {
    Content::dense(seed.wrapping_add(number), BYTES).bytes()
}

/// Writes one object and reads it back; whether both went well.
async fn one(client: &Client, seed: u64, number: u64, seen: &Mutex<Seen>) -> bool {
    let body = body(seed, number);
    let put = client.put_object().bucket(BUCKET).key(number.to_string()).body(body.clone().into());
    if put.send().await.is_err() {
        return false;
    }
    locked(seen).acknowledged.push(number);
    match read(client, number).await {
        Ok(got) if got == body => true,
        Ok(_) => {
            locked(seen).wrong.push(format!("probe {number} reads back wrong"));
            false
        }
        Err(_) => false,
    }
}

fn locked<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn read(client: &Client, number: u64) -> Result<bytes::Bytes, String> {
    let answer = client.get_object().bucket(BUCKET).key(number.to_string()).send().await.map_err(client::failure).said("get")?;
    Ok(answer.body.collect().await.said("body")?.into_bytes())
}

fn p99<'a>(samples: impl Iterator<Item = &'a Sample>) -> Option<Duration> {
    let mut all: Vec<Duration> = samples.map(|sample| sample.took.unwrap_or(NEVER)).collect();
    all.sort_unstable();
    all.get(all.len().checked_sub(1)? * 99 / 100).copied()
}
