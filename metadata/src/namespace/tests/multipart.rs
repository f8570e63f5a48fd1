use super::*;
use crate::sample::{head, inline, inline_body, manifest, piece, version};
use spine::id::{UnixMs, UploadId, WriterId};

const UPLOAD: UploadId = UploadId([5; 16]);

fn upload(id: UploadId, key: &str) -> NamespaceCommand {
    NamespaceCommand::CreateUpload(Box::new(UploadRecord {
        id,
        bucket: BUCKET,
        key: key.into(),
        created: UnixMs(1),
        attributes: Attributes::default(),
        tags: vec![],
        checksum: None,
        initiator: "me".into(),
    }))
}

fn put(table: &mut MemoryTable, number: u32, n: u64) -> Reply {
    run(
        table,
        NamespaceCommand::OpenIntent { version: version(n), bucket: BUCKET, key: "k".into(), writer: WriterId([1; 16]), opened: UnixMs(1) },
    );
    put_again(table, number, n)
}

fn put_again(table: &mut MemoryTable, number: u32, n: u64) -> Reply {
    let part = PartRecord {
        number,
        version: version(n),
        size: 1_000,
        md5: [n as u8; 16],
        checksum: None,
        modified: UnixMs(1),
        body: piece(version(n)),
    };
    run(
        table,
        NamespaceCommand::PutPart {
            upload: UPLOAD,
            bucket: BUCKET,
            key: "k".into(),
            part: Box::new(part),
            manifest: Some(manifest(&[n as u8])),
        },
    )
}

fn complete(table: &mut MemoryTable, listed: &[(u32, u64)], body: &[u64], condition: Condition) -> Reply {
    let of = body.iter().map(|&n| Piece { version: version(n), size: 1_000 }).collect();
    let new =
        NewVersion { head: head(version(100), 1, 1_000), body: VersionBody { body: Body::Pieces(of), parts: vec![] }, manifest: None };
    let parts = listed.iter().map(|&(number, n)| (number, version(n))).collect();
    run(table, NamespaceCommand::CompleteUpload { upload: UPLOAD, bucket: BUCKET, key: "k".into(), parts, new: Box::new(new), condition })
}

fn parts(table: &MemoryTable, after: u32, max: usize) -> (Vec<u32>, bool) {
    match answer(table, GROUP, &ALL_NAMES, &NamespaceQuery::Parts { upload: UPLOAD, bucket: BUCKET, key: "k".into(), after, max }).unwrap()
    {
        NamespaceAnswer::Parts { parts, truncated } => (parts.iter().map(|part| part.number).collect(), truncated),
        _ => panic!(),
    }
}

#[test]
fn completing_makes_the_listed_parts_the_body_and_ends_the_others() {
    let mut table = table();
    run(
        &mut table,
        NamespaceCommand::Commit { bucket: BUCKET, key: "k".into(), new: inline(version(50), 1, 1), condition: Condition::default() },
    );
    assert_eq!(run(&mut table, upload(UPLOAD, "k")), Reply::Done);
    assert_eq!(run(&mut table, upload(UPLOAD, "k")), Reply::Done);
    for (number, n) in [(3, 3), (1, 1), (7, 7)] {
        assert_eq!(put(&mut table, number, n), Reply::Done);
    }
    assert_eq!(put_again(&mut table, 3, 3), Reply::Done, "sent again");
    let completed = complete(&mut table, &[(1, 1), (3, 3)], &[1, 3], Condition::default());
    assert!(matches!(completed, Reply::Committed { .. }));
    assert_eq!(ended(&table), [version(7)]);
    assert!(has_manifest(&table, version(1)) && has_manifest(&table, version(3)));
    assert!(table.is_empty(Space::Uploads) && table.is_empty(Space::Parts));
    assert_eq!(complete(&mut table, &[(1, 1), (3, 3)], &[1, 3], Condition::default()), completed, "its answer was lost");
    assert_eq!(run(&mut table, upload(UPLOAD, "k")), refused(Refusal::NoSuchUpload), "it is over");
    run(&mut table, NamespaceCommand::Delete { bucket: BUCKET, key: "k".into(), condition: Condition::default() });
    assert_eq!(ended(&table), [version(7), version(1), version(3)]);
    assert_eq!(complete(&mut table, &[(1, 1), (3, 3)], &[1, 3], Condition::default()), refused(Refusal::NoSuchUpload));
}

#[test]
fn a_part_sent_again_ends_the_one_before() {
    let mut table = table();
    assert_eq!(put(&mut table, 1, 1), refused(Refusal::NoSuchUpload));
    run(&mut table, upload(UPLOAD, "k"));
    assert_eq!(put_again(&mut table, 1, 1), Reply::Done, "its intent was open all the time");
    assert_eq!(put_again(&mut table, 2, 9), refused(Refusal::IntentClosed));
    put(&mut table, 1, 2);
    assert_eq!(ended(&table), [version(1)]);
    assert_eq!(put_again(&mut table, 1, 1), refused(Refusal::IntentClosed), "a late repetition");
    assert_eq!(complete(&mut table, &[(1, 1)], &[1], Condition::default()), refused(Refusal::PartChanged));
    assert!(matches!(complete(&mut table, &[(1, 2)], &[2], Condition::default()), Reply::Committed { .. }));
}

