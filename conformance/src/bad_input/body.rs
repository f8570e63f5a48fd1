//! Bodies that are not what their headers say, and frames that lie.

use super::{BUCKET, Case, Ground};
use crate::raw::{Chunked, Request, Signer, crc32_base64, md5_base64, path_of};

const BODY: &[u8] = b"a body that must not be stored";
const INCOMPLETE: &[(u16, &str)] = &[(400, "IncompleteBody")];
const MISMATCH: &[(u16, &str)] = &[(403, "SignatureDoesNotMatch")];

fn put() -> Request {
    Request::new("PUT", &path_of(BUCKET, "new")).body(BODY)
}

pub fn cases(ground: &Ground) -> Vec<Case> {
    let mut cases = digests(ground);
    cases.extend(lengths(ground));
    cases.extend(frames(ground));
    cases.extend(broken_frames(ground));
    cases
}

fn digests(ground: &Ground) -> Vec<Case> {
    let signer = Signer::new(&ground.root);
    let with = |name: &str, value: &str| ground.sign(put().header(name, value));
    let other = "0".repeat(64);
    vec![
        Case::new("a payload hash of another body", put().signed_as(&signer, ground.host, &other), &[(400, "XAmzContentSHA256Mismatch")]),
        Case::new(
            "a payload hash of another body, large",
            put().body(&vec![7; 3 << 20]).signed_as(&signer, ground.host, &other),
            &[(400, "XAmzContentSHA256Mismatch")],
        ),
        Case::new("a Content-MD5 of another body", with("content-md5", &md5_base64(b"other")), &[(400, "BadDigest")]),
        Case::new("a Content-MD5 that is no base64", with("content-md5", "!!!"), &[(400, "InvalidDigest")]),
        Case::new("a Content-MD5 that is too short", with("content-md5", "YWJj"), &[(400, "InvalidDigest")]),
        Case::new("a CRC32 of another body", with("x-amz-checksum-crc32", &crc32_base64(b"other")), &[(400, "BadDigest")]),
        Case::new("a CRC32C of another body", with("x-amz-checksum-crc32c", "AAAAAA=="), &[(400, "BadDigest")]),
        Case::new("a CRC64NVME of another body", with("x-amz-checksum-crc64nvme", "AAAAAAAAAAA="), &[(400, "BadDigest")]),
        Case::new("a SHA-1 of another body", with("x-amz-checksum-sha1", "AAAAAAAAAAAAAAAAAAAAAAAAAAA="), &[(400, "BadDigest")]),
        Case::new(
            "a SHA-256 of another body",
            with("x-amz-checksum-sha256", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
            &[(400, "BadDigest")],
        ),
        Case::new("a CRC32 that is no base64", with("x-amz-checksum-crc32", "***"), &[(400, "InvalidRequest")]),
        Case::new("a CRC32 of the wrong length", with("x-amz-checksum-crc32", "YWJjZGVmZ2g="), &[(400, "InvalidRequest")]),
        Case::new(
            "two checksums at once",
            ground.sign(
                put().header("x-amz-checksum-crc32", &crc32_base64(BODY)).header("x-amz-checksum-sha1", "AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
            ),
            &[(400, "InvalidRequest")],
        ),
        Case::new(
            "a part with a CRC32 of another body",
            part(ground).header("x-amz-checksum-crc32", &crc32_base64(b"other")).signed(&ground.root, ground.host),
            &[(400, "BadDigest")],
        ),
        Case::new(
            "a part with a Content-MD5 of another body",
            part(ground).header("content-md5", &md5_base64(b"other")).signed(&ground.root, ground.host),
            &[(400, "BadDigest")],
        ),
    ]
}

fn part(ground: &Ground) -> Request {
    Request::new("PUT", &path_of(BUCKET, "upload")).query("partNumber", "1").query("uploadId", &ground.upload).body(BODY)
}

fn lengths(ground: &Ground) -> Vec<Case> {
    let short = |request: Request| {
        let mut request = ground.sign(request);
        request = request.set_header("content-length", &(BODY.len() + 100).to_string());
        request
    };
    let unsigned = |r: Request| r.signed_as(&Signer::new(&ground.root), ground.host, "UNSIGNED-PAYLOAD");
    let declared = |length: &str| Request { body: Vec::new(), ..unsigned(put()) }.set_header("content-length", length);
    vec![
        Case::new("no length at all", unsigned(put().body(b"")).without_content_length(), &[(411, "MissingContentLength")]),
        Case::new("a body without a length, in HTTP's own chunks", chunked_by_http(unsigned(put())), &[(411, "MissingContentLength")]),
        Case::new("a body that ends early", short(put()), INCOMPLETE).half_closed(),
        Case::new("a part that ends early", short(part(ground)), INCOMPLETE).half_closed(),
        Case::new("a length over 5 GiB", declared("5368709121"), &[(400, "EntityTooLarge")]),
        Case::new("a length that is no number", declared("many"), &[(400, "*")]),
        Case::new("a negative length", declared("-5"), &[(400, "*")]),
        Case::new("a length beyond counting", declared("99999999999999999999999"), &[(400, "*")]),
        Case::new("two different lengths", ground.sign(put()).header("Content-Length", "3").header("Content-Length", "5"), &[(400, "*")]),
        Case::new(
            "a length and chunks as well",
            ground.sign(put()).header("Content-Length", "30").header("Transfer-Encoding", "chunked"),
            &[(400, "*"), (411, "*")],
        )
        .half_closed(),
    ]
}

fn chunked_by_http(request: Request) -> Request {
    let mut request = request.header("Transfer-Encoding", "chunked").without_content_length();
    let mut wire = format!("{:x}\r\n", request.body.len()).into_bytes();
    wire.extend_from_slice(&request.body);
    wire.extend_from_slice(b"\r\n0\r\n\r\n");
    request.body = wire;
    request
}

/// Well-made frames of which one thing is wrong.
fn frames(ground: &Ground) -> Vec<Case> {
    let signer = Signer::new(&ground.root);
    let make = |chunked: Chunked, body: &[u8]| chunked.request(put().body(body), &signer, ground.host);
    let large = vec![9u8; 300_000];
    let crc = crc32_base64(&large);
    let signed = Chunked::signed;
    let trailing = || Chunked::unsigned().trailer("x-amz-checksum-crc32", &crc);
    vec![
        Case::new("the first chunk's signature is wrong", make(Chunked { spoil_chunk: Some(0), ..signed() }, &large), MISMATCH),
        Case::new("the third chunk's signature is wrong", make(Chunked { spoil_chunk: Some(2), ..signed() }, &large), MISMATCH),
        Case::new("the closing chunk's signature is wrong", make(Chunked { spoil_chunk: Some(5), ..signed() }, &large), MISMATCH),
        Case::new(
            "the trailer's signature is wrong",
            make(Chunked { spoil_trailer: true, ..signed().trailer("x-amz-checksum-crc32", &crc) }, &large),
            MISMATCH,
        ),
        Case::new(
            "a signed trailer's checksum is wrong",
            make(signed().trailer("x-amz-checksum-crc32", &crc32_base64(b"other")), &large),
            &[(400, "BadDigest")],
        ),
        Case::new(
            "an unsigned trailer's checksum is wrong",
            make(Chunked::unsigned().trailer("x-amz-checksum-crc32", &crc32_base64(b"other")), &large),
            &[(400, "BadDigest")],
        ),
        Case::new(
            "a trailer's checksum is no base64",
            make(Chunked::unsigned().trailer("x-amz-checksum-crc32", "***"), &large),
            &[(400, "InvalidRequest"), (400, "BadDigest"), (400, "MalformedTrailerError")],
        ),
        Case::new("signed chunks without their end", make(Chunked { truncated: true, ..signed() }, &large), INCOMPLETE).half_closed(),
        Case::new("unsigned chunks without their end", make(Chunked { truncated: true, ..trailing() }, &large), INCOMPLETE).half_closed(),
        Case::new(
            "signed chunks with less than was declared",
            make(Chunked { declared: Some("300001".into()), ..signed() }, &large),
            INCOMPLETE,
        ),
        Case::new(
            "signed chunks with more than was declared",
            make(Chunked { declared: Some("299999".into()), ..signed() }, &large),
            INCOMPLETE,
        ),
        Case::new(
            "unsigned chunks with less than was declared",
            make(Chunked { declared: Some("300001".into()), ..trailing() }, &large),
            INCOMPLETE,
        ),
        Case::new(
            "unsigned chunks with more than was declared",
            make(Chunked { declared: Some("1".into()), ..trailing() }, &large),
            INCOMPLETE,
        ),
        Case::new(
            "a decoded length that is no number",
            make(Chunked { declared: Some("many".into()), ..trailing() }, &large),
            &[(400, "*"), (411, "*")],
        ),
        Case::new(
            "a decoded length over 5 GiB",
            make(Chunked { declared: Some("5368709121".into()), ..trailing() }, &large),
            &[(400, "EntityTooLarge")],
        ),
    ]
}

/// Frames that no one would make by mistake.
fn broken_frames(ground: &Ground) -> Vec<Case> {
    let signer = Signer::new(&ground.root);
    let with = |frames: &[u8], declared: &str| {
        let request = Request { body: Vec::new(), ..put() };
        let request = request.set_header("content-encoding", "aws-chunked").set_header("x-amz-decoded-content-length", declared);
        let request = request.set_header("x-amz-trailer", "x-amz-checksum-crc32");
        request.signed_as(&signer, ground.host, "STREAMING-UNSIGNED-PAYLOAD-TRAILER").body(frames)
    };
    let long_line = [b"5;".as_slice(), &vec![b'x'; 100_000], b"\r\nhello\r\n0\r\n\r\n"].concat();
    let many_trailers = [b"5\r\nhello\r\n0\r\n".as_slice(), &b"x-amz-meta-a:1\r\n".repeat(5_000), b"\r\n"].concat();
    vec![
        Case::new("a chunk size that is no number", with(b"zz\r\nhello\r\n0\r\n\r\n", "5"), &[(400, "*")]),
        Case::new("a chunk size beyond counting", with(b"ffffffffffffffffff\r\nhello\r\n0\r\n\r\n", "5"), &[(400, "*")]),
        Case::new("a chunk of 4 GiB announced", with(b"100000000\r\nhello", "4294967296"), &[(400, "*")]).half_closed(),
        Case::new("a chunk without its line end", with(b"5\r\nhelloXX0\r\n\r\n", "5"), &[(400, "*")]),
        Case::new("a chunk's line that does not end", with(&long_line, "5"), &[(400, "*")]),
        Case::new("a trailer that does not end", with(&many_trailers, "5"), &[(400, "*")]),
        Case::new("a trailer that was announced and is missing", with(b"5\r\nhello\r\n0\r\n\r\n", "5"), &[(400, "*")]),
        Case::new(
            "frames that the payload hash does not tell of",
            put()
                .header("content-encoding", "aws-chunked")
                .header("x-amz-decoded-content-length", "5")
                .body(b"5\r\nhello\r\n0\r\n\r\n")
                .signed_as(&signer, ground.host, "UNSIGNED-PAYLOAD"),
            &[(400, "InvalidRequest")],
        ),
        Case::new(
            "frames without a declared length",
            Request {
                headers: with(b"", "5").headers.into_iter().filter(|(n, _)| n != "x-amz-decoded-content-length").collect(),
                ..with(b"5\r\nhello\r\n0\r\n\r\n", "5")
            },
            &[(411, "MissingContentLength"), (403, "SignatureDoesNotMatch"), (400, "*")],
        ),
    ]
}
