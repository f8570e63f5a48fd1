use super::*;
use crate::machine::{self, ORDINAL_BITS};
use crate::sample::{self, chunk, placement, version};
use crate::table::memory::MemoryTable;
use bytes::Bytes;
use spine::id::{BucketId, ChunkId, Gen, GroupId, UnixMs, VersionId, WriterId};
use spine::wire::chunk::{ChunkAnswer, ChunkCommand, ChunkQuery, ChunkRecord, Confirmation, ReserveOutcome};
use spine::wire::cluster::Row;
use spine::wire::namespace::{Condition, NamespaceAnswer, NamespaceCommand, NamespaceQuery};
use spine::wire::range::ALL_CHUNKS;
use spine::wire::root::LeaseRecord;
use spine::wire::{Answer, Batch, Chain, Query};

mod doubt;
mod eras;
mod moments;

const STREAM: [u8; 16] = [7; 16];
const ROOT: GroupId = GroupId(0);

fn all(table: &mut MemoryTable, commands: Vec<Command>, at: u64) -> Vec<Reply> {
    machine::apply(table, ROOT, &Batch { chain: Chain::Stop, commands }, Seq(at)).unwrap()
}

fn one(table: &mut MemoryTable, command: Command) -> Reply {
    all(table, vec![command], 1 << ORDINAL_BITS).remove(0)
}

fn step(table: &mut MemoryTable, command: RestoreCommand) -> Reply {
    one(table, Command::Restore(command))
}

fn open(n: u64) -> Command {
    let (bucket, key) = (BucketId(1), format!("k{n}"));
    Command::Namespace(NamespaceCommand::OpenIntent { version: version(n), bucket, key, writer: WriterId([1; 16]), opened: UnixMs(1) })
}

fn commit(n: u64, chunks: &[u8]) -> Command {
    let new = sample::pieces(version(n), 1, chunks);
    Command::Namespace(NamespaceCommand::Commit { bucket: BucketId(1), key: format!("k{n}"), new, condition: Condition::default() })
}

fn delete(n: u64) -> Command {
    Command::Namespace(NamespaceCommand::Delete { bucket: BucketId(1), key: format!("k{n}"), condition: Condition::default() })
}

fn reserve(n: u64, chunks: &[u8]) -> Command {
    Command::Chunk(ChunkCommand::Reserve { version: version(n), chunks: chunks.iter().map(|n| chunk(*n)).collect() })
}

/// Object `n` of one chunk that nobody has reserved before; `generation`: the chunk's.
fn write(table: &mut MemoryTable, n: u64, of: u8, generation: u64, at: u64) {
    let confirmation = Confirmation { chunk: chunk(of), generation: Gen(generation), placement: placement(Gen(generation), &[]) };
    let confirm = Command::Chunk(ChunkCommand::Confirm { version: version(n), chunks: vec![confirmation] });
    let replies = all(table, vec![open(n), reserve(n, &[of]), confirm, commit(n, &[of])], at << ORDINAL_BITS);
    assert!(matches!(replies[3], Reply::Committed { .. }), "{replies:?}");
}

/// Metadata with a bucket and an object of one chunk.
fn lived_in() -> MemoryTable {
    let mut table = MemoryTable::default();
    one(&mut table, Command::Root(sample::bucket("one")));
    write(&mut table, 1, 1, 1, 40);
    table
}

/// Rows that a copy of `table` has of spaces that are wanted.
fn rows_of(table: &MemoryTable, wanted: impl Fn(Space) -> bool) -> Vec<Row> {
    let mut rows = Vec::new();
    for space in Space::ALL.into_iter().filter(|space| wanted(*space)) {
        for (key, value) in table.entries(space).filter(|(key, _)| !is_left_out(space, key)) {
            rows.push(Row { space: space as u8, key: Bytes::copy_from_slice(key), value: Bytes::copy_from_slice(value) });
        }
    }
    rows
}

fn end_of(rows: &[Row], next: u64) -> RestoreCommand {
    end_at(rows, next, UnixMs(0))
}

fn end_at(rows: &[Row], next: u64, now: UnixMs) -> RestoreCommand {
    let mut sum = Sum::default();
    rows.iter().filter(|row| is_counted(row.space, &row.key)).for_each(|row| sum.count(row.space, &row.key, &row.value));
    RestoreCommand::End { stream: STREAM, next: Seq(next), counted: sum.rows(), sum: sum.digest(), now }
}

