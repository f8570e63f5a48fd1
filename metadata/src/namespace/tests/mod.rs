mod listing;
mod multipart;
mod random;
mod subtrees;
mod writing;

use super::{answer, apply};
use crate::root;
use crate::sample::bucket;
use crate::table::Space;
use crate::table::memory::MemoryTable;
use spine::id::{BucketId, GroupId, Seq, VersionId};
use spine::wire::namespace::*;
use spine::wire::range::ALL_NAMES;
use spine::wire::{Refusal, Reply};

/// A table with buckets 1 and 2.
fn table() -> MemoryTable {
    let mut table = MemoryTable::default();
    root::apply(&mut table, &bucket("one")).unwrap();
    root::apply(&mut table, &bucket("two")).unwrap();
    table
}

const BUCKET: BucketId = BucketId(1);
const GROUP: GroupId = GroupId(0);

fn run_at(table: &mut MemoryTable, command: NamespaceCommand, seq: u64) -> Reply {
    let before = table.clone();
    let reply = apply(table, GROUP, &command, Seq(seq)).unwrap();
    if matches!(reply, Reply::Refused(_)) {
        assert_eq!(*table, before, "a refused command changed the table");
    }
    audit(table);
    reply
}

fn run(table: &mut MemoryTable, command: NamespaceCommand) -> Reply {
    run_at(table, command, 1)
}

fn refused(why: Refusal) -> Reply {
    Reply::Refused(why)
}

fn outbox(table: &MemoryTable) -> Vec<OutboxEntry> {
    let NamespaceAnswer::Outbox(entries) = answer(table, GROUP, &ALL_NAMES, &NamespaceQuery::Outbox { max: usize::MAX }).unwrap() else {
        panic!()
    };
    entries
}

fn ended(table: &MemoryTable) -> Vec<VersionId> {
    outbox(table).iter().map(|entry| entry.version).collect()
}

fn head_of(table: &MemoryTable, key: &str) -> Option<VersionHead> {
    let NamespaceAnswer::Head(head) = answer(table, GROUP, &ALL_NAMES, &NamespaceQuery::Head { bucket: BUCKET, key: key.into() }).unwrap()
    else {
        panic!()
    };
    head
}

fn has_manifest(table: &MemoryTable, version: VersionId) -> bool {
    let NamespaceAnswer::Manifests(found) =
        answer(table, GROUP, &ALL_NAMES, &NamespaceQuery::Manifests { bucket: BUCKET, key: String::new(), versions: vec![version] })
            .unwrap()
    else {
        panic!()
    };
    found[0].is_some()
}

/// Bodies are exactly those of current versions, manifests exactly those of their pieces, of parts and of the outbox; nothing that
/// is visible is open or in the outbox.
fn audit(table: &MemoryTable) {
    use crate::record::decode;
    use std::collections::BTreeSet;
    let mut pieces = BTreeSet::new();
    let mut bodies = BTreeSet::new();
    let mut add = |body: &Body| {
        if let Body::Pieces(of) = body {
            for piece in of {
                assert!(pieces.insert(piece.version), "a piece in two places");
            }
        }
    };
    for (at, value) in table.entries(Space::Objects) {
        let head: VersionHead = decode(Space::Objects, at, value).unwrap();
        let body = crate::record::load::<VersionBody>(table, Space::Bodies, &head.id.0).unwrap().expect("a version without a body");
        bodies.insert(head.id);
        add(&body.body);
    }
    for (at, value) in table.entries(Space::Parts).filter(|(at, _)| at.len() == 20) {
        let part: PartRecord = decode(Space::Parts, at, value).unwrap();
        assert!(table.entries(Space::Parts).any(|(upload, _)| *upload == at[..16]), "a part of no upload");
        add(&part.body);
    }
    assert_eq!(table.len(Space::Bodies), bodies.len());
    let uploads = table.entries(Space::Parts).filter(|(at, _)| at.len() == 16).count();
    assert_eq!(table.len(Space::Uploads), uploads);
    let in_outbox: BTreeSet<VersionId> = ended(table).into_iter().collect();
    for version in &pieces {
        assert_eq!(super::intent::standing(table, *version).unwrap(), super::intent::Standing::Committed);
        assert!(!in_outbox.contains(version), "a visible piece in the outbox");
    }
    for (at, _) in table.entries(Space::Manifests) {
        let version = VersionId(at.try_into().unwrap());
        assert!(pieces.contains(&version) || in_outbox.contains(&version), "a manifest that nothing needs");
    }
    for version in &in_outbox {
        assert_eq!(super::intent::standing(table, *version).unwrap(), super::intent::Standing::Ended);
    }
}
