use super::ledger::Ledger;
use super::transition::is_owed;
use super::{answer, apply};
use crate::key;
use crate::record::decode;
use crate::sample::{chunk, node, placement, version};
use crate::table::memory::MemoryTable;
use crate::table::{Space, TableRead};
use proptest::prelude::*;
use spine::id::*;
use spine::limit::{FOUND_NUMBERS, UNREF_STEP};
use spine::wire::chunk::*;
use spine::wire::range::ALL_CHUNKS;
use spine::wire::{Refusal, Reply};
use std::collections::{BTreeMap, BTreeSet};

fn run(table: &mut MemoryTable, command: ChunkCommand) -> Reply {
    let before = table.clone();
    let reply = apply(table, &command).unwrap();
    if matches!(reply, Reply::Refused(_)) {
        assert_eq!(*table, before, "a refused command changed the table");
    }
    audit(table);
    reply
}

fn reserve(table: &mut MemoryTable, holder: u64, of: u8) -> ReserveOutcome {
    let Reply::Reserved(outcomes) = run(table, ChunkCommand::Reserve { version: version(holder), chunks: vec![chunk(of)] }) else {
        panic!()
    };
    outcomes.into_iter().next().unwrap()
}

fn upload(table: &mut MemoryTable, holder: u64, of: u8) -> Gen {
    let ReserveOutcome::Upload { generation, .. } = reserve(table, holder, of) else { panic!() };
    generation
}

fn confirm(table: &mut MemoryTable, holder: u64, of: u8, generation: Gen, missing: &[usize]) -> bool {
    let chunks = vec![Confirmation { chunk: chunk(of), generation, placement: placement(generation, missing) }];
    run(table, ChunkCommand::Confirm { version: version(holder), chunks }) == Reply::Confirmed(vec![true])
}

fn unref(table: &mut MemoryTable, holder: u64) -> Reply {
    run(table, ChunkCommand::Unref { version: version(holder), span: ALL_CHUNKS })
}

fn condemn(table: &mut MemoryTable, of: u8, generation: Gen) {
    run(table, ChunkCommand::Condemn { chunks: vec![(chunk(of), generation)], now: UnixMs(100) });
}

fn begin_delete(table: &mut MemoryTable, of: u8, generation: Gen) -> bool {
    let reply = run(table, ChunkCommand::BeginDelete { chunks: vec![(chunk(of), generation)] });
    reply == Reply::Deleting(vec![(chunk(of), generation)])
}

fn record(table: &MemoryTable, of: u8) -> Option<ChunkRecord> {
    let ChunkAnswer::Records(records) = answer(table, &ALL_CHUNKS, &ChunkQuery::Records(vec![chunk(of)])).unwrap() else { panic!() };
    records.into_iter().next().unwrap()
}

fn totals(table: &MemoryTable) -> Totals {
    let ChunkAnswer::Totals(totals) = answer(table, &ALL_CHUNKS, &ChunkQuery::Totals).unwrap() else { panic!() };
    totals
}

