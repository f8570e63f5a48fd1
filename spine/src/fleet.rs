//! Who is let in: the fleet's words for trust.
//!
//! ```text
//! CA (Ed25519) --signs--> certificate: subject key = the node's Ed25519 key = its NodeId
//!                                      one SAN URI   = its admission (fleet, role, machine, zone, capacity, address)
//!              --signs--> revocations: nodes that are out for good, under a version that only grows
//! handshake:   client names the node it wants by SNI, server answers with that node's certificate, each judges the other
//! ```
//! Map: [`admission`] what a certificate grants, [`announcement`] a node's word on where it is, [`certificate`] reading one, [`name`] a
//! node's name in TLS, [`revocation`] who is out, [`trust`] the judgement, [`tls`] it as rustls wants it.
//!
//! Invariants: nobody is let in by less than: signed by this CA alone, in its days, this fleet, a role that is wanted, not revoked,
//! the key that was meant. TLS 1.3 only, and nothing is resumed: a ticket would carry a judgement past its revocation.
//! Not here: making certificates, files, sockets, the clock (rustls hands the time in).

pub mod admission;
pub mod announcement;
pub mod certificate;
pub mod name;
pub mod revocation;
pub mod tls;
pub mod trust;

#[cfg(test)]
mod tests;
