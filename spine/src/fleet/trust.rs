//! The judgement over a peer: one place, both sides of a handshake.
//!
//! Invariant: [`Trust::judge`] is the only way to a [`Certified`] that may be believed; its checks run in the order chain, days,
//! admission, fleet, role, key, revocation, and the first that fails is the answer.

use super::admission::Role;
use super::certificate::{self, CertificateError, Certified};
use super::revocation::{self, RevocationError, Revocations, SignedRevocations};
use crate::id::{FleetId, NodeId};
use rustls::RootCertStore;
use rustls::SignatureScheme;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ParsedCertificate;
use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

/// Why a peer is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the peer was asked for by a name that is no node's")]
    Nameless,
    /// Self-signed, another CA's, an intermediate in between, forged.
    #[error("the certificate is not signed by the fleet's CA")]
    Issuer,
    #[error("the certificate has expired")]
    Expired,
    #[error("the certificate is not valid yet")]
    NotYet,
    #[error("the certificate does not read: {0}")]
    Malformed(#[from] CertificateError),
    #[error("the certificate is another fleet's. found=`{found}`")]
    Fleet { found: FleetId },
    #[error("the certificate's role is not wanted here. found=`{found}`")]
    Role { found: Role },
    #[error("the certificate is another node's. found=`{found}`, expected=`{expected}`")]
    Key { found: NodeId, expected: NodeId },
    #[error("the node was retired. node=`{node}`")]
    Revoked { node: NodeId },
}

/// The CA's own certificate cannot serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    #[error("the CA's certificate does not read: {0}")]
    Malformed(CertificateError),
    #[error("the CA's certificate cannot be a trust anchor")]
    Anchor,
}

/// Whom this process believes: one fleet's CA, less those it has retired.
pub struct Trust {
    fleet: FleetId,
    ca: CertificateDer<'static>,
    ca_key: [u8; 32],
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
    out: RwLock<Out>,
}

#[derive(Default)]
struct Out {
    version: u64,
    nodes: HashSet<NodeId>,
    signed: Option<SignedRevocations>,
}

