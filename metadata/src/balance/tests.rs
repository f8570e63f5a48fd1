use super::*;
use spine::id::{BucketId, GroupId, NodeId, UnixMs};
use spine::map::NamePoint;

fn server(n: u8) -> NodeId {
    NodeId([n; 32])
}

fn ops(ops: f64) -> Load {
    Load { ops, ..Load::default() }
}

/// A group of three replicas, led by the first, that costs `load` operations to lead and `follow` to follow.
fn group(id: u32, replicas: [u8; 3], load: f64, follow: f64) -> Subtree {
    Subtree {
        id: GroupId(id),
        next: None,
        leader: server(replicas[0]),
        replicas: replicas.map(server).into(),
        lead: ops(load),
        follow: ops(follow),
        bytes: 1_000,
        slices: Vec::new(),
        stays: false,
    }
}

fn slices(heats: &[f64]) -> Vec<Slice> {
    let from = |n: usize| Cut::Names(NamePoint::new(BucketId(1), format!("{n:03}/")));
    heats.iter().enumerate().map(|(n, &heat)| Slice { from: from(n), heat }).collect()
}

fn cluster(servers: u8, groups: Vec<Subtree>) -> Cluster {
    let unused = GroupId(groups.iter().map(|group| group.id.0 + 1).max().unwrap_or(0));
    Cluster { servers: (1..=servers).map(|n| (server(n), ops(1_000.0))).collect(), groups, unused, busy: Busy::default() }
}

/// The second of two rounds: the first only sees.
fn second(balancer: &mut Balancer, cluster: &Cluster) -> Vec<Step> {
    assert_eq!(balancer.round(cluster, UnixMs(1_000_000)), []);
    balancer.round(cluster, UnixMs(1_010_000)).into_iter().map(|made| made.step).collect()
}

fn fresh() -> Balancer {
    Balancer::fresh(Rules::default())
}

#[test]
fn leadership_moves_before_anything_is_split_or_copied() {
    let mut groups = vec![group(1, [1, 2, 3], 300.0, 0.0), group(2, [1, 2, 3], 300.0, 0.0), group(3, [2, 1, 3], 10.0, 0.0)];
    groups[0].slices = slices(&[1.0, 1.0]);
    let steps = second(&mut fresh(), &cluster(4, groups));
    assert_eq!(steps, [Step::Lead { group: GroupId(1), from: server(1), to: server(3) }]);
}

#[test]
fn a_group_too_hot_for_one_server_is_split_where_it_helps_most() {
    let mut groups = vec![group(1, [1, 2, 3], 600.0, 0.0)];
    groups[0].slices = slices(&[1.0, 2.0, 2.0, 1.0]);
    let cluster = cluster(3, groups);
    let steps = second(&mut fresh(), &cluster);
    let Step::Split { group, at, new, from, to } = &steps[0] else { panic!("{steps:?}") };
    assert_eq!((*group, at, *new, *from, *to), (GroupId(1), &cluster.groups[0].slices[2].from, GroupId(2), server(1), server(2)));
}

#[test]
fn a_replica_is_copied_only_where_leadership_and_splits_do_not_help() {
    // All of group 1's servers are hot alike; the fourth is idle. The smaller group of those that help as much is copied.
    let mut groups: Vec<Subtree> =
        [[1, 2, 3], [2, 3, 1], [3, 1, 2]].iter().zip(1..).map(|(replicas, id)| group(id, *replicas, 300.0, 0.0)).collect();
    groups.extend([[1, 2, 3], [2, 3, 1], [3, 1, 2]].iter().zip(4..).map(|(replicas, id)| group(id, *replicas, 300.0, 0.0)));
    groups[3].bytes = 10;
    let steps = second(&mut fresh(), &cluster(4, groups));
    let expected = Step::Replica { group: GroupId(4), from: server(1), to: server(4), source: server(1), bytes: 10 };
    assert_eq!(steps, [expected]);
}

#[test]
fn a_directory_that_nobody_can_cut_is_not_passed_around() {
    let groups = vec![group(1, [1, 2, 3], 900.0, 10.0), group(2, [2, 1, 3], 20.0, 1.0)];
    let mut balancer = fresh();
    for round in 0..100 {
        assert_eq!(balancer.round(&cluster(3, groups.clone()), UnixMs(1_000_000 + round * 10_000)), []);
    }
}

#[test]
fn a_burst_of_one_round_moves_nothing_and_neither_does_an_idle_cluster() {
    let hot = cluster(3, vec![group(1, [1, 2, 3], 300.0, 0.0), group(2, [1, 2, 3], 300.0, 0.0)]);
    let calm = cluster(3, vec![group(1, [1, 2, 3], 300.0, 0.0), group(2, [2, 1, 3], 300.0, 0.0), group(3, [3, 1, 2], 300.0, 0.0)]);
    let idle = cluster(3, vec![group(1, [1, 2, 3], 20.0, 0.0), group(2, [1, 2, 3], 20.0, 0.0)]);
    let mut balancer = fresh();
    for (round, cluster) in [&hot, &calm, &hot, &calm, &idle, &idle, &idle].into_iter().enumerate() {
        assert_eq!(balancer.round(cluster, UnixMs(1_000_000 + round as u64 * 10_000)), []);
    }
}

