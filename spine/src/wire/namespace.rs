//! A subtree's group: objects, uploads, intents, and the outbox of references to drop.

use crate::id::{BucketId, ChunkId, GroupId, KeyEpoch, Seq, UnixMs, UploadId, VersionId, WriterId};
use crate::map::NamePoint;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// How the bytes were encoded before encryption. Part of the chunk key and of the AAD.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Codec {
    Plain,
    Zstd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Etag {
    /// MD5 of the body; of a multipart object, MD5 of its parts' MD5s.
    pub md5: [u8; 16],
    /// Number of parts if the object came from a multipart upload.
    pub parts: Option<u32>,
}

impl Etag {
    /// S3's form without the quotation marks: 32 hex digits, `-N` for multipart.
    pub fn text(&self) -> String {
        match self.parts {
            None => hex::encode(self.md5),
            Some(n) => format!("{}-{n}", hex::encode(self.md5)),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ChecksumAlgorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChecksumKind {
    FullObject,
    Composite,
}

/// An additional checksum as S3 defines it (not the ETag).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum {
    pub algorithm: ChecksumAlgorithm,
    pub kind: ChecksumKind,
    /// Raw big-endian bytes, 4 to 32 of them; S3 shows them in base64 (and `-N` after a composite one).
    pub value: Vec<u8>,
}

/// What a client says about an object and gets back unchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    pub content_type: Option<String>,
    pub content_encoding: Option<String>,
    pub content_disposition: Option<String>,
    pub content_language: Option<String>,
    pub cache_control: Option<String>,
    /// As sent: HTTP leaves its form to the client.
    pub expires: Option<String>,
    pub website_redirect: Option<String>,
    /// `x-amz-storage-class` as sent, where S3 knows it; `None` is STANDARD.
    pub storage_class: Option<String>,
    /// `x-amz-meta-*` without the prefix, lower case, in byte order.
    pub user: Vec<(String, String)>,
}

/// One part of a completed multipart object, for `partNumber` and GetObjectAttributes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartSummary {
    pub number: u32,
    pub size: u64,
    pub checksum: Option<Checksum>,
}

/// A version without its bytes: what HEAD and a listing need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionHead {
    pub id: VersionId,
    /// Given by the log on commit; what the gateway proposes here is ignored.
    pub seq: Seq,
    /// Proposed by the gateway; the log raises it to the replaced version's if that was later.
    pub modified: UnixMs,
    pub size: u64,
    pub etag: Etag,
    pub checksum: Option<Checksum>,
    pub attributes: Attributes,
    pub tags: Vec<(String, String)>,
    /// The upload that made it: a repeated CompleteMultipartUpload is answered from here.
    pub upload: Option<UploadId>,
}

/// One chunk of a body, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkRef {
    pub id: ChunkId,
    /// Plaintext bytes.
    pub len: u32,
}

/// A run of a body whose chunk references one [`VersionId`] holds: one for a PUT, one per part of a multipart object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Key of the manifest, and holder of the chunk references.
    pub version: VersionId,
    pub size: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// Sealed like a chunk (same keys, same AAD), without shards. An empty body is `Inline` with nothing in it.
    Inline {
        epoch: KeyEpoch,
        codec: Codec,
        id: ChunkId,
        len: u32,
        sealed: Bytes,
    },
    Pieces(Vec<Piece>),
}

/// Bytes of a version: its body and, for multipart objects, the parts it came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionBody {
    pub body: Body,
    pub parts: Vec<PartSummary>,
}

/// Chunks of one [`Piece`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub chunks: Vec<ChunkRef>,
}

/// Decided in the state machine, at the entry's place in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// If-Match: the current version's ETag is one of these. Missing object: `NoSuchObject`.
    pub if_match: Option<EtagMatch>,
    /// If-None-Match: no current version has one of these ETags.
    pub if_none_match: Option<EtagMatch>,
    /// DeleteObject's x-amz-if-match-size and -last-modified-time.
    pub if_size: Option<u64>,
    /// Whole seconds since the epoch, as HTTP dates carry.
    pub if_modified_second: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EtagMatch {
    Any,
    /// Forms of [`Etag::text`]; weak ones never match.
    OneOf(Vec<String>),
}

