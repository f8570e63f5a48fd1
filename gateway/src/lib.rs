//! The S3 front end, the write and the read pipeline, and what composes one process of all parts.
//!
//! Map: [`front`] sockets, guard and keys; `s3` one file an operation; [`path`] the data path with [`write`] and [`read`] top to
//! bottom; [`serve`] composes, [`boot`] lays out the data folder, [`config`] and [`cli`] say how, [`ops`] and [`admin`] for operators.
//!
//! Invariants: nothing reaches an operation without a caller whose signature holds; a 200 to a write means committed and synced;
//! a wrong byte is never sent.

pub mod copy;
pub mod keys;
pub mod path;
pub mod read;
pub mod write;
pub mod front;
