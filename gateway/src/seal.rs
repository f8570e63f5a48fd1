//! Sealing: a chunk's name, and its bytes compressed if that pays, encrypted and authenticated.
//!
//! ```text
//! ChunkId   = BLAKE3_keyed(K_id, plaintext)
//! chunk key = BLAKE3_keyed(K_enc, ChunkId | codec)
//! Plain:  sealed = | AES-256-GCM(plaintext)  | tag 16 |               nonce = 0
//! Zstd:   sealed = | nonce 12 | AES-256-GCM(compressed) | tag 16 |    nonce = BLAKE3_keyed(K_nonce, compressed)[..12]
//! AAD     = | "BWC1" | tenant u64 | epoch u32 | ChunkId 32 | codec u8 | plaintext length u32 |      big-endian
//! ```
//!
//! Invariants: one (key, nonce) never sees two messages: the plain message is fixed by the ChunkId in the key, the
//! compressed one by its own hash in the nonce. Sealing is deterministic, so that retries and rival writers make identical
//! shards. Nothing that differs between two writers of a chunk goes into it. What opens was sealed as exactly this chunk.
//! Not here: erasure coding (`encode.rs`), key wrapping (`keys.rs`).

use crate::compress;
use crate::keys::EpochKeys;
use crate::metric::Stage;
use aes_gcm::aead::{AeadInOut, KeyInit};
use aws_lc_rs::aead;
use bytes::Bytes;
use spine::id::ChunkId;
use spine::wire::namespace::Codec;

/// AES-GCM's tag.
const TAG: usize = 16;
const NONCE: usize = 12;
const FORMAT: &[u8; 4] = b"BWC1";
const AAD: usize = 4 + 8 + 4 + 32 + 1 + 4;

/// A chunk, sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedChunk {
    pub codec: Codec,
    /// Plaintext bytes.
    pub len: u32,
    pub sealed: Vec<u8>,
}

/// A sealed chunk is not what was sealed: altered, cut, or sealed as something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a sealed chunk does not open. step=`{0}`")]
pub struct DoesNotOpen(pub &'static str);

/// Which code does AES-256-GCM. Both give the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// The one rustls brings: 54 ms of CPU a GiB here.
    AwsLc,
    /// Pure Rust: 290 ms a GiB; holds the other to the standard.
    AesGcm,
}

/// The chunk's name under these keys.
pub fn chunk_id(keys: &EpochKeys, plain: &[u8]) -> ChunkId {
    ChunkId(*blake3::keyed_hash(&keys.id, plain).as_bytes())
}

/// Compresses if that pays, and encrypts. `room` is the capacity to give the result (at least what it needs is taken).
pub fn seal(keys: &EpochKeys, id: ChunkId, plain: &[u8], room: impl Fn(usize) -> usize) -> SealedChunk {
    let packed = Stage::Compress.time(|| compress::compress(plain));
    Stage::Seal.time(|| match packed {
        None => encrypt(Engine::AwsLc, keys, id, Codec::Plain, plain.len() as u32, plain, room),
        Some(packed) => encrypt(Engine::AwsLc, keys, id, Codec::Zstd, plain.len() as u32, &packed, room),
    })
}

/// The plaintext of a sealed chunk, decrypted in place and checked against its name.
///
/// # Errors
/// [`DoesNotOpen`] says which step refused; nothing of the bytes is given out.
pub fn open(keys: &EpochKeys, id: ChunkId, codec: Codec, len: u32, sealed: Vec<u8>) -> Result<Bytes, DoesNotOpen> {
    let message = decrypt(Engine::AwsLc, keys, id, codec, len, sealed)?;
    let plain = match codec {
        Codec::Plain => message,
        Codec::Zstd => Bytes::from(compress::decompress(&message, len as usize).ok_or(DoesNotOpen("decompress"))?),
    };
    if plain.len() != len as usize {
        return Err(DoesNotOpen("length"));
    }
    if chunk_id(keys, &plain) != id {
        return Err(DoesNotOpen("chunk id"));
    }
    Ok(plain)
}

/// Encrypts `message`, which is the plaintext of `len` bytes or what it was compressed to.
fn encrypt(
    engine: Engine,
    keys: &EpochKeys,
    id: ChunkId,
    codec: Codec,
    len: u32,
    message: &[u8],
    room: impl Fn(usize) -> usize,
) -> SealedChunk {
    let nonce = match codec {
        Codec::Plain => [0; NONCE],
        Codec::Zstd => message_nonce(keys, message),
    };
    let start = if codec == Codec::Zstd { NONCE } else { 0 };
    let total = start + message.len() + TAG;
    let mut sealed = Vec::with_capacity(room(total).max(total));
    sealed.extend_from_slice(&nonce[..start]);
    let key = chunk_key(keys, id, codec);
    let aad = aad(keys, id, codec, len);
    match engine {
        Engine::AwsLc => {
            sealed.resize(total, 0);
            let (cipher, tag) = sealed[start..].split_at_mut(message.len());
            let key = aead::LessSafeKey::new(
                aead::UnboundKey::new(&aead::AES_256_GCM, &key).unwrap_or_else(|_| unreachable!("a key of 32 bytes")),
            );
            let nonce = aead::Nonce::assume_unique_for_key(nonce);
            let done = key.seal_out_of_place_scatter(nonce, aead::Aad::from(aad), message, cipher, &[], tag);
            done.unwrap_or_else(|_| unreachable!("the buffers fit and the message is under 64 GiB"));
        }
        Engine::AesGcm => {
            sealed.extend_from_slice(message);
            let cipher = aes_gcm::Aes256Gcm::new(&key.into());
            let tag = cipher.encrypt_inout_detached(&nonce.into(), &aad, (&mut sealed[start..]).into());
            let tag = tag.unwrap_or_else(|_| unreachable!("the message is under 64 GiB"));
            sealed.extend_from_slice(&tag);
        }
    }
    SealedChunk { codec, len, sealed }
}

