//! What a request promises about its body, and what comes.

use crate::server::Server;
use crate::signer::{Signed, sha256};
use crate::wire::Answer;
use base64::Engine;

const UNSIGNED_TRAILER: &str = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";
const SIGNED: &str = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD";
const SIGNED_TRAILER: &str = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER";

fn is(status: u16, code: &str) -> (u16, String) {
    (status, code.to_string())
}

fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn crc32(bytes: &[u8]) -> String {
    let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, bytes);
    base64(&u32::try_from(sum).unwrap().to_be_bytes())
}

fn sign(server: &Server, target: &str, payload: &str, decoded: usize, more: &[(&str, &str)]) -> Signed {
    let decoded = decoded.to_string();
    let mut headers = vec![("x-amz-decoded-content-length", decoded.as_str()), ("content-encoding", "aws-chunked")];
    headers.extend_from_slice(more);
    server.signer().sign("PUT", target, &headers, payload)
}

fn put(server: &Server, target: &str, signed: &Signed, body: &[u8]) -> Answer {
    let mut connection = server.connect();
    connection.send("PUT", target, &signed.pairs(), body);
    connection.read("PUT")
}

fn stored(server: &Server, target: &str) -> Answer {
    server.signer().send("GET", target, &[], b"")
}

fn is_not_stored(server: &Server, target: &str) {
    assert_eq!(server.signer().send("HEAD", target, &[], b"").status, 404, "{target} was stored");
}

