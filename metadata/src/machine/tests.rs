use super::{answer, apply, check};
use crate::sample::{self, chunk, inline, piece, placement, version};
use crate::table::memory::MemoryTable;
use crate::table::{Space, TableRead};
use proptest::prelude::*;
use spine::id::*;
use spine::limit;
use spine::wire::chunk::*;
use spine::wire::namespace::*;
use spine::wire::range::ALL_CHUNKS;
use spine::wire::root::RootQuery;
use spine::wire::{Answer, Batch, Chain, Command, MetadataError, Query, Refusal, Reply};
use std::collections::BTreeSet;

const BUCKET: BucketId = BucketId(1);
const GROUP: GroupId = GroupId(0);

fn chained(commands: Vec<Command>) -> Batch {
    Batch { chain: Chain::Stop, commands }
}

fn open(n: u64) -> Command {
    Command::Namespace(NamespaceCommand::OpenIntent {
        version: version(n),
        bucket: BUCKET,
        key: "k".into(),
        writer: WriterId([1; 16]),
        opened: UnixMs(1),
    })
}

fn reserve(n: u64, chunks: &[u8]) -> Command {
    Command::Chunk(ChunkCommand::Reserve { version: version(n), chunks: chunks.iter().copied().map(chunk).collect() })
}

fn confirm(n: u64, uploads: &[(u8, Gen)]) -> Command {
    let confirmation = |&(of, generation): &(u8, Gen)| Confirmation { chunk: chunk(of), generation, placement: placement(generation, &[]) };
    Command::Chunk(ChunkCommand::Confirm { version: version(n), chunks: uploads.iter().map(confirmation).collect() })
}

fn commit(n: u64, key: &str, chunks: &[u8]) -> Command {
    let new = sample::pieces(version(n), 1, chunks);
    Command::Namespace(NamespaceCommand::Commit { bucket: BUCKET, key: key.into(), new, condition: Condition::default() })
}

fn table() -> MemoryTable {
    let mut table = MemoryTable::default();
    apply(&mut table, GROUP, &chained(vec![Command::Root(sample::bucket("one"))]), Seq(0)).unwrap();
    table
}

#[test]
fn a_refusal_stops_a_chain_and_what_came_before_it_stays() {
    let mut table = table();
    let batch = chained(vec![open(1), commit(2, "k", &[1]), open(3)]);
    let replies = apply(&mut table, GROUP, &batch, Seq(10)).unwrap();
    assert_eq!(replies, [Reply::Done, Reply::Refused(Refusal::IntentClosed), Reply::Refused(Refusal::Skipped)]);
    let Answer::Namespace(NamespaceAnswer::Intents(intents)) =
        answer(&table, GROUP, &Query::Namespace(NamespaceQuery::Intents { after: None, max: 9 })).unwrap()
    else {
        panic!()
    };
    assert_eq!(intents.len(), 1);
}

#[test]
fn a_confirm_that_is_not_wholly_true_stops_a_chain() {
    let mut table = table();
    let replies = apply(&mut table, GROUP, &chained(vec![open(1), reserve(1, &[1, 2])]), Seq(10)).unwrap();
    let Reply::Reserved(outcomes) = &replies[1] else { panic!() };
    let ReserveOutcome::Upload { generation, .. } = outcomes[0] else { panic!() };
    let stale = chained(vec![confirm(1, &[(1, generation), (2, Gen(99))]), commit(1, "k", &[1, 2])]);
    assert_eq!(apply(&mut table, GROUP, &stale, Seq(20)).unwrap(), [Reply::Confirmed(vec![true, false]), Reply::Refused(Refusal::Skipped)]);
    let good = chained(vec![confirm(1, &[(1, generation)]), commit(1, "k", &[1])]);
    assert_eq!(apply(&mut table, GROUP, &good, Seq(30)).unwrap()[1], Reply::Committed { seq: Seq(31), modified: UnixMs(1) });
}

#[test]
fn independent_commands_stand_alone() {
    let mut table = table();
    let batch = Batch { chain: Chain::Independent, commands: vec![commit(2, "k", &[1]), open(3)] };
    assert_eq!(apply(&mut table, GROUP, &batch, Seq(10)).unwrap(), [Reply::Refused(Refusal::IntentClosed), Reply::Done]);
}

