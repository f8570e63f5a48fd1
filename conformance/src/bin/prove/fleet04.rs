//! Row 4 of the fleet: being away deletes nothing.
//!
//! First the whole fleet stops and starts again with more than `m` machines late, for longer than every patience (an hour and four by
//! default, seconds here), while some objects are deleted. Then one machine dies, is rebuilt elsewhere, and returns. Each time the late
//! machines must still hold every shard they left with; only the sweep takes the copies, and only those that it proves to be nobody's.

use crate::row::{Outcome, Run, Said, runtime};
use crate::stage::{CONFIG, MACHINES, Objects, Seen, Stage};
use conformance::fleet::serving;
use std::time::Duration;
use tokio::runtime::Runtime;

const LATE: usize = 5;
const DELETED: usize = 20;
const STOP: Duration = Duration::from_secs(60);

pub fn run(run: &Run) -> Outcome {
    let count = run.size(520, 120);
    let mut dice = run.dice();
    let mut stage = Stage::start(run, CONFIG)?;
    let runtime = runtime()?;
    let mut objects = runtime.block_on(Objects::write(&stage, &mut dice, count))?;
    stage.repaired()?;
    let late = stage.draw(&mut dice, LATE);
    let first = late_start(run, &mut stage, &runtime, &mut objects, &late)?;
    let one = stage.draw(&mut dice, 1)[0];
    let second = rebuilt(&mut stage, &runtime, &objects, one)?;
    let printed = stage.fleet.gateway.admin(&["fsck", "--deep", "--json"]).said("fsck at the end")?;
    println!("  fsck: {}", printed.split_whitespace().collect::<String>().chars().take(160).collect::<String>());
    Ok(format!(
        "0 shards deleted by absence; {first} late copies of deleted or moved chunks and {second} of a rebuilt machine went by the sweep's proof; {} objects right",
        objects.bodies.len()
    ))
}

/// Starts the fleet without machines `late`; gives how many of their copies the sweep took after they had come.
fn late_start(run: &Run, stage: &mut Stage, runtime: &Runtime, objects: &mut Objects, late: &[usize]) -> Result<u64, String> {
    let before = stage.shards();
    for node in &mut stage.fleet.nodes {
        node.terminate(STOP).ok_or("a machine did not stop")?;
    }
    stage.fleet.gateway.terminate(STOP).ok_or("the gateway did not stop")?;
    for at in (0..MACHINES).filter(|at| !late.contains(at)) {
        stage.fleet.nodes[at].back().said("start")?;
    }
    stage.fleet.gateway.restart().said("start of the gateway")?;
    stage.fleet.wait("the others serve", |status| serving(status) == MACHINES - LATE).said("start")?;
    runtime.block_on(objects.delete(DELETED))?;
    std::thread::sleep(Duration::from_secs(run.size(30, 12)));
    stage.collect(true)?;
    let refused = runtime.block_on(objects.read()).said("while five are late")?.iter().filter(|seen| **seen == Seen::Refused).count();
    println!("  started without machines {late:?}: {refused} of {} objects 503, {DELETED} deleted meanwhile", objects.bodies.len());
    stage.back(late)?;
    let now = stage.shards();
    if let Some(at) = late.iter().find(|at| now[**at] < before[**at]) {
        return Err(format!("machine {at} held {} shards before and {} when it came late", before[*at], now[*at]));
    }
    runtime.block_on(objects.all_right("when all are there"))?;
    let repaired = stage.repaired()?;
    println!("  all there: everything reads, nothing owed after {repaired:.1?}");
    sweep(stage, runtime, objects)
}

/// Machine `one` dies, is rebuilt elsewhere and returns; gives how many copies it returned with, all of which the sweep took.
fn rebuilt(stage: &mut Stage, runtime: &Runtime, objects: &Objects, one: usize) -> Result<u64, String> {
    stage.collect(true)?;
    let held = stage.shards()[one];
    stage.vanish(&[one])?;
    stage.lost(1)?;
    let began = std::time::Instant::now();
    while stage.placed_on(&stage.placed()?, one) > 0 {
        if began.elapsed() > Duration::from_secs(180) {
            return Err(format!("machine {one} was not given up"));
        }
        std::thread::sleep(Duration::from_millis(300));
    }
    stage.repaired()?;
    println!("  machine {one} with {held} shards is dead; all of them are elsewhere after {:.1?}", began.elapsed());
    stage.back(&[one])?;
    for _ in 0..3 {
        stage.collect(false)?;
    }
    let now = stage.shards()[one];
    if now < held {
        return Err(format!("machine {one} returned with {held} shards and has {now} before any sweep"));
    }
    let gone = sweep(stage, runtime, objects)?;
    if gone < held { Err(format!("{held} copies were nobody's and the sweep took {gone}")) } else { Ok(gone) }
}

/// Sweeps; afterwards every machine holds just what the index places on it, and every object reads.
fn sweep(stage: &Stage, runtime: &Runtime, objects: &Objects) -> Result<u64, String> {
    let swept = stage.collect(true)?;
    if let Some(other) = swept.iter().find(|swept| swept["outcome"] != "Done") {
        return Err(format!("a sweep did not end: {other}"));
    }
    let orphans = swept.iter().filter_map(|swept| swept["orphans"].as_u64()).sum();
    runtime.block_on(objects.all_right("after the sweep"))?;
    let (status, holds) = (stage.placed()?, stage.shards());
    for (at, holds) in holds.iter().enumerate() {
        let placed = stage.placed_on(&status, at);
        if *holds != placed {
            return Err(format!("machine {at} holds {holds} shards after the sweep and the index places {placed} there"));
        }
    }
    println!("  swept: {orphans} copies, and every machine holds what the index places on it");
    Ok(orphans)
}
