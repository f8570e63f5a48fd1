//! How a request says who it is, and whether the form of that is right.
//!
//! Only the form: s3s computes the signature. Order and answers are AWS's, so that SDKs correct themselves (a wrong region comes
//! with the right one) and people find out what is wrong.

use super::{Rules, single};
use crate::front::fault::{Fault, Kind};
use crate::front::query::Query;
use http::HeaderMap;
use s3s::dto::{Timestamp, TimestampFormat};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The way a request is authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    HeaderV4,
    QueryV4,
    HeaderV2,
    QueryV2,
}

impl Claim {
    pub fn is_v2(self) -> bool {
        matches!(self, Claim::HeaderV2 | Claim::QueryV2)
    }
}

/// How far a client's clock may be off.
const SKEW: Duration = Duration::from_secs(15 * 60);
/// Longest life of a presigned URL, seconds: seven days.
const EXPIRES_SECONDS: u64 = 604_800;

/// What Signature V2 covers of a query string, and what no operation is chosen by.
const V2_PARAMETERS: &[&str] = &[
    "AWSAccessKeyId",
    "Expires",
    "Signature",
    "accelerate",
    "acl",
    "analytics",
    "content-md5",
    "content-type",
    "continuation-token",
    "cors",
    "delete",
    "delimiter",
    "encoding-type",
    "fetch-owner",
    "inventory",
    "key-marker",
    "lifecycle",
    "list-type",
    "location",
    "logging",
    "marker",
    "max-keys",
    "max-parts",
    "max-uploads",
    "metrics",
    "notification",
    "object-lock",
    "part-number-marker",
    "partNumber",
    "policy",
    "prefix",
    "replication",
    "requestPayment",
    "response-cache-control",
    "response-content-disposition",
    "response-content-encoding",
    "response-content-language",
    "response-content-type",
    "response-expires",
    "restore",
    "select",
    "select-type",
    "start-after",
    "tagging",
    "torrent",
    "upload-id-marker",
    "uploadId",
    "uploads",
    "version-id-marker",
    "versionId",
    "versioning",
    "versions",
    "website",
    "x-id",
];

/// Headers that SDKs may move into a presigned URL and that would change what is stored or from where. s3s reads them only as headers.
const HOISTED: &[&str] = &[
    "x-amz-meta-",
    "x-amz-copy-source",
    "x-amz-tagging",
    "x-amz-storage-class",
    "x-amz-object-lock-",
    "x-amz-server-side-encryption",
    "x-amz-acl",
    "x-amz-grant-",
    "x-amz-website-redirect-location",
    "x-amz-metadata-directive",
];

/// Finds how the request is authenticated and checks the form of it.
///
/// # Errors
/// Anonymous, in two ways at once, malformed, for another region, or by a version that is switched off.
pub fn check(headers: &HeaderMap, query: &Query, rules: &Rules) -> Result<Claim, Fault> {
    let header = single(headers, "authorization").map_err(|()| malformed("it is there more than once or is not text"))?;
    let by_v4 = ["X-Amz-Signature", "X-Amz-Algorithm", "X-Amz-Credential"].iter().any(|name| query.has(name));
    let by_v2 = ["Signature", "AWSAccessKeyId"].iter().any(|name| query.has(name));
    if usize::from(header.is_some()) + usize::from(by_v4) + usize::from(by_v2) > 1 {
        let message = "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string parameter or the Authorization header should be specified";
        return Err(Fault::new(Kind::InvalidArgument, message));
    }
    if by_v4 {
        check_query_v4(headers, query, rules)?;
        return Ok(Claim::QueryV4);
    }
    if by_v2 {
        check_v2(query, rules)?;
        check_query_v2(query)?;
        return Ok(Claim::QueryV2);
    }
    match header {
        None | Some("") => Err(Fault::new(Kind::AccessDenied, "Access Denied")),
        Some(header) if header.starts_with("AWS ") => {
            check_v2(query, rules)?;
            if !header["AWS ".len()..].contains(':') {
                return Err(Fault::new(Kind::InvalidArgument, "AWS authorization header is invalid. Expected AwsAccessKeyId:signature"));
            }
            check_date_v2(headers)?;
            Ok(Claim::HeaderV2)
        }
        Some(header) => {
            check_header_v4(header, headers, rules)?;
            Ok(Claim::HeaderV4)
        }
    }
}

