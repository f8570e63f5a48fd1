//! Row 4 of the metadata cluster: nine of ten operations on one prefix, another one every five minutes, and then on all alike.
//!
//! As row 3. Every aim of the load, the first and the uniform one with them, may cost so many moves and no more: the uniform load begins
//! where the last aim has left everything, so that its first 300 s may cost moves as those of any other aim. After them nothing moves any
//! more, and that is what is watched for half an hour.

use crate::level;
use crate::row::{Outcome, Progress, Run, Said, runtime};
use conformance::cluster::Cluster;
use conformance::paced::{PREFIXES, UNIFORM};
use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const PERCENT: usize = 90;
/// Operations a second.
const RATE: u64 = 600;
/// Moves that one aim of the load may cost on three servers: two servers take a part each of what is hot, one of them once more where the
/// first cut was rough, and what was cold before comes together again.
const MOVES: usize = 4;

pub fn run(run: &Run) -> Outcome {
    let aims = run.size(6, 3);
    let (each, uniform) = (Duration::from_secs(run.size(300, 60)), Duration::from_secs(run.size(1_800, 90)));
    let cluster = Cluster::balanced(level::SIZE, "").said("a cluster")?;
    let runtime = runtime()?;
    let load = runtime.block_on(level::stage(&cluster, PERCENT, run.seed))?;
    let mut dice = run.dice();
    let first = dice.below(PREFIXES);
    load.aim(first);
    let running = runtime.spawn(load.clone().run(RATE, run.seed));
    let (began, mut progress) = (Instant::now(), Progress::new());
    let (mut since, mut moves) = (Vec::new(), BTreeMap::new());
    for aim in 0..=aims {
        // Each is another one; the last is all.
        let prefix = if aim == aims { UNIFORM } else { (first + aim * 5) % PREFIXES };
        load.aim(prefix);
        since.push(now());
        level::watch(&cluster, began + each * (aim as u32 + 1), |samples| {
            progress.say(|| format!("aim {aim}, {} s: {}", began.elapsed().as_secs(), level::text(samples)));
        })?;
        level::moves(&cluster, &mut moves)?;
    }
    let calm = now();
    let samples = level::watch(&cluster, Instant::now() + uniform, |samples| {
        progress.say(|| format!("uniform, {} s: {}", began.elapsed().as_secs(), level::text(samples)));
    })?;
    load.end();
    runtime.block_on(running).said("the load")?;
    level::moves(&cluster, &mut moves)?;
    let between = |from: u64, to: u64| moves.values().filter(|moved| (from..to).contains(&moved.at_ms)).count();
    since.push(calm);
    let costs: Vec<usize> = since.windows(2).map(|aim| between(aim[0], aim[1])).collect();
    let late_moves = between(calm, u64::MAX);
    for moved in moves.values() {
        println!("  {} s: group {}: {}", moved.at_ms.saturating_sub(since[0]) / 1_000, moved.group, moved.what);
    }
    let (_, late, failed) = load.counts();
    let (pressure, operations) = level::level(&samples).unwrap_or_default();
    let twice = level::twice(&moves);
    load.failures().iter().chain(&twice).for_each(|why| println!("  {why}"));
    let figure = format!(
        "{costs:?} moves for {aims} aims every {} s and as long of uniform load after them; {late_moves} moves in {} s more of it, max/mean {pressure:.2} \
         (operations alone {operations:.2}); {late} operations late, {failed} failed; {} moved twice in 120 s",
        each.as_secs(),
        uniform.as_secs(),
        twice.len()
    );
    let bounded = costs.iter().all(|cost| *cost <= MOVES) && costs[0] > 0;
    if bounded && late_moves == 0 && failed == 0 && twice.is_empty() { Ok(figure) } else { Err(figure) }
}

/// Milliseconds since the epoch, as the moves' own times are.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}
