//! Stores one body. A PUT reads top to bottom here; each step is a file of its own.
//!
//! ```text
//! body -> cut -> per chunk, a window of them side by side:
//!                  digest (in the body's order)
//!                  ChunkId -> reserve (dedup) -> hit: pinned
//!                                             -> upload: compress, seal, encode, root -> store to quorum
//!      -> now and then: confirm what was stored                  (the last of it rides in the commit's own chain)
//! small body: one sealed message inside the version's record, nothing else
//! ```
//! Invariants: nothing is visible before [`DataPath::commit`]; commit is given [`Durable`] chunks only; a body holds memory for
//! at most `window` chunks; dropping the future or the [`StoredBody`] aborts the write.
//! Not here: names, conditions and ETags (the S3 operations).

use crate::body::{BodyRequest, BodyStream, Name, WriteError};
use crate::core::{Core, now};
use crate::cut::{Chunk, Cutter};
use crate::dedup::{Flight, Reservations};
use crate::digest::Digester;
use crate::durable::{Durable, Pinned};
use crate::encode;
use crate::govern;
use crate::intent::{CONFIRM_STEP, Intent};
use crate::keys::EpochKeys;
use crate::metric::{DEDUP_HITS, DEDUP_SAVED, INLINE_BODIES, Stage};
use crate::path::DataPath;
use crate::seal;
use crate::store::{self, Target};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use spine::id::{ChunkId, VersionId};
use spine::limit;
use spine::wire::chunk::{Confirmation, ReserveOutcome};
use spine::wire::namespace::{Body, ChecksumAlgorithm, ChunkRef, Manifest, Piece};
use spine::wire::{Batch, Chain, Reply};
use std::collections::HashSet;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Up to this, hashing takes some ten microseconds.
const NAMED_HERE: usize = 96 << 10;

/// Bytes that are stored and durable but not visible. Dropped uncommitted, its intent is aborted in the background.
pub struct StoredBody {
    pub version: VersionId,
    pub size: u64,
    /// MD5 of the body. Zero where [`DataPath::reference`] made this: the source's ETag is known to the caller.
    pub md5: [u8; 16],
    /// One for each that [`BodyRequest::checksums`] asked for; raw big-endian bytes. Empty from [`DataPath::reference`].
    pub checksums: Vec<(ChecksumAlgorithm, Vec<u8>)>,
    pub(crate) content: Content,
}

/// Where the bytes are.
pub(crate) enum Content {
    Inline(Body),
    Chunks { chunks: Vec<Durable<ChunkRef>>, intent: Intent, uploads: Vec<Arc<Flight>> },
}

impl StoredBody {
    /// What the version's record will say about its bytes.
    pub fn body(&self) -> Body {
        match &self.content {
            Content::Inline(body) => body.clone(),
            Content::Chunks { .. } => Body::Pieces(vec![Piece { version: self.version, size: self.size }]),
        }
    }

    /// The manifest of a body in pieces.
    pub fn manifest(&self) -> Option<Manifest> {
        match &self.content {
            Content::Inline(_) => None,
            Content::Chunks { chunks, .. } => Some(Manifest { chunks: chunks.iter().map(Durable::get).collect() }),
        }
    }
}

impl DataPath {
    /// Stores a body; nothing is visible until [`DataPath::commit`].
    pub async fn store(&self, request: BodyRequest, body: BodyStream) -> Result<StoredBody, WriteError> {
        let core = &self.core;
        check_chunk_bytes(request.chunk_bytes)?;
        let keys = core.sealing_keys(request.tenant).await?;
        let mut cutter = Cutter::new(&request, body, core.write_memory.clone(), core.write_percent);
        let digester = Digester::new(&core.lanes, &core.compute, &request.checksums);
        let first = cutter.next().await?;
        match first {
            Some(chunk) if !(request.inline_allowed && chunk.last && chunk.data.len() <= limit::INLINE_BYTES) => {
                in_chunks(core, keys, request.name, cutter, digester, Some(chunk)).await
            }
            None if !request.inline_allowed => in_chunks(core, keys, request.name, cutter, digester, None).await,
            small => inline(core, &keys, digester, small.map(|chunk| chunk.data).unwrap_or_default()).await,
        }
    }

