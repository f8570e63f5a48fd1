//! Kills, lost disks, too few disks.

use super::{BUCKET, get, ground, ground_with, put};
use conformance::client::{self, Judge};
use conformance::content::{Content, Dice};
use conformance::workload::Workload;
use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_write_survives_a_kill() {
    let (mut server, client) = ground().await;
    let seed = Dice::fresh_seed();
    println!("seed {seed}");
    let mut dice = Dice::new(seed);
    let mut load = Workload::new(client, BUCKET);
    for _ in 0..3 {
        let (running, mut own) = (load.clone(), dice.fork());
        let workers = tokio::spawn(async move { running.run(4, &mut own).await });
        tokio::time::sleep(Duration::from_millis(700)).await;
        server.kill();
        load.stop.store(true, Ordering::SeqCst);
        workers.await.unwrap();
        server.restart().unwrap();
        load.client = client::of(&server);
        load.verify().await;
        assert_eq!(load.ledger().violations, Vec::<String>::new());
    }
    assert!(load.ledger().acknowledged > 0);
    server.terminate(Duration::from_secs(30)).unwrap();
    server.fsck().unwrap();
}

#[tokio::test]
async fn parts_of_an_open_upload_survive_a_kill() {
    let (mut server, client) = ground().await;
    let begun = client.create_multipart_upload().bucket(BUCKET).key("k").send().await.unwrap();
    let id = begun.upload_id().unwrap().to_owned();
    let sent =
        client.upload_part().bucket(BUCKET).key("k").upload_id(&id).part_number(1).body(vec![3; 100_000].into()).send().await.unwrap();
    server.kill();
    server.restart().unwrap();
    let client = client::of(&server);
    let part = aws_sdk_s3::types::CompletedPart::builder().part_number(1).set_e_tag(sent.e_tag).build();
    let all = aws_sdk_s3::types::CompletedMultipartUpload::builder().parts(part).build();
    client.complete_multipart_upload().bucket(BUCKET).key("k").upload_id(&id).multipart_upload(all).send().await.unwrap();
    assert_eq!(get(&client, "k").await.unwrap().unwrap(), vec![3u8; 100_000]);
}

/// Empties a folder, as if the disk had been swapped for a new one.
fn empty(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) }.unwrap();
    }
}

#[tokio::test]
async fn with_one_or_two_disks_lost_every_object_reads() {
    let (server, client) = ground().await;
    let bodies: Vec<_> = (0..12u64).map(|n| Content::dense(n, 50_000 + 300_000 * n as usize).bytes()).collect();
    for (n, body) in bodies.iter().enumerate() {
        put(&client, &format!("k{n}"), body.to_vec()).await.unwrap();
    }
    for disk in &server.disks()[..2] {
        empty(disk);
        for (n, body) in bodies.iter().enumerate() {
            assert!(get(&client, &format!("k{n}")).await.unwrap().unwrap() == *body, "k{n}");
        }
    }
}

#[tokio::test]
async fn with_one_disk_lost_writes_go_on_and_with_two_they_answer_503_and_store_nothing() {
    let (server, client) = ground().await;
    let write = |n: u64| {
        let client = client.clone();
        async move { put(&client, "k", Content::dense(n, 400_000).bytes().to_vec()).await }
    };
    write(1).await.unwrap();
    empty(&server.disks()[0]);
    for n in 2..10 {
        write(n).await.unwrap();
    }
    empty(&server.disks()[1]);
    let began = Instant::now();
    let mut held = 10;
    let refused = loop {
        match write(held).await {
            Ok(_) => held += 1,
            Err(f) => break f,
        }
        assert!(began.elapsed() < Duration::from_secs(15), "writes are still acknowledged with two of six disks empty");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(refused.status(), 503, "{refused}");
    let last = if held == 10 { 9 } else { held - 1 };
    assert!(get(&client, "k").await.unwrap().unwrap() == Content::dense(last, 400_000).bytes(), "the last acknowledged one is what reads");
}

#[tokio::test]
async fn with_three_disks_lost_reads_answer_503_and_never_not_found() {
    let (server, client) = ground().await;
    for n in 0..8u64 {
        put(&client, &format!("k{n}"), Content::dense(n, 700_000).bytes().to_vec()).await.unwrap();
    }
    for disk in &server.disks()[..3] {
        empty(disk);
    }
    for n in 0..8u64 {
        match get(&client, &format!("k{n}")).await {
            Ok(body) => assert!(body.expect("never not found") == Content::dense(n, 700_000).bytes()),
            Err(f) => assert!(f.status() == 503, "{f}"),
        }
        client.head_object().bucket(BUCKET).key(format!("k{n}")).send().await.judged().expect("a HEAD needs no disk");
    }
    assert_eq!(super::keys(&client).await.len(), 8, "a listing needs no disk");
}

#[tokio::test]
async fn what_was_deleted_is_collected() {
    let (server, client) = ground_with("[collector]\ninterval_seconds = 1\ngrace_seconds = 1\ntrash_seconds = 1\n").await;
    let before = server.disk_bytes();
    for n in 0..10u64 {
        put(&client, &format!("k{n}"), Content::dense(n, 6 << 20).bytes().to_vec()).await.unwrap();
    }
    let full = server.disk_bytes();
    for n in 0..10 {
        client.delete_object().bucket(BUCKET).key(format!("k{n}")).send().await.unwrap();
    }
    let began = Instant::now();
    loop {
        server.collect().unwrap();
        let (used, chunks) = (server.disk_bytes(), server.metric("breakwater_chunks"));
        if chunks == 0.0 && used < before + (full - before) / 10 {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(40), "{used} bytes on the disks ({before} empty, {full} full), {chunks} chunks");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
