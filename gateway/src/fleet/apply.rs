//! The node's side of admission: asks a gateway to join or to renew, and believes the answer only after judging it.
//!
//! Invariant: the gateway is believed by the fingerprint of its CA alone, which came with the invitation; before its certificate holds,
//! not even the invitation's secret is sent.
//! Not here: where what was granted is kept (`serve/storage/`).

use super::authority::fingerprint;
use super::token::Token;
use crate::core::now;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use serde::Serialize;
use serde::de::DeserializeOwned;
use spine::fleet::admission::Role;
use spine::fleet::trust::Trust;
use spine::id::NodeId;
use spine::wire::admission::{
    self as wire, ANSWER_BYTES, AdmissionRefusal, Admitted, Applicant, ENLIST, ENLIST_RENEW, EXPORTER, Enlisted, JOIN, JoinRequest, Place,
    RENEW, RenewRequest, SERVER_NAME,
};
use spine::wire::peer;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A whole admission, connecting included.
const ASK_TIME: Duration = Duration::from_secs(15);
/// Most metadata nodes that an answer may name.
const ENLISTED: usize = 1_024;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Ask again later.
    #[error("the gateway does not answer. address=`{address}`, reason=`{reason}`")]
    Silent { address: String, reason: String },
    /// What answers at the address is not a gateway of this fleet.
    #[error("what answers is not the fleet's gateway. address=`{address}`, reason=`{reason}`")]
    Stranger { address: String, reason: String },
    #[error("{0}")]
    Refused(#[from] AdmissionRefusal),
    /// The gateway's answer does not hold.
    #[error("the gateway's answer does not hold. what=`{what}`")]
    Wrong { what: String },
}

/// A node's key, as far as admission needs it.
pub trait NodeSigner: Sync {
    /// The node that the key is.
    fn node(&self) -> NodeId;
    /// Ed25519 over `message`, 64 bytes; or why not.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, String>;
}

/// Where a fleet admits, and by what it is known.
#[derive(Clone, Debug)]
pub struct Gate {
    pub address: String,
    /// SHA-256 of the CA's certificate.
    pub fingerprint: [u8; 32],
}

/// Joins all of `nodes` (each with the bytes it offers) with one use of the invitation.
pub async fn join<K: NodeSigner>(token: &Token, place: &Place, nodes: &[(K, u64)]) -> Result<Admitted, ApplyError> {
    let gate = Gate { address: token.address.clone(), fingerprint: token.fingerprint };
    let secret = Bytes::copy_from_slice(&token.secret);
    let request = |nodes| JoinRequest { secret, place: place.clone(), nodes };
    let admitted = ask(&gate, JOIN, place, nodes, request).await?;
    judge(&gate, Role::StorageNode, nodes, &admitted)?;
    Ok(admitted)
}

/// Joins one metadata node with an invitation for such.
pub async fn enlist<K: NodeSigner + Clone>(token: &Token, place: &Place, key: &K) -> Result<Enlisted, ApplyError> {
    let gate = Gate { address: token.address.clone(), fingerprint: token.fingerprint };
    let (secret, nodes) = (Bytes::copy_from_slice(&token.secret), [(key.clone(), 0)]);
    let request = |nodes| JoinRequest { secret, place: place.clone(), nodes };
    let enlisted = ask(&gate, ENLIST, place, &nodes, request).await?;
    believe(&gate, &nodes, enlisted)
}

/// A new certificate for a metadata node that was admitted before.
pub async fn renew_enlisted<K: NodeSigner + Clone>(gate: &Gate, place: &Place, key: &K) -> Result<Enlisted, ApplyError> {
    let nodes = [(key.clone(), 0)];
    let enlisted = ask(gate, ENLIST_RENEW, place, &nodes, |nodes| RenewRequest { place: place.clone(), nodes }).await?;
    believe(gate, &nodes, enlisted)
}

fn believe<K: NodeSigner>(gate: &Gate, nodes: &[(K, u64)], enlisted: Enlisted) -> Result<Enlisted, ApplyError> {
    judge(gate, Role::Metadata, nodes, &enlisted.admitted)?;
    if enlisted.members.len() > ENLISTED {
        return Err(ApplyError::Wrong { what: format!("{} metadata nodes", enlisted.members.len()) });
    }
    Ok(enlisted)
}

/// New certificates for nodes that were admitted before.
pub async fn renew<K: NodeSigner>(gate: &Gate, place: &Place, nodes: &[(K, u64)]) -> Result<Admitted, ApplyError> {
    let admitted = ask(gate, RENEW, place, nodes, |nodes| RenewRequest { place: place.clone(), nodes }).await?;
    judge(gate, Role::StorageNode, nodes, &admitted)?;
    Ok(admitted)
}

