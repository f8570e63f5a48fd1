//! What GetObject and HeadObject tell of an object in headers, once for both.

/// Fills `$output`, GetObjectOutput or HeadObjectOutput, which have these fields in common.
///
/// - `$head`: a [`spine::wire::namespace::VersionHead`], used up.
/// - `$slice`: the [`crate::s3::view::Slice`] of it that is answered, used up.
/// - `$checksums`: whether the client wants to see them.
macro_rules! tell {
    ($output:ident, $head:expr, $slice:expr, $checksums:expr) => {{
        use $crate::s3::{attributes, checksum, moment, view};
        let (head, slice): (spine::wire::namespace::VersionHead, view::Slice) = ($head, $slice);
        $output.accept_ranges = Some("bytes".to_owned());
        $output.content_length = i64::try_from(slice.range.end - slice.range.start).ok();
        $output.content_range = slice.content_range;
        $output.content_type = Some(view::content_type(&head));
        $output.e_tag = Some(s3s::dto::ETag::Strong(head.etag.text()));
        $output.last_modified = Some(moment::timestamp(head.modified));
        $output.metadata = attributes::user_out(&head.attributes);
        $output.parts_count = slice.parts_count;
        $output.server_side_encryption = Some(s3s::dto::ServerSideEncryption::from_static(attributes::ENCRYPTION));
        $output.storage_class = view::storage_class(&head).map(|class| s3s::dto::StorageClass::from(class.to_owned()));
        $output.tag_count = view::tag_count(&head);
        if $checksums {
            checksum::show!($output, slice.checksum.as_ref(), head.etag.parts);
            // The kind is the object's, also where the checksum is of one of its parts.
            $output.checksum_type = slice.checksum.as_ref().and_then(|part| checksum::kind_out(head.checksum.as_ref().or(Some(part))));
        }
        let attributes = head.attributes;
        $output.cache_control = attributes.cache_control;
        $output.content_disposition = attributes.content_disposition;
        $output.content_encoding = attributes.content_encoding;
        $output.content_language = attributes.content_language;
        $output.expires = attributes.expires;
        $output.website_redirect_location = attributes.website_redirect;
    }};
}
pub(crate) use tell;
