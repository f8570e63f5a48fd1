use super::*;
use crate::machine::{self, ORDINAL_BITS};
use crate::sample::{self, chunk, placement, version};
use crate::table::memory::MemoryTable;
use bytes::Bytes;
use spine::id::{BucketId, Gen, Seq, UnixMs, WriterId};
use spine::wire::chunk::{ChunkAnswer, ChunkCommand, ChunkQuery, Confirmation, ReserveOutcome};
use spine::wire::namespace::{Condition, NamespaceCommand};
use spine::wire::root::LeaseRecord;
use spine::wire::{Answer, Batch, Chain, Query};

const STREAM: [u8; 16] = [7; 16];

fn all(table: &mut MemoryTable, commands: Vec<Command>, at: u64) -> Vec<Reply> {
    machine::apply(table, &Batch { chain: Chain::Stop, commands }, Seq(at)).unwrap()
}

fn one(table: &mut MemoryTable, command: Command) -> Reply {
    all(table, vec![command], 1 << ORDINAL_BITS).remove(0)
}

fn step(table: &mut MemoryTable, command: RestoreCommand) -> Reply {
    one(table, Command::Restore(command))
}

/// Metadata with a bucket and an object of one chunk.
fn lived_in() -> MemoryTable {
    let mut table = MemoryTable::default();
    one(&mut table, Command::Root(sample::bucket("one")));
    let open = NamespaceCommand::OpenIntent { version: version(1), writer: WriterId([1; 16]), opened: UnixMs(1) };
    let commit = NamespaceCommand::Commit {
        bucket: BucketId(1),
        key: "k".into(),
        new: sample::pieces(version(1), 1, &[1]),
        condition: Condition::default(),
    };
    let confirmation = Confirmation { chunk: chunk(1), generation: Gen(1), placement: placement(Gen(1), &[]) };
    let replies = all(
        &mut table,
        vec![
            Command::Namespace(open),
            Command::Chunk(ChunkCommand::Reserve { version: version(1), chunks: vec![chunk(1)] }),
            Command::Chunk(ChunkCommand::Confirm { version: version(1), chunks: vec![confirmation] }),
            Command::Namespace(commit),
        ],
        40 << ORDINAL_BITS,
    );
    assert!(matches!(replies[3], Reply::Committed { .. }), "{replies:?}");
    table
}

/// Rows that a copy of `table` has, what it is, and what an end counts.
fn copy(table: &MemoryTable) -> (Vec<Row>, CopyEnd, u64, [u8; 32]) {
    let (mut rows, mut tally, mut counted) = (Vec::new(), Tally::default(), Tally::default());
    for space in Space::ALL {
        for (key, value) in table.entries(space).filter(|(key, _)| !is_own(space, key)) {
            rows.push(Row { space: space as u8, key: Bytes::copy_from_slice(key), value: Bytes::copy_from_slice(value) });
            tally.count(space as u8, key, value);
            if !UNCOUNTED.contains(&(space as u8)) {
                counted.count(space as u8, key, value);
            }
        }
    }
    (rows, CopyEnd { applied: 50, rows: tally.rows(), digest: tally.digest() }, counted.rows(), counted.digest())
}

fn restore(table: &mut MemoryTable, from: &MemoryTable) {
    let (rows, copied, counted, digest) = copy(from);
    assert_eq!(step(table, RestoreCommand::Begin { stream: STREAM }), Reply::Done);
    for (number, rows) in (0..).zip(rows.chunks(3)) {
        let part = RestoreCommand::Rows { stream: STREAM, number, rows: rows.to_vec() };
        // Each may come twice.
        assert_eq!(step(table, part.clone()), Reply::Done);
        assert_eq!(step(table, part), Reply::Done);
    }
    let end = RestoreCommand::End { stream: STREAM, copied, counted, digest };
    assert_eq!(step(table, end.clone()), Reply::Done);
    assert_eq!(step(table, end), Reply::Done);
}

#[test]
fn what_is_not_counted_at_the_end_are_root_and_the_counters() {
    assert_eq!(UNCOUNTED, [Space::Root as u8, Space::Meta as u8]);
}

