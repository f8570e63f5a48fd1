//! Several groups under the load of `conformance::history`, and what an operator changes about them meanwhile: for rows 1 and 2 of the
//! metadata cluster.
//!
//! The names of each lane and the halves of the chunks are groups of their own from the start. Afterwards changes are begun and not waited
//! for, so that faults come while they are under way; keys that are about to be used are split, too, so that listings go over two groups.

use crate::row::Said;
use conformance::cluster::{Cluster, Led};
use conformance::content::Dice;
use conformance::history::{self, BUCKET, KEYS, LANES, Work};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How long one move, and having a group led by another node, may take where nothing is in their way.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long moves may take that faults came upon, after the last fault.
const SETTLED: Duration = Duration::from_secs(120);
/// Ranges of each kind above which they are merged, not split.
const NAMES: usize = 6;
const CHUNKS: usize = 4;

fn border(lane: &str) -> String {
    format!("{BUCKET}/{lane}/")
}

/// Where the ranges of `kind` begin, and their groups, in order.
fn ranges(map: &Value, kind: &str) -> Vec<(String, u64)> {
    let each = map[kind].as_array().map_or(&[][..], Vec::as_slice).iter();
    each.filter_map(|range| Some((range["from"].as_str()?.to_owned(), range["owner"]["group"].as_u64()?))).collect()
}

/// All groups of the map.
fn groups(map: &Value) -> Vec<u64> {
    let all: BTreeSet<u64> = ["names", "chunks"].iter().flat_map(|kind| ranges(map, kind)).map(|(_, group)| group).collect();
    all.into_iter().collect()
}

/// Splits names at the lanes and chunks in the middle, and has one node after the other lead a group; how many groups there are.
///
/// # Errors
/// What could not be done.
pub fn spread(cluster: &Cluster) -> Result<usize, String> {
    for lane in &LANES[1..] {
        cluster.moved(&["split", "--at", &border(lane)], PATIENCE)?;
    }
    cluster.moved(&["split", "--chunk", "8"], PATIENCE)?;
    let groups = groups(&cluster.map().said("the map")?);
    for (nth, group) in groups.iter().enumerate() {
        cluster.lead(*group, nth % cluster.metadata.len(), PATIENCE)?;
    }
    Ok(groups.len())
}

