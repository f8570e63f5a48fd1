//! Signatures by hand: V4 in the header, V4 and V2 in the query, V4 over aws-chunks.

use crate::wire::{Answer, Connection};
use base64::Engine;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[derive(Clone)]
pub struct Signer {
    pub address: SocketAddr,
    pub access_key: String,
    pub secret_key: String,
    pub region: String,
    pub service: String,
    pub time: SystemTime,
    pub unsigned: Vec<String>,
}

/// What signing gave: headers to send, and what chunk signatures continue from.
pub struct Signed {
    pub headers: Vec<(String, String)>,
    pub signature: String,
}

impl Signed {
    pub fn pairs(&self) -> Vec<(&str, &str)> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

pub fn percent(text: &str, keep_slash: bool) -> String {
    let kept = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b) || (keep_slash && b == b'/');
    text.bytes().map(|b| if kept(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

impl Signer {
    pub fn new(address: SocketAddr, access_key: &str, secret_key: &str) -> Signer {
        let (access_key, secret_key) = (access_key.to_string(), secret_key.to_string());
        Signer {
            address,
            access_key,
            secret_key,
            region: "us-east-1".into(),
            service: "s3".into(),
            time: SystemTime::now(),
            unsigned: Vec::new(),
        }
    }

    pub fn date(&self) -> String {
        let seconds = self.time.duration_since(UNIX_EPOCH).unwrap().as_secs();
        let (days, rest) = (seconds / 86_400, seconds % 86_400);
        // Civil date from days since 1970, proleptic Gregorian.
        let z = days as i64 + 719_468;
        let era = z.div_euclid(146_097);
        let day_of_era = z.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let (day, month) = (day_of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", rest / 3_600, rest % 3_600 / 60, rest % 60)
    }

    fn scope(&self) -> String {
        format!("{}/{}/{}/aws4_request", &self.date()[..8], self.region, self.service)
    }

    fn key(&self) -> Vec<u8> {
        let date = hmac(format!("AWS4{}", self.secret_key).as_bytes(), &self.date()[..8]);
        hmac(&hmac(&hmac(&date, &self.region), &self.service), "aws4_request")
    }

    fn canonical(
        &self,
        method: &str,
        target: &str,
        headers: &[(String, String)],
        extra: &[(String, String)],
        payload: &str,
    ) -> (String, String) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut pairs: Vec<(String, String)> = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(n, v)| (n.to_string(), v.to_string()))
            .collect();
        pairs.extend_from_slice(extra);
        pairs.sort();
        let query = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&");
        let mut signed: Vec<(String, String)> = headers.iter().filter(|(name, _)| !self.unsigned.contains(name)).cloned().collect();
        signed.sort();
        let names = signed.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(";");
        let lines: String = signed.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        (format!("{method}\n{path}\n{query}\n{lines}\n{names}\n{payload}"), names)
    }

    fn signature(&self, canonical: &str) -> String {
        let text = format!("AWS4-HMAC-SHA256\n{}\n{}\n{}", self.date(), self.scope(), sha256(canonical.as_bytes()));
        hex::encode(hmac(&self.key(), &text))
    }

    /// The Authorization header over a canonical request that signs `names`.
    pub fn authorize(&self, canonical: &str, names: &str) -> String {
        format!(
            "AWS4-HMAC-SHA256 Credential={}/{}, SignedHeaders={names}, Signature={}",
            self.access_key,
            self.scope(),
            self.signature(canonical)
        )
    }

    /// Headers of a request signed with V4. `payload` goes into x-amz-content-sha256. `target` is percent-encoded.
    pub fn sign(&self, method: &str, target: &str, headers: &[(&str, &str)], payload: &str) -> Signed {
        let mut all: Vec<(String, String)> = headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        all.push(("host".into(), self.address.to_string()));
        all.push(("x-amz-date".into(), self.date()));
        all.push(("x-amz-content-sha256".into(), payload.into()));
        let (canonical, names) = self.canonical(method, target, &all, &[], payload);
        let signature = self.signature(&canonical);
        let authorization = self.authorize(&canonical, &names);
        all.push(("authorization".into(), authorization));
        Signed { headers: all, signature }
    }

    /// Signs, sends on a connection of its own, and reads the answer.
    pub fn send(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let signed = self.sign(method, target, headers, &sha256(body));
        let mut connection = Connection::open(self.address);
        connection.send(method, target, &signed.pairs(), body);
        connection.read(method)
    }

    /// A target with a V4 signature in its query, over the host and `headers`.
    pub fn presign(&self, method: &str, target: &str, expires: &str, headers: &[(&str, &str)]) -> String {
        let mut all: Vec<(String, String)> = headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        all.push(("host".into(), self.address.to_string()));
        all.sort();
        let names = all
            .iter()
            .map(|(name, _)| name.as_str())
            .filter(|name| !self.unsigned.iter().any(|unsigned| unsigned == name))
            .collect::<Vec<_>>()
            .join(";");
        let extra: Vec<(String, String)> = [
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256".to_string()),
            ("X-Amz-Credential", format!("{}/{}", self.access_key, self.scope())),
            ("X-Amz-Date", self.date()),
            ("X-Amz-Expires", expires.to_string()),
            ("X-Amz-SignedHeaders", names),
        ]
        .map(|(name, value)| (name.to_string(), percent(&value, false)))
        .to_vec();
        let (canonical, _) = self.canonical(method, target, &all, &extra, "UNSIGNED-PAYLOAD");
        let query = extra.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&");
        let joint = if target.contains('?') { '&' } else { '?' };
        format!("{target}{joint}{query}&X-Amz-Signature={}", self.signature(&canonical))
    }

    /// A target with a V2 signature in its query, for a target without sub-resources.
    pub fn presign_v2(&self, method: &str, target: &str, valid: Duration) -> String {
        let expires = (self.time + valid).duration_since(UNIX_EPOCH).unwrap().as_secs();
        self.presign_v2_until(method, target, &expires.to_string())
    }

    pub fn presign_v2_until(&self, method: &str, target: &str, expires: &str) -> String {
        let mut mac = Hmac::<Sha1>::new_from_slice(self.secret_key.as_bytes()).unwrap();
        mac.update(format!("{method}\n\n\n{expires}\n{target}").as_bytes());
        let signature = base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes());
        let joint = if target.contains('?') { '&' } else { '?' };
        format!("{target}{joint}AWSAccessKeyId={}&Expires={expires}&Signature={}", self.access_key, percent(&signature, false))
    }

    /// The signature of the aws-chunk `data` after `previous`.
    pub fn chunk_signature(&self, previous: &str, data: &[u8]) -> String {
        let text = format!("AWS4-HMAC-SHA256-PAYLOAD\n{}\n{}\n{previous}\n{EMPTY}\n{}", self.date(), self.scope(), sha256(data));
        hex::encode(hmac(&self.key(), &text))
    }

    /// The signature of the trailer lines `name:value\n`.
    pub fn trailer_signature(&self, previous: &str, lines: &str) -> String {
        let text = format!("AWS4-HMAC-SHA256-TRAILER\n{}\n{}\n{previous}\n{}", self.date(), self.scope(), sha256(lines.as_bytes()));
        hex::encode(hmac(&self.key(), &text))
    }

    /// A signed aws-chunked body of `chunks`, its last chunk included; and the last signature.
    pub fn chunked(&self, seed: &str, chunks: &[&[u8]]) -> (Vec<u8>, String) {
        let (mut body, mut previous) = (Vec::new(), seed.to_string());
        for chunk in chunks.iter().copied().chain([&b""[..]]) {
            previous = self.chunk_signature(&previous, chunk);
            body.extend_from_slice(format!("{:x};chunk-signature={previous}\r\n", chunk.len()).as_bytes());
            body.extend_from_slice(chunk);
            if !chunk.is_empty() {
                body.extend_from_slice(b"\r\n");
            }
        }
        (body, previous)
    }
}
