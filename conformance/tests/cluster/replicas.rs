//! Which metadata nodes have a replica of which group: those who come get theirs, those who leave are replaced, a lost disk fills again.

use aws_sdk_s3::Client;
use conformance::client;
use conformance::cluster::{Cluster, MetadataNode, Size, voting};
use conformance::program::Program;
use serde_json::Value;
use std::fs;
use std::time::{Duration, Instant};

const BUCKET: &str = "promises";
const LIMIT: Duration = Duration::from_secs(60);
/// Each in a range of its own after both splits.
const KEYS: [&str; 3] = ["a", "m", "t"];

fn map(cluster: &Cluster) -> Value {
    serde_json::from_str(cluster.gateways[0].admin(&["metadata", "map", "--json"]).unwrap().trim()).unwrap()
}

/// Waits until the map is as it should be.
fn until(cluster: &Cluster, what: &str, holds: impl Fn(&Value) -> bool) {
    let begun = Instant::now();
    loop {
        let map = map(cluster);
        if holds(&map) {
            return;
        }
        let logs = || cluster.metadata.iter().map(|node| node.log()).collect::<String>();
        assert!(begun.elapsed() < LIMIT, "not within {LIMIT:?}: {what}\n{map:#}\n{}", logs());
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn each_range(map: &Value, holds: impl Fn(&Value) -> bool) -> bool {
    let ranges = |kind: &str| map[kind].as_array().cloned().unwrap_or_default();
    ranges("names").iter().chain(&ranges("chunks")).all(|range| holds(&range["owner"]))
}

/// Every range has so many members, none of them at this address.
fn have(map: &Value, members: usize, not_at: &str) -> bool {
    each_range(map, |owner| {
        let all = owner["members"].as_array().cloned().unwrap_or_default();
        owner["leader"].is_string() && all.len() == members && all.iter().all(|member| member != not_at)
    })
}

/// Metadata processes that see to three replicas of each range, however many of them there are.
fn of_three() -> Program {
    Program { metadata: vec!["--replicas".into(), "3".into()], ..Program::default() }
}

async fn put(s3: &Client) {
    for key in KEYS {
        s3.put_object().bucket(BUCKET).key(key).body(b"x".to_vec().into()).send().await.unwrap();
    }
}

/// What a process itself says of its groups: how many it votes in.
fn votes(node: &MetadataNode) -> usize {
    let groups = node.ready().unwrap()["groups"].as_array().cloned().unwrap_or_default();
    groups.iter().filter(|group| group["votes"] == true).count()
}

/// Splits names twice and chunks once: four groups with the root's.
fn split(cluster: &Cluster) {
    for (number, arguments) in
        [["split", "--at", "promises/h"], ["split", "--at", "promises/p"], ["split", "--chunk", "8"]].iter().enumerate()
    {
        cluster.gateways[0].admin(&[&["metadata"], &arguments[..]].concat()).unwrap();
        let done =
            |map: &Value| map["moves"].as_array().is_some_and(|all| all.len() == number + 1 && all.iter().all(|one| one["step"] == "Done"));
        until(cluster, "the split is done", done);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_joins_gets_replicas_of_all_that_lack_them_and_who_is_removed_is_replaced() {
    let place = tempfile::Builder::new().prefix("breakwater-replicas-").tempdir().unwrap();
    let mut cluster = Cluster::of(of_three(), place, Size { metadata: 1, gateways: 1, nodes: 0 }).unwrap();
    let s3 = client::of(&cluster.gateways[0]);
    s3.create_bucket().bucket(BUCKET).send().await.unwrap();
    split(&cluster);
    for number in 1..3 {
        let mut node = MetadataNode::new(&cluster.place().join(format!("late-{number}")), None).unwrap();
        node.program = of_three();
        node.start(&["--join", &cluster.invite("metadata", &[]).unwrap()]).unwrap();
        cluster.metadata.push(node);
    }
    until(&cluster, "three replicas of everything", |map| have(map, 3, ""));
    put(&s3).await;
    // The first one, which had everything alone, is not needed any more.
    cluster.metadata[0].kill();
    put(&s3).await;
    cluster.metadata[0].start(&[]).unwrap();
    cluster.wait("all vote", |status| voting(status) == 3).unwrap();
    // A fourth has nothing to do, until one of the three is taken out.
    let mut node = MetadataNode::new(&cluster.place().join("late-3"), None).unwrap();
    node.program = of_three();
    node.start(&["--join", &cluster.invite("metadata", &[]).unwrap()]).unwrap();
    cluster.metadata.push(node);
    cluster.wait("four vote", |status| voting(status) == 4).unwrap();
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(votes(&cluster.metadata[3]), 1, "the root's alone");
    let (id, address) = (cluster.metadata[0].id.clone(), cluster.metadata[0].endpoint().unwrap().address);
    cluster.gateways[0].admin(&["metadata", "remove", &id]).unwrap();
    assert!(have(&map(&cluster), 3, &address), "replaced before it was gone: {:#}", map(&cluster));
    assert_eq!(votes(&cluster.metadata[3]), 4);
    cluster.metadata[0].kill();
    put(&s3).await;
    let listed = s3.list_objects_v2().bucket(BUCKET).send().await.unwrap();
    assert_eq!(listed.contents().len(), KEYS.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_lost_disk_fills_again_in_every_group() {
    let mut cluster = Cluster::start(Size { metadata: 3, gateways: 1, nodes: 0 }, "").unwrap();
    let s3 = client::of(&cluster.gateways[0]);
    s3.create_bucket().bucket(BUCKET).send().await.unwrap();
    split(&cluster);
    put(&s3).await;
    let lost = cluster.leader().expect("somebody leads");
    cluster.metadata[lost].kill();
    fs::remove_dir_all(cluster.metadata[lost].data().join("metadata")).unwrap();
    put(&s3).await;
    cluster.metadata[lost].start(&[]).unwrap();
    let begun = Instant::now();
    while votes(&cluster.metadata[lost]) < 4 {
        assert!(begun.elapsed() < LIMIT, "{:#}", cluster.metadata[lost].ready().unwrap());
        std::thread::sleep(Duration::from_millis(200));
    }
    until(&cluster, "three replicas of everything, and nobody of before", |map| have(map, 3, ""));
    // It counts now: another one is gone.
    cluster.metadata[(lost + 1) % 3].kill();
    put(&s3).await;
    let listed = s3.list_objects_v2().bucket(BUCKET).send().await.unwrap();
    assert_eq!(listed.contents().len(), KEYS.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_five_metadata_nodes_any_two_may_be_lost_in_every_group() {
    let mut cluster = Cluster::start(Size { metadata: 5, gateways: 1, nodes: 0 }, "").unwrap();
    let s3 = client::of(&cluster.gateways[0]);
    s3.create_bucket().bucket(BUCKET).send().await.unwrap();
    split(&cluster);
    until(&cluster, "five replicas of everything", |map| have(map, 5, ""));
    put(&s3).await;
    let leader = cluster.leader().expect("somebody leads");
    for at in [leader, (leader + 1) % 5] {
        cluster.metadata[at].kill();
    }
    put(&s3).await;
    let listed = s3.list_objects_v2().bucket(BUCKET).send().await.unwrap();
    assert_eq!(listed.contents().len(), KEYS.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_metadata_node_that_starts_at_another_address_is_found_there() {
    let mut cluster = Cluster::start(Size { metadata: 3, gateways: 1, nodes: 0 }, "").unwrap();
    let s3 = client::of(&cluster.gateways[0]);
    s3.create_bucket().bucket(BUCKET).send().await.unwrap();
    split(&cluster);
    put(&s3).await;
    let leader = cluster.leader().expect("somebody leads");
    let moves = (leader + 1) % 3;
    let before = cluster.metadata[moves].endpoint().unwrap().address;
    cluster.metadata[moves].kill();
    cluster.metadata[moves].elsewhere();
    cluster.metadata[moves].start(&[]).unwrap();
    let after = cluster.metadata[moves].endpoint().unwrap().address;
    assert_ne!(before, after);
    until(&cluster, "every group knows the new address", |map| have(map, 3, &before));
    let at = |status: &Value| status["nodes"].as_array().is_some_and(|nodes| nodes.iter().any(|node| node["address"] == after.as_str()));
    cluster.wait("all vote, one of them elsewhere", |status| voting(status) == 3 && at(status)).unwrap();
    // Without it the last one would be alone.
    cluster.metadata[leader].kill();
    put(&s3).await;
    let listed = s3.list_objects_v2().bucket(BUCKET).send().await.unwrap();
    assert_eq!(listed.contents().len(), KEYS.len());
}
