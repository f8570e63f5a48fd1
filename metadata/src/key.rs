//! Keys of every space: the one place that lays them out. Numbers are big-endian, so that byte order is number order.
//!
//! ```text
//! Objects     bucket 8 | key
//! Bodies      version 16                      Manifests   version 16
//! Uploads     bucket 8 | key, each byte + 1 | 0 | upload 16
//! Parts       upload 16 | number 4            and upload 16 alone -> the upload's key in Uploads
//! Intents     0 | version 16                  open intents
//!             1 | version 16, 2 | position 8  versions and uploads that are over (`ended.rs`)
//! Outbox      position 8
//! Chunks      chunk 32
//! References  chunk 32 | version 16           Holdings    version 16 | chunk 32
//! Due         0 | chunk 32 | gen 8            unreferenced
//!             1 | time 8 | chunk 32 | gen 8   condemned
//!             2 | chunk 32 | gen 8            deleting: holds the record
//!             3 | chunk 32                    owes shards or has targets
//!             4 | version 16, 5 | position 8  versions whose references were dropped (`ended.rs`)
//! Root        letter | ...                    see the functions below
//! Changed     see `range/noting.rs`
//! Meta        a word                          counters, what the group owns
//!             "bucket." | bucket 8            buckets that take no writes
//! ```
//!
//! UTF-8 has no byte above 0xF4, so adding one to each byte of an upload's key frees 0 to end it: keys keep their order,
//! `a` sorts before `a/b`, and the longest key (1,024 bytes) still fits the 1,982 bytes that LMDB allows here.

pub use spine::map::after_prefix;

use spine::id::{BucketId, ChunkId, Gen, GroupId, InviteId, MoveId, NodeId, TenantId, UnixMs, UploadId, VersionId};

/// First bytes of every key in a bucket, in Objects and in Uploads.
pub fn bucket(bucket: BucketId) -> [u8; 8] {
    bucket.0.to_be_bytes()
}

/// Objects: the current version under `key`, or, with a prefix of keys, where those begin.
pub fn object(bucket: BucketId, key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + key.len());
    out.extend_from_slice(&bucket.0.to_be_bytes());
    out.extend_from_slice(key);
    out
}

/// Uploads: where the uploads of keys that start with `prefix` begin.
pub fn uploads_of_prefix(bucket: BucketId, prefix: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + prefix.len() + 17);
    out.extend_from_slice(&bucket.0.to_be_bytes());
    out.extend(prefix.bytes().map(|byte| byte.wrapping_add(1)));
    out
}

/// Uploads: where the uploads of keys that are not less than `key` begin, which need be no key that exists.
pub fn uploads_from(bucket: BucketId, key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + key.len());
    out.extend_from_slice(&bucket.0.to_be_bytes());
    // 0xFF is greater than any byte of UTF-8, and stays so.
    out.extend(key.iter().map(|byte| byte.saturating_add(1)));
    out
}

/// Uploads: where the uploads of exactly this key begin.
pub fn uploads_of_key(bucket: BucketId, key: &str) -> Vec<u8> {
    let mut out = uploads_of_prefix(bucket, key);
    out.push(0);
    out
}

/// Uploads: one upload.
pub fn upload(bucket: BucketId, key: &str, upload: UploadId) -> Vec<u8> {
    let mut out = uploads_of_key(bucket, key);
    out.extend_from_slice(&upload.0);
    out
}

/// The object key inside a key of Uploads; `None` if it is not one.
pub fn key_of_upload(entry: &[u8]) -> Option<String> {
    let escaped = entry.get(8..entry.len().checked_sub(1 + UploadId::LEN)?)?;
    String::from_utf8(escaped.iter().map(|byte| byte.wrapping_sub(1)).collect()).ok()
}

/// Parts: one part.
pub fn part(upload: UploadId, number: u32) -> [u8; 20] {
    let mut out = [0; 20];
    out[..16].copy_from_slice(&upload.0);
    out[16..].copy_from_slice(&number.to_be_bytes());
    out
}

/// First bytes of buckets in Meta that take no writes, or took none.
pub const CLOSING: &[u8] = b"bucket.";

/// Meta: how far the deletion of a bucket has come.
pub fn closing(bucket: BucketId) -> [u8; 15] {
    let mut out = [0; 15];
    out[..7].copy_from_slice(CLOSING);
    out[7..].copy_from_slice(&bucket.0.to_be_bytes());
    out
}

/// First byte of open intents.
pub const INTENT_OPEN: u8 = 0;
/// First bytes of ended versions in Intents, by id and by position.
pub const INTENT_ENDED: (u8, u8) = (1, 2);