/// A part as PutPart records it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRecord {
    pub number: u32,
    /// Holder of its references; a part sent again has another.
    pub version: VersionId,
    pub size: u64,
    pub md5: [u8; 16],
    pub checksum: Option<Checksum>,
    pub modified: UnixMs,
    /// `Inline`, or exactly one piece, `version`'s own.
    pub body: Body,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadRecord {
    pub id: UploadId,
    pub bucket: BucketId,
    pub key: String,
    pub created: UnixMs,
    pub attributes: Attributes,
    pub tags: Vec<(String, String)>,
    /// What CreateMultipartUpload asked for.
    pub checksum: Option<(ChecksumAlgorithm, ChecksumKind)>,
    /// Access key that began it, for ListMultipartUploads' Initiator.
    pub initiator: String,
}

/// What becomes the current version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewVersion {
    pub head: VersionHead,
    pub body: VersionBody,
    /// For a single-piece body: its manifest. Parts' manifests were recorded by PutPart.
    pub manifest: Option<Manifest>,
}

/// All but OutboxDone are refused with `NotHere` unless the group owns (bucket, key), and with `Frozen` if that is about to move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceCommand {
    /// Opens the intent that fences a writer. Idempotent while open. Refused with `IntentClosed` once terminal.
    OpenIntent { version: VersionId, bucket: BucketId, key: String, writer: WriterId, opened: UnixMs },
    /// Renews what OpenIntent set, so that a slow upload is not reaped. Refused with `IntentClosed`.
    RenewIntent { version: VersionId, bucket: BucketId, key: String, now: UnixMs },
    /// Makes the version terminal and queues its Unref. Idempotent; no intent: nothing.
    AbortIntent { version: VersionId, bucket: BucketId, key: String },
    /// The linearization point of a write. A body in pieces needs its intent open (refused with `IntentClosed`) and closes it;
    /// an inline body needs none. The replaced version's references go to the outbox. Replies `Committed`.
    /// Refused with `NoSuchBucket`, `PreconditionFailed`, `NoSuchObject`.
    Commit { bucket: BucketId, key: String, new: Box<NewVersion>, condition: Condition },
    /// Replies `Deleted`. A missing key is no error unless the condition has If-Match.
    Delete { bucket: BucketId, key: String, condition: Condition },
    /// Replaces the tags of the current version. Refused with `NoSuchObject`.
    SetTags { bucket: BucketId, key: String, tags: Vec<(String, String)> },
    /// Refused with `NoSuchBucket`.
    CreateUpload(Box<UploadRecord>),
    /// Like Commit for a part: needs the part version's intent open if its body has a piece; a part replaced goes to the outbox.
    /// Refused with `NoSuchUpload`, `IntentClosed`.
    PutPart { upload: UploadId, bucket: BucketId, key: String, part: Box<PartRecord>, manifest: Option<Manifest> },
    /// `parts`: exactly what the gateway validated, in order. `new.body.body` has their pieces (or, where a part was inline,
    /// the gateway turned it into a piece first). Parts not listed go to the outbox. Replies `Committed`.
    /// Refused with `NoSuchUpload`, `PartChanged`, and as Commit.
    CompleteUpload {
        upload: UploadId,
        bucket: BucketId,
        key: String,
        parts: Vec<(u32, VersionId)>,
        new: Box<NewVersion>,
        condition: Condition,
    },
    /// Parts' references go to the outbox. Refused with `NoSuchUpload`.
    AbortUpload { upload: UploadId, bucket: BucketId, key: String },
    /// Forgets outbox entries of the group whose Unref is through, and the manifests of their versions. Idempotent. Refused with `NotHere` if
    /// one is of another group.
    OutboxDone { entries: Vec<OutboxEntry> },
}

