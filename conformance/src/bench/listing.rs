//! Listing: every key by pages of 1,000, and the common prefixes above them.

use super::BenchError;
use super::figure::Operations;
use super::target::Target;
use aws_sdk_s3::primitives::ByteStream;
use futures::stream::{self, StreamExt, TryStreamExt};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Requests in flight while the keys are made.
const FILL_AT_ONCE: usize = 64;

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Listing {
    /// One operation is one page of 1,000 keys.
    pub pages: Operations,
    /// The whole listing of the prefixes.
    pub prefixes_ms: f64,
}

fn key(i: usize, prefixes: usize) -> String {
    format!("list/p{:05}/k{:06}", i % prefixes, i / prefixes)
}

/// Puts `keys` tiny objects under `prefixes` prefixes.
///
/// # Errors
/// [`BenchError::Request`].
pub async fn fill(target: &Target, bucket: &str, keys: usize, prefixes: usize) -> Result<(), BenchError> {
    let puts = (0..keys).map(|i| async move {
        let put = target.client.put_object().bucket(bucket).key(key(i, prefixes)).body(ByteStream::from_static(b"k"));
        put.send().await.map(drop).map_err(|e| target.failed("PutObject", e))
    });
    stream::iter(puts).buffer_unordered(FILL_AT_ONCE).try_collect::<Vec<()>>().await.map(drop)
}

/// Lists what [`fill`] made, and checks that nothing is missing.
///
/// # Errors
/// [`BenchError::Request`], also for a listing that is not complete.
pub async fn measure(target: &Target, bucket: &str, keys: usize, prefixes: usize) -> Result<Listing, BenchError> {
    let (cpu, began) = (target.cpu(), Instant::now());
    let mut latencies: Vec<Duration> = Vec::new();
    let mut token = None;
    let mut seen = 0;
    loop {
        let page = Instant::now();
        let request = target.client.list_objects_v2().bucket(bucket).prefix("list/").set_continuation_token(token);
        let answer = request.send().await.map_err(|e| target.failed("ListObjectsV2", e))?;
        latencies.push(page.elapsed());
        seen += answer.contents().len();
        token = answer.next_continuation_token;
        if token.is_none() {
            break;
        }
    }
    if seen != keys {
        return Err(target.failed("ListObjectsV2", format!("{seen} of {keys} keys came")));
    }
    let pages = Operations::new(latencies, began.elapsed(), target.cpu().saturating_sub(cpu));

    let began = Instant::now();
    let mut found = 0;
    let mut token = None;
    loop {
        let request = target.client.list_objects_v2().bucket(bucket).prefix("list/").delimiter("/").set_continuation_token(token);
        let answer = request.send().await.map_err(|e| target.failed("ListObjectsV2", e))?;
        found += answer.common_prefixes().len();
        token = answer.next_continuation_token;
        if token.is_none() {
            break;
        }
    }
    if found != prefixes.min(keys) {
        return Err(target.failed("ListObjectsV2", format!("{found} of {prefixes} prefixes came")));
    }
    Ok(Listing { pages, prefixes_ms: began.elapsed().as_secs_f64() * 1e3 })
}
