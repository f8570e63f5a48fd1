//! After metadata was restored from an earlier point: is what it says still true of the nodes?
//!
//! ```text
//! is it a restore that holds the collection? (holder.rs)
//! every committed version -> its manifests -> their chunks: durable, and referred to by it
//! every chunk -> its shards: counted where a node says that it has them
//!   fewer than a read takes, and something refers to it -> looked for on all nodes, and placed anew where they lie (elsewhere.rs)
//!   fewer, and nothing refers to it -> forgotten, so that whoever writes the same data stores it
//!   enough -> a node that does not have one any more is asked for it no longer (MarkLost), and repair makes it again
//! nothing lost and nothing that cannot be told -> the collection is released; anything else is named, and the collection stays held
//! ```
//! Invariants: a shard counts only where its node has said so just now; a chunk that is short and wanted keeps all that the index says of
//! it; what nothing refers to cannot be lost; once the collection is released, no chunk of the copy is known of which too few shards were
//! seen, so that nobody who writes the same data is told that it is there already; nothing is deleted here but what was copied, read back by its root and placed before.
//! Not here: chunks that were stored after the copy was made: nobody's names lead to them, and the sweep takes them once it may.

mod elsewhere;
mod holder;

pub(crate) use holder::is_waiting;

use crate::body::WriteError;
use crate::core::Core;
use crate::dedup::unexpected;
use crate::fsck::{FsckError, Report, names};
use crate::nodes::Node;
use crate::reindex;
use crate::snapshot::kept;
use futures::StreamExt;
use serde::Serialize;
use spine::id::{ChunkId, NodeId, ShardIndex};
use spine::wire::chunk::{ChunkAnswer, ChunkCommand, ChunkQuery, ChunkRecord, ChunkState, ShardName};
use spine::wire::root::{FleetNodeState, RootAnswer, RootQuery};
use spine::wire::{Answer, Batch, Chain, Command, Query, Reply};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// Chunks of one page.
const PAGE: usize = 512;
/// Most findings of each kind that are spelled out; all are counted.
const SPELLED_OUT: usize = 1_000;
/// Chunks whose references are asked for at a time.
const ASKING: usize = 16;
/// Nodes that are asked at a time.
const NODES: usize = 64;
/// A node that takes longer for one answer counts as one that does not answer.
const CALL_MOST: Duration = Duration::from_secs(60);
/// Questions that a node may leave unanswered; then it counts as away for the rest of the run.
const FAILURES_MOST: u32 = 2;

/// Why nothing was compared.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    #[error("the collection is not held: no restore waits to be reconciled")]
    NotHeld,
    /// Re-indexing holds it, or an operator.
    #[error(
        "this metadata did not come out of a copy, so what holds the collection is no restore: is this the folder that was restored? A hold by re-indexing or by an operator ends with `breakwater admin collection release` alone"
    )]
    NotRestored,
    /// By this restore's own reconciliation, or by force; whatever holds it now came later.
    #[error(
        "the collection was released since this restore; what holds it now is re-indexing or an operator, and ends with `breakwater admin collection release` alone"
    )]
    Over,
    #[error(transparent)]
    Store(#[from] WriteError),
}

/// Why the collection was not released.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    #[error(
        "a restore waits for `breakwater admin metadata reconcile`, which releases the collection once nothing is lost. Released before that, a chunk that is lost counts as stored: whoever writes the same data is told that it is there, and it is not. Write again or delete what was reported as lost, bring the nodes back that did not answer or retire them, and reconcile; `--force` releases all the same"
    )]
    Unreconciled,
    #[error(transparent)]
    Store(#[from] WriteError),
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reconciled {
    pub objects: u64,
    pub chunks: u64,
    pub shards: u64,
    /// Of nodes that did not answer: nothing is known of them.
    pub shards_away: u64,
    /// That their nodes do not have any more. Where enough others are there they are made again.
    pub shards_gone: u64,
    /// That lay elsewhere than the index said, of chunks that were short without them, and are placed again.
    pub shards_found: u64,
    /// Nodes that have shards by the index and did not answer, or are not known.
    pub nodes_away: BTreeSet<String>,
    /// Objects and chunks that cannot be read though all nodes answered.
    pub lost: u64,
    /// The first of them.
    pub spelled_out: Vec<String>,
    /// Chunks of which too few shards were found while nodes were away that may have others.
    pub untold: u64,
    /// The first of them.
    pub untold_spelled_out: Vec<String>,
    /// Chunks of copies of metadata in the store that cannot be read: nobody's data.
    pub copies_short: u64,
    /// Chunks that nothing refers to and of which too few shards were found: the copy's are forgotten.
    pub idle_short: u64,
    /// Whether the collection was released.
    pub released: bool,
}

fn add(count: &mut u64, spelled_out: &mut Vec<String>, what: String) {
    *count += 1;
    if spelled_out.len() < SPELLED_OUT {
        spelled_out.push(what);
    }
}

/// What is known of one index of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// Owed: it is placed nowhere.
    Unplaced,
    There,
    Gone,
    /// Its node did not answer.
    Silent,
}

