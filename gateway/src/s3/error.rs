//! The one place that knows S3's error codes and what each of our faults is called there.
//!
//! Invariant: a fault that may pass (metadata away, too few disks, shutting down) is 503 or 500, never NoSuchKey,
//! InvalidRange or AccessDenied: backup clients take those for the truth and act on it.

use crate::body::ReadError;
use crate::body::{BodyError, WriteError};
use crate::front::fault::Fault;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use s3s::stream::aws_chunked_stream::AwsChunkedStreamError;
use s3s::stream::upload_stream::UploadStreamError;
use s3s::{BodySizeLimitExceeded, S3Error, S3ErrorCode};
use spine::wire::{MetadataError, Refusal};
use std::borrow::Cow;

pub type S3Result<T> = s3s::S3Result<T>;

/// A code that s3s knows, with our words.
pub fn fault(code: S3ErrorCode, message: impl Into<Cow<'static, str>>) -> S3Error {
    S3Error::with_message(code, message)
}

/// A code that s3s has no name for.
fn named(code: &'static str, status: StatusCode, message: impl Into<Cow<'static, str>>) -> S3Error {
    let mut error = fault(S3ErrorCode::from_bytes(code.as_bytes()).unwrap_or(S3ErrorCode::InternalError), message);
    error.set_status_code(status);
    error
}

pub fn invalid_argument(message: impl Into<Cow<'static, str>>) -> S3Error {
    fault(S3ErrorCode::InvalidArgument, message)
}

pub fn invalid_request(message: impl Into<Cow<'static, str>>) -> S3Error {
    fault(S3ErrorCode::InvalidRequest, message)
}

/// What cannot be done yet. Never a false success.
pub fn not_implemented(what: impl Into<Cow<'static, str>>) -> S3Error {
    fault(S3ErrorCode::NotImplemented, what)
}

pub fn access_denied() -> S3Error {
    fault(S3ErrorCode::AccessDenied, "Access Denied")
}

pub fn no_such_bucket() -> S3Error {
    fault(S3ErrorCode::NoSuchBucket, "The specified bucket does not exist")
}

pub fn no_such_key() -> S3Error {
    fault(S3ErrorCode::NoSuchKey, "The specified key does not exist.")
}

pub fn is_no_such_key(error: &S3Error) -> bool {
    *error.code() == S3ErrorCode::NoSuchKey
}

pub fn no_such_upload() -> S3Error {
    fault(
        S3ErrorCode::NoSuchUpload,
        "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed.",
    )
}

pub fn no_such_version() -> S3Error {
    fault(S3ErrorCode::NoSuchVersion, "The specified version does not exist.")
}

pub fn precondition_failed() -> S3Error {
    fault(S3ErrorCode::PreconditionFailed, "At least one of the pre-conditions you specified did not hold")
}

/// Two writers met on one key and this one may try again.
pub fn conflict() -> S3Error {
    fault(
        S3ErrorCode::ConditionalRequestConflict,
        "The conditional request cannot succeed due to a conflicting operation against this resource.",
    )
}

/// 304 with the headers RFC 9110 wants repeated. No body.
pub fn not_modified(headers: HeaderMap) -> S3Error {
    let mut error = S3Error::new(S3ErrorCode::NotModified);
    error.set_headers(headers);
    error
}

/// 416, with the size in Content-Range so that a client learns it.
pub fn invalid_range(size: u64) -> S3Error {
    let mut error = fault(S3ErrorCode::InvalidRange, "The requested range is not satisfiable");
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    if let Ok(value) = HeaderValue::try_from(format!("bytes */{size}")) {
        headers.insert(header::CONTENT_RANGE, value);
    }
    error.set_headers(headers);
    error
}

pub fn invalid_part_number() -> S3Error {
    named("InvalidPartNumber", StatusCode::RANGE_NOT_SATISFIABLE, "The requested partnumber is not satisfiable")
}

pub fn bad_digest(what: &str) -> S3Error {
    fault(S3ErrorCode::BadDigest, format!("The {what} you specified did not match what we received."))
}

pub fn invalid_digest() -> S3Error {
    fault(S3ErrorCode::InvalidDigest, "The Content-MD5 you specified is not valid.")
}

