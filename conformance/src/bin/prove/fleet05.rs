//! Row 5 of the fleet: 24 nodes of capacities 1 : 2 : 4 filled to 60 %, and then a node that joins.
//!
//! Fill is what each node itself says it holds (shards without trash) over what it offers, beside the fleet's. Fair is the part of all
//! bytes that the new node's capacity is of all capacity; moved is what the gateway's metric says was rebalanced after the join.

use crate::row::{Outcome, Progress, Run, Said, mib, runtime};
use aws_sdk_s3::Client;
use conformance::client::{self, Judge};
use conformance::content::Content;
use conformance::fleet::{Fleet, serving};
use serde_json::Value;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

const NODES: usize = 24;
const ZONES: usize = 4;
/// Chunks of one size, so that the count of shards is what is compared.
const OBJECT: usize = 256 << 10;
const AT_ONCE: usize = 12;
const LIMIT: Duration = Duration::from_secs(300);
const CONFIG: &str = "[rebalance]\nlook_seconds = 1\nbytes_per_second = 1073741824\n[repair]\ninterval_seconds = 1\n";
const MOVED: &str = "breakwater_moved_bytes_total{why=\"rebalance\"}";

pub fn run(run: &Run) -> Outcome {
    let unit: u64 = run.size(32 << 20, 16 << 20);
    let place = run.place()?;
    let mut fleet = Fleet::bare(CONFIG).said("a gateway")?;
    let token = fleet.invite(&["--uses", "25"]).said("an invitation")?;
    for number in 0..NODES {
        join(&mut fleet, &place, &token, number, unit << (number % 3))?;
    }
    let capacity: u64 = fleet.nodes.iter().map(|node| node.capacity).sum();
    let runtime = runtime()?;
    let s3 = client::of(&fleet.gateway);
    let objects = (capacity * 6 / 10 / 6 * 4 / OBJECT as u64) as usize;
    println!("  {NODES} nodes of 1 : 2 : 4, {} in all; {objects} objects of {}", mib(capacity), mib(OBJECT as u64));
    runtime.block_on(write(&s3, run.seed, objects))?;
    println!(
        "  written; the farthest node is {:.1} % off, {} were moved meanwhile",
        worst(&fleet)?,
        mib(fleet.gateway.metric(MOVED) as u64)
    );
    let took = level(&fleet, NODES)?;
    let filled = worst(&fleet)?;
    println!("  level after {took:.1?}: the farthest node is {filled:.1} % off");

    let before = fleet.gateway.metric(MOVED);
    let joined = unit << 1;
    let held: u64 = holds(&fleet)?.iter().map(|(bytes, _)| bytes).sum();
    join(&mut fleet, &place, &token, NODES, joined)?;
    let fair = held as f64 * joined as f64 / (capacity + joined) as f64;
    let took = level(&fleet, NODES + 1)?;
    let (moved, after) = (fleet.gateway.metric(MOVED) - before, worst(&fleet)?);
    println!("  level after {took:.1?} with one node more: {} moved, a fair share is {}", mib(moved as u64), mib(fair as u64));
    right(&runtime, &s3, run.seed, objects)?;
    let figure = format!(
        "filled to 60 %: the farthest of {NODES} nodes {filled:.1} % off its weight; a join moved {:.2} x its fair share, then {after:.1} % off; {objects} objects right",
        moved / fair
    );
    if filled <= 5.0 && after <= 5.0 && moved > 0.0 && moved <= 1.2 * fair { Ok(figure) } else { Err(figure) }
}

fn join(fleet: &mut Fleet, place: &tempfile::TempDir, token: &str, number: usize, capacity: u64) -> Result<(), String> {
    let (machine, zone) = (format!("machine-{number}"), format!("zone-{}", number % ZONES));
    let node = conformance::fleet::StorageNode::new(&place.path().join(&machine), &machine, &zone);
    let mut node = node.said("a node's folder")?;
    node.capacity = capacity;
    node.start(Some(token)).said("a node")?;
    fleet.nodes.push(node);
    let there = fleet.nodes.len();
    fleet.wait("the new node serves", |status| serving(status) == there).said("join")
}

async fn write(s3: &Client, seed: u64, objects: usize) -> Result<(), String> {
    s3.create_bucket().bucket("fill").send().await.judged().said("bucket")?;
    let mut progress = Progress::new();
    for first in (0..objects).step_by(AT_ONCE) {
        let some = (first..objects.min(first + AT_ONCE)).map(|number| async move {
            let put = s3.put_object().bucket("fill").key(number.to_string()).body(body(seed, number).into());
            put.send().await.judged().map(drop).map_err(|failure| format!("put {number}: {failure}"))
        });
        futures::future::try_join_all(some).await?;
        progress.say(|| format!("{first} of {objects} objects"));
    }
    Ok(())
}

fn right(runtime: &Runtime, s3: &Client, seed: u64, objects: usize) -> Result<(), String> {
    for number in 0..objects {
        let got = runtime.block_on(async {
            let answer = s3.get_object().bucket("fill").key(number.to_string()).send().await.map_err(client::failure).said("get")?;
            Ok::<_, String>(answer.body.collect().await.said("body")?.into_bytes())
        });
        if got.said(&format!("object {number}"))? != body(seed, number) {
            return Err(format!("object {number} reads back wrong"));
        }
    }
    Ok(())
}

fn body(seed: u64, number: usize) -> bytes::Bytes {
    Content::dense(seed.wrapping_add(number as u64), OBJECT).bytes()
}

/// Bytes of shards that every node says it holds, and its capacity.
fn holds(fleet: &Fleet) -> Result<Vec<(u64, u64)>, String> {
    let status = fleet.status().said("status")?;
    let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
    let one = |node: &Value| Some((node["shard_bytes"].as_u64()?, node["capacity_bytes"].as_u64()?));
    nodes.iter().map(one).collect::<Option<Vec<_>>>().ok_or_else(|| format!("a node does not say what it holds: {status}"))
}

/// How far the farthest node's fill is from the fleet's, in percent of it.
fn worst(fleet: &Fleet) -> Result<f64, String> {
    let all = holds(fleet)?;
    let (bytes, capacity) = all.iter().fold((0, 0), |sum, node| (sum.0 + node.0, sum.1 + node.1));
    let fill = bytes as f64 / capacity as f64;
    Ok(all.iter().map(|(bytes, capacity)| (*bytes as f64 / *capacity as f64 / fill - 1.0).abs() * 100.0).fold(0.0, f64::max))
}

/// Waits until `nodes` nodes have been looked at and the rebalancer is at rest; what nodes say is a second old.
fn level(fleet: &Fleet, nodes: usize) -> Result<Duration, String> {
    let began = Instant::now();
    // A look that began before now may not know the newest node.
    std::thread::sleep(Duration::from_secs(4));
    let mut calm = 0;
    loop {
        let status = fleet.status().said("status")?;
        let balance = &status["rebalance"];
        calm = if balance["state"] != "moving" && serving(&status) == nodes { calm + 1 } else { 0 };
        if calm == 4 {
            println!("  {balance}");
            return Ok(began.elapsed());
        }
        if began.elapsed() > LIMIT {
            return Err(format!("not level after {LIMIT:?}: {balance}"));
        }
        std::thread::sleep(Duration::from_millis(700));
    }
}
