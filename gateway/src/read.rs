//! Reads a range of one body. A GET reads top to bottom here.
//!
//! ```text
//! pieces -> manifests -> chunk records (a batch ahead) -> per chunk, a few ahead of the client: fetch -> cut to the range -> client
//! ```
//! Invariants: bytes leave in order and only after their chunk was verified; a stream that cannot give all it promised ends with
//! an error, never early; a read holds memory for the chunk it is sending and takes more only while half of it is free; a
//! version being read here is not collected.
//! Not here: one chunk (`fetch.rs`), which version, and what S3 says (the S3 operations).

use crate::body::{BodyError, BodyStream, Name, ReadError};
use crate::budget::Share;
use crate::core::Core;
use crate::fetch::{self, Located};
use crate::keys::TenantKeys;
use crate::metric::BYTES_OUT;
use crate::path::DataPath;
use crate::readers::Reading;
use crate::seal;
use bytes::Bytes;
use futures::Stream;
use spine::id::{ChunkId, TenantId, VersionId};
use spine::wire::chunk::{ChunkAnswer, ChunkQuery};
use spine::wire::namespace::{Body, ChunkRef, Manifest, NamespaceAnswer, NamespaceQuery, Piece};
use spine::wire::{Answer, MetadataError, Query};
use std::collections::VecDeque;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};

/// Chunks fetched ahead of the client.
const AHEAD: usize = 4;
/// Index records asked for at once.
const RECORDS: usize = 64;
/// Manifests asked for at once: a multipart object has one a part.
const MANIFESTS: usize = 16;
/// How long a read waits for memory that other reads hold before it says that there is none.
const ADMIT_MOST: Duration = Duration::from_secs(30);

impl DataPath {
    /// Opens `range` of a body; returns after the first bytes are verified, so that a fault before them is an error and not a cut-off 200.
    /// A fault after them ends the stream with an error: the connection must be cut, not completed.
    pub async fn read(&self, tenant: TenantId, name: &Arc<Name>, body: &Body, range: Range<u64>) -> Result<BodyStream, ReadError> {
        let size = size(body);
        if range.start > range.end || range.end > size {
            return Err(ReadError::Range { start: range.start, end: range.end, size });
        }
        if range.is_empty() {
            return Ok(Box::pin(futures::stream::empty()));
        }
        let keys = self.core.tenant_keys(tenant).await?;
        match body {
            Body::Inline { epoch, codec, id, len, sealed } => {
                let keys = keys.epoch(*epoch).ok_or_else(|| no_epoch(tenant))?;
                let plain = seal::open(keys, *id, *codec, *len, sealed.to_vec());
                let plain = plain.map_err(|error| ReadError::Damaged { chunk: *id, what: error.0 })?;
                let part = plain.slice(range.start as usize..range.end as usize);
                BYTES_OUT.inc_by(part.len() as u64);
                Ok(Box::pin(futures::stream::iter([Ok(part)])))
            }
            Body::Pieces(pieces) => {
                let mut plan = Plan::new(self.core.clone(), tenant, keys, name.clone(), pieces, range.clone())?;
                let length = range.end - range.start;
                match plan.only().await? {
                    Some(wanted) => {
                        let memory = plan.admit(&wanted).await?;
                        let part = plan.fetch(wanted).await?;
                        Ok(Box::pin(Outgoing::whole(Part { data: part, memory }, length)))
                    }
                    None => Ok(Box::pin(Outgoing::begin(plan, length).await?)),
                }
            }
        }
    }
}

fn size(body: &Body) -> u64 {
    match body {
        Body::Inline { len, .. } => u64::from(*len),
        Body::Pieces(pieces) => pieces.iter().map(|piece| piece.size).sum(),
    }
}

fn no_epoch(tenant: TenantId) -> ReadError {
    ReadError::Unavailable { reason: format!("tenant {tenant} has no secret of the epoch that sealed this") }
}

/// A chunk of which a part is wanted.
struct Wanted {
    version: VersionId,
    chunk: ChunkRef,
    /// Within the chunk's plaintext.
    range: Range<usize>,
}

/// What is to be read, resolved a batch at a time.
struct Plan {
    core: Arc<Core>,
    tenant: TenantId,
    keys: Arc<TenantKeys>,
    name: Arc<Name>,
    /// Pieces not resolved yet, with the range of each.
    pieces: VecDeque<(Piece, Range<u64>)>,
    chunks: VecDeque<Wanted>,
    located: VecDeque<(Wanted, Located)>,
    _reading: Reading,
}

