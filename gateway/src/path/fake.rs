//! What the data path's tests run on: the real state machines on a map, and nodes that hold shards in memory and fail on request.

use super::{DataPath, Settings};
use crate::body::{BodyRequest, BodyStream, Name, WriteError};
use crate::keys::{Keys, RootKey};
use crate::write::StoredBody;
use bytes::Bytes;
use futures::StreamExt;
use metadata::machine;
use metadata::table::Space;
use metadata::table::memory::MemoryTable;
use spine::id::{BucketId, GroupId, NodeId, Seq, TenantId, UnixMs};
use spine::wire::chunk::{ChunkAnswer, ChunkQuery, ChunkRecord, ShardName, Totals};
use spine::wire::cluster::Row;
use spine::wire::copy::{CopyEnd, CopyPart, CopyQuery, CopyStep, Moment, Tally};
use spine::wire::namespace::{
    Attributes, Body, Condition, Etag, Manifest, NamespaceAnswer, NamespaceCommand, NamespaceQuery, NewVersion, VersionBody, VersionHead,
};
use spine::wire::range::{ALL_CHUNKS, ALL_NAMES};
use spine::wire::root::{BucketRecord, RootCommand, TenantRecord, Versioning};
use spine::wire::shard::{NodeError, NodeState, NodeStatus, ShardHeader, StorageNode};
use spine::wire::{Answer, Batch, Chain, Command, Metadata, MetadataError, Query, Reply};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The log's state machines without a log.
#[derive(Default)]
pub struct FakeMetadata {
    state: Mutex<(MemoryTable, u64)>,
    pub rounds: AtomicUsize,
    /// Proposals from now on that are applied but answered with an error.
    pub lose_answers: AtomicUsize,
    /// Milliseconds that a proposal takes.
    pub delay: AtomicU64,
}

impl FakeMetadata {
    /// From here on it is what `other` is now, as after a loss and a restore.
    pub fn go_on_as(&self, other: &FakeMetadata) {
        let state = other.state.lock().unwrap().clone();
        *self.state.lock().unwrap() = state;
    }
}

#[async_trait::async_trait]
impl Metadata for FakeMetadata {
    async fn propose(&self, batch: Batch) -> Result<Vec<Reply>, MetadataError> {
        self.rounds.fetch_add(1, Ordering::Relaxed);
        let delay = self.delay.load(Ordering::Relaxed);
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        let replies = {
            let (table, position) = &mut *self.state.lock().unwrap();
            *position += 1 + batch.commands.len() as u64;
            machine::apply(table, GroupId(0), &batch, Seq(*position)).map_err(MetadataError::from)?
        };
        let losing = self.lose_answers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if losing.is_ok() {
            return Err(MetadataError::Unavailable { reason: "the answer was lost".into() });
        }
        Ok(replies)
    }

    async fn query(&self, query: Query) -> Result<Answer, MetadataError> {
        let state = self.state.lock().unwrap();
        match query {
            Query::Copy(CopyQuery { step, .. }) => Ok(Answer::Copy(copy_of(&state.0, state.1, step))),
            query => machine::answer(&state.0, GroupId(0), &query),
        }
    }
}

/// All of it in one part.
fn copy_of(table: &MemoryTable, applied: u64, step: CopyStep) -> CopyPart {
    let of = Moment { next: Seq(applied + 1), names: Some(ALL_NAMES), chunks: Some(ALL_CHUNKS) };
    let (mut rows, mut tally) = (Vec::new(), Tally::default());
    if step != CopyStep::Part(0) {
        return CopyPart { of, rows, end: None };
    }
    for space in Space::ALL {
        for (key, value) in table.entries(space).filter(|(key, _)| !metadata::restore::is_left_out(space, key)) {
            tally.count(space as u8, key, value);
            rows.push(Row { space: space as u8, key: Bytes::copy_from_slice(key), value: Bytes::copy_from_slice(value) });
        }
    }
    let end = CopyEnd { next: of.next, rows: tally.rows(), digest: tally.digest() };
    CopyPart { of, rows, end: Some(end) }
}

