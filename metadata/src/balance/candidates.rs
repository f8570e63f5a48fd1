//! The best step of each kind that relieves one server.

use super::cluster::{Cluster, Scale, Step, Subtree};
use super::load::Load;
use spine::id::{GroupId, NodeId};

/// A step, what it shifts, and what it gains.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub step: Step,
    pub shifts: Load,
    /// By how much the busier of the two servers is less busy afterwards than the donor was.
    pub gain: f64,
}

/// The candidate that gains most, and the one that does of those after which the server that bears more need not be relieved itself: it
/// would have to give again what has just moved, and may not for a while. The first of equals, so that the order of groups and servers decides.
#[derive(Default)]
struct Best {
    any: Option<Candidate>,
    fitting: Option<Candidate>,
}

impl Best {
    fn take(&mut self, candidate: Candidate, fits: bool) {
        let better = |known: &Option<Candidate>| known.as_ref().is_none_or(|known| candidate.gain > known.gain);
        if fits && better(&self.fitting) {
            self.fitting = Some(candidate.clone());
        }
        if better(&self.any) {
            self.any = Some(candidate);
        }
    }

    /// The fitting one, unless it gains less than half as much.
    fn chosen(self) -> Option<Candidate> {
        match (self.any, self.fitting) {
            (Some(any), Some(fitting)) if fitting.gain * 2.0 >= any.gain => Some(fitting),
            (any, _) => any,
        }
    }
}

/// What may be touched: groups that do not have to stay, servers that take part in nothing else.
pub struct Free<'a> {
    pub cluster: &'a Cluster,
    pub scale: &'a Scale<'a>,
    pub group: &'a dyn Fn(GroupId) -> bool,
    pub server: &'a dyn Fn(NodeId) -> bool,
    /// The least that a step has to gain, and the share of what it takes off the donor; half of that share where a split makes pieces
    /// that are easier to move next.
    pub gain: f64,
    pub worth: f64,
    /// Pressure up to which a server may be brought without making it the next one to be relieved.
    pub most: f64,
    /// Id that a split would give its new half; `None`: there are as many groups as may be.
    pub new: Option<GroupId>,
}

impl Free<'_> {
    /// Leadership of a group that `donor` leads to one of its replicas.
    pub fn lead(&self, donor: NodeId) -> Option<Candidate> {
        let mut best = Best::default();
        for group in self.led(donor).filter(|group| !group.stays) {
            let shifts = group.lead - group.follow;
            for to in self.others(group, donor) {
                let step = || Step::Lead { group: group.id, from: donor, to };
                self.weigh(donor, to, shifts, step, &mut best);
            }
        }
        best.chosen()
    }

    /// The right part of a group that `donor` leads, led by another of its replicas. The new group has the same: where one of them is no
    /// server there is none.
    pub fn split(&self, donor: NodeId) -> Option<Candidate> {
        let new = self.new?;
        let mut best = Best::default();
        let whole = |group: &&Subtree| group.replicas.iter().all(|replica| self.cluster.servers.contains_key(replica));
        for group in self.led(donor).filter(whole) {
            let total: f64 = group.slices.iter().map(|slice| slice.heat.max(0.0)).sum();
            if total <= 0.0 {
                continue;
            }
            let targets: Vec<NodeId> = self.others(group, donor).collect();
            let mut left = 0.0;
            for pair in group.slices.windows(2) {
                left += pair[0].heat.max(0.0);
                let shifts = (group.lead - group.follow) * (1.0 - left / total);
                for &to in &targets {
                    let step = || Step::Split { group: group.id, at: pair[1].from.clone(), new, from: donor, to };
                    self.weigh(donor, to, shifts, step, &mut best);
                }
            }
        }
        best.chosen()
    }

    /// A replica that `donor` has, leading or not, to a server that has none of the group. Of those that gain at least half as much as the
    /// best, the one of the fewest bytes.
    pub fn replica(&self, donor: NodeId) -> Option<Candidate> {
        let mut found: Vec<(Candidate, u64)> = Vec::new();
        for group in self.cluster.groups.iter().filter(|group| group.replicas.contains(&donor) && !group.stays && (self.group)(group.id)) {
            let leads = group.leader == donor;
            // The leader sends the copy: it takes part.
            if !leads && !(self.server)(group.leader) {
                continue;
            }
            let shifts = if leads { group.lead } else { group.follow };
            let mut best = Best::default();
            for &to in self.cluster.servers.keys().filter(|to| !group.replicas.contains(to) && (self.server)(**to)) {
                let step = || Step::Replica { group: group.id, from: donor, to, source: group.leader, bytes: group.bytes };
                self.weigh(donor, to, shifts, step, &mut best);
            }
            found.extend(best.chosen().map(|best| (best, group.bytes)));
        }
        let most = found.iter().map(|(candidate, _)| candidate.gain).fold(0.0, f64::max);
        found.retain(|(candidate, _)| candidate.gain * 2.0 >= most);
        found.into_iter().min_by_key(|(_, bytes)| *bytes).map(|(candidate, _)| candidate)
    }

    fn led(&self, donor: NodeId) -> impl Iterator<Item = &Subtree> {
        self.cluster.groups.iter().filter(move |group| group.leader == donor && (self.group)(group.id))
    }

    fn others(&self, group: &Subtree, donor: NodeId) -> impl Iterator<Item = NodeId> {
        group.replicas.iter().copied().filter(move |&to| to != donor && (self.server)(to))
    }

    fn weigh(&self, donor: NodeId, to: NodeId, shifts: Load, step: impl Fn() -> Step, best: &mut Best) {
        let (Some(before), Some(from), Some(at)) =
            (self.scale.of(donor), self.scale.with(donor, Load::default() - shifts), self.scale.with(to, shifts))
        else {
            return;
        };
        let gain = before - from.max(at);
        if gain < self.gain {
            return;
        }
        let step = step();
        let worth = if matches!(step, Step::Split { .. }) { self.worth / 2.0 } else { self.worth };
        if gain >= worth * (before - from) {
            best.take(Candidate { step, shifts, gain }, at <= self.most);
        }
    }
}
