//! A page gathered over subtrees, with the map changing under it, beside one flat table.

use super::*;
use crate::sample::{inline, version};
use crate::table::TableRead;
use proptest::prelude::*;
use spine::id::{Epoch, GroupId};
use spine::listing::Listing;
use spine::map::{Change, Map, NamePoint};
use spine::wire::range::NameSpan;
use std::collections::BTreeMap;

fn name() -> impl Strategy<Value = String> {
    let piece = prop_oneof![6 => Just("/"), 4 => Just("a"), 3 => Just("b"), 1 => Just("\0"), 1 => Just("."), 1 => Just("0"), 1 => Just("\u{10ffff}")];
    prop::collection::vec(piece, 1..6).prop_map(|pieces| pieces.concat())
}

fn delimiter() -> impl Strategy<Value = String> {
    prop_oneof![4 => Just("/"), 2 => Just(""), 1 => Just("//"), 1 => Just("a"), 1 => Just("\u{10ffff}")].prop_map(str::to_owned)
}

/// What happens to the map between two questions.
#[derive(Clone, Debug)]
enum Turn {
    Nothing,
    Split(String),
    Merge(u32),
    Move(u32),
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        3 => Just(Turn::Nothing),
        4 => name().prop_map(Turn::Split),
        2 => (0..20u32).prop_map(Turn::Merge),
        1 => (0..20u32).prop_map(Turn::Move),
    ]
}

/// Groups with a table each, and the map as the root has it.
struct Cluster {
    map: Map,
    tables: BTreeMap<GroupId, MemoryTable>,
    next: u32,
}

impl Cluster {
    fn new(keys: &[String]) -> Self {
        let mut cluster = Cluster { map: Map::of_one(GroupId(0)), tables: BTreeMap::new(), next: 1 };
        cluster.fill(keys);
        cluster
    }

    /// Puts every key where the map says: what split, merge and move do to the tables in the end.
    fn fill(&mut self, keys: &[String]) {
        self.tables = self.map.names().iter().map(|route| (route.group, table())).collect();
        for (n, key) in (1..).zip(keys) {
            for bucket in [BUCKET, BucketId(2)] {
                let group = self.map.names().of(&NamePoint::new(bucket, key.as_str())).group;
                let new = inline(version(bucket.0 << 32 | n), 1, 1);
                let command = NamespaceCommand::Commit { bucket, key: key.clone(), new, condition: Condition::default() };
                apply(self.tables.get_mut(&group).unwrap(), GROUP, &command, Seq(n)).unwrap();
            }
        }
    }

    fn turn(&mut self, turn: &Turn, keys: &[String]) {
        let change = match turn {
            Turn::Nothing => return,
            Turn::Split(at) => Change::SplitNames { at: NamePoint::new(BUCKET, at.as_str()), group: GroupId(self.next) },
            Turn::Merge(group) => Change::MergeNames { group: GroupId(*group) },
            Turn::Move(from) => Change::MoveNames { from: GroupId(*from), to: GroupId(self.next) },
        };
        if self.map.change(self.map.epoch(), &change).is_ok() {
            self.next += 1;
            self.fill(keys);
        }
    }
}

/// One page; before each question the map turns once more, and the one who asks has the map of before: it is told to look again.
fn gather(cluster: &mut Cluster, query: &ListQuery, keys: &[String], turns: &mut impl Iterator<Item = Turn>) -> (ListPage, usize) {
    let mut listing = Listing::new(query.clone());
    let mut questions = 0;
    while let Some(ask) = listing.ask() {
        let (group, since): (GroupId, Epoch) = {
            let route = cluster.map.names().of(&ask.place);
            (route.group, route.since)
        };
        if let Some(turn) = turns.next() {
            cluster.turn(&turn, keys);
        }
        questions += 1;
        assert!(questions < 500, "the walk does not end");
        let Some(route) = cluster.map.names().of_group(group).filter(|route| route.since == since) else { continue };
        let owned = NameSpan { start: route.start.clone(), end: route.end.cloned() };
        let (page, end) = answer_of(&cluster.tables[&group], &owned, &ask.query, Some(&ask.place));
        assert_eq!(end.as_ref(), route.end);
        listing.heard(end.as_ref(), page).unwrap();
    }
    (listing.page(), questions)
}

fn answer_of(table: &dyn TableRead, owned: &NameSpan, query: &ListQuery, place: Option<&NamePoint>) -> (ListPage, Option<NamePoint>) {
    let query = NamespaceQuery::List { query: query.clone(), place: place.cloned() };
    let NamespaceAnswer::List { page, end } = answer(table, GROUP, owned, &query).unwrap() else { panic!() };
    (page, end)
}

