//! The protocol of references and garbage: it holds in every order of its steps, and every mutant of it is caught.

use conformance::model::{HOPES, Protocol, Wrong};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(300);

#[test]
fn the_protocol_keeps_its_promises_in_every_order_of_its_steps() {
    let mut seen = Vec::new();
    for model in [Protocol::garbage(), Protocol::repair(), Protocol::together()] {
        let start = Instant::now();
        let verdict = model.explore(LIMIT);
        println!(
            "{} writers, {} parity: {} worlds in {:?}, seen {:?}",
            model.writers,
            model.parity,
            verdict.worlds,
            start.elapsed(),
            verdict.seen
        );
        assert!(verdict.finished, "not explored to the end");
        assert!(verdict.broken.is_empty(), "{:#?}", verdict.broken);
        seen.extend(verdict.seen);
    }
    for hope in HOPES {
        assert!(seen.contains(&hope), "never seen: {hope}");
    }
}

#[test]
fn every_mutant_is_caught() {
    let garbage = Wrong::GARBAGE.map(|wrong| Protocol::garbage().with(wrong));
    let repair = Wrong::REPAIR.map(|wrong| Protocol::repair().with(wrong));
    let mut missed = Vec::new();
    for model in garbage.into_iter().chain(repair) {
        let start = Instant::now();
        let verdict = model.explore(LIMIT);
        println!("{:?}: {} worlds in {:?}", model.wrong, verdict.worlds, start.elapsed());
        match verdict.broken.first() {
            Some((promise, trace)) => println!("    {promise}: {trace}"),
            None => missed.push(model.wrong),
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
