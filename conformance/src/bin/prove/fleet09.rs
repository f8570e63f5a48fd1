//! Row 9 of the fleet: what a lookup costs, by how many nodes there are.
//!
//! Real: routers over loopback in this process, each with a key, a certificate and an announcement of its own, each told of one that was
//! there before. Requests and times are libp2p's own; what it found is compared with the truth. Hops libp2p does not tell: they are
//! counted by repeating lookups over the tables that the routers really have. A tenth of the routers then ends without a word, and the
//! lookups go on. A gateway fills its table with every node. Simulated: the same calculation at 50, 200 and 10,000 nodes, of which a
//! fifth is replaced every hour; where there are real ones beside it, requests must agree.

use crate::row::{Outcome, Run, Said, runtime};
use conformance::content::Dice;
use conformance::kademlia::{self, K, Network, Place};
use conformance::plane::{Authority, Certified};
use routing::{Own, Router, Settings, peer_of};
use sha2::{Digest, Sha256};
use spine::fleet::admission::Role;
use spine::fleet::announcement::{Announcement, SignedAnnouncement, message};
use spine::fleet::trust::Trust;
use spine::id::NodeId;
use std::sync::Arc;
use std::time::{Duration, Instant};
use storage_node::NodeKey;
use tokio::sync::watch;

/// How many of the nearest must be exactly the nearest.
const EXACT: usize = 6;
const SETTLE: Duration = Duration::from_secs(90);
/// Unused connections go soon: both ends of all of them are this process' open files.
const IDLE: Duration = Duration::from_secs(4);
/// One node after another, so that not all of them look around at once.
const APART: Duration = Duration::from_millis(60);
/// Share of the nodes that is replaced in an hour.
const CHURN: f64 = 0.2;

/// What a number of lookups came to.
#[derive(Default)]
struct Tally {
    hops: Vec<f64>,
    requests: Vec<f64>,
    millis: Vec<f64>,
    timeouts: Vec<f64>,
    exact: usize,
    lookups: usize,
}

impl Tally {
    fn line(&self, what: &str) -> String {
        let timing = if self.millis.is_empty() {
            String::new()
        } else {
            format!(", p50 {:.1} ms, p99 {:.1}", median(&self.millis), p99(&self.millis))
        };
        let timeouts = if self.timeouts.is_empty() { String::new() } else { format!(", {:.1} of them to the dead", mean(&self.timeouts)) };
        format!(
            "{what}: hops mean {:.2} p99 {:.0}, requests mean {:.1} p99 {:.0}{timeouts}{timing}, exact {} of {}",
            mean(&self.hops),
            p99(&self.hops),
            mean(&self.requests),
            p99(&self.requests),
            self.exact,
            self.lookups
        )
    }

    /// The bar at `nodes`: hops within log2, requests within the answers that a lookup waits for and a few steps of log2.
    fn holds(&self, nodes: usize) -> bool {
        let log = (nodes as f64).log2();
        p99(&self.hops) <= log && mean(&self.requests) <= K as f64 + 3.0 * log && self.exact * 100 >= self.lookups * 99
    }
}

fn mean(all: &[f64]) -> f64 {
    all.iter().sum::<f64>() / all.len().max(1) as f64
}