pub fn malformed_xml() -> S3Error {
    fault(S3ErrorCode::MalformedXML, "The XML you provided was not well-formed or did not validate against our published schema")
}

pub fn malformed_trailer() -> S3Error {
    named(
        "MalformedTrailerError",
        StatusCode::BAD_REQUEST,
        "The request contained trailing data that was not well-formed or did not conform to our published schema.",
    )
}

pub fn too_large(max: u64) -> S3Error {
    fault(S3ErrorCode::EntityTooLarge, format!("Your proposed upload exceeds the maximum allowed size of {max} bytes"))
}

/// `configuration` is not set on this bucket: true of every bucket while it cannot be set.
pub fn unconfigured(configuration: Unconfigured) -> S3Error {
    let (code, message) = match configuration {
        Unconfigured::Policy => ("NoSuchBucketPolicy", "The bucket policy does not exist"),
        Unconfigured::Cors => ("NoSuchCORSConfiguration", "The CORS configuration does not exist"),
        Unconfigured::Lifecycle => ("NoSuchLifecycleConfiguration", "The lifecycle configuration does not exist"),
        Unconfigured::Tags => ("NoSuchTagSet", "The TagSet does not exist"),
        Unconfigured::Encryption => {
            ("ServerSideEncryptionConfigurationNotFoundError", "The server side encryption configuration was not found")
        }
        Unconfigured::Website => ("NoSuchWebsiteConfiguration", "The specified bucket does not have a website configuration"),
        Unconfigured::Replication => ("ReplicationConfigurationNotFoundError", "The replication configuration was not found"),
        Unconfigured::ObjectLock => ("ObjectLockConfigurationNotFoundError", "Object Lock configuration does not exist for this bucket"),
        Unconfigured::PublicAccessBlock => ("NoSuchPublicAccessBlockConfiguration", "The public access block configuration was not found"),
        Unconfigured::Ownership => ("OwnershipControlsNotFoundError", "The bucket ownership controls were not found"),
        Unconfigured::Named => ("NoSuchConfiguration", "The specified configuration does not exist."),
    };
    named(code, StatusCode::NOT_FOUND, message)
}

/// A bucket's configuration that cannot be set yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unconfigured {
    Policy,
    Cors,
    Lifecycle,
    Tags,
    Encryption,
    Website,
    Replication,
    ObjectLock,
    PublicAccessBlock,
    Ownership,
    /// Analytics, inventory, metrics and intelligent-tiering, which have an id each.
    Named,
}

pub fn slow_down(message: impl Into<Cow<'static, str>>) -> S3Error {
    fault(S3ErrorCode::SlowDown, message)
}

fn unavailable() -> S3Error {
    fault(S3ErrorCode::ServiceUnavailable, "The service is temporarily unavailable. Please try again.")
}

/// 500; what went wrong goes to the log, not to the client.
pub fn internal(what: &dyn std::fmt::Display) -> S3Error {
    tracing::error!(%what, "a request failed on our side");
    fault(S3ErrorCode::InternalError, "We encountered an internal error. Please try again.")
}

pub fn metadata(error: MetadataError) -> S3Error {
    match error {
        MetadataError::Unavailable { reason } => {
            tracing::warn!(%reason, "metadata is unavailable");
            unavailable()
        }
        MetadataError::Full { used, map } => {
            tracing::error!(used_bytes = used, map_bytes = map, "the metadata table is full");
            slow_down("The metadata store is full: only reads and deletes are possible until space is made.")
        }
        MetadataError::TooNew { what } => {
            tracing::warn!(what, "something waits for metadata nodes to be upgraded");
            unavailable()
        }
        MetadataError::NotHere => {
            tracing::warn!("a range of the metadata moved on while it was asked for");
            unavailable()
        }
        MetadataError::Storage { .. } => internal(&error),
        MetadataError::TooLarge { what } => invalid_request(format!("The request is too large for one transaction: {what}")),
    }
}

pub fn write(error: WriteError) -> S3Error {
    match error {
        WriteError::Body(error) => body(&error),
        WriteError::TooLarge { max } => too_large(max),
        WriteError::Short { .. } => incomplete_body(),
        WriteError::QuorumNotReached { .. } | WriteError::Aborted { .. } | WriteError::Unavailable { .. } => {
            tracing::warn!(%error, "a write was refused for now");
            slow_down("The write could not be made durable now. Please reduce your request rate and try again.")
        }
        WriteError::Metadata(error) => metadata(error),
    }
}