fn check_header_v4(header: &str, headers: &HeaderMap, rules: &Rules) -> Result<(), Fault> {
    if header.starts_with("AWS4-ECDSA-P256-SHA256") {
        return Err(Fault::new(Kind::NotImplemented, "Signature Version 4A is not implemented."));
    }
    let rest = header.strip_prefix("AWS4-HMAC-SHA256").filter(|rest| rest.starts_with(char::is_whitespace));
    let rest = rest.ok_or_else(|| malformed("the authorization mechanism is not supported; use AWS4-HMAC-SHA256"))?;
    let mut fields = [None; 3];
    for part in rest.split(',').map(str::trim) {
        let (name, value) = part.split_once('=').ok_or_else(|| malformed("a field has no value"))?;
        let at = ["Credential", "SignedHeaders", "Signature"].iter().position(|known| *known == name);
        let field = at.and_then(|at| fields.get_mut(at)).ok_or_else(|| malformed("it has an unknown field"))?;
        if field.replace(value).is_some() {
            return Err(malformed("a field is there twice"));
        }
    }
    let [Some(credential), Some(signed_headers), Some(_)] = fields else {
        return Err(malformed("Credential, SignedHeaders or Signature is missing"));
    };
    check_credential(credential, rules, Kind::AuthorizationHeaderMalformed, "The authorization header is malformed")?;
    host_is_signed(signed_headers)?;
    let date = single(headers, "x-amz-date").ok().flatten();
    if !date.is_some_and(is_amz_date) {
        return Err(Fault::new(Kind::AccessDenied, "AWS authentication requires a valid x-amz-date header"));
    }
    Ok(())
}

fn check_query_v4(headers: &HeaderMap, query: &Query, rules: &Rules) -> Result<(), Fault> {
    if let Some(name) = query.repeated() {
        return Err(bad_query(format!("The query parameter {name} is there more than once.")));
    }
    let parameter = |name: &str| {
        query.get(name).ok_or_else(|| {
            bad_query("Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters.")
        })
    };
    match parameter("X-Amz-Algorithm")? {
        "AWS4-HMAC-SHA256" => {}
        "AWS4-ECDSA-P256-SHA256" => return Err(Fault::new(Kind::NotImplemented, "Signature Version 4A is not implemented.")),
        _ => return Err(bad_query("X-Amz-Algorithm only supports \"AWS4-HMAC-SHA256\"")),
    }
    let (credential, date, expires) = (parameter("X-Amz-Credential")?, parameter("X-Amz-Date")?, parameter("X-Amz-Expires")?);
    let (signed_headers, _) = (parameter("X-Amz-SignedHeaders")?, parameter("X-Amz-Signature")?);
    check_credential(credential, rules, Kind::AuthorizationQueryParameters, "Error parsing the X-Amz-Credential parameter")?;
    if !is_amz_date(date) {
        return Err(bad_query("X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\""));
    }
    if expires.strip_prefix('-').is_some_and(|rest| rest.parse::<u64>().is_ok()) {
        return Err(bad_query("X-Amz-Expires must be non-negative"));
    }
    match expires.parse::<u64>().ok().filter(|_| expires.bytes().all(|b| b.is_ascii_digit())) {
        None => return Err(bad_query("X-Amz-Expires should be a number")),
        Some(seconds) if seconds > EXPIRES_SECONDS => {
            return Err(bad_query(
                "X-Amz-Expires must be less than a week (in seconds); that is, the given X-Amz-Expires must be less than 604800 seconds",
            ));
        }
        Some(_) => {}
    }
    host_is_signed(signed_headers)?;
    refuse_hoisted(headers, query)
}

/// `Credential=<access key>/<yyyymmdd>/<region>/s3/aws4_request`
fn check_credential(credential: &str, rules: &Rules, kind: Kind, context: &str) -> Result<(), Fault> {
    let parts: Vec<&str> = credential.split('/').collect();
    let [access_key, date, region, service, terminal] = parts[..] else {
        return Err(Fault::new(
            kind,
            format!("{context}; the Credential is mal-formed; expecting \"<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request\"."),
        ));
    };
    if access_key.is_empty() {
        return Err(Fault::new(kind, format!("{context}; a non-empty Access Key (AKID) must be provided in the credential.")));
    }
    if date.len() != 8 || !date.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Fault::new(
            kind,
            format!("{context}; incorrect date format. This date in the credential must be in the format \"yyyyMMdd\"."),
        ));
    }
    if terminal != "aws4_request" {
        return Err(Fault::new(kind, format!("{context}; incorrect terminal. This endpoint uses \"aws4_request\".")));
    }
    if service != "s3" {
        return Err(Fault::new(kind, format!("{context}; incorrect service. This endpoint belongs to \"s3\".")));
    }
    if region != rules.region {
        let message = format!("{context}; the region is wrong; expecting '{}'", rules.region);
        return Err(Fault::new(kind, message).expecting_region(&rules.region));
    }
    Ok(())
}

