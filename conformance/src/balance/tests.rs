use super::shape::{Plan, grid};
use super::*;

fn size(servers: usize, groups: usize) -> Size {
    Size { servers, groups, even: true, directory_bytes: 1 << 20 }
}

/// A share of all operations on the directories from..to, the rest even.
fn on(all: f64, share: f64, from: usize, to: usize, of: usize) -> impl Fn(usize) -> f64 {
    move |at| if (from..to).contains(&at) { all * share / (to - from) as f64 } else { all * (1.0 - share) / (of - (to - from)) as f64 }
}

fn run(world: &mut World, rounds: usize) {
    (0..rounds).for_each(|_| world.round());
}

fn sound(world: &World, seed: u64) {
    assert!(world.broken().is_empty(), "seed {seed}: {:?}\n{}", world.broken(), world.record().trace.join("\n"));
}

#[test]
fn the_same_seed_makes_the_same_trace() {
    let traces: Vec<Vec<String>> = (0..2)
        .map(|_| {
            let mut world = wild(77);
            run(&mut world, 200);
            world.record().trace.clone()
        })
        .collect();
    assert_eq!(traces[0], traces[1]);
    assert!(!traces[0].is_empty());
    let mut other = wild(78);
    run(&mut other, 200);
    assert_ne!(traces[0], other.record().trace);
}

#[test]
fn nine_tenths_on_one_prefix_are_balanced_over_three_servers_within_a_minute() {
    for seed in 0..300 {
        let mut dice = Dice::new(seed);
        let (hot, inner) = (dice.below(30), dice.between(8, 40));
        let (all, of) = (20_000.0, 30 * inner);
        let skewed = on(all, 0.9, hot * inner, (hot + 1) * inner, of);
        let even = all / of as f64;
        // Five minutes of even load, then the prefix for half an hour.
        let shape = Plan::new(grid(30, inner), 30, move |turn, at| if turn == 0 { even } else { skewed(at) });
        let mut world = World::new(size(3, 3), shape, Rules::default(), seed);
        run(&mut world, 30);
        assert_eq!(world.record().moves(), 0, "seed {seed}");
        run(&mut world, 1);
        assert!(world.imbalance() > 1.25, "seed {seed}: it begins skewed");
        run(&mut world, 6);
        assert!(world.imbalance() <= 1.25, "seed {seed}: {:.2} after 60 s\n{}", world.imbalance(), world.record().trace.join("\n"));
        run(&mut world, 173);
        assert!(world.imbalance() <= 1.25, "seed {seed}: {:.2} after 30 min\n{}", world.imbalance(), world.record().trace.join("\n"));
        assert!(
            world.record().moves() <= 8,
            "seed {seed}: {} moves for one shift\n{}",
            world.record().moves(),
            world.record().trace.join("\n")
        );
        sound(&world, seed);
    }
}

#[test]
fn load_that_shifts_every_five_minutes_makes_moves_for_its_shifts_alone() {
    for seed in 0..300 {
        let mut dice = Dice::new(seed);
        let servers = dice.between(3, 6);
        let hot: Vec<usize> = (0..6).map(|_| dice.below(30)).collect();
        let share = 0.5 + 0.1 * dice.below(5) as f64;
        let shape = Plan::new(grid(30, 20), 30, move |turn, at| {
            on(20_000.0, share, hot[turn as usize % 6] * 20, hot[turn as usize % 6] * 20 + 20, 600)(at)
        });
        let mut world = World::new(size(servers, servers * 3), shape, Rules::default(), seed);
        run(&mut world, 180);
        let moves = world.record().moves();
        assert!(
            moves <= 6 * 3 * servers as u64,
            "seed {seed}: {moves} moves for 6 shifts on {servers} servers\n{}",
            world.record().trace.join("\n")
        );
        sound(&world, seed);
    }
}

#[test]
fn under_even_load_nothing_ever_moves() {
    for seed in 0..1_000 {
        let mut dice = Dice::new(seed);
        let servers = dice.between(3, 12);
        let groups = servers * dice.between(1, 4);
        let shape = Plan::new(grid(groups, 4), 1, |turn, at| {
            // Even, but never twice the same: every directory swings by a twentieth.
            let swing = (turn as usize * 31 + at * 17) % 100;
            400.0 * (0.95 + 0.001 * swing as f64)
        });
        let mut world = World::new(size(servers, groups), shape, Rules::default(), seed);
        run(&mut world, 180);
        assert_eq!(world.record().trace, Vec::<String>::new(), "seed {seed}");
        sound(&world, seed);
    }
}

/// A small world of any shape: some shifts in the first forty minutes, none later.
fn wild(seed: u64) -> World {
    let mut dice = Dice::new(seed);
    let servers = dice.between(3, 8);
    let (outer, inner) = (dice.between(4, 24), dice.between(1, 12));
    let of = outer * inner;
    let groups = dice.between(1, (servers * 4).min(of));
    let turns: Vec<Vec<f64>> = (0..dice.between(1, 8))
        .map(|_| {
            let all = 3_000.0 * servers as f64 * dice.between(1, 10) as f64 / 10.0;
            let weights: Vec<f64> = (0..of).map(|_| (dice.between(1, 100) as f64).powi(dice.between(0, 4) as i32)).collect();
            let sum: f64 = weights.iter().sum();
            weights.into_iter().map(|weight| all * weight / sum).collect()
        })
        .collect();
    let every = 240 / turns.len() as u64;
    let shape = Plan::new(grid(outer, inner), every, move |turn, at| turns[(turn as usize).min(turns.len() - 1)][at]);
    World::new(Size { even: false, ..size(servers, groups) }, shape, Rules::default(), seed)
}

#[test]
fn thousands_of_small_worlds_keep_every_rule_and_come_to_rest() {
    let mut total = 0;
    for seed in 0..3_000 {
        let mut world = wild(seed);
        run(&mut world, 330);
        let before = world.record().trace.len();
        let moved = world.record().moves();
        run(&mut world, 90);
        sound(&world, seed);
        let late = world.record().moves() - moved;
        let said = world.record().trace[before..].join("\n");
        assert!(late <= 12, "seed {seed}: {late} moves a quarter of an hour after the last shift\n{said}");
        total += late;
    }
    // Loads swing by some hundredths: a step that just did not pay does later, and others follow it. But rarely.
    println!("{total} late moves in 3,000 worlds");
    assert!(total <= 1_500, "{total} late moves in 3,000 worlds");
}

#[test]
fn a_day_of_a_small_cluster_is_balanced_most_of_the_time() {
    let (shape, shifts) = shape::Day::new(40, 50, 2_500.0 * 8.0);
    let mut world = World::new(size(8, 24), shape, Rules::default(), 5);
    run(&mut world, 8_640);
    sound(&world, 5);
    assert!(shifts.get() >= 100);
    let most = world.record().quantile(360, 0.9);
    assert!(most <= 1.3, "{most:.2}");
}