/// Intents: an open one.
pub fn intent(version: VersionId) -> [u8; 17] {
    tagged(INTENT_OPEN, version)
}

/// A letter and sixteen bytes of id.
pub fn tagged(kind: u8, version: VersionId) -> [u8; 17] {
    let mut out = [kind; 17];
    out[1..].copy_from_slice(&version.0);
    out
}

/// A letter and a position.
pub fn positioned(kind: u8, position: u64) -> [u8; 9] {
    let mut out = [kind; 9];
    out[1..].copy_from_slice(&position.to_be_bytes());
    out
}

/// The version id at the end of `bytes`; `None` if they are too short.
pub fn version_at_end(bytes: &[u8]) -> Option<VersionId> {
    bytes.last_chunk().copied().map(VersionId)
}

/// References: `version` holds `chunk`.
pub fn reference(chunk: ChunkId, version: VersionId) -> [u8; 48] {
    let mut out = [0; 48];
    out[..32].copy_from_slice(&chunk.0);
    out[32..].copy_from_slice(&version.0);
    out
}

/// Holdings: the same, the other way round.
pub fn holding(version: VersionId, chunk: ChunkId) -> [u8; 48] {
    let mut out = [0; 48];
    out[..16].copy_from_slice(&version.0);
    out[16..].copy_from_slice(&chunk.0);
    out
}

/// First byte of each work list in Due.
pub const DUE_UNREFERENCED: u8 = 0;
pub const DUE_CONDEMNED: u8 = 1;
pub const DUE_DELETING: u8 = 2;
pub const DUE_OWED: u8 = 3;
/// First bytes of ended versions in Due, by id and by position.
pub const DUE_ENDED: (u8, u8) = (4, 5);

/// Due: nothing refers to this chunk.
pub fn unreferenced(chunk: ChunkId, generation: Gen) -> [u8; 41] {
    chunk_and_gen(DUE_UNREFERENCED, chunk, generation)
}

/// Due: condemned at `time`.
pub fn condemned(time: UnixMs, chunk: ChunkId, generation: Gen) -> [u8; 49] {
    let mut out = [DUE_CONDEMNED; 49];
    out[1..9].copy_from_slice(&time.0.to_be_bytes());
    out[9..41].copy_from_slice(&chunk.0);
    out[41..].copy_from_slice(&generation.0.to_be_bytes());
    out
}

/// Due: the nodes are to trash this generation.
pub fn deleting(chunk: ChunkId, generation: Gen) -> [u8; 41] {
    chunk_and_gen(DUE_DELETING, chunk, generation)
}

/// Due: repair has something to do here.
pub fn owed(chunk: ChunkId) -> [u8; 33] {
    let mut out = [DUE_OWED; 33];
    out[1..].copy_from_slice(&chunk.0);
    out
}

fn chunk_and_gen(kind: u8, chunk: ChunkId, generation: Gen) -> [u8; 41] {
    let mut out = [kind; 41];
    out[1..33].copy_from_slice(&chunk.0);
    out[33..].copy_from_slice(&generation.0.to_be_bytes());
    out
}

/// Chunk and generation at the end of a key of Due; `None` if it is not one.
pub fn chunk_and_gen_at_end(entry: &[u8]) -> Option<(ChunkId, Gen)> {
    let generation = u64::from_be_bytes(*entry.last_chunk()?);
    let chunk = *entry.get(..entry.len() - 8)?.last_chunk()?;
    Some((ChunkId(chunk), Gen(generation)))
}

/// Root: tenants by id.
pub const ROOT_TENANT: u8 = b't';
/// Root: tenant ids by name.
pub const ROOT_TENANT_NAME: u8 = b'n';
/// Root: access keys.
pub const ROOT_KEY: u8 = b'k';
/// Root: buckets by name.
pub const ROOT_BUCKET: u8 = b'b';
/// Root: buckets that are marked for deletion, by name.
pub const ROOT_DELETING: u8 = b'x';
/// Root: the last round of a bucket's deletion.
pub const ROOT_ROUND: u8 = b'r';
/// Root: names of each tenant's buckets.
pub const ROOT_OWNED: u8 = b'o';
/// Root: storage nodes.
pub const ROOT_NODE: u8 = b'd';
/// Root: the fleet, one record.
pub const ROOT_FLEET: &[u8] = b"f";
/// Root: the fleet's nodes.
pub const ROOT_FLEET_NODE: u8 = b'm';
/// Root: invitations into the fleet.
pub const ROOT_INVITE: u8 = b'v';
/// Root: metadata nodes.
pub const ROOT_METADATA_NODE: u8 = b'q';
/// Root: metadata nodes that are to leave.
pub const ROOT_LEAVING: u8 = b'z';
/// Root: the lease of gateways, one record.
pub const ROOT_LEASE: &[u8] = b"l";
/// Root: the map of ranges to groups, one record.
pub const ROOT_MAP: &[u8] = b"p";
/// Root: groups.
pub const ROOT_GROUP: u8 = b'g';
/// Root: moves of ranges.
pub const ROOT_MOVE: u8 = b'w';
/// Root: leaderships and replicas that go from one server to another.
pub const ROOT_SHIFT: u8 = b's';
/// Root: the next group's id, and the next move's.
pub const ROOT_GROUP_COUNTER: &[u8] = b"%";
pub const ROOT_MOVE_COUNTER: &[u8] = b"=";
/// Root: whether levelling nodes out is stopped, one record.
pub const ROOT_REBALANCE_STOPPED: &[u8] = b"y";
/// Root: the next bucket id.
pub const ROOT_COUNTER: &[u8] = b"#";

