//! HeadObject: GetObject's status and headers without its body.

use super::caller::Asked;
use super::condition::Conditions;
use super::error::S3Result;
use super::get_object::checksums_wanted;
use super::told::tell;
use super::{Breakwater, Partial, unsupported, view};
use s3s::dto::{HeadObjectInput, HeadObjectOutput, TimestampFormat};
use s3s::{S3Request, S3Response};

impl Breakwater {
    pub(super) async fn head_object_op(&self, request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let (input, asked) = Asked::split(request)?;
        unsupported::refuse(&asked.headers)?;
        view::check_version(input.version_id.as_deref())?;
        let bucket = self.bucket(&asked, &input.bucket).await?;
        let (head, parts) = match input.part_number {
            None => (self.head(bucket.id, &input.key).await?, None),
            Some(_) => {
                let (head, version) = self.open(bucket.id, &input.key).await?;
                (head, Some(version))
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