/// Every list and every total is exactly what counting gives.
pub fn audit(table: &MemoryTable) {
    let reference = |at: &[u8]| (ChunkId(at[..32].try_into().unwrap()), VersionId(at[32..].try_into().unwrap()));
    let references: BTreeSet<_> = table.entries(Space::References).map(|(at, _)| reference(at)).collect();
    let turned = |at: &[u8]| (ChunkId(at[16..].try_into().unwrap()), VersionId(at[..16].try_into().unwrap()));
    let holdings: BTreeSet<_> = table.entries(Space::Holdings).map(|(at, _)| turned(at)).collect();
    assert_eq!(references, holdings);
    let mut due = BTreeSet::new();
    let mut expected = Totals { references: references.len() as u64, ..Totals::default() };
    let mut generations = BTreeSet::new();
    let mut count = |chunk: ChunkId, record: &ChunkRecord| {
        assert!(generations.insert((chunk, record.generation)), "a generation was given twice");
        expected.chunks += 1;
        if let Some(placement) = &record.placement {
            expected.owed += u64::from(record.state != ChunkState::Deleting && placement.shards.iter().any(Option::is_none));
            expected.plain_bytes += u64::from(placement.sealed.len);
            expected.sealed_bytes += u64::from(placement.sealed.sealed_len);
        }
    };
    for (at, value) in table.entries(Space::Chunks) {
        let record: ChunkRecord = decode(Space::Chunks, at, value).unwrap();
        let chunk = ChunkId(at.try_into().unwrap());
        let referenced = references.iter().any(|(held, _)| *held == chunk);
        match record.state {
            ChunkState::Pending => assert!(record.placement.is_none()),
            ChunkState::Live => assert!(record.placement.is_some()),
            ChunkState::Condemned => assert!(!referenced),
            ChunkState::Deleting => panic!("a deleting record among the chunks"),
        }
        assert_eq!(record.condemned.is_some(), record.state == ChunkState::Condemned);
        if let Some(time) = record.condemned {
            due.insert(key::condemned(time, chunk, record.generation).to_vec());
        } else if !referenced {
            due.insert(key::unreferenced(chunk, record.generation).to_vec());
        }
        if is_owed(&record) {
            due.insert(key::owed(chunk).to_vec());
        }
        count(chunk, &record);
    }
    let mut found = BTreeSet::new();
    for (at, value) in table.entries(Space::Due) {
        match at[0] {
            key::DUE_DELETING => {
                let record: ChunkRecord = decode(Space::Due, at, value).unwrap();
                assert_eq!(record.state, ChunkState::Deleting);
                count(key::chunk_and_gen_at_end(at).unwrap().0, &record);
            }
            kind if kind <= key::DUE_OWED => {
                found.insert(at.to_vec());
            }
            _ => {}
        }
    }
    assert_eq!(found, due);
    assert_eq!(totals(table), expected);
}

#[test]
fn a_chunk_is_uploaded_once_and_found_by_the_next_writer() {
    let mut table = MemoryTable::default();
    let generation = upload(&mut table, 1, 7);
    assert_eq!(upload(&mut table, 2, 7), generation, "a rival of the same generation");
    assert!(confirm(&mut table, 1, 7, generation, &[]));
    assert!(confirm(&mut table, 2, 7, generation, &[1]), "durable already");
    assert_eq!(reserve(&mut table, 3, 7), ReserveOutcome::Hit);
    assert_eq!(record(&table, 7).unwrap().placement, Some(placement(generation, &[])), "the first placement stays");
    assert_eq!(
        answer(&table, &ALL_CHUNKS, &ChunkQuery::References { chunk: chunk(7), max: 9 }).unwrap(),
        ChunkAnswer::References(vec![version(1), version(2), version(3)])
    );
    assert_eq!(totals(&table), Totals { chunks: 1, references: 3, owed: 0, plain_bytes: 1_000, sealed_bytes: 1_016 });
}

#[test]
fn a_confirm_needs_the_reference_the_generation_and_a_readable_placement() {
    let mut table = MemoryTable::default();
    let generation = upload(&mut table, 1, 7);
    assert!(!confirm(&mut table, 2, 7, generation, &[]), "not held");
    assert!(!confirm(&mut table, 1, 7, Gen(generation.0 + 1), &[]), "another generation");
    assert!(!confirm(&mut table, 1, 7, generation, &[0, 1]), "fewer than k placed");
    assert!(!confirm(&mut table, 1, 8, generation, &[]), "no such chunk");
    assert!(confirm(&mut table, 1, 7, generation, &[0]));
}

#[test]
fn a_condemned_chunk_comes_back_and_remembers_whether_it_is_durable() {
    let mut table = MemoryTable::default();
    let generation = upload(&mut table, 1, 7);
    unref(&mut table, 1);
    condemn(&mut table, 7, generation);
    assert_eq!(upload(&mut table, 2, 7), generation);
    assert!(confirm(&mut table, 2, 7, generation, &[]));
    condemn(&mut table, 7, generation);
    assert_eq!(record(&table, 7).unwrap().state, ChunkState::Live, "it is referenced");
    unref(&mut table, 2);
    condemn(&mut table, 7, generation);
    assert_eq!(reserve(&mut table, 3, 7), ReserveOutcome::Hit);
    assert!(!begin_delete(&mut table, 7, generation));
}