impl Trust {
    /// Trust in the CA whose certificate (DER) is `ca`, for peers of `fleet` alone. Nobody is revoked yet.
    pub fn new(fleet: FleetId, ca: &[u8]) -> Result<Trust, TrustError> {
        let ca_key = certificate::key_of(ca).map_err(TrustError::Malformed)?;
        let ca = CertificateDer::from(ca.to_vec());
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone()).map_err(|_| TrustError::Anchor)?;
        Ok(Trust { fleet, ca, ca_key, roots, provider: super::tls::provider(), out: RwLock::default() })
    }

    pub fn fleet(&self) -> FleetId {
        self.fleet
    }

    /// The CA's certificate.
    pub fn ca(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    pub(super) fn provider(&self) -> &Arc<CryptoProvider> {
        &self.provider
    }

    /// Judges a peer by what it showed.
    ///
    /// - `now`: as rustls hands it in.
    /// - `roles`: which may come; `node`: which key was meant, if one was.
    ///
    /// That the peer has the key's private half is the handshake's to prove.
    pub fn judge(
        &self,
        shown: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        roles: &[Role],
        node: Option<NodeId>,
    ) -> Result<Certified, Refusal> {
        // Long ones are refused before anything reads them.
        if shown.len() > crate::limit::CERTIFICATE_BYTES {
            return Err(CertificateError::TooLong.into());
        }
        if !intermediates.is_empty() {
            return Err(Refusal::Issuer);
        }
        let parsed = ParsedCertificate::try_from(shown).map_err(|_| CertificateError::Form)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        // Certificates of the fleet are for both ends of a connection: one kind of check serves both.
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, &[], now, algorithms).map_err(|e| chain_refusal(&e))?;
        let said = certificate::read(shown)?;
        if said.admission.fleet != self.fleet {
            return Err(Refusal::Fleet { found: said.admission.fleet });
        }
        if !roles.contains(&said.admission.role) {
            return Err(Refusal::Role { found: said.admission.role });
        }
        if let Some(expected) = node.filter(|expected| *expected != said.node) {
            return Err(Refusal::Key { found: said.node, expected });
        }
        if self.is_revoked(said.node) {
            return Err(Refusal::Revoked { node: said.node });
        }
        Ok(said)
    }

    /// Whether a peer that was let in may stay: it may have been retired, or have run out, since.
    pub fn still_in(&self, peer: &Certified, now: UnixTime) -> Result<(), Refusal> {
        if self.is_revoked(peer.node) {
            return Err(Refusal::Revoked { node: peer.node });
        }
        if i64::try_from(now.as_secs()).is_ok_and(|now| now <= peer.not_after) { Ok(()) } else { Err(Refusal::Expired) }
    }

    pub fn is_revoked(&self, node: NodeId) -> bool {
        self.out.read().unwrap_or_else(PoisonError::into_inner).nodes.contains(&node)
    }

    /// Version of the list in force, 0 before the first, and the list.
    pub fn revocations(&self) -> (u64, Option<SignedRevocations>) {
        let out = self.out.read().unwrap_or_else(PoisonError::into_inner);
        (out.version, out.signed.clone())
    }

    /// Puts a list (as [`SignedRevocations::encode`] made it) in force. Returns whether it is news.
    ///
    /// # Errors
    /// What is not this CA's, not this fleet's, or older than the one in force changes nothing.
    pub fn revoke(&self, signed: &[u8]) -> Result<bool, RevocationError> {
        let (signed, list) = SignedRevocations::decode(signed)?;
        self.check_signature(&revocation::message(&signed.list), &signed.signature)?;
        let Revocations { fleet, version, nodes } = list;
        if fleet != self.fleet {
            return Err(RevocationError::Fleet { found: fleet });
        }
        let mut out = self.out.write().unwrap_or_else(PoisonError::into_inner);
        if version < out.version || version == 0 {
            return Err(RevocationError::Older { version, known: out.version });
        }
        if version == out.version {
            let same = out.signed.as_ref().is_some_and(|known| known.list == signed.list);
            return if same { Ok(false) } else { Err(RevocationError::Forked { version }) };
        }
        *out = Out { version, nodes: nodes.into_iter().collect(), signed: Some(signed) };
        Ok(true)
    }

    /// The same of the list that the metadata has: that may be none yet, or, where metadata came out of a copy, one from before the list in
    /// force, which then stays. Returns whether it is news.
    ///
    /// # Errors
    /// As [`Self::revoke`].
    pub fn follow(&self, signed: &[u8]) -> Result<bool, RevocationError> {
        if signed.is_empty() {
            return Ok(false);
        }
        match self.revoke(signed) {
            Err(RevocationError::Older { .. }) => Ok(false),
            other => other,
        }
    }

    /// Everybody on the list in force, in no order.
    pub fn revoked(&self) -> Vec<NodeId> {
        self.out.read().unwrap_or_else(PoisonError::into_inner).nodes.iter().copied().collect()
    }

    /// Whether `signature` is the Ed25519 signature over `message` by the key that `node` is.
    pub fn is_signed_by(&self, node: NodeId, message: &[u8], signature: &[u8]) -> bool {
        self.verify(&node.0, message, signature)
    }

    fn check_signature(&self, message: &[u8], signature: &[u8]) -> Result<(), RevocationError> {
        if self.verify(&self.ca_key, message, signature) { Ok(()) } else { Err(RevocationError::Signature) }
    }

    fn verify(&self, key: &[u8; 32], message: &[u8], signature: &[u8]) -> bool {
        let mapping = self.provider.signature_verification_algorithms.mapping;
        let ed25519 = mapping.iter().find(|(scheme, _)| *scheme == SignatureScheme::ED25519).and_then(|(_, all)| all.first());
        ed25519.is_some_and(|ed25519| ed25519.verify_signature(key, message, signature).is_ok())
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("fleet", &self.fleet).finish_non_exhaustive()
    }
}

fn chain_refusal(error: &rustls::Error) -> Refusal {
    use rustls::CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    match error {
        rustls::Error::InvalidCertificate(Expired | ExpiredContext { .. }) => Refusal::Expired,
        rustls::Error::InvalidCertificate(NotValidYet | NotValidYetContext { .. }) => Refusal::NotYet,
        _ => Refusal::Issuer,
    }
}
