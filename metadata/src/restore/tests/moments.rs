//! Writers, a collector and deletes at two groups, one of names and one of chunks; a copy of each, of different moments; and what a restore
//! makes of them.

use super::*;
use spine::wire::namespace::OutboxEntry;
use std::collections::{BTreeMap, BTreeSet};

/// Steps between the two moments, at most; and for how long a condemned chunk stays at least. As in the gateway, the latter is longer.
const APART: u64 = 30;
const GRACE: u64 = 40;
const CHUNKS: u64 = 5;
const KEYS: u64 = 4;

#[derive(Clone, Copy)]
enum At {
    Open,
    Reserve,
    Confirm(Gen),
    Commit,
}

struct Sim {
    names: MemoryTable,
    chunks: MemoryTable,
    state: u64,
    step: u64,
    /// Version -> key, chunk, and what comes next.
    writers: BTreeMap<u64, (u64, u8, At)>,
    versions: u64,
    /// What writers have stored: chunk and generation. `Some`: whoever believes in anything else is found out.
    stored: Option<BTreeSet<(u8, Gen)>>,
    /// Commits that were answered.
    committed: u64,
}

fn key_of(n: u64) -> (BucketId, String) {
    (BucketId(1), format!("k{n}"))
}

impl Sim {
    fn new(seed: u64) -> Sim {
        let mut names = MemoryTable::default();
        one(&mut names, Command::Root(sample::bucket("one")));
        let state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        Sim { names, chunks: MemoryTable::default(), state, step: 0, writers: BTreeMap::new(), versions: 0, stored: None, committed: 0 }
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) % below
    }

    fn tell(&mut self, command: Command) -> Reply {
        let at = (self.step + 1) << ORDINAL_BITS;
        let table = if matches!(command, Command::Chunk(_)) { &mut self.chunks } else { &mut self.names };
        all(table, vec![command], at).remove(0)
    }

    fn ask(&self, query: Query) -> Answer {
        let table = if matches!(query, Query::Chunk(_)) { &self.chunks } else { &self.names };
        machine::answer(table, ROOT, &query).unwrap()
    }

    fn run(&mut self, steps: u64) {
        for _ in 0..steps {
            self.step += 1;
            match self.draw(10) {
                0 => {
                    self.versions += 1;
                    let (key, of) = (self.draw(KEYS), self.draw(CHUNKS) as u8 + 1);
                    self.writers.insert(self.versions, (key, of, At::Open));
                }
                1..=5 => self.write(),
                6 => {
                    let (bucket, key) = key_of(self.draw(KEYS));
                    self.tell(Command::Namespace(NamespaceCommand::Delete { bucket, key, condition: Condition::default() }));
                }
                7 => self.drop_references(),
                8 => self.abort(),
                _ => self.collect(),
            }
        }
    }

    /// The next step of some writer.
    fn write(&mut self) {
        let Some(nth) = self.writers.len().checked_sub(1).map(|last| self.draw(last as u64 + 1) as usize) else { return };
        let Some((&n, &(key, of, at))) = self.writers.iter().nth(nth) else { return };
        let (bucket, name) = key_of(key);
        let id = version(n);
        let next = match at {
            At::Open => {
                let open = NamespaceCommand::OpenIntent { version: id, bucket, key: name, writer: WriterId([1; 16]), opened: UnixMs(1) };
                (self.tell(Command::Namespace(open)) == Reply::Done).then_some(At::Reserve)
            }
            At::Reserve => match self.tell(reserve(n, &[of])) {
                Reply::Reserved(outcomes) => match outcomes[0] {
                    ReserveOutcome::Hit => {
                        self.has_to_be_stored(of);
                        Some(At::Commit)
                    }
                    ReserveOutcome::Upload { generation, .. } => Some(At::Confirm(generation)),
                },
                _ => None,
            },
            At::Confirm(generation) => {
                let chunks = vec![Confirmation { chunk: chunk(of), generation, placement: placement(generation, &[]) }];
                let reply = self.tell(Command::Chunk(ChunkCommand::Confirm { version: id, chunks }));
                if let Some(stored) = &mut self.stored {
                    stored.insert((of, generation));
                }
                (reply == Reply::Confirmed(vec![true])).then_some(At::Commit)
            }
            At::Commit => {
                let new = sample::pieces(id, 1, &[of]);
                let commit = NamespaceCommand::Commit { bucket, key: name, new, condition: Condition::default() };
                if let Reply::Committed { .. } = self.tell(Command::Namespace(commit)) {
                    self.has_to_be_stored(of);
                    self.committed += 1;
                }
                None
            }
        };
        match next {
            Some(at) => self.writers.insert(n, (key, of, at)),
            None => self.writers.remove(&n),
        };
    }

    /// The chunk's record is of a generation whose shards are there, where that is looked at.
    fn has_to_be_stored(&self, of: u8) {
        let Some(stored) = &self.stored else { return };
        let record = record(&self.chunks, of).unwrap();
        assert!(stored.contains(&(of, record.generation)), "chunk {of}: {record:?} is believed");
    }

    fn outbox(&self) -> Vec<OutboxEntry> {
        match self.ask(Query::Namespace(NamespaceQuery::Outbox { max: 100 })) {
            Answer::Namespace(NamespaceAnswer::Outbox(entries)) => entries,
            other => panic!("{other:?}"),
        }
    }

    /// The collector's first half; it may die between the two.
    fn drop_references(&mut self) {
        let Some(entry) = self.outbox().first().copied() else { return };
        self.tell(Command::Chunk(ChunkCommand::Unref { version: entry.version, span: ALL_CHUNKS }));
        if self.draw(4) > 0 {
            self.tell(Command::Namespace(NamespaceCommand::OutboxDone { entries: vec![entry] }));
        }
    }

    /// The reaper, which cannot know who is slow.
    fn abort(&mut self) {
        let n = self.draw(self.versions + 1);
        let (bucket, key) = key_of(0);
        self.tell(Command::Namespace(NamespaceCommand::AbortIntent { version: version(n), bucket, key }));
    }

    fn ids(&self, query: ChunkQuery) -> Vec<(ChunkId, Gen)> {
        match self.ask(Query::Chunk(query)) {
            Answer::Chunk(ChunkAnswer::Ids(ids)) => ids,
            other => panic!("{other:?}"),
        }
    }

    fn collect(&mut self) {
        let chunks = self.ids(ChunkQuery::Unreferenced { max: 100 });
        self.tell(Command::Chunk(ChunkCommand::Condemn { chunks, now: UnixMs(self.step) }));
        let before = UnixMs(self.step.saturating_sub(GRACE));
        let chunks = self.ids(ChunkQuery::Condemned { before, max: 100 });
        if let Reply::Deleting(chunks) = self.tell(Command::Chunk(ChunkCommand::BeginDelete { chunks })) {
            self.tell(Command::Chunk(ChunkCommand::FinishDelete { chunks }));
        }
    }
}

