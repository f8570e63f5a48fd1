//! What is counted while a world runs.

use metadata::balance::{Move, Purpose, Step};
use spine::id::UnixMs;

/// The busiest server's pressure over the mean's; 1 where there is no load.
pub fn imbalance(pressures: &[f64]) -> f64 {
    let mean = pressures.iter().sum::<f64>() / pressures.len().max(1) as f64;
    if mean > 0.0 { pressures.iter().copied().fold(0.0, f64::max) / mean } else { 1.0 }
}

/// A world's history.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// One a round.
    pub imbalance: Vec<f64>,
    /// Groups after each round.
    pub groups: Vec<usize>,
    pub leads: u64,
    pub splits: u64,
    pub replicas: u64,
    pub merges: u64,
    /// Replicas that were moved so that neighbours can be merged; not among `replicas`.
    pub gathered: u64,
    /// Bytes that were copied for replicas.
    pub bytes: u64,
    /// Every move, in words.
    pub trace: Vec<String>,
}

impl Record {
    pub(super) fn began(&mut self, made: &Move, now: UnixMs) {
        let count = match (&made.step, made.why.purpose) {
            (Step::Merge { .. }, _) => &mut self.merges,
            (_, Purpose::Merge) => &mut self.gathered,
            (Step::Lead { .. }, _) => &mut self.leads,
            (Step::Split { .. }, _) => &mut self.splits,
            (Step::Replica { .. }, _) => &mut self.replicas,
        };
        *count += 1;
        self.trace.push(format!("{now} {:?}: {}", made.step, made.why));
    }

    pub(super) fn round(&mut self, pressures: &[f64], groups: usize) {
        self.imbalance.push(imbalance(pressures));
        self.groups.push(groups);
    }

    /// Steps that relieved a server.
    pub fn moves(&self) -> u64 {
        self.leads + self.splits + self.replicas
    }

    /// The imbalance that this share of the rounds from `first` on does not exceed.
    pub fn quantile(&self, first: usize, share: f64) -> f64 {
        let mut all = self.imbalance.get(first..).unwrap_or_default().to_vec();
        all.sort_by(f64::total_cmp);
        let at = (all.len() as f64 * share).ceil() as usize;
        all.get(at.saturating_sub(1)).copied().unwrap_or(1.0)
    }

    /// Share of the rounds from `first` on that are no more uneven than `most`.
    pub fn within(&self, first: usize, most: f64) -> f64 {
        let all = self.imbalance.get(first..).unwrap_or_default();
        all.iter().filter(|imbalance| **imbalance <= most).count() as f64 / all.len().max(1) as f64
    }

    pub fn mean(&self, first: usize) -> f64 {
        let all = self.imbalance.get(first..).unwrap_or_default();
        all.iter().sum::<f64>() / all.len().max(1) as f64
    }
}
