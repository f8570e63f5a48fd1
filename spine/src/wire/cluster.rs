//! The metadata plane: what gateways ask metadata processes and what those tell each other, as HTTP/1.1 inside the fleet's TLS.
//!
//! ```text
//! POST /1/<call>    the process is the one that TLS was opened to (its SNI)
//!
//! call       who may call        request body      200's body
//! propose    gateway, metadata   Propose           Proposed
//! query      gateway, metadata   Ask               Answer
//! status     gateway, metadata   -                 ClusterStatus
//! change     gateway, metadata   Change            Changed
//! append     metadata            Append            Appended
//! vote       metadata            RequestVote       Voted
//! snapshot   metadata            SnapshotPart      SnapshotTaken
//! beats      metadata            Beats             Beaten
//! group      gateway, metadata   GroupCall         GroupDone
//! appends    metadata            Appends           Beaten
//! loads      gateway, metadata   -                 Loads
//! format     gateway, metadata   -                 Understood
//! ```
//! Bodies are postcard and have a Content-Length. What failed answers [`http_status`] and the [`ClusterError`] as body.
//! The number in the path is the version: another one is another protocol, and an unknown path is `Invalid`. What came later than others
//! (`format.rs`) is not sent to who does not understand it; who answers `Invalid` to `format` understands the first format and no more.
//!
//! Every message names its group, and those of the log also the member they are for: a process whose folder was lost comes back as another
//! member, and must never be taken for the one that has forgotten its votes.
//! Invariants: `append`, `vote` and `snapshot` can be sent again; `propose` can be with a [`RequestId`], and is then applied once.

mod groups;
mod loads;

pub use groups::{Appends, Beaten, Beats, GroupCall, GroupDone, GroupOrder};
pub use loads::{Cut, GroupLoad, HeatSlice, HotDirectory, Loads, Work};

use crate::fleet::admission::is_address;
use crate::id::{GroupId, MemberId, NodeId};
use crate::limit::{GROUPS, LOG_ENTRY_BYTES, MEMBERS};
use crate::wire::format::Format;
use crate::wire::{Batch, MetadataError, Query, Reply};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Bytes of entries that one append carries, unless its first entry alone is longer.
pub const APPEND_BYTES: usize = 4 << 20;
/// Appends of different groups in one message.
pub const APPENDS: usize = 128;
/// Bytes of one part of a snapshot: what a receiver has in memory at a time.
pub const PART_BYTES: usize = 1 << 20;
/// Bytes of the longest answer to a query or a proposal: pages are bounded by count, and a manifest of the largest object by
/// [`LOG_ENTRY_BYTES`].
pub const ANSWER_BYTES: usize = 64 << 20;
/// Bytes of the longest answer to the members' own calls.
pub const SHORT_ANSWER_BYTES: usize = 64 << 10;
/// Bytes of the longest answers about all groups of a process.
pub const STATUS_BYTES: usize = 4 << 20;
/// Bytes of the longest error.
pub const ERROR_BYTES: usize = 4 << 10;
/// What stands around the payload in the longest messages.
const FRAME_BYTES: usize = 64 << 10;

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    Propose,
    Query,
    Status,
    Change,
    Append,
    Vote,
    Snapshot,
    Beats,
    Group,
    Appends,
    Loads,
    Format,
}

impl Call {
    pub const ALL: [Call; 12] = [
        Call::Propose,
        Call::Query,
        Call::Status,
        Call::Change,
        Call::Append,
        Call::Vote,
        Call::Snapshot,
        Call::Beats,
        Call::Group,
        Call::Appends,
        Call::Loads,
        Call::Format,
    ];

    pub fn path(self) -> &'static str {
        match self {
            Call::Propose => "/1/propose",
            Call::Query => "/1/query",
            Call::Status => "/1/status",
            Call::Change => "/1/change",
            Call::Append => "/1/append",
            Call::Vote => "/1/vote",
            Call::Snapshot => "/1/snapshot",
            Call::Beats => "/1/beats",
            Call::Group => "/1/group",
            Call::Appends => "/1/appends",
            Call::Loads => "/1/loads",
            Call::Format => "/1/format",
        }
    }

    /// The call's name, as metrics and logs have it.
    pub fn name(self) -> &'static str {
        self.path().trim_start_matches("/1/")
    }

    pub fn of_path(path: &str) -> Option<Call> {
        Call::ALL.into_iter().find(|call| call.path() == path)
    }

    /// Whether only members of the groups may call it.
    pub fn is_for_members(self) -> bool {
        matches!(self, Call::Append | Call::Appends | Call::Vote | Call::Snapshot | Call::Beats)
    }

    /// Most bytes of the request's body.
    pub fn body_limit(self) -> usize {
        match self {
            Call::Propose | Call::Query => LOG_ENTRY_BYTES + FRAME_BYTES,
            Call::Append | Call::Appends => APPEND_BYTES + LOG_ENTRY_BYTES + FRAME_BYTES,
            Call::Snapshot => PART_BYTES + LOG_ENTRY_BYTES + FRAME_BYTES,
            Call::Vote | Call::Change | Call::Beats | Call::Group => FRAME_BYTES,
            Call::Status | Call::Loads | Call::Format => 0,
        }
    }

    /// Most bytes of a 200's body.
    pub fn answer_limit(self) -> usize {
        match self {
            Call::Propose | Call::Query => ANSWER_BYTES,
            Call::Status | Call::Loads => STATUS_BYTES,
            Call::Change | Call::Append | Call::Appends | Call::Vote | Call::Snapshot | Call::Beats | Call::Group | Call::Format => {
                SHORT_ANSWER_BYTES
            }
        }
    }
}

