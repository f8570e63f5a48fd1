//! Row 6 of the fleet: shards that rot or vanish are found, named and made again, and a node that dropped one in a hundred is caught.
//!
//! First real processes: with all nodes stopped, 100 shards get a bit flipped in their segment and 100 others are removed, each of
//! another chunk. The nodes start again and scrub; every one of the 200 has to be named in the gateway's log, and afterwards every
//! shard has to read with its root. Then one node loses one shard in a hundred without knowing it: an audit has to fail, its
//! transcript has to check offline, and the node has to be suspended and emptied.
//! Then 200 audits of 459 slices, over the real data plane, of a node that lost 1 % and makes up proofs: how many catch it.

use crate::row::{Outcome, Run, Said, runtime};
use conformance::client::{self, Judge};
use conformance::content::{Content, Dice};
use conformance::fleet::{Fleet, serving};
use conformance::plane::{Authority, CAPACITY, MemoryNode, Plane, client as tls_client, keep_nothing, shard};
use conformance::rot::spoil;
use gateway::remote::{Bounds, Link, Peer};
use serde_json::Value;
use spine::audit::{Answered, Draw, Placed, Question, slices_for, verify};
use spine::fleet::admission::Role;
use spine::id::NodeId;
use spine::limit::AUDIT_QUESTIONS;
use spine::wire::chunk::ShardName;
use spine::wire::shard::{NodeError, NodeStatus, ShardHeader, StorageNode};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

const NODES: usize = 8;
const FLIPPED: usize = 100;
const REMOVED: usize = 100;
/// One chunk each.
const OBJECT: usize = 200_000;
/// Questions that find one in a hundred with 99 %.
const SLICES: usize = 459;
const TRIALS: usize = 200;
/// How long finding and repairing may take.
const LIMIT: Duration = Duration::from_secs(240);
const CONFIG: &str = "[repair]\ninterval_seconds = 1\n";

pub fn run(run: &Run) -> Outcome {
    if slices_for(1, 100, 990_000) != SLICES as u32 {
        return Err("the number of slices is not what 99 % asks for".to_string());
    }
    let mut dice = run.dice();
    let mut fleet = Fleet::bare(CONFIG).said("a gateway")?;
    let token = fleet.invite(&["--uses", &NODES.to_string()]).said("invite")?;
    for number in 0..NODES {
        let mut node = fleet.node(number).said("a node's folder")?;
        node.arguments = vec!["--scrub-round".into(), "5".into()];
        node.start(Some(&token)).said("start a node")?;
        fleet.nodes.push(node);
    }
    fleet.wait("all nodes serve", |status| serving(status) == NODES).said("the fleet")?;
    let runtime = runtime()?;
    let objects = run.size(1_500, 300);
    runtime.block_on(fill(&fleet, &mut dice, objects))?;
    println!("  {objects} objects stored");

    let spoiled = runtime.block_on(spoil_all(&mut fleet, &mut dice))?;
    println!("  {FLIPPED} shards flipped, {REMOVED} removed");
    let began = Instant::now();
    for node in &mut fleet.nodes {
        node.start(None).said("start a node again")?;
    }
    fleet.wait("all nodes are back", |status| serving(status) == NODES).said("the fleet")?;
    let named = wait(&fleet, "all found and made again", || {
        let log = fleet.gateway.log();
        let named = spoiled.iter().filter(|name| is_named(&log, name)).count();
        (named == spoiled.len() && owed(&fleet) == Some(0)).then_some(named)
    })?;
    let took = began.elapsed().as_secs();
    fsck(&fleet)?;
    println!("  {named} of {} named and made again in {took} s", spoiled.len());

    let lost = runtime.block_on(lose(&mut fleet, &mut dice))?;
    let failed = audited(&fleet, &lost)?;
    println!("  a node that lost {} shards failed {failed} questions and was suspended", lost.len());

    let (caught, placed) = runtime.block_on(trials(&mut dice))?;
    let figure = format!(
        "{named} of {} found, named and made again in {took} s; {} lost on one node: {failed} found, suspended, emptied; \
         1 % of {placed} dropped: caught in {caught} of {TRIALS} audits of {SLICES} slices",
        spoiled.len(),
        lost.len(),
    );
    if caught * 100 >= TRIALS * 99 { Ok(figure) } else { Err(figure) }
}

async fn fill(fleet: &Fleet, dice: &mut Dice, objects: usize) -> Result<(), String> {
    let client = client::of(&fleet.gateway);
    client.create_bucket().bucket("audited").send().await.judged().said("create the bucket")?;
    for n in 0..objects {
        let body = Content::dense(dice.roll(), OBJECT).bytes();
        let put = client.put_object().bucket("audited").key(format!("{n:05}")).body(body.into()).send().await;
        put.judged().said("store an object")?;
    }
    Ok(())
}

