//! Buckets, keys, metadata, ranges and parameters that can't be, and operations that are not there.

use super::{BUCKET, Case, Ground, OBJECT};
use crate::raw::{Request, path_of};

const BUCKET_NAME: &[(u16, &str)] = &[(400, "InvalidBucketName")];
const ARGUMENT: &[(u16, &str)] = &[(400, "InvalidArgument")];
const NOT_THERE: &[(u16, &str)] = &[(501, "NotImplemented")];
const ACCELERATE: &[u8] = b"<AccelerateConfiguration><Status>Enabled</Status></AccelerateConfiguration>";
const WEBSITE: &[u8] = b"<WebsiteConfiguration><IndexDocument><Suffix>index.html</Suffix></IndexDocument></WebsiteConfiguration>";

pub fn cases(ground: &Ground) -> Vec<Case> {
    let mut cases = buckets(ground);
    cases.extend(objects(ground));
    cases.extend(derived(ground));
    cases.extend(listings(ground));
    cases.extend(protocol(ground));
    cases
}

fn buckets(ground: &Ground) -> Vec<Case> {
    let create = |name: &str| ground.sign(Request::new("PUT", &format!("/{name}")));
    let long = "b".repeat(64);
    vec![
        Case::new("a bucket named A_", create("A_"), BUCKET_NAME),
        Case::new("a bucket's name of two letters", create("ab"), BUCKET_NAME),
        Case::new("a bucket's name of 64 letters", create(&long), BUCKET_NAME),
        Case::new("a bucket named like an address", create("192.168.5.4"), BUCKET_NAME),
        Case::new("a bucket's name with two dots", create("a..b"), BUCKET_NAME),
        Case::new("a bucket's name that ends in a hyphen", create("abc-"), BUCKET_NAME),
        Case::new("a bucket's name with a hyphen beside a dot", create("abc.-d"), BUCKET_NAME),
        Case::new(
            "a bucket with an ACL nobody knows",
            ground.sign(Request::new("PUT", "/new-bucket").header("x-amz-acl", "public-ready")),
            ARGUMENT,
        ),
        Case::new(
            "a missing bucket is listed",
            ground.sign(Request::new("GET", "/missing-bucket").query("list-type", "2")),
            &[(404, "NoSuchBucket")],
        ),
        Case::new("a missing bucket is headed", ground.sign(Request::new("HEAD", "/missing-bucket")), &[(404, "")]),
        Case::new("a missing bucket is deleted", ground.sign(Request::new("DELETE", "/missing-bucket")), &[(404, "NoSuchBucket")]),
        Case::new(
            "a PUT into a missing bucket",
            ground.sign(Request::new("PUT", "/missing-bucket/k").body(b"x")),
            &[(404, "NoSuchBucket")],
        ),
        Case::new("a GET from a missing bucket", ground.sign(Request::new("GET", "/missing-bucket/k")), &[(404, "NoSuchBucket")]),
        Case::new("a full bucket is deleted", ground.sign(Request::new("DELETE", &format!("/{BUCKET}"))), &[(409, "BucketNotEmpty")]),
        Case::new(
            "an operation that is not there",
            ground.sign(Request::new("PUT", &format!("/{BUCKET}")).query("accelerate", "").body(ACCELERATE)),
            NOT_THERE,
        ),
        Case::new(
            "a website is asked for",
            ground.sign(Request::new("PUT", &format!("/{BUCKET}")).query("website", "").body(WEBSITE)),
            NOT_THERE,
        ),
        Case::new(
            "an object is locked",
            ground.sign(Request::new("PUT", &path_of(BUCKET, OBJECT)).query("retention", "").body(b"<x/>")),
            &[(501, "NotImplemented"), (400, "MalformedXML")],
        ),
    ]
}