/// How a node behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    #[default]
    Well,
    /// Every call fails, and it says so.
    Lost,
    /// Every call fails, though it says that it serves.
    Failing,
    /// Calls never return.
    Stuck,
    /// Gets take this long.
    Slow(Duration),
    /// Puts and trashing take this long.
    SlowPuts(Duration),
}

pub struct FakeNode {
    pub id: NodeId,
    mood: Mutex<Mood>,
    pub shards: Mutex<BTreeMap<ShardName, (ShardHeader, Bytes)>>,
    /// Those of them that it found damaged and says so.
    set_aside: Mutex<BTreeSet<ShardName>>,
    pub puts: AtomicUsize,
    pub gets: AtomicUsize,
}

impl FakeNode {
    pub fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    async fn behave(&self, reading: bool) -> Result<(), NodeError> {
        let mood = *self.mood.lock().unwrap();
        match mood {
            Mood::Well => Ok(()),
            Mood::Lost | Mood::Failing => Err(NodeError::Unavailable { reason: "as told".into() }),
            Mood::Stuck => std::future::pending().await,
            Mood::Slow(time) | Mood::SlowPuts(time) => {
                if reading == matches!(mood, Mood::Slow(_)) {
                    tokio::time::sleep(time).await;
                }
                Ok(())
            }
        }
    }

    /// Flips one bit of every shard.
    pub fn rot(&self) {
        for (_, data) in self.shards.lock().unwrap().values_mut() {
            let mut bytes = data.to_vec();
            let at = bytes.len() / 2;
            bytes[at] ^= 4;
            *data = bytes.into();
        }
    }

    /// Flips one bit of every shard and says that it was always so.
    pub fn lie(&self) {
        self.rot();
        for (header, data) in self.shards.lock().unwrap().values_mut() {
            header.root = crate::encode::root(data);
        }
    }

    /// Finds all that it has damaged, as a scrub does.
    pub fn spoil(&self) {
        self.set_aside.lock().unwrap().extend(self.shards.lock().unwrap().keys());
    }

    pub fn clear(&self) {
        self.shards.lock().unwrap().clear();
    }

    pub fn count(&self) -> usize {
        self.shards.lock().unwrap().len()
    }
}

#[async_trait::async_trait]
impl StorageNode for FakeNode {
    fn id(&self) -> NodeId {
        self.id
    }

    fn machine(&self) -> String {
        self.id.to_string()
    }

    fn status(&self) -> NodeStatus {
        let state = if *self.mood.lock().unwrap() == Mood::Lost { NodeState::Lost } else { NodeState::Serving };
        NodeStatus { state, capacity: 1 << 40, free: 1 << 39, shards: self.count() as u64, shard_bytes: 0, trash_bytes: 0 }
    }

    async fn put(&self, header: ShardHeader, data: Bytes) -> Result<(), NodeError> {
        self.puts.fetch_add(1, Ordering::Relaxed);
        self.behave(false).await?;
        assert_eq!(header.len as usize, data.len());
        let mut shards = self.shards.lock().unwrap();
        match shards.get(&header.name) {
            Some((there, _)) if there.root != header.root => Err(NodeError::Invalid { what: "another root".into() }),
            _ => {
                shards.insert(header.name, (header, data));
                Ok(())
            }
        }
    }

    async fn get(&self, name: ShardName) -> Result<(ShardHeader, Bytes), NodeError> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        self.behave(true).await?;
        if self.set_aside.lock().unwrap().contains(&name) {
            return Err(NodeError::Damaged { what: "as told".into() });
        }
        self.shards.lock().unwrap().get(&name).cloned().ok_or(NodeError::NotFound)
    }

    async fn has(&self, names: Vec<ShardName>) -> Result<Vec<bool>, NodeError> {
        self.behave(true).await?;
        let (shards, set_aside) = (self.shards.lock().unwrap(), self.set_aside.lock().unwrap());
        Ok(names.iter().map(|name| shards.contains_key(name) && !set_aside.contains(name)).collect())
    }

    async fn trash(&self, names: Vec<ShardName>) -> Result<(), NodeError> {
        self.behave(false).await?;
        let mut shards = self.shards.lock().unwrap();
        names.iter().for_each(|name| drop(shards.remove(name)));
        Ok(())
    }

    async fn list(&self, after: Option<ShardName>, max: usize) -> Result<Vec<(ShardName, u32)>, NodeError> {
        self.behave(true).await?;
        let shards = self.shards.lock().unwrap();
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        Ok(shards.range((from, std::ops::Bound::Unbounded)).take(max).map(|(name, (header, _))| (*name, header.len)).collect())
    }
}

