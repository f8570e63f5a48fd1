//! Nodes that prove what they hold, and nodes that cannot.

use conformance::client::{self, Judge};
use conformance::content::{Content, Dice};
use conformance::fleet::{Fleet, serving};
use conformance::rot::{Spoiled, spoil};
use serde_json::Value;
use std::collections::HashSet;
use std::fs;
use std::process::Output;
use std::time::{Duration, Instant};

const CONFIG: &str = "[repair]\ninterval_seconds = 1\n";

async fn fill(fleet: &Fleet, objects: u64) {
    let client = client::of(&fleet.gateway);
    client.create_bucket().bucket("audited").send().await.judged().unwrap();
    for n in 0..objects {
        let body = Content::dense(n, 100_000).bytes();
        client.put_object().bucket("audited").key(n.to_string()).body(body.into()).send().await.judged().unwrap();
    }
}

/// Stops the node, spoils its disk, starts it with `arguments`.
async fn spoiled(fleet: &mut Fleet, node: usize, flipped: usize, removed: usize, arguments: &[&str]) -> Spoiled {
    let nodes = fleet.nodes.len();
    let node = &mut fleet.nodes[node];
    node.terminate(Duration::from_secs(20)).unwrap();
    let done = spoil(node.disk(), &mut Dice::new(5), &mut HashSet::new(), |_| flipped, removed).await.unwrap();
    node.arguments = arguments.iter().map(|argument| argument.to_string()).collect();
    node.start(None).unwrap();
    fleet.wait("the node is back", |status| serving(status) == nodes).unwrap();
    done
}

fn audit(fleet: &Fleet, arguments: &[&str]) -> Output {
    let data = fleet.gateway.data().to_string_lossy().into_owned();
    fleet.gateway.run(&[&["admin", "audit", "--data", &data], arguments].concat()).unwrap()
}

fn owed(fleet: &Fleet) -> u64 {
    let status: Value = serde_json::from_str(fleet.gateway.admin(&["status"]).unwrap().trim()).unwrap();
    status["chunks_owing_shards"].as_u64().unwrap()
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(90), "not in time: {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_prove_what_they_hold_and_the_transcript_checks_without_a_server() {
    let mut fleet = Fleet::start(6, CONFIG).unwrap();
    fill(&fleet, 12).await;
    let file = fleet.place().join("transcript.json");
    let path = file.to_string_lossy().into_owned();
    let done = audit(&fleet, &["--count", "7", "--out", &path]);
    assert!(done.status.success(), "{done:?}");
    fleet.gateway.kill();
    let verify = || fleet.gateway.run(&["admin", "audit", "verify", &path, "--json"]).unwrap();
    let checked = verify();
    assert!(checked.status.success(), "{checked:?}");
    let shown: Value = serde_json::from_slice(&checked.stdout).unwrap();
    let nodes = shown.as_array().unwrap();
    assert_eq!(nodes.len(), 6);
    assert!(nodes.iter().all(|node| (node["placed"].as_u64(), node["proven"].as_u64()) == (Some(12), Some(7))), "{shown}");
    // One hexadecimal digit of one root.
    let text = fs::read_to_string(&file).unwrap();
    let at = text.find("\"root\":\"").unwrap() + 10;
    let other = if &text[at..=at] == "0" { "1" } else { "0" };
    fs::write(&file, [&text[..at], other, &text[at + 1..]].concat()).unwrap();
    assert_eq!(verify().status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rots_or_vanishes_on_a_node_is_found_by_its_scrub_and_made_again() {
    let mut fleet = Fleet::start(7, CONFIG).unwrap();
    fill(&fleet, 40).await;
    let spoiled = spoiled(&mut fleet, 2, 3, 3, &["--scrub-round", "2"]).await;
    let named = |log: &str| {
        let all = spoiled.flipped.iter().chain(&spoiled.removed);
        all.filter(|name| log.lines().any(|line| line.contains("made again") && line.contains(&name.chunk.to_string()))).count()
    };
    until("all six are named and made again", || named(&fleet.gateway.log()) == 6 && owed(&fleet) == 0);
    fleet.gateway.admin(&["fsck", "--deep"]).unwrap();
    let status = fleet.status().unwrap();
    let node = status["nodes"].as_array().unwrap().iter().find(|node| node["node"] == fleet.nodes[2].id()).unwrap();
    assert_eq!((node["state"].as_str(), node["scrub"]["found"].as_u64()), (Some("active"), Some(3)), "{node}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_prove_three_slices_is_suspended_and_emptied() {
    let mut fleet = Fleet::start(7, CONFIG).unwrap();
    fill(&fleet, 40).await;
    spoiled(&mut fleet, 1, 4, 0, &[]).await;
    let node = fleet.nodes[1].id().to_owned();
    let done = audit(&fleet, &["--node", &node[..12], "--count", "2000"]);
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    let of = |status: &Value| status["nodes"].as_array().unwrap().iter().find(|one| one["node"] == node.as_str()).unwrap().clone();
    fleet.wait("it is suspended", |status| of(status)["state"] == "suspended").unwrap();
    let reason = of(&fleet.status().unwrap())["reason"].as_str().unwrap().to_owned();
    assert!(reason.starts_with("audit: "), "{reason}");
    until("it is emptied", || {
        let printed = fleet.gateway.admin(&["fleet", "status", "--placed", "--json"]).unwrap();
        of(&serde_json::from_str(printed.trim()).unwrap())["placed"] == 0 && owed(&fleet) == 0
    });
    fleet.gateway.admin(&["fsck", "--deep"]).unwrap();
}
