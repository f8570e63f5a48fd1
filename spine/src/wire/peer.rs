//! The data plane: what a gateway asks a storage node, as HTTP/1.1 inside the fleet's TLS.
//!
//! ```text
//! POST /1/<call>    the node is the one that TLS was opened to (its SNI)
//!
//! call     subject (request header)  request body        200's subject   200's body
//! put      ShardHeader               the shard           -               -
//! get      ShardName                 -                   ShardHeader     the shard
//! range    Slice                     -                   ShardHeader     that part of the shard
//! has      -                         [ShardName]         -               [bool], in order
//! trash    -                         [ShardName]         -               -
//! list     -                         Listing             -               [(ShardName, u32)]
//! status   -                         -                   -               PeerStatus
//! revoke   -                         SignedRevocations   -               -
//! audit    -                         [Question]          -               [Answered], in order
//! scrub    -                         -                   -               ScrubReport or none
//! headers  -                         Listing             -               [Held]
//! ```
//! A subject is the hexadecimal postcard of its type in the header [`SUBJECT`]; bodies are postcard where they are not shard bytes.
//! Every body has a Content-Length. What failed answers [`http_status`] and the [`NodeError`] as body.
//! The number in the path is the version: another one is another protocol, and an unknown path is `Invalid`.
//!
//! Invariant: every call can be sent again: none does more the second time.

use crate::audit::PROOF_BYTES;
use crate::limit::{AUDIT_QUESTIONS, CALL_HEADERS, CALL_NAMES, SEALED_MAX_BYTES};
use crate::wire::chunk::ShardName;
use crate::wire::shard::{NodeError, NodeStatus};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The header that says which shard.
pub const SUBJECT: &str = "breakwater-subject";
/// Characters of the longest subject: a ShardHeader has some 260.
pub const SUBJECT_CHARS: usize = 512;
/// Bytes of the longest error.
pub const ERROR_BYTES: usize = 4 << 10;
/// Bytes of a ShardName in postcard, at most.
const NAME_BYTES: usize = 56;
/// Bytes of the longest answer that is not a shard: a page of a listing.
pub const ANSWER_BYTES: usize = CALL_NAMES * (NAME_BYTES + 5) + 16;

/// Bytes of the longest answer to an audit.
pub const AUDIT_BYTES: usize = AUDIT_QUESTIONS * (PROOF_BYTES + 4) + 16;
/// Names in one scrub report.
pub const SCRUB_NAMES: usize = 1_024;
/// Bytes of the longest scrub report.
pub const SCRUB_BYTES: usize = SCRUB_NAMES * NAME_BYTES + 128;

/// Bytes of a ShardHeader in postcard, at most.
const HEADER_BYTES: usize = NAME_BYTES + 72;
/// Bytes of the longest page of headers.
pub const HEADERS_BYTES: usize = CALL_HEADERS * (HEADER_BYTES + 1) + 16;

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    Put,
    Get,
    Range,
    Has,
    Trash,
    List,
    Status,
    Revoke,
    Audit,
    Scrub,
    Headers,
}

impl Call {
    pub const ALL: [Call; 11] = [
        Call::Put,
        Call::Get,
        Call::Range,
        Call::Has,
        Call::Trash,
        Call::List,
        Call::Status,
        Call::Revoke,
        Call::Audit,
        Call::Scrub,
        Call::Headers,
    ];

    pub fn path(self) -> &'static str {
        match self {
            Call::Put => "/1/put",
            Call::Get => "/1/get",
            Call::Range => "/1/range",
            Call::Has => "/1/has",
            Call::Trash => "/1/trash",
            Call::List => "/1/list",
            Call::Status => "/1/status",
            Call::Revoke => "/1/revoke",
            Call::Audit => "/1/audit",
            Call::Scrub => "/1/scrub",
            Call::Headers => "/1/headers",
        }
    }

    /// The call's name, as metrics and logs have it.
    pub fn name(self) -> &'static str {
        self.path().trim_start_matches("/1/")
    }

    pub fn of_path(path: &str) -> Option<Call> {
        Call::ALL.into_iter().find(|call| call.path() == path)
    }

    /// Most bytes of the request's body.
    pub fn body_limit(self) -> usize {
        match self {
            Call::Put => SEALED_MAX_BYTES,
            Call::Has | Call::Trash => CALL_NAMES * NAME_BYTES + 16,
            Call::List | Call::Headers => 128,
            Call::Revoke => crate::fleet::revocation::SIGNED_BYTES,
            Call::Audit => AUDIT_QUESTIONS * (NAME_BYTES + 5) + 16,
            Call::Get | Call::Range | Call::Status | Call::Scrub => 0,
        }
    }
}

/// A part of a shard: `len` bytes from `from`; both ends must lie within the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    pub name: ShardName,
    pub from: u32,
    pub len: u32,
}

