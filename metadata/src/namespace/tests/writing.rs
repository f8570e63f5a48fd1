use super::*;
use crate::sample::{inline, manifest, piece, pieces, version};
use spine::id::{TenantId, UnixMs, UploadId, WriterId};
use spine::wire::root::RootCommand;

fn open(table: &mut MemoryTable, n: u64) -> Reply {
    run(
        table,
        NamespaceCommand::OpenIntent {
            version: version(n),
            bucket: BUCKET,
            key: "k".into(),
            writer: WriterId([1; 16]),
            opened: UnixMs(10),
        },
    )
}

fn abort(table: &mut MemoryTable, n: u64) -> Reply {
    run(table, NamespaceCommand::AbortIntent { version: version(n), bucket: BUCKET, key: "k".into() })
}

fn commit(table: &mut MemoryTable, new: Box<NewVersion>, seq: u64) -> Reply {
    run_at(table, NamespaceCommand::Commit { bucket: BUCKET, key: "k".into(), new, condition: Condition::default() }, seq)
}

fn delete(table: &mut MemoryTable) -> Reply {
    run(table, NamespaceCommand::Delete { bucket: BUCKET, key: "k".into(), condition: Condition::default() })
}

fn outbox_done(table: &mut MemoryTable) {
    let entries = outbox(table);
    run(table, NamespaceCommand::OutboxDone { entries: entries.clone() });
    run(table, NamespaceCommand::OutboxDone { entries });
}

#[test]
fn a_commit_of_pieces_needs_its_intent_and_closes_it() {
    let mut table = table();
    let closed = refused(Refusal::IntentClosed);
    assert_eq!(commit(&mut table, pieces(version(1), 5, &[1]), 1), closed);
    assert_eq!(open(&mut table, 1), Reply::Done);
    assert_eq!(open(&mut table, 1), Reply::Done);
    assert_eq!(commit(&mut table, pieces(version(1), 5, &[1]), 7), Reply::Committed { seq: Seq(7), modified: UnixMs(5) });
    assert_eq!(head_of(&table, "k").unwrap().seq, Seq(7));
    assert!(has_manifest(&table, version(1)));
    let NamespaceAnswer::Intents(intents) = answer(&table, GROUP, &ALL_NAMES, &NamespaceQuery::Intents { after: None, max: 9 }).unwrap()
    else {
        panic!()
    };
    assert_eq!(intents, []);
    assert_eq!(commit(&mut table, pieces(version(1), 9, &[1]), 8), Reply::Committed { seq: Seq(7), modified: UnixMs(5) }, "sent again");
    assert_eq!(abort(&mut table, 1), Reply::Done);
    assert_eq!(ended(&table), []);
}

#[test]
fn a_commit_of_a_body_that_its_intent_does_not_guard_is_refused() {
    let mut table = table();
    open(&mut table, 1);
    open(&mut table, 2);
    let closed = refused(Refusal::IntentClosed);
    let mut of_another = pieces(version(1), 5, &[1]);
    of_another.body.body = piece(version(2));
    assert_eq!(commit(&mut table, of_another, 1), closed);
    let mut without = pieces(version(1), 5, &[1]);
    without.manifest = None;
    assert_eq!(commit(&mut table, without, 1), closed);
    let mut inline = inline(version(1), 5, 5);
    inline.manifest = Some(manifest(&[1]));
    assert_eq!(commit(&mut table, inline, 1), closed);
}

#[test]
fn an_aborted_version_is_over_for_good() {
    let mut table = table();
    open(&mut table, 1);
    assert_eq!(abort(&mut table, 1), Reply::Done);
    assert_eq!(abort(&mut table, 1), Reply::Done);
    assert_eq!(ended(&table), [version(1)]);
    for _ in 0..2 {
        assert_eq!(open(&mut table, 1), refused(Refusal::IntentClosed));
        assert_eq!(commit(&mut table, pieces(version(1), 5, &[1]), 1), refused(Refusal::IntentClosed));
        assert_eq!(
            run(&mut table, NamespaceCommand::RenewIntent { version: version(1), bucket: BUCKET, key: "k".into(), now: UnixMs(20) }),
            refused(Refusal::IntentClosed)
        );
        outbox_done(&mut table);
    }
    assert_eq!(abort(&mut table, 2), Reply::Done, "no intent: nothing");
    assert_eq!(ended(&table), []);
}

#[test]
fn a_late_message_brings_back_no_version_that_was_committed_replaced_or_deleted() {
    let mut table = table();
    for n in [1, 3] {
        open(&mut table, n);
    }
    commit(&mut table, pieces(version(1), 5, &[1]), 1);
    assert_eq!(open(&mut table, 1), refused(Refusal::IntentClosed), "committed");
    commit(&mut table, inline(version(2), 5, 5), 2);
    commit(&mut table, pieces(version(3), 5, &[1]), 3);
    delete(&mut table);
    for step in 0..2 {
        for n in [1, 3] {
            assert_eq!(open(&mut table, n), refused(Refusal::IntentClosed), "step {step}");
            assert_eq!(commit(&mut table, pieces(version(n), 5, &[1]), 4), refused(Refusal::IntentClosed));
        }
        assert_eq!(commit(&mut table, inline(version(2), 5, 5), 4), refused(Refusal::IntentClosed));
        assert_eq!(head_of(&table, "k"), None);
        outbox_done(&mut table);
    }
    assert_eq!(ended(&table), []);
}

