//! Row 8 of the fleet: what clients feel of a rebuild. RS 4+2 over ten nodes.
//!
//! Four kinds of requests come at fixed rates, whether the ones before have ended or not: 64 KiB and 16 MiB, written and read, the
//! 64 KiB in objects of their own. First for a while with nothing else going on; then a node is killed for good, and what it held is made
//! again on the others, and another and another, until there is as much time of rebuilding. Only what began while repair was at work
//! counts: from the first shard made again until nothing is owed. A request that fails is the slowest of all.

use crate::row::{Outcome, Run, Said, runtime};
use aws_sdk_s3::Client;
use conformance::client::{self, Judge};
use conformance::content::Content;
use conformance::fleet::{Fleet, serving};
use serde_json::Value;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

const NODES: usize = 10;
/// What may be killed one after another, so that six machines are left.
const KILLS: usize = 4;
const BUCKET: &str = "foreground";
const SMALL: usize = 64 << 10;
const LARGE: usize = 16 << 20;
const NEVER: Duration = Duration::from_secs(3_600);
/// Least samples of a kind that a p99 is taken of: fewer, and it is the slowest.
const LEAST: usize = 20;
const REBUILD_LIMIT: Duration = Duration::from_secs(600);
const CONFIG: &str = "[repair]\ninterval_seconds = 1\naway_seconds = 3\n";
/// Name, bytes, whether it writes, milliseconds between two.
const KINDS: [(&str, usize, bool, u64); 4] = [
    ("write 64 KiB", SMALL, true, 150),
    ("read 64 KiB", SMALL, false, 100),
    ("write 16 MiB", LARGE, true, 2_500),
    ("read 16 MiB", LARGE, false, 2_000),
];

pub fn run(run: &Run) -> Outcome {
    let (filled, quiet_for) = (run.size(2_048, 320), Duration::from_secs(run.size(180, 60)));
    let mut fleet = Fleet::start(NODES, CONFIG).said("a fleet")?;
    let runtime = runtime()?;
    let client = client::of(&fleet.gateway);
    runtime.block_on(fill(&client, run.seed, filled))?;
    println!("  {filled} MiB stored");
    let load = Load::start(&client, &runtime, run.seed);
    std::thread::sleep(Duration::from_secs(5));
    let quiet = (Instant::now(), quiet_for);
    std::thread::sleep(quiet_for);
    println!("  {} s without a rebuild: {}", quiet_for.as_secs(), load.shown(&[quiet]));
    let mut rebuilding: Vec<(Instant, Duration)> = Vec::new();
    let total = |spans: &[(Instant, Duration)]| spans.iter().map(|span| span.1).sum::<Duration>();
    for number in 0..KILLS {
        fleet.nodes[number].kill();
        let span = rebuilt(&fleet, NODES - number - 1)?;
        rebuilding.push(span);
        println!("  node {number} was rebuilt in {:.1} s; repair may go at {:.0} MiB/s", span.1.as_secs_f64(), rate(&fleet));
        if total(&rebuilding) >= quiet_for {
            break;
        }
    }
    std::thread::sleep(Duration::from_secs(5));
    load.stop.store(true, Ordering::SeqCst);
    let seconds = total(&rebuilding).as_secs();
    println!("  {seconds} s of rebuilding: {}", load.shown(&rebuilding));
    let mut worst = 0.0f64;
    let mut figures = Vec::new();
    for (kind, (name, ..)) in KINDS.iter().enumerate() {
        let (before, during) = (load.p99(kind, &[quiet]), load.p99(kind, &rebuilding));
        let (Some(before), Some(during)) = (before, during) else {
            return Err(format!("too few requests for a p99 of {name}: the rebuilds took {seconds} s"));
        };
        let ratio = during.as_secs_f64() / before.as_secs_f64();
        worst = worst.max(ratio);
        figures.push(format!("{name} {:.0} -> {:.0} ms ({ratio:.2} x)", ms(before), ms(during)));
    }
    let figure = format!("p99 quiet -> beside {seconds} s of rebuilding: {}", figures.join(", "));
    if worst <= 2.0 { Ok(figure) } else { Err(figure) }
}

async fn fill(client: &Client, seed: u64, mebibytes: usize) -> Result<(), String> {
    client.create_bucket().bucket(BUCKET).send().await.judged().said("bucket")?;
    for n in 0..(mebibytes >> 4) as u64 {
        put(client, &large(n), seed ^ n, LARGE).await?;
    }
    for n in 0..64 {
        put(client, &small(n), seed ^ (n << 32), SMALL).await?;
    }
    Ok(())
}

fn large(n: u64) -> String {
    format!("large/{n}")
}

