use super::*;
use spine::id::UnixMs;
use spine::wire::namespace::Attributes;

fn record(number: u32, bytes: &[u8], size: u64, algorithm: ChecksumAlgorithm) -> PartRecord {
    let version = VersionId([u8::try_from(number).unwrap_or(0); 16]);
    PartRecord {
        number,
        version,
        size,
        md5: md5::Md5::digest(bytes).into(),
        checksum: Some(Checksum { algorithm, kind: ChecksumKind::FullObject, value: checksum::of(algorithm, bytes) }),
        modified: UnixMs(0),
        body: Body::Pieces(vec![Piece { version, size }]),
    }
}

fn listed(record: &PartRecord) -> CompletedPart {
    CompletedPart {
        part_number: i32::try_from(record.number).ok(),
        e_tag: Some(ETag::Strong(hex::encode(record.md5))),
        ..Default::default()
    }
}

fn upload(checksum: Option<(ChecksumAlgorithm, ChecksumKind)>) -> UploadRecord {
    UploadRecord {
        id: UploadId([9; 16]),
        bucket: BucketId(1),
        key: "k".into(),
        created: UnixMs(0),
        attributes: Attributes::default(),
        tags: Vec::new(),
        checksum,
        initiator: "AK".into(),
    }
}

fn wish(checksum: Option<(ChecksumAlgorithm, String)>) -> Wish {
    Wish { parts: Vec::new(), size: None, checksum, kind: None, condition: Condition::default() }
}

fn code<T>(result: S3Result<T>) -> Option<String> {
    result.err().map(|error| error.code().as_str().to_owned())
}

const FULL: u64 = limit::PART_MIN_BYTES;

#[test]
fn parts_are_taken_in_ascending_order_and_only_as_they_were_stored() {
    let stored = [record(1, b"a", FULL, ChecksumAlgorithm::Crc32), record(3, b"b", 1, ChecksumAlgorithm::Crc32)];
    let (one, three) = (listed(&stored[0]), listed(&stored[1]));
    assert_eq!(choose(&[one.clone(), three.clone()], &stored).map(|c| c.len()).ok(), Some(2));
    assert_eq!(code(choose(&[three.clone(), one.clone()], &stored)).as_deref(), Some("InvalidPartOrder"));
    assert_eq!(code(choose(&[one.clone(), one.clone()], &stored)).as_deref(), Some("InvalidPartOrder"));
    let missing = CompletedPart { part_number: Some(2), ..one.clone() };
    assert_eq!(code(choose(&[missing], &stored)).as_deref(), Some("InvalidPart"));
    let other = CompletedPart { e_tag: Some(ETag::Strong("00".repeat(16))), ..one.clone() };
    assert_eq!(code(choose(&[other], &stored)).as_deref(), Some("InvalidPart"));
    let quoted = CompletedPart { e_tag: Some(ETag::Strong(format!("\"{}\"", hex::encode(stored[0].md5)))), ..one };
    assert!(choose(&[quoted], &stored).is_ok());
}

#[test]
fn only_the_last_part_may_be_small() {
    let stored = [record(1, b"a", FULL - 1, ChecksumAlgorithm::Crc32), record(2, b"b", 1, ChecksumAlgorithm::Crc32)];
    let all: Vec<CompletedPart> = stored.iter().map(listed).collect();
    assert_eq!(code(choose(&all, &stored)).as_deref(), Some("EntityTooSmall"));
    assert!(choose(&all[..1], &stored).is_ok());
}

#[test]
fn a_checksum_in_the_list_must_be_the_part_s_own() {
    let stored = [record(1, b"a", FULL, ChecksumAlgorithm::Crc32)];
    let right = Checksum {
        algorithm: ChecksumAlgorithm::Crc32,
        kind: ChecksumKind::FullObject,
        value: checksum::of(ChecksumAlgorithm::Crc32, b"a"),
    };
    let with =
        |crc32: Option<String>, sha1: Option<String>| CompletedPart { checksum_crc32: crc32, checksum_sha1: sha1, ..listed(&stored[0]) };
    assert!(choose(&[with(Some(checksum::text(&right, None)), None)], &stored).is_ok());
    assert_eq!(code(choose(&[with(Some("AAAAAA==".into()), None)], &stored)).as_deref(), Some("InvalidPart"));
    assert_eq!(code(choose(&[with(None, Some("2jmj7l5rSw0yVb/vlWAYkK/YBwk=".into()))], &stored)).as_deref(), Some("InvalidPart"));
}