/// Root: a letter and a name.
pub fn named(kind: u8, name: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + name.len());
    out.push(kind);
    out.extend_from_slice(name.as_bytes());
    out
}

/// Root: a tenant.
pub fn tenant(tenant: TenantId) -> [u8; 9] {
    positioned(ROOT_TENANT, tenant.0)
}

/// Root: the last round of this bucket's deletion.
pub fn bucket_round(bucket: BucketId) -> [u8; 9] {
    positioned(ROOT_ROUND, bucket.0)
}

/// Root: a tenant's bucket of this name; with an empty name, where the tenant's buckets begin.
pub fn owned(tenant: TenantId, name: &str) -> Vec<u8> {
    let mut out = positioned(ROOT_OWNED, tenant.0).to_vec();
    out.extend_from_slice(name.as_bytes());
    out
}

/// Root: a storage node.
pub fn node(node: NodeId) -> [u8; 33] {
    let mut out = [ROOT_NODE; 33];
    out[1..].copy_from_slice(&node.0);
    out
}

/// Root: a node of the fleet.
pub fn fleet_node(node: NodeId) -> [u8; 33] {
    let mut out = [ROOT_FLEET_NODE; 33];
    out[1..].copy_from_slice(&node.0);
    out
}

/// Root: a metadata node.
pub fn metadata_node(node: NodeId) -> [u8; 33] {
    let mut out = [ROOT_METADATA_NODE; 33];
    out[1..].copy_from_slice(&node.0);
    out
}

/// Root: a metadata node that is to leave.
pub fn leaving(node: NodeId) -> [u8; 33] {
    let mut out = [ROOT_LEAVING; 33];
    out[1..].copy_from_slice(&node.0);
    out
}

/// Root: a group.
pub fn group(group: GroupId) -> [u8; 5] {
    let mut out = [ROOT_GROUP; 5];
    out[1..].copy_from_slice(&group.0.to_be_bytes());
    out
}

/// Root: a move.
pub fn moved(id: MoveId) -> [u8; 9] {
    positioned(ROOT_MOVE, id.0)
}

/// Root: a leadership or a replica on its way.
pub fn shift(id: MoveId) -> [u8; 9] {
    positioned(ROOT_SHIFT, id.0)
}

/// Root: an invitation.
pub fn invite(invite: InviteId) -> [u8; 33] {
    let mut out = [ROOT_INVITE; 33];
    out[1..].copy_from_slice(&invite.0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn uploads_sort_by_key_and_then_by_id(a in "[\\x00-\u{10ffff}]{0,6}", b in "[\\x00-\u{10ffff}]{0,6}", x: [u8; 16], y: [u8; 16]) {
            let bucket = BucketId(7);
            let (left, right) = (upload(bucket, &a, UploadId(x)), upload(bucket, &b, UploadId(y)));
            prop_assert_eq!(left.cmp(&right), (a.as_bytes(), x).cmp(&(b.as_bytes(), y)));
            prop_assert_eq!(key_of_upload(&left), Some(a));
        }

        #[test]
        fn after_prefix_is_past_all_that_starts_with_it(prefix: Vec<u8>, rest: Vec<u8>) {
            if let Some(after) = after_prefix(&prefix) {
                let mut longer = prefix.clone();
                longer.extend(rest);
                prop_assert!(longer < after);
                prop_assert!(!after.starts_with(&prefix));
            }
        }
    }

    #[test]
    fn the_longest_key_fits_the_table() {
        let key = "\u{10ffff}".repeat(256);
        assert_eq!(key.len(), spine::limit::KEY_BYTES);
        assert!(upload(BucketId(u64::MAX), &key, UploadId([255; 16])).len() <= 1_982);
    }
}
