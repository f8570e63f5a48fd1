//! Shards of chunks that are short, where the index does not look for them: repair and levelling have moved them since the copy was made.
//!
//! ```text
//! every node's headers from each short chunk on -> same chunk, generation, sealing, and the root that the index has of that index
//!   -> read, checked against the root -> put beside it under a new tag -> Move (`owe/deliver.rs`)
//! ```
//! Invariants: a node is believed only as far as what it gives has the recorded root; tags that were given after the copy are not named
//! by the index, so that what lies under one is copied and not adopted.
//! Not here: chunks that the index does not know (`reindex.rs`).

use super::{CALL_MOST, Found, Looked, NODES};
use crate::body::WriteError;
use crate::core::Core;
use crate::nodes::Node;
use crate::owe::deliver;
use crate::owe::need::Errand;
use crate::progress::Why;
use crate::reindex::judge::Seen;
use futures::StreamExt;
use spine::id::{ChunkId, Gen, NodeId, ShardIndex, Tag};
use spine::wire::chunk::{Place, ShardName};
use spine::wire::shard::Held;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Headers of one page, and pages of one chunk on one node: more copies of a chunk than that are a lie.
const HEADERS: usize = 64;
const PAGES: usize = 8;
/// Chunks that are copied at a time.
const CHUNKS: usize = 4;

/// What a search came to.
#[derive(Debug, Default)]
pub(super) struct Searched {
    /// Shards that are placed again.
    pub placed: u64,
    /// Nodes that did not show all.
    pub silent: BTreeSet<NodeId>,
    /// Chunks that repair is at work on: nothing was placed.
    pub busy: BTreeSet<ChunkId>,
}

/// Looks for shards of chunks that are short, and places those that are found.
pub(super) async fn place(core: &Arc<Core>, short: &[Looked]) -> Result<Searched, WriteError> {
    let wanted: BTreeMap<ChunkId, Gen> = short.iter().map(|one| (one.chunk, one.record.generation)).collect();
    let mut searched = Searched::default();
    let mut seen: BTreeMap<ChunkId, Vec<Seen>> = BTreeMap::new();
    let nodes: Vec<Arc<Node>> = core.nodes.all().iter().cloned().collect();
    let listing: Vec<_> = nodes.into_iter().map(|node| list(node, &wanted)).collect();
    let mut listing = futures::stream::iter(listing).buffer_unordered(NODES);
    while let Some((node, listed)) = listing.next().await {
        match listed {
            Some(listed) => listed.into_iter().for_each(|one| seen.entry(one.header.name.chunk).or_default().push(one)),
            None => drop(searched.silent.insert(node)),
        }
    }
    let placing: Vec<_> = short.iter().filter_map(|one| Some(place_one(core, one, candidates(one, seen.get(&one.chunk)?)))).collect();
    let mut placing = futures::stream::iter(placing).buffer_unordered(CHUNKS);
    while let Some(placed) = placing.next().await {
        match placed? {
            (_, Some(placed)) => searched.placed += placed,
            (chunk, None) => drop(searched.busy.insert(chunk)),
        }
    }
    Ok(searched)
}

/// What a node shows of the wanted chunks; `None`: it did not show all.
async fn list(node: Arc<Node>, wanted: &BTreeMap<ChunkId, Gen>) -> (NodeId, Option<Vec<Seen>>) {
    let (mut out, mut waiting) = (Vec::new(), VecDeque::<Held>::new());
    for (chunk, generation) in wanted {
        let mut last = ShardName { chunk: *chunk, generation: *generation, index: ShardIndex(0), tag: Tag(0) };
        while waiting.pop_front_if(|held| held.name() < last).is_some() {}
        for page in 0.. {
            while let Some(held) = waiting.pop_front_if(|held| held.name().chunk == *chunk) {
                last = last.max(held.name());
                if let Held::Whole(header) = held {
                    out.push(Seen { node: node.id, header });
                }
            }
            if !waiting.is_empty() {
                break;
            }
            if page == PAGES || !node.reachable() {
                return (node.id, None);
            }
            let Ok(Ok(found)) = tokio::time::timeout(CALL_MOST, node.link.headers(Some(last), HEADERS)).await else {
                return (node.id, None);
            };
            match found.first() {
                // There is nothing behind this, of no other chunk either.
                None => return (node.id, Some(out)),
                Some(first) if first.name() <= last => return (node.id, None),
                Some(_) => waiting = found.into(),
            }
        }
    }
    (node.id, Some(out))
}

/// Where the shards of a chunk that were not found in their places may be had: by index, younger tags first.
fn candidates(one: &Looked, seen: &[Seen]) -> BTreeMap<usize, Vec<Place>> {
    let mut out: BTreeMap<usize, Vec<Place>> = BTreeMap::new();
    let Some(placement) = &one.record.placement else { return out };
    for Seen { node, header } in seen {
        let index = usize::from(header.name.index.0);
        let Some(Some(placed)) = placement.shards.get(index) else { continue };
        let is_it = header.name.generation == one.record.generation && header.sealed == placement.sealed && header.root == placed.root;
        let is_missing = matches!(one.found.get(index), Some(Found::Gone | Found::Silent));
        if is_it && is_missing && (*node, header.name.tag) != (placed.node, placed.tag) {
            out.entry(index).or_default().push(Place { node: *node, tag: header.name.tag, root: header.root });
        }
    }
    out.values_mut().for_each(|places| places.sort_by_key(|place| (std::cmp::Reverse(place.tag), place.node)));
    out
}

/// Places what is found of one chunk; how many shards. `None`: somebody repairs it now.
async fn place_one(
    core: &Arc<Core>,
    one: &Looked,
    mut candidates: BTreeMap<usize, Vec<Place>>,
) -> Result<(ChunkId, Option<u64>), WriteError> {
    let Some(placement) = &one.record.placement else { return Ok((one.chunk, Some(0))) };
    let Some(_taken) = core.busy.take(one.chunk) else { return Ok((one.chunk, None)) };
    let bytes = placement.sealed.sealed_len as usize;
    let _turn = core.pace.turn(bytes, true).await;
    let _memory = core.read_memory.take(bytes).await;
    let mut placed = 0;
    loop {
        let before = placed;
        for index in candidates.keys().copied().collect::<Vec<usize>>() {
            let old = placement.shards.get(index).copied().flatten();
            for from in candidates.get(&index).into_iter().flatten().copied().collect::<Vec<Place>>() {
                let Some((shard, root)) = deliver::copy(core, one.chunk, &one.record, index, from).await? else { continue };
                let errand = Errand { index, node: from.node, tag: None, from: old };
                if deliver::place(core, one.chunk, &one.record, &errand, Why::Repair, shard, root).await? {
                    placed += 1;
                    candidates.remove(&index);
                    break;
                }
            }
        }
        // One that could not go to its node because the index has another of the chunk there can, once that one is placed elsewhere.
        if placed == before {
            return Ok((one.chunk, Some(placed)));
        }
    }
}
