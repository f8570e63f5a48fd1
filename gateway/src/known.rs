//! What this gateway remembers of what it has read: which bucket a name means, what versions consist of, and where their chunks lie.
//!
//! Which version a key has is asked of the metadata by every read, so what was written through another gateway is seen by the next read
//! here. Of the rest,
//! - a bucket's record never changes and its id never comes again: in one that is gone nothing is found and nothing can be written, and
//!   whoever sees that asks which bucket has the name now (`s3/caller.rs`);
//! - a version's body and manifests never change, and its id never comes again: they stay until others need the room, and a read that
//!   has the body says which version's, and is only told if that is the current one;
//! - a chunk is moved, collected, and stored again under another generation: where it was is tried, whatever does not come from there is
//!   no fault of anybody, and the index is asked again (`fetch.rs`).
//!
//! Invariant: bounded in bytes, each of the four; the longest unused goes first.
//! Not here: reading (`read.rs`).

use crate::fetch::Located;
use crate::metric::LOOKUPS;
use lru::LruCache;
use spine::id::{BucketId, ChunkId, VersionId};
use spine::wire::chunk::Place;
use spine::wire::namespace::{Body, ChunkRef, Manifest, PartSummary, Piece, VersionBody};
use spine::wire::root::BucketRecord;
use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of each kind that are remembered: some 400,000 chunks' names, where some 20,000 chunks are, some 200,000 parts.
const ROOM: usize = 16 << 20;
/// Bytes of buckets' records that are remembered: some 5,000 of them.
const BUCKETS: usize = 1 << 20;
/// Pieces below which a body is not remembered.
const FEW: usize = 4;
/// Bytes of a part's checksum, at most.
const CHECKSUM: usize = 64;
/// What stands around an entry.
const FRAME: usize = 128;

type Key = (BucketId, String);
type Version = (VersionId, Arc<VersionBody>);

/// Memory of what was read.
pub struct Known {
    bodies: Mutex<Bounded<Key, Version>>,
    manifests: Mutex<Bounded<VersionId, Arc<Manifest>>>,
    places: Mutex<Bounded<ChunkId, Located>>,
    buckets: Mutex<Bounded<String, Arc<BucketRecord>>>,
}

impl Default for Known {
    fn default() -> Self {
        Known {
            bodies: Mutex::new(Bounded::new(ROOM)),
            manifests: Mutex::new(Bounded::new(ROOM)),
            places: Mutex::new(Bounded::new(ROOM)),
            buckets: Mutex::new(Bounded::new(BUCKETS)),
        }
    }
}

impl Known {
    /// A version that the key had, and its body.
    pub fn body(&self, bucket: BucketId, key: &str) -> Option<Version> {
        lock(&self.bodies).get(&(bucket, key.to_owned()))
    }

    /// What a version consists of, in one piece of it.
    pub fn manifest(&self, version: VersionId) -> Option<Arc<Manifest>> {
        told("manifest", lock(&self.manifests).get(&version))
    }

    /// Where a chunk was; it may be elsewhere by now.
    pub fn place(&self, chunk: ChunkId) -> Option<Located> {
        told("placement", lock(&self.places).get(&chunk))
    }

    /// The bucket that had this name.
    pub fn bucket(&self, name: &str) -> Option<Arc<BucketRecord>> {
        told("bucket", lock(&self.buckets).get(name))
    }

    /// The current version of a key. Bodies that are as short as the question about them are not remembered.
    pub fn learn_body(&self, bucket: BucketId, key: &str, version: VersionId, body: &Arc<VersionBody>) {
        let pieces = match &body.body {
            Body::Inline { .. } => 0,
            Body::Pieces(pieces) => pieces.len(),
        };
        let key = (bucket, key.to_owned());
        if pieces < FEW && body.parts.len() < FEW {
            return lock(&self.bodies).remove(&key);
        }
        let bytes = FRAME + key.1.len() + pieces * size_of::<Piece>() + body.parts.len() * (size_of::<PartSummary>() + CHECKSUM);
        lock(&self.bodies).put(key, (version, body.clone()), bytes);
    }

    pub fn learn_manifest(&self, version: VersionId, manifest: Arc<Manifest>) {
        let bytes = FRAME + manifest.chunks.len() * size_of::<ChunkRef>();
        lock(&self.manifests).put(version, manifest, bytes);
    }

