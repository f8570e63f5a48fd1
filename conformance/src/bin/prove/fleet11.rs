//! Row 11 of the fleet: memory under all of it at once. RS 4+2 over eight nodes.
//!
//! For as long as the row takes, side by side: restic backups and restores; eight bodies of 64 MiB going up and eight coming down; nodes
//! that read all they hold over and over; audits of hundreds of slices; and nodes killed one after another, rebuilt on the others, and
//! back again. A node's memory counts with all of its mapped index in it, so that the index's size is what it may have beside.
//! Nodes keep what was overwritten in their trash for longer than the row takes: at full size it needs 20 GiB of disk, and bodies go up
//! in so many rounds and no more, spread over its time, while others come down all along.

use crate::row::{Outcome, Progress, Run, Said, mib, runtime};
use conformance::client::{self, Judge};
use conformance::content::Content;
use conformance::fleet::{Fleet, StorageNode, serving};
use conformance::restic::{Restic, made_tree};
use conformance::server::{Server, allocated};
use conformance::tools::compare_trees;
use futures::future::try_join_all;
use serde_json::Value;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const NODES: usize = 8;
const GATEWAY_BAR: u64 = 512 << 20;
const NODE_BAR: u64 = 256 << 20;
const BODY: usize = 64 << 20;
const AT_ONCE: u64 = 8;
/// Rounds in which bodies go up: 10 GiB of them, 15 GiB of shards.
const ROUNDS: u64 = 20;
const REBUILD_LIMIT: Duration = Duration::from_secs(300);
const CONFIG: &str = "[repair]\ninterval_seconds = 1\naway_seconds = 3\n[fleet]\naudits_per_day = 86400\n\
    [collector]\ninterval_seconds = 5\ngrace_seconds = 1\n";

/// What was done beside each other.
#[derive(Default)]
struct Done {
    restic: AtomicU64,
    bodies: AtomicU64,
    audits: AtomicU64,
    rebuilds: u64,
}

pub fn run(run: &Run) -> Outcome {
    let (time, files) = (Duration::from_secs(run.size(420, 60)), run.size(3_000, 400));
    let mut fleet = started()?;
    let home = fleet.place().join("home");
    std::fs::create_dir_all(&home).said("a home")?;
    let tree = made_tree(fleet.place(), files, run.seed).said("a tree")?;
    let target = fleet.place().join("restored");
    let (stop, mut done, mut peaks) = (AtomicBool::new(false), Done::default(), Peaks { gateway: 0, node: 0, over_index: 0 });
    let (gateway, nodes) = (&fleet.gateway, &mut fleet.nodes);
    std::thread::scope(|scope| {
        let work = [
            scope.spawn(|| backups(gateway, &home, &tree, &target, &stop, &done.restic)),
            scope.spawn(|| transfers(gateway, run.seed, time, &stop, &done.bodies)),
            scope.spawn(|| audits(gateway, &stop, &done.audits)),
        ];
        let killed = rebuilds(gateway, nodes, time, &mut peaks);
        stop.store(true, Ordering::SeqCst);
        for thread in work {
            thread.join().map_err(|_| "a thread of the load panicked".to_string())??;
        }
        killed
    })
    .map(|rebuilds| done.rebuilds = rebuilds)?;
    peaks.look(&fleet.gateway, &fleet.nodes);
    let figure = format!(
        "gateway {}, node {} ({} without its index), over {} restic runs, {} bodies of 64 MiB, {} audits, {} rebuilds",
        mib(peaks.gateway),
        mib(peaks.node),
        mib(peaks.over_index),
        done.restic.into_inner(),
        done.bodies.into_inner(),
        done.audits.into_inner(),
        done.rebuilds
    );
    if peaks.gateway <= GATEWAY_BAR && peaks.over_index <= NODE_BAR { Ok(figure) } else { Err(figure) }
}

fn started() -> Result<Fleet, String> {
    let mut fleet = Fleet::bare(CONFIG).said("a gateway")?;
    let token = fleet.invite(&["--uses", &NODES.to_string()]).said("invite")?;
    for number in 0..NODES {
        let mut node = fleet.node(number).said("a node's folder")?;
        node.arguments = vec!["--scrub-round".into(), "10".into()];
        node.start(Some(&token)).said("start a node")?;
        fleet.nodes.push(node);
    }
    fleet.wait("all nodes serve", |status| serving(status) == NODES).said("the fleet")?;
    Ok(fleet)
}

/// Most resident bytes so far.
struct Peaks {
    gateway: u64,
    node: u64,
    /// The most that a node had beside the size of its index.
    over_index: u64,
}

impl Peaks {
    fn look(&mut self, gateway: &Server, nodes: &[StorageNode]) {
        self.gateway = self.gateway.max(gateway.peak_rss());
        for node in nodes {
            let peak = node.peak_rss();
            self.node = self.node.max(peak);
            self.over_index = self.over_index.max(peak.saturating_sub(allocated(&node.disk().join("index"))));
        }
    }
}

