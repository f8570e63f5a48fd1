//! Stores one body.

use crate::path::DataPath;
use bytes::Bytes;
use futures::Stream;
use spine::id::{ChunkId, TenantId, VersionId};
use spine::wire::MetadataError;
use spine::wire::namespace::ChecksumAlgorithm;
use std::pin::Pin;

/// What a body delivers when it is not what the client promised, or the connection is gone.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// A body on its way in or out, in pieces of any size.
pub type BodyStream = Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>> + Send + Sync>>;

/// What to store, and how.
#[derive(Clone, Debug)]
pub struct BodyRequest {
    pub tenant: TenantId,
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

/// Bytes that are stored and durable but not visible. Dropped uncommitted, its intent is aborted in the background.
pub struct StoredBody {
    pub version: VersionId,
    pub size: u64,
    /// MD5 of the body. Zero where [`DataPath::reference`] made this: the source's ETag is known to the caller.
    pub md5: [u8; 16],
    /// As asked for in [`BodyRequest::checksums`], same order; raw big-endian bytes. Empty from [`DataPath::reference`].
    pub checksums: Vec<(ChecksumAlgorithm, Vec<u8>)>,
}

impl DataPath {
    /// Stores a body; nothing is visible until [`DataPath::commit`].
    pub async fn store(&self, request: BodyRequest, body: BodyStream) -> Result<StoredBody, WriteError> {
        let _ = (request, body);
        Err(WriteError::Unavailable { reason: "the write path is being built".into() })
    }
}
