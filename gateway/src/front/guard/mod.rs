//! Judges a request by its head, before s3s sees it.
//!
//! `claim.rs` how it says who it is, `payload.rs` what it says about its body, `resource.rs` what it asks for.
//! Why: s3s verifies signatures; what is not covered by one, what it would read differently from AWS, and what it would let fall
//! through to another operation is closed here. Every rule has a test in `tests/guard.rs`.
//! Not here: whether the signature holds (s3s), whose bucket it is (`s3/`).

mod claim;
mod payload;
mod resource;

pub use claim::Claim;
pub use resource::Shape;

use crate::front::fault::{Fault, Kind};
use crate::front::framing::Promise;
use crate::front::query::Query;
use http::request::Parts;
use http::{HeaderMap, Method, Uri};

/// Most bytes of a request's head that an operation is shown; AWS allows 8 KiB of headers, and 2 KiB of them metadata.
const HEADER_BYTES: usize = 16 << 10;

/// What an operator may choose about the guard.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Region a signature must be for.
    pub region: String,
    /// Base domain of virtual-host style; none: path style only.
    pub domain: Option<String>,
    /// Whether Signature Version 2 is taken.
    pub allow_signature_v2: bool,
    /// Largest signed aws-chunk, bytes: it is held in memory whole.
    pub signed_chunk_bytes: u64,
}

/// What to watch for in the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyShape {
    /// Bytes as they are.
    Plain,
    /// Bytes as they are, of which the signature covers this SHA-256.
    Hashed([u8; 32]),
    /// aws-chunked.
    Framed(Promise),
    /// A small document.
    Xml,
    /// A small document in aws-chunked form.
    FramedXml(Promise),
}

/// The request may go on.
#[derive(Debug)]
pub struct Verdict {
    pub body: BodyShape,
    /// What s3s must read in the place of the request's own: Signature Version 2 signs a bucket's path with a slash at its end,
    /// whether it was sent with one or not.
    pub uri: Option<Uri>,
    /// The client waits for `100 Continue` before it sends its body.
    pub expects_continue: bool,
}

/// Judges the head of a request.
///
/// # Errors
/// What to answer instead of passing it on.
pub fn judge(parts: &Parts, rules: &Rules) -> Result<Verdict, Fault> {
    let head_bytes: usize = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if head_bytes > HEADER_BYTES {
        return Err(Fault::new(
            Kind::HeadersTooLarge,
            "Your request header section exceeds the maximum allowed request header section size.",
        ));
    }
    method_is_known(parts)?;
    let query = Query::parse(parts.uri.query())?;
    let shape = Shape::of(parts, rules.domain.as_deref())?;
    refuse_forms(parts)?;
    let claim = claim::check(&parts.headers, &query, rules)?;
    let operation = resource::check(&parts.method, shape, &query)?;
    let body = payload::check(parts, claim, operation, rules)?;
    let expects_continue =
        parts.headers.get(http::header::EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let uri = with_slash(&parts.uri).filter(|_| claim.is_v2() && shape == Shape::Bucket);
    Ok(Verdict { body, uri, expects_continue })
}

/// The URI with a slash at its path's end, where there is none.
fn with_slash(uri: &Uri) -> Option<Uri> {
    if uri.path().ends_with('/') {
        return None;
    }
    let target = match uri.query() {
        Some(query) => format!("{}/?{query}", uri.path()),
        None => format!("{}/", uri.path()),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(target.parse().ok()?);
    Uri::from_parts(parts).ok()
}

fn method_is_known(parts: &Parts) -> Result<(), Fault> {
    match parts.method {
        Method::GET | Method::HEAD | Method::PUT | Method::POST | Method::DELETE => Ok(()),
        Method::OPTIONS if parts.headers.contains_key(http::header::ORIGIN) => {
            Err(Fault::new(Kind::AccessForbidden, "CORSResponse: CORS is not enabled for this bucket."))
        }
        Method::OPTIONS => Err(Fault::new(Kind::InvalidRequest, "Insufficient information. Origin request header needed.")),
        _ => Err(Fault::new(Kind::MethodNotAllowed, "The specified method is not allowed against this resource.")),
    }
}

/// A browser's form upload would be signed in its fields and not in its headers; it is an operation of its own, not offered.
fn refuse_forms(parts: &Parts) -> Result<(), Fault> {
    let is_form = parts.method == Method::POST
        && parts
            .headers
            .get_all(http::header::CONTENT_TYPE)
            .iter()
            .any(|value| starts_ignoring_case(value.as_bytes(), b"multipart/form-data"));
    if is_form {
        return Err(Fault::new(Kind::NotImplemented, "Form uploads are not implemented."));
    }
    Ok(())
}

fn starts_ignoring_case(bytes: &[u8], prefix: &[u8]) -> bool {
    bytes.len() >= prefix.len() && bytes[..prefix.len()].eq_ignore_ascii_case(prefix)
}

/// The one value of `name` as text.
///
/// # Errors
/// `Err(())` if it is there more than once or is not text.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, ()> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(());
    }
    value.to_str().map(Some).map_err(|_| ())
}

#[cfg(test)]
mod tests;
