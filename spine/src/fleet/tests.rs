//! Every wrong certificate, each refused by its kind; handshakes in memory, both ends.

use super::admission::{Admission, Role};
use super::announcement::{self, Announcement, AnnouncementError, SignedAnnouncement};
use super::certificate;
use super::name::name_of;
use super::revocation::{self, RevocationError, Revocations, SignedRevocations};
use super::tls::{self, Identity, IdentityError, Served, Shown};
use super::trust::{Refusal, Trust, TrustError};
use crate::id::{FleetId, NodeId};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, SanType, SigningKey,
};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConnection, ServerConnection, SignatureScheme};
use std::sync::Arc;
use std::time::Duration;

const FLEET: FleetId = FleetId([1; 16]);
const BOTH: &[Role] = &[Role::StorageNode, Role::Gateway];

/// A CA of a fleet.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: Vec<u8>,
}

impl Authority {
    fn new() -> Authority {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Authority { issuer: Issuer::new(params, key), der }
    }

    fn trust(&self) -> Arc<Trust> {
        Arc::new(Trust::new(FLEET, &self.der).unwrap())
    }

    fn sign(&self, params: &CertificateParams, key: &KeyPair) -> Vec<u8> {
        params.signed_by(key, &self.issuer).unwrap().der().to_vec()
    }

    fn revoke(&self, list: &Revocations) -> Vec<u8> {
        let list = list.encode().unwrap();
        let signature = self.issuer.key().sign(&revocation::message(&list)).unwrap().into();
        SignedRevocations { list, signature }.encode().unwrap().to_vec()
    }
}

fn admission(role: Role) -> Admission {
    let stores = role == Role::StorageNode;
    Admission {
        fleet: FLEET,
        role,
        machine: "m1".to_string(),
        zone: "z1".to_string(),
        capacity: if stores { 1 << 40 } else { 0 },
        address: stores.then(|| "127.0.0.1:7400".to_string()),
    }
}

fn params(uri: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(uri.to_string().try_into().unwrap())];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2100, 1, 1);
    params
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ED25519).unwrap()
}

fn node_of(key: &KeyPair) -> NodeId {
    NodeId(key.public_key_raw().try_into().unwrap())
}

fn at(year: i32) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(rcgen::date_time_ymd(year, 6, 1).unix_timestamp() as u64))
}

fn judge(trust: &Trust, der: &[u8]) -> Result<certificate::Certified, Refusal> {
    trust.judge(&CertificateDer::from(der), &[], at(2030), BOTH, None)
}

fn good(ca: &Authority, role: Role) -> (Vec<u8>, KeyPair) {
    let key = key();
    (ca.sign(&params(&admission(role).to_uri().unwrap()), &key), key)
}

#[test]
fn what_the_ca_signed_is_believed_and_read() {
    let ca = Authority::new();
    let (der, key) = good(&ca, Role::StorageNode);
    let said = ca.trust().judge(&CertificateDer::from(&der[..]), &[], at(2030), &[Role::StorageNode], Some(node_of(&key))).unwrap();
    assert_eq!(said.node, node_of(&key));
    assert_eq!(said.admission, admission(Role::StorageNode));
    assert_eq!(said.not_before, rcgen::date_time_ymd(2020, 1, 1).unix_timestamp());
    assert_eq!(said.not_after, rcgen::date_time_ymd(2100, 1, 1).unix_timestamp());
    assert!(!said.serial.is_empty());
    assert!(der.len() < 600, "{}", der.len());
}

#[test]
fn a_certificate_of_another_fleet_is_refused() {
    let ca = Authority::new();
    let other = FleetId([2; 16]);
    let uri = Admission { fleet: other, ..admission(Role::Gateway) }.to_uri().unwrap();
    assert_eq!(judge(&ca.trust(), &ca.sign(&params(&uri), &key())), Err(Refusal::Fleet { found: other }));
    let (der, _) = good(&Authority::new(), Role::Gateway);
    assert_eq!(judge(&ca.trust(), &der), Err(Refusal::Issuer), "the same fleet's number under another CA");
}

#[test]
fn a_self_signed_certificate_is_refused() {
    let ca = Authority::new();
    let key = key();
    let der = params(&admission(Role::Gateway).to_uri().unwrap()).self_signed(&key).unwrap().der().to_vec();
    assert_eq!(judge(&ca.trust(), &der), Err(Refusal::Issuer));
    assert!(judge(&ca.trust(), &ca.der.clone()).is_err(), "the CA's own certificate is nobody's");
}

