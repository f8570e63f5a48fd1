//! An audit as a file: JSON that `breakwater admin audit verify` checks without a key, a server or the shards.
//!
//! What can be checked: that slices follow from the nonce, that each proof leads to the root beside it, that what is called wrong
//! is wrong. What cannot: that roots and shards are those of the index (compare them with it), and what a node left unsaid.

use super::{Asked, Outcome};
use crate::nodes::Node;
use serde::{Deserialize, Serialize};
use spine::audit::{self, Draw, Nonce};
use spine::id::{ChunkId, Gen, NodeId, ShardIndex, ShardRoot, Tag, UnixMs};
use spine::wire::chunk::ShardName;

/// What the first field says.
const FORMAT: &str = "breakwater audit 1";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transcript {
    pub format: String,
    pub audits: Vec<NodeAudit>,
}

/// One node's part. Ids, roots, nonces and proofs are hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeAudit {
    pub node: String,
    pub machine: String,
    pub began_ms: u64,
    pub nonce: String,
    /// Shards placed on the node, and how many of them were to be drawn.
    pub placed: u64,
    pub count: u64,
    /// By rank.
    pub slices: Vec<SliceAudit>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SliceAudit {
    pub chunk: String,
    pub generation: u64,
    pub index: u8,
    pub tag: u64,
    /// Bytes of the shard.
    pub len: u32,
    pub root: String,
    /// Number of the slice, from 0.
    pub slice: u32,
    /// `proven`, `missing`, `damaged`, `wrong`, `unanswered` or `moved`.
    pub outcome: String,
    /// Of `proven` and `wrong`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
}

/// Why a transcript is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoTranscript {
    #[error("the file is no transcript of an audit. reason=`{0}`")]
    Unreadable(String),
    #[error("node {node}: slice {at}: {what}")]
    Wrong { node: String, at: usize, what: String },
    #[error("node {node}: {what}")]
    Node { node: String, what: &'static str },
}

/// What a checked transcript shows of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shown {
    pub node: String,
    pub machine: String,
    pub placed: u64,
    pub proven: u64,
    /// Missing, damaged or wrong.
    pub failed: u64,
    /// Unanswered or moved.
    pub open: u64,
}

impl NodeAudit {
    pub(crate) fn new(node: &Node, began: UnixMs, draw: &Draw, count: usize, asked: &[Asked]) -> NodeAudit {
        NodeAudit {
            node: node.id.to_string(),
            machine: node.machine.to_string(),
            began_ms: began.0,
            nonce: hex::encode(draw.nonce()),
            placed: draw.offered(),
            count: count as u64,
            slices: asked.iter().map(SliceAudit::new).collect(),
        }
    }

    fn check(&self) -> Result<Shown, NoTranscript> {
        let of = |what: &'static str| NoTranscript::Node { node: self.node.clone(), what };
        let nonce: Nonce = bytes(&self.nonce).ok_or_else(|| of("the nonce is not one"))?;
        bytes::<{ NodeId::LEN }>(&self.node).ok_or_else(|| of("the id is not one"))?;
        if self.slices.len() as u64 != self.placed.min(self.count) {
            return Err(of("not as many slices as were to be drawn"));
        }
        let mut shown =
            Shown { node: self.node.clone(), machine: self.machine.clone(), placed: self.placed, proven: 0, failed: 0, open: 0 };
        let mut before = None;
        for (at, slice) in self.slices.iter().enumerate() {
            let rank = slice.check(&nonce).map_err(|what| NoTranscript::Wrong { node: self.node.clone(), at, what })?;
            if before.is_some_and(|before| rank <= before) {
                return Err(NoTranscript::Wrong { node: self.node.clone(), at, what: "not in the order of the nonce".into() });
            }
            before = Some(rank);
            match slice.outcome.as_str() {
                "proven" => shown.proven += 1,
                "unanswered" | "moved" => shown.open += 1,
                _ => shown.failed += 1,
            }
        }
        Ok(shown)
    }
}

impl SliceAudit {
    fn new(asked: &Asked) -> SliceAudit {
        let name = asked.placed.name;
        let proof = match &asked.outcome {
            Outcome::Proven(proof) | Outcome::Wrong(proof, _) => Some(hex::encode(proof)),
            _ => None,
        };
        SliceAudit {
            chunk: name.chunk.to_string(),
            generation: name.generation.0,
            index: name.index.0,
            tag: name.tag.0,
            len: asked.placed.len,
            root: asked.placed.root.to_string(),
            slice: asked.slice,
            outcome: asked.outcome.word().to_string(),
            proof,
        }
    }

    /// The shard's rank under `nonce`, if everything said of it holds.
    fn check(&self, nonce: &Nonce) -> Result<[u8; 32], String> {
        let chunk = ChunkId(bytes(&self.chunk).ok_or("the chunk's id is not one")?);
        let root = ShardRoot(bytes(&self.root).ok_or("the root is not one")?);
        let name = ShardName { chunk, generation: Gen(self.generation), index: ShardIndex(self.index), tag: Tag(self.tag) };
        if audit::slice_of(nonce, &name, self.len) != self.slice {
            return Err("the nonce asks for another slice".into());
        }
        let proof = self.proof.as_deref().map(|proof| hex::decode(proof).map_err(|_| "the proof is not hexadecimal")).transpose()?;
        match (self.outcome.as_str(), proof) {
            ("proven", Some(proof)) => audit::verify(&proof, &root, self.len, self.slice).map_err(|why| why.to_string())?,
            ("wrong", Some(proof)) => {
                if audit::verify(&proof, &root, self.len, self.slice).is_ok() {
                    return Err("what is called wrong is a proof".into());
                }
            }
            ("missing" | "damaged" | "unanswered" | "moved", None) => {}
            (outcome, _) => return Err(format!("the outcome `{outcome}` does not go with what is there")),
        }
        Ok(audit::rank(nonce, &name))
    }
}

impl Transcript {
    pub(crate) fn new(audits: Vec<NodeAudit>) -> Transcript {
        Transcript { format: FORMAT.to_string(), audits }
    }

    /// Reads and checks a transcript: what it shows of each node.
    ///
    /// # Errors
    /// [`NoTranscript`] if anything in it does not hold.
    pub fn verify(text: &[u8]) -> Result<Vec<Shown>, NoTranscript> {
        let transcript: Transcript = serde_json::from_slice(text).map_err(|error| NoTranscript::Unreadable(error.to_string()))?;
        if transcript.format != FORMAT {
            return Err(NoTranscript::Unreadable(format!("its format is `{}`, not `{FORMAT}`", transcript.format)));
        }
        transcript.audits.iter().map(NodeAudit::check).collect()
    }
}

fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    Some(bytes)
}
