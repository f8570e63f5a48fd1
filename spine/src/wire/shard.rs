//! What a gateway says to a storage node, and hears.

use crate::audit::{self, Answered, Question};
use crate::id::NodeId;
use crate::id::ShardRoot;
use crate::id::UnixMs;
use crate::wire::chunk::{Sealed, ShardName};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Stored in front of every shard: enough to re-index a fleet from shards alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardHeader {
    pub name: ShardName,
    pub sealed: Sealed,
    pub root: ShardRoot,
    /// Bytes of the shard.
    pub len: u32,
}

/// What a node says of one shard that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Held {
    Whole(ShardHeader),
    /// It was listed, and its header does not read.
    Unread(ShardName),
}

impl Held {
    pub fn name(&self) -> ShardName {
        match self {
            Held::Whole(header) => header.name,
            Held::Unread(name) => *name,
        }
    }
}

/// What became of a node; a lost disk is a state, not a panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeState {
    Serving,
    /// Reads and deletes go on, puts answer `Full`.
    Full,
    /// The disk is gone, emptied or failing: every call answers `Unavailable`. It is looked for again and again.
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    pub state: NodeState,
    /// Bytes this node may hold in all, and of those still free.
    pub capacity: u64,
    pub free: u64,
    /// Shards and their bytes, without trash.
    pub shards: u64,
    pub shard_bytes: u64,
    pub trash_bytes: u64,
}

/// How far a node is with reading all it has and checking it against its roots, round after round.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubReport {
    /// Rounds finished since the disk was made.
    pub rounds: u64,
    /// When the round that is running began.
    pub round_began: UnixMs,
    /// Bytes of shards that the running round has read.
    pub round_bytes: u64,
    /// Shards and their bytes read since the process started.
    pub shards: u64,
    pub bytes: u64,
    /// Damaged shards found since the process started.
    pub found: u64,
    /// The newest of them, at most [`crate::wire::peer::SCRUB_NAMES`]. `has` answers false for each.
    pub damaged: Vec<ShardName>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum NodeError {
    #[error("the node does not have this shard")]
    NotFound,
    /// Found, but its bytes are not what was stored. The node has set it aside.
    #[error("the shard is damaged. found=`{what}`")]
    Damaged { what: String },
    #[error("the node is full. free_bytes=`{free}`")]
    Full { free: u64 },
    /// Disk lost, overloaded, or not answering. Try another node.
    #[error("the node is unavailable. reason=`{reason}`")]
    Unavailable { reason: String },
    #[error("the shard does not fit its header. what=`{what}`")]
    Invalid { what: String },
}

/// One storage node: a function call in the all-in-one process, mutual TLS elsewhere.
#[async_trait::async_trait]
pub trait StorageNode: Send + Sync + 'static {
    fn id(&self) -> NodeId;
    /// Failure domain.
    fn machine(&self) -> String;
    fn status(&self) -> NodeStatus;

    /// Returns when the shard is synced to disk. The same name and root again is Ok; another root under a known name is `Invalid`.
    async fn put(&self, header: ShardHeader, data: Bytes) -> Result<(), NodeError>;

    /// The whole shard with its header. The node has checked its own header, not the root: the caller does that, since it trusts no node.
    async fn get(&self, name: ShardName) -> Result<(ShardHeader, Bytes), NodeError>;

    /// Which of these the node holds, in order.
    async fn has(&self, names: Vec<ShardName>) -> Result<Vec<bool>, NodeError>;

    /// Moves shards to the trash. Missing ones are no error. Durable on return.
    async fn trash(&self, names: Vec<ShardName>) -> Result<(), NodeError>;

    /// Names after `after` in name order, at most `max`: fsck, sweep, re-index.
    async fn list(&self, after: Option<ShardName>, max: usize) -> Result<Vec<(ShardName, u32)>, NodeError>;

    /// As [`StorageNode::list`], with the header of each shard: what an index is made from again. At most
    /// [`crate::limit::CALL_HEADERS`].
    async fn headers(&self, after: Option<ShardName>, max: usize) -> Result<Vec<Held>, NodeError> {
        let mut held = Vec::new();
        for (name, _) in self.list(after, max.min(crate::limit::CALL_HEADERS)).await? {
            held.push(match self.get(name).await {
                Ok((header, _)) => Held::Whole(header),
                Err(NodeError::NotFound | NodeError::Damaged { .. }) => Held::Unread(name),
                Err(error) => return Err(error),
            });
        }
        Ok(held)
    }

    /// One answer a question, in order: a proof of the slice, or why there is none. What a proof is worth the caller finds by the
    /// recorded root.
    async fn audit(&self, questions: Vec<Question>) -> Result<Vec<Answered>, NodeError> {
        let mut answers = Vec::with_capacity(questions.len());
        for Question { name, slice } in questions {
            answers.push(match self.get(name).await {
                Ok((_, data)) => audit::prove(&data, slice).map_or(Answered::Missing, |(proof, _)| Answered::Proof(proof.into())),
                Err(NodeError::NotFound) => Answered::Missing,
                Err(NodeError::Damaged { .. }) => Answered::Damaged,
                Err(error) => return Err(error),
            });
        }
        Ok(answers)
    }

    /// What the node's scrub has done and found; `None` if it has none.
    async fn scrubbed(&self) -> Result<Option<ScrubReport>, NodeError> {
        Ok(None)
    }
}
