//! The root group: tenants, access keys, buckets, nodes, and the fleet.

use crate::id::{BucketId, ChunkId, Epoch, FleetId, GroupId, InviteId, KeyEpoch, MoveId, NodeId, TenantId, UnixMs, WriterId};
use crate::map::{Map, NamePoint};
use crate::wire::cluster::Member;
use crate::wire::format::Format;
use crate::wire::range::Range;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A tenant's secret of one epoch, wrapped by the root key; only a gateway with the root key can open it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrappedSecret {
    pub epoch: KeyEpoch,
    /// AES-256-GCM: 12 bytes of nonce, then ciphertext and tag.
    pub sealed: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantRecord {
    pub id: TenantId,
    /// Unique; what an operator calls it.
    pub name: String,
    /// Ascending by epoch; the last one seals new chunks.
    pub secrets: Vec<WrappedSecret>,
    pub created: UnixMs,
    /// A revoked tenant's requests are refused; its data stays.
    pub revoked: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// What S3 calls the access key id; unique.
    pub access_key: String,
    pub tenant: TenantId,
    /// The secret access key, wrapped by the root key: nonce, ciphertext, tag. Signature V4 needs it back.
    pub secret: Bytes,
    pub created: UnixMs,
    pub revoked: bool,
}

/// S3's versioning status. Only `Unversioned` can be set today; the others keep the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Versioning {
    Unversioned,
    Enabled,
    Suspended,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketRecord {
    pub id: BucketId,
    pub name: String,
    pub tenant: TenantId,
    pub created: UnixMs,
    /// Power of two within [`crate::limit`]; fixed for life.
    pub chunk_bytes: u32,
    pub versioning: Versioning,
    /// LocationConstraint the client sent; empty for us-east-1.
    pub location: String,
}

/// A storage node this deployment has used. A disk that is gone stays here: absence is never deletion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    pub id: NodeId,
    /// Failure domain: no two shards of a chunk share one. In the one-process default each disk counts as a machine.
    pub machine: String,
    pub zone: String,
    pub first_seen: UnixMs,
}

/// The fleet of this deployment. Made once and never replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetRecord {
    pub id: FleetId,
    /// DER of the CA's certificate. Its key is not here.
    pub authority: Bytes,
    pub created: UnixMs,
    /// Which revocation list `revocations` is; it only grows. 0: there is none yet. After a restore it is higher than that list's own version,
    /// and than that of every list that was made since the copy.
    pub revocations_version: u64,
    /// The newest revocation list as the CA signed it; empty: none.
    pub revocations: Bytes,
}

/// What the operator lets a node of the fleet do. What the node itself can do is [`crate::wire::shard::NodeState`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FleetNodeState {
    /// Gets new shards.
    Active,
    /// Gets no new shards and is read; what it has is to be moved away.
    Draining,
    /// Gets no new shards and is read, until somebody has found out what is wrong with it.
    Suspended { reason: String },
    /// For good: its certificates are revoked, nobody talks to it. What it still has is made again elsewhere.
    Retired,
}

/// A node that the fleet's CA has given a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetNodeRecord {
    /// Its Ed25519 public key.
    pub id: NodeId,
    /// Failure domain: no two shards of a chunk share one.
    pub machine: String,
    pub zone: String,
    /// Bytes it offers.
    pub capacity: u64,
    /// Where its data plane listens: host and port.
    pub address: String,
    /// Serial number of its newest certificate.
    pub serial: Bytes,
    /// When that certificate ends.
    pub not_after: UnixMs,
    pub state: FleetNodeState,
    /// When it was admitted for the first time.
    pub admitted: UnixMs,
    /// When this record changed last.
    pub changed: UnixMs,
}

/// An invitation: whoever has its secret may have nodes admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteRecord {
    pub id: InviteId,
    pub created: UnixMs,
    pub expires: UnixMs,
    /// Machines that may still join with it.
    pub uses_left: u32,
}

