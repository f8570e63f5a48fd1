//! Copies of metadata that are kept in the store itself.
//!
//! ```text
//! tenant "(metadata)" -> bucket "(metadata)" -> one object a copy, its name its time; the newest few stay
//! each chunk of it is one block (`block.rs`), which says itself which copy and which place it is of
//! ```
//! No S3 client has a key of that tenant, or can say such a bucket's name. Its secret follows from the root key, so that its chunks open
//! where no metadata has ever heard of it; and so a copy is found again by its chunks alone, however the index came to know them.
//! Which of two copies is the newer one, metadata's own numbers say: where there are names the order of commits, where there are chunks alone
//! their generations. Clocks only say when one is due.
//! Invariants: an older copy goes only after a newer one is committed; a copy that is not whole is passed over; none is made by itself while
//! the collection is held, unless by a restore: metadata that is half of what was, as re-indexing makes it, is no newer copy of anything.

use super::block::{BLOCK_BYTES, HEAD_BYTES, Head, Name, Sealer};
use super::file::{Summary, put};
use super::item::{Item, Unpacker};
use super::take::{self, Taken, take};
use super::{SnapshotError, at, both, strange, wrong};
use crate::body::{BodyError, BodyRequest, BodyStream, WriteError};
use crate::core::{Core, now};
use crate::keys::Keys;
use crate::metric::{SNAPSHOT_BYTES, SNAPSHOT_TIME, SNAPSHOTS};
use crate::path::DataPath;
use crate::reconcile;
use crate::reindex;
use bytes::Bytes;
use futures::stream::poll_fn;
use serde::Serialize;
use spine::id::{BucketId, ChunkId, FleetId, Gen, Seq, TenantId, UnixMs};
use spine::wire::chunk::{ChunkAnswer, ChunkQuery};
use spine::wire::namespace::{
    Attributes, Condition, Etag, ListQuery, NamespaceAnswer, NamespaceCommand, NamespaceQuery, NewVersion, VersionBody, VersionHead,
};
use spine::wire::root::{BucketRecord, RootAnswer, RootCommand, RootQuery, TenantRecord, Versioning};
use spine::wire::{Answer, Batch, Chain, Command, Metadata, Query, Refusal, Reply};
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
/// How far gateways' clocks may be apart: a copy from further ahead was made by a clock that was wrong.
const AHEAD: Duration = Duration::from_secs(300);
/// Least digits of a copy's id that name it.
const DIGITS: usize = 4;

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
            Ok(Some(made)) => {
                SNAPSHOT_TIME.set(i64::try_from(made.0 / 1_000).unwrap_or(i64::MAX));
                is_due(made, now(), schedule.every)
            }
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
        match is_partial(&path.core).await {
            Ok(false) => {}
            Ok(true) => {
                tracing::warn!(target: "breakwater", "a copy of metadata is due, and none is made while the collection is held");
                continue;
            }
            Err(error) => {
                tracing::debug!(%error, "it could not be seen what holds the collection");
                continue;
            }
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

/// Whether metadata may be half of what was, as while it is re-indexed. What a restore holds is whole, and gets new objects all the while.
async fn is_partial(core: &Core) -> Result<bool, WriteError> {
    Ok(reindex::is_held(core).await? && !reconcile::is_waiting(core).await?)
}

/// - `made`: when the newest one was made, by the clock of the gateway that did.
pub(super) fn is_due(made: UnixMs, now: UnixMs, every: Duration) -> bool {
    let is_from_the_future = made.0.saturating_sub(now.0) > AHEAD.as_millis() as u64;
    is_from_the_future || now.0.saturating_sub(made.0) >= every.as_millis() as u64
}

async fn newest(path: &DataPath) -> Result<Option<UnixMs>, SnapshotError> {
    let Some(bucket) = bucket(path.metadata(), NAME).await? else { return Ok(None) };
    Ok(all(path, bucket.id).await?.last().map(|copy| copy.made))
}

/// Copies metadata into the store, now.
///
/// # Errors
/// Nothing is visible then.
pub(crate) async fn keep(path: &Arc<DataPath>) -> Result<Taken, SnapshotError> {
    keep_as(path, take::name()?).await
}

/// The same, under a name and time of one's choice.
pub(super) async fn keep_as(path: &Arc<DataPath>, name: Name) -> Result<Taken, SnapshotError> {
    let bucket = settle(path.metadata(), path.keys(), NAME).await?;
    let (blocks, waiting) = mpsc::channel(BLOCKS);
    let (whole, told) = oneshot::channel();
    let (metadata, keys) = (path.metadata().clone(), path.keys().clone());
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
pub(super) async fn forget(path: &DataPath, kept: usize) -> Result<(), SnapshotError> {
    let Some(bucket) = bucket(path.metadata(), NAME).await? else { return Ok(()) };
    let mut all = all(path, bucket.id).await?;
    all.truncate(all.len().saturating_sub(kept.max(1)));
    for copy in all {
        let delete = NamespaceCommand::Delete { bucket: bucket.id, key: copy.key, condition: Condition::default() };
        let batch = Batch { chain: Chain::Stop, commands: vec![Command::Namespace(delete)] };
        if let Some(Reply::Refused(refusal)) = path.metadata().propose(batch).await?.first() {
            return Err(SnapshotError::Refused { what: refusal.to_string() });
        }
    }
    Ok(())
}

/// A copy as its name stands in the bucket.
pub(super) struct Listed {
    /// Where its commit came in the order of all commits.
    pub seq: Seq,
    pub key: String,
    pub made: UnixMs,
}

/// Every copy, in the order in which they were committed.
pub(super) async fn all(path: &DataPath, bucket: BucketId) -> Result<Vec<Listed>, SnapshotError> {
    let (mut out, mut after) = (Vec::new(), None);
    loop {
        let query = ListQuery { bucket, prefix: String::new(), delimiter: String::new(), after, max: PAGE };
        let query = Query::Namespace(NamespaceQuery::List { query, place: None });
        let Answer::Namespace(NamespaceAnswer::List { page, .. }) = path.metadata().query(query).await? else {
            return Err(strange("a listing of copies"));
        };
        out.extend(page.objects.into_iter().map(|(key, head)| Listed { seq: head.seq, key, made: head.modified }));
        after = page.next;
        if after.is_none() {
            out.sort_by_key(|copy| copy.seq);
            return Ok(out);
        }
    }
}

/// A bucket of the reserved tenant.
pub(crate) async fn bucket(metadata: &Arc<dyn Metadata>, name: &str) -> Result<Option<BucketRecord>, SnapshotError> {
    match metadata.query(Query::Root(RootQuery::Bucket(name.into()))).await? {
        Answer::Root(RootAnswer::Bucket(record)) => Ok(record),
        _ => Err(strange("the bucket of copies")),
    }
}

/// The same, made where it is not there, and the tenant before it.
///
/// - `name`: in brackets, as nobody else can name one.
pub(crate) async fn settle(metadata: &Arc<dyn Metadata>, keys: &Keys, name: &str) -> Result<BucketId, SnapshotError> {
    if let Some(record) = bucket(metadata, name).await? {
        return Ok(record.id);
    }
    let created = now();
    let tenant = TenantRecord { id: TENANT, name: NAME.into(), secrets: vec![keys.snapshot_secret()?], created, revoked: false };
    let record = BucketRecord {
        id: BucketId(0),
        name: name.into(),
        tenant: TENANT,
        created,
        chunk_bytes: BLOCK_BYTES as u32,
        versioning: Versioning::Unversioned,
        location: String::new(),
    };
    for command in [RootCommand::CreateTenant(tenant), RootCommand::CreateBucket(record)] {
        let batch = Batch { chain: Chain::Stop, commands: vec![Command::Root(command)] };
        match metadata.propose(batch).await?.first() {
            Some(Reply::Bucket(record)) => return Ok(record.id),
            // Another gateway was faster.
            Some(Reply::Done | Reply::Refused(Refusal::TenantExists | Refusal::BucketOwnedByYou)) => {}
            Some(Reply::Refused(refusal)) => return Err(SnapshotError::Refused { what: refusal.to_string() }),
            _ => return Err(strange("the making of the bucket of copies")),
        }
    }
    bucket(metadata, name).await?.map(|record| record.id).ok_or_else(|| strange("the bucket of copies"))
}

/// The chunks of one copy by their numbers, and the last one's number once it was seen.
#[derive(Default)]
struct Parts {
    chunks: BTreeMap<u32, ChunkId>,
    last: Option<u32>,
    /// Of its youngest chunk: later copies are of later ones, whatever clocks said.
    generation: Gen,
    bytes: u64,
    fleet: Option<FleetId>,
}

impl Parts {
    fn is_whole(&self) -> bool {
        let all = self.last.and_then(|last| usize::try_from(last).ok()?.checked_add(1));
        all == Some(self.chunks.len()) && self.chunks.keys().last().copied() == self.last
    }
}

/// A copy that is in the store, as far as its chunks tell without all of it being read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct There {
    pub id: String,
    /// By the clock of the gateway that made it.
    pub made_ms: u64,
    /// Of the chunks that can be read now.
    pub bytes: u64,
    pub fleet: Option<String>,
    /// Whether every chunk of it can be read now.
    pub whole: bool,
}

/// All copies that are in the index's chunks, newest first. Names are not needed.
///
/// # Errors
/// The store's.
pub(crate) async fn list(path: &DataPath) -> Result<Vec<There>, SnapshotError> {
    let tell = |(name, parts): (Name, Parts)| There {
        id: hex::encode(name.id),
        made_ms: name.made.0,
        bytes: parts.bytes,
        fleet: parts.fleet.map(|fleet| fleet.to_string()),
        whole: parts.is_whole(),
    };
    Ok(find(path).await?.into_iter().map(tell).collect())
}

/// Writes a copy that is in the index's chunks into a file, which must not be there yet. Names are not needed.
///
/// - `chosen`: first digits of its id. `None`: the newest that is whole.
///
/// # Errors
/// [`SnapshotError::Wrong`] where there is none; `Refused` where the choice names none or several; the store's.
pub(crate) async fn fetch(path: &DataPath, out: &Path, chosen: Option<&str>) -> Result<Summary, SnapshotError> {
    if out.exists() {
        return Err(at(out)(std::io::ErrorKind::AlreadyExists.into()));
    }
    let mut found = find(path).await?;
    if let Some(digits) = chosen {
        choose(&mut found, digits)?;
    }
    let mut failed = wrong("no whole copy is in the store");
    for (name, parts) in found.into_iter().filter(|(_, parts)| parts.is_whole()) {
        match write(path, out, parts).await {
            Ok(summary) if summary.name == name => return Ok(summary),
            // One that says another's name is not what was asked for.
            Ok(_) => {
                std::fs::remove_file(out).map_err(at(out))?;
                failed = wrong("a copy under another's name");
            }
            Err(error) => {
                tracing::warn!(target: "breakwater", %error, made = name.made.0, "a copy in the store is passed over");
                failed = error;
            }
        }
    }
    Err(failed)
}

/// Leaves the one copy that `digits` name.
fn choose(found: &mut Vec<(Name, Parts)>, digits: &str) -> Result<(), SnapshotError> {
    let refused = |what: String| Err(SnapshotError::Refused { what });
    if digits.len() < DIGITS || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return refused(format!("{digits} is no copy: give its id, or at least its first {DIGITS} digits"));
    }
    let digits = digits.to_ascii_lowercase();
    found.retain(|(name, _)| hex::encode(name.id).starts_with(&digits));
    match &found[..] {
        [] => refused(format!("there is no copy {digits} in the store; `fetch` without a file lists those that there are")),
        [_] => Ok(()),
        several => refused(format!("{} copies begin with {digits}", several.len())),
    }
}