#[test]
fn a_certificate_signed_by_a_node_is_refused() {
    let ca = Authority::new();
    let (node_der, node_key) = good(&ca, Role::StorageNode);
    let issuer = Issuer::from_ca_cert_der(&CertificateDer::from(&node_der[..]), node_key).unwrap();
    let der = params(&admission(Role::Gateway).to_uri().unwrap()).signed_by(&key(), &issuer).unwrap();
    let with = [CertificateDer::from(node_der)];
    assert_eq!(ca.trust().judge(der.der(), &with, at(2030), BOTH, None), Err(Refusal::Issuer));
    assert_eq!(judge(&ca.trust(), der.der()), Err(Refusal::Issuer));
}

#[test]
fn a_certificate_outside_its_days_is_refused() {
    let ca = Authority::new();
    let (der, _) = good(&ca, Role::Gateway);
    let (der, trust) = (CertificateDer::from(der), ca.trust());
    assert_eq!(trust.judge(&der, &[], at(2101), BOTH, None), Err(Refusal::Expired));
    assert_eq!(trust.judge(&der, &[], at(2019), BOTH, None), Err(Refusal::NotYet));
    let peer = trust.judge(&der, &[], at(2030), BOTH, None).unwrap();
    assert_eq!(trust.still_in(&peer, at(2030)), Ok(()));
    assert_eq!(trust.still_in(&peer, at(2101)), Err(Refusal::Expired));
}

#[test]
fn a_wrong_role_or_another_key_is_refused() {
    let ca = Authority::new();
    let (der, key) = good(&ca, Role::Gateway);
    let (der, trust) = (CertificateDer::from(der), ca.trust());
    let expected = NodeId([9; 32]);
    assert_eq!(trust.judge(&der, &[], at(2030), &[Role::StorageNode], None), Err(Refusal::Role { found: Role::Gateway }));
    assert_eq!(trust.judge(&der, &[], at(2030), BOTH, Some(expected)), Err(Refusal::Key { found: node_of(&key), expected }));
}

#[test]
fn a_certificate_that_is_not_one_of_ours_is_malformed() {
    let (ca, trust_is) = (Authority::new(), |e: Refusal| matches!(e, Refusal::Malformed(_)));
    let uri = admission(Role::Gateway).to_uri().unwrap();
    let mut two = params(&uri);
    two.subject_alt_names.push(SanType::DnsName("a.example".to_string().try_into().unwrap()));
    let mut none = params(&uri);
    none.subject_alt_names.clear();
    let p256 = KeyPair::generate().unwrap();
    let wrong = [ca.sign(&two, &key()), ca.sign(&none, &key()), ca.sign(&params("breakwater:1/x"), &key()), ca.sign(&params(&uri), &p256)];
    for der in wrong {
        assert!(trust_is(judge(&ca.trust(), &der).unwrap_err()));
    }
    for der in [vec![], vec![0x30; 40], vec![0; 5_000]] {
        assert!(trust_is(judge(&ca.trust(), &der).unwrap_err()));
    }
    let (mut forged, _) = good(&ca, Role::Gateway);
    let at = forged.windows(7).position(|w| w == b"gateway").unwrap();
    forged[at + 8] ^= 1;
    assert_eq!(judge(&ca.trust(), &forged), Err(Refusal::Issuer), "a changed machine");
    assert!(matches!(Trust::new(FLEET, b"nothing"), Err(TrustError::Malformed(_))));
}

#[test]
fn a_retired_node_is_refused_and_lists_only_grow() {
    let ca = Authority::new();
    let (der, key) = good(&ca, Role::StorageNode);
    let trust = ca.trust();
    let peer = judge(&trust, &der).unwrap();
    let list = |version, nodes: &[NodeId]| Revocations { fleet: FLEET, version, nodes: nodes.to_vec() };
    assert_eq!(trust.revoke(&ca.revoke(&list(2, &[node_of(&key)]))), Ok(true));
    assert_eq!(judge(&trust, &der), Err(Refusal::Revoked { node: node_of(&key) }));
    assert_eq!(trust.still_in(&peer, at(2030)), Err(Refusal::Revoked { node: node_of(&key) }));

    assert_eq!(trust.revoke(&ca.revoke(&list(1, &[]))), Err(RevocationError::Older { version: 1, known: 2 }));
    assert_eq!(trust.revoke(&ca.revoke(&list(2, &[]))), Err(RevocationError::Forked { version: 2 }));
    assert_eq!(trust.revoke(&ca.revoke(&list(2, &[node_of(&key)]))), Ok(false));
    assert_eq!(trust.revoke(&Authority::new().revoke(&list(3, &[]))), Err(RevocationError::Signature));
    let other = Revocations { fleet: FleetId([2; 16]), version: 3, nodes: vec![] };
    assert_eq!(trust.revoke(&ca.revoke(&other)), Err(RevocationError::Fleet { found: other.fleet }));
    assert_eq!(list(3, &[NodeId([2; 32]), NodeId([1; 32])]).encode(), Err(RevocationError::Form));
    assert_eq!(trust.revoke(b"nothing"), Err(RevocationError::Form));
    assert!(trust.is_revoked(node_of(&key)));
    assert_eq!(trust.revocations().0, 2);

    let again = ca.trust();
    assert_eq!(again.revoke(&trust.revocations().1.unwrap().encode().unwrap()), Ok(true), "what is kept on disk counts after a restart");
}

