//! Who is let in.

use crate::{Fleet, hasty, peer, until};
use conformance::plane::{Authority, Certified, Plane, admission, client, shard};
use gateway::remote::Link;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};
use spine::fleet::admission::{Admission, Role};
use spine::fleet::name::name_of;
use spine::id::{FleetId, NodeId};
use spine::wire::shard::{NodeError, NodeState, StorageNode};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use storage_node::serve;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Asks for the status under this configuration: true if there was an answer at all.
async fn is_answered(plane: &Plane, config: Arc<ClientConfig>, name: &str) -> bool {
    let asked = async {
        let stream = TcpStream::connect(plane.address).await.ok()?;
        let name = ServerName::try_from(name.to_string()).ok()?;
        let mut stream = TlsConnector::from(config).connect(name, stream).await.ok()?;
        stream.write_all(b"POST /1/status HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").await.ok()?;
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.ok()?;
        Some(&first == b"HTTP/1.1 200")
    };
    tokio::time::timeout(Duration::from_secs(5), asked).await.unwrap().unwrap_or(false)
}

#[derive(Debug)]
struct ShowsNothing;

impl ResolvesClientCert for ShowsNothing {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn a_server_answers_gateways_of_its_fleet_and_nobody_else() {
    let fleet = Fleet::new();
    let plane = fleet.serve(fleet.memory(), serve::Bounds::default()).await;
    let name = name_of(fleet.node.node);
    assert!(is_answered(&plane, fleet.tls(), &name).await);

    let stranger = Authority::new().unwrap();
    let other = Admission { fleet: FleetId([9; 16]), ..admission(Role::Gateway) };
    let shown: Vec<(&str, Certified)> = vec![
        ("another CA", stranger.admit(Role::Gateway).unwrap()),
        ("another fleet", fleet.authority.certify(other, 2100).unwrap()),
        ("expired", fleet.authority.certify(admission(Role::Gateway), 2021).unwrap()),
        ("a node", fleet.authority.admit(Role::StorageNode).unwrap()),
    ];
    for (what, who) in shown {
        assert!(!is_answered(&plane, client(&fleet.trust, &who).unwrap(), &name).await, "{what}");
    }
    let mut nothing = (*fleet.tls()).clone();
    nothing.client_auth_cert_resolver = Arc::new(ShowsNothing);
    assert!(!is_answered(&plane, Arc::new(nothing), &name).await, "no certificate");
    assert!(!is_answered(&plane, fleet.tls(), &name_of(NodeId([3; 32]))).await, "a node that is not here");
    assert!(!is_answered(&plane, fleet.tls(), "localhost").await, "no node's name");
    assert!(is_answered(&plane, fleet.tls(), &name).await, "and it is still there");
}

#[tokio::test]
async fn a_link_speaks_to_the_node_it_means_and_to_nobody_else() {
    let fleet = Fleet::new();
    let stranger = Authority::new().unwrap();
    let expired = fleet.authority.certify(admission(Role::StorageNode), 2021).unwrap();
    let foreign = stranger.admit(Role::StorageNode).unwrap();
    let gateway = fleet.authority.admit(Role::Gateway).unwrap();
    for (what, who, trust) in [
        ("expired", &expired, fleet.authority.trust().unwrap()),
        ("another CA", &foreign, stranger.trust().unwrap()),
        ("not a storage node", &gateway, fleet.authority.trust().unwrap()),
    ] {
        let node = conformance::plane::MemoryNode::new(who.node);
        let plane = Plane::start(trust, who, node, serve::Bounds::default(), Box::new(|_| Ok(()))).await.unwrap();
        let link = Link::start(peer(who.node, plane.address), fleet.tls(), fleet.trust.clone(), hasty());
        let (header, data) = shard(1, 10);
        assert!(matches!(link.put(header, data).await, Err(NodeError::Unavailable { .. })), "{what}");
        assert!(!link.first_look(Duration::from_secs(5)).await, "{what}");
    }
    // The right certificate under a name that is not its key's.
    let plane = fleet.serve(fleet.memory(), serve::Bounds::default()).await;
    let link = Link::start(peer(NodeId([3; 32]), plane.address), fleet.tls(), fleet.trust.clone(), hasty());
    assert!(matches!(link.get(shard(1, 1).0.name).await, Err(NodeError::Unavailable { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retired_gateway_is_cut_off_while_connected_and_the_list_is_kept() {
    let fleet = Fleet::new();
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keep = kept.clone();
    let trust = fleet.authority.trust().unwrap();
    let keeper = Box::new(move |list: &[u8]| {
        keep.lock().unwrap().push(list.to_vec());
        Ok(())
    });
    let plane = Plane::start(trust.clone(), &fleet.node, fleet.memory(), serve::Bounds::default(), keeper).await.unwrap();
    let link = fleet.link(plane.address);
    assert!(link.first_look(Duration::from_secs(5)).await);

    // Another gateway learns of it from the root group, and tells the node.
    let second = fleet.authority.admit(Role::Gateway).unwrap();
    let its_trust = fleet.authority.trust().unwrap();
    let list = fleet.authority.revoke(1, &[fleet.gateway.node]).unwrap();
    its_trust.revoke(&list).unwrap();
    let its_link = Link::start(peer(fleet.node.node, plane.address), client(&its_trust, &second).unwrap(), its_trust.clone(), hasty());
    until(|| trust.is_revoked(fleet.gateway.node)).await;
    until(|| kept.lock().unwrap().first().is_some_and(|kept| kept[..] == list[..])).await;
    until(|| link.status().state == NodeState::Lost).await;
    let (header, data) = shard(1, 10);
    assert!(matches!(link.put(header, data.clone()).await, Err(NodeError::Unavailable { .. })));
    its_link.put(header, data).await.unwrap();
    assert_eq!(kept.lock().unwrap().len(), 1, "a list is sent once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retired_node_is_lost_to_a_gateway_that_knows() {
    let fleet = Fleet::new();
    let plane = fleet.serve(fleet.memory(), serve::Bounds::default()).await;
    let before = fleet.link(plane.address);
    let (header, data) = shard(1, 10);
    before.put(header, data).await.unwrap();
    fleet.trust.revoke(&fleet.authority.revoke(1, &[fleet.node.node]).unwrap()).unwrap();
    assert!(matches!(before.get(header.name).await, Err(NodeError::Unavailable { .. })), "connected or not");
    let link = fleet.link(plane.address);
    assert!(!link.first_look(Duration::from_secs(5)).await);
    assert!(matches!(link.get(shard(1, 1).0.name).await, Err(NodeError::Unavailable { .. })));
}
