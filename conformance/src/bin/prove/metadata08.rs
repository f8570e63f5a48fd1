//! Row 8 of the metadata cluster: replicas deleted, first one, then all of them, and then everything that a node has.
//!
//! First part: the leader's replica deleted while clients write; it must come back by itself, be needed (another node is killed) and show
//! the same listing. Second part: names and chunks are split, so that there are three groups, a copy is put into the store, more is written,
//! and all three replicas are deleted. What is left is what storage nodes hold, the root key and an export. A scratch gateway that knows no
//! metadata finds the copy by its chunks; the first metadata node founds the cluster again, empty, and it is restored; the others join. Then:
//! the listing as of the copy, through every gateway; bodies read back byte for byte; nothing collected or swept while it is held, though a
//! collector of seconds and the operator's own sweep try; and once reconciled, the collection goes on by itself. Third part: the leader's whole
//! folder is deleted, its key and its papers too, while there are several groups. It is nobody any more: another node is invited and joins,
//! the old one is removed, and the listing is the same, also with another node dead.

use crate::row::{FAST_COLLECTOR, Outcome, Run, Said, runtime};
use aws_sdk_s3::Client;
use conformance::client;
use conformance::cluster::{Cluster, MetadataNode, USUAL, voting};
use conformance::content::Content;
use conformance::fleet::StorageNode;
use conformance::server::{Server, Settings};
use futures::StreamExt;
use futures::stream;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

const BUCKET: &str = "objects";
/// Where names are split before the copy is made.
const SPLIT: &str = "objects/k/001500";
/// Every so many objects has a body of a chunk of its own, of this many bytes.
const LARGE_EVERY: usize = 250;
const LARGE: usize = 100_000;
/// How long an idle collector is watched that must not do anything: many times its interval and grace.
const WATCHED: Duration = Duration::from_secs(10);
/// How long a split, and a change of who has replicas of the groups, may take.
const PATIENCE: Duration = Duration::from_secs(300);

pub fn run(run: &Run) -> Outcome {
    let count = run.size(50_000, 3_000);
    let mut cluster = Cluster::start(USUAL, FAST_COLLECTOR).said("a cluster")?;
    let runtime = runtime()?;
    let clients: Vec<Client> = cluster.gateways.iter().map(client::of).collect();
    runtime.block_on(clients[0].create_bucket().bucket(BUCKET).send()).said("a bucket")?;
    runtime.block_on(write(&clients, 0..count))?;
    println!("  {count} objects are there");
    let more = count + count / 10;
    let caught_up = one(&mut cluster, &runtime, &clients, count..more)?;
    let all = all(&mut cluster, &runtime, &clients, more)?;
    let instead = whole(&mut cluster, &runtime, &clients, more..more + count / 20)?;
    Ok(format!(
        "the leader's replica of {more} objects deleted: caught up by itself in {caught_up:.1?}, same listing hash through 3 gateways with another node dead; all three deleted: {all}; the leader's whole folder deleted: another node invited in its place, with replicas of all groups, and the old one removed after {instead:.1?}, same listing hash with another node dead"
    ))
}

/// The first part; how long catching up took.
fn one(cluster: &mut Cluster, runtime: &Runtime, clients: &[Client], range: std::ops::Range<usize>) -> Result<Duration, String> {
    let more = range.end;
    let lost = cluster.leader().ok_or("nobody leads")?;
    cluster.metadata[lost].kill();
    fs::remove_dir_all(replica(cluster, lost)).said("delete a replica")?;
    runtime.block_on(write(clients, range))?;
    let (listed, before) = runtime.block_on(list(&clients[0]))?;
    if listed != more {
        return Err(format!("{listed} of {more} objects are listed"));
    }
    let began = Instant::now();
    cluster.metadata[lost].start(&[]).said("start it again")?;
    cluster.wait("all vote", |status| voting(status) == 3).said("catching up")?;
    let caught_up = began.elapsed();
    println!("  node {lost} led, lost its replica, and votes again after {caught_up:.1?}");
    let other = (lost + 1) % 3;
    cluster.metadata[other].kill();
    same_listing(runtime, clients, before)?;
    cluster.metadata[other].start(&[]).said("start the other one again")?;
    cluster.wait("all vote", |status| voting(status) == 3).said("the other one's return")?;
    Ok(caught_up)
}

