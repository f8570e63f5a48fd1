//! One object in 16 MiB parts, up and down, by one stream or by several.

use super::BenchError;
use super::figure::Transfer;
use super::target::Target;
use crate::content::Content;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumMode, CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use std::time::Instant;

/// Bytes of a part.
pub const PART: usize = 16 << 20;

/// The body of a large object, in parts.
#[derive(Clone, Debug)]
pub struct Large {
    parts: Vec<Bytes>,
}

impl Large {
    /// Dense bytes of a length in whole parts (at least one).
    pub fn new(seed: u64, bytes: u64) -> Self {
        let count = (bytes / PART as u64).max(1);
        Self { parts: (0..count).map(|i| Content::dense(seed.wrapping_add(i << 32), PART).bytes()).collect() }
    }

    pub fn len(&self) -> u64 {
        (self.parts.len() * PART) as u64
    }

    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }
}

/// Uploads with `streams` parts in flight.
///
/// # Errors
/// [`BenchError::Request`].
pub async fn put(target: &Target, bucket: &str, key: &str, body: &Large, streams: usize) -> Result<Transfer, BenchError> {
    // Shards of 4+2, and what the server takes for the bodies under way.
    let _warmth = target.warm(body.len() * 7 / 4 + (256 << 20));
    let (cpu, began) = (target.cpu(), Instant::now());
    let created = target.client.create_multipart_upload().bucket(bucket).key(key).send().await;
    let upload = created.map_err(|e| target.failed("CreateMultipartUpload", e))?.upload_id.unwrap_or_default();
    let sending = body.parts.iter().cloned().enumerate().map(|(i, part)| send_part(target, bucket, key, &upload, i as i32 + 1, part));
    let mut parts: Vec<CompletedPart> = stream::iter(sending).buffer_unordered(streams).try_collect().await?;
    parts.sort_by_key(CompletedPart::part_number);
    let all = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
    let completed = target.client.complete_multipart_upload().bucket(bucket).key(key).upload_id(&upload).multipart_upload(all).send().await;
    completed.map_err(|e| target.failed("CompleteMultipartUpload", e))?;
    Ok(Transfer::new(body.len(), began.elapsed(), target.cpu().saturating_sub(cpu)))
}

async fn send_part(target: &Target, bucket: &str, key: &str, upload: &str, number: i32, body: Bytes) -> Result<CompletedPart, BenchError> {
    let request = target.client.upload_part().bucket(bucket).key(key).upload_id(upload).part_number(number);
    let sent = request.body(ByteStream::from(body)).send().await.map_err(|e| target.failed("UploadPart", e))?;
    let part = CompletedPart::builder().part_number(number).set_e_tag(sent.e_tag).set_checksum_crc32(sent.checksum_crc32);
    Ok(part.build())
}

/// Downloads: one stream reads the object whole, several read ranges of 16 MiB. Every byte is compared.
///
/// # Errors
/// [`BenchError::Request`], [`BenchError::WrongBytes`].
pub async fn get(target: &Target, bucket: &str, key: &str, body: &Large, streams: usize) -> Result<Transfer, BenchError> {
    let (cpu, began) = (target.cpu(), Instant::now());
    if streams == 1 {
        read(target, bucket, key, None, &body.parts, 0).await?;
    } else {
        let ranges = body.parts.iter().enumerate().map(|(i, part)| {
            let from = (i * PART) as u64;
            let range = format!("bytes={from}-{}", from + PART as u64 - 1);
            read(target, bucket, key, Some(range), std::slice::from_ref(part), from)
        });
        stream::iter(ranges).buffer_unordered(streams).try_collect::<Vec<()>>().await?;
    }
    Ok(Transfer::new(body.len(), began.elapsed(), target.cpu().saturating_sub(cpu)))
}

async fn read(target: &Target, bucket: &str, key: &str, range: Option<String>, expected: &[Bytes], from: u64) -> Result<(), BenchError> {
    let request = target.client.get_object().bucket(bucket).key(key).set_range(range).set_checksum_mode(None::<ChecksumMode>);
    let mut answer = request.send().await.map_err(|e| target.failed("GetObject", e))?;
    let mut expected = expected.iter().cloned();
    let mut want = Bytes::new();
    let mut offset = from;
    while let Some(piece) = answer.body.next().await {
        let mut piece = piece.map_err(|e| target.failed("GetObject's body", e))?;
        while !piece.is_empty() {
            if want.is_empty() {
                want = expected.next().unwrap_or_default();
            }
            let len = piece.len().min(want.len());
            if len == 0 || piece[..len] != want[..len] {
                return Err(BenchError::WrongBytes { target: target.name.clone(), key: key.into(), offset });
            }
            let _ = (piece.split_to(len), want.split_to(len));
            offset += len as u64;
        }
    }
    if !want.is_empty() || expected.next().is_some() {
        return Err(BenchError::WrongBytes { target: target.name.clone(), key: key.into(), offset });
    }
    Ok(())
}
