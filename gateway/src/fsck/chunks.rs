//! From chunks to shards: every placed shard is where the index says, enough of them are reachable, and every reference has its holder.

use super::names::Holders;
use super::{FsckError, Report, Scope};
use spine::id::{ChunkId, NodeId, ShardIndex};
use spine::wire::chunk::{ChunkAnswer, ChunkQuery, ChunkRecord, ChunkState, Place, ShardName};
use spine::wire::shard::{NodeError, NodeState, StorageNode};
use spine::wire::{Answer, Metadata, Query};
use std::collections::HashMap;
use std::sync::Arc;

/// Chunks of one page.
const PAGE: usize = 512;
/// References of one chunk that are looked up.
const REFERENCES: usize = 4_096;

struct Placed {
    chunk: ChunkId,
    name: ShardName,
    place: Place,
}

/// What became of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Good,
    /// On a disk that is lost or not known here.
    Away,
    Missing,
    Damaged,
}

pub async fn check(
    metadata: &Arc<dyn Metadata>,
    nodes: &[Arc<dyn StorageNode>],
    scope: Scope,
    holders: &Holders,
    report: &mut Report,
) -> Result<(), FsckError> {
    let nodes: HashMap<NodeId, &Arc<dyn StorageNode>> = nodes.iter().map(|node| (node.id(), node)).collect();
    let mut after = None;
    loop {
        let ChunkAnswer::Scan(page) = ask(metadata, ChunkQuery::Scan { after, max: PAGE }).await? else {
            return Err(FsckError::WrongAnswer);
        };
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(*last);
        for (chunk, record) in &page {
            report.chunks += 1;
            if record.state != ChunkState::Live {
                report.chunks_unreferenced += 1;
            }
            if scope.at_rest {
                holders_are_there(metadata, *chunk, holders, report).await?;
            }
        }
        let mut found = look(&nodes, &page, scope.deep, report).await;
        judge(metadata, &page, &mut found, report).await?;
    }
}

async fn ask(metadata: &Arc<dyn Metadata>, query: ChunkQuery) -> Result<ChunkAnswer, FsckError> {
    match metadata.query(Query::Chunk(query)).await? {
        Answer::Chunk(answer) => Ok(answer),
        _ => Err(FsckError::WrongAnswer),
    }
}

async fn holders_are_there(metadata: &Arc<dyn Metadata>, chunk: ChunkId, holders: &Holders, report: &mut Report) -> Result<(), FsckError> {
    let ChunkAnswer::References(references) = ask(metadata, ChunkQuery::References { chunk, max: REFERENCES }).await? else {
        return Err(FsckError::WrongAnswer);
    };
    for version in references.into_iter().filter(|version| !holders.contains(*version)) {
        report.find(format!(
            "the chunk {chunk} is referred to by {version}, which is neither committed nor being written nor being released"
        ));
    }
    Ok(())
}

/// Asks the disks for the shards of a page.
async fn look(
    nodes: &HashMap<NodeId, &Arc<dyn StorageNode>>,
    page: &[(ChunkId, ChunkRecord)],
    deep: bool,
    report: &mut Report,
) -> HashMap<ShardName, Found> {
    let mut by_node: HashMap<NodeId, Vec<Placed>> = HashMap::new();
    for (chunk, record) in page.iter().filter(|(_, record)| record.state != ChunkState::Deleting) {
        let Some(placement) = &record.placement else { continue };
        for (index, place) in (0u8..).zip(&placement.shards) {
            match place {
                None => report.shards_owed += 1,
                Some(place) => {
                    report.shards += 1;
                    let name = ShardName { chunk: *chunk, generation: record.generation, index: ShardIndex(index), tag: place.tag };
                    by_node.entry(place.node).or_default().push(Placed { chunk: *chunk, name, place: *place });
                }
            }
        }
    }
    let mut found = HashMap::new();
    for (id, placed) in by_node {
        let node = nodes.get(&id).filter(|node| node.status().state != NodeState::Lost);
        let answers = match node {
            None => vec![Found::Away; placed.len()],
            Some(node) if deep => read(node, &placed, report).await,
            Some(node) => has(node, &placed).await,
        };
        report.shards_on_lost_disks += answers.iter().filter(|answer| **answer == Found::Away).count() as u64;
        found.extend(placed.into_iter().map(|placed| placed.name).zip(answers));
    }
    found
}

async fn has(node: &Arc<dyn StorageNode>, placed: &[Placed]) -> Vec<Found> {
    match node.has(placed.iter().map(|placed| placed.name).collect()).await {
        Ok(answers) => answers.into_iter().map(|there| if there { Found::Good } else { Found::Missing }).collect(),
        Err(_) => vec![Found::Away; placed.len()],
    }
}

async fn read(node: &Arc<dyn StorageNode>, placed: &[Placed], report: &mut Report) -> Vec<Found> {
    let mut found = Vec::with_capacity(placed.len());
    for shard in placed {
        found.push(match node.get(shard.name).await {
            Ok((header, data)) if header.name.chunk == shard.chunk && blake3::hash(&data).as_bytes() == &shard.place.root.0 => {
                report.shards_verified += 1;
                Found::Good
            }
            Ok(_) | Err(NodeError::Damaged { .. } | NodeError::Invalid { .. }) => Found::Damaged,
            Err(NodeError::NotFound) => Found::Missing,
            Err(NodeError::Unavailable { .. } | NodeError::Full { .. }) => Found::Away,
        });
    }
    found
}

async fn judge(
    metadata: &Arc<dyn Metadata>,
    page: &[(ChunkId, ChunkRecord)],
    found: &mut HashMap<ShardName, Found>,
    report: &mut Report,
) -> Result<(), FsckError> {
    for (chunk, record) in page {
        let Some(placement) = record.placement.as_ref().filter(|_| record.state != ChunkState::Deleting) else { continue };
        let names = (0u8..).zip(&placement.shards).filter_map(|(index, place)| {
            place.map(|place| ShardName { chunk: *chunk, generation: record.generation, index: ShardIndex(index), tag: place.tag })
        });
        let states: Vec<(ShardName, Found)> = names.filter_map(|name| found.remove(&name).map(|state| (name, state))).collect();
        let good = states.iter().filter(|(_, state)| *state == Found::Good).count();
        let wrong: Vec<_> = states.iter().filter(|(_, state)| matches!(state, Found::Missing | Found::Damaged)).collect();
        let unreadable = good < usize::from(placement.sealed.k);
        if wrong.is_empty() && !unreadable {
            continue;
        }
        // Moved, repaired or deleted since the page was read: not as it was, so not judged by it.
        let ChunkAnswer::Records(now) = ask(metadata, ChunkQuery::Records(vec![*chunk])).await? else { return Err(FsckError::WrongAnswer) };
        if now.into_iter().next().flatten().as_ref() != Some(record) {
            continue;
        }
        for (name, state) in wrong {
            report.find(format!(
                "the shard {} of the chunk {chunk} (gen {}, tag {}) is {}",
                name.index,
                name.generation,
                name.tag,
                if *state == Found::Missing { "missing" } else { "damaged" }
            ));
        }
        if unreadable {
            report.find(format!("the chunk {chunk} cannot be read: {good} of its shards are good and {} are needed", placement.sealed.k));
        }
    }
    Ok(())
}
