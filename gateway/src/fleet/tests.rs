//! Admission over real sockets, on the real state machines.

use super::FleetError;
use super::apply::{self, ApplyError, Gate, NodeSigner};
use super::listener::{self, Admissions};
use super::table::{Fleet, Settings};
use super::token::Token;
use crate::boot::Home;
use crate::keys::{Keys, RootKey};
use crate::path::fake::FakeMetadata;
use crate::snapshot;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use spine::id::NodeId;
use spine::wire::Metadata;
use spine::wire::admission::{AdmissionRefusal, Applicant, JoinRequest, Place, message};
use spine::wire::root::FleetNodeState;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;

const HOUR: Duration = Duration::from_secs(3_600);

struct Key(Ed25519KeyPair);

impl Key {
    fn new() -> Key {
        Key(Ed25519KeyPair::generate().unwrap())
    }
}

impl NodeSigner for Key {
    fn node(&self) -> NodeId {
        NodeId(self.0.public_key().as_ref().try_into().unwrap())
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, String> {
        Ok(self.0.sign(message).as_ref().to_vec())
    }
}

/// A gateway's fleet with its listener.
struct Rig {
    fleet: Arc<Fleet>,
    metadata: Arc<FakeMetadata>,
    keys: Arc<Keys>,
    home: Home,
    settings: Settings,
    _dir: TempDir,
    _stop: watch::Sender<bool>,
}

async fn rig() -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::open(dir.path()).unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = Settings { admission_address: socket.local_addr().unwrap().to_string(), life: HOUR };
    let metadata = Arc::new(FakeMetadata::default());
    let keys = Arc::new(Keys::new(RootKey::generate().unwrap()));
    let fleet = Fleet::open(&home, keys.clone(), metadata.clone(), settings.clone()).await.unwrap();
    fleet.init().await.unwrap();
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(listener::serve(socket, fleet.clone(), stopped));
    Rig { fleet, metadata, keys, home, settings, _dir: dir, _stop: stop }
}

impl Rig {
    async fn token(&self) -> Token {
        self.fleet.invite(super::token::Door::StorageNode, 1, HOUR, None).await.unwrap().0
    }
}

fn place(machine: &str, port: u16) -> Place {
    Place { machine: machine.into(), zone: "z".into(), address: format!("127.0.0.1:{port}") }
}

