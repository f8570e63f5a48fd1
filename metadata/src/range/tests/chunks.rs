//! Writers, a collector, repair and movers that are killed at any step, on three groups, against what is known of each chunk.

use super::*;
use crate::chunk_index::tests::audit;
use crate::sample::{chunk, node, placement, version};
use spine::id::{ChunkId, Gen, ShardIndex, ShardRoot, Tag, UnixMs, VersionId};
use spine::wire::chunk::*;
use std::collections::{BTreeMap, BTreeSet};

const CHUNKS: u8 = 8;

/// A walk over all chunks that drops a version's references, as far as it has come.
struct Walk {
    version: VersionId,
    place: ChunkId,
}

#[derive(Default)]
struct Known {
    references: BTreeMap<ChunkId, BTreeSet<VersionId>>,
    /// As of the last command that was applied to it.
    records: BTreeMap<ChunkId, ChunkRecord>,
    deleting: BTreeSet<(ChunkId, Gen)>,
    /// Generations and tags that were given, for good.
    given: BTreeMap<ChunkId, BTreeSet<u64>>,
}

struct Chunks {
    world: World,
    known: Known,
    walks: Vec<Walk>,
    ended: BTreeSet<VersionId>,
    versions: u64,
    applied: u64,
}

fn records_of(world: &World, of: ChunkId) -> Option<Option<ChunkRecord>> {
    match world.of_owner(&Query::Chunk(ChunkQuery::Records(vec![of])))? {
        Answer::Chunk(ChunkAnswer::Records(records)) => Some(records[0].clone()),
        other => panic!("{other:?}"),
    }
}

impl Chunks {
    fn new() -> Self {
        Chunks { world: World::new(3), known: Known::default(), walks: Vec::new(), ended: BTreeSet::new(), versions: 0, applied: 0 }
    }

    fn run(&mut self, command: ChunkCommand) -> Option<Reply> {
        let (_, reply) = self.world.send_owner(&Command::Chunk(command))?;
        self.applied += 1;
        Some(reply)
    }

    /// What is known of the chunk after a command about it.
    fn look(&mut self, of: ChunkId) {
        match records_of(&self.world, of).unwrap() {
            Some(record) if record.state != ChunkState::Deleting => self.known.records.insert(of, record),
            _ => self.known.records.remove(&of),
        };
    }

    fn a_version(&mut self, dice: &mut Dice) -> VersionId {
        if self.versions == 0 || dice.one_in(3) {
            self.versions += 1;
        }
        version(1 + dice.below(self.versions))
    }

    fn write(&mut self, dice: &mut Dice) {
        let of = chunk(dice.below(CHUNKS.into()) as u8 * 30);
        match dice.below(10) {
            0..=3 => self.reserve(dice, of),
            4 | 5 => self.confirm(dice, of),
            6 => self.condemn(dice, of),
            7 => self.delete(of),
            8 => self.repair(dice, of),
            _ => self.begin_walk(dice),
        }
    }

    fn reserve(&mut self, dice: &mut Dice, of: ChunkId) {
        let version = self.a_version(dice);
        let walking = self.walks.iter().any(|walk| walk.version == version);
        if walking {
            return;
        }
        let before = self.known.records.get(&of).map(|record| record.generation);
        match self.run(ChunkCommand::Reserve { version, chunks: vec![of] }) {
            None => {}
            Some(Reply::Refused(Refusal::IntentClosed)) => assert!(self.ended.contains(&version)),
            Some(Reply::Reserved(outcomes)) => {
                assert!(!self.ended.contains(&version), "a reference that nobody would ever drop");
                self.known.references.entry(of).or_default().insert(version);
                if let ReserveOutcome::Upload { generation, .. } = outcomes[0]
                    && before != Some(generation)
                {
                    self.give(of, generation.0);
                }
                self.look(of);
            }
            other => panic!("{other:?}"),
        }
    }

    fn give(&mut self, of: ChunkId, number: u64) {
        let given = self.known.given.entry(of).or_default();
        assert!(given.last().is_none_or(|last| *last < number), "a number was given again or went back: {number} after {given:?}");
        given.insert(number);
    }

    fn confirm(&mut self, dice: &mut Dice, of: ChunkId) {
        let (Some(record), Some(holders)) = (self.known.records.get(&of), self.known.references.get(&of)) else { return };
        let Some(version) = holders.iter().nth(dice.below(holders.len().max(1) as u64) as usize).copied() else { return };
        let missing: &[usize] = if dice.one_in(3) { &[1] } else { &[] };
        let confirmation = Confirmation { chunk: of, generation: record.generation, placement: placement(record.generation, missing) };
        if self.run(ChunkCommand::Confirm { version, chunks: vec![confirmation] }).is_some() {
            self.look(of);
        }
    }

    fn condemn(&mut self, dice: &mut Dice, of: ChunkId) {
        let Some(record) = self.known.records.get(&of) else { return };
        let chunks = vec![(of, record.generation)];
        let command = match dice.below(2) {
            0 => ChunkCommand::Condemn { chunks, now: UnixMs(dice.below(9)) },
            _ => ChunkCommand::BeginDelete { chunks },
        };
        match self.run(command) {
            None => return,
            Some(Reply::Deleting(begun)) => self.known.deleting.extend(begun),
            Some(Reply::Done) => {}
            other => panic!("{other:?}"),
        }
        self.look(of);
    }

