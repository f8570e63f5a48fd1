//! What a request says about its body.

use super::resource::Operation;
use super::{BodyShape, Claim, Rules, single};
use crate::front::fault::{Fault, Kind};
use crate::front::framing::Promise;
use crate::front::xml::XML_BYTES;
use http::request::Parts;

/// `x-amz-content-sha256`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Payload {
    Absent,
    Unsigned,
    Exact([u8; 32]),
    Streaming { signed: bool, trailer: bool },
}

/// Checksums that can come after the body.
const TRAILERS: &[&str] =
    &["x-amz-checksum-crc32", "x-amz-checksum-crc32c", "x-amz-checksum-crc64nvme", "x-amz-checksum-sha1", "x-amz-checksum-sha256"];

/// Checks what the headers promise about the body against each other and against the operation.
///
/// # Errors
/// A promise that is malformed, contradicts another, or is missing.
pub fn check(parts: &Parts, claim: Claim, operation: Operation, rules: &Rules) -> Result<BodyShape, Fault> {
    let payload = payload(parts)?;
    let Payload::Streaming { signed, trailer } = payload else {
        refuse_framing_nobody_takes_off(parts)?;
        demand_length(parts, operation)?;
        bound_document(operation, single(&parts.headers, "content-length").ok().flatten().and_then(|length| length.parse().ok()))?;
        return Ok(match (operation, payload) {
            (Operation::Document, _) => BodyShape::Xml,
            (Operation::Data, Payload::Exact(sha256)) if claim == Claim::HeaderV4 => BodyShape::Hashed(sha256),
            _ => BodyShape::Plain,
        });
    };
    if claim != Claim::HeaderV4 {
        return Err(Fault::new(
            Kind::NotImplemented,
            "aws-chunked bodies are implemented for requests signed with Signature Version 4 in the Authorization header.",
        ));
    }
    let promise = Promise {
        signed,
        trailers: trailers(parts, trailer)?,
        decoded: decoded_length(parts)?,
        max_signed_chunk: rules.signed_chunk_bytes,
    };
    bound_document(operation, Some(promise.decoded))?;
    Ok(match operation {
        Operation::Document => BodyShape::FramedXml(promise),
        _ => BodyShape::Framed(promise),
    })
}

fn payload(parts: &Parts) -> Result<Payload, Fault> {
    let bad = || {
        Fault::new(
            Kind::InvalidArgument,
            "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-UNSIGNED-PAYLOAD-TRAILER, STREAMING-AWS4-HMAC-SHA256-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER or a valid sha256 value.",
        )
    };
    let Some(value) = single(&parts.headers, "x-amz-content-sha256").map_err(|()| bad())? else {
        return Ok(Payload::Absent);
    };
    Ok(match value {
        "UNSIGNED-PAYLOAD" => Payload::Unsigned,
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER" => Payload::Streaming { signed: false, trailer: true },
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" => Payload::Streaming { signed: true, trailer: false },
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" => Payload::Streaming { signed: true, trailer: true },
        value if value.starts_with("STREAMING-AWS4-ECDSA") => {
            return Err(Fault::new(Kind::NotImplemented, "Signature Version 4A is not implemented."));
        }
        value => Payload::Exact(hex::decode(value).ok().and_then(|hash| hash.try_into().ok()).ok_or_else(bad)?),
    })
}

/// A body in aws-chunked form whose hash header does not say so would be stored with its framing. Who frames tells the length that
/// is inside; Content-Encoding alone says what the client would have liked to do, as AWS takes it.
fn refuse_framing_nobody_takes_off(parts: &Parts) -> Result<(), Fault> {
    let framed = parts
        .headers
        .get_all(http::header::CONTENT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| coding.trim().eq_ignore_ascii_case("aws-chunked"));
    if framed && parts.headers.contains_key("x-amz-decoded-content-length") {
        return Err(Fault::new(Kind::InvalidRequest, "Content-Encoding aws-chunked needs a STREAMING- value of x-amz-content-sha256."));
    }
    if parts.headers.contains_key("x-amz-trailer") {
        return Err(Fault::new(Kind::InvalidRequest, "x-amz-trailer needs a STREAMING-...-TRAILER value of x-amz-content-sha256."));
    }
    Ok(())
}

/// Without its length a body that is cut off could not be told from a whole one. A copy has no body.
fn demand_length(parts: &Parts, operation: Operation) -> Result<(), Fault> {
    let has_length = parts.headers.contains_key(http::header::CONTENT_LENGTH);
    let copies = parts.headers.contains_key("x-amz-copy-source");
    let in_pieces = parts.headers.contains_key(http::header::TRANSFER_ENCODING);
    let needed = match operation {
        Operation::Data => !copies || in_pieces,
        Operation::Document => in_pieces,
        Operation::Bodyless => false,
    };
    if needed && !has_length {
        return Err(Fault::new(Kind::MissingContentLength, "You must provide the Content-Length HTTP header."));
    }
    Ok(())
}

/// A document is read into memory; no S3 document is larger than [`XML_BYTES`].
fn bound_document(operation: Operation, length: Option<u64>) -> Result<(), Fault> {
    if operation == Operation::Document && length.is_some_and(|length| length > XML_BYTES) {
        return Err(Fault::new(
            Kind::MalformedXml,
            "The XML you provided was not well-formed or did not validate against our published schema.",
        ));
    }
    Ok(())
}

fn decoded_length(parts: &Parts) -> Result<u64, Fault> {
    let value = single(&parts.headers, "x-amz-decoded-content-length").map_err(|()| bad_length())?;
    let value =
        value.ok_or_else(|| Fault::new(Kind::MissingContentLength, "You must provide the x-amz-decoded-content-length HTTP header."))?;
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad_length());
    }
    value.parse().map_err(|_| bad_length())
}

fn bad_length() -> Fault {
    Fault::new(Kind::InvalidArgument, "x-amz-decoded-content-length must be a number.")
}

fn trailers(parts: &Parts, has_trailer: bool) -> Result<Vec<String>, Fault> {
    let names: Vec<String> = parts
        .headers
        .get_all("x-amz-trailer")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .filter(|name| !name.is_empty())
        .collect();
    if names.is_empty() == has_trailer {
        return Err(Fault::new(
            Kind::InvalidRequest,
            "x-amz-trailer goes with a STREAMING-...-TRAILER value of x-amz-content-sha256, and only with one.",
        ));
    }
    if let Some(name) = names.iter().find(|name| !TRAILERS.contains(&name.as_str())) {
        return Err(Fault::new(Kind::InvalidRequest, format!("The value specified in the x-amz-trailer header is not supported: {name}")));
    }
    Ok(names)
}
