//! What is next so that every group has its replicas and leaving nodes have none. Pure.
//!
//! ```text
//! too few replicas:  a node enters (learns, votes): one that has made room already, else one with few groups
//! came back empty, or to another address:  it enters again, in the place of who it was
//! counted but without room for the group (it was away when the group was made):  it makes room
//! a node leaves:  first a replacement enters, where there is one; then it hands over what it leads; then it is taken out; then it lets go
//! a replica that the group does not count (its node could not enter, and another one did):  its node lets go
//! ```
//! Who learns and is not needed any more is left what it is: whoever moves replicas (`balance/`) may be about to need it.
//! Invariants: nobody who stays is ever taken out; the last voter that stays never is; a member is taken out only while a majority of those
//! who stay answers, and, unless its replica is known to be of no use, only once the group has as many voters without those who leave as it
//! should, or all who stay: a replacement that has to wait for its turn, or does not answer, is waited for. A replica is let go of only where
//! the group's leader says that the node is no member.

use crate::root::map::ROOT;
use spine::id::{GroupId, MemberId, NodeId};
use spine::wire::cluster::{Endpoint, GroupStatus, Member, MemberStatus};
use std::collections::{BTreeMap, BTreeSet};

/// Groups that are copied to nodes at a time: each copy takes the disk and the network from clients.
const COPIES: usize = 4;
/// Who lacks no more entries than this has its copy.
const COPIED: u64 = 64;
/// Steps of one round; the others are seen again in the next.
const STEPS: usize = 32;

/// A metadata node that was ever admitted.
#[derive(Clone, Debug)]
pub struct Node {
    pub at: Endpoint,
    /// It was removed, or is to be.
    pub leaves: bool,
    /// It was removed: nobody lets it in any more.
    pub removed: bool,
    /// `None`: it does not answer.
    pub says: Option<Says>,
}

/// What a node says of itself.
#[derive(Clone, Debug)]
pub struct Says {
    pub member: Member,
    pub hosts: BTreeSet<GroupId>,
}

#[derive(Clone, Debug)]
pub struct View {
    /// Voters that each group should have.
    pub wanted: usize,
    pub nodes: Vec<Node>,
    /// Each as its leader says; groups without one are not here.
    pub groups: Vec<GroupStatus>,
    /// Groups of which somebody else moves a replica: who is about to enter is not counted yet.
    pub shifting: BTreeSet<GroupId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The node makes room for a group that counts it as a member.
    Host {
        group: GroupId,
        at: Endpoint,
    },
    /// The node asks the leader to take it in.
    Enter {
        group: GroupId,
        at: Endpoint,
        leader: Endpoint,
    },
    Transfer {
        group: GroupId,
        to: MemberId,
    },
    Leave {
        group: GroupId,
        member: MemberId,
    },
    /// The node forgets the group.
    LetGo {
        group: GroupId,
        at: Endpoint,
    },
}

/// What is next, at most one step a group, and one letting go a node.
pub fn steps(view: &View) -> Vec<Step> {
    let mut deciding = Deciding::new(view);
    let mut out: Vec<Step> = view.groups.iter().filter_map(|group| deciding.of_group(group)).collect();
    out.extend(view.nodes.iter().filter_map(|node| deciding.let_go(view, node)));
    out.truncate(STEPS);
    out
}

/// Whether a group gets one more replica.
enum Add {
    /// It has as many as it should, or of all who stay.
    Enough,
    /// Not now: others are copied first, or who would be it does not answer.
    Wait,
    /// This one makes it, or goes on with it.
    Enter(Endpoint),
}

struct Deciding<'a> {
    nodes: BTreeMap<NodeId, &'a Node>,
    wanted: usize,
    /// Groups of each node, those that it is about to get included.
    load: BTreeMap<NodeId, usize>,
    copies: usize,
}

impl<'a> Deciding<'a> {
    fn new(view: &'a View) -> Self {
        let nodes: BTreeMap<NodeId, &Node> = view.nodes.iter().map(|node| (node.at.node, node)).collect();
        let load = view.nodes.iter().map(|node| (node.at.node, node.says.as_ref().map_or(0, |says| says.hosts.len()))).collect();
        let mut deciding = Self { nodes, wanted: view.wanted, load, copies: 0 };
        deciding.copies = view.groups.iter().filter(|group| deciding.is_copied(group)).count();
        deciding
    }

    /// Whether somebody gets a copy now. One that is silent gets nothing; one that has it may stay a learner for long.
    fn is_copied(&self, group: &GroupStatus) -> bool {
        let lacks = |has: Option<u64>| has.is_none_or(|has| has.saturating_add(COPIED) < group.last);
        let says = |known: &MemberStatus| self.nodes.get(&known.member.at.node)?.says.as_ref();
        let answers = |known: &MemberStatus| says(known).is_some_and(|says| says.member.id == known.member.id);
        group.members.iter().any(|known| !known.votes && lacks(known.has) && answers(known))
    }

    fn leaves(&self, member: &MemberStatus) -> bool {
        self.nodes.get(&member.member.at.node).is_some_and(|node| node.leaves)
    }

