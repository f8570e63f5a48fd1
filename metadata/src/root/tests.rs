use super::{answer, apply};
use crate::format;
use crate::key;
use crate::table::memory::MemoryTable;
use crate::table::{Space, TableWrite};
use bytes::Bytes;
use spine::id::{BucketId, Epoch, FleetId, GroupId, InviteId, MemberId, MoveId, NodeId, TenantId, UnixMs, UploadId, WriterId};
use spine::limit::{MOVES_KEPT, SHIFTS, SHIFTS_KEPT};
use spine::map::{Map, NamePoint};
use spine::wire::cluster::{Endpoint, Member};
use spine::wire::format::{FIRST, LEVELLED};
use spine::wire::root::*;
use spine::wire::{Refusal, Reply};

fn tenant(id: u64, name: &str) -> RootCommand {
    RootCommand::CreateTenant(TenantRecord { id: TenantId(id), name: name.into(), secrets: vec![], created: UnixMs(1), revoked: false })
}

fn access_key(name: &str, tenant: u64) -> KeyRecord {
    KeyRecord { access_key: name.into(), tenant: TenantId(tenant), secret: Bytes::from_static(b"x"), created: UnixMs(1), revoked: false }
}

fn bucket(name: &str, tenant: u64) -> RootCommand {
    RootCommand::CreateBucket(BucketRecord {
        id: BucketId(0),
        name: name.into(),
        tenant: TenantId(tenant),
        created: UnixMs(1),
        chunk_bytes: 1 << 20,
        versioning: Versioning::Unversioned,
        location: String::new(),
    })
}

fn run(table: &mut MemoryTable, command: RootCommand) -> Reply {
    let before = table.clone();
    let reply = apply(table, &command).unwrap();
    if matches!(reply, Reply::Refused(_)) {
        assert_eq!(*table, before, "a refused command changed the table");
    }
    reply
}

fn refused(why: Refusal) -> Reply {
    Reply::Refused(why)
}

#[test]
fn a_tenant_is_found_by_id_and_by_name_and_neither_is_given_twice() {
    let mut table = MemoryTable::default();
    assert_eq!(run(&mut table, tenant(1, "one")), Reply::Done);
    assert_eq!(run(&mut table, tenant(2, "one")), refused(Refusal::TenantExists));
    assert_eq!(run(&mut table, tenant(1, "two")), refused(Refusal::TenantExists));
    assert_eq!(run(&mut table, RootCommand::RevokeTenant { name: "one".into() }), Reply::Done);
    assert_eq!(run(&mut table, RootCommand::RevokeTenant { name: "one".into() }), Reply::Done);
    assert_eq!(run(&mut table, RootCommand::RevokeTenant { name: "two".into() }), refused(Refusal::NoSuchTenant));
    let RootAnswer::Tenant(Some(found)) = answer(&table, &RootQuery::TenantByName("one".into())).unwrap() else { panic!() };
    assert!(found.revoked);
    assert_eq!(answer(&table, &RootQuery::Tenant(TenantId(1))).unwrap(), RootAnswer::Tenant(Some(found.clone())));
    assert_eq!(answer(&table, &RootQuery::Tenants).unwrap(), RootAnswer::Tenants(vec![found]));
}

#[test]
fn access_keys_belong_to_a_tenant_and_can_be_revoked_and_replaced() {
    let mut table = MemoryTable::default();
    assert_eq!(run(&mut table, RootCommand::CreateKey(access_key("a", 1))), refused(Refusal::NoSuchTenant));
    run(&mut table, tenant(1, "one"));
    run(&mut table, tenant(2, "two"));
    assert_eq!(run(&mut table, RootCommand::CreateKey(access_key("a", 1))), Reply::Done);
    assert_eq!(run(&mut table, RootCommand::CreateKey(access_key("a", 2))), refused(Refusal::KeyExists));
    assert_eq!(run(&mut table, RootCommand::CreateKey(access_key("b", 2))), Reply::Done);
    assert_eq!(run(&mut table, RootCommand::RevokeKey { access_key: "a".into() }), Reply::Done);
    assert_eq!(run(&mut table, RootCommand::RevokeKey { access_key: "c".into() }), refused(Refusal::NoSuchKey));
    let RootAnswer::Keys(keys) = answer(&table, &RootQuery::Keys(Some(TenantId(1)))).unwrap() else { panic!() };
    assert_eq!(keys.iter().map(|key| (key.access_key.as_str(), key.revoked)).collect::<Vec<_>>(), [("a", true)]);
    assert_eq!(run(&mut table, RootCommand::ReplaceKey(access_key("a", 2))), refused(Refusal::NoSuchKey));
    let new = KeyRecord { secret: Bytes::from_static(b"new"), created: UnixMs(9), ..access_key("a", 1) };
    assert_eq!(run(&mut table, RootCommand::ReplaceKey(new.clone())), Reply::Done);
    let found = KeyRecord { created: UnixMs(1), ..new };
    assert_eq!(answer(&table, &RootQuery::Key("a".into())).unwrap(), RootAnswer::Key(Some(found)));
    let RootAnswer::Keys(keys) = answer(&table, &RootQuery::Keys(None)).unwrap() else { panic!() };
    assert_eq!(keys.len(), 2);
}

