//! What many see who write at once.

use super::{BUCKET, get, ground, put};
use conformance::client::Judge;
use conformance::content::Content;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn an_overwrite_shows_the_old_or_the_new_and_nothing_between() {
    let (server, client) = ground().await;
    let bodies: Vec<_> = (0..4u64).map(|n| Content::dense(n, 1_500_000 + 4_000 * n as usize).bytes()).collect();
    put(&client, "k", bodies[0].to_vec()).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..2usize)
        .map(|w| {
            let (client, bodies, stop) = (client.clone(), bodies.clone(), stop.clone());
            tokio::spawn(async move {
                for n in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    put(&client, "k", bodies[(n + w) % 4].to_vec()).await.unwrap();
                }
            })
        })
        .collect();
    let reader = conformance::client::of(&server);
    for _ in 0..60 {
        let body = get(&reader, "k").await.unwrap().expect("it is always there");
        assert!(bodies.contains(&body), "{} bytes that were never written as one", body.len());
    }
    stop.store(true, Ordering::SeqCst);
    for writer in writers {
        writer.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_creators_exactly_one_wins() {
    let (_server, client) = ground().await;
    let racers = (0..100).map(|n| {
        let client = client.clone();
        tokio::spawn(async move {
            let request = client.put_object().bucket(BUCKET).key("lock").if_none_match("*").body(format!("racer {n}").into_bytes().into());
            request.send().await.judged().map(|_| n)
        })
    });
    let mut winners = Vec::new();
    for racer in futures::future::join_all(racers).await {
        match racer.unwrap() {
            Ok(n) => winners.push(n),
            Err(f) => assert!((f.status() == 412 && f.code() == "PreconditionFailed") || f.status() == 409, "{f}"),
        }
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(get(&client, "lock").await.unwrap().unwrap(), format!("racer {}", winners[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn conditional_overwrites_lose_no_update() {
    let (_server, client) = ground().await;
    put(&client, "counter", b"0".to_vec()).await.unwrap();
    let counted = Arc::new(AtomicU32::new(0));
    let workers = (0..8).map(|_| {
        let (client, counted) = (client.clone(), counted.clone());
        tokio::spawn(async move {
            for _ in 0..25 {
                let read = client.get_object().bucket(BUCKET).key("counter").send().await.unwrap();
                let tag = read.e_tag().unwrap().to_owned();
                let value: u32 = String::from_utf8_lossy(&read.body.collect().await.unwrap().into_bytes()).parse().unwrap();
                let body = (value + 1).to_string().into_bytes();
                match client.put_object().bucket(BUCKET).key("counter").if_match(tag).body(body.into()).send().await.judged() {
                    Ok(_) => drop(counted.fetch_add(1, Ordering::SeqCst)),
                    Err(f) => assert!(f.status() == 412 || f.status() == 409, "{f}"),
                }
            }
        })
    });
    for worker in futures::future::join_all(workers).await {
        worker.unwrap();
    }
    let value = get(&client, "counter").await.unwrap().unwrap();
    assert_eq!(value, counted.load(Ordering::SeqCst).to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_under_writes_never_misses_what_stays() {
    let (_server, client) = ground().await;
    let staying: BTreeSet<String> = (0..300).map(|n| format!("stay/{n:03}")).collect();
    for key in &staying {
        put(&client, key, b"1".to_vec()).await.unwrap();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let (writer, ended) = (client.clone(), stop.clone());
    let churn = tokio::spawn(async move {
        for n in 0.. {
            if ended.load(Ordering::SeqCst) {
                return;
            }
            let key = format!("stay/{:03}-come-and-go", n % 300);
            put(&writer, &key, b"2".to_vec()).await.unwrap();
            writer.delete_object().bucket(BUCKET).key(&key).send().await.unwrap();
        }
    });
    for _ in 0..20 {
        let (mut seen, mut token) = (Vec::new(), None);
        loop {
            let page = client.list_objects_v2().bucket(BUCKET).max_keys(37).set_continuation_token(token).send().await.unwrap();
            seen.extend(page.contents().iter().filter_map(|o| o.key().map(str::to_owned)));
            token = page.next_continuation_token().map(str::to_owned);
            if token.is_none() {
                break;
            }
        }
        assert!(seen.windows(2).all(|w| w[0].as_bytes() < w[1].as_bytes()), "in byte order, none twice");
        let seen: BTreeSet<String> = seen.into_iter().filter(|k| !k.contains("come")).collect();
        assert_eq!(seen, staying);
    }
    stop.store(true, Ordering::SeqCst);
    tokio::time::timeout(Duration::from_secs(20), churn).await.unwrap().unwrap();
}

/// A reader that began before its object was overwritten and collected gets the whole of what it began with, or an error.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_gets_what_it_began_with_or_an_error() {
    let (_server, client) = super::ground_with("[collector]\ninterval_seconds = 1\ngrace_seconds = 1\ntrash_seconds = 1\n").await;
    let old = Content::dense(1, 24 << 20).bytes();
    put(&client, "k", old.to_vec()).await.unwrap();
    let mut body = client.get_object().bucket(BUCKET).key("k").send().await.unwrap().body;
    let mut got = body.next().await.unwrap().unwrap().to_vec();
    put(&client, "k", b"new".to_vec()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    while let Some(piece) = body.next().await {
        match piece {
            Ok(bytes) => got.extend_from_slice(&bytes),
            Err(_) => break,
        }
    }
    assert!(old.starts_with(&got), "a wrong byte was sent");
}
