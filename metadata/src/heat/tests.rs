use super::*;
use spine::id::{BucketId, ChunkId, VersionId};
use spine::map::NamePoint;
use spine::wire::chunk::ChunkCommand;
use spine::wire::namespace::{Condition, ListQuery, NamespaceCommand, NamespaceQuery};
use spine::wire::range::{ALL_CHUNKS, ALL_NAMES, RangeQuery, Span};
use spine::wire::root::RootQuery;
use spine::wire::{Chain, Command};

const ROOT: GroupId = GroupId(0);
const BUCKET: BucketId = BucketId(3);

fn delete(key: &str) -> Batch {
    let command = NamespaceCommand::Delete { bucket: BUCKET, key: key.into(), condition: Condition::default() };
    Batch { chain: Chain::Stop, commands: vec![Command::Namespace(command)] }
}

fn head(key: &str) -> Query {
    Query::Namespace(NamespaceQuery::Head { bucket: BUCKET, key: key.into() })
}

fn reserve(chunks: &[u8]) -> Batch {
    let chunks = chunks.iter().map(|first| ChunkId([*first; 32])).collect();
    Batch { chain: Chain::Stop, commands: vec![Command::Chunk(ChunkCommand::Reserve { version: VersionId([1; 16]), chunks })] }
}

fn all() -> Owned {
    Owned { names: Some(ALL_NAMES), chunks: Some(ALL_CHUNKS) }
}

/// One process with one group, second by second.
struct One {
    heat: Heat,
    tally: Tally,
    now: u64,
    term: u64,
    leads: bool,
    owned: Owned,
}

impl One {
    fn new() -> One {
        let one = One { heat: Heat::new(), tally: Tally::default(), now: 0, term: 1, leads: true, owned: all() };
        one.tick();
        one
    }

    fn seen(&self) -> Seen {
        Seen { group: ROOT, leads: self.leads, term: self.term, others: 2, counts: self.tally.counts() }
    }

    fn tick(&self) {
        let owned = self.owned.clone();
        self.heat.tick(&[self.seen()], |_| Some(owned.clone()), Duration::from_millis(self.now / 10), UnixMs(self.now));
    }

    /// A second in which each of these is done so many times.
    fn second(&mut self, batches: &[(Batch, usize)], queries: &[(Query, usize)]) {
        for (batch, times) in batches {
            (0..*times).for_each(|_| self.heat.proposed(ROOT, &self.tally, batch));
            self.tally.applied(*times as u64, *times as u64 * 100);
        }
        for (query, times) in queries {
            (0..*times).for_each(|_| self.heat.queried(ROOT, &self.tally, query));
        }
        self.now += 1_000;
        self.tick();
    }

    fn told(&self) -> Told {
        self.heat.told(UnixMs(self.now)).remove(&ROOT).unwrap()
    }
}

fn near(is: f64, ought: f64) {
    assert!((is - ought).abs() <= 0.05 * ought.abs() + 0.5, "{is} instead of {ought}");
}

#[test]
fn a_leader_counts_commands_queries_bytes_and_its_share_of_the_cpu_from_the_first_second_on() {
    let mut one = One::new();
    for second in 1..=60 {
        one.second(&[(delete("a/x"), 30)], &[(head("a/x"), 70)]);
        if second >= 3 {
            let load = one.told().load;
            near(load.ops, 100.0);
            near(load.bytes / 100.0, 90.0);
            near(load.cpu * 1_000.0, 100.0);
        }
    }
    near(one.heat.whole(UnixMs(one.now)).ops, 100.0);
}

#[test]
fn a_follower_counts_what_it_applies_at_a_followers_price_and_knows_no_places() {
    let mut one = One::new();
    (one.leads, one.term) = (false, 2);
    for _ in 0..40 {
        one.second(&[(delete("a/x"), 50)], &[]);
    }
    let told = one.told();
    near(told.load.ops, 50.0 * FOLLOWED / ANSWERED);
    assert_eq!((told.slices, told.hottest), (Vec::new(), Vec::new()));
}

#[test]
fn a_new_term_begins_anew() {
    let mut one = One::new();
    (0..20).for_each(|_| one.second(&[(delete("a/x"), 100)], &[]));
    one.term = 2;
    (0..5).for_each(|_| one.second(&[(delete("b/x"), 10)], &[]));
    let told = one.told();
    near(told.load.ops, 10.0);
    assert!(told.hottest.iter().all(|hot| !hot.directory.starts_with(b"a/")), "{:?}", told.hottest);
}

#[test]
fn a_movers_orders_and_questions_count_for_nothing() {
    let mut one = One::new();
    for _ in 0..5 {
        one.second(&[], &[(Query::Range(RangeQuery::Status), 1_000)]);
    }
    assert_eq!(one.told().load.ops, 0.0);
}

