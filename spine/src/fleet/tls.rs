//! The judgement as rustls wants it: configurations of both ends.
//!
//! ```text
//! server   SNI -> the certificate of that node (none: the handshake ends)     client -> Trust::judge(roles that may come)
//! client   its own certificate                                                server -> Trust::judge(the role that is meant, the key of the name)
//! ```
//! Identities can be replaced while connections run: a renewed certificate is shown from the next handshake on.
//! A server shows its certificate before the client has shown one, as TLS 1.3 has it, but only to whoever knows a node's key.

use super::admission::Role;
use super::certificate;
use super::name;
use super::trust::{Refusal, Trust};
use crate::id::NodeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError, ServerConfig, SignatureScheme};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

/// What is spoken inside.
pub const ALPN: &[u8] = b"http/1.1";

/// aws-lc-rs, TLS 1.3 suites alone, AES-128 first: what travels is sealed shards, so the faster suite guards enough.
pub(super) fn provider() -> Arc<CryptoProvider> {
    use aws_lc_rs::cipher_suite::{TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256};
    let cipher_suites = vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256];
    Arc::new(CryptoProvider { cipher_suites, ..aws_lc_rs::default_provider() })
}

/// A certificate and the key it is of.
#[derive(Clone, Debug)]
pub struct Identity {
    node: NodeId,
    key: Arc<CertifiedKey>,
}

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("the certificate does not read: {0}")]
    Certificate(#[from] certificate::CertificateError),
    #[error("the key does not serve: {0}")]
    Key(#[source] Error),
    #[error("the certificate is not of this key. certificate=`{certificate}`")]
    Mismatch { certificate: NodeId },
}

impl Identity {
    /// `certificate`: DER. `key`: PKCS#8 of the Ed25519 key that the certificate is of.
    pub fn new(certificate: &[u8], key: PrivateKeyDer<'static>) -> Result<Identity, IdentityError> {
        let said = certificate::read(certificate)?;
        let key = provider().key_provider.load_private_key(key).map_err(IdentityError::Key)?;
        let key = CertifiedKey::new(vec![CertificateDer::from(certificate.to_vec())], key);
        key.keys_match().map_err(|_| IdentityError::Mismatch { certificate: said.node })?;
        Ok(Identity { node: said.node, key: Arc::new(key) })
    }

    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The certificate, DER.
    pub fn certificate(&self) -> &[u8] {
        self.key.cert.first().map_or(&[], |der| der.as_ref())
    }
}

/// The nodes that one process serves, by their names.
#[derive(Debug, Default)]
pub struct Served {
    nodes: RwLock<HashMap<NodeId, Identity>>,
}

impl Served {
    /// Adds a node, or gives it a renewed certificate.
    pub fn set(&self, identity: Identity) {
        self.nodes.write().unwrap_or_else(PoisonError::into_inner).insert(identity.node, identity);
    }

    /// Takes a node's name away: no new handshake reaches it.
    pub fn remove(&self, node: NodeId) {
        self.nodes.write().unwrap_or_else(PoisonError::into_inner).remove(&node);
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let node = name::node_of(hello.server_name()?)?;
        self.nodes.read().unwrap_or_else(PoisonError::into_inner).get(&node).map(|identity| identity.key.clone())
    }
}

/// The identity that one process shows as a client.
#[derive(Debug)]
pub struct Shown {
    identity: RwLock<Identity>,
}

impl Shown {
    pub fn new(identity: Identity) -> Shown {
        Shown { identity: RwLock::new(identity) }
    }

    /// Gives it a renewed certificate.
    pub fn set(&self, identity: Identity) {
        *self.identity.write().unwrap_or_else(PoisonError::into_inner) = identity;
    }

    pub fn get(&self) -> Identity {
        self.identity.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.get().key)
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The data plane's server side: shows the node that was asked for, lets in peers of these roles.
pub fn server(trust: Arc<Trust>, served: Arc<Served>, roles: &'static [Role]) -> Result<Arc<ServerConfig>, Error> {
    let provider = trust.provider().clone();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(Clients { trust, roles }))
        .with_cert_resolver(served);
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The data plane's client side, for all nodes: the name that is connected to says which key must answer.
pub fn client(trust: Arc<Trust>, shown: Arc<Shown>) -> Result<Arc<ClientConfig>, Error> {
    client_of(trust, shown, &[Role::StorageNode])
}

/// The same for servers of these roles: what is meant for a metadata node is never said to a storage node.
pub fn client_of(trust: Arc<Trust>, shown: Arc<Shown>, roles: &'static [Role]) -> Result<Arc<ClientConfig>, Error> {
    let provider = trust.provider().clone();
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Servers { trust, roles }))
        .with_client_cert_resolver(shown);
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Why the handshake's other end was refused by this one, if that is what `error` says.
pub fn refusal(error: &Error) -> Option<&Refusal> {
    match error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(source))) => source.downcast_ref(),
        _ => None,
    }
}

/// The refusal as rustls carries it; the other end hears the alert `certificate_unknown` and no more.
fn refused(refusal: Refusal) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))))
}

fn tls12() -> Error {
    Error::PeerIncompatible(rustls::PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig)
}

/// Judges clients.
struct Clients {
    trust: Arc<Trust>,
    roles: &'static [Role],
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").field("trust", &self.trust).field("roles", &self.roles).finish()
    }
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.trust.judge(shown, more, now, self.roles, None).map(|_| ClientCertVerified::assertion()).map_err(refused)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.trust.provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// Judges servers.
#[derive(Debug)]
struct Servers {
    trust: Arc<Trust>,
    roles: &'static [Role],
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let node = name::node_of(&name.to_str()).ok_or_else(|| refused(Refusal::Nameless))?;
        let judged = self.trust.judge(shown, more, now, self.roles, Some(node));
        judged.map(|_| ServerCertVerified::assertion()).map_err(refused)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.trust.provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}
