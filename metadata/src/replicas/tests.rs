//! Decisions one by one, and over thousands of seeds in a world where nodes come, go, lose their folders and leave while steps fail.

use super::decide::*;
use crate::root::map::ROOT;
use spine::id::{GroupId, MemberId, NodeId};
use spine::wire::cluster::{Endpoint, GroupStatus, Member, MemberStatus};
use std::collections::{BTreeMap, BTreeSet};

/// xorshift64*.
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % end
    }
}

/// A metadata process and its folder.
struct Process {
    alive: bool,
    leaves: bool,
    member: MemberId,
    address: u64,
    hosts: BTreeSet<GroupId>,
}

/// What the leader of a group has: voters and learners by their ids, and where they were when they came.
#[derive(Clone, Default)]
struct Group {
    members: BTreeMap<MemberId, (Member, bool)>,
    leader: Option<MemberId>,
}

struct World {
    processes: Vec<Process>,
    groups: BTreeMap<GroupId, Group>,
    next: u64,
    wanted: usize,
}

fn key(n: usize) -> NodeId {
    NodeId([u8::try_from(n + 1).unwrap(); 32])
}

impl World {
    fn member(&self, n: usize) -> Member {
        let process = &self.processes[n];
        Member { id: process.member, at: Endpoint { node: key(n), address: format!("host-{n}:{}", 1_000 + process.address) } }
    }

    fn add(&mut self) -> usize {
        self.next += 1;
        let process = Process { alive: true, leaves: false, member: MemberId(self.next), address: 0, hosts: BTreeSet::from([ROOT]) };
        self.processes.push(process);
        let n = self.processes.len() - 1;
        let member = self.member(n);
        self.groups.entry(ROOT).or_default().members.insert(member.id, (member, true));
        n
    }

    fn process_of(&self, node: NodeId) -> usize {
        (0..self.processes.len()).find(|n| key(*n) == node).unwrap()
    }

    /// Whether the replica counts: the process runs, is who the group means, where the group means, and has room for it.
    fn serves(&self, group: GroupId, member: &Member) -> bool {
        let n = self.process_of(member.at.node);
        self.processes[n].alive && self.member(n) == *member && self.processes[n].hosts.contains(&group)
    }

    /// Elects where a majority of the voters is there, and only then.
    fn elect(&mut self) {
        let ids: Vec<GroupId> = self.groups.keys().copied().collect();
        for id in ids {
            let group = &self.groups[&id];
            let voters: Vec<&Member> = group.members.values().filter(|(_, votes)| *votes).map(|(member, _)| member).collect();
            let there: Vec<MemberId> = voters.iter().filter(|member| self.serves(id, member)).map(|member| member.id).collect();
            let leader = group.leader.filter(|leader| there.contains(leader)).or(there.first().copied());
            let leader = leader.filter(|_| there.len() * 2 > voters.len());
            self.groups.get_mut(&id).unwrap().leader = leader;
        }
    }

    fn view(&self) -> View {
        let says = |n: usize| self.processes[n].alive.then(|| Says { member: self.member(n), hosts: self.processes[n].hosts.clone() });
        let nodes = (0..self.processes.len()).map(|n| Node { at: self.member(n).at, leaves: self.processes[n].leaves, says: says(n) });
        let groups = self.groups.iter().filter(|(_, group)| group.leader.is_some()).map(|(id, group)| GroupStatus {
            group: *id,
            leader: group.leader,
            term: 1,
            last: 0,
            applied: 0,
            purged: 0,
            members: group
                .members
                .values()
                .map(|(member, votes)| MemberStatus { member: member.clone(), votes: *votes, has: None })
                .collect(),
        });
        View { wanted: self.wanted, nodes: nodes.collect(), groups: groups.collect() }
    }

    /// As processes do it; what they could not is left.
    fn take(&mut self, step: &Step) {
        match step {
            Step::Host { group, at } => {
                let n = self.process_of(at.node);
                assert!(self.groups[group].members.contains_key(&self.processes[n].member), "room for a group that does not count it");
                self.processes[n].hosts.insert(*group);
            }
            Step::Enter { group, at, leader } => {
                let n = self.process_of(at.node);
                let member = self.member(n);
                let of = &self.groups[group];
                if !self.processes[n].alive || of.leader.map(|id| of.members[&id].0.at.node) != Some(leader.node) {
                    return;
                }
                self.processes[n].hosts.insert(*group);
                let of = self.groups.get_mut(group).unwrap();
                match of.members.get(&member.id).cloned() {
                    None => drop(of.members.insert(member.id, (member, false))),
                    Some((known, votes)) if known != member => drop(of.members.insert(member.id, (member, votes))),
                    // It has caught up: it votes, and who it was before goes.
                    Some(_) => {
                        of.members.retain(|id, (other, _)| *id == member.id || other.at.node != member.at.node);
                        of.members.insert(member.id, (member, true));
                    }
                }
            }
            Step::Transfer { group, to } => {
                let member = &self.groups[group].members[to];
                assert!(member.1, "only a voter can lead");
                if self.serves(*group, &member.0) {
                    self.groups.get_mut(group).unwrap().leader = Some(*to);
                }
            }
            Step::Leave { group, member } => {
                let of = self.groups.get_mut(group).unwrap();
                let (gone, _) = of.members.remove(member).unwrap();
                assert!(of.members.values().any(|(_, votes)| *votes), "the last voter was taken out");
                assert_ne!(of.leader, Some(*member), "a leader was taken out");
                let n = self.process_of(gone.at.node);
                assert!(self.processes[n].leaves, "somebody who stays was taken out");
            }
            Step::LetGo { group, at } => {
                let n = self.process_of(at.node);
                assert!(
                    self.groups[group].members.values().all(|(member, _)| member.at.node != at.node),
                    "a member's replica was let go of"
                );
                assert!(self.processes[n].hosts.remove(group));
            }
        }
    }

