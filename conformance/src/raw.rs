//! HTTP spoken byte by byte, signed by our own hand, so that requests can be wrong in every way a client library forbids.
//!
//! Written from the AWS documents of Signature Version 4 (header, query, chunked payloads) and Version 2 (query), not from
//! the server's code: the two check one another.
//! Not here: what the answers should be (`tests/bad_input.rs`).

mod chunked;
mod wire;

pub use chunked::Chunked;
pub use wire::{connect, exchange, read_response, send};

use crate::server::Credential;
use aws_lc_rs::{digest, hmac};
use base64::{Engine, engine::general_purpose::STANDARD};
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

/// Payload hash of an empty body.
pub const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A request as it will stand on the wire.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// Already percent-encoded.
    pub path: String,
    /// Decoded names and values.
    pub query: Vec<(String, String)>,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Adds Content-Length of the body where no header does.
    pub content_length: bool,
}

/// An answer as read from the wire.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// S3's error code, empty where the body has none.
    pub fn code(&self) -> String {
        self.element("Code").unwrap_or_default()
    }

    /// Text of the first element of that name.
    pub fn element(&self, name: &str) -> Option<String> {
        let text = self.text();
        let from = text.find(&format!("<{name}>"))? + name.len() + 2;
        let to = text[from..].find(&format!("</{name}>"))? + from;
        Some(text[from..to].to_owned())
    }
}

impl Request {
    pub fn new(method: &str, path: &str) -> Self {
        Request { method: method.into(), path: path.into(), query: Vec::new(), headers: Vec::new(), body: Vec::new(), content_length: true }
    }

    pub fn query(mut self, name: &str, value: &str) -> Self {
        self.query.push((name.into(), value.into()));
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Replaces a header, or adds it.
    pub fn set_header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        self.header(name, value)
    }

    pub fn body(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self
    }

    pub fn without_content_length(mut self) -> Self {
        self.content_length = false;
        self
    }

