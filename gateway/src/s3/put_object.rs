//! PutObject: refuse what cannot be, store the body, check every promise about it, commit.

use super::caller::{Asked, wrong_answer};
use super::error::{self, S3Result};
use super::integrity::Promise;
use super::{Breakwater, attributes, checksum, condition, moment, tags, unsupported};
use crate::body::{BodyRequest, BodyStream, Name};
use crate::front::body::Hashed;
use crate::write::StoredBody;
use bytes::Bytes;
use s3s::dto::{ETag, PutObjectInput, PutObjectOutput, ServerSideEncryption, StreamingBlob};
use s3s::stream::ByteStream as _;
use s3s::{S3Request, S3Response};
use spine::id::{Seq, UnixMs};
use spine::limit;
use spine::wire::namespace::{Checksum, ChecksumAlgorithm, ChecksumKind, Etag, NamespaceCommand, NewVersion, VersionBody, VersionHead};
use spine::wire::{Refusal, Reply};

impl Breakwater {
    pub(super) async fn put_object_op(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let (mut input, asked) = Asked::split(request)?;
        unsupported::refuse(&asked.headers)?;
        if asked.has_query("uploadId") || asked.has_query("partNumber") {
            return Err(error::invalid_argument("This operation needs both uploadId and partNumber"));
        }
        check_key(&input.key)?;
        let attributes = attributes::from_headers(&asked.headers)?;
        let tags = tags::from_header(asked.header("x-amz-tagging"))?;
        let (body, hash) = Incoming::new(input.body.take(), input.content_length, asked.hashed.as_ref())?;
        let promise = Promise::read(&asked.headers, hash)?;
        let algorithm = promise.algorithm().unwrap_or(checksum::DEFAULT);
        let bucket = self.known_bucket(&asked, &input.bucket).await?;

        let request = BodyRequest {
            tenant: asked.caller.tenant,
            name: Name::new(bucket.id, &input.key),
            chunk_bytes: bucket.chunk_bytes,
            declared_len: Some(body.len),
            max_len: limit::PUT_BYTES,
            checksums: promise.to_compute(algorithm),
            inline_allowed: true,
        };
        let stored = self.path.store(request, body.stream).await.map_err(error::write)?;
        promise.check(&stored.md5, &stored.checksums, asked.trailers.as_ref())?;

        let head = VersionHead {
            id: stored.version,
            seq: Seq(0),
            modified: moment::now(),
            size: stored.size,
            etag: Etag { md5: stored.md5, parts: None },
            checksum: full_object(&stored, algorithm),
            attributes,
            tags,
            upload: None,
        };
        let mut output = PutObjectOutput {
            e_tag: Some(ETag::Strong(head.etag.text())),
            server_side_encryption: Some(ServerSideEncryption::from_static(attributes::ENCRYPTION)),
            ..Default::default()
        };
        checksum::show!(output, head.checksum.as_ref(), None);
        output.checksum_type = checksum::kind_out(head.checksum.as_ref());

        let condition = condition::of_write(&asked.headers);
        let (id, key) = (bucket.id, input.key);
        let reply = self.path.commit(stored, move |body, manifest| {
            let new = NewVersion { head, body: VersionBody { body, parts: Vec::new() }, manifest };
            NamespaceCommand::Commit { bucket: id, key, new: Box::new(new), condition }
        });
        match reply.await.map_err(error::write)? {
            // The body is gone by now: it has to be sent again to the bucket that has the name now.
            Reply::Refused(Refusal::NoSuchBucket) if self.renamed(&asked, &bucket).await?.is_some() => {
                Err(error::slow_down("The bucket was made anew meanwhile. Please try again."))
            }
            reply => committed(reply).map(|_| S3Response::new(output)),
        }
    }
}

/// A request body whose length is known.
pub struct Incoming {
    pub len: u64,
    pub stream: BodyStream,
}

impl Incoming {
    /// The body, and the SHA-256 that it still has to be found to have.
    ///
    /// # Errors
    /// MissingContentLength if neither a header nor the framing tells the length, EntityTooLarge over 5 GiB.
    pub fn new(
        body: Option<StreamingBlob>,
        content_length: Option<i64>,
        hashed: Option<&Hashed>,
    ) -> S3Result<(Incoming, Option<[u8; 32]>)> {
        let body = body.unwrap_or_else(|| StreamingBlob::from_bytes(Bytes::new()));
        let exact = body.remaining_length().exact().and_then(|len| u64::try_from(len).ok());
        let len = match content_length {
            Some(len) => Some(u64::try_from(len).map_err(|_| error::invalid_argument("Content-Length must not be negative"))?),
            None => exact,
        };
        let len =
            len.ok_or_else(|| error::fault(s3s::S3ErrorCode::MissingContentLength, "You must provide the Content-Length HTTP header."))?;
        if len > limit::PUT_BYTES {
            return Err(error::too_large(limit::PUT_BYTES));
        }
        Ok(match hashed.and_then(|hashed| Some((hashed.take()?, hashed.sha256))) {
            Some((stream, sha256)) => (Incoming { len, stream }, Some(sha256)),
            None => (Incoming { len, stream: Box::pin(body) }, None),
        })
    }
}

/// The path of a POST form or of a copy has not been through s3s' own check.
pub fn check_key(key: &str) -> S3Result<()> {
    if key.len() > limit::KEY_BYTES {
        return Err(error::fault(s3s::S3ErrorCode::KeyTooLongError, "Your key is too long"));
    }
    if key.is_empty() {
        return Err(error::fault(s3s::S3ErrorCode::UserKeyMustBeSpecified, "The object key must be specified."));
    }
    Ok(())
}

/// The checksum of the kind that `store` was asked for.
pub fn full_object(stored: &StoredBody, algorithm: ChecksumAlgorithm) -> Option<Checksum> {
    let (_, value) = stored.checksums.iter().find(|(other, _)| *other == algorithm)?;
    Some(Checksum { algorithm, kind: ChecksumKind::FullObject, value: value.clone() })
}

/// When the log says the new version was written.
pub fn committed(reply: Reply) -> S3Result<UnixMs> {
    match reply {
        Reply::Committed { modified, .. } => Ok(modified),
        Reply::Refused(refusal) => Err(error::refused(refusal)),
        _ => Err(wrong_answer()),
    }
}