/// Keys that have an object, with the chunk of each.
fn objects(table: &MemoryTable) -> BTreeMap<u64, ChunkId> {
    let mut out = BTreeMap::new();
    for key in 0..KEYS {
        let (bucket, name) = key_of(key);
        let open = NamespaceQuery::Head { bucket, key: name.clone() };
        let Answer::Namespace(NamespaceAnswer::Head(Some(head))) = machine::answer(table, ROOT, &Query::Namespace(open)).unwrap() else {
            continue;
        };
        let manifests = NamespaceQuery::Manifests { bucket, key: name, versions: vec![head.id] };
        let answer = machine::answer(table, ROOT, &Query::Namespace(manifests)).unwrap();
        let Answer::Namespace(NamespaceAnswer::Manifests(found)) = answer else { panic!("{answer:?}") };
        out.insert(key, found[0].as_ref().unwrap().chunks[0].id);
    }
    out
}

fn is_live(table: &MemoryTable, chunk: ChunkId) -> bool {
    let answer = machine::answer(table, ROOT, &Query::Chunk(ChunkQuery::Records(vec![chunk]))).unwrap();
    let Answer::Chunk(ChunkAnswer::Records(found)) = answer else { panic!("{answer:?}") };
    found[0].as_ref().is_some_and(|record| record.state == spine::wire::chunk::ChunkState::Live && record.placement.is_some())
}