fn small(n: u64) -> String {
    format!("small/{n}")
}

async fn put(client: &Client, key: &str, seed: u64, len: usize) -> Result<(), String> {
    let body = Content::dense(seed, len).bytes();
    client.put_object().bucket(BUCKET).key(key).body(body.into()).send().await.judged().map(drop).said("put")
}

/// Waits from the node's death until all that it held is elsewhere; the time in which repair was at work.
fn rebuilt(fleet: &Fleet, left: usize) -> Result<(Instant, Duration), String> {
    let made = || fleet.gateway.metric("breakwater_repair_shards_total");
    let (before, killed) = (made(), Instant::now());
    fleet.wait("the dead node is known", |status| serving(status) == left).said("a rebuild")?;
    while made() < before + 3.0 {
        if killed.elapsed() > REBUILD_LIMIT {
            return Err("no rebuild began".into());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let began = Instant::now();
    loop {
        let printed = fleet.gateway.admin(&["status", "--json"]).said("status")?;
        let status: Value = serde_json::from_str(printed.trim()).said("status")?;
        if status["chunks_owing_shards"] == 0 {
            return Ok((began, began.elapsed()));
        }
        if began.elapsed() > REBUILD_LIMIT {
            return Err(format!("{} chunks still owe shards after {} s", status["chunks_owing_shards"], REBUILD_LIMIT.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn rate(fleet: &Fleet) -> f64 {
    fleet.gateway.metric("breakwater_repair_allowed_bytes_per_second") / f64::from(1 << 20)
}

/// One request: its kind, when it began, how long it took; a failed one [`NEVER`] ended.
type Sample = (usize, Instant, Duration);

/// Requests at fixed rates.
struct Load {
    stop: Arc<AtomicBool>,
    samples: Arc<Mutex<Vec<Sample>>>,
}

impl Load {
    fn start(client: &Client, runtime: &Runtime, seed: u64) -> Load {
        let load = Load { stop: Arc::default(), samples: Arc::default() };
        for (kind, (_, len, writes, pause)) in KINDS.into_iter().enumerate() {
            let (client, stop, samples) = (client.clone(), load.stop.clone(), load.samples.clone());
            runtime.spawn(async move {
                let mut ticks = tokio::time::interval(Duration::from_millis(pause));
                let mut n = 0u64;
                while !stop.load(Ordering::SeqCst) {
                    ticks.tick().await;
                    n += 1;
                    let (client, samples) = (client.clone(), samples.clone());
                    tokio::spawn(async move {
                        let body = writes.then(|| Content::dense(seed.wrapping_mul(31).wrapping_add(n ^ (kind as u64) << 48), len).bytes());
                        let began = Instant::now();
                        let done = match body {
                            Some(body) => {
                                let request = client.put_object().bucket(BUCKET).key(format!("new/{kind}/{}", n % 32)).body(body.into());
                                request.send().await.judged().map(drop).said("write")
                            }
                            None => get(&client, n, len).await,
                        };
                        let took = began.elapsed();
                        if let Err(error) = &done {
                            println!("  {}: {error}", KINDS[kind].0);
                        }
                        locked(&samples).push((kind, began, if done.is_ok() { took } else { NEVER }));
                    });
                }
            });
        }
        load
    }

    fn p99(&self, kind: usize, spans: &[(Instant, Duration)]) -> Option<Duration> {
        let within = |at: Instant| spans.iter().any(|(from, long)| at >= *from && at < *from + *long);
        let all = locked(&self.samples);
        let mut took: Vec<Duration> = all.iter().filter(|(of, began, _)| *of == kind && within(*began)).map(|sample| sample.2).collect();
        took.sort_unstable();
        took.get(took.len().checked_sub(LEAST).map(|_| took.len() - 1)? * 99 / 100).copied()
    }

    fn shown(&self, spans: &[(Instant, Duration)]) -> String {
        let one = |kind: usize| self.p99(kind, spans).map_or("too few".to_string(), |p99| format!("{:.0} ms", ms(p99)));
        (0..KINDS.len()).map(|kind| format!("{} p99 {}", KINDS[kind].0, one(kind))).collect::<Vec<_>>().join(", ")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

async fn get(client: &Client, n: u64, len: usize) -> Result<(), String> {
    let key = if len == LARGE { large(n % 16) } else { small(n % 64) };
    let answer = client.get_object().bucket(BUCKET).key(key).send().await.judged().said("read")?;
    let got = answer.body.collect().await.said("body")?.into_bytes();
    if got.len() == len { Ok(()) } else { Err(format!("{} bytes of {len}", got.len())) }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

fn locked<T>(what: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}