    /// What the member's node says, if it stays and answers.
    fn there(&self, member: &MemberStatus) -> Option<&'a Says> {
        self.nodes.get(&member.member.at.node).filter(|node| !node.leaves)?.says.as_ref()
    }

    /// Whether the member's process answers, is the one that the group means, where the group means, and has the group.
    fn serves(&self, group: &GroupStatus, member: &MemberStatus) -> bool {
        let says = self.nodes.get(&member.member.at.node).and_then(|node| node.says.as_ref());
        says.is_some_and(|says| says.member == member.member && says.hosts.contains(&group.group))
    }

    /// Whether it is known that the member's replica is of no use. That it is silent says nothing of it.
    fn is_lost(&self, group: &GroupStatus, member: &MemberStatus) -> bool {
        let other = |says: &Says| says.member.id != member.member.id || !says.hosts.contains(&group.group);
        let node = self.nodes.get(&member.member.at.node);
        node.is_some_and(|node| node.removed || node.says.as_ref().is_some_and(other))
    }

    fn of_group(&mut self, group: &GroupStatus) -> Option<Step> {
        let leader = &group.members.iter().find(|known| Some(known.member.id) == group.leader)?.member;
        // Where it says that it is now: the group may know an address of before, or none.
        let at = &self.nodes.get(&leader.at.node)?.says.as_ref()?.member.at;
        // All nodes are in the root group, and see to that themselves.
        if group.group == ROOT {
            return self.take_out(group, leader.id, |_| true);
        }
        if let Some(step) = self.restore(group, at) {
            return Some(step);
        }
        match self.add(group) {
            Add::Enter(node) => Some(Step::Enter { group: group.group, at: node, leader: at.clone() }),
            Add::Wait => self.take_out(group, leader.id, |known| !known.votes || self.is_lost(group, known)),
            Add::Enough => self.take_out(group, leader.id, |_| true),
        }
    }

    /// A member that is not as the group knows it.
    fn restore(&self, group: &GroupStatus, leader: &Endpoint) -> Option<Step> {
        group.members.iter().find_map(|known| {
            let says = self.there(known)?;
            if says.member != known.member {
                return Some(Step::Enter { group: group.group, at: says.member.at.clone(), leader: leader.clone() });
            }
            (!says.hosts.contains(&group.group)).then(|| Step::Host { group: group.group, at: says.member.at.clone() })
        })
    }

    /// Whether it has as many voters that stay as it should.
    fn has_enough(&self, group: &GroupStatus) -> bool {
        group.members.iter().filter(|known| known.votes && !self.leaves(known)).count() >= self.wanted
    }

    /// One more replica, or one that goes on learning.
    fn add(&mut self, group: &GroupStatus) -> Add {
        if self.has_enough(group) {
            return Add::Enough;
        }
        let mut learners = group.members.iter().filter(|known| !known.votes && !self.leaves(known)).peekable();
        let learns = learners.peek().is_some();
        if let Some(says) = learners.find_map(|known| self.there(known)) {
            return Add::Enter(says.member.at.clone());
        }
        let is_in = |node: &Node| group.members.iter().any(|known| known.member.at.node == node.at.node);
        let mut free = self.nodes.values().filter(|node| !node.leaves && !is_in(node)).peekable();
        if !learns && free.peek().is_none() {
            return Add::Enough;
        }
        // Whoever could not enter the last time has room for it still, and another one would come to have it too.
        let order = |says: &&Says| {
            let node = says.member.at.node;
            (!says.hosts.contains(&group.group), self.load.get(&node).copied(), node)
        };
        let free = free.filter_map(|node| node.says.as_ref()).min_by_key(order).filter(|_| self.copies < COPIES);
        let Some(says) = free else { return Add::Wait };
        self.copies += 1;
        *self.load.entry(says.member.at.node).or_default() += usize::from(!says.hosts.contains(&group.group));
        Add::Enter(says.member.at.clone())
    }

    /// - `may_go`: of those who leave.
    fn take_out(&self, group: &GroupStatus, leader: MemberId, may_go: impl Fn(&MemberStatus) -> bool) -> Option<Step> {
        // Whoever does not serve goes first: the others must be a majority without it, whether they stay or not.
        let leave = group.members.iter().filter(|known| self.leaves(known) && may_go(known));
        let leaving = leave.min_by_key(|known| (self.serves(group, known), known.member.id))?;
        let others = || group.members.iter().filter(|known| known.votes && known.member.id != leaving.member.id);
        if others().filter(|known| self.serves(group, known)).count() * 2 <= others().count() {
            return None;
        }
        let voters = || group.members.iter().filter(|known| known.votes && !self.leaves(known));
        let there = || voters().filter(|known| self.there(known).is_some());
        // Of none, nobody is a majority either.
        if there().count() * 2 <= voters().count() {
            return None;
        }
        if group.members.iter().any(|known| known.member.id == leader && self.leaves(known)) {
            let next = there().max_by_key(|known| (known.has, std::cmp::Reverse(known.member.id)))?;
            return Some(Step::Transfer { group: group.group, to: next.member.id });
        }
        Some(Step::Leave { group: group.group, member: leaving.member.id })
    }

    /// A replica of a group that does not count its node. One that stays may be about to be counted, where somebody is wanted.
    fn let_go(&self, view: &View, node: &Node) -> Option<Step> {
        let says = node.says.as_ref()?;
        let without = |group: &&GroupStatus| !group.members.iter().any(|known| known.member.at.node == node.at.node);
        let rests = |group: &GroupStatus| self.has_enough(group) && !view.shifting.contains(&group.group);
        let hosted = view.groups.iter().filter(|group| group.group != ROOT && says.hosts.contains(&group.group));
        let gone = hosted.filter(|group| node.leaves || rests(group)).find(without)?;
        Some(Step::LetGo { group: gone.group, at: says.member.at.clone() })
    }
}