/// The message of a sealed chunk, decrypted in its own buffer.
fn decrypt(engine: Engine, keys: &EpochKeys, id: ChunkId, codec: Codec, len: u32, mut sealed: Vec<u8>) -> Result<Bytes, DoesNotOpen> {
    let start = if codec == Codec::Zstd { NONCE } else { 0 };
    let end = sealed.len().checked_sub(TAG).filter(|end| *end >= start).ok_or(DoesNotOpen("too short"))?;
    let mut nonce = [0; NONCE];
    nonce[..start].copy_from_slice(&sealed[..start]);
    let key = chunk_key(keys, id, codec);
    let aad = aad(keys, id, codec, len);
    let body = &mut sealed[start..];
    match engine {
        Engine::AwsLc => {
            let key = aead::UnboundKey::new(&aead::AES_256_GCM, &key).map_err(|_| DoesNotOpen("key"))?;
            let nonce = aead::Nonce::assume_unique_for_key(nonce);
            aead::LessSafeKey::new(key).open_in_place(nonce, aead::Aad::from(aad), body).map_err(|_| DoesNotOpen("authentication"))?;
        }
        Engine::AesGcm => {
            let (message, tag) = body.split_at_mut(end - start);
            let tag: [u8; TAG] = (&*tag).try_into().map_err(|_| DoesNotOpen("too short"))?;
            let cipher = aes_gcm::Aes256Gcm::new(&key.into());
            cipher.decrypt_inout_detached(&nonce.into(), &aad, message.into(), &tag.into()).map_err(|_| DoesNotOpen("authentication"))?;
        }
    }
    Ok(Bytes::from(sealed).slice(start..end))
}

fn chunk_key(keys: &EpochKeys, id: ChunkId, codec: Codec) -> [u8; 32] {
    let mut name = [0; 33];
    name[..32].copy_from_slice(&id.0);
    name[32] = codec_byte(codec);
    *blake3::keyed_hash(&keys.enc, &name).as_bytes()
}

fn message_nonce(keys: &EpochKeys, message: &[u8]) -> [u8; NONCE] {
    let mut nonce = [0; NONCE];
    nonce.copy_from_slice(&blake3::keyed_hash(&keys.nonce, message).as_bytes()[..NONCE]);
    nonce
}

fn aad(keys: &EpochKeys, id: ChunkId, codec: Codec, len: u32) -> [u8; AAD] {
    let mut aad = [0; AAD];
    aad[..4].copy_from_slice(FORMAT);
    aad[4..12].copy_from_slice(&keys.tenant.0.to_be_bytes());
    aad[12..16].copy_from_slice(&keys.epoch.0.to_be_bytes());
    aad[16..48].copy_from_slice(&id.0);
    aad[48] = codec_byte(codec);
    aad[49..].copy_from_slice(&len.to_be_bytes());
    aad
}

