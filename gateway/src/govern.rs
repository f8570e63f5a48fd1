//! How fast repair may go beside the foreground: latencies in, a rate out.
//!
//! ```text
//! every store and fetch of a chunk for a client -> its kind (which, how large), how long it took, whether repair worked meanwhile
//! every second, by kind; the worst kind decides:
//!     over 1.6 x the quiet p99 took clearly more than one in a hundred   rate halves, never below LEAST
//!     p99 beside repair up to 1.25 x the quiet one                       rate grows by a quarter, never above MOST
//!     no foreground                        it doubles, and goes back to what it was when one returns
//!     too few samples to say               it stays, or goes to FEEL while nothing quiet is known
//! ```
//! Clearly: more than chance makes of one in a hundred. The p99 of a hundred requests is the second slowest of them, and of four kinds
//! one will always have had two bad ones: taken at its word, it holds repair at LEAST on any machine whose disks stall now and then.
//! The two p99 are of the same minutes, since repair rests a second in four (`pace.rs`): what else slows the foreground slows both. A
//! quiet one is forgotten slowly, one beside repair with every change of the rate, which it was measured under.
//! Invariants: no clock, no randomness: the same samples and turns give the same rates. A rate is never below [`LEAST`]: redundancy must
//! come back. Not here: clocks and waiting (`pace.rs`), which chunk is next (`owe.rs`).

use std::time::Duration;

/// Bytes of sealed chunks a second that repair always gets: a terabyte in three days.
pub const LEAST: u64 = 4 << 20;
/// More than any disk or network here gives: no bound.
pub const MOST: u64 = 4 << 30;
/// What repair begins with, and goes back to where it is not known what the foreground is like without it.
pub const FEEL: u64 = 8 << 20;
/// The bar for repair is twice the quiet p99; acted on before: a sample so many buckets above it took 1.4 to 1.7 times as long.
const TOO_SLOW: i32 = 3;
const GOOD: f64 = 1.25;
/// More than one in a hundred are too many by so many standard deviations, and one sample: by chance that is once in fifty times.
const CLEARLY: f64 = 2.0;
/// Samples of one kind that a p99 is believed of.
const ENOUGH: u32 = 100;
/// Quiet samples after which all of them count half: a few minutes of a busy gateway.
const REMEMBERED: u32 = 2_000;
/// Turns without a foreground after which there is none.
const IDLE: u32 = 3;
/// Latencies from 100 us, each bucket a fifth larger than the one before, to minutes.
const BUCKETS: usize = 80;
const FIRST: f64 = 100e-6;
const STEP: f64 = 1.19;
/// Store or fetch, of up to 128 KiB, up to 512 KiB, larger.
const KINDS: usize = 6;

/// What was done with a chunk for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    Store,
    Fetch,
}

/// One store or fetch for a client.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub work: Work,
    /// Sealed bytes of the chunk.
    pub bytes: usize,
    pub took: Duration,
    /// Whether repair rested, or else was at work.
    pub quiet: bool,
}

impl Sample {
    fn kind(&self) -> usize {
        let size = usize::from(self.bytes > 128 << 10) + usize::from(self.bytes > 512 << 10);
        size + if self.work == Work::Store { 0 } else { KINDS / 2 }
    }
}

/// Latencies, counted by size.
#[derive(Clone, Debug)]
struct Latencies {
    counts: [u32; BUCKETS],
    total: u32,
}

impl Latencies {
    const NONE: Latencies = Latencies { counts: [0; BUCKETS], total: 0 };

    fn add(&mut self, took: Duration) {
        let steps = (took.as_secs_f64() / FIRST).max(1.0).ln() / STEP.ln();
        self.counts[(steps as usize).min(BUCKETS - 1)] += 1;
        self.total += 1;
        if self.total >= REMEMBERED {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.total = self.counts.iter().sum();
        }
    }

    /// Samples in this bucket or above it.
    fn from(&self, bucket: i32) -> u32 {
        (0..).zip(self.counts).filter(|(at, _)| *at >= bucket).map(|(_, count)| count).sum()
    }

    /// Number of the bucket that 99 of 100 are in or below; `None` of too few.
    fn p99(&self) -> Option<i32> {
        let above = self.total / 100;
        let mut left = self.total.checked_sub(ENOUGH).map(|_| self.total - above)?;
        for (bucket, count) in (0..).zip(self.counts) {
            if count >= left {
                return Some(bucket);
            }
            left -= count;
        }
        None
    }
}

