//! Cold neighbours become one again, so that groups do not grow in number with every load that ever was.

use super::cluster::{Cluster, Scale, Step, Subtree};
use super::decide::{Balancer, Move, Purpose, Why};
use super::load::Load;
use spine::id::{GroupId, NodeId, UnixMs};
use std::collections::BTreeMap;

impl Balancer {
    /// The first pair that may be merged, or brought together for it: one step a round is enough, since nothing waits for it.
    pub(super) fn merge(&self, cluster: &Cluster, scale: &Scale<'_>, mean: f64, now: UnixMs) -> Option<Move> {
        if cluster.groups.len() <= self.rules.fewest * cluster.servers.len() {
            return None;
        }
        let by_id: BTreeMap<GroupId, &Subtree> = cluster.groups.iter().map(|group| (group.id, group)).collect();
        let pairs = cluster.groups.iter().filter_map(|left| Some((left, *by_id.get(&left.next?)?)));
        let cold: Vec<(&Subtree, &Subtree)> = pairs.filter(|(left, right)| self.cold(cluster, left, right, mean, now)).collect();
        cold.iter().find_map(|(left, right)| self.merged(scale, left, right, mean)).or_else(|| {
            let bytes = |pair: &&(&Subtree, &Subtree)| pair.0.bytes.min(pair.1.bytes);
            let (left, right) = cold.iter().min_by_key(bytes)?;
            self.gathered(cluster, scale, left, right, mean)
        })
    }

    /// Both were left alone for long, and even as one they would be little for any server.
    fn cold(&self, cluster: &Cluster, left: &Subtree, right: &Subtree, mean: f64, now: UnixMs) -> bool {
        let rested = |group: &Subtree| self.may_move(group.id, now) && self.long_apart(group.id, now);
        let capacity = cluster.servers.get(&left.leader);
        rested(left)
            && rested(right)
            && capacity.is_some_and(|capacity| (left.lead + right.lead).pressure(capacity) <= self.rules.cold * mean)
    }

    fn idle(&self, server: NodeId) -> bool {
        !self.busy(server) && !self.relieves(server)
    }

    fn merged(&self, scale: &Scale<'_>, left: &Subtree, right: &Subtree, mean: f64) -> Option<Move> {
        let (from, to) = (right.leader, left.leader);
        let alike = left.replicas.len() == right.replicas.len() && left.replicas.iter().all(|replica| right.replicas.contains(replica));
        let shifts = if from == to { Load::default() } else { right.lead - right.follow };
        if !alike || !self.idle(from) || !self.idle(to) || scale.with(to, shifts)? > self.rules.settled * mean {
            return None;
        }
        let step = Step::Merge { left: left.id, right: right.id, from, to };
        Some(Move { step, why: why(scale, from, to, shifts, mean)? })
    }

    /// One replica of the smaller group to where the other one is; a follower of it if that does.
    fn gathered(&self, cluster: &Cluster, scale: &Scale<'_>, left: &Subtree, right: &Subtree, mean: f64) -> Option<Move> {
        let (small, large) = if left.bytes <= right.bytes { (left, right) } else { (right, left) };
        if small.stays {
            return None;
        }
        let stray = small.replicas.iter().copied().filter(|replica| !large.replicas.contains(replica));
        let from = stray.max_by_key(|replica| *replica != small.leader)?;
        let free = |to: &NodeId| !small.replicas.contains(to) && cluster.servers.contains_key(to) && self.idle(*to);
        let to = large.replicas.iter().copied().find(free)?;
        let shifts = if from == small.leader { small.lead } else { small.follow };
        if !self.idle(from) || !self.idle(small.leader) || scale.with(to, shifts)? > self.rules.settled * mean {
            return None;
        }
        let step = Step::Replica { group: small.id, from, to, source: small.leader, bytes: small.bytes };
        Some(Move { step, why: why(scale, from, to, shifts, mean)? })
    }
}

fn why(scale: &Scale<'_>, from: NodeId, to: NodeId, shifts: Load, mean: f64) -> Option<Why> {
    let times = |before: f64, after: f64| if mean > 0.0 { (before / mean, after / mean) } else { (0.0, 0.0) };
    let less = if from == to { Load::default() } else { Load::default() - shifts };
    Some(Why {
        purpose: Purpose::Merge,
        from: times(scale.of(from)?, scale.with(from, less)?),
        to: times(scale.of(to)?, scale.with(to, shifts)?),
    })
}