fn objects(ground: &Ground) -> Vec<Case> {
    let put = |key: &str| Request::new("PUT", &path_of(BUCKET, key)).body(b"x");
    let get = || Request::new("GET", &path_of(BUCKET, OBJECT));
    vec![
        Case::new("a missing key", ground.sign(Request::new("GET", &path_of(BUCKET, "missing"))), &[(404, "NoSuchKey")]),
        Case::new("a missing key is headed", ground.sign(Request::new("HEAD", &path_of(BUCKET, "missing"))), &[(404, "")]),
        Case::new("a key of 1,025 bytes", ground.sign(put(&"k".repeat(1_025))), &[(400, "KeyTooLongError")]),
        Case::new("a key of 1,026 bytes in 513 letters", ground.sign(put(&"é".repeat(513))), &[(400, "KeyTooLongError")]),
        Case::new(
            "a key that is not UTF-8",
            ground.sign(Request { path: format!("/{BUCKET}/%ff%fe"), ..put("k") }),
            &[(400, "InvalidURI"), (400, "InvalidArgument"), (400, "InvalidRequest")],
        ),
        Case::new(
            "a path with a broken escape",
            ground.sign(Request { path: format!("/{BUCKET}/%zz"), ..put("k") }),
            &[(400, "*"), (403, "SignatureDoesNotMatch")],
        ),
        Case::new(
            "metadata over 2 KiB",
            ground.sign(put("new").header("x-amz-meta-long", &"m".repeat(2_100))),
            &[(400, "MetadataTooLarge")],
        ),
        Case::new("metadata over 2 KiB in many names", many_metadata(ground), &[(400, "MetadataTooLarge")]),
        Case::new("a range past the end", ground.sign(get().header("range", "bytes=100-200")), &[(416, "InvalidRange")]),
        Case::new("a suffix of nothing", ground.sign(get().header("range", "bytes=-0")), &[(416, "InvalidRange")]),
        Case::new("a reversed range is none", ground.sign(get().header("range", "bytes=50-10")), &[(200, "")]),
        Case::new("a range of another unit is none", ground.sign(get().header("range", "lines=1-2")), &[(200, "")]),
        Case::new(
            "a range beyond counting",
            ground.sign(get().header("range", "bytes=99999999999999999999-")),
            &[(416, "InvalidRange"), (200, "")],
        ),
        Case::new("part 0 of an object", ground.sign(get().query("partNumber", "0")), ARGUMENT),
        Case::new(
            "part 9 of an object of one",
            ground.sign(get().query("partNumber", "9")),
            &[(416, "InvalidPartNumber"), (416, "InvalidRange"), (400, "InvalidPart")],
        ),
        Case::new(
            "a version id that is none",
            ground.sign(get().query("versionId", "nonsense")),
            &[(400, "InvalidArgument"), (404, "NoSuchVersion")],
        ),
        Case::new(
            "a write only if absent, of what is there",
            ground.sign(Request::new("PUT", &path_of(BUCKET, OBJECT)).header("if-none-match", "*").body(b"x")),
            &[(412, "PreconditionFailed")],
        ),
        Case::new(
            "a write only over another version",
            ground.sign(Request::new("PUT", &path_of(BUCKET, OBJECT)).header("if-match", "\"0123\"").body(b"x")),
            &[(412, "PreconditionFailed")],
        ),
        Case::new("a write only over what is not there", ground.sign(put("new").header("if-match", "\"0123\"")), &[(404, "NoSuchKey")]),
        Case::new("a read only of another version", ground.sign(get().header("if-match", "\"0123\"")), &[(412, "PreconditionFailed")]),
    ]
}

