//! What is next so that every group has its replicas and leaving nodes have none. Pure.
//!
//! ```text
//! too few replicas:  a node with few groups enters (learns, votes)
//! came back empty, or to another address:  it enters again, in the place of who it was
//! counted but without room for the group (it was away when the group was made):  it makes room
//! a node leaves:  first a replacement enters, where there is one; then it hands over what it leads; then it is taken out; then it lets go
//! ```
//! Who learns and is not needed any more is left what it is: whoever moves replicas (`balance/`) may be about to need it.
//! Invariants: nobody who stays is ever taken out; the last voter that stays never is; a member is taken out only while a majority of those
//! who stay answers; a replica is let go of only where the group's leader says that the node is no member.

use crate::root::map::ROOT;
use spine::id::{GroupId, MemberId, NodeId};
use spine::wire::cluster::{Endpoint, GroupStatus, Member, MemberStatus};
use std::collections::{BTreeMap, BTreeSet};

/// Groups that are copied to nodes at a time: each copy takes the disk and the network from clients.
const COPIES: usize = 4;
/// Steps of one round; the others are seen again in the next.
const STEPS: usize = 32;

/// A metadata node that was ever admitted.
#[derive(Clone, Debug)]
pub struct Node {
    pub at: Endpoint,
    /// It was removed, or is to be.
    pub leaves: bool,
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
    out.extend(view.nodes.iter().filter_map(|node| let_go(view, node)));
    out.truncate(STEPS);
    out
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
        let copies = view.groups.iter().filter(|group| group.members.iter().any(|member| !member.votes)).count();
        Self { nodes, wanted: view.wanted, load, copies }
    }

    fn leaves(&self, member: &MemberStatus) -> bool {
        self.nodes.get(&member.member.at.node).is_some_and(|node| node.leaves)
    }

    /// What the member's node says, if it stays and answers.
    fn there(&self, member: &MemberStatus) -> Option<&'a Says> {
        self.nodes.get(&member.member.at.node).filter(|node| !node.leaves)?.says.as_ref()
    }

    /// Whether the member's process answers, is the one that the group means, and has the group.
    fn serves(&self, group: &GroupStatus, member: &MemberStatus) -> bool {
        let says = self.nodes.get(&member.member.at.node).and_then(|node| node.says.as_ref());
        says.is_some_and(|says| says.member.id == member.member.id && says.hosts.contains(&group.group))
    }

    fn of_group(&mut self, group: &GroupStatus) -> Option<Step> {
        let leader = &group.members.iter().find(|known| Some(known.member.id) == group.leader)?.member;
        // Where it says that it is now: the group may know an address of before, or none.
        let at = &self.nodes.get(&leader.at.node)?.says.as_ref()?.member.at;
        if group.group != ROOT
            && let Some(step) = self.restore(group, at).or_else(|| self.add(group, at))
        {
            return Some(step);
        }
        self.take_out(group, leader.id)
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

    /// One more replica, or one that goes on learning. All nodes are in the root group, and see to that themselves.
    fn add(&mut self, group: &GroupStatus, leader: &Endpoint) -> Option<Step> {
        let staying = || group.members.iter().filter(|known| !self.leaves(known));
        if staying().filter(|known| known.votes).count() >= self.wanted {
            return None;
        }
        let enter = |at: &Endpoint| Some(Step::Enter { group: group.group, at: at.clone(), leader: leader.clone() });
        if let Some(learns) = staying().filter(|known| !known.votes).find_map(|known| self.there(known)) {
            return enter(&learns.member.at);
        }
        if self.copies >= COPIES {
            return None;
        }
        let is_in = |node: &Node| group.members.iter().any(|known| known.member.at.node == node.at.node);
        let free = self.nodes.values().filter(|node| !node.leaves && !is_in(node)).filter_map(|node| node.says.as_ref());
        let says = free.min_by_key(|says| (self.load.get(&says.member.at.node).copied(), says.member.at.node))?;
        self.copies += 1;
        *self.load.entry(says.member.at.node).or_default() += 1;
        enter(&says.member.at)
    }

    fn take_out(&self, group: &GroupStatus, leader: MemberId) -> Option<Step> {
        // Whoever does not serve goes first: the others must be a majority without it, whether they stay or not.
        let leaving =
            group.members.iter().filter(|known| self.leaves(known)).min_by_key(|known| (self.serves(group, known), known.member.id))?;
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
}

/// A replica of a node that leaves, of a group that does not count it any more.
fn let_go(view: &View, node: &Node) -> Option<Step> {
    let says = node.says.as_ref().filter(|_| node.leaves)?;
    let without = |group: &&GroupStatus| !group.members.iter().any(|known| known.member.at.node == node.at.node);
    let gone = view.groups.iter().filter(|group| group.group != ROOT && says.hosts.contains(&group.group)).find(without)?;
    Some(Step::LetGo { group: gone.group, at: says.member.at.clone() })
}
