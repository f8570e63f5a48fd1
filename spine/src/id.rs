//! Names of things. No bare integer or string id crosses a function.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! byte_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Bytes of the id's one encoding.
            pub const LEN: usize = $len;

            /// The id whose hexadecimal form (lower or upper case) is `text`; `None` if it is not one.
            pub fn parse_hex(text: &str) -> Option<Self> {
                let mut out = [0; $len];
                hex::decode_to_slice(text, &mut out).ok().map(|()| Self(out))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), hex::encode(self.0))
            }
        }
    };
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $repr:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
        pub struct $name(pub $repr);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

byte_id!(
    /// BLAKE3 keyed by the tenant's dedup key over a chunk's plaintext. Two tenants never share one.
    ChunkId,
    32
);
byte_id!(
    /// A storage node: one disk's worth of shards. An Ed25519 public key once the node joins a fleet.
    NodeId,
    32
);
byte_id!(
    /// One write of an object or of a part. Random, made by the gateway; it is what holds chunk references.
    VersionId,
    16
);
byte_id!(
    /// A multipart upload. Random, made by the gateway.
    UploadId,
    16
);
byte_id!(
    /// One life of a gateway process. Intents of a writer that is gone are aborted.
    WriterId,
    16
);
byte_id!(
    /// An invitation into a fleet: BLAKE3 of its secret, which only the one who was invited has.
    InviteId,
    32
);
byte_id!(
    /// BLAKE3 root over one shard's bytes, as the gateway that made the shard computed it.
    ShardRoot,
    32
);

byte_id!(
    /// A fleet: one CA and the machines it has admitted. Random, made with the CA.
    FleetId,
    16
);

number_id!(
    /// Owner of buckets, access keys and a secret. Random, made by the gateway, never reused.
    TenantId,
    u64
);
number_id!(
    /// A bucket's identity; a bucket created again under an old name has a new one. From a log position.
    BucketId,
    u64
);
number_id!(
    /// Which life of a chunk a shard belongs to. From the chunk range's counter, never reused.
    Gen,
    u64
);
number_id!(
    /// Which copy of one shard index this is; repair makes a new one. From the chunk range's counter, never reused.
    Tag,
    u64
);
number_id!(
    /// Position of a shard within its Reed-Solomon stripe: data `0..k`, parity `k..k+m`.
    ShardIndex,
    u8
);
number_id!(
    /// Which of a tenant's secrets sealed a chunk; rotation starts a new one.
    KeyEpoch,
    u32
);
number_id!(
    /// Order of versions: the position of the log entry that committed them. Never a wall clock.
    Seq,
    u64
);
number_id!(
    /// A replicated group: a part of the metadata with a log of its own. 0 is the root, and today all of it.
    GroupId,
    u32
);
number_id!(
    /// A voter or learner of the metadata's groups. A process whose folder was lost comes back as another one, since it has forgotten its votes.
    MemberId,
    u64
);
number_id!(
    /// A range's move from one group to another. From the root's counter, never reused.
    MoveId,
    u64
);
number_id!(
    /// How often the map of ranges to groups has changed.
    Epoch,
    u64
);
number_id!(
    /// Milliseconds since the Unix epoch as the proposing gateway read its clock. State machines read none.
    UnixMs,
    u64
);