async fn ask<K: NodeSigner, R: Serialize, T: DeserializeOwned>(
    gate: &Gate,
    path: &str,
    place: &Place,
    nodes: &[(K, u64)],
    request: impl FnOnce(Vec<Applicant>) -> R,
) -> Result<T, ApplyError> {
    let silent = |reason: String| ApplyError::Silent { address: gate.address.clone(), reason };
    let asked = tokio::time::timeout(ASK_TIME, converse(gate, path, place, nodes, request)).await;
    asked.map_err(|_| silent("it took too long".into()))?
}

async fn converse<K: NodeSigner, R: Serialize, T: DeserializeOwned>(
    gate: &Gate,
    path: &str,
    place: &Place,
    nodes: &[(K, u64)],
    request: impl FnOnce(Vec<Applicant>) -> R,
) -> Result<T, ApplyError> {
    let address = || gate.address.clone();
    let silent = |reason: String| ApplyError::Silent { address: address(), reason };
    let wrong = |what: String| ApplyError::Wrong { what };
    let stream = TcpStream::connect(&gate.address).await.map_err(|error| silent(error.to_string()))?;
    let name = ServerName::try_from(SERVER_NAME).map_err(|error| wrong(error.to_string()))?;
    let connector = TlsConnector::from(client(gate.fingerprint).map_err(|error| wrong(error.to_string()))?);
    let stream = connector.connect(name, stream).await.map_err(|error| match rustls_error(&error) {
        Some(Error::InvalidCertificate(_)) => ApplyError::Stranger { address: address(), reason: error.to_string() },
        _ => silent(error.to_string()),
    })?;
    let binding = stream.get_ref().1.export_keying_material([0; 32], EXPORTER, None).map_err(|error| wrong(error.to_string()))?;
    let mut applicants = Vec::with_capacity(nodes.len());
    for (key, capacity) in nodes {
        let proof = key.sign(&wire::message(&binding, key.node(), *capacity, place)).map_err(wrong)?;
        applicants.push(Applicant { node: key.node(), capacity: *capacity, proof: proof.into() });
    }
    let body = peer::encode(&request(applicants));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| silent(error.to_string()))?;
    let running = tokio::spawn(connection);
    let asked = Request::builder().method(Method::POST).uri(path).header(http::header::HOST, SERVER_NAME).body(Full::new(body));
    let answered = sender.send_request(asked.map_err(|error| wrong(error.to_string()))?).await;
    let answer = match answered {
        Ok(answer) => {
            let (head, body) = answer.into_parts();
            Limited::new(body, ANSWER_BYTES).collect().await.map(|body| (head.status, body.to_bytes())).map_err(|e| silent(e.to_string()))
        }
        Err(error) => Err(silent(error.to_string())),
    };
    running.abort();
    let (status, body) = answer?;
    let unread = || wrong(format!("an answer of status {status} that does not read"));
    match status {
        StatusCode::OK => peer::decode(&body).map_err(|_| unread()),
        _ => Err(ApplyError::Refused(peer::decode(&body).map_err(|_| unread())?)),
    }
}

/// Every certificate must be what was asked for, by the CA that was meant.
fn judge<K: NodeSigner>(gate: &Gate, role: Role, nodes: &[(K, u64)], admitted: &Admitted) -> Result<(), ApplyError> {
    let wrong = |what: String| ApplyError::Wrong { what };
    if fingerprint(&admitted.authority) != gate.fingerprint {
        return Err(wrong("another CA".into()));
    }
    if admitted.certificates.len() != nodes.len() {
        return Err(wrong("another number of certificates".into()));
    }
    let trust = Trust::new(admitted.fleet, &admitted.authority).map_err(|error| wrong(error.to_string()))?;
    let time = UnixTime::since_unix_epoch(Duration::from_millis(now().0));
    for ((key, _), certificate) in nodes.iter().zip(&admitted.certificates) {
        let der = CertificateDer::from(certificate.as_ref());
        trust.judge(&der, &[], time, &[role], Some(key.node())).map_err(|refusal| wrong(refusal.to_string()))?;
    }
    if !admitted.revocations.is_empty() {
        trust.revoke(&admitted.revocations).map_err(|error| wrong(error.to_string()))?;
    }
    Ok(())
}

fn rustls_error(error: &std::io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

fn client(fingerprint: [u8; 32]) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(Pinned { fingerprint, provider: provider.clone() });
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13])?;
    Ok(Arc::new(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()))
}

/// Believes a chain of two whose second is the CA of this fingerprint.
#[derive(Debug)]
struct Pinned {
    fingerprint: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let [authority] = more else { return Err(CertificateError::UnknownIssuer.into()) };
        if fingerprint(authority) != self.fingerprint {
            return Err(CertificateError::UnknownIssuer.into());
        }
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let parsed = ParsedCertificate::try_from(shown)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &[], now, algorithms)?;
        verify_server_name(&parsed, name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(rustls::PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}
