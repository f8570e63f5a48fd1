//! Delivers shards that are owed, left over by a write or found missing or wrong, and carries shards off nodes that leave.
//!
//! - `need.rs`: what one chunk needs, how urgent that is, and where it goes: pure
//! - `deliver.rs`: does it, one chunk at a time
//! - `round.rs`: in which order, over the whole index; `prompt.rs`: at once, what this process' own writes left owing
//! - `absent.rs`: nodes that do not come back
//!
//! The queue is the index itself (`Owed`), and the operator's word about nodes: a crash forgets nothing.
//! Invariants: a shard made again has the root of its bytes recorded by the Move; the old copy is trashed only after it; fewest left
//! first; foreground work goes first, as far as its latency asks for (`pace.rs`), but for chunks below the write quorum.
//! Not here: the index's rules, rates (`pace.rs`), levelling nodes out (`balance.rs`).

mod absent;
pub(crate) mod deliver;
pub mod need;
pub mod prompt;
pub(crate) mod round;

use crate::audit::strikes;
use crate::body::WriteError;
use crate::core::Core;
use crate::damage::Report;
use absent::Absent;
use futures::FutureExt;
use futures::stream::StreamExt;
use prompt::Prompt;
use spine::id::{ChunkId, NodeId};
use spine::wire::chunk::{ChunkCommand, ShardName};
use spine::wire::{Batch, Chain, Command};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc;

/// Chunks looked at in one step.
const STEP: usize = 64;
/// Chunks that wait to be looked at; more are left to the round, which finds them in the index.
const OWING: usize = 1_024;

/// What one round did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Shards made again or carried elsewhere, and placed.
    pub shards: u64,
    /// Shards for which there is no node, or too few others to make them from.
    pub waiting: u64,
}

/// Where writes leave the chunks that they left owing.
pub(crate) struct Owing {
    chunks: mpsc::Sender<ChunkId>,
}

impl Owing {
    pub fn new() -> (Owing, mpsc::Receiver<ChunkId>) {
        let (chunks, received) = mpsc::channel(OWING);
        (Owing { chunks }, received)
    }

    /// A chunk was stored, and not every node had its shard in time.
    pub fn note(&self, chunk: ChunkId) {
        let _ = self.chunks.try_send(chunk);
    }
}

/// Delivers all that can be delivered now.
pub(crate) async fn round_now(core: &Arc<Core>) -> Result<Delivered, WriteError> {
    Absent::default().give_up(core).await?;
    round::round(core, &mut round::Attention::default()).await
}

/// The background worker for what cannot wait for a round. Never returns.
pub(crate) async fn run(core: Arc<Core>, mut reports: mpsc::Receiver<Report>, mut owing: mpsc::Receiver<ChunkId>) {
    let (mut damaged, mut owed) = (Vec::new(), Vec::new());
    let mut prompt = Prompt::new(core.settings.deliver_after);
    loop {
        let due = prompt.next().map(tokio::time::Instant::from_std);
        let outcome = tokio::select! {
            // The sender of both lives as long as this does.
            _ = reports.recv_many(&mut damaged, STEP) => {
                damaged.iter().for_each(|report: &Report| prompt.add(report.shard.chunk, Instant::now()));
                take_reports(&core, std::mem::take(&mut damaged)).await
            }
            _ = owing.recv_many(&mut owed, STEP) => {
                owed.drain(..).for_each(|chunk| prompt.add(chunk, Instant::now()));
                Ok(())
            }
            () = tokio::time::sleep_until(due.unwrap_or_else(tokio::time::Instant::now)), if due.is_some() => {
                deliver_due(&core, &mut prompt).await
            }
        };
        if let Err(error) = outcome {
            tracing::warn!(%error, "owed shards wait");
        }
    }
}

/// Delivers for chunks whose time has come; who still owes then comes again.
async fn deliver_due(core: &Arc<Core>, prompt: &mut Prompt) -> Result<(), WriteError> {
    let due = prompt.take(Instant::now(), STEP);
    let standings = core.nodes.standings(core.settings.urgent_after);
    let chunks: Vec<ChunkId> = due.iter().map(|(chunk, _)| *chunk).collect();
    let records = round::records(core, &chunks).await?;
    let deliveries = due.into_iter().zip(records).filter_map(|((chunk, tries), record)| Some((chunk, tries, record?)));
    let deliveries = deliveries.map(|(chunk, tries, record)| {
        let standings = &standings;
        async move { (chunk, tries, round::still_owes(&record), deliver::deliver(core, chunk, &record, standings).await) }.boxed()
    });
    let mut running = std::pin::pin!(futures::stream::iter(deliveries).buffer_unordered(round::AT_ONCE));
    let mut failure = Ok(());
    while let Some((chunk, tries, owes, done)) = running.next().await {
        // What is not confirmed yet owes, too: its write is still on its way.
        if owes && done.as_ref().map_or(true, |done| done.waiting > 0 || done.shards == 0) {
            prompt.again(chunk, tries, Instant::now());
        }
        failure = failure.and(done.map(drop));
    }
    failure
}

/// What was found wrong is held against its nodes, and owed.
async fn take_reports(core: &Core, reports: Vec<Report>) -> Result<(), WriteError> {
    strikes::book(core, &reports).await?;
    mark_lost(core, reports.into_iter().map(|report| (report.shard, report.node)).collect()).await
}

async fn mark_lost(core: &Core, found: HashSet<(ShardName, NodeId)>) -> Result<(), WriteError> {
    let commands = found.into_iter().map(|(shard, node)| Command::Chunk(ChunkCommand::MarkLost { shard, node })).collect();
    core.metadata.propose(Batch { chain: Chain::Independent, commands }).await?;
    Ok(())
}

#[cfg(test)]
mod tests;