/// A terminal version whose chunk references are to be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OutboxEntry {
    /// Whose outbox it is in.
    pub group: GroupId,
    pub position: u64,
    pub version: VersionId,
}

/// An intent that is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntentRecord {
    pub version: VersionId,
    /// Where the version is to be committed, or the upload of which it is to be a part.
    pub bucket: BucketId,
    pub key: String,
    pub writer: WriterId,
    /// When it was opened or renewed last.
    pub renewed: UnixMs,
}

/// ListObjects V1 and V2 share this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListQuery {
    pub bucket: BucketId,
    pub prefix: String,
    /// Empty means none.
    pub delimiter: String,
    /// Return only what sorts after this. If it ends a common prefix (starts with `prefix` and ends with the first delimiter
    /// after it), everything below that prefix counts as not after it.
    pub after: Option<String>,
    /// Keys and prefixes together, at most [`crate::limit::PAGE`].
    pub max: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListPage {
    /// In byte order of the keys.
    pub objects: Vec<(String, VersionHead)>,
    /// In byte order; each ends with the delimiter.
    pub prefixes: Vec<String>,
    /// Last key or prefix of the page, if there is more after it.
    pub next: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadsQuery {
    pub bucket: BucketId,
    pub prefix: String,
    pub delimiter: String,
    /// Only uploads of keys after this; with `upload_marker`, also this key's uploads that sort after that id.
    pub key_marker: String,
    pub upload_marker: Option<UploadId>,
    pub max: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadsPage {
    /// By key, then by id.
    pub uploads: Vec<UploadRecord>,
    pub prefixes: Vec<String>,
    pub truncated: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceQuery {
    Head {
        bucket: BucketId,
        key: String,
    },
    /// Head and body at one moment.
    Open {
        bucket: BucketId,
        key: String,
    },
    /// Manifests of pieces of this object or of its uploads, in the order asked; `None` where there is none (the version was replaced
    /// and collected meanwhile).
    Manifests {
        bucket: BucketId,
        key: String,
        versions: Vec<VersionId>,
    },
    /// What lies at `place` or after it in the group's own range; without `place`, from where the query itself begins.
    List {
        query: ListQuery,
        place: Option<NamePoint>,
    },
    /// The upload, if it is open and of this bucket and key.
    Upload {
        bucket: BucketId,
        key: String,
        upload: UploadId,
    },
    /// Parts with numbers after `after`, ascending, and whether there are more.
    Parts {
        upload: UploadId,
        bucket: BucketId,
        key: String,
        after: u32,
        max: usize,
    },
    /// `place` as for List.
    Uploads {
        query: UploadsQuery,
        place: Option<NamePoint>,
    },
    /// The oldest entries of the group.
    Outbox {
        max: usize,
    },
    /// Open intents of the group, by version.
    Intents {
        after: Option<VersionId>,
        max: usize,
    },
    /// As Open, by somebody who has the body of `known` already: a version's body never changes.
    Reopen {
        bucket: BucketId,
        key: String,
        known: VersionId,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceAnswer {
    Head(Option<VersionHead>),
    Open(Option<(VersionHead, VersionBody)>),
    Manifests(Vec<Option<Manifest>>),
    /// `end`: where the range of the group ended as it answered.
    List {
        page: ListPage,
        end: Option<NamePoint>,
    },
    Upload(Option<UploadRecord>),
    Parts {
        parts: Vec<PartRecord>,
        truncated: bool,
    },
    /// `end` as of List.
    Uploads {
        page: UploadsPage,
        end: Option<NamePoint>,
    },
    Outbox(Vec<OutboxEntry>),
    Intents(Vec<IntentRecord>),
    /// Without the body where the current version is the one that is known.
    Reopen(Option<(VersionHead, Option<VersionBody>)>),
}