    /// Takes rounds until nothing is left to do. How many.
    fn settle(&mut self) -> usize {
        for round in 0..10_000 {
            self.elect();
            let steps = steps(&self.view());
            if steps.is_empty() {
                return round;
            }
            steps.iter().for_each(|step| self.take(step));
        }
        panic!("it goes on for ever: {:?}", steps(&self.view()));
    }

    /// What must hold once nothing is left to do.
    fn check(&self, seed: u64) {
        let stay = |member: &Member| !self.processes[self.process_of(member.at.node)].leaves;
        let there = (0..self.processes.len()).filter(|n| !self.processes[*n].leaves).count();
        for (id, group) in &self.groups {
            let members: Vec<&Member> = group.members.values().map(|(member, _)| member).collect();
            let serve: Vec<bool> = members.iter().map(|member| self.serves(*id, member)).collect();
            assert!(group.leader.is_some(), "seed {seed}: nobody leads {id}: {:?}, there {serve:?}", group.members);
            assert!(members.iter().all(|member| stay(member)), "seed {seed}: a node that left is in {id}: {members:?}");
            assert!(members.iter().all(|member| self.serves(*id, member)), "seed {seed}: a member of {id} is not there: {members:?}");
            // Who began to learn, was away, and was not needed any more when it came back, stays what it is.
            let voters = group.members.values().filter(|(_, votes)| *votes).count();
            assert!(voters >= self.wanted.min(there), "seed {seed}: {voters} replicas of {id} on {there} nodes");
            assert!(voters == members.len() || voters >= self.wanted, "seed {seed}: somebody learns in {id} for ever");
        }
        for (n, process) in self.processes.iter().enumerate().filter(|(_, process)| process.leaves) {
            assert_eq!(process.hosts, BTreeSet::from([ROOT]), "seed {seed}: process {n} still has groups");
        }
    }

    /// Something that happens to processes. At most one is down at a time: what is out of every majority's reach is nobody's to mend.
    fn disturb(&mut self, draw: &mut Draw) {
        let down = self.processes.iter().position(|process| !process.alive && !process.leaves);
        let n = usize::try_from(draw.below(self.processes.len() as u64)).unwrap();
        match draw.below(8) {
            0 if self.processes.len() < 8 => {
                self.add();
            }
            1 if down.is_none() => self.processes[n].alive = false,
            2 if down.is_none() && !self.processes[n].leaves && self.is_dispensable(n) => {
                // Its folder is lost: another member, in the root group only.
                self.next += 1;
                let old = self.processes[n].member;
                self.processes[n].member = MemberId(self.next);
                self.processes[n].hosts = BTreeSet::from([ROOT]);
                let member = self.member(n);
                let root = self.groups.get_mut(&ROOT).unwrap();
                root.members.remove(&old);
                root.members.insert(member.id, (member, true));
            }
            3 if down.is_none() && !self.processes[n].leaves && self.processes[n].alive && self.is_dispensable(n) => {
                self.processes[n].address += 1;
                let member = self.member(n);
                self.groups.get_mut(&ROOT).unwrap().members.insert(member.id, (member, true));
            }
            4 => {
                let stays = self.processes.iter().filter(|process| !process.leaves).count();
                if stays > 1 && down.is_none_or(|down| stays > 2 && down != n) {
                    self.processes[n].leaves = true;
                }
            }
            5 => {
                // A group is made while one of its members is away, or not.
                let founders: Vec<usize> = (0..self.processes.len()).filter(|n| !self.processes[*n].leaves).take(3).collect();
                let there = founders.iter().filter(|n| self.processes[**n].alive).count();
                if there * 2 > founders.len() && self.groups.len() < 12 {
                    self.next += 1;
                    let id = GroupId(u32::try_from(self.next).unwrap());
                    let members = founders.iter().map(|n| (self.processes[*n].member, (self.member(*n), true))).collect();
                    self.groups.insert(id, Group { members, leader: None });
                    for n in founders.into_iter().filter(|n| self.processes[*n].alive).collect::<Vec<_>>() {
                        self.processes[n].hosts.insert(id);
                    }
                }
            }
            _ => {
                if let Some(down) = down {
                    self.processes[down].alive = true;
                }
            }
        }
    }