/// The second part; its figure.
fn all(cluster: &mut Cluster, runtime: &Runtime, clients: &[Client], count: usize) -> Outcome {
    for place in [["--at", SPLIT], ["--chunk", "80"]] {
        cluster.moved(&[&["split"], &place[..]].concat(), PATIENCE)?;
    }
    let (_, before) = runtime.block_on(list(&clients[0]))?;
    let (escrow, copy) = (cluster.place().join("escrow"), cluster.place().join("copy"));
    cluster.gateways[0].admin(&["export", "--out", &text(&escrow)]).said("export")?;
    let began = Instant::now();
    let kept = json(&cluster.gateways[1], &["metadata", "snapshot"])?;
    let took = began.elapsed();
    println!("  a copy of {} rows, {} bytes, is in the store after {took:.1?}", kept["rows"], kept["bytes"]);
    runtime.block_on(write(clients, count..count + count / 20))?;
    // What writes left owing would arrive meanwhile.
    cluster.gateways[0].admin(&["repair"]).said("repair")?;
    let on_nodes = shards(cluster);
    for node in 0..3 {
        cluster.metadata[node].kill();
        fs::remove_dir_all(replica(cluster, node)).said("delete a replica")?;
    }
    let began = Instant::now();
    let found = find(cluster, &escrow, &copy)?;
    println!("  all replicas are gone; the copy is found again by its chunks after {:.1?}", began.elapsed());
    if found["rows"] != kept["rows"] || found["made_ms"] != kept["made_ms"] {
        return Err(format!("another copy was found: {found} instead of {kept}"));
    }
    let silent = runtime.block_on(clients[2].list_objects_v2().bucket(BUCKET).send());
    if silent.is_ok() {
        return Err("a listing was answered while there is no metadata".into());
    }
    let gone = [1, 2].map(|other: usize| cluster.metadata[other].id.clone());
    cluster.metadata[0].start(&["--found-again", "--gone", &gone[0], "--gone", &gone[1]]).said("found again")?;
    let empty = runtime.block_on(clients[2].list_objects_v2().bucket(BUCKET).send());
    if empty.is_ok() {
        return Err("a listing was answered before metadata was restored".into());
    }
    cluster.gateways[0].admin(&["metadata", "restore", &text(&copy)]).said("restore")?;
    let restored = began.elapsed();
    for node in 1..3 {
        cluster.metadata[node].start(&[]).said("start another node")?;
    }
    cluster.wait("all vote", |status| voting(status) == 3).said("the others' joining")?;
    println!("  restored after {restored:.1?}, three nodes vote after {:.1?}", began.elapsed());
    same_listing(runtime, clients, before)?;
    let read = runtime.block_on(read_back(clients, count))?;
    nothing_is_collected(cluster, on_nodes)?;
    let reconciled = json(&cluster.gateways[0], &["metadata", "reconcile"])?;
    if reconciled["released"] != true {
        return Err(format!("not reconciled: {reconciled}"));
    }
    collection_goes_on(cluster, on_nodes)?;
    Ok(format!(
        "a copy of {} rows found in the store without metadata and restored in {restored:.1?} (taken in {took:.1?}), same listing hash through 3 gateways, {read} bodies read back, 0 shards collected or swept in {WATCHED:?} before reconciliation",
        kept["rows"]
    ))
}

