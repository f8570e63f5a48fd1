//! UploadPart and UploadPartCopy.

use super::caller::{Asked, wrong_answer};
use super::copy_source::StoreAgain;
use super::create_upload::upload_id;
use super::error::{self, S3Result};
use super::integrity::Promise;
use super::put_object::{Incoming, full_object};
use super::{Breakwater, attributes, checksum, moment, range, unsupported, view};
use crate::body::{BodyRequest, Name};
use crate::write::StoredBody;
use s3s::dto::{CopyPartResult, ETag, ServerSideEncryption, UploadPartCopyInput, UploadPartCopyOutput, UploadPartInput, UploadPartOutput};
use s3s::{S3Request, S3Response};
use spine::id::{TenantId, UnixMs};
use spine::limit;
use spine::wire::Reply;
use spine::wire::namespace::{Checksum, ChecksumAlgorithm, NamespaceCommand, PartRecord, UploadRecord};
use spine::wire::root::BucketRecord;

/// How often a source that is replaced while it is copied is resolved again.
const ATTEMPTS: usize = 3;

impl Breakwater {
    pub(super) async fn upload_part_op(&self, request: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        let (mut input, asked) = Asked::split(request)?;
        unsupported::refuse(&asked.headers)?;
        let number = view::part_number(input.part_number)?;
        let (body, hash) = Incoming::new(input.body.take(), input.content_length, asked.hashed.as_ref())?;
        let promise = Promise::read(&asked.headers, hash)?;
        let bucket = self.bucket(&asked, &input.bucket).await?;
        let upload = self.upload(bucket.id, &input.key, upload_id(&input.upload_id)?).await?;
        let algorithm = algorithm(&upload, promise.algorithm())?;

        let request = part_request(asked.caller.tenant, &bucket, &upload, body.len, promise.to_compute(algorithm));
        let stored = self.path.store(request, body.stream).await.map_err(error::write)?;
        promise.check(&stored.md5, &stored.checksums, asked.trailers.as_ref())?;

        let checksum = full_object(&stored, algorithm);
        let (md5, _) = self.put_part(&upload, number, stored, checksum.clone()).await?;
        let mut output = UploadPartOutput {
            e_tag: Some(ETag::Strong(hex::encode(md5))),
            server_side_encryption: Some(ServerSideEncryption::from_static(attributes::ENCRYPTION)),
            ..Default::default()
        };
        checksum::show!(output, checksum.as_ref(), None);
        Ok(S3Response::new(output))
    }

    pub(super) async fn upload_part_copy_op(&self, request: S3Request<UploadPartCopyInput>) -> S3Result<S3Response<UploadPartCopyOutput>> {
        let (input, asked) = Asked::split(request)?;
        unsupported::refuse(&asked.headers)?;
        let number = view::part_number(input.part_number)?;
        let wanted = copy_range(input.copy_source_range.as_deref())?;
        let bucket = self.bucket(&asked, &input.bucket).await?;
        let upload = self.upload(bucket.id, &input.key, upload_id(&input.upload_id)?).await?;
        let algorithm = algorithm(&upload, None)?;

        for _ in 0..ATTEMPTS {
            let source = self.source(&asked, &input.copy_source).await?;
            let size = source.head.size;
            let range = wanted.clone().unwrap_or(0..size);
            if range.end > size {
                return Err(error::invalid_argument(format!("Range specified is not valid for source object of size: {size}")));
            }
            if range.end - range.start > limit::PUT_BYTES {
                return Err(error::invalid_request(
                    "The specified copy source is larger than the maximum allowable size for a copy source: 5368709120",
                ));
            }
            let request = part_request(asked.caller.tenant, &bucket, &upload, range.end - range.start, vec![algorithm]);
            let stored = match self.store_again(&source, range, request).await {
                Ok(stored) => stored,
                Err(StoreAgain::Again) => continue,
                Err(StoreAgain::Fault(fault)) => return Err(fault),
            };
            let checksum = full_object(&stored, algorithm);
            let (md5, modified) = self.put_part(&upload, number, stored, checksum.clone()).await?;
            let mut result = CopyPartResult {
                e_tag: Some(ETag::Strong(hex::encode(md5))),
                last_modified: Some(moment::timestamp(modified)),
                ..Default::default()
            };
            checksum::show!(result, checksum.as_ref(), None);
            return Ok(S3Response::new(UploadPartCopyOutput {
                copy_part_result: Some(result),
                server_side_encryption: Some(ServerSideEncryption::from_static(attributes::ENCRYPTION)),
                ..Default::default()
            }));
        }
        Err(error::internal(&"the source of a copy was replaced again and again"))
    }

    /// Makes a stored body part `number`; gives its MD5 and time.
    async fn put_part(
        &self,
        upload: &UploadRecord,
        number: u32,
        stored: StoredBody,
        checksum: Option<Checksum>,
    ) -> S3Result<([u8; 16], UnixMs)> {
        let (version, size, md5, modified) = (stored.version, stored.size, stored.md5, moment::now());
        let (upload, bucket, key) = (upload.id, upload.bucket, upload.key.clone());
        let reply = self.path.commit(stored, move |body, manifest| {
            let part = PartRecord { number, version, size, md5, checksum, modified, body };
            NamespaceCommand::PutPart { upload, bucket, key, part: Box::new(part), manifest }
        });
        match reply.await.map_err(error::write)? {
            Reply::Done => Ok((md5, modified)),
            Reply::Refused(refusal) => Err(error::refused(refusal)),
            _ => Err(wrong_answer()),
        }
    }
}

fn part_request(
    tenant: TenantId,
    bucket: &BucketRecord,
    upload: &UploadRecord,
    len: u64,
    checksums: Vec<ChecksumAlgorithm>,
) -> BodyRequest {
    BodyRequest {
        tenant,
        name: Name::new(upload.bucket, &upload.key),
        chunk_bytes: bucket.chunk_bytes,
        declared_len: Some(len),
        max_len: limit::PUT_BYTES,
        checksums,
        inline_allowed: false,
    }
}

/// The upload's algorithm; where it named none, the part's own, else the default.
fn algorithm(upload: &UploadRecord, promised: Option<ChecksumAlgorithm>) -> S3Result<ChecksumAlgorithm> {
    match (upload.checksum, promised) {
        (Some((expected, _)), Some(actual)) if expected != actual => Err(error::invalid_request(format!(
            "Checksum Type mismatch occurred, expected checksum Type: {}, actual checksum Type: {}",
            checksum::name(expected).to_lowercase(),
            checksum::name(actual).to_lowercase()
        ))),
        (Some((expected, _)), _) => Ok(expected),
        (None, promised) => Ok(promised.unwrap_or(checksum::DEFAULT)),
    }
}

fn copy_range(header: Option<&str>) -> S3Result<Option<std::ops::Range<u64>>> {
    let Some(header) = header else { return Ok(None) };
    range::parse_copy(header).map(Some).ok_or_else(|| {
        error::invalid_argument(
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the zero-based offsets of the first and last bytes to copy",
        )
    })
}
