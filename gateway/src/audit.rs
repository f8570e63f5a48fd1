//! Audits and the look for what nodes should have: the gateway's side of `spine::audit`.
//!
//! ```text
//! survey.rs   one pass through the index: draws each node's shards, and asks nodes whether they have what is placed on them
//! audit.rs    asks one node for proofs, and judges them by the recorded roots
//! seen.rs     what is known of one node, what counts as a strike and what takes one back: pure
//! board.rs    that of every node
//! sentence.rs whether a node with too many strikes is suspended: pure
//! strikes.rs  what reads and scrubs found wrong, held against the node
//! watch.rs    all of it in the background: so many questions a day and node, strikes, suspension, scrub reports
//! transcript.rs  an audit as a file that anybody can check
//! ```
//! Invariants: a failure counts only if the index, asked again afterwards, still places the shard there; whatever is found missing
//! or wrong is owed and made again; nobody is believed: a proof is judged by the root that the index has.
//! Not here: proofs and the draw (`spine::audit`), making shards again (`owe.rs`).

pub mod board;
pub mod seen;
pub(crate) mod sentence;
pub(crate) mod strikes;
pub(crate) mod survey;
pub mod transcript;
pub(crate) mod watch;

use crate::body::WriteError;
use crate::collect::sweep::records;
use crate::core::{Core, now};
use crate::damage::Finder;
use crate::metric::AUDIT_ANSWERS;
use crate::nodes::Node;
use board::Board;
use bytes::Bytes;
use spine::audit::{self, Answered, Draw, NoProof, Nonce, Placed, Question};
use spine::id::NodeId;
use spine::wire::chunk::{ChunkRecord, ChunkState, ShardName};
use std::collections::{HashMap, HashSet};
use std::time::Duration;
use tokio::time::timeout;
use transcript::{NodeAudit, Transcript};

/// Questions asked at once, and how long their answers may take: enough for a busy disk, and not for fetching shards from elsewhere
/// at leisure.
const GROUP: usize = 8;
const DEADLINE: Duration = Duration::from_secs(5);

/// What one question came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Proven(Bytes),
    Missing,
    Damaged,
    /// A proof that proves nothing.
    Wrong(Bytes, NoProof),
    /// No answer in time; nothing is known.
    Unanswered,
    /// The shard was moved or deleted meanwhile: nothing was asked of the node.
    Moved,
}

impl Outcome {
    /// As metrics and transcripts have it.
    pub fn word(&self) -> &'static str {
        match self {
            Outcome::Proven(_) => "proven",
            Outcome::Missing => "missing",
            Outcome::Damaged => "damaged",
            Outcome::Wrong(..) => "wrong",
            Outcome::Unanswered => "unanswered",
            Outcome::Moved => "moved",
        }
    }

    /// The node does not have what it acknowledged.
    pub fn failed(&self) -> bool {
        matches!(self, Outcome::Missing | Outcome::Damaged | Outcome::Wrong(..))
    }
}

/// One question and what it came to.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub placed: Placed,
    pub slice: u32,
    pub outcome: Outcome,
}

pub(crate) fn fresh_nonce() -> Result<Nonce, WriteError> {
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).map_err(|error| WriteError::Unavailable { reason: error.to_string() })?;
    Ok(nonce)
}

/// Audits the nodes that answer, or one of them, `count` slices each, now.
pub(crate) async fn run_now(core: &Core, board: &Board, node: Option<NodeId>, count: usize) -> Result<Transcript, WriteError> {
    let nodes: Vec<_> = core.nodes.all().iter().filter(|n| node.is_none_or(|id| n.id == id)).cloned().collect();
    let mut draws = HashMap::new();
    for node in &nodes {
        draws.insert(node.id, Draw::new(fresh_nonce()?, count));
    }
    let surveyed = survey::run(core, draws, &HashSet::new()).await?;
    let mut audits = Vec::new();
    for node in nodes {
        let Some(draw) = surveyed.draws.get(&node.id) else { continue };
        let began = now();
        let asked = ask(core, board, &node, draw.drawn().collect()).await?;
        audits.push(NodeAudit::new(&node, began, draw, count, &asked));
    }
    Ok(Transcript::new(audits))
}

