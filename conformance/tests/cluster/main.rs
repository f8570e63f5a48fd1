//! Promises of a metadata cluster, with the real processes: metadata nodes, gateways over them, storage nodes.

mod joining;
mod levelling;
mod serving;
mod splitting;
mod takeover;
