use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const BUCKET: BucketId = BucketId(7);
const HALF_LIFE: u64 = 60_000;

/// Every directory's heat as it truly is: nothing forgotten but by time.
#[derive(Default)]
struct Truth {
    heat: BTreeMap<Vec<u8>, f64>,
    at: u64,
}

impl Truth {
    fn hit(&mut self, key: &[u8], hits: f64, now: u64) {
        self.fade(now);
        let mut directory = Vec::new();
        *self.heat.entry(Vec::new()).or_default() += hits;
        for component in components(key) {
            directory.extend_from_slice(component);
            *self.heat.entry(directory.clone()).or_default() += hits;
        }
    }

    fn fade(&mut self, now: u64) {
        let fade = (-((now - self.at) as f64) / HALF_LIFE as f64).exp2();
        self.heat.values_mut().for_each(|heat| *heat *= fade);
        self.at = now;
    }
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-6 * (1.0 + a.abs().max(b.abs()))
}

fn key() -> impl Strategy<Value = String> {
    prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("."), Just("/"), Just("/"), Just("c/d/"), Just("0")], 0..8)
        .prop_map(|pieces| pieces.concat())
}

/// A path from a few directories that are often hit and many that are not.
fn skewed() -> impl Strategy<Value = String> {
    (0..12u32, 0..40u32, 0..40u32).prop_map(|(draw, a, b)| match draw {
        0..6 => format!("hot/{}/x", a % 2),
        6..9 => format!("warm{}/x", a % 8),
        _ => format!("cold{a}/deep{b}/x"),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn with_room_enough_every_directory_has_exactly_its_heat_and_its_ancestors_have_it_too(
        hits in prop::collection::vec((key(), 1..5u32, 0..40_000u64), 1..40),
    ) {
        let mut tree = Popularity::new(HALF_LIFE, 10_000, UnixMs(0));
        let mut truth = Truth::default();
        let mut now = 0;
        for (key, hits, later) in hits {
            now += later;
            tree.hit(BUCKET, key.as_bytes(), f64::from(hits), UnixMs(now));
            truth.hit(key.as_bytes(), f64::from(hits), now);
        }
        prop_assert_eq!(tree.error(), 0.0);
        for (directory, heat) in &truth.heat {
            let found = tree.heat(BUCKET, directory, UnixMs(now));
            prop_assert!(near(found.heat, *heat) && found.missing == 0.0, "{found:?} {heat}");
        }
        // The slices of any fineness bear all of it, in order.
        for most in [1, 3, 8] {
            let slices = tree.slices(&NamePoint::new(BUCKET, ""), most, UnixMs(now));
            prop_assert!(slices.len() <= 2 * most + 1);
            prop_assert!(slices.windows(2).all(|pair| pair[0].from < pair[1].from));
            prop_assert!(near(slices.iter().map(|slice| slice.heat).sum(), tree.total(UnixMs(now))));
        }
    }

    #[test]
    fn with_too_little_room_the_truth_lies_between_what_it_says_and_what_it_says_is_missing(
        hits in prop::collection::vec((skewed(), 0..3_000u64), 100..600),
    ) {
        let mut tree = Popularity::new(HALF_LIFE, 0, UnixMs(0));
        let mut truth = Truth::default();
        let mut now = 0;
        for (key, later) in hits {
            now += later;
            tree.hit(BUCKET, key.as_bytes(), 1.0, UnixMs(now));
            truth.hit(key.as_bytes(), 1.0, now);
            prop_assert!(tree.len() <= LEAST);
        }
        for (directory, heat) in &truth.heat {
            let found = tree.heat(BUCKET, directory, UnixMs(now));
            let (least, most) = (found.heat - 1e-6, found.heat + found.missing + 1e-6);
            prop_assert!((least..=most).contains(heat), "{:?}: {found:?} {heat}", String::from_utf8_lossy(directory));
            prop_assert!(found.missing <= tree.error() * tree.total(UnixMs(now)) + 1e-6);
        }
        // What is truly hot is known to be, and the error stays a small share of all: half the hits are on two directories.
        prop_assert!(tree.error() <= 0.25, "error {}", tree.error());
    }

    #[test]
    fn a_tree_that_was_split_and_merged_again_bears_the_same(
        hits in prop::collection::vec((key(), 1..5u32), 1..40),
        at in key(),
    ) {
        let mut whole = Popularity::new(HALF_LIFE, 10_000, UnixMs(0));
        for (key, hits) in &hits {
            whole.hit(BUCKET, key.as_bytes(), f64::from(*hits), UnixMs(5));
        }
        let now = UnixMs(9_000);
        let point = NamePoint::new(BUCKET, at.as_str());
        let mut left = whole.clone();
        let right = left.split(&point, now);
        prop_assert!(near(left.total(now) + right.total(now), whole.total(now)));
        for hot in left.hottest(1_000, now).iter().filter(|hot| NamePoint::new(hot.bucket, hot.directory.clone()) >= point) {
            prop_assert!(hot.heat.heat <= 1e-9, "{hot:?} lies right of the cut");
        }
        left.merge(&right, now);
        for hot in whole.hottest(1_000, now) {
            let found = left.heat(hot.bucket, &hot.directory, now);
            prop_assert!(near(found.heat, hot.heat.heat), "{hot:?} {found:?}");
        }
    }
}

#[test]
fn a_slice_is_cut_where_directories_begin() {
    let mut tree = Popularity::new(HALF_LIFE, 1_000, UnixMs(0));
    for (key, hits) in [("a/x", 10.0), ("b/one/x", 30.0), ("b/two/x", 40.0), ("c/x", 20.0)] {
        tree.hit(BUCKET, key.as_bytes(), hits, UnixMs(0));
    }
    let slices = tree.slices(&NamePoint::new(BUCKET, ""), 4, UnixMs(0));
    let expected = [("", 10.0), ("b/one/", 30.0), ("b/two/", 40.0), ("c/", 20.0)];
    let expected: Vec<Slice> =
        expected.iter().map(|(key, heat)| Slice { from: Cut::Names(NamePoint::new(BUCKET, *key)), heat: *heat }).collect();
    assert_eq!(slices, expected);
    // A subtree that begins later is never cut before its beginning.
    assert_eq!(tree.slices(&NamePoint::new(BUCKET, "b/three"), 4, UnixMs(0))[0].from, Cut::Names(NamePoint::new(BUCKET, "b/three")));
}

#[test]
fn heat_fades_over_any_time_without_running_out_of_numbers() {
    let mut tree = Popularity::new(1_000, 100, UnixMs(0));
    tree.hit(BUCKET, b"a/x", 8.0, UnixMs(0));
    assert!(near(tree.heat(BUCKET, b"a/", UnixMs(3_000)).heat, 1.0));
    for second in (0..2_000_000).step_by(50) {
        tree.hit(BUCKET, b"b/x", 1.0, UnixMs(second * 1_000));
        assert!(tree.total(UnixMs(second * 1_000)).is_finite());
    }
    let now = UnixMs(2_000_000_000);
    assert!(tree.heat(BUCKET, b"a/", now).heat < 1e-9);
    assert!(tree.heat(BUCKET, b"b/", now).heat < 1.0);
    tree.hit(BUCKET, b"c/x", 4.0, UnixMs(now.0 + 100_000_000));
    assert!(near(tree.total(UnixMs(now.0 + 100_000_000)), 4.0));
    tree.hit(BUCKET, b"c/x", f64::NAN, now);
    tree.hit(BUCKET, b"c/x", f64::INFINITY, now);
    assert!(tree.total(UnixMs(now.0 + 100_000_000)).is_finite());
}

#[test]
fn a_path_of_a_thousand_directories_counts_for_its_first_sixteen() {
    let mut tree = Popularity::new(1_000, 0, UnixMs(0));
    let deep = "a/".repeat(512);
    for n in 0..200 {
        tree.hit(BUCKET, format!("{n}/{deep}").as_bytes(), 1.0, UnixMs(0));
        assert!(tree.len() <= LEAST);
    }
    assert!(near(tree.total(UnixMs(0)), 200.0));
}
