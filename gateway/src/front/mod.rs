//! What stands between a socket and the S3 operations.
//!
//! `listen.rs` accepts and bounds connections, `guard/` judges a request before s3s sees it, `body.rs` watches its body,
//! `auth.rs` knows who may ask, `service.rs` puts them in order, `observe.rs` measures, `answer.rs` shapes what goes back.
//!
//! Invariants: nothing reaches an operation without a [`auth::Caller`]; a body that breaks its promises ends in an error, never
//! in a clean end; every answer carries a request id; nothing here waits without a deadline.
//! Not here: what the operations do (`s3/`), who owns which bucket (`s3/` asks).

pub mod answer;
pub mod auth;
pub mod body;
pub mod document;
pub mod fault;
pub mod framing;
pub mod guard;
pub mod host;
pub mod listen;
pub mod metric;
pub mod observe;
pub mod query;
pub mod service;
pub mod stall;
pub mod tls;
pub mod xml;
