//! Many groups in the same processes: made, kept over restarts, removed, handed over under load; and what two hundred of them cost.

use super::fixture::*;
use crate::cluster::{Begin, CallError, Link};
use spine::fleet::admission::Role;
use spine::fleet::tls::Shown;
use spine::id::{GroupId, MemberId, TenantId};
use spine::wire::cluster::{
    Ask, Call, Change, Changed, ClusterError, GroupCall, GroupDone, GroupOrder, GroupStatus, MemberChange, Propose, Proposed, RequestId,
};
use spine::wire::root::{RootAnswer, RootQuery};
use spine::wire::{Answer, Batch, MetadataError, Query, Reply};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A gateway that asks any group, whoever leads it, until it has an answer.
pub struct Asker {
    links: Vec<Arc<Link>>,
    leads: Mutex<HashMap<GroupId, usize>>,
    count: AtomicU64,
}

impl Asker {
    pub fn of(cluster: &Cluster) -> Arc<Self> {
        let connect = cluster.authority.connect(Arc::new(Shown::new(cluster.authority.admit(Role::Gateway))));
        let links = cluster.places.iter().map(|place| Link::new(place.endpoint(), connect.clone(), 64)).collect();
        Arc::new(Self { links, leads: Mutex::default(), count: AtomicU64::new(0) })
    }

