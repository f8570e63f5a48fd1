//! Repair's turns, and what the foreground feels of them: clocks and waiting around `govern.rs`.
//!
//! Whatever copies in the background takes a turn for each chunk, which begins when the rate allows it and is over when it is dropped.
//! While there is a foreground, no turn begins in the last second of every four. Every store and fetch for a client counts as quiet if
//! it begins early in such a second with no turn on, or long after the last turn; as beside repair if a turn was on meanwhile; else not.
//! By the begin alone, since only quick ones would fit into a rest as a whole.
//! Invariants: a turn waits at most as long as the least rate and a rest make it; a client waits for nothing here.

use crate::govern::{Governor, Sample, Work};
use crate::metric::{FOREGROUND_SLOWDOWN, REPAIR_RATE};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the rate is judged.
const TURN: Duration = Duration::from_secs(1);
/// Seconds of judging that are caught up with at once: a process that did nothing had no foreground either.
const CAUGHT_UP: u32 = 16;
/// Waits are cut into pieces: the rate may have grown meanwhile.
const SLICE: Duration = Duration::from_millis(200);
/// Milliseconds of a cycle, those of them that are for work, and where in the rest a quiet sample may still begin.
const CYCLE: u64 = 4_000;
const WORK: u64 = 3_000;
const QUIET_UNTIL: u64 = 3_700;

/// The pace of what works in the background.
pub(crate) struct Pace {
    state: Mutex<State>,
    origin: Instant,
    /// Turns that have begun, and that are over.
    begun: AtomicU64,
    over: AtomicU64,
    /// When the last one began, in milliseconds from the origin.
    last: AtomicU64,
}

struct State {
    governor: Governor,
    judged: Instant,
    /// When the next turn may begin.
    next: Instant,
}

impl Default for Pace {
    fn default() -> Self {
        let (governor, origin) = (Governor::default(), Instant::now());
        let state = Mutex::new(State { governor, judged: origin, next: origin });
        Pace { state, origin, begun: AtomicU64::new(0), over: AtomicU64::new(0), last: AtomicU64::new(0) }
    }
}

/// One chunk of background work; over when dropped.
pub(crate) struct Turn<'a>(&'a Pace);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.over.fetch_add(1, Ordering::Relaxed);
    }
}

/// The begin of a client's store or fetch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    at: Instant,
    /// Turns that had begun, and whether one of them was on.
    begun: u64,
    on: bool,
    quiet: bool,
}

impl Pace {
    /// Waits until the rate allows `bytes` of a sealed chunk. `urgent`: little is left of it, and it waits for nobody.
    pub async fn turn(&self, bytes: usize, urgent: bool) -> Turn<'_> {
        loop {
            let wait = self.ask(bytes, urgent, Instant::now());
            if wait.is_zero() {
                self.last.store(self.millis(Instant::now()), Ordering::Relaxed);
                self.begun.fetch_add(1, Ordering::Relaxed);
                return Turn(self);
            }
            tokio::time::sleep(wait.min(SLICE)).await;
        }
    }

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.origin).as_millis()).unwrap_or(u64::MAX)
    }

    /// How long to wait; zero: `bytes` are booked.
    fn ask(&self, bytes: usize, urgent: bool, now: Instant) -> Duration {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.judge(now);
        if !urgent {
            let phase = self.millis(now) % CYCLE;
            let rest = if phase >= WORK && !state.governor.is_idle() { Duration::from_millis(CYCLE - phase) } else { Duration::ZERO };
            let wait = state.next.saturating_duration_since(now).max(rest);
            if !wait.is_zero() {
                return wait;
            }
        }
        let costs = Duration::from_secs_f64(bytes as f64 / state.governor.rate() as f64);
        state.next = state.next.max(now) + costs;
        Duration::ZERO
    }

    /// A client's store or fetch begins.
    pub fn mark(&self) -> Mark {
        self.mark_at(Instant::now())
    }

    fn mark_at(&self, at: Instant) -> Mark {
        // What is over is read first: a turn that begins in between counts as one that is on.
        let over = self.over.load(Ordering::Relaxed);
        let begun = self.begun.load(Ordering::Relaxed);
        let (on, now) = (begun != over, self.millis(at));
        let resting = (WORK..QUIET_UNTIL).contains(&(now % CYCLE));
        let long_ago = begun == 0 || now.saturating_sub(self.last.load(Ordering::Relaxed)) >= CYCLE;
        Mark { at, begun, on, quiet: !on && (resting || long_ago) }
    }

    /// It went well, for a chunk of `bytes` sealed.
    pub fn book(&self, mark: Mark, work: Work, bytes: usize) {
        let took = mark.at.elapsed();
        let beside = mark.on || mark.begun != self.begun.load(Ordering::Relaxed);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if mark.quiet || beside {
            state.governor.sample(Sample { work, bytes, took, quiet: mark.quiet });
        }
        state.judge(mark.at + took);
    }
}

impl State {
    fn judge(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.judged).as_secs();
        if seconds == 0 {
            return;
        }
        for _ in 0..seconds.min(CAUGHT_UP.into()) {
            self.governor.turn();
        }
        self.judged += TURN * u32::try_from(seconds).unwrap_or(u32::MAX);
        REPAIR_RATE.set(i64::try_from(self.governor.rate()).unwrap_or(i64::MAX));
        FOREGROUND_SLOWDOWN.set(self.governor.slowdown());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::govern::FEEL;

    #[test]
    fn turns_are_as_far_apart_as_the_rate_says_and_urgent_ones_wait_for_nobody() {
        let pace = Pace::default();
        let now = pace.origin;
        assert_eq!(pace.ask(FEEL as usize / 4, false, now), Duration::ZERO);
        assert_eq!(pace.ask(1, false, now), Duration::from_millis(250));
        assert_eq!(pace.ask(FEEL as usize / 4, true, now), Duration::ZERO);
        assert_eq!(pace.ask(1, false, now), Duration::from_millis(500), "what was urgent is paid for by what comes after");
        assert_eq!(pace.ask(1, false, now + Duration::from_millis(500)), Duration::ZERO);
    }

    #[test]
    fn beside_a_foreground_no_turn_begins_in_the_last_second_of_four_unless_it_is_urgent() {
        let pace = Pace::default();
        pace.state.lock().unwrap().judged = pace.origin + Duration::from_secs(60);
        let at = |millis| pace.origin + Duration::from_millis(millis);
        assert_eq!(pace.ask(1, false, at(2_900)), Duration::ZERO);
        assert_eq!(pace.ask(1, false, at(3_100)), Duration::from_millis(900));
        assert_eq!(pace.ask(1, true, at(3_100)), Duration::ZERO);
        assert_eq!(pace.ask(1, false, at(4_100)), Duration::ZERO);
        // Nobody is there: nothing rests.
        for _ in 0..5 {
            pace.state.lock().unwrap().governor.turn();
        }
        assert_eq!(pace.ask(1, false, at(7_100)), Duration::ZERO);
    }

    #[tokio::test]
    async fn quiet_is_what_begins_in_a_rest_or_long_after_the_last_turn() {
        let pace = Pace::default();
        let at = |millis| pace.mark_at(pace.origin + Duration::from_millis(millis));
        assert!(at(10).quiet, "before the first turn");
        let turn = pace.turn(1, false).await;
        assert!(at(20).on && !at(20).quiet && !at(3_100).quiet);
        drop(turn);
        assert!(!at(20).quiet && !at(2_900).quiet && !at(3_800).quiet);
        assert!(at(3_100).quiet && at(60_000).quiet);
    }
}
