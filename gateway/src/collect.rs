//! Frees what nobody refers to.
//!
//! ```text
//! reap      intents of dead writers, and those out of time   -> AbortIntent: the version is terminal, its Unref is in the outbox
//! outbox    terminal versions                                -> Unref until nothing is left -> OutboxDone
//! buckets   deletions that somebody has left                 -> gone on with (unmake.rs)
//! condemn   chunks without references                        -> Condemned as of now
//! delete    Condemned for longer than the grace              -> BeginDelete (only if still without references) -> nodes trash -> FinishDelete
//! sweep     shards on nodes that the index does not name     -> trash, within limits (sweep.rs)
//! ```
//! Of several gateways, the one that has the lease does it (`lease.rs`).
//! Invariants: every arrow is a log entry or follows from one; each step may be cut off anywhere and repeated; no shard is
//! trashed without a logged BeginDelete, a Move, or the sweep's proof; a version being read in this process keeps its references.
//! Not here: what the index allows (`metadata`'s chunk index), how long nodes keep their trash.

pub mod sweep;

use crate::body::WriteError;
use crate::core::{Core, now};
use crate::dedup::unexpected;
use crate::metric;
use crate::reindex;
use crate::unmake;
use spine::id::{BucketId, ChunkId, Gen, NodeId, ShardIndex, Tag, UnixMs, VersionId, WriterId};
use spine::wire::chunk::{ChunkAnswer, ChunkCommand, ChunkQuery, ChunkRecord, ShardName};
use spine::wire::namespace::{IntentRecord, NamespaceAnswer, NamespaceCommand, NamespaceQuery, OutboxEntry};
use spine::wire::range::ALL_CHUNKS;
use spine::wire::{Answer, Batch, Chain, Command, MetadataError, Query, Reply};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Chunks in one query or command of the collector.
const STEP: usize = 1_024;
/// Versions released in one proposal: each may drop as many references as one Unref may.
const RELEASE_STEP: usize = 64;
/// An intent of this process that no write holds is given this long: its write may just be closing it.
const OWN_GRACE: Duration = Duration::from_secs(60);
/// The first sweep after a start waits at most this long.
const FIRST_SWEEP: Duration = Duration::from_secs(3_600);

/// How soon a gateway that has got the lease begins.
const LEASE_LOOK: Duration = Duration::from_secs(5);

/// What one cycle did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Intents aborted: of dead writers, or out of time.
    pub aborted: u64,
    /// Terminal versions whose references were dropped.
    pub released: u64,
    /// Chunks that began to be deleted.
    pub begun: u64,
    /// Chunks whose shards were trashed and whose record is gone.
    pub deleted: u64,
    /// Chunks that wait for a node to answer.
    pub waiting: u64,
}

/// Runs one cycle now.
pub(crate) async fn cycle_now(core: &Arc<Core>, grace: Duration) -> Result<Collected, WriteError> {
    cycle(core, &mut Patience::default(), grace).await
}

/// The background worker. Never returns.
pub(crate) async fn run(core: Arc<Core>) {
    let mut patience = Patience::default();
    let mut sweep_at = Instant::now() + FIRST_SWEEP.min(core.settings.sweep_interval);
    let mut inherited = core.settings.shared || !core.settings.only_gateway;
    loop {
        if !core.lease.is_mine() {
            tokio::time::sleep(core.settings.collect_interval.min(LEASE_LOOK)).await;
            continue;
        }
        if !inherited {
            match reap(&core, |writer, _| writer != core.intents.writer()).await {
                Ok(aborted) => {
                    inherited = true;
                    tracing::info!(aborted, "aborted the unfinished writes of earlier processes");
                }
                Err(error) => tracing::warn!(%error, "unfinished writes of earlier processes could not be aborted yet"),
            }
        }
        match cycle(&core, &mut patience, core.settings.collect_grace).await {
            Ok(collected) if collected != Collected::default() => tracing::debug!(?collected, "collected"),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the collector will try again"),
        }
        if Instant::now() >= sweep_at {
            sweep_at = Instant::now() + core.settings.sweep_interval;
            if let Err(error) = sweep::all(&core, false).await {
                tracing::warn!(%error, "the sweep will try again");
            }
        }
        tokio::time::sleep(core.settings.collect_interval).await;
    }
}

