//! Promises of a metadata cluster, with the real processes: metadata nodes, gateways over them, storage nodes.

mod copies;
mod joining;
mod serving;
mod splitting;
mod takeover;
