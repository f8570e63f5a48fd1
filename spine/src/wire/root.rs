//! The root group: tenants, access keys, buckets, nodes, and the fleet.

use crate::id::{BucketId, FleetId, InviteId, KeyEpoch, NodeId, TenantId, UnixMs, WriterId};
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
    /// Which revocation list `revocations` is; it only grows. 0: there is none yet.
    pub revocations_version: u64,
    /// The newest revocation list as the CA signed it.
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
    /// Refused with `BucketOwnedByYou`, `BucketExists` (another tenant's), `TooManyBuckets`.
    CreateBucket(BucketRecord),
    /// Refused with `NoSuchBucket`, `NotYours`, `BucketNotEmpty` (an object or an open upload is in it).
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
}
