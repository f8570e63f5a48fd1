//! Row 10 of the metadata cluster: what two hundred groups cost three processes while nobody asks for anything.
//!
//! Real processes, levelled out as they are by default. Every group has a range of names, split off as an operator does it, all three
//! processes as voters, and was written to; they are led by one after the other. Memory is what is resident of a process but for the pages of
//! LMDB's files, which are the kernel's to take back.
//! Cold neighbours are merged no sooner than a quarter of an hour after they were split, which is later than this ends: it would be seen.

use crate::row::{Outcome, Progress, Run, Said, mib, runtime};
use conformance::client::{self, Judge};
use conformance::cluster::{Cluster, Size};
use conformance::records::Pattern;
use metadata::router::Router;
use serde_json::Value;
use std::collections::BTreeMap;
use std::iter::once;
use std::time::{Duration, Instant};

const MEMORY: u64 = 256 << 20;
/// Of one core.
const CPU: f64 = 0.05;
const SIZE: Size = Size { metadata: 3, gateways: 1, nodes: 0 };
const BUCKET: &str = "idle";
/// Writes to each group before it is left alone.
const WRITES: usize = 20;
/// Longest wait for a move, or for another leader.
const PATIENCE: Duration = Duration::from_secs(60);
/// Moves side by side: as many as a cluster takes.
const AT_ONCE: usize = spine::limit::MOVES;

pub fn run(run: &Run) -> Outcome {
    let (count, rest) = (run.size(200, 40), Duration::from_secs(run.size(60, 15)));
    let cluster = Cluster::balanced(SIZE, "").said("a cluster")?;
    let runtime = runtime()?;
    let before = measure(&cluster, Duration::from_secs(10))?;
    println!("  with the root group alone: {}", before.text());
    let s3 = client::of(&cluster.gateways[0]);
    let (router, pattern) = runtime.block_on(async {
        s3.create_bucket().bucket(BUCKET).send().await.judged().said("a bucket")?;
        let router = Router::new(cluster.client()?);
        let pattern = Pattern::take(&s3, BUCKET, &router, run.seed).await?;
        Ok::<_, String>((router, pattern))
    })?;
    split(&cluster, count)?;
    let led = lead(&cluster, count)?;
    println!("  groups led: {led:?}");
    runtime.block_on(async {
        let mut progress = Progress::new();
        for part in 1..=count {
            for number in 0..WRITES {
                pattern.write(&router, once(key(part, number))).await.said(&key(part, number))?;
            }
            progress.say(|| format!("{part} of {count} groups written to"));
        }
        Ok::<_, String>(())
    })?;
    // Checkpoints come when nothing was written for some seconds.
    std::thread::sleep(Duration::from_secs(15));
    let after = measure(&cluster, rest)?;
    println!("  with {count} groups: {}", after.text());
    // They are all there, and serve.
    names(&cluster, count)?;
    runtime.block_on(async {
        for part in 1..=count {
            pattern.write(&router, once(key(part, WRITES))).await.said(&key(part, WRITES))?;
        }
        Ok::<_, String>(())
    })?;
    let figure = format!(
        "{count} groups with a range of names each on 3 nodes: {} beside LMDB's map in the largest process ({} with the root group alone), \
         {:.1} % of a core in the busiest ({:.1} % alone)",
        mib(after.memory),
        mib(before.memory),
        after.cpu * 100.0,
        before.cpu * 100.0
    );
    if after.memory <= MEMORY && after.cpu < CPU { Ok(figure) } else { Err(figure) }
}

/// Where the `part`th range begins: the first key in it.
fn directory(part: usize) -> String {
    format!("part-{part:04}/")
}

fn key(part: usize, number: usize) -> String {
    format!("{}key-{number:02}", directory(part))
}

/// 1 to `count`, the middle first, then the middles of both halves, and so on: those of one level are in different ranges.
fn levels(count: usize) -> Vec<Vec<usize>> {
    let (mut levels, mut parts) = (Vec::new(), vec![(0, count + 1)]);
    while !parts.is_empty() {
        let cut = parts.iter().filter(|(from, to)| to - from > 1).map(|(from, to)| (*from, (from + to) / 2, *to));
        let cut: Vec<(usize, usize, usize)> = cut.collect();
        parts = cut.iter().flat_map(|(from, at, to)| [(*from, *at), (*at, *to)]).collect();
        levels.push(cut.into_iter().map(|(_, at, _)| at).collect());
    }
    levels
}

