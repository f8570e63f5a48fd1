//! Lives out of copies of one era: what the one gave, the other never gives.

use super::*;
use spine::id::FleetId;
use spine::wire::range::BucketStep;
use spine::wire::root::FleetRecord;

const LONG_AFTER: UnixMs = UnixMs(BEGINNING.0 + 500_000 * MINUTE_MS + 1);

fn life(of: &MemoryTable, now: UnixMs) -> MemoryTable {
    let mut table = MemoryTable::default();
    restore_rows_at(&mut table, &rows_of(of, |_| true), 60 << ORDINAL_BITS, now);
    table
}

/// Numbers that the next ones of each kind begin at.
fn numbers(table: &MemoryTable) -> [u64; 6] {
    let requests: (u64, u64, u64) = load(table, Space::Meta, b"requests").unwrap().unwrap();
    let renewed = chunk_index::restore::renewed(table).unwrap().unwrap().0;
    let (buckets, moves) = (root::bucket::next(table).unwrap().0, root::moves::next(table).unwrap().0);
    [requests.0, chunk_index::given(table).unwrap(), renewed, root::map::get(table).unwrap().epoch().0, buckets, moves]
}

fn make(table: &mut MemoryTable, name: &str) -> BucketId {
    match one(table, Command::Root(sample::bucket(name))) {
        Reply::Bucket(record) => record.id,
        other => panic!("{other:?}"),
    }
}

fn put(table: &mut MemoryTable, n: u64, bucket: BucketId) -> Reply {
    let new = sample::inline(version(n), 1, 5);
    one(table, Command::Namespace(NamespaceCommand::Commit { bucket, key: "k".into(), new, condition: Condition::default() }))
}

#[test]
fn two_restores_a_minute_apart_give_no_number_that_the_other_gave_whichever_copy_they_are_of() {
    let mut newer = lived_in();
    write(&mut newer, 2, 2, 2, 41);
    make(&mut newer, "two");
    let first = life(&newer, LONG_AFTER);
    for copy in [&newer, &lived_in()] {
        let second = life(copy, UnixMs(LONG_AFTER.0 + MINUTE_MS));
        for (nth, (one, other)) in numbers(&first).into_iter().zip(numbers(&second)).enumerate() {
            assert!(other >= one + (1 << CHUNK_BITS), "number {nth}: {one}, {other}");
        }
    }
    // The clock has stood still, or goes wrong: of a copy of the first life the next is another one all the same.
    for now in [0, LONG_AFTER.0] {
        let next = life(&first, UnixMs(now));
        assert_eq!(load(&next, Space::Meta, ERA).unwrap(), Some(500_001_u64), "{now}");
        assert!(numbers(&first).into_iter().zip(numbers(&next)).all(|(one, other)| other >= one + (1 << CHUNK_BITS)));
    }
}

#[test]
fn what_nodes_were_found_to_have_beyond_an_era_moves_numbers_on_as_far_as_time_does() {
    let mut from = lived_in();
    chunk_index::ledger::Ledger::at(spine::limit::FOUND_NUMBERS, &mut from);
    let (one, other) = (life(&from, LONG_AFTER), life(&from, UnixMs(LONG_AFTER.0 + MINUTE_MS)));
    let (one, other) = (numbers(&one)[1], numbers(&other)[1]);
    assert!(one > spine::limit::FOUND_NUMBERS && other >= one + (1 << CHUNK_BITS), "{one}, {other}");
}

#[test]
fn a_bucket_of_a_life_that_was_lost_takes_no_writes() {
    let mut first = life(&lived_in(), LONG_AFTER);
    let lost = make(&mut first, "lost");
    assert!(matches!(put(&mut first, 20, lost), Reply::Committed { .. }));
    let mut second = life(&lived_in(), UnixMs(LONG_AFTER.0 + 5 * MINUTE_MS));
    let there = make(&mut second, "there");
    assert_ne!(there, lost);
    let never = BucketId(there.0 >> BITS << BITS);
    for (n, bucket) in (30..).zip([lost, BucketId(lost.0 - 1), never, BucketId(7 << BITS), BucketId(u64::MAX)]) {
        assert_eq!(put(&mut second, n, bucket), Reply::Refused(Refusal::NoSuchBucket), "{bucket}");
    }
    for (n, bucket) in (40..).zip([there, BucketId(1)]) {
        assert!(matches!(put(&mut second, n, bucket), Reply::Committed { .. }), "{bucket}");
    }
    // Both lives' buckets are there after a restore of a copy of the second.
    let mut third = life(&second, UnixMs(LONG_AFTER.0 + 9 * MINUTE_MS));
    for (n, bucket) in (50..).zip([there, BucketId(1)]) {
        assert!(matches!(put(&mut third, n, bucket), Reply::Committed { .. }), "{bucket}");
    }
    assert_eq!(put(&mut third, 60, BucketId(there.0 + 1)), Reply::Refused(Refusal::NoSuchBucket));
    assert_eq!(put(&mut third, 61, lost), Reply::Refused(Refusal::NoSuchBucket));
}

