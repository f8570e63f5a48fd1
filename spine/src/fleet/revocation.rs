//! Who is out for good: a list of nodes that the CA signs whole, under a version that only grows.
//!
//! ```text
//! signed    "breakwater revocations 1\0", list
//! list      postcard of (fleet, version, nodes ascending)
//! on wire   postcard of (list, 64 bytes of Ed25519 signature)
//! ```
//! By node, not by serial number: a renewal must not let a retired node in again. Why not an X.509 CRL: it has no fleet and its
//! number is an option, and both are what a list is held to here.

use crate::id::{FleetId, NodeId};
use crate::limit::FLEET_NODES;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// In front of what is signed, so that no other signature of the CA can be taken for one.
const CONTEXT: &[u8] = b"breakwater revocations 1\0";
/// Bytes of the longest list as it travels.
pub const SIGNED_BYTES: usize = FLEET_NODES * 32 + 256;

/// The list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocations {
    pub fleet: FleetId,
    /// From 1; each change makes the next.
    pub version: u64,
    /// Ascending, each once, at most [`FLEET_NODES`].
    pub nodes: Vec<NodeId>,
}

/// The list with its signature, as it travels and lies on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedRevocations {
    pub list: Bytes,
    /// Ed25519 over [`message`].
    pub signature: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RevocationError {
    #[error("not a revocation list")]
    Form,
    #[error("the revocation list is not signed by the fleet's CA")]
    Signature,
    #[error("the revocation list is another fleet's. found=`{found}`")]
    Fleet { found: FleetId },
    #[error("the revocation list is older than the known one. version=`{version}`, known=`{known}`")]
    Older { version: u64, known: u64 },
    /// Two lists under one version: the CA has been used from two places.
    #[error("there are two revocation lists of one version. version=`{version}`")]
    Forked { version: u64 },
}

impl Revocations {
    /// The list's bytes.
    ///
    /// # Errors
    /// [`RevocationError::Form`] if the nodes are too many or not ascending.
    pub fn encode(&self) -> Result<Bytes, RevocationError> {
        self.check()?;
        postcard::to_stdvec(self).map(Bytes::from).map_err(|_| RevocationError::Form)
    }

    fn decode(list: &[u8]) -> Result<Revocations, RevocationError> {
        let (read, rest): (Revocations, _) = postcard::take_from_bytes(list).map_err(|_| RevocationError::Form)?;
        read.check()?;
        if rest.is_empty() { Ok(read) } else { Err(RevocationError::Form) }
    }

    fn check(&self) -> Result<(), RevocationError> {
        let ascending = self.nodes.windows(2).all(|pair| pair[0] < pair[1]);
        if ascending && self.nodes.len() <= FLEET_NODES { Ok(()) } else { Err(RevocationError::Form) }
    }
}

impl SignedRevocations {
    pub fn encode(&self) -> Result<Bytes, RevocationError> {
        postcard::to_stdvec(self).map(Bytes::from).map_err(|_| RevocationError::Form)
    }

    /// Reads both; the signature is not looked at yet.
    pub fn decode(bytes: &[u8]) -> Result<(SignedRevocations, Revocations), RevocationError> {
        if bytes.len() > SIGNED_BYTES {
            return Err(RevocationError::Form);
        }
        let (signed, rest): (SignedRevocations, _) = postcard::take_from_bytes(bytes).map_err(|_| RevocationError::Form)?;
        if !rest.is_empty() {
            return Err(RevocationError::Form);
        }
        let list = Revocations::decode(&signed.list)?;
        Ok((signed, list))
    }
}

/// What the CA signs for a list that was encoded to `list`.
pub fn message(list: &[u8]) -> Vec<u8> {
    [CONTEXT, list].concat()
}
