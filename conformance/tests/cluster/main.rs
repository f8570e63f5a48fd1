//! Promises of a metadata cluster, with the real processes: metadata nodes, gateways over them, storage nodes.

mod alone;
mod copies;
mod hardship;
mod joining;
mod levelling;
mod listing;
mod replicas;
mod serving;
mod splitting;
mod status;
mod takeover;
mod upgrading;
