//! A new version's worth of references to bytes that are stored already.
//!
//! The new version reserves every chunk of the source under its own name, so that either can be deleted without the other.
//! Only as many chunks as one CopyObject or UploadPartCopy may have (5 GiB) go this way: they fit one manifest.
//! Not here: copies across tenants or of a part of a chunk, which are read and written.

use crate::body::{Name, ReadError, WriteError};
use crate::core::{Core, now};
use crate::dedup;
use crate::durable::{Durable, Pinned};
use crate::path::DataPath;
use crate::read::manifests;
use crate::seal;
use crate::write::{Content, StoredBody};
use spine::id::TenantId;
use spine::limit;
use spine::wire::chunk::{ChunkAnswer, ChunkQuery};
use spine::wire::namespace::{Body, ChunkRef, Piece};
use spine::wire::{Answer, Query};
use std::sync::Arc;

/// Chunks of the largest copy in the smallest chunks, and a short one more for each part it may come from.
const CHUNKS: usize = (limit::PUT_BYTES / limit::CHUNK_MIN_BYTES as u64 + limit::PUT_BYTES / limit::PART_MIN_BYTES) as usize + 1;
/// Manifests asked for at once.
const MANIFESTS: usize = 64;

impl DataPath {
    /// References to all of `source` under a new version, without moving a byte; `None` if it has to be read and written instead:
    /// too many chunks for one manifest, or a chunk that is gone (the source was replaced meanwhile).
    pub async fn reference(
        &self,
        tenant: TenantId,
        (from, source): (&Name, &Body),
        to: Arc<Name>,
    ) -> Result<Option<StoredBody>, WriteError> {
        let core = &self.core;
        let stored = |size, content, version| StoredBody { version, size, md5: [0; 16], checksums: Vec::new(), content };
        match source {
            Body::Inline { epoch, codec, id, len, sealed } => {
                // Whose bytes these are, only the keys can say.
                let keys = core.tenant_keys(tenant).await?;
                let opens = keys.epoch(*epoch).is_some_and(|keys| seal::open(keys, *id, *codec, *len, sealed.to_vec()).is_ok());
                Ok(if opens { Some(stored(u64::from(*len), Content::Inline(source.clone()), core.new_version()?)) } else { None })
            }
            Body::Pieces(pieces) => {
                // Held for as long as the references are not ours too.
                let Ok(_reading) = core.readers.enter(pieces.iter().map(|piece| piece.version).collect()) else { return Ok(None) };
                let Some(chunks) = chunks(core, from, pieces).await? else { return Ok(None) };
                if !belong_to(core, tenant, &chunks).await? {
                    return Ok(None);
                }
                let size = pieces.iter().map(|piece| piece.size).sum();
                let referenced = reference_all(core, to, chunks).await?;
                Ok(referenced.map(|(chunks, intent)| {
                    let version = intent.version;
                    stored(size, Content::Chunks { chunks, intent, uploads: Vec::new() }, version)
                }))
            }
        }
    }
}

/// The chunks of all pieces, in order; `None` if there are too many or a manifest is gone.
async fn chunks(core: &Core, name: &Name, pieces: &[Piece]) -> Result<Option<Vec<ChunkRef>>, WriteError> {
    let mut all = Vec::new();
    for batch in pieces.chunks(MANIFESTS) {
        let answered = manifests(core, name, batch.iter().map(|piece| piece.version).collect()).await.map_err(|error| match error {
            ReadError::Metadata(error) => WriteError::Metadata(error),
            other => WriteError::Unavailable { reason: other.to_string() },
        })?;
        for manifest in answered {
            let Some(manifest) = manifest else { return Ok(None) };
            all.extend_from_slice(&manifest.chunks);
            if all.len() > CHUNKS {
                return Ok(None);
            }
        }
    }
    Ok(Some(all))
}

/// Whether the chunks are the tenant's own. A version's chunks all have one owner: the first one tells.
async fn belong_to(core: &Core, tenant: TenantId, chunks: &[ChunkRef]) -> Result<bool, WriteError> {
    let Some(first) = chunks.first() else { return Ok(true) };
    match core.metadata.query(Query::Chunk(ChunkQuery::Records(vec![first.id]))).await? {
        Answer::Chunk(ChunkAnswer::Records(records)) => {
            let placement = records.into_iter().next().flatten().and_then(|record| record.placement);
            Ok(placement.is_some_and(|placement| placement.sealed.tenant == tenant))
        }
        other => Err(dedup::unexpected("Records", &other)),
    }
}

/// A reference to each, or `None`: then the write that began is aborted, and what it held is let go.
async fn reference_all(
    core: &Core,
    name: Arc<Name>,
    chunks: Vec<ChunkRef>,
) -> Result<Option<(Vec<Durable<ChunkRef>>, crate::intent::Intent)>, WriteError> {
    let intent = core.intents.begin(name).map_err(|e| WriteError::Unavailable { reason: e.to_string() })?;
    let mut durable = Vec::with_capacity(chunks.len());
    for batch in chunks.chunks(dedup::RESERVE_STEP) {
        let ids = batch.iter().map(|chunk| chunk.id).collect();
        let outcomes = dedup::reserve(&*core.metadata, &intent, ids, now()).await?;
        for (chunk, outcome) in batch.iter().zip(&outcomes) {
            match Pinned::by(outcome) {
                Some(pinned) => durable.push(Durable::pinned(*chunk, pinned)),
                None => return Ok(None),
            }
        }
    }
    Ok(Some((durable, intent)))
}
