use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// What someone does to a map; numbers are made valid or not by chance.
#[derive(Clone, Debug)]
enum Deed {
    Split { bucket: u64, key: Vec<u8>, group: u32 },
    SplitChunks { at: u8, group: u32 },
    Merge { group: u32 },
    MergeChunks { group: u32 },
    Move { from: u32, to: u32 },
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop_oneof![Just(0u8), Just(b'/'), Just(b'a'), Just(b'b'), Just(0xFF)], 0..4)
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        6 => (0..4u64, key(), 0..12u32).prop_map(|(bucket, key, group)| Deed::Split { bucket, key, group }),
        2 => (any::<u8>(), 0..12u32).prop_map(|(at, group)| Deed::SplitChunks { at, group }),
        2 => (0..12u32).prop_map(|group| Deed::Merge { group }),
        1 => (0..12u32).prop_map(|group| Deed::MergeChunks { group }),
        2 => (0..12u32, 0..12u32).prop_map(|(from, to)| Deed::Move { from, to }),
    ]
}

fn change(deed: &Deed) -> Change {
    match deed {
        Deed::Split { bucket, key, group } => {
            Change::SplitNames { at: NamePoint::new(BucketId(*bucket), key.clone()), group: GroupId(*group) }
        }
        Deed::SplitChunks { at, group } => Change::SplitChunks { at: ChunkId([*at; 32]), group: GroupId(*group) },
        Deed::Merge { group } => Change::MergeNames { group: GroupId(*group) },
        Deed::MergeChunks { group } => Change::MergeChunks { group: GroupId(*group) },
        Deed::Move { from, to } => Change::MoveNames { from: GroupId(*from), to: GroupId(*to) },
    }
}

