//! Metadata processes that are levelled out by themselves while they are used.

use aws_sdk_s3::Client;
use conformance::client::{self, Judge};
use conformance::cluster::{Cluster, Size};
use conformance::content::Content;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const BUCKET: &str = "promises";
/// Directories below the prefix that nearly all requests go to.
const DIRECTORIES: u64 = 24;
/// Requests a second, of all writers together: more than a server is left alone with, less than a small machine is busy with.
const RATE: u64 = 300;
const WRITERS: u64 = 6;
/// Until when the servers must bear alike, and how nearly.
const LIMIT: Duration = Duration::from_secs(150);
const LEVEL: f64 = 1.3;
/// Looks in a row that have to find it so: more than a round of the balancer.
const LOOKS: u32 = 8;

/// Writes and reads small objects at an even pace, nine in ten of them below one prefix. How many requests there were.
async fn work(client: Client, number: u64, stop: Arc<AtomicBool>, done: Arc<AtomicU64>) -> Result<(), String> {
    let mut ticks = tokio::time::interval(Duration::from_micros(1_000_000 * WRITERS / RATE));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut round = number;
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        round = round.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (draw, directory, name) = ((round >> 33) % 10, (round >> 40) % DIRECTORIES, (round >> 50) % 8);
        let prefix = if draw > 0 { "hot" } else { "cold" };
        let key = format!("{prefix}/{directory:02}/{number}-{name}");
        let what = |verb: &str| format!("{verb} {key}");
        if draw.is_multiple_of(2) {
            let body = Content::dense(round, 100).bytes();
            let put = client.put_object().bucket(BUCKET).key(&key).body(body.into()).send().await;
            put.judged().map_err(|error| format!("{}: {error}", what("PUT")))?;
        } else {
            match client.head_object().bucket(BUCKET).key(&key).send().await.judged() {
                Ok(_) => {}
                Err(failure) if failure.status() == 404 => {}
                Err(failure) => return Err(format!("{}: {failure}", what("HEAD"))),
            }
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Pressure of the busiest metadata process over the mean, as they measure it themselves.
fn imbalance(cluster: &Cluster) -> f64 {
    let all: Vec<f64> = cluster.metadata.iter().map(|node| node.metric("breakwater_metadata_load_pressure").unwrap()).collect();
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    if mean > 0.0 { all.iter().copied().fold(0.0, f64::max) / mean } else { f64::INFINITY }
}

fn list<'a>(status: &'a Value, field: &str) -> &'a [Value] {
    status[field].as_array().map_or(&[], Vec::as_slice)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_load_on_one_prefix_comes_to_be_borne_by_all_metadata_nodes_and_no_request_fails() {
    let cluster = Arc::new(Cluster::balanced(Size { metadata: 3, gateways: 1, nodes: 0 }, "").unwrap());
    let client = client::of(&cluster.gateways[0]);
    client.create_bucket().bucket(BUCKET).send().await.unwrap();
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let working: Vec<_> = (0..WRITERS).map(|number| tokio::spawn(work(client.clone(), number, stop.clone(), done.clone()))).collect();
    let began = Instant::now();
    let (mut seen, mut in_a_row) = (Vec::new(), 0);
    let level = loop {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let imbalance = imbalance(&cluster);
        seen.push(format!("{imbalance:.2}"));
        // Level, and not for the moment alone.
        in_a_row = if imbalance <= LEVEL { in_a_row + 1 } else { 0 };
        if in_a_row == LOOKS {
            break true;
        }
        if began.elapsed() > LIMIT || working.iter().any(|task| task.is_finished()) {
            break false;
        }
    };
    let took = began.elapsed();
    let asked = cluster.clone();
    let (status, text) =
        tokio::task::spawn_blocking(move || (asked.status().unwrap(), asked.gateways[0].admin(&["metadata", "status"]).unwrap()))
            .await
            .unwrap();
    stop.store(true, Ordering::Relaxed);
    for task in working {
        task.await.unwrap().unwrap();
    }
    println!(
        "{} requests; busiest over mean every two seconds: {}; level after {took:?}\n{text}",
        done.load(Ordering::Relaxed),
        seen.join(" ")
    );
    assert!(level, "{status:#}");
    let ranges = list(&status, "ranges");
    let leaders: BTreeSet<&str> = ranges.iter().filter_map(|range| range["leader"].as_str()).collect();
    assert_eq!(leaders.len(), 3, "each node leads some range: {ranges:#?}");
    assert!(ranges.iter().all(|range| range["replicas"].as_array().is_some_and(|replicas| replicas.len() == 3)), "{ranges:#?}");
    let hot = |range: &Value| {
        list(range, "hottest").iter().any(|hot| hot["directory"].as_str().is_some_and(|at| at.starts_with("promises/hot/")))
    };
    assert!(ranges.iter().any(hot), "{ranges:#?}");
    let moves = list(&status, "moves");
    assert!(moves.len() >= 2, "{moves:#?}");
    for told in moves {
        assert!(told["reason"].as_str().is_some_and(|why| why.starts_with("relief: from ")), "{told:#}");
        assert_eq!(told["state"], "Done", "{told:#}");
    }
    assert!(list(&status, "nodes").iter().all(|node| node["load"]["ops"].as_f64().is_some_and(|ops| ops > 10.0)), "{status:#}");
    assert!(text.contains("last moves:") && text.contains("promises/hot/"), "{text}");
}