impl Plan {
    fn new(
        core: Arc<Core>,
        tenant: TenantId,
        keys: Arc<TenantKeys>,
        name: Arc<Name>,
        pieces: &[Piece],
        range: Range<u64>,
    ) -> Result<Plan, ReadError> {
        let mut touched = VecDeque::new();
        let mut start = 0;
        for piece in pieces {
            let end = start + piece.size;
            let within = range.start.max(start)..range.end.min(end);
            if within.start < within.end {
                touched.push_back((piece.clone(), within.start - start..within.end - start));
            }
            start = end;
        }
        let versions = touched.iter().map(|(piece, _)| piece.version).collect();
        let reading = core.readers.enter(versions).map_err(|version| ReadError::Gone { version })?;
        Ok(Plan { core, tenant, keys, name, pieces: touched, chunks: VecDeque::new(), located: VecDeque::new(), _reading: reading })
    }

    /// The next chunk and where it is; `None` at the end.
    async fn next(&mut self) -> Result<Option<(Wanted, Located)>, ReadError> {
        if self.located.is_empty() {
            if self.chunks.is_empty() && !self.pieces.is_empty() {
                self.resolve_manifests().await?;
            }
            if !self.chunks.is_empty() {
                self.resolve_records().await?;
            }
        }
        Ok(self.located.pop_front())
    }

    /// The only chunk of the plan, if there is exactly one: most reads need no task and no read-ahead.
    async fn only(&mut self) -> Result<Option<(Wanted, Located)>, ReadError> {
        let first = self.next().await?;
        if self.located.is_empty() && self.chunks.is_empty() && self.pieces.is_empty() {
            return Ok(first);
        }
        self.located.extend(first);
        self.located.rotate_right(1);
        Ok(None)
    }

    async fn resolve_manifests(&mut self) -> Result<(), ReadError> {
        let batch: Vec<(Piece, Range<u64>)> = self.pieces.drain(..self.pieces.len().min(MANIFESTS)).collect();
        let versions = batch.iter().map(|(piece, _)| piece.version).collect();
        let manifests = manifests(&self.core, &self.name, versions).await?;
        for ((piece, range), manifest) in batch.into_iter().zip(manifests) {
            let manifest = manifest.ok_or(ReadError::Gone { version: piece.version })?;
            let mut start = 0;
            for chunk in manifest.chunks.iter().copied() {
                let end = start + u64::from(chunk.len);
                let within = range.start.max(start)..range.end.min(end);
                if within.start < within.end {
                    let range = (within.start - start) as usize..(within.end - start) as usize;
                    self.chunks.push_back(Wanted { version: piece.version, chunk, range });
                }
                start = end;
            }
            if start != piece.size {
                let reason = format!("the manifest of {} has {start} bytes, its piece {}", piece.version, piece.size);
                return Err(ReadError::Metadata(MetadataError::Storage { reason }));
            }
        }
        Ok(())
    }

    async fn resolve_records(&mut self) -> Result<(), ReadError> {
        let batch: Vec<Wanted> = self.chunks.drain(..self.chunks.len().min(RECORDS)).collect();
        let known: Vec<Option<Located>> = batch.iter().map(|wanted| self.core.known.place(wanted.chunk.id)).collect();
        let unknown = batch.iter().zip(&known).filter(|(_, known)| known.is_none()).map(|(wanted, _)| wanted.chunk.id).collect();
        let mut looked_up = locate(&self.core, unknown).await?.into_iter();
        for (wanted, known) in batch.into_iter().zip(known) {
            let located = known.or_else(|| looked_up.next().flatten()).ok_or(ReadError::Gone { version: wanted.version })?;
            self.located.push_back((wanted, located));
        }
        Ok(())
    }

    /// Memory for one chunk: its shards, and the plaintext they become.
    fn need((wanted, located): &(Wanted, Located)) -> usize {
        wanted.chunk.len as usize + located.placement.sealed.sealed_len as usize
    }

    async fn admit(&self, wanted: &(Wanted, Located)) -> Result<Share, ReadError> {
        let waited = tokio::time::timeout(ADMIT_MOST, self.core.read_memory.take(Self::need(wanted))).await;
        waited.map_err(|_| ReadError::Unavailable { reason: "slow readers hold all memory for bodies".into() })
    }