/// Every point of a small space belongs to exactly one range, which says so itself.
fn covers<P: Point + std::fmt::Debug>(ranges: &Ranges<P>, points: &[P]) {
    let groups: BTreeSet<GroupId> = ranges.iter().map(|route| route.group).collect();
    assert_eq!(groups.len(), ranges.len(), "a group has two ranges");
    for point in points {
        let holding: Vec<GroupId> = ranges.iter().filter(|route| route.holds(point)).map(|route| route.group).collect();
        assert_eq!(holding, [ranges.of(point).group], "{point:?}");
        assert_eq!(ranges.of_group(holding[0]), Some(ranges.of(point)));
    }
    let starts: Vec<&P> = ranges.iter().map(|route| route.start).collect();
    assert!(starts.is_sorted() && *starts[0] == P::first());
    assert!(ranges.iter().zip(ranges.iter().skip(1)).all(|(one, next)| one.end == Some(next.start)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn ranges_always_cover_everything_and_never_overlap(
        deeds in prop::collection::vec(deed(), 0..30),
        keys in prop::collection::vec((0..5u64, key()), 1..20),
        chunks: Vec<u8>,
    ) {
        let mut map = Map::of_one(GroupId(0));
        let mut names: Vec<NamePoint> = keys.into_iter().map(|(bucket, key)| NamePoint::new(BucketId(bucket), key)).collect();
        names.push(NamePoint::first());
        names.push(NamePoint::new(BucketId(u64::MAX), [0xFF; 9]));
        let chunks: Vec<ChunkId> = chunks.into_iter().chain([0, 255]).map(|byte| ChunkId([byte; 32])).collect();
        for deed in &deeds {
            let before = map.clone();
            let change = change(deed);
            match map.change(before.epoch(), &change) {
                Ok(()) => {
                    prop_assert_eq!(map.epoch().0, before.epoch().0 + 1);
                    prop_assert_eq!(map.change(before.epoch(), &change), Err(MapError::Stale { expected: before.epoch(), now: map.epoch() }));
                    // Who carries an old (group, since) is served only where the range is to the point what it was.
                    for (old, name) in names.iter().map(|name| (before.names.of(name), name)) {
                        let new = map.names.of(name);
                        prop_assert!((old.group, old.since) != (new.group, new.since) || (old.start, old.end) == (new.start, new.end));
                    }
                }
                Err(_) => prop_assert_eq!(&map, &before),
            }
            covers(&map.names, &names);
            covers(&map.chunks, &chunks);
        }
    }

    #[test]
    fn the_subtrees_of_a_prefix_are_those_that_hold_a_key_of_it(
        cuts in prop::collection::btree_set((0..3u64, key()), 0..12),
        keys in prop::collection::vec((0..3u64, key()), 0..30),
        (bucket, prefix) in (0..3u64, key()),
    ) {
        let mut map = Map::of_one(GroupId(0));
        for (group, (bucket, key)) in (1..).zip(cuts) {
            let _ = map.change(map.epoch(), &Change::SplitNames { at: NamePoint::new(BucketId(bucket), key), group: GroupId(group) });
        }
        let found = map.of_prefix(BucketId(bucket), &prefix);
        let inside = keys.into_iter().filter(|(of, key)| *of == bucket && key.starts_with(&prefix));
        for (of, key) in inside {
            let point = NamePoint::new(BucketId(of), key);
            prop_assert_eq!(found.iter().filter(|route| route.holds(&point)).count(), 1);
        }
        // None that could hold no such key.
        let least = NamePoint::new(BucketId(bucket), prefix.clone());
        for route in &found {
            let from = route.start.max(&least);
            prop_assert!(from.bucket == BucketId(bucket) && from.key.starts_with(&prefix));
        }
        prop_assert!(found.is_sorted_by_key(|route| route.start));
    }
}

#[test]
fn a_split_touches_its_two_halves_and_nothing_else() {
    let mut map = Map::of_one(GroupId(0));
    let point = |key: &str| NamePoint::new(BucketId(1), key);
    for (group, key) in [(1, "d"), (2, "h"), (3, "f")] {
        map.change(map.epoch(), &Change::SplitNames { at: point(key), group: GroupId(group) }).unwrap();
    }
    let since: BTreeMap<GroupId, Epoch> = map.names().iter().map(|route| (route.group, route.since)).collect();
    assert_eq!(since, [(0, 1), (1, 3), (2, 2), (3, 3)].map(|(group, epoch)| (GroupId(group), Epoch(epoch))).into());
    assert_eq!(map.names().of(&point("g")).group, GroupId(3));
    assert_eq!(map.names().of(&point("e")).group, GroupId(1));
    map.change(map.epoch(), &Change::MergeNames { group: GroupId(1) }).unwrap();
    assert_eq!(map.names().of(&point("g")).group, GroupId(1));
    assert_eq!(map.names().of_group(GroupId(3)), None);
}

#[test]
fn what_makes_no_sense_is_refused_with_its_reason() {
    let mut map = Map::of_one(GroupId(0));
    let at = NamePoint::new(BucketId(1), "d");
    map.change(Epoch(0), &Change::SplitNames { at: at.clone(), group: GroupId(1) }).unwrap();
    let now = map.epoch();
    let refused = [
        (Change::SplitNames { at, group: GroupId(2) }, MapError::Edge),
        (Change::SplitNames { at: NamePoint::new(BucketId(9), "x"), group: GroupId(1) }, MapError::GroupTaken { group: GroupId(1) }),
        (Change::MergeNames { group: GroupId(1) }, MapError::Last { group: GroupId(1) }),
        (Change::MergeNames { group: GroupId(7) }, MapError::NoSuchGroup { group: GroupId(7) }),
        (Change::MergeChunks { group: GroupId(1) }, MapError::NoSuchGroup { group: GroupId(1) }),
        (Change::MoveNames { from: GroupId(0), to: GroupId(1) }, MapError::GroupTaken { group: GroupId(1) }),
    ];
    for (change, why) in refused {
        assert_eq!(map.change(now, &change), Err(why));
    }
    assert_eq!(map.epoch(), now);
}

#[test]
fn a_map_has_no_more_ranges_than_it_may() {
    let mut map = Map::of_one(GroupId(0));
    for group in 1..u32::try_from(MAP_RANGES).unwrap() - 1 {
        map.change(map.epoch(), &Change::SplitNames { at: NamePoint::new(BucketId(u64::from(group)), ""), group: GroupId(group) }).unwrap();
    }
    let more = Change::SplitChunks { at: ChunkId([7; 32]), group: GroupId(u32::MAX) };
    assert_eq!(map.change(map.epoch(), &more), Err(MapError::Full));
    map.change(map.epoch(), &Change::MergeNames { group: GroupId(5) }).unwrap();
    map.change(map.epoch(), &more).unwrap();
}
