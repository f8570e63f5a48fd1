//! Numbers of one measurement, and their medians.

use serde::Serialize;
use std::time::Duration;

/// A large object, one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Transfer {
    /// 10^6 bytes a second.
    pub mb_s: f64,
    /// The server's CPU.
    pub cpu_s_per_gib: f64,
}

/// Many operations of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Operations {
    pub per_s: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// The server's CPU.
    pub cpu_ms_per_op: f64,
}

impl Transfer {
    pub fn new(bytes: u64, wall: Duration, cpu: Duration) -> Self {
        let gib = bytes as f64 / (1u64 << 30) as f64;
        Self { mb_s: bytes as f64 / 1e6 / wall.as_secs_f64().max(1e-9), cpu_s_per_gib: cpu.as_secs_f64() / gib.max(1e-12) }
    }

    pub fn median(of: &[Self]) -> Self {
        let pick = |field: fn(&Self) -> f64| median(of.iter().map(field).collect());
        Self { mb_s: pick(|t| t.mb_s), cpu_s_per_gib: pick(|t| t.cpu_s_per_gib) }
    }
}

impl Operations {
    /// `latencies` of all operations, in any order.
    pub fn new(mut latencies: Vec<Duration>, wall: Duration, cpu: Duration) -> Self {
        latencies.sort_unstable();
        let count = latencies.len().max(1) as f64;
        Self {
            per_s: latencies.len() as f64 / wall.as_secs_f64().max(1e-9),
            p50_ms: quantile(&latencies, 0.50).as_secs_f64() * 1e3,
            p99_ms: quantile(&latencies, 0.99).as_secs_f64() * 1e3,
            cpu_ms_per_op: cpu.as_secs_f64() * 1e3 / count,
        }
    }

    pub fn median(of: &[Self]) -> Self {
        let pick = |field: fn(&Self) -> f64| median(of.iter().map(field).collect());
        Self { per_s: pick(|o| o.per_s), p50_ms: pick(|o| o.p50_ms), p99_ms: pick(|o| o.p99_ms), cpu_ms_per_op: pick(|o| o.cpu_ms_per_op) }
    }
}

/// The value that the share `q` of `sorted` does not exceed; 0 of nothing.
pub fn quantile(sorted: &[Duration], q: f64) -> Duration {
    let rank = (sorted.len() as f64 * q).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or_default()
}

/// Middle value, or the mean of the middle two; 0 of nothing.
pub fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    match of.len() {
        0 => 0.0,
        n if n % 2 == 1 => of[n / 2],
        n => (of[n / 2 - 1] + of[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quantiles_are_of_the_sorted_values() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0]), 2.5);
        assert_eq!(median(Vec::new()), 0.0);
        let ms: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(quantile(&ms, 0.5), Duration::from_millis(100));
        assert_eq!(quantile(&ms, 0.99), Duration::from_millis(198));
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }

    #[test]
    fn a_gib_in_two_seconds_with_one_second_of_cpu() {
        let t = Transfer::new(1 << 30, Duration::from_secs(2), Duration::from_secs(1));
        assert!((t.mb_s - 536.87).abs() < 0.01);
        assert!((t.cpu_s_per_gib - 1.0).abs() < 1e-9);
    }
}