    /// The wanted part of one chunk.
    fn fetch(&self, (wanted, located): (Wanted, Located)) -> impl Future<Output = Result<Bytes, ReadError>> + use<> {
        let (core, keys, tenant) = (self.core.clone(), self.keys.clone(), self.tenant);
        async move {
            let sealed = located.placement.sealed;
            if sealed.len != wanted.chunk.len || sealed.tenant != tenant {
                return Err(ReadError::Damaged { chunk: wanted.chunk.id, what: "the index describes another chunk" });
            }
            let keys = keys.epoch(sealed.epoch).ok_or_else(|| no_epoch(tenant))?;
            let plain = match fetch::fetch(&core, keys, located.clone()).await {
                Err(ReadError::Unreadable { .. }) => {
                    // Repair may have moved shards since the record was read.
                    let located = moved(&core, located, wanted.version).await?;
                    fetch::fetch(&core, keys, located).await?
                }
                other => other?,
            };
            Ok(plain.slice(wanted.range))
        }
    }
}

/// Where the index says that the chunks are, in the order asked; `None`: it does not know one, or it is not stored yet.
async fn locate(core: &Core, chunks: Vec<ChunkId>) -> Result<Vec<Option<Located>>, ReadError> {
    if chunks.is_empty() {
        return Ok(Vec::new());
    }
    let answer = core.metadata.query(Query::Chunk(ChunkQuery::Records(chunks.clone()))).await?;
    let Answer::Chunk(ChunkAnswer::Records(records)) = answer else { return Err(strange("Records")) };
    if records.len() != chunks.len() {
        return Err(strange("Records"));
    }
    let located = chunks.into_iter().zip(records).map(|(chunk, record)| {
        let record = record?;
        let located = Located { chunk, generation: record.generation, placement: record.placement?, remembered: false };
        core.known.learn_place(&located);
        Some(located)
    });
    Ok(located.collect())
}

/// Where the chunk is now, if that is not where it was just looked for.
async fn moved(core: &Core, before: Located, version: VersionId) -> Result<Located, ReadError> {
    core.known.forget_place(before.chunk);
    let unreadable = ReadError::Unreadable { chunk: before.chunk, found: 0, needed: before.placement.sealed.k };
    match locate(core, vec![before.chunk]).await?.pop().flatten() {
        // What is remembered is tried without a word; what the index says now is looked for in earnest.
        Some(located) if before.remembered || located.placement != before.placement => Ok(located),
        Some(_) => Err(unreadable),
        None if before.remembered => Err(ReadError::Gone { version }),
        None => Err(unreadable),
    }
}

/// Manifests of pieces of `name`, in the order asked.
pub(crate) async fn manifests(core: &Core, name: &Name, versions: Vec<VersionId>) -> Result<Vec<Option<Arc<Manifest>>>, ReadError> {
    let mut found: Vec<Option<Arc<Manifest>>> = versions.iter().map(|version| core.known.manifest(*version)).collect();
    let unknown: Vec<VersionId> = versions.iter().zip(&found).filter(|(_, known)| known.is_none()).map(|(version, _)| *version).collect();
    if unknown.is_empty() {
        return Ok(found);
    }
    let query = NamespaceQuery::Manifests { bucket: name.bucket, key: name.key.clone(), versions: unknown.clone() };
    let asked = match core.metadata.query(Query::Namespace(query)).await? {
        Answer::Namespace(NamespaceAnswer::Manifests(manifests)) if manifests.len() == unknown.len() => manifests,
        _ => return Err(strange("Manifests")),
    };
    let places = found.iter_mut().filter(|known| known.is_none());
    for ((place, version), manifest) in places.zip(unknown).zip(asked) {
        *place = manifest.map(Arc::new).inspect(|manifest| core.known.learn_manifest(version, manifest.clone()));
    }
    Ok(found)
}

fn strange(what: &str) -> ReadError {
    ReadError::Metadata(MetadataError::Storage { reason: format!("{what} was answered with something else") })
}

/// Verified bytes with the memory they occupy.
struct Part {
    data: Bytes,
    memory: Share,
}