#[test]
fn bucket_names_are_global_and_an_id_is_never_given_twice() {
    let mut table = MemoryTable::default();
    let Reply::Bucket(first) = run(&mut table, bucket("b", 1)) else { panic!() };
    assert_eq!(run(&mut table, bucket("b", 1)), refused(Refusal::BucketOwnedByYou));
    assert_eq!(run(&mut table, bucket("b", 2)), refused(Refusal::BucketExists));
    let delete = |tenant| RootCommand::DeleteBucket { name: "b".into(), tenant: TenantId(tenant) };
    assert_eq!(run(&mut table, delete(2)), refused(Refusal::NotYours));
    assert_eq!(run(&mut table, delete(1)), Reply::Done);
    assert_eq!(run(&mut table, delete(1)), refused(Refusal::NoSuchBucket));
    let Reply::Bucket(second) = run(&mut table, bucket("b", 2)) else { panic!() };
    assert_ne!(first.id, second.id);
    run(&mut table, bucket("c", 1));
    run(&mut table, bucket("a", 1));
    let RootAnswer::Buckets(mine) = answer(&table, &RootQuery::Buckets(TenantId(1))).unwrap() else { panic!() };
    assert_eq!(mine.iter().map(|bucket| bucket.name.as_str()).collect::<Vec<_>>(), ["a", "c"]);
}

#[test]
fn a_bucket_with_an_object_or_an_open_upload_is_not_deleted() {
    let mut table = MemoryTable::default();
    let Reply::Bucket(record) = run(&mut table, bucket("b", 1)) else { panic!() };
    let delete = || RootCommand::DeleteBucket { name: "b".into(), tenant: TenantId(1) };
    for (space, entry) in [(Space::Objects, key::object(record.id, b"k")), (Space::Uploads, key::upload(record.id, "k", UploadId([1; 16])))]
    {
        table.put(space, &entry, b"x").unwrap();
        assert_eq!(run(&mut table, delete()), refused(Refusal::BucketNotEmpty));
        table.delete(space, &entry).unwrap();
    }
    assert_eq!(run(&mut table, delete()), Reply::Done);
}

#[test]
fn a_tenant_has_no_more_buckets_than_the_limit() {
    let mut table = MemoryTable::default();
    for n in 0..spine::limit::BUCKETS_PER_TENANT {
        table.put(Space::Root, &key::owned(TenantId(1), &n.to_string()), &[]).unwrap();
    }
    assert_eq!(run(&mut table, bucket("b", 1)), refused(Refusal::TooManyBuckets));
    assert!(matches!(run(&mut table, bucket("b", 2)), Reply::Bucket(_)));
}

#[test]
fn a_known_node_keeps_its_first_record() {
    let mut table = MemoryTable::default();
    let node = |machine: &str| NodeRecord { id: NodeId([3; 32]), machine: machine.into(), zone: "z".into(), first_seen: UnixMs(1) };
    run(&mut table, RootCommand::NoteNode(node("first")));
    run(&mut table, RootCommand::NoteNode(node("second")));
    assert_eq!(answer(&table, &RootQuery::Nodes).unwrap(), RootAnswer::Nodes(vec![node("first")]));
}

fn fleet(id: u8) -> FleetRecord {
    let authority = Bytes::from_static(b"ca");
    FleetRecord { id: FleetId([id; 16]), authority, created: UnixMs(1), revocations_version: 0, revocations: Bytes::new() }
}

