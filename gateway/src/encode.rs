//! From plaintext to shards with roots, in one hop on a computing thread.
//!
//! Invariant: the same plaintext under the same keys and code gives the same shards, whoever makes them and when.
//! Not here: the code's arithmetic (`spine::erasure`), who gets a shard (`store.rs`).

use crate::keys::EpochKeys;
use crate::metric::{CHUNKS_NEW, PLAIN_BYTES, SEALED_BYTES, Stage};
use crate::seal;
use bytes::Bytes;
use spine::erasure::Coder;
use spine::id::{ChunkId, ShardRoot};
use spine::wire::chunk::Sealed;

/// One chunk, ready to be stored.
pub struct Encoded {
    pub sealed: Sealed,
    /// By index, `k + m` long, each with the BLAKE3 root over its bytes.
    pub shards: Vec<(Bytes, ShardRoot)>,
}

/// Compresses if that pays, encrypts, codes and roots one chunk.
pub fn encode(coder: &Coder, keys: &EpochKeys, id: ChunkId, plain: &[u8]) -> Encoded {
    let chunk = seal::seal(keys, id, plain, |sealed_len| coder.padded_len(sealed_len));
    CHUNKS_NEW.inc();
    PLAIN_BYTES.inc_by(plain.len() as u64);
    SEALED_BYTES.inc_by(chunk.sealed.len() as u64);
    let sealed = Sealed {
        tenant: keys.tenant,
        epoch: keys.epoch,
        codec: chunk.codec,
        len: chunk.len,
        // At most `limit::SEALED_MAX_BYTES`.
        sealed_len: chunk.sealed.len() as u32,
        k: coder.k() as u8,
        m: coder.m() as u8,
    };
    let shards = Stage::Encode.time(|| coder.encode(chunk.sealed));
    let shards = Stage::Root.time(|| {
        shards
            .into_iter()
            .map(|shard| {
                let root = root(&shard);
                (shard, root)
            })
            .collect()
    });
    Encoded { sealed, shards }
}

/// The root of a shard's bytes.
pub fn root(shard: &[u8]) -> ShardRoot {
    ShardRoot(*blake3::hash(shard).as_bytes())
}
