//! A simulated metadata cluster under the real balancer: directories with rates that change, groups over them, servers, and time in rounds
//! of ten seconds.
//!
//! Real: the map, the weight trees, the meters and the balancer. Simulated: what operations cost, how long a step
//! takes, and the load. No clock and no randomness but the seed's: the same seed makes the same trace.
//!
//! Judged here, from the truth and not from what the balancer knows: [`World::broken`].
//! Not here: shapes of load (`balance/shape.rs`), what is counted and shown (`balance/record.rs`).

pub mod record;
pub mod shape;
#[cfg(test)]
mod tests;

use crate::content::Dice;
use metadata::balance::{Balancer, Busy, Cluster, Cut, Load, Meter, Move, Popularity, Rules, Step, Subtree};
use record::Record;
use shape::Shape;
use spine::id::{GroupId, NodeId, UnixMs};
use spine::map::{Change, Map, NamePoint};
use std::collections::{BTreeMap, BTreeSet};

/// Between two looks of the balancer.
pub const ROUND_MS: u64 = 10_000;
/// What an operation costs the leader: itself, bytes, CPU.
const OPERATION: Load = Load { ops: 1.0, bytes: 600.0, cpu: 60e-6 };
/// A follower's share of it: it appends and applies, but answers nobody.
const FOLLOWING: f64 = 0.4;
/// What a server can do in a second.
const CAPACITY: Load = Load { ops: 20_000.0, bytes: 50e6, cpu: 2.0 };
/// Bytes a second at which a replica is copied.
const COPYING: u64 = 50 << 20;
/// Directories that a weight tree may remember.
const TREE: usize = 1_024;
/// How fast trees and meters forget. One for both: a part's share of the heat is then its share of the load that was measured.
const HALF_LIFE_MS: u64 = 10_000;
/// Cuts that a server offers for a group.
const CUTS: usize = 32;
/// Servers that bear more than this many times the mean say where their groups may be split, and their trees are fed: what the others
/// would have counted is forgotten before anybody asks.
const ASKED: f64 = 1.15;
/// Rounds that the busiest server may stay overloaded while something could be done: what moved last stays for twelve.
const STUCK_ROUNDS: u32 = 24;

/// How big, and how it begins.
#[derive(Clone, Debug)]
pub struct Size {
    pub servers: usize,
    /// Groups at the beginning, alike in directories, led by the servers in turn.
    pub groups: usize,
    /// Whether followers are dealt out evenly too, or drawn by lot.
    pub even: bool,
    /// Bytes of table of one directory.
    pub directory_bytes: u64,
}

/// One group as it runs.
struct Group {
    start: NamePoint,
    /// Directories, by their numbers.
    from: usize,
    to: usize,
    leader: usize,
    replicas: Vec<usize>,
    meter: Meter,
    tree: Popularity,
}

/// A step that takes its time.
struct Running {
    made: Move,
    until: UnixMs,
}

/// The whole of it.
pub struct World {
    size: Size,
    shape: Box<dyn Shape>,
    dice: Dice,
    now: UnixMs,
    /// Directories in the order of their keys.
    places: Vec<NamePoint>,
    /// Operations a second of all directories before this one.
    before: Vec<f64>,
    map: Map,
    groups: BTreeMap<GroupId, Group>,
    unused: u32,
    balancer: Balancer,
    running: Vec<Running>,
    /// When each directory last changed servers.
    moved: Vec<Option<UnixMs>>,
    stuck: (Option<usize>, u32),
    record: Record,
    broken: Vec<String>,
}

impl World {
    pub fn new(size: Size, mut shape: Box<dyn Shape>, rules: Rules, seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let places = shape.places(&mut dice);
        let now = UnixMs(1_000_000_000);
        let mut world = World {
            before: vec![0.0; places.len() + 1],
            moved: vec![None; places.len()],
            map: Map::of_one(GroupId(0)),
            groups: BTreeMap::new(),
            unused: 1,
            balancer: Balancer::fresh(rules),
            running: Vec::new(),
            stuck: (None, 0),
            record: Record::default(),
            broken: Vec::new(),
            size,
            shape,
            dice,
            now,
            places,
        };
        world.found();
        world
    }