/// Fetches ahead of the client and hands over in order, until the plan or the client is done.
async fn run_ahead(mut plan: Plan, client: mpsc::Sender<Result<Part, ReadError>>) {
    let mut ahead: VecDeque<(Abort<Result<Bytes, ReadError>>, Share)> = VecDeque::new();
    let mut next = None;
    let mut ended = false;
    loop {
        while !ended && ahead.len() < AHEAD {
            if next.is_none() {
                match plan.next().await {
                    Ok(Some(wanted)) => next = Some(wanted),
                    Ok(None) => ended = true,
                    // What is on its way is good and goes out first.
                    Err(error) => return hand_over_then_fail(ahead, client, error).await,
                }
            }
            let Some(wanted) = next.take() else { break };
            // One chunk may be waited for; more are fetched only while there is plenty of memory.
            let memory = match ahead.is_empty() {
                true => match plan.admit(&wanted).await {
                    Ok(memory) => memory,
                    Err(error) => return drop(client.send(Err(error)).await),
                },
                false => match plan.core.read_memory.spare(Plan::need(&wanted)) {
                    Some(memory) => memory,
                    None => {
                        next = Some(wanted);
                        break;
                    }
                },
            };
            ahead.push_back((Abort(tokio::spawn(plan.fetch(wanted))), memory));
        }
        let Some((mut task, memory)) = ahead.pop_front() else { return };
        let part = task.finish().await.map(|data| Part { data, memory });
        let failed = part.is_err();
        if client.send(part).await.is_err() || failed {
            return;
        }
    }
}

async fn hand_over_then_fail(
    ahead: VecDeque<(Abort<Result<Bytes, ReadError>>, Share)>,
    client: mpsc::Sender<Result<Part, ReadError>>,
    error: ReadError,
) {
    for (mut task, memory) in ahead {
        let part = task.finish().await.map(|data| Part { data, memory });
        let failed = part.is_err();
        if client.send(part).await.is_err() || failed {
            return;
        }
    }
    let _ = client.send(Err(error)).await;
}

/// A task that ends with its holder.
struct Abort<T>(JoinHandle<T>);

impl<T> Drop for Abort<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Abort<Result<Bytes, ReadError>> {
    async fn finish(&mut self) -> Result<Bytes, ReadError> {
        (&mut self.0).await.unwrap_or_else(|error| Err(ReadError::Unavailable { reason: error.to_string() }))
    }
}

/// The stream that the client gets.
struct Outgoing {
    first: Option<Part>,
    rest: Option<mpsc::Receiver<Result<Part, ReadError>>>,
    task: Option<AbortHandle>,
    /// Bytes still promised.
    left: u64,
    /// Memory of the bytes handed out last: they are on their way to the socket.
    sending: Option<Share>,
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Outgoing {
    fn whole(part: Part, length: u64) -> Outgoing {
        Outgoing { first: Some(part), rest: None, task: None, left: length, sending: None }
    }

    /// Starts reading ahead and waits for the first bytes.
    async fn begin(plan: Plan, length: u64) -> Result<Outgoing, ReadError> {
        let (client, mut rest) = mpsc::channel(1);
        let task = tokio::spawn(run_ahead(plan, client)).abort_handle();
        let mut out = Outgoing { first: None, rest: None, task: Some(task), left: length, sending: None };
        let first = rest.recv().await.unwrap_or_else(|| Err(ReadError::Unavailable { reason: "the read was given up".into() }))?;
        out.first = Some(first);
        out.rest = Some(rest);
        Ok(out)
    }
}

impl Stream for Outgoing {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.sending = None;
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let part = match (self.first.take(), &mut self.rest) {
            (Some(part), _) => Some(Ok(part)),
            (None, Some(rest)) => ready!(rest.poll_recv(cx)),
            (None, None) => None,
        };
        match part {
            Some(Ok(part)) if part.data.len() as u64 <= self.left => {
                self.left -= part.data.len() as u64;
                self.sending = Some(part.memory);
                BYTES_OUT.inc_by(part.data.len() as u64);
                Poll::Ready(Some(Ok(part.data)))
            }
            fault => {
                // Whatever went wrong, the promised bytes do not come: the connection must be cut.
                let error = match fault {
                    Some(Err(error)) => error,
                    _ => ReadError::Unavailable { reason: format!("the read ended {} bytes early", self.left) },
                };
                tracing::warn!(%error, left = self.left, "a read is cut off");
                self.left = 0;
                self.rest = None;
                Poll::Ready(Some(Err(error.into())))
            }
        }
    }
}

#[cfg(test)]
mod tests;
