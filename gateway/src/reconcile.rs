//! After metadata was restored from an earlier point: is what it says still true of the nodes?
//!
//! ```text
//! every committed version -> its manifests -> their chunks: durable, and referred to by it
//! every chunk -> its shards: a node that does not have one any more is asked for it no longer (MarkLost), and repair makes it again
//! nothing lost -> the collection is released; anything lost -> it is named, and the collection stays held
//! ```
//! Invariants: a node that does not answer has lost nothing; nothing is deleted here, and nothing anywhere before this has come to its end.
//! Not here: chunks that were stored after the copy was made: nobody's names lead to them, and the sweep takes them once it may.

use crate::body::WriteError;
use crate::core::Core;
use crate::dedup::unexpected;
use crate::fsck::{FsckError, Report, names};
use crate::reindex;
use serde::Serialize;
use spine::id::{ChunkId, NodeId, ShardIndex};
use spine::wire::chunk::{ChunkAnswer, ChunkCommand, ChunkQuery, ChunkRecord, ChunkState, ShardName};
use spine::wire::{Answer, Batch, Chain, Command, Query};
use std::collections::HashMap;
use std::sync::Arc;

/// Chunks of one page.
const PAGE: usize = 512;
/// Most findings that are spelled out; all are counted.
const SPELLED_OUT: usize = 1_000;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reconciled {
    pub objects: u64,
    pub chunks: u64,
    pub shards: u64,
    /// Of nodes that did not answer: nothing is known of them.
    pub shards_away: u64,
    /// That their nodes do not have any more, and that are made again.
    pub shards_gone: u64,
    /// Objects and chunks that cannot be read.
    pub lost: u64,
    /// The first of them.
    pub spelled_out: Vec<String>,
    /// Whether the collection was released.
    pub released: bool,
}

impl Reconciled {
    fn lose(&mut self, what: String) {
        self.lost += 1;
        if self.spelled_out.len() < SPELLED_OUT {
            self.spelled_out.push(what);
        }
    }
}

/// Goes through all of it, now.
///
/// # Errors
/// Metadata's; the collection is as it was then.
pub(crate) async fn run_now(core: &Arc<Core>) -> Result<Reconciled, WriteError> {
    let mut done = Reconciled::default();
    let mut report = Report::default();
    let walked = names::check(&core.metadata, &mut report).await;
    walked.map_err(|error| match error {
        FsckError::Metadata(error) => WriteError::Metadata(error),
        FsckError::WrongAnswer => unexpected("a look at the names", &"something else"),
    })?;
    done.objects = report.objects;
    done.lost = report.findings;
    done.spelled_out = std::mem::take(&mut report.spelled_out);
    let mut after = None;
    loop {
        let scan = core.metadata.query(Query::Chunk(ChunkQuery::Scan { after, max: PAGE })).await?;
        let Answer::Chunk(ChunkAnswer::Scan(page)) = scan else { return Err(unexpected("Scan", &"something else")) };
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        step(core, &page, &mut done).await?;
    }
    if done.lost == 0 {
        reindex::hold(core, false).await?;
        done.released = true;
    }
    tracing::info!(target: "breakwater", objects = done.objects, chunks = done.chunks, shards_gone = done.shards_gone,
        shards_away = done.shards_away, lost = done.lost, released = done.released, "reconciled");
    Ok(done)
}

async fn step(core: &Core, page: &[(ChunkId, ChunkRecord)], done: &mut Reconciled) -> Result<(), WriteError> {
    let mut asked: HashMap<NodeId, Vec<ShardName>> = HashMap::new();
    let live: Vec<_> = page.iter().filter(|(_, record)| record.state != ChunkState::Deleting).collect();
    for (chunk, record) in &live {
        for (index, place) in (0u8..).zip(record.placement.iter().flat_map(|placement| &placement.shards)) {
            let Some(place) = place else { continue };
            let name = ShardName { chunk: *chunk, generation: record.generation, index: ShardIndex(index), tag: place.tag };
            asked.entry(place.node).or_default().push(name);
        }
    }
    let mut gone: HashMap<ChunkId, Vec<(NodeId, ShardName)>> = HashMap::new();
    for (id, names) in asked {
        done.shards += names.len() as u64;
        let answers = match core.nodes.get(id).filter(|node| node.reachable()) {
            Some(node) => node.link.has(names.clone()).await.ok().filter(|answers| answers.len() == names.len()),
            None => None,
        };
        let Some(answers) = answers else {
            done.shards_away += names.len() as u64;
            continue;
        };
        for (name, _) in names.into_iter().zip(answers).filter(|(_, there)| !there) {
            gone.entry(name.chunk).or_default().push((id, name));
        }
    }
    let mut lost = Vec::new();
    for (chunk, record) in &live {
        let (Some(gone), Some(placement)) = (gone.get(chunk), &record.placement) else { continue };
        done.shards_gone += gone.len() as u64;
        let left = placement.shards.iter().flatten().count() - gone.len();
        if left < usize::from(placement.sealed.k) {
            done.lose(format!(
                "the chunk {chunk} cannot be read: at most {left} of its shards are left and {} are needed",
                placement.sealed.k
            ));
        }
        lost.extend(gone.iter().map(|(node, shard)| Command::Chunk(ChunkCommand::MarkLost { shard: *shard, node: *node })));
    }
    for commands in lost.chunks(PAGE) {
        core.metadata.propose(Batch { chain: Chain::Independent, commands: commands.to_vec() }).await?;
    }
    done.chunks += page.len() as u64;
    Ok(())
}
