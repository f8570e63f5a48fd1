//! Row 5 of the metadata cluster: ten million keys of one bucket over several subtrees, listed while subtrees are split, merged and handed over.
//!
//! Three metadata processes, one gateway. The bucket's names are in four groups before the first key is there, led by the three in turn.
//! The keys are written as what the PUT of an empty object leaves: one is put by an S3 client, its record is read, and every key gets the
//! same record under a version of its own, a directory in one batch, through the gateways' own router.
//! Then an S3 client lists everything while others change the groups: the last part of one group's range is split off, led by another
//! process, and merged again, one group after the other. Every key of every page is compared with the one that has to come next, so that
//! one that is missing, doubled or out of order is seen at once.

use crate::row::{Outcome, Progress, Run, Said, runtime};
use aws_sdk_s3::Client as S3;
use conformance::client::{self, Judge};
use conformance::cluster::{Cluster, Size};
use conformance::records::Pattern;
use conformance::server::allocated;
use metadata::router::Router;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const SIZE: Size = Size { metadata: 3, gateways: 1, nodes: 0 };
const BUCKET: &str = "names";
const GROUPS: usize = 4;
/// Batches on their way while the bucket is filled.
const WRITERS: usize = 8;
const ALL: Duration = Duration::from_secs(600);
const PAGE: Duration = Duration::from_millis(100);
/// How long one split or merge may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// Longest wait for a leader.
const LEADER: Duration = Duration::from_secs(20);

/// How many keys, and how they are named.
#[derive(Clone, Copy)]
struct Shape {
    directories: usize,
    each: usize,
}

impl Shape {
    fn keys(self) -> usize {
        self.directories * self.each
    }

    fn key(self, number: usize) -> String {
        format!("{}key-{:06}", directory(number / self.each), number % self.each)
    }
}

fn directory(number: usize) -> String {
    format!("dir-{number:05}/")
}

pub fn run(run: &Run) -> Outcome {
    let shape = run.size(Shape { directories: 10_000, each: 1_000 }, Shape { directories: 1_000, each: 100 });
    // Few pages make no p99.
    let (times, rolls) = run.size((1, 3), (10, 10));
    let cluster = Cluster::start(SIZE, "").said("a cluster")?;
    let s3 = client::of(&cluster.gateways[0]);
    let runtime = runtime()?;
    runtime.block_on(s3.create_bucket().bucket(BUCKET).send()).judged().said("a bucket")?;
    for part in 1..GROUPS {
        split(&cluster, shape.directories * part / GROUPS)?;
        lead(&cluster, shape.directories * part / GROUPS, part % SIZE.metadata)?;
    }
    runtime.block_on(async {
        let router = Router::new(cluster.client()?);
        fill(&s3, router, shape, run.seed).await
    })?;
    let bytes: u64 = cluster.metadata.iter().map(|node| allocated(&node.data())).sum();
    println!("  {} bytes of disk a key on three replicas", bytes / shape.keys() as u64);
    let stop = AtomicBool::new(false);
    let (listed, changes) = std::thread::scope(|scope| {
        let changing = scope.spawn(|| change(&cluster, shape, &stop));
        let listed = runtime.block_on(list(&s3, shape, times, rolls));
        stop.store(true, Ordering::Relaxed);
        (listed, changing.join())
    });
    let changes = changes.map_err(|_| "the thread that changes groups panicked")??;
    let listed = listed?;
    let (frozen, bound) = cluster.freezes(99.0).said("the metadata processes' metrics")?;
    println!("  {frozen} ranges frozen, p99 within {:.0} ms", bound * 1e3);
    let figure = format!(
        "{} keys over {GROUPS} to {} groups in {:.1} s, page p50 {:.1} ms, p99 {:.1} ms of {} pages; {} prefixes in {:.2} s; meanwhile {} splits, \
         {} merges, {} leaders changed; none missing, none doubled",
        shape.keys(),
        GROUPS + 1,
        listed.all.as_secs_f64(),
        listed.at(50),
        listed.at(99),
        listed.pages.len(),
        shape.directories,
        listed.rolled.as_secs_f64(),
        changes.splits,
        changes.merges,
        changes.leads
    );
    let changed = changes.splits > 0 && changes.merges > 0;
    if changed && listed.all < ALL && listed.at(99) < PAGE.as_secs_f64() * 1e3 { Ok(figure) } else { Err(figure) }
}

