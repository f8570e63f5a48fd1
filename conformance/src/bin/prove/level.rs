//! How evenly metadata servers bear a load, and what was moved for that: what rows 3 and 4 of the metadata cluster judge.
//!
//! A server's load is what its own metrics say: the pressure that the balancer levels (the largest of operations, bytes and CPU a second as a
//! share of what the server can do), and beside it the operations that it counted.

use crate::row::Said;
use conformance::client::{self, Judge};
use conformance::cluster::{Cluster, Size};
use conformance::operations::metric;
use conformance::paced::Load;
use conformance::records::Pattern;
use metadata::router::Router;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub const SIZE: Size = Size { metadata: 3, gateways: 1, nodes: 0 };
const BUCKET: &str = "load";
/// As of so many gateways.
const ROUTERS: usize = 3;
/// What the balancer may not move twice within.
const TWICE_MS: u64 = 120_000;
const EVERY: Duration = Duration::from_secs(1);

/// Of each server at one moment.
#[derive(Clone, Debug)]
pub struct Sample {
    pub at: Instant,
    pressure: Vec<f64>,
    /// So far.
    operations: Vec<f64>,
}

/// A cluster that balances itself, and a bucket with all keys of the load in it.
pub async fn stage(cluster: &Cluster, percent: usize, seed: u64) -> Result<Arc<Load>, String> {
    let s3 = client::of(&cluster.gateways[0]);
    s3.create_bucket().bucket(BUCKET).send().await.judged().said("a bucket")?;
    let mut routers = Vec::new();
    for _ in 0..ROUTERS {
        routers.push(Router::new(cluster.client()?));
    }
    let pattern = Pattern::take(&s3, BUCKET, &routers[0], seed).await?;
    Load::prepare(routers, pattern, percent).await
}

/// Samples every second until `until`; each is also given to `each`.
///
/// # Errors
/// A server does not answer.
pub fn watch(cluster: &Cluster, until: Instant, mut each: impl FnMut(&[Sample])) -> Result<Vec<Sample>, String> {
    let mut samples = Vec::new();
    while Instant::now() < until {
        samples.push(sample(cluster)?);
        each(&samples);
        std::thread::sleep(EVERY);
    }
    Ok(samples)
}

fn sample(cluster: &Cluster) -> Result<Sample, String> {
    let (mut pressure, mut operations) = (Vec::new(), Vec::new());
    for node in &cluster.metadata {
        let text = node.metrics().said("a server's metrics")?;
        pressure.push(metric(&text, "breakwater_metadata_load_pressure"));
        let counted = ["breakwater_metadata_query_seconds_count", "breakwater_metadata_propose_seconds_count"];
        operations.push(counted.iter().map(|name| metric(&text, name)).sum());
    }
    Ok(Sample { at: Instant::now(), pressure, operations })
}

/// The largest as a multiple of the mean; 0 where there is nothing.
fn imbalance(of: &[f64]) -> f64 {
    let mean = of.iter().sum::<f64>() / of.len().max(1) as f64;
    if mean > 0.0 { of.iter().copied().fold(0.0, f64::max) / mean } else { 0.0 }
}

/// Over these samples: of the mean pressure of each server, and of the operations that each did.
pub fn level(samples: &[Sample]) -> Option<(f64, f64)> {
    let (first, last) = (samples.first()?, samples.last()?);
    let servers = first.pressure.len();
    let pressure: Vec<f64> = (0..servers).map(|server| samples.iter().map(|sample| sample.pressure[server]).sum()).collect();
    let operations: Vec<f64> = (0..servers).map(|server| last.operations[server] - first.operations[server]).collect();
    Some((imbalance(&pressure), imbalance(&operations)))
}

/// Each server's pressure now, and its operations a second over the last ten samples.
pub fn text(samples: &[Sample]) -> String {
    let Some(last) = samples.last() else { return String::new() };
    let before = &samples[samples.len().saturating_sub(11)];
    let seconds = (last.at - before.at).as_secs_f64().max(0.001);
    let of = |server: usize| {
        let rate = (last.operations[server] - before.operations[server]) / seconds;
        format!("{:.3} ({rate:.0}/s)", last.pressure[server])
    };
    let each: Vec<String> = (0..last.pressure.len()).map(of).collect();
    format!("pressure {}", each.join(", "))
}

/// One thing that was moved: when, which group lies elsewhere since then, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Moved {
    pub at_ms: u64,
    pub group: u64,
    pub what: String,
}

/// Adds what `admin metadata status` tells of moves that were begun, by their numbers; it shows all that are kept.
///
/// # Errors
/// No gateway answers, or something else.
pub fn moves(cluster: &Cluster, known: &mut BTreeMap<u64, Moved>) -> Result<(), String> {
    let status = cluster.status().said("the status")?;
    let told = status["moves"].as_array().ok_or_else(|| format!("a status without moves: {status}"))?;
    for record in told.iter().filter(|record| record["state"] != "GaveUp" && record["state"] != "Failed") {
        let word = |field: &str| record[field].as_str().unwrap_or_default();
        // A split makes the group that its part goes to; all else moves a group that is there.
        let group = if word("what") == "split" { &record["to_group"] } else { &record["group"] };
        let (number, at, group) = (record["number"].as_u64(), record["begun_ms"].as_u64(), group.as_u64());
        let (Some(number), Some(at_ms), Some(group)) = (number, at, group) else {
            return Err(format!("a move that does not read: {record}"));
        };
        known.insert(number, Moved { at_ms, group, what: format!("{}, {}", word("what"), word("reason")) });
    }
    Ok(())
}

/// Groups that were moved twice within two minutes.
pub fn twice(moves: &BTreeMap<u64, Moved>) -> Vec<String> {
    let mut last: BTreeMap<u64, &Moved> = BTreeMap::new();
    let mut out = Vec::new();
    for moved in moves.values() {
        if let Some(before) = last.insert(moved.group, moved)
            && moved.at_ms.saturating_sub(before.at_ms) < TWICE_MS
        {
            let seconds = (moved.at_ms.saturating_sub(before.at_ms)) as f64 / 1e3;
            out.push(format!("group {} twice within {seconds:.1} s: {}; {}", moved.group, before.what, moved.what));
        }
    }
    out
}
