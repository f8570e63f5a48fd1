//! The protocol of references and garbage, checked in every order of its steps: one chunk, several writers, late duplicates,
//! power cuts, disks that empty themselves, the collector, repair, and the orphan sweep.
//!
//! - the steps of the chunk's record and of a version's intent are the code's own ([`metadata::chunk_index::transition`],
//!   [`metadata::namespace::intent`]); `world.rs` has what lies around them
//!   (writers, nodes, messages under way), `step.rs` what each action does to it, `promise.rs` what must hold
//! - `wrong.rs` names the mutants, each one step done wrong; the checker must catch every one of them
//!
//! Confirm and Commit come in both ways that are built: chained in one batch, and apart. Writers are alike, so the
//! world keeps them sorted and the checker sees one order of them; and it forgets what can make no difference any more.
//!
//! Not modelled: reads in progress, versions of several chunks, the tables (`metadata`'s own tests hold those to the same
//! invariants), and ended versions being forgotten, which the bound on how late a message may be makes invisible.

mod promise;
mod step;
mod world;
mod wrong;

pub use world::{Action, World, Writer};
pub use wrong::Wrong;

use stateright::{Checker, HasDiscoveries, Model, Property};
use std::time::{Duration, Instant};
use wrong::Steps;

/// Which world is explored, and which step is wrong in it.
#[derive(Clone, Copy, Debug)]
pub struct Protocol {
    pub writers: usize,
    /// Parity shards, beside one data shard: 0 leaves repair nothing to do.
    pub parity: u8,
    /// Storage nodes; more than shards, so that rivals and repair have a choice.
    pub nodes: u8,
    /// How many generations and tags may be taken.
    pub numbers: u64,
    /// How often each of these may happen.
    pub budget: Budget,
    pub wrong: Option<Wrong>,
}

/// What is bounded so that the world is finite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Messages that come a second time, however late.
    pub late: u8,
    pub power_cuts: u8,
    /// Disks emptied.
    pub wipes: u8,
    /// Shards reported lost that are not.
    pub false_alarms: u8,
    /// Targets reserved.
    pub repairs: u8,
}

impl Protocol {
    /// Four writers of one chunk, the collector, the sweep, late messages and power cuts.
    pub fn garbage() -> Self {
        let budget = Budget { late: 1, power_cuts: 1, ..Budget::default() };
        Self { writers: 4, parity: 0, nodes: 1, numbers: 3, budget, wrong: None }
    }

    /// Two writers of one chunk in two shards, repair, an emptied disk, a false alarm, and all of the above.
    pub fn repair() -> Self {
        let budget = Budget { late: 1, power_cuts: 1, wipes: 1, false_alarms: 1, repairs: 1 };
        Self { writers: 2, parity: 1, nodes: 3, numbers: 3, budget, wrong: None }
    }

    /// Three writers with a repair, and no generation after the first.
    pub fn together() -> Self {
        let budget = Budget { late: 0, power_cuts: 0, wipes: 1, false_alarms: 0, repairs: 1 };
        Self { writers: 3, parity: 1, nodes: 3, numbers: 2, budget, wrong: None }
    }

    pub fn with(self, wrong: Wrong) -> Self {
        Self { wrong: Some(wrong), ..self }
    }

    /// Explores every reachable world. Returns what was found: broken promises, and hoped-for states that were seen.
    pub fn explore(self, timeout: Duration) -> Verdict {
        let start = Instant::now();
        let checker = self.checker().threads(2).timeout(timeout).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let found = checker.discoveries();
        let trace = |name: &str| found.get(name).map(|path| format!("{:?}", path.clone().into_actions()));
        Verdict {
            worlds: checker.unique_state_count(),
            finished: start.elapsed() < timeout,
            broken: PROMISES.iter().filter_map(|name| trace(name).map(|trace| (*name, trace))).collect(),
            seen: HOPES.iter().copied().filter(|name| found.contains_key(name)).collect(),
        }
    }

    fn steps(&self) -> Steps {
        Steps { wrong: self.wrong }
    }
}

/// What exploring gave.
#[derive(Debug)]
pub struct Verdict {
    pub worlds: usize,
    /// Whether everything was explored, or a promise was seen broken.
    pub finished: bool,
    /// Promises that do not hold, each with the actions that break it.
    pub broken: Vec<(&'static str, String)>,
    pub seen: Vec<&'static str>,
}

const PROMISES: [&str; 3] = [
    "a committed version's chunk is Live, held, and durable",
    "a placed shard is on its disk unless the disk was emptied",
    "a version that is over and out of the outbox holds nothing",
];
/// States that must be reachable, or the promises are kept by doing nothing.
pub const HOPES: [&str; 3] = ["a dedup hit commits", "all space is reclaimed", "repair makes an emptied disk's shard anew"];

impl Model for Protocol {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        world.actions(self, actions);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        next.step(self, action)?;
        next.writers.sort();
        if self.wrong.is_none() {
            next.forget();
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(PROMISES[0], |model: &Protocol, world: &World| world.committed_is_durable(model)),
            Property::always(PROMISES[1], |_, world: &World| world.placed_is_there()),
            Property::always(PROMISES[2], |_, world: &World| world.over_holds_nothing()),
            Property::sometimes(HOPES[0], |_, world: &World| world.hit_commits()),
            Property::sometimes(HOPES[1], |_, world: &World| world.reclaimed()),
            Property::sometimes(HOPES[2], |model: &Protocol, world: &World| world.repaired(model)),
        ]
    }
}