#[test]
fn a_server_takes_part_in_one_move_and_what_moved_stays() {
    let groups: Vec<Subtree> = (1..=6).map(|id| group(id, [1, 2, 3], 100.0, 0.0)).collect();
    let mut cluster = cluster(3, groups);
    let mut balancer = fresh();
    let steps = second(&mut balancer, &cluster);
    assert_eq!(steps.len(), 1);
    // Under way: neither server is touched again.
    assert_eq!(balancer.round(&cluster, UnixMs(1_020_000)), []);
    let Step::Lead { group: moved, to, .. } = steps[0] else { panic!() };
    cluster.groups.iter_mut().find(|group| group.id == moved).unwrap().leader = to;
    balancer.ended(&steps[0], true, UnixMs(1_025_000));
    // The load turns around: what has just moved is the only thing that could go back, and may not yet.
    for group in &mut cluster.groups {
        group.lead = ops(if group.id == moved { 900.0 } else { 10.0 });
        group.slices = slices(&[1.0, 1.0, 1.0]);
    }
    for round in 0..11 {
        assert_eq!(balancer.round(&cluster, UnixMs(1_030_000 + round * 10_000)), []);
    }
    assert_eq!(balancer.round(&cluster, UnixMs(1_145_000)).len(), 1);
}

#[test]
fn a_balancer_that_knows_of_no_past_waits_one_dwell() {
    let cluster = cluster(3, (1..=6).map(|id| group(id, [1, 2, 3], 100.0, 0.0)).collect());
    let mut balancer = Balancer::new(Rules::default(), UnixMs(5_000_000));
    let first = (0..30).find(|round| !balancer.round(&cluster, UnixMs(5_000_000 + round * 10_000)).is_empty());
    assert_eq!(first, Some(12));
}

#[test]
fn a_step_whose_end_nobody_tells_does_not_hold_its_servers_for_ever() {
    let mut cluster = cluster(3, (1..=6).map(|id| group(id, [1, 2, 3], 100.0, 0.0)).collect());
    let mut balancer = fresh();
    second(&mut balancer, &cluster);
    assert_eq!(balancer.round(&cluster, UnixMs(1_010_000 + 3_599_000)), []);
    assert_eq!(balancer.round(&cluster, UnixMs(1_010_000 + 3_600_000)).len(), 1);
    // And a server that is gone lets go at once.
    let gone = balancer.under_way().next().unwrap().servers().1;
    cluster.servers.remove(&gone);
    assert_eq!(balancer.round(&cluster, UnixMs(1_010_000 + 3_610_000)).len(), 1);
}

#[test]
fn cold_neighbours_become_one_and_hot_or_strange_ones_do_not() {
    let mut groups: Vec<Subtree> =
        (1..=40).map(|id| group(id, [(id % 3) as u8 + 1, (id % 3 + 1) as u8 % 3 + 1, (id % 3 + 2) as u8 % 3 + 1], 1.0, 0.1)).collect();
    for group in &mut groups[..39] {
        group.next = Some(GroupId(group.id.0 + 1));
    }
    for at in (0..40).step_by(2) {
        groups[at].lead = ops(100.0);
    }
    let all = cluster(3, groups.clone());
    assert!(Balancer::fresh(Rules::default()).round(&all, UnixMs(1_000_000)).is_empty(), "a hot one lies between any two cold ones");
    groups[10].lead = ops(1.0);
    let some = cluster(3, groups);
    let steps: Vec<Step> = Balancer::fresh(Rules::default()).round(&some, UnixMs(1_000_000)).into_iter().map(|made| made.step).collect();
    assert!(matches!(steps[..], [Step::Merge { left: GroupId(10 | 11), right: GroupId(11 | 12), .. }]), "{steps:?}");
}

#[test]
fn cold_neighbours_that_lie_apart_are_brought_together_and_then_become_one() {
    // Twenty groups on four servers: more than merging leaves; 7 and 8 are neighbours, and alike but for one follower.
    let hot = |id: u32| group(id, [1 + (id % 4) as u8, 1 + ((id + 1) % 4) as u8, 1 + ((id + 2) % 4) as u8], 100.0, 1.0);
    let mut groups: Vec<Subtree> = (1..=20).map(hot).collect();
    // One less each for servers 2 and 3 as well, so that none is above the mean.
    (groups[0].lead, groups[1].lead) = (ops(1.0), ops(1.0));
    groups[6] = group(7, [1, 2, 3], 1.0, 0.1);
    groups[7] = group(8, [2, 1, 4], 1.0, 0.1);
    groups[7].bytes = 10;
    groups[6].next = Some(GroupId(8));
    let mut cluster = cluster(4, groups);
    let mut balancer = fresh();
    let steps: Vec<Step> = balancer.round(&cluster, UnixMs(1_000_000)).into_iter().map(|made| made.step).collect();
    assert_eq!(steps, [Step::Replica { group: GroupId(8), from: server(4), to: server(3), source: server(2), bytes: 10 }]);
    cluster.groups[7].replicas = [2, 1, 3].map(server).into();
    balancer.ended(&steps[0], true, UnixMs(1_005_000));
    assert_eq!(balancer.round(&cluster, UnixMs(1_010_000)), [], "it has just moved");
    let steps: Vec<Step> = balancer.round(&cluster, UnixMs(1_130_000)).into_iter().map(|made| made.step).collect();
    assert_eq!(steps, [Step::Merge { left: GroupId(7), right: GroupId(8), from: server(2), to: server(1) }]);
}

#[test]
fn a_reason_says_what_the_two_servers_bear() {
    let why = Why { purpose: Purpose::Relief, from: (1.8, 1.1), to: (0.4, 1.05) };
    assert_eq!(why.to_string(), "relief: from 1.80 to 1.10 times the mean, the other from 0.40 to 1.05");
}
