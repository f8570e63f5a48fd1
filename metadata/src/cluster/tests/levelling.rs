//! Levelling out over real members: what they say that they bear, and a replica that goes from one to another under load.

use super::fixture::*;
use crate::balancing::{Carrier, Known, Picture, Servers, Waits};
use crate::mover::orders;
use spine::id::{GroupId, UnixMs};
use spine::map::Map;
use spine::wire::Reply;
use spine::wire::cluster::{GroupCall, GroupOrder, Loads};
use spine::wire::root::{ShiftKind, ShiftRecord};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const GROUP: GroupId = GroupId(7);

/// A group of the first three of four members, led by the first.
async fn of_three(cluster: &Cluster) {
    let members = (0..3).map(|n| cluster.node(n).member()).collect();
    let create = GroupCall { group: GROUP, order: GroupOrder::Create { members } };
    cluster.client.order(&cluster.places[0].endpoint(), &create).await.unwrap();
    cluster.client.transfer(GROUP, cluster.node(0).member().id).await.unwrap();
}

fn who_leads(loads: &[Loads], group: GroupId) -> Vec<&Loads> {
    loads.iter().filter(|loads| loads.groups.iter().any(|known| known.group == group && known.leads)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_say_what_they_bear_and_who_is_silent_is_left_out() {
    let mut cluster = Cluster::start(4, 4_096).await;
    of_three(&cluster).await;
    let (stop, client) = (Arc::new(AtomicBool::new(false)), cluster.client.clone());
    let writer = tokio::spawn({
        let stop = stop.clone();
        async move {
            for id in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                client.propose_to(GROUP, tenant(id)).await.unwrap();
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    });
    let begun = Instant::now();
    let (loads, picture) = loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let loads = Servers::loads(&*cluster.client).await;
        let map = Map::of_one(GROUP);
        let picture = Picture::of(&Known { loads: &loads, map: &map, moves: &[], shifts: &[], leaving: &BTreeSet::new() });
        let group = picture.cluster.groups.iter().find(|group| group.id == GROUP);
        if loads.len() == 4 && group.is_some_and(|group| group.lead.ops > 20.0 && group.follow.ops > 5.0) {
            break (loads, picture);
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{loads:#?}");
    };
    assert!(loads.iter().all(Loads::is_bounded));
    assert_eq!(who_leads(&loads, GROUP).iter().map(|loads| &loads.member).collect::<Vec<_>>(), [&cluster.node(0).member()]);
    let group = picture.cluster.groups.iter().find(|group| group.id == GROUP).unwrap();
    assert_eq!((group.leader, group.replicas.len()), (cluster.node(0).member().at.node, 3));
    assert!(group.lead.ops > group.follow.ops && group.lead.bytes > group.follow.bytes && group.lead.cpu > 0.0, "{group:?}");
    assert!(group.bytes > 0 && !group.stays);
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    cluster.kill(3).await;
    let loads = Servers::loads(&*cluster.client).await;
    assert_eq!(loads.len(), 3, "{loads:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_goes_from_a_leader_to_a_member_that_has_none_and_no_write_fails() {
    let cluster = Cluster::start(4, 4_096).await;
    of_three(&cluster).await;
    for id in 0..300 {
        assert_eq!(cluster.client.propose_to(GROUP, tenant(id)).await.unwrap(), [Reply::Done]);
    }
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(1_000)));
    let writers: Vec<_> = (0..3)
        .map(|_| {
            let (client, stop, done) = (cluster.client.clone(), stop.clone(), done.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let id = done.fetch_add(1, Ordering::SeqCst);
                    assert_eq!(client.propose_to(GROUP, tenant(id)).await.unwrap(), [Reply::Done]);
                }
            })
        })
        .collect();
    let (from, to) = (cluster.node(0).member(), cluster.node(3).member());
    let client = cluster.client.clone();
    let waits = Waits { ask: Duration::from_millis(20), ..Waits::default() };
    let carrier = Carrier { groups: client.clone(), servers: client.clone(), waits };
    let id = orders::begin_shift(&*client, ShiftKind::Replica, GROUP, (&from, &to), "test", UnixMs(1)).await.unwrap();
    let (kind, group, reason) = (ShiftKind::Replica, GROUP, "test".to_string());
    let record = ShiftRecord { id, kind, group, from, to, reason, begun: UnixMs(1), ended: None, done: false };
    carrier.shift(&record).await.unwrap();
    // Whoever still holds the record after its end does nothing.
    let late = Carrier { waits: Waits { again: Duration::from_millis(200), ..waits }, ..carrier };
    let again = late.shift(&record).await.unwrap_err().to_string();
    assert!(again.contains("somebody else has ended the shift"), "{again}");
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(done.load(Ordering::SeqCst) > 1_010);
    let told = orders::shifts(&*client).await.unwrap();
    assert!(told.len() == 1 && told[0].done && told[0].ended.is_some(), "{told:?}");
    assert!(cluster.node(0).group(GROUP).is_none(), "the old one has let go");
    let loads = Servers::loads(&*client).await;
    let leader = who_leads(&loads, GROUP)[0];
    let voters = &leader.groups.iter().find(|known| known.group == GROUP).unwrap().voters;
    let mut keys: Vec<_> = voters.iter().map(|voter| voter.at.node).collect();
    let mut expected: Vec<_> = (1..4).map(|n| cluster.node(n).member().at.node).collect();
    keys.sort();
    expected.sort();
    assert_eq!(keys, expected);
    // The new one has all of it: it can lead.
    client.transfer(GROUP, record.to.id).await.unwrap();
    assert_eq!(client.propose_to(GROUP, tenant(5)).await.unwrap(), client.propose_to(GROUP, tenant(6)).await.unwrap(), "both are known");
}