/// Where a metadata process answers, and the key that must answer there. As text: 64 hex digits of the key, `@`, `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Endpoint {
    pub node: NodeId,
    pub address: String,
}

/// A text that is no [`Endpoint`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a metadata node's key and address, as in `<64 hex digits>@host:port`")]
pub struct NotAnEndpoint;

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.node, self.address)
    }
}

impl FromStr for Endpoint {
    type Err = NotAnEndpoint;

    fn from_str(text: &str) -> Result<Self, NotAnEndpoint> {
        let (node, address) = text.split_once('@').ok_or(NotAnEndpoint)?;
        let node = NodeId::parse_hex(node).ok_or(NotAnEndpoint)?;
        if is_address(address) { Ok(Self { node, address: address.to_string() }) } else { Err(NotAnEndpoint) }
    }
}

/// One process's place in a group. Its id belongs to its folder: a folder made anew is a member made anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub id: MemberId,
    pub at: Endpoint,
}

/// Who leads, or wants to: raft's vote. Ordered by term, then by member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ballot {
    pub term: u64,
    pub member: MemberId,
    /// A majority has granted it.
    pub granted: bool,
}

/// An entry's identity: whose term, which place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPosition {
    pub term: u64,
    pub member: MemberId,
    pub index: u64,
}

/// An entry, its bytes as they lie in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    pub at: LogPosition,
    pub bytes: Bytes,
}