fn restore_rows(table: &mut MemoryTable, rows: &[Row], next: u64) {
    restore_rows_at(table, rows, next, UnixMs(0));
}

fn restore_rows_at(table: &mut MemoryTable, rows: &[Row], next: u64, now: UnixMs) {
    assert_eq!(step(table, RestoreCommand::Begin { stream: STREAM }), Reply::Done);
    for (number, rows) in (0..).zip(rows.chunks(3)) {
        let part = RestoreCommand::Rows { stream: STREAM, number, rows: rows.to_vec() };
        machine::check(&Batch { chain: Chain::Stop, commands: vec![Command::Restore(part.clone())] }).unwrap();
        // Each may come twice.
        assert_eq!(step(table, part.clone()), Reply::Done);
        assert_eq!(step(table, part), Reply::Done);
    }
    let end = end_at(rows, next, now);
    assert_eq!(step(table, end.clone()), Reply::Done);
    assert_eq!(step(table, end), Reply::Done);
}

fn restore(table: &mut MemoryTable, from: &MemoryTable, next: u64) {
    restore_rows(table, &rows_of(from, |_| true), next);
}

fn references(table: &MemoryTable, of: u8) -> Vec<VersionId> {
    match machine::answer(table, ROOT, &Query::Chunk(ChunkQuery::References { chunk: chunk(of), max: 100 })).unwrap() {
        Answer::Chunk(ChunkAnswer::References(found)) => found,
        other => panic!("{other:?}"),
    }
}

fn record(table: &MemoryTable, of: u8) -> Option<ChunkRecord> {
    match machine::answer(table, ROOT, &Query::Chunk(ChunkQuery::Records(vec![chunk(of)]))).unwrap() {
        Answer::Chunk(ChunkAnswer::Records(mut found)) => found.remove(0),
        other => panic!("{other:?}"),
    }
}

