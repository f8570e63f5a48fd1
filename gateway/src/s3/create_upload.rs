//! CreateMultipartUpload and AbortMultipartUpload.

use super::caller::{Asked, wrong_answer};
use super::error::{self, S3Result};
use super::put_object::check_key;
use super::{Breakwater, Rendered, attributes, checksum, moment, tags, unsupported};
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, ChecksumAlgorithm as ChecksumName, ChecksumType, CreateMultipartUploadInput,
    CreateMultipartUploadOutput, ServerSideEncryption,
};
use s3s::{S3Request, S3Response};
use spine::id::{BucketId, UploadId};
use spine::wire::Reply;
use spine::wire::namespace::{ChecksumAlgorithm, ChecksumKind, NamespaceAnswer, NamespaceCommand, NamespaceQuery, UploadRecord};

impl Breakwater {
    pub(super) async fn create_upload_op(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let (input, asked) = Asked::split(request)?;
        unsupported::refuse(&asked.headers)?;
        check_key(&input.key)?;
        let checksum = checksum_of(asked.header("x-amz-checksum-algorithm"), asked.header("x-amz-checksum-type"))?;
        let attributes = attributes::from_headers(&asked.headers)?;
        let tags = tags::from_header(asked.header("x-amz-tagging"))?;
        let bucket = self.bucket(&asked, &input.bucket).await?;
        let record = UploadRecord {
            id: new_upload_id()?,
            bucket: bucket.id,
            key: input.key.clone(),
            created: moment::now(),
            attributes,
            tags,
            checksum,
            initiator: asked.caller.access_key.clone(),
        };
        let id = record.id;
        match self.order(NamespaceCommand::CreateUpload(Box::new(record))).await? {
            Reply::Done => {}
            Reply::Refused(refusal) => return Err(error::refused(refusal)),
            _ => return Err(wrong_answer()),
        }
        let output = CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            checksum_algorithm: checksum.map(|(algorithm, _)| ChecksumName::from_static(checksum::name(algorithm))),
            checksum_type: checksum.map(|(_, kind)| ChecksumType::from_static(checksum::kind_name(kind))),
            server_side_encryption: Some(ServerSideEncryption::from_static(attributes::ENCRYPTION)),
            upload_id: Some(id.to_string()),
            ..Default::default()
        };
        Ok(Rendered::answer(output, |output| CreateMultipartUploadOutput { key: None, ..output }))
    }

    pub(super) async fn abort_upload_op(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let (input, asked) = Asked::split(request)?;
        let bucket = self.bucket(&asked, &input.bucket).await?;
        let upload = upload_id(&input.upload_id)?;
        if let Some(expected) = &input.if_match_initiated_time {
            let record = self.upload(bucket.id, &input.key, upload).await?;
            if moment::client_seconds(expected) != moment::seconds(record.created) {
                return Err(error::precondition_failed());
            }
        }
        match self.order(NamespaceCommand::AbortUpload { upload, bucket: bucket.id, key: input.key }).await? {
            Reply::Done => Ok(S3Response::new(AbortMultipartUploadOutput::default())),
            Reply::Refused(refusal) => Err(error::refused(refusal)),
            _ => Err(wrong_answer()),
        }
    }

    /// The upload, if it is open and of this bucket and key.
    pub(super) async fn upload(&self, bucket: BucketId, key: &str, upload: UploadId) -> S3Result<UploadRecord> {
        match self.ask_namespace(NamespaceQuery::Upload { bucket, key: key.to_owned(), upload }).await? {
            NamespaceAnswer::Upload(Some(record)) => Ok(record),
            NamespaceAnswer::Upload(None) => Err(error::no_such_upload()),
            _ => Err(wrong_answer()),
        }
    }
}

fn new_upload_id() -> S3Result<UploadId> {
    let mut id = [0; UploadId::LEN];
    getrandom::fill(&mut id).map_err(|fault| error::internal(&fault))?;
    Ok(UploadId(id))
}

/// An id in another form than ours was never given out.
pub fn upload_id(text: &str) -> S3Result<UploadId> {
    UploadId::parse_hex(text).ok_or_else(error::no_such_upload)
}

/// CRC-64/NVME only over the whole object, hashes only of the parts, the other CRCs either way.
fn checksum_of(algorithm: Option<&str>, kind: Option<&str>) -> S3Result<Option<(ChecksumAlgorithm, ChecksumKind)>> {
    let Some(algorithm) = algorithm else {
        return match kind {
            None => Ok(None),
            Some(_) => {
                Err(error::invalid_request("The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header."))
            }
        };
    };
    let algorithm = checksum::from_name(algorithm).ok_or_else(|| {
        error::invalid_request(
            "Checksum algorithm provided is unsupported. Please try again with any of the valid types: [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]",
        )
    })?;
    let kind = match kind {
        None => checksum::default_kind(algorithm),
        Some("FULL_OBJECT") => ChecksumKind::FullObject,
        Some("COMPOSITE") => ChecksumKind::Composite,
        Some(_) => return Err(error::invalid_request("Value for x-amz-checksum-type header is invalid.")),
    };
    let possible = match kind {
        ChecksumKind::FullObject => checksum::combines(algorithm),
        ChecksumKind::Composite => algorithm != ChecksumAlgorithm::Crc64Nvme,
    };
    if !possible {
        return Err(error::invalid_request(format!(
            "The {} checksum type cannot be used with the {} checksum algorithm.",
            checksum::kind_name(kind),
            checksum::name(algorithm)
        )));
    }
    Ok(Some((algorithm, kind)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_kind_must_suit_its_algorithm() {
        let ok = |algorithm, kind| checksum_of(algorithm, kind).ok();
        assert_eq!(ok(None, None), Some(None));
        assert_eq!(ok(Some("CRC32"), None), Some(Some((ChecksumAlgorithm::Crc32, ChecksumKind::Composite))));
        assert_eq!(ok(Some("CRC32"), Some("FULL_OBJECT")), Some(Some((ChecksumAlgorithm::Crc32, ChecksumKind::FullObject))));
        assert_eq!(ok(Some("CRC64NVME"), None), Some(Some((ChecksumAlgorithm::Crc64Nvme, ChecksumKind::FullObject))));
        assert_eq!(ok(Some("SHA256"), None), Some(Some((ChecksumAlgorithm::Sha256, ChecksumKind::Composite))));
        for (algorithm, kind) in [
            (Some("CRC64NVME"), Some("COMPOSITE")),
            (Some("SHA1"), Some("FULL_OBJECT")),
            (Some("MD5"), None),
            (Some("CRC32"), Some("HALF")),
            (None, Some("COMPOSITE")),
        ] {
            assert_eq!(ok(algorithm, kind), None, "{algorithm:?} {kind:?}");
        }
    }

    #[test]
    fn upload_ids_never_repeat_and_read_back() {
        let (one, two) = (new_upload_id().ok(), new_upload_id().ok());
        assert_ne!(one, two);
        assert_eq!(one.and_then(|id| upload_id(&id.to_string()).ok()), one);
        assert!(upload_id("../../etc").is_err());
    }
}
