//! Nodes that are emptied, filled, or made whole while the fleet serves.

use aws_sdk_s3::Client;
use conformance::client::{self, Judge};
use conformance::content::Content;
use conformance::fleet::{Fleet, serving};
use serde_json::Value;
use std::time::{Duration, Instant};

const BUCKET: &str = "moved";
const REPAIRED: &str = "breakwater_moved_shards_total{why=\"repair\"}";

async fn fill(fleet: &Fleet, objects: std::ops::Range<u64>, len: usize) -> Client {
    let s3 = client::of(&fleet.gateway);
    if objects.start == 0 {
        s3.create_bucket().bucket(BUCKET).send().await.judged().unwrap();
    }
    for number in objects {
        let body = Content::dense(number, len).bytes();
        s3.put_object().bucket(BUCKET).key(number.to_string()).body(body.into()).send().await.judged().unwrap();
    }
    s3
}

async fn all_read(s3: &Client, objects: std::ops::Range<u64>, len: usize) {
    for number in objects {
        let got = s3.get_object().bucket(BUCKET).key(number.to_string()).send().await.unwrap().body.collect().await.unwrap().into_bytes();
        assert!(got == Content::dense(number, len).bytes(), "object {number}");
    }
}

fn placed(fleet: &Fleet) -> Value {
    serde_json::from_str(fleet.gateway.admin(&["fleet", "status", "--placed", "--json"]).unwrap().trim()).unwrap()
}

fn of(status: &Value, node: &str) -> Value {
    status["nodes"].as_array().unwrap().iter().find(|one| one["node"] == node).unwrap().clone()
}