#[test]
fn a_new_generation_lives_beside_old_ones_that_are_being_deleted() {
    let mut table = MemoryTable::default();
    let mut old = Vec::new();
    for holder in 1..3 {
        let generation = upload(&mut table, holder, 7);
        assert!(confirm(&mut table, holder, 7, generation, &[2]));
        unref(&mut table, holder);
        assert!(!begin_delete(&mut table, 7, generation), "not condemned");
        condemn(&mut table, 7, generation);
        assert!(begin_delete(&mut table, 7, generation));
        assert_eq!(record(&table, 7).unwrap().state, ChunkState::Deleting);
        old.push(generation);
    }
    let young = upload(&mut table, 3, 7);
    assert!(young > old[1] && old[1] > old[0]);
    let ChunkAnswer::Scan(deleting) = answer(&table, &ALL_CHUNKS, &ChunkQuery::Deleting { max: 9 }).unwrap() else { panic!() };
    assert_eq!(deleting.iter().map(|(id, record)| (*id, record.generation)).collect::<Vec<_>>(), [(chunk(7), old[0]), (chunk(7), old[1])]);
    assert_eq!(deleting[0].1.placement, Some(placement(old[0], &[2])));
    assert_eq!(record(&table, 7).unwrap().generation, young);
    run(&mut table, ChunkCommand::FinishDelete { chunks: vec![(chunk(7), old[0]), (chunk(7), young), (chunk(7), old[0])] });
    assert_eq!(totals(&table).chunks, 2);
    assert!(confirm(&mut table, 3, 7, young, &[]));
}

#[test]
fn a_writer_that_comes_after_its_unref_is_refused() {
    let mut table = MemoryTable::default();
    upload(&mut table, 1, 7);
    assert_eq!(unref(&mut table, 1), Reply::Unreferenced { more: false });
    let late = ChunkCommand::Reserve { version: version(1), chunks: vec![chunk(8)] };
    assert_eq!(run(&mut table, late), Reply::Refused(Refusal::IntentClosed));
    unref(&mut table, 2);
    let never_seen = ChunkCommand::Reserve { version: version(2), chunks: vec![chunk(7)] };
    assert_eq!(run(&mut table, never_seen), Reply::Refused(Refusal::IntentClosed));
    assert_eq!(totals(&table).references, 0);
}

#[test]
fn a_large_version_is_unreferenced_in_steps_that_let_no_reserve_in_between() {
    let mut table = MemoryTable::default();
    let many: Vec<ChunkId> = (0..2 * UNREF_STEP as u64 + 1)
        .map(|n| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&n.to_be_bytes());
            ChunkId(id)
        })
        .collect();
    apply(&mut table, &ChunkCommand::Reserve { version: version(1), chunks: many.clone() }).unwrap();
    let step = ChunkCommand::Unref { version: version(1), span: ALL_CHUNKS };
    assert_eq!(apply(&mut table, &step).unwrap(), Reply::Unreferenced { more: true });
    assert_eq!(totals(&table).references, UNREF_STEP as u64 + 1);
    let late = ChunkCommand::Reserve { version: version(1), chunks: many[..1].to_vec() };
    assert_eq!(apply(&mut table, &late).unwrap(), Reply::Refused(Refusal::IntentClosed));
    assert_eq!(apply(&mut table, &step).unwrap(), Reply::Unreferenced { more: true });
    assert_eq!(apply(&mut table, &step).unwrap(), Reply::Unreferenced { more: false });
    assert_eq!(apply(&mut table, &step).unwrap(), Reply::Unreferenced { more: false });
    let ChunkAnswer::Ids(ids) = answer(&table, &ALL_CHUNKS, &ChunkQuery::Unreferenced { max: usize::MAX }).unwrap() else { panic!() };
    assert_eq!(ids.iter().map(|id| id.0).collect::<Vec<_>>(), many);
}