/// The state.
#[derive(Clone, Debug)]
pub struct Governor {
    rate: u64,
    /// The rate when there was a foreground last: what is gone back to when it returns.
    accompanied: u64,
    quiet: [Latencies; KINDS],
    beside: [Latencies; KINDS],
    /// Samples since the last turn, and turns since the last sample.
    fresh: u32,
    idle: u32,
    slowdown: f64,
}

impl Default for Governor {
    fn default() -> Self {
        Governor {
            rate: FEEL,
            accompanied: FEEL,
            quiet: [Latencies::NONE; KINDS],
            beside: [Latencies::NONE; KINDS],
            fresh: 0,
            idle: 0,
            slowdown: 0.0,
        }
    }
}

impl Governor {
    /// Takes in what one chunk of a client took.
    pub fn sample(&mut self, sample: Sample) {
        let of = if sample.quiet { &mut self.quiet } else { &mut self.beside };
        of[sample.kind()].add(sample.took);
        self.fresh = self.fresh.saturating_add(1);
    }

    /// A second has passed: judges what came in, and gives the rate from now on, in bytes of sealed chunks a second.
    pub fn turn(&mut self) -> u64 {
        let alone = self.is_idle();
        self.idle = if self.fresh == 0 { self.idle.saturating_add(1) } else { 0 };
        self.fresh = 0;
        if self.is_idle() {
            self.change(self.rate.saturating_mul(2));
            return self.rate;
        }
        if alone {
            // Halving would take too long from wherever it got to meanwhile.
            self.change(self.rate.min(self.accompanied));
        }
        self.judge();
        self.accompanied = self.rate;
        self.rate
    }

    /// The rate that what was measured asks for.
    fn judge(&mut self) {
        if self.quiet.iter().zip(&self.beside).any(|(quiet, beside)| is_too_slow(quiet, beside)) {
            self.slowdown = self.worst().unwrap_or(self.slowdown);
            self.change(self.rate / 2);
            return;
        }
        let Some(slowdown) = self.worst() else {
            let known = self.quiet.iter().any(|kind| kind.total >= ENOUGH);
            if !known && self.beside.iter().any(|kind| kind.total >= ENOUGH) {
                // What the foreground is without repair is not known yet.
                self.change(self.rate.min(FEEL));
            }
            return;
        };
        self.slowdown = slowdown;
        if slowdown <= GOOD {
            self.change(self.rate.saturating_add(self.rate / 4));
        }
    }

    /// Whether there is no foreground now.
    pub fn is_idle(&self) -> bool {
        self.idle >= IDLE
    }

    /// The rate that the last turn gave.
    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// The worst p99 beside repair over the quiet one that was seen last; 0: none was.
    pub fn slowdown(&self) -> f64 {
        self.slowdown
    }

    fn worst(&self) -> Option<f64> {
        let of = |(quiet, beside): (&Latencies, &Latencies)| Some(STEP.powi(beside.p99()? - quiet.p99()?));
        self.quiet.iter().zip(&self.beside).filter_map(of).reduce(f64::max)
    }

    /// What was measured under the old rate says nothing of the new one.
    fn change(&mut self, rate: u64) {
        let rate = rate.clamp(LEAST, MOST);
        if rate != self.rate {
            self.rate = rate;
            self.beside = [Latencies::NONE; KINDS];
        }
    }
}

