//! Kademlia as a calculation: tables, iterative lookups, churn; the same seed gives the same run.
//!
//! A lookup asks [`PARALLEL`] of the nearest known peers at a time and ends when the [`K`] nearest have answered, as libp2p's does.
//! A peer's depth is how many answers in a row led to it: 1 for those of the asker's own table. The hops of a lookup are the depth of
//! the nearest peer that it found.
//! Not here: time within a lookup, lost messages, peers that lie.

use crate::content::Dice;
use std::collections::{BTreeMap, HashMap};

/// Peers in a bucket, and in an answer.
pub const K: usize = 20;
pub const PARALLEL: usize = 3;
/// A refresh of a table looks into this many of its buckets beside its own neighbourhood.
const REFRESHED: u32 = 12;

/// Where a peer is: the first half of the hash of its id.
pub type Place = u128;

#[derive(Debug)]
struct Peer {
    place: Place,
    alive: bool,
    /// By how many leading bits a place shares with this one.
    buckets: BTreeMap<u32, Vec<usize>>,
}

/// All peers, dead ones included.
#[derive(Debug, Default)]
pub struct Network {
    peers: Vec<Peer>,
    /// Indices of those that live.
    live: Vec<usize>,
}

/// What a lookup came to.
#[derive(Clone, Debug)]
pub struct Found {
    /// The nearest that answered, nearest first, at most [`K`].
    pub nearest: Vec<usize>,
    pub hops: u32,
    /// Requests sent, those to the dead included.
    pub requests: u32,
    pub timeouts: u32,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Told,
    Answered,
    Dead,
}

impl Network {
    /// Peers whose tables are as they are.
    pub fn of_tables(places: &[Place], tables: &[Vec<Place>]) -> Network {
        let index: HashMap<Place, usize> = places.iter().enumerate().map(|(at, place)| (*place, at)).collect();
        let mut network = Network::default();
        for place in places {
            network.add(*place);
        }
        for (at, table) in tables.iter().enumerate() {
            for other in table.iter().filter_map(|place| index.get(place)) {
                // As large as it was there.
                let bucket = network.bucket(at, *other);
                network.peers[at].buckets.entry(bucket).or_default().push(*other);
            }
        }
        network
    }

    /// `count` peers that joined one after another, each knowing one that was there before.
    pub fn joined(count: usize, dice: &mut Dice) -> Network {
        let mut network = Network::default();
        for _ in 0..count {
            network.join(dice);
        }
        network
    }

    pub fn live(&self) -> usize {
        self.live.len()
    }

    /// Entries of the tables of those that live, on average.
    pub fn table_mean(&self) -> f64 {
        let entries: usize = self.live.iter().map(|at| self.peers[*at].buckets.values().map(Vec::len).sum::<usize>()).sum();
        entries as f64 / self.live.len().max(1) as f64
    }

    fn add(&mut self, place: Place) -> usize {
        let at = self.peers.len();
        self.peers.push(Peer { place, alive: true, buckets: BTreeMap::new() });
        self.live.push(at);
        at
    }

    fn bucket(&self, at: usize, other: usize) -> u32 {
        (self.peers[at].place ^ self.peers[other].place).leading_zeros()
    }

    /// A new peer that knows one.
    pub fn join(&mut self, dice: &mut Dice) -> usize {
        let known = (!self.live.is_empty()).then(|| self.any(dice));
        let at = self.add(place(dice));
        if let Some(known) = known {
            self.learn(at, known);
            self.refresh(at, dice);
        }
        at
    }

    /// A peer that lives.
    pub fn any(&self, dice: &mut Dice) -> usize {
        self.live[dice.below(self.live.len())]
    }

    /// Ends one that lives; the others learn of it when they ask it.
    pub fn die(&mut self, dice: &mut Dice) {
        let at = dice.below(self.live.len());
        let gone = self.live.swap_remove(at);
        self.peers[gone].alive = false;
        self.peers[gone].buckets.clear();
    }

    /// Looks up itself, and something in each of its buckets.
    pub fn refresh(&mut self, at: usize, dice: &mut Dice) {
        let own = self.peers[at].place;
        self.lookup(at, own);
        let nearest = self.peers[at].buckets.keys().next_back().copied().unwrap_or(0);
        for bucket in 0..nearest.min(REFRESHED) {
            // Shares `bucket` bits, differs in the next.
            let differs = 1u128 << (127 - bucket);
            let target = (own ^ differs) & !(differs - 1) | place(dice) & (differs - 1);
            self.lookup(at, target);
        }
    }

    fn learn(&mut self, at: usize, other: usize) {
        if at == other {
            return;
        }
        let bucket = self.bucket(at, other);
        let entries = self.peers[at].buckets.entry(bucket).or_default();
        if !entries.contains(&other) && entries.len() < K {
            entries.push(other);
        }
    }

    fn forget(&mut self, at: usize, other: usize) {
        let bucket = self.bucket(at, other);
        if let Some(entries) = self.peers[at].buckets.get_mut(&bucket) {
            entries.retain(|entry| *entry != other);
        }
    }