pub const TENANT: TenantId = TenantId(7);
pub const CHUNK: u32 = 256 << 10;

/// A data path with one tenant and one bucket.
pub struct Rig {
    pub path: Arc<DataPath>,
    pub metadata: Arc<FakeMetadata>,
    pub nodes: Vec<Arc<FakeNode>>,
    pub keys: Arc<Keys>,
    pub bucket: BucketId,
}

/// Background work only when a test asks for it.
pub fn quiet() -> Settings {
    let never = Duration::from_secs(1 << 30);
    let balance = crate::balance::Settings { look: never, ..Default::default() };
    let mut settings = Settings { threads: 2, collect_interval: never, owe_interval: never, sweep_interval: never, ..Settings::default() };
    (settings.deliver_after, settings.balance, settings.only_gateway) = (never, balance, false);
    settings
}

pub async fn rig() -> Rig {
    rig_with(quiet(), 6).await
}

pub async fn rig_with(settings: Settings, nodes: u8) -> Rig {
    let metadata = Arc::new(FakeMetadata::default());
    let nodes: Vec<Arc<FakeNode>> = (1..=nodes)
        .map(|i| {
            Arc::new(FakeNode {
                id: NodeId([i; 32]),
                mood: Mutex::default(),
                shards: Mutex::default(),
                set_aside: Mutex::default(),
                puts: AtomicUsize::new(0),
                gets: AtomicUsize::new(0),
            })
        })
        .collect();
    let keys = Arc::new(Keys::new(RootKey::generate().unwrap()));
    for tenant in [TENANT, TenantId(8)] {
        let secret = keys.new_tenant_secret(tenant).unwrap();
        let record = TenantRecord { id: tenant, name: tenant.to_string(), secrets: vec![secret], created: UnixMs(0), revoked: false };
        root(&*metadata, RootCommand::CreateTenant(record)).await;
    }
    let record = BucketRecord {
        id: BucketId(0),
        name: "bucket".into(),
        tenant: TENANT,
        created: UnixMs(0),
        chunk_bytes: CHUNK,
        versioning: Versioning::Unversioned,
        location: String::new(),
    };
    let Reply::Bucket(bucket) = root(&*metadata, RootCommand::CreateBucket(record)).await else { panic!("no bucket") };
    let path = DataPath::new(settings, metadata.clone(), links(&nodes), keys.clone()).unwrap();
    Rig { path, metadata, nodes, keys, bucket: bucket.id }
}

fn links(nodes: &[Arc<FakeNode>]) -> Vec<Arc<dyn StorageNode>> {
    nodes.iter().map(|node| node.clone() as Arc<dyn StorageNode>).collect()
}

async fn root(metadata: &dyn Metadata, command: RootCommand) -> Reply {
    let batch = Batch { chain: Chain::Independent, commands: vec![Command::Root(command)] };
    metadata.propose(batch).await.unwrap().pop().unwrap()
}

/// Bytes that do not compress, different for every seed.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

pub fn request() -> BodyRequest {
    let name = Name::new(BucketId(1), "some/name");
    BodyRequest {
        tenant: TENANT,
        name,
        chunk_bytes: CHUNK,
        declared_len: None,
        max_len: 1 << 40,
        checksums: Vec::new(),
        inline_allowed: true,
    }
}

