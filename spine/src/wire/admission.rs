//! What a storage process or a metadata process says to a gateway's admission listener, and hears.
//!
//! ```text
//! POST /1/join    JoinRequest   ->  200 Admitted | 403 AdmissionRefusal | 503 AdmissionRefusal
//! POST /1/renew   RenewRequest  ->  the same
//! POST /1/enlist        JoinRequest   ->  200 Enlisted | as above       a metadata node: one applicant, of no capacity
//! POST /1/enlist/renew  RenewRequest  ->  the same
//! ```
//! TLS 1.3; the server shows a certificate of the fleet's CA, the client shows none: it has none yet. What a node asks for it signs
//! with its key, together with a secret of this very connection ([`EXPORTER`]), so that nothing heard elsewhere can be said again.

use crate::id::{FleetId, NodeId};
use crate::wire::cluster::Endpoint;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub const JOIN: &str = "/1/join";
pub const RENEW: &str = "/1/renew";
pub const ENLIST: &str = "/1/enlist";
pub const ENLIST_RENEW: &str = "/1/enlist/renew";
/// The name in the listener's certificate.
pub const SERVER_NAME: &str = "admission.breakwater";
/// Label of the 32 bytes that both ends export from the TLS connection (RFC 8446, 7.5), without a context.
pub const EXPORTER: &[u8] = b"EXPORTER-breakwater-admission-1";
/// Bytes of an invitation's secret.
pub const SECRET_BYTES: usize = 32;
/// Most nodes of one request: disks of one machine.
pub const NODES: usize = 64;
/// Longest request: 64 nodes take 8 KiB.
pub const REQUEST_BYTES: usize = 32 << 10;
/// Longest answer: 64 certificates and the longest revocation list.
pub const ANSWER_BYTES: usize = 3 << 20;

/// In front of what a node signs.
const CONTEXT: &[u8] = b"breakwater admission 1\0";

/// What is the same for all nodes of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub machine: String,
    pub zone: String,
    /// Where the data plane listens: `host:port`.
    pub address: String,
}

/// One node that asks for a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applicant {
    pub node: NodeId,
    /// Bytes it offers.
    pub capacity: u64,
    /// Ed25519 over [`message`], 64 bytes.
    pub proof: Bytes,
}

/// All nodes of a process at once; all are admitted or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The invitation's, [`SECRET_BYTES`].
    pub secret: Bytes,
    pub place: Place,
    /// 1 to [`NODES`].
    pub nodes: Vec<Applicant>,
}

/// Nodes that were admitted before ask for a new certificate; all get it or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewRequest {
    pub place: Place,
    /// 1 to [`NODES`].
    pub nodes: Vec<Applicant>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admitted {
    pub fleet: FleetId,
    /// The CA's certificate, DER.
    pub authority: Bytes,
    /// One a node, in the request's order, DER.
    pub certificates: Vec<Bytes>,
    /// The newest revocation list as it travels; empty: there is none yet.
    pub revocations: Bytes,
}

/// A metadata node's papers, and whom it joins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enlisted {
    pub admitted: Admitted,
    /// Metadata nodes that were admitted and not removed, the new one among them.
    pub members: Vec<Endpoint>,
}

/// Why nobody was admitted. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum AdmissionRefusal {
    #[error("the fleet knows no such invitation")]
    NoSuchInvite,
    #[error("the invitation has expired")]
    InviteExpired,
    #[error("the invitation has been used")]
    InviteUsed,
    #[error("the node was never admitted; join with an invitation. node=`{node}`")]
    Unknown { node: NodeId },
    #[error("the node is retired. node=`{node}`")]
    Retired { node: NodeId },
    #[error("the node's key did not sign this request. node=`{node}`")]
    Proof { node: NodeId },
    #[error("the request is not one. what=`{what}`")]
    Invalid { what: String },
    /// Ask again later.
    #[error("the gateway cannot admit now. reason=`{reason}`")]
    Unavailable { reason: String },
}

/// What a node signs: the connection, itself and all that it asks for.
///
/// - `binding`: what both ends exported from their connection.
pub fn message(binding: &[u8; 32], node: NodeId, capacity: u64, place: &Place) -> Vec<u8> {
    let mut out = [CONTEXT, binding, &node.0, &capacity.to_be_bytes()].concat();
    for text in [&place.machine, &place.zone, &place.address] {
        out.extend_from_slice(&(text.len() as u64).to_be_bytes());
        out.extend_from_slice(text.as_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_signed_differs_in_every_field() {
        let place =
            |machine: &str, zone: &str, address: &str| Place { machine: machine.into(), zone: zone.into(), address: address.into() };
        let base = place("ab", "c", "d:1");
        let node = NodeId([1; 32]);
        let messages = [
            message(&[0; 32], node, 1, &base),
            message(&[1; 32], node, 1, &base),
            message(&[0; 32], NodeId([2; 32]), 1, &base),
            message(&[0; 32], node, 2, &base),
            message(&[0; 32], node, 1, &place("a", "bc", "d:1")),
            message(&[0; 32], node, 1, &place("ab", "c", "d:2")),
        ];
        let distinct: std::collections::HashSet<&Vec<u8>> = messages.iter().collect();
        assert_eq!(distinct.len(), messages.len());
    }
}
