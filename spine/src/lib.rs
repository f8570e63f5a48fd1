//! What two processes must agree on: ids, limits, erasure coding, placement, messages.
//!
//! Map: [`id`] names, [`limit`] caps, [`erasure`] Reed-Solomon, [`placement`] who holds what, [`wire`] messages,
//! [`fleet`] who is let in, [`audit`] proof of possession, [`map`] which group serves what, [`listing`] a page over many groups.
//!
//! Invariants: no I/O, no clock, no runtime in here; the same input gives the same output on every machine;
//! every encoding that leaves the process has a round-trip property test and golden bytes.

pub mod audit;
pub mod erasure;
pub mod fleet;
pub mod id;
pub mod limit;
pub mod listing;
pub mod map;
pub mod placement;
pub mod wire;