    fn has(&self, name: &str) -> bool {
        self.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name))
    }

    /// Request line with the query.
    pub fn target(&self) -> String {
        if self.query.is_empty() { self.path.clone() } else { format!("{}?{}", self.path, query_text(&self.query)) }
    }

    /// The bytes up to the body.
    pub fn head(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target()).into_bytes();
        for (name, value) in &self.headers {
            head.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        if self.content_length && !self.has("content-length") && !self.has("transfer-encoding") {
            head.extend_from_slice(format!("Content-Length: {}\r\n", self.body.len()).as_bytes());
        }
        head.extend_from_slice(b"\r\n");
        head
    }

    /// Everything.
    pub fn wire(&self) -> Vec<u8> {
        let mut bytes = self.head();
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// Signs with defaults: now, us-east-1, hash of the body as it stands.
    pub fn signed(self, credential: &Credential, host: SocketAddr) -> Self {
        let hash = hex::encode(sha256(&self.body));
        self.signed_as(&Signer::new(credential), host, &hash)
    }

    /// Signs by header; `payload` is the value of x-amz-content-sha256.
    pub fn signed_as(self, signer: &Signer, host: SocketAddr, payload: &str) -> Self {
        let mut request = self;
        if !request.has("host") {
            request = request.header("host", &host.to_string());
        }
        let stamp = stamp(signer.time);
        let mut request = request.set_header("x-amz-date", &stamp).set_header("x-amz-content-sha256", payload);
        let mut names: Vec<String> = request
            .headers
            .iter()
            .map(|(n, _)| n.to_lowercase())
            .filter(|n| n != "content-length" && n != "expect" && n != "connection")
            .collect();
        names.sort();
        names.dedup();
        let canonical = request.canonical(&names, &request.query, payload);
        let scope = signer.scope();
        let signature = signer.sign(&string_to_sign(&stamp, &scope, &canonical));
        let value = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={}, Signature={signature}",
            signer.credential.access_key,
            names.join(";")
        );
        request.headers.push(("authorization".into(), value));
        request
    }

    /// Signs by query, good for `expires` (as written: a test may want nonsense).
    pub fn presigned(self, signer: &Signer, host: SocketAddr, expires: &str) -> Self {
        let mut request = self.set_header("host", &host.to_string());
        let stamp = stamp(signer.time);
        let mut names: Vec<String> = request.headers.iter().map(|(n, _)| n.to_lowercase()).collect();
        names.sort();
        let scope = signer.scope();
        let more = [
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256".to_owned()),
            ("X-Amz-Credential", format!("{}/{scope}", signer.credential.access_key)),
            ("X-Amz-Date", stamp.clone()),
            ("X-Amz-Expires", expires.to_owned()),
            ("X-Amz-SignedHeaders", names.join(";")),
        ];
        request.query.extend(more.into_iter().map(|(n, v)| (n.to_owned(), v)));
        let canonical = request.canonical(&names, &request.query, "UNSIGNED-PAYLOAD");
        let signature = signer.sign(&string_to_sign(&stamp, &scope, &canonical));
        request.query("X-Amz-Signature", &signature)
    }

    /// Signs by query in the old way (Version 2); `expires` in seconds since 1970.
    pub fn presigned_v2(self, credential: &Credential, host: SocketAddr, expires: u64) -> Self {
        let mut request = self.set_header("host", &host.to_string());
        let mut amz: Vec<String> = request
            .headers
            .iter()
            .filter(|(n, _)| n.to_lowercase().starts_with("x-amz-"))
            .map(|(n, v)| format!("{}:{}\n", n.to_lowercase(), v.trim()))
            .collect();
        amz.sort();
        let header = |name: &str| request.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map_or("", |(_, v)| v.as_str());
        const SUBRESOURCES: [&str; 10] =
            ["acl", "cors", "delete", "location", "partNumber", "tagging", "uploadId", "uploads", "versionId", "response-content-type"];
        let mut sub: Vec<String> = request
            .query
            .iter()
            .filter(|(n, _)| SUBRESOURCES.contains(&n.as_str()))
            .map(|(n, v)| if v.is_empty() { n.clone() } else { format!("{n}={v}") })
            .collect();
        sub.sort();
        let resource = if sub.is_empty() { request.path.clone() } else { format!("{}?{}", request.path, sub.join("&")) };
        let text =
            format!("{}\n{}\n{}\n{expires}\n{}{resource}", request.method, header("content-md5"), header("content-type"), amz.concat());
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, credential.secret_key.as_bytes());
        let signature = STANDARD.encode(hmac::sign(&key, text.as_bytes()));
        request.query.push(("AWSAccessKeyId".into(), credential.access_key.clone()));
        request.query.push(("Expires".into(), expires.to_string()));
        request.query.push(("Signature".into(), signature));
        request
    }

    fn canonical(&self, names: &[String], query: &[(String, String)], payload: &str) -> String {
        let mut pairs: Vec<(String, String)> = query.iter().map(|(n, v)| (encode(n), encode(v))).collect();
        pairs.sort();
        let query: Vec<String> = pairs.into_iter().map(|(n, v)| format!("{n}={v}")).collect();
        let mut headers = String::new();
        for name in names {
            let values: Vec<String> = self
                .headers
                .iter()
                .filter(|(n, _)| n.eq_ignore_ascii_case(name))
                .map(|(_, v)| v.split_whitespace().collect::<Vec<_>>().join(" "))
                .collect();
            headers.push_str(&format!("{name}:{}\n", values.join(",")));
        }
        format!("{}\n{}\n{}\n{headers}\n{}\n{payload}", self.method, self.path, query.join("&"), names.join(";"))
    }
}

/// Who signs, when, and for where.
#[derive(Clone, Debug)]
pub struct Signer {
    pub credential: Credential,
    pub time: SystemTime,
    pub region: String,
    pub service: String,
}