#[test]
fn a_range_that_moves_takes_along_which_eras_there_are() {
    use spine::map::NamePoint;
    use spine::wire::range::{NameSpan, Progress, Range};
    let mut table = life(&lived_in(), LONG_AFTER);
    let there = make(&mut table, "there");
    let (of_old, of_new) = (NamePoint::new(BucketId(1), "a"), NamePoint::new(there, "m"));
    let spans = [
        NameSpan { start: of_old.clone(), end: Some(of_new.clone()) },
        NameSpan { start: of_new.clone(), end: None },
        NameSpan { start: of_old.clone(), end: Some(NamePoint::new(BucketId(1), "b")) },
    ];
    for span in spans {
        let after = Progress::Copying { stage: 0, key: Bytes::new(), nth: 0 };
        let page = crate::range::page::page(&table, &Range::Names(span.clone()), 0, &after, 1 << 20).unwrap();
        let mut target = MemoryTable::default();
        for row in page.rows.iter().filter(|row| row.space == Space::Meta as u8) {
            target.put(Space::Meta, &row.key, row.value.as_ref().unwrap()).unwrap();
        }
        for (bucket, is_there) in [(BucketId(1), true), (BucketId(2), false), (there, true), (BucketId(there.0 >> BITS << BITS), false)] {
            if span.start.bucket <= bucket && span.end.as_ref().is_none_or(|end| bucket <= end.bucket) {
                let may = closed::may_write(&target, bucket).unwrap();
                assert_eq!(may.is_ok(), is_there, "{bucket} of {span:?}");
            }
        }
        assert!(page.rows.iter().any(|row| row.space == Space::Meta as u8), "{span:?}");
    }
    // A step of a deletion is noted where it was before.
    assert_eq!(closed::note(&mut table, there, 1, BucketStep::Close).unwrap(), Ok(()));
    assert_eq!(closed::may_write(&table, there).unwrap(), Err(Refusal::Frozen));
}

#[test]
fn revocation_lists_go_on_above_all_that_were_made_since_and_the_known_one_stays() {
    let fleet = |table: &MemoryTable| root::fleet::get(table).unwrap();
    let authority = Bytes::from_static(b"ca");
    let record = FleetRecord { id: FleetId([1; 16]), authority, created: UnixMs(1), revocations_version: 0, revocations: Bytes::new() };
    let revoke = |version, list: &'static [u8]| Command::Root(RootCommand::Revoke { version, list: Bytes::from_static(list) });
    let mut from = lived_in();
    // Without a fleet there is nothing to go on with.
    assert_eq!(fleet(&life(&from, LONG_AFTER)), None);
    one(&mut from, Command::Root(RootCommand::CreateFleet(record.clone())));
    let none = fleet(&life(&from, LONG_AFTER)).unwrap();
    assert_eq!((none.revocations_version, none.revocations), ((500_000 << BITS) - 1, Bytes::new()));
    assert_eq!(one(&mut from, revoke(1, b"first")), Reply::Done);
    let mut table = life(&from, LONG_AFTER);
    let known = fleet(&table).unwrap();
    assert_eq!((known.revocations_version, &known.revocations[..]), ((500_000 << BITS) - 1, &b"first"[..]));
    assert_eq!(one(&mut table, revoke(2, b"second")), Reply::Refused(Refusal::OldRevocations));
    assert_eq!(one(&mut table, revoke(500_000 << BITS, b"second")), Reply::Done);
    // And once more, by a clock that has stood still.
    let again = fleet(&life(&table, LONG_AFTER)).unwrap();
    assert_eq!((again.revocations_version, &again.revocations[..]), ((500_001 << BITS) - 1, &b"second"[..]));
}
