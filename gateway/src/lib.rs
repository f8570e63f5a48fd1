//! The S3 front end, the write and the read pipeline, and what composes one process of all parts.
//!
//! Map: [`front`] sockets, guard and keys; `s3` one file an operation; [`path`] the data path with [`write`] and [`read`] top to
//! bottom; [`serve`] composes, [`boot`] lays out the data folder, [`config`] and [`cli`] say how, [`ops`] and [`admin`] for operators.
//!
//! Invariants: nothing reaches an operation without a caller whose signature holds; a 200 to a write means committed and synced;
//! a wrong byte is never sent.

pub mod admin;
pub mod audit;
pub mod balance;
pub mod body;
pub mod boot;
pub mod budget;
pub mod census;
pub mod cli;
pub mod collect;
pub mod compress;
pub mod compute;
pub mod config;
pub mod copy;
pub mod core;
pub mod cut;
pub mod damage;
pub mod dedup;
pub mod digest;
pub mod durable;
pub mod encode;
pub mod fetch;
pub mod fleet;
pub mod front;
pub mod fsck;
pub mod govern;
pub mod intent;
pub mod keys;
pub mod known;
pub mod lanes;
pub mod lease;
pub mod metric;
pub mod nodes;
pub mod ops;
pub mod owe;
pub mod pace;
pub mod path;
pub mod progress;
pub mod read;
pub mod readers;
pub mod reconcile;
pub mod reindex;
pub mod remote;
pub mod roster;
pub mod s3;
pub mod seal;
pub mod serve;
pub mod snapshot;
pub mod store;
pub mod unmake;
pub mod write;
