//! Faults of single hosts that are not simply gone: cables that carry one way, slow ones, full disks, clocks that are years off.

use aws_sdk_s3::Client;
use conformance::client::{self, Judge};
use conformance::content::Content;
use conformance::fleet::{Fleet, StorageNode, serving};
use conformance::hosts::{HostError, Network};
use conformance::loop_disk::{LoopDisk, LoopError};
use conformance::tools::not_run;
use serde_json::Value;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

const BUCKET: &str = "promises";
const NODES: usize = 7;
const CONFIG: &str = "[repair]\ninterval_seconds = 1\n";
/// Seconds of ten years.
const TEN_YEARS: i64 = 315_360_000;

/// A network of its own, or why that cannot be seen here.
fn network() -> Option<Network> {
    match Network::new() {
        Ok(network) => Some(network),
        Err(error) => {
            assert!(matches!(error, HostError::NotRoot | HostError::Missing(_)), "{error}");
            not_run(&error);
            None
        }
    }
}

fn on_hosts(network: &mut Network) -> (Fleet, Runtime, Client) {
    let temp = tempfile::Builder::new().prefix("breakwater-faults-").tempdir().unwrap();
    let fleet = Fleet::on_hosts(network, temp, NODES, 3, CONFIG).unwrap();
    // After the network, so that its threads are in it.
    let runtime = Runtime::new().unwrap();
    let client = client::of(&fleet.gateway);
    runtime.block_on(client.create_bucket().bucket(BUCKET).send()).unwrap();
    (fleet, runtime, client)
}

/// Writes an object of a mebibyte and reads it and the first one back.
async fn write_and_read(client: &Client, seed: u64) {
    let body = |seed| Content::dense(seed, 1 << 20).bytes();
    client.put_object().bucket(BUCKET).key(seed.to_string()).body(body(seed).into()).send().await.judged().unwrap();
    for key in [0, seed] {
        let got = client.get_object().bucket(BUCKET).key(key.to_string()).send().await.judged().unwrap();
        assert!(got.body.collect().await.unwrap().into_bytes() == body(key), "object {key}");
    }
}

fn seen(fleet: &Fleet, node: &StorageNode) -> String {
    let status = fleet.status().unwrap();
    let one = status["nodes"].as_array().unwrap().iter().find(|one| one["node"] == node.id()).unwrap().clone();
    one["seen"].as_str().unwrap_or_default().to_owned()
}

