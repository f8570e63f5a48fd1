//! What an operator asks of a running server: tenants, keys, disks, collector, fsck.
//!
//! `server.rs` answers on the operations listener under `/admin/` (`fleet.rs`: under `/admin/fleet/`, `metadata.rs`: under `/admin/metadata/`), `client.rs` is `breakwater admin`. JSON both ways; the token in
//! the data folder (0600) is what tells an operator from anybody else on the machine.

mod admission;
pub mod arguments;
mod audit;
pub mod client;
mod cluster_text;
pub mod fleet;
mod heat;
mod heat_tree;
mod map_text;
mod metadata;
mod ranges;
mod recovery;
mod roll;
pub mod server;
mod status;
