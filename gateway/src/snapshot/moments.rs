//! Of which moments the groups' copies have to be, so that together they are one. Pure.
//!
//! ```text
//! groups with names -> the root -> groups with chunks
//! ```
//! A version's chunks are durable before it is committed, so that an index of a later moment knows them; and a bucket's id is given before
//! anything is in it, so that a root of a later moment never gives it again. The root's group may have names and chunks as well: its moment
//! is the same for all of it. What was deleted between two moments, the restore makes agree (`restore/mend.rs` of `metadata`).

use spine::id::GroupId;
use spine::map::{Map, Point};
use spine::wire::copy::Moment;
use spine::wire::range::Span;
use std::collections::BTreeSet;

const ROOT: GroupId = GroupId(0);

/// All groups in the order in which their copies are to be begun, as the map has them.
///
/// - `others`: groups that have something left of ranges that they had.
pub fn in_order(map: &Map, others: impl Iterator<Item = GroupId>) -> Vec<GroupId> {
    let of_chunks: BTreeSet<GroupId> = map.chunks().iter().map(|route| route.group).filter(|group| *group != ROOT).collect();
    let of_names = map.names().iter().map(|route| route.group).chain(others);
    let first: BTreeSet<GroupId> = of_names.filter(|group| *group != ROOT && !of_chunks.contains(group)).collect();
    first.into_iter().chain([ROOT]).chain(of_chunks).collect()
}

/// Whether these copies, in the order in which they were begun, are one.
///
/// # Errors
/// Why not: ranges have moved meanwhile. Begin again.
pub fn judge(begun: &[(GroupId, Moment)]) -> Result<(), &'static str> {
    let (mut root, mut chunks) = (false, false);
    for (group, of) in begun {
        root |= *group == ROOT;
        if has(&of.names) && *group != ROOT && (root || chunks) {
            return Err("names were copied after the root or after chunks");
        }
        chunks |= has(&of.chunks);
        if chunks && !root {
            return Err("chunks were copied before the root");
        }
    }
    let names = begun.iter().filter_map(|(_, of)| of.names.as_ref()).collect();
    let chunks = begun.iter().filter_map(|(_, of)| of.chunks.as_ref()).collect();
    if is_all(names) && is_all(chunks) { Ok(()) } else { Err("a range is in no copy, or in two") }
}

fn has<P: Ord>(span: &Option<Span<P>>) -> bool {
    span.as_ref().is_some_and(|span| !span.is_empty())
}

/// Whether every point is in exactly one of the spans.
fn is_all<P: Point>(mut spans: Vec<&Span<P>>) -> bool {
    spans.retain(|span| !span.is_empty());
    spans.sort_by(|one, other| one.start.cmp(&other.start));
    let first = P::first();
    let mut from = Some(&first);
    for span in spans {
        if from != Some(&span.start) {
            return false;
        }
        from = span.end.as_ref();
    }
    from.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use spine::id::{BucketId, ChunkId, Seq};
    use spine::map::{Change, NamePoint};
    use spine::wire::range::{ALL_CHUNKS, ALL_NAMES, ChunkSpan, NameSpan};

    fn at(key: &str) -> NamePoint {
        NamePoint::new(BucketId(1), key)
    }

    fn chunk(byte: u8) -> ChunkId {
        ChunkId([byte; 32])
    }

    fn of(names: Option<NameSpan>, chunks: Option<ChunkSpan>) -> Moment {
        Moment { next: Seq(1), names, chunks }
    }

    /// Group 0 has the first names and chunks, 1 and 2 more names, 3 more chunks; 4 has nothing any more.
    fn four() -> Vec<(GroupId, Moment)> {
        let names = |start: NamePoint, end: Option<NamePoint>| Some(NameSpan { start, end });
        vec![
            (GroupId(1), of(names(at("m"), Some(at("t"))), None)),
            (GroupId(2), of(names(at("t"), None), None)),
            (GroupId(4), of(None, None)),
            (GroupId(0), of(names(ALL_NAMES.start, Some(at("m"))), Some(ChunkSpan { start: ALL_CHUNKS.start, end: Some(chunk(9)) }))),
            (GroupId(3), of(None, Some(ChunkSpan { start: chunk(9), end: None }))),
        ]
    }

    #[test]
    fn names_come_before_the_root_and_chunks_behind_it() {
        let mut map = Map::of_one(GroupId(0));
        for change in [
            Change::SplitNames { at: at("m"), group: GroupId(1) },
            Change::SplitNames { at: at("t"), group: GroupId(2) },
            Change::SplitChunks { at: chunk(9), group: GroupId(3) },
        ] {
            map.change(map.epoch(), &change).unwrap();
        }
        let others = [1, 2, 3, 4].map(GroupId);
        assert_eq!(in_order(&map, others.into_iter()), [1, 2, 4, 0, 3].map(GroupId));
        assert_eq!(in_order(&Map::of_one(GroupId(0)), std::iter::empty()), [GroupId(0)]);
        assert_eq!(judge(&four()), Ok(()));
        assert_eq!(judge(&[(GroupId(0), of(Some(ALL_NAMES), Some(ALL_CHUNKS)))]), Ok(()));
    }

    #[test]
    fn copies_in_another_order_with_a_gap_or_of_a_range_twice_are_none() {
        for (one, other) in [(0, 3), (1, 3), (1, 4), (3, 4)] {
            let mut swapped = four();
            swapped.swap(one, other);
            assert!(judge(&swapped).is_err(), "{one} and {other}");
        }
        for without in [0, 1, 3, 4] {
            let mut some = four();
            some.remove(without);
            assert!(judge(&some).is_err(), "without {without}");
        }
        let mut twice = four();
        twice[2].1.names = Some(NameSpan { start: at("u"), end: None });
        assert!(judge(&twice).is_err());
        assert!(judge(&[]).is_err());
    }
}