fn nothing_owed(fleet: &Fleet) {
    let began = Instant::now();
    loop {
        let status: Value = serde_json::from_str(fleet.gateway.admin(&["status"]).unwrap().trim()).unwrap();
        if status["chunks_owing_shards"] == 0 {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(90), "{status}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_node_that_only_hears_or_is_only_heard_counts_as_lost_until_both_ways_are_mended() {
    let Some(mut network) = network() else { return };
    let (fleet, runtime, client) = on_hosts(&mut network);
    runtime.block_on(write_and_read(&client, 0));
    for number in [1, 2] {
        let host = fleet.nodes[number].host.clone().unwrap();
        if number == 1 { host.mute() } else { host.deafen() }.unwrap();
        // Nobody is told: what is asked of it meanwhile has to go elsewhere in time.
        let began = Instant::now();
        runtime.block_on(write_and_read(&client, number as u64));
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
        fleet.wait("it is lost", |status| serving(status) == NODES - 1).unwrap();
        runtime.block_on(write_and_read(&client, 10 + number as u64));
        host.heal().unwrap();
        fleet.wait("it is back", |status| serving(status) == NODES).unwrap();
    }
    nothing_owed(&fleet);
    fleet.gateway.admin(&["fsck", "--deep"]).unwrap();
}

#[test]
fn a_node_behind_a_slow_link_holds_up_neither_writes_nor_reads() {
    let Some(mut network) = network() else { return };
    let (fleet, runtime, client) = on_hosts(&mut network);
    runtime.block_on(write_and_read(&client, 0));
    let host = fleet.nodes[0].host.clone().unwrap();
    // A shard of 256 KiB takes it eight seconds.
    host.slow(32).unwrap();
    let began = Instant::now();
    for seed in 1..=8 {
        runtime.block_on(write_and_read(&client, seed));
    }
    assert!(began.elapsed() < Duration::from_secs(40), "eight objects took {:?}", began.elapsed());
    host.heal().unwrap();
    fleet.wait("it is back", |status| serving(status) == NODES).unwrap();
    nothing_owed(&fleet);
    fleet.gateway.admin(&["fsck", "--deep"]).unwrap();
}

#[test]
fn writes_go_round_machines_that_fall_silent_before_they_are_missed() {
    let Some(mut network) = network() else { return };
    let (fleet, runtime, client) = on_hosts(&mut network);
    runtime.block_on(write_and_read(&client, 0));
    // Of seven machines five are left, and five is the quorum: most chunks need the one that was not meant to have a shard.
    let hosts = [1, 4].map(|number| fleet.nodes[number].host.clone().unwrap());
    hosts.iter().for_each(|host| host.link(false).unwrap());
    let began = Instant::now();
    for seed in 1..=3 {
        let body = Content::dense(seed, 1 << 20).bytes();
        runtime.block_on(client.put_object().bucket(BUCKET).key(seed.to_string()).body(body.into()).send()).unwrap();
    }
    // Missed is who gave no status for three times one and a half seconds.
    assert!(began.elapsed() < Duration::from_millis(4_000), "three objects took {:?}", began.elapsed());
    fleet.wait("they are missed", |status| serving(status) == NODES - 2).unwrap();
    hosts.iter().for_each(|host| host.link(true).unwrap());
    fleet.wait("they are back", |status| serving(status) == NODES).unwrap();
    for seed in 1..=3 {
        runtime.block_on(write_and_read(&client, seed));
    }
    nothing_owed(&fleet);
    fleet.gateway.admin(&["fsck", "--deep"]).unwrap();
}

#[test]
fn a_node_whose_disk_others_filled_takes_nothing_is_read_and_goes_on_when_there_is_room() {
    let place = tempfile::Builder::new().prefix("breakwater-full-").tempdir().unwrap();
    let disk = match LoopDisk::make(place.path(), 1 << 30) {
        Ok(disk) => disk,
        Err(error) => {
            assert!(matches!(error, LoopError::NotRoot | LoopError::Missing(_)), "{error}");
            return not_run(&error);
        }
    };
    let mut fleet = Fleet::start(NODES - 1, CONFIG).unwrap();
    let mut small = StorageNode::new(disk.path(), "small", "zone-0").unwrap();
    small.start(Some(&fleet.invite(&[]).unwrap())).unwrap();
    fleet.wait("all serve", |status| serving(status) == NODES).unwrap();
    let runtime = Runtime::new().unwrap();
    let client = client::of(&fleet.gateway);
    runtime.block_on(client.create_bucket().bucket(BUCKET).send()).unwrap();
    let mut seed = 0;
    while small.shards() < 3 {
        runtime.block_on(write_and_read(&client, seed));
        seed += 1;
        assert!(seed < 400, "no shard came to the small disk");
    }
    let filler = disk.fill(600 << 10).unwrap();
    fleet.wait("it says that it is full", |_| seen(&fleet, &small) == "full").unwrap();
    let held = small.shards();
    for _ in 0..4 {
        runtime.block_on(write_and_read(&client, seed));
        seed += 1;
    }
    assert_eq!(small.shards(), held, "a full disk got shards");
    // Two others die: what is on the full disk is needed now.
    let mut away: Vec<StorageNode> = fleet.nodes.drain(..2).collect();
    away.iter_mut().for_each(StorageNode::kill);
    fleet.wait("two are lost", |status| serving(status) == NODES - 3).unwrap();
    let read = |key: u64| {
        let got = runtime.block_on(client.get_object().bucket(BUCKET).key(key.to_string()).send()).unwrap();
        runtime.block_on(got.body.collect()).unwrap().into_bytes()
    };
    (0..seed).for_each(|key| assert!(read(key) == Content::dense(key, 1 << 20).bytes(), "object {key}"));
    away.iter_mut().for_each(|node| node.start(None).unwrap());
    std::fs::remove_file(filler).unwrap();
    fleet.wait("there is room again", |status| serving(status) == NODES).unwrap();
    let limit = seed + 400;
    while small.shards() == held {
        runtime.block_on(write_and_read(&client, seed));
        seed += 1;
        assert!(seed < limit, "with room again it got nothing");
    }
    small.terminate(Duration::from_secs(20)).unwrap();
}

/// The shared object that moves a process's clock, built beside the tests.
fn skewed_clock() -> PathBuf {
    let me = std::env::current_exe().unwrap();
    let found = me.ancestors().skip(1).map(|folder| folder.join("examples/libskewed_clock.so")).find(|path| path.is_file());
    found.expect("examples/libskewed_clock.so is built with the tests: cargo test --release, or cargo build --examples")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_clock_is_years_off_trusts_nobody_until_it_is_right_and_loses_nothing() {
    let clock = skewed_clock().to_string_lossy().into_owned();
    let mut fleet = Fleet::start(NODES, CONFIG).unwrap();
    let client = client::of(&fleet.gateway);
    client.create_bucket().bucket(BUCKET).send().await.judged().unwrap();
    for seed in 0..4 {
        write_and_read(&client, seed).await;
    }
    for (number, skew) in (1..).zip([TEN_YEARS, -TEN_YEARS]) {
        let before = fleet.nodes[number].shards();
        fleet.nodes[number].terminate(Duration::from_secs(20)).unwrap();
        fleet.nodes[number].environment = vec![("LD_PRELOAD".into(), clock.clone()), ("SKEWED_CLOCK_SECONDS".into(), skew.to_string())];
        fleet.nodes[number].start(None).unwrap();
        // To it, the gateway's certificate has run out, or is of the future; so it answers nobody, and nobody counts on it.
        std::thread::sleep(Duration::from_secs(5));
        fleet.wait("it is shut out", |status| serving(status) == NODES - 1).unwrap();
        write_and_read(&client, 10 + number as u64).await;
        fleet.nodes[number].terminate(Duration::from_secs(20)).unwrap();
        fleet.nodes[number].environment.clear();
        fleet.nodes[number].start(None).unwrap();
        fleet.wait("with the right time it is back", |status| serving(status) == NODES).unwrap();
        assert!(fleet.nodes[number].shards() >= before, "a wrong clock cost shards");
    }
    nothing_owed(&fleet);
    fleet.gateway.admin(&["fsck", "--deep"]).unwrap();
}
