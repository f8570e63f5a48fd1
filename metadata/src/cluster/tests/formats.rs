//! Members of different versions in one cluster. The older ones are this version keeping to the first format.

use super::fixture::{Cluster, has, tenant};
use crate::cluster::Begin;
use crate::service::OpenError;
use spine::id::{GroupId, MoveId, UnixMs};
use spine::wire::cluster::{Changed, ClusterError, GroupCall, GroupOrder, MemberChange};
use spine::wire::format::{FIRST, Format, NEWEST};
use spine::wire::root::RootCommand;
use spine::wire::{Batch, Chain, Command, Metadata, MetadataError, Refusal, Reply};
use std::time::{Duration, Instant};

const ROOT: GroupId = GroupId(0);

/// A command that came with the newest format, and does nothing.
fn newer() -> Batch {
    let command = RootCommand::EndShift { id: MoveId(99), done: true, now: UnixMs(1) };
    Batch { chain: Chain::Stop, commands: vec![Command::Root(command)] }
}

async fn restart(cluster: &mut Cluster, n: usize, newest: Format) {
    cluster.shut_down(n).await;
    cluster.places[n].newest = newest;
    cluster.run(n, Begin::Join).await;
    cluster.join(n).await;
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn root_formats(cluster: &Cluster) -> Vec<Format> {
    (0..cluster.places.len()).map(|n| cluster.node(n).understood().root).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_raised_when_its_last_member_is_upgraded_and_until_then_anybody_may_go_back() {
    let mut cluster = Cluster::start_of(FIRST, 3, 1_000).await;
    let client = cluster.client.clone();
    client.propose(tenant(1)).await.unwrap();
    for (n, newest) in [(0, NEWEST), (0, FIRST), (0, NEWEST), (1, NEWEST)] {
        restart(&mut cluster, n, newest).await;
        // Longer than a leader takes to look.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert_eq!(root_formats(&cluster), [FIRST; 3]);
        match client.propose(newer()).await {
            Err(MetadataError::TooNew { what }) => println!("{what}"),
            other => panic!("{other:?}"),
        }
        client.propose(tenant(10 + n as u64)).await.unwrap();
    }
    restart(&mut cluster, 2, NEWEST).await;
    until("all are raised", || root_formats(&cluster) == [NEWEST; 3]).await;
    assert_eq!(client.propose(newer()).await, Ok(vec![Reply::Refused(Refusal::NoSuchMove)]));
    cluster.agree().await;
    // Nobody goes back, and nothing was changed by trying.
    cluster.shut_down(1).await;
    cluster.places[1].newest = FIRST;
    match cluster.try_run(1, Begin::Join).await {
        Err(OpenError::Newer { format, newest, .. }) => assert_eq!((format, newest), (NEWEST, FIRST)),
        other => panic!("{other:?}"),
    }
    cluster.places[1].newest = NEWEST;
    cluster.run(1, Begin::Join).await;
    cluster.join(1).await;
    cluster.agree().await;
    assert!(has(&*client, 1).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_group_of_a_raised_cluster_takes_what_is_new_at_once() {
    let cluster = Cluster::start(3, 1_000).await;
    until("all are raised", || root_formats(&cluster) == [NEWEST; 3]).await;
    let members: Vec<_> = (0..3).map(|n| cluster.node(n).member()).collect();
    let order = GroupOrder::Create { members };
    cluster.node(0).order(GroupCall { group: GroupId(7), order }).await.unwrap();
    // No root's command for another group than the root's; it is known to be one, and that is what counts here.
    let replies = cluster.client.propose_to(GroupId(7), newer()).await.unwrap();
    assert_eq!(replies, [Reply::Refused(Refusal::NoSuchMove)]);
}

fn formats_of(cluster: &Cluster, group: GroupId) -> Vec<Option<Format>> {
    (0..cluster.places.len()).map(|n| cluster.node(n).group(group).map(|hosted| hosted.group.format())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_before_is_raised_once_the_root_is_though_nothing_new_is_asked_of_it() {
    let mut cluster = Cluster::start_of(FIRST, 3, 1_000).await;
    let members: Vec<_> = (0..3).map(|n| cluster.node(n).member()).collect();
    cluster.node(0).order(GroupCall { group: GroupId(7), order: GroupOrder::Create { members } }).await.unwrap();
    for n in [0, 1] {
        restart(&mut cluster, n, NEWEST).await;
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert_eq!(formats_of(&cluster, GroupId(7)), [Some(FIRST); 3]);
    }
    restart(&mut cluster, 2, NEWEST).await;
    until("the group is raised everywhere", || formats_of(&cluster, GroupId(7)) == [Some(NEWEST); 3]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_with_an_older_member_that_is_out_of_the_root_is_not_raised_before_that_one_has_left_it() {
    let mut cluster = Cluster::start_of(FIRST, 2, 1_000).await;
    let members: Vec<_> = (0..2).map(|n| cluster.node(n).member()).collect();
    let (first, old) = (members[0].id, members[1].id);
    cluster.node(0).order(GroupCall { group: GroupId(7), order: GroupOrder::Create { members } }).await.unwrap();
    restart(&mut cluster, 0, NEWEST).await;
    let client = cluster.client.clone();
    for group in [ROOT, GroupId(7)] {
        let began = Instant::now();
        while client.transfer(group, first).await.is_err() {
            assert!(began.elapsed() < Duration::from_secs(30), "group {group} is not handed over");
        }
    }
    let take_out = async |group: GroupId| {
        let began = Instant::now();
        while client.change_of(group, MemberChange::Remove(old)).await != Ok(Changed::Done) {
            assert!(began.elapsed() < Duration::from_secs(30), "it stays in group {group}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    take_out(ROOT).await;
    until("the root is raised", || cluster.node(0).understood().root == NEWEST).await;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(formats_of(&cluster, GroupId(7)), [Some(FIRST); 2]);
    // It still serves: nothing that one of the two refuses is in its log.
    client.propose_to(GroupId(7), tenant(1)).await.unwrap();
    take_out(GroupId(7)).await;
    until("the group is raised", || formats_of(&cluster, GroupId(7))[0] == Some(NEWEST)).await;
    client.propose_to(GroupId(7), tenant(2)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_understand_a_group_takes_neither_its_entries_nor_its_snapshot_and_goes_on_once_upgraded() {
    let mut cluster = Cluster::start_of(FIRST, 3, 10).await;
    let client = cluster.client.clone();
    for n in [0, 1] {
        restart(&mut cluster, n, NEWEST).await;
    }
    // A leader that is wrong about the third.
    let began = Instant::now();
    loop {
        let leader = cluster.leader().await;
        if leader != 2 && cluster.node(leader).group(ROOT).unwrap().group.raise(NEWEST).await.is_ok() {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "nobody new leads");
        // Refused or too early: whoever leads next.
        let _ = client.transfer(ROOT, cluster.node(0).member().id).await;
    }
    for id in 0..300 {
        client.propose(tenant(1_000 + id)).await.unwrap();
    }
    let index = |cluster: &Cluster, n: usize| cluster.node(n).status().groups[0].clone();
    let held = index(&cluster, 2).last;
    // By then the entries are gone, and only a snapshot could help.
    let leader = cluster.leader().await;
    until("the log is purged", || index(&cluster, leader).purged > held).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((index(&cluster, 2).last, cluster.node(2).understood().root), (held, FIRST));
    // Nothing of it is on its disk either.
    cluster.shut_down(2).await;
    cluster.run(2, Begin::Join).await;
    until("it has what it had", || index(&cluster, 2).last == held).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((index(&cluster, 2).last, cluster.node(2).understood().root), (held, FIRST));
    restart(&mut cluster, 2, NEWEST).await;
    cluster.agree().await;
    assert_eq!(root_formats(&cluster), [NEWEST; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_process_is_not_taken_in_by_a_raised_cluster() {
    let mut cluster = Cluster::start(1, 1_000).await;
    assert_eq!(root_formats(&cluster), [NEWEST], "alone, nobody is waited for");
    let late = cluster.prepare().await;
    cluster.places[late].newest = FIRST;
    cluster.run(late, Begin::Join).await;
    match cluster.node(late).join(&cluster.client, Duration::from_secs(20)).await {
        Err(ClusterError::Invalid { what }) => assert!(what.contains("upgrade it first"), "{what}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(cluster.node(0).status().groups[0].members.len(), 1);
    cluster.shut_down(late).await;
    cluster.places[late].newest = NEWEST;
    cluster.run(late, Begin::Join).await;
    cluster.join(late).await;
    cluster.agree().await;
}
