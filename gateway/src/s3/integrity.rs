//! What a client promised about a body, and whether it was kept.
//!
//! s3s parses Content-MD5, `x-amz-checksum-*` and trailers and checks none of them. Here every one is checked, after a clean end of
//! the body and before the commit. A promise that cannot be checked is refused before the body is read.

use super::checksum;
use super::error::{self, S3Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::HeaderMap;
use s3s::{S3Error, TrailingHeaders};
use spine::wire::namespace::ChecksumAlgorithm;

/// Promises of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Promise {
    md5: Option<[u8; 16]>,
    /// From a header.
    value: Option<(ChecksumAlgorithm, Vec<u8>)>,
    /// To come as a trailer.
    trailer: Option<ChecksumAlgorithm>,
    /// The SHA-256 that the signature covers, where s3s does not check it.
    signed: Option<[u8; 32]>,
}

impl Promise {
    /// `signed`: the SHA-256 that the signature covers, if it is still to be checked.
    ///
    /// # Errors
    /// InvalidDigest for a Content-MD5 that is none; InvalidRequest for a checksum that is none, for two of them, for an announced
    /// algorithm without a value.
    pub fn read(headers: &HeaderMap, signed: Option<[u8; 32]>) -> S3Result<Promise> {
        let promise = Promise { md5: content_md5(headers)?, value: value(headers)?, trailer: trailer(headers)?, signed };
        if promise.value.is_some() && promise.trailer.is_some() {
            return Err(several());
        }
        check_announced(headers, promise.algorithm())?;
        Ok(promise)
    }

    /// The additional checksum to compute.
    pub fn algorithm(&self) -> Option<ChecksumAlgorithm> {
        self.value.as_ref().map(|(algorithm, _)| *algorithm).or(self.trailer)
    }

    /// What to compute, where `algorithm` is what is kept with the object.
    pub fn to_compute(&self, algorithm: ChecksumAlgorithm) -> Vec<ChecksumAlgorithm> {
        let besides = self.signed.map(|_| ChecksumAlgorithm::Sha256).filter(|sha256| *sha256 != algorithm);
        std::iter::once(algorithm).chain(besides).collect()
    }

    /// Whether there is anything to check the body against.
    pub fn is_any(&self) -> bool {
        self.md5.is_some() || self.algorithm().is_some()
    }

    /// Compares with what the body had; `trailers` only after its end.
    ///
    /// # Errors
    /// XAmzContentSHA256Mismatch or BadDigest if a promise was broken, MalformedTrailerError if an announced trailer did not come, InvalidRequest if it is no checksum.
    pub fn check(&self, md5: &[u8; 16], computed: &[(ChecksumAlgorithm, Vec<u8>)], trailers: Option<&TrailingHeaders>) -> S3Result<()> {
        if let Some(signed) = &self.signed {
            let hash = computed.iter().find(|(algorithm, _)| *algorithm == ChecksumAlgorithm::Sha256);
            let (_, hash) = hash.ok_or_else(|| error::internal(&"the signed hash was not computed"))?;
            if hash != signed {
                return Err(error::content_sha256_mismatch());
            }
        }
        if self.md5.as_ref().is_some_and(|promised| promised != md5) {
            return Err(error::bad_digest("Content-MD5"));
        }
        if let Some((algorithm, promised)) = &self.value {
            compare(*algorithm, promised, computed)?;
        }
        let arrived = trailers.and_then(TrailingHeaders::take).unwrap_or_default();
        if let Some(algorithm) = self.trailer {
            let text =
                arrived.get(checksum::header(algorithm)).and_then(|value| value.to_str().ok()).ok_or_else(error::malformed_trailer)?;
            let promised = checksum::decode(algorithm, text.trim()).ok_or_else(|| invalid_value(checksum::header(algorithm)))?;
            compare(algorithm, &promised, computed)?;
        }
        let announced = self.trailer.map(checksum::header);
        if arrived.keys().any(|name| name.as_str().starts_with("x-amz-checksum-") && Some(name.as_str()) != announced) {
            return Err(error::malformed_trailer());
        }
        Ok(())
    }
}