#[test]
fn what_would_break_the_table_is_refused_before_the_log() {
    let fine = |command: Command| check(&chained(vec![command])).is_ok();
    let long = |n| "k".repeat(n);
    assert!(fine(commit(1, &long(limit::KEY_BYTES), &[1])));
    assert!(!fine(commit(1, &long(limit::KEY_BYTES + 1), &[1])));
    let part = |number| {
        let part =
            PartRecord { number, version: version(1), size: 1, md5: [0; 16], checksum: None, modified: UnixMs(1), body: piece(version(1)) };
        Command::Namespace(NamespaceCommand::PutPart {
            upload: UploadId([0; 16]),
            bucket: BUCKET,
            key: "k".into(),
            part: Box::new(part),
            manifest: None,
        })
    };
    assert_eq!([0, 1, 10_000, 10_001].map(|number| fine(part(number))), [false, true, true, false]);
    assert!(fine(Command::Root(sample::bucket(&long(255)))) && !fine(Command::Root(sample::bucket(&long(256)))));
    let batch = Batch { chain: Chain::Stop, commands: vec![open(1); limit::BATCH_COMMANDS + 1] };
    assert_eq!(check(&batch), Err(MetadataError::TooLarge { what: "commands 1025 of at most 1024".into() }));
}

#[test]
fn queries_go_to_the_machine_that_knows() {
    let table = table();
    assert!(matches!(answer(&table, GROUP, &Query::Root(RootQuery::Nodes)).unwrap(), Answer::Root(_)));
    assert!(matches!(answer(&table, GROUP, &Query::Chunk(ChunkQuery::Totals)).unwrap(), Answer::Chunk(_)));
}

/// A gateway in the middle of one write.
#[derive(Clone, Debug)]
struct Writer {
    version: u64,
    chunks: Vec<u8>,
    to_upload: Vec<(u8, Gen)>,
    to_confirm: Vec<(u8, Gen)>,
}

#[derive(Clone, Debug)]
enum Event {
    Begin(u8, Vec<u8>),
    Upload(u8),
    ConfirmOne(u8),
    Commit(u8, u8),
    CommitInline(u8),
    ReserveMore(u8, u8),
    Reap(u8),
    Delete(u8),
    Unref(usize),
    OutboxDone(usize),
    Condemn,
    BeginDelete,
    Trash,
    FinishDelete,
    Sweep,
    Again(usize),
}

fn event() -> impl Strategy<Value = Event> {
    let (who, of, key) = (0..4u8, 0..3u8, 0..2u8);
    prop_oneof![
        8 => (who.clone(), prop::collection::vec(of.clone(), 1..3)).prop_map(|(w, c)| Event::Begin(w, c)),
        8 => who.clone().prop_map(Event::Upload),
        3 => who.clone().prop_map(Event::ConfirmOne),
        8 => (who.clone(), key.clone()).prop_map(|(w, k)| Event::Commit(w, k)),
        1 => key.clone().prop_map(Event::CommitInline),
        3 => (who.clone(), of).prop_map(|(w, c)| Event::ReserveMore(w, c)),
        2 => who.prop_map(Event::Reap),
        3 => key.prop_map(Event::Delete),
        6 => (0..3usize).prop_map(Event::Unref),
        5 => (0..3usize).prop_map(Event::OutboxDone),
        5 => Just(Event::Condemn),
        4 => Just(Event::BeginDelete),
        3 => Just(Event::Trash),
        3 => Just(Event::FinishDelete),
        2 => Just(Event::Sweep),
        6 => (0..1_000usize).prop_map(Event::Again),
    ]
}

/// Gateways, nodes and a collector around the machines; every message may come again, however late.
struct World {
    table: MemoryTable,
    log: Vec<Batch>,
    writers: Vec<Option<Writer>>,
    next: u64,
    disk: BTreeSet<(u8, Gen)>,
    trashed: BTreeSet<(u8, Gen)>,
    hits: usize,
}

impl World {
    fn new() -> Self {
        Self { table: table(), log: vec![], writers: vec![None; 4], next: 1, disk: BTreeSet::new(), trashed: BTreeSet::new(), hits: 0 }
    }

    fn send(&mut self, commands: Vec<Command>) -> Vec<Reply> {
        let batch = chained(commands);
        let replies = apply(&mut self.table, GROUP, &batch, Seq(1_000 * (1 + self.log.len() as u64))).unwrap();
        self.log.push(batch);
        replies
    }

