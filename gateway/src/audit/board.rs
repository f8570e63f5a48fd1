//! What this gateway knows of each node by asking it: proofs, failures, and how its scrub goes. Gone with the process.
//!
//! A strike is one of: a question of an audit that was answered with no proof; a shard that a read found missing or wrong; a survey in
//! which the node lacked shards that it had acknowledged; questions, or gets, that went on having no answer while the node said that it
//! serves. Invariant: no clock in here; what repeats itself within a moment counts once.

use super::{Asked, Outcome};
use spine::id::{NodeId, UnixMs};
use spine::wire::chunk::ShardName;
use spine::wire::shard::ScrubReport;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Failures that suspend a node.
pub const STRIKES: u32 = 3;
/// Groups of questions without an answer, from a node that says it serves, that are one failure.
const SILENCES: u32 = 3;
/// Gets that broke off within this many milliseconds count as one: a moment of a bad network is not a bad node.
const BREAK_MS: u64 = 10_000;
/// So many of those in a row, without one get that went well, are one failure.
const BREAKS: u32 = 3;

/// One node.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub proven: u64,
    pub failed: u64,
    /// Failures since the node was last suspended for them.
    pub strikes: u32,
    silent: u32,
    /// Shards that reads have held against it since; never more than suspend.
    misread: Vec<ShardName>,
    /// Moments in a row in which gets broke off, and the last of them.
    breaks: u32,
    broke: Option<UnixMs>,
    /// When it answered last.
    pub audited: Option<UnixMs>,
    pub scrub: Option<ScrubReport>,
}

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

    /// A read found this shard missing or wrong, and the index says that the node should have it. Whether that is a new strike.
    pub(crate) fn misread(&self, node: NodeId, shard: ShardName) -> bool {
        let mut nodes = self.locked();
        let seen = nodes.entry(node).or_default();
        if seen.misread.contains(&shard) || seen.misread.len() >= STRIKES as usize {
            return false;
        }
        seen.misread.push(shard);
        seen.failed += 1;
        seen.strikes = seen.strikes.saturating_add(1);
        true
    }

    /// The node, asked for all that it should have, lacked some of it: one strike, however many shards.
    pub(crate) fn lacked(&self, node: NodeId) {
        let mut nodes = self.locked();
        let seen = nodes.entry(node).or_default();
        seen.failed += 1;
        seen.strikes = seen.strikes.saturating_add(1);
    }

    /// A get from a node that says it serves had no usable end. Whether that is a strike.
    pub(crate) fn broke_off(&self, node: NodeId, time: UnixMs) -> bool {
        let mut nodes = self.locked();
        let seen = nodes.entry(node).or_default();
        if seen.broke.is_some_and(|before| time.0.saturating_sub(before.0) < BREAK_MS) {
            return false;
        }
        if seen.broke.replace(time).is_none() {
            self.breaking.fetch_add(1, Ordering::Relaxed);
        }
        seen.breaks += 1;
        let strike = seen.breaks >= BREAKS;
        if strike {
            seen.breaks = 0;
            seen.failed += 1;
            seen.strikes = seen.strikes.saturating_add(1);
        }
        strike
    }

    /// A get from the node went well.
    pub(crate) fn went_well(&self, node: NodeId) {
        if self.breaking.load(Ordering::Relaxed) == 0 {
            return;
        }
        if let Some(seen) = self.locked().get_mut(&node)
            && seen.broke.take().is_some()
        {
            seen.breaks = 0;
            self.breaking.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Nodes with as many strikes as suspend.
    pub fn struck(&self) -> Vec<NodeId> {
        self.locked().iter().filter(|(_, seen)| seen.strikes >= STRIKES).map(|(node, _)| *node).collect()
    }

    /// The node was suspended: it begins anew when it is let in again.
    pub fn forgive(&self, node: NodeId) {
        let mut nodes = self.locked();
        let seen = nodes.entry(node).or_default();
        seen.strikes = 0;
        seen.misread.clear();
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