/// The group that bears most, by what its leader says, once all groups have one that says it.
///
/// # Errors
/// Some group has none for long.
pub fn busiest(cluster: &Cluster) -> Result<Led, String> {
    let began = Instant::now();
    loop {
        let (known, led) = (groups(&cluster.map().said("the map")?), cluster.led().said("who leads")?);
        let busiest = led.iter().copied().max_by(|a, b| a.ops.total_cmp(&b.ops));
        match busiest.filter(|_| known.iter().all(|group| led.iter().any(|led| led.group == *group))) {
            Some(busiest) => return Ok(busiest),
            None if began.elapsed() > PATIENCE => return Err(format!("of groups {known:?} only these have a leader: {led:?}")),
            None => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}

/// What an operator has begun.
#[derive(Debug, Default)]
pub struct Changes {
    /// Numbers of the splits and merges.
    moves: Vec<u64>,
    /// Leaderships that were handed over.
    pub led: usize,
    /// What was not begun: a group that moves already, a node that is not back yet.
    pub refused: usize,
    asked: usize,
}

impl Changes {
    /// Begins one, and does not wait for its end; as a text.
    pub fn one(&mut self, cluster: &Cluster, work: &Work, dice: &mut Dice) -> String {
        self.asked += 1;
        let drawn = cluster.map().said("the map").and_then(|map| {
            let arguments = match self.asked % 4 {
                1 | 3 => names(&map, work.generation(), dice),
                2 => chunks(&map, dice),
                _ => lead(&map, cluster, dice),
            };
            let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
            cluster.order(&words).map(|told| (arguments, told))
        });
        let text = match &drawn {
            Ok((arguments, _)) => arguments.join(" "),
            Err(why) => why.clone(),
        };
        match drawn.map(|(_, told)| told["move"].as_u64()) {
            Ok(Some(number)) => self.moves.push(number),
            Ok(None) => self.led += 1,
            Err(_) => self.refused += 1,
        }
        text
    }

    /// Splits and merges that were begun.
    pub fn begun(&self) -> usize {
        self.moves.len()
    }

    /// Waits until all of them are over; how many were given up.
    ///
    /// # Errors
    /// One is not over in time.
    pub fn settle(&self, cluster: &Cluster) -> Result<usize, String> {
        Ok(cluster.over(&self.moves, SETTLED)?.iter().filter(|record| record["step"] == "GaveUp").count())
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_string()).collect()
}

/// A lane that has no group of its own any more gets one; keys that are used now or soon are split; neighbours are merged.
fn names(map: &Value, generation: u64, dice: &mut Dice) -> Vec<String> {
    let ranges = ranges(map, "names");
    let (at, next, merge) = (dice.below(KEYS), generation + dice.below(2) as u64, dice.chance(40));
    let missing = LANES[1..].iter().map(|lane| border(lane)).find(|border| ranges.iter().all(|(from, _)| from != border));
    match missing {
        Some(border) if ranges.len() <= LANES.len() => words(&["split", "--at", &border]),
        _ if ranges.len() > LANES.len() && (merge || ranges.len() >= NAMES) => {
            words(&["merge", &ranges[dice.below(ranges.len() - 1)].1.to_string()])
        }
        _ => words(&["split", "--at", &history::place(next, at)]),
    }
}

fn chunks(map: &Value, dice: &mut Dice) -> Vec<String> {
    let ranges = ranges(map, "chunks");
    let (digits, merge) = (format!("{:02x}", dice.between(1, 255)), dice.chance(50));
    if ranges.len() >= CHUNKS || (ranges.len() > 2 && merge) {
        return words(&["merge", &ranges[dice.below(ranges.len() - 1)].1.to_string(), "--chunks"]);
    }
    words(&["split", "--chunk", &digits])
}

fn lead(map: &Value, cluster: &Cluster, dice: &mut Dice) -> Vec<String> {
    let (groups, to) = (groups(map), &cluster.metadata[dice.below(cluster.metadata.len())].id);
    // The first is there whatever else is.
    let group = groups.get(dice.below(groups.len().max(1))).copied().unwrap_or_default();
    words(&["move", &group.to_string(), to])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn map_of(names: &[&str]) -> Value {
        let range = |(group, from): (usize, &&str)| json!({ "from": from, "owner": { "group": group } });
        json!({ "names": names.iter().enumerate().map(range).collect::<Vec<_>>(), "chunks": [] })
    }

    #[test]
    fn names_that_are_used_now_or_soon_are_split_while_there_are_few_ranges() {
        let map = map_of(&["", "histories/b/", "histories/c/"]);
        for seed in 0..50 {
            let drawn = names(&map, 7, &mut Dice::new(seed));
            assert_eq!(drawn[..2], ["split", "--at"]);
            assert!((0..KEYS).any(|number| [7, 8].iter().any(|generation| drawn[2] == history::place(*generation, number))), "{drawn:?}");
        }
    }

    #[test]
    fn a_lane_whose_group_was_merged_away_gets_one_again_and_many_ranges_are_merged() {
        for seed in 0..50 {
            let drawn = names(&map_of(&["", "histories/b/"]), 7, &mut Dice::new(seed));
            assert_eq!(drawn, ["split", "--at", "histories/c/"]);
            let many = ["", "histories/a/x", "histories/b/", "histories/b/x", "histories/c/", "histories/c/x"];
            let drawn = names(&map_of(&many), 7, &mut Dice::new(seed));
            // The last has no neighbour after it.
            assert!(drawn[0] == "merge" && drawn[1].parse::<usize>().unwrap() < many.len() - 1, "{drawn:?}");
        }
    }

    #[test]
    fn a_group_that_has_names_and_chunks_is_one() {
        let map = json!({
            "names": [{ "from": "", "owner": { "group": 0 } }, { "from": "x", "owner": { "group": 2 } }],
            "chunks": [{ "from": "00", "owner": { "group": 0 } }, { "from": "80", "owner": { "group": 1 } }],
        });
        assert_eq!(groups(&map), [0, 1, 2]);
    }
}