fn unreferenced(table: &MemoryTable) -> Vec<ChunkId> {
    match machine::answer(table, ROOT, &Query::Chunk(ChunkQuery::Unreferenced { max: 100 })).unwrap() {
        Answer::Chunk(ChunkAnswer::Ids(found)) => found.into_iter().map(|(chunk, _)| chunk).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_not_counted_at_the_end_is_what_gets_other_keys_or_has_rows_beside_it() {
    let counted = |space: Space, key: &[u8]| is_counted(space as u8, key);
    for space in [Space::Root, Space::Outbox, Space::Meta, Space::Changed] {
        assert!(!counted(space, b"key"), "{space:?}");
    }
    for kind in 0..6 {
        assert_eq!(counted(Space::Intents, &[kind, 9]), ![key::INTENT_ENDED.0, key::INTENT_ENDED.1].contains(&kind));
        assert_eq!(counted(Space::Due, &[kind, 9]), ![key::DUE_ENDED.0, key::DUE_ENDED.1].contains(&kind));
    }
    for space in
        [Space::Objects, Space::Bodies, Space::Manifests, Space::Uploads, Space::Parts, Space::Chunks, Space::References, Space::Holdings]
    {
        assert!(counted(space, &[1]) && counted(space, &[4]), "{space:?}");
    }
}

#[test]
fn everything_comes_back_and_goes_on_with_numbers_that_were_never_given_and_the_collection_held() {
    let from = lived_in();
    let mut table = MemoryTable::default();
    assert_eq!(step(&mut table, RestoreCommand::Expect), Reply::Done);
    restore(&mut table, &from, 51 << ORDINAL_BITS);
    for space in Space::ALL.into_iter().filter(|space| *space != Space::Meta) {
        let of = |table: &MemoryTable| -> Vec<(Vec<u8>, Vec<u8>)> {
            let counters = [key::ROOT_MAP, key::ROOT_COUNTER, key::ROOT_GROUP_COUNTER, key::ROOT_MOVE_COUNTER];
            let goes_on = |key: &[u8]| space == Space::Root && counters.contains(&key);
            table.entries(space).filter(|(key, _)| !goes_on(key)).map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
        };
        assert_eq!(of(&from), of(&table), "{space:?}");
    }
    assert!(!is_under_way(&table).unwrap());
    let held = machine::answer(&table, ROOT, &Query::Chunk(ChunkQuery::Held)).unwrap();
    assert_eq!(held, Answer::Chunk(ChunkAnswer::Held(true)));
    // The next version is after every one there was, though the log began anew.
    let new = sample::inline(version(2), 1, 5);
    let inline = NamespaceCommand::Commit { bucket: BucketId(1), key: "later".into(), new, condition: Condition::default() };
    let Reply::Committed { seq, .. } = all(&mut table, vec![Command::Namespace(inline)], 2 << ORDINAL_BITS).remove(0) else { panic!() };
    assert!(seq.0 > 51 << ORDINAL_BITS, "{seq}");
    let Reply::Reserved(outcomes) = one(&mut table, reserve(3, &[9])) else { panic!() };
    assert!(
        matches!(outcomes[0], ReserveOutcome::Upload { generation, tag } if generation.0 > 1 << CHUNK_BITS && tag.0 > 1 << CHUNK_BITS),
        "{outcomes:?}"
    );
    // A bucket that was made after the copy, and that a gateway may remember, is none of those that come.
    let Reply::Bucket(bucket) = one(&mut table, Command::Root(sample::bucket("other"))) else { panic!() };
    let write = |table: &mut MemoryTable, n: u64, bucket: u64| {
        let new = sample::inline(version(n), 1, 5);
        let commit = NamespaceCommand::Commit { bucket: BucketId(bucket), key: "k".into(), new, condition: Condition::default() };
        one(table, Command::Namespace(commit))
    };
    for lost in [2, 3, 1_000_000] {
        assert_eq!(write(&mut table, 3 + lost, lost), Reply::Refused(Refusal::NoSuchBucket), "{lost}");
    }
    for there in [1, bucket.id.0] {
        assert!(matches!(write(&mut table, 100 + there, there), Reply::Committed { .. }), "{there}");
    }
    // A copy of the copy goes on from there.
    let mut again = MemoryTable::default();
    restore(&mut again, &table, 1 << 60);
    assert!(chunk_index::given(&again).unwrap() >= 2 << CHUNK_BITS);
    assert_eq!(load::<u64>(&again, Space::Meta, ERA).unwrap(), Some(2));
}

#[test]
fn nothing_is_restored_over_anything() {
    let from = lived_in();
    let mut table = lived_in();
    for command in [RestoreCommand::Expect, RestoreCommand::Begin { stream: STREAM }] {
        assert_eq!(step(&mut table, command), Reply::Refused(Refusal::NotEmpty));
    }
    assert_eq!(table, lived_in());
    let rows = rows_of(&from, |_| true);
    let end = end_of(&rows, 1);
    for command in [RestoreCommand::Rows { stream: STREAM, number: 0, rows }, end] {
        assert_eq!(step(&mut table, command), Reply::Refused(Refusal::NotRestored));
    }
    assert_eq!(table, lived_in());
    // Nor is what was restored, nor a group that is not the first.
    let mut table = MemoryTable::default();
    restore(&mut table, &from, 1);
    assert_eq!(step(&mut table, RestoreCommand::Begin { stream: [8; 16] }), Reply::Refused(Refusal::NotEmpty));
    let batch = Batch { chain: Chain::Stop, commands: vec![Command::Restore(RestoreCommand::Expect)] };
    let other = machine::apply(&mut MemoryTable::default(), GroupId(1), &batch, Seq(1)).unwrap();
    assert_eq!(other, [Reply::Refused(Refusal::NotEmpty)]);
}

#[test]
fn while_it_is_under_way_nothing_else_is_applied_but_what_founds_a_cluster() {
    let mut table = MemoryTable::default();
    step(&mut table, RestoreCommand::Expect);
    assert!(is_under_way(&table).unwrap());
    let refused = Reply::Refused(Refusal::Restoring);
    let release = || Command::Chunk(ChunkCommand::Hold { held: false, span: ALL_CHUNKS });
    assert_eq!(one(&mut table, Command::Root(sample::bucket("other"))), refused);
    assert_eq!(one(&mut table, release()), refused);
    let record = LeaseRecord { holder: WriterId([1; 16]), beat: 1 };
    assert_eq!(one(&mut table, Command::Root(RootCommand::TakeLease { holder: record.holder, seen: 0 })), refused);
    restore(&mut table, &lived_in(), 1);
    assert_eq!(one(&mut table, release()), Reply::Done);
    // Within one batch as well.
    let batch = vec![Command::Restore(RestoreCommand::Expect), Command::Root(sample::bucket("other"))];
    assert_eq!(all(&mut MemoryTable::default(), batch, 1 << ORDINAL_BITS), [Reply::Done, refused]);
}

#[test]
fn rows_that_are_missing_altered_or_of_another_stream_are_found_at_the_end_at_the_latest() {
    let rows = rows_of(&lived_in(), |_| true);
    let end = end_of(&rows, 1);
    let objects: Vec<usize> = (0..rows.len()).filter(|at| is_counted(rows[*at].space, &rows[*at].key)).collect();
    assert!(objects.len() > 4);
    for at in objects {
        let mut missing = rows.clone();
        missing.remove(at);
        let mut altered = rows.clone();
        altered[at].value = Bytes::from([&altered[at].value[..], &[1]].concat());
        for wrong in [missing, altered] {
            let mut table = MemoryTable::default();
            step(&mut table, RestoreCommand::Begin { stream: STREAM });
            step(&mut table, RestoreCommand::Rows { stream: STREAM, number: 0, rows: wrong });
            let before = table.clone();
            assert_eq!(step(&mut table, end.clone()), Reply::Refused(Refusal::NotRestored), "row {at}");
            assert_eq!(table, before);
            assert!(is_under_way(&table).unwrap(), "served all the same");
        }
    }
    let mut table = MemoryTable::default();
    step(&mut table, RestoreCommand::Begin { stream: STREAM });
    for (stream, number) in [([8; 16], 0), (STREAM, 1)] {
        let part = RestoreCommand::Rows { stream, number, rows: rows.clone() };
        assert_eq!(step(&mut table, part), Reply::Refused(Refusal::NotRestored));
    }
}

#[test]
fn rows_of_no_table_and_rows_of_a_replicas_own_are_refused_before_they_are_logged() {
    let row = |space: u8, key: &[u8]| Row { space, key: Bytes::copy_from_slice(key), value: Bytes::new() };
    let check = |row: Row| {
        let command = Command::Restore(RestoreCommand::Rows { stream: STREAM, number: 0, rows: vec![row] });
        machine::check(&Batch { chain: Chain::Stop, commands: vec![command] })
    };
    assert!(check(row(1, b"k")).is_ok());
    let own = [row(12, b"raft.applied"), row(12, b"request#1"), row(12, STANDING), row(12, b"ranges"), row(13, b"k")];
    // What gets another key must say for which version.
    let broken = [
        row(7, b"position"),
        row(6, &[key::INTENT_ENDED.1, 1]),
        row(11, &[key::DUE_ENDED.1, 1]),
        row(12, b"chunks"),
        row(12, ERA),
        row(0, key::ROOT_GROUP_COUNTER),
        row(0, key::ROOT_MOVE_COUNTER),
    ];
    for wrong in [row(14, b"k"), row(1, b""), row(1, &[1; 1_101])].into_iter().chain(own).chain(broken) {
        assert!(check(wrong.clone()).is_err(), "{wrong:?}");
    }
}

/// Names, and then chunks of a later moment: what several groups' copies are to each other.
fn of_two_moments(names: &MemoryTable, chunks: &MemoryTable) -> MemoryTable {
    let of_chunks = |space| matches!(space, Space::Chunks | Space::References | Space::Holdings | Space::Due);
    let mut rows = rows_of(names, |space| !of_chunks(space) && space != Space::Meta);
    rows.extend(rows_of(names, |space| space == Space::Meta).into_iter().filter(|row| &row.key[..] != b"chunks"));
    rows.extend(rows_of(chunks, of_chunks));
    rows.extend(rows_of(chunks, |space| space == Space::Meta).into_iter().filter(|row| &row.key[..] == b"chunks"));
    let mut table = MemoryTable::default();
    restore_rows(&mut table, &rows, 100 << ORDINAL_BITS);
    chunk_index::tests::audit(&table);
    table
}

#[test]
fn an_object_deleted_between_two_moments_has_its_chunks_back_and_a_version_that_no_name_has_holds_nothing() {
    let names = lived_in();
    let mut later = lived_in();
    // Deleted, its references dropped, its chunk condemned; another version began meanwhile.
    one(&mut later, delete(1));
    one(&mut later, Command::Chunk(ChunkCommand::Unref { version: version(1), span: ALL_CHUNKS }));
    one(&mut later, Command::Chunk(ChunkCommand::Condemn { chunks: vec![(chunk(1), Gen(1))], now: UnixMs(5) }));
    write(&mut later, 2, 2, 2, 60);
    let mut table = of_two_moments(&names, &later);
    assert_eq!(references(&table, 1), [version(1)]);
    assert_eq!(references(&table, 2), []);
    assert_eq!(unreferenced(&table), []);
    assert_eq!(record(&table, 2), None, "only a version that is no more had stored it");
    // The stray one cannot come back.
    assert_eq!(one(&mut table, reserve(2, &[1])), Reply::Refused(Refusal::IntentClosed));
    let head = machine::answer(&table, ROOT, &Query::Namespace(NamespaceQuery::Head { bucket: BucketId(1), key: "k2".into() })).unwrap();
    assert_eq!(head, Answer::Namespace(NamespaceAnswer::Head(None)));
}

#[test]
fn a_write_that_was_under_way_cannot_be_committed_after_a_restore() {
    let mut from = lived_in();
    all(&mut from, vec![open(2), reserve(2, &[1])], 41 << ORDINAL_BITS);
    let mut table = MemoryTable::default();
    restore(&mut table, &from, 50 << ORDINAL_BITS);
    assert_eq!(one(&mut table, commit(2, &[1])), Reply::Refused(Refusal::IntentClosed));
    assert_eq!(references(&table, 1), [version(1)]);
    let outbox = machine::answer(&table, ROOT, &Query::Namespace(NamespaceQuery::Outbox { max: 10 })).unwrap();
    assert!(
        matches!(outbox, Answer::Namespace(NamespaceAnswer::Outbox(entries)) if entries.len() == 1 && entries[0].version == version(2))
    );
}

#[test]
fn outboxes_and_the_ended_of_several_groups_come_one_after_the_other() {
    let (mut one_group, mut other) = (lived_in(), MemoryTable::default());
    one(&mut one_group, delete(1));
    for n in 11..14 {
        write(&mut other, n, n as u8, n - 10, n);
        one(&mut other, delete(n));
        one(&mut other, Command::Chunk(ChunkCommand::Unref { version: version(n), span: ALL_CHUNKS }));
    }
    let rows = [rows_of(&one_group, |_| true), rows_of(&other, |_| true)].concat();
    let mut table = MemoryTable::default();
    restore_rows(&mut table, &rows, 1 << 40);
    let outbox = machine::answer(&table, ROOT, &Query::Namespace(NamespaceQuery::Outbox { max: 10 })).unwrap();
    let Answer::Namespace(NamespaceAnswer::Outbox(entries)) = outbox else { panic!("{outbox:?}") };
    let found: Vec<(u64, VersionId)> = entries.iter().map(|entry| (entry.position, entry.version)).collect();
    assert_eq!(found, [(0, version(1)), (1, version(11)), (2, version(12)), (3, version(13))]);
    for n in [1, 11, 12, 13] {
        assert_eq!(one(&mut table, open(n)), Reply::Refused(Refusal::IntentClosed), "{n}");
    }
    assert_eq!(one(&mut table, reserve(12, &[1])), Reply::Refused(Refusal::IntentClosed));
    chunk_index::tests::audit(&table);
    let totals = machine::answer(&table, ROOT, &Query::Chunk(ChunkQuery::Totals)).unwrap();
    assert!(matches!(totals, Answer::Chunk(ChunkAnswer::Totals(totals)) if totals.chunks == 0 && totals.references == 0), "{totals:?}");
}

#[test]
fn a_bucket_is_open_again_and_names_of_one_that_is_gone_go() {
    let mut from = lived_in();
    one(&mut from, Command::Root(sample::bucket("two")));
    // About to be deleted in this group, which has nothing of it; the root's moment was before that.
    let close = |bucket, round| spine::wire::range::RangeCommand::Bucket {
        bucket,
        round,
        step: spine::wire::range::BucketStep::Close,
        from: Bytes::new(),
    };
    assert!(matches!(one(&mut from, Command::Range(close(BucketId(2), 9))), Reply::Stepped { .. }));
    let mut table = MemoryTable::default();
    restore(&mut table, &from, 1);
    let new = sample::inline(version(5), 1, 5);
    let inline = NamespaceCommand::Commit { bucket: BucketId(2), key: "k".into(), new, condition: Condition::default() };
    assert!(matches!(one(&mut table, Command::Namespace(inline)), Reply::Committed { .. }));
    // The root of a later moment does not know the first bucket any more.
    let rows = rows_of(&from, |_| true).into_iter().filter(|row| row.space != Space::Root as u8 || !row.key.ends_with(b"one"));
    let mut table = MemoryTable::default();
    restore_rows(&mut table, &rows.collect::<Vec<_>>(), 1);
    assert_eq!(table.len(Space::Objects), 0);
    assert_eq!(references(&table, 1), []);
    assert_eq!(unreferenced(&table), []);
    assert_eq!(record(&table, 1), None);
    chunk_index::tests::audit(&table);
}

#[test]
fn groups_that_are_no_more_are_not_brought_back_and_whoever_knew_their_map_takes_the_new_one() {
    let mut from = lived_in();
    let change = spine::map::Change::SplitChunks { at: chunk(9), group: GroupId(4) };
    root::map::change(&mut from, &change).unwrap().unwrap();
    let of_groups = [key::ROOT_GROUP, key::ROOT_MOVE, key::ROOT_SHIFT, key::ROOT_LEAVING].map(|kind| [kind, 1, 1, 1, 1]);
    for row in &of_groups {
        from.put(Space::Root, row, b"what the root of before knew").unwrap();
    }
    root::map::begin_groups_from(&mut from, GroupId(5)).unwrap();
    root::moves::begin_from(&mut from, MoveId(9)).unwrap();
    let mut table = MemoryTable::default();
    restore(&mut table, &from, 1);
    for row in &of_groups {
        assert_eq!(table.get(Space::Root, row).unwrap(), None, "{row:?}");
    }
    assert_eq!(root::map::next_group(&table).unwrap(), GroupId(5 + GROUPS_SINCE), "also above those made since");
    assert_eq!(root::moves::next(&table).unwrap(), MoveId(1 << BITS));
    let anew = root::map::get(&table).unwrap();
    assert_eq!(anew.sole(), Some(ROOT));
    // Also who saw changes that were made after the copy.
    assert_eq!(anew.epoch().0, 1 << BITS);
    // The same of a copy in which nothing was ever split.
    let mut table = MemoryTable::default();
    restore(&mut table, &lived_in(), 1);
    assert_eq!(root::map::get(&table).unwrap().epoch().0, 1 << BITS);
    // Of the last groups none is made up.
    for (next, then) in [(GROUPS_EVER as u32 - 1, GROUPS_EVER as u32), (GROUPS_EVER as u32, GROUPS_EVER as u32)] {
        root::map::begin_groups_from(&mut from, GroupId(next)).unwrap();
        let mut table = MemoryTable::default();
        restore(&mut table, &from, 1);
        assert_eq!(root::map::next_group(&table).unwrap(), GroupId(then));
        assert_eq!(root::map::new_group(&mut table, &[], UnixMs(1)).unwrap(), None, "refused by name");
    }
}

#[test]
fn a_copy_above_whose_numbers_none_are_left_is_refused_by_name() {
    let mut from = lived_in();
    chunk_index::ledger::Ledger::at(u64::MAX - (1 << CHUNK_BITS), &mut from);
    let rows = rows_of(&from, |_| true);
    let mut table = MemoryTable::default();
    step(&mut table, RestoreCommand::Begin { stream: STREAM });
    step(&mut table, RestoreCommand::Rows { stream: STREAM, number: 0, rows: rows.clone() });
    assert_eq!(step(&mut table, end_of(&rows, 1)), Reply::Done, "the last ones may be given");
    chunk_index::ledger::Ledger::at(u64::MAX - (1 << CHUNK_BITS) + 1, &mut from);
    let rows = rows_of(&from, |_| true);
    let mut table = MemoryTable::default();
    step(&mut table, RestoreCommand::Begin { stream: STREAM });
    step(&mut table, RestoreCommand::Rows { stream: STREAM, number: 0, rows: rows.clone() });
    assert_eq!(step(&mut table, end_of(&rows, 1)), Reply::Refused(Refusal::Exhausted));
    assert!(is_under_way(&table).unwrap());
}
