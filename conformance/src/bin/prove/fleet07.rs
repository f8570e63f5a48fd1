//! Row 7 of the fleet: four lying nodes of 24 at a time, RS 8+4, in two rounds, each of the eight lies once.
//!
//! A liar is an honest node's disk, key, certificate and address behind one lie (`conformance::liar`). Clients write and read all the
//! while and compare every byte. Each liar has to be suspended by the gateway and emptied; then the honest process takes its place again
//! and is resumed. With the four of the second round suspended, a fifth node lies: nobody more is suspended than chunks may lose shards,
//! and what it lies about is read from others. In the end every acknowledged object reads.

use crate::row::{Outcome, Run, Said, runtime};
use aws_sdk_s3::Client;
use conformance::client::{self, Failure, Judge};
use conformance::content::{Content, Dice};
use conformance::fleet::{Fleet, StorageNode, serving};
use conformance::liar::{CUT_SHARD, Lie, Lying};
use serde_json::Value;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

const NODES: usize = 24;
const AT_A_TIME: usize = 4;
/// Of one chunk; its shards are longer than what comes through a liar that cuts bodies off.
const OBJECT: usize = 8 * CUT_SHARD + 50_000;
const WORKERS: usize = 4;
const PAUSE: Duration = Duration::from_millis(60);
/// How long a liar may go unsuspended, and until it is empty.
const LIMIT: Duration = Duration::from_secs(300);
const BUCKET: &str = "lied-about";
/// A question a second and node; what takes hours happens in seconds.
const CONFIG: &str = "[coding]\ndata_shards = 8\nparity_shards = 4\n[repair]\ninterval_seconds = 1\n[fleet]\naudits_per_day = 86400\n";

pub fn run(run: &Run) -> Outcome {
    let (objects, fifth_for) = (run.size(600, 120), Duration::from_secs(run.size(60, 15)));
    let mut dice = run.dice();
    let mut fleet = Fleet::start(NODES, CONFIG).said("a fleet")?;
    let runtime = runtime()?;
    let clients = Clients::start(&fleet, &runtime, run.seed, objects)?;
    repaired(&fleet)?;
    println!("  {NODES} nodes, {objects} objects; clients write and read from now on");
    let mut honest: Vec<usize> = (0..NODES).collect();
    let mut slowest = Duration::ZERO;
    let mut told = 0;
    for (round, lies) in Lie::ALL.chunks(AT_A_TIME).enumerate() {
        let mut liars = Vec::new();
        for lie in lies {
            let at = honest.swap_remove(dice.below(honest.len()));
            liars.push((at, runtime.block_on(Lying::start(&mut fleet.nodes[at], *lie)).said("a liar")?));
        }
        slowest = slowest.max(suspended(&fleet, &liars, &clients)?);
        emptied(&fleet, &liars, &clients)?;
        if round == 1 {
            let at = honest.swap_remove(dice.below(honest.len()));
            fifth(&mut fleet, &runtime, &clients, at, fifth_for)?;
        }
        for (at, liar) in liars {
            told += liar.told();
            runtime.block_on(liar.stop()).said("stop a liar")?;
            fleet.nodes[at].start(None).said("the honest process")?;
            fleet.gateway.admin(&["fleet", "resume", fleet.nodes[at].id()]).said("resume")?;
        }
        fleet.wait("all nodes serve", |status| serving(status) == NODES).said("after a round")?;
    }
    repaired(&fleet)?;
    let (right, refused) = clients.stop(&runtime)?;
    let acknowledged = runtime.block_on(clients.verify())?;
    Ok(format!(
        "8 lies by 4 nodes at a time, told {told} times: all suspended (the last after {:.0} s) and emptied, a fifth not; {right} reads right, 0 wrong, {refused} requests refused; {acknowledged} acknowledged objects read in the end",
        slowest.as_secs_f64()
    ))
}

