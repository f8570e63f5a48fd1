//! Routers over loopback: who is let in, what is found, who moved, who lies.

use crate::{Lookup, Own, Router, Settings, peer_of};
use futures::future::BoxFuture;
use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::core::UpgradeInfo;
use libp2p::core::transport::{DialOpts, PortUse};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, Version};
use libp2p::{PeerId, Transport, noise};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, PKCS_ED25519, SanType, SigningKey};
use spine::fleet::admission::{Admission, Role};
use spine::fleet::announcement::{Announcement, SignedAnnouncement, message};
use spine::fleet::revocation::{self, Revocations, SignedRevocations};
use spine::fleet::trust::Trust;
use spine::id::{FleetId, NodeId};
use spine::wire::routing::Hello;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;

const FLEET: FleetId = FleetId([9; 16]);

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    der: Vec<u8>,
}

struct Member {
    node: NodeId,
    key: KeyPair,
    certificate: Vec<u8>,
}

impl Ca {
    fn new() -> Ca {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Ca { issuer: Issuer::new(params, key), der }
    }

    fn trust(&self) -> Arc<Trust> {
        Arc::new(Trust::new(FLEET, &self.der).unwrap())
    }

    fn admit(&self, role: Role) -> Member {
        self.certify(KeyPair::generate_for(&PKCS_ED25519).unwrap(), role, 2100)
    }

    fn certify(&self, key: KeyPair, role: Role, until: i32) -> Member {
        let stores = role == Role::StorageNode;
        let (machine, zone) = ("m".to_string(), "z".to_string());
        let address = stores.then(|| "10.0.0.1:7400".to_string());
        let said = Admission { fleet: FLEET, role, machine, zone, capacity: u64::from(stores), address };
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(said.to_uri().unwrap().try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().to_vec();
        Member { node: NodeId(key.public_key_raw().try_into().unwrap()), key, certificate }
    }

    fn revoke(&self, version: u64, nodes: Vec<NodeId>) -> Vec<u8> {
        let list = Revocations { fleet: FLEET, version, nodes }.encode().unwrap();
        let signature = self.issuer.key().sign(&revocation::message(&list)).unwrap().into();
        SignedRevocations { list, signature }.encode().unwrap().to_vec()
    }
}

impl Member {
    fn announce(&self, version: u64, address: &str, routing: &str) -> SignedAnnouncement {
        let certificate = self.certificate.clone().into();
        let said = Announcement { version, address: address.to_string(), routing: routing.to_string(), certificate };
        let announcement = said.encode().unwrap();
        let signature = self.key.sign(&message(&announcement)).unwrap().into();
        SignedAnnouncement { announcement, signature }
    }