#[test]
fn everything_comes_back_and_goes_on_with_numbers_that_were_never_given_and_the_collection_held() {
    let from = lived_in();
    let mut table = MemoryTable::default();
    assert_eq!(step(&mut table, RestoreCommand::Expect), Reply::Done);
    restore(&mut table, &from);
    for space in Space::ALL.into_iter().filter(|space| *space != Space::Meta) {
        assert!(from.entries(space).eq(table.entries(space)), "{space:?}");
    }
    assert!(!is_under_way(&table).unwrap());
    let held = machine::answer(&table, &Query::Chunk(ChunkQuery::Held)).unwrap();
    assert_eq!(held, Answer::Chunk(ChunkAnswer::Held(true)));
    // The next version is after every one there was, though the log began anew.
    assert_eq!(sequence(&table).unwrap(), 51 << ORDINAL_BITS);
    let reserve = ChunkCommand::Reserve { version: version(2), chunks: vec![chunk(9)] };
    let Reply::Reserved(outcomes) = one(&mut table, Command::Chunk(reserve)) else { panic!() };
    assert!(matches!(outcomes[0], ReserveOutcome::Upload { generation, tag } if generation.0 >= MARGIN && tag.0 >= MARGIN), "{outcomes:?}");
    // A copy of the copy goes on from there.
    let mut again = MemoryTable::default();
    restore(&mut again, &table);
    assert_eq!(sequence(&again).unwrap(), 102 << ORDINAL_BITS);
}

#[test]
fn nothing_is_restored_over_anything() {
    let from = lived_in();
    let mut table = lived_in();
    for command in [RestoreCommand::Expect, RestoreCommand::Begin { stream: STREAM }] {
        assert_eq!(step(&mut table, command), Reply::Refused(Refusal::NotEmpty));
    }
    assert_eq!(table, lived_in());
    let (rows, copied, counted, digest) = copy(&from);
    for command in
        [RestoreCommand::Rows { stream: STREAM, number: 0, rows }, RestoreCommand::End { stream: STREAM, copied, counted, digest }]
    {
        assert_eq!(step(&mut table, command), Reply::Refused(Refusal::NotRestored));
    }
    assert_eq!(table, lived_in());
    // Nor is what was restored.
    let mut table = MemoryTable::default();
    restore(&mut table, &from);
    assert_eq!(step(&mut table, RestoreCommand::Begin { stream: [8; 16] }), Reply::Refused(Refusal::NotEmpty));
}

#[test]
fn while_it_is_under_way_nothing_else_is_applied_but_what_founds_a_cluster() {
    let mut table = MemoryTable::default();
    step(&mut table, RestoreCommand::Expect);
    assert!(is_under_way(&table).unwrap());
    let refused = Reply::Refused(Refusal::Restoring);
    assert_eq!(one(&mut table, Command::Root(sample::bucket("other"))), refused);
    assert_eq!(one(&mut table, Command::Chunk(ChunkCommand::Hold { held: false })), refused);
    let record = LeaseRecord { holder: WriterId([1; 16]), beat: 1 };
    assert_eq!(one(&mut table, Command::Root(RootCommand::TakeLease { holder: record.holder, seen: 0 })), refused);
    restore(&mut table, &lived_in());
    assert_eq!(one(&mut table, Command::Chunk(ChunkCommand::Hold { held: false })), Reply::Done);
}

#[test]
fn rows_that_are_missing_doubled_altered_or_of_another_stream_are_found_at_the_end_at_the_latest() {
    let from = lived_in();
    let (rows, copied, counted, digest) = copy(&from);
    let objects: Vec<usize> = (0..rows.len()).filter(|at| !UNCOUNTED.contains(&rows[*at].space)).collect();
    for at in objects {
        let mut missing = rows.clone();
        missing.remove(at);
        let mut altered = rows.clone();
        altered[at].value = Bytes::from([&altered[at].value[..], &[1]].concat());
        for wrong in [missing, altered] {
            let mut table = MemoryTable::default();
            step(&mut table, RestoreCommand::Begin { stream: STREAM });
            step(&mut table, RestoreCommand::Rows { stream: STREAM, number: 0, rows: wrong });
            let end = RestoreCommand::End { stream: STREAM, copied, counted, digest };
            assert_eq!(step(&mut table, end), Reply::Refused(Refusal::NotRestored), "row {at}");
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
    for wrong in [row(13, b"k"), row(1, b""), row(1, &[1; 1_101]), row(12, b"raft.applied"), row(12, b"request#1"), row(12, STANDING)] {
        assert!(check(wrong.clone()).is_err(), "{wrong:?}");
    }
}