/// What a chunk's shards come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Whole,
    /// Nodes that are away may have enough.
    Untold,
    Lost,
}

/// - `all_listed`: every node that is known has shown which shards of the chunk it has.
fn judge(found: &[Found], k: u8, all_listed: bool) -> Verdict {
    let count = |what: Found| found.iter().filter(|one| **one == what).count();
    let there = count(Found::There);
    match usize::from(k) {
        k if there >= k => Verdict::Whole,
        k if !all_listed || there + count(Found::Silent) >= k => Verdict::Untold,
        _ => Verdict::Lost,
    }
}

/// A durable chunk, and what nodes said of it.
struct Looked {
    chunk: ChunkId,
    record: ChunkRecord,
    /// By index.
    found: Vec<Found>,
}

impl Looked {
    fn k(&self) -> u8 {
        self.record.placement.as_ref().map_or(0, |placement| placement.sealed.k)
    }

    fn count(&self, what: Found) -> u64 {
        self.found.iter().filter(|one| **one == what).count() as u64
    }

    fn is_short(&self) -> bool {
        self.count(Found::There) < u64::from(self.k())
    }

    fn is_of_a_copy(&self) -> bool {
        self.record.placement.as_ref().is_some_and(|placement| placement.sealed.tenant == kept::TENANT)
    }

    /// Shards that are placed, with their nodes.
    fn placed(&self) -> impl Iterator<Item = (usize, NodeId, ShardName)> + '_ {
        let places = self.record.placement.iter().flat_map(|placement| placement.shards.iter().enumerate());
        places.filter_map(|(index, place)| {
            let place = (*place)?;
            let name = ShardName { chunk: self.chunk, generation: self.record.generation, index: ShardIndex(index as u8), tag: place.tag };
            Some((index, place.node, name))
        })
    }
}

/// Nodes that are not asked.
struct Away {
    /// For good: what they had is gone.
    retired: BTreeSet<NodeId>,
    /// How many questions of this run each has not answered.
    failures: HashMap<NodeId, u32>,
}

impl Away {
    async fn find(core: &Core) -> Result<Away, WriteError> {
        match core.metadata.query(Query::Root(RootQuery::FleetNodes)).await? {
            Answer::Root(RootAnswer::FleetNodes(nodes)) => {
                let retired = nodes.into_iter().filter(|node| node.state == FleetNodeState::Retired).map(|node| node.id).collect();
                Ok(Away { retired, failures: HashMap::new() })
            }
            _ => Err(unexpected("FleetNodes", &"something else")),
        }
    }

    fn has_failed(&self, node: NodeId) -> bool {
        self.failures.get(&node).is_some_and(|failures| *failures >= FAILURES_MOST)
    }
}

/// Goes through all of it, now.
///
/// # Errors
/// Refused unless a restore is what holds the collection; metadata's. The collection is as it was then.
pub(crate) async fn run_now(core: &Arc<Core>) -> Result<Reconciled, ReconcileError> {
    let life = holder::life(core).await?;
    let mut done = compare(core).await?;
    if done.lost == 0 && done.untold == 0 {
        reindex::hold(core, false).await?;
        holder::note(core, life).await?;
        done.released = true;
    }
    tracing::info!(target: "breakwater", objects = done.objects, chunks = done.chunks, shards_gone = done.shards_gone,
        shards_away = done.shards_away, shards_found = done.shards_found, lost = done.lost, untold = done.untold,
        released = done.released, "reconciled");
    Ok(done)
}

