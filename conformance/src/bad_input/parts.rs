//! Multipart uploads that do not add up.

use super::{BUCKET, Case, Ground, OBJECT};
use crate::raw::{Request, path_of};

const ARGUMENT: &[(u16, &str)] = &[(400, "InvalidArgument")];
const NO_UPLOAD: &[(u16, &str)] = &[(404, "NoSuchUpload")];
const INVALID: &[(u16, &str)] = &[(400, "InvalidPart")];
const MALFORMED: &[(u16, &str)] = &[(400, "MalformedXML")];

pub fn cases(ground: &Ground) -> Vec<Case> {
    let mut cases = sent(ground);
    cases.extend(completed(ground));
    cases
}

fn sent(ground: &Ground) -> Vec<Case> {
    let part =
        |number: &str, upload: &str| Request::new("PUT", &path_of(BUCKET, "upload")).query("partNumber", number).query("uploadId", upload);
    let send = |number: &str, upload: &str| ground.sign(part(number, upload).body(b"x"));
    let id = ground.upload.as_str();
    let copy = |range: &str| {
        let source = format!("{BUCKET}/{OBJECT}");
        ground.sign(part("1", id).header("x-amz-copy-source", &source).header("x-amz-copy-source-range", range))
    };
    let other_key = Request::new("PUT", &path_of(BUCKET, "other")).query("partNumber", "1").query("uploadId", id).body(b"x");
    vec![
        Case::new("part number 0", send("0", id), ARGUMENT),
        Case::new("part number 10,001", send("10001", id), ARGUMENT),
        Case::new("a negative part number", send("-1", id), ARGUMENT),
        Case::new("a part number that is none", send("one", id), ARGUMENT),
        Case::new("a part of an unknown upload", send("1", "unknown"), NO_UPLOAD),
        Case::new("a part of the upload of another key", ground.sign(other_key), NO_UPLOAD),
        Case::new(
            "parts of an unknown upload listed",
            ground.sign(Request::new("GET", &path_of(BUCKET, "upload")).query("uploadId", "unknown")),
            NO_UPLOAD,
        ),
        Case::new(
            "an unknown upload aborted",
            ground.sign(Request::new("DELETE", &path_of(BUCKET, "upload")).query("uploadId", "unknown")),
            NO_UPLOAD,
        ),
        Case::new(
            "a part copied from past the source's end",
            copy("bytes=50-150"),
            &[(400, "InvalidArgument"), (416, "InvalidRange"), (400, "InvalidRange")],
        ),
        Case::new("a part copied from a range that is none", copy("all of it"), ARGUMENT),
        Case::new("a part copied from a reversed range", copy("bytes=50-10"), &[(400, "InvalidArgument"), (416, "InvalidRange")]),
    ]
}

fn completed(ground: &Ground) -> Vec<Case> {
    let complete =
        |upload: &str, body: &[u8]| ground.sign(Request::new("POST", &path_of(BUCKET, "upload")).query("uploadId", upload).body(body));
    let list = |numbers: &[i64], etag: &str| {
        let parts: String = numbers.iter().map(|n| format!("<Part><PartNumber>{n}</PartNumber><ETag>\"{etag}\"</ETag></Part>")).collect();
        format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>").into_bytes()
    };
    let (id, etag) = (ground.upload.as_str(), ground.etag.as_str());
    vec![
        Case::new("an unknown upload completed", complete("unknown", &list(&[1], etag)), NO_UPLOAD),
        Case::new("parts out of order", complete(id, &list(&[2, 1], etag)), &[(400, "InvalidPartOrder")]),
        Case::new("a part twice", complete(id, &list(&[1, 1], etag)), &[(400, "InvalidPartOrder")]),
        Case::new("a part that was not sent", complete(id, &list(&[1, 7], etag)), INVALID),
        Case::new("a part with another ETag", complete(id, &list(&[1], &"0".repeat(32))), INVALID),
        Case::new("a first part of 1 KiB", complete(id, &list(&[1, 2, 3], etag)), &[(400, "EntityTooSmall")]),
        Case::new(
            "a completion of part 0",
            complete(id, &list(&[0], etag)),
            &[(400, "InvalidPart"), (400, "InvalidArgument"), (400, "MalformedXML")],
        ),
        Case::new("a completion without parts", complete(id, b"<CompleteMultipartUpload></CompleteMultipartUpload>"), MALFORMED),
        Case::new("a completion without a body", complete(id, b""), MALFORMED),
        Case::new("a completion that is no XML", complete(id, b"parts: all of them"), MALFORMED),
        Case::new(
            "a completion of 10,001 parts",
            complete(id, &list(&(1..=10_001).collect::<Vec<_>>(), etag)),
            &[(400, "MalformedXML"), (400, "InvalidPart"), (400, "InvalidArgument")],
        ),
    ]
}