async fn cycle(core: &Core, patience: &mut Patience, grace: Duration) -> Result<Collected, WriteError> {
    let time = now();
    let mut done =
        Collected { aborted: reap(core, |writer, renewed| is_stale(core, writer, renewed, time)).await?, ..Collected::default() };
    done.released = release(core).await?;
    finish_deletions(core, patience).await;
    // The log holds these two in any case; asking first spares it proposals that do nothing.
    let held = reindex::is_held(core).await?;
    metric::COLLECTION_HELD.set(i64::from(held));
    if !held {
        condemn(core, time).await?;
        done.begun = begin_delete(core, UnixMs(time.0.saturating_sub(millis(grace)))).await?;
    }
    (done.deleted, done.waiting) = delete(core, patience).await?;
    show_totals(core).await?;
    Ok(done)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Whether an intent last renewed at `renewed` is nobody's any more. What this process's own list says is asked by the caller.
fn is_stale(core: &Core, writer: WriterId, renewed: UnixMs, now: UnixMs) -> bool {
    let age = Duration::from_millis(now.0.saturating_sub(renewed.0));
    age > core.settings.intent_ttl || (writer == core.intents.writer() && age > OWN_GRACE)
}

/// Aborts intents that `over` says are nobody's, except those that a write of this process holds and keeps renewing.
async fn reap(core: &Core, over: impl Fn(WriterId, UnixMs) -> bool) -> Result<u64, WriteError> {
    let ttl = millis(core.settings.intent_ttl);
    let (mut after, mut aborted) = (None, 0);
    loop {
        let query = NamespaceQuery::Intents { after, max: STEP };
        let Answer::Namespace(NamespaceAnswer::Intents(intents)) = core.metadata.query(Query::Namespace(query)).await? else {
            return Err(unexpected("Intents", &"something else"));
        };
        let Some(last) = intents.last() else { return Ok(aborted) };
        after = Some(last.version);
        let out_of_time = |renewed: UnixMs| now().0.saturating_sub(renewed.0) > ttl;
        let stale = intents
            .iter()
            .filter(|open| over(open.writer, open.renewed) && (!core.intents.is_open(open.version) || out_of_time(open.renewed)))
            .cloned();
        let commands: Vec<Command> = stale
            .map(|IntentRecord { version, bucket, key, .. }| Command::Namespace(NamespaceCommand::AbortIntent { version, bucket, key }))
            .collect();
        if !commands.is_empty() {
            aborted += commands.len() as u64;
            metric::INTENTS_ABORTED.inc_by(commands.len() as u64);
            core.metadata.propose(Batch { chain: Chain::Independent, commands }).await?;
        }
    }
}

/// Drops the references of terminal versions, but for those being read.
async fn release(core: &Core) -> Result<u64, WriteError> {
    let mut released = 0;
    let mut skipped = 0;
    loop {
        let query = NamespaceQuery::Outbox { max: RELEASE_STEP + skipped };
        let Answer::Namespace(NamespaceAnswer::Outbox(entries)) = core.metadata.query(Query::Namespace(query)).await? else {
            return Err(unexpected("Outbox", &"something else"));
        };
        let (free, held): (Vec<OutboxEntry>, Vec<OutboxEntry>) =
            entries.into_iter().partition(|entry| core.readers.begin_release(entry.version));
        let outcome = if free.is_empty() { Ok(()) } else { release_these(core, &free).await };
        core.readers.end_release(free.iter().map(|entry| entry.version));
        outcome?;
        released += free.len() as u64;
        skipped = held.len();
        if free.is_empty() {
            return Ok(released);
        }
    }
}

async fn release_these(core: &Core, entries: &[OutboxEntry]) -> Result<(), WriteError> {
    let mut versions: Vec<VersionId> = entries.iter().map(|entry| entry.version).collect();
    while !versions.is_empty() {
        let commands = versions.iter().map(|version| Command::Chunk(ChunkCommand::Unref { version: *version, span: ALL_CHUNKS })).collect();
        let replies = core.metadata.propose(Batch { chain: Chain::Independent, commands }).await?;
        let more = |reply: &Reply| !matches!(reply, Reply::Unreferenced { more: false });
        let left: Vec<VersionId> = versions.iter().zip(&replies).filter(|(_, reply)| more(reply)).map(|(version, _)| *version).collect();
        if let Some(strange) = replies.iter().find(|reply| !matches!(reply, Reply::Unreferenced { .. })) {
            return Err(unexpected("Unref", strange));
        }
        versions = left;
    }
    let done = Command::Namespace(NamespaceCommand::OutboxDone { entries: entries.to_vec() });
    core.metadata.propose(Batch { chain: Chain::Independent, commands: vec![done] }).await?;
    metric::OUTBOX_DONE.inc_by(entries.len() as u64);
    Ok(())
}

/// Goes on with deletions of buckets that somebody has left: those whose round has not changed since the last cycle.
async fn finish_deletions(core: &Core, patience: &mut Patience) {
    let marked = match unmake::marked(&*core.metadata).await {
        Ok(marked) => marked,
        Err(error) => {
            tracing::debug!(%error, "buckets that are being deleted were not looked at");
            return;
        }
    };
    let left = marked.iter().filter(|(record, round)| patience.deleting.get(&record.id) == Some(round));
    for (record, _) in left {
        if let Err(error) = unmake::resume(&*core.metadata, record).await {
            tracing::warn!(bucket = record.name, %error, "a bucket's deletion will be tried again");
        }
    }
    patience.deleting = marked.into_iter().map(|(record, round)| (record.id, round)).collect();
}

/// Begins the grace of every chunk without references.
async fn condemn(core: &Core, time: UnixMs) -> Result<(), WriteError> {
    let mut before = None;
    loop {
        let chunks = ids(core, ChunkQuery::Unreferenced { max: STEP }).await?;
        // A page that comes back unchanged would come back for ever.
        if chunks.is_empty() || before.as_ref() == Some(&chunks) {
            return Ok(());
        }
        metric::CONDEMNED.inc_by(chunks.len() as u64);
        let command = Command::Chunk(ChunkCommand::Condemn { chunks: chunks.clone(), now: time });
        core.metadata.propose(Batch { chain: Chain::Independent, commands: vec![command] }).await?;
        before = Some(chunks);
    }
}

/// Begins to delete what was condemned at or before `before` and is still without references.
async fn begin_delete(core: &Core, before: UnixMs) -> Result<u64, WriteError> {
    let mut begun = 0;
    let mut last = None;
    loop {
        let chunks = ids(core, ChunkQuery::Condemned { before, max: STEP }).await?;
        if chunks.is_empty() || last.as_ref() == Some(&chunks) {
            return Ok(begun);
        }
        let command = Command::Chunk(ChunkCommand::BeginDelete { chunks: chunks.clone() });
        let mut replies = core.metadata.propose(Batch { chain: Chain::Independent, commands: vec![command] }).await?;
        match replies.pop() {
            Some(Reply::Deleting(these)) => begun += these.len() as u64,
            other => return Err(unexpected("BeginDelete", &other)),
        }
        last = Some(chunks);
    }
}

async fn ids(core: &Core, query: ChunkQuery) -> Result<Vec<(ChunkId, Gen)>, WriteError> {
    match core.metadata.query(Query::Chunk(query)).await? {
        Answer::Chunk(ChunkAnswer::Ids(ids)) => Ok(ids),
        other => Err(unexpected("a list of chunks", &other)),
    }
}

/// Since when nodes have not answered, and what else is given time from one cycle to the next.
#[derive(Default)]
struct Patience {
    silent_since: HashMap<NodeId, Instant>,
    /// Buckets that were being deleted at the last cycle, and in which round.
    deleting: HashMap<BucketId, u64>,
}

impl Patience {
    /// Whether deletion goes on without this node, whose shards are then the sweep's.
    fn is_over(&self, node: NodeId, limit: Duration) -> bool {
        self.silent_since.get(&node).is_some_and(|since| since.elapsed() > limit)
    }
}

/// Has the nodes trash the shards of Deleting chunks, and forgets the chunks whose nodes all did.
async fn delete(core: &Core, patience: &mut Patience) -> Result<(u64, u64), WriteError> {
    let mut deleted = 0;
    loop {
        let Answer::Chunk(ChunkAnswer::Scan(records)) = core.metadata.query(Query::Chunk(ChunkQuery::Deleting { max: STEP })).await? else {
            return Err(unexpected("Deleting", &"something else"));
        };
        if records.is_empty() {
            return Ok((deleted, 0));
        }
        let by_node = shards_by_node(&records);
        let silent = trash(core, &by_node, patience).await;
        let waits = |record: &ChunkRecord| holders(record).any(|node| silent.contains(&node));
        let done: Vec<(ChunkId, Gen)> =
            records.iter().filter(|(_, record)| !waits(record)).map(|(chunk, record)| (*chunk, record.generation)).collect();
        if done.is_empty() {
            return Ok((deleted, records.len() as u64));
        }
        deleted += done.len() as u64;
        metric::COLLECTED.inc_by(done.len() as u64);
        let command = Command::Chunk(ChunkCommand::FinishDelete { chunks: done });
        core.metadata.propose(Batch { chain: Chain::Independent, commands: vec![command] }).await?;
    }
}

fn holders(record: &ChunkRecord) -> impl Iterator<Item = NodeId> + '_ {
    record.placement.iter().flat_map(|placement| placement.shards.iter().flatten().map(|place| place.node))
}

