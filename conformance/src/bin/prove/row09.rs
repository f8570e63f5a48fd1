//! Row 9: a million keys, listed whole, by the page, and rolled up into a thousand prefixes.

use crate::row::{Outcome, Progress, Run, Said, runtime};
use aws_sdk_s3::Client;
use conformance::client;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const WRITERS: usize = 32;
const PREFIXES: usize = 1_000;

pub fn run(run: &Run) -> Outcome {
    let keys = run.size(1_000_000usize, 20_000);
    let prefixes = run.size(PREFIXES, 100);
    let place = run.place()?;
    let server = run.server(&place, "")?;
    let runtime = runtime()?;
    let client = client::of(&server);
    runtime.block_on(async {
        client.create_bucket().bucket("million").send().await.said("bucket")?;
        fill(&client, keys, prefixes).await?;
        let (seconds, p99) = whole(&client, keys, prefixes).await?;
        let rolled = rolled_up(&client, prefixes).await?;
        let figure = format!(
            "{keys} keys in {seconds:.1} s, page p99 {:.1} ms, {prefixes} prefixes in {:.3} s",
            p99.as_secs_f64() * 1e3,
            rolled.as_secs_f64()
        );
        let holds = seconds < 60.0 && p99 < Duration::from_millis(50) && rolled < Duration::from_secs(1);
        if holds { Ok(figure) } else { Err(figure) }
    })
}

/// `dir-0007/key-00000123`, spread over the prefixes.
fn key(n: usize, prefixes: usize) -> String {
    format!("dir-{:04}/key-{:08}", n % prefixes, n / prefixes)
}

async fn fill(client: &Client, keys: usize, prefixes: usize) -> Result<(), String> {
    let next = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (client, next) = (client.clone(), next.clone());
            tokio::spawn(async move {
                let mut progress = Progress::new();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= keys {
                        return Ok(());
                    }
                    let body = n.to_le_bytes().to_vec();
                    client
                        .put_object()
                        .bucket("million")
                        .key(key(n, prefixes))
                        .body(body.into())
                        .send()
                        .await
                        .map_err(client::failure)
                        .said("put")?;
                    if writer == 0 {
                        progress.say(|| format!("{n} of {keys} written, {:.0}/s", n as f64 / began.elapsed().as_secs_f64()));
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.said("writer").and_then(|r: Result<(), String>| r)?;
    }
    Ok(())
}

/// Seconds for all pages of 1,000, and the p99 of a page.
async fn whole(client: &Client, keys: usize, prefixes: usize) -> Result<(f64, Duration), String> {
    let (mut token, mut pages, mut seen, mut last) = (None, Vec::new(), 0, String::new());
    let began = Instant::now();
    loop {
        let asked = Instant::now();
        let page =
            client.list_objects_v2().bucket("million").set_continuation_token(token).send().await.map_err(client::failure).said("list")?;
        pages.push(asked.elapsed());
        for object in page.contents() {
            let key = object.key().unwrap_or_default();
            if key <= last.as_str() {
                return Err(format!("{key} after {last}"));
            }
            last = key.to_owned();
            seen += 1;
        }
        token = page.next_continuation_token().map(str::to_owned);
        if token.is_none() {
            break;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let greatest = (0..prefixes).map(|p| key((keys - prefixes) + p, prefixes)).max().unwrap_or_default();
    if seen != keys || last != greatest {
        return Err(format!("{seen} of {keys} keys were listed, the last {last}"));
    }
    pages.sort();
    Ok((seconds, pages[(pages.len() * 99 / 100).min(pages.len() - 1)]))
}

async fn rolled_up(client: &Client, prefixes: usize) -> Result<Duration, String> {
    let began = Instant::now();
    let (mut token, mut seen) = (None, 0);
    loop {
        let request = client.list_objects_v2().bucket("million").delimiter("/").set_continuation_token(token);
        let page = request.send().await.map_err(client::failure).said("list prefixes")?;
        seen += page.common_prefixes().len();
        token = page.next_continuation_token().map(str::to_owned);
        if token.is_none() {
            break;
        }
    }
    if seen == prefixes { Ok(began.elapsed()) } else { Err(format!("{seen} of {prefixes} prefixes were listed")) }
}