/// Without the host in it a signature would hold at any endpoint.
fn host_is_signed(signed_headers: &str) -> Result<(), Fault> {
    if signed_headers.split(';').any(|name| name.eq_ignore_ascii_case("host")) {
        return Ok(());
    }
    Err(Fault::new(Kind::AccessDenied, "There were headers present in the request which were not signed: host"))
}

fn refuse_hoisted(headers: &HeaderMap, query: &Query) -> Result<(), Fault> {
    for name in query.names() {
        let lower = name.to_ascii_lowercase();
        if HOISTED.iter().any(|prefix| lower.starts_with(prefix)) && !headers.contains_key(lower.as_str()) {
            return Err(Fault::new(Kind::NotImplemented, format!("{lower} is implemented as a header, not as a query parameter.")));
        }
    }
    Ok(())
}

fn check_v2(query: &Query, rules: &Rules) -> Result<(), Fault> {
    if !rules.allow_signature_v2 {
        return Err(Fault::new(
            Kind::InvalidRequest,
            "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.",
        ));
    }
    if let Some(name) = query.repeated() {
        return Err(Fault::new(Kind::InvalidArgument, format!("The query parameter {name} is there more than once.")));
    }
    // What the signature does not cover must not choose the operation.
    match query.names().find(|name| !V2_PARAMETERS.contains(name) && !name.starts_with("x-amz-")) {
        Some(name) => Err(Fault::new(
            Kind::AccessDenied,
            format!("The query parameter {name} is not covered by Signature Version 2. Please use AWS4-HMAC-SHA256."),
        )),
        None => Ok(()),
    }
}

/// `x-amz-date`, else `Date`: there, a date, and now.
fn check_date_v2(headers: &HeaderMap) -> Result<(), Fault> {
    let text = ["x-amz-date", "date"].into_iter().find_map(|name| single(headers, name).transpose()).and_then(Result::ok);
    if text.is_some_and(is_amz_date) {
        return Ok(());
    }
    let date = text.and_then(|text| Timestamp::parse(TimestampFormat::HttpDate, text).ok());
    let Some(date) = date.filter(|date| *date >= Timestamp::from(UNIX_EPOCH)) else {
        return Err(Fault::new(Kind::AccessDenied, "AWS authentication requires a valid Date or x-amz-date header"));
    };
    let now = SystemTime::now();
    if date < Timestamp::from(now - SKEW) || date > Timestamp::from(now + SKEW) {
        return Err(Fault::new(Kind::RequestTimeTooSkewed, "The difference between the request time and the current time is too large."));
    }
    Ok(())
}

fn check_query_v2(query: &Query) -> Result<(), Fault> {
    let expires = match (query.get("AWSAccessKeyId"), query.get("Signature"), query.get("Expires")) {
        (Some(_), Some(_), Some(expires)) => expires,
        _ => {
            return Err(Fault::new(
                Kind::AccessDenied,
                "Query-string authentication requires the Signature, Expires and AWSAccessKeyId parameters",
            ));
        }
    };
    let seconds = expires.parse::<i64>().ok().filter(|_| expires.bytes().all(|b| b.is_ascii_digit()));
    // The year 9999: what is later no calendar here can hold.
    match seconds.filter(|seconds| *seconds <= 253_402_300_799) {
        Some(_) => Ok(()),
        None => Err(Fault::new(Kind::AccessDenied, "Invalid date (should be seconds since epoch) in the Expires parameter")),
    }
}

/// `yyyymmddThhmmssZ`, with a month, day, hour, minute and second that exist.
fn is_amz_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    let shape = bytes.len() == 16 && bytes[8] == b'T' && bytes[15] == b'Z';
    let digits = |range: std::ops::Range<usize>| {
        text.get(range).filter(|part| part.bytes().all(|b| b.is_ascii_digit())).and_then(|part| part.parse::<u32>().ok())
    };
    let in_range = |range, low, high| digits(range).is_some_and(|value| (low..=high).contains(&value));
    shape
        && in_range(0..4, 1970, 9999)
        && in_range(4..6, 1, 12)
        && in_range(6..8, 1, 31)
        && in_range(9..11, 0, 23)
        && in_range(11..13, 0, 59)
        && in_range(13..15, 0, 59)
}

fn malformed(what: &str) -> Fault {
    Fault::new(Kind::AuthorizationHeaderMalformed, format!("The authorization header is malformed; {what}."))
}

fn bad_query(message: impl Into<std::borrow::Cow<'static, str>>) -> Fault {
    Fault::new(Kind::AuthorizationQueryParameters, message)
}
