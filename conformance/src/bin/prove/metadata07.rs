//! Row 7 of the metadata cluster: a PUT of 4 KiB beside one synced write of a majority.
//!
//! Three metadata processes, one gateway, one S3 client, one request at a time. Between two PUTs the same group is given a command that
//! changes nothing, by the gateways' own client over the same TLS: one entry, synced by a majority and applied. Both have the same disk in
//! the same second.
//! The rounds of a PUT are the entries that the leader's log got of it: one client, one request at a time, so that no two share an entry.
//! What the log gets while nobody asks for anything (the lease of the background) is measured and taken off.

use crate::row::{Outcome, Progress, Run, Said, runtime};
use aws_sdk_s3::Client as S3;
use conformance::client::{self, Judge};
use conformance::cluster::{Cluster, Size};
use conformance::content::Content;
use metadata::cluster::Client;
use spine::id::GroupId;
use spine::wire::cluster::{ClusterStatus, Endpoint};
use spine::wire::namespace::NamespaceCommand;
use spine::wire::{Batch, Chain, Command, Reply};
use std::time::{Duration, Instant};

const SIZE: Size = Size { metadata: 3, gateways: 1, nodes: 0 };
const BODY: usize = 4 << 10;
const BUCKET: &str = "small";
/// Before anything is counted: connections, and pages of the tables.
const WARM: u64 = 200;
const ROUNDS: f64 = 2.0;
const TIMES: f64 = 2.5;
const ROOT: GroupId = GroupId(0);

pub fn run(run: &Run) -> Outcome {
    let count: u64 = run.size(5_000, 500);
    let cluster = Cluster::start(SIZE, "").said("a cluster")?;
    let s3 = client::of(&cluster.gateways[0]);
    runtime()?.block_on(async {
        let writer = cluster.client()?;
        s3.create_bucket().bucket(BUCKET).send().await.judged().said("a bucket")?;
        for number in 0..WARM {
            put(&s3, number).await?;
            write(&writer).await?;
        }
        let leader = leader(&writer).await?;
        let rounds = rounds(&writer, &leader, &s3, count / 5).await?;
        let (mut puts, mut writes) = (Vec::new(), Vec::new());
        let mut progress = Progress::new();
        for number in 0..count {
            puts.push(put(&s3, WARM + count + number).await?);
            writes.push(write(&writer).await?);
            progress.say(|| format!("{number} of {count} pairs"));
        }
        puts.sort_unstable();
        writes.sort_unstable();
        let at = |times: &[Duration], percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1e3;
        println!("  | ms | p10 | p50 | p90 | p99 |");
        for (name, times) in [("PUT of 4 KiB", &puts), ("synced write of a majority", &writes)] {
            println!("  | {name} | {:.2} | {:.2} | {:.2} | {:.2} |", at(times, 10), at(times, 50), at(times, 90), at(times, 99));
        }
        let times = at(&puts, 50) / at(&writes, 50);
        let figure = format!(
            "{rounds:.2} sequential log rounds a PUT; p50 {:.2} ms, {times:.2} x the {:.2} ms of one synced write of a majority ({count} pairs)",
            at(&puts, 50),
            at(&writes, 50)
        );
        // A PUT without any entry was not measured.
        if times <= TIMES && (0.9..=ROUNDS).contains(&rounds) { Ok(figure) } else { Err(figure) }
    })
}

async fn put(s3: &S3, number: u64) -> Result<Duration, String> {
    let body = Content::dense(number, BODY).bytes();
    let began = Instant::now();
    s3.put_object().bucket(BUCKET).key(format!("k/{number:08}")).body(body.into()).send().await.judged().said("a PUT")?;
    Ok(began.elapsed())
}

/// A command that changes nothing: one entry all the same.
async fn write(writer: &Client) -> Result<Duration, String> {
    let command = Command::Namespace(NamespaceCommand::OutboxDone { entries: Vec::new() });
    let began = Instant::now();
    match &writer.propose_to(ROOT, Batch { chain: Chain::Stop, commands: vec![command] }).await.said("a write")?[..] {
        [Reply::Done] => Ok(began.elapsed()),
        other => Err(format!("a write that changes nothing was answered {other:?}")),
    }
}

async fn leader(writer: &Client) -> Result<Endpoint, String> {
    for endpoint in writer.endpoints() {
        let ClusterStatus { member, groups } = writer.status_of(&endpoint).await.said("a status")?;
        if groups.iter().any(|group| group.group == ROOT && group.leader == Some(member.id)) {
            return Ok(endpoint);
        }
    }
    Err("nobody leads".into())
}

/// Index of the last entry in the leader's log.
async fn last(writer: &Client, leader: &Endpoint) -> Result<u64, String> {
    let status = writer.status_of(leader).await.said("a status")?;
    status.groups.iter().find(|group| group.group == ROOT).map(|group| group.last).ok_or_else(|| "no root group".into())
}

/// Entries of the log a PUT.
async fn rounds(writer: &Client, leader: &Endpoint, s3: &S3, count: u64) -> Result<f64, String> {
    let (idle, began) = (last(writer, leader).await?, Instant::now());
    tokio::time::sleep(Duration::from_secs(10)).await;
    let before = last(writer, leader).await?;
    let by_itself = (before - idle) as f64 / began.elapsed().as_secs_f64();
    let began = Instant::now();
    for number in 0..count {
        put(s3, WARM + number).await?;
    }
    let entries = (last(writer, leader).await? - before) as f64;
    println!("  {count} PUTs one after the other: {entries} entries in the log, which gets {by_itself:.2}/s by itself");
    Ok((entries - by_itself * began.elapsed().as_secs_f64()) / count as f64)
}