#[test]
fn the_manifest_of_a_replaced_version_stays_until_its_references_are_dropped() {
    let mut table = table();
    open(&mut table, 1);
    commit(&mut table, pieces(version(1), 5, &[1]), 1);
    commit(&mut table, inline(version(2), 5, 5), 2);
    assert_eq!(ended(&table), [version(1)]);
    assert!(has_manifest(&table, version(1)));
    outbox_done(&mut table);
    assert!(!has_manifest(&table, version(1)));
    assert!(table.is_empty(Space::Outbox));
    assert_eq!(delete(&mut table), Reply::Deleted { was: Some(Box::new(VersionHead { seq: Seq(2), ..inline(version(2), 5, 5).head })) });
    assert_eq!(ended(&table), [], "an inline body holds no references");
    assert_eq!(delete(&mut table), Reply::Deleted { was: None });
}

#[test]
fn an_inline_body_whose_writer_opened_an_intent_gives_up_what_it_reserved() {
    let mut table = table();
    open(&mut table, 1);
    assert!(matches!(commit(&mut table, inline(version(1), 5, 5), 1), Reply::Committed { .. }));
    assert_eq!(ended(&table), [version(1)]);
    outbox_done(&mut table);
    assert!(head_of(&table, "k").is_some());
    delete(&mut table);
    assert_eq!(ended(&table), []);
}

#[test]
fn the_time_of_modification_never_goes_back() {
    let mut table = table();
    commit(&mut table, inline(version(1), 100, 5), 1);
    assert_eq!(commit(&mut table, inline(version(2), 50, 5), 2), Reply::Committed { seq: Seq(2), modified: UnixMs(100) });
    assert_eq!(head_of(&table, "k").unwrap().modified, UnixMs(100));
    assert_eq!(commit(&mut table, inline(version(3), 150, 5), 3), Reply::Committed { seq: Seq(3), modified: UnixMs(150) });
}

#[test]
fn intents_are_renewed_forwards_only_and_paged_by_version() {
    let mut table = table();
    for n in [3, 1, 2] {
        open(&mut table, n);
    }
    abort(&mut table, 9);
    run(&mut table, NamespaceCommand::RenewIntent { version: version(2), bucket: BUCKET, key: "k".into(), now: UnixMs(30) });
    run(&mut table, NamespaceCommand::RenewIntent { version: version(2), bucket: BUCKET, key: "k".into(), now: UnixMs(20) });
    let page = |after, max| match answer(&table, GROUP, &ALL_NAMES, &NamespaceQuery::Intents { after, max }).unwrap() {
        NamespaceAnswer::Intents(intents) => intents.iter().map(|intent| (intent.version, intent.renewed.0)).collect::<Vec<_>>(),
        _ => panic!(),
    };
    assert_eq!(page(None, 2), [(version(1), 10), (version(2), 30)]);
    assert_eq!(page(Some(version(2)), 2), [(version(3), 10)]);
}

#[test]
fn nothing_is_written_into_a_bucket_that_is_gone() {
    let mut table = table();
    root::apply(&mut table, &RootCommand::DeleteBucket { name: "one".into(), tenant: TenantId(1) }).unwrap();
    let upload = UploadRecord {
        id: UploadId([1; 16]),
        bucket: BUCKET,
        key: "k".into(),
        created: UnixMs(1),
        attributes: Attributes::default(),
        tags: vec![],
        checksum: None,
        initiator: String::new(),
    };
    assert_eq!(run(&mut table, NamespaceCommand::CreateUpload(Box::new(upload))), refused(Refusal::NoSuchBucket));
    assert_eq!(commit(&mut table, inline(version(1), 1, 1), 1), refused(Refusal::NoSuchBucket));
}

#[test]
fn tags_belong_to_the_current_version() {
    let mut table = table();
    let tags = vec![("a".to_owned(), "b".to_owned())];
    let set = NamespaceCommand::SetTags { bucket: BUCKET, key: "k".into(), tags: tags.clone() };
    assert_eq!(run(&mut table, set.clone()), refused(Refusal::NoSuchObject));
    commit(&mut table, inline(version(1), 1, 1), 1);
    assert_eq!(run(&mut table, set), Reply::Done);
    assert_eq!(head_of(&table, "k").unwrap().tags, tags);
    commit(&mut table, inline(version(2), 1, 1), 2);
    assert_eq!(head_of(&table, "k").unwrap().tags, []);
}