/// What comes after `after` in name order: at most `max`, and at most [`CALL_NAMES`] names or [`CALL_HEADERS`] headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    pub after: Option<ShardName>,
    pub max: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    pub status: NodeStatus,
    /// Version of the revocation list that the node has; 0 without one. Who has a newer one sends it.
    pub revocations: u64,
}

/// Bytes that are not the message they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a message of the data plane")]
pub struct Malformed;

/// A message as body. What cannot be encoded (nothing here) is empty, which decodes to nothing.
pub fn encode<T: Serialize>(message: &T) -> Bytes {
    postcard::to_stdvec(message).map(Bytes::from).unwrap_or_default()
}

/// The message that is all of `bytes`.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Malformed> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        _ => Err(Malformed),
    }
}

/// A subject as the value of its header.
pub fn encode_subject<T: Serialize>(subject: &T) -> String {
    hex::encode(encode(subject))
}

/// The subject in a header's value.
pub fn decode_subject<T: DeserializeOwned>(value: &[u8]) -> Result<T, Malformed> {
    if value.len() > SUBJECT_CHARS {
        return Err(Malformed);
    }
    decode(&hex::decode(value).map_err(|_| Malformed)?)
}

/// The HTTP status that goes with an error.
pub fn http_status(error: &NodeError) -> u16 {
    match error {
        NodeError::Invalid { .. } => 400,
        NodeError::NotFound => 404,
        NodeError::Damaged { .. } => 410,
        NodeError::Unavailable { .. } => 503,
        NodeError::Full { .. } => 507,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Answered, Question};
    use crate::id::{ChunkId, Gen, ShardIndex, ShardRoot, Tag, TenantId, UnixMs};
    use crate::wire::chunk::Sealed;
    use crate::wire::namespace::Codec;
    use crate::wire::shard::{Held, ScrubReport, ShardHeader};

    const LARGEST: ShardName =
        ShardName { chunk: ChunkId([0xff; 32]), generation: Gen(u64::MAX), index: ShardIndex(u8::MAX), tag: Tag(u64::MAX) };

    #[test]
    fn every_call_has_a_path_of_its_own() {
        for call in Call::ALL {
            assert_eq!(Call::of_path(call.path()), Some(call));
        }
        assert_eq!(Call::of_path("/2/get"), None);
        assert_eq!(Call::of_path("/1/get/"), None);
    }

    #[test]
    fn the_longest_messages_fit_their_bounds() {
        let sealed = Sealed {
            tenant: TenantId(u64::MAX),
            epoch: crate::id::KeyEpoch(u32::MAX),
            codec: Codec::Zstd,
            len: u32::MAX,
            sealed_len: u32::MAX,
            k: 255,
            m: 255,
        };
        let header = ShardHeader { name: LARGEST, sealed, root: ShardRoot([0xff; 32]), len: u32::MAX };
        let subject = encode_subject(&header);
        assert!(subject.len() <= SUBJECT_CHARS, "{}", subject.len());
        assert_eq!(decode_subject(subject.as_bytes()), Ok(header));
        assert!(encode(&vec![Held::Whole(header); CALL_HEADERS]).len() <= HEADERS_BYTES);
        assert!(encode(&vec![LARGEST; CALL_NAMES]).len() <= Call::Has.body_limit());
        assert!(encode(&vec![(LARGEST, u32::MAX); CALL_NAMES]).len() <= ANSWER_BYTES);
        assert!(encode(&Listing { after: Some(LARGEST), max: u32::MAX }).len() <= Call::List.body_limit());
    }

    #[test]
    fn the_longest_audit_and_the_longest_scrub_report_fit_their_bounds() {
        let question = Question { name: LARGEST, slice: u32::MAX };
        assert!(encode(&vec![question; AUDIT_QUESTIONS]).len() <= Call::Audit.body_limit());
        let proof = Answered::Proof(vec![0; PROOF_BYTES].into());
        assert!(encode(&vec![proof; AUDIT_QUESTIONS]).len() <= AUDIT_BYTES);
        let report = ScrubReport {
            rounds: u64::MAX,
            round_began: UnixMs(u64::MAX),
            round_bytes: u64::MAX,
            shards: u64::MAX,
            bytes: u64::MAX,
            found: u64::MAX,
            damaged: vec![LARGEST; SCRUB_NAMES],
        };
        assert!(encode(&Some(report)).len() <= SCRUB_BYTES);
    }

    #[test]
    fn what_is_more_or_less_than_a_message_is_none() {
        let mut bytes = encode(&Listing { after: None, max: 7 }).to_vec();
        assert_eq!(decode::<Listing>(&bytes[..1]), Err(Malformed));
        bytes.push(0);
        assert_eq!(decode::<Listing>(&bytes), Err(Malformed));
        assert_eq!(decode_subject::<ShardName>(b"zz"), Err(Malformed));
        assert_eq!(decode_subject::<ShardName>(&[b'0'; SUBJECT_CHARS + 2]), Err(Malformed));
    }
}