    fn chunk_ids(&self, query: ChunkQuery) -> Vec<(ChunkId, Gen)> {
        match answer(&self.table, GROUP, &Query::Chunk(query)).unwrap() {
            Answer::Chunk(ChunkAnswer::Ids(ids)) => ids,
            Answer::Chunk(ChunkAnswer::Scan(records)) => records.into_iter().map(|(id, record)| (id, record.generation)).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn outbox(&self) -> Vec<OutboxEntry> {
        match answer(&self.table, GROUP, &Query::Namespace(NamespaceQuery::Outbox { max: 99 })).unwrap() {
            Answer::Namespace(NamespaceAnswer::Outbox(entries)) => entries,
            other => panic!("{other:?}"),
        }
    }

    fn reserved(&mut self, w: usize, chunks: &[u8], reply: &Reply) {
        let Reply::Reserved(outcomes) = reply else { return self.writers[w] = None };
        let Some(writer) = &mut self.writers[w] else { return };
        for (of, outcome) in chunks.iter().zip(outcomes) {
            writer.chunks.push(*of);
            match outcome {
                ReserveOutcome::Hit => self.hits += 1,
                ReserveOutcome::Upload { generation, .. } => writer.to_upload.push((*of, *generation)),
            }
        }
    }

    fn run(&mut self, event: &Event) {
        match event {
            Event::Begin(w, chunks) => {
                let n = self.next;
                self.next += 1;
                let replies = self.send(vec![open(n), reserve(n, chunks)]);
                self.writers[usize::from(*w)] = Some(Writer { version: n, chunks: vec![], to_upload: vec![], to_confirm: vec![] });
                self.reserved(usize::from(*w), chunks, &replies[1]);
            }
            Event::ReserveMore(w, of) => {
                let Some(n) = self.writers[usize::from(*w)].as_ref().map(|writer| writer.version) else { return };
                let replies = self.send(vec![reserve(n, &[*of])]);
                self.reserved(usize::from(*w), &[*of], &replies[0]);
            }
            Event::Upload(w) => {
                let Some(writer) = &mut self.writers[usize::from(*w)] else { return };
                for upload in writer.to_upload.drain(..) {
                    self.disk.insert(upload);
                    writer.to_confirm.push(upload);
                }
            }
            Event::ConfirmOne(w) => {
                let Some(writer) = &mut self.writers[usize::from(*w)] else { return };
                let Some(upload) = writer.to_confirm.pop() else { return };
                let n = writer.version;
                if self.send(vec![confirm(n, &[upload])])[0] != Reply::Confirmed(vec![true]) {
                    self.writers[usize::from(*w)] = None;
                }
            }
            Event::Commit(w, key) => {
                let Some(writer) = self.writers[usize::from(*w)].take_if(|writer| writer.to_upload.is_empty()) else { return };
                let commit = commit(writer.version, &key.to_string(), &writer.chunks);
                let confirm = confirm(writer.version, &writer.to_confirm);
                self.send(if writer.to_confirm.is_empty() { vec![commit] } else { vec![confirm, commit] });
            }
            Event::CommitInline(key) => {
                let n = self.next;
                self.next += 1;
                let commit = NamespaceCommand::Commit {
                    bucket: BUCKET,
                    key: key.to_string(),
                    new: inline(version(n), 1, 1),
                    condition: Condition::default(),
                };
                self.send(vec![Command::Namespace(commit)]);
            }
            Event::Reap(w) => {
                let Some(n) = self.writers[usize::from(*w)].as_ref().map(|writer| writer.version) else { return };
                self.send(vec![Command::Namespace(NamespaceCommand::AbortIntent { version: version(n), bucket: BUCKET, key: "k".into() })]);
            }
            Event::Delete(key) => {
                let delete = NamespaceCommand::Delete { bucket: BUCKET, key: key.to_string(), condition: Condition::default() };
                self.send(vec![Command::Namespace(delete)]);
            }
            Event::Unref(nth) => {
                let Some(entry) = self.outbox().get(*nth).copied() else { return };
                self.send(vec![Command::Chunk(ChunkCommand::Unref { version: entry.version, span: ALL_CHUNKS })]);
            }
            Event::OutboxDone(nth) => {
                let Some(entry) = self.outbox().get(*nth).copied() else { return };
                let unref = Command::Chunk(ChunkCommand::Unref { version: entry.version, span: ALL_CHUNKS });
                self.send(vec![unref, Command::Namespace(NamespaceCommand::OutboxDone { entries: vec![entry] })]);
            }
            Event::Again(nth) => {
                let Some(batch) = (!self.log.is_empty()).then(|| self.log[nth % self.log.len()].clone()) else { return };
                self.send(batch.commands);
            }
            _ => self.collect(event),
        }
    }

    fn collect(&mut self, event: &Event) {
        let deleting = self.chunk_ids(ChunkQuery::Deleting { max: 99 });
        match event {
            Event::Condemn => {
                let chunks = self.chunk_ids(ChunkQuery::Unreferenced { max: 99 });
                self.send(vec![Command::Chunk(ChunkCommand::Condemn { chunks, now: UnixMs(1) })]);
            }
            Event::BeginDelete => {
                let chunks = self.chunk_ids(ChunkQuery::Condemned { before: UnixMs(1), max: 99 });
                self.send(vec![Command::Chunk(ChunkCommand::BeginDelete { chunks })]);
            }
            Event::Trash => {
                for (of, generation) in deleting {
                    self.disk.remove(&(of.0[0], generation));
                    self.trashed.insert((of.0[0], generation));
                }
            }
            Event::FinishDelete => {
                let chunks = deleting.into_iter().filter(|(of, generation)| self.trashed.contains(&(of.0[0], *generation))).collect();
                self.send(vec![Command::Chunk(ChunkCommand::FinishDelete { chunks })]);
            }
            _ => {
                let named = |(of, generation): &(u8, Gen)| {
                    let query = Query::Chunk(ChunkQuery::Records(vec![chunk(*of)]));
                    let Answer::Chunk(ChunkAnswer::Records(records)) = answer(&self.table, GROUP, &query).unwrap() else { panic!() };
                    records[0].as_ref().is_some_and(|record| record.generation == *generation)
                };
                let kept = self.disk.iter().copied().filter(named).collect();
                self.disk = kept;
            }
        }
    }

    /// What is committed is there: its manifest, its references, its chunks Live and on disk.
    fn check(&self) {
        let mut visible = BTreeSet::new();
        for key in ["0", "1"] {
            let open = Query::Namespace(NamespaceQuery::Open { bucket: BUCKET, key: key.into() });
            let Answer::Namespace(NamespaceAnswer::Open(found)) = answer(&self.table, GROUP, &open).unwrap() else { panic!() };
            let Some((head, VersionBody { body: Body::Pieces(_), .. })) = found else { continue };
            visible.insert(head.id);
            let query = Query::Namespace(NamespaceQuery::Manifests { bucket: BUCKET, key: "k".into(), versions: vec![head.id] });
            let Answer::Namespace(NamespaceAnswer::Manifests(manifests)) = answer(&self.table, GROUP, &query).unwrap() else { panic!() };
            for chunk in &manifests[0].as_ref().expect("a committed version without its manifest").chunks {
                let query = Query::Chunk(ChunkQuery::Records(vec![chunk.id]));
                let Answer::Chunk(ChunkAnswer::Records(records)) = answer(&self.table, GROUP, &query).unwrap() else { panic!() };
                let record = records[0].as_ref().expect("a committed version's chunk is absent");
                assert_eq!(record.state, ChunkState::Live);
                assert!(self.disk.contains(&(chunk.id.0[0], record.generation)), "a committed version's shards are gone");
                let reference = crate::key::reference(chunk.id, head.id);
                assert!(self.table.get(Space::References, &reference).unwrap().is_some(), "a committed version's reference is gone");
            }
        }
        for entry in self.outbox() {
            assert!(!visible.contains(&entry.version), "a visible version is to lose its references");
        }
    }

    /// Everything is deleted and every writer is gone: nothing may be left.
    fn come_to_rest(&mut self) {
        for n in 0..self.next {
            self.send(vec![Command::Namespace(NamespaceCommand::AbortIntent { version: version(n), bucket: BUCKET, key: "k".into() })]);
        }
        for key in 0..2 {
            self.run(&Event::Delete(key));
        }
        while !self.outbox().is_empty() {
            self.run(&Event::OutboxDone(0));
        }
        for event in [Event::Condemn, Event::BeginDelete, Event::Trash, Event::FinishDelete, Event::Sweep] {
            self.run(&event);
        }
        assert_eq!(
            answer(&self.table, GROUP, &Query::Chunk(ChunkQuery::Totals)).unwrap(),
            Answer::Chunk(ChunkAnswer::Totals(Totals::default()))
        );
        for space in [Space::Objects, Space::Bodies, Space::Manifests, Space::Outbox, Space::Chunks, Space::References, Space::Holdings] {
            assert!(self.table.is_empty(space), "left in {space:?}");
        }
        assert!(self.disk.is_empty(), "shards are left");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn no_interleaving_with_late_duplicates_of_any_message_loses_a_committed_chunk_or_leaks_one(events in prop::collection::vec(event(), 1..150)) {
        let mut world = World::new();
        for event in &events {
            world.run(event);
            world.check();
        }
        world.come_to_rest();
        let mut replayed = table();
        for (n, batch) in (1..).zip(&world.log) {
            apply(&mut replayed, GROUP, batch, Seq(1_000 * n)).unwrap();
        }
        prop_assert_eq!(replayed, world.table, "the same log makes the same bytes");
    }
}
