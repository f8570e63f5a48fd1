//! Members come, go, lose their folders and move; and a process that was alone becomes the first of several.

use super::fixture::*;
use crate::cluster::{Begin, CallError, Link};
use crate::service::{MetadataNode, OpenError, Settings};
use bytes::Bytes;
use rustls::ClientConfig;
use spine::fleet::admission::Role;
use spine::fleet::tls::Shown;
use spine::id::{GroupId, MemberId, NodeId};
use spine::wire::cluster::{Call, Change, Changed, ClusterError, Endpoint, MemberChange};
use spine::wire::{Metadata, Reply};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn voters(cluster: &Cluster, seen_by: usize) -> BTreeSet<MemberId> {
    let members = cluster.node(seen_by).status().groups.remove(0).members;
    members.into_iter().filter(|member| member.votes).map(|member| member.member.id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_removed_hands_over_and_a_fourth_takes_its_place() {
    let mut cluster = Cluster::start(3, 4_096).await;
    for id in 0..20 {
        assert_eq!(cluster.client.propose(tenant(id)).await.unwrap(), [Reply::Done]);
    }
    let leader = cluster.leader().await;
    let id = cluster.node(leader).member().id;
    assert_eq!(cluster.client.change(MemberChange::Remove(id)).await.unwrap(), Changed::Done);
    assert_eq!(cluster.client.change(MemberChange::Remove(id)).await.unwrap(), Changed::Done, "again");
    cluster.kill(leader).await;
    assert_eq!(cluster.client.propose(tenant(20)).await.unwrap(), [Reply::Done]);
    let fourth = cluster.add().await;
    cluster.join(fourth).await;
    cluster.join(fourth).await;
    let now = cluster.leader().await;
    let seen = voters(&cluster, now);
    assert_eq!(seen.len(), 3);
    assert!(!seen.contains(&id) && seen.contains(&cluster.node(fourth).member().id));
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_knows_only_one_who_has_left_comes_to_know_who_is_there_and_keeps_to_it() {
    let mut cluster = Cluster::start(3, 4_096).await;
    let gone = (cluster.leader().await + 1) % 3;
    let id = cluster.node(gone).member().id;
    while cluster.client.change(MemberChange::Remove(id)).await.unwrap() != Changed::Done {}
    let fourth = cluster.add().await;
    cluster.join(fourth).await;
    // It runs, and shows for ever what it was told last.
    let client = client_of(&cluster.authority, vec![cluster.places[gone].endpoint()]);
    let there: BTreeSet<_> = (0..4).filter(|n| *n != gone).map(|n| cluster.places[n].endpoint()).collect();
    let known = || client.endpoints().into_iter().collect::<BTreeSet<_>>();
    let begun = Instant::now();
    while known() != there {
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}, but there are {there:?}", known());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for _ in 0..30 {
        assert_eq!(known(), there);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(client.propose(tenant(1)).await.unwrap(), [Reply::Done]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_nobody_goes_on_with_half_way_is_ended_by_who_leads() {
    let mut cluster = Cluster::start(3, 4_096).await;
    let leader = cluster.leader().await;
    let id = cluster.node((leader + 1) % 3).member().id;
    let hosted = cluster.node(leader).hosted(GroupId(0));
    // Begun, and dropped at once: two sets of voters are left.
    let cut = tokio::time::timeout(Duration::ZERO, hosted.group.change(&MemberChange::Remove(id))).await;
    assert!(cut.is_err(), "{cut:?}");
    let begun = std::time::Instant::now();
    while hosted.group.is_changing() || voters(&cluster, leader).len() != 2 {
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", hosted.group.status());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!voters(&cluster, leader).contains(&id));
    drop(hosted);
    // One of two sets would lack its majority now.
    cluster.kill((leader + 1) % 3).await;
    assert_eq!(cluster.client.propose(tenant(1)).await.unwrap(), [Reply::Done]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_folder_is_lost_comes_back_as_another_and_catches_up() {
    let mut cluster = Cluster::start(3, 50).await;
    for id in 0..300 {
        assert_eq!(cluster.client.propose(tenant(id)).await.unwrap(), [Reply::Done]);
    }
    let lost = (cluster.leader().await + 1) % 3;
    let was = cluster.node(lost).member().id;
    cluster.kill(lost).await;
    cluster.places[lost].lose_folder();
    assert_eq!(cluster.client.propose(tenant(300)).await.unwrap(), [Reply::Done]);
    cluster.run(lost, Begin::Join).await;
    cluster.join(lost).await;
    let is = cluster.node(lost).member().id;
    assert_ne!(is, was);
    let leader = cluster.leader().await;
    let seen = voters(&cluster, leader);
    assert!(seen.len() == 3 && seen.contains(&is) && !seen.contains(&was), "{seen:?}");
    cluster.agree().await;
    // It counts: one of the others may go.
    let other = (0..3).find(|n| *n != lost).unwrap();
    cluster.kill(other).await;
    assert_eq!(cluster.client.propose(tenant(301)).await.unwrap(), [Reply::Done]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_was_alone_becomes_the_first_member_and_keeps_what_it_had() {
    let mut cluster = Cluster::start(0, 4_096).await;
    let first = {
        let alone = tempfile::tempdir().unwrap();
        let node = MetadataNode::open(Settings { map_bytes: 1 << 30, ..Settings::new(alone.path()) }).await.unwrap();
        for id in 0..50 {
            assert_eq!(node.propose(tenant(id)).await.unwrap(), [Reply::Done]);
        }
        node.shutdown().await;
        alone
    };
    let zero = cluster.prepare().await;
    cluster.places[zero].dir = first;
    cluster.run(zero, Begin::Found).await;
    assert_eq!(cluster.node(zero).member().id, MemberId(1));
    cluster.client = client_of(&cluster.authority, vec![cluster.places[zero].endpoint()]);
    // It notes its address, so that the others know where it is.
    cluster.join(zero).await;
    let second = cluster.add().await;
    cluster.join(second).await;
    assert!(has(cluster.client.as_ref(), 49).await);
    assert_eq!(cluster.client.propose(tenant(50)).await.unwrap(), [Reply::Done]);
    cluster.agree().await;
    // From now on it is not alone, and cannot be served as if it were.
    cluster.kill(zero).await;
    let alone = MetadataNode::open(Settings { map_bytes: 1 << 30, ..Settings::new(cluster.places[zero].dir.path()) }).await;
    assert!(matches!(alone, Err(OpenError::Clustered { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_metadata_node_joins_as_itself_alone_and_strangers_are_not_heard() {
    let cluster = Cluster::start(1, 4_096).await;
    let endpoint = cluster.places[0].endpoint();
    let other = cluster.authority.connect(Arc::new(Shown::new(cluster.authority.admit(Role::Metadata))));
    let link = Link::new(endpoint.clone(), other, 2);
    let mut member = cluster.node(0).member();
    member.id = MemberId(77);
    let change = Change { group: GroupId(0), change: MemberChange::Join(member) };
    let asked = link.call::<_, Changed>(Call::Change, &change).await;
    assert!(matches!(asked, Err(CallError::Refused(ClusterError::Invalid { .. }))), "{asked:?}");
    let stranger = Authority::new();
    for role in [Role::Metadata, Role::Gateway] {
        let config = cluster.authority.connect(Arc::new(Shown::new(stranger.admit(role))));
        let link = Link::new(endpoint.clone(), config, 1);
        let asked = tokio::time::timeout(Duration::from_secs(5), link.call::<_, Changed>(Call::Change, &change)).await.unwrap();
        assert!(matches!(asked, Err(CallError::Lost(_) | CallError::Unreachable(_))), "{asked:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_somebody_else_is_told_from_who_is_not_there() {
    async fn asked(at: &Endpoint, config: &Arc<ClientConfig>) -> Result<Bytes, CallError> {
        let link = Link::new(at.clone(), config.clone(), 1);
        tokio::time::timeout(Duration::from_secs(5), link.send(Call::Status, Bytes::new())).await.unwrap()
    }
    let cluster = Cluster::start(1, 4_096).await;
    let (endpoint, stranger) = (cluster.places[0].endpoint(), Authority::new());
    let ours = cluster.authority.connect(Arc::new(Shown::new(cluster.authority.admit(Role::Gateway))));
    let theirs = stranger.connect(Arc::new(Shown::new(stranger.admit(Role::Gateway))));
    assert!(asked(&endpoint, &ours).await.is_ok());
    // Another fleet's; one that does not know the node's name; nobody.
    let outcome = asked(&endpoint, &theirs).await;
    assert!(matches!(outcome, Err(CallError::Stranger(_))), "{outcome:?}");
    let outcome = asked(&Endpoint { node: NodeId([9; 32]), ..endpoint.clone() }, &ours).await;
    assert!(matches!(outcome, Err(CallError::Stranger(_))), "{outcome:?}");
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let outcome = asked(&Endpoint { address: nowhere, ..endpoint }, &ours).await;
    assert!(matches!(outcome, Err(CallError::Unreachable(_))), "{outcome:?}");
}