impl Signer {
    pub fn new(credential: &Credential) -> Self {
        Signer { credential: credential.clone(), time: SystemTime::now(), region: "us-east-1".into(), service: "s3".into() }
    }

    pub fn scope(&self) -> String {
        format!("{}/{}/{}/aws4_request", &stamp(self.time)[..8], self.region, self.service)
    }

    /// Hex signature of a string to sign.
    pub fn sign(&self, text: &str) -> String {
        let stamp = stamp(self.time);
        let mut key = format!("AWS4{}", self.credential.secret_key).into_bytes();
        for step in [&stamp[..8], &self.region, &self.service, "aws4_request"] {
            key = hmac_sha256(&key, step.as_bytes());
        }
        hex::encode(hmac_sha256(&key, text.as_bytes()))
    }
}

pub fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, bytes).as_ref().to_vec()
}

fn hmac_sha256(key: &[u8], text: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().to_vec()
}

/// Base64 of the big-endian CRC32, as x-amz-checksum-crc32 carries it.
pub fn crc32_base64(bytes: &[u8]) -> String {
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, bytes) as u32;
    STANDARD.encode(crc.to_be_bytes())
}

/// Base64 of the MD5, as Content-MD5 carries it.
pub fn md5_base64(bytes: &[u8]) -> String {
    STANDARD.encode(md5(bytes))
}

pub fn md5(bytes: &[u8]) -> [u8; 16] {
    use md5::Digest;
    md5::Md5::digest(bytes).into()
}

fn string_to_sign(stamp: &str, scope: &str, canonical: &str) -> String {
    format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{}", hex::encode(sha256(canonical.as_bytes())))
}

/// Percent-encoding of a query's name or value, or of one path segment.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// `/bucket/key` with the key encoded but for its slashes.
pub fn path_of(bucket: &str, key: &str) -> String {
    format!("/{bucket}/{}", key.split('/').map(encode).collect::<Vec<_>>().join("/"))
}

fn query_text(query: &[(String, String)]) -> String {
    query.iter().map(|(n, v)| if v.is_empty() { encode(n) } else { format!("{}={}", encode(n), encode(v)) }).collect::<Vec<_>>().join("&")
}

/// `20260131T235959Z`.
pub fn stamp(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days as i64);
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// Date of a day counted from 1970-01-01 (Hinnant's algorithm).
fn civil(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * shifted + 2) / 5 + 1) as u32;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 } as u32;
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_stamp_is_the_date_in_basic_form() {
        assert_eq!(stamp(UNIX_EPOCH + Duration::from_secs(1_369_353_600)), "20130524T000000Z");
        assert_eq!(stamp(UNIX_EPOCH + Duration::from_secs(1_709_251_199)), "20240229T235959Z");
    }

    /// The example "GET object" of the AWS document on Signature Version 4.
    #[test]
    fn the_signature_of_the_documented_example_is_the_documented_one() {
        let credential =
            Credential { access_key: "AKIAIOSFODNN7EXAMPLE".into(), secret_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into() };
        let signer = Signer { time: UNIX_EPOCH + Duration::from_secs(1_369_353_600), ..Signer::new(&credential) };
        let request = Request::new("GET", "/test.txt").header("host", "examplebucket.s3.amazonaws.com").header("range", "bytes=0-9");
        let signed = request.signed_as(&signer, SocketAddr::from(([127, 0, 0, 1], 1)), EMPTY_SHA256);
        let authorization = &signed.headers.last().unwrap().1;
        assert!(authorization.ends_with("Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"), "{authorization}");
    }

    #[test]
    fn a_chunked_answer_is_read_to_its_end() {
        let mut wire: &[u8] =
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        let response = read_response(&mut wire, false).unwrap();
        assert_eq!((response.status, response.body.as_slice()), (200, b"abcde".as_slice()));
    }
}
