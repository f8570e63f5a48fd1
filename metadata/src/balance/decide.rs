//! A round of the balancer: who is relieved, by which step, and what has to wait.

use super::candidates::{Candidate, Free};
use super::cluster::{Busy, Cluster, Scale, Step};
use spine::id::{GroupId, NodeId, UnixMs};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// When to act. Loads are compared as multiples of the mean of all servers.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// A server above this is relieved. Lower: evener, and more moves. What is to hold is 1.25: a server at the line is not there yet.
    pub imbalance: f64,
    /// ... until it is at or below this. Nearer to `imbalance`: fewer moves, and sooner again.
    pub settled: f64,
    /// Rounds in a row that it has to be above: 1 moves for a moment's burst.
    pub rounds: u32,
    /// A step has to gain this much. Lower: more moves for less.
    pub gain: f64,
    /// ... and this share of what it shifts. Lower: what is hot and cannot be cut is passed on for little.
    pub worth: f64,
    /// Pressure (1.0: all that a server can do) below which no server is relieved: it would help nobody.
    pub quiet: f64,
    /// How long what changed servers stays where it is.
    pub dwell_ms: u64,
    /// How long what was split or merged stays so before it is merged again. Shorter: what cools down for a moment is soon split again.
    pub apart_ms: u64,
    /// Neighbours that together bear less than this become one; if they lie on other servers, the smaller is copied to the other's first.
    pub cold: f64,
    /// Groups for each server that merging leaves.
    pub fewest: usize,
    /// Groups for each server that splitting may make.
    pub most: usize,
    /// A step whose end nobody tells counts as ended after this: copying a replica may take long.
    pub patience_ms: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            imbalance: 1.2,
            settled: 1.10,
            rounds: 2,
            gain: 0.05,
            worth: 0.5,
            quiet: 0.05,
            dwell_ms: 120_000,
            apart_ms: 900_000,
            cold: 0.1,
            fewest: 4,
            most: 64,
            patience_ms: 3_600_000,
        }
    }
}

/// What a step is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A server bears too much.
    Relief,
    /// Cold neighbours become one, now or once they lie alike.
    Merge,
}

/// Why a step is taken: pressures as multiples of the mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Why {
    pub purpose: Purpose,
    /// Of the server that is relieved: before, and after as expected.
    pub from: (f64, f64),
    /// Of the server that bears more.
    pub to: (f64, f64),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((before, after), (other, then)) = (self.from, self.to);
        let purpose = match self.purpose {
            Purpose::Relief => "relief",
            Purpose::Merge => "a merge of cold neighbours",
        };
        write!(f, "{purpose}: from {before:.2} to {after:.2} times the mean, the other from {other:.2} to {then:.2}")
    }
}

/// A step and its reason.
#[derive(Clone, Debug, PartialEq)]
pub struct Move {
    pub step: Step,
    pub why: Why,
}

#[derive(Clone, Debug)]
struct UnderWay {
    step: Step,
    began: UnixMs,
}

/// What the balancer remembers between rounds. A new one (the root has another leader) knows of no move, and waits one dwell before its
/// first.
#[derive(Clone, Debug)]
pub struct Balancer {
    pub(super) rules: Rules,
    began: UnixMs,
    /// Rounds in a row that a server has been above.
    over: BTreeMap<NodeId, u32>,
    relieving: BTreeSet<NodeId>,
    /// When a group last changed servers; what is not here has not since `began`.
    moved: BTreeMap<GroupId, UnixMs>,
    /// When a group was last split or merged.
    reshaped: BTreeMap<GroupId, UnixMs>,
    under_way: Vec<UnderWay>,
    /// What takes part in something that others began, as of this round.
    strange: Busy,
}

impl Balancer {
    /// One that knows nothing of before `now`.
    pub fn new(rules: Rules, now: UnixMs) -> Self {
        let (over, relieving, moved, reshaped, strange) = Default::default();
        Balancer { rules, began: now, over, relieving, moved, reshaped, under_way: Vec::new(), strange }
    }

