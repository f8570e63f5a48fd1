use super::*;
use crate::chunk_index::ledger::Ledger;
use crate::sample::{bucket, chunk, inline, version};
use bytes::Bytes;
use spine::id::{BucketId, ChunkId, Gen, Tag, TenantId};
use spine::limit::FOUND_NUMBERS;
use spine::map::NamePoint;
use spine::wire::chunk::*;
use spine::wire::namespace::*;
use spine::wire::root::*;

const BUCKET: BucketId = BucketId(1);
const BY: Mover = Mover { id: 1, attempt: 1 };

fn refused(why: Refusal) -> Reply {
    Reply::Refused(why)
}

fn put(key: &str, n: u64) -> Command {
    let new = inline(version(n), 1, 1);
    Command::Namespace(NamespaceCommand::Commit { bucket: BUCKET, key: key.into(), new, condition: Condition::default() })
}

fn names_from(key: &str) -> Range {
    Range::Names(Span { start: NamePoint::new(BUCKET, key), end: None })
}

/// Moves `range` from group 0 to group 1, to the end.
fn moved(world: &mut World, range: Range) {
    world.moving = Some(Move { by: BY, range, from: 0, to: 1, given_up: false });
    world.settle(&mut Dice::new(1));
}

#[test]
fn a_group_that_was_given_nothing_refuses_everything() {
    let mut world = World::new(2);
    assert_eq!(world.send(1, put("a", 1)), refused(Refusal::NotHere));
    let reserve = ChunkCommand::Reserve { version: version(1), chunks: vec![chunk(1)] };
    assert_eq!(world.send(1, Command::Chunk(reserve)), refused(Refusal::NotHere));
    let head = Query::Namespace(NamespaceQuery::Head { bucket: BUCKET, key: "a".into() });
    assert_eq!(world.ask(1, &head), Err(MetadataError::NotHere));
    assert_eq!(world.ask(1, &Query::Chunk(ChunkQuery::Scan { after: None, max: 9 })), Ok(Answer::Chunk(ChunkAnswer::Scan(vec![]))));
}

#[test]
fn while_it_is_frozen_a_range_is_read_and_not_written_and_the_rest_is_both() {
    let mut world = World::new(2);
    world.send(0, put("z", 1));
    let (range, kind) = (names_from("m"), RangeKind::Names);
    assert_eq!(world.order(0, RangeCommand::Export { by: BY, range, to: GroupId(1) }), Reply::Done);
    assert_eq!(world.order(0, RangeCommand::Freeze { by: BY, kind }), Reply::Done);
    assert_eq!(world.send(0, put("z", 2)), refused(Refusal::Frozen));
    assert!(matches!(world.send(0, put("a", 2)), Reply::Committed { .. }));
    let head = Query::Namespace(NamespaceQuery::Head { bucket: BUCKET, key: "z".into() });
    assert!(matches!(world.ask(0, &head), Ok(Answer::Namespace(NamespaceAnswer::Head(Some(_))))));
    assert_eq!(world.order(0, RangeCommand::Thaw { by: BY, kind }), Reply::Done);
    assert!(matches!(world.send(0, put("z", 2)), Reply::Committed { .. }));
    // The last write was noted and not drained.
    assert_eq!(world.order(0, RangeCommand::Freeze { by: BY, kind }), Reply::Done);
    assert_eq!(world.order(0, RangeCommand::Release { by: BY, kind, change: 0 }), refused(Refusal::NotDrained));
}

#[test]
fn a_move_that_was_taken_back_before_it_began_never_begins() {
    let mut world = World::new(2);
    let (range, kind) = (names_from("m"), RangeKind::Names);
    assert_eq!(world.order(0, RangeCommand::Cancel { by: BY, kind, max: 9 }), Reply::Purged { more: false });
    assert_eq!(world.order(1, RangeCommand::Drop { by: BY, kind, max: 9 }), Reply::Purged { more: false });
    assert_eq!(world.order(0, RangeCommand::Export { by: BY, range: range.clone(), to: GroupId(1) }), refused(Refusal::NoSuchMove));
    assert_eq!(world.order(1, RangeCommand::Prepare { by: BY, range, from: GroupId(0) }), refused(Refusal::NoSuchMove));
}

