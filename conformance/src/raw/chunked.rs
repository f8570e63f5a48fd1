//! aws-chunked bodies: signed or not, with or without a trailer, right or spoiled on purpose.

use super::{EMPTY_SHA256, Request, Signer, sha256, stamp};
use std::net::SocketAddr;

/// How an aws-chunked body is made.
#[derive(Clone, Debug)]
pub struct Chunked {
    /// Sign every chunk (STREAMING-AWS4-HMAC-SHA256-PAYLOAD...) or none (STREAMING-UNSIGNED-PAYLOAD-TRAILER).
    pub signed: bool,
    /// `(name, value)` of a trailing checksum header.
    pub trailer: Option<(String, String)>,
    pub chunk_bytes: usize,
    /// Spoils the signature of this chunk, counted from 0.
    pub spoil_chunk: Option<usize>,
    /// Spoils the signature of the trailer.
    pub spoil_trailer: bool,
    /// Leaves out the closing chunk of length 0 and all after it.
    pub truncated: bool,
    /// Value of x-amz-decoded-content-length where it is not the truth.
    pub declared: Option<String>,
}

impl Chunked {
    pub fn signed() -> Self {
        Chunked {
            signed: true,
            trailer: None,
            chunk_bytes: 64 << 10,
            spoil_chunk: None,
            spoil_trailer: false,
            truncated: false,
            declared: None,
        }
    }

    pub fn unsigned() -> Self {
        Chunked { signed: false, ..Self::signed() }
    }

    pub fn trailer(mut self, name: &str, value: &str) -> Self {
        self.trailer = Some((name.into(), value.into()));
        self
    }

    fn payload(&self) -> &'static str {
        match (self.signed, self.trailer.is_some()) {
            (true, false) => "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
            (true, true) => "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
            (false, _) => "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        }
    }

    /// Turns a plain PUT into a signed aws-chunked one.
    pub fn request(&self, plain: Request, signer: &Signer, host: SocketAddr) -> Request {
        let content = plain.body.clone();
        let mut request = plain.body(b"").set_header("content-encoding", "aws-chunked");
        let declared = self.declared.clone().unwrap_or_else(|| content.len().to_string());
        request = request.set_header("x-amz-decoded-content-length", &declared);
        if let Some((name, _)) = &self.trailer {
            request = request.set_header("x-amz-trailer", name);
        }
        let mut request = request.signed_as(signer, host, self.payload());
        let seed = request.headers.last().and_then(|(_, v)| v.rsplit_once("Signature=")).map(|(_, s)| s.to_owned()).unwrap_or_default();
        request.body = self.frames(&content, signer, seed);
        request
    }

    fn frames(&self, content: &[u8], signer: &Signer, seed: String) -> Vec<u8> {
        let mut body = Vec::new();
        let mut previous = seed;
        let mut pieces: Vec<&[u8]> = content.chunks(self.chunk_bytes.max(1)).collect();
        pieces.push(&[]);
        for (n, piece) in pieces.iter().enumerate() {
            if self.truncated && piece.is_empty() {
                return body;
            }
            let mut line = format!("{:x}", piece.len());
            if self.signed {
                let text = format!(
                    "AWS4-HMAC-SHA256-PAYLOAD\n{}\n{}\n{previous}\n{EMPTY_SHA256}\n{}",
                    stamp(signer.time),
                    signer.scope(),
                    hex::encode(sha256(piece))
                );
                previous = signer.sign(&text);
                let shown = if self.spoil_chunk == Some(n) { "0".repeat(64) } else { previous.clone() };
                line.push_str(&format!(";chunk-signature={shown}"));
            }
            body.extend_from_slice(line.as_bytes());
            body.extend_from_slice(b"\r\n");
            if !piece.is_empty() {
                body.extend_from_slice(piece);
                body.extend_from_slice(b"\r\n");
            }
        }
        if let Some((name, value)) = &self.trailer {
            body.extend_from_slice(format!("{name}:{value}\r\n").as_bytes());
            if self.signed {
                let hash = hex::encode(sha256(format!("{name}:{value}\n").as_bytes()));
                let text = format!("AWS4-HMAC-SHA256-TRAILER\n{}\n{}\n{previous}\n{hash}", stamp(signer.time), signer.scope());
                let signature = if self.spoil_trailer { "0".repeat(64) } else { signer.sign(&text) };
                body.extend_from_slice(format!("x-amz-trailer-signature:{signature}\r\n").as_bytes());
            }
        }
        body.extend_from_slice(b"\r\n");
        body
    }
}