    /// One that knows that nothing has moved for long: of a cluster that has just begun.
    pub fn fresh(rules: Rules) -> Self {
        Self::new(rules, UnixMs(0))
    }

    /// What to begin now. Call every 10 s or so; tell [`Self::ended`] of each step's end.
    pub fn round(&mut self, cluster: &Cluster, now: UnixMs) -> Vec<Move> {
        self.forget(cluster, now);
        self.strange = cluster.busy.clone();
        let mut scale = Scale::new(cluster);
        let mean = scale.mean();
        self.watch(&scale, mean);
        let mut donors: Vec<(NodeId, f64)> = scale.all().filter(|(server, _)| self.relieving.contains(server)).collect();
        donors.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let mut moves = Vec::new();
        for (donor, _) in donors {
            let Some(found) = self.relief(cluster, &scale, donor, mean, now) else { continue };
            let (from, to) = found.step.servers();
            let before = (scale.of(from), scale.of(to));
            scale.shift(from, to, found.shifts);
            let after = (scale.of(from), scale.of(to));
            let times = |pressure: Option<f64>| pressure.unwrap_or(0.0) / mean;
            let why = Why { purpose: Purpose::Relief, from: (times(before.0), times(after.0)), to: (times(before.1), times(after.1)) };
            self.begin(&mut moves, Move { step: found.step, why }, now);
        }
        let merge = self.merge(cluster, &scale, mean, now);
        merge.into_iter().for_each(|merge| self.begin(&mut moves, merge, now));
        moves
    }

    /// A step was done, or given up: it holds nobody back any more. `done`: what it moved now has to stay for a while.
    pub fn ended(&mut self, step: &Step, done: bool, now: UnixMs) {
        let Some(at) = self.under_way.iter().position(|under_way| under_way.step == *step) else { return };
        self.under_way.swap_remove(at);
        if done {
            self.moved.extend(step.moved().map(|group| (group, now)));
            if matches!(step, Step::Split { .. } | Step::Merge { .. }) {
                self.reshaped.extend(step.groups().into_iter().map(|group| (group, now)));
            }
        }
    }

    /// Learns of a move that it did not see the end of: of before it was, or by an operator's word. A time to come counts as now.
    ///
    /// - `split_or_merged`: the group was given a part of another's range, or gave one away.
    pub fn note(&mut self, group: GroupId, split_or_merged: bool, at: UnixMs, now: UnixMs) {
        let at = at.min(now);
        let later = |times: &mut BTreeMap<GroupId, UnixMs>| {
            let known = times.entry(group).or_insert(at);
            *known = (*known).max(at);
        };
        later(if split_or_merged { &mut self.reshaped } else { &mut self.moved });
    }

    /// Steps that have begun and not ended.
    pub fn under_way(&self) -> impl Iterator<Item = &Step> {
        self.under_way.iter().map(|under_way| &under_way.step)
    }

    /// Leadership if it helps half as much as a split would, a split if it helps half as much as moving a replica.
    fn relief(&self, cluster: &Cluster, scale: &Scale<'_>, donor: NodeId, mean: f64, now: UnixMs) -> Option<Candidate> {
        if self.busy(donor) {
            return None;
        }
        let room = cluster.groups.len() + self.splits() < self.rules.most * cluster.servers.len();
        let free = Free {
            cluster,
            scale,
            group: &|group| self.may_move(group, now),
            server: &|server| !self.busy(server),
            gain: self.rules.gain * mean,
            worth: self.rules.worth,
            most: self.rules.settled * mean,
            new: room.then(|| self.unused(cluster)).flatten(),
        };
        // A copy costs the fleet something: only for who is above the line itself, and for twice the gain.
        let above = scale.of(donor)? > self.rules.imbalance * mean;
        let copied = free.replica(donor).filter(|copied| above && copied.gain >= 2.0 * self.rules.gain * mean);
        let mut best: Option<Candidate> = None;
        for candidate in [free.lead(donor), free.split(donor), copied].into_iter().flatten() {
            if best.as_ref().is_none_or(|best| best.gain * 2.0 < candidate.gain) {
                best = Some(candidate);
            }
        }
        best
    }