#[test]
fn a_mover_that_was_overtaken_is_refused_at_both_ends() {
    let mut world = World::new(2);
    let (range, kind) = (names_from("m"), RangeKind::Names);
    let next = Mover { attempt: 2, ..BY };
    assert_eq!(world.order(0, RangeCommand::Export { by: next, range: range.clone(), to: GroupId(1) }), Reply::Done);
    assert_eq!(world.order(1, RangeCommand::Prepare { by: next, range, from: GroupId(0) }), Reply::Done);
    assert_eq!(world.order(0, RangeCommand::Freeze { by: BY, kind }), refused(Refusal::OldAttempt));
    let (after, upto) = (Progress::start(), Progress::Following { change: 0 });
    let import = |by| RangeCommand::Import { by, kind, after: after.clone(), upto: upto.clone(), rows: vec![] };
    assert_eq!(world.order(1, import(BY)), refused(Refusal::OldAttempt));
    assert!(matches!(world.order(1, import(next)), Reply::Imported { .. }));
    assert_eq!(world.order(1, import(next)), refused(Refusal::NotDrained), "the same page again");
}

#[test]
fn only_an_end_of_what_is_owned_goes_and_only_what_is_next_to_it_comes() {
    let mut world = World::new(2);
    let point = |key: &str| NamePoint::new(BUCKET, key);
    let middle = Range::Names(Span { start: point("d"), end: Some(point("f")) });
    assert_eq!(world.order(0, RangeCommand::Export { by: BY, range: middle, to: GroupId(1) }), refused(Refusal::NoSuchMove));
    let nothing = Range::Names(Span { start: point("d"), end: Some(point("d")) });
    assert_eq!(world.order(0, RangeCommand::Export { by: BY, range: nothing, to: GroupId(1) }), refused(Refusal::NoSuchMove));
    moved(&mut world, names_from("m"));
    let apart = Range::Names(Span { start: point("a"), end: Some(point("c")) });
    let by = Mover { id: 2, attempt: 1 };
    assert_eq!(world.order(1, RangeCommand::Prepare { by, range: apart, from: GroupId(0) }), refused(Refusal::NoSuchMove));
}

#[test]
fn the_collection_stays_held_and_numbers_go_on_where_chunks_have_moved_to() {
    let mut world = World::new(2);
    let reserve = |n: u8| Command::Chunk(ChunkCommand::Reserve { version: version(n.into()), chunks: vec![chunk(n)] });
    for n in 1..=20 {
        world.send(0, reserve(n));
    }
    world.send(0, Command::Chunk(ChunkCommand::Hold { held: true, span: ALL_CHUNKS }));
    moved(&mut world, Range::Chunks(Span { start: ChunkId([128; 32]), end: None }));
    assert_eq!(world.ask(1, &Query::Chunk(ChunkQuery::Held)), Ok(Answer::Chunk(ChunkAnswer::Held(true))));
    let Reply::Reserved(outcomes) = world.send(1, reserve(200)) else { panic!() };
    assert!(matches!(outcomes[0], ReserveOutcome::Upload { generation, .. } if generation.0 > 20), "{outcomes:?}");
    // Nobody who thinks that group 0 has all may take its word for all.
    let unref = ChunkCommand::Unref { version: version(1), span: ALL_CHUNKS };
    assert_eq!(world.send(0, Command::Chunk(unref)), refused(Refusal::NotHere));
    let within = Query::Within { span: ALL_CHUNKS, query: ChunkQuery::Scan { after: None, max: 9 } };
    assert_eq!(world.ask(0, &within), Err(MetadataError::NotHere));
}

#[test]
fn numbers_go_on_where_chunks_have_moved_to_also_above_those_that_are_believed_of_nodes() {
    let mut world = World::new(2);
    let reserve = |n: u8| Command::Chunk(ChunkCommand::Reserve { version: version(n.into()), chunks: vec![chunk(n)] });
    Ledger::at(FOUND_NUMBERS + 5, &mut world.tables[0]);
    world.send(0, reserve(200));
    moved(&mut world, Range::Chunks(Span { start: ChunkId([128; 32]), end: None }));
    let expected = ReserveOutcome::Upload { generation: Gen(FOUND_NUMBERS + 6), tag: Tag(FOUND_NUMBERS + 6) };
    assert_eq!(world.send(1, reserve(201)), Reply::Reserved(vec![expected]));
}

fn root(world: &mut World, command: RootCommand) -> Reply {
    world.send(0, Command::Root(command))
}

