//! What this gateway knows of each node by asking it: proofs, failures, and how its scrub goes. Gone with the process.
//!
//! The rules are `seen.rs`; this is every node's, behind one lock. Invariant: no clock in here; what repeats itself within a moment counts once.

use super::Asked;
use super::seen::{STRIKES, Seen};
use spine::id::{NodeId, UnixMs};
use spine::wire::chunk::ShardName;
use spine::wire::shard::ScrubReport;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Default)]
pub struct Board {
    nodes: Mutex<HashMap<NodeId, Seen>>,
    /// Nodes whose last get broke off: while there are none, a get that went well says nothing new.
    breaking: AtomicUsize,
}

impl Board {
    pub fn of(&self, node: NodeId) -> Seen {
        self.locked().get(&node).cloned().unwrap_or_default()
    }

    /// Takes in what one group of questions came to. `serves`: whether the node said it does.
    pub(crate) fn book(&self, node: NodeId, group: &[Asked], serves: bool, time: UnixMs) {
        self.change(node, |seen| seen.answered(group, serves, time));
    }

    /// A read found this shard missing or wrong, and the index says that the node should have it. Whether that is a new strike.
    pub(crate) fn misread(&self, node: NodeId, shard: ShardName) -> bool {
        self.change(node, |seen| seen.misread(shard))
    }

    /// The node, asked for all that it should have, lacked some of it that it did not say is damaged.
    pub(crate) fn lacked(&self, node: NodeId) {
        self.change(node, Seen::lacked);
    }

    /// The node said itself that a shard which it should have is damaged. Whether that came to a strike.
    pub(crate) fn admitted(&self, node: NodeId, shard: ShardName) -> bool {
        self.change(node, |seen| seen.admit(shard))
    }

    /// So many shards are placed on the node.
    pub(crate) fn placed(&self, node: NodeId, shards: u64) {
        self.change(node, |seen| seen.placed(shards));
    }

    /// A get from a node that says it serves had no usable end. Whether that is a strike.
    pub(crate) fn broke_off(&self, node: NodeId, time: UnixMs) -> bool {
        self.change(node, |seen| {
            let before = seen.is_breaking();
            let strike = seen.broke_off(time);
            if !before && seen.is_breaking() {
                self.breaking.fetch_add(1, Ordering::Relaxed);
            }
            strike
        })
    }

    /// Whether a get from the node that nobody waits for is to be seen to its end.
    pub(crate) fn follows(&self, node: NodeId, time: UnixMs) -> bool {
        self.change(node, |seen| seen.follows(time))
    }

    /// A get from the node went well.
    pub(crate) fn went_well(&self, node: NodeId) {
        if self.breaking.load(Ordering::Relaxed) == 0 {
            return;
        }
        if let Some(seen) = self.locked().get_mut(&node)
            && seen.went_well()
        {
            self.breaking.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Nodes with as many strikes as suspend.
    pub fn struck(&self) -> Vec<NodeId> {
        let mut struck: Vec<NodeId> = self.locked().iter().filter(|(_, seen)| seen.strikes >= STRIKES).map(|(node, _)| *node).collect();
        struck.sort_unstable();
        struck
    }

    /// The node was suspended: it begins anew when it is let in again.
    pub fn forgive(&self, node: NodeId) {
        self.change(node, Seen::forgive);
    }

    /// Takes in a scrub report. Returns the damaged shards that it names for the first time, and whether a round has ended since
    /// the one before.
    pub fn scrubbed(&self, node: NodeId, report: ScrubReport) -> (Vec<ShardName>, bool) {
        let before = self.change(node, |seen| seen.scrub.replace(report.clone()));
        let known: HashSet<ShardName> = before.iter().flat_map(|before| before.damaged.iter().copied()).collect();
        let ended = before.is_some_and(|before| before.rounds != report.rounds);
        (report.damaged.into_iter().filter(|name| !known.contains(name)).collect(), ended)
    }

    fn change<T>(&self, node: NodeId, with: impl FnOnce(&mut Seen) -> T) -> T {
        with(self.locked().entry(node).or_default())
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<NodeId, Seen>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
