use super::fixture::{Cluster, client_of, tenant};
use crate::root::map::ROOT;
use spine::id::{GroupId, NodeId};
use spine::wire::Query;
use spine::wire::cluster::{ClusterError, Endpoint};
use spine::wire::root::RootQuery;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_nobody_has_is_said_to_be_nowhere_at_once_though_a_node_is_down() {
    let mut cluster = Cluster::start(3, 1 << 30).await;
    let (gone, leader) = (GroupId(77), cluster.leader().await);
    cluster.kill((leader + 1) % 3).await;
    let begun = Instant::now();
    let proposed = cluster.client.propose_to(gone, tenant(1)).await;
    assert_eq!(proposed, Err(ClusterError::NoSuchGroup { group: gone }));
    let asked = cluster.client.query_of(gone, Query::Root(RootQuery::Lease)).await;
    assert_eq!(asked, Err(ClusterError::NoSuchGroup { group: gone }));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(cluster.client.propose_to(ROOT, tenant(2)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_that_is_no_member_is_not_waited_for_once_the_members_are_known() {
    let cluster = Cluster::start(1, 1 << 30).await;
    let member = cluster.places[0].endpoint();
    let stranger = Endpoint { node: NodeId([9; 32]), address: "127.0.0.1:1".into() };
    let client = client_of(&cluster.authority, vec![stranger.clone(), member.clone()]);
    assert_eq!(client.endpoints().len(), 2);
    let begun = Instant::now();
    while client.endpoints() != [member.clone()] {
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", client.endpoints());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Without a member it begins again where it was told to.
    client.know(Vec::new());
    assert!(client.endpoints().contains(&stranger) && client.endpoints().contains(&member));
}
