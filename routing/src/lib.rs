//! Where the nodes of a fleet are: discovery and liveness over libp2p's Kademlia. One [`Router`] a process.
//!
//! ```text
//! handshake.rs   Noise, then certificates: who is not of the fleet has no connection
//! membership.rs  who was let in, and every node's newest announcement      clock.rs   the time they are judged by
//! router.rs      the handle, and how a router is made                      table.rs   addresses as libp2p writes them
//! drive.rs       the task: Kademlia's events, lookups, announcing again    metric.rs
//! ```
//! A storage process is one peer, under the key of its first node, and announces all of its nodes: an announcement is signed by the node
//! it is of, so it does not matter who keeps it. A gateway asks and is never asked.
//!
//! Invariants: nothing is sent to or taken from a peer before its certificate holds; an announcement is believed only as
//! [`spine::fleet::announcement`] says; routing says where a node is, never whether it is a member: that is the root group's word.
//! Not here: shards (the data plane carries them), what a gateway does with an address.

mod clock;
mod drive;
mod handshake;
mod membership;
pub mod metric;
mod router;
mod table;
#[cfg(test)]
mod tests;

pub use membership::{Known, Stranger, peer_of};
pub use router::{Lookup, Own, Router, RoutingError, Settings, Snapshot};