/// Releases the collection, whatever holds it.
///
/// # Errors
/// Refused without `force` while a restore waits to be reconciled; metadata's.
pub(crate) async fn release(core: &Core, force: bool) -> Result<(), ReleaseError> {
    let waiting = match holder::life(core).await {
        Ok(life) => Some(life),
        Err(ReconcileError::Store(error)) => return Err(error.into()),
        Err(_) => None,
    };
    if waiting.is_some() && !force {
        return Err(ReleaseError::Unreconciled);
    }
    reindex::hold(core, false).await?;
    if let Some(life) = waiting {
        holder::note(core, life).await?;
    }
    Ok(())
}

async fn compare(core: &Arc<Core>) -> Result<Reconciled, WriteError> {
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
    let (mut after, mut away) = (None, Away::find(core).await?);
    loop {
        let scan = core.metadata.query(Query::Chunk(ChunkQuery::Scan { after, max: PAGE })).await?;
        let Answer::Chunk(ChunkAnswer::Scan(page)) = scan else { return Err(unexpected("Scan", &"something else")) };
        let Some((last, _)) = page.last() else { return Ok(done) };
        after = Some(*last);
        done.chunks += page.len() as u64;
        step(core, page, &mut away, &mut done).await?;
    }
}

async fn step(core: &Arc<Core>, page: Vec<(ChunkId, ChunkRecord)>, away: &mut Away, done: &mut Reconciled) -> Result<(), WriteError> {
    let looked = look(core, page, away).await;
    done.shards += looked.iter().map(|one| one.placed().count() as u64).sum::<u64>();
    let (short, mut whole): (Vec<Looked>, Vec<Looked>) = looked.into_iter().partition(Looked::is_short);
    let (short, idle) = needed(core, short).await?;
    forget(core, idle, done).await?;
    if !short.is_empty() {
        let searched = elsewhere::place(core, &short).await?;
        done.shards_found += searched.placed;
        done.nodes_away.extend(searched.silent.iter().map(NodeId::to_string));
        // As they are now: what was placed, and what others have moved meanwhile.
        let ids: Vec<ChunkId> = short.iter().map(|one| one.chunk).collect();
        let records = Query::Chunk(ChunkQuery::Records(ids.clone()));
        let Answer::Chunk(ChunkAnswer::Records(records)) = core.metadata.query(records).await? else {
            return Err(unexpected("Records", &"something else"));
        };
        let again = ids.into_iter().zip(records).filter_map(|(chunk, record)| Some((chunk, record?))).collect();
        for one in look(core, again, away).await {
            let all_listed = searched.silent.is_empty() && !searched.busy.contains(&one.chunk);
            match judge(&one.found, one.k(), all_listed) {
                Verdict::Whole => whole.push(one),
                verdict => tell(one, verdict, done),
            }
        }
    }
    mark_lost(core, whole, done).await
}

/// Books a chunk that is short.
fn tell(one: Looked, verdict: Verdict, done: &mut Reconciled) {
    book(&one, done);
    if one.is_of_a_copy() {
        done.copies_short += 1;
        return;
    }
    let (chunk, there, k) = (one.chunk, one.count(Found::There), one.k());
    if verdict == Verdict::Lost {
        let what = format!("the chunk {chunk} cannot be read: {there} of its shards were found on all nodes, and {k} are needed");
        add(&mut done.lost, &mut done.spelled_out, what);
    } else {
        let what = format!(
            "the chunk {chunk}: {there} of its shards were found and {k} are needed; nodes are away that may have others, or repair is at work on it"
        );
        add(&mut done.untold, &mut done.untold_spelled_out, what);
    }
}

fn book(one: &Looked, done: &mut Reconciled) {
    done.shards_gone += one.count(Found::Gone);
    done.shards_away += one.count(Found::Silent);
    let silent = one.placed().filter(|(index, ..)| one.found.get(*index) == Some(&Found::Silent));
    done.nodes_away.extend(silent.map(|(_, node, _)| node.to_string()));
}