fn fleet_node(id: u8, address: &str) -> FleetNodeRecord {
    FleetNodeRecord {
        id: NodeId([id; 32]),
        machine: "m".into(),
        zone: "z".into(),
        capacity: 1,
        address: address.into(),
        serial: Bytes::from_static(b"s"),
        not_after: UnixMs(9),
        state: FleetNodeState::Active,
        admitted: UnixMs(1),
        changed: UnixMs(1),
    }
}

fn fleet_nodes(table: &MemoryTable) -> Vec<FleetNodeRecord> {
    let RootAnswer::FleetNodes(nodes) = answer(table, &RootQuery::FleetNodes).unwrap() else { panic!() };
    nodes
}

#[test]
fn there_is_one_fleet_and_its_revocation_lists_follow_one_another() {
    let mut table = MemoryTable::default();
    let revoke = |version, list: &'static [u8]| RootCommand::Revoke { version, list: Bytes::from_static(list) };
    assert_eq!(run(&mut table, revoke(1, b"a")), refused(Refusal::NoFleet));
    assert_eq!(run(&mut table, RootCommand::AdmitNode(fleet_node(1, "a:1"))), refused(Refusal::NoFleet));
    assert_eq!(run(&mut table, RootCommand::CreateFleet(fleet(1))), Reply::Done);
    assert_eq!(run(&mut table, RootCommand::CreateFleet(fleet(1))), Reply::Done);
    assert_eq!(run(&mut table, RootCommand::CreateFleet(fleet(2))), refused(Refusal::FleetExists));
    assert_eq!(run(&mut table, revoke(1, b"a")), Reply::Done);
    assert_eq!(run(&mut table, revoke(1, b"b")), refused(Refusal::OldRevocations));
    assert_eq!(run(&mut table, revoke(3, b"b")), refused(Refusal::OldRevocations));
    assert_eq!(run(&mut table, revoke(2, b"b")), Reply::Done);
    let RootAnswer::Fleet(Some(found)) = answer(&table, &RootQuery::Fleet).unwrap() else { panic!() };
    assert_eq!((found.revocations_version, found.revocations.as_ref()), (2, b"b".as_slice()));
}

#[test]
fn a_renewed_node_keeps_its_state_and_a_retired_one_stays_retired() {
    let mut table = MemoryTable::default();
    run(&mut table, RootCommand::CreateFleet(fleet(1)));
    let state = |state| RootCommand::SetNodeState { node: NodeId([1; 32]), state, now: UnixMs(5) };
    let suspended = FleetNodeState::Suspended { reason: "why".into() };
    assert_eq!(run(&mut table, state(suspended.clone())), refused(Refusal::NoSuchNode));
    assert_eq!(run(&mut table, RootCommand::AdmitNode(fleet_node(1, "a:1"))), Reply::Done);
    assert_eq!(run(&mut table, state(suspended.clone())), Reply::Done);
    let renewed = FleetNodeRecord { admitted: UnixMs(7), changed: UnixMs(7), ..fleet_node(1, "b:2") };
    assert_eq!(run(&mut table, RootCommand::AdmitNode(renewed.clone())), Reply::Done);
    assert_eq!(fleet_nodes(&table), [FleetNodeRecord { state: suspended, admitted: UnixMs(1), ..renewed.clone() }]);
    assert_eq!(run(&mut table, state(FleetNodeState::Retired)), Reply::Done);
    assert_eq!(run(&mut table, state(FleetNodeState::Retired)), Reply::Done);
    assert_eq!(run(&mut table, state(FleetNodeState::Active)), refused(Refusal::NodeRetired));
    assert_eq!(run(&mut table, RootCommand::AdmitNode(renewed)), refused(Refusal::NodeRetired));
    let RootAnswer::Nodes(known) = answer(&table, &RootQuery::Nodes).unwrap() else { panic!() };
    assert_eq!(known.iter().map(|node| node.id).collect::<Vec<_>>(), [NodeId([1; 32])]);
}

