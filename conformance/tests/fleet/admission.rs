//! Who gets in, who stays, who is shut out.

use aws_sdk_s3::Client;
use conformance::client;
use conformance::content::Content;
use conformance::fleet::{Fleet, StorageNode, serving};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

const BUCKET: &str = "promises";

async fn bucket(fleet: &Fleet) -> Client {
    let client = client::of(&fleet.gateway);
    client.create_bucket().bucket(BUCKET).send().await.unwrap();
    client
}

async fn put(client: &Client, key: &str, seed: u64) {
    client.put_object().bucket(BUCKET).key(key).body(Content::dense(seed, 3 << 20).bytes().into()).send().await.unwrap();
}

async fn reads(client: &Client, key: &str, seed: u64) {
    let body = client.get_object().bucket(BUCKET).key(key).send().await.unwrap().body.collect().await.unwrap().into_bytes();
    assert_eq!(body, Content::dense(seed, 3 << 20).bytes());
}

fn refused(node: &mut StorageNode, token: Option<&str>) -> String {
    node.start(token).expect_err("the node joined").to_string()
}

#[test]
fn a_node_joins_with_an_invitation_that_is_open_and_with_no_other() {
    let fleet = Fleet::bare("").unwrap();
    let token = fleet.invite(&[]).unwrap();
    let mut first = fleet.node(0).unwrap();
    first.start(Some(&token)).unwrap();
    let mut second = fleet.node(1).unwrap();
    assert!(refused(&mut second, Some(&token)).contains("the invitation has been used"));
    let (head, tail) = token.split_at("bwjoin1/".len() + 64 + 1);
    let (secret, address) = tail.split_at(64);
    let other = if secret.starts_with('0') { "1" } else { "0" };
    let wrong_secret = format!("{head}{other}{}{address}", &secret[1..]);
    assert!(refused(&mut second, Some(&wrong_secret)).contains("no such invitation"));
    // The token's fingerprint is what the gateway is known by: another one's is a stranger, who never sees the secret.
    let wrong_ca = format!("bwjoin1/{}/{tail}", "ab".repeat(32));
    assert!(refused(&mut second, Some(&wrong_ca)).contains("not the fleet's gateway"));
    assert!(refused(&mut second, Some("bwjoin1/x")).contains("no invitation"));
    assert_eq!(fleet.status().unwrap()["nodes"].as_array().unwrap().len(), 1);
    // The refused one can still come, with an invitation of its own.
    second.start(Some(&fleet.invite(&[]).unwrap())).unwrap();
    fleet.wait("both serve", |status| serving(status) == 2).unwrap();
}