/// Copies, tags and classes.
fn derived(ground: &Ground) -> Vec<Case> {
    let put = |key: &str| Request::new("PUT", &path_of(BUCKET, key)).body(b"x");
    let copy = |source: &str| ground.sign(Request::new("PUT", &path_of(BUCKET, "new")).header("x-amz-copy-source", source));
    let itself = Request::new("PUT", &path_of(BUCKET, OBJECT)).header("x-amz-copy-source", &format!("{BUCKET}/{OBJECT}"));
    let tags = (0..11).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join("&");
    let tag: &[(u16, &str)] = &[(400, "InvalidTag"), (400, "BadRequest"), (400, "InvalidArgument")];
    vec![
        Case::new("a copy source that is none", copy("nonsense"), &[(400, "InvalidArgument"), (400, "InvalidRequest")]),
        Case::new("a copy of a missing key", copy(&format!("{BUCKET}/missing")), &[(404, "NoSuchKey")]),
        Case::new("a copy from a missing bucket", copy("missing-bucket/k"), &[(404, "NoSuchBucket")]),
        Case::new("a copy onto itself that changes nothing", ground.sign(itself), &[(400, "InvalidRequest")]),
        Case::new("eleven tags", ground.sign(put("new").header("x-amz-tagging", &tags)), tag),
        Case::new("a tag's key of 129 letters", ground.sign(put("new").header("x-amz-tagging", &format!("{}=v", "t".repeat(129)))), tag),
        Case::new("the same tag twice", ground.sign(put("new").header("x-amz-tagging", "a=1&a=2")), tag),
        Case::new(
            "a storage class nobody has",
            ground.sign(put("new").header("x-amz-storage-class", "MARBLE")),
            &[(400, "InvalidStorageClass")],
        ),
    ]
}

fn many_metadata(ground: &Ground) -> Request {
    let request = Request::new("PUT", &path_of(BUCKET, "new")).body(b"x");
    ground.sign((0..30).fold(request, |r, n| r.header(&format!("x-amz-meta-name-{n:02}"), &"m".repeat(70))))
}

fn listings(ground: &Ground) -> Vec<Case> {
    let list = |name: &str, value: &str| ground.sign(Request::new("GET", &format!("/{BUCKET}")).query("list-type", "2").query(name, value));
    let old = |name: &str, value: &str| ground.sign(Request::new("GET", &format!("/{BUCKET}")).query(name, value));
    vec![
        Case::new("a page of a negative size", list("max-keys", "-1"), ARGUMENT),
        Case::new("a page of a size that is no number", list("max-keys", "many"), ARGUMENT),
        Case::new("a page of a size beyond counting", old("max-keys", "99999999999999999999"), ARGUMENT),
        Case::new("a continuation token that is none", list("continuation-token", "nonsense"), ARGUMENT),
        Case::new(
            "a marker of a version without its key",
            ground.sign(Request::new("GET", &format!("/{BUCKET}")).query("versions", "").query("version-id-marker", "null")),
            ARGUMENT,
        ),
        Case::new("an encoding nobody has", list("encoding-type", "base64"), ARGUMENT),
    ]
}

/// Wrong already as HTTP.
fn protocol(ground: &Ground) -> Vec<Case> {
    let huge = format!("GET / HTTP/1.1\r\nHost: x\r\nx-long: {}\r\n\r\n", "y".repeat(1 << 20));
    let many: String = (0..5_000).map(|n| format!("x-{n}: y\r\n")).collect();
    let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{many}\r\n");
    let refused: &[(u16, &str)] = &[(400, "*"), (431, "*")];
    vec![
        Case::bytes("no HTTP at all", b"\x16\x03\x01\x02\x00 hello\r\n\r\n".to_vec(), &[(400, "*")]),
        Case::bytes("a header of 1 MiB", huge.into_bytes(), refused),
        Case::bytes("5,000 headers", many.into_bytes(), refused),
        Case::bytes("a header with a zero byte", b"GET / HTTP/1.1\r\nHost: x\r\nx-a: b\0c\r\n\r\n".to_vec(), &[(400, "*")]),
        Case::new(
            "a method nobody has",
            ground.sign(Request::new("PATCH", &path_of(BUCKET, OBJECT))),
            &[(405, "MethodNotAllowed"), (501, "NotImplemented")],
        ),
    ]
}
