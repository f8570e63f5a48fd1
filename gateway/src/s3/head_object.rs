//! HeadObject: GetObject's status and headers without its body.

use super::caller::Asked;
use super::condition::Conditions;
use super::error::{self, S3Result};
use super::get_object::checksums_wanted;
use super::told::tell;
use super::{Breakwater, Partial, unsupported, view};
use s3s::dto::{HeadObjectInput, HeadObjectOutput, TimestampFormat};
use s3s::{S3Request, S3Response};
use spine::id::BucketId;
use spine::wire::namespace::{VersionBody, VersionHead};
use std::sync::Arc;

impl Breakwater {
    pub(super) async fn head_object_op(&self, request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let (input, asked) = Asked::split(request)?;
        unsupported::refuse(&asked.headers)?;
        view::check_version(input.version_id.as_deref())?;
        let mut bucket = self.known_bucket(&asked, &input.bucket).await?;
        let (head, parts) = loop {
            match self.head_and_parts(bucket.id, &input.key, input.part_number.is_some()).await {
                Err(nothing) if error::is_no_such_key(&nothing) => {
                    bucket = self.renamed(&asked, &bucket).await?.ok_or(nothing)?;
                }
                found => break found?,
            }
        };
        let parts = parts.as_ref().map_or(&[][..], |version| &version.parts);
        Conditions::of_read(&asked.headers).check_read(&head)?;
        let slice = view::slice(&head, parts, &asked.headers, input.part_number)?;
        let partial = slice.content_range.is_some();
        let mut output = HeadObjectOutput::default();
        tell!(output, head, slice, checksums_wanted(&asked));
        override_headers(&mut output, input);
        let mut response = S3Response::new(output);
        if partial {
            response.extensions.insert(Partial);
        }
        Ok(response)
    }

    /// The current version, with its body where a part of it is asked for.
    async fn head_and_parts(&self, bucket: BucketId, key: &str, parts: bool) -> S3Result<(VersionHead, Option<Arc<VersionBody>>)> {
        if !parts {
            return Ok((self.head(bucket, key).await?, None));
        }
        let (head, version) = self.open(bucket, key).await?;
        Ok((head, Some(version)))
    }
}

/// `response-*`, as for GET.
fn override_headers(output: &mut HeadObjectOutput, input: HeadObjectInput) {
    let replace = |field: &mut Option<String>, with: Option<String>| {
        if with.is_some() {
            *field = with;
        }
    };
    replace(&mut output.cache_control, input.response_cache_control);
    replace(&mut output.content_disposition, input.response_content_disposition);
    replace(&mut output.content_encoding, input.response_content_encoding);
    replace(&mut output.content_language, input.response_content_language);
    replace(&mut output.content_type, input.response_content_type);
    let expires = input.response_expires.and_then(|time| {
        let mut text = Vec::new();
        time.format(TimestampFormat::HttpDate, &mut text).ok()?;
        String::from_utf8(text).ok()
    });
    replace(&mut output.expires, expires);
}