/// Asks the nodes of all durable chunks, which have not begun to be deleted, for their shards, side by side.
async fn look(core: &Core, chunks: Vec<(ChunkId, ChunkRecord)>, away: &mut Away) -> Vec<Looked> {
    let is_here = |record: &ChunkRecord| record.state != ChunkState::Deleting && record.placement.is_some();
    let mut out: Vec<Looked> = Vec::with_capacity(chunks.len());
    for (chunk, record) in chunks.into_iter().filter(|(_, record)| is_here(record)) {
        let shards = record.placement.iter().flat_map(|placement| &placement.shards);
        let found = shards.map(|place| if place.is_some() { Found::Silent } else { Found::Unplaced }).collect();
        out.push(Looked { chunk, record, found });
    }
    let mut asked: HashMap<NodeId, Vec<(usize, usize, ShardName)>> = HashMap::new();
    for (at, one) in out.iter().enumerate() {
        for (index, node, name) in one.placed() {
            asked.entry(node).or_default().push((at, index, name));
        }
    }
    let mut asking = Vec::new();
    for (id, asked) in asked {
        if away.retired.contains(&id) {
            asked.into_iter().for_each(|(at, index, _)| out[at].found[index] = Found::Gone);
        } else if let Some(node) = core.nodes.get(id).filter(|node| node.reachable() && !away.has_failed(id)) {
            asking.push(ask(node, asked));
        }
    }
    let mut asking = futures::stream::iter(asking).buffer_unordered(NODES);
    while let Some((node, asked, answers)) = asking.next().await {
        let Some(answers) = answers else {
            *away.failures.entry(node).or_default() += 1;
            continue;
        };
        for ((at, index, _), there) in asked.into_iter().zip(answers) {
            out[at].found[index] = if there { Found::There } else { Found::Gone };
        }
    }
    out
}

/// Which of its shards a node has, in the order asked; `None`: it does not answer.
async fn ask(node: Arc<Node>, asked: Vec<(usize, usize, ShardName)>) -> (NodeId, Vec<(usize, usize, ShardName)>, Option<Vec<bool>>) {
    let names: Vec<ShardName> = asked.iter().map(|(.., name)| *name).collect();
    let answers = match tokio::time::timeout(CALL_MOST, node.link.has(names)).await {
        Ok(Ok(answers)) if answers.len() == asked.len() => Some(answers),
        _ => None,
    };
    (node.id, asked, answers)
}

/// Those that something refers to, and the others, which are nobody's.
async fn needed(core: &Core, short: Vec<Looked>) -> Result<(Vec<Looked>, Vec<Looked>), WriteError> {
    let asking: Vec<_> = short.into_iter().map(|one| is_needed(core, one)).collect();
    let mut asking = futures::stream::iter(asking).buffered(ASKING);
    let (mut needed, mut idle) = (Vec::new(), Vec::new());
    while let Some(asked) = asking.next().await {
        let (one, is_wanted) = asked?;
        if is_wanted { needed.push(one) } else { idle.push(one) }
    }
    Ok((needed, idle))
}

/// Has the index forget those of the copy's chunks that nothing refers to and that cannot be read: whoever writes one again stores it.
async fn forget(core: &Core, idle: Vec<Looked>, done: &mut Reconciled) -> Result<(), WriteError> {
    if idle.is_empty() {
        return Ok(());
    }
    let chunks = idle.iter().map(|one| (one.chunk, one.record.generation)).collect();
    let outcomes = match reindex::propose(core, ChunkCommand::Forget { chunks }).await? {
        Reply::Confirmed(outcomes) if outcomes.len() == idle.len() => outcomes,
        other => return Err(unexpected("Forget", &other)),
    };
    for (one, forgotten) in idle.into_iter().zip(outcomes) {
        if forgotten {
            done.idle_short += 1;
            continue;
        }
        let what = format!("the chunk {}: too few of its shards were found, and it is being written again now", one.chunk);
        add(&mut done.untold, &mut done.untold_spelled_out, what);
    }
    Ok(())
}

async fn is_needed(core: &Core, one: Looked) -> Result<(Looked, bool), WriteError> {
    if one.record.state == ChunkState::Condemned {
        return Ok((one, false));
    }
    match core.metadata.query(Query::Chunk(ChunkQuery::References { chunk: one.chunk, max: 1 })).await? {
        Answer::Chunk(ChunkAnswer::References(holders)) => Ok((one, !holders.is_empty())),
        other => Err(unexpected("References", &other)),
    }
}

/// Has the index ask for shards that are gone no longer, of chunks that have enough without them.
async fn mark_lost(core: &Core, whole: Vec<Looked>, done: &mut Reconciled) -> Result<(), WriteError> {
    let mut commands = Vec::new();
    for one in &whole {
        book(one, done);
        let gone = one.placed().filter(|(index, ..)| one.found.get(*index) == Some(&Found::Gone));
        commands.extend(gone.map(|(_, node, shard)| Command::Chunk(ChunkCommand::MarkLost { shard, node })));
    }
    for commands in commands.chunks(PAGE) {
        core.metadata.propose(Batch { chain: Chain::Independent, commands: commands.to_vec() }).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