#[test]
fn the_etag_is_the_md5_of_md5s_with_the_number_of_parts() {
    let stored = [record(1, b"a", FULL, ChecksumAlgorithm::Crc32), record(2, b"b", 1, ChecksumAlgorithm::Crc32)];
    let parts: Vec<&PartRecord> = stored.iter().collect();
    let both = [md5::Md5::digest(b"a"), md5::Md5::digest(b"b")].concat();
    let made = assemble(&upload(None), &parts, &wish(None)).ok();
    let expected = format!("{}-2", hex::encode(md5::Md5::digest(both)));
    assert_eq!(made.as_ref().map(|new| new.head.etag.text()), Some(expected));
    assert_eq!(made.map(|new| (new.head.size, new.head.upload, new.body.parts.len())), Some((FULL + 1, Some(UploadId([9; 16])), 2)));
}

#[test]
fn a_crc_covers_the_whole_object_and_a_hash_its_parts() {
    let bytes: Vec<u8> = (0..FULL).map(|i| u8::try_from(i % 251).unwrap_or(0)).collect();
    for (algorithm, kind) in [
        (ChecksumAlgorithm::Crc64Nvme, ChecksumKind::FullObject),
        (ChecksumAlgorithm::Crc32, ChecksumKind::FullObject),
        (ChecksumAlgorithm::Crc32c, ChecksumKind::Composite),
        (ChecksumAlgorithm::Sha256, ChecksumKind::Composite),
    ] {
        let stored = [record(1, &bytes, FULL, algorithm), record(2, b"tail", 4, algorithm)];
        let parts: Vec<&PartRecord> = stored.iter().collect();
        let sum = object_checksum(&upload(Some((algorithm, kind))), &parts);
        let expected = match kind {
            ChecksumKind::FullObject => checksum::of(algorithm, &[bytes.as_slice(), b"tail"].concat()),
            ChecksumKind::Composite => {
                checksum::of(algorithm, &[checksum::of(algorithm, &bytes), checksum::of(algorithm, b"tail")].concat())
            }
        };
        assert_eq!(sum, Some(Checksum { algorithm, kind, value: expected }));
    }
}

#[test]
fn parts_of_several_kinds_make_no_checksum() {
    let stored = [record(1, b"a", FULL, ChecksumAlgorithm::Crc32), record(2, b"b", 1, ChecksumAlgorithm::Sha1)];
    let parts: Vec<&PartRecord> = stored.iter().collect();
    assert_eq!(object_checksum(&upload(None), &parts), None);
}

#[test]
fn a_promised_object_checksum_is_checked_with_or_without_its_count() {
    let stored = [record(1, b"a", FULL, ChecksumAlgorithm::Sha256), record(2, b"b", 1, ChecksumAlgorithm::Sha256)];
    let parts: Vec<&PartRecord> = stored.iter().collect();
    let upload = upload(Some((ChecksumAlgorithm::Sha256, ChecksumKind::Composite)));
    let right = object_checksum(&upload, &parts).map(|sum| checksum::text(&sum, Some(2))).unwrap_or_default();
    let check = |text: &str| code(assemble(&upload, &parts, &wish(Some((ChecksumAlgorithm::Sha256, text.to_owned())))));
    assert_eq!(check(&right), None);
    assert_eq!(check(right.trim_end_matches("-2")), None);
    assert_eq!(check(&right.replace("-2", "-3")).as_deref(), Some("BadDigest"));
    assert_eq!(check("nonsense").as_deref(), Some("InvalidRequest"));
    let other = wish(Some((ChecksumAlgorithm::Crc32, "AAAAAA==".to_owned())));
    assert_eq!(code(assemble(&upload, &parts, &other)).as_deref(), Some("InvalidRequest"));
}

#[test]
fn a_size_that_the_client_expects_must_be_the_sum_of_its_parts() {
    let stored = [record(1, b"a", 7, ChecksumAlgorithm::Crc32)];
    let parts: Vec<&PartRecord> = stored.iter().collect();
    let with = |size| Wish { size: Some(size), ..wish(None) };
    assert!(assemble(&upload(None), &parts, &with(7)).is_ok());
    assert_eq!(code(assemble(&upload(None), &parts, &with(8))).as_deref(), Some("InvalidRequest"));
}

#[test]
fn the_location_is_where_the_client_asked() {
    let asked = |secure| Asked {
        caller: crate::front::auth::Caller { access_key: "AK".into(), tenant: spine::id::TenantId(1) },
        uri: http::Uri::from_static("/bucket/a%20b?uploadId=1"),
        headers: [(http::header::HOST, http::HeaderValue::from_static("s3.test:9000"))].into_iter().collect(),
        secure,
        trailers: None,
        hashed: None,
    };
    assert_eq!(location(&asked(false)), "http://s3.test:9000/bucket/a%20b");
    assert_eq!(location(&asked(true)), "https://s3.test:9000/bucket/a%20b");
}