fn refusal<T: std::fmt::Debug>(result: Result<T, ApplyError>) -> AdmissionRefusal {
    match result {
        Err(ApplyError::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_joined_node_renews_by_its_key_alone_and_cannot_move_to_another_machine() {
    let rig = rig().await;
    let token = rig.token().await;
    let (one, other) = (Key::new(), Key::new());
    let nodes = [(one, 1 << 30), (other, 1 << 30)];
    let admitted = apply::join(&token, &place("m", 7400), &nodes).await.unwrap();
    assert_eq!(admitted.certificates.len(), 2);
    let gate = Gate { address: token.address.clone(), fingerprint: token.fingerprint };
    apply::renew(&gate, &place("m", 7500), &nodes).await.unwrap();
    let known = rig.fleet.nodes().await.unwrap();
    assert!(known.len() == 2 && known.iter().all(|node| node.address == "127.0.0.1:7500" && node.state == FleetNodeState::Active));
    assert!(matches!(refusal(apply::renew(&gate, &place("m2", 7500), &nodes).await), AdmissionRefusal::Invalid { .. }));
    let stranger = [(Key::new(), 1 << 30)];
    assert!(matches!(refusal(apply::renew(&gate, &place("m", 7400), &stranger).await), AdmissionRefusal::Unknown { .. }));
    assert_eq!(refusal(apply::join(&token, &place("m", 7400), &stranger).await), AdmissionRefusal::InviteUsed);
    assert_eq!(rig.fleet.nodes().await.unwrap().len(), 2);
}

#[tokio::test]
async fn what_was_signed_for_another_connection_or_by_another_key_admits_nobody() {
    let rig = rig().await;
    let token = rig.token().await;
    let key = Key::new();
    let place = place("m", 7400);
    let request = |proof: Vec<u8>| JoinRequest {
        secret: token.secret.to_vec().into(),
        place: place.clone(),
        nodes: vec![Applicant { node: key.node(), capacity: 1, proof: proof.into() }],
    };
    let said = |binding: u8| message(&[binding; 32], key.node(), 1, &place);
    let refused = |proof| rig.fleet.join(request(proof), [1; 32]);
    assert!(matches!(refused(key.sign(&said(2)).unwrap()).await, Err(AdmissionRefusal::Proof { .. })));
    assert!(matches!(refused(Key::new().sign(&said(1)).unwrap()).await, Err(AdmissionRefusal::Proof { .. })));
    assert!(matches!(refused(Vec::new()).await, Err(AdmissionRefusal::Proof { .. })));
    assert!(rig.fleet.nodes().await.unwrap().is_empty());
    // None of these has used up the invitation.
    refused(key.sign(&said(1)).unwrap()).await.unwrap();
}

#[tokio::test]
async fn requests_of_a_wrong_form_are_refused_before_anything_is_signed() {
    let rig = rig().await;
    let token = rig.token().await;
    let invalid = |result| assert!(matches!(refusal(result), AdmissionRefusal::Invalid { .. }));
    invalid(apply::join(&token, &place("m", 7400), &[] as &[(Key, u64)]).await);
    invalid(apply::join(&token, &place("a/b", 7400), &[(Key::new(), 1)]).await);
    invalid(apply::join(&token, &place("m", 7400), &[(Key::new(), 0)]).await);
    let many: Vec<(Key, u64)> = (0..65).map(|_| (Key::new(), 1)).collect();
    invalid(apply::join(&token, &place("m", 7400), &many).await);
    let elsewhere = Place { address: "nowhere".into(), ..place("m", 7400) };
    invalid(apply::join(&token, &elsewhere, &[(Key::new(), 1)]).await);
    apply::join(&token, &place("m", 7400), &[(Key::new(), 1)]).await.unwrap();
}

#[tokio::test]
async fn a_join_whose_log_entry_has_no_answer_hands_out_no_certificate() {
    let rig = rig().await;
    let token = rig.token().await;
    let nodes = [(Key::new(), 1)];
    rig.metadata.lose_answers.store(1, Ordering::Relaxed);
    assert!(matches!(refusal(apply::join(&token, &place("m", 7400), &nodes).await), AdmissionRefusal::Unavailable { .. }));
    // The entry was applied: the invitation is used, and the node's key is enough from now on.
    assert_eq!(refusal(apply::join(&token, &place("m", 7400), &nodes).await), AdmissionRefusal::InviteUsed);
    let gate = Gate { address: token.address, fingerprint: token.fingerprint };
    apply::renew(&gate, &place("m", 7400), &nodes).await.unwrap();
}

#[tokio::test]
async fn a_fleet_opens_again_with_its_key_and_not_without() {
    let rig = rig().await;
    assert!(matches!(rig.fleet.init().await, Err(FleetError::Wrong(_))));
    let again = || Fleet::open(&rig.home, rig.keys.clone(), rig.metadata.clone(), rig.settings.clone());
    let opened = again().await.unwrap();
    assert_eq!(opened.live().unwrap().authority.certificate(), rig.fleet.live().unwrap().authority.certificate());
    let other = Arc::new(Keys::new(RootKey::generate().unwrap()));
    assert!(Fleet::open(&rig.home, other, rig.metadata.clone(), rig.settings.clone()).await.is_err());
    std::fs::remove_file(rig.fleet.key_file()).unwrap();
    let error = again().await.err().unwrap().to_string();
    assert!(error.contains("ca-key") && error.contains("copy"), "{error}");
}

#[tokio::test]
async fn who_was_retired_after_the_copy_stays_out_where_the_gateway_runs_on_and_the_next_list_reaches_everybody() {
    let rig = rig().await;
    let token = rig.token().await;
    let nodes = [(Key::new(), 1 << 30), (Key::new(), 1 << 30), (Key::new(), 1 << 30)];
    apply::join(&token, &place("m", 7400), &nodes).await.unwrap();
    let [before, since, after] = [0, 1, 2].map(|at: usize| nodes[at].0.node());
    rig.fleet.retire(before).await.unwrap();
    let (place, metadata): (TempDir, Arc<dyn Metadata>) = (tempfile::tempdir().unwrap(), rig.metadata.clone());
    let file = place.path().join("copy");
    snapshot::write(&metadata, rig.keys.clone(), &file).await.unwrap();
    rig.fleet.retire(since).await.unwrap();
    let trust = rig.fleet.live().unwrap().trust.clone();
    assert_eq!(trust.revocations().0, 2);

    let fresh = Arc::new(FakeMetadata::default());
    let target: Arc<dyn Metadata> = fresh.clone();
    snapshot::restore(&target, rig.keys.clone(), &file, None).await.unwrap();
    rig.metadata.go_on_as(&fresh);
    // The older list is looked at and changes nothing.
    rig.fleet.set_state(after, FleetNodeState::Draining).await.unwrap();
    assert_eq!(trust.revocations().0, 2);
    assert!(trust.is_revoked(before) && trust.is_revoked(since) && !trust.is_revoked(after));
    rig.fleet.retire(after).await.unwrap();
    assert!(trust.revocations().0 > 2, "a node that has the second list takes it");
    assert_eq!(rig.fleet.record().await.unwrap().unwrap().revocations_version, trust.revocations().0);
    assert!([before, since, after].into_iter().all(|node| trust.is_revoked(node)));
}
