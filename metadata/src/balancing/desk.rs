//! The balancer's steps as orders that can be carried out, and what it has to know of the past. Pure.
//!
//! The past is in the root's records, so that a desk that has just begun knows as well as the one before it what has to rest.

use super::picture::{Picture, Place};
use crate::balance::{Balancer, Cut, Rules, Step};
use spine::id::{Epoch, GroupId, MoveId, NodeId, UnixMs};
use spine::wire::cluster::Member;
use spine::wire::root::{MoveAsk, MoveRecord, MoveStep, ShiftKind, ShiftRecord};
use std::collections::BTreeSet;

/// A step as the root is told of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    pub step: Step,
    /// Why, for operators.
    pub reason: String,
    pub task: Task,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Task {
    /// Leadership or a replica goes from one server to another.
    Shift { kind: ShiftKind, group: GroupId, from: Member, to: Member },
    /// A range moves; then `lead` leads the group that got it, if it is a new one.
    Range { ask: MoveAsk, expected: Epoch, lead: Option<NodeId> },
}

pub struct Desk {
    balancer: Balancer,
    /// Records that the balancer was told of, and whether they were over then.
    recalled: BTreeSet<(MoveId, bool)>,
}

impl Desk {
    /// Knows of nothing that is not in the root's records.
    pub fn new(rules: Rules) -> Desk {
        Desk { balancer: Balancer::fresh(rules), recalled: BTreeSet::new() }
    }

    /// What to begin now.
    pub fn round(&mut self, picture: &Picture, moves: &[MoveRecord], shifts: &[ShiftRecord], now: UnixMs) -> Vec<Order> {
        self.recall(moves, shifts, now);
        let made = self.balancer.round(&picture.cluster, now);
        let mut orders = Vec::with_capacity(made.len());
        for made in made {
            match task(&made.step, picture) {
                Some(task) => orders.push(Order { reason: made.why.to_string(), step: made.step, task }),
                // What the servers said and the map do not fit together at this moment.
                None => self.balancer.ended(&made.step, false, now),
            }
        }
        orders
    }

    /// A step is over.
    pub fn ended(&mut self, step: &Step, done: bool, now: UnixMs) {
        self.balancer.ended(step, done, now);
    }

    /// Steps that have begun and not ended.
    pub fn under_way(&self) -> impl Iterator<Item = &Step> {
        self.balancer.under_way()
    }

    /// Each record once: a time to come (a clock that was wrong) is then no later than the first look at it.
    fn recall(&mut self, moves: &[MoveRecord], shifts: &[ShiftRecord], now: UnixMs) {
        let known: BTreeSet<MoveId> = moves.iter().map(|record| record.id).chain(shifts.iter().map(|record| record.id)).collect();
        self.recalled.retain(|(id, _)| known.contains(id));
        for record in moves.iter().filter(|record| matches!(record.step, MoveStep::Mapped | MoveStep::Done)) {
            if !self.recalled.insert((record.id, true)) {
                continue;
            }
            self.balancer.note(record.to, false, record.changed, now);
            for group in [record.from, record.to] {
                self.balancer.note(group, true, record.changed, now);
            }
        }
        // One that failed may have come through after all.
        for record in shifts {
            if self.recalled.insert((record.id, record.ended.is_some())) {
                self.balancer.note(record.group, false, record.ended.unwrap_or(record.begun), now);
            }
        }
    }
}

/// How the step is done; `None`: it cannot be, by this picture.
fn task(step: &Step, picture: &Picture) -> Option<Task> {
    let place = |group: &GroupId| picture.places.get(group);
    let voter = |place: &Place, node: &NodeId| place.voters.iter().find(|voter| voter.at.node == *node).cloned();
    match step {
        Step::Lead { group, from, to } => {
            let place = place(group)?;
            Some(Task::Shift { kind: ShiftKind::Leadership, group: *group, from: voter(place, from)?, to: voter(place, to)? })
        }
        Step::Replica { group, from, to, .. } => {
            let (from, to) = (voter(place(group)?, from)?, picture.members.get(to)?.clone());
            Some(Task::Shift { kind: ShiftKind::Replica, group: *group, from, to })
        }
        Step::Split { group, at, to, .. } => {
            let place = place(group)?;
            // A group cannot be founded without one of its members, and is not with one that leaves.
            if !place.voters.iter().all(|voter| picture.members.get(&voter.at.node) == Some(voter)) {
                return None;
            }
            // The first of the members founds the group, and leads it from the start.
            let mut members = place.voters.clone();
            members.sort_by_key(|member| (member.at.node != *to, member.id));
            let ask = match at {
                Cut::Names(at) => match place.names.as_ref().filter(|span| span.holds(at))? {
                    span if span.start == *at => MoveAsk::MoveNames { from: *group, members },
                    _ => MoveAsk::SplitNames { at: at.clone(), members },
                },
                Cut::Chunks(at) => match place.chunks.as_ref().filter(|span| span.holds(at))? {
                    span if span.start == *at => MoveAsk::MoveChunks { from: *group, members },
                    _ => MoveAsk::SplitChunks { at: *at, members },
                },
            };
            Some(Task::Range { ask, expected: picture.epoch, lead: Some(*to) })
        }
        Step::Merge { left, right, .. } => {
            let (into, from) = (place(left)?, place(right)?);
            let follows = |end: Option<&_>, start: Option<&_>| end.is_some() && end == start;
            let names = follows(into.names.as_ref().and_then(|span| span.end.as_ref()), from.names.as_ref().map(|span| &span.start));
            let chunks = into.chunks.and_then(|span| span.end).is_some_and(|end| from.chunks.is_some_and(|span| span.start == end));
            let ask = match (names, chunks) {
                (true, _) => MoveAsk::MergeNames { into: *left },
                (false, true) => MoveAsk::MergeChunks { into: *left },
                (false, false) => return None,
            };
            Some(Task::Range { ask, expected: picture.epoch, lead: None })
        }
    }
}