    async fn ask<Q: serde::Serialize, A: serde::de::DeserializeOwned>(&self, group: GroupId, call: Call, question: &Q) -> A {
        let begun = Instant::now();
        loop {
            let at = self.leads.lock().unwrap().get(&group).copied().unwrap_or(0);
            let asked = tokio::time::timeout(Duration::from_secs(3), self.links[at].call(call, question)).await;
            let next = match asked {
                Ok(Ok(answer)) => return answer,
                Ok(Err(CallError::Refused(ClusterError::NotLeader { leader: Some(leader) }))) => {
                    self.links.iter().position(|link| *link.endpoint() == leader.at)
                }
                Ok(Err(CallError::Refused(error @ (ClusterError::Invalid { .. } | ClusterError::Forgotten { .. })))) => panic!("{error}"),
                Ok(Err(_)) | Err(_) => None,
            };
            assert!(begun.elapsed() < Duration::from_secs(20), "no answer of group {group}");
            self.leads.lock().unwrap().insert(group, next.unwrap_or((at + 1) % self.links.len()));
            if next.is_none() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    pub async fn propose(&self, group: GroupId, batch: Batch) -> Vec<Reply> {
        let mut id = [9; 16];
        id[..8].copy_from_slice(&self.count.fetch_add(1, Ordering::SeqCst).to_be_bytes());
        let propose = Propose { group, request: Some(RequestId(id)), seen: 0, batch };
        self.ask::<_, Proposed>(group, Call::Propose, &propose).await.replies
    }

    pub async fn has(&self, group: GroupId, tenant: u64) -> bool {
        let ask = Ask { group, query: Query::Root(RootQuery::Tenant(TenantId(tenant))) };
        match self.ask(group, Call::Query, &ask).await {
            Answer::Root(RootAnswer::Tenant(found)) => found.is_some(),
            other => panic!("{other:?}"),
        }
    }

    pub async fn order(&self, at: usize, group: GroupId, order: GroupOrder) -> Result<GroupDone, CallError> {
        self.links[at].call(Call::Group, &GroupCall { group, order }).await
    }

    pub async fn transfer(&self, group: GroupId, to: MemberId) {
        let done: GroupDone = self.ask(group, Call::Group, &GroupCall { group, order: GroupOrder::Transfer { to } }).await;
        assert_eq!(done.leader, Some(to));
    }
}

/// All members of the cluster, those from `first` on before the others.
pub fn members(cluster: &Cluster, first: usize) -> GroupOrder {
    let count = cluster.places.len();
    GroupOrder::Create { members: (0..count).map(|n| cluster.node((first + n) % count).member()).collect() }
}

pub fn status(cluster: &Cluster, n: usize, group: GroupId) -> GroupStatus {
    cluster.node(n).status().groups.into_iter().find(|status| status.group == group).unwrap()
}

fn leader_of(cluster: &Cluster, group: GroupId) -> usize {
    let leader = status(cluster, 0, group).leader.unwrap();
    (0..cluster.places.len()).find(|n| cluster.node(*n).member().id == leader).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_made_over_all_members_is_its_own_and_is_there_after_kills() {
    let mut cluster = Cluster::start(3, 4_096).await;
    let asker = Asker::of(&cluster);
    let (one, two) = (GroupId(1), GroupId(2));
    for (group, first) in [(one, 0), (two, 1), (one, 0), (one, 2)] {
        let done = asker.order(first, group, members(&cluster, first)).await.unwrap();
        assert!(done.leader.is_some(), "also when it is there already, and whoever is first");
    }
    assert_eq!(asker.propose(one, tenant(1)).await, [Reply::Done]);
    assert_eq!(asker.propose(two, tenant(2)).await, [Reply::Done]);
    assert!(asker.has(one, 1).await && !asker.has(one, 2).await && !asker.has(two, 1).await && asker.has(two, 2).await);
    assert!(!asker.has(GroupId(0), 1).await, "the root group has nothing of it");
    for n in [0, 1, 2] {
        cluster.kill(n).await;
    }
    for n in [0, 1, 2] {
        cluster.run(n, Begin::Join).await;
    }
    assert!(asker.has(one, 1).await && !asker.has(one, 2).await && asker.has(two, 2).await);
    assert_eq!(asker.propose(two, tenant(3)).await, [Reply::Done]);
    // One after the other, so that a snapshot or the log brings up each.
    for n in [0, 1, 2] {
        cluster.kill(n).await;
        assert_eq!(asker.propose(one, tenant(10 + n as u64)).await, [Reply::Done]);
        cluster.run(n, Begin::Join).await;
    }
    for n in [10, 11, 12] {
        assert!(asker.has(one, n).await);
    }
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_that_cannot_be_are_refused_and_leave_nothing() {
    let cluster = Cluster::start(2, 4_096).await;
    let asker = Asker::of(&cluster);
    let refused = |outcome: Result<GroupDone, CallError>| match outcome {
        Err(CallError::Refused(error)) => error,
        other => panic!("{other:?}"),
    };
    let group = GroupId(7);
    for (at, group, order) in [
        (0, GroupId(0), GroupOrder::Remove),
        (0, GroupId(0), GroupOrder::Host),
        (0, group, GroupOrder::Create { members: Vec::new() }),
        // Made by somebody who is not the first.
        (0, group, members(&cluster, 1)),
        // Only members may.
        (0, GroupId(0), GroupOrder::Stand),
    ] {
        let error = refused(asker.order(at, group, order).await);
        assert!(matches!(error, ClusterError::Invalid { .. }), "{error}");
    }
    let error = refused(asker.order(0, group, GroupOrder::Transfer { to: MemberId(1) }).await);
    assert!(matches!(error, ClusterError::NoSuchGroup { .. }), "{error}");
    // The folder before this one.
    let mut other = cluster.node(0).member();
    other.id = MemberId(5);
    let error = refused(asker.order(0, group, GroupOrder::Create { members: vec![other] }).await);
    assert!(matches!(error, ClusterError::OtherMember { .. }), "{error}");
    assert_eq!(cluster.node(0).status().groups.len(), 1);
    assert_eq!(asker.order(0, group, GroupOrder::Remove).await.unwrap(), GroupDone { leader: None }, "what is not there is removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_group_is_gone_also_after_a_restart_and_can_come_back_as_a_new_member() {
    let mut cluster = Cluster::start(3, 4_096).await;
    let asker = Asker::of(&cluster);
    let group = GroupId(4);
    asker.order(0, group, members(&cluster, 0)).await.unwrap();
    for id in 0..50 {
        assert_eq!(asker.propose(group, tenant(id)).await, [Reply::Done]);
    }
    // Out of the group, and then out of the process.
    let gone = (leader_of(&cluster, group) + 1) % 3;
    let remove = Change { group, change: MemberChange::Remove(cluster.node(gone).member().id) };
    assert_eq!(asker.ask::<_, Changed>(group, Call::Change, &remove).await, Changed::Done);
    asker.order(gone, group, GroupOrder::Remove).await.unwrap();
    let folder = cluster.places[gone].dir.path().join("groups/00000004");
    assert!(!folder.exists());
    cluster.kill(gone).await;
    cluster.run(gone, Begin::Join).await;
    assert_eq!(cluster.node(gone).status().groups.len(), 1);
    assert_eq!(asker.propose(group, tenant(50)).await, [Reply::Done]);
    // Back, with nothing.
    asker.order(gone, group, GroupOrder::Host).await.unwrap();
    let join = Change { group, change: MemberChange::Join(cluster.node(gone).member()) };
    let begun = Instant::now();
    while asker.ask::<_, Changed>(group, Call::Change, &join).await != Changed::Done {
        assert!(begun.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    asker.transfer(group, cluster.node(gone).member().id).await;
    for id in 0..=50 {
        assert!(asker.has(group, id).await, "{id}");
    }
    cluster.kill(gone).await;
    cluster.run(gone, Begin::Join).await;
    assert!(asker.has(group, 50).await && !asker.has(group, 51).await);
    assert!(folder.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_a_member_again_does_not_let_go_by_what_was_said_before() {
    let cluster = Cluster::start(3, 4_096).await;
    let asker = Asker::of(&cluster);
    let group = GroupId(4);
    asker.order(0, group, members(&cluster, 0)).await.unwrap();
    assert_eq!(asker.propose(group, tenant(1)).await, [Reply::Done]);
    let out = (leader_of(&cluster, group) + 1) % 3;
    let id = cluster.node(out).member().id;
    let change = |change: MemberChange| Change { group, change };
    let left = async || {
        let begun = Instant::now();
        loop {
            let leader = leader_of(&cluster, group);
            match cluster.node(leader).change(change(MemberChange::Left(id))).await {
                Ok(Changed::Out { since }) => return since,
                other => assert!(begun.elapsed() < Duration::from_secs(20), "{other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let leader = leader_of(&cluster, group);
    let counts = cluster.node(leader).change(change(MemberChange::Left(id))).await;
    assert!(matches!(counts, Err(ClusterError::Metadata(MetadataError::Unavailable { .. }))), "{counts:?}");
    assert_eq!(asker.ask::<_, Changed>(group, Call::Change, &change(MemberChange::Remove(id))).await, Changed::Done);
    let before = left().await;
    // Taken in again while whoever asked slept.
    let join = change(MemberChange::Join(cluster.node(out).member()));
    let begun = Instant::now();
    while asker.ask::<_, Changed>(group, Call::Change, &join).await != Changed::Done {
        assert!(begun.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    while cluster.node(out).hosted(group).group.may_go(&before).is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(20), "it does not hear that it is a member");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let refused = asker.order(out, group, GroupOrder::LetGo { since: before }).await;
    assert!(matches!(refused, Err(CallError::Refused(ClusterError::Metadata(MetadataError::Unavailable { .. })))), "{refused:?}");
    assert_eq!(status(&cluster, out, group).members.len(), 3);
    assert_eq!(asker.propose(group, tenant(2)).await, [Reply::Done]);
    // Out for good, and by the entry that says so.
    assert_eq!(asker.ask::<_, Changed>(group, Call::Change, &change(MemberChange::Remove(id))).await, Changed::Done);
    let since = left().await;
    asker.order(out, group, GroupOrder::LetGo { since }).await.unwrap();
    assert!(!cluster.places[out].dir.path().join("groups/00000004").exists());
    assert_eq!(asker.order(out, group, GroupOrder::LetGo { since }).await.unwrap(), GroupDone { leader: None }, "again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_lost_its_folder_is_back_in_all_its_groups_after_it_joined() {
    let mut cluster = Cluster::start(3, 4_096).await;
    let asker = Asker::of(&cluster);
    for group in 1..=4 {
        asker.order(0, GroupId(group), members(&cluster, 0)).await.unwrap();
        assert_eq!(asker.propose(GroupId(group), tenant(u64::from(group))).await, [Reply::Done]);
    }
    cluster.kill(2).await;
    cluster.places[2].lose_folder();
    cluster.run(2, Begin::Join).await;
    cluster.join(2).await;
    let own = cluster.node(2).member().id;
    for group in (1..=4).map(GroupId) {
        let members = status(&cluster, 2, group).members;
        assert!(members.len() == 3 && members.iter().any(|member| member.member.id == own && member.votes), "{members:?}");
    }
    // It counts: with another one gone, it and the third are the majority.
    cluster.kill(1).await;
    for group in 1..=4 {
        assert!(asker.has(GroupId(group), u64::from(group)).await);
        assert_eq!(asker.propose(GroupId(group), tenant(100)).await, [Reply::Done]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_under_load_in_milliseconds_and_nobody_is_refused() {
    let mut cluster = Cluster::start(3, 4_096).await;
    let asker = Asker::of(&cluster);
    let group = GroupId(3);
    asker.order(0, group, members(&cluster, 0)).await.unwrap();
    let (next, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let (asker, next, stop) = (asker.clone(), next.clone(), stop.clone());
            tokio::spawn(async move {
                let mut longest = Duration::ZERO;
                while !stop.load(Ordering::SeqCst) {
                    let (id, begun) = (next.fetch_add(1, Ordering::SeqCst), Instant::now());
                    // A second application would be refused: the name is taken.
                    assert_eq!(asker.propose(group, tenant(id)).await, [Reply::Done], "{id}");
                    longest = longest.max(begun.elapsed());
                    assert!(asker.has(group, id).await, "{id}");
                }
                longest
            })
        })
        .collect();
    let mut gaps = Vec::new();
    for turn in 0..12 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        let to = cluster.node(turn % 3).member().id;
        let begun = Instant::now();
        asker.transfer(group, to).await;
        gaps.push(begun.elapsed());
    }
    stop.store(true, Ordering::SeqCst);
    let mut longest = Duration::ZERO;
    for writer in writers {
        longest = longest.max(writer.await.unwrap());
    }
    gaps.sort();
    println!("hand-overs: median {:?}, longest {:?}; longest write beside them {longest:?}", gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
    // An election after a lease would take 1.25 s.
    assert!(gaps[gaps.len() / 2] < Duration::from_millis(400), "{gaps:?}");
    for id in 0..next.load(Ordering::SeqCst) {
        assert!(asker.has(group, id).await, "{id}");
    }
    // To somebody who is not there: an error, and the old leader, or another, goes on.
    let (leader, away) = (leader_of(&cluster, group), (leader_of(&cluster, group) + 1) % 3);
    let to = cluster.node(away).member().id;
    cluster.kill(away).await;
    let asked = asker.order(leader, group, GroupOrder::Transfer { to }).await;
    assert!(matches!(asked, Err(CallError::Refused(ClusterError::Metadata(MetadataError::Unavailable { .. })))), "{asked:?}");
    assert_eq!(asker.propose(group, tenant(u64::MAX)).await, [Reply::Done]);
    let stranger = asker.order(leader, group, GroupOrder::Transfer { to: MemberId(77) }).await;
    assert!(matches!(stranger, Err(CallError::Refused(ClusterError::Invalid { .. } | ClusterError::NotLeader { .. }))), "{stranger:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_that_nobody_writes_to_do_not_keep_the_log_of_those_that_are() {
    let mut cluster = Cluster::start(1, 1 << 30).await;
    let asker = Asker::of(&cluster);
    let (idle, busy) = (GroupId(1), GroupId(2));
    for group in [idle, busy] {
        asker.order(0, group, members(&cluster, 0)).await.unwrap();
    }
    assert_eq!(asker.propose(idle, tenant(1)).await, [Reply::Done]);
    // Some 24 MiB, in files of 1 MiB; the fixture's log may have 8 of them behind checkpoints.
    let count = 1_200;
    for id in 1..=count {
        let mut batch = tenant(id);
        batch.commands = std::iter::repeat_n(batch.commands.remove(0), 700).collect();
        batch.chain = spine::wire::Chain::Independent;
        asker.propose(busy, batch).await;
    }
    let begun = Instant::now();
    while cluster.log_bytes(0) > 10 << 20 {
        assert!(begun.elapsed() < Duration::from_secs(30), "{} bytes of log", cluster.log_bytes(0));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    cluster.kill(0).await;
    cluster.run(0, Begin::Join).await;
    assert!(asker.has(idle, 1).await && asker.has(busy, count).await);
}
