//! Row 2 of the fleet: five of sixteen machines dead, so that some chunks lost more than `m` shards.
//!
//! Every object is one chunk, so as many objects must be refused as `admin fleet status --placed` calls unreadable. The collector, the
//! sweep and repair run all the while, with a patience of seconds; the dead machines must come back to everything they held.

use crate::row::{Outcome, Run, Said, runtime};
use crate::stage::{CONFIG, Objects, Seen, Stage};
use std::time::Duration;

const DEAD: usize = 5;

pub fn run(run: &Run) -> Outcome {
    let count = run.size(600, 120);
    let mut dice = run.dice();
    let mut stage = Stage::start(run, CONFIG)?;
    let runtime = runtime()?;
    let objects = runtime.block_on(Objects::write(&stage, &mut dice, count))?;
    stage.repaired()?;
    let before = stage.shards();
    println!("  {count} objects of a chunk each, {} shards", before.iter().sum::<u64>());

    let dead = stage.draw(&mut dice, DEAD);
    stage.vanish(&dead)?;
    stage.lost(DEAD)?;
    println!("  machines {dead:?} are dead");
    let first = runtime.block_on(objects.read()).said("with five dead")?;
    let refused = first.iter().filter(|seen| **seen == Seen::Refused).count();
    let status = stage.placed()?;
    let named = status["chunks"]["unreadable"].as_u64().unwrap_or(u64::MAX);
    println!("  {refused} of {count} refused with 503, {} right; the status names {named} unreadable", count - refused);
    if refused == 0 || named != refused as u64 {
        return Err(format!("{refused} objects are refused and the status says that {named} chunks are unreadable"));
    }
    names_the_dead(&stage, &dead, &status)?;

    // Longer than every patience; what can be made again is, and nothing goes.
    std::thread::sleep(Duration::from_secs(run.size(30, 10)));
    for _ in 0..3 {
        let halted = stage.collect(true)?.into_iter().filter(|swept| swept["outcome"] == "Halted").count();
        if halted > 0 {
            return Err(format!("the sweep of {halted} machines halted"));
        }
    }
    let during = stage.shards();
    let fewer = |now: &[u64]| (0..before.len()).find(|at| !dead.contains(at) && now[*at] < before[*at]);
    if let Some(at) = fewer(&during) {
        return Err(format!("machine {at} had {} shards and has {} while others are dead", before[at], during[at]));
    }
    let again = runtime.block_on(objects.read()).said("later")?;
    if let Some(number) = (0..count).find(|number| first[*number] == Seen::Right && again[*number] != Seen::Right) {
        return Err(format!("object {number} was readable with five dead and is not any more"));
    }
    stage.back(&dead)?;
    let after = stage.shards();
    if let Some(at) = dead.iter().find(|at| after[**at] < before[**at]) {
        return Err(format!("machine {at} left with {} shards and came back with {}", before[*at], after[*at]));
    }
    runtime.block_on(objects.all_right("after the return"))?;
    let repaired = stage.repaired()?;
    stage.collect(true)?;
    runtime.block_on(objects.all_right("after repair and sweep"))?;
    let status = stage.placed()?;
    if status["chunks"]["by_spare_shards"]["4"].as_u64() != Some(count as u64) {
        return Err(format!("not every chunk has its 12 shards again: {}", status["chunks"]["by_spare_shards"]));
    }
    Ok(format!(
        "5 of 16 dead: {refused} of {count} objects 503 and named, {} right, 0 wrong, 0 shards deleted; after the return {count} right, whole again in {repaired:.1?}",
        count - refused
    ))
}

/// The status tells for which machines an unreadable chunk waits.
fn names_the_dead(stage: &Stage, dead: &[usize], status: &serde_json::Value) -> Result<(), String> {
    let ids: Vec<&str> = dead.iter().map(|at| stage.fleet.nodes[*at].id()).collect();
    let named = status["chunks"]["unreadable_named"].as_array().cloned().unwrap_or_default();
    let waits = |one: &serde_json::Value| {
        let away = one["nodes_away"].as_array().cloned().unwrap_or_default();
        away.len() == DEAD && away.iter().all(|node| ids.contains(&node.as_str().unwrap_or_default()))
    };
    if !named.is_empty() && named.iter().all(waits) { Ok(()) } else { Err(format!("the status names other machines: {named:?}")) }
}