fn quantile(all: &[f64], share: f64) -> f64 {
    let mut all = all.to_vec();
    all.sort_by(f64::total_cmp);
    all.get(((all.len() as f64 * share) as usize).min(all.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

fn p99(all: &[f64]) -> f64 {
    quantile(all, 0.99)
}

fn median(all: &[f64]) -> f64 {
    quantile(all, 0.5)
}

pub fn run(run: &Run) -> Outcome {
    raise_open_files();
    let dice = &mut Dice::new(run.seed);
    let (real, simulated) = (run.size([50, 200], [12, 30]), run.size(10_000, 1_000));
    let (lookups, hours) = (run.size(200, 40), run.size(2, 1));
    let mut figures = Vec::new();
    let mut held = true;
    for nodes in real {
        let seen = runtime()?.block_on(Fleet::start(nodes, dice, lookups))?;
        let model = simulate(nodes, 0, lookups, dice);
        println!("  {}", model.line(&format!("simulated, {nodes} nodes that stay")));
        let ratio = mean(&seen.requests) / mean(&model.requests);
        held &= seen.holds(nodes) && model.holds(nodes) && (0.5..=2.0).contains(&ratio);
        figures.push(format!("{nodes} real: {:.2} hops, {:.1} requests ({ratio:.2} x simulated)", mean(&seen.hops), mean(&seen.requests)));
    }
    let large = simulate(simulated, hours, 1_000, dice);
    println!("  {}", large.line(&format!("simulated, {simulated} nodes, a fifth replaced every hour for {hours} h")));
    held &= large.holds(simulated);
    figures.push(format!("{simulated} simulated: {:.2} hops, {:.1} requests", mean(&large.hops), mean(&large.requests)));
    let figure = figures.join("; ");
    if held { Ok(figure) } else { Err(figure) }
}

fn simulate(nodes: usize, hours: usize, lookups: usize, dice: &mut Dice) -> Tally {
    let mut network = Network::joined(nodes, dice);
    for _ in 0..hours {
        network.churn_for_an_hour(CHURN, dice);
    }
    let mut tally = Tally::default();
    for _ in 0..lookups {
        let (from, target) = (network.any(dice), kademlia::place(dice));
        let truth = network.truth(from, target);
        let found = network.lookup(from, target);
        tally.exact += usize::from(found.nearest.first().copied() == truth);
        tally.lookups += 1;
        tally.hops.push(f64::from(found.hops));
        tally.requests.push(f64::from(found.requests));
        if hours > 0 {
            tally.timeouts.push(f64::from(found.timeouts));
        }
    }
    println!("  simulated, {nodes} nodes: {:.0} entries in a table", network.table_mean());
    tally
}

/// A router of a storage process.
struct Node {
    who: Certified,
    router: Router,
    stop: watch::Sender<bool>,
    place: Place,
}

/// The routers that live.
struct Fleet {
    authority: Authority,
    trust: Arc<Trust>,
    nodes: Vec<Node>,
}

impl Fleet {
    async fn start(count: usize, dice: &mut Dice, lookups: usize) -> Result<Tally, String> {
        let authority = Authority::new()?;
        let trust = authority.trust()?;
        let mut fleet = Fleet { authority, trust, nodes: Vec::new() };
        let (began, before, memory) = (Instant::now(), cpu(), rss());
        for number in 0..count {
            fleet.add(number).await?;
            tokio::time::sleep(APART).await;
        }
        fleet.settle().await?;
        let each = (rss().saturating_sub(memory)) / count as u64;
        println!(
            "  {count} real nodes found each other in {:.0} s, {:.1} CPU s, {each} KiB each",
            began.elapsed().as_secs_f64(),
            (cpu() - before).as_secs_f64()
        );
        let tally = fleet.measure(dice, lookups).await?;
        println!("  {}", tally.line(&format!("real, {count} nodes")));
        fleet.fill(dice).await?;
        for _ in 0..count / 10 {
            let gone = fleet.nodes.swap_remove(dice.below(fleet.nodes.len()));
            gone.stop.send_replace(true);
        }
        let after = fleet.measure(dice, lookups / 2).await?;
        println!("  {}", after.line(&format!("real, {} of {count} nodes after the others ended", fleet.nodes.len())));
        if after.exact * 100 < after.lookups * 99 {
            return Err(format!("of {} lookups after a tenth of {count} nodes ended, {} were exact", after.lookups, after.exact));
        }
        Ok(tally)
    }

    /// One more node, told of one that was there before.
    async fn add(&mut self, number: usize) -> Result<(), String> {
        let who = self.authority.admit(Role::StorageNode)?;
        let mut settings = Settings::new(who.pkcs8(), who.der.clone());
        settings.listen = Some(([127, 0, 0, 1], 0).into());
        settings.idle = IDLE;
        let known = self.nodes.get(number / 2).and_then(|node| node.router.address());
        settings.bootstrap = known.map(|address| address.to_string()).into_iter().collect();
        let (stop, stopped) = watch::channel(false);
        let router = Router::start(settings, self.trust.clone(), stopped).await.said("a router")?;
        let own = announce(&who, &router, number)?;
        router.introduce(Own { certificate: who.der.clone(), announcements: vec![own] }).await.said("a router")?;
        let place = place_of(&router.peer().to_bytes());
        self.nodes.push(Node { who, router, stop, place });
        Ok(())
    }

    /// Waits until the tables no longer grow.
    async fn settle(&self) -> Result<(), String> {
        let (began, mut last, mut still) = (Instant::now(), 0, 0);
        while still < 4 {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let (_, tables) = self.tables().await?;
            let entries: usize = tables.iter().map(Vec::len).sum();
            let least = tables.iter().map(Vec::len).min().unwrap_or(0);
            still = if entries == last && least >= K.min(self.nodes.len() - 1) / 2 { still + 1 } else { 0 };
            last = entries;
            if began.elapsed() > SETTLE {
                // Not an error by itself: what lookups find is what counts.
                println!("  the tables still change after {SETTLE:?}: {entries} entries, {least} in the smallest");
                return Ok(());
            }
        }
        Ok(())
    }

    async fn tables(&self) -> Result<(Vec<Place>, Vec<Vec<Place>>), String> {
        let mut tables = Vec::new();
        for node in &self.nodes {
            let snapshot = node.router.snapshot().await.said("a snapshot")?;
            tables.push(snapshot.table.iter().map(|peer| place_of(&peer.to_bytes())).collect());
        }
        Ok((self.nodes.iter().map(|node| node.place).collect(), tables))
    }

    async fn measure(&self, dice: &mut Dice, lookups: usize) -> Result<Tally, String> {
        let (places, tables) = self.tables().await?;
        let mut tally = Tally::default();
        for _ in 0..lookups {
            let (from, key) = (dice.below(self.nodes.len()), dice.roll().to_le_bytes().to_vec());
            let target = place_of(&key);
            // The tables as they were, each time: a lookup of the calculation fills them.
            tally.hops.push(f64::from(Network::of_tables(&places, &tables).lookup(from, target).hops));
            let found = self.nodes[from].router.nearest(key).await.said("a lookup")?;
            let mut truth: Vec<Place> = places.iter().enumerate().filter(|(at, _)| *at != from).map(|(_, place)| *place).collect();
            truth.sort_by_key(|place| place ^ target);
            truth.truncate(EXACT);
            let nearest: Vec<Place> = found.nearest.iter().take(EXACT).map(|peer| place_of(&peer.to_bytes())).collect();
            tally.exact += usize::from(nearest == truth);
            tally.lookups += 1;
            tally.requests.push(f64::from(found.requests));
            tally.millis.push(found.took.as_secs_f64() * 1e3);
        }
        Ok(tally)
    }

    /// A gateway looks up every node, and must then know each where it is.
    async fn fill(&self, dice: &mut Dice) -> Result<(), String> {
        let who = self.authority.admit(Role::Gateway)?;
        let mut settings = Settings::new(who.pkcs8(), who.der.clone());
        settings.bucket = 256;
        let first = self.nodes[dice.below(self.nodes.len())].router.address();
        settings.bootstrap = first.map(|address| address.to_string()).into_iter().collect();
        let (stop, stopped) = watch::channel(false);
        let gateway = Router::start(settings, self.trust.clone(), stopped).await.said("a gateway's router")?;
        gateway.introduce(Own { certificate: who.der.clone(), announcements: Vec::new() }).await.said("a gateway's router")?;
        let began = Instant::now();
        while gateway.snapshot().await.said("a snapshot")?.table.is_empty() {
            if began.elapsed() > Duration::from_secs(20) {
                return Err("the gateway was let in by nobody".to_string());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let (began, before, mut requests) = (Instant::now(), cpu(), 0);
        for (number, node) in self.nodes.iter().enumerate() {
            requests += gateway.locate(node.who.node).await.said("a lookup")?.requests;
            let known = gateway.known(node.who.node).ok_or_else(|| format!("the gateway did not find node {number}"))?;
            if known.said.address != address(number) {
                return Err(format!("node {number} is at {}, the gateway found {}", address(number), known.said.address));
            }
        }
        let table = gateway.snapshot().await.said("a snapshot")?.table.len();
        println!(
            "  a gateway's table of all {} announcements: {requests} requests, {:.1} s, {:.2} CPU s of both ends, {table} peers in its own table",
            self.nodes.len(),
            began.elapsed().as_secs_f64(),
            (cpu() - before).as_secs_f64()
        );
        stop.send_replace(true);
        Ok(())
    }
}

/// Nobody listens there: what counts is that it arrives.
fn address(number: usize) -> String {
    format!("127.0.0.1:{}", 10_000 + number)
}

fn announce(who: &Certified, router: &Router, number: usize) -> Result<SignedAnnouncement, String> {
    let routing = router.address().ok_or("the router listens nowhere")?.to_string();
    let said = Announcement { version: 1, address: address(number), routing, certificate: who.der.clone().into() };
    let announcement = said.encode().said("an announcement")?;
    let key = NodeKey::from_pkcs8(&who.pkcs8())?;
    if peer_of(NodeId(key.node().0)) != Some(router.peer()) {
        return Err("the router has another key than its node".to_string());
    }
    let signature = key.sign(&message(&announcement))?.into();
    Ok(SignedAnnouncement { announcement, signature })
}

/// Kademlia's keys are the SHA-256 of what they are of; the first half decides among so few.
fn place_of(bytes: &[u8]) -> Place {
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    let mut first = [0; 16];
    first.copy_from_slice(&digest[..16]);
    Place::from_be_bytes(first)
}

fn cpu() -> Duration {
    // SAFETY: an all-zero rusage is a valid one, and the call fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let of = |time: libc::timeval| Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64);
    of(usage.ru_utime) + of(usage.ru_stime)
}

/// KiB of this process.
fn rss() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4
}

/// Two hundred routers have some ten thousand connections, both ends in this process.
fn raise_open_files() {
    // SAFETY: both calls only read and write the struct they are given.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}
