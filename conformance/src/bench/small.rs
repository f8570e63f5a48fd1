//! Many objects of one size, several requests at once: PUT all, GET all in another order, DELETE all.

use super::BenchError;
use super::figure::Operations;
use super::target::Target;
use crate::content::{Content, Dice};
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use serde::Serialize;
use std::time::{Duration, Instant};

/// One round over the objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Small {
    pub put: Operations,
    pub get: Operations,
    pub delete: Operations,
    /// Bytes on disk that the PUTs added, per byte put; 0 where the data folder is not known.
    pub disk_per_byte: f64,
}

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Bytes of each object.
    pub size: usize,
    pub objects: usize,
    /// Requests in flight.
    pub at_once: usize,
    pub seed: u64,
}

#[derive(Clone, Copy)]
enum Kind {
    Put,
    Get,
    Delete,
}

/// Measures one round in `bucket`, which it leaves as it was.
///
/// # Errors
/// [`BenchError::Request`], [`BenchError::WrongBytes`].
pub async fn measure(target: &Target, bucket: &str, load: Load) -> Result<Small, BenchError> {
    let bodies: Vec<Bytes> = (0..load.objects).map(|i| Content::dense(load.seed + i as u64, load.size).bytes()).collect();
    let mut order: Vec<usize> = (0..load.objects).collect();
    let before = target.disk_bytes();
    let put = round(target, bucket, load, Kind::Put, &order, &bodies).await?;
    let added = target.disk_bytes().zip(before).map_or(0, |(after, before)| after.saturating_sub(before));
    shuffle(&mut order, load.seed);
    let get = round(target, bucket, load, Kind::Get, &order, &bodies).await?;
    let delete = round(target, bucket, load, Kind::Delete, &order, &bodies).await?;
    Ok(Small { put, get, delete, disk_per_byte: added as f64 / (load.size * load.objects).max(1) as f64 })
}

fn shuffle(order: &mut [usize], seed: u64) {
    let mut dice = Dice::new(seed);
    for i in (1..order.len()).rev() {
        order.swap(i, dice.below(i + 1));
    }
}

async fn round(target: &Target, bucket: &str, load: Load, kind: Kind, order: &[usize], bodies: &[Bytes]) -> Result<Operations, BenchError> {
    let (cpu, began) = (target.cpu(), Instant::now());
    let requests = order.iter().map(|i| one(target, bucket, format!("small/{}/{i:06}", load.size), bodies[*i].clone(), kind));
    let latencies: Vec<Duration> = stream::iter(requests).buffer_unordered(load.at_once).try_collect().await?;
    Ok(Operations::new(latencies, began.elapsed(), target.cpu().saturating_sub(cpu)))
}

async fn one(target: &Target, bucket: &str, key: String, body: Bytes, kind: Kind) -> Result<Duration, BenchError> {
    let began = Instant::now();
    match kind {
        Kind::Put => {
            let sent = target.client.put_object().bucket(bucket).key(key).body(ByteStream::from(body)).send().await;
            sent.map_err(|e| target.failed("PutObject", e))?;
        }
        Kind::Get => {
            let answer = target.client.get_object().bucket(bucket).key(&key).send().await.map_err(|e| target.failed("GetObject", e))?;
            let got = answer.body.collect().await.map_err(|e| target.failed("GetObject's body", e))?.into_bytes();
            if got != body {
                return Err(BenchError::WrongBytes { target: target.name.clone(), key, offset: 0 });
            }
        }
        Kind::Delete => {
            let gone = target.client.delete_object().bucket(bucket).key(key).send().await;
            gone.map_err(|e| target.failed("DeleteObject", e))?;
        }
    }
    Ok(began.elapsed())
}
