//! What a restored index knows of chunks is no proof that their shards are there.

use super::*;
use spine::wire::chunk::{ChunkState, Placement};

fn reserved(table: &mut MemoryTable, n: u64, of: u8) -> ReserveOutcome {
    let replies = all(table, vec![open(n), reserve(n, &[of])], n << ORDINAL_BITS);
    match replies.last() {
        Some(Reply::Reserved(outcomes)) => outcomes[0].clone(),
        other => panic!("{other:?}"),
    }
}

fn stored(table: &mut MemoryTable, n: u64, of: u8) -> Gen {
    match reserved(table, n, of) {
        ReserveOutcome::Upload { generation, tag } => {
            assert_eq!(tag.0, generation.0);
            generation
        }
        ReserveOutcome::Hit => panic!("believed"),
    }
}

fn confirmed(table: &mut MemoryTable, n: u64, of: u8, generation: Gen, placement: Placement) -> bool {
    let chunks = vec![Confirmation { chunk: chunk(of), generation, placement }];
    match one(table, Command::Chunk(ChunkCommand::Confirm { version: version(n), chunks })) {
        Reply::Confirmed(outcomes) => outcomes[0],
        other => panic!("{other:?}"),
    }
}

fn hold(table: &mut MemoryTable, held: bool) {
    assert_eq!(one(table, Command::Chunk(ChunkCommand::Hold { held, span: ALL_CHUNKS })), Reply::Done);
}

/// Chunk 1 of an object; 2 unreferenced, 3 condemned, 4 being deleted, 5 not stored yet.
fn with_garbage() -> MemoryTable {
    let mut table = lived_in();
    for n in 2..5 {
        write(&mut table, n, n as u8, n, 40 + n);
        one(&mut table, delete(n));
        one(&mut table, Command::Chunk(ChunkCommand::Unref { version: version(n), span: ALL_CHUNKS }));
    }
    let chunks = vec![(chunk(3), Gen(3)), (chunk(4), Gen(4))];
    one(&mut table, Command::Chunk(ChunkCommand::Condemn { chunks, now: UnixMs(5) }));
    let begun = one(&mut table, Command::Chunk(ChunkCommand::BeginDelete { chunks: vec![(chunk(4), Gen(4))] }));
    assert_eq!(begun, Reply::Deleting(vec![(chunk(4), Gen(4))]));
    assert_eq!(stored(&mut table, 5, 5), Gen(5));
    table
}

#[test]
fn chunks_that_nothing_refers_to_are_forgotten_and_stored_again_under_another_generation() {
    let mut from = with_garbage();
    for of in [2, 3] {
        assert!(record(&from, of).is_some_and(|record| record.placement.is_some()), "a writer would hit it");
    }
    let mut table = MemoryTable::default();
    restore(&mut table, &from, 60 << ORDINAL_BITS);
    chunk_index::tests::audit(&table);
    for of in [2, 3, 5] {
        assert_eq!(record(&table, of), None, "{of}");
    }
    assert_eq!(record(&table, 4).map(|record| record.state), Some(ChunkState::Deleting), "its shards are trashed also while held");
    let mut given = std::collections::BTreeSet::new();
    for of in 2..=5 {
        let generation = stored(&mut table, 10 + u64::from(of), of);
        assert!(generation.0 > 1 << CHUNK_BITS && given.insert(generation), "{generation}");
    }
    // Without a restore the same writers would have hit.
    assert_eq!(reserved(&mut from, 12, 2), ReserveOutcome::Hit);
    assert_eq!(reserved(&mut from, 13, 3), ReserveOutcome::Hit);
}

#[test]
fn a_chunk_that_an_object_has_is_stored_again_until_the_collection_is_released_and_can_be_read_all_the_while() {
    let mut table = MemoryTable::default();
    restore(&mut table, &lived_in(), 60 << ORDINAL_BITS);
    let before = record(&table, 1).unwrap();
    let renewed = stored(&mut table, 11, 1);
    assert_eq!(renewed, Gen(1 << CHUNK_BITS));
    assert_eq!(stored(&mut table, 12, 1), renewed, "rivals store the same");
    assert_eq!(record(&table, 1), Some(before.clone()), "whoever reads it has nothing else yet");
    // Nobody else's, not of too few shards, and not of a generation that is none.
    let placed = placement(renewed, &[]);
    assert!(!confirmed(&mut table, 13, 1, renewed, placed.clone()));
    assert!(!confirmed(&mut table, 11, 1, renewed, placement(renewed, &[0, 1])));
    assert!(!confirmed(&mut table, 11, 1, Gen(renewed.0 + 1), placed.clone()));
    assert_eq!(record(&table, 1), Some(before));
    assert!(confirmed(&mut table, 11, 1, renewed, placed.clone()));
    let now = record(&table, 1).unwrap();
    assert_eq!((now.generation, now.state, now.placement.as_ref()), (renewed, ChunkState::Live, Some(&placed)));
    assert!(confirmed(&mut table, 12, 1, renewed, placement(renewed, &[1])), "stored as well");
    assert_eq!(record(&table, 1), Some(now), "a rival's placement adds nothing");
    assert_eq!(references(&table, 1), [version(1), version(11), version(12)]);
    assert_eq!(reserved(&mut table, 14, 1), ReserveOutcome::Hit, "that is proof");
    chunk_index::tests::audit(&table);
}

