//! What this gateway remembers of bodies that it has read: the manifests of their versions, and where their chunks lie.
//!
//! Which version a key has is not remembered: every read asks the metadata for it, so what was written through another gateway is seen
//! by the next read here. Of the rest,
//! - a manifest never changes, and the id of its version never comes again: it stays until others need the room;
//! - a chunk is moved, collected, and stored again under another generation: where it was is tried, whatever does not come from there is
//!   no fault of anybody, and the index is asked again (`fetch.rs`).
//!
//! Invariant: bounded in bytes, each of the two; the longest unused goes first.
//! Not here: reading (`read.rs`).

use crate::fetch::Located;
use crate::metric::LOOKUPS;
use lru::LruCache;
use spine::id::{ChunkId, VersionId};
use spine::wire::chunk::Place;
use spine::wire::namespace::{ChunkRef, Manifest};
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of either kind that are remembered: some 400,000 chunks' names, and where some 20,000 chunks are.
const ROOM: usize = 16 << 20;
/// What stands around an entry.
const FRAME: usize = 128;

/// Memory of what was read.
pub struct Known {
    manifests: Mutex<Bounded<VersionId, Arc<Manifest>>>,
    places: Mutex<Bounded<ChunkId, Located>>,
}

impl Default for Known {
    fn default() -> Self {
        Known::with_room(ROOM)
    }
}

impl Known {
    /// Remembers at most `room` bytes of either kind.
    pub fn with_room(room: usize) -> Self {
        Known { manifests: Mutex::new(Bounded::new(room)), places: Mutex::new(Bounded::new(room)) }
    }

    /// What a version consists of.
    pub fn manifest(&self, version: VersionId) -> Option<Arc<Manifest>> {
        told("manifest", lock(&self.manifests).get(&version))
    }

    /// Where a chunk was; it may be elsewhere by now.
    pub fn place(&self, chunk: ChunkId) -> Option<Located> {
        told("placement", lock(&self.places).get(&chunk))
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

    fn get(&mut self, key: &K) -> Option<V> {
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

    fn remove(&mut self, key: &K) {
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
}