/// The third part; how long it took until another node was there in the place of the one that is lost.
fn whole(cluster: &mut Cluster, runtime: &Runtime, clients: &[Client], range: std::ops::Range<usize>) -> Result<Duration, String> {
    let end = range.end;
    let lost = cluster.leader().ok_or("nobody leads")?;
    let old = cluster.metadata[lost].id.clone();
    cluster.metadata[lost].kill();
    fs::remove_dir_all(cluster.metadata[lost].data()).said("delete a node's folder")?;
    runtime.block_on(write(clients, range))?;
    let (listed, before) = runtime.block_on(list(&clients[0]))?;
    if listed != end {
        return Err(format!("{listed} of {end} objects are listed while a node is lost"));
    }
    let began = Instant::now();
    let mut node = MetadataNode::new(&cluster.place().join("metadata-instead"), None).said("a folder for another node")?;
    let token = cluster.invite("metadata", &[]).said("an invitation")?;
    node.start(&["--join", &token]).said("start another node")?;
    cluster.metadata[lost] = node;
    cluster.wait("another one votes", |status| voting(status) == 3).said("another node's joining")?;
    remove(cluster, &old)?;
    // With the new one in all groups, any one of the others may be missing.
    full(cluster)?;
    let took = began.elapsed();
    println!("  node {lost} led and lost its folder; another one is there in its place, and it is removed, after {took:.1?}");
    let other = (lost + 1) % 3;
    cluster.metadata[other].kill();
    same_listing(runtime, clients, before)?;
    cluster.metadata[other].start(&[]).said("start the other one again")?;
    cluster.wait("all vote", |status| voting(status) == 3).said("the other one's return")?;
    Ok(took)
}

/// Takes a node out for good, asking again while what it has goes to others.
fn remove(cluster: &Cluster, node: &str) -> Result<(), String> {
    let began = Instant::now();
    loop {
        match cluster.order(&["remove", node]) {
            Ok(_) => return Ok(()),
            Err(error) if began.elapsed() > PATIENCE => return Err(format!("the lost node is not removed: {error}")),
            Err(_) => std::thread::sleep(Duration::from_secs(1)),
        }
    }
}