/// Stops every node and does the damage. Each shard is of another chunk, so that all can be made again.
async fn spoil_all(fleet: &mut Fleet, dice: &mut Dice) -> Result<Vec<ShardName>, String> {
    let (mut chunks, mut spoiled) = (HashSet::new(), Vec::new());
    for (number, node) in fleet.nodes.iter_mut().enumerate() {
        node.terminate(Duration::from_secs(20)).ok_or("a node did not stop")?;
        let share = |of: usize| of / NODES + usize::from(number < of % NODES);
        let done = spoil(node.disk(), dice, &mut chunks, |_| share(FLIPPED), share(REMOVED)).await?;
        spoiled.extend(done.flipped.into_iter().chain(done.removed));
    }
    Ok(spoiled)
}

fn is_named(log: &str, name: &ShardName) -> bool {
    let (chunk, index) = (format!("chunk={}", name.chunk), format!("index={} ", name.index));
    log.lines().any(|line| line.contains("has to be made again") && line.contains(&chunk) && line.contains(&index))
}

/// Waits until `found` finds.
fn wait<T>(fleet: &Fleet, what: &str, found: impl Fn() -> Option<T>) -> Result<T, String> {
    let began = Instant::now();
    loop {
        if let Some(found) = found() {
            return Ok(found);
        }
        if began.elapsed() > LIMIT {
            return Err(format!("not within {} s: {what}; {:?} chunks owe shards", LIMIT.as_secs(), owed(fleet)));
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn owed(fleet: &Fleet) -> Option<u64> {
    let status: Value = serde_json::from_str(fleet.gateway.admin(&["status"]).ok()?.trim()).ok()?;
    status["chunks_owing_shards"].as_u64()
}

/// Every shard of every chunk is read and compared with its root.
fn fsck(fleet: &Fleet) -> Result<(), String> {
    fleet.gateway.admin(&["fsck", "--deep"]).map(drop).said("after repair")
}

/// One node loses one shard in a hundred behind its back: no scrub will look before the audit does.
async fn lose(fleet: &mut Fleet, dice: &mut Dice) -> Result<Vec<ShardName>, String> {
    let node = &mut fleet.nodes[0];
    node.terminate(Duration::from_secs(20)).ok_or("a node did not stop")?;
    // One more than suspend: the scrub may come upon one.
    let lost = spoil(node.disk(), dice, &mut HashSet::new(), |held| (held / 100).max(4), 0).await?;
    node.arguments = Vec::new();
    node.start(None).said("start the node")?;
    fleet.wait("the node is back", |status| serving(status) == NODES).said("the fleet")?;
    Ok(lost.flipped)
}

/// Audits the first node, checks the transcript, waits for what follows. How many questions it failed.
fn audited(fleet: &Fleet, lost: &[ShardName]) -> Result<u64, String> {
    let (node, data) = (fleet.nodes[0].id().to_owned(), fleet.gateway.data().to_string_lossy().into_owned());
    let file = fleet.place().join("transcript.json").to_string_lossy().into_owned();
    let asked = ["admin", "audit", "--node", &node, "--count", "2000", "--out", &file, "--json", "--data", &data];
    let output = fleet.gateway.run(&asked).said("audit")?;
    if output.status.success() {
        return Err("the audit of a node that lost shards succeeded".to_string());
    }
    // Offline: no data folder is named.
    let checked = fleet.gateway.run(&["admin", "audit", "verify", &file, "--json"]).said("verify")?;
    let shown: Value = serde_json::from_slice(&checked.stdout)
        .map_err(|error| format!("the transcript does not check: {error}; {}", String::from_utf8_lossy(&checked.stderr)))?;
    let failed = shown[0]["failed"].as_u64().unwrap_or(0);
    if checked.status.success() || failed + 1 < lost.len() as u64 {
        return Err(format!("{} shards were lost, the transcript shows {failed}", lost.len()));
    }
    fleet
        .wait("the node is suspended", |status| {
            let of_node = |one: &&Value| one["node"] == node.as_str();
            status["nodes"].as_array().is_some_and(|nodes| nodes.iter().find(of_node).is_some_and(|one| one["state"] == "suspended"))
        })
        .said("after the audit")?;
    wait(fleet, "the suspended node is emptied", || {
        let status: Value = serde_json::from_str(fleet.gateway.admin(&["fleet", "status", "--placed", "--json"]).ok()?.trim()).ok()?;
        let one = status["nodes"].as_array()?.iter().find(|one| one["node"] == node.as_str())?;
        (one["placed"] == 0 && owed(fleet) == Some(0)).then_some(())
    })?;
    fsck(fleet)?;
    Ok(failed)
}

/// A node that lost some shards, says it has them, and makes up proofs from others.
struct Dropper {
    kept: Arc<MemoryNode>,
    dropped: HashSet<ShardName>,
    proof: bytes::Bytes,
}

#[async_trait::async_trait]
impl StorageNode for Dropper {
    fn id(&self) -> NodeId {
        self.kept.id()
    }

    fn machine(&self) -> String {
        self.kept.machine()
    }

    fn status(&self) -> NodeStatus {
        self.kept.status()
    }

    async fn put(&self, header: ShardHeader, data: bytes::Bytes) -> Result<(), NodeError> {
        self.kept.put(header, data).await
    }

    async fn get(&self, name: ShardName) -> Result<(ShardHeader, bytes::Bytes), NodeError> {
        self.kept.get(name).await
    }

    async fn has(&self, names: Vec<ShardName>) -> Result<Vec<bool>, NodeError> {
        Ok(vec![true; names.len()])
    }

    async fn trash(&self, names: Vec<ShardName>) -> Result<(), NodeError> {
        self.kept.trash(names).await
    }

    async fn list(&self, after: Option<ShardName>, max: usize) -> Result<Vec<(ShardName, u32)>, NodeError> {
        self.kept.list(after, max).await
    }

    async fn audit(&self, questions: Vec<Question>) -> Result<Vec<Answered>, NodeError> {
        let mut answers = Vec::new();
        for question in questions {
            match self.dropped.contains(&question.name) {
                true => answers.push(Answered::Proof(self.proof.clone())),
                false => answers.extend(self.kept.audit(vec![question]).await?),
            }
        }
        Ok(answers)
    }
}

/// How many of [`TRIALS`] audits caught a node that dropped 1 %, and how many shards it should have.
async fn trials(dice: &mut Dice) -> Result<(usize, usize), String> {
    const PLACED: usize = 1_000;
    const BYTES: usize = 8 << 10;
    let authority = Authority::new()?;
    let (trust, node, gateway) = (authority.trust()?, authority.admit(Role::StorageNode)?, authority.admit(Role::Gateway)?);
    let kept = MemoryNode::new(node.node);
    let (mut placed, mut dropped) = (Vec::new(), HashSet::new());
    for seed in 0..PLACED as u64 {
        let (header, data) = shard(seed, BYTES);
        placed.push(Placed { name: header.name, root: header.root, len: header.len });
        kept.put(header, data).await.said("store a shard")?;
    }
    while dropped.len() < PLACED / 100 {
        dropped.insert(dice.pick(&placed).name);
    }
    let (_, other) = shard(u64::MAX, BYTES);
    let proof = spine::audit::prove(&other, 1).ok_or("no proof")?.0.into();
    let liar = Arc::new(Dropper { kept, dropped, proof });
    let plane = Plane::start(trust.clone(), &node, liar, storage_node::serve::Bounds::default(), keep_nothing()).await?;
    let peer = Peer {
        node: node.node,
        machine: "machine-1".into(),
        zone: "zone-1".into(),
        capacity: CAPACITY,
        address: plane.address.to_string(),
    };
    let link = Link::start(peer, tls_client(&trust, &gateway)?, trust, Bounds::default());
    if !link.first_look(Duration::from_secs(5)).await {
        return Err("the liar does not answer".to_string());
    }
    let mut caught = 0;
    for trial in 0..TRIALS {
        let mut nonce = [0; 32];
        nonce.chunks_mut(8).for_each(|part| part.copy_from_slice(&dice.roll().to_le_bytes()));
        let mut draw = Draw::new(nonce, SLICES);
        placed.iter().for_each(|one| draw.offer(*one));
        let drawn: Vec<(Placed, u32)> = draw.drawn().collect();
        let mut failed = 0;
        for some in drawn.chunks(AUDIT_QUESTIONS) {
            let questions = some.iter().map(|(one, slice)| Question { name: one.name, slice: *slice }).collect();
            for ((one, slice), answer) in some.iter().zip(link.audit(questions).await.said("audit the liar")?) {
                failed += usize::from(!matches!(answer, Answered::Proof(proof) if verify(&proof, &one.root, one.len, *slice).is_ok()));
            }
        }
        caught += usize::from(failed > 0);
        if trial % 50 == 49 {
            println!("  {caught} of {} audits caught the node", trial + 1);
        }
    }
    drop(link);
    plane.stop().await?;
    Ok((caught, PLACED))
}
