//! The ordered tables a state machine lives on, as the machines see them.
//!
//! The machines know nothing of LMDB: what they need is this, and tests give them a `BTreeMap`.
//! Invariant: keys order as bytes; a write transaction is all or nothing; a reader sees one moment.

pub mod memory;

use spine::wire::MetadataError;

/// One ordered table. The discriminant is its place in the file and never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Space {
    /// Root group: tenants, keys, buckets, nodes, counters.
    Root,
    /// (bucket, key) -> head of the current version.
    Objects,
    /// version -> body and parts.
    Bodies,
    /// version -> manifest.
    Manifests,
    /// (bucket, key, upload) -> upload.
    Uploads,
    /// (upload, part number) -> part.
    Parts,
    /// version -> open intent.
    Intents,
    /// position -> version whose references are to be dropped.
    Outbox,
    /// chunk -> index record.
    Chunks,
    /// (chunk, version): a reference.
    References,
    /// (version, chunk): the same, the other way round.
    Holdings,
    /// Chunks by what is due on them: unreferenced, condemned, deleting, owed.
    Due,
    /// The applied log position and membership, counters.
    Meta,
    /// What changed in a range that moves, and what was imported of one.
    Changed,
}

impl Space {
    pub const ALL: [Space; 14] = [
        Space::Root,
        Space::Objects,
        Space::Bodies,
        Space::Manifests,
        Space::Uploads,
        Space::Parts,
        Space::Intents,
        Space::Outbox,
        Space::Chunks,
        Space::References,
        Space::Holdings,
        Space::Due,
        Space::Meta,
        Space::Changed,
    ];
}

/// A table failed: the disk, or bytes in it that do not decode. The process must stop serving from it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TableError {
    #[error("table storage failed. reason=`{0}`")]
    Storage(String),
    #[error("a table record does not decode. space=`{space:?}`, key=`{key}`")]
    Decode { space: Space, key: String },
}

impl From<TableError> for MetadataError {
    fn from(error: TableError) -> Self {
        MetadataError::Storage { reason: error.to_string() }
    }
}

/// A key and its value, borrowed from the table.
pub type Entry<'a> = (&'a [u8], &'a [u8]);

pub trait TableRead {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<&[u8]>, TableError>;

    /// A cursor before the first key that is not less than `from`.
    fn scan<'a>(&'a self, space: Space, from: &[u8]) -> Result<Box<dyn Scan + 'a>, TableError>;
}

pub trait Scan {
    /// The next entry in byte order of the keys.
    fn next(&mut self) -> Result<Option<Entry<'_>>, TableError>;

    /// Moves before the first key that is not less than `to`; forwards or backwards.
    fn seek(&mut self, to: &[u8]) -> Result<(), TableError>;
}

pub trait TableWrite: TableRead {
    fn put(&mut self, space: Space, key: &[u8], value: &[u8]) -> Result<(), TableError>;

    /// Whether the key was there.
    fn delete(&mut self, space: Space, key: &[u8]) -> Result<bool, TableError>;
}