/// Gives so many ranges of names a group each.
fn split(cluster: &Cluster, count: usize) -> Result<(), String> {
    let (began, mut progress, mut done) = (Instant::now(), Progress::new(), 0);
    for level in levels(count) {
        for some in level.chunks(AT_ONCE) {
            let begun = some.iter().map(|part| begin(cluster, *part)).collect::<Result<Vec<u64>, String>>()?;
            let given_up = cluster.over(&begun, PATIENCE)?.into_iter().find(|record| record["step"] != "Done");
            if let Some(record) = given_up {
                return Err(format!("a split was given up: {record}"));
            }
            done += some.len();
            progress.say(|| format!("{done} of {count} groups"));
        }
    }
    println!("  {count} ranges of names split off in {:.1?}", began.elapsed());
    Ok(())
}

/// Begins the split before a part; asked again where another one changed the map meanwhile.
fn begin(cluster: &Cluster, part: usize) -> Result<u64, String> {
    let (at, began) = (format!("{BUCKET}/{}", directory(part)), Instant::now());
    loop {
        match cluster.order(&["split", "--at", &at]) {
            Ok(begun) => return begun["move"].as_u64().ok_or_else(|| format!("a split without a number: {begun}")),
            Err(error) if began.elapsed() > PATIENCE => return Err(format!("a split at {at} is not begun: {error}")),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// The map's ranges of names, which have to be these.
fn names(cluster: &Cluster, count: usize) -> Result<Vec<Value>, String> {
    let map = cluster.map().said("the map")?;
    let names = map["names"].as_array().cloned().unwrap_or_default();
    let begins = |part: usize| names.get(part).is_some_and(|range| range["from"] == format!("{BUCKET}/{}", directory(part)));
    if names.len() == count + 1 && (1..=count).all(begins) {
        return Ok(names);
    }
    Err(format!("the map has {} ranges of names, and not those that were made: {map:#}", names.len()))
}

/// Has the processes lead one group after the other; how many each leads.
fn lead(cluster: &Cluster, count: usize) -> Result<Vec<usize>, String> {
    let mut progress = Progress::new();
    for (nth, range) in names(cluster, count)?.iter().enumerate() {
        let (owner, to) = (&range["owner"], nth % cluster.metadata.len());
        let group = owner["group"].as_u64().ok_or_else(|| format!("a range without a group: {range}"))?;
        if owner["leader"] != cluster.metadata[to].id.as_str() {
            cluster.lead(group, to, PATIENCE)?;
        }
        progress.say(|| format!("{nth} of {count} groups have their leader"));
    }
    let mut led: BTreeMap<String, usize> = BTreeMap::new();
    for range in names(cluster, count)? {
        *led.entry(range["owner"]["leader"].to_string()).or_default() += 1;
    }
    Ok(led.into_values().collect())
}

/// Of the process that has most.
struct Cost {
    memory: u64,
    cpu: f64,
    each: Vec<(u64, u64, f64)>,
}

impl Cost {
    fn text(&self) -> String {
        let each = self
            .each
            .iter()
            .map(|(memory, mapped, cpu)| format!("{} and {} of LMDB's files, {:.2} %", mib(*memory), mib(*mapped), cpu * 100.0));
        each.collect::<Vec<_>>().join("; ")
    }
}

/// Memory now, CPU over `time`.
fn measure(cluster: &Cluster, time: Duration) -> Result<Cost, String> {
    let cpu = || cluster.metadata.iter().map(|node| node.cpu()).collect::<Vec<_>>();
    let (began, before) = (Instant::now(), cpu());
    std::thread::sleep(time);
    let (seconds, after) = (began.elapsed().as_secs_f64(), cpu());
    let mut each = Vec::new();
    for (node, (before, after)) in cluster.metadata.iter().zip(before.into_iter().zip(after)) {
        let (memory, mapped) = node.resident(".mdb").said("a process's memory")?;
        each.push((memory, mapped, after.saturating_sub(before).as_secs_f64() / seconds));
    }
    let memory = each.iter().map(|(memory, ..)| *memory).max().unwrap_or(0);
    let cpu = each.iter().map(|(.., cpu)| *cpu).fold(0.0, f64::max);
    Ok(Cost { memory, cpu, each })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_part_is_split_off_once_and_no_two_of_one_level_out_of_the_same_range() {
        for count in [1, 2, 3, 16, 40, 200] {
            let (levels, mut starts) = (levels(count), BTreeSet::from([0]));
            for level in &levels {
                let ranges: BTreeSet<usize> = level.iter().filter_map(|part| starts.range(..part).next_back().copied()).collect();
                assert_eq!(ranges.len(), level.len(), "{count}: {levels:?}");
                starts.extend(level);
            }
            assert_eq!(starts, (0..=count).collect(), "{count}: {levels:?}");
        }
    }
}