/// Waits until each is suspended; how long the last took.
fn suspended(fleet: &Fleet, liars: &[(usize, Lying)], clients: &Clients) -> Result<Duration, String> {
    let began = Instant::now();
    let mut open: Vec<&(usize, Lying)> = liars.iter().collect();
    while !open.is_empty() {
        clients.healthy()?;
        let status = fleet.status().said("status")?;
        open.retain(|(at, liar)| {
            let node = of(&status, &fleet.nodes[*at]);
            let reason = node["reason"].as_str().unwrap_or_default();
            let done = node["state"] == "suspended" && reason.starts_with("audit: ");
            if done {
                println!("  {:?}: suspended after {:.1} s", liar.lie(), began.elapsed().as_secs_f64());
            }
            !done
        });
        innocent(&status, fleet, liars)?;
        if began.elapsed() > LIMIT {
            let lies = open.iter().map(|(at, liar)| (liar.lie(), liar.told(), of(&status, &fleet.nodes[*at])["audit"].to_string()));
            return Err(format!("not suspended within {} s: {:?}", LIMIT.as_secs(), lies.collect::<Vec<_>>()));
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    Ok(began.elapsed())
}

/// Nobody who does not lie is suspended.
fn innocent(status: &Value, fleet: &Fleet, liars: &[(usize, Lying)]) -> Result<(), String> {
    for (at, process) in fleet.nodes.iter().enumerate().filter(|(at, _)| liars.iter().all(|(liar, _)| liar != at)) {
        let node = of(status, process);
        if node["state"] == "suspended" {
            return Err(format!("honest node {at} is suspended: {node}"));
        }
    }
    Ok(())
}

/// Waits until nothing is placed on them and nothing is owed.
fn emptied(fleet: &Fleet, liars: &[(usize, Lying)], clients: &Clients) -> Result<(), String> {
    let began = Instant::now();
    loop {
        clients.healthy()?;
        let printed = fleet.gateway.admin(&["fleet", "status", "--placed", "--json"]).said("status")?;
        let status: Value = serde_json::from_str(printed.trim()).said("status")?;
        innocent(&status, fleet, liars)?;
        let left: u64 = liars.iter().filter_map(|(at, _)| of(&status, &fleet.nodes[*at])["placed"].as_u64()).sum();
        if left == 0 {
            println!("  emptied after {:.1} s more", began.elapsed().as_secs_f64());
            return Ok(());
        }
        if began.elapsed() > LIMIT {
            return Err(format!("{left} shards are still placed on suspended liars after {} s", LIMIT.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// One more than may be suspended lies: it is worked around and stays.
fn fifth(fleet: &mut Fleet, runtime: &Runtime, clients: &Clients, at: usize, time: Duration) -> Result<(), String> {
    let liar = runtime.block_on(Lying::start(&mut fleet.nodes[at], Lie::OtherBytes)).said("a fifth liar")?;
    let (began, before) = (Instant::now(), clients.right.load(Ordering::SeqCst));
    while began.elapsed() < time {
        clients.healthy()?;
        std::thread::sleep(Duration::from_millis(500));
    }
    let status = fleet.status().said("status")?;
    let state = of(&status, &fleet.nodes[at])["state"].as_str().unwrap_or_default().to_owned();
    let (told, read) = (liar.told(), clients.right.load(Ordering::SeqCst) - before);
    if state != "active" || told < 3 || read == 0 {
        return Err(format!("a fifth liar told {told} lies and is {state}; {read} objects were read beside it"));
    }
    println!("  a fifth told {told} lies, is not suspended, and {read} objects were read beside it");
    runtime.block_on(liar.stop()).said("stop the fifth")?;
    fleet.nodes[at].start(None).said("the honest process")
}

fn of(status: &Value, node: &StorageNode) -> Value {
    let nodes = status["nodes"].as_array().map_or(&[][..], Vec::as_slice);
    nodes.iter().find(|one| one["node"] == node.id()).cloned().unwrap_or_default()
}

fn repaired(fleet: &Fleet) -> Result<(), String> {
    let began = Instant::now();
    loop {
        let printed = fleet.gateway.admin(&["status", "--json"]).said("status")?;
        let status: Value = serde_json::from_str(printed.trim()).said("status")?;
        match status["chunks_owing_shards"].as_u64() {
            Some(0) => return Ok(()),
            owed if began.elapsed() > LIMIT => return Err(format!("{owed:?} chunks still owe shards")),
            _ => std::thread::sleep(Duration::from_millis(300)),
        }
    }
}

/// Clients that write objects and read what was acknowledged.
struct Clients {
    client: Client,
    seed: u64,
    next: Arc<AtomicU64>,
    acknowledged: Arc<Mutex<Vec<u64>>>,
    right: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    /// Wrong bytes, or an answer that is none: nothing else matters then.
    wrong: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
}

impl Clients {
    fn start(fleet: &Fleet, runtime: &Runtime, seed: u64, objects: usize) -> Result<Clients, String> {
        let client = client::of(&fleet.gateway);
        runtime.block_on(client.create_bucket().bucket(BUCKET).send()).said("bucket")?;
        let clients = Clients {
            client,
            seed,
            next: Arc::default(),
            acknowledged: Arc::default(),
            right: Arc::default(),
            refused: Arc::default(),
            wrong: Arc::default(),
            stop: Arc::default(),
        };
        runtime.block_on(async {
            for _ in 0..objects {
                clients.worker(0).write().await?;
            }
            Ok::<(), String>(())
        })?;
        if clients.refused.load(Ordering::SeqCst) > 0 {
            return Err("writes were refused before anybody lied".into());
        }
        for number in 0..WORKERS {
            let mut worker = clients.worker(seed ^ number as u64);
            runtime.spawn(async move {
                while !worker.stop.load(Ordering::SeqCst) {
                    let done = if worker.dice.chance(25) { worker.write().await } else { worker.read().await };
                    if let Err(wrong) = done {
                        locked(&worker.wrong).push(wrong);
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
        Ok(clients)
    }

    fn worker(&self, seed: u64) -> Worker {
        Worker {
            client: self.client.clone(),
            seed: self.seed,
            dice: Dice::new(seed),
            next: self.next.clone(),
            acknowledged: self.acknowledged.clone(),
            right: self.right.clone(),
            refused: self.refused.clone(),
            wrong: self.wrong.clone(),
            stop: self.stop.clone(),
        }
    }

    fn healthy(&self) -> Result<(), String> {
        locked(&self.wrong).first().map_or(Ok(()), |wrong| Err(wrong.clone()))
    }

    /// How many reads were right, and how many requests were refused.
    fn stop(&self, runtime: &Runtime) -> Result<(u64, u64), String> {
        self.stop.store(true, Ordering::SeqCst);
        runtime.block_on(async { tokio::time::sleep(Duration::from_secs(2)).await });
        self.healthy()?;
        Ok((self.right.load(Ordering::SeqCst), self.refused.load(Ordering::SeqCst)))
    }

    /// Reads everything that was acknowledged.
    async fn verify(&self) -> Result<usize, String> {
        let all = locked(&self.acknowledged).clone();
        let worker = self.worker(0);
        for number in &all {
            match worker.get(*number).await? {
                Ok(()) => {}
                Err(failure) => return Err(format!("acknowledged object {number} does not read in the end: {failure}")),
            }
        }
        Ok(all.len())
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

struct Worker {
    client: Client,
    seed: u64,
    dice: Dice,
    next: Arc<AtomicU64>,
    acknowledged: Arc<Mutex<Vec<u64>>>,
    right: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    wrong: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
}

impl Worker {
    fn content(&self, number: u64) -> Content {
        Content::dense(self.seed.wrapping_add(number), OBJECT)
    }

    async fn write(&mut self) -> Result<(), String> {
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        let put = self.client.put_object().bucket(BUCKET).key(number.to_string()).body(self.content(number).bytes().into());
        match put.send().await.judged() {
            Ok(_) => locked(&self.acknowledged).push(number),
            Err(Failure::Answered { status: 503, .. }) => drop(self.refused.fetch_add(1, Ordering::SeqCst)),
            Err(failure) => return Err(format!("put {number}: {failure}")),
        }
        Ok(())
    }

    async fn read(&mut self) -> Result<(), String> {
        let number = {
            let all = locked(&self.acknowledged);
            *self.dice.pick(&all)
        };
        match self.get(number).await? {
            Ok(()) => drop(self.right.fetch_add(1, Ordering::SeqCst)),
            Err(_) => drop(self.refused.fetch_add(1, Ordering::SeqCst)),
        }
        Ok(())
    }

    /// Err: wrong bytes; Ok(Err): refused, before the first byte or by breaking off.
    async fn get(&self, number: u64) -> Result<Result<(), Failure>, String> {
        let answer = match self.client.get_object().bucket(BUCKET).key(number.to_string()).send().await.judged() {
            Ok(answer) => answer,
            Err(failure @ (Failure::Unknown(_) | Failure::Answered { status: 503, .. })) => return Ok(Err(failure)),
            Err(failure) => return Err(format!("get {number}: {failure}")),
        };
        match answer.body.collect().await.map(|body| body.into_bytes()) {
            Ok(body) if body == self.content(number).bytes() => Ok(Ok(())),
            Ok(_) => Err(format!("object {number} reads back wrong")),
            Err(error) => Ok(Err(Failure::Unknown(error.to_string()))),
        }
    }
}

fn locked<T>(what: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}