/// Whether more of the samples beside repair are far above the quiet p99 than chance explains. A few are enough where all are.
fn is_too_slow(quiet: &Latencies, beside: &Latencies) -> bool {
    let Some(p99) = quiet.p99() else { return false };
    let expected = f64::from(beside.total) / 100.0;
    f64::from(beside.from(p99 + TOO_SLOW)) >= expected + CLEARLY * expected.sqrt() + 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A foreground whose latency grows with repair's rate: as a disk or a processor that is shared.
    struct World {
        seed: u64,
        /// Rate at which the foreground takes twice as long.
        doubles_at: f64,
        base: Duration,
        per_second: u32,
        /// One request in so many takes ten times as long, whatever repair does; 0: none.
        stalls_one_in: u32,
    }

    impl World {
        fn roll(&mut self) -> f64 {
            self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.seed;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
        }

        /// One second under this governor; the slowdown that the foreground really had.
        fn second(&mut self, governor: &mut Governor) -> f64 {
            let slowdown = 1.0 + governor.rate() as f64 / self.doubles_at;
            for n in 0..self.per_second {
                let quiet = self.roll() < 0.25;
                let noise = 0.8 + 0.4 * self.roll() + if self.roll() < 0.02 { 1.0 } else { 0.0 };
                let stalls = self.stalls_one_in > 0 && self.roll() * f64::from(self.stalls_one_in) < 1.0;
                let took = self.base.mul_f64(noise * if quiet { 1.0 } else { slowdown } * if stalls { 10.0 } else { 1.0 });
                let work = if n % 2 == 0 { Work::Store } else { Work::Fetch };
                governor.sample(Sample { work, bytes: 64 << 10, took, quiet });
            }
            governor.turn();
            slowdown
        }
    }

    fn world(seed: u64) -> World {
        let mut world = World { seed, doubles_at: 0.0, base: Duration::ZERO, per_second: 0, stalls_one_in: 0 };
        world.doubles_at = (8u64 << 20) as f64 * (1.0 + 60.0 * world.roll());
        world.base = Duration::from_micros(500 + (world.roll() * 50_000.0) as u64);
        world.per_second = 10 + (world.roll() * 400.0) as u32;
        world
    }

    #[test]
    fn under_two_thousand_seeds_the_foreground_is_kept_under_twice_its_quiet_latency_and_repair_is_never_starved() {
        for seed in 0..2_000 {
            let (mut world, mut governor) = (world(seed), Governor::default());
            let (mut over, mut sum) = (0, 0.0);
            for second in 0..900 {
                let slowdown = world.second(&mut governor);
                assert!((LEAST..=MOST).contains(&governor.rate()), "seed {seed}");
                // Finding out takes time; a floor that is too much for the machine is no fault of the governor.
                let possible = 1.0 + LEAST as f64 / world.doubles_at < 1.4;
                if second >= 300 && possible {
                    over += u32::from(slowdown > 2.0);
                    sum += governor.rate() as f64;
                }
            }
            assert!(over <= 60, "seed {seed}: over twice in {over} of 600 seconds, doubles at {:.0}", world.doubles_at);
            assert!(sum == 0.0 || sum / 600.0 >= world.doubles_at * 0.1, "seed {seed}: a mean of {:.0}", sum / 600.0);
        }
    }

    #[test]
    fn under_five_hundred_seeds_requests_that_stall_by_themselves_do_not_hold_repair_at_its_least() {
        for seed in 0..500 {
            let (mut world, mut governor) = (world(seed), Governor::default());
            (world.stalls_one_in, world.doubles_at) = (150 + (seed % 200) as u32, f64::from(1 << 30));
            world.per_second = 12 + (seed % 40) as u32;
            let rates: Vec<f64> = (0..900).map(|_| (world.second(&mut governor), governor.rate() as f64).1).collect();
            let mean = rates[300..].iter().sum::<f64>() / 600.0;
            assert!(mean >= 4.0 * FEEL as f64, "seed {seed}: a mean of {mean:.0}");
        }
    }

    #[test]
    fn the_same_samples_give_the_same_rates() {
        let trace = |seed| {
            let (mut world, mut governor) = (world(seed), Governor::default());
            (0..300).map(|_| (world.second(&mut governor), governor.rate()).1).collect::<Vec<u64>>()
        };
        for seed in 0..20 {
            assert_eq!(trace(seed), trace(seed), "seed {seed}");
        }
    }

    #[test]
    fn without_a_foreground_repair_goes_as_fast_as_it_can() {
        let mut governor = Governor::default();
        for _ in 0..20 {
            governor.turn();
        }
        assert_eq!(governor.rate(), MOST);
    }

    #[test]
    fn a_foreground_that_comes_back_slows_repair_within_seconds() {
        let (mut world, mut governor) = (world(3), Governor::default());
        world.doubles_at = f64::from(16 << 20);
        world.per_second = 200;
        for _ in 0..60 {
            world.second(&mut governor);
        }
        for _ in 0..16 {
            governor.turn();
        }
        assert_eq!(governor.rate(), MOST);
        let slow = (0..30).filter(|_| world.second(&mut governor) > 2.0).count();
        assert!(slow <= 12, "{slow} seconds of 30");
    }

    #[test]
    fn a_few_samples_change_nothing() {
        let mut governor = Governor::default();
        for n in 0..80 {
            let took = Duration::from_millis(if n % 2 == 0 { 1 } else { 900 });
            governor.sample(Sample { work: Work::Fetch, bytes: 1 << 20, took, quiet: n % 2 == 0 });
            assert_eq!(governor.turn(), FEEL);
        }
    }
}