fn compare(algorithm: ChecksumAlgorithm, promised: &[u8], computed: &[(ChecksumAlgorithm, Vec<u8>)]) -> S3Result<()> {
    match computed.iter().find(|(other, _)| *other == algorithm) {
        Some((_, value)) if value == promised => Ok(()),
        Some(_) => Err(error::bad_digest(checksum::name(algorithm))),
        None => Err(error::internal(&"a promised checksum was not computed")),
    }
}

fn content_md5(headers: &HeaderMap) -> S3Result<Option<[u8; 16]>> {
    let Some(header) = headers.get("content-md5") else { return Ok(None) };
    let decoded = header.to_str().ok().and_then(|text| BASE64.decode(text).ok());
    decoded.and_then(|bytes| <[u8; 16]>::try_from(bytes).ok()).map(Some).ok_or_else(error::invalid_digest)
}

fn value(headers: &HeaderMap) -> S3Result<Option<(ChecksumAlgorithm, Vec<u8>)>> {
    let mut found = None;
    for algorithm in checksum::ALL {
        let name = checksum::header(algorithm);
        let Some(header) = headers.get(name) else { continue };
        let value = header.to_str().ok().and_then(|text| checksum::decode(algorithm, text)).ok_or_else(|| invalid_value(name))?;
        if found.replace((algorithm, value)).is_some() {
            return Err(several());
        }
    }
    Ok(found)
}

fn trailer(headers: &HeaderMap) -> S3Result<Option<ChecksumAlgorithm>> {
    let mut found = None;
    for header in headers.get_all("x-amz-trailer") {
        for name in header.to_str().unwrap_or("?").split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let algorithm = checksum::ALL.into_iter().find(|algorithm| checksum::header(*algorithm).eq_ignore_ascii_case(name));
            let algorithm =
                algorithm.ok_or_else(|| error::invalid_request("The value specified in the x-amz-trailer header is not supported"))?;
            if found.replace(algorithm).is_some() {
                return Err(several());
            }
        }
    }
    Ok(found)
}

/// `x-amz-sdk-checksum-algorithm` promises a checksum of that kind.
fn check_announced(headers: &HeaderMap, algorithm: Option<ChecksumAlgorithm>) -> S3Result<()> {
    let Some(announced) = headers.get("x-amz-sdk-checksum-algorithm").filter(|value| !value.is_empty()) else { return Ok(()) };
    let announced = announced.to_str().ok().and_then(checksum::from_name).ok_or_else(|| {
        error::invalid_request(
            "Checksum algorithm provided is unsupported. Please try again with any of the valid types: [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]",
        )
    })?;
    match algorithm {
        Some(algorithm) if algorithm == announced => Ok(()),
        Some(_) => Err(error::invalid_request("Value for x-amz-sdk-checksum-algorithm header is invalid.")),
        None => Err(error::invalid_request(
            "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer headers were found.",
        )),
    }
}

fn several() -> S3Error {
    error::invalid_request("Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.")
}