    /// A router that is introduced, and what stops it.
    async fn route(&self, trust: &Arc<Trust>, first: Option<&Router>, version: u64, address: &str) -> (Router, watch::Sender<bool>) {
        let mut settings = Settings::new(self.key.serialize_der(), self.certificate.clone());
        settings.listen = Some("127.0.0.1:0".parse().unwrap());
        settings.bootstrap = first.map(|first| first.address().unwrap().to_string()).into_iter().collect();
        let (stop, stopped) = watch::channel(false);
        let router = Router::start(settings, trust.clone(), stopped).await.unwrap();
        let routing = router.address().unwrap().to_string();
        let announcements = vec![self.announce(version, address, &routing)];
        router.introduce(Own { certificate: self.certificate.clone(), announcements }).await.unwrap();
        (router, stop)
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < Duration::from_secs(30), "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn table(router: &Router) -> usize {
    router.snapshot().await.unwrap().table.len()
}

/// Three storage processes in a chain of acquaintance.
async fn three(ca: &Ca, trust: &Arc<Trust>) -> (Vec<Member>, Vec<Router>, Vec<watch::Sender<bool>>) {
    let members: Vec<Member> = (0..3).map(|_| ca.admit(Role::StorageNode)).collect();
    let (mut routers, mut stops): (Vec<Router>, Vec<_>) = (Vec::new(), Vec::new());
    for (at, member) in members.iter().enumerate() {
        let (router, stop) = member.route(trust, routers.last(), 1, &format!("10.0.0.{}:7400", at + 1)).await;
        routers.push(router);
        stops.push(stop);
    }
    for router in &routers {
        until("all know all", async || table(router).await == 2).await;
    }
    (members, routers, stops)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_moved_is_found_again_by_whoever_asks_and_its_older_word_counts_no_more() {
    let ca = Ca::new();
    let trust = ca.trust();
    let (members, routers, stops) = three(&ca, &trust).await;
    let gateway = ca.admit(Role::Gateway);
    let mut settings = Settings::new(gateway.key.serialize_der(), gateway.certificate.clone());
    settings.bootstrap = vec![routers[0].address().unwrap().to_string()];
    let (_stop, stopped) = watch::channel(false);
    // A trust of its own: what it knows came over the wire.
    let asks = Router::start(settings, ca.trust(), stopped).await.unwrap();
    asks.introduce(Own { certificate: gateway.certificate.clone(), announcements: Vec::new() }).await.unwrap();
    let moved = members[2].node;
    let said = async |address: &str| {
        asks.locate(moved).await.unwrap();
        asks.known(moved).is_some_and(|known| known.said.address == address)
    };
    until("the node is found", async || said("10.0.0.3:7400").await).await;
    stops[2].send_replace(true);
    let (_again, _stop_again) = members[2].route(&trust, Some(&routers[1]), 2, "10.9.9.9:7400").await;
    until("it is found where it is now", async || said("10.9.9.9:7400").await).await;
    // Gateways are asked by nobody and are in no table.
    for router in &routers[..2] {
        assert!(!router.snapshot().await.unwrap().table.contains(&asks.peer()));
    }
    let Lookup { nearest, .. } = routers[0].nearest(b"anything".to_vec()).await.unwrap();
    assert!(!nearest.contains(&asks.peer()) && !nearest.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_enter_no_table_and_hear_nothing() {
    let (ca, other) = (Ca::new(), Ca::new());
    let trust = ca.trust();
    let (members, routers, _stops) = three(&ca, &trust).await;
    let expired = ca.certify(KeyPair::generate_for(&PKCS_ED25519).unwrap(), Role::StorageNode, 2021);
    let stolen = Member { certificate: members[0].certificate.clone(), ..ca.admit(Role::StorageNode) };
    let retired = ca.admit(Role::StorageNode);
    trust.revoke(&ca.revoke(1, vec![retired.node])).unwrap();
    let foreign = other.admit(Role::StorageNode);
    for (what, stranger) in [("another fleet's", &foreign), ("expired", &expired), ("another's", &stolen), ("retired", &retired)] {
        // Its own trust is of no account: it would believe anybody of either fleet.
        let own = if what == "another fleet's" { other.trust() } else { ca.trust() };
        let (router, _stop) = stranger.route(&own, Some(&routers[0]), 1, "10.0.0.66:7400").await;
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert_eq!(table(&router).await, 0, "{what} learned of others");
        assert_eq!(router.snapshot().await.unwrap().connected, 0, "{what} is connected");
        for known in &routers {
            assert!(!known.snapshot().await.unwrap().table.contains(&router.peer()), "{what} is in a table");
        }
        assert!(members.iter().all(|member| router.known(member.node).is_none()), "{what} heard an announcement");
    }
}

/// Speaks Noise under a key of nobody, says `hello`, and notes what it hears.
#[derive(Clone)]
struct Nobody {
    noise: noise::Config,
    hello: Vec<u8>,
    heard: Arc<Mutex<Option<Vec<u8>>>>,
}

impl UpgradeInfo for Nobody {
    type Info = &'static str;
    type InfoIter = std::iter::Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once("/breakwater/noise/1")
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> InboundConnectionUpgrade<T> for Nobody {
    type Output = (PeerId, noise::Output<T>);
    type Error = noise::Error;
    type Future = BoxFuture<'static, Result<Self::Output, noise::Error>>;

    fn upgrade_inbound(self, socket: T, info: &'static str) -> Self::Future {
        self.noise.upgrade_inbound(socket, info)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> OutboundConnectionUpgrade<T> for Nobody {
    type Output = (PeerId, noise::Output<T>);
    type Error = noise::Error;
    type Future = BoxFuture<'static, Result<Self::Output, noise::Error>>;

    fn upgrade_outbound(self, socket: T, info: &'static str) -> Self::Future {
        Box::pin(async move {
            let (peer, mut socket) = self.noise.upgrade_outbound(socket, info).await?;
            let length = u16::try_from(self.hello.len()).unwrap().to_be_bytes();
            socket.write_all(&[&length, &self.hello[..]].concat()).await.unwrap();
            socket.flush().await.unwrap();
            let mut heard = Vec::new();
            // How the other end closes is its own affair.
            let _ = socket.read_to_end(&mut heard).await;
            *self.heard.lock().unwrap() = Some(heard);
            Ok((peer, socket))
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_speaks_noise_and_has_no_certificate_hears_no_hello() {
    let ca = Ca::new();
    let member = ca.admit(Role::StorageNode);
    let (router, _stop) = member.route(&ca.trust(), None, 1, "10.0.0.1:7400").await;
    let stolen = postcard::to_stdvec(&Hello { certificate: member.certificate.clone().into(), announcement: None }).unwrap();
    for hello in [Vec::new(), b"hello".to_vec(), vec![0; 60_000], stolen] {
        let noise = noise::Config::new(&libp2p::identity::Keypair::generate_ed25519()).unwrap();
        let nobody = Nobody { noise, hello, heard: Arc::default() };
        let heard = nobody.heard.clone();
        let mut transport = libp2p::tcp::tokio::Transport::new(libp2p::tcp::Config::default())
            .upgrade(Version::V1)
            .authenticate(nobody)
            .multiplex(libp2p::yamux::Config::default())
            .boxed();
        let opts = DialOpts { role: libp2p::core::Endpoint::Dialer, port_use: PortUse::New };
        let dialled = transport.dial(crate::table::multiaddr(router.address().unwrap()), opts).unwrap();
        // Whether it fails is of no account: there is nobody to speak to.
        let _ = tokio::time::timeout(Duration::from_secs(20), dialled).await;
        assert_eq!(heard.lock().unwrap().take(), Some(Vec::new()));
        assert_eq!(router.snapshot().await.unwrap().connected, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_retired_leaves_the_tables() {
    let ca = Ca::new();
    let trust = ca.trust();
    let (members, routers, _stops) = three(&ca, &trust).await;
    let out = peer_of(members[2].node).unwrap();
    assert!(routers[0].snapshot().await.unwrap().table.contains(&out));
    trust.revoke(&ca.revoke(1, vec![members[2].node])).unwrap();
    until("it is out", async || !routers[0].snapshot().await.unwrap().table.contains(&out)).await;
    assert!(routers[0].known(members[2].node).is_none());
}