#[test]
fn repair_replaces_a_lost_shard_and_never_leaves_fewer_than_k() {
    let mut table = MemoryTable::default();
    let generation = upload(&mut table, 1, 7);
    assert!(confirm(&mut table, 1, 7, generation, &[]));
    let name = |index: u8, tag| ShardName { chunk: chunk(7), generation, index: ShardIndex(index), tag };
    let lost = |table: &mut MemoryTable, index, tag, on| run(table, ChunkCommand::MarkLost { shard: name(index, tag), node: node(on) });
    let owed = |table: &MemoryTable| match answer(table, &ALL_CHUNKS, &ChunkQuery::Owed { after: None, max: 9 }).unwrap() {
        ChunkAnswer::Scan(records) => records.len(),
        _ => panic!(),
    };
    let first = Tag(generation.0);
    lost(&mut table, 0, Tag(99), 0);
    lost(&mut table, 0, first, 1);
    assert_eq!(owed(&table), 0, "not placed so");
    lost(&mut table, 0, first, 0);
    assert_eq!((owed(&table), totals(&table).owed), (1, 1));
    lost(&mut table, 1, first, 1);
    assert!(record(&table, 7).unwrap().placement.unwrap().shards[1].is_some(), "k are left");

    let target = |table: &mut MemoryTable, index, on| {
        run(table, ChunkCommand::ReserveTarget { chunk: chunk(7), generation, index: ShardIndex(index), node: node(on) })
    };
    let relocate = |table: &mut MemoryTable, index, tag, on| {
        let place = Place { node: node(on), tag, root: ShardRoot([index; 32]) };
        run(table, ChunkCommand::Move { chunk: chunk(7), generation, index: ShardIndex(index), place })
    };
    assert_eq!(target(&mut table, 0, 1), Reply::Refused(Refusal::TargetGone), "node 1 holds index 1");
    assert_eq!(target(&mut table, 3, 5), Reply::Refused(Refusal::ChunkGone), "no such index");
    let Reply::Target(cancelled) = target(&mut table, 0, 5) else { panic!() };
    let Reply::Target(tag) = target(&mut table, 0, 6) else { panic!() };
    assert!(tag > cancelled && cancelled > first);
    assert_eq!(relocate(&mut table, 0, cancelled, 5), Reply::Refused(Refusal::TargetGone));
    assert_eq!(relocate(&mut table, 0, tag, 6), Reply::Moved { old: None });
    assert_eq!(relocate(&mut table, 0, tag, 6), Reply::Refused(Refusal::TargetGone));
    assert_eq!((owed(&table), totals(&table).owed), (0, 0));
    let Reply::Target(tag) = target(&mut table, 1, 7) else { panic!() };
    assert_eq!((owed(&table), totals(&table).owed), (1, 0), "a reserved copy is work, but nothing is owed");
    let Reply::Moved { old: Some(old) } = relocate(&mut table, 1, tag, 7) else { panic!() };
    assert_eq!((old.node, old.tag), (node(1), first));
}

#[test]
fn condemned_chunks_are_due_by_the_time_they_were_condemned() {
    let mut table = MemoryTable::default();
    let mut generations = Vec::new();
    for (of, now) in [(1, 300), (2, 100), (3, 200)] {
        let generation = upload(&mut table, of.into(), of);
        unref(&mut table, of.into());
        run(&mut table, ChunkCommand::Condemn { chunks: vec![(chunk(of), generation)], now: UnixMs(now) });
        generations.push(generation);
    }
    let due = |before, max| answer(&table, &ALL_CHUNKS, &ChunkQuery::Condemned { before: UnixMs(before), max }).unwrap();
    assert_eq!(due(200, 9), ChunkAnswer::Ids(vec![(chunk(2), generations[1]), (chunk(3), generations[2])]));
    assert_eq!(due(300, 1), ChunkAnswer::Ids(vec![(chunk(2), generations[1])]));
    assert_eq!(due(99, 9), ChunkAnswer::Ids(vec![]));
}

