//! The data plane between gateway and storage node, over real sockets on loopback: what goes through, who is let in, and what becomes
//! of peers that lie, stall or send rubbish, on either side.

mod admitted;
mod calls;
mod killed;
mod liars;
mod rubbish;

use conformance::plane::{Authority, CAPACITY, Certified, MemoryNode, Plane, client, keep_nothing};
use gateway::remote::{Bounds, Link, Peer};
use rustls::ClientConfig;
use spine::fleet::admission::Role;
use spine::fleet::trust::Trust;
use spine::id::NodeId;
use spine::wire::shard::StorageNode;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use storage_node::serve;

/// Links that lose patience soon.
fn hasty() -> Bounds {
    Bounds {
        idle: Duration::from_secs(5),
        connect: Duration::from_millis(500),
        back_off: Duration::from_millis(10),
        call: Duration::from_secs(3),
        pause: Duration::from_millis(300),
        look_every: Duration::from_millis(50),
        look: Duration::from_millis(300),
        ..Bounds::default()
    }
}

/// Servers that lose patience soon.
fn strict() -> serve::Bounds {
    serve::Bounds {
        handshake: Duration::from_millis(400),
        head: Duration::from_millis(600),
        pause: Duration::from_millis(300),
        body: Duration::from_millis(1_500),
        ..serve::Bounds::default()
    }
}

fn peer(node: NodeId, address: SocketAddr) -> Peer {
    Peer { node, machine: "machine-1".to_string(), zone: "zone-1".to_string(), capacity: CAPACITY, address: address.to_string() }
}

/// A CA, a node's certificate and a gateway's.
struct Fleet {
    authority: Authority,
    node: Certified,
    gateway: Certified,
    trust: Arc<Trust>,
}

impl Fleet {
    fn new() -> Fleet {
        let authority = Authority::new().unwrap();
        let (node, gateway) = (authority.admit(Role::StorageNode).unwrap(), authority.admit(Role::Gateway).unwrap());
        let trust = authority.trust().unwrap();
        Fleet { authority, node, gateway, trust }
    }

    fn memory(&self) -> Arc<MemoryNode> {
        MemoryNode::new(self.node.node)
    }

    async fn serve(&self, node: Arc<dyn StorageNode>, bounds: serve::Bounds) -> Plane {
        let trust = self.authority.trust().unwrap();
        Plane::start(trust, &self.node, node, bounds, keep_nothing()).await.unwrap()
    }

    fn tls(&self) -> Arc<ClientConfig> {
        client(&self.trust, &self.gateway).unwrap()
    }

    fn link(&self, address: SocketAddr) -> Arc<Link> {
        Link::start(peer(self.node.node, address), self.tls(), self.trust.clone(), hasty())
    }
}

/// Waits until `what` holds; panics after ten seconds.
async fn until(what: impl Fn() -> bool) {
    for _ in 0..1_000 {
        if what() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("did not happen in ten seconds");
}
