//! A node's own word on where it is, signed by its key: what the routing layer carries from node to node.
//!
//! Whoever passes one on can neither change it nor make one up, and the certificate within says that the fleet admitted the node. What
//! a node may not say of itself (machine, zone, capacity) is in the certificate, which the CA signed.
//! Invariant: [`SignedAnnouncement::judge`] is the only way to an [`Announced`].
//! Not here: how one travels; whether it is the newest.

use super::admission::{Role, is_address};
use super::certificate::Certified;
use super::trust::{Refusal, Trust};
use crate::id::NodeId;
use crate::limit::CERTIFICATE_BYTES;
use bytes::Bytes;
use rustls::pki_types::{CertificateDer, UnixTime};
use serde::{Deserialize, Serialize};

/// What goes before the announcement in the signed message: no other signature of a node's key can be taken for one.
const CONTEXT: &[u8] = b"breakwater announcement 1\0";
/// Seconds that a node's clock may be ahead: what it announced under a wrong one is outdone by the right one after this.
const AHEAD: u64 = 86_400;
/// Bytes of the longest announcement as it travels: a certificate, two addresses, a signature.
pub const ANNOUNCEMENT_BYTES: usize = CERTIFICATE_BYTES + 1_024;

/// The announcement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// Milliseconds since the epoch, by the node's clock, at which it was made; the highest of a node's counts.
    pub version: u64,
    /// `host:port` of its data plane, now.
    pub address: String,
    /// `host:port` of the routing layer of the process that it is in.
    pub routing: String,
    /// The node's certificate, DER.
    pub certificate: Bytes,
}

/// The announcement with its signature, as it travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedAnnouncement {
    pub announcement: Bytes,
    /// Ed25519 by the node's key over [`message`].
    pub signature: Bytes,
}

/// An announcement that may be believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    pub version: u64,
    pub address: String,
    pub routing: String,
    /// What the CA says of the node.
    pub says: Certified,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnouncementError {
    #[error("not an announcement")]
    Form,
    #[error("the announcement is of a day to come")]
    Future,
    #[error("an address of the announcement is not host:port")]
    Address,
    #[error("the announcement is not signed by its node")]
    Signature,
    #[error("the announcement is another node's. found=`{found}`, expected=`{expected}`")]
    Node { found: NodeId, expected: NodeId },
    #[error("the announcing node is refused: {0}")]
    Refused(#[from] Refusal),
}

impl Announcement {
    /// The announcement's bytes: what is signed, after [`message`]'s beginning.
    pub fn encode(&self) -> Result<Bytes, AnnouncementError> {
        postcard::to_stdvec(self).map(Bytes::from).map_err(|_| AnnouncementError::Form)
    }
}

impl SignedAnnouncement {
    pub fn encode(&self) -> Result<Bytes, AnnouncementError> {
        postcard::to_stdvec(self).map(Bytes::from).map_err(|_| AnnouncementError::Form)
    }

    /// Reads it; nothing of it is believed yet.
    pub fn decode(bytes: &[u8]) -> Result<SignedAnnouncement, AnnouncementError> {
        if bytes.len() > ANNOUNCEMENT_BYTES {
            return Err(AnnouncementError::Form);
        }
        let (signed, rest) = postcard::take_from_bytes(bytes).map_err(|_| AnnouncementError::Form)?;
        if rest.is_empty() { Ok(signed) } else { Err(AnnouncementError::Form) }
    }

    /// What it says, if the fleet admitted the node and the node signed it. `node`: whose it must be.
    pub fn judge(&self, trust: &Trust, now: UnixTime, node: Option<NodeId>) -> Result<Announced, AnnouncementError> {
        let (said, rest): (Announcement, _) = postcard::take_from_bytes(&self.announcement).map_err(|_| AnnouncementError::Form)?;
        if !rest.is_empty() {
            return Err(AnnouncementError::Form);
        }
        if !is_address(&said.address) || !is_address(&said.routing) {
            return Err(AnnouncementError::Address);
        }
        if said.version / 1_000 > now.as_secs().saturating_add(AHEAD) {
            return Err(AnnouncementError::Future);
        }
        let says = trust.judge(&CertificateDer::from(said.certificate.as_ref()), &[], now, &[Role::StorageNode], None)?;
        if let Some(expected) = node.filter(|expected| *expected != says.node) {
            return Err(AnnouncementError::Node { found: says.node, expected });
        }
        if !trust.is_signed_by(says.node, &message(&self.announcement), &self.signature) {
            return Err(AnnouncementError::Signature);
        }
        Ok(Announced { version: said.version, address: said.address, routing: said.routing, says })
    }
}

/// What a node signs for an announcement that was encoded to `announcement`.
pub fn message(announcement: &[u8]) -> Vec<u8> {
    [CONTEXT, announcement].concat()
}
