//! Groups whose founder dies half-way, and members that get, change and lose their replicas.

use super::fixture::*;
use super::groups::{Asker, members, status};
use crate::cluster::Begin;
use crate::replicas::Replicas;
use bytes::Bytes;
use spine::id::{FleetId, GroupId, UnixMs};
use spine::wire::cluster::GroupOrder;
use spine::wire::root::{FleetRecord, MetadataNodeRecord, RootCommand};
use spine::wire::{Batch, Chain, Command, Metadata, Reply};
use std::time::{Duration, Instant};

const GROUP: GroupId = GroupId(6);

async fn root(cluster: &Cluster, command: RootCommand) {
    let batch = Batch { chain: Chain::Stop, commands: vec![Command::Root(command)] };
    assert_eq!(cluster.client.propose(batch).await.unwrap(), [Reply::Done]);
}

/// The root's records of all places, as gateways make them.
async fn admit(cluster: &Cluster) {
    let fleet = FleetRecord {
        id: FleetId([3; 16]),
        authority: Bytes::new(),
        created: UnixMs(1),
        revocations_version: 0,
        revocations: Bytes::new(),
    };
    root(cluster, RootCommand::CreateFleet(fleet)).await;
    for place in &cluster.places {
        let record = MetadataNodeRecord {
            id: place.endpoint().node,
            address: place.endpoint().address,
            certificate: Bytes::new(),
            not_after: UnixMs(u64::MAX),
            removed: false,
            admitted: UnixMs(1),
            changed: UnixMs(1),
        };
        root(cluster, RootCommand::AdmitMetadataNode(record)).await;
    }
}

/// Rounds until nothing is left to do, and that is so twice.
async fn settle(replicas: &Replicas) {
    let (begun, mut quiet) = (Instant::now(), 0);
    while quiet < 2 {
        quiet = if replicas.round().await.is_ok_and(|steps| steps == 0) { quiet + 1 } else { 0 };
        assert!(begun.elapsed() < Duration::from_secs(60), "there is always something left to do");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_whose_founder_died_half_way_is_founded_by_another_and_the_founder_is_in_it_when_it_is_back() {
    let mut cluster = Cluster::start(3, 4_096).await;
    let asker = Asker::of(&cluster);
    // As far as the founder comes before the first entry: all have room.
    for n in 0..3 {
        asker.order(n, GROUP, GroupOrder::Host).await.unwrap();
    }
    let by_the_second = members(&cluster, 1);
    cluster.kill(0).await;
    let done = asker.order(1, GROUP, by_the_second).await.unwrap();
    assert!(done.leader.is_some());
    assert_eq!(asker.propose(GROUP, tenant(1)).await, [Reply::Done]);
    cluster.run(0, Begin::Join).await;
    // The founder goes on where it was, and finds the group made; who asks may have to wait until it can be reached again.
    let begun = Instant::now();
    while let Err(error) = asker.order(0, GROUP, members(&cluster, 0)).await {
        assert!(begun.elapsed() < Duration::from_secs(20), "{error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    cluster.kill(1).await;
    assert!(asker.has(GROUP, 1).await);
    assert_eq!(asker.propose(GROUP, tenant(2)).await, [Reply::Done]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_made_while_a_member_is_away_and_the_member_makes_room_when_it_is_back() {
    let mut cluster = Cluster::start(3, 4_096).await;
    admit(&cluster).await;
    let asker = Asker::of(&cluster);
    let all = members(&cluster, 1);
    cluster.kill(0).await;
    asker.order(1, GROUP, all).await.unwrap();
    for id in 0..100 {
        assert_eq!(asker.propose(GROUP, tenant(id)).await, [Reply::Done]);
    }
    cluster.run(0, Begin::Join).await;
    let replicas = Replicas::new(cluster.client.clone(), 3);
    settle(&replicas).await;
    assert!(cluster.node(0).group(GROUP).is_some(), "it has room for it now");
    cluster.kill(1).await;
    assert!(asker.has(GROUP, 99).await);
    assert_eq!(asker.propose(GROUP, tenant(100)).await, [Reply::Done]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_member_enters_what_lacks_replicas_and_who_leaves_is_replaced_and_keeps_nothing() {
    let mut cluster = Cluster::start(2, 4_096).await;
    let asker = Asker::of(&cluster);
    asker.order(0, GROUP, members(&cluster, 0)).await.unwrap();
    for id in 0..50 {
        assert_eq!(asker.propose(GROUP, tenant(id)).await, [Reply::Done]);
    }
    let three = cluster.add().await;
    cluster.join(three).await;
    assert!(cluster.node(three).group(GROUP).is_none(), "the root group alone");
    admit(&cluster).await;
    let replicas = Replicas::new(cluster.client.clone(), 3);
    settle(&replicas).await;
    let voters = status(&cluster, three, GROUP).members;
    assert!(voters.len() == 3 && voters.iter().all(|member| member.votes), "{voters:?}");
    let four = cluster.add().await;
    cluster.join(four).await;
    admit(&cluster).await;
    settle(&replicas).await;
    assert!(cluster.node(four).group(GROUP).is_none(), "three are enough");
    // The leader of everything leaves.
    asker.transfer(GROUP, cluster.node(0).member().id).await;
    let key = cluster.places[0].endpoint().node;
    root(&cluster, RootCommand::LeaveMetadataNode { node: key, now: UnixMs(2) }).await;
    settle(&replicas).await;
    let asker = Asker::of(&cluster);
    for group in [GroupId(0), GROUP] {
        let members = status(&cluster, four, group).members;
        assert!(members.len() == 3 && members.iter().all(|member| member.votes && member.member.at.node != key), "{group}: {members:?}");
    }
    assert!(cluster.node(0).group(GROUP).is_none(), "it has let go of it");
    assert!(!cluster.places[0].dir.path().join("groups/00000006").exists());
    cluster.kill(0).await;
    assert!(asker.has(GROUP, 49).await);
    assert_eq!(asker.propose(GROUP, tenant(60)).await, [Reply::Done]);
}
