//! Row 9 of metadata: balance at 100 servers and 100,000 directories over a day of shifting load, simulated.
//!
//! The balancer, the weight trees, the meters and the map are those of the product; load, costs and times are made up
//! (`conformance::balance`). Beside it the same day with nobody balancing.

use crate::row::{Outcome, Progress, Run, mib, none_of};
use conformance::balance::record::Record;
use conformance::balance::shape::Day;
use conformance::balance::{ROUND_MS, Size, World};
use metadata::balance::Rules;

/// The busiest server over the mean, on average over the day: what shifts in one round cannot be answered in the same. Single rounds are above
/// it, and the row prints how far and how often.
const BAR: f64 = 1.3;
/// Rounds that are not judged: the first placement is by lot, and an hour is there to mend it.
const FIRST: usize = 360;
/// Operations a second of a server's share, outside of all windows.
const BASE: f64 = 2_500.0;

pub fn run(run: &Run) -> Outcome {
    let servers = run.size(100, 20);
    let tenants = run.size(1_000, 200);
    let hours = run.size(24, 4);
    let rounds = hours * 3_600_000 / ROUND_MS as usize;
    let (world, shifts) = day(run, servers, tenants, Rules::default(), rounds);
    none_of(world.broken())?;
    let (idle, _) = day(run, servers, tenants, Rules { imbalance: f64::INFINITY, ..Rules::default() }, rounds);
    let record = world.record();
    table(record, idle.record(), hours, shifts);
    let (mean, within) = (record.mean(FIRST), record.within(FIRST, BAR) * 100.0);
    let moves = record.moves() as f64 / hours as f64;
    let figure = format!(
        "{servers} servers, {} directories, {hours} h, {shifts} shifts: max/mean {mean:.2} on average (p50 {:.2}, p95 {:.2}, p99 {:.2}, worst 10 s {:.2}; nobody balances: {:.2} on average), within {BAR} in {within:.0} % of the rounds; {moves:.0} moves an hour, {} copied an hour",
        tenants * 100,
        record.quantile(FIRST, 0.5),
        record.quantile(FIRST, 0.95),
        record.quantile(FIRST, 0.99),
        record.quantile(FIRST, 1.0),
        idle.record().mean(FIRST),
        mib(record.bytes / hours as u64),
    );
    if mean <= BAR { Ok(figure) } else { Err(figure) }
}

fn day(run: &Run, servers: usize, tenants: usize, rules: Rules, rounds: usize) -> (World, u64) {
    let (shape, shifts) = Day::new(tenants, 100, BASE * servers as f64);
    let size = Size { servers, groups: servers * 3, even: false, directory_bytes: 512 << 10 };
    let mut world = World::new(size, shape, rules, run.seed);
    let mut progress = Progress::new();
    for round in 0..rounds {
        world.round();
        progress.say(|| {
            let record = world.record();
            format!(
                "{:.1} h: max/mean {:.2}, {} moves, {} groups",
                round as f64 / 360.0,
                world.imbalance(),
                record.moves(),
                record.groups[round]
            )
        });
    }
    println!("  the hottest directory alone has {:.2} of a server's share", world.largest());
    (world, shifts.get())
}

fn table(record: &Record, idle: &Record, hours: usize, shifts: u64) {
    let quantiles = |record: &Record| [0.5, 0.9, 0.95, 0.99, 1.0].map(|share| format!("{:.2}", record.quantile(FIRST, share))).join(" | ");
    println!("  | max/mean | average | p50 | p90 | p95 | p99 | worst round |\n  |---|---|---|---|---|---|---|");
    println!("  | balanced | {:.2} | {} |", record.mean(FIRST), quantiles(record));
    println!("  | nobody balances | {:.2} | {} |", idle.mean(FIRST), quantiles(idle));
    let an_hour = |count: u64| count as f64 / hours as f64;
    println!(
        "  an hour: {:.1} leaderships, {:.1} splits, {:.1} replicas, {:.1} merges and {:.1} replicas for them, {} copied, for {:.1} shifts; groups {} to {}",
        an_hour(record.leads),
        an_hour(record.splits),
        an_hour(record.replicas),
        an_hour(record.merges),
        an_hour(record.gathered),
        mib(record.bytes / hours as u64),
        an_hour(shifts),
        record.groups.iter().min().unwrap_or(&0),
        record.groups.iter().max().unwrap_or(&0),
    );
}
