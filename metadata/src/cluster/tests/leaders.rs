//! Leaders die and are cut off; nothing that was answered is lost, nothing old is read, nothing is applied twice.

use super::fixture::*;
use crate::cluster::{Begin, CallError, Link};
use spine::fleet::admission::Role;
use spine::fleet::tls::Shown;
use spine::id::GroupId;
use spine::wire::cluster::{Append, Appended, Ballot};
use spine::wire::cluster::{Call, ClusterError, Propose, Proposed, RequestId, RequestVote, Voted};
use spine::wire::{Metadata, MetadataError, Reply};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_replaced_and_no_answered_write_is_lost_or_doubled() {
    let mut cluster = Cluster::start(3, 4_096).await;
    let (next, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let (client, next, stop) = (cluster.client.clone(), next.clone(), stop.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let id = next.fetch_add(1, Ordering::SeqCst);
                    // A second application would be refused: the name is taken.
                    assert_eq!(client.propose(tenant(id)).await.unwrap(), [Reply::Done], "{id}");
                    assert!(has(client.as_ref(), id).await, "{id}");
                }
            })
        })
        .collect();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let leader = cluster.leader().await;
        let (before, begun) = (next.load(Ordering::SeqCst), Instant::now());
        cluster.kill(leader).await;
        while next.load(Ordering::SeqCst) < before + 12 {
            assert!(begun.elapsed() < Duration::from_secs(20), "nobody serves after the leader was killed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        eprintln!("serving again after {:?}", begun.elapsed());
        cluster.run(leader, Begin::Join).await;
    }
    stop.store(true, Ordering::SeqCst);
    for writer in writers {
        writer.await.unwrap();
    }
    for id in 0..next.load(Ordering::SeqCst) {
        assert!(has(cluster.client.as_ref(), id).await, "{id}");
    }
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_answers_nothing_old_and_forgets_what_nobody_agreed_to() {
    let mut cluster = Cluster::start(3, 4_096).await;
    cluster.client.propose(tenant(1)).await.unwrap();
    let old = cluster.leader().await;
    cluster.cut_off(old);
    // It still thinks that it leads; what it is told now goes into its log and nowhere else.
    let (lonely, reader) = (cluster.node(old).clone(), cluster.node(old).clone());
    let lost = tokio::spawn(async move { tokio::time::timeout(Duration::from_secs(3), lonely.propose(tenant(2))).await });
    let rest: Vec<_> = (0..3).filter(|n| *n != old).map(|n| cluster.places[n].endpoint()).collect();
    let client = client_of(&cluster.authority, rest);
    assert_eq!(client.propose(tenant(3)).await.unwrap(), [Reply::Done]);
    for _ in 0..5 {
        let asked = reader.query(spine::wire::Query::Root(spine::wire::root::RootQuery::Tenants)).await;
        assert!(matches!(asked, Err(MetadataError::Unavailable { .. })), "{asked:?}");
    }
    assert!(!matches!(lost.await.unwrap(), Ok(Ok(_))), "acknowledged by nobody");
    drop(reader);
    cluster.reconnect(old);
    cluster.agree().await;
    assert!(!has(cluster.client.as_ref(), 2).await && has(cluster.client.as_ref(), 3).await);
    // Its log was cut back; that holds after a kill too.
    cluster.kill(old).await;
    cluster.run(old, Begin::Join).await;
    assert_eq!(cluster.client.propose(tenant(4)).await.unwrap(), [Reply::Done]);
    cluster.agree().await;
    assert!(!has(cluster.client.as_ref(), 2).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minority_acknowledges_nothing_and_goes_on_when_the_others_come_back() {
    let mut cluster = Cluster::start(3, 4_096).await;
    let leader = cluster.leader().await;
    let others: Vec<usize> = (0..3).filter(|n| *n != leader).collect();
    for n in &others {
        cluster.kill(*n).await;
    }
    let alone = cluster.node(leader).clone();
    let asked = tokio::time::timeout(Duration::from_secs(2), alone.propose(tenant(1))).await;
    assert!(!matches!(asked, Ok(Ok(_))), "{asked:?}");
    assert!(alone.query(spine::wire::Query::Root(spine::wire::root::RootQuery::Tenants)).await.is_err());
    drop(alone);
    for n in others {
        cluster.run(n, Begin::Join).await;
    }
    assert_eq!(cluster.client.propose(tenant(2)).await.unwrap(), [Reply::Done]);
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proposal_sent_again_is_answered_as_before_also_by_the_next_leader() {
    let mut cluster = Cluster::start(3, 4_096).await;
    let shown = Arc::new(Shown::new(cluster.authority.admit(Role::Gateway)));
    let connect = cluster.authority.connect(shown);
    let propose = Propose { group: GroupId(0), request: Some(RequestId([7; 16])), seen: 0, batch: tenant(1) };
    let first = cluster.leader().await;
    let link = Link::new(cluster.places[first].endpoint(), connect.clone(), 4);
    for _ in 0..3 {
        let proposed: Proposed = link.call(Call::Propose, &propose).await.unwrap();
        assert_eq!(proposed.replies, [Reply::Done]);
    }
    cluster.kill(first).await;
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < Duration::from_secs(20));
        let leader = cluster.leader().await;
        let link = Link::new(cluster.places[leader].endpoint(), connect.clone(), 4);
        match link.call::<_, Proposed>(Call::Propose, &propose).await {
            Ok(proposed) => break assert_eq!(proposed.replies, [Reply::Done]),
            Err(CallError::Refused(ClusterError::NotLeader { .. } | ClusterError::Metadata(MetadataError::Unavailable { .. }))) => {}
            Err(other) => panic!("{other}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let other = Propose { request: Some(RequestId([8; 16])), ..propose };
    let leader = cluster.leader().await;
    let again: Proposed = Link::new(cluster.places[leader].endpoint(), connect, 4).call(Call::Propose, &other).await.unwrap();
    assert!(matches!(again.replies[..], [Reply::Refused(_)]), "{again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_names_the_leader_and_only_members_may_vote_or_send_entries() {
    let cluster = Cluster::start(3, 4_096).await;
    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;
    let gateway = cluster.authority.connect(Arc::new(Shown::new(cluster.authority.admit(Role::Gateway))));
    let link = Link::new(cluster.places[follower].endpoint(), gateway, 2);
    let propose = Propose { group: GroupId(0), request: None, seen: 0, batch: tenant(1) };
    let begun = Instant::now();
    loop {
        match link.call::<_, Proposed>(Call::Propose, &propose).await {
            Err(CallError::Refused(ClusterError::NotLeader { leader: Some(named) })) => {
                break assert_eq!(named, cluster.node(leader).member());
            }
            Err(CallError::Refused(ClusterError::NotLeader { leader: None })) if begun.elapsed() < Duration::from_secs(10) => {}
            other => panic!("{other:?}"),
        }
    }
    let elsewhere = Propose { group: GroupId(9), ..propose };
    let asked = link.call::<_, Proposed>(Call::Propose, &elsewhere).await;
    assert!(matches!(asked, Err(CallError::Refused(ClusterError::NoSuchGroup { group: GroupId(9) }))), "{asked:?}");
    let to = cluster.node(follower).member().id;
    let ballot = Ballot { term: 1_000, member: cluster.node(leader).member().id, granted: true };
    let append = Append { group: GroupId(0), to, ballot, previous: None, committed: None, entries: Vec::new() };
    let vote = RequestVote { group: GroupId(0), to, ballot, last: None };
    let sent = link.call::<_, Appended>(Call::Append, &append).await;
    assert!(matches!(sent, Err(CallError::Refused(ClusterError::Invalid { .. }))), "{sent:?}");
    let sent = link.call::<_, Voted>(Call::Vote, &vote).await;
    assert!(matches!(sent, Err(CallError::Refused(ClusterError::Invalid { .. }))), "{sent:?}");
    // A member's word for another folder's member is not taken either.
    let member = cluster.authority.connect(Arc::new(Shown::new(cluster.authority.admit(Role::Metadata))));
    let link = Link::new(cluster.places[follower].endpoint(), member, 2);
    let wrong = RequestVote { to: spine::id::MemberId(5), ..vote };
    let sent = link.call::<_, Voted>(Call::Vote, &wrong).await;
    assert!(matches!(sent, Err(CallError::Refused(ClusterError::OtherMember { member })) if member == to), "{sent:?}");
}
