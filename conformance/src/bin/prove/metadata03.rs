//! Row 3 of the metadata cluster: nine of ten operations on one prefix, and a balancer that makes three servers bear alike.
//!
//! The cluster begins with one group that one server leads, and no load at all. Then so many metadata operations a second come through three
//! routers, as of gateways: reads of heads, writes, listings, nine of ten below one prefix, in its 64 directories. They are paced so that the
//! processors of one machine, on which all of it runs, are not what decides.
//! Judged by what the servers say of their load themselves: from the sixtieth second on, over every thirty seconds. Operations alone are
//! printed beside it and not judged: a write costs a server more than a read, and what is levelled is what is scarcest. No operation may
//! fail, or take longer than five seconds; those that could not begin at their time are counted.

use crate::level::{self, Sample};
use crate::row::{Outcome, Progress, Run, Said, runtime};
use conformance::cluster::Cluster;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const PERCENT: usize = 90;
const HOT: usize = 5;
/// Operations a second.
const RATE: u64 = 600;
const SOON: Duration = Duration::from_secs(60);
const BAR: f64 = 1.25;
const FREEZE: f64 = 0.05;
/// What no operation takes.
const SLOW: Duration = Duration::from_secs(5);
/// Samples, one a second, of one judgement.
const WINDOW: usize = 30;

pub fn run(run: &Run) -> Outcome {
    let judged = Duration::from_secs(run.size(240, 60));
    let cluster = Cluster::balanced(level::SIZE, "").said("a cluster")?;
    let runtime = runtime()?;
    let load = runtime.block_on(level::stage(&cluster, PERCENT, run.seed))?;
    load.aim(HOT);
    let running = runtime.spawn(load.clone().run(RATE, run.seed));
    let (began, mut progress) = (Instant::now(), Progress::new());
    let samples = level::watch(&cluster, began + SOON + judged, |samples| {
        progress.say(|| format!("{} s: {}", began.elapsed().as_secs(), level::text(samples)));
    })?;
    load.end();
    runtime.block_on(running).said("the load")?;
    let mut moves = BTreeMap::new();
    level::moves(&cluster, &mut moves)?;
    moves.values().for_each(|moved| println!("  group {}: {}", moved.group, moved.what));
    let level_after = samples.windows(WINDOW / 3).find(|few| is_level(few)).map(|few| few[0].at - began);
    let after: Vec<Sample> = samples.iter().filter(|sample| sample.at - began >= SOON).cloned().collect();
    let windows = after.chunks_exact(WINDOW).filter_map(level::level);
    let (pressure, operations) = windows.fold((0.0_f64, 0.0_f64), |worst, of| (worst.0.max(of.0), worst.1.max(of.1)));
    let (frozen, freeze) = cluster.freezes(99.0).said("the freezes")?;
    let (done, late, failed) = load.counts();
    let (twice, slowest) = (level::twice(&moves), load.slowest());
    let figure = format!(
        "max/mean {pressure:.2} from the sixtieth second on (operations alone {operations:.2}), level after {}; {} moves, {frozen} ranges frozen, \
         p99 within {:.0} ms; {done} operations, {late} of them late, {failed} failed, the slowest took {slowest:.2?}; {} moved twice in 120 s",
        level_after.map_or("never".to_string(), |time| format!("{:.0} s", time.as_secs_f64())),
        moves.len(),
        freeze * 1e3,
        twice.len()
    );
    load.failures().iter().chain(&twice).for_each(|why| println!("  {why}"));
    let level = pressure > 0.0 && pressure <= BAR && level_after.is_some_and(|time| time <= SOON);
    if level && frozen > 0.0 && freeze <= FREEZE && failed == 0 && slowest <= SLOW && twice.is_empty() { Ok(figure) } else { Err(figure) }
}

fn is_level(samples: &[Sample]) -> bool {
    level::level(samples).is_some_and(|(pressure, _)| pressure > 0.0 && pressure <= BAR)
}