/// A metadata node that the fleet's CA has given a certificate. Whether it votes is its groups' to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetadataNodeRecord {
    /// Its Ed25519 public key.
    pub id: NodeId,
    /// Where gateways and other metadata nodes reach it: host and port.
    pub address: String,
    /// Its newest certificate, DER: a gateway renews it here, and the node takes it from here.
    pub certificate: Bytes,
    /// When that certificate ends.
    pub not_after: UnixMs,
    /// For good: its certificates are revoked and none is made any more.
    pub removed: bool,
    /// When it was admitted for the first time.
    pub admitted: UnixMs,
    /// When this record changed last.
    pub changed: UnixMs,
}

/// Which gateway does what only one needs to do: collecting, repairing, sweeping, auditing.
///
/// There is no clock in it: a holder counts on, and whoever has watched the count stand still for long enough, by its own clock, may
/// take over from exactly that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    pub holder: WriterId,
    /// One more with every taking and renewal; the first is 1.
    pub beat: u64,
}

/// A group besides the root's. Ids are never given twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRecord {
    pub id: GroupId,
    /// Who was to found it. Who is in it now is its own membership's to say.
    pub members: Vec<Member>,
    pub made: UnixMs,
    /// It has, and gets, no range any more.
    pub ended: bool,
}

/// What is to move. The map says where the ranges are that these name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MoveAsk {
    /// Names from `at` to the end of the range that it lies in go to a new group of these members.
    SplitNames {
        at: NamePoint,
        members: Vec<Member>,
    },
    SplitChunks {
        at: ChunkId,
        members: Vec<Member>,
    },
    /// The range after the group's goes to it.
    MergeNames {
        into: GroupId,
    },
    MergeChunks {
        into: GroupId,
    },
    /// The group's whole range goes to a new group of these members.
    MoveNames {
        from: GroupId,
        members: Vec<Member>,
    },
    MoveChunks {
        from: GroupId,
        members: Vec<Member>,
    },
}

impl MoveAsk {
    /// Who founds the receiving group; `None`: it is there.
    pub fn founders(&self) -> Option<&[Member]> {
        match self {
            MoveAsk::SplitNames { members, .. }
            | MoveAsk::SplitChunks { members, .. }
            | MoveAsk::MoveNames { members, .. }
            | MoveAsk::MoveChunks { members, .. } => Some(members),
            MoveAsk::MergeNames { .. } | MoveAsk::MergeChunks { .. } => None,
        }
    }
}

/// How far a move has come, as the root knows it. What is true of the range in between, its two groups know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MoveStep {
    /// Nothing but this record is certain.
    Begun,
    /// The receiving group exists. Rows are copied; the giving group serves on, or has just given the range away.
    Copying,
    /// The giving group has given the range away: there is no way back.
    Released,
    /// The receiving group serves it, and the map says so. What the giving group still has of it goes.
    Mapped,
    Done,
    /// Nothing has moved, and what was copied is gone.
    GaveUp,
}

impl MoveStep {
    /// Whether nothing is left to do.
    pub fn is_over(self) -> bool {
        matches!(self, MoveStep::Done | MoveStep::GaveUp)
    }
}

/// A range on its way from one group to another, or after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveRecord {
    pub id: MoveId,
    pub ask: MoveAsk,
    pub span: Range,
    pub from: GroupId,
    pub to: GroupId,
    pub step: MoveStep,
    /// Who took it up last; the groups refuse whoever took it up before.
    pub attempt: u64,
    /// It is to be given up, if there still is a way back.
    pub unwanted: bool,
    /// Why it was begun, for operators.
    pub reason: String,
    pub begun: UnixMs,
    pub changed: UnixMs,
}

/// What goes from one server to another where no range moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShiftKind {
    /// A group's leadership, to a voter of it.
    Leadership,
    /// A replica, to a server that has none of the group; leadership as well, if that is where it was.
    Replica,
}