fn owing(fleet: &Fleet) -> u64 {
    let status: Value = serde_json::from_str(fleet.gateway.admin(&["status", "--json"]).unwrap().trim()).unwrap();
    status["chunks_owing_shards"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_node_is_emptied_though_the_gateway_dies_and_is_retired_without_rebuilding_anything() {
    let mut fleet = Fleet::start(8, "[repair]\ninterval_seconds = 1\n").unwrap();
    let s3 = fill(&fleet, 0..150, 200_000).await;
    let node = fleet.nodes[3].id().to_owned();
    let at_first = of(&placed(&fleet), &node)["placed"].as_u64().unwrap();
    assert!(at_first > 60, "{at_first} shards to drain");
    fleet.gateway.admin(&["fleet", "drain", &node[..12]]).unwrap();
    let began = Instant::now();
    loop {
        let left = of(&placed(&fleet), &node)["placed"].as_u64().unwrap();
        if left < at_first {
            println!("killed with {left} of {at_first} left");
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "nothing is moved");
    }
    fleet.gateway.kill();
    fleet.gateway.restart().unwrap();
    fleet.wait("all serve", |status| serving(status) == 8).unwrap();
    fleet.wait("it is drained", |status| of(status, &node)["drain"]["drained"] == true).unwrap();
    let status = placed(&fleet);
    assert_eq!((of(&status, &node)["placed"].as_u64(), of(&status, &node)["state"].as_str()), (Some(0), Some("draining")));
    assert_eq!(status["chunks"]["by_spare_shards"], serde_json::json!({ "2": 150 }));
    // New shards go elsewhere, too.
    fill(&fleet, 150..160, 200_000).await;
    assert_eq!(of(&placed(&fleet), &node)["placed"], 0);

    let before = fleet.gateway.metric(REPAIRED);
    fleet.gateway.admin(&["fleet", "retire", &node]).unwrap();
    let gone = fleet.nodes.remove(3);
    drop(gone);
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!((fleet.gateway.metric(REPAIRED), owing(&fleet)), (before, 0), "something was rebuilt");
    fleet.nodes[0].kill();
    fleet.nodes[1].kill();
    all_read(&s3, 0..160, 200_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_is_stopped_by_resume() {
    let fleet = Fleet::start(7, "[repair]\ninterval_seconds = 3600\n").unwrap();
    fill(&fleet, 0..20, 100_000).await;
    let node = fleet.nodes[0].id().to_owned();
    let held = of(&placed(&fleet), &node)["placed"].as_u64().unwrap();
    fleet.gateway.admin(&["fleet", "drain", &node]).unwrap();
    assert_eq!(of(&fleet.status().unwrap(), &node)["state"], "draining");
    fleet.gateway.admin(&["fleet", "resume", &node]).unwrap();
    let status = placed(&fleet);
    assert_eq!((of(&status, &node)["state"].as_str(), of(&status, &node)["placed"].as_u64()), (Some("active"), Some(held)));
    assert!(of(&status, &node)["drain"].is_null());
    // It is written to again: of twenty chunks in six shards on seven nodes it misses few.
    fill(&fleet, 20..40, 100_000).await;
    assert!(of(&placed(&fleet), &node)["placed"].as_u64().unwrap() > held);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_write_leaves_owing_is_delivered_within_seconds_and_not_at_the_next_round() {
    let mut fleet = Fleet::start(7, "[repair]\ninterval_seconds = 3600\n").unwrap();
    fill(&fleet, 0..1, 100_000).await;
    // It takes connections and bytes, and answers nothing: puts to it are given up after the quorum.
    fleet.nodes[2].pause();
    let s3 = fill(&fleet, 1..25, 100_000).await;
    assert!(fleet.gateway.metric("breakwater_path_shards_left_owing_total") > 0.0, "no write left anything owing");
    let began = Instant::now();
    while owing(&fleet) > 0 {
        assert!(began.elapsed() < Duration::from_secs(10), "{} chunks owe shards after ten seconds", owing(&fleet));
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("nothing is owed {:.1?} after the last write", began.elapsed());
    fleet.nodes[2].go_on();
    fleet.nodes[2].kill();
    fleet.nodes[3].kill();
    all_read(&s3, 0..25, 100_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_joins_gets_its_share_of_what_is_there_and_an_operator_can_stop_that() {
    let mut fleet = Fleet::bare("[rebalance]\nlook_seconds = 1\n").unwrap();
    let token = fleet.invite(&["--uses", "9"]).unwrap();
    for number in 0..8 {
        let mut node = fleet.node(number).unwrap();
        node.capacity = 64 << 20;
        node.start(Some(&token)).unwrap();
        fleet.nodes.push(node);
    }
    fleet.wait("all serve", |status| serving(status) == 8).unwrap();
    fill(&fleet, 0..160, 250_000).await;
    let before = placed(&fleet);
    let bytes = |fleet: &Fleet, status: &Value| -> Vec<u64> {
        fleet.nodes.iter().map(|node| of(status, node.id())["placed_bytes"].as_u64().unwrap()).collect()
    };
    assert!(bytes(&fleet, &before).iter().all(|bytes| *bytes > 4 << 20), "{before:#}");
    fleet.gateway.admin(&["fleet", "rebalance", "stop"]).unwrap();
    let mut ninth = fleet.node(8).unwrap();
    ninth.capacity = 64 << 20;
    ninth.start(Some(&token)).unwrap();
    let node = ninth.id().to_owned();
    fleet.nodes.push(ninth);
    fleet.wait("it serves", |status| serving(status) == 9).unwrap();
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(of(&placed(&fleet), &node)["placed"], 0, "shards were moved after a stop");
    fleet.gateway.restart().unwrap();
    fleet.wait("all serve again", |status| serving(status) == 9).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    let status = placed(&fleet);
    assert_eq!((&status["rebalance"]["stopped"], &of(&status, &node)["placed"]), (&true.into(), &0.into()), "a restart forgot the stop");
    let s3 = conformance::client::of(&fleet.gateway);
    fleet.gateway.admin(&["fleet", "rebalance", "start"]).unwrap();
    fleet
        .wait("it has its share", |status| {
            let balance = &status["rebalance"];
            balance["state"] == "level" && balance["bytes_moved"].as_u64() > Some(0)
        })
        .unwrap();
    let status = placed(&fleet);
    let all = bytes(&fleet, &status);
    let share = all.iter().sum::<u64>() / 9;
    // Within five percent, or a hundredth of the capacity.
    assert!(all.iter().all(|bytes| bytes.abs_diff(share) <= (share / 20).max((64 << 20) / 100)), "{all:?}, share {share}");
    assert_eq!(status["chunks"]["by_spare_shards"], serde_json::json!({ "2": 160 }));
    all_read(&s3, 0..160, 250_000).await;
}