#[test]
fn a_complete_that_does_not_fit_the_parts_changes_nothing() {
    let mut table = table();
    run(&mut table, upload(UPLOAD, "k"));
    for n in 1..=3 {
        put(&mut table, n as u32, n);
    }
    let changed = refused(Refusal::PartChanged);
    for (listed, body) in [
        (&[][..], &[][..]),
        (&[(2, 2), (1, 1)], &[2, 1]),
        (&[(1, 1), (1, 1)], &[1]),
        (&[(4, 4)], &[4]),
        (&[(1, 2)], &[2]),
        (&[(1, 1)], &[1, 1]),
        (&[(1, 1)], &[1, 2]),
    ] {
        assert_eq!(complete(&mut table, listed, body, Condition::default()), changed, "{listed:?} {body:?}");
    }
    let exists = Condition { if_match: Some(EtagMatch::Any), ..Condition::default() };
    assert_eq!(complete(&mut table, &[(1, 1)], &[1], exists), refused(Refusal::NoSuchObject));
    assert!(matches!(complete(&mut table, &[(1, 1), (2, 2)], &[2], Condition::default()), Reply::Committed { .. }));
    assert_eq!(ended(&table), [version(1), version(3)], "a listed part without a piece in the body is not needed");
}

#[test]
fn an_object_of_one_empty_part_has_no_pieces() {
    let mut table = table();
    run(&mut table, upload(UPLOAD, "k"));
    let part =
        PartRecord { number: 1, version: version(1), size: 0, md5: [0; 16], checksum: None, modified: UnixMs(1), body: inline_body() };
    run(&mut table, NamespaceCommand::PutPart { upload: UPLOAD, bucket: BUCKET, key: "k".into(), part: Box::new(part), manifest: None });
    assert!(matches!(complete(&mut table, &[(1, 1)], &[], Condition::default()), Reply::Committed { .. }));
    run(&mut table, NamespaceCommand::Delete { bucket: BUCKET, key: "k".into(), condition: Condition::default() });
    assert_eq!(ended(&table), []);
}

#[test]
fn a_part_that_was_inline_may_become_a_piece_of_the_new_version() {
    let mut table = table();
    run(&mut table, upload(UPLOAD, "k"));
    let part =
        PartRecord { number: 1, version: version(1), size: 5, md5: [0; 16], checksum: None, modified: UnixMs(1), body: inline_body() };
    run(&mut table, NamespaceCommand::PutPart { upload: UPLOAD, bucket: BUCKET, key: "k".into(), part: Box::new(part), manifest: None });
    put(&mut table, 2, 2);
    let of = vec![Piece { version: version(100), size: 5 }, Piece { version: version(2), size: 1_000 }];
    let new = NewVersion {
        head: head(version(100), 1, 1_005),
        body: VersionBody { body: Body::Pieces(of), parts: vec![] },
        manifest: Some(manifest(&[9])),
    };
    let parts = vec![(1, version(1)), (2, version(2))];
    let command = NamespaceCommand::CompleteUpload {
        upload: UPLOAD,
        bucket: BUCKET,
        key: "k".into(),
        parts,
        new: Box::new(new),
        condition: Condition::default(),
    };
    assert_eq!(run(&mut table, command.clone()), refused(Refusal::IntentClosed));
    run(
        &mut table,
        NamespaceCommand::OpenIntent {
            version: version(100),
            bucket: BUCKET,
            key: "k".into(),
            writer: WriterId([1; 16]),
            opened: UnixMs(1),
        },
    );
    assert!(matches!(run(&mut table, command), Reply::Committed { .. }));
    run(&mut table, NamespaceCommand::Delete { bucket: BUCKET, key: "k".into(), condition: Condition::default() });
    assert_eq!(ended(&table), [version(100), version(2)]);
}

#[test]
fn aborting_ends_every_part() {
    let mut table = table();
    run(&mut table, upload(UPLOAD, "k"));
    put(&mut table, 1, 1);
    put(&mut table, 10_000, 2);
    let abort = |key: &str| NamespaceCommand::AbortUpload { upload: UPLOAD, bucket: BUCKET, key: key.into() };
    assert_eq!(run(&mut table, abort("other")), refused(Refusal::NoSuchUpload));
    assert_eq!(run(&mut table, abort("k")), Reply::Done);
    assert_eq!(run(&mut table, abort("k")), refused(Refusal::NoSuchUpload));
    assert_eq!(ended(&table), [version(1), version(2)]);
    assert_eq!(put(&mut table, 1, 3), refused(Refusal::NoSuchUpload));
}

#[test]
fn parts_page_by_number() {
    let mut table = table();
    assert_eq!(parts(&table, 0, 9), (vec![], false));
    run(&mut table, upload(UPLOAD, "k"));
    for number in [2, 300, 1, 10_000] {
        put(&mut table, number, number.into());
    }
    assert_eq!(parts(&table, 0, 2), (vec![1, 2], true));
    assert_eq!(parts(&table, 2, 2), (vec![300, 10_000], false));
    assert_eq!(parts(&table, 10_000, 2), (vec![], false));
    assert_eq!(parts(&table, u32::MAX, 2), (vec![], false));
    assert_eq!(parts(&table, 0, 0), (vec![], false));
}