#[test]
fn the_hottest_directories_and_the_cuts_are_where_the_hits_are() {
    let mut one = One::new();
    let list = ListQuery { bucket: BUCKET, prefix: "m/".into(), delimiter: String::new(), after: None, max: 10 };
    let list = Query::Namespace(NamespaceQuery::List { query: list, place: None });
    let root = Query::Root(RootQuery::Map { known: None });
    for _ in 0..20 {
        one.second(&[(delete("a/1/x"), 40)], &[(head("z/9/y"), 40), (list.clone(), 10), (root.clone(), 10)]);
    }
    let told = one.told();
    assert_eq!(told.hottest[0].directory, "", "the bucket itself has all of them");
    near(told.hottest[0].heat as f64 / 1e3, 90.0);
    let of = |directory: &str| told.hottest.iter().find(|hot| hot.directory == directory).map_or(0.0, |hot| hot.heat as f64 / 1e3);
    near(of("a/1/"), 40.0);
    near(of("z/"), 40.0);
    near(of("m/"), 10.0);
    // What cannot be given away comes first, and can be left behind by giving away all names.
    assert_eq!(told.slices[0].from, told.slices[1].from);
    near(told.slices[0].heat as f64 / 1e3, 10.0);
    near(told.slices.iter().map(|slice| slice.heat as f64 / 1e3).sum(), 100.0);
    assert!(told.slices[1..].windows(2).all(|pair| pair[0].from < pair[1].from), "{:?}", told.slices);
    let at_z = told.slices.iter().filter(|slice| matches!(&slice.from, Cut::Names(at) if at.key.starts_with(b"z/")));
    near(at_z.map(|slice| slice.heat as f64 / 1e3).sum(), 40.0);
}

#[test]
fn what_is_given_away_takes_its_heat_and_its_load_with_it_at_once() {
    let mut one = One::new();
    (0..30).for_each(|_| one.second(&[(delete("a/x"), 30), (delete("z/x"), 90)], &[]));
    near(one.told().load.ops, 120.0);
    let start = NamePoint::new(BucketId(0), "");
    one.owned.names = Some(Span { start, end: Some(NamePoint::new(BUCKET, "m")) });
    one.second(&[(delete("a/x"), 30)], &[]);
    let told = one.told();
    near(told.load.ops, 30.0);
    assert!(told.hottest.iter().all(|hot| !hot.directory.starts_with(b"z/")), "{:?}", told.hottest);
    // One that comes late, because its sender had an old map, is nowhere to cut at.
    one.second(&[(delete("a/x"), 30), (delete("z/x"), 90)], &[]);
    let inside = |slice: &HeatSlice| matches!(&slice.from, Cut::Names(at) if *at < NamePoint::new(BUCKET, "m"));
    assert!(one.told().slices.iter().all(inside), "{:?}", one.told().slices);
}

#[test]
fn chunks_are_cut_evenly_where_they_are_what_is_hit() {
    let mut one = One::new();
    for round in 0..20u8 {
        let batches: Vec<_> = (0..16).map(|first| (reserve(&[first * 16 + round % 16, first * 16]), 4)).collect();
        one.second(&batches, &[(head("a/x"), 5)]);
    }
    let told = one.told();
    let cuts: Vec<u8> =
        told.slices.iter().filter_map(|slice| if let Cut::Chunks(at) = &slice.from { Some(at.0[0]) } else { None }).collect();
    assert_eq!(cuts.len(), told.slices.len());
    assert_eq!(cuts[1..], (0..16).map(|first| first * 16).collect::<Vec<u8>>());
    near(told.slices[0].heat as f64 / 1e3, 5.0);
    told.slices[1..].iter().for_each(|slice| near(slice.heat as f64 / 1e3, 4.0));
    // Half of them given away.
    let mut half = [0; 32];
    half[0] = 128;
    one.owned.chunks = Some(Span { start: ChunkId([0; 32]), end: Some(ChunkId(half)) });
    one.second(&[(reserve(&[1]), 32)], &[(head("a/x"), 5)]);
    near(one.told().load.ops, 37.0);
}

#[test]
fn more_hits_than_are_kept_still_count_for_all() {
    let mut one = One::new();
    for _ in 0..4 {
        one.second(&[(delete("a/x"), 40_000), (delete("b/x"), 10_000)], &[]);
    }
    let told = one.told();
    near(told.load.ops, 50_000.0);
    let of = |directory: &str| told.hottest.iter().find(|hot| hot.directory == directory).map_or(0.0, |hot| hot.heat as f64 / 1e3);
    assert!((of("a/") - 40_000.0).abs() < 4_000.0, "{}", of("a/"));
    assert!((of("b/") - 10_000.0).abs() < 2_000.0, "{}", of("b/"));
}

#[test]
fn what_is_told_of_many_groups_with_long_names_is_bounded_and_the_hottest_come_first() {
    let heat = Heat::new();
    let tallies: Vec<Tally> = (0..400).map(|_| Tally::default()).collect();
    let seen = |tallies: &[Tally]| -> Vec<Seen> {
        let one = |(group, tally): (usize, &Tally)| Seen {
            group: GroupId(group as u32),
            leads: true,
            term: 1,
            others: 2,
            counts: tally.counts(),
        };
        tallies.iter().enumerate().map(one).collect()
    };
    heat.tick(&seen(&tallies), |_| Some(all()), Duration::ZERO, UnixMs(0));
    for second in 1..=3u64 {
        for (group, tally) in tallies.iter().enumerate() {
            for directory in 0..20 {
                let key = format!("{}/{directory:02}-{}/x", "n".repeat(180), "m".repeat(60));
                (0..1 + group / 100).for_each(|_| heat.proposed(GroupId(group as u32), tally, &delete(&key)));
            }
        }
        heat.tick(&seen(&tallies), |_| Some(all()), Duration::ZERO, UnixMs(second * 1_000));
    }
    let told = heat.told(UnixMs(3_000));
    let bytes: usize = told.values().flat_map(|told| &told.slices).map(bytes_of).sum();
    assert!(bytes <= CUTS_BYTES, "{bytes}");
    assert!(!told[&GroupId(399)].slices.is_empty(), "the hottest");
    assert!(told.values().any(|told| told.slices.is_empty()), "the coldest");
}
