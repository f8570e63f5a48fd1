//! Metadata nodes that die.

use conformance::client;
use conformance::cluster::{Cluster, USUAL, voting};
use conformance::history;
use std::fs;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_replaced_within_seconds_and_nobody_loses_or_imagines_anything() {
    let seed = 0xb00b_u64;
    println!("seed {seed}");
    let mut cluster = Cluster::start(USUAL, "").unwrap();
    let clients = cluster.gateways.iter().map(client::of).collect();
    let work = history::begin(clients, 12, seed).await.unwrap();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(4)).await;
        let leader = cluster.leader().expect("somebody leads");
        let (before, killed) = (work.so_far().0, Instant::now());
        cluster.metadata[leader].kill();
        // Several clients have been answered anew.
        while work.so_far().0 < before + 5 {
            assert!(killed.elapsed() < Duration::from_secs(10), "not serving again {:?} after the leader was killed", killed.elapsed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        println!("serving again after {:?}", killed.elapsed());
        cluster.metadata[leader].start(&[]).unwrap();
        cluster.wait("all vote", |status| voting(status) == 3).unwrap();
    }
    let history = work.end().await;
    let judged = history::judge(&history);
    println!(
        "{} writes, {} reads, {} unknown; {} keys, {} operations",
        history.written, history.read, history.unknown, judged.keys, judged.operations
    );
    assert_eq!((history.wrong, judged.violations, judged.unjudged), (vec![], vec![], 0));
    assert!(history.written > 100 && history.read > 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_metadata_node_that_lost_its_replica_catches_up_and_counts_again() {
    let mut cluster = Cluster::start(conformance::cluster::Size { nodes: 0, gateways: 1, ..USUAL }, "").unwrap();
    let s3 = client::of(&cluster.gateways[0]);
    s3.create_bucket().bucket("promises").send().await.unwrap();
    let put = async |range: std::ops::Range<usize>| {
        for number in range {
            s3.put_object().bucket("promises").key(format!("k-{number:04}")).body(vec![7; 100].into()).send().await.unwrap();
        }
    };
    put(0..300).await;
    let lost = cluster.leader().expect("somebody leads");
    cluster.metadata[lost].kill();
    fs::remove_dir_all(cluster.metadata[lost].data().join("metadata")).unwrap();
    put(300..400).await;
    cluster.metadata[lost].start(&[]).unwrap();
    cluster.wait("all vote again", |status| voting(status) == 3).unwrap();
    // It is needed now: another one is gone.
    let other = (lost + 1) % 3;
    cluster.metadata[other].kill();
    put(400..410).await;
    let mut listed = Vec::new();
    let mut pages = s3.list_objects_v2().bucket("promises").into_paginator().send();
    while let Some(page) = pages.next().await {
        listed.extend(page.unwrap().contents().iter().filter_map(|object| object.key().map(str::to_owned)));
    }
    assert_eq!(listed, (0..410).map(|number| format!("k-{number:04}")).collect::<Vec<_>>());
}