/// A group's leadership or one of its replicas on its way from one server to another, or after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShiftRecord {
    /// Of the same row as moves' numbers, so that it says which came first.
    pub id: MoveId,
    pub kind: ShiftKind,
    pub group: GroupId,
    pub from: Member,
    pub to: Member,
    /// Why it was begun, for operators.
    pub reason: String,
    pub begun: UnixMs,
    /// When it ended; `None`: it is under way.
    pub ended: Option<UnixMs>,
    /// It was done. While it is under way: no.
    pub done: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootCommand {
    /// Refused with `TenantExists` if the name or the id is taken.
    CreateTenant(TenantRecord),
    /// By name. Idempotent. Refused with `NoSuchTenant`.
    RevokeTenant { name: String },
    /// Refused with `KeyExists`, `NoSuchTenant`.
    CreateKey(KeyRecord),
    /// Idempotent. Refused with `NoSuchKey`.
    RevokeKey { access_key: String },
    /// `id` in the record is ignored and given by the log. Replies `Bucket`.
    /// Refused with `BucketOwnedByYou`, `BucketExists` (another tenant's), `TooManyBuckets`, `BucketDeleting` (whoever meets that mark finishes it).
    CreateBucket(BucketRecord),
    /// Refused with `NoSuchBucket`, `NotYours`, `BucketNotEmpty` (an object or an open upload is in it). Where names of the bucket may lie in
    /// other groups: marks it, so that nobody finds it and its name stays taken, and replies `BucketDeleting` with the next round; the caller
    /// goes through the groups and ends with `EndDelete`.
    DeleteBucket { name: String, tenant: TenantId },
    /// Idempotent: a known id keeps its first record.
    NoteNode(NodeRecord),
    /// Gives a known access key of the same tenant a new secret and takes its revocation back: the operator's own root key
    /// changed its secret. `created` stays. Refused with `NoSuchKey` (also if it is another tenant's).
    ReplaceKey(KeyRecord),
    /// Idempotent for the same id. Refused with `FleetExists`.
    CreateFleet(FleetRecord),
    /// A node has a new certificate. A known node keeps its state and the time of its first admission.
    /// Refused with `NoFleet`, `NodeRetired`.
    AdmitNode(FleetNodeRecord),
    /// Refused with `NoSuchNode`, `NodeRetired` (from there is no way back; retiring again is no error).
    SetNodeState { node: NodeId, state: FleetNodeState, now: UnixMs },
    /// Refused with `NoFleet`, `InviteExists`. Forgets invitations that ended 30 days before this one was made.
    CreateInvite(InviteRecord),
    /// Takes one use. Refused with `NoSuchInvite`, `InviteExpired`, `InviteUsed`.
    UseInvite { id: InviteId, now: UnixMs },
    /// Refused with `NoFleet`, `OldRevocations` unless `version` is the one after the known.
    Revoke { version: u64, list: Bytes },
    /// A metadata node has a new certificate. A known one keeps the time of its first admission. Refused with `NoFleet`, `NodeRetired`.
    AdmitMetadataNode(MetadataNodeRecord),
    /// Refused with `NoSuchNode`; idempotent.
    RemoveMetadataNode { node: NodeId, now: UnixMs },
    /// Takes or renews the lease. Refused with `LeaseTaken` unless its count is still `seen` (0: nobody ever had it).
    TakeLease { holder: WriterId, seen: u64 },
    /// The operator stops levelling nodes out, or lets it go on. Idempotent.
    StopRebalance { stopped: bool },
    /// Ends the deletion of a marked bucket: all groups were found empty and closed, and it is gone; or they were opened again, and it is what it
    /// was. Refused with `OldAttempt` unless `round` is the last one given, with `NoSuchBucket` if it is not marked.
    EndDelete { name: String, round: u64, gone: bool },
    /// Begins a move, if the map is still that of `expected`. Replies `Moving`.
    /// Refused with `MapChanged`, `NoSuchRange`, `MapFull`, `GroupMoves` (one of its groups is in a move already), `TooManyMoves`.
    BeginMove { ask: MoveAsk, expected: Epoch, reason: String, now: UnixMs },
    /// Takes a move up, also after somebody else had. Replies `Attempt`. Refused with `NoSuchMove` (or it is over).
    TakeMove { id: MoveId },
    /// Refused with `OldAttempt`, `NoSuchMove`; idempotent. The step to `Mapped` changes the map.
    StepMove { id: MoveId, attempt: u64, step: MoveStep, now: UnixMs },
    /// Idempotent; a move that has no way back goes on. Refused with `NoSuchMove`.
    GiveUpMove { id: MoveId },
    /// The group is no more. Idempotent; refused with `GroupMoves` while the map has it or a move that is under way.
    EndGroup { group: GroupId },
    /// A metadata node is to leave its groups, for good: it gets no replicas any more, and its own go to others. Idempotent; refused with
    /// `NoSuchNode`, and with `LastNode` unless another one stays.
    LeaveMetadataNode { node: NodeId, now: UnixMs },
    /// Notes, before it is begun, that a group's leadership or replica is to go from one server to another. Replies `Moving`.
    /// Refused with `GroupMoves` while another one of the group is under way, `TooManyMoves`.
    BeginShift { kind: ShiftKind, group: GroupId, from: Member, to: Member, reason: String, now: UnixMs },
    /// It is over. Idempotent: the first word counts. Refused with `NoSuchMove`.
    EndShift { id: MoveId, done: bool, now: UnixMs },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootQuery {
    Tenants,
    Tenant(TenantId),
    TenantByName(String),
    /// Keys of one tenant, or of all.
    Keys(Option<TenantId>),
    Key(String),
    Bucket(String),
    /// A tenant's buckets in byte order of their names.
    Buckets(TenantId),
    Nodes,
    Fleet,
    /// All that were ever admitted, retired ones included, by id.
    FleetNodes,
    Invite(InviteId),
    /// All that were ever admitted, removed ones included, by id.
    MetadataNodes,
    Lease,
    RebalanceStopped,
    /// Buckets that are marked for deletion, with their last rounds, by id.
    Deleting,
    /// The map, unless it is still that of `known`.
    Map {
        known: Option<Epoch>,
    },
    /// Those that have not ended, by id; not the root's own.
    Groups,
    /// Those under way, and the last ones that are over, by id.
    Moves,
    /// Metadata nodes that are to leave and were not removed yet, by id.
    LeavingMetadataNodes,
    /// The records of these groups, as far as there are any, ended ones included; at most [`crate::limit::GROUPS`].
    GroupsOf(Vec<GroupId>),
    /// Leaderships and replicas: those under way, and the last ones that are over, by id.
    Shifts,
    /// The format of the root's group: every process that has a replica of any group understands it.
    Format,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootAnswer {
    Tenants(Vec<TenantRecord>),
    Tenant(Option<TenantRecord>),
    Keys(Vec<KeyRecord>),
    Key(Option<KeyRecord>),
    Bucket(Option<BucketRecord>),
    Buckets(Vec<BucketRecord>),
    Nodes(Vec<NodeRecord>),
    Fleet(Option<FleetRecord>),
    FleetNodes(Vec<FleetNodeRecord>),
    Invite(Option<InviteRecord>),
    MetadataNodes(Vec<MetadataNodeRecord>),
    Lease(Option<LeaseRecord>),
    RebalanceStopped(bool),
    Deleting(Vec<(BucketRecord, u64)>),
    Map(Option<Map>),
    Groups(Vec<GroupRecord>),
    Moves(Vec<MoveRecord>),
    LeavingMetadataNodes(Vec<NodeId>),
    Shifts(Vec<ShiftRecord>),
    Format(Format),
}
