//! GetObject.

use super::caller::Asked;
use super::condition::Conditions;
use super::error::{self, S3Result};
use super::told::tell;
use super::view::{self, Slice};
use super::{Breakwater, unsupported};
use crate::body::{BodyStream, Name, ReadError};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use s3s::dto::{GetObjectInput, GetObjectOutput, StreamingBlob};
use s3s::stream::{ByteStream, RemainingLength};
use s3s::{S3Request, S3Response, StdError};
use spine::id::TenantId;
use spine::wire::namespace::{Body, VersionHead};
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Answers up to this are read before the first byte goes out: head and body leave in one write, and any fault is a status.
const GATHERED_BYTES: u64 = 64 << 10;

/// How often a key that is overwritten again and again is looked up for one answer.
const RESOLVED: usize = 5;

impl Breakwater {
    pub(super) async fn get_object_op(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let (input, asked) = Asked::split(request)?;
        unsupported::refuse(&asked.headers)?;
        view::check_version(input.version_id.as_deref())?;
        let mut bucket = self.known_bucket(&asked, &input.bucket).await?;
        let conditions = Conditions::of_read(&asked.headers);
        let mut resolved = 1;
        loop {
            let (head, version) = match self.open(bucket.id, &input.key).await {
                Err(nothing) if error::is_no_such_key(&nothing) => {
                    bucket = self.renamed(&asked, &bucket).await?.ok_or(nothing)?;
                    continue;
                }
                opened => opened?,
            };
            let name = Name::new(bucket.id, &input.key);
            conditions.check_read(&head)?;
            let slice = view::slice(&head, &version.parts, &asked.headers, input.part_number)?;
            match self.stream(asked.caller.tenant, &name, &version.body, slice.range.clone()).await {
                Ok(body) => return Ok(S3Response::new(output(head, slice, body, checksums_wanted(&asked)))),
                // The version was replaced and collected since it was resolved: what is there now is the answer.
                Err(ReadError::Gone { .. }) if resolved < RESOLVED => resolved += 1,
                Err(fault) => return Err(error::read(fault)),
            }
        }
    }

    async fn stream(&self, tenant: TenantId, name: &Arc<Name>, body: &Body, range: Range<u64>) -> Result<StreamingBlob, ReadError> {
        let len = range.end - range.start;
        if len == 0 {
            return Ok(StreamingBlob::from_bytes(Bytes::new()));
        }
        let stream = self.path.read(tenant, name, body, range).await?;
        if len > GATHERED_BYTES {
            return Ok(StreamingBlob::new(Outgoing { stream, left: len }));
        }
        gather(stream, len).await.map(StreamingBlob::from_bytes)
    }
}

async fn gather(mut stream: BodyStream, len: u64) -> Result<Bytes, ReadError> {
    let mut all = BytesMut::with_capacity(usize::try_from(len).unwrap_or(0));
    while let Some(piece) = stream.next().await {
        match piece {
            Ok(piece) if all.is_empty() && piece.len() as u64 == len => return Ok(piece),
            Ok(piece) => all.extend_from_slice(&piece),
            Err(fault) => return Err(ReadError::Unavailable { reason: fault.to_string() }),
        }
    }
    if all.len() as u64 == len { Ok(all.freeze()) } else { Err(ReadError::Unavailable { reason: "the body ended early".into() }) }
}

/// A body on its way out whose length is known, so that one that ends early breaks the connection.
struct Outgoing {
    stream: BodyStream,
    left: u64,
}

impl Stream for Outgoing {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.stream.as_mut().poll_next(cx);
        match &polled {
            Poll::Ready(Some(Ok(piece))) => self.left = self.left.saturating_sub(piece.len() as u64),
            Poll::Ready(None) if self.left > 0 => return Poll::Ready(Some(Err("the body ended early".into()))),
            _ => {}
        }
        polled
    }
}

impl ByteStream for Outgoing {
    fn remaining_length(&self) -> RemainingLength {
        RemainingLength::new_exact(usize::try_from(self.left).unwrap_or(usize::MAX))
    }
}

/// `x-amz-checksum-mode: ENABLED`.
pub fn checksums_wanted(asked: &Asked) -> bool {
    asked.header("x-amz-checksum-mode").is_some_and(|mode| mode.eq_ignore_ascii_case("ENABLED"))
}

fn output(head: VersionHead, slice: Slice, body: StreamingBlob, checksums: bool) -> GetObjectOutput {
    let mut output = GetObjectOutput { body: Some(body), ..Default::default() };
    tell!(output, head, slice, checksums);
    output
}