#[test]
fn an_invitation_is_good_for_its_uses_and_until_it_expires() {
    let mut table = MemoryTable::default();
    const DAY: u64 = 86_400_000;
    let invite = |id: u8, at: u64, uses_left| {
        RootCommand::CreateInvite(InviteRecord { id: InviteId([id; 32]), created: UnixMs(at), expires: UnixMs(at + DAY), uses_left })
    };
    let take = |id: u8, now: u64| RootCommand::UseInvite { id: InviteId([id; 32]), now: UnixMs(now) };
    assert_eq!(run(&mut table, invite(1, 0, 2)), refused(Refusal::NoFleet));
    run(&mut table, RootCommand::CreateFleet(fleet(1)));
    assert_eq!(run(&mut table, invite(1, 0, 2)), Reply::Done);
    assert_eq!(run(&mut table, invite(1, 0, 2)), refused(Refusal::InviteExists));
    assert_eq!(run(&mut table, take(2, 1)), refused(Refusal::NoSuchInvite));
    assert_eq!(run(&mut table, take(1, DAY - 1)), Reply::Done);
    assert_eq!(run(&mut table, take(1, DAY)), refused(Refusal::InviteExpired));
    assert_eq!(run(&mut table, take(1, 1)), Reply::Done);
    assert_eq!(run(&mut table, take(1, 1)), refused(Refusal::InviteUsed));
    assert_eq!(run(&mut table, invite(2, 20 * DAY, 1)), Reply::Done);
    assert_eq!(run(&mut table, take(1, 20 * DAY)), refused(Refusal::InviteExpired));
    assert_eq!(run(&mut table, invite(3, 40 * DAY, 1)), Reply::Done);
    assert_eq!(run(&mut table, take(1, 40 * DAY)), refused(Refusal::NoSuchInvite));
    assert_eq!(
        answer(&table, &RootQuery::Invite(InviteId([2; 32]))).unwrap(),
        RootAnswer::Invite(Some(InviteRecord {
            id: InviteId([2; 32]),
            created: UnixMs(20 * DAY),
            expires: UnixMs(21 * DAY),
            uses_left: 1
        }))
    );
}

#[test]
fn a_lease_is_taken_only_from_the_count_that_was_seen() {
    let mut table = MemoryTable::default();
    let take = |holder: u8, seen| RootCommand::TakeLease { holder: WriterId([holder; 16]), seen };
    let lease = |table: &MemoryTable| {
        let RootAnswer::Lease(lease) = answer(table, &RootQuery::Lease).unwrap() else { panic!() };
        lease.map(|lease| (lease.holder.0[0], lease.beat))
    };
    assert_eq!(lease(&table), None);
    assert_eq!(run(&mut table, take(1, 1)), refused(Refusal::LeaseTaken));
    assert_eq!(run(&mut table, take(1, 0)), Reply::Done);
    assert_eq!(run(&mut table, take(2, 0)), refused(Refusal::LeaseTaken));
    assert_eq!(run(&mut table, take(1, 1)), Reply::Done);
    assert_eq!(run(&mut table, take(2, 1)), refused(Refusal::LeaseTaken), "the holder renewed meanwhile");
    assert_eq!(run(&mut table, take(2, 2)), Reply::Done);
    assert_eq!(run(&mut table, take(1, 2)), refused(Refusal::LeaseTaken), "the holder before learns that it is over");
    assert_eq!(lease(&table), Some((2, 3)));
}

#[test]
fn levelling_out_is_stopped_until_it_is_started_and_not_to_begin_with() {
    let mut table = MemoryTable::default();
    let stopped = |table: &MemoryTable| answer(table, &RootQuery::RebalanceStopped).unwrap() == RootAnswer::RebalanceStopped(true);
    assert!(!stopped(&table));
    for now in [true, true, false, false, true] {
        assert_eq!(run(&mut table, RootCommand::StopRebalance { stopped: now }), Reply::Done);
        assert_eq!(stopped(&table), now);
    }
}