/// Part of the format: never changes.
fn codec_byte(codec: Codec) -> u8 {
    match codec {
        Codec::Plain => 0,
        Codec::Zstd => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use spine::id::{KeyEpoch, TenantId};

    fn keys(tenant: u64, epoch: u32) -> EpochKeys {
        EpochKeys::derive(TenantId(tenant), KeyEpoch(epoch), &[tenant as u8; 32])
    }

    fn sealed(keys: &EpochKeys, plain: &[u8]) -> (ChunkId, SealedChunk) {
        let id = chunk_id(keys, plain);
        (id, seal(keys, id, plain, |n| n))
    }

    #[test]
    fn the_bytes_of_a_sealed_chunk_never_change() {
        let keys = keys(1, 0);
        let (id, chunk) = sealed(&keys, b"breakwater");
        assert_eq!((id.to_string().as_str(), hex::encode(&chunk.sealed).as_str()), GOLDEN_PLAIN);
        let id = chunk_id(&keys, &[0; 300]);
        let packed = encrypt(Engine::AwsLc, &keys, id, Codec::Zstd, 300, b"as if compressed", |n| n);
        assert_eq!((id.to_string().as_str(), hex::encode(&packed.sealed).as_str()), GOLDEN_ZSTD);
    }
    // Computed by a second implementation of the formulas at the top of this file, in another language.
    const GOLDEN_PLAIN: (&str, &str) =
        ("d43479c5c6363d9c7b16acc4eb3bea02c064970df71c02ac16f70923bfd64b26", "001c18524ede37833f5d61e7086e4fd887e21cbfda73e51eda6c");
    const GOLDEN_ZSTD: (&str, &str) = (
        "a6dccb06f6446d4b28c040ada451765bf57ad845f3e63f649e4bf2d118348e2a",
        "ca2c98fd577b9f29be33f1f4392511b2abb6f7eaf018420a067275b57b59c9fe03abd4cae3bd44089af1d466",
    );

    #[test]
    fn a_plain_chunk_opens_in_its_own_buffer() {
        let keys = keys(1, 0);
        let mut plain = vec![0; 100_000];
        blake3::Hasher::new().finalize_xof().fill(&mut plain);
        let (id, chunk) = sealed(&keys, &plain);
        assert_eq!((chunk.codec, chunk.sealed.len()), (Codec::Plain, 100_016));
        let at = chunk.sealed.as_ptr();
        let opened = open(&keys, id, chunk.codec, chunk.len, chunk.sealed).unwrap();
        assert_eq!(opened.as_ptr(), at);
        assert_eq!(opened, plain);
    }

    #[test]
    fn two_codecs_of_one_chunk_share_neither_key_nor_nonce() {
        let keys = keys(1, 0);
        let id = chunk_id(&keys, b"x");
        assert_ne!(chunk_key(&keys, id, Codec::Plain), chunk_key(&keys, id, Codec::Zstd));
        assert_ne!(message_nonce(&keys, b"one"), message_nonce(&keys, b"two"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn sealing_is_deterministic_and_opens(noise in proptest::collection::vec(any::<u8>(), 0..5_000), zeros in 0usize..50_000) {
            let keys = keys(3, 1);
            let mut plain = noise;
            plain.resize(plain.len() + zeros, 0);
            let (id, chunk) = sealed(&keys, &plain);
            prop_assert_eq!(&sealed(&keys, &plain).1, &chunk);
            prop_assert_eq!(open(&keys, id, chunk.codec, chunk.len, chunk.sealed).unwrap(), plain);
        }

        #[test]
        fn both_engines_make_and_open_the_same_bytes(message in proptest::collection::vec(any::<u8>(), 0..3_000), zstd in any::<bool>(), len in any::<u32>()) {
            let keys = keys(9, 4);
            let codec = if zstd { Codec::Zstd } else { Codec::Plain };
            let id = chunk_id(&keys, &message);
            let fast = encrypt(Engine::AwsLc, &keys, id, codec, len, &message, |n| n);
            let slow = encrypt(Engine::AesGcm, &keys, id, codec, len, &message, |n| n);
            prop_assert_eq!(&fast, &slow);
            prop_assert_eq!(decrypt(Engine::AwsLc, &keys, id, codec, len, slow.sealed).unwrap(), message.clone());
            prop_assert_eq!(decrypt(Engine::AesGcm, &keys, id, codec, len, fast.sealed).unwrap(), message);
        }

        #[test]
        fn a_flipped_bit_or_another_identity_never_opens(plain in proptest::collection::vec(any::<u8>(), 1..2_000), at in any::<prop::sample::Index>(), bit in 0u8..8, cut in 1usize..40) {
            let keys = keys(5, 2);
            let (id, chunk) = sealed(&keys, &plain);
            let open_as = |keys: &EpochKeys, id, codec, len, sealed: &[u8]| open(keys, id, codec, len, sealed.to_vec());
            let mut flipped = chunk.sealed.clone();
            let place = at.index(flipped.len());
            flipped[place] ^= 1 << bit;
            prop_assert!(open_as(&keys, id, chunk.codec, chunk.len, &flipped).is_err());
            let short = chunk.sealed.len().saturating_sub(cut);
            prop_assert!(open_as(&keys, id, chunk.codec, chunk.len, &chunk.sealed[..short]).is_err());
            prop_assert!(open_as(&keys, id, chunk.codec, chunk.len + 1, &chunk.sealed).is_err());
            let other = if chunk.codec == Codec::Plain { Codec::Zstd } else { Codec::Plain };
            prop_assert!(open_as(&keys, id, other, chunk.len, &chunk.sealed).is_err());
            let mut name = id;
            name.0[0] ^= 1;
            prop_assert!(open_as(&keys, name, chunk.codec, chunk.len, &chunk.sealed).is_err());
            let later = EpochKeys { epoch: KeyEpoch(3), ..keys.clone() };
            prop_assert!(open_as(&later, id, chunk.codec, chunk.len, &chunk.sealed).is_err());
            let stranger = EpochKeys { tenant: TenantId(6), ..keys };
            prop_assert!(open_as(&stranger, id, chunk.codec, chunk.len, &chunk.sealed).is_err());
        }
    }
}