fn names(page: &ListPage) -> (Vec<&str>, Vec<&str>, Option<&str>) {
    (page.objects.iter().map(|(key, _)| key.as_str()).collect(), page.prefixes.iter().map(String::as_str).collect(), page.next.as_deref())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, ..ProptestConfig::default() })]

    #[test]
    fn pages_over_subtrees_that_split_merge_and_move_are_those_of_one_table(
        keys in prop::collection::btree_set(name(), 0..30),
        cuts in prop::collection::vec(name(), 0..8),
        turns in prop::collection::vec(turn(), 0..25),
        prefix in prop_oneof![2 => Just(String::new()), 3 => name()],
        delimiter in delimiter(),
        after in prop::option::of(name()),
        max in 0..6usize,
    ) {
        let keys: Vec<String> = keys.into_iter().collect();
        let flat = Cluster::new(&keys);
        let mut cluster = Cluster::new(&keys);
        for cut in cuts {
            cluster.turn(&Turn::Split(cut), &keys);
        }
        let mut turns = turns.into_iter();
        let mut query = ListQuery { bucket: BUCKET, prefix, delimiter, after, max };
        loop {
            let (page, _) = gather(&mut cluster, &query, &keys, &mut turns);
            let expected = answer_of(&flat.tables[&GroupId(0)], &ALL_NAMES, &query, None).0;
            prop_assert_eq!(names(&page), names(&expected));
            let Some(next) = page.next else { break };
            query.after = Some(next);
        }
    }

    #[test]
    fn a_group_that_stops_early_makes_more_questions_and_the_same_page(
        keys in prop::collection::btree_set(name(), 0..25),
        cuts in prop::collection::vec(name(), 0..5),
        delimiter in delimiter(),
        most in 1..3usize,
    ) {
        let keys: Vec<String> = keys.into_iter().collect();
        let flat = Cluster::new(&keys);
        let mut cluster = Cluster::new(&keys);
        for cut in cuts {
            cluster.turn(&Turn::Split(cut), &keys);
        }
        let query = ListQuery { bucket: BUCKET, prefix: String::new(), delimiter, after: None, max: 1_000 };
        let mut listing = Listing::new(query.clone());
        while let Some(ask) = listing.ask() {
            let route = cluster.map.names().of(&ask.place);
            let few = ListQuery { max: ask.query.max.min(most), ..ask.query };
            listing.heard(route.end, answer_of(&cluster.tables[&route.group], &ALL_NAMES, &few, None).0).unwrap();
        }
        let (page, expected) = (listing.page(), answer_of(&flat.tables[&GroupId(0)], &ALL_NAMES, &query, None).0);
        prop_assert_eq!(names(&page), names(&expected));
    }
}

#[test]
fn subtrees_that_lie_inside_a_listed_prefix_are_not_asked() {
    let keys: Vec<String> = (0..4).flat_map(|dir| (0..40).map(move |file| format!("{dir}/{file:02}"))).collect();
    let mut cluster = Cluster::new(&keys);
    for (dir, file) in (0..4).flat_map(|dir| (5..40).step_by(5).map(move |file| (dir, file))) {
        cluster.turn(&Turn::Split(format!("{dir}/{file:02}")), &keys);
    }
    assert_eq!(cluster.tables.len(), 29);
    let query = ListQuery { bucket: BUCKET, prefix: String::new(), delimiter: "/".into(), after: None, max: 1_000 };
    let (page, questions) = gather(&mut cluster, &query, &keys, &mut std::iter::empty());
    assert_eq!(page.prefixes, ["0/", "1/", "2/", "3/"]);
    // The first range holds 0/; from there on the last range of each directory also begins the next one, and knows both.
    assert!(questions <= 6, "{questions} of 29 subtrees were asked for 4 prefixes");
}

#[test]
fn an_answer_that_cannot_be_right_spoils_the_page() {
    let keys: Vec<String> = ["a", "b", "c"].map(str::to_owned).into();
    let cluster = Cluster::new(&keys);
    let query = ListQuery { bucket: BUCKET, prefix: String::new(), delimiter: String::new(), after: Some("a".into()), max: 2 };
    let page = |query: &ListQuery| answer_of(&cluster.tables[&GroupId(0)], &ALL_NAMES, query, None).0;
    let wrong = [
        (None, page(&ListQuery { after: None, ..query.clone() })),
        (None, page(&ListQuery { max: 9, after: None, ..query.clone() })),
        (Some(NamePoint::new(BUCKET, "b")), page(&query)),
        (Some(NamePoint::new(BUCKET, "a")), page(&query)),
    ];
    for (end, answer) in wrong {
        assert!(Listing::new(query.clone()).heard(end.as_ref(), answer).is_err());
    }
    assert!(Listing::new(query.clone()).heard(None, page(&query)).is_ok());
}
