//! What work costs a server: operations, bytes and CPU, as rates that forget.
//!
//! Invariant: times are arguments; a time that goes back counts as none that passed.

use spine::id::UnixMs;
use std::ops::{Add, Mul, Sub};

/// Work, or work a second; also what a server can do a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Proposals and queries.
    pub ops: f64,
    /// Bytes written to logs and sent.
    pub bytes: f64,
    /// Seconds of one core.
    pub cpu: f64,
}

impl Add for Load {
    type Output = Load;
    fn add(self, other: Load) -> Load {
        Load { ops: self.ops + other.ops, bytes: self.bytes + other.bytes, cpu: self.cpu + other.cpu }
    }
}

impl Sub for Load {
    type Output = Load;
    fn sub(self, other: Load) -> Load {
        Load { ops: self.ops - other.ops, bytes: self.bytes - other.bytes, cpu: self.cpu - other.cpu }
    }
}

impl Mul<f64> for Load {
    type Output = Load;
    fn mul(self, by: f64) -> Load {
        Load { ops: self.ops * by, bytes: self.bytes * by, cpu: self.cpu * by }
    }
}

impl Load {
    /// How much of `capacity` this is: of what is scarcest there. 1.0 is all of it. What a capacity says 0 of does not count.
    pub fn pressure(&self, capacity: &Load) -> f64 {
        let share = |used: f64, most: f64| if most > 0.0 { used.max(0.0) / most } else { 0.0 };
        share(self.ops, capacity.ops).max(share(self.bytes, capacity.bytes)).max(share(self.cpu, capacity.cpu))
    }
}

/// Measures a rate of work: what was long ago counts exponentially less.
#[derive(Clone, Debug)]
pub struct Meter {
    half_life_ms: f64,
    since: UnixMs,
    at: UnixMs,
    sum: Load,
}

impl Meter {
    /// Begins to measure at `now`; what is `half_life_ms` old counts half.
    pub fn new(half_life_ms: u64, now: UnixMs) -> Self {
        Meter { half_life_ms: half_life_ms.max(1) as f64, since: now, at: now, sum: Load::default() }
    }

    /// One that has measured `share` of this: for each part of what is cut in two.
    pub fn part(&self, share: f64) -> Self {
        Meter { sum: self.sum * share.clamp(0.0, 1.0), ..self.clone() }
    }

    /// Takes in what another one measured: two groups become one.
    pub fn merge(&mut self, other: &Meter, now: UnixMs) {
        self.record(other.sum * other.fade(other.at, now), now);
        self.since = self.since.min(other.since);
    }

    /// Counts work that was done.
    pub fn record(&mut self, work: Load, now: UnixMs) {
        self.sum = self.sum * self.fade(self.at, now) + work;
        self.at = self.at.max(now);
    }

    /// Work a second. Right from the first moment on, if rough: what was not measured yet is left out, not taken for idleness.
    pub fn rate(&self, now: UnixMs) -> Load {
        let now = now.max(self.at);
        let seconds = self.seconds(now);
        if seconds <= 0.0 { Load::default() } else { self.sum * (self.fade(self.at, now) / seconds) }
    }

    /// For how many seconds a steady rate counts in a sum that forgets as this one does and began with it.
    pub fn seconds(&self, now: UnixMs) -> f64 {
        // A steady rate r makes the faded sum r * (half life / ln 2) * (1 - 2^(-measured / half life)).
        self.half_life_ms / 1_000.0 / std::f64::consts::LN_2 * (1.0 - self.fade(self.since, now.max(self.at)))
    }

    fn fade(&self, from: UnixMs, to: UnixMs) -> f64 {
        (-(to.0.saturating_sub(from.0) as f64) / self.half_life_ms).exp2()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ops(ops: f64) -> Load {
        Load { ops, ..Load::default() }
    }

    #[test]
    fn a_steady_rate_is_measured_from_the_start_and_forgotten_after_it_ends() {
        let mut meter = Meter::new(10_000, UnixMs(0));
        for second in 1..=120u64 {
            meter.record(ops(500.0), UnixMs(second * 1_000));
            if second >= 5 {
                let rate = meter.rate(UnixMs(second * 1_000)).ops;
                assert!((rate - 500.0).abs() < 25.0, "{rate} after {second} s");
            }
        }
        let rate = meter.rate(UnixMs(130_000)).ops;
        assert!((rate - 250.0).abs() < 15.0, "{rate}");
        assert!(meter.rate(UnixMs(320_000)).ops < 1.0);
    }

    #[test]
    fn parts_of_a_meter_add_up_to_it_and_a_clock_that_goes_back_changes_nothing() {
        let mut meter = Meter::new(10_000, UnixMs(1_000));
        assert_eq!(meter.rate(UnixMs(500)), Load::default());
        meter.record(ops(70.0), UnixMs(9_000));
        meter.record(ops(30.0), UnixMs(2_000));
        let whole = meter.rate(UnixMs(9_000));
        assert_eq!(meter.rate(UnixMs(3_000)), whole);
        let (mut left, right) = (meter.part(0.25), meter.part(0.75));
        assert!(((left.rate(UnixMs(9_000)) + right.rate(UnixMs(9_000))).ops - whole.ops).abs() < 1e-9);
        left.merge(&right, UnixMs(9_000));
        assert!((left.rate(UnixMs(9_000)).ops - whole.ops).abs() < 1e-9);
    }

    #[test]
    fn pressure_is_that_of_what_is_scarcest() {
        let capacity = Load { ops: 1_000.0, bytes: 1e6, cpu: 2.0 };
        assert_eq!(Load { ops: 100.0, bytes: 5e5, cpu: 0.2 }.pressure(&capacity), 0.5);
        assert_eq!(Load { ops: 100.0, bytes: 5e5, cpu: 1.8 }.pressure(&capacity), 0.9);
        assert_eq!(Load { ops: 100.0, bytes: 5e5, cpu: 1.8 }.pressure(&Load { ops: 1_000.0, ..Load::default() }), 0.1);
        assert_eq!((ops(1.0) - ops(3.0)).pressure(&capacity), 0.0);
    }
}
