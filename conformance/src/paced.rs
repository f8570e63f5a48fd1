//! Metadata operations at a pace, most of them on one prefix: reads of heads, writes of small objects, listings of a directory.
//!
//! Every key is there from the start, so that every answer is known: a head that is not there, a listing that is not whole and a write that
//! is not committed are failures. Who is slow makes operations wait, not fewer: what could not begin at its time is counted.
//!
//! Not here: what the servers say of their load (the rows of `prove`).

use crate::content::Dice;
use crate::records::Pattern;
use metadata::router::Router;
use spine::wire::namespace::{ListQuery, NamespaceAnswer, NamespaceQuery};
use spine::wire::{Answer, Batch, Chain, Metadata, Query, Reply};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;

/// Top directories of the bucket.
pub const PREFIXES: usize = 16;
/// Directories in each.
const DIRECTORIES: usize = 64;
/// Keys in each of those.
const KEYS: usize = 16;
/// Operations on their way; more wait.
const AT_ONCE: usize = 256;
/// How often operations begin.
const TICK: Duration = Duration::from_millis(10);
/// Failures that are kept with their reasons.
const KEPT: usize = 20;
/// [`Load::aim`] for all prefixes alike.
pub const UNIFORM: usize = usize::MAX;

fn directory(prefix: usize, directory: usize) -> String {
    format!("prefix-{prefix:02}/dir-{directory:02}/")
}

fn key(prefix: usize, dir: usize, key: usize) -> String {
    format!("{}key-{key:02}", directory(prefix, dir))
}

/// Such a load, under way while it lives.
pub struct Load {
    routers: Vec<Arc<Router>>,
    pattern: Pattern,
    /// The prefix that gets most, or [`UNIFORM`].
    hot: AtomicUsize,
    percent: usize,
    stop: AtomicBool,
    done: AtomicU64,
    late: AtomicU64,
    /// Microseconds of the operation that took longest.
    slowest: AtomicU64,
    failed: AtomicU64,
    why: Mutex<Vec<String>>,
}

impl Load {
    /// Writes all keys. Nothing is under way yet.
    ///
    /// - `routers`: as of so many gateways, used in turn.
    /// - `percent`: share of the operations that goes to the hot prefix.
    ///
    /// # Errors
    /// A key could not be written.
    pub async fn prepare(routers: Vec<Arc<Router>>, pattern: Pattern, percent: usize) -> Result<Arc<Load>, String> {
        for prefix in 0..PREFIXES {
            let keys = (0..DIRECTORIES * KEYS).map(|nth| key(prefix, nth / KEYS, nth % KEYS));
            pattern.write(&routers[0], keys).await?;
        }
        let (hot, stop) = (AtomicUsize::new(UNIFORM), AtomicBool::new(false));
        let (done, late, slowest, failed, why) = Default::default();
        Ok(Arc::new(Load { routers, pattern, hot, percent, stop, done, late, slowest, failed, why }))
    }

    /// From now on most operations go to this prefix; [`UNIFORM`]: to all alike.
    pub fn aim(&self, prefix: usize) {
        self.hot.store(prefix, Ordering::Relaxed);
    }

    /// Begins so many operations a second, until [`Self::end`].
    pub async fn run(self: Arc<Load>, rate: u64, seed: u64) {
        let room = Arc::new(Semaphore::new(AT_ONCE));
        let (mut dice, began, mut begun) = (Dice::new(seed), Instant::now(), 0);
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.stop.load(Ordering::Relaxed) {
            ticks.tick().await;
            let due = (began.elapsed().as_secs_f64() * rate as f64) as u64;
            while begun < due && !self.stop.load(Ordering::Relaxed) {
                if room.available_permits() == 0 {
                    self.late.fetch_add(1, Ordering::Relaxed);
                }
                let Ok(permit) = room.clone().acquire_owned().await else { return };
                let (load, mut dice) = (self.clone(), dice.fork());
                let nth = begun as usize;
                tokio::spawn(async move {
                    let asked = Instant::now();
                    let ended = load.one(nth, &mut dice).await;
                    load.slowest.fetch_max(asked.elapsed().as_micros() as u64, Ordering::Relaxed);
                    match ended {
                        Ok(()) => load.done.fetch_add(1, Ordering::Relaxed),
                        Err(why) => load.fail(why),
                    };
                    drop(permit);
                });
                begun += 1;
            }
        }
        // All have ended once every permit is back.
        let _ = room.acquire_many(AT_ONCE as u32).await;
    }

    pub fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Operations done so far, those that had to wait, and those that failed.
    pub fn counts(&self) -> (u64, u64, u64) {
        (self.done.load(Ordering::Relaxed), self.late.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }

    /// How long the slowest operation took from when it began, failed or not.
    pub fn slowest(&self) -> Duration {
        Duration::from_micros(self.slowest.load(Ordering::Relaxed))
    }

    /// Why the first of them failed.
    pub fn failures(&self) -> Vec<String> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fail(&self, why: String) -> u64 {
        let mut kept = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT {
            kept.push(why);
        }
        self.failed.fetch_add(1, Ordering::Relaxed)
    }

    async fn one(&self, nth: usize, dice: &mut Dice) -> Result<(), String> {
        let router = &self.routers[nth % self.routers.len()];
        let hot = self.hot.load(Ordering::Relaxed);
        let prefix = if hot < PREFIXES && dice.chance(self.percent) { hot } else { dice.below(PREFIXES) };
        let (dir, number) = (dice.below(DIRECTORIES), dice.below(KEYS));
        let (bucket, key) = (self.pattern.bucket, key(prefix, dir, number));
        match dice.below(100) {
            0..60 => {
                let query = Query::Namespace(NamespaceQuery::Head { bucket, key: key.clone() });
                match router.query(query).await.map_err(|error| format!("HEAD {key}: {error}"))? {
                    Answer::Namespace(NamespaceAnswer::Head(Some(_))) => Ok(()),
                    other => Err(format!("HEAD {key}: {other:?}")),
                }
            }
            60..90 => {
                let batch = Batch { chain: Chain::Stop, commands: vec![self.pattern.commit(key.clone())] };
                match &router.propose(batch).await.map_err(|error| format!("PUT {key}: {error}"))?[..] {
                    [Reply::Committed { .. }] => Ok(()),
                    other => Err(format!("PUT {key}: {other:?}")),
                }
            }
            _ => {
                let prefix = directory(prefix, dir);
                let query = ListQuery { bucket, prefix: prefix.clone(), delimiter: String::new(), after: None, max: KEYS + 1 };
                let query = Query::Namespace(NamespaceQuery::List { query, place: None });
                match router.query(query).await.map_err(|error| format!("LIST {prefix}: {error}"))? {
                    Answer::Namespace(NamespaceAnswer::List { page, .. }) if page.objects.len() == KEYS && page.next.is_none() => Ok(()),
                    other => Err(format!("LIST {prefix}: {other:?}")),
                }
            }
        }
    }
}