/// `data` as a connection would deliver it.
pub fn stream(data: &[u8]) -> BodyStream {
    let pieces: Vec<_> = data.chunks(50_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    Box::pin(futures::stream::iter(pieces))
}

impl Rig {
    pub async fn store(&self, data: &[u8]) -> Result<StoredBody, WriteError> {
        self.path.store(request(), stream(data)).await
    }

    pub async fn put(&self, key: &str, data: &[u8]) -> Result<Reply, WriteError> {
        let stored = self.store(data).await?;
        self.commit(key, stored).await
    }

    pub async fn commit(&self, key: &str, stored: StoredBody) -> Result<Reply, WriteError> {
        let (id, size, md5) = (stored.version, stored.size, stored.md5);
        let head = VersionHead {
            id,
            seq: Seq(0),
            modified: UnixMs(1),
            size,
            etag: Etag { md5, parts: None },
            checksum: None,
            attributes: Attributes::default(),
            tags: Vec::new(),
            upload: None,
        };
        let (bucket, key) = (self.bucket, key.to_string());
        let command = move |body: Body, manifest: Option<Manifest>| {
            let new = Box::new(NewVersion { head, body: VersionBody { body, parts: Vec::new() }, manifest });
            NamespaceCommand::Commit { bucket, key, new, condition: Condition::default() }
        };
        self.path.commit(stored, command).await
    }

    pub async fn body(&self, key: &str) -> Option<Body> {
        let query = Query::Namespace(NamespaceQuery::Open { bucket: self.bucket, key: key.to_string() });
        match self.metadata.query(query).await.unwrap() {
            Answer::Namespace(NamespaceAnswer::Open(open)) => open.map(|(_, body)| body.body),
            other => panic!("{other:?}"),
        }
    }

    /// The bytes of a range of a key; the error of the read or of the stream as text.
    pub async fn get(&self, key: &str, range: std::ops::Range<u64>) -> Result<Vec<u8>, String> {
        let body = self.body(key).await.ok_or("no such key")?;
        let mut stream = self.path.read(TENANT, &Name::new(self.bucket, key), &body, range).await.map_err(|error| error.to_string())?;
        let mut out = Vec::new();
        while let Some(piece) = stream.next().await {
            out.extend_from_slice(&piece.map_err(|error| format!("cut off: {error}"))?);
        }
        Ok(out)
    }

    pub async fn delete(&self, key: &str) {
        let command = NamespaceCommand::Delete { bucket: self.bucket, key: key.to_string(), condition: Condition::default() };
        let batch = Batch { chain: Chain::Independent, commands: vec![Command::Namespace(command)] };
        self.metadata.propose(batch).await.unwrap();
    }

    pub async fn totals(&self) -> Totals {
        match self.metadata.query(Query::Chunk(ChunkQuery::Totals)).await.unwrap() {
            Answer::Chunk(ChunkAnswer::Totals(totals)) => totals,
            other => panic!("{other:?}"),
        }
    }

    pub async fn records(&self) -> Vec<(spine::id::ChunkId, ChunkRecord)> {
        match self.metadata.query(Query::Chunk(ChunkQuery::Scan { after: None, max: 100_000 })).await.unwrap() {
            Answer::Chunk(ChunkAnswer::Scan(records)) => records,
            other => panic!("{other:?}"),
        }
    }

    pub async fn intents(&self) -> usize {
        match self.metadata.query(Query::Namespace(NamespaceQuery::Intents { after: None, max: 1_000 })).await.unwrap() {
            Answer::Namespace(NamespaceAnswer::Intents(intents)) => intents.len(),
            other => panic!("{other:?}"),
        }
    }

    pub fn shards(&self) -> usize {
        self.nodes.iter().map(|node| node.count()).sum()
    }

    /// Collects without grace until nothing is left to collect.
    pub async fn collect(&self) {
        self.path.core.intents.settle().await;
        self.path.collect_now(Duration::ZERO).await.unwrap();
    }

    /// Another life of the gateway on the same metadata and nodes.
    pub fn restart(&self, settings: Settings) -> Arc<DataPath> {
        DataPath::new(settings, self.metadata.clone(), links(&self.nodes), self.keys.clone()).unwrap()
    }
}
