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
    /// For how many rounds each learner lacks something yet, and how many there are of a copy.
    copying: BTreeMap<(GroupId, MemberId), u64>,
    copy: u64,
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

    /// A round's time: who learns and is there comes nearer to having it all.
    fn pass(&mut self) {
        let copying = self.copying.clone();
        for ((group, learner), left) in copying {
            let known = self.groups[&group].members.get(&learner);
            match known.filter(|(_, votes)| !votes) {
                None => drop(self.copying.remove(&(group, learner))),
                Some((member, _)) if self.serves(group, member) => drop(self.copying.insert((group, learner), left.saturating_sub(1))),
                Some(_) => {}
            }
        }
    }

    fn view(&self) -> View {
        self.view_but(None)
    }

    /// - `silent`: a process that misses this one call, and whatever it leads with it.
    fn view_but(&self, silent: Option<usize>) -> View {
        let answers = |n: usize| self.processes[n].alive && Some(n) != silent;
        let says = |n: usize| answers(n).then(|| Says { member: self.member(n), hosts: self.processes[n].hosts.clone() });
        let node = |n: usize| Node { at: self.member(n).at, leaves: self.processes[n].leaves, removed: false, says: says(n) };
        let nodes = (0..self.processes.len()).map(node);
        let has = |group: GroupId, member: MemberId| self.copying.get(&(group, member)).is_none_or(|left| *left == 0).then_some(0);
        let led = |group: &Group| group.leader.is_some_and(|leader| answers(self.process_of(group.members[&leader].0.at.node)));
        let groups = self.groups.iter().filter(|(_, group)| led(group)).map(|(id, group)| GroupStatus {
            group: *id,
            leader: group.leader,
            term: 1,
            last: 0,
            applied: 0,
            purged: 0,
            members: group
                .members
                .values()
                .map(|(member, votes)| MemberStatus { member: member.clone(), votes: *votes, has: has(*id, member.id) })
                .collect(),
        });
        View { wanted: self.wanted, nodes: nodes.collect(), groups: groups.collect(), shifting: BTreeSet::new() }
    }

    /// A step that was cut off: who was to enter has made room, and the leader did not hear of it.
    fn begin(&mut self, step: &Step) {
        if let Step::Enter { group, at, .. } = step {
            let n = self.process_of(at.node);
            if self.processes[n].alive {
                self.processes[n].hosts.insert(*group);
            }
        }
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
                    None => {
                        self.copying.insert((*group, member.id), self.copy);
                        of.members.insert(member.id, (member, false));
                    }
                    Some((known, votes)) if known != member => drop(of.members.insert(member.id, (member, votes))),
                    Some((_, false)) if self.copying.get(&(*group, member.id)).is_some_and(|left| *left > 0) => {}
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
                let gone = &self.groups[group].members[member];
                if *group != ROOT && gone.1 && self.serves(*group, &gone.0) {
                    let (voters, there) = (self.staying(*group).len(), self.processes.iter().filter(|process| !process.leaves).count());
                    assert!(voters >= self.wanted.min(there), "{voters} replicas of {group} are left on {there} nodes, and one was taken");
                }
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

    /// Nodes that vote and stay.
    fn staying(&self, group: GroupId) -> BTreeSet<NodeId> {
        let voters = self.groups[&group].members.values().filter(|(_, votes)| *votes).map(|(member, _)| member.at.node);
        voters.filter(|node| !self.processes[self.process_of(*node)].leaves).collect()
    }

    /// Takes rounds until nothing is left to do. How many.
    fn settle(&mut self) -> usize {
        for round in 0..10_000 {
            self.pass();
            self.elect();
            let steps = steps(&self.view());
            // Who waits for a copy waits for it to be through.
            if steps.is_empty() && self.copying.values().all(|left| *left == 0) {
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
        for (n, process) in self.processes.iter().enumerate() {
            let counts = |group: &Group| group.members.values().any(|(member, _)| member.at.node == key(n));
            let counted = self.groups.iter().filter(|(id, group)| **id != ROOT && counts(group)).map(|(id, _)| *id);
            assert_eq!(process.hosts, counted.chain([ROOT]).collect(), "seed {seed}: process {n} has what does not count it");
            assert!(!process.leaves || process.hosts.len() == 1, "seed {seed}: process {n} still has groups");
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
    let (groups, copying) = (BTreeMap::new(), BTreeMap::new());
    let mut world = World { processes: Vec::new(), groups, copying, copy: 1, next: 100, wanted };
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
        let mut world = world(1 + draw.below(5) as usize, 3);
        world.copy = draw.below(5);
        // Of many groups, most wait for a copy.
        let most = [4, 20][draw.below(2) as usize];
        for id in 1..=draw.below(most) as u32 {
            let (first, count, all) = (draw.below(8) as usize, 1 + draw.below(3) as usize, world.processes.len());
            let members: BTreeSet<usize> = (first..first + count).map(|n| n % all).collect();
            group_of(&mut world, id, &members.into_iter().collect::<Vec<_>>());
        }
        for _ in 0..40 {
            world.pass();
            world.elect();
            let silent = (draw.below(3) == 0).then(|| draw.below(world.processes.len() as u64) as usize);
            for step in steps(&world.view_but(silent)) {
                // Not every step is done, or heard of.
                match draw.below(6) {
                    0 => {}
                    1 => world.begin(&step),
                    _ => {
                        world.take(&step);
                        world.elect();
                    }
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
        world.pass();
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

#[test]
fn a_node_that_leaves_many_groups_goes_only_where_it_is_replaced_whoever_misses_a_call() {
    let mut world = world(4, 3);
    world.copy = 3;
    (1..=50).for_each(|id| group_of(&mut world, id, &[0, 1, 2]));
    world.groups.values_mut().for_each(|group| group.leader = Some(MemberId(102)));
    world.processes[0].leaves = true;
    let mut rounds = 0;
    loop {
        world.pass();
        world.elect();
        // The replacement does not answer now and then, nor does the one that leaves.
        let silent = [None, Some(3), None, Some(0), None][rounds % 5];
        let mine = steps(&world.view_but(silent));
        rounds += 1;
        assert!(rounds < 1_000, "it goes on for ever");
        mine.iter().for_each(|step| world.take(step));
        let learn = world.groups.values().filter(|group| group.members.values().any(|(_, votes)| !votes)).count();
        assert!(learn <= 4, "{learn} groups are copied at a time");
        for (id, group) in world.groups.iter().filter(|(id, _)| **id != ROOT) {
            let serve = group.members.values().filter(|(member, votes)| *votes && world.serves(*id, member)).count();
            assert!(serve >= 3, "round {rounds}: {serve} replicas of {id}");
        }
        if world.processes[0].hosts.len() == 1 {
            break;
        }
    }
    world.settle();
    world.check(0);
}

#[test]
fn where_a_replacement_has_to_wait_only_what_is_known_to_be_of_no_use_is_taken_out() {
    let mut world = world(4, 3);
    (1..=6).for_each(|id| group_of(&mut world, id, &[0, 1, 2]));
    world.groups.values_mut().for_each(|group| group.leader = Some(MemberId(102)));
    world.processes[0].leaves = true;
    world.elect();
    let gone = |view: &View| -> Vec<u32> {
        let taken = steps(view).into_iter().filter_map(|step| match step {
            Step::Leave { group, .. } if group != ROOT => Some(group.0),
            _ => None,
        });
        taken.collect()
    };
    let enters = steps(&world.view()).iter().filter(|step| matches!(step, Step::Enter { .. })).count();
    assert_eq!((enters, gone(&world.view())), (4, vec![]), "two wait for a copy");
    assert_eq!(gone(&world.view_but(Some(0))), [], "silence says nothing");
    assert_eq!(gone(&world.view_but(Some(3))), [], "whoever would take its place may be back in a moment");
    let mut removed = world.view_but(Some(0));
    removed.nodes[0].removed = true;
    assert_eq!(gone(&removed), [5, 6], "it is let in nowhere");
    world.processes[0].hosts.remove(&GroupId(6));
    assert_eq!(gone(&world.view()), [6], "it has lost that one");
    // With nobody to wait for, it goes: the node that does not answer is to leave too.
    world.processes[3].leaves = true;
    world.processes[3].alive = false;
    assert_eq!(gone(&world.view()), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn learners_that_are_silent_or_have_it_all_keep_nobody_from_being_copied() {
    let mut world = world(5, 3);
    (1..=4).for_each(|id| group_of(&mut world, id, &[0, 1, 2]));
    group_of(&mut world, 5, &[0, 1]);
    let learner = world.member(3);
    for id in 1..=4 {
        world.groups.get_mut(&GroupId(id)).unwrap().members.insert(learner.id, (learner.clone(), false));
        world.copying.insert((GroupId(id), learner.id), 1);
        world.processes[3].hosts.insert(GroupId(id));
    }
    world.elect();
    assert_eq!(steps(&world.view()), [], "four are copied now");
    let enters = |view: &View| matches!(steps(view)[..], [Step::Enter { group: GroupId(5), .. }]);
    assert!(enters(&world.view_but(Some(3))), "nothing is sent to who is silent");
    world.pass();
    assert!(enters(&world.view()), "nothing is sent to who has it all");
}

#[test]
fn who_has_made_room_enters_before_others_and_room_that_nobody_needs_is_given_back() {
    let mut world = world(4, 3);
    group_of(&mut world, 1, &[0, 1]);
    (2..=4).for_each(|id| group_of(&mut world, id, &[0, 1, 3]));
    world.processes[3].hosts.insert(GroupId(1));
    world.elect();
    let first = steps(&world.view());
    assert!(matches!(&first[..], [Step::Enter { group: GroupId(1), at, .. }] if at.node == key(3)), "{first:?}");
    // Another one has entered meanwhile.
    let other = world.member(2);
    world.groups.get_mut(&GroupId(1)).unwrap().members.insert(other.id, (other, true));
    world.processes[2].hosts.insert(GroupId(1));
    world.elect();
    let mut view = world.view();
    assert_eq!(steps(&view), [Step::LetGo { group: GroupId(1), at: world.member(3).at }]);
    view.shifting.insert(GroupId(1));
    assert_eq!(steps(&view), [], "it may be about to enter");
    view.nodes[3].leaves = true;
    assert!(steps(&view).contains(&Step::LetGo { group: GroupId(1), at: world.member(3).at }), "nobody counts on a node that leaves");
}