    /// The first groups: even cuts.
    fn found(&mut self) {
        let (servers, groups) = (self.size.servers, self.size.groups.clamp(1, self.places.len()));
        for n in 0..groups {
            let from = n * self.places.len() / groups;
            let to = (n + 1) * self.places.len() / groups;
            let start = if n == 0 { NamePoint::new(spine::id::BucketId(0), Vec::new()) } else { self.places[from].clone() };
            if n > 0 {
                let change = Change::SplitNames { at: start.clone(), group: GroupId(n as u32) };
                self.map.change(self.map.epoch(), &change).expect("even cuts ascend");
            }
            let replicas = self.replicas(n);
            let meter = Meter::new(HALF_LIFE_MS, self.now);
            let tree = Popularity::new(HALF_LIFE_MS, TREE, self.now);
            self.groups.insert(GroupId(n as u32), Group { start, from, to, leader: n % servers, replicas, meter, tree });
        }
        self.unused = groups as u32;
    }

    /// Servers of the nth of the first groups, its leader first.
    fn replicas(&mut self, n: usize) -> Vec<usize> {
        let servers = self.size.servers;
        let mut replicas = vec![n % servers];
        let mut apart = (n / servers) % servers;
        while replicas.len() < servers.min(3) {
            apart = apart % (servers - 1) + 1;
            let other = if self.size.even { (n + apart) % servers } else { self.dice.below(servers) };
            if !replicas.contains(&other) {
                replicas.push(other);
            }
        }
        replicas
    }

    /// One round: time passes under the load, what was under way may end, the balancer looks.
    pub fn round(&mut self) {
        self.now = UnixMs(self.now.0 + ROUND_MS);
        if let Some(rates) = self.shape.rates(self.now, &mut self.dice) {
            let mut sum = 0.0;
            for (at, rate) in rates.iter().enumerate() {
                self.before[at] = sum;
                sum += rate;
            }
            self.before[rates.len()] = sum;
        }
        self.serve();
        self.end_steps();
        let cluster = self.cluster();
        let moves = self.balancer.round(&cluster, self.now);
        for made in moves {
            self.judge_step(&made);
            self.record.began(&made, self.now);
            let takes = if let Step::Replica { bytes, .. } = &made.step { ROUND_MS.max(bytes / COPYING * 1_000) } else { ROUND_MS };
            self.running.push(Running { made, until: UnixMs(self.now.0 + takes) });
        }
        let pressures = self.pressures();
        self.judge_progress(&pressures);
        self.record.round(&pressures, self.groups.len());
    }

    pub fn record(&self) -> &Record {
        &self.record
    }

    pub fn now(&self) -> UnixMs {
        self.now
    }

    /// Pressure of the busiest server over that of the mean, as it is now.
    pub fn imbalance(&self) -> f64 {
        record::imbalance(&self.pressures())
    }

    /// What was against the rules.
    pub fn broken(&self) -> &[String] {
        &self.broken
    }

    /// Operations of the hottest directory, over what a server would have to do if all did alike: no balancer can cut it.
    pub fn largest(&self) -> f64 {
        let all = self.before[self.places.len()];
        let most = self.before.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
        let followers = FOLLOWING * (self.size.servers.min(3) - 1) as f64;
        most * self.size.servers as f64 / (all * (1.0 + followers)).max(f64::MIN_POSITIVE)
    }

    /// Operations a second of a group.
    fn rate(&self, group: &Group) -> f64 {
        self.before[group.to] - self.before[group.from]
    }

    /// Ten seconds of load: what the meters and the trees of the leaders see of it.
    fn serve(&mut self) {
        let seconds = ROUND_MS as f64 / 1_000.0;
        let pressures = self.pressures();
        let asked = ASKED * pressures.iter().sum::<f64>() / pressures.len() as f64;
        let before = &self.before;
        for group in self.groups.values_mut() {
            // A rate as it is counted swings: by up to three hundredths here, and a directory's by a tenth.
            let swing = 0.97 + 0.000_06 * self.dice.below(1_000) as f64;
            group.meter.record(OPERATION * ((before[group.to] - before[group.from]) * seconds * swing), self.now);
            if pressures[group.leader] <= asked {
                continue;
            }
            for at in group.from..group.to {
                let swing = 0.9 + 0.000_2 * self.dice.below(1_000) as f64;
                let key = [&self.places[at].key[..], b"file"].concat();
                group.tree.hit(self.places[at].bucket, &key, (before[at + 1] - before[at]) * seconds * swing, self.now);
            }
        }
    }