#[test]
fn scans_page_through_every_record_in_order() {
    let mut table = MemoryTable::default();
    for of in [3, 255, 0, 9] {
        let generation = upload(&mut table, 1, of);
        confirm(&mut table, 1, of, generation, &[0]);
    }
    for owed in [false, true] {
        let mut seen = Vec::new();
        let mut after = None;
        loop {
            let query = if owed { ChunkQuery::Owed { after, max: 2 } } else { ChunkQuery::Scan { after, max: 2 } };
            let ChunkAnswer::Scan(page) = answer(&table, &ALL_CHUNKS, &query).unwrap() else { panic!() };
            let Some(last) = page.last() else { break };
            after = Some(last.0);
            seen.extend(page.iter().map(|(id, _)| id.0[0]));
        }
        assert_eq!(seen, [0, 3, 9, 255]);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Reserve(u64, Vec<u8>),
    Confirm(u64, u8, bool, Option<usize>),
    Unref(u64),
    Condemn(u8, bool, u64),
    BeginDelete(u8, bool),
    FinishDelete(usize),
    Target(u8, u8, u8),
    Move(u8, usize),
    MarkLost(u8, u8),
}

fn step() -> impl Strategy<Value = Step> {
    let (holder, of) = (0..6u64, 0..3u8);
    prop_oneof![
        6 => (holder.clone(), prop::collection::vec(of.clone(), 1..4)).prop_map(|(v, c)| Step::Reserve(v, c)),
        6 => (holder.clone(), of.clone(), prop::bool::weighted(0.9), prop::option::of(0..3usize)).prop_map(|(v, c, current, missing)| Step::Confirm(v, c, current, missing)),
        4 => holder.prop_map(Step::Unref),
        5 => (of.clone(), prop::bool::weighted(0.9), 0..5u64).prop_map(|(c, current, now)| Step::Condemn(c, current, now)),
        4 => (of.clone(), prop::bool::weighted(0.9)).prop_map(|(c, current)| Step::BeginDelete(c, current)),
        2 => (0..4usize).prop_map(Step::FinishDelete),
        2 => (of.clone(), 0..4u8, 0..5u8).prop_map(|(c, i, n)| Step::Target(c, i, n)),
        2 => (of.clone(), 0..2usize).prop_map(|(c, nth)| Step::Move(c, nth)),
        2 => (of, 0..3u8).prop_map(|(c, i)| Step::MarkLost(c, i)),
    ]
}

/// What the protocol says in its shortest words: per chunk a set of holders and, if it exists, gen, state and durability.
#[derive(Default)]
struct Reference {
    chunks: BTreeMap<u8, (Gen, ChunkState, bool)>,
    holders: BTreeMap<u8, BTreeSet<u64>>,
    ended: BTreeSet<u64>,
    deleting: BTreeSet<(u8, Gen)>,
}

impl Reference {
    fn held(&self, of: u8) -> bool {
        self.holders.get(&of).is_some_and(|holders| !holders.is_empty())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn random_commands_keep_to_the_protocol_and_every_list_stays_exact(steps in prop::collection::vec(step(), 1..60)) {
        let mut table = MemoryTable::default();
        let mut twin = MemoryTable::default();
        let mut model = Reference::default();
        for step in steps {
            let known = |of: u8, current: bool| {
                let generation = record(&table, of).map_or(Gen(0), |record| record.generation);
                if current { generation } else { Gen(generation.0.saturating_sub(1)) }
            };
            let command = match step.clone() {
                Step::Reserve(v, c) => ChunkCommand::Reserve { version: version(v), chunks: c.into_iter().map(chunk).collect() },
                Step::Confirm(v, c, current, missing) => {
                    let generation = known(c, current);
                    let placement = placement(generation, missing.as_slice());
                    ChunkCommand::Confirm { version: version(v), chunks: vec![Confirmation { chunk: chunk(c), generation, placement }] }
                }
                Step::Unref(v) => ChunkCommand::Unref { version: version(v), span: ALL_CHUNKS },
                Step::Condemn(c, current, now) => ChunkCommand::Condemn { chunks: vec![(chunk(c), known(c, current))], now: UnixMs(now) },
                Step::BeginDelete(c, current) => ChunkCommand::BeginDelete { chunks: vec![(chunk(c), known(c, current))] },
                Step::FinishDelete(nth) => {
                    let one = model.deleting.iter().nth(nth).map(|(c, generation)| (chunk(*c), *generation));
                    ChunkCommand::FinishDelete { chunks: one.into_iter().collect() }
                }
                Step::Target(c, index, on) => ChunkCommand::ReserveTarget { chunk: chunk(c), generation: known(c, true), index: ShardIndex(index), node: node(on) },
                Step::Move(c, nth) => {
                    let target = record(&table, c).and_then(|record| record.targets.get(nth).copied());
                    let (index, on, tag) = target.unwrap_or((ShardIndex(0), node(0), Tag(0)));
                    let place = Place { node: on, tag, root: ShardRoot([index.0; 32]) };
                    ChunkCommand::Move { chunk: chunk(c), generation: known(c, true), index, place }
                }
                Step::MarkLost(c, index) => {
                    let record = record(&table, c);
                    let place = record.as_ref().and_then(|record| record.placement.as_ref()).and_then(|placement| placement.shards[usize::from(index)]);
                    let shard = ShardName { chunk: chunk(c), generation: known(c, true), index: ShardIndex(index), tag: place.map_or(Tag(0), |place| place.tag) };
                    ChunkCommand::MarkLost { shard, node: place.map_or(node(9), |place| place.node) }
                }
            };
            prop_assert_eq!(apply(&mut twin, &command).unwrap(), run(&mut table, command.clone()));
            prop_assert_eq!(&table, &twin, "the same commands make the same bytes");

            match step {
                Step::Reserve(v, chunks) if !model.ended.contains(&v) => {
                    for of in chunks {
                        let entry = model.chunks.entry(of).or_insert((Gen(0), ChunkState::Pending, false));
                        entry.1 = if entry.2 { ChunkState::Live } else { ChunkState::Pending };
                        model.holders.entry(of).or_default().insert(v);
                    }
                }
                Step::Confirm(v, of, true, _) => {
                    if model.holders.get(&of).is_some_and(|holders| holders.contains(&v)) && let Some(entry) = model.chunks.get_mut(&of) {
                        (entry.1, entry.2) = (ChunkState::Live, true);
                    }
                }
                Step::Unref(v) => {
                    model.ended.insert(v);
                    model.holders.values_mut().for_each(|holders| { holders.remove(&v); });
                }
                Step::Condemn(of, true, _) if !model.held(of) => {
                    if let Some(entry) = model.chunks.get_mut(&of) {
                        entry.1 = ChunkState::Condemned;
                    }
                }
                Step::BeginDelete(of, true) => {
                    if let Some(entry) = model.chunks.get(&of).copied() && entry.1 == ChunkState::Condemned {
                        model.chunks.remove(&of);
                        let ChunkCommand::BeginDelete { chunks } = &command else { unreachable!() };
                        model.deleting.insert((of, chunks[0].1));
                    }
                }
                Step::FinishDelete(nth) => {
                    if let Some(one) = model.deleting.iter().nth(nth).copied() {
                        model.deleting.remove(&one);
                    }
                }
                _ => {}
            }
            for of in 0..3u8 {
                let found = crate::record::load::<ChunkRecord>(&table, Space::Chunks, &chunk(of).0).unwrap();
                let found = found.map(|record| (record.state, record.placement.is_some()));
                prop_assert_eq!(found, model.chunks.get(&of).map(|entry| (entry.1, entry.2)));
                let ChunkAnswer::References(holders) = answer(&table, &ALL_CHUNKS, &ChunkQuery::References { chunk: chunk(of), max: 99 }).unwrap() else { panic!() };
                let expected: Vec<_> = model.holders.get(&of).into_iter().flatten().map(|v| version(*v)).collect();
                prop_assert_eq!(holders, expected);
                if let Some(ChunkRecord { placement: Some(placement), state: ChunkState::Live, .. }) = record(&table, of) {
                    let placed: Vec<_> = placement.shards.iter().flatten().collect();
                    prop_assert!(placed.len() >= 2, "fewer than k placed");
                    prop_assert_eq!(placed.iter().map(|place| place.node).collect::<BTreeSet<_>>().len(), placed.len(), "two shards on a node");
                }
            }
            for (of, generation) in &model.deleting {
                prop_assert!(table.get(Space::Due, &key::deleting(chunk(*of), *generation)).unwrap().is_some());
            }
        }
    }
}

fn restore(table: &mut MemoryTable, of: u8, generation: Gen, missing: &[usize], above: u64) -> bool {
    let chunks = vec![Confirmation { chunk: chunk(of), generation, placement: placement(generation, missing) }];
    run(table, ChunkCommand::Restore { chunks, above }) == Reply::Confirmed(vec![true])
}

fn held(table: &MemoryTable) -> bool {
    answer(table, &ALL_CHUNKS, &ChunkQuery::Held).unwrap() == ChunkAnswer::Held(true)
}

#[test]
fn a_restored_chunk_is_found_by_writers_and_kept_by_a_held_collection() {
    let mut table = MemoryTable::default();
    assert!(!held(&table));
    assert!(restore(&mut table, 7, Gen(40), &[1], 100));
    assert!(held(&table), "restoring holds the collection");
    assert!(!restore(&mut table, 7, Gen(40), &[], 100), "known is known");
    condemn(&mut table, 7, Gen(40));
    assert_eq!(record(&table, 7).unwrap().state, ChunkState::Live);
    assert_eq!(reserve(&mut table, 1, 7), ReserveOutcome::Hit);
    assert_eq!(upload(&mut table, 1, 8), Gen(100), "no number below is given again");
    unref(&mut table, 1);
    run(&mut table, ChunkCommand::Hold { held: false, span: ALL_CHUNKS });
    condemn(&mut table, 7, Gen(40));
    assert!(begin_delete(&mut table, 7, Gen(40)), "released, it is garbage like any other");
    assert!(!restore(&mut table, 7, Gen(40), &[], 100), "what is being deleted is not brought back");
}

#[test]
fn a_held_collection_begins_no_deletion_of_what_was_condemned_before() {
    let mut table = MemoryTable::default();
    let generation = upload(&mut table, 1, 7);
    assert!(confirm(&mut table, 1, 7, generation, &[]));
    unref(&mut table, 1);
    condemn(&mut table, 7, generation);
    run(&mut table, ChunkCommand::Hold { held: true, span: ALL_CHUNKS });
    assert!(!begin_delete(&mut table, 7, generation));
    run(&mut table, ChunkCommand::Hold { held: false, span: ALL_CHUNKS });
    assert!(begin_delete(&mut table, 7, generation));
}

#[test]
fn what_cannot_be_read_or_is_younger_than_the_counter_is_not_restored() {
    let mut table = MemoryTable::default();
    assert!(!restore(&mut table, 7, Gen(40), &[0, 1], 100), "one shard of two");
    assert!(!restore(&mut table, 7, Gen(100), &[], 100), "its number would be given again");
    assert!(record(&table, 7).is_none());
}

#[test]
fn whatever_number_a_shard_is_said_to_have_half_of_all_numbers_are_left() {
    let mut table = MemoryTable::default();
    assert!(restore(&mut table, 7, Gen(FOUND_NUMBERS - 1), &[], u64::MAX), "the highest that is believed");
    for (of, generation) in [(8, FOUND_NUMBERS), (9, u64::MAX)] {
        assert!(!restore(&mut table, of, Gen(generation), &[], u64::MAX), "{generation}");
        assert!(record(&table, of).is_none());
    }
    assert_eq!(upload(&mut table, 1, 8), Gen(FOUND_NUMBERS));
    assert_eq!(upload(&mut table, 1, 9), Gen(FOUND_NUMBERS + 1));
    assert!(!restore(&mut table, 10, Gen(FOUND_NUMBERS), &[], 0), "given meanwhile, and not believed of a node all the same");
}

#[test]
fn the_last_number_is_refused_and_nothing_is_given_twice() {
    let mut table = MemoryTable::default();
    let mut ledger = Ledger::load(&table).unwrap();
    for _ in 0..3 {
        ledger.pass(u64::MAX);
    }
    assert_eq!(ledger.fresh(), Gen(FOUND_NUMBERS));
    Ledger::at(u64::MAX - 1, &mut table);
    assert_eq!(upload(&mut table, 1, 7), Gen(u64::MAX - 1));
    let before = table.clone();
    for of in [8, 9] {
        let command = ChunkCommand::Reserve { version: version(1), chunks: vec![chunk(of)] };
        assert_eq!(apply(&mut table, &command).unwrap(), Reply::Refused(Refusal::Exhausted), "a refusal, which every replica gives alike");
    }
    let several = ChunkCommand::Reserve { version: version(1), chunks: vec![chunk(7), chunk(8)] };
    assert_eq!(apply(&mut table, &several).unwrap(), Reply::Refused(Refusal::Exhausted), "and nothing of a batch is done");
    assert_eq!(table, before);
    assert_eq!(reserve(&mut table, 1, 7), ReserveOutcome::Upload { generation: Gen(u64::MAX - 1), tag: Tag(u64::MAX - 1) });
}