/// Waits until every group has three voters.
fn full(cluster: &Cluster) -> Result<(), String> {
    let began = Instant::now();
    loop {
        let map = cluster.map().said("the map")?;
        let ranges: Vec<&Value> = ["names", "chunks"].iter().filter_map(|kind| map[kind].as_array()).flatten().collect();
        let voters = |range: &&Value| range["owner"]["members"].as_array().map_or(0, Vec::len);
        if !ranges.is_empty() && ranges.iter().all(|range| voters(range) == 3) {
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("not every group has three voters after {PATIENCE:?}: {map:#}"));
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// A gateway that has the root key and the export alone looks for the copy.
fn find(cluster: &Cluster, escrow: &Path, copy: &Path) -> Result<Value, String> {
    let place = cluster.place().join("scratch");
    fs::create_dir_all(place.join("data")).said("a scratch folder")?;
    let key = place.join("data/root-key");
    fs::copy(cluster.gateways[0].data().join("root-key"), &key).said("the root key")?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).said("the root key's mode")?;
    let arguments = vec!["--recover".to_string(), text(escrow)];
    let settings = Settings { place: Some(place), gateway: true, arguments, ..Settings::default() };
    let scratch = Server::start_with(settings).said("a scratch gateway")?;
    let began = Instant::now();
    while conformance::fleet::serving(&json(&scratch, &["fleet", "status"])?) < cluster.nodes.len() {
        if began.elapsed() > Duration::from_secs(60) {
            return Err("the scratch gateway does not see all nodes".into());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let indexed = json(&scratch, &["fleet", "reindex"])?;
    println!("  re-indexed: {} chunks of {} shards", indexed["restored"], indexed["shards"]);
    json(&scratch, &["metadata", "fetch", "--out", &text(copy)])
}

fn nothing_is_collected(cluster: &Cluster, on_nodes: u64) -> Result<(), String> {
    let held = |gateway: &Server| json(gateway, &["collection", "status"]).map(|status| status["held"] == true);
    if !held(&cluster.gateways[0])? {
        return Err("the collection is not held".into());
    }
    for gateway in &cluster.gateways {
        gateway.admin(&["collect", "--sweep"]).said("an operator's collection")?;
    }
    std::thread::sleep(WATCHED);
    let now = shards(cluster);
    let collected: f64 = cluster.gateways.iter().map(|gateway| gateway.metric("breakwater_collector_chunks_deleted_total")).sum();
    let orphans: f64 = cluster.gateways.iter().map(|gateway| gateway.metric("breakwater_sweep_orphan_shards_total")).sum();
    if now != on_nodes || collected > 0.0 || orphans > 0.0 {
        return Err(format!("before reconciliation {collected} chunks and {orphans} orphans were deleted; {on_nodes} shards became {now}"));
    }
    Ok(())
}

/// What was written after the copy has no name any more: an operator's sweep takes it, now that it may. It is more than a sweep takes at
/// once without being told to halt, unless it is little.
fn collection_goes_on(cluster: &Cluster, on_nodes: u64) -> Result<(), String> {
    let swept = json(&cluster.gateways[0], &["collect", "--sweep"])?;
    let now = shards(cluster);
    println!("  the collection goes on: {on_nodes} shards before, {now} after an operator's sweep: {}", swept["swept"]);
    if now > on_nodes { Err("there are more shards than before".into()) } else { Ok(()) }
}

fn replica(cluster: &Cluster, node: usize) -> PathBuf {
    cluster.metadata[node].data().join("metadata")
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn json(gateway: &Server, arguments: &[&str]) -> Result<Value, String> {
    let printed = gateway.admin(&[arguments, &["--json"]].concat()).said("an admin command")?;
    serde_json::from_str(printed.trim()).said("its answer")
}

fn shards(cluster: &Cluster) -> u64 {
    cluster.nodes.iter().map(StorageNode::shards).sum()
}

fn body(number: usize) -> Vec<u8> {
    if number.is_multiple_of(LARGE_EVERY) {
        Content::dense(number as u64, LARGE).bytes().to_vec()
    } else {
        format!("{number}").into_bytes()
    }
}

fn key(number: usize) -> String {
    format!("k/{number:06}")
}

async fn write(clients: &[Client], range: std::ops::Range<usize>) -> Result<(), String> {
    let puts = range.map(|number| {
        let client = &clients[number % clients.len()];
        client.put_object().bucket(BUCKET).key(key(number)).body(body(number).into()).send()
    });
    let mut puts = stream::iter(puts).buffer_unordered(32);
    while let Some(put) = puts.next().await {
        put.said("a write")?;
    }
    Ok(())
}

/// Reads every body of a chunk, and some of the others; how many.
async fn read_back(clients: &[Client], count: usize) -> Result<usize, String> {
    let some = (0..count).step_by(LARGE_EVERY / 2);
    let gets = some.map(|number| async move {
        let got = clients[number % clients.len()].get_object().bucket(BUCKET).key(key(number)).send().await.said("a read")?;
        let got = got.body.collect().await.said("a body")?.into_bytes();
        if got == body(number) { Ok(()) } else { Err(format!("{} reads back as something else", key(number))) }
    });
    let read: Vec<Result<(), String>> = stream::iter(gets).buffer_unordered(16).collect().await;
    let count = read.len();
    read.into_iter().collect::<Result<Vec<()>, String>>().map(|_| count)
}

fn same_listing(runtime: &Runtime, clients: &[Client], before: blake3::Hash) -> Result<(), String> {
    for client in clients {
        if runtime.block_on(list(client))?.1 != before {
            return Err("the listing is another one".into());
        }
    }
    Ok(())
}

/// How many objects are listed, and a hash of all their keys and etags.
async fn list(client: &Client) -> Result<(usize, blake3::Hash), String> {
    let (mut count, mut hash) = (0, blake3::Hasher::new());
    let mut pages = client.list_objects_v2().bucket(BUCKET).into_paginator().send();
    while let Some(page) = pages.next().await {
        for object in page.said("a page")?.contents() {
            count += 1;
            hash.update(object.key().unwrap_or_default().as_bytes()).update(object.e_tag().unwrap_or_default().as_bytes());
        }
    }
    Ok((count, hash.finalize()))
}
