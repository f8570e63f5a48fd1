//! Copies of metadata that are kept in the store itself.
//!
//! ```text
//! tenant "(metadata)" -> bucket "(metadata)" -> one object a copy, its name its time; the newest few stay
//! each chunk of it is one block (`block.rs`), which says itself which copy and which place it is of
//! ```
//! No S3 client has a key of that tenant, or can say such a bucket's name. Its secret follows from the root key, so that its chunks open
//! where no metadata has ever heard of it; and so a copy is found again by its chunks alone, however the index came to know them.
//! Invariants: an older copy goes only after a newer one is committed; a copy that is not whole is passed over.

use super::block::{BLOCK_BYTES, HEAD_BYTES, Head, Name};
use super::file::{Summary, put};
use super::take::{self, Taken, take};
use super::{SnapshotError, at, both, strange, wrong};
use crate::body::{BodyError, BodyRequest, BodyStream};
use crate::core::now;
use crate::keys::Keys;
use crate::metric::{SNAPSHOT_BYTES, SNAPSHOT_TIME, SNAPSHOTS};
use crate::path::DataPath;
use bytes::Bytes;
use futures::stream::poll_fn;
use spine::id::{BucketId, ChunkId, Seq, TenantId, UnixMs};
use spine::wire::chunk::{ChunkAnswer, ChunkQuery};
use spine::wire::namespace::{
    Attributes, Condition, Etag, ListQuery, NamespaceAnswer, NamespaceCommand, NamespaceQuery, NewVersion, VersionBody, VersionHead,
};
use spine::wire::root::{BucketRecord, RootAnswer, RootCommand, RootQuery, TenantRecord, Versioning};
use spine::wire::{Answer, Batch, Chain, Command, Query, Refusal, Reply};
use std::collections::BTreeMap;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Whose the copies are. Other tenants' ids are random.
pub const TENANT: TenantId = TenantId(u64::MAX);
/// The tenant's name, and its bucket's: neither can be made by anybody else.
const NAME: &str = "(metadata)";
/// Blocks on their way.
const BLOCKS: usize = 2;
/// Bytes of the largest copy.
const COPY_BYTES: u64 = 1 << 37;
/// Chunks of one page of the index; copies of one listing.
const PAGE: usize = 1_000;
/// How often it is looked whether a copy is due, at most and at least.
const LOOK: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(300));

/// How often copies are made, and how many stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    pub every: Duration,
    pub kept: usize,
}

/// Makes copies when they are due, for as long as the data path lives and the background is this gateway's.
pub(crate) async fn run(path: Weak<DataPath>, schedule: Schedule) {
    let look = (schedule.every / 10).clamp(LOOK.0, LOOK.1);
    let began = tokio::time::Instant::now();
    loop {
        tokio::time::sleep(look).await;
        let Some(path) = path.upgrade() else { return };
        if !path.core.lease.is_mine() {
            continue;
        }
        let due = match newest(&path).await {
            Ok(Some(made)) => now().0.saturating_sub(made.0) >= schedule.every.as_millis() as u64,
            // The first one is not made in the haste of a start.
            Ok(None) => began.elapsed() >= schedule.every / 10,
            Err(error) => {
                tracing::debug!(%error, "the copies of metadata in the store could not be looked at");
                continue;
            }
        };
        if !due {
            continue;
        }
        let kept = match keep(&path).await {
            Ok(_) => forget(&path, schedule.kept).await,
            Err(error) => Err(error),
        };
        if let Err(error) = kept {
            SNAPSHOTS.with_label_values(&["failed"]).inc();
            tracing::warn!(target: "breakwater", %error, "metadata was not copied into the store");
        }
    }
}

async fn newest(path: &DataPath) -> Result<Option<UnixMs>, SnapshotError> {
    let Some(bucket) = bucket(path).await? else { return Ok(None) };
    Ok(all(path, bucket.id).await?.last().map(|(_, made)| *made))
}