/// Kills a node, waits until it is rebuilt, has it back, and goes on with the next, until `time` is over; how many were.
fn rebuilds(gateway: &Server, nodes: &mut [StorageNode], time: Duration, peaks: &mut Peaks) -> Result<u64, String> {
    let (began, mut progress, mut count) = (Instant::now(), Progress::new(), 0);
    // There has to be something to rebuild.
    wait(
        || {
            peaks.look(gateway, nodes);
            began.elapsed() > time / 6
        },
        "the first bodies",
    )?;
    while began.elapsed() < time || count == 0 {
        let at = count as usize % nodes.len();
        nodes[at].kill();
        let id = nodes[at].id().to_owned();
        wait(
            || {
                peaks.look(gateway, nodes);
                progress
                    .say(|| format!("{:.0} s, gateway {}, node {}", began.elapsed().as_secs_f64(), mib(peaks.gateway), mib(peaks.node)));
                placed_on(gateway, &id) == Some(0)
            },
            "a node's rebuild",
        )?;
        nodes[at].start(None).said("start it again")?;
        let up = || serving(&fleet_status(gateway).unwrap_or_default()) == NODES;
        wait(up, "all nodes serve")?;
        count += 1;
    }
    Ok(count)
}

fn wait(mut holds: impl FnMut() -> bool, what: &str) -> Result<(), String> {
    let began = Instant::now();
    while !holds() {
        if began.elapsed() > REBUILD_LIMIT {
            return Err(format!("not within {} s: {what}", REBUILD_LIMIT.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(300));
    }
    Ok(())
}

fn fleet_status(gateway: &Server) -> Option<Value> {
    serde_json::from_str(gateway.admin(&["fleet", "status", "--placed", "--json"]).ok()?.trim()).ok()
}

fn placed_on(gateway: &Server, node: &str) -> Option<u64> {
    fleet_status(gateway)?["nodes"].as_array()?.iter().find(|one| one["node"] == node)?["placed"].as_u64()
}

/// restic's backup, restore and comparison, again and again.
fn backups(gateway: &Server, home: &Path, tree: &Path, target: &Path, stop: &AtomicBool, count: &AtomicU64) -> Result<(), String> {
    let restic = Restic::new(gateway, "restic", home);
    restic.run(&["init"])?;
    while !stop.load(Ordering::SeqCst) {
        restic.run(&["backup", "--quiet", "--force", &tree.to_string_lossy()]).said("backup")?;
        restic.run(&["restore", "latest", "--target", &target.to_string_lossy()]).said("restore")?;
        let differences = compare_trees(tree, &target.join(tree.strip_prefix("/").unwrap_or(tree)));
        std::fs::remove_dir_all(target).said("restored")?;
        if let Some(first) = differences.first() {
            return Err(format!("{} differences after a restore: {first}", differences.len()));
        }
        count.fetch_add(1, Ordering::SeqCst);
    }
    Ok(())
}

/// Bodies coming down over and over, each compared, and others going up at once, [`ROUNDS`] times within `time`.
fn transfers(gateway: &Server, seed: u64, time: Duration, stop: &AtomicBool, count: &AtomicU64) -> Result<(), String> {
    let (runtime, client) = (runtime()?, client::of(gateway));
    runtime.block_on(async {
        client.create_bucket().bucket("bodies").send().await.judged().said("bucket")?;
        let content = |round: u64, n: u64| Content::dense(seed ^ (round << 8 | n), BODY);
        let put = |round: u64, n: u64| {
            let request = client.put_object().bucket("bodies").key(format!("{}/{n}", round % 2)).body(content(round, n).bytes().into());
            async move { request.send().await.judged().map(drop).said("put") }
        };
        let get = |round: u64, n: u64| {
            let request = client.get_object().bucket("bodies").key(format!("{}/{n}", round % 2));
            async move {
                let body = request.send().await.judged().said("get")?.body.collect().await.said("body")?.into_bytes();
                if body == content(round, n).bytes() { Ok(()) } else { Err(format!("body {n} of round {round} reads back wrong")) }
            }
        };
        try_join_all((0..AT_ONCE).map(|n| put(0, n))).await?;
        let (began, mut last) = (Instant::now(), 0);
        while !stop.load(Ordering::SeqCst) {
            let down = try_join_all((0..AT_ONCE).map(|n| get(last, n)));
            if last < ROUNDS && began.elapsed() >= time.mul_f64(last as f64 / ROUNDS as f64) {
                let up = try_join_all((0..AT_ONCE).map(|n| put(last + 1, n)));
                futures::try_join!(up, down)?;
                last += 1;
                count.fetch_add(AT_ONCE, Ordering::SeqCst);
            } else {
                down.await?;
            }
            count.fetch_add(AT_ONCE, Ordering::SeqCst);
        }
        Ok(())
    })
}

/// Audits of hundreds of slices of every node. A node that is dead leaves questions open, which is no failure.
fn audits(gateway: &Server, stop: &AtomicBool, count: &AtomicU64) -> Result<(), String> {
    let data = gateway.data().to_string_lossy().into_owned();
    while !stop.load(Ordering::SeqCst) {
        let output = gateway.run(&["admin", "audit", "--count", "300", "--json", "--data", &data]).said("audit")?;
        let shown: Value = serde_json::from_slice(&output.stdout).said(&format!("audit: {}", String::from_utf8_lossy(&output.stderr)))?;
        let failed: u64 = shown.as_array().map_or(0, |nodes| nodes.iter().filter_map(|node| node["failed"].as_u64()).sum());
        if failed > 0 {
            return Err(format!("honest nodes failed an audit: {shown}"));
        }
        count.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_secs(2));
    }
    Ok(())
}
