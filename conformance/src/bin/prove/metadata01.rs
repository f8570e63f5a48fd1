//! Row 1 of the metadata cluster: clients of three gateways while processes are killed, paused, cut off and told wrong times, one fault every
//! 20 s, and ranges are split, merged and handed over.
//!
//! Every process is on a host of its own. Names and chunks are in several groups from the start, and the metadata processes are levelled
//! out, as they are by default (`subtrees.rs`). Before each fault an operator begins a split, a merge or a change of a leader and does not
//! wait for it. A fault is of a metadata node (two of three times one that leads a group drawn) or of a gateway: `kill -9` and a
//! start, SIGSTOP and SIGCONT, a cable cut and mended, a cable that is cut in one direction, or a wall clock that jumps and jumps back
//! (`conformance::clock`): a metadata node's by ten minutes or a day, ahead or behind, a gateway's by ten minutes, since by more than fifteen
//! S3 refuses signatures. The network and the clocks are those of the hosts and processes alone. What clients saw of each key is judged
//! afterwards; every key is read once more at the end through every gateway, so that a lost write is a contradiction, too. A key whose
//! history is too much to be judged makes the row fail, and so do too few acknowledged writes, and a lane of names in which none was
//! acknowledged for 30 s: only one process is away at a time.

use crate::row::{Outcome, Progress, Run, Said, none_of, runtime};
use crate::subtrees::{self, Changes};
use aws_sdk_s3::Client;
use conformance::client;
use conformance::cluster::{Cluster, USUAL, voting};
use conformance::content::Dice;
use conformance::history;
use conformance::hosts::{Host, Network};
use std::time::{Duration, Instant};

const CLIENTS: usize = 12;
const EVERY: Duration = Duration::from_secs(20);
/// A fault lasts this long.
const LASTS: Duration = Duration::from_secs(7);
/// Longest time without an acknowledged write in a lane.
const SILENCE: Duration = Duration::from_secs(30);
/// How far clocks jump.
const DAY_MS: i64 = 86_400_000;
const MINUTES_MS: i64 = 600_000;