/// Copies metadata into the store, now.
///
/// # Errors
/// Nothing is visible then.
pub(crate) async fn keep(path: &Arc<DataPath>) -> Result<Taken, SnapshotError> {
    let bucket = settle(path).await?;
    let (blocks, waiting) = mpsc::channel(BLOCKS);
    let (whole, told) = oneshot::channel();
    let (metadata, keys, name) = (path.metadata().clone(), path.keys().clone(), take::name()?);
    let key = format!("{:020}-{}", name.made.0, hex::encode(name.id));
    let taking = tokio::spawn(async move {
        let taken = take(&metadata, &keys, name, &blocks).await;
        let _ = whole.send(taken.is_ok());
        taken
    });
    let request = BodyRequest {
        tenant: TENANT,
        name: Arc::new(crate::body::Name { bucket, key: key.clone() }),
        chunk_bytes: BLOCK_BYTES as u32,
        declared_len: None,
        max_len: COPY_BYTES,
        checksums: Vec::new(),
        // Within a record it would be lost with the records.
        inline_allowed: false,
    };
    let stored = path.store(request, stream(waiting, told)).await;
    let taken = taking.await.map_err(|error| SnapshotError::Refused { what: error.to_string() })?;
    let (taken, stored) = both(taken, stored)?;
    let head = VersionHead {
        id: stored.version,
        seq: Seq(0),
        modified: taken.name.made,
        size: stored.size,
        etag: Etag { md5: stored.md5, parts: None },
        checksum: None,
        attributes: Attributes::default(),
        tags: Vec::new(),
        upload: None,
    };
    let reply = path.commit(stored, move |body, manifest| {
        let new = NewVersion { head, body: VersionBody { body, parts: Vec::new() }, manifest };
        NamespaceCommand::Commit { bucket, key, new: Box::new(new), condition: Condition::default() }
    });
    match reply.await? {
        Reply::Committed { .. } => {}
        Reply::Refused(refusal) => return Err(SnapshotError::Refused { what: refusal.to_string() }),
        _ => return Err(strange("the commit of a copy")),
    }
    SNAPSHOTS.with_label_values(&["kept"]).inc();
    SNAPSHOT_BYTES.set(i64::try_from(taken.bytes).unwrap_or(i64::MAX));
    SNAPSHOT_TIME.set(i64::try_from(taken.name.made.0 / 1_000).unwrap_or(i64::MAX));
    tracing::info!(target: "breakwater", rows = taken.rows, bytes = taken.bytes, "metadata was copied into the store");
    Ok(taken)
}

/// The blocks as a body, which fails where the copy was not taken to its end.
fn stream(mut blocks: mpsc::Receiver<Bytes>, mut whole: oneshot::Receiver<bool>) -> BodyStream {
    let mut over = false;
    Box::pin(poll_fn(move |context| {
        if over {
            return Poll::Ready(None);
        }
        match blocks.poll_recv(context) {
            Poll::Ready(Some(block)) => Poll::Ready(Some(Ok(block))),
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => match Pin::new(&mut whole).poll(context) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(told) => {
                    over = true;
                    Poll::Ready((told != Ok(true)).then(|| Err(BodyError::from("the copy was not taken to its end"))))
                }
            },
        }
    }))
}

/// Deletes all copies but the newest `kept`.
async fn forget(path: &DataPath, kept: usize) -> Result<(), SnapshotError> {
    let Some(bucket) = bucket(path).await? else { return Ok(()) };
    let all = all(path, bucket.id).await?;
    for (key, _) in &all[..all.len().saturating_sub(kept.max(1))] {
        let delete = NamespaceCommand::Delete { bucket: bucket.id, key: key.clone(), condition: Condition::default() };
        let batch = Batch { chain: Chain::Stop, commands: vec![Command::Namespace(delete)] };
        if let Some(Reply::Refused(refusal)) = path.metadata().propose(batch).await?.first() {
            return Err(SnapshotError::Refused { what: refusal.to_string() });
        }
    }
    Ok(())
}

/// Every copy's key and time, oldest first.
async fn all(path: &DataPath, bucket: BucketId) -> Result<Vec<(String, UnixMs)>, SnapshotError> {
    let (mut out, mut after) = (Vec::new(), None);
    loop {
        let query = ListQuery { bucket, prefix: String::new(), delimiter: String::new(), after, max: PAGE };
        let query = Query::Namespace(NamespaceQuery::List { query, place: None });
        let Answer::Namespace(NamespaceAnswer::List { page, .. }) = path.metadata().query(query).await? else {
            return Err(strange("a listing of copies"));
        };
        out.extend(page.objects.into_iter().map(|(key, head)| (key, head.modified)));
        after = page.next;
        if after.is_none() {
            return Ok(out);
        }
    }
}

async fn bucket(path: &DataPath) -> Result<Option<BucketRecord>, SnapshotError> {
    match path.metadata().query(Query::Root(RootQuery::Bucket(NAME.into()))).await? {
        Answer::Root(RootAnswer::Bucket(record)) => Ok(record),
        _ => Err(strange("the bucket of copies")),
    }
}