/// Nothing that is there goes, and everything that is nowhere named goes, once the collection is released.
fn goes_on(restored: &MemoryTable, seed: u64) {
    let mut sim = Sim::new(seed);
    (sim.names, sim.chunks) = (restored.clone(), restored.clone());
    // Time goes on from after the copy: what was condemned in its last moment is due as well.
    sim.step = 10_000;
    // One table now: what the one says, the other has to know.
    let collect = |sim: &mut Sim| {
        sim.names = sim.chunks.clone();
        let entries = sim.outbox();
        let unref = |entry: &OutboxEntry| Command::Chunk(ChunkCommand::Unref { version: entry.version, span: ALL_CHUNKS });
        all(&mut sim.chunks, entries.iter().map(unref).collect(), 1 << 50);
        all(&mut sim.chunks, vec![Command::Namespace(NamespaceCommand::OutboxDone { entries })], 1 << 50);
        for _ in 0..3 {
            sim.step += 2 * GRACE;
            sim.collect();
        }
        sim.names = sim.chunks.clone();
    };
    sim.tell(Command::Chunk(ChunkCommand::Hold { held: false, span: ALL_CHUNKS }));
    collect(&mut sim);
    let there = objects(&sim.names);
    assert_eq!(there, objects(restored), "seed {seed}");
    for chunk in there.values() {
        assert!(is_live(&sim.chunks, *chunk), "seed {seed}: {chunk} was collected");
    }
    for key in there.keys() {
        let (bucket, key) = key_of(*key);
        all(&mut sim.chunks, vec![Command::Namespace(NamespaceCommand::Delete { bucket, key, condition: Condition::default() })], 1 << 51);
        collect(&mut sim);
    }
    assert_eq!((sim.chunks.len(Space::Chunks), sim.chunks.len(Space::References)), (0, 0), "seed {seed}: something is never collected");
}

#[test]
fn under_thousands_of_seeds_every_object_of_the_names_moment_keeps_its_chunks_and_nothing_else_is_kept() {
    let (mut objects_seen, mut mended) = (0, 0);
    for seed in 1..=2_000 {
        let mut sim = Sim::new(seed);
        let steps = 20 + sim.draw(200);
        sim.run(steps);
        let names = sim.names.clone();
        let apart = sim.draw(APART);
        sim.run(apart);
        let restored = of_two_moments(&names, &sim.chunks);
        let there = objects(&restored);
        assert_eq!(there, objects(&names), "seed {seed}: other names");
        for chunk in there.values() {
            assert!(is_live(&restored, *chunk), "seed {seed}: {chunk} is not durable");
        }
        let mut held: Vec<ChunkId> = Vec::new();
        for of in 1..=CHUNKS as u8 {
            held.extend(references(&restored, of).iter().map(|_| chunk(of)));
        }
        let mut named: Vec<ChunkId> = there.values().copied().collect();
        named.sort();
        assert_eq!(held, named, "seed {seed}: references");
        objects_seen += there.len();
        mended += usize::from(sim.chunks.len(Space::References) != held.len());
        goes_on(&restored, seed);
    }
    assert!(objects_seen > 1_000 && mended > 500, "{objects_seen} objects, {mended} seeds with something to mend");
}

#[test]
fn under_thousands_of_seeds_nobody_is_answered_after_a_restore_whose_chunk_was_not_stored_since() {
    let (mut committed, mut renewed) = (0, 0);
    for seed in 1..=2_000 {
        let mut sim = Sim::new(seed);
        let steps = 20 + sim.draw(200);
        sim.run(steps);
        let names = sim.names.clone();
        let apart = sim.draw(APART);
        sim.run(apart);
        let restored = of_two_moments(&names, &sim.chunks);
        // Every shard of before is gone; whoever was writing cannot go on.
        (sim.names, sim.chunks) = (restored.clone(), restored.clone());
        (sim.writers, sim.stored, sim.step) = (BTreeMap::new(), Some(BTreeSet::new()), 10_000);
        sim.run(300);
        chunk_index::tests::audit(&sim.chunks);
        committed += sim.committed;
        let known = (1..=CHUNKS as u8).filter(|of| record(&restored, *of).is_some_and(|record| record.placement.is_some()));
        renewed += known.filter(|of| record(&restored, *of) != record(&sim.chunks, *of)).count();
    }
    assert!(committed > 5_000 && renewed > 500, "{committed} commits, {renewed} chunks that were stored again");
}