    /// What the servers report.
    fn cluster(&self) -> Cluster {
        let pressures = self.pressures();
        let mean = pressures.iter().sum::<f64>() / pressures.len() as f64;
        let next: BTreeMap<GroupId, GroupId> = {
            let order: Vec<GroupId> = self.map.names().iter().map(|route| route.group).collect();
            order.windows(2).map(|pair| (pair[0], pair[1])).collect()
        };
        let report = |(&id, group): (&GroupId, &Group)| {
            let lead = group.meter.rate(self.now);
            let busy = pressures[group.leader] > mean * ASKED;
            Subtree {
                id,
                next: next.get(&id).copied(),
                leader: node(group.leader),
                replicas: group.replicas.iter().map(|&replica| node(replica)).collect(),
                lead,
                follow: lead * FOLLOWING,
                bytes: (group.to - group.from) as u64 * self.size.directory_bytes,
                slices: if busy { group.tree.slices(&group.start, CUTS, self.now) } else { Vec::new() },
                stays: false,
            }
        };
        Cluster {
            servers: (0..self.size.servers).map(|server| (node(server), CAPACITY)).collect(),
            groups: self.groups.iter().map(report).collect(),
            unused: GroupId(self.unused),
            busy: Busy::default(),
        }
    }

    /// What each server truly bears.
    fn pressures(&self) -> Vec<f64> {
        let mut borne = vec![Load::default(); self.size.servers];
        for group in self.groups.values() {
            let cost = OPERATION * self.rate(group);
            for &replica in &group.replicas {
                borne[replica] = borne[replica] + if replica == group.leader { cost } else { cost * FOLLOWING };
            }
        }
        borne.iter().map(|load| load.pressure(&CAPACITY)).collect()
    }

    fn end_steps(&mut self) {
        let (done, running): (Vec<Running>, Vec<Running>) =
            std::mem::take(&mut self.running).into_iter().partition(|running| running.until <= self.now);
        self.running = running;
        for Running { made, .. } in done {
            match &made.step {
                Step::Lead { group, to, .. } => self.lead(*group, *to),
                Step::Split { group, at, new, to, .. } => self.split(*group, at, *new, *to),
                Step::Replica { group, from, to, .. } => self.replace(*group, *from, *to),
                Step::Merge { left, right, .. } => self.merge(*left, *right),
            }
            self.balancer.ended(&made.step, true, self.now);
        }
    }

    fn lead(&mut self, id: GroupId, to: NodeId) {
        let to = number(to);
        let Some(group) = self.groups.get_mut(&id) else { return self.broken.push(format!("group {id} is not there")) };
        if !group.replicas.contains(&to) {
            self.broken.push(format!("server {to} is to lead {id} and has no replica"));
        }
        group.leader = to;
        let directories = group.from..group.to;
        self.note_moved(directories);
    }

    fn split(&mut self, id: GroupId, at: &Cut, new: GroupId, to: NodeId) {
        let Cut::Names(at) = at else { return self.broken.push(format!("{at:?} is no place among names")) };
        if let Err(why) = self.map.change(self.map.epoch(), &Change::SplitNames { at: at.clone(), group: new }) {
            return self.broken.push(format!("group {id} cannot be split at {at:?}: {why}"));
        }
        self.unused = self.unused.max(new.0 + 1);
        let middle = self.places.partition_point(|place| place < at);
        let Some(group) = self.groups.get_mut(&id) else { return self.broken.push(format!("group {id} is not there")) };
        if !(group.from..group.to).contains(&middle) || self.map.names().of(at).start != at {
            self.broken.push(format!("group {id} was split outside of itself"));
        }
        let whole = (self.before[group.to] - self.before[group.from]).max(f64::MIN_POSITIVE);
        let share = (self.before[group.to] - self.before[middle]) / whole;
        let half = Group {
            start: at.clone(),
            from: middle,
            to: group.to,
            leader: number(to),
            replicas: group.replicas.clone(),
            meter: group.meter.part(share),
            tree: group.tree.split(at, self.now),
        };
        group.meter = group.meter.part(1.0 - share);
        group.to = middle;
        self.note_moved(half.from..half.to);
        self.groups.insert(new, half);
    }