#[test]
fn a_list_that_restored_metadata_has_from_before_changes_nothing_and_is_no_error() {
    let ca = Authority::new();
    let trust = ca.trust();
    let list = |version, nodes: &[NodeId]| ca.revoke(&Revocations { fleet: FLEET, version, nodes: nodes.to_vec() });
    let (one, other) = (NodeId([1; 32]), NodeId([2; 32]));
    assert_eq!(trust.follow(b""), Ok(false), "there is none yet");
    assert_eq!(trust.follow(&list(7, &[one, other])), Ok(true));
    assert_eq!(trust.follow(&list(5, &[one])), Ok(false));
    assert_eq!(trust.follow(&list(7, &[one])), Err(RevocationError::Forked { version: 7 }));
    assert_eq!(trust.follow(b"nothing"), Err(RevocationError::Form));
    let mut out = trust.revoked();
    out.sort();
    assert_eq!((trust.revocations().0, out), (7, vec![one, other]));
}

#[test]
fn a_list_with_a_changed_byte_is_not_the_cas() {
    let ca = Authority::new();
    let signed = ca.revoke(&Revocations { fleet: FLEET, version: 1, nodes: vec![NodeId([3; 32])] });
    for i in 0..signed.len() {
        let mut changed = signed.clone();
        changed[i] ^= 1;
        let trust = ca.trust();
        assert!(trust.revoke(&changed).is_err(), "byte {i}");
        assert_eq!(trust.revocations().0, 0);
    }
}

