//! A gateway's fleet: its CA, who is admitted, and the list of nodes that the data path works with.
//!
//! ```text
//! admin fleet init ---> authority.rs: CA key (fleet/ca-key, wrapped by the root key), certificate in the root group
//! admin fleet invite -> token.rs: gateway's address, CA's fingerprint, one-time secret
//! storage-node --join -> apply.rs --TLS, no client certificate--> listener.rs -> admit.rs: certificate, node in the root group
//! storage-node --request -> file -> offline.rs: `admin fleet admit` -> file -> storage-node --admitted
//! root group, every second -> table.rs: revocations, links, roster -> data path
//! ```
//! Invariants: the CA's key is on gateways' disks, wrapped, and nowhere else (`cluster.rs`: how it gets to several of them); a certificate is handed out only after the root group
//! has the node; who is retired stays retired; the root group alone says who belongs to the fleet, and what it says takes effect
//! without a restart.
//! Not here: judging certificates (`spine::fleet`), the data plane (`remote/`), `breakwater admin fleet` (`admin/fleet.rs`).

pub mod admit;
pub mod apply;
pub mod authority;
pub mod cluster;
pub mod enlist;
pub mod listener;
pub mod offline;
pub mod table;
#[cfg(test)]
mod tests;
pub mod token;
pub mod whereabouts;

use crate::boot::BootError;
use spine::wire::MetadataError;

/// Why something about the fleet was not done.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    #[error("there is no fleet; make one with `breakwater admin fleet init`")]
    NoFleet,
    #[error("{0}")]
    Wrong(String),
    #[error(transparent)]
    Boot(#[from] BootError),
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    #[error(transparent)]
    Authority(#[from] authority::AuthorityError),
    #[error("TLS of the fleet cannot be set up. reason=`{0}`")]
    Tls(String),
}