pub fn run(run: &Run) -> Outcome {
    let length = run.size(Duration::from_secs(1_800), Duration::from_secs(90));
    // As many a second.
    let least = run.size(10_000, 500);
    let mut dice = run.dice();
    let mut network = Network::new().said("hosts")?;
    let mut stage = Stage::start(&mut network, run)?;
    let runtime = runtime()?;
    let clients: Vec<Client> = stage.cluster.gateways.iter().map(client::of).collect();
    let work = runtime.block_on(history::begin(clients, CLIENTS, run.seed))?;
    let groups = subtrees::spread(&stage.cluster)?;
    println!(
        "  3 metadata nodes with {groups} groups, 3 gateways, 6 storage nodes on hosts of their own; {CLIENTS} clients for {length:?}"
    );
    let (began, mut faults, mut changes, mut progress) = (Instant::now(), [0_usize; 5], Changes::default(), Progress::new());
    while began.elapsed() < length {
        let next = Instant::now() + EVERY;
        std::thread::sleep(Duration::from_secs(2));
        let change = changes.one(&stage.cluster, &work, &mut dice);
        let (kind, what) = stage.fault(&mut dice)?;
        faults[kind] += 1;
        let (written, unknown) = work.so_far();
        progress.say(|| format!("{:>4} s: {change}; {what}; {written} writes acknowledged, {unknown} unknown", began.elapsed().as_secs()));
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    stage.cluster.wait("all metadata nodes vote", |status| voting(status) == 3).said("after the last fault")?;
    let given_up = changes.settle(&stage.cluster)?;
    let history = runtime.block_on(work.end());
    println!(
        "  {} writes and {} reads answered, {} unknown; judging {} keys",
        history.written,
        history.read,
        history.unknown,
        history.keys.len()
    );
    let judged = history::judge(&history);
    none_of(&history.wrong)?;
    none_of(&judged.violations)?;
    let [kills, pauses, cuts, halves, jumps] = faults;
    let moved = changes.begun() - given_up;
    let figure = format!(
        "{} s, {kills} kills, {pauses} pauses, {cuts} partitions, {halves} one-way cuts, {jumps} clock jumps, beside {moved} splits and merges ({given_up} given up) and {} leaders changed ({} not begun) in {groups} groups and more: {} operations on {} keys, 0 violations, {} keys not judged; {} writes acknowledged (at least {least}), {} operations unknown, longest time without an acknowledged write in a lane {:.1?} (at most {SILENCE:?})",
        began.elapsed().as_secs(),
        changes.led,
        changes.refused,
        judged.operations,
        judged.keys,
        judged.unjudged,
        history.written,
        history.unknown,
        history.silence
    );
    let enough = history.written >= least && moved > 0;
    if judged.unjudged == 0 && enough && history.silence < SILENCE { Ok(figure) } else { Err(figure) }
}

/// A cluster on hosts, and the hosts of its gateways.
struct Stage {
    cluster: Cluster,
    gateways: Vec<Host>,
}

impl Stage {
    fn start(network: &mut Network, run: &Run) -> Result<Stage, String> {
        let began = Instant::now();
        let cluster = Cluster::on_hosts_by_clocks(network, run.place()?, USUAL, "").said("a cluster")?;
        let gateways = cluster.gateways.iter().filter_map(|gateway| gateway.host().cloned()).collect();
        println!("  started in {:.1?}", began.elapsed());
        Ok(Stage { cluster, gateways })
    }

    /// The node that leads some group.
    fn leading(&self, dice: &mut Dice) -> Option<usize> {
        let led = self.cluster.led().ok()?;
        (!led.is_empty()).then(|| led[dice.below(led.len())].node)
    }

    /// One fault, from its beginning to its end; which kind it was.
    fn fault(&mut self, dice: &mut Dice) -> Result<(usize, String), String> {
        let kind = dice.below(5);
        let gateway = dice.chance(25).then(|| dice.below(self.gateways.len()));
        let drawn = dice.below(self.cluster.metadata.len());
        let node = if dice.chance(66) { self.leading(dice).unwrap_or(drawn) } else { drawn };
        let whom = gateway.map_or_else(|| format!("metadata node {node}"), |at| format!("gateway {at}"));
        let host = match gateway {
            Some(at) => self.gateways[at].clone(),
            None => self.cluster.metadata[node].host().cloned().ok_or("a metadata node without a host")?,
        };
        let what = match kind {
            0 => {
                match gateway {
                    Some(at) => self.cluster.gateways[at].kill(),
                    None => self.cluster.metadata[node].kill(),
                }
                std::thread::sleep(LASTS);
                match gateway {
                    Some(at) => self.cluster.gateways[at].restart().said("start a gateway again")?,
                    None => self.cluster.metadata[node].start(&[]).said("start a metadata node again")?,
                }
                "killed"
            }
            1 => {
                let signal = |signal: i32| match gateway {
                    Some(at) => self.cluster.gateways[at].signal(signal),
                    None => self.cluster.metadata[node].signal(signal),
                };
                signal(libc::SIGSTOP);
                std::thread::sleep(LASTS);
                signal(libc::SIGCONT);
                "paused"
            }
            2 => {
                host.link(false).said("cut")?;
                std::thread::sleep(LASTS);
                host.link(true).said("mend")?;
                "cut off"
            }
            3 => {
                if dice.chance(50) { host.mute() } else { host.deafen() }.said("cut one way")?;
                std::thread::sleep(LASTS);
                host.heal().said("mend")?;
                "cut off in one direction"
            }
            _ => {
                let clock = match gateway {
                    Some(at) => self.cluster.clocks.get(at),
                    None => self.cluster.metadata[node].clock(),
                };
                let clock = clock.ok_or("a process without a clock of its own")?;
                let far = gateway.is_none() && dice.chance(50);
                let by = if far { DAY_MS } else { MINUTES_MS };
                clock.set(if dice.chance(50) { by } else { -by }).said("set a clock")?;
                std::thread::sleep(LASTS);
                clock.set(0).said("set a clock right")?;
                if far { "a day off" } else { "ten minutes off" }
            }
        };
        Ok((kind, format!("{whom} was {what}")))
    }
}
