//! HeadObject: GetObject's headers without its body.

use super::caller::Asked;
use super::condition::Conditions;
use super::error::S3Result;
use super::get_object::checksums_wanted;
use super::view::{self, Slice};
use super::{Breakwater, attributes, checksum, moment, unsupported};
use s3s::dto::{ETag, HeadObjectInput, HeadObjectOutput, ServerSideEncryption, StorageClass, TimestampFormat};
use s3s::{S3Request, S3Response};
use spine::wire::namespace::VersionHead;

impl Breakwater {
    pub(super) async fn head_object_op(&self, request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let (input, asked) = Asked::split(request)?;
        unsupported::refuse(&asked.headers)?;
        view::check_version(input.version_id.as_deref())?;
        let bucket = self.bucket(&asked, &input.bucket).await?;
        let (head, parts) = match input.part_number {
            None => (self.head(bucket.id, &input.key).await?, Vec::new()),
            Some(_) => {
                let (head, version) = self.open(bucket.id, &input.key).await?;
                (head, version.parts)
            }
        };
        Conditions::of_read(&asked.headers).check_read(&head)?;
        let slice = view::slice(&head, &parts, &asked.headers, input.part_number)?;
        let mut output = output(head, slice, checksums_wanted(&asked));
        override_headers(&mut output, input);
        Ok(S3Response::new(output))
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

fn output(head: VersionHead, slice: Slice, checksums: bool) -> HeadObjectOutput {
    let mut output = HeadObjectOutput {
        accept_ranges: Some("bytes".to_owned()),
        content_length: i64::try_from(slice.range.end - slice.range.start).ok(),
        content_range: slice.content_range,
        content_type: Some(view::content_type(&head)),
        e_tag: Some(ETag::Strong(head.etag.text())),
        last_modified: Some(moment::timestamp(head.modified)),
        metadata: attributes::user_out(&head.attributes),
        parts_count: slice.parts_count,
        server_side_encryption: Some(ServerSideEncryption::from_static(attributes::ENCRYPTION)),
        storage_class: view::storage_class(&head).map(|class| StorageClass::from(class.to_owned())),
        tag_count: view::tag_count(&head),
        ..Default::default()
    };
    if checksums {
        checksum::show!(output, slice.checksum.as_ref(), head.etag.parts);
        output.checksum_type = checksum::kind_out(slice.checksum.as_ref());
    }
    let attributes = head.attributes;
    output.cache_control = attributes.cache_control;
    output.content_disposition = attributes.content_disposition;
    output.content_encoding = attributes.content_encoding;
    output.content_language = attributes.content_language;
    output.expires = attributes.expires;
    output.website_redirect_location = attributes.website_redirect;
    output
}
