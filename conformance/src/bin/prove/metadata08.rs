//! Row 8 of the metadata cluster, its first half: the replica of one node deleted while clients write.
//!
//! It must come back by itself, be needed (another node is killed) and show the same listing. The second half, all replicas deleted and
//! restored from a snapshot in the store, is not there yet: there are no such snapshots.

use crate::row::{Outcome, Run, Said, runtime};
use aws_sdk_s3::Client;
use conformance::client;
use conformance::cluster::{Cluster, Size, USUAL, voting};
use futures::StreamExt;
use futures::stream;
use std::time::Instant;

const BUCKET: &str = "objects";

pub fn run(run: &Run) -> Outcome {
    let count = run.size(50_000, 3_000);
    let mut cluster = Cluster::start(Size { nodes: 0, ..USUAL }, "").said("a cluster")?;
    let runtime = runtime()?;
    let clients: Vec<Client> = cluster.gateways.iter().map(client::of).collect();
    runtime.block_on(clients[0].create_bucket().bucket(BUCKET).send()).said("a bucket")?;
    runtime.block_on(write(&clients, 0..count))?;
    println!("  {count} objects are there");
    let lost = cluster.leader().ok_or("nobody leads")?;
    cluster.metadata[lost].kill();
    std::fs::remove_dir_all(cluster.metadata[lost].data().join("metadata")).said("delete a replica")?;
    let more = count + count / 10;
    runtime.block_on(write(&clients, count..more))?;
    let (listed, before) = runtime.block_on(list(&clients[0]))?;
    if listed != more {
        return Err(format!("{listed} of {more} objects are listed"));
    }
    let began = Instant::now();
    cluster.metadata[lost].start(&[]).said("start it again")?;
    cluster.wait("all vote", |status| voting(status) == 3).said("catching up")?;
    let caught_up = began.elapsed();
    println!("  node {lost} led, lost its replica, and votes again after {caught_up:.1?}");
    cluster.metadata[(lost + 1) % 3].kill();
    for client in &clients {
        let (_, after) = runtime.block_on(list(client))?;
        if after != before {
            return Err("the listing is another one".into());
        }
    }
    Ok(format!(
        "first half: the leader's replica of {more} objects deleted; caught up by itself in {caught_up:.1?}, same listing hash through 3 gateways with another node dead; second half not there yet: no snapshots in the store"
    ))
}

async fn write(clients: &[Client], range: std::ops::Range<usize>) -> Result<(), String> {
    let puts = range.map(|number| {
        let client = &clients[number % clients.len()];
        client.put_object().bucket(BUCKET).key(format!("k/{:06}", number)).body(format!("{number}").into_bytes().into()).send()
    });
    let mut puts = stream::iter(puts).buffer_unordered(32);
    while let Some(put) = puts.next().await {
        put.said("a write")?;
    }
    Ok(())
}

/// How many objects are listed, and a hash of all their keys and etags.
async fn list(client: &Client) -> Result<(usize, blake3::Hash), String> {
    let (mut count, mut hash) = (0, blake3::Hasher::new());
    let mut pages = client.list_objects_v2().bucket(BUCKET).into_paginator().send();
    while let Some(page) = pages.next().await {
        for object in page.said("a page")?.contents() {
            count += 1;
            hash.update(object.key().unwrap_or_default().as_bytes()).update(object.e_tag().unwrap_or_default().as_bytes());
        }
    }
    Ok((count, hash.finalize()))
}
