//! The shard store: one [`Disk`] is one storage node.
//!
//! ```text
//! disk.rs      the node through all lives of its directory        mount.rs     one life: its threads
//! writer.rs    the one thread that writes (op.rs: what it is told) core.rs     what they share, and reading
//! stage.rs     a group's bytes on their way to the disk (aligned.rs: O_DIRECT)  catalog.rs   what is known of every name
//! segment.rs   the files          record.rs  their bytes          index.rs     LMDB   entry.rs  its values
//! recover.rs   opening            scan.rs    finding records      compact.rs   space back
//! identity.rs  whose disk         space.rs   how much is free     fsck.rs      reading a disk that nobody serves
//! node_key.rs  a fleet's disk: its key  serve/      answering gateways on other machines  scrub.rs  reading everything
//! ```
//! Invariants: what was acknowledged is synced in a segment that is still linked; segments are the truth, and the index can
//! be made from them at any time with the same result; nothing that counts is deleted before its copy is verified and
//! durable. A lost disk is a state, not a panic.

mod aligned;
mod catalog;
mod compact;
mod core;
mod disk;
mod entry;
mod fsck;
mod identity;
mod index;
mod metric;
mod mount;
mod node_key;
mod op;
mod record;
mod recover;
mod scan;
mod scrub;
mod segment;
pub mod serve;
mod settings;
mod space;
mod stage;
mod writer;

pub use compact::Compacted;
pub use disk::Disk;
pub use fsck::{FsckReport, fsck};
pub use node_key::NodeKey;
pub use settings::{OpenError, Settings};
