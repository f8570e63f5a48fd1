//! Row 2 of the metadata cluster: `kill -9` of the leader under load.
//!
//! Two kinds of clients work all the while: those whose histories are judged afterwards, and those that ask again until it is done, as a
//! backup program does; these must never see an error in the end. The time without service is from the kill to the first write that was
//! begun after it and acknowledged.

use crate::row::{Outcome, Run, Said, none_of, runtime};
use aws_sdk_s3::Client;
use conformance::client;
use conformance::cluster::{Cluster, USUAL, voting};
use conformance::history;
use conformance::persistent::Persistent;
use std::time::{Duration, Instant};

const CLIENTS: usize = 8;
const BAR: Duration = Duration::from_secs(10);
const MEDIAN: Duration = Duration::from_secs(3);

pub fn run(run: &Run) -> Outcome {
    let kills = run.size(20, 4);
    let mut cluster = Cluster::start(USUAL, "").said("a cluster")?;
    let runtime = runtime()?;
    let clients: Vec<Client> = cluster.gateways.iter().map(client::of).collect();
    let work = runtime.block_on(history::begin(clients.clone(), CLIENTS, run.seed))?;
    let persistent = runtime.block_on(async { Persistent::begin(&clients, 4) });
    let mut outages = Vec::new();
    for kill in 0..kills {
        std::thread::sleep(Duration::from_secs(3));
        let leader = cluster.leader().ok_or("nobody leads")?;
        let killed = Instant::now();
        cluster.metadata[leader].kill();
        let probe = async {
            loop {
                let put = clients[kill % 3].put_object().bucket(history::BUCKET).key(format!("probe/{kill}")).body(b"x".to_vec().into());
                if put.send().await.is_ok() {
                    return killed.elapsed();
                }
            }
        };
        let outage = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), probe).await });
        let outage = outage.map_err(|_| format!("no write was acknowledged within a minute after kill {kill}"))?;
        println!("  kill {}: node {leader} led; the first write after it was acknowledged after {outage:.2?}", kill + 1);
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
        "{kills} kills of the leader: serving again after {median:.2?} (median), {longest:.2?} (longest); clients that ask again: {retried} answers asked for again, {failed} errors; {} operations on {} keys linearizable, {} not judged",
        judged.operations, judged.keys, judged.unjudged
    );
    if longest >= BAR || median >= MEDIAN || failed > 0 || judged.unjudged > 0 { Err(figure) } else { Ok(figure) }
}
