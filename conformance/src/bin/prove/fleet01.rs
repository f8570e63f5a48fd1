//! Row 1 of the fleet: restic over sixteen machines in four zones, RS 8+4, while machines vanish: four at once, then a whole zone.
//!
//! Each case: a backup in whose middle they vanish (link cut, then SIGKILL) and a restore with them gone; they return; a restore in
//! whose middle they vanish again. Meanwhile probes (`fleet01/probe.rs`) tell how long requests take.

mod probe;

use crate::row::{Outcome, Run, Said, runtime};
use crate::stage::{CONFIG, Stage};
use conformance::restic::{Restic, made_tree};
use conformance::server::walk;
use conformance::tools::compare_trees;
use probe::{Probe, RECOVERY_BAR};
use std::path::Path;
use std::time::{Duration, Instant};

pub fn run(run: &Run) -> Outcome {
    let files = run.size(4_000, 700);
    let mut dice = run.dice();
    let mut stage = Stage::start(run, CONFIG)?;
    let runtime = runtime()?;
    let probe = Probe::start(&stage, &runtime, run.seed)?;
    let home = stage.fleet.place().join("home");
    std::fs::create_dir_all(&home).said("a home")?;
    restic(&stage, &home).run(&["init"])?;
    let mut slowest = Duration::ZERO;
    let four = stage.draw(&mut dice, 4);
    let zone = stage.zone(dice.below(4));
    for (name, victims) in [("four machines", four), ("a zone", zone)] {
        println!("  {name}: {victims:?}");
        let tree = made_tree(&stage.fleet.place().join(name), files, dice.roll()).said("a tree")?;
        slowest = slowest.max(case(&mut stage, &probe, &home, &tree, &victims)?);
    }
    probe.stop();
    let (acknowledged, failed) = runtime.block_on(probe.verify())?;
    restic(&stage, &home).run(&["check", "--read-data"])?;
    let figure = format!(
        "2 backups and 4 restores through the loss of 4 machines and of a zone: identical; {acknowledged} probes acknowledged, 0 lost, {failed} failed; p99 back within {:.1} s",
        slowest.as_secs_f64()
    );
    if slowest <= RECOVERY_BAR { Ok(figure) } else { Err(figure) }
}

fn restic(stage: &Stage, home: &Path) -> Restic {
    Restic::new(&stage.fleet.gateway, "restic", home)
}

/// A backup and two restores; gives how long the probe's p99 took to recover at worst.
fn case(stage: &mut Stage, probe: &Probe, home: &Path, tree: &Path, victims: &[usize]) -> Result<Duration, String> {
    let target = stage.fleet.place().join("restored");
    let sealed = |stage: &Stage| stage.fleet.gateway.metric("breakwater_path_sealed_bytes_total");
    let bytes: u64 = walk(tree).iter().filter_map(|file| Some(file.metadata().ok()?.len())).sum();

    let (quiet, from) = (Instant::now(), sealed(stage));
    let source = tree.to_string_lossy().into_owned();
    let cut = amid(stage, home, &["backup", "--quiet", &source], victims, |stage| sealed(stage) - from > bytes as f64 / 5.0)?;
    println!("  backup of {:.0} MiB, cut after {:.1?}, took {:.1?}", bytes as f64 / f64::from(1 << 20), cut - quiet, quiet.elapsed());
    let first = probe.recovery(quiet, cut)?;
    stage.lost(victims.len())?;
    restore(stage, home, tree, &target).said("restore without them")?;
    println!("  restored without them: identical");
    stage.back(victims)?;
    println!("  all back: nothing owed after {:.1?}", probe.resting(|| stage.repaired())?);

    let quiet = Instant::now();
    let place = target.to_string_lossy().into_owned();
    let fifth = walk(tree).len() / 5;
    let cut = amid(stage, home, &["restore", "latest", "--target", &place], victims, |_| walk(&target).len() > fifth)?;
    same(tree, &target).said("restore while they vanish")?;
    println!("  restored while they vanished: identical");
    let second = probe.recovery(quiet, cut)?;
    stage.back(victims)?;
    println!("  all back: nothing owed after {:.1?}", probe.resting(|| stage.repaired())?);
    Ok(first.max(second))
}

/// Runs restic and has the victims vanish once `when` holds; when that was.
fn amid(stage: &mut Stage, home: &Path, arguments: &[&str], victims: &[usize], when: impl Fn(&Stage) -> bool) -> Result<Instant, String> {
    let endpoint = stage.fleet.gateway.endpoint().to_owned();
    let own = Restic::at(&endpoint, "restic", home);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| own.run(arguments));
        while !when(stage) && !running.is_finished() {
            std::thread::sleep(Duration::from_millis(20));
        }
        let over = running.is_finished();
        let cut = stage.vanish(victims);
        let printed = running.join().map_err(|_| "restic's thread ended".to_string())??;
        if over { Err(format!("restic ended before the machines vanished:\n{printed}")) } else { cut }
    })
}

fn restore(stage: &Stage, home: &Path, tree: &Path, target: &Path) -> Result<(), String> {
    restic(stage, home).run(&["restore", "latest", "--target", &target.to_string_lossy()])?;
    same(tree, target)
}

fn same(tree: &Path, target: &Path) -> Result<(), String> {
    let differences = compare_trees(tree, &target.join(tree.strip_prefix("/").unwrap_or(tree)));
    let _ = std::fs::remove_dir_all(target);
    match differences.as_slice() {
        [] => Ok(()),
        some => Err(format!("{} differences: {}", some.len(), some[..some.len().min(5)].join("; "))),
    }
}