/// What the index's chunks of the reserved tenant say of themselves: copies, newest first.
async fn find(path: &DataPath) -> Result<Vec<(Name, Parts)>, SnapshotError> {
    let (mut found, mut after): (BTreeMap<Name, Parts>, _) = (BTreeMap::new(), None);
    loop {
        let answer = path.metadata().query(Query::Chunk(ChunkQuery::Scan { after, max: PAGE })).await?;
        let Answer::Chunk(ChunkAnswer::Scan(page)) = answer else { return Err(strange("a look at the index")) };
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        let is_ours = |record: &spine::wire::chunk::ChunkRecord| record.placement.as_ref().is_some_and(|p| p.sealed.tenant == TENANT);
        for (chunk, record) in page.iter().filter(|(_, record)| is_ours(record)) {
            // One that cannot be read now makes its copy one that is not whole.
            let Ok(Some(plain)) = path.chunk(*chunk).await else { continue };
            let Some(head) = Head::parse(&plain).filter(|head| head.len + HEAD_BYTES == plain.len()) else { continue };
            let parts = found.entry(head.name).or_default();
            parts.generation = parts.generation.max(record.generation);
            if parts.chunks.insert(head.number, *chunk).is_none() {
                parts.bytes += plain.len() as u64;
            }
            if head.last {
                parts.last = Some(head.number);
            }
            if head.number == 0 {
                parts.fleet = fleet(path.keys(), head.name, &plain);
            }
        }
    }
    let mut found: Vec<(Name, Parts)> = found.into_iter().collect();
    found.sort_by_key(|(name, parts)| std::cmp::Reverse((parts.generation, *name)));
    Ok(found)
}

/// Whose copy it is, by its first block.
fn fleet(keys: &Keys, name: Name, block: &[u8]) -> Option<FleetId> {
    let (_, payload) = Sealer::new(keys, name).open(0, block)?;
    let mut unpacker = Unpacker::default();
    unpacker.feed(&payload);
    match unpacker.next() {
        Ok(Some(Item::About { fleet, .. })) => fleet,
        _ => None,
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