#[test]
fn a_second_start_needs_no_invitation_and_an_empty_folder_does() {
    let fleet = Fleet::bare("").unwrap();
    let mut node = fleet.node(0).unwrap();
    assert!(refused(&mut node, None).contains("--join"));
    assert!(!node.disk().join("node.json").exists(), "an empty folder became a node without an invitation");
    node.start(Some(&fleet.invite(&[]).unwrap())).unwrap();
    let id = node.id().to_owned();
    for secret in ["node-key", "fleet.json"] {
        let mode = fs::metadata(node.disk().join(secret)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{secret}");
    }
    fleet.wait("it serves", |status| serving(status) == 1).unwrap();
    assert_eq!(node.get_ops("/health/ready").unwrap().0, 200);
    assert!(node.get_ops("/metrics").unwrap().1.contains("breakwater_"));
    assert!(node.terminate(Duration::from_secs(30)).unwrap().success());
    node.start(None).unwrap();
    assert_eq!(node.id(), id);
    fleet.wait("it serves again", |status| serving(status) == 1).unwrap();
}

#[test]
fn a_disk_of_a_single_server_does_not_join_a_fleet() {
    let fleet = Fleet::bare("").unwrap();
    let mut single = conformance::server::Server::start().unwrap();
    assert!(single.terminate(Duration::from_secs(30)).unwrap().success());
    let mut node = fleet.node(0).unwrap();
    fs::rename(&single.disks()[0], node.disk()).unwrap();
    assert!(refused(&mut node, Some(&fleet.invite(&[]).unwrap())).contains("cannot join a fleet"));
    // Nothing of it changed: the server it belongs to takes it back.
    fs::rename(node.disk(), single.data().join("disk-0")).unwrap();
    single.restart().unwrap();
    let health: serde_json::Value = serde_json::from_str(&single.ops_get("/health/ready").unwrap().1).unwrap();
    assert_eq!(health["disks_serving"], 6);
}

#[test]
fn a_node_that_never_heard_that_it_was_admitted_joins_with_the_same_invitation() {
    let fleet = Fleet::bare("").unwrap();
    let mut node = fleet.node(0).unwrap();
    let token = fleet.invite(&[]).unwrap();
    node.start(Some(&token)).unwrap();
    let id = node.id().to_owned();
    node.kill();
    // As if it had died between the gateway's answer and writing it down.
    fs::remove_file(node.disk().join("fleet.json")).unwrap();
    assert!(refused(&mut node, None).contains("has joined no fleet"));
    node.start(Some(&token)).unwrap();
    assert_eq!(node.id(), id);
    // The same used invitation is worth nothing to anybody else.
    assert!(refused(&mut fleet.node(1).unwrap(), Some(&token)).contains("the invitation has been used"));
    fleet.wait("it serves", |status| serving(status) == 1).unwrap();
}

#[test]
fn certificates_are_renewed_in_the_background() {
    let fleet = Fleet::bare("[fleet]\ncertificate_seconds = 9\n").unwrap();
    let mut node = fleet.node(0).unwrap();
    node.start(Some(&fleet.invite(&[]).unwrap())).unwrap();
    fleet.wait("it serves", |status| serving(status) == 1).unwrap();
    let first = fleet.status().unwrap()["nodes"][0]["certificate_ends_ms"].as_u64().unwrap();
    // Three lives later it still serves: node and gateway have both renewed.
    std::thread::sleep(Duration::from_secs(27));
    let status = fleet.status().unwrap();
    assert_eq!(serving(&status), 1, "{status:#}\n{}", node.log());
    assert!(status["nodes"][0]["certificate_ends_ms"].as_u64().unwrap() >= first + 18_000);
    assert!(node.log().contains("the certificate was renewed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_node_gets_no_new_shards_and_is_still_read() {
    let fleet = Fleet::start(7, "").unwrap();
    let client = bucket(&fleet).await;
    put(&client, "before", 1).await;
    let shards: Vec<u64> = fleet.nodes.iter().map(StorageNode::shards).collect();
    let busy = shards.iter().position(|shards| *shards > 0).unwrap();
    let id = fleet.nodes[busy].id();
    fleet.gateway.admin(&["fleet", "suspend", &id[..12], "--reason", "smells odd"]).unwrap();
    let status = fleet.status().unwrap();
    let shown = status["nodes"].as_array().unwrap().iter().find(|node| node["node"] == id).unwrap().clone();
    assert_eq!((shown["state"].as_str(), shown["reason"].as_str()), (Some("suspended"), Some("smells odd")));
    for n in 0..4 {
        put(&client, &format!("after-{n}"), 10 + n).await;
    }
    assert_eq!(fleet.nodes[busy].shards(), shards[busy], "a suspended node got shards");
    reads(&client, "before", 1).await;
    fleet.gateway.admin(&["fleet", "resume", id]).unwrap();
    for n in 0..6 {
        put(&client, &format!("resumed-{n}"), 20 + n).await;
    }
    assert!(fleet.nodes[busy].shards() > shards[busy], "a resumed node got no shards");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retired_node_is_shut_out_and_what_it_had_is_made_again_elsewhere() {
    let mut fleet = Fleet::start(7, "").unwrap();
    let client = bucket(&fleet).await;
    for n in 0..3 {
        put(&client, &format!("key-{n}"), n).await;
    }
    let gone = fleet.nodes.iter().position(|node| node.shards() > 0).unwrap();
    let id = fleet.nodes[gone].id().to_owned();
    fleet.gateway.admin(&["fleet", "retire", &id]).unwrap();
    let began = std::time::Instant::now();
    loop {
        let status: serde_json::Value =
            serde_json::from_str(fleet.gateway.admin(&["fleet", "status", "--placed", "--json"]).unwrap().trim()).unwrap();
        let node = status["nodes"].as_array().unwrap().iter().find(|node| node["node"] == id.as_str()).unwrap().clone();
        assert_eq!(node["state"], "retired");
        let owed = fleet.gateway.admin(&["status", "--json"]).unwrap();
        let owed: serde_json::Value = serde_json::from_str(owed.trim()).unwrap();
        if node["placed"] == 0 && owed["chunks_owing_shards"] == 0 {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{status:#}\n{owed:#}");
        fleet.gateway.admin(&["repair"]).unwrap();
        std::thread::sleep(Duration::from_millis(500));
    }
    let others: Vec<usize> = (0..7).filter(|at| *at != gone).collect();
    // The list of those who are out has reached everyone else, and lies where a restart finds it.
    let told = |at: &usize| fleet.nodes[*at].disk().join("revocations").exists();
    fleet.wait("everyone has the list", |_| others.iter().all(told)).unwrap();
    // Two more may go: all six shards of every chunk are on others than the retired one.
    others.iter().take(2).for_each(|at| fleet.nodes[*at].kill());
    for n in 0..3 {
        reads(&client, &format!("key-{n}"), n).await;
    }
    // It cannot come back: neither as it was, nor with an invitation, nor after a restart of the gateway.
    let token = fleet.invite(&["--uses", "2"]).unwrap();
    fleet.nodes[gone].kill();
    fs::remove_file(fleet.nodes[gone].disk().join("fleet.json")).unwrap();
    assert!(refused(&mut fleet.nodes[gone], Some(&token)).contains("retired"));
    fleet.gateway.restart().unwrap();
    assert!(refused(&mut fleet.nodes[gone], Some(&token)).contains("retired"));
    assert!(fleet.gateway.admin(&["fleet", "resume", &id]).unwrap_err().to_string().contains("retired"));
}