    fn replace(&mut self, id: GroupId, from: NodeId, to: NodeId) {
        let (from, to) = (number(from), number(to));
        let Some(group) = self.groups.get_mut(&id) else { return self.broken.push(format!("group {id} is not there")) };
        if group.replicas.contains(&to) {
            self.broken.push(format!("server {to} has a replica of {id} already"));
        }
        let Some(replica) = group.replicas.iter_mut().find(|replica| **replica == from) else {
            return self.broken.push(format!("server {from} has no replica of {id}"));
        };
        *replica = to;
        if group.leader == from {
            group.leader = to;
        }
        let (directories, bytes) = (group.from..group.to, (group.to - group.from) as u64 * self.size.directory_bytes);
        self.record.bytes += bytes;
        self.note_moved(directories);
    }

    fn merge(&mut self, left: GroupId, right: GroupId) {
        if let Err(why) = self.map.change(self.map.epoch(), &Change::MergeNames { group: left }) {
            return self.broken.push(format!("groups {left} and {right} cannot be merged: {why}"));
        }
        let (Some(taken), Some(group)) = (self.groups.remove(&right), self.groups.get_mut(&left)) else {
            return self.broken.push(format!("{left} or {right} is not there"));
        };
        let all: BTreeSet<usize> = taken.replicas.iter().chain(&group.replicas).copied().collect();
        if taken.from != group.to || all.len() != group.replicas.len() {
            self.broken.push(format!("{left} and {right} are no neighbours, or lie on different servers"));
        }
        group.to = taken.to;
        group.tree.merge(&taken.tree, self.now);
        group.meter.merge(&taken.meter, self.now);
        if group.leader != taken.leader {
            self.note_moved(taken.from..taken.to);
        }
    }

    /// Whatever lies in these directories is now served by another server, or kept by another: not again for two minutes.
    fn note_moved(&mut self, directories: std::ops::Range<usize>) {
        for at in directories {
            if self.moved[at].is_some_and(|last| self.now.0 - last.0 < 120_000) {
                self.broken.push(format!("directory {:?} was moved twice in 120 s", self.places[at]));
            }
            self.moved[at] = Some(self.now);
        }
    }

    fn judge_step(&mut self, made: &Move) {
        for server in (0..self.size.servers).map(node) {
            let others = self.running.iter().filter(|running| running.made.step.involves(server)).count();
            if made.step.involves(server) && others > 0 {
                self.broken.push(format!("server {} takes part in two moves", number(server)));
            }
        }
    }

    /// The busiest server must not stay overloaded for long while leadership of something could leave it, to its clear relief.
    fn judge_progress(&mut self, pressures: &[f64]) {
        let mean = pressures.iter().sum::<f64>() / pressures.len() as f64;
        let busiest = (0..pressures.len()).max_by(|a, b| pressures[*a].total_cmp(&pressures[*b])).unwrap_or(0);
        let overloaded = pressures[busiest] > 1.3 * mean && pressures[busiest] > 0.06;
        if !overloaded || !self.could_be_relieved(busiest, pressures, mean) {
            self.stuck = (None, 0);
            return;
        }
        let rounds = if self.stuck.0 == Some(busiest) { self.stuck.1 + 1 } else { 1 };
        self.stuck = (Some(busiest), rounds);
        if rounds == STUCK_ROUNDS {
            let times = pressures[busiest] / mean;
            self.broken.push(format!("server {busiest} bears {times:.2} times the mean for {rounds} rounds, and could be relieved"));
        }
    }

    fn could_be_relieved(&self, busiest: usize, pressures: &[f64], mean: f64) -> bool {
        let taken = |server: usize| self.running.iter().any(|running| running.made.step.involves(node(server)));
        let resting =
            |group: &Group| (group.from..group.to).all(|at| self.moved[at].is_none_or(|last| self.now.0 - last.0 >= 120_000 + ROUND_MS));
        !taken(busiest)
            && self.groups.values().filter(|group| group.leader == busiest && resting(group)).any(|group| {
                let load = (OPERATION * (self.rate(group) * (1.0 - FOLLOWING))).pressure(&CAPACITY);
                let relieved = |&to: &usize| {
                    let gain = pressures[busiest] - (pressures[busiest] - load).max(pressures[to] + load);
                    to != busiest && !taken(to) && gain > 0.12 * mean && gain > 0.6 * load
                };
                group.replicas.iter().any(relieved)
            })
    }
}

fn node(server: usize) -> NodeId {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&(server as u64).to_be_bytes());
    NodeId(id)
}

fn number(node: NodeId) -> usize {
    u64::from_be_bytes(*node.0.first_chunk().unwrap_or(&[0; 8])) as usize
}