    /// Runs what is still to be confirmed and `command` in one chained batch, and gives the reply to `command` (which may be `Refused`).
    /// The closure gets the body and, for a body in pieces, its manifest, and makes Commit or PutPart of them.
    ///
    /// # Errors
    /// [`WriteError::Aborted`] if the intent was closed meanwhile; [`WriteError::Metadata`]: the commit may or may not have been applied.
    pub async fn commit(
        &self,
        stored: StoredBody,
        command: impl FnOnce(Body, Option<Manifest>) -> spine::wire::namespace::NamespaceCommand + Send,
    ) -> Result<Reply, WriteError> {
        let (body, manifest) = (stored.body(), stored.manifest());
        let command = spine::wire::Command::Namespace(command(body, manifest));
        match stored.content {
            Content::Inline(_) => self.core.commit(None, command).await,
            Content::Chunks { intent, uploads, .. } => {
                let reply = self.core.commit(Some(intent), command).await;
                // Until here a second writer of one of these chunks finds the upload and need not repeat it.
                drop(uploads);
                reply
            }
        }
    }
}

fn check_chunk_bytes(chunk_bytes: u32) -> Result<(), WriteError> {
    let fits = (limit::CHUNK_MIN_BYTES..=limit::CHUNK_MAX_BYTES).contains(&chunk_bytes) && chunk_bytes.is_power_of_two();
    fits.then_some(())
        .ok_or_else(|| WriteError::Unavailable { reason: format!("the bucket's chunk size of {chunk_bytes} bytes is not one") })
}

/// A small body: sealed like a chunk, kept in the version's record.
async fn inline(core: &Core, keys: &EpochKeys, digester: Digester, data: Bytes) -> Result<StoredBody, WriteError> {
    let version = core.new_version()?;
    let digester = digester.update(data.clone(), true).await?;
    let (md5, checksums) = digester.finish();
    INLINE_BODIES.inc();
    // Microseconds: not worth a hop to another thread.
    let id = Stage::Hash.time(|| seal::chunk_id(keys, &data));
    let chunk = match data.is_empty() {
        true => seal::SealedChunk { codec: spine::wire::namespace::Codec::Plain, len: 0, sealed: Vec::new() },
        false => seal::seal(keys, id, &data, |len| len),
    };
    let body = Body::Inline { epoch: keys.epoch, codec: chunk.codec, id, len: chunk.len, sealed: chunk.sealed.into() };
    Ok(StoredBody { version, size: data.len() as u64, md5, checksums, content: Content::Inline(body) })
}

/// What all chunks of one write share.
struct Write {
    core: Arc<Core>,
    keys: Arc<EpochKeys>,
    version: VersionId,
    reservations: Reservations,
}

/// A chunk of this write that is durable.
struct Done {
    chunk: Durable<ChunkRef>,
    /// What has to be confirmed for that, and the upload it came from.
    upload: Option<(Confirmation, Arc<Flight>)>,
}

async fn in_chunks(
    core: &Arc<Core>,
    keys: Arc<EpochKeys>,
    name: Arc<Name>,
    cutter: Cutter,
    digester: Digester,
    first: Option<Chunk>,
) -> Result<StoredBody, WriteError> {
    let intent = core.intents.begin(name).map_err(|e| WriteError::Unavailable { reason: e.to_string() })?;
    let version = intent.version;
    let (reservations, answers) = Reservations::new();
    let write = Write { core: core.clone(), keys, version, reservations };
    let window = run_window(write, &intent, cutter, digester, first);
    let answering = answers.run(&*core.metadata, &intent, now);
    // The answering end stops when the window is through and its asking ends are gone.
    let (written, ()) = futures::join!(window, answering);
    let Written { chunks, uploads, digester } = written?;
    let (md5, checksums) = digester.finish();
    let size = chunks.iter().map(|chunk| u64::from(chunk.get().len)).sum();
    Ok(StoredBody { version, size, md5, checksums, content: Content::Chunks { chunks, intent, uploads } })
}