    fn begin(&mut self, moves: &mut Vec<Move>, made: Move, now: UnixMs) {
        self.under_way.push(UnderWay { step: made.step.clone(), began: now });
        moves.push(made);
    }

    /// Who is above for long enough is relieved until it is well below: not with every swing around one line.
    fn watch(&mut self, scale: &Scale<'_>, mean: f64) {
        for (server, pressure) in scale.all() {
            if pressure > self.rules.imbalance * mean && pressure > self.rules.quiet {
                let rounds = self.over.entry(server).or_default();
                *rounds = rounds.saturating_add(1);
                if *rounds >= self.rules.rounds {
                    self.relieving.insert(server);
                }
            } else {
                self.over.remove(&server);
            }
            if pressure <= self.rules.settled * mean || pressure <= self.rules.quiet {
                self.relieving.remove(&server);
            }
        }
    }

    /// Drops what no longer matters: steps that were never ended or whose servers are gone, servers and groups that are gone.
    fn forget(&mut self, cluster: &Cluster, now: UnixMs) {
        let here = |server: NodeId| cluster.servers.contains_key(&server);
        let patience = self.rules.patience_ms;
        let stuck = |under_way: &&UnderWay| {
            let (from, to) = under_way.step.servers();
            now.0.saturating_sub(under_way.began.0) >= patience || !here(from) || !here(to)
        };
        for step in self.under_way.iter().filter(stuck).map(|under_way| under_way.step.clone()).collect::<Vec<_>>() {
            self.ended(&step, true, now);
        }
        self.over.retain(|server, _| here(*server));
        self.relieving.retain(|server| here(*server));
        let groups: BTreeSet<GroupId> = cluster.groups.iter().map(|group| group.id).collect();
        let dwell = self.rules.dwell_ms;
        self.moved.retain(|group, at| groups.contains(group) || now.0.saturating_sub(at.0) < dwell);
        self.reshaped.retain(|group, at| groups.contains(group) || now.0.saturating_sub(at.0) < dwell);
    }

    pub(super) fn busy(&self, server: NodeId) -> bool {
        self.strange.servers.contains(&server) || self.under_way.iter().any(|under_way| under_way.step.involves(server))
    }

    pub(super) fn relieves(&self, server: NodeId) -> bool {
        self.relieving.contains(&server)
    }

    pub(super) fn rests(&self, group: GroupId) -> bool {
        !self.strange.groups.contains(&group) && !self.under_way.iter().any(|under_way| under_way.step.groups().contains(&group))
    }

    pub(super) fn may_move(&self, group: GroupId, now: UnixMs) -> bool {
        let since = self.moved.get(&group).copied().unwrap_or(self.began);
        self.rests(group) && now.0.saturating_sub(since.0) >= self.rules.dwell_ms
    }

    pub(super) fn long_apart(&self, group: GroupId, now: UnixMs) -> bool {
        let since = self.reshaped.get(&group).copied().unwrap_or(self.began);
        now.0.saturating_sub(since.0) >= self.rules.apart_ms
    }

    fn splits(&self) -> usize {
        self.under_way.iter().filter(|under_way| matches!(under_way.step, Step::Split { .. })).count()
    }

    /// The first id that neither the cluster nor a split under way has; `None`: there is none left.
    fn unused(&self, cluster: &Cluster) -> Option<GroupId> {
        let taken = self.under_way.iter().filter_map(|under_way| match under_way.step {
            Step::Split { new, .. } => new.0.checked_add(1),
            _ => None,
        });
        let next = taken.max().unwrap_or(0).max(cluster.unused.0);
        (next < u32::MAX).then_some(GroupId(next))
    }
}
