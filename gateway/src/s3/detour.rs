//! Requests that s3s would not read as S3 does, set right between its check of the signature and its parsing.
//!
//! s3s parses a document and drops its bytes, so that Content-MD5 and checksums of DeleteObjects or tags could not be checked; and it
//! answers 400 to a Range or a date that RFC 9110 tells a server to ignore. The front end leads such requests ([`wanted`]) through
//! [`set_right`] with the verified body in hand.

use super::checksum;
use super::error::{self, S3Result};
use super::integrity::Promise;
use http::{HeaderMap, HeaderName, Method, Uri, header};
use md5::Digest as _;
use s3s::dto::{Range, Timestamp, TimestampFormat};

/// Whether the request must be led this way. Says nothing about what is allowed.
pub fn wanted(method: &Method, uri: &Uri, headers: &HeaderMap) -> bool {
    match *method {
        Method::GET | Method::HEAD => ignorable(headers).next().is_some(),
        Method::POST | Method::PUT => document(method, uri).is_some(),
        _ => false,
    }
}

/// Checks what the headers promise about `body`, and takes out headers that S3 ignores.
///
/// - `headers`: with the trailers among them.
///
/// # Errors
/// InvalidRequest where DeleteObjects promises nothing; InvalidDigest, InvalidRequest for a malformed promise; BadDigest for a broken one.
pub fn set_right(method: &Method, uri: &Uri, headers: &mut HeaderMap, body: &[u8]) -> S3Result<()> {
    for name in ignorable(headers).collect::<Vec<_>>() {
        headers.remove(name);
    }
    let Some(document) = document(method, uri) else { return Ok(()) };
    let promise = match document {
        // Its x-amz-checksum-* are of the object it makes.
        Document::Parts => Promise::read(&only_md5(headers), None)?,
        Document::Keys | Document::Other => Promise::read(headers, None)?,
    };
    if document == Document::Keys && !promise.is_any() {
        return Err(error::invalid_request("Missing required header for this request: Content-MD5 OR x-amz-checksum-*"));
    }
    let computed: Vec<_> = promise.algorithm().into_iter().map(|algorithm| (algorithm, checksum::of(algorithm, body))).collect();
    promise.check(&md5::Md5::digest(body).into(), &computed, None)
}

/// What to call the operation in the figures, which the service behind the detour does not report.
pub fn operation(method: &Method, uri: &Uri) -> &'static str {
    match (method.as_str(), document(method, uri)) {
        (_, Some(Document::Keys)) => "DeleteObjects",
        (_, Some(Document::Parts)) => "CompleteMultipartUpload",
        (_, Some(Document::Other)) => "PutObjectTagging",
        ("GET", None) => "GetObject",
        ("HEAD", None) => "HeadObject",
        ("PUT", None) if uri.query().is_none() => "CreateBucket",
        _ => "Document",
    }
}

/// Documents whose promises are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Document {
    /// DeleteObjects
    Keys,
    /// CompleteMultipartUpload
    Parts,
    /// PutObjectTagging, PutObjectAcl, PutBucketAcl
    Other,
}

fn document(method: &Method, uri: &Uri) -> Option<Document> {
    let mut names = uri.query()?.split('&').map(|pair| pair.split('=').next().unwrap_or_default());
    names.find_map(|name| match (method.as_str(), name) {
        ("POST", "delete") => Some(Document::Keys),
        ("POST", "uploadId") => Some(Document::Parts),
        ("PUT", "tagging" | "acl") => Some(Document::Other),
        _ => None,
    })
}

fn only_md5(headers: &HeaderMap) -> HeaderMap {
    let name = HeaderName::from_static("content-md5");
    headers.get(&name).map(|value| (name, value.clone())).into_iter().collect()
}

/// Headers that are there, that s3s would refuse, and that a server ignores.
fn ignorable(headers: &HeaderMap) -> impl Iterator<Item = HeaderName> {
    let refused = |name: &HeaderName, reads: fn(&str) -> bool| {
        headers.get(name).is_some_and(|value| !value.is_empty() && !value.to_str().is_ok_and(reads))
    };
    let range = refused(&header::RANGE, |text| Range::parse(text).is_ok());
    let date = |text: &str| Timestamp::parse(TimestampFormat::HttpDate, text).is_ok();
    let since = refused(&header::IF_MODIFIED_SINCE, date);
    let until = refused(&header::IF_UNMODIFIED_SINCE, date);
    [(range, header::RANGE), (since, header::IF_MODIFIED_SINCE), (until, header::IF_UNMODIFIED_SINCE)]
        .into_iter()
        .filter_map(|(refused, name)| refused.then_some(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn code(uri: &str, pairs: &[(&'static str, &'static str)], body: &[u8]) -> Option<String> {
        let uri: Uri = uri.parse().unwrap_or_default();
        let method = if uri.query().is_some_and(|q| q.starts_with("tagging")) { Method::PUT } else { Method::POST };
        set_right(&method, &uri, &mut headers(pairs), body).err().map(|e| e.code().as_str().to_owned())
    }

    #[test]
    fn deleting_many_keys_needs_a_promise_that_holds() {
        assert_eq!(code("/b?delete", &[], b"x").as_deref(), Some("InvalidRequest"));
        assert_eq!(code("/b?delete", &[("content-md5", "nonsense")], b"x").as_deref(), Some("InvalidDigest"));
        assert_eq!(code("/b?delete", &[("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg==")], b"x").as_deref(), Some("BadDigest"));
        assert_eq!(code("/b?delete", &[("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg==")], b""), None);
        assert_eq!(code("/b?delete=", &[("x-amz-checksum-crc32", "y/Q5Jg==")], b"123456789"), None);
        assert_eq!(code("/b?delete", &[("x-amz-checksum-crc32", "y/Q5Jg==")], b"x").as_deref(), Some("BadDigest"));
    }

    #[test]
    fn the_checksum_of_a_completed_object_is_not_that_of_its_list_of_parts() {
        assert_eq!(code("/b/k?uploadId=1", &[("x-amz-checksum-crc32", "AAAAAA==")], b"x"), None);
        assert_eq!(code("/b/k?uploadId=1", &[("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg==")], b"x").as_deref(), Some("BadDigest"));
        assert_eq!(code("/b/k?tagging", &[], b"x"), None);
        assert_eq!(code("/b/k?tagging", &[("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg==")], b"x").as_deref(), Some("BadDigest"));
    }

    #[test]
    fn only_what_s3s_would_refuse_is_taken_out() {
        let uri = Uri::from_static("/b/k");
        let mut odd = headers(&[("range", "bytes=5-2"), ("if-modified-since", "yesterday"), ("if-match", "x")]);
        assert!(wanted(&Method::GET, &uri, &odd));
        assert!(set_right(&Method::GET, &uri, &mut odd, b"").is_ok());
        assert_eq!(odd.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["if-match"]);
        for range in ["bytes=0-1", "bytes=-5", "bytes=7-"] {
            assert!(!wanted(&Method::GET, &uri, &headers(&[("range", range)])), "{range}");
        }
        assert!(!wanted(&Method::PUT, &uri, &headers(&[("content-md5", "x")])));
        assert!(wanted(&Method::POST, &Uri::from_static("/b?delete"), &HeaderMap::new()));
    }
}
