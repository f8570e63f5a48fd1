//! What a client says about an object: system and user metadata, in and out.

use super::error::{self, S3Result};
use http::{HeaderMap, header};
use s3s::dto::Metadata;
use s3s::{S3Error, S3ErrorCode};
use spine::limit;
use spine::wire::namespace::Attributes;

/// What AWS says of an object whose writer named no type.
pub const DEFAULT_CONTENT_TYPE: &str = "binary/octet-stream";
pub const STANDARD: &str = "STANDARD";
/// Said of every object, because every object is encrypted.
pub const ENCRYPTION: &str = "AES256";

const STORAGE_CLASSES: [&str; 11] = [
    STANDARD,
    "REDUCED_REDUNDANCY",
    "STANDARD_IA",
    "ONEZONE_IA",
    "INTELLIGENT_TIERING",
    "GLACIER",
    "GLACIER_IR",
    "DEEP_ARCHIVE",
    "OUTPOSTS",
    "SNOW",
    "EXPRESS_ONEZONE",
];

/// Attributes from a write's headers.
///
/// # Errors
/// MetadataTooLarge over 2 KiB of user metadata, InvalidStorageClass, InvalidArgument for a header that is no text.
pub fn from_headers(headers: &HeaderMap) -> S3Result<Attributes> {
    Ok(Attributes {
        content_type: text(headers, header::CONTENT_TYPE.as_str())?,
        content_encoding: text(headers, header::CONTENT_ENCODING.as_str())?.and_then(|value| without_framing(&value)),
        content_disposition: text(headers, header::CONTENT_DISPOSITION.as_str())?,
        content_language: text(headers, header::CONTENT_LANGUAGE.as_str())?,
        cache_control: text(headers, header::CACHE_CONTROL.as_str())?,
        expires: text(headers, header::EXPIRES.as_str())?,
        website_redirect: website_redirect(headers)?,
        storage_class: storage_class(headers)?,
        user: user_metadata(headers)?,
    })
}

/// `x-amz-storage-class`; `None` for STANDARD.
pub fn storage_class(headers: &HeaderMap) -> S3Result<Option<String>> {
    match text(headers, "x-amz-storage-class")? {
        None => Ok(None),
        Some(class) if class == STANDARD => Ok(None),
        Some(class) if STORAGE_CLASSES.contains(&class.as_str()) => Ok(Some(class)),
        Some(_) => Err(S3Error::with_message(S3ErrorCode::InvalidStorageClass, "The storage class you specified is not valid")),
    }
}

pub fn website_redirect(headers: &HeaderMap) -> S3Result<Option<String>> {
    let Some(target) = text(headers, "x-amz-website-redirect-location")? else { return Ok(None) };
    if target.len() > 2_048 {
        return Err(error::invalid_argument("The length of website redirect location cannot exceed 2,048 characters."));
    }
    if !(target.starts_with('/') || target.starts_with("http://") || target.starts_with("https://")) {
        return Err(error::invalid_argument("The website redirect location must have a prefix of 'http://' or 'https://' or '/'."));
    }
    Ok(Some(target))
}

fn text(headers: &HeaderMap, name: &str) -> S3Result<Option<String>> {
    match headers.get(name) {
        None => Ok(None),
        Some(value) if value.is_empty() => Ok(None),
        Some(value) => match value.to_str() {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(_) => Err(error::invalid_argument(format!("invalid header: {name}"))),
        },
    }
}

/// `aws-chunked` is how the body travelled, not what it is.
fn without_framing(encoding: &str) -> Option<String> {
    if !encoding.split(',').any(|part| part.trim().eq_ignore_ascii_case("aws-chunked")) {
        return Some(encoding.to_owned());
    }
    let kept: Vec<&str> =
        encoding.split(',').map(str::trim).filter(|part| !part.is_empty() && !part.eq_ignore_ascii_case("aws-chunked")).collect();
    (!kept.is_empty()).then(|| kept.join(", "))
}

/// Names without their prefix, and values as they were sent. s3s would decode what looks like an encoded word of RFC 2047, and lose what
/// stands between two of them.
fn user_metadata(headers: &HeaderMap) -> S3Result<Vec<(String, String)>> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for (name, value) in headers {
        let Some(own) = name.as_str().strip_prefix("x-amz-meta-").filter(|own| !own.is_empty()) else { continue };
        let value = std::str::from_utf8(value.as_bytes()).map_err(|_| error::invalid_argument(format!("invalid header: {name}")))?;
        pairs.push((own.to_owned(), value.to_owned()));
    }
    let bytes: usize = pairs.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > limit::USER_METADATA_BYTES {
        return Err(S3Error::with_message(S3ErrorCode::MetadataTooLarge, "Your metadata headers exceed the maximum allowed metadata size"));
    }
    if pairs.iter().any(|(_, value)| value.contains(|c: char| c.is_control() && c != '\t')) {
        return Err(error::invalid_argument("Metadata values must not hold control characters"));
    }
    pairs.sort();
    Ok(pairs)
}

/// For a response.
pub fn user_out(attributes: &Attributes) -> Option<Metadata> {
    (!attributes.user.is_empty()).then(|| attributes.user.iter().cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn the_framing_of_an_upload_is_not_stored_as_its_encoding() {
        for (sent, kept) in [
            ("aws-chunked", None),
            ("aws-chunked,gzip", Some("gzip")),
            ("gzip, AWS-Chunked", Some("gzip")),
            ("gzip,br", Some("gzip,br")),
            ("deflate, gzip", Some("deflate, gzip")),
            ("aws-chunked,deflate,gzip", Some("deflate, gzip")),
            ("aws-chunked,", None),
        ] {
            let stored = from_headers(&headers(&[("content-encoding", sent)])).map(|a| a.content_encoding);
            assert_eq!(stored.ok(), Some(kept.map(str::to_owned)), "{sent}");
        }
    }

    #[test]
    fn metadata_of_2_kib_is_taken_and_a_byte_more_is_not() {
        let of = |len: usize| -> HeaderMap {
            HeaderValue::from_str(&"v".repeat(len)).map(|value| (HeaderName::from_static("x-amz-meta-k"), value)).into_iter().collect()
        };
        assert!(from_headers(&of(2_047)).is_ok());
        let error = from_headers(&of(2_048)).map(|_| ()).map_err(|e| e.code().as_str().to_owned());
        assert_eq!(error, Err("MetadataTooLarge".to_owned()));
    }

    #[test]
    fn metadata_is_kept_as_it_was_sent() {
        let sent =
            [("x-amz-meta-a", "=?UTF-8?Q?x?= and =?UTF-8?Q?y?="), ("x-amz-meta-b", ""), ("x-amz-meta-", "z"), ("x-amz-acl", "private")];
        let kept = from_headers(&headers(&sent)).map(|attributes| attributes.user).unwrap_or_default();
        assert_eq!(kept, [("a".to_owned(), "=?UTF-8?Q?x?= and =?UTF-8?Q?y?=".to_owned()), ("b".to_owned(), String::new())]);
    }

    #[test]
    fn an_unknown_storage_class_is_refused_and_standard_is_none() {
        assert_eq!(storage_class(&headers(&[("x-amz-storage-class", "STANDARD")])).ok(), Some(None));
        assert_eq!(storage_class(&headers(&[("x-amz-storage-class", "GLACIER_IR")])).ok(), Some(Some("GLACIER_IR".to_owned())));
        assert!(storage_class(&headers(&[("x-amz-storage-class", "COLD")])).is_err());
    }
}
