use super::*;
use crate::chunk_index::holding::ENDED;
use crate::chunk_index::ledger::Ledger;
use crate::key;
use crate::sample::{bucket, chunk, inline, inline_body, manifest, piece, placement, version};
use bytes::Bytes;
use spine::id::{BucketId, ChunkId, Gen, Tag, TenantId, UnixMs, UploadId, WriterId};
use spine::limit::{ENDED_KEPT, FOUND_NUMBERS};
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

fn digest_of(rows: &[MovedRow]) -> [u8; 32] {
    super::super::page::digest(rows.iter().map(|row| (row.space, &row.key[..], row.value.as_deref())))
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
    let digest = digest_of(&[]);
    let import = |by| RangeCommand::ImportChecked { by, kind, after: after.clone(), upto: upto.clone(), rows: vec![], digest };
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
fn a_chunk_that_moved_while_the_collection_was_held_is_stored_again_until_it_is_released() {
    let mut world = World::new(2);
    let reserve = |n: u8| Command::Chunk(ChunkCommand::Reserve { version: version(n.into()), chunks: vec![chunk(200)] });
    let confirm = |n: u8, generation: Gen| {
        let chunks = vec![Confirmation { chunk: chunk(200), generation, placement: placement(generation, &[]) }];
        Command::Chunk(ChunkCommand::Confirm { version: version(n.into()), chunks })
    };
    let hold = |held: bool, span| Command::Chunk(ChunkCommand::Hold { held, span });
    let upper = Span { start: ChunkId([128; 32]), end: None };
    world.send(0, reserve(1));
    assert_eq!(world.send(0, confirm(1, Gen(1))), Reply::Confirmed(vec![true]));
    world.send(0, hold(true, ALL_CHUNKS));
    assert_eq!(world.send(0, reserve(2)), Reply::Reserved(vec![ReserveOutcome::Hit]), "nobody has restored anything here");
    moved(&mut world, Range::Chunks(upper));
    let Reply::Reserved(outcomes) = world.send(1, reserve(3)) else { panic!() };
    let ReserveOutcome::Upload { generation, .. } = outcomes[0] else { panic!("{outcomes:?}") };
    assert!(generation.0 > 1, "{generation}");
    assert_eq!(world.send(1, confirm(3, generation)), Reply::Confirmed(vec![true]));
    assert_eq!(world.send(1, reserve(4)), Reply::Reserved(vec![ReserveOutcome::Hit]));
    world.send(1, hold(false, upper));
    assert_eq!(world.send(1, reserve(5)), Reply::Reserved(vec![ReserveOutcome::Hit]));
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

#[test]
fn a_page_that_is_not_read_back_as_it_was_given_brings_the_target_no_further_and_is_taken_anew() {
    let mut world = World::new(2);
    world.send(0, put("z", 1));
    let (range, kind) = (names_from("m"), RangeKind::Names);
    assert_eq!(world.order(1, RangeCommand::Prepare { by: BY, range: range.clone(), from: GroupId(0) }), Reply::Done);
    assert_eq!(world.order(0, RangeCommand::Export { by: BY, range: range.clone(), to: GroupId(1) }), Reply::Done);
    let after = Progress::start();
    let query = Query::Range(RangeQuery::Export { by: BY, kind, after: after.clone(), max_bytes: 1 << 20 });
    let Ok(Answer::Range(RangeAnswer::Exported(page))) = world.ask(0, &query) else { panic!() };
    // A row is lost on the way.
    let wrong = page.rows[1..].to_vec();
    assert!(!wrong.is_empty());
    let import = |rows: Vec<MovedRow>| {
        let (after, upto, digest) = (after.clone(), page.upto.clone(), page.digest);
        Command::Range(RangeCommand::ImportChecked { by: BY, kind, after, upto, rows, digest })
    };
    assert_eq!(world.send(1, import(wrong)), refused(Refusal::Mismatch));
    assert_eq!(world.state(1, kind).progress, Some(after.clone()));
    // Whoever carries the move on knows nothing of it.
    moved(&mut world, range);
    let head = Query::Namespace(NamespaceQuery::Head { bucket: BUCKET, key: "z".into() });
    let Ok(Answer::Namespace(NamespaceAnswer::Head(Some(found)))) = world.ask(1, &head) else { panic!() };
    assert_eq!(found.id, version(1));
}

#[test]
fn a_version_that_is_forgotten_for_another_of_the_same_page_is_no_mismatch() {
    let mut world = World::new(2);
    let ended = |n: u64| version(n + 1_000);
    for n in 0..ENDED_KEPT {
        ENDED.release(&mut world.tables[1], ended(n)).unwrap();
    }
    let (range, kind) = (Range::Chunks(Span { start: ChunkId([128; 32]), end: None }), RangeKind::Chunks);
    assert_eq!(world.order(1, RangeCommand::Prepare { by: BY, range, from: GroupId(0) }), Reply::Done);
    let fence =
        |n| MovedRow { space: Space::Due as u8, key: key::tagged(key::DUE_ENDED.0, ended(n)).to_vec().into(), value: Some(Bytes::new()) };
    let rows = vec![fence(0), fence(ENDED_KEPT)];
    let (after, upto, digest) = (Progress::start(), Progress::Following { change: 0 }, digest_of(&rows));
    assert_eq!(world.order(1, RangeCommand::ImportChecked { by: BY, kind, after, upto, rows, digest }), Reply::Imported { digest });
    assert!(!ENDED.contains(&world.tables[1], ended(0)).unwrap() && ENDED.contains(&world.tables[1], ended(ENDED_KEPT)).unwrap());
}

#[test]
fn a_part_without_a_piece_in_the_place_of_one_with_a_piece_hides_no_other_part() {
    let mut world = World::new(2);
    let (range, kind, upload, key) = (names_from("m"), RangeKind::Names, UploadId([7; 16]), || "z".to_string());
    let record = UploadRecord {
        id: upload,
        bucket: BUCKET,
        key: key(),
        created: UnixMs(1),
        attributes: Attributes::default(),
        tags: vec![],
        checksum: None,
        initiator: String::new(),
    };
    assert_eq!(world.send(0, Command::Namespace(NamespaceCommand::CreateUpload(Box::new(record)))), Reply::Done);
    let put = |world: &mut World, number: u32, n: u64, body: Body, chunks: Option<Manifest>| {
        let (version, writer) = (version(n), WriterId([1; 16]));
        let open = NamespaceCommand::OpenIntent { version, bucket: BUCKET, key: key(), writer, opened: UnixMs(1) };
        let part = PartRecord { number, version, size: 1_000, md5: [0; 16], checksum: None, modified: UnixMs(1), body };
        let put = NamespaceCommand::PutPart { upload, bucket: BUCKET, key: key(), part: Box::new(part), manifest: chunks };
        for command in [open, put] {
            assert_eq!(world.send(0, Command::Namespace(command)), Reply::Done);
        }
    };
    for number in 1..=3 {
        put(&mut world, number, number.into(), piece(version(number.into())), Some(manifest(&[number as u8])));
    }
    assert_eq!(world.order(1, RangeCommand::Prepare { by: BY, range: range.clone(), from: GroupId(0) }), Reply::Done);
    assert_eq!(world.order(0, RangeCommand::Export { by: BY, range: range.clone(), to: GroupId(1) }), Reply::Done);
    // The upload, its id, the first part and that one's manifest.
    for _ in 0..4 {
        let after = world.state(1, kind).progress.unwrap();
        let query = Query::Range(RangeQuery::Export { by: BY, kind, after: after.clone(), max_bytes: 1 });
        let Ok(Answer::Range(RangeAnswer::Exported(Page { rows, upto, digest, .. }))) = world.ask(0, &query) else { panic!() };
        assert_eq!(rows.len(), 1);
        let import = RangeCommand::ImportChecked { by: BY, kind, after, upto, rows, digest };
        assert_eq!(world.order(1, import), Reply::Imported { digest });
    }
    put(&mut world, 1, 9, inline_body(), None);
    moved(&mut world, range);
    let query = Query::Namespace(NamespaceQuery::Parts { upload, bucket: BUCKET, key: key(), after: 0, max: 99 });
    let Ok(Answer::Namespace(NamespaceAnswer::Parts { parts, .. })) = world.ask(1, &query) else { panic!() };
    let parts: Vec<_> = parts.iter().map(|part| (part.number, part.version)).collect();
    assert_eq!(parts, [(1, version(9)), (2, version(2)), (3, version(3))]);
}