    fn delete(&mut self, of: ChunkId) {
        let Some(first) = self.known.deleting.iter().find(|(chunk, _)| *chunk == of).copied() else { return };
        if self.run(ChunkCommand::FinishDelete { chunks: vec![first] }).is_some() {
            self.known.deleting.remove(&first);
        }
    }

    fn repair(&mut self, dice: &mut Dice, of: ChunkId) {
        let Some(record) = self.known.records.get(&of).cloned() else { return };
        let (generation, index) = (record.generation, ShardIndex(dice.below(3) as u8));
        match record.targets.first() {
            Some((index, node, tag)) => {
                let place = Place { node: *node, tag: *tag, root: ShardRoot([7; 32]) };
                if self.run(ChunkCommand::Move { chunk: of, generation, index: *index, place }).is_none() {
                    return;
                }
            }
            None => match self.run(ChunkCommand::ReserveTarget { chunk: of, generation, index, node: node(9 + dice.below(9) as u8) }) {
                None => return,
                Some(Reply::Target(Tag(tag))) => self.give(of, tag),
                Some(_) => {}
            },
        }
        self.look(of);
    }

    fn begin_walk(&mut self, dice: &mut Dice) {
        let version = self.a_version(dice);
        if self.walks.iter().all(|walk| walk.version != version) {
            self.walks.push(Walk { version, place: ChunkId([0; 32]) });
        }
    }

    /// One step of what drops references: at the group that owns the place, for all that it owns from there on.
    fn walk(&mut self, dice: &mut Dice) {
        if self.walks.is_empty() {
            return;
        }
        let nth = dice.below(self.walks.len() as u64) as usize;
        let Walk { version, place } = self.walks[nth];
        let owned = (0..3).filter_map(|group| self.world.ranges(group).chunks.owned).find(|owned| owned.holds(&place));
        let Some(Span { end, .. }) = owned else { return };
        let span = Span { start: place, end };
        match self.run(ChunkCommand::Unref { version, span }) {
            None => {}
            Some(Reply::Unreferenced { more: false }) => {
                for (_, holders) in self.known.references.iter_mut().filter(|(chunk, _)| span.holds(chunk)) {
                    holders.remove(&version);
                }
                match end {
                    Some(end) => self.walks[nth].place = end,
                    None => {
                        self.ended.insert(version);
                        self.walks.remove(nth);
                    }
                }
            }
            other => panic!("{other:?}"),
        }
    }

    fn check(&self) {
        for n in 0..CHUNKS {
            let of = chunk(n * 30);
            let Some(record) = records_of(&self.world, of) else { continue };
            let record = record.filter(|record| record.state != ChunkState::Deleting);
            assert_eq!(record.as_ref(), self.known.records.get(&of), "{of}");
            let Some(Answer::Chunk(ChunkAnswer::References(holders))) =
                self.world.of_owner(&Query::Chunk(ChunkQuery::References { chunk: of, max: 999 }))
            else {
                panic!()
            };
            let known: Vec<VersionId> = self.known.references.get(&of).into_iter().flatten().copied().collect();
            assert_eq!(holders, known, "{of}");
        }
    }

    /// Everything that was begun is ended; each group's lists and totals are what counting gives.
    fn finish(&mut self, dice: &mut Dice) {
        self.world.settle(dice);
        while !self.walks.is_empty() {
            self.walk(dice);
        }
        self.check();
        let mut deleting = BTreeSet::new();
        let mut totals = Totals::default();
        for group in 0..3 {
            audit(&self.world.tables[group]);
            let Ok(Answer::Chunk(ChunkAnswer::Scan(listed))) = self.world.ask(group, &Query::Chunk(ChunkQuery::Deleting { max: 999 }))
            else {
                panic!()
            };
            for (of, record) in listed {
                assert!(deleting.insert((of, record.generation)), "deleted in two groups");
            }
            let Ok(Answer::Chunk(ChunkAnswer::Totals(of))) = self.world.ask(group, &Query::Chunk(ChunkQuery::Totals)) else { panic!() };
            totals.chunks += of.chunks;
            totals.references += of.references;
        }
        assert_eq!(deleting, self.known.deleting);
        let references: usize = self.known.references.values().map(BTreeSet::len).sum();
        assert_eq!((totals.chunks, totals.references), ((self.known.records.len() + deleting.len()) as u64, references as u64));
    }
}

fn run(seed: u64) -> Chunks {
    let mut dice = Dice::new(seed);
    let mut chunks = Chunks::new();
    for _ in 0..250 {
        match dice.below(16) {
            0..=5 => chunks.write(&mut dice),
            6..=10 => chunks.world.step(&mut dice),
            11 => chunks.walk(&mut dice),
            12 if dice.one_in(3) => chunks.world.kill(&mut dice),
            13 => chunks.check(),
            14 if dice.one_in(2) => chunks.world.late(&mut dice),
            _ => {
                let point = ChunkId([dice.below(256) as u8; 32]);
                chunks.world.begin(&mut dice, point, |ranges| ranges.chunks.owned, Range::Chunks);
            }
        }
    }
    chunks.finish(&mut dice);
    chunks
}

#[test]
fn under_thousands_of_seeds_no_reference_is_lost_and_no_number_given_twice_whatever_moves() {
    let (mut applied, mut finished, mut given_up) = (0, 0, 0);
    for seed in 1..=3_000 {
        println!("seed {seed}");
        let chunks = run(seed);
        applied += chunks.applied;
        finished += chunks.world.finished;
        given_up += chunks.world.given_up;
    }
    assert!(applied > 100_000 && finished > 3_000 && given_up > 300, "applied {applied}, finished {finished}, given up {given_up}");
}