/// The bucket, and the tenant before it, made where they are not there.
async fn settle(path: &DataPath) -> Result<BucketId, SnapshotError> {
    if let Some(record) = bucket(path).await? {
        return Ok(record.id);
    }
    let created = now();
    let tenant = TenantRecord { id: TENANT, name: NAME.into(), secrets: vec![path.keys().snapshot_secret()?], created, revoked: false };
    let record = BucketRecord {
        id: BucketId(0),
        name: NAME.into(),
        tenant: TENANT,
        created,
        chunk_bytes: BLOCK_BYTES as u32,
        versioning: Versioning::Unversioned,
        location: String::new(),
    };
    for command in [RootCommand::CreateTenant(tenant), RootCommand::CreateBucket(record)] {
        let batch = Batch { chain: Chain::Stop, commands: vec![Command::Root(command)] };
        match path.metadata().propose(batch).await?.first() {
            Some(Reply::Bucket(record)) => return Ok(record.id),
            // Another gateway was faster.
            Some(Reply::Done | Reply::Refused(Refusal::TenantExists | Refusal::BucketOwnedByYou)) => {}
            Some(Reply::Refused(refusal)) => return Err(SnapshotError::Refused { what: refusal.to_string() }),
            _ => return Err(strange("the making of the bucket of copies")),
        }
    }
    bucket(path).await?.map(|record| record.id).ok_or_else(|| strange("the bucket of copies"))
}

/// The chunks of one copy by their numbers, and the last one's number once it was seen.
#[derive(Default)]
struct Parts {
    chunks: BTreeMap<u32, ChunkId>,
    last: Option<u32>,
}

impl Parts {
    fn is_whole(&self) -> bool {
        let all = self.last.and_then(|last| usize::try_from(last).ok()?.checked_add(1));
        all == Some(self.chunks.len()) && self.chunks.keys().last().copied() == self.last
    }
}

/// Writes the newest whole copy that is in the index's chunks into a file, which must not be there yet. Names are not needed.
///
/// # Errors
/// [`SnapshotError::Wrong`] where there is none; the store's.
pub(crate) async fn fetch(path: &Arc<DataPath>, out: &Path) -> Result<Summary, SnapshotError> {
    if out.exists() {
        return Err(at(out)(std::io::ErrorKind::AlreadyExists.into()));
    }
    let mut failed = wrong("no whole copy is in the store");
    for (name, parts) in find(path).await?.into_iter().rev().filter(|(_, parts)| parts.is_whole()) {
        match write(path, out, parts).await {
            Ok(summary) if summary.name == name => return Ok(summary),
            Ok(_) => failed = wrong("a copy under another's name"),
            Err(error) => {
                tracing::warn!(target: "breakwater", %error, made = name.made.0, "a copy in the store is passed over");
                failed = error;
            }
        }
    }
    Err(failed)
}

/// What the index's chunks of the reserved tenant say of themselves.
async fn find(path: &DataPath) -> Result<BTreeMap<Name, Parts>, SnapshotError> {
    let (mut found, mut after): (BTreeMap<Name, Parts>, _) = (BTreeMap::new(), None);
    loop {
        let answer = path.metadata().query(Query::Chunk(ChunkQuery::Scan { after, max: PAGE })).await?;
        let Answer::Chunk(ChunkAnswer::Scan(page)) = answer else { return Err(strange("a look at the index")) };
        let Some((last, _)) = page.last() else { return Ok(found) };
        after = Some(*last);
        let is_ours = |record: &spine::wire::chunk::ChunkRecord| record.placement.as_ref().is_some_and(|p| p.sealed.tenant == TENANT);
        for (chunk, _) in page.iter().filter(|(_, record)| is_ours(record)) {
            // One that cannot be read now makes its copy one that is not whole.
            let Ok(Some(plain)) = path.chunk(*chunk).await else { continue };
            let Some(head) = Head::parse(&plain).filter(|head| head.len + HEAD_BYTES == plain.len()) else { continue };
            let parts = found.entry(head.name).or_default();
            parts.chunks.insert(head.number, *chunk);
            if head.last {
                parts.last = Some(head.number);
            }
        }
    }
}

async fn write(path: &DataPath, out: &Path, parts: Parts) -> Result<Summary, SnapshotError> {
    let (blocks, waiting) = mpsc::channel(BLOCKS);
    let (out, keys): (_, Arc<Keys>) = (out.to_owned(), path.keys().clone());
    let (whole, told) = oneshot::channel();
    let writing = tokio::task::spawn_blocking(move || put(&keys, &out, waiting, || told.blocking_recv() == Ok(true)));
    let mut read = Ok(());
    for chunk in parts.chunks.into_values() {
        match path.chunk(chunk).await {
            Ok(Some(plain)) => read = blocks.send(plain).await.map_err(|_| SnapshotError::Untaken),
            Ok(None) => read = Err(wrong("a chunk is not there any more")),
            Err(error) => read = Err(error.into()),
        }
        if read.is_err() {
            break;
        }
    }
    drop(blocks);
    let _ = whole.send(read.is_ok());
    let written = writing.await.map_err(|error| SnapshotError::Refused { what: error.to_string() })?;
    both(read, written).map(|((), summary)| summary)
}
