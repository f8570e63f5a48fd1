//! What this gateway knows of each node by asking it: proofs, failures, and how its scrub goes. Gone with the process.

use super::{Asked, Outcome};
use spine::id::{NodeId, UnixMs};
use spine::wire::chunk::ShardName;
use spine::wire::shard::ScrubReport;
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Failures that suspend a node.
pub const STRIKES: u32 = 3;
/// Groups of questions without an answer, from a node that says it serves, that are one failure.
const SILENCES: u32 = 3;

/// One node.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub proven: u64,
    pub failed: u64,
    /// Failures since the node was last suspended for them.
    pub strikes: u32,
    silent: u32,
    /// When it answered last.
    pub audited: Option<UnixMs>,
    pub scrub: Option<ScrubReport>,
}

#[derive(Default)]
pub struct Board {
    nodes: Mutex<HashMap<NodeId, Seen>>,
}

impl Board {
    pub fn of(&self, node: NodeId) -> Seen {
        self.locked().get(&node).cloned().unwrap_or_default()
    }

    /// Takes in what one group of questions came to. `serves`: whether the node said it does.
    pub(crate) fn book(&self, node: NodeId, group: &[Asked], serves: bool, time: UnixMs) {
        let mut nodes = self.locked();
        let seen = nodes.entry(node).or_default();
        let count = |which: fn(&Outcome) -> bool| group.iter().filter(|asked| which(&asked.outcome)).count();
        let (proven, failed) = (count(|outcome| matches!(outcome, Outcome::Proven(_))), count(Outcome::failed));
        seen.proven += proven as u64;
        seen.failed += failed as u64;
        seen.strikes = seen.strikes.saturating_add(failed as u32);
        if proven + failed > 0 {
            seen.audited = Some(time);
            seen.silent = 0;
        } else if serves && count(|outcome| *outcome == Outcome::Unanswered) > 0 {
            // Who serves and never answers an audit has something to hide, or is of no use.
            seen.silent += 1;
            if seen.silent >= SILENCES {
                seen.silent = 0;
                seen.strikes = seen.strikes.saturating_add(1);
            }
        }
    }

    /// Nodes with as many strikes as suspend.
    pub fn struck(&self) -> Vec<NodeId> {
        self.locked().iter().filter(|(_, seen)| seen.strikes >= STRIKES).map(|(node, _)| *node).collect()
    }

    /// The node was suspended: it begins anew when it is let in again.
    pub fn forgive(&self, node: NodeId) {
        self.locked().entry(node).or_default().strikes = 0;
    }

    /// Takes in a scrub report. Returns the damaged shards that it names for the first time, and whether a round has ended since
    /// the one before.
    pub fn scrubbed(&self, node: NodeId, report: ScrubReport) -> (Vec<ShardName>, bool) {
        let mut nodes = self.locked();
        let before = nodes.entry(node).or_default().scrub.replace(report.clone());
        let known: HashSet<ShardName> = before.iter().flat_map(|before| before.damaged.iter().copied()).collect();
        let ended = before.is_some_and(|before| before.rounds != report.rounds);
        (report.damaged.into_iter().filter(|name| !known.contains(name)).collect(), ended)
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<NodeId, Seen>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