struct Written {
    chunks: Vec<Durable<ChunkRef>>,
    uploads: Vec<Arc<Flight>>,
    digester: Digester,
}

/// Keeps a window of chunks in flight and gathers them in order.
async fn run_window(
    write: Write,
    intent: &Intent,
    cutter: Cutter,
    digester: Digester,
    first: Option<Chunk>,
) -> Result<Written, WriteError> {
    let core = write.core.clone();
    let write = Arc::new(write);
    let rest = futures::stream::try_unfold(cutter, |mut cutter| async move { Ok(cutter.next().await?.map(|chunk| (chunk, cutter))) });
    let chunks = futures::stream::iter(first.map(Ok)).chain(rest);

    // The digests go from chunk to chunk, in order, whatever else overtakes.
    let (begin, mut turn) = oneshot::channel();
    let _ = begin.send(digester);
    let started = chunks.map_ok(|chunk| {
        let (done, next) = oneshot::channel();
        let mine = std::mem::replace(&mut turn, next);
        one_chunk(write.clone(), chunk, mine, done)
    });
    let mut out = Written { chunks: Vec::new(), uploads: Vec::new(), digester: Digester::new(&core.lanes, &core.compute, &[]) };
    let mut to_confirm = HashSet::new();
    {
        let mut finished = std::pin::pin!(started.try_buffered(core.settings.window.max(1)));
        while let Some(done) = finished.try_next().await? {
            out.chunks.push(done.chunk);
            let Some((confirmation, flight)) = done.upload else { continue };
            // A body that repeats a chunk within the window stores it once and confirms it once.
            if to_confirm.insert((confirmation.chunk, confirmation.generation)) {
                intent.stored(confirmation);
                out.uploads.push(flight);
            }
            if to_confirm.len() >= CONFIRM_STEP {
                core.confirm(intent).await?;
                to_confirm.clear();
                out.uploads.clear();
            }
        }
    }
    out.digester = turn.await.map_err(|_| WriteError::Aborted { version: write.version })?;
    Ok(out)
}

/// One chunk from plaintext to durable; its digest beside it.
async fn one_chunk(
    write: Arc<Write>,
    chunk: Chunk,
    turn: oneshot::Receiver<Digester>,
    done: oneshot::Sender<Digester>,
) -> Result<Done, WriteError> {
    let digest = async {
        let digester = turn.await.map_err(|_| WriteError::Aborted { version: write.version })?;
        let _ = done.send(digester.update(chunk.data.clone(), chunk.last).await?);
        Ok(())
    };
    let (stored, ()) = futures::try_join!(make_durable(&write, &chunk), digest)?;
    Ok(stored)
}

async fn make_durable(write: &Write, chunk: &Chunk) -> Result<Done, WriteError> {
    let id = name(write, chunk).await?;
    let reference = ChunkRef { id, len: chunk.data.len() as u32 };
    let outcome = write.reservations.reserve(id, write.version).await?;
    if let Some(pinned) = Pinned::by(&outcome) {
        DEDUP_HITS.inc();
        DEDUP_SAVED.inc_by(u64::from(reference.len));
        return Ok(Done { chunk: Durable::pinned(reference, pinned), upload: None });
    }
    let ReserveOutcome::Upload { generation, tag } = outcome else {
        return Err(crate::dedup::unexpected("Reserve", &outcome));
    };
    let flight = write.core.flights.join(id, generation);
    let quorum = flight.stored.get_or_try_init(|| upload(write, chunk, Target { chunk: id, generation, tag })).await?;
    let (chunk, confirmation) = Durable::stored(reference, quorum, generation);
    Ok(Done { chunk, upload: Some((confirmation, flight.clone())) })
}