/// One proposal, however often it is sent. Random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RequestId(pub [u8; 16]);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Propose {
    pub group: GroupId,
    /// `None`: it is not sent again, or does no more the second time.
    pub request: Option<RequestId>,
    /// [`Proposed::seen`] of an answer that came before this was sent for the first time; 0 before any answer.
    pub seen: u64,
    pub batch: Batch,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposed {
    /// One a command, in order.
    pub replies: Vec<Reply>,
    /// How many proposals with an id the group had applied. A group remembers a bounded number of them: one that says it began
    /// before the oldest that is remembered is refused, since nobody knows whether it was applied.
    pub seen: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    pub group: GroupId,
    pub query: Query,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Append {
    pub group: GroupId,
    pub to: MemberId,
    pub ballot: Ballot,
    pub previous: Option<LogPosition>,
    pub committed: Option<LogPosition>,
    pub entries: Vec<LogEntry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Appended {
    All,
    /// Up to here.
    Some(Option<LogPosition>),
    /// The entry before the first is not the sender's.
    Conflict,
    HigherBallot(Ballot),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestVote {
    pub group: GroupId,
    pub to: MemberId,
    pub ballot: Ballot,
    pub last: Option<LogPosition>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Voted {
    /// The highest that the voter knows.
    pub ballot: Ballot,
    pub granted: bool,
    pub last: Option<LogPosition>,
}

/// A row of the group's table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The table's number.
    pub space: u8,
    pub key: Bytes,
    pub value: Bytes,
}

/// A stream's parts come in order, one at a time; a receiver that has the part already says which one it wants. Part 0 begins anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotPart {
    pub group: GroupId,
    pub to: MemberId,
    pub ballot: Ballot,
    /// Random, one a stream.
    pub stream: [u8; 16],
    pub number: u32,
    /// In order of (space, key), over all parts.
    pub rows: Vec<Row>,
    /// With the last part.
    pub end: Option<SnapshotEnd>,
}

/// What the whole of a snapshot is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotEnd {
    /// The last entry that is applied in it.
    pub last: Option<LogPosition>,
    /// The membership as of then: the bytes of its log entry, and that entry's place. Of a group whose format was raised, the bytes of the
    /// entry that raises it come first: who does not know those takes no such snapshot.
    pub membership: Bytes,
    pub membership_at: Option<LogPosition>,
    pub name: String,
    pub rows: u64,
    /// BLAKE3 over all rows: space, length of the key (u32, little-endian), length of the value (the same), key, value.
    pub digest: [u8; 32],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotTaken {
    /// The part that is wanted next.
    More(u32),
    /// It is in force and durable, or what the receiver has is newer.
    Installed(Ballot),
}

/// A change of who is in a group. Each can be asked for again: it goes on where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberChange {
    /// Takes the member in, first without a vote; once it has caught up, with one. Another member of the same key (the process before it lost
    /// its folder) goes in the same step. A known member's new address is noted.
    Join(Member),
    /// Takes a member out.
    Remove(MemberId),
    /// Changes nothing: [`Changed::Out`] if the member is out for good, `Unavailable` if it is not, or not yet.
    Left(MemberId),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub group: GroupId,
    pub change: MemberChange,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Changed {
    Done,
    /// It learns, and so many entries are missing: ask again.
    Learning {
        behind: u64,
    },
    /// The group's log says at `since`, on a majority, that the member is none.
    Out {
        since: LogPosition,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Who answers; the endpoint is what it was told to advertise.
    pub member: Member,
    pub groups: Vec<GroupStatus>,
}

/// What one process understands, what its replica of the root's group has come to, and the least that one of its replicas has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Understood {
    pub newest: Format,
    pub root: Format,
    pub least: Format,
}

/// A group as one member sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStatus {
    pub group: GroupId,
    pub leader: Option<MemberId>,
    pub term: u64,
    /// Indices of the last entry in the log, of the last applied, and of the last purged.
    pub last: u64,
    pub applied: u64,
    pub purged: u64,
    pub members: Vec<MemberStatus>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    pub member: Member,
    /// It counts for majorities.
    pub votes: bool,
    /// Index of the last entry that it is known to have; only the leader knows.
    pub has: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ClusterError {
    /// Nothing was done.
    #[error("this process does not lead the group. leader=`{leader:?}`")]
    NotLeader { leader: Option<Member> },
    /// Nothing was done.
    #[error("this process has no such group. group=`{group}`")]
    NoSuchGroup { group: GroupId },
    /// The message is for a member that was in another folder. Nothing was done.
    #[error("this process is another member. member=`{member}`")]
    OtherMember { member: MemberId },
    /// The proposal began before what is remembered; this sending of it was not applied, and whether an earlier one was is not known.
    #[error("the proposal is older than what is remembered. seen=`{seen}`")]
    Forgotten { seen: u64 },
    /// Not a message, or not one that this caller may send.
    #[error("the request is not valid. what=`{what}`")]
    Invalid { what: String },
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

/// The HTTP status that goes with an error.
pub fn http_status(error: &ClusterError) -> u16 {
    match error {
        ClusterError::Invalid { .. } => 400,
        ClusterError::NoSuchGroup { .. } => 404,
        ClusterError::Forgotten { .. } => 409,
        ClusterError::OtherMember { .. } => 410,
        ClusterError::NotLeader { .. } => 421,
        ClusterError::Metadata(MetadataError::TooLarge { .. }) => 413,
        ClusterError::Metadata(MetadataError::Storage { .. }) => 500,
        ClusterError::Metadata(MetadataError::Unavailable { .. }) => 503,
        ClusterError::Metadata(MetadataError::Full { .. }) => 507,
        ClusterError::Metadata(MetadataError::NotHere) => 412,
        ClusterError::Metadata(MetadataError::TooNew { .. }) => 426,
    }
}

/// Whether a status has no more groups than a process, and no group more members than it may have.
pub fn is_bounded(status: &ClusterStatus) -> bool {
    status.groups.len() <= GROUPS && status.groups.iter().all(|group| group.members.len() <= MEMBERS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_has_a_path_of_its_own() {
        for call in Call::ALL {
            assert_eq!(Call::of_path(call.path()), Some(call));
        }
        assert_eq!(Call::of_path("/2/query"), None);
        assert_eq!(Call::of_path("/1/query/"), None);
    }

    #[test]
    fn an_endpoint_prints_as_drawn_and_parses_back() {
        let endpoint = Endpoint { node: NodeId([0xab; 32]), address: "[::1]:7500".to_string() };
        let text = endpoint.to_string();
        assert_eq!(text, format!("{}@[::1]:7500", "ab".repeat(32)));
        assert_eq!(text.parse(), Ok(endpoint));
        for wrong in
            ["", "@host:1", "host:1", &"ab".repeat(32), &format!("{}@host", "ab".repeat(32)), &format!("{}@host:1", "zz".repeat(32))]
        {
            assert_eq!(wrong.parse::<Endpoint>(), Err(NotAnEndpoint), "{wrong}");
        }
    }

    #[test]
    fn an_append_of_the_longest_entry_behind_others_fits_its_bound() {
        let at = LogPosition { term: u64::MAX, member: MemberId(u64::MAX), index: u64::MAX };
        let ballot = Ballot { term: u64::MAX, member: MemberId(u64::MAX), granted: true };
        let entry = |len: usize| LogEntry { at, bytes: vec![7; len].into() };
        let append = Append {
            group: GroupId(u32::MAX),
            to: MemberId(u64::MAX),
            ballot,
            previous: Some(at),
            committed: Some(at),
            entries: vec![entry(APPEND_BYTES), entry(LOG_ENTRY_BYTES)],
        };
        assert!(crate::wire::peer::encode(&append).len() <= Call::Append.body_limit());
    }
}
