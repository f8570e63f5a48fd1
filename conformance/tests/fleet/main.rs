//! Promises of a fleet, with the real processes: a gateway, storage nodes on loopback, mutual TLS between them.

mod admission;
mod audits;
mod coming_back;
mod draining;
mod faults;
mod lies;
mod moving;
mod storing;