/// The ChunkId: needed before the reservation, so a hop of its own. A small chunk is named sooner than it could be handed over.
async fn name(write: &Write, chunk: &Chunk) -> Result<ChunkId, WriteError> {
    if chunk.data.len() <= NAMED_HERE {
        return Ok(Stage::Hash.time(|| seal::chunk_id(&write.keys, &chunk.data)));
    }
    let (keys, data) = (write.keys.clone(), chunk.data.clone());
    Ok(write.core.compute.run(move || Stage::Hash.time(|| seal::chunk_id(&keys, &data))).await?)
}

/// Everything a duplicate is spared.
async fn upload(write: &Write, chunk: &Chunk, target: Target) -> Result<crate::durable::Quorum, WriteError> {
    let core = &write.core;
    let (coder, keys, data, memory) = (core.coder.clone(), write.keys.clone(), chunk.data.clone(), chunk.memory.clone());
    let encoded = core.compute.run(move || {
        let encoded = encode::encode(&coder, &keys, target.chunk, &data);
        drop(memory);
        encoded
    });
    let encoded = encoded.await?;
    let (mark, bytes) = (core.pace.mark(), encoded.sealed.sealed_len as usize);
    let quorum = Stage::Store.time_async(store::store(&core.nodes, target, encoded)).await?;
    core.pace.book(mark, govern::Work::Store, bytes);
    if quorum.placement().shards.iter().any(Option::is_none) {
        core.owing.note(target.chunk);
    }
    Ok(quorum)
}

impl Core {
    /// Confirms all that is stored and not confirmed.
    pub(crate) async fn confirm(&self, intent: &Intent) -> Result<(), WriteError> {
        let version = intent.version;
        let mut commands = vec![intent.fence(now())];
        let (count, confirms) = intent.to_confirm();
        commands.extend(confirms);
        let replies = Stage::Confirm.time_async(self.metadata.propose(Batch { chain: Chain::Stop, commands })).await?;
        match replies.last() {
            Some(Reply::Confirmed(outcomes)) if !outcomes.contains(&false) => {
                intent.confirmed(count);
                Ok(())
            }
            // The generation is over only for who no longer holds a reference: the intent was aborted.
            Some(Reply::Confirmed(_) | Reply::Refused(_)) => Err(WriteError::Aborted { version }),
            other => Err(crate::dedup::unexpected("Confirm", &other)),
        }
    }

    /// Confirms the rest and runs `command`, in one chain. The intent is closed if the command was applied and aborted if not.
    pub(crate) async fn commit(&self, intent: Option<Intent>, command: spine::wire::Command) -> Result<Reply, WriteError> {
        let mut commands = Vec::new();
        if let Some(intent) = &intent {
            // Without a single chunk nothing has opened the intent yet.
            if !intent.proposed() {
                commands.push(intent.fence(now()));
            }
            commands.extend(intent.to_confirm().1);
        }
        commands.push(command);
        let count = commands.len();
        let replies = Stage::Commit.time_async(self.metadata.propose(Batch { chain: Chain::Stop, commands })).await?;
        if replies.len() != count {
            return Err(crate::dedup::unexpected("Commit", &replies.len()));
        }
        let reply = replies.into_iter().next_back();
        match (reply, intent) {
            (Some(Reply::Refused(spine::wire::Refusal::Skipped | spine::wire::Refusal::IntentClosed)), Some(intent)) => {
                Err(WriteError::Aborted { version: intent.version })
            }
            (Some(refused @ Reply::Refused(_)), _) => Ok(refused),
            (Some(reply), intent) => {
                intent.into_iter().for_each(Intent::close);
                Ok(reply)
            }
            (None, _) => Err(crate::dedup::unexpected("Commit", &"nothing")),
        }
    }
}

#[cfg(test)]
mod tests;
