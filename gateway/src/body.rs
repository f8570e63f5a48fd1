//! A body on its way in or out: what it is asked for, and how it fails.
//!
//! The words that every step of the data path shares; the S3 operations turn the failures into S3's.

use bytes::Bytes;
use futures::Stream;
use spine::id::{BucketId, ChunkId, TenantId, VersionId};
use spine::wire::MetadataError;
use spine::wire::namespace::ChecksumAlgorithm;
use std::pin::Pin;
use std::sync::Arc;

/// What a body delivers when it is not what the client promised, or the connection is gone.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// A body on its way in or out, in pieces of any size.
pub type BodyStream = Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>> + Send + Sync>>;

/// Where an object is or is to be, which says what group has its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    pub bucket: BucketId,
    pub key: String,
}

impl Name {
    pub fn new(bucket: BucketId, key: &str) -> Arc<Name> {
        Arc::new(Name { bucket, key: key.to_owned() })
    }
}

/// What to store, and how.
#[derive(Clone, Debug)]
pub struct BodyRequest {
    pub tenant: TenantId,
    /// The object, or the one that it is to be a part of.
    pub name: Arc<Name>,
    /// The bucket's chunk size, bytes.
    pub chunk_bytes: u32,
    /// Content-Length (decoded), where the client gave one.
    pub declared_len: Option<u64>,
    /// More bytes than this is [`WriteError::TooLarge`].
    pub max_len: u64,
    /// To compute beside MD5.
    pub checksums: Vec<ChecksumAlgorithm>,
    /// Small bodies may live in the version's record. False for parts.
    pub inline_allowed: bool,
}

/// Why a body was not stored. Nothing of it is visible.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The body's own stream failed: a bad signature, a wrong digest, a lost connection. What the front end put in comes back.
    #[error("the body failed: {0}")]
    Body(BodyError),
    #[error("the body is longer than it may be. max_bytes=`{max}`")]
    TooLarge { max: u64 },
    /// The body ended early, or went on after its declared end.
    #[error("the body is not as long as declared. declared=`{declared}`, got=`{got}`")]
    Short { declared: u64, got: u64 },
    /// Fewer nodes synced a shard than the write quorum. Retry later.
    #[error("write quorum not reached. chunk=`{chunk}`, acked=`{acked}`, quorum=`{quorum}`")]
    QuorumNotReached { chunk: ChunkId, acked: u8, quorum: u8 },
    /// The write's intent was closed meanwhile, by the reaper or a shutdown. Retry.
    #[error("the write was aborted meanwhile. version=`{version}`")]
    Aborted { version: VersionId },
    /// Shutting down or out of a resource. Retry.
    #[error("the data path is unavailable. reason=`{reason}`")]
    Unavailable { reason: String },
    #[error("{0}")]
    Metadata(#[from] MetadataError),
}

impl From<crate::compute::Lost> for WriteError {
    fn from(lost: crate::compute::Lost) -> Self {
        WriteError::Unavailable { reason: lost.to_string() }
    }
}

/// Why a body cannot be read now. None of these says that the object is not there.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Fewer than `k` good shards can be reached. Retry later: 503.
    #[error("a chunk cannot be read. chunk=`{chunk}`, shards=`{found}`, needed=`{needed}`")]
    Unreadable { chunk: ChunkId, found: u8, needed: u8 },
    /// The version was replaced and collected since the caller resolved it: resolve again, once. If it is still current: 500.
    #[error("the version's bytes are gone. version=`{version}`")]
    Gone { version: VersionId },
    /// What the shards decode to is not what was stored, though every shard matches its root: 500.
    #[error("a chunk is damaged. chunk=`{chunk}`, what=`{what}`")]
    Damaged { chunk: ChunkId, what: &'static str },
    /// The range is not within the body: a bug of the caller.
    #[error("the range is outside the body. start=`{start}`, end=`{end}`, size=`{size}`")]
    Range { start: u64, end: u64, size: u64 },
    /// The tenant's keys cannot be opened, or shutting down: 503.
    #[error("the data path is unavailable. reason=`{reason}`")]
    Unavailable { reason: String },
    #[error("{0}")]
    Metadata(#[from] MetadataError),
}