#[test]
fn a_metadata_node_is_renewed_until_it_is_removed_for_good() {
    let mut table = MemoryTable::default();
    let id = NodeId([4; 32]);
    let record = |address: &str, at: u64| MetadataNodeRecord {
        id,
        address: address.into(),
        certificate: Bytes::from_static(b"c"),
        not_after: UnixMs(9),
        removed: false,
        admitted: UnixMs(at),
        changed: UnixMs(at),
    };
    let admit = |address: &str, at: u64| RootCommand::AdmitMetadataNode(record(address, at));
    let remove = || RootCommand::RemoveMetadataNode { node: id, now: UnixMs(7) };
    assert_eq!(run(&mut table, admit("a:1", 1)), refused(Refusal::NoFleet));
    run(&mut table, RootCommand::CreateFleet(fleet(1)));
    assert_eq!(run(&mut table, remove()), refused(Refusal::NoSuchNode));
    assert_eq!(run(&mut table, admit("a:1", 1)), Reply::Done);
    assert_eq!(run(&mut table, admit("b:2", 5)), Reply::Done);
    let known = MetadataNodeRecord { admitted: UnixMs(1), ..record("b:2", 5) };
    assert_eq!(answer(&table, &RootQuery::MetadataNodes).unwrap(), RootAnswer::MetadataNodes(vec![known.clone()]));
    assert_eq!(run(&mut table, remove()), Reply::Done);
    assert_eq!(run(&mut table, remove()), Reply::Done);
    assert_eq!(run(&mut table, admit("c:3", 8)), refused(Refusal::NodeRetired));
    let removed = MetadataNodeRecord { removed: true, changed: UnixMs(7), ..known };
    assert_eq!(answer(&table, &RootQuery::MetadataNodes).unwrap(), RootAnswer::MetadataNodes(vec![removed]));
}

fn a_member(id: u64) -> Member {
    Member { id: MemberId(id), at: Endpoint { node: NodeId([id as u8; 32]), address: format!("host:{id}") } }
}

fn begin(table: &mut MemoryTable, ask: MoveAsk, expected: u64) -> Reply {
    run(table, RootCommand::BeginMove { ask, expected: Epoch(expected), reason: "test".into(), now: UnixMs(1) })
}

fn split_at(key: &str) -> MoveAsk {
    MoveAsk::SplitNames { at: NamePoint::new(BucketId(1), key), members: vec![a_member(1)] }
}