/// Every shard that the records name, by the node it lies on.
fn shards_by_node(records: &[(ChunkId, ChunkRecord)]) -> HashMap<NodeId, Vec<ShardName>> {
    let mut by_node: HashMap<NodeId, Vec<ShardName>> = HashMap::new();
    for (chunk, record) in records {
        let mut add = |node: NodeId, index: ShardIndex, tag: Tag| {
            by_node.entry(node).or_default().push(ShardName { chunk: *chunk, generation: record.generation, index, tag });
        };
        let placed = record.placement.iter().flat_map(|placement| placement.shards.iter().enumerate());
        placed.for_each(|(index, place)| {
            if let Some(place) = place {
                add(place.node, ShardIndex(index as u8), place.tag);
            }
        });
        record.targets.iter().for_each(|(index, node, tag)| add(*node, *index, *tag));
    }
    by_node
}

/// Nodes that did not trash theirs and are still waited for.
async fn trash(core: &Core, by_node: &HashMap<NodeId, Vec<ShardName>>, patience: &mut Patience) -> HashSet<NodeId> {
    let calls = by_node.iter().map(|(id, names)| async move {
        match core.nodes.get(*id) {
            Some(node) => (*id, node.link.trash(names.clone()).await.map_err(|error| error.to_string())),
            None => (*id, Err("the node is not part of this deployment".to_string())),
        }
    });
    let mut silent = HashSet::new();
    for (id, result) in futures::future::join_all(calls).await {
        match result {
            Ok(()) => {
                patience.silent_since.remove(&id);
            }
            Err(error) => {
                patience.silent_since.entry(id).or_insert_with(Instant::now);
                if !patience.is_over(id, core.settings.node_patience) {
                    tracing::debug!(node = %id, error, "shards wait to be trashed");
                    silent.insert(id);
                }
            }
        }
    }
    silent
}

async fn show_totals(core: &Core) -> Result<(), MetadataError> {
    if let Answer::Chunk(ChunkAnswer::Totals(totals)) = core.metadata.query(Query::Chunk(ChunkQuery::Totals)).await? {
        let show = |gauge: &prometheus::IntGauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        show(&metric::CHUNKS, totals.chunks);
        show(&metric::CHUNK_REFERENCES, totals.references);
        show(&metric::CHUNKS_OWED, totals.owed);
        show(&metric::DURABLE_PLAIN, totals.plain_bytes);
        show(&metric::DURABLE_SEALED, totals.sealed_bytes);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