fn step(world: &mut World, group: usize, round: u64, step: BucketStep, from: &'static str) -> Reply {
    world.send(group, Command::Range(RangeCommand::Bucket { bucket: BUCKET, round, step, from: Bytes::from_static(from.as_bytes()) }))
}

#[test]
fn a_bucket_over_two_groups_goes_only_if_both_are_empty_and_takes_no_write_meanwhile() {
    let mut world = World::new(2);
    root(&mut world, bucket("one"));
    moved(&mut world, names_from("m"));
    world.send(1, put("z", 1));
    let delete = || RootCommand::DeleteBucket { name: "one".into(), tenant: TenantId(1) };
    assert_eq!(root(&mut world, delete()), Reply::BucketDeleting { bucket: BUCKET, round: 1 });
    assert_eq!(root(&mut world, bucket("one")), refused(Refusal::BucketDeleting));
    let border = Some(NamePoint::new(BUCKET, "m"));
    assert_eq!(step(&mut world, 0, 1, BucketStep::Close, ""), Reply::Stepped { end: border.clone() });
    assert_eq!(world.send(0, put("a", 2)), refused(Refusal::Frozen));
    assert_eq!(step(&mut world, 1, 1, BucketStep::Close, "m"), refused(Refusal::BucketNotEmpty));
    assert_eq!(step(&mut world, 0, 1, BucketStep::Open, ""), Reply::Stepped { end: border.clone() });
    assert_eq!(step(&mut world, 1, 1, BucketStep::Open, "m"), Reply::Stepped { end: None });
    assert_eq!(step(&mut world, 0, 1, BucketStep::Close, ""), refused(Refusal::OldAttempt), "a late step of the same round");
    assert_eq!(root(&mut world, RootCommand::EndDelete { name: "one".into(), round: 1, gone: false }), Reply::Done);
    assert!(matches!(world.send(0, put("a", 2)), Reply::Committed { .. }));

    for (group, key) in [(0, "a"), (1, "z")] {
        let delete = NamespaceCommand::Delete { bucket: BUCKET, key: key.into(), condition: Condition::default() };
        assert!(matches!(world.send(group, Command::Namespace(delete)), Reply::Deleted { was: Some(_) }));
    }
    assert_eq!(root(&mut world, delete()), Reply::BucketDeleting { bucket: BUCKET, round: 2 });
    // Whoever began it is gone: the next one goes through all of it again.
    assert_eq!(root(&mut world, delete()), Reply::BucketDeleting { bucket: BUCKET, round: 3 });
    assert_eq!(root(&mut world, RootCommand::EndDelete { name: "one".into(), round: 2, gone: false }), refused(Refusal::OldAttempt));
    for close in [BucketStep::Close, BucketStep::End] {
        assert_eq!(step(&mut world, 0, 3, close, ""), Reply::Stepped { end: border.clone() });
        assert_eq!(step(&mut world, 1, 3, close, "m"), Reply::Stepped { end: None });
    }
    assert_eq!(root(&mut world, RootCommand::EndDelete { name: "one".into(), round: 3, gone: true }), Reply::Done);
    assert_eq!(world.send(1, put("z", 3)), refused(Refusal::NoSuchBucket));
    assert!(matches!(root(&mut world, bucket("one")), Reply::Bucket(record) if record.id != BUCKET));
}

#[test]
fn a_bucket_stays_closed_where_its_names_move_to() {
    let mut world = World::new(3);
    root(&mut world, bucket("one"));
    moved(&mut world, names_from("m"));
    root(&mut world, RootCommand::DeleteBucket { name: "one".into(), tenant: TenantId(1) });
    assert!(matches!(step(&mut world, 1, 1, BucketStep::Close, "m"), Reply::Stepped { .. }));
    world.moving = Some(Move { by: Mover { id: 2, attempt: 1 }, range: names_from("t"), from: 1, to: 2, given_up: false });
    for turn in 0..3 {
        world.step(&mut Dice::new(turn));
    }
    assert!(matches!(step(&mut world, 1, 1, BucketStep::End, "m"), Reply::Stepped { .. } | Reply::Refused(Refusal::Frozen)));
    world.settle(&mut Dice::new(7));
    assert!(matches!(world.send(2, put("z", 1)), Reply::Refused(Refusal::Frozen | Refusal::NoSuchBucket)));
}