pub fn read(error: ReadError) -> S3Error {
    match error {
        ReadError::Unreadable { .. } | ReadError::Unavailable { .. } => {
            tracing::warn!(%error, "a read was refused for now");
            slow_down("The object cannot be read now. Please try again.")
        }
        ReadError::Gone { .. } | ReadError::Damaged { .. } | ReadError::Range { .. } => internal(&error),
        ReadError::Metadata(error) => metadata(error),
    }
}

/// The state machine's no, where the caller has no better name for it.
pub fn refused(refusal: Refusal) -> S3Error {
    match refusal {
        Refusal::NoSuchBucket => no_such_bucket(),
        Refusal::NotYours => access_denied(),
        Refusal::BucketExists => fault(
            S3ErrorCode::BucketAlreadyExists,
            "The requested bucket name is not available. The bucket namespace is shared by all users of the system. Please select a different name and try again.",
        ),
        Refusal::BucketOwnedByYou => fault(
            S3ErrorCode::BucketAlreadyOwnedByYou,
            "Your previous request to create the named bucket succeeded and you already own it.",
        ),
        Refusal::TooManyBuckets => fault(S3ErrorCode::TooManyBuckets, "You have attempted to create more buckets than allowed"),
        Refusal::BucketNotEmpty => fault(S3ErrorCode::BucketNotEmpty, "The bucket you tried to delete is not empty"),
        Refusal::PreconditionFailed => precondition_failed(),
        Refusal::NoSuchObject => no_such_key(),
        Refusal::NoSuchUpload => no_such_upload(),
        Refusal::PartChanged => conflict(),
        Refusal::Frozen | Refusal::NotHere | Refusal::BucketDeleting | Refusal::OldAttempt => {
            tracing::warn!(%refusal, "what was asked for is being moved or deleted");
            unavailable()
        }
        Refusal::Restoring => slow_down("The metadata is being restored. Please try again later."),
        Refusal::IntentClosed | Refusal::ChunkGone => slow_down("The write was overtaken by a cleanup. Please try again."),
        Refusal::TenantExists
        | Refusal::NoSuchTenant
        | Refusal::KeyExists
        | Refusal::NoSuchKey
        | Refusal::TargetGone
        | Refusal::Skipped
        | Refusal::FleetExists
        | Refusal::NoFleet
        | Refusal::NoSuchNode
        | Refusal::NodeRetired
        | Refusal::InviteExists
        | Refusal::NoSuchInvite
        | Refusal::InviteExpired
        | Refusal::InviteUsed
        | Refusal::OldRevocations
        | Refusal::LeaseTaken
        | Refusal::NotDrained
        | Refusal::MapChanged
        | Refusal::NoSuchRange
        | Refusal::MapFull
        | Refusal::GroupMoves
        | Refusal::TooManyMoves
        | Refusal::LastNode
        | Refusal::Exhausted
        | Refusal::Mismatch
        | Refusal::NoSuchMove
        | Refusal::NotEmpty
        | Refusal::NotRestored => internal(&refusal),
    }
}

fn incomplete_body() -> S3Error {
    fault(S3ErrorCode::IncompleteBody, "You did not provide the number of bytes specified by the Content-Length HTTP header")
}

/// What a request's body failed with, found by walking the chain of causes.
pub fn body(error: &BodyError) -> S3Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error.as_ref());
    while let Some(this) = cause {
        if let Some(answer) = known_body_fault(this) {
            return answer;
        }
        cause = this.source();
    }
    tracing::debug!(%error, "a request body ended early");
    incomplete_body()
}