    /// Whether every group would still have a majority without this process's replica.
    fn is_dispensable(&self, n: usize) -> bool {
        self.groups.iter().all(|(id, group)| {
            let voters: Vec<&Member> = group.members.values().filter(|(_, votes)| *votes).map(|(member, _)| member).collect();
            let others = voters.iter().filter(|member| member.at.node != key(n) && self.serves(*id, member)).count();
            others * 2 > voters.len()
        })
    }
}

fn world(processes: usize, wanted: usize) -> World {
    let mut world = World { processes: Vec::new(), groups: BTreeMap::new(), next: 100, wanted };
    for _ in 0..processes {
        world.add();
    }
    world
}

fn group_of(world: &mut World, id: u32, members: &[usize]) {
    let with = members.iter().map(|n| (world.processes[*n].member, (world.member(*n), true))).collect();
    world.groups.insert(GroupId(id), Group { members: with, leader: None });
    for n in members {
        world.processes[*n].hosts.insert(GroupId(id));
    }
}

#[test]
fn whatever_happens_every_group_gets_its_replicas_and_nodes_that_leave_have_none() {
    for seed in 1..=4_000 {
        let mut draw = Draw(seed);
        let mut world = world(1 + draw.below(4) as usize, 3);
        for id in 1..=draw.below(4) as u32 {
            let first = draw.below(world.processes.len() as u64) as usize;
            group_of(&mut world, id, &[first]);
        }
        for _ in 0..40 {
            world.elect();
            for step in steps(&world.view()) {
                // Not every step is done, or heard of.
                if draw.below(3) > 0 {
                    world.take(&step);
                    world.elect();
                }
                if draw.below(12) == 0 {
                    break;
                }
            }
            if draw.below(3) == 0 {
                world.elect();
                world.disturb(&mut draw);
            }
        }
        world.processes.iter_mut().for_each(|process| process.alive = true);
        world.settle();
        world.check(seed);
    }
}

#[test]
fn a_new_node_enters_the_groups_that_lack_replicas_a_few_at_a_time_and_no_others() {
    let mut world = world(3, 3);
    (1..=10).for_each(|id| group_of(&mut world, id, &[0, 1]));
    (11..=20).for_each(|id| group_of(&mut world, id, &[0, 1, 2]));
    world.elect();
    let first = steps(&world.view());
    assert_eq!(first.len(), 4, "{first:?}");
    assert!(first.iter().all(|step| matches!(step, Step::Enter { group, at, .. } if group.0 <= 10 && at.node == key(2))), "{first:?}");
    world.settle();
    world.check(0);
    assert!(world.groups.values().all(|group| group.members.len() == 3));
}

#[test]
fn a_node_that_leaves_is_replaced_first_hands_over_and_goes_and_the_last_copy_never_does() {
    let mut world = world(4, 3);
    group_of(&mut world, 1, &[0, 1, 2]);
    world.groups.get_mut(&ROOT).unwrap().leader = Some(world.processes[3].member);
    world.elect();
    world.groups.get_mut(&GroupId(1)).unwrap().leader = Some(world.processes[0].member);
    world.processes[0].leaves = true;
    let mut seen = Vec::new();
    loop {
        world.elect();
        let mine: Vec<Step> = steps(&world.view());
        if mine.is_empty() {
            break;
        }
        mine.iter().for_each(|step| world.take(step));
        seen.extend(mine.into_iter().filter(|step| !matches!(step, Step::Leave { group: ROOT, .. })));
    }
    let kinds: Vec<&str> = seen
        .iter()
        .map(|step| match step {
            Step::Host { .. } => "host",
            Step::Enter { .. } => "enter",
            Step::Transfer { .. } => "transfer",
            Step::Leave { .. } => "leave",
            Step::LetGo { .. } => "let go",
        })
        .collect();
    assert_eq!(kinds, ["enter", "enter", "transfer", "leave", "let go"], "{seen:?}");
    world.check(0);
    // Of the only voter, or where those who stay are no majority, nobody is taken out.
    let mut alone = self::world(1, 3);
    group_of(&mut alone, 1, &[0]);
    alone.processes[0].leaves = true;
    alone.elect();
    assert_eq!(steps(&alone.view()), []);
    let mut half = self::world(3, 3);
    group_of(&mut half, 1, &[0, 1, 2]);
    half.processes[0].leaves = true;
    half.processes[1].alive = false;
    half.elect();
    assert_eq!(steps(&half.view()), [], "with one of two away, the change could not be agreed to");
}