fn identity(der: &[u8], key: &KeyPair) -> Result<Identity, IdentityError> {
    Identity::new(der, PrivateKeyDer::try_from(key.serialize_der()).unwrap())
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

/// Both ends of a handshake in memory: what the client said last, and the server.
fn shake(
    client_trust: &Arc<Trust>,
    client: Option<Identity>,
    server_trust: &Arc<Trust>,
    server: Identity,
    name: &str,
) -> (Result<(), rustls::Error>, Result<(), rustls::Error>) {
    let served = Arc::new(Served::default());
    served.set(server);
    let server = tls::server(server_trust.clone(), served, &[Role::Gateway]).unwrap();
    let client = match client {
        Some(identity) => tls::client(client_trust.clone(), Arc::new(Shown::new(identity))).unwrap(),
        None => {
            let any = good(&Authority::new(), Role::Gateway);
            let mut config = (*tls::client(client_trust.clone(), Arc::new(Shown::new(identity(&any.0, &any.1).unwrap()))).unwrap()).clone();
            config.client_auth_cert_resolver = Arc::new(ShowsNothing);
            Arc::new(config)
        }
    };
    let name = ServerName::try_from(name.to_string()).unwrap();
    converse(ClientConnection::new(client, name).unwrap(), ServerConnection::new(server).unwrap())
}

fn converse(mut client: ClientConnection, mut server: ServerConnection) -> (Result<(), rustls::Error>, Result<(), rustls::Error>) {
    let (mut said_by_client, mut said_by_server) = (Ok(()), Ok(()));
    for _ in 0..8 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut rest = &wire[..];
        while !rest.is_empty() && said_by_server.is_ok() {
            server.read_tls(&mut rest).unwrap();
            said_by_server = server.process_new_packets().map(|_| ());
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut rest = &wire[..];
        while !rest.is_empty() && said_by_client.is_ok() {
            client.read_tls(&mut rest).unwrap();
            said_by_client = client.process_new_packets().map(|_| ());
        }
    }
    if said_by_server.is_ok() {
        assert!(!server.is_handshaking() && server.peer_certificates().is_some_and(|chain| chain.len() == 1));
        assert_eq!(client.alpn_protocol(), Some(tls::ALPN));
    }
    (said_by_client, said_by_server)
}

#[test]
fn a_handshake_lets_in_who_is_admitted_and_nobody_else() {
    let (ca, stranger) = (Authority::new(), Authority::new());
    let (node_der, node_key) = good(&ca, Role::StorageNode);
    let name = name_of(node_of(&node_key));
    let node = || identity(&node_der, &node_key).unwrap();
    let (gateway_der, gateway_key) = good(&ca, Role::Gateway);
    let gateway = || identity(&gateway_der, &gateway_key).unwrap();
    let trust = ca.trust();

    let (client, server) = shake(&trust, Some(gateway()), &trust, node(), &name);
    assert!(client.is_ok() && server.is_ok(), "{client:?} {server:?}");

    let (_, server) = shake(&trust, None, &trust, node(), &name);
    assert_eq!(server, Err(rustls::Error::NoCertificatesPresented));

    let (der, key) = good(&stranger, Role::Gateway);
    let (client, server) = shake(&trust, Some(identity(&der, &key).unwrap()), &trust, node(), &name);
    assert_eq!(tls::refusal(&server.unwrap_err()), Some(&Refusal::Issuer));
    assert!(matches!(client, Err(rustls::Error::AlertReceived(_))), "the client hears an alert and no more: {client:?}");

    let (_, server) = shake(&trust, Some(node()), &trust, node(), &name);
    assert_eq!(tls::refusal(&server.unwrap_err()), Some(&Refusal::Role { found: Role::StorageNode }));

    let (der, key) = good(&stranger, Role::StorageNode);
    let (client, _) = shake(&trust, Some(gateway()), &stranger.trust(), identity(&der, &key).unwrap(), &name_of(node_of(&key)));
    assert_eq!(tls::refusal(&client.unwrap_err()), Some(&Refusal::Issuer));
}

#[test]
fn a_server_without_the_named_node_shows_nothing() {
    let ca = Authority::new();
    let (node_der, node_key) = good(&ca, Role::StorageNode);
    let (der, key) = good(&ca, Role::Gateway);
    let trust = ca.trust();
    for name in [name_of(NodeId([5; 32])), "localhost".to_string()] {
        let (client, server) = shake(&trust, Some(identity(&der, &key).unwrap()), &trust, identity(&node_der, &node_key).unwrap(), &name);
        assert!(server.is_err(), "{name}");
        assert!(matches!(client, Err(rustls::Error::AlertReceived(_))), "{client:?}");
    }
}

#[test]
fn a_key_and_a_certificate_of_two_nodes_are_no_identity() {
    let ca = Authority::new();
    let (der, _) = good(&ca, Role::Gateway);
    assert!(matches!(identity(&der, &key()), Err(IdentityError::Mismatch { .. })));
}

fn announce(version: u64, certificate: &[u8], key: &KeyPair) -> SignedAnnouncement {
    let said = Announcement {
        version,
        address: "10.0.0.9:7400".to_string(),
        routing: "10.0.0.9:7402".to_string(),
        certificate: certificate.to_vec().into(),
    };
    let announcement = said.encode().unwrap();
    let signature = key.sign(&announcement::message(&announcement)).unwrap().into();
    SignedAnnouncement { announcement, signature }
}

#[test]
fn an_announcement_is_believed_of_an_admitted_node_that_signed_it_and_of_nobody_else() {
    let (ca, trust) = (Authority::new(), Authority::new().trust());
    let (der, own) = good(&ca, Role::StorageNode);
    let signed = SignedAnnouncement::decode(&announce(7, &der, &own).encode().unwrap()).unwrap();
    let judge = |signed: &SignedAnnouncement| signed.judge(&ca.trust(), at(2030), Some(node_of(&own)));
    let said = judge(&signed).unwrap();
    assert_eq!((said.version, said.address.as_str(), said.says.node), (7, "10.0.0.9:7400", node_of(&own)));
    assert_eq!(signed.judge(&trust, at(2030), None), Err(AnnouncementError::Refused(Refusal::Issuer)));
    assert_eq!(signed.judge(&ca.trust(), at(2101), None), Err(AnnouncementError::Refused(Refusal::Expired)));
    assert_eq!(judge(&announce(7, &der, &key())), Err(AnnouncementError::Signature));
    let now = at(2030).as_secs() * 1_000;
    assert!(judge(&announce(now + 3_600_000, &der, &own)).is_ok());
    assert_eq!(judge(&announce(now + 2 * 86_400_000, &der, &own)), Err(AnnouncementError::Future));
    let (other, other_key) = good(&ca, Role::StorageNode);
    assert!(matches!(judge(&announce(7, &other, &other_key)), Err(AnnouncementError::Node { .. })));
    let (gateway, gateway_key) = good(&ca, Role::Gateway);
    assert!(matches!(judge(&announce(7, &gateway, &gateway_key)), Err(AnnouncementError::Refused(Refusal::Role { .. }))));
    for at in 0..signed.announcement.len() {
        let mut bytes = signed.announcement.to_vec();
        bytes[at] ^= 1;
        assert!(judge(&SignedAnnouncement { announcement: bytes.into(), ..signed.clone() }).is_err(), "byte {at} changed unseen");
    }
}
