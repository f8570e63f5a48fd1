//! What the processes say of themselves and the root's map, as the balancer sees a cluster. Pure.
//!
//! A process that did not answer, or is to leave, is none of the servers: it gives and takes nothing, and is no part of the mean. A group
//! whose leader did not answer is left out.

use crate::balance::{Busy, Cluster, Load, Slice, Subtree};
use crate::heat::load_of;
use crate::root::map::ROOT;
use spine::id::{Epoch, GroupId, NodeId};
use spine::map::{Map, Route};
use spine::wire::cluster::{GroupLoad, Loads, Member};
use spine::wire::range::{ChunkSpan, NameSpan, Span};
use spine::wire::root::{MoveRecord, ShiftRecord};
use std::collections::{BTreeMap, BTreeSet};

/// What is known at one moment.
pub struct Known<'a> {
    /// Of those who answered, each once.
    pub loads: &'a [Loads],
    pub map: &'a Map,
    pub moves: &'a [MoveRecord],
    pub shifts: &'a [ShiftRecord],
    /// Who is to leave: others take what it has, and nobody brings it more.
    pub leaving: &'a BTreeSet<NodeId>,
}

/// Where a group is and what the map says that it has.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    pub leader: NodeId,
    pub voters: Vec<Member>,
    pub names: Option<NameSpan>,
    pub chunks: Option<ChunkSpan>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    pub cluster: Cluster,
    /// Of the map's groups in [`Self::cluster`].
    pub places: BTreeMap<GroupId, Place>,
    /// The processes that answered and stay.
    pub members: BTreeMap<NodeId, Member>,
    /// The map's.
    pub epoch: Epoch,
}

impl Picture {
    pub fn of(known: &Known<'_>) -> Picture {
        let Known { loads, map, moves, shifts, leaving } = known;
        let stay = || staying(loads, leaving);
        let members: BTreeMap<NodeId, Member> = stay().map(|loads| (loads.member.at.node, loads.member.clone())).collect();
        let mut places = BTreeMap::new();
        let mut groups = Vec::new();
        for (node, led) in leaders(loads).into_values() {
            let (names, chunks) = (map.names().of_group(led.group).map(span), map.chunks().of_group(led.group).map(span));
            // A group that is not in the map any more ends soon; one that is not in it yet is about to get its range.
            if led.group != ROOT && names.is_none() && chunks.is_none() {
                continue;
            }
            groups.push(subtree(node, led, follow_of(loads, led.group), map));
            places.insert(led.group, Place { leader: node, voters: led.voters.clone(), names, chunks });
        }
        let servers = stay().map(|loads| (loads.member.at.node, load_of(&loads.capacity))).collect();
        let busy = busy(&places, loads, moves, shifts);
        let known = loads.iter().flat_map(|loads| &loads.groups).map(|group| group.group);
        let last = known.chain(moves.iter().map(|record| record.to)).chain(places.keys().copied()).max();
        let unused = GroupId(last.unwrap_or(ROOT).0.saturating_add(1));
        Picture { cluster: Cluster { servers, groups, unused, busy }, places, members, epoch: map.epoch() }
    }

    /// Pressure of the busiest process over that of the mean, of what each that stays says of all that it bears; `None`: nobody bears
    /// anything.
    pub fn imbalance(loads: &[Loads], leaving: &BTreeSet<NodeId>) -> Option<f64> {
        let pressure = |loads: &Loads| {
            let all = loads.groups.iter().fold(Load::default(), |sum, group| sum + load_of(&group.work));
            all.pressure(&load_of(&loads.capacity))
        };
        let all: Vec<f64> = staying(loads, leaving).map(pressure).collect();
        let mean = all.iter().sum::<f64>() / all.len().max(1) as f64;
        (mean > 0.0).then(|| all.iter().copied().fold(0.0, f64::max) / mean)
    }
}

fn staying<'a>(loads: &'a [Loads], leaving: &BTreeSet<NodeId>) -> impl Iterator<Item = &'a Loads> {
    loads.iter().filter(|loads| !leaving.contains(&loads.member.at.node))
}

/// Who leads each group: of several who think so, the one of the highest term.
fn leaders(loads: &[Loads]) -> BTreeMap<GroupId, (NodeId, &GroupLoad)> {
    let mut out: BTreeMap<GroupId, (NodeId, &GroupLoad)> = BTreeMap::new();
    for loads in loads {
        for group in loads.groups.iter().filter(|group| group.leads) {
            if out.get(&group.group).is_none_or(|(_, known)| known.term < group.term) {
                out.insert(group.group, (loads.member.at.node, group));
            }
        }
    }
    out
}

/// What following the group costs: the mean of those who say.
fn follow_of(loads: &[Loads], group: GroupId) -> Load {
    let followers = loads.iter().flat_map(|loads| &loads.groups).filter(|known| known.group == group && !known.leads);
    let all: Vec<Load> = followers.map(|known| load_of(&known.work)).collect();
    all.iter().fold(Load::default(), |sum, load| sum + *load) * (1.0 / all.len().max(1) as f64)
}

fn span<P: Clone>(route: Route<'_, P>) -> Span<P> {
    Span { start: route.start.clone(), end: route.end.cloned() }
}

fn subtree(leader: NodeId, led: &GroupLoad, follow: Load, map: &Map) -> Subtree {
    let names = map.names().of_group(led.group).and_then(|route| route.end.cloned()).map(|end| map.names().of(&end).group);
    let chunks = map.chunks().of_group(led.group).and_then(|route| route.end.copied()).map(|end| map.chunks().of(&end).group);
    Subtree {
        id: led.group,
        next: names.or(chunks),
        leader,
        replicas: led.voters.iter().map(|voter| voter.at.node).collect(),
        lead: load_of(&led.work),
        follow,
        bytes: led.table_bytes,
        slices: led.slices.iter().map(|slice| Slice { from: slice.from.clone(), heat: slice.heat as f64 }).collect(),
        stays: led.group == ROOT,
    }
}

/// What takes part in a move or a shift that is under way, whoever began it, and groups whose members change.
fn busy(places: &BTreeMap<GroupId, Place>, loads: &[Loads], moves: &[MoveRecord], shifts: &[ShiftRecord]) -> Busy {
    let mut busy = Busy::default();
    for record in moves.iter().filter(|record| !record.step.is_over()) {
        for group in [record.from, record.to] {
            busy.groups.insert(group);
            busy.servers.extend(places.get(&group).map(|place| place.leader));
        }
    }
    for record in shifts.iter().filter(|record| record.ended.is_none()) {
        busy.groups.insert(record.group);
        busy.servers.extend([record.from.at.node, record.to.at.node]);
    }
    busy.groups.extend(loads.iter().flat_map(|loads| &loads.groups).filter(|group| group.changes).map(|group| group.group));
    busy
}
