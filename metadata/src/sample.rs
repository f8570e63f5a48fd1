//! Records that tests of several machines start from.

use bytes::Bytes;
use spine::id::*;
use spine::wire::chunk::{Place, Placement, Sealed};
use spine::wire::namespace::*;
use spine::wire::root::{BucketRecord, RootCommand, Versioning};

pub fn version(n: u64) -> VersionId {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&n.to_be_bytes());
    VersionId(bytes)
}

pub fn chunk(n: u8) -> ChunkId {
    ChunkId([n; 32])
}

pub fn node(n: u8) -> NodeId {
    NodeId([n; 32])
}

/// Two data shards and one parity shard, on nodes 0, 1, 2 unless `missing` says otherwise.
pub fn placement(generation: Gen, missing: &[usize]) -> Placement {
    let place = |index: usize| Place { node: node(index as u8), tag: Tag(generation.0), root: ShardRoot([index as u8; 32]) };
    Placement {
        sealed: Sealed { tenant: TenantId(1), epoch: KeyEpoch(1), codec: Codec::Plain, len: 1_000, sealed_len: 1_016, k: 2, m: 1 },
        shards: (0..3).map(|index| (!missing.contains(&index)).then(|| place(index))).collect(),
    }
}

pub fn bucket(name: &str) -> RootCommand {
    RootCommand::CreateBucket(BucketRecord {
        id: BucketId(0),
        name: name.into(),
        tenant: TenantId(1),
        created: UnixMs(1),
        chunk_bytes: 1 << 20,
        versioning: Versioning::Unversioned,
        location: String::new(),
    })
}

pub fn head(version: VersionId, modified: u64, size: u64) -> VersionHead {
    VersionHead {
        id: version,
        seq: Seq(0),
        modified: UnixMs(modified),
        size,
        etag: Etag { md5: [size as u8; 16], parts: None },
        checksum: None,
        attributes: Attributes::default(),
        tags: vec![],
        upload: None,
    }
}

pub fn inline_body() -> Body {
    Body::Inline { epoch: KeyEpoch(1), codec: Codec::Plain, id: chunk(0), len: 5, sealed: Bytes::from_static(b"sealed") }
}

pub fn inline(version: VersionId, modified: u64, size: u64) -> Box<NewVersion> {
    let body = VersionBody { body: inline_body(), parts: vec![] };
    Box::new(NewVersion { head: head(version, modified, size), body, manifest: None })
}

pub fn manifest(chunks: &[u8]) -> Manifest {
    Manifest { chunks: chunks.iter().map(|&n| ChunkRef { id: chunk(n), len: 1_000 }).collect() }
}

pub fn piece(version: VersionId) -> Body {
    Body::Pieces(vec![Piece { version, size: 1_000 }])
}

pub fn pieces(version: VersionId, modified: u64, chunks: &[u8]) -> Box<NewVersion> {
    let body = VersionBody { body: piece(version), parts: vec![] };
    Box::new(NewVersion { head: head(version, modified, 1_000), body, manifest: Some(manifest(chunks)) })
}