    /// The [`K`] nearest that `at` knows.
    fn answer(&self, at: usize, target: Place) -> Vec<usize> {
        let mut known: Vec<usize> = self.peers[at].buckets.values().flatten().copied().collect();
        let distance = |other: &usize| self.peers[*other].place ^ target;
        if known.len() > K {
            known.select_nth_unstable_by_key(K - 1, distance);
            known.truncate(K);
        }
        known.sort_unstable_by_key(distance);
        known
    }

    /// Looks for the peers nearest to `target`; askers and asked learn of each other, and the dead are forgotten.
    pub fn lookup(&mut self, from: usize, target: Place) -> Found {
        let mut told: BTreeMap<Place, (usize, u32, State)> = BTreeMap::new();
        for other in self.answer(from, target) {
            told.insert(self.peers[other].place ^ target, (other, 1, State::Told));
        }
        let (mut requests, mut timeouts) = (0, 0);
        loop {
            let nearest = told.iter().filter(|(_, (_, _, state))| *state != State::Dead).take(K);
            let asked: Vec<(Place, usize, u32)> = nearest
                .filter(|(_, (_, _, state))| *state == State::Told)
                .take(PARALLEL)
                .map(|(distance, (other, depth, _))| (*distance, *other, *depth))
                .collect();
            if asked.is_empty() {
                break;
            }
            for (distance, other, depth) in asked {
                requests += 1;
                let alive = self.peers[other].alive;
                told.insert(distance, (other, depth, if alive { State::Answered } else { State::Dead }));
                if !alive {
                    timeouts += 1;
                    self.forget(from, other);
                    continue;
                }
                for next in self.answer(other, target).into_iter().filter(|next| *next != from) {
                    told.entry(self.peers[next].place ^ target).or_insert((next, depth + 1, State::Told));
                }
                self.learn(from, other);
                self.learn(other, from);
            }
        }
        let answered: Vec<(usize, u32)> =
            told.values().filter(|(_, _, state)| *state == State::Answered).take(K).map(|(other, depth, _)| (*other, *depth)).collect();
        let hops = answered.first().map_or(0, |(_, depth)| *depth);
        Found { nearest: answered.into_iter().map(|(other, _)| other).collect(), hops, requests, timeouts }
    }

    /// The peer that lives and is nearest to `target`, but for `from`: what a lookup should find.
    pub fn truth(&self, from: usize, target: Place) -> Option<usize> {
        self.live.iter().copied().filter(|at| *at != from).min_by_key(|at| self.peers[*at].place ^ target)
    }

    /// One hour in which `share` of the peers are replaced by new ones, minute by minute, and every peer refreshes its table once.
    pub fn churn_for_an_hour(&mut self, share: f64, dice: &mut Dice) {
        let replaced = (self.live.len() as f64 * share / 60.0).round() as usize;
        for minute in 0..60 {
            for _ in 0..replaced {
                self.die(dice);
            }
            for _ in 0..replaced {
                self.join(dice);
            }
            let due: Vec<usize> = self.live.iter().copied().filter(|at| at % 60 == minute).collect();
            for at in due {
                self.refresh(at, dice);
            }
        }
    }
}

/// Anywhere.
pub fn place(dice: &mut Dice) -> Place {
    u128::from(dice.roll()) << 64 | u128::from(dice.roll())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lookups_among_peers_that_stay_find_the_nearest_and_the_same_seed_gives_the_same_run() {
        let run = |seed| {
            let dice = &mut Dice::new(seed);
            let mut network = Network::joined(300, dice);
            (0..50)
                .map(|_| {
                    let (from, target) = (network.any(dice), place(dice));
                    let found = network.lookup(from, target);
                    assert_eq!(found.nearest.first().copied(), network.truth(from, target));
                    assert_eq!((found.nearest.len(), found.timeouts), (K, 0));
                    (found.hops, found.requests)
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn the_dead_that_a_lookup_meets_leave_the_askers_table() {
        let dice = &mut Dice::new(3);
        let mut network = Network::joined(200, dice);
        for _ in 0..60 {
            network.die(dice);
        }
        let mut all_met = 0;
        for _ in 0..40 {
            let (from, target) = (network.any(dice), place(dice));
            let distance = |network: &Network, at: usize| network.peers[at].place ^ target;
            let dead = |network: &Network| -> Vec<usize> {
                network.answer(from, target).into_iter().filter(|at| !network.peers[*at].alive).collect()
            };
            let before = dead(&network);
            let found = network.lookup(from, target);
            let reached = found.nearest.last().map_or(0, |at| distance(&network, *at));
            let met: Vec<usize> = before.into_iter().filter(|at| distance(&network, *at) < reached).collect();
            assert!(found.timeouts as usize >= met.len());
            assert!(dead(&network).iter().all(|at| !met.contains(at)));
            assert!(found.nearest.iter().all(|at| network.peers[*at].alive));
            all_met += met.len();
        }
        assert!(all_met > 0, "no lookup met a dead peer");
    }
}
