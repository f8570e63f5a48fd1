//! Row 2 of the metadata cluster: `kill -9` of the leader under load.
//!
//! Two kinds of clients work all the while: those whose histories are judged afterwards, and those that ask again until it is done, as a
//! backup program does; these must never see an error in the end. The time without service is from the kill to the first write that was
//! begun after it and acknowledged.

use crate::row::{Outcome, Run, Said, none_of, runtime};
use aws_sdk_s3::Client;
use conformance::client::{self, Judge};
use conformance::cluster::{Cluster, USUAL, voting};
use conformance::history;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A client that asks again gives up after this; no kill may make it.
const PATIENCE: Duration = Duration::from_secs(30);
const CLIENTS: usize = 8;
const BAR: Duration = Duration::from_secs(10);
const MEDIAN: Duration = Duration::from_secs(3);

pub fn run(run: &Run) -> Outcome {
    let kills = run.size(20, 4);
    let mut cluster = Cluster::start(USUAL, "").said("a cluster")?;
    let runtime = runtime()?;
    let clients: Vec<Client> = cluster.gateways.iter().map(client::of).collect();
    let work = runtime.block_on(history::begin(clients.clone(), CLIENTS, run.seed))?;
    let stop = Arc::new(AtomicBool::new(false));
    let (failed, retried) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let persistent: Vec<_> =
        (0..4).map(|n| runtime.spawn(persist(clients[n % 3].clone(), n, stop.clone(), failed.clone(), retried.clone()))).collect();
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
    stop.store(true, Ordering::Relaxed);
    for task in persistent {
        runtime.block_on(task).said("a client")?;
    }
    let history = runtime.block_on(work.end());
    let judged = history::judge(&history);
    none_of(&history.wrong)?;
    none_of(&judged.violations)?;
    outages.sort_unstable();
    let (median, longest) = (outages[outages.len() / 2], outages[outages.len() - 1]);
    let (failed, retried) = (failed.load(Ordering::Relaxed), retried.load(Ordering::Relaxed));
    let figure = format!(
        "{kills} kills of the leader: serving again after {median:.2?} (median), {longest:.2?} (longest); clients that ask again: {retried} answers asked for again, {failed} errors; {} operations on {} keys linearizable, {} not judged",
        judged.operations, judged.keys, judged.unjudged
    );
    if longest >= BAR || median >= MEDIAN || failed > 0 || judged.unjudged > 0 { Err(figure) } else { Ok(figure) }
}

/// Writes and reads back, each until it is done.
async fn persist(client: Client, number: usize, stop: Arc<AtomicBool>, failed: Arc<AtomicU64>, retried: Arc<AtomicU64>) {
    let mut count = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        count += 1;
        let (key, body) = (format!("persistent/{number}-{}", count % 50), format!("{number}-{count}").into_bytes());
        let began = Instant::now();
        loop {
            let put = client.put_object().bucket(history::BUCKET).key(&key).body(body.clone().into()).send().await.judged();
            let got = match put {
                Ok(_) => client.get_object().bucket(history::BUCKET).key(&key).send().await.judged(),
                Err(failure) => Err(failure),
            };
            let read = match got {
                Ok(answer) => answer.body.collect().await.map(|body| body.into_bytes()).ok(),
                Err(_) => None,
            };
            match read {
                Some(bytes) if bytes == body => break,
                Some(_) => {
                    failed.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                None if began.elapsed() > PATIENCE => {
                    failed.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                None => {
                    retried.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