/// The map's range that begins at this directory: its group, and who leads that.
fn owner(cluster: &Cluster, at: usize) -> Result<(u64, Option<String>), String> {
    let map = cluster.map().said("the map")?;
    let from = format!("{BUCKET}/{}", directory(at));
    let ranges = map["names"].as_array().map_or(&[][..], Vec::as_slice);
    let range = ranges.iter().find(|range| range["from"] == from.as_str());
    let range = range.ok_or_else(|| format!("no range begins at {from}: {map:#}"))?;
    let group = range["owner"]["group"].as_u64().ok_or("a range without a group")?;
    Ok((group, range["owner"]["leader"].as_str().map(str::to_owned)))
}

fn split(cluster: &Cluster, at: usize) -> Result<(), String> {
    cluster.moved(&["split", "--at", &format!("{BUCKET}/{}", directory(at))], PATIENCE)
}

/// Has a process lead the group of the range that begins here.
fn lead(cluster: &Cluster, at: usize, to: usize) -> Result<(), String> {
    cluster.lead(owner(cluster, at)?.0, to, LEADER)
}

/// What was done while the bucket was listed.
#[derive(Default)]
struct Changes {
    splits: u32,
    merges: u32,
    leads: u32,
}

/// Splits off the last hundredth or twentieth of one group after the other, has another process lead it, and merges it again.
fn change(cluster: &Cluster, shape: Shape, stop: &AtomicBool) -> Result<Changes, String> {
    let mut changes = Changes::default();
    for turn in 0.. {
        let share = if turn % 2 == 0 { 100 } else { 20 };
        let (part, width) = (turn % GROUPS, (shape.directories / share).min(shape.directories / GROUPS - 1));
        let (begins, at) = (shape.directories * part / GROUPS, shape.directories * (part + 1) / GROUPS - width);
        let began = Instant::now();
        split(cluster, at)?;
        changes.splits += 1;
        let split_for = began.elapsed();
        let (_, leader) = owner(cluster, at)?;
        let other = cluster.metadata.iter().position(|node| leader.as_deref() != Some(node.id.as_str())).unwrap_or(0);
        lead(cluster, at, other)?;
        changes.leads += 1;
        // The first range of names begins before the bucket.
        let into = if part == 0 { first(&cluster.map().said("the map")?)? } else { owner(cluster, begins)?.0 };
        let began = Instant::now();
        cluster.moved(&["merge", &into.to_string()], PATIENCE)?;
        changes.merges += 1;
        println!("  {} keys: split off in {split_for:.1?}, merged again in {:.1?}", width * shape.each, began.elapsed());
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    Ok(changes)
}

fn first(map: &Value) -> Result<u64, String> {
    map["names"][0]["owner"]["group"].as_u64().ok_or_else(|| format!("a map without ranges: {map:#}"))
}

/// Writes all keys.
async fn fill(s3: &S3, router: Arc<Router>, shape: Shape, seed: u64) -> Result<(), String> {
    let pattern = Arc::new(Pattern::take(s3, BUCKET, &router, seed).await?);
    let next = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (router, pattern, next) = (router.clone(), pattern.clone(), next.clone());
            tokio::spawn(async move {
                let mut progress = Progress::new();
                loop {
                    let nth = next.fetch_add(1, Ordering::Relaxed);
                    if nth >= shape.directories {
                        return Ok::<(), String>(());
                    }
                    // One group after the other, so that all have work.
                    let directory = nth / GROUPS + nth % GROUPS * (shape.directories / GROUPS);
                    let keys = directory * shape.each..(directory + 1) * shape.each;
                    pattern.write(&router, keys.map(|number| shape.key(number))).await?;
                    if writer == 0 {
                        let keys = nth * shape.each;
                        progress.say(|| format!("{keys} of {} keys, {:.0}/s", shape.keys(), keys as f64 / began.elapsed().as_secs_f64()));
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.said("a writer")??;
    }
    println!("  {} keys written in {:.0?}", shape.keys(), began.elapsed());
    // Some of them as a client reads them.
    for number in (0..shape.keys()).step_by(shape.keys() / 100) {
        let got = s3.get_object().bucket(BUCKET).key(shape.key(number)).send().await.judged().said("a GET")?;
        if got.e_tag() != Some(pattern.etag.as_str()) || !got.body.collect().await.said("a body")?.into_bytes().is_empty() {
            return Err(format!("{} is not what was written", shape.key(number)));
        }
    }
    Ok(())
}

/// What listing took.
struct Listed {
    /// The whole bucket, the slowest time.
    all: Duration,
    /// Each page of the whole, sorted.
    pages: Vec<Duration>,
    /// All prefixes, the slowest time.
    rolled: Duration,
}

impl Listed {
    /// Milliseconds.
    fn at(&self, percent: usize) -> f64 {
        self.pages[(self.pages.len() * percent / 100).min(self.pages.len() - 1)].as_secs_f64() * 1e3
    }
}

async fn list(s3: &S3, shape: Shape, times: usize, rolls: usize) -> Result<Listed, String> {
    let mut listed = Listed { all: Duration::ZERO, pages: Vec::new(), rolled: Duration::ZERO };
    for _ in 0..times {
        let began = Instant::now();
        whole(s3, shape, &mut listed.pages).await?;
        listed.all = listed.all.max(began.elapsed());
    }
    for _ in 0..rolls {
        let began = Instant::now();
        rolled_up(s3, shape).await?;
        listed.rolled = listed.rolled.max(began.elapsed());
    }
    listed.pages.sort_unstable();
    Ok(listed)
}

async fn whole(s3: &S3, shape: Shape, pages: &mut Vec<Duration>) -> Result<(), String> {
    let (mut token, mut seen) = (None, 0);
    let mut progress = Progress::new();
    loop {
        let asked = Instant::now();
        let page = s3.list_objects_v2().bucket(BUCKET).set_continuation_token(token).send().await.judged().said("a page")?;
        pages.push(asked.elapsed());
        for object in page.contents() {
            let expected = shape.key(seen);
            if seen == shape.keys() || object.key() != Some(expected.as_str()) {
                return Err(format!("{:?} was listed where {expected} had to be", object.key()));
            }
            seen += 1;
        }
        progress.say(|| format!("{seen} of {} keys listed", shape.keys()));
        token = page.next_continuation_token().map(str::to_owned);
        if token.is_none() {
            return if seen == shape.keys() { Ok(()) } else { Err(format!("{seen} of {} keys were listed", shape.keys())) };
        }
    }
}

async fn rolled_up(s3: &S3, shape: Shape) -> Result<(), String> {
    let (mut token, mut seen) = (None, 0);
    loop {
        let request = s3.list_objects_v2().bucket(BUCKET).delimiter("/").set_continuation_token(token);
        let page = request.send().await.judged().said("a page of prefixes")?;
        for prefix in page.common_prefixes() {
            if seen == shape.directories || prefix.prefix() != Some(directory(seen).as_str()) {
                return Err(format!("{:?} was listed as the {seen}-th prefix", prefix.prefix()));
            }
            seen += 1;
        }
        token = page.next_continuation_token().map(str::to_owned);
        if token.is_none() {
            return if seen == shape.directories { Ok(()) } else { Err(format!("{seen} of {} prefixes were listed", shape.directories)) };
        }
    }
}
