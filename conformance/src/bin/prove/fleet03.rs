//! Row 3 of the fleet: six of 24 machines are killed for good, one after another, each when what the one before held is whole again.
//!
//! Nobody tells the gateway anything: it misses the machine, gives it up after seconds (hours by default), and makes again elsewhere what
//! lay on it. Full means that the index places all 12 shards of every chunk on machines that answer, and that they say they have them.

use crate::row::{Outcome, Run, Said, runtime};
use crate::stage::{CONFIG, Objects, REPAIR_LIMIT, Stage};
use std::time::{Duration, Instant};

const MACHINES: usize = 24;
const KILLED: usize = 6;

pub fn run(run: &Run) -> Outcome {
    let count = run.size(800, 120);
    let mut dice = run.dice();
    let mut stage = Stage::of(run, CONFIG, MACHINES)?;
    let runtime = runtime()?;
    let objects = runtime.block_on(Objects::write(&stage, &mut dice, count))?;
    stage.repaired()?;
    println!("  {count} objects of a chunk each, RS 8+4, {} shards", stage.shards().iter().sum::<u64>());
    let mut slowest = Duration::ZERO;
    let order = stage.draw(&mut dice, KILLED);
    for (number, victim) in order.iter().enumerate() {
        let held = stage.fleet.nodes[*victim].shards();
        let began = stage.vanish(&[*victim])?;
        let took = full(&stage, &order[..=number], count, began)?;
        println!("  machine {victim} with {held} shards is gone for good ({} of {MACHINES}): whole again after {took:.1?}", number + 1);
        slowest = slowest.max(took);
    }
    runtime.block_on(objects.all_right("with six machines gone"))?;
    checked(&stage)?;
    Ok(format!(
        "{KILLED} of {MACHINES} machines gone, full redundancy each time without a command, within {:.1} s; {count} objects right, 0 lost",
        slowest.as_secs_f64()
    ))
}

/// Waits until every chunk has all its shards on machines that answer; how long that took from `began`.
fn full(stage: &Stage, gone: &[usize], count: usize, began: Instant) -> Result<Duration, String> {
    loop {
        let status = stage.placed()?;
        let spare = &status["chunks"]["by_spare_shards"];
        let none_there = gone.iter().all(|at| stage.placed_on(&status, *at) == 0);
        if none_there && spare["4"].as_u64() == Some(count as u64) {
            return Ok(began.elapsed());
        }
        if status["chunks"]["unreadable"].as_u64() != Some(0) {
            return Err(format!("chunks cannot be read: {}", status["chunks"]));
        }
        if began.elapsed() > REPAIR_LIMIT {
            return Err(format!("not whole after {REPAIR_LIMIT:?}: {spare}"));
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// Every machine has, intact, what the index places on it.
fn checked(stage: &Stage) -> Result<(), String> {
    let printed = stage.fleet.gateway.admin(&["fsck", "--deep", "--json"]).said("fsck")?;
    let report: serde_json::Value = serde_json::from_str(printed.trim()).said("fsck")?;
    let whole = report["clean"] == true && report["shards_owed"] == 0 && report["shards_on_lost_disks"] == 0;
    if whole { Ok(()) } else { Err(format!("fsck: {report}")) }
}
