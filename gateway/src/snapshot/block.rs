//! The blocks of a copy: sealed one by one, each of one mebibyte but the last.
//!
//! ```text
//! | "BWMS" | format 1 | 1 if it is the last | 0 0 | id 16 | made, ms 8 | number 4 | length of what is sealed 4 | sealed and tag |
//! ```
//! Numbers are little-endian. Sealed: AES-256-GCM under a key of this copy's own, derived from the root key and the id; the nonce is the
//! number, the AAD all that stands before. So a block opens in its own copy and place only.

use crate::keys::Keys;
use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use bytes::Bytes;
use spine::id::UnixMs;

/// Bytes of every block but the last.
pub const BLOCK_BYTES: usize = 1 << 20;
pub const HEAD_BYTES: usize = 40;
const TAG_BYTES: usize = 16;
/// What one block has room for.
pub const ROOM: usize = BLOCK_BYTES - HEAD_BYTES - TAG_BYTES;
const MAGIC: &[u8; 4] = b"BWMS";
const FORMAT: u8 = 1;

/// Which copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// By the clock of the gateway that made it.
    pub made: UnixMs,
    /// Random.
    pub id: [u8; 16],
}

/// What stands before a block's sealed bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub name: Name,
    pub number: u32,
    pub last: bool,
    /// Of what follows.
    pub len: usize,
}

impl Head {
    fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut out = [0; HEAD_BYTES];
        out[..4].copy_from_slice(MAGIC);
        out[4] = FORMAT;
        out[5] = u8::from(self.last);
        out[8..24].copy_from_slice(&self.name.id);
        out[24..32].copy_from_slice(&self.name.made.0.to_le_bytes());
        out[32..36].copy_from_slice(&self.number.to_le_bytes());
        out[36..].copy_from_slice(&(self.len as u32).to_le_bytes());
        out
    }

    /// `None`: no block of this format begins here.
    pub fn parse(bytes: &[u8]) -> Option<Head> {
        let head = bytes.first_chunk::<HEAD_BYTES>()?;
        let u32_at = |at: usize| head.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
        let name = Name { id: head[8..24].try_into().ok()?, made: UnixMs(u64::from_le_bytes(head[24..32].try_into().ok()?)) };
        let parsed = Head { name, number: u32_at(32)?, last: head[5] == 1, len: usize::try_from(u32_at(36)?).ok()? };
        let fits = (TAG_BYTES..=ROOM + TAG_BYTES).contains(&parsed.len) && (parsed.last || parsed.len == ROOM + TAG_BYTES);
        (fits && parsed.encode() == *head).then_some(parsed)
    }
}

/// Seals and opens the blocks of one copy.
pub struct Sealer {
    name: Name,
    cipher: Aes256Gcm,
}

impl Sealer {
    pub fn new(keys: &Keys, name: Name) -> Sealer {
        Sealer { name, cipher: keys.snapshot_cipher(&name.id) }
    }

    /// - `payload`: [`ROOM`] bytes, or fewer in the last block.
    ///
    /// `None` for more than a block has room for.
    pub fn seal(&self, number: u32, last: bool, payload: &[u8]) -> Option<Bytes> {
        if payload.len() > ROOM || (!last && payload.len() < ROOM) {
            return None;
        }
        let head = Head { name: self.name, number, last, len: payload.len() + TAG_BYTES }.encode();
        let sealed = self.cipher.encrypt(&nonce(number), Payload { msg: payload, aad: &head }).ok()?;
        Some([head.as_slice(), &sealed].concat().into())
    }

    /// What is in the block, if it is number `number` of this copy, and unaltered.
    pub fn open(&self, number: u32, block: &[u8]) -> Option<(Head, Vec<u8>)> {
        let head = Head::parse(block)?;
        let sealed = &block[HEAD_BYTES..];
        if head.name != self.name || head.number != number || head.len != sealed.len() {
            return None;
        }
        let plain = self.cipher.decrypt(&nonce(number), Payload { msg: sealed, aad: &block[..HEAD_BYTES] }).ok()?;
        Some((head, plain))
    }
}

fn nonce(number: u32) -> Nonce<aes_gcm::aead::consts::U12> {
    let mut nonce = [0; 12];
    nonce[8..].copy_from_slice(&number.to_be_bytes());
    Nonce::from(nonce)
}