/// Asks one node, and takes what it says to the board and to repair.
pub(crate) async fn ask(core: &Core, board: &Board, node: &Node, drawn: Vec<(Placed, u32)>) -> Result<Vec<Asked>, WriteError> {
    let mut all = Vec::with_capacity(drawn.len());
    for some in drawn.chunks(GROUP) {
        let mut group: Vec<Asked> =
            some.iter().map(|(placed, slice)| Asked { placed: *placed, slice: *slice, outcome: Outcome::Unanswered }).collect();
        judge_moved(core, node.id, &mut group, |_| true).await?;
        let there: Vec<usize> = (0..group.len()).filter(|at| group[*at].outcome != Outcome::Moved).collect();
        let questions: Vec<Question> = there.iter().map(|at| Question { name: group[*at].placed.name, slice: group[*at].slice }).collect();
        if !questions.is_empty() {
            let answers = timeout(DEADLINE, node.link.audit(questions)).await;
            match answers {
                Ok(Ok(answers)) if answers.len() == there.len() => {
                    for (at, answer) in there.iter().zip(answers) {
                        group[*at].outcome = judge(answer, &group[*at]);
                    }
                }
                Ok(Err(error)) => tracing::debug!(node = %node.id, %error, "an audit was not answered"),
                _ => tracing::debug!(node = %node.id, "an audit was not answered in time"),
            }
        }
        judge_moved(core, node.id, &mut group, Outcome::failed).await?;
        for asked in &group {
            AUDIT_ANSWERS.with_label_values(&[asked.outcome.word()]).inc();
            if asked.outcome.failed() {
                core.damage.report(asked.placed.name, node.id, Finder::Audit);
            }
        }
        board.book(node.id, &group, node.reachable(), now());
        all.extend(group);
    }
    Ok(all)
}

fn judge(answer: Answered, asked: &Asked) -> Outcome {
    match answer {
        Answered::Missing => Outcome::Missing,
        Answered::Damaged => Outcome::Damaged,
        Answered::Proof(proof) => match audit::verify(&proof, &asked.placed.root, asked.placed.len, asked.slice) {
            Ok(()) => Outcome::Proven(proof),
            // What is too long to be a proof is not kept.
            Err(why) => Outcome::Wrong(proof.slice(..proof.len().min(audit::PROOF_BYTES)), why),
        },
    }
}

/// Those of `which` outcome whose shard is not placed there any more count as moved.
async fn judge_moved(core: &Core, node: NodeId, group: &mut [Asked], which: impl Fn(&Outcome) -> bool) -> Result<(), WriteError> {
    let names: Vec<ShardName> = group.iter().filter(|asked| which(&asked.outcome)).map(|asked| asked.placed.name).collect();
    if names.is_empty() {
        return Ok(());
    }
    let records = records(core, &names).await?;
    for asked in group.iter_mut().filter(|asked| which(&asked.outcome)) {
        let record = records.get(&asked.placed.name.chunk);
        if !record.is_some_and(|record| is_placed(record, &asked.placed.name, node)) {
            asked.outcome = Outcome::Moved;
        }
    }
    Ok(())
}

/// Whether the index places exactly this shard on `node`. Not while it is deleted: the node was told to trash it, and the record stays
/// for as long as any other node of the chunk does not answer.
pub(crate) fn is_placed(record: &ChunkRecord, name: &ShardName, node: NodeId) -> bool {
    if record.state == ChunkState::Deleting {
        return false;
    }
    let place = record.placement.as_ref().and_then(|placement| placement.shards.get(usize::from(name.index.0)).copied().flatten());
    record.generation == name.generation && place.is_some_and(|place| place.node == node && place.tag == name.tag)
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