fn map_of(table: &MemoryTable) -> Map {
    match answer(table, &RootQuery::Map { known: None }).unwrap() {
        RootAnswer::Map(Some(map)) => map,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_map_changes_with_one_step_of_a_move_and_only_for_who_took_it_up_last() {
    let mut table = MemoryTable::default();
    assert_eq!(begin(&mut table, split_at("m"), 1), refused(Refusal::MapChanged));
    assert_eq!(begin(&mut table, MoveAsk::MergeNames { into: GroupId(0) }, 0), refused(Refusal::NoSuchRange));
    assert_eq!(begin(&mut table, split_at("m"), 0), Reply::Moving(MoveId(1)));
    assert_eq!(begin(&mut table, split_at("n"), 0), refused(Refusal::GroupMoves));
    assert_eq!(run(&mut table, RootCommand::EndGroup { group: GroupId(1) }), refused(Refusal::GroupMoves));
    let id = MoveId(1);
    assert_eq!(run(&mut table, RootCommand::TakeMove { id }), Reply::Attempt(1));
    assert_eq!(run(&mut table, RootCommand::TakeMove { id }), Reply::Attempt(2));
    let step = |attempt, step| RootCommand::StepMove { id, attempt, step, now: UnixMs(2) };
    assert_eq!(run(&mut table, step(1, MoveStep::Copying)), refused(Refusal::OldAttempt));
    assert_eq!(run(&mut table, step(2, MoveStep::Mapped)), refused(Refusal::NoSuchMove));
    for to in [MoveStep::Copying, MoveStep::Copying, MoveStep::Released] {
        assert_eq!(run(&mut table, step(2, to)), Reply::Done);
        assert_eq!(map_of(&table).epoch(), Epoch(0));
    }
    assert_eq!(run(&mut table, step(2, MoveStep::GaveUp)), refused(Refusal::NoSuchMove), "there is no way back");
    assert_eq!(run(&mut table, step(2, MoveStep::Mapped)), Reply::Done);
    let map = map_of(&table);
    assert_eq!((map.epoch(), map.names().of(&NamePoint::new(BucketId(1), "x")).group), (Epoch(1), GroupId(1)));
    assert_eq!(answer(&table, &RootQuery::Map { known: Some(Epoch(1)) }).unwrap(), RootAnswer::Map(None));
    assert_eq!(run(&mut table, step(2, MoveStep::Done)), Reply::Done);
    assert_eq!(run(&mut table, RootCommand::TakeMove { id }), refused(Refusal::NoSuchMove));
    assert_eq!(run(&mut table, RootCommand::EndGroup { group: GroupId(1) }), refused(Refusal::GroupMoves), "the map has it");
}

#[test]
fn a_move_given_up_leaves_the_map_and_its_group_may_end_and_its_number_is_not_given_again() {
    let mut table = MemoryTable::default();
    assert_eq!(begin(&mut table, split_at("m"), 0), Reply::Moving(MoveId(1)));
    assert_eq!(run(&mut table, RootCommand::GiveUpMove { id: MoveId(1) }), Reply::Done);
    assert_eq!(run(&mut table, RootCommand::TakeMove { id: MoveId(1) }), Reply::Attempt(1));
    let gave_up = RootCommand::StepMove { id: MoveId(1), attempt: 1, step: MoveStep::GaveUp, now: UnixMs(2) };
    assert_eq!(run(&mut table, gave_up), Reply::Done);
    assert_eq!(map_of(&table).epoch(), Epoch(0));
    for _ in 0..2 {
        assert_eq!(run(&mut table, RootCommand::EndGroup { group: GroupId(1) }), Reply::Done);
    }
    assert_eq!(begin(&mut table, split_at("m"), 0), Reply::Moving(MoveId(2)));
    let RootAnswer::Groups(groups) = answer(&table, &RootQuery::Groups).unwrap() else { panic!() };
    assert_eq!(groups.iter().map(|group| (group.id, group.ended)).collect::<Vec<_>>(), [(GroupId(2), false)], "those that have not ended");
    let asked = RootQuery::GroupsOf(vec![GroupId(2), GroupId(1), GroupId(9)]);
    let RootAnswer::Groups(groups) = answer(&table, &asked).unwrap() else { panic!() };
    assert_eq!(groups.iter().map(|group| (group.id, group.ended)).collect::<Vec<_>>(), [(GroupId(2), false), (GroupId(1), true)]);
}

#[test]
fn a_group_made_for_a_move_that_is_given_up_ends_with_it_from_the_second_format_on() {
    for (format, ended) in [(FIRST, false), (LEVELLED, true)] {
        let mut table = MemoryTable::default();
        format::raise(&mut table, GroupId(0), format).unwrap();
        assert_eq!(begin(&mut table, split_at("m"), 0), Reply::Moving(MoveId(1)));
        run(&mut table, RootCommand::GiveUpMove { id: MoveId(1) });
        run(&mut table, RootCommand::TakeMove { id: MoveId(1) });
        let gave_up = RootCommand::StepMove { id: MoveId(1), attempt: 1, step: MoveStep::GaveUp, now: UnixMs(2) };
        assert_eq!(run(&mut table, gave_up), Reply::Done);
        let RootAnswer::Groups(groups) = answer(&table, &RootQuery::GroupsOf(vec![GroupId(1)])).unwrap() else { panic!() };
        assert_eq!(groups.iter().map(|group| group.ended).collect::<Vec<_>>(), [ended]);
        assert_eq!(answer(&table, &RootQuery::Format).unwrap(), RootAnswer::Format(format));
    }
}

#[test]
fn metadata_nodes_leave_one_after_the_other_and_one_always_stays() {
    let mut table = MemoryTable::default();
    let fleet = FleetRecord {
        id: FleetId([1; 16]),
        authority: Bytes::new(),
        created: UnixMs(1),
        revocations_version: 0,
        revocations: Bytes::new(),
    };
    run(&mut table, RootCommand::CreateFleet(fleet));
    let node = |n: u8| NodeId([n; 32]);
    let admit = |n: u8| {
        RootCommand::AdmitMetadataNode(MetadataNodeRecord {
            id: node(n),
            address: "host:1".into(),
            certificate: Bytes::new(),
            not_after: UnixMs(9),
            removed: false,
            admitted: UnixMs(1),
            changed: UnixMs(1),
        })
    };
    let leave = |n: u8| RootCommand::LeaveMetadataNode { node: node(n), now: UnixMs(2) };
    let leaving = |table: &MemoryTable| match answer(table, &RootQuery::LeavingMetadataNodes).unwrap() {
        RootAnswer::LeavingMetadataNodes(nodes) => nodes,
        other => panic!("{other:?}"),
    };
    for n in [1, 2, 3] {
        assert_eq!(run(&mut table, admit(n)), Reply::Done);
    }
    assert_eq!(run(&mut table, leave(9)), refused(Refusal::NoSuchNode));
    for n in [1, 3, 1] {
        assert_eq!(run(&mut table, leave(n)), Reply::Done);
    }
    assert_eq!(leaving(&table), [node(1), node(3)]);
    assert_eq!(run(&mut table, leave(2)), refused(Refusal::LastNode));
    // A new certificate keeps nobody.
    assert_eq!(run(&mut table, admit(1)), Reply::Done);
    assert_eq!(leaving(&table), [node(1), node(3)]);
    assert_eq!(run(&mut table, RootCommand::RemoveMetadataNode { node: node(1), now: UnixMs(3) }), Reply::Done);
    assert_eq!(leaving(&table), [node(3)]);
    assert_eq!(run(&mut table, leave(1)), Reply::Done, "it has left");
    assert_eq!(leaving(&table), [node(3)]);
}

#[test]
fn moves_that_are_over_are_told_of_in_a_bounded_number() {
    let mut table = MemoryTable::default();
    for number in 1..=MOVES_KEPT as u64 + 20 {
        assert_eq!(begin(&mut table, split_at("m"), 0), Reply::Moving(MoveId(number)));
        run(&mut table, RootCommand::TakeMove { id: MoveId(number) });
        let gave_up = RootCommand::StepMove { id: MoveId(number), attempt: 1, step: MoveStep::GaveUp, now: UnixMs(2) };
        assert_eq!(run(&mut table, gave_up), Reply::Done);
    }
    let RootAnswer::Moves(moves) = answer(&table, &RootQuery::Moves).unwrap() else { panic!() };
    assert_eq!(moves.len(), MOVES_KEPT);
    assert_eq!(moves.last().map(|last| last.id), Some(MoveId(MOVES_KEPT as u64 + 20)));
}

fn shift(table: &mut MemoryTable, group: u32) -> Reply {
    let (kind, group, reason) = (ShiftKind::Leadership, GroupId(group), "test".to_string());
    run(table, RootCommand::BeginShift { kind, group, from: a_member(1), to: a_member(2), reason, now: UnixMs(5) })
}

fn shifts(table: &MemoryTable) -> Vec<ShiftRecord> {
    match answer(table, &RootQuery::Shifts).unwrap() {
        RootAnswer::Shifts(shifts) => shifts,
        other => panic!("{other:?}"),
    }
}

#[test]
fn of_one_group_one_shift_is_under_way_and_the_first_word_about_its_end_counts() {
    let mut table = MemoryTable::default();
    assert_eq!(shift(&mut table, 1), Reply::Moving(MoveId(1)));
    assert_eq!(shift(&mut table, 1), refused(Refusal::GroupMoves));
    assert_eq!(shift(&mut table, 2), Reply::Moving(MoveId(2)));
    let end = |id: u64, done: bool, now: u64| RootCommand::EndShift { id: MoveId(id), done, now: UnixMs(now) };
    assert_eq!(run(&mut table, end(1, true, 7)), Reply::Done);
    assert_eq!(run(&mut table, end(1, false, 9)), Reply::Done);
    assert_eq!(run(&mut table, end(9, true, 9)), refused(Refusal::NoSuchMove));
    let told: Vec<_> = shifts(&table).iter().map(|record| (record.id.0, record.ended, record.done)).collect();
    assert_eq!(told, [(1, Some(UnixMs(7)), true), (2, None, false)]);
    // Moves of ranges and shifts have their numbers of one row.
    assert_eq!(begin(&mut table, split_at("m"), 0), Reply::Moving(MoveId(3)));
    assert_eq!(shift(&mut table, 1), Reply::Moving(MoveId(4)));
}

#[test]
fn shifts_are_bounded_in_number_under_way_and_over() {
    let mut table = MemoryTable::default();
    for group in 0..SHIFTS as u32 {
        assert!(matches!(shift(&mut table, group), Reply::Moving(_)));
    }
    assert_eq!(shift(&mut table, 9_999), refused(Refusal::TooManyMoves));
    let mut last = SHIFTS as u64;
    for _ in 0..SHIFTS_KEPT + 20 {
        assert_eq!(run(&mut table, RootCommand::EndShift { id: MoveId(last), done: true, now: UnixMs(6) }), Reply::Done);
        last += 1;
        assert_eq!(shift(&mut table, 50_000), Reply::Moving(MoveId(last)));
    }
    let all = shifts(&table);
    assert!(all.len() <= SHIFTS + SHIFTS_KEPT, "{}", all.len());
    assert_eq!(all.iter().filter(|record| record.ended.is_none()).count(), SHIFTS);
}