fn known_body_fault(error: &(dyn std::error::Error + 'static)) -> Option<S3Error> {
    if let Some(error) = error.downcast_ref::<S3Error>() {
        let message = error.message().unwrap_or_default().to_owned();
        return Some(fault(error.code().clone(), message));
    }
    if let Some(fault) = error.downcast_ref::<Fault>() {
        let (code, status) = fault.kind.answer();
        return Some(named(code, status, fault.message.clone()));
    }
    if let Some(error) = error.downcast_ref::<UploadStreamError>() {
        return match error {
            UploadStreamError::Underlying(_) => None,
            UploadStreamError::Sha256Mismatch => Some(content_sha256_mismatch()),
            UploadStreamError::LengthMismatch | UploadStreamError::Incomplete => Some(incomplete_body()),
        };
    }
    if let Some(error) = error.downcast_ref::<AwsChunkedStreamError>() {
        return match error {
            AwsChunkedStreamError::Underlying(_) => None,
            AwsChunkedStreamError::SignatureMismatch => Some(fault(
                S3ErrorCode::SignatureDoesNotMatch,
                "The request signature we calculated does not match the signature you provided. Check your key and signing method.",
            )),
            AwsChunkedStreamError::TrailersTooLarge(..) | AwsChunkedStreamError::TooManyTrailerHeaders(..) => Some(malformed_trailer()),
            other => Some(fault(other.to_s3_error_code(), other.to_string())),
        };
    }
    if error.is::<BodySizeLimitExceeded>() {
        return Some(too_large(spine::limit::PUT_BYTES));
    }
    match error.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
        Some(std::io::ErrorKind::TimedOut) => Some(request_timeout()),
        _ => None,
    }
}

pub fn content_sha256_mismatch() -> S3Error {
    named(
        "XAmzContentSHA256Mismatch",
        StatusCode::BAD_REQUEST,
        "The provided 'x-amz-content-sha256' header does not match what was computed.",
    )
}

/// The client stopped sending.
pub fn request_timeout() -> S3Error {
    fault(S3ErrorCode::RequestTimeout, "Your socket connection to the server was not read from or written to within the timeout period.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use spine::id::{ChunkId, VersionId};

    #[test]
    fn a_fault_that_may_pass_is_never_one_that_clients_take_for_the_truth() {
        let chunk = ChunkId([1; 32]);
        let faults = [
            metadata(MetadataError::Unavailable { reason: "no leader".into() }),
            metadata(MetadataError::Full { used: 1, map: 1 }),
            metadata(MetadataError::Storage { reason: "eio".into() }),
            write(WriteError::QuorumNotReached { chunk, acked: 3, quorum: 5 }),
            write(WriteError::Aborted { version: VersionId([0; 16]) }),
            write(WriteError::Unavailable { reason: "shutdown".into() }),
            read(ReadError::Unreadable { chunk, found: 3, needed: 4 }),
            read(ReadError::Gone { version: VersionId([0; 16]) }),
            read(ReadError::Damaged { chunk, what: "id" }),
            read(ReadError::Unavailable { reason: "keys".into() }),
            refused(Refusal::IntentClosed),
            refused(Refusal::Skipped),
            refused(Refusal::Frozen),
            refused(Refusal::NotHere),
            refused(Refusal::BucketDeleting),
            metadata(MetadataError::NotHere),
            metadata(MetadataError::TooNew { what: "x".into() }),
        ];
        for fault in faults {
            let status = fault.status_code().map(|s| s.as_u16());
            assert!(matches!(status, Some(500 | 503)), "{fault:?}");
        }
    }

    #[test]
    fn a_body_fault_is_found_behind_the_errors_that_wrap_it() {
        let inner: BodyError = Box::new(UploadStreamError::Sha256Mismatch);
        let outer: BodyError = Box::new(UploadStreamError::Underlying(inner));
        assert_eq!(body(&outer).code().as_str(), "XAmzContentSHA256Mismatch");
        let lost: BodyError = "connection reset".into();
        assert_eq!(body(&lost).code().as_str(), "IncompleteBody");
        let slow: BodyError = Box::new(std::io::Error::from(std::io::ErrorKind::TimedOut));
        assert_eq!(body(&slow).code().as_str(), "RequestTimeout");
    }

    #[test]
    fn an_unsatisfiable_range_tells_the_size() {
        let error = invalid_range(42);
        assert_eq!(error.status_code(), Some(StatusCode::RANGE_NOT_SATISFIABLE));
        assert_eq!(error.headers().and_then(|h| h.get(header::CONTENT_RANGE)).map(|v| v.as_bytes()), Some(&b"bytes */42"[..]));
    }
}
