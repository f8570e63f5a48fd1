//! CreateBucket.

use super::caller::{Asked, wrong_answer};
use super::error::{self, S3Result};
use super::{Breakwater, moment, unsupported};
use crate::unmake;
use s3s::dto::{CreateBucketConfiguration, CreateBucketInput, CreateBucketOutput};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response};
use spine::id::BucketId;
use spine::limit;
use spine::wire::root::{BucketRecord, RootCommand, Versioning};
use spine::wire::{Command, Refusal, Reply};
use std::sync::Arc;

/// Plaintext bytes per chunk of the new bucket's objects, a power of two from 256 KiB to 8 MiB. Ours alone.
pub const CHUNK_BYTES_HEADER: &str = "x-breakwater-chunk-bytes";

/// Prefixes and suffixes that AWS keeps for itself; a bucket so named could not be moved there.
const RESERVED_PREFIXES: [&str; 3] = ["xn--", "sthree-", "amzn-s3-demo-"];
const RESERVED_SUFFIXES: [&str; 5] = ["-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"];

impl Breakwater {
    /// Again on one's own bucket: 200 where the request is that of us-east-1 (no location, no other wish), else BucketAlreadyOwnedByYou.
    pub(super) async fn create_bucket_op(&self, request: S3Request<CreateBucketInput>) -> S3Result<S3Response<CreateBucketOutput>> {
        let (input, asked) = Asked::split(request)?;
        refuse_options(&input, &asked)?;
        check_name(&input.bucket)?;
        let location = location(input.create_bucket_configuration, &self.region)?;
        let chunk_bytes = chunk_bytes(asked.header(CHUNK_BYTES_HEADER))?;
        let record = BucketRecord {
            id: BucketId(0),
            name: input.bucket.clone(),
            tenant: asked.caller.tenant,
            created: moment::now(),
            chunk_bytes: chunk_bytes.unwrap_or(limit::CHUNK_DEFAULT_BYTES),
            versioning: Versioning::Unversioned,
            location: location.clone(),
        };
        let command = Command::Root(RootCommand::CreateBucket(record));
        let mut replies = self.order_all(vec![command.clone()]).await?;
        if replies == [Reply::Refused(Refusal::BucketDeleting)] {
            self.finish_deletion(&input.bucket).await?;
            replies = self.order_all(vec![command]).await?;
        }
        match replies.into_iter().next() {
            Some(Reply::Bucket(made)) => self.path.known().learn_bucket(&input.bucket, Some(&Arc::new(made))),
            Some(Reply::Refused(Refusal::BucketOwnedByYou)) if location.is_empty() && chunk_bytes.is_none() => {}
            Some(Reply::Refused(refusal)) => return Err(error::refused(refusal)),
            _ => return Err(wrong_answer()),
        }
        Ok(S3Response::new(CreateBucketOutput { location: Some(format!("/{}", input.bucket)), ..Default::default() }))
    }
}

impl Breakwater {
    /// Goes on with a deletion of this name that somebody has begun.
    async fn finish_deletion(&self, name: &str) -> S3Result<()> {
        let metadata = &**self.path.metadata();
        let marked = unmake::marked(metadata).await.map_err(error::metadata)?;
        match marked.iter().find(|(record, _)| record.name == name) {
            Some((record, _)) => unmake::resume(metadata, record).await.map_err(error::metadata),
            None => Ok(()),
        }
    }
}

fn refuse_options(input: &CreateBucketInput, asked: &Asked) -> S3Result<()> {
    unsupported::refuse(&asked.headers)?;
    if input.object_lock_enabled_for_bucket == Some(true) {
        return Err(error::not_implemented("Object Lock is not implemented"));
    }
    if input.object_ownership.as_ref().is_some_and(|ownership| ownership.as_str() != "BucketOwnerEnforced") {
        return Err(error::not_implemented("Object ownership other than BucketOwnerEnforced is not implemented"));
    }
    if input.bucket_namespace.as_ref().is_some_and(|namespace| namespace.as_str() != "global") {
        return Err(error::not_implemented("Bucket namespaces are not implemented"));
    }
    let configuration = input.create_bucket_configuration.as_ref();
    if configuration.is_some_and(|c| c.bucket.is_some() || c.location.is_some()) {
        return Err(error::not_implemented("Directory buckets are not implemented"));
    }
    if configuration.is_some_and(|c| c.tags.as_ref().is_some_and(|tags| !tags.is_empty())) {
        return Err(error::not_implemented("Bucket tags are not implemented"));
    }
    Ok(())
}

/// What s3s has not refused already.
fn check_name(name: &str) -> S3Result<()> {
    let reserved =
        RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || RESERVED_SUFFIXES.iter().any(|suffix| name.ends_with(suffix));
    // A label of a host's name neither begins nor ends with a hyphen.
    let labels = name.split('.').all(|label| !label.starts_with('-') && !label.ends_with('-'));
    if reserved || !labels || !s3s::path::check_bucket_name(name) {
        return Err(S3Error::with_message(S3ErrorCode::InvalidBucketName, "The specified bucket is not valid."));
    }
    Ok(())
}

/// Where the bucket is to be: here, or the request is refused. Empty where it names nothing, or us-east-1.
fn location(configuration: Option<CreateBucketConfiguration>, region: &str) -> S3Result<String> {
    let Some(constraint) = configuration.and_then(|configuration| configuration.location_constraint) else { return Ok(String::new()) };
    let constraint = constraint.as_str();
    if constraint.is_empty() || constraint == "us-east-1" && constraint == region {
        return Ok(String::new());
    }
    if constraint != region {
        return Err(S3Error::with_message(
            S3ErrorCode::InvalidLocationConstraint,
            format!("The specified location-constraint is not valid: this server's region is {region}."),
        ));
    }
    Ok(constraint.to_owned())
}

fn chunk_bytes(header: Option<&str>) -> S3Result<Option<u32>> {
    let Some(text) = header else { return Ok(None) };
    let allowed = limit::CHUNK_MIN_BYTES..=limit::CHUNK_MAX_BYTES;
    match text.parse::<u32>() {
        Ok(bytes) if bytes.is_power_of_two() && allowed.contains(&bytes) => Ok(Some(bytes)),
        _ => Err(error::invalid_argument(format!("{CHUNK_BYTES_HEADER} must be a power of two from 262144 to 8388608"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_size_is_a_power_of_two_within_bounds() {
        assert_eq!(chunk_bytes(None).ok(), Some(None));
        assert_eq!(chunk_bytes(Some("262144")).ok(), Some(Some(262_144)));
        assert_eq!(chunk_bytes(Some("8388608")).ok(), Some(Some(8_388_608)));
        for text in ["131072", "16777216", "300000", "1MiB", "-1", ""] {
            assert!(chunk_bytes(Some(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn names_that_aws_keeps_are_refused() {
        for name in ["xn--a", "sthree-a", "abc-s3alias", "abc--ol-s3", "A_", "a", "192.168.0.1", "a..b", "abc-", "a-.b", "a.-b"] {
            assert!(check_name(name).is_err(), "{name}");
        }
        for name in ["abc", "a.b-c", "0ab"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
    }
}