pub fn invalid_value(header: &str) -> S3Error {
    error::invalid_request(format!("Value for {header} header is invalid."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    const MD5: &str = "JfnnlDI7RTiF9RgfG2JNCw==";

    fn read(pairs: &[(&'static str, &'static str)]) -> Result<Promise, String> {
        let headers = pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect();
        Promise::read(&headers, None).map_err(|error| error.code().as_str().to_owned())
    }

    #[test]
    fn a_promise_that_is_malformed_is_refused_before_the_body() {
        let cases = [
            (vec![("content-md5", "xyz")], "InvalidDigest"),
            (vec![("content-md5", "")], "InvalidDigest"),
            (vec![("content-md5", "AAAA")], "InvalidDigest"),
            (vec![("x-amz-checksum-crc32", "AAAA")], "InvalidRequest"),
            (vec![("x-amz-checksum-crc32", "")], "InvalidRequest"),
            (vec![("x-amz-checksum-crc32", "AAAAAA=="), ("x-amz-checksum-crc32c", "AAAAAA==")], "InvalidRequest"),
            (vec![("x-amz-checksum-crc32", "AAAAAA=="), ("x-amz-trailer", "x-amz-checksum-crc32")], "InvalidRequest"),
            (vec![("x-amz-trailer", "x-amz-meta-a")], "InvalidRequest"),
            (vec![("x-amz-sdk-checksum-algorithm", "CRC32")], "InvalidRequest"),
            (vec![("x-amz-sdk-checksum-algorithm", "ROT13")], "InvalidRequest"),
            (vec![("x-amz-sdk-checksum-algorithm", "CRC32C"), ("x-amz-checksum-crc32", "AAAAAA==")], "InvalidRequest"),
        ];
        for (pairs, code) in cases {
            assert_eq!(read(&pairs).err().as_deref(), Some(code), "{pairs:?}");
        }
    }

    #[test]
    fn a_promise_says_what_to_compute() {
        assert_eq!(read(&[]).map(|p| (p.algorithm(), p.is_any())), Ok((None, false)));
        assert_eq!(read(&[("content-md5", MD5)]).map(|p| (p.algorithm(), p.is_any())), Ok((None, true)));
        let trailing = read(&[("x-amz-trailer", "X-Amz-Checksum-Crc32c"), ("x-amz-sdk-checksum-algorithm", "CRC32C")]);
        assert_eq!(trailing.map(|p| p.algorithm()), Ok(Some(ChecksumAlgorithm::Crc32c)));
    }

    #[test]
    fn a_broken_promise_is_bad_digest() {
        let code = |promise: &Promise, md5: [u8; 16], computed: &[(ChecksumAlgorithm, Vec<u8>)]| {
            promise.check(&md5, computed, None).err().map(|error| error.code().as_str().to_owned())
        };
        let right: [u8; 16] = BASE64.decode(MD5).ok().and_then(|b| b.try_into().ok()).unwrap_or_default();
        let signed = Promise { signed: Some([7; 32]), ..Promise::default() };
        assert_eq!(signed.to_compute(ChecksumAlgorithm::Crc32), [ChecksumAlgorithm::Crc32, ChecksumAlgorithm::Sha256]);
        assert_eq!(signed.to_compute(ChecksumAlgorithm::Sha256), [ChecksumAlgorithm::Sha256]);
        assert_eq!(code(&signed, right, &[(ChecksumAlgorithm::Sha256, vec![7; 32])]), None);
        assert_eq!(code(&signed, right, &[(ChecksumAlgorithm::Sha256, vec![8; 32])]).as_deref(), Some("XAmzContentSHA256Mismatch"));
        assert_eq!(code(&signed, right, &[]).as_deref(), Some("InternalError"), "a hash that nobody computed is none that matched");
        let md5 = read(&[("content-md5", MD5)]).unwrap_or_default();
        assert_eq!(code(&md5, right, &[]), None);
        assert_eq!(code(&md5, [0; 16], &[]).as_deref(), Some("BadDigest"));
        let crc = read(&[("x-amz-checksum-crc32", "AAAAAA==")]).unwrap_or_default();
        assert_eq!(code(&crc, right, &[(ChecksumAlgorithm::Crc32, vec![0; 4])]), None);
        assert_eq!(code(&crc, right, &[(ChecksumAlgorithm::Crc32, vec![1; 4])]).as_deref(), Some("BadDigest"));
        let trailing = read(&[("x-amz-trailer", "x-amz-checksum-crc32")]).unwrap_or_default();
        assert_eq!(code(&trailing, right, &[(ChecksumAlgorithm::Crc32, vec![0; 4])]).as_deref(), Some("MalformedTrailerError"));
    }
}
