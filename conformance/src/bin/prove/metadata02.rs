//! Row 2 of the metadata cluster: `kill -9` of the busiest leader under load.
//!
//! Names and chunks are in several groups, and the metadata processes are levelled out, as they are by default. Killed is who leads the group
//! that bears most, by what `admin metadata status` says then. Two kinds of clients work all the while: those whose histories are judged
//! afterwards, and those that ask again until it is done, as a backup program does; these must never see an error in the end. The time without
//! service is from the kill until a write into every lane of names, and one of a body that is a chunk, were begun after it and acknowledged.

use crate::row::{Outcome, Run, Said, none_of, runtime};
use crate::subtrees;
use aws_sdk_s3::Client;
use conformance::client;
use conformance::cluster::{Cluster, USUAL, voting};
use conformance::content::Content;
use conformance::history::{self, BUCKET, LANES};
use conformance::persistent::Persistent;
use futures::future::join_all;
use std::time::{Duration, Instant};

const CLIENTS: usize = 8;
const BAR: Duration = Duration::from_secs(10);
const MEDIAN: Duration = Duration::from_secs(3);
/// Longest wait for service after a kill.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of bodies that lie within their records, and that do not.
const SMALL: usize = 1;
const LARGE: usize = 20 << 10;

pub fn run(run: &Run) -> Outcome {
    let kills = run.size(20, 4);
    let mut cluster = Cluster::balanced(USUAL, "").said("a cluster")?;
    let runtime = runtime()?;
    let clients: Vec<Client> = cluster.gateways.iter().map(client::of).collect();
    let work = runtime.block_on(history::begin(clients.clone(), CLIENTS, run.seed))?;
    let persistent = runtime.block_on(async { Persistent::begin(&clients, 4) });
    let groups = subtrees::spread(&cluster)?;
    let mut outages = Vec::new();
    for kill in 0..kills {
        std::thread::sleep(Duration::from_secs(3));
        let busiest = subtrees::busiest(&cluster)?;
        let leader = busiest.node;
        let killed = Instant::now();
        cluster.metadata[leader].kill();
        let outage = runtime.block_on(async { tokio::time::timeout(PATIENCE, served(&clients, kill, killed)).await });
        let outage = outage.map_err(|_| format!("not all writes were acknowledged within {PATIENCE:?} after kill {kill}"))?;
        println!(
            "  kill {}: node {leader} led group {} with {:.0} operations a second; writes everywhere after it were acknowledged after {outage:.2?}",
            kill + 1,
            busiest.group,
            busiest.ops
        );
        outages.push(outage);
        cluster.metadata[leader].start(&[]).said("start it again")?;
        cluster.wait("all vote", |status| voting(status) == 3).said("its return")?;
    }
    let (retried, failed) = runtime.block_on(persistent.end()).said("a client")?;
    let history = runtime.block_on(work.end());
    let judged = history::judge(&history);
    none_of(&history.wrong)?;
    none_of(&judged.violations)?;
    outages.sort_unstable();
    let (median, longest) = (outages[outages.len() / 2], outages[outages.len() - 1]);
    let figure = format!(
        "{kills} kills of the busiest leader of {groups} groups: serving again after {median:.2?} (median), {longest:.2?} (longest); clients that ask again: {retried} answers asked for again, {failed} errors; {} operations on {} keys linearizable, {} not judged",
        judged.operations, judged.keys, judged.unjudged
    );
    if longest >= BAR || median >= MEDIAN || failed > 0 || judged.unjudged > 0 { Err(figure) } else { Ok(figure) }
}

/// How long after `killed` a write into every lane, and one of a chunk, were acknowledged; none is begun before this is called.
async fn served(clients: &[Client], kill: usize, killed: Instant) -> Duration {
    let names = LANES.iter().map(|lane| (format!("{lane}/probe-{kill}"), SMALL));
    let probes = names.chain([(format!("{}/chunk-{kill}", LANES[0]), LARGE)]);
    let writes = probes.enumerate().map(|(nth, (key, length))| async move {
        let client = &clients[(kill + nth) % clients.len()];
        let body = Content::dense((kill * 10 + nth) as u64, length).bytes();
        while client.put_object().bucket(BUCKET).key(&key).body(body.clone().into()).send().await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    join_all(writes).await;
    killed.elapsed()
}
