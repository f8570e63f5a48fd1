//! Which group has which names and chunks, and changing that, as an operator does.

use super::Cluster;
use crate::operations;
use serde_json::Value;
use std::io;
use std::time::{Duration, Instant};

/// A group of the map.
#[derive(Clone, Copy, Debug)]
pub struct Led {
    pub group: u64,
    /// Which of [`Cluster::metadata`] leads it.
    pub node: usize,
    /// Operations a second lately.
    pub ops: f64,
}

impl Cluster {
    /// `admin metadata map --json` of the first gateway.
    ///
    /// # Errors
    /// It does not answer.
    pub fn map(&self) -> io::Result<Value> {
        let printed = self.gateways[0].admin(&["metadata", "map", "--json"])?;
        serde_json::from_str(printed.trim()).map_err(io::Error::other)
    }

    /// What `admin metadata ARGUMENTS --json` of the first gateway prints; a move (`split`, `merge`) is begun then and may last.
    ///
    /// # Errors
    /// It was refused, or does not answer.
    pub fn order(&self, arguments: &[&str]) -> Result<Value, String> {
        let printed = self.gateways[0].admin(&[&["metadata"], arguments, &["--json"]].concat()).map_err(|error| error.to_string())?;
        serde_json::from_str(printed.trim()).map_err(|error| format!("{arguments:?} printed {printed}: {error}"))
    }

    /// The groups of the map whose leaders say what they bear, each once.
    ///
    /// # Errors
    /// No gateway answers.
    pub fn led(&self) -> io::Result<Vec<Led>> {
        let status = self.status()?;
        let mut led: Vec<Led> = Vec::new();
        for range in status["ranges"].as_array().map_or(&[][..], Vec::as_slice) {
            let (Some(group), Some(leader)) = (range["group"].as_u64(), range["leader"].as_str()) else { continue };
            let node = self.metadata.iter().position(|node| node.endpoint().is_some_and(|at| at.address == leader));
            let Some(node) = node.filter(|_| led.iter().all(|known| known.group != group)) else { continue };
            led.push(Led { group, node, ops: range["load"]["ops"].as_f64().unwrap_or_default() });
        }
        Ok(led)
    }

    /// Has a group be led by one of [`Cluster::metadata`]. Tried for a while: it may be changing just now.
    ///
    /// # Errors
    /// It could not be done within `limit`.
    pub fn lead(&self, group: u64, to: usize, limit: Duration) -> Result<(), String> {
        let began = Instant::now();
        loop {
            match self.order(&["move", &group.to_string(), &self.metadata[to].id]) {
                Ok(_) => return Ok(()),
                Err(error) if began.elapsed() > limit => return Err(format!("group {group} is not led by node {to}: {error}")),
                Err(_) => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    /// Begins a move (`split`, `merge`) and waits until it is through.
    ///
    /// # Errors
    /// It was refused, given up, or is not over after `limit`.
    pub fn moved(&self, arguments: &[&str], limit: Duration) -> Result<(), String> {
        let begun = self.order(arguments)?;
        let number = begun["move"].as_u64().ok_or_else(|| format!("{arguments:?} began no move: {begun}"))?;
        match self.over(&[number], limit)?.iter().find(|record| record["step"] != "Done") {
            None => Ok(()),
            Some(record) => Err(format!("{arguments:?} was given up: {record}")),
        }
    }

    /// Waits until moves of these numbers are over, done or given up; as the map shows them then.
    ///
    /// # Errors
    /// One is not over after `limit`; with the metadata processes' logs.
    pub fn over(&self, moves: &[u64], limit: Duration) -> Result<Vec<Value>, String> {
        let since = Instant::now();
        loop {
            let found = self.map().map_err(|error| error.to_string()).and_then(|map| {
                let all = map["moves"].as_array().map_or(&[][..], Vec::as_slice);
                let of = |number: &u64| all.iter().find(|record| record["move"].as_u64() == Some(*number)).cloned().unwrap_or_default();
                let records: Vec<Value> = moves.iter().map(of).collect();
                match records.iter().find(|record| record["over"] != true) {
                    None => Ok(records),
                    Some(record) => Err(record.to_string()),
                }
            });
            match found {
                Ok(records) => return Ok(records),
                Err(why) if since.elapsed() > limit => {
                    let logs: String = self.metadata.iter().map(|node| node.log()).collect();
                    return Err(format!("a move is not over after {limit:?}: {why}\n{logs}"));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
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