#[test]
fn the_four_aws_chunked_modes_store_the_bytes_and_not_the_framing() {
    let server = Server::shared();
    let data: Vec<u8> = (0..200_000u32).flat_map(|n| n.to_le_bytes()).collect();
    let parts: Vec<&[u8]> = data.chunks(65_536).collect();
    let signer = server.signer();

    let signed = signer.sign(
        "PUT",
        "/shared/framed-signed",
        &[("x-amz-decoded-content-length", "800000"), ("content-encoding", "aws-chunked")],
        SIGNED,
    );
    let (mut body, _) = signer.chunked(&signed.signature, &parts);
    body.extend_from_slice(b"\r\n");
    assert_eq!(put(&server, "/shared/framed-signed", &signed, &body).status, 200);

    let trailer = format!("x-amz-checksum-crc32:{}\n", crc32(&data));
    let headers =
        [("x-amz-decoded-content-length", "800000"), ("content-encoding", "gzip,aws-chunked"), ("x-amz-trailer", "x-amz-checksum-crc32")];
    let signed = signer.sign("PUT", "/shared/framed-trailer", &headers, SIGNED_TRAILER);
    let (mut body, last) = signer.chunked(&signed.signature, &parts);
    let signature = signer.trailer_signature(&last, &trailer);
    body.extend_from_slice(format!("{}\r\nx-amz-trailer-signature:{signature}\r\n\r\n", trailer.trim_end()).as_bytes());
    assert_eq!(put(&server, "/shared/framed-trailer", &signed, &body).said(), is(200, ""));

    let mut body = Vec::new();
    for part in &parts {
        body.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
        body.extend_from_slice(part);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("0\r\n{}\r\n\r\n", trailer.trim_end()).as_bytes());
    let signed = signer.sign("PUT", "/shared/framed-unsigned", &headers, UNSIGNED_TRAILER);
    assert_eq!(put(&server, "/shared/framed-unsigned", &signed, &body).said(), is(200, ""));

    // Without Content-Length, in HTTP's own chunks.
    let signed = signer.sign("PUT", "/shared/framed-te", &headers, UNSIGNED_TRAILER);
    let mut pairs = signed.pairs();
    pairs.push(("transfer-encoding", "chunked"));
    let mut chunked = Vec::new();
    for piece in body.chunks(100_000) {
        chunked.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        chunked.extend_from_slice(piece);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    let mut connection = server.connect();
    connection.send("PUT", "/shared/framed-te", &pairs, &chunked);
    assert_eq!(connection.read("PUT").said(), is(200, ""));

    for target in ["/shared/framed-signed", "/shared/framed-trailer", "/shared/framed-unsigned", "/shared/framed-te"] {
        let answer = stored(&server, target);
        assert!(answer.body == data, "{target}: other bytes came back");
        let expected = if target == "/shared/framed-signed" { None } else { Some("gzip") };
        assert_eq!(answer.header("content-encoding"), expected, "{target}");
    }
}

#[test]
fn a_body_that_is_not_the_one_that_was_signed_is_not_stored_whatever_its_size() {
    let server = Server::shared();
    let signer = server.signer();
    let created = signer.send("POST", "/shared/signed-part?uploads", &[], b"");
    let text = created.text();
    let upload = text.split("<UploadId>").nth(1).and_then(|rest| rest.split("</UploadId>").next()).unwrap();
    // Inline, one chunk, chunks: in the version's record, hashed at once, and hashed in lanes.
    for len in [0, 1, 5_000, 100_000, 3_500_001] {
        let data: Vec<u8> = (0..len).map(|n| (n / 7) as u8).collect();
        let mut changed = data.clone();
        match changed.last_mut() {
            Some(last) => *last ^= 1,
            None => changed.push(0),
        }
        let object = format!("/shared/signed-{len}");
        let part = format!("/shared/signed-part?partNumber=1&uploadId={upload}");
        for target in [&object, &part] {
            let signed = signer.sign("PUT", target, &[], &sha256(&changed));
            assert_eq!(put(&server, target, &signed, &data).said(), is(400, "XAmzContentSHA256Mismatch"), "{target}");
        }
        is_not_stored(&server, &object);
        let parts = signer.send("GET", &format!("/shared/signed-part?uploadId={upload}"), &[], b"").text();
        assert!(!parts.contains("<Part>"), "a part was kept: {parts}");
        for headers in [&[][..], &[("x-amz-sdk-checksum-algorithm", "CRC32"), ("x-amz-checksum-crc32", &crc32(&data))]] {
            let signed = signer.sign("PUT", &object, headers, &sha256(&data));
            assert_eq!(put(&server, &object, &signed, &data).said(), is(200, ""), "{object}");
            assert!(stored(&server, &object).body == data, "{object}");
        }
    }
}

#[test]
fn a_framed_body_that_is_cut_long_or_of_another_length_is_incomplete() {
    let server = Server::shared();
    let target = "/shared/framed-broken";
    let trailer = ("x-amz-trailer", "x-amz-checksum-crc32");
    let last = format!("0\r\nx-amz-checksum-crc32:{}\r\n\r\n", crc32(b"hello"));
    for (decoded, body) in [
        (5, "5\r\nhello\r\n".to_string()),
        (5, "5\r\nhel".into()),
        (5, String::new()),
        (6, format!("5\r\nhello\r\n{last}")),
        (4, format!("5\r\nhello\r\n{last}")),
        (5, format!("5\r\nhello!!\r\n{last}")),
        (5, format!("5x\r\nhello\r\n{last}")),
        (5, format!("5\r\nhello\r\n{last}{}", "y".repeat(20_000))),
    ] {
        let signed = sign(&server, target, UNSIGNED_TRAILER, decoded, &[trailer]);
        assert_eq!(put(&server, target, &signed, body.as_bytes()).said(), is(400, "IncompleteBody"), "{decoded} {body:.40}");
    }
    let signed = sign(&server, target, UNSIGNED_TRAILER, 5, &[trailer]);
    assert_eq!(put(&server, target, &signed, b"5\r\nhello\r\n0\r\n\r\n").said(), is(400, "MalformedTrailerError"));
    let wrong = format!("5\r\nhello\r\n0\r\nx-amz-checksum-crc32:{}\r\n\r\n", crc32(b"other"));
    assert_eq!(put(&server, target, &signed, wrong.as_bytes()).said(), is(400, "BadDigest"));
    is_not_stored(&server, target);
}

#[test]
fn a_signed_chunk_that_was_changed_or_left_out_stores_nothing() {
    let server = Server::shared();
    let signer = server.signer();
    let target = "/shared/framed-forged";
    let headers = [("x-amz-decoded-content-length", "10"), ("content-encoding", "aws-chunked")];
    let signed = signer.sign("PUT", target, &headers, SIGNED);
    let (body, _) = signer.chunked(&signed.signature, &[b"hello", b"world"]);
    let text = String::from_utf8(body).unwrap();
    assert_eq!(put(&server, target, &signed, text.replace("world", "w0rld").as_bytes()).said(), is(403, "SignatureDoesNotMatch"));
    let cut = text.rsplit_once("0;chunk").unwrap().0;
    assert_eq!(put(&server, target, &signed, cut.as_bytes()).said(), is(400, "IncompleteBody"));
    let unsigned = "5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n";
    assert_eq!(put(&server, target, &signed, unsigned.as_bytes()).said(), is(400, "IncompleteBody"));
    is_not_stored(&server, target);
}

#[test]
fn one_huge_signed_chunk_is_refused_before_it_takes_memory() {
    let server = Server::start("");
    assert_eq!(server.signer().send("PUT", "/bucket", &[], b"").status, 200);
    let size = 1usize << 30;
    let decoded = size.to_string();
    let headers = [("x-amz-decoded-content-length", decoded.as_str()), ("content-encoding", "aws-chunked")];
    let before = server.rss();
    for _ in 0..4 {
        let signed = server.signer().sign("PUT", "/bucket/huge", &headers, SIGNED);
        let mut connection = server.connect();
        let mut pairs = signed.pairs();
        let length = (size + 200).to_string();
        pairs.push(("content-length", &length));
        connection.head("PUT", "/bucket/huge", &pairs, None);
        use std::io::Write;
        let _ = connection.stream.write_all(format!("{size:x};chunk-signature={}\r\n", "a".repeat(64)).as_bytes());
        let mebibyte = vec![0; 1 << 20];
        for _ in 0..80 {
            if connection.stream.write_all(&mebibyte).is_err() {
                break;
            }
        }
        let said = connection.try_read("PUT").map(|answer| answer.said());
        assert!(said.is_none() || said == Some(is(400, "EntityTooLarge")), "{said:?}");
    }
    let grown = server.rss().saturating_sub(before);
    assert!(grown < 48 << 20, "memory grew by {grown} bytes");
}

#[test]
fn promises_that_contradict_each_other_are_refused() {
    let server = Server::shared();
    let target = "/shared/contradiction";
    let body = b"5\r\nhello\r\n0\r\n\r\n";
    for decoded in ["5x", "-5", "+5", ""] {
        let headers = [("x-amz-decoded-content-length", decoded), ("x-amz-trailer", "x-amz-checksum-crc32")];
        let signed = server.signer().sign("PUT", target, &headers, UNSIGNED_TRAILER);
        assert_eq!(put(&server, target, &signed, body).said(), is(400, "InvalidArgument"), "{decoded}");
    }
    let signed = server.signer().sign("PUT", target, &[("x-amz-trailer", "x-amz-checksum-crc32")], UNSIGNED_TRAILER);
    assert_eq!(put(&server, target, &signed, body).said(), is(411, "MissingContentLength"));
    for (payload, more) in [
        (UNSIGNED_TRAILER, &[][..]),
        (SIGNED, &[("x-amz-trailer", "x-amz-checksum-crc32")]),
        (UNSIGNED_TRAILER, &[("x-amz-trailer", "x-amz-meta-a")]),
    ] {
        let signed = sign(&server, target, payload, 5, more);
        assert_eq!(put(&server, target, &signed, body).said(), is(400, "InvalidRequest"), "{payload} {more:?}");
    }
    for payload in ["UNSIGNED-PAYLOAD", &sha256(body)] {
        let signed = sign(&server, target, payload, 5, &[]);
        assert_eq!(put(&server, target, &signed, body).said(), is(400, "InvalidRequest"), "{payload}");
    }
    is_not_stored(&server, target);
}

#[test]
fn framing_that_a_presigned_url_would_store_as_data_is_refused() {
    let server = Server::shared();
    let body = b"5\r\nhello\r\n0\r\n\r\n";
    let v4 = server.signer().presign("PUT", "/shared/framed-presigned", "60", &[]);
    let v2 = server.signer().presign_v2("PUT", "/shared/framed-presigned", std::time::Duration::from_secs(60));
    for target in [&v4, &v2] {
        let mut connection = server.connect();
        let headers =
            [("x-amz-content-sha256", UNSIGNED_TRAILER), ("x-amz-decoded-content-length", "5"), ("x-amz-trailer", "x-amz-checksum-crc32")];
        connection.send("PUT", target, &headers, body);
        let (status, code) = connection.read("PUT").said();
        assert!(status == 501 || status == 403, "{status} {code}");
        let mut connection = server.connect();
        let headers = [("content-encoding", "aws-chunked"), ("x-amz-decoded-content-length", "5")];
        connection.send("PUT", target, &headers, body);
        assert_eq!(connection.read("PUT").said(), is(400, "InvalidRequest"));
    }
    is_not_stored(&server, "/shared/framed-presigned");
}

#[test]
fn a_put_without_a_length_is_411_and_one_in_http_chunks_too() {
    let server = Server::shared();
    let target = "/shared/no-length";
    let signed = server.signer().sign("PUT", target, &[], "UNSIGNED-PAYLOAD");
    let mut connection = server.connect();
    connection.head("PUT", target, &signed.pairs(), None);
    assert_eq!(connection.read("PUT").said(), is(411, "MissingContentLength"));
    let mut pairs = signed.pairs();
    pairs.push(("transfer-encoding", "chunked"));
    let mut connection = server.connect();
    connection.send("PUT", target, &pairs, b"5\r\nhello\r\n0\r\n\r\n");
    assert_eq!(connection.read("PUT").said(), is(411, "MissingContentLength"));
    is_not_stored(&server, target);
}

#[test]
fn documents_with_a_document_type_cdata_depth_or_size_are_malformed() {
    let server = Server::shared();
    let deep = format!("<Delete>{}</Delete>", "<a>".repeat(10_000));
    let huge = format!("<Delete>{}</Delete>", " ".repeat(9 << 20));
    for document in [
        "<!DOCTYPE x [<!ENTITY e SYSTEM \"file:///etc/passwd\">]><Delete><Object><Key>&e;</Key></Object></Delete>",
        "<Delete><Object><Key><![CDATA[a]]></Key></Object></Delete>",
        "<Delete><Object><Key>a</Key>",
        "<Remove/>",
        "no xml at all",
        deep.as_str(),
        huge.as_str(),
    ] {
        let md5 = base64(&<md5::Md5 as md5::Digest>::digest(document.as_bytes()));
        let answer = server.signer().send("POST", "/shared?delete=", &[("content-md5", &md5)], document.as_bytes());
        assert_eq!(answer.said(), is(400, "MalformedXML"), "{document:.60}");
    }
}

#[test]
fn a_document_in_aws_chunked_form_is_understood() {
    let server = Server::shared();
    assert_eq!(server.signer().send("PUT", "/shared/framed-delete", &[], b"x").status, 200);
    let document = "<Delete><Object><Key>framed-delete</Key></Object></Delete>";
    let length = document.len().to_string();
    let headers =
        [("x-amz-decoded-content-length", length.as_str()), ("content-encoding", "aws-chunked"), ("x-amz-trailer", "x-amz-checksum-crc32")];
    for (checksum, expected) in [(crc32(b"another"), is(400, "BadDigest")), (crc32(document.as_bytes()), is(200, ""))] {
        let body = format!("{:x}\r\n{document}\r\n0\r\nx-amz-checksum-crc32:{checksum}\r\n\r\n", document.len());
        let signed = server.signer().sign("POST", "/shared?delete=", &headers, UNSIGNED_TRAILER);
        let mut connection = server.connect();
        connection.send("POST", "/shared?delete=", &signed.pairs(), body.as_bytes());
        let answer = connection.read("POST");
        assert_eq!(answer.said(), expected, "{}", answer.text());
    }
    is_not_stored(&server, "/shared/framed-delete");
    // The plain service behind it is closed to who cannot sign.
    let mut signed = server.signer().sign("POST", "/shared?delete=", &headers, UNSIGNED_TRAILER);
    signed
        .headers
        .iter_mut()
        .filter(|(name, _)| name == "authorization")
        .for_each(|(_, value)| *value = value.replace("Signature=", "Signature=0"));
    signed.headers.iter_mut().filter(|(name, _)| name == "authorization").for_each(|(_, value)| {
        value.pop();
    });
    let mut connection = server.connect();
    connection.send("POST", "/shared?delete=", &signed.pairs(), b"0\r\n\r\n");
    assert_eq!(connection.read("POST").said(), is(403, "SignatureDoesNotMatch"));
}
