//! Which group has which names and chunks, and changing that, as an operator does.

use super::Cluster;
use crate::operations;
use serde_json::Value;
use std::io;
use std::time::{Duration, Instant};

impl Cluster {
    /// `admin metadata map --json` of the first gateway.
    ///
    /// # Errors
    /// It does not answer.
    pub fn map(&self) -> io::Result<Value> {
        let printed = self.gateways[0].admin(&["metadata", "map", "--json"])?;
        serde_json::from_str(printed.trim()).map_err(io::Error::other)
    }

    /// Begins a move (`split`, `merge`) and waits until it is over.
    ///
    /// # Errors
    /// It was refused, given up, or is not through after `limit`; then with the metadata processes' logs.
    pub fn moved(&self, arguments: &[&str], limit: Duration) -> Result<(), String> {
        let printed = self.gateways[0].admin(&[&["metadata"], arguments, &["--json"]].concat()).map_err(|error| error.to_string())?;
        let begun: Value = serde_json::from_str(printed.trim()).map_err(|error| error.to_string())?;
        let since = Instant::now();
        loop {
            let map = self.map().map_err(|error| error.to_string())?;
            let all = map["moves"].as_array().cloned().unwrap_or_default();
            let this = all.iter().find(|record| record["move"] == begun["move"]).cloned().unwrap_or_default();
            match this["step"].as_str() {
                Some("Done") => return Ok(()),
                Some("GaveUp") => return Err(format!("{arguments:?} was given up: {this}")),
                _ if since.elapsed() > limit => {
                    let logs: String = self.metadata.iter().map(|node| node.log()).collect();
                    return Err(format!("{arguments:?} is not through after {limit:?}: {this}\n{logs}"));
                }
                _ => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// How many ranges were frozen to be handed over, and a bound that `percent` of them did not reach, in seconds: of the histograms of
    /// all metadata processes.
    ///
    /// # Errors
    /// One does not answer.
    pub fn freezes(&self, percent: f64) -> io::Result<(f64, f64)> {
        let mut sum: Vec<(f64, f64)> = Vec::new();
        for node in &self.metadata {
            let text = node.metrics()?;
            for (at, (bound, count)) in operations::buckets(&text, "breakwater_metadata_range_freeze_seconds").into_iter().enumerate() {
                match sum.get_mut(at) {
                    Some(known) => known.1 += count,
                    None => sum.push((bound, count)),
                }
            }
        }
        let all = sum.last().map_or(0.0, |(_, count)| *count);
        let bound = sum.iter().find(|(_, count)| *count >= all * percent / 100.0).map_or(0.0, |(bound, _)| *bound);
        Ok((all, bound))
    }
}
