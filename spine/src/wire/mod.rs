//! Messages between processes. postcard encodes them; a field is only ever added at the end of an enum, never moved.

pub mod admission;
pub mod chunk;
pub mod cluster;
pub mod copy;
pub mod format;
pub mod namespace;
pub mod peer;
pub mod range;
pub mod root;
pub mod routing;
pub mod shard;

mod metadata;
pub use metadata::{Answer, Batch, Chain, Command, Metadata, MetadataError, Query, Refusal, Reply};