    /// Where the index says that a chunk is.
    pub fn learn_place(&self, located: &Located) {
        let bytes = FRAME + size_of::<Located>() + located.placement.shards.len() * size_of::<Option<Place>>();
        lock(&self.places).put(located.chunk, Located { remembered: true, ..located.clone() }, bytes);
    }

    /// The bucket that has this name, or that none has. An answer that was overtaken, as its lower id shows, is nothing new.
    pub fn learn_bucket(&self, name: &str, record: Option<&Arc<BucketRecord>>) {
        let mut buckets = lock(&self.buckets);
        match record {
            Some(record) if buckets.get(name).is_some_and(|known| known.id > record.id) => {}
            Some(record) => {
                let bytes = FRAME + size_of::<BucketRecord>() + 2 * name.len() + record.location.len();
                buckets.put(name.to_owned(), record.clone(), bytes);
            }
            None => buckets.remove(name),
        }
    }

    /// Nothing was found in this bucket: it may be gone, and the one of before may be back, as after a restore of metadata.
    pub fn forget_bucket(&self, before: &BucketRecord) {
        let mut buckets = lock(&self.buckets);
        if buckets.get(&before.name).is_some_and(|known| known.id == before.id) {
            buckets.remove(&before.name);
        }
    }

    /// The chunk is not where it was.
    pub fn forget_place(&self, chunk: ChunkId) {
        lock(&self.places).remove(&chunk);
    }
}

fn told<T>(what: &'static str, found: Option<T>) -> Option<T> {
    LOOKUPS.with_label_values(&[what, if found.is_some() { "memory" } else { "metadata" }]).inc();
    found
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing panics while it is held; what a map has is right or gone.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A map whose entries' bytes are bounded.
struct Bounded<K: Hash + Eq, V> {
    entries: LruCache<K, (V, usize)>,
    bytes: usize,
    room: usize,
}

impl<K: Hash + Eq, V: Clone> Bounded<K, V> {
    fn new(room: usize) -> Self {
        Bounded { entries: LruCache::unbounded(), bytes: 0, room }
    }

    fn get<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.entries.get(key).map(|(value, _)| value.clone())
    }

    fn put(&mut self, key: K, value: V, bytes: usize) {
        if bytes > self.room {
            return;
        }
        self.remove(&key);
        self.entries.put(key, (value, bytes));
        self.bytes += bytes;
        while self.bytes > self.room
            && let Some((_, (_, freed))) = self.entries.pop_lru()
        {
            self.bytes -= freed;
        }
    }

    fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        if let Some((_, freed)) = self.entries.pop(key) {
            self.bytes -= freed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_for_longest_makes_room() {
        let mut map = Bounded::new(100);
        for key in 0..4u32 {
            map.put(key, key, 25);
        }
        assert_eq!(map.get(&0), Some(0));
        map.put(4, 4, 30);
        assert_eq!([0, 1, 2, 3, 4].map(|key| map.get(&key).is_some()), [true, false, false, true, true]);
        assert_eq!(map.bytes, 80);
        map.put(4, 5, 10);
        map.put(9, 9, 101);
        assert_eq!((map.get(&4), map.get(&9), map.bytes), (Some(5), None, 60));
        map.remove(&4);
        map.remove(&77);
        assert_eq!((map.bytes, map.entries.len()), (50, 2));
    }

    #[test]
    fn a_bucket_that_was_overtaken_is_nothing_new_until_the_one_that_is_known_was_found_to_be_gone() {
        use spine::id::{TenantId, UnixMs};
        use spine::wire::root::Versioning;
        let bucket = |id: u64| {
            Arc::new(BucketRecord {
                id: BucketId(id),
                name: "name".into(),
                tenant: TenantId(1),
                created: UnixMs(1),
                chunk_bytes: 1 << 20,
                versioning: Versioning::Unversioned,
                location: String::new(),
            })
        };
        let known = Known::default();
        known.learn_bucket("name", Some(&bucket(7)));
        known.learn_bucket("name", Some(&bucket(3)));
        assert_eq!(known.bucket("name"), Some(bucket(7)));
        // As after a restore of metadata that brought the one of before back.
        known.forget_bucket(&bucket(6));
        assert_eq!(known.bucket("name"), Some(bucket(7)));
        known.forget_bucket(&bucket(7));
        known.learn_bucket("name", Some(&bucket(3)));
        assert_eq!(known.bucket("name"), Some(bucket(3)));
    }
}