#[test]
fn once_the_collection_is_released_the_index_is_believed_and_what_was_stored_besides_it_is_not() {
    let mut table = MemoryTable::default();
    restore(&mut table, &lived_in(), 60 << ORDINAL_BITS);
    let before = record(&table, 1);
    let renewed = stored(&mut table, 11, 1);
    hold(&mut table, false);
    // The sweep may have taken those shards away.
    assert!(!confirmed(&mut table, 11, 1, renewed, placement(renewed, &[])));
    assert_eq!(record(&table, 1), before);
    assert_eq!(reserved(&mut table, 12, 1), ReserveOutcome::Hit);
    hold(&mut table, true);
    assert_eq!(reserved(&mut table, 13, 1), ReserveOutcome::Hit, "an operator's hold doubts nothing");
    chunk_index::tests::audit(&table);
}

#[test]
fn a_copy_of_restored_metadata_is_doubted_from_where_it_is_restored() {
    let mut table = MemoryTable::default();
    restore(&mut table, &lived_in(), 60 << ORDINAL_BITS);
    let renewed = stored(&mut table, 11, 1);
    assert!(confirmed(&mut table, 11, 1, renewed, placement(renewed, &[])));
    assert!(matches!(all(&mut table, vec![commit(11, &[1])], 70 << ORDINAL_BITS)[..], [Reply::Committed { .. }]));
    let mut again = MemoryTable::default();
    restore(&mut again, &table, 80 << ORDINAL_BITS);
    assert_eq!(record(&again, 1).map(|record| record.generation), Some(renewed));
    assert_eq!(stored(&mut again, 12, 1), Gen(2 << CHUNK_BITS));
}

fn forget(table: &mut MemoryTable, of: u8, generation: Gen) -> bool {
    match one(table, Command::Chunk(ChunkCommand::Forget { chunks: vec![(chunk(of), generation)] })) {
        Reply::Confirmed(outcomes) => outcomes[0],
        other => panic!("{other:?}"),
    }
}

fn unref(table: &mut MemoryTable, n: u64) {
    one(table, Command::Chunk(ChunkCommand::Unref { version: version(n), span: ALL_CHUNKS }));
}

fn answered(table: &MemoryTable, query: ChunkQuery) -> ChunkAnswer {
    match machine::answer(table, ROOT, &Query::Chunk(query)).unwrap() {
        Answer::Chunk(answer) => answer,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_chunk_that_became_nobodys_while_it_was_doubted_is_forgotten_before_it_is_believed() {
    let mut table = MemoryTable::default();
    restore(&mut table, &lived_in(), 60 << ORDINAL_BITS);
    assert_eq!(answered(&table, ChunkQuery::Doubted), ChunkAnswer::Doubted(true));
    // An object has it.
    assert!(!forget(&mut table, 1, Gen(1)));
    assert!(record(&table, 1).is_some());
    one(&mut table, delete(1));
    unref(&mut table, 1);
    assert_eq!(unreferenced(&table), [chunk(1)]);
    assert!(forget(&mut table, 1, Gen(2)) && forget(&mut table, 9, Gen(1)), "none of these is doubted");
    assert!(record(&table, 1).is_some());
    // Somebody writes it again: what comes of that is not known yet.
    let renewed = stored(&mut table, 11, 1);
    assert!(!forget(&mut table, 1, Gen(1)));
    unref(&mut table, 11);
    assert!(forget(&mut table, 1, Gen(1)));
    assert_eq!(record(&table, 1), None);
    assert!(!confirmed(&mut table, 11, 1, renewed, placement(renewed, &[])), "it came too late");
    chunk_index::tests::audit(&table);
    hold(&mut table, false);
    assert_eq!(answered(&table, ChunkQuery::Doubted), ChunkAnswer::Doubted(false));
    let ChunkAnswer::Given(given) = answered(&table, ChunkQuery::Given) else { panic!() };
    let generation = stored(&mut table, 12, 1);
    assert!(generation > renewed && generation.0 == given, "{generation}");
    assert_eq!(answered(&table, ChunkQuery::Given), ChunkAnswer::Given(given + 1));
    chunk_index::tests::audit(&table);
}

#[test]
fn what_was_stored_since_the_restore_is_not_forgotten_nor_is_anything_where_nothing_is_doubted() {
    let mut table = MemoryTable::default();
    restore(&mut table, &lived_in(), 60 << ORDINAL_BITS);
    let renewed = stored(&mut table, 11, 1);
    assert!(confirmed(&mut table, 11, 1, renewed, placement(renewed, &[])));
    one(&mut table, delete(1));
    unref(&mut table, 1);
    unref(&mut table, 11);
    let before = record(&table, 1);
    assert!(forget(&mut table, 1, renewed) && forget(&mut table, 1, Gen(1)));
    assert!(before.is_some() && record(&table, 1) == before, "{before:?}");
    let mut table = lived_in();
    one(&mut table, delete(1));
    unref(&mut table, 1);
    assert!(forget(&mut table, 1, Gen(1)));
    assert!(record(&table, 1).is_some());
    // What is being deleted goes on being deleted.
    let mut table = MemoryTable::default();
    restore(&mut table, &with_garbage(), 60 << ORDINAL_BITS);
    assert!(forget(&mut table, 4, Gen(4)));
    assert_eq!(record(&table, 4).map(|record| record.state), Some(ChunkState::Deleting));
    chunk_index::tests::audit(&table);
}
