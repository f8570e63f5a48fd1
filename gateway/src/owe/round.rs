//! The background of repair and drains: which chunks, in which order, and when the index is gone through for them.
//!
//! ```text
//! every interval, and as soon as a node can be written to again:
//!   owed list                               -> fewest left first -> deliver
//!   a node is away or leaves: whole index   -> fewest left first, then what only has to be carried off -> deliver
//! ```
//! Between pages it is looked whether nodes have come or gone and whether something more urgent is owed. A drain has no state but the
//! operator's word in the root group and the index: it ends when a pass finds nothing placed on the node, and a restart goes on.
//! Not here: one chunk's needs (`need.rs`) and their delivery (`deliver.rs`), nodes that do not come back (`absent.rs`).

use super::absent::Absent;
use super::deliver::{Standings, deliver, standing};
use super::need::{Backlog, Standing, Urgency, need};
use super::{Delivered, STEP};
use crate::body::WriteError;
use crate::census::{self, shard_bytes};
use crate::core::Core;
use crate::dedup::unexpected;
use crate::metric::{DRAIN_LEFT, REPAIR_WAITING};
use crate::progress::Drain;
use futures::FutureExt;
use futures::stream::{StreamExt, TryStreamExt};
use spine::id::{ChunkId, NodeId};
use spine::wire::chunk::{ChunkAnswer, ChunkQuery, ChunkRecord};
use spine::wire::{Answer, Query};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Chunks that one pass through the index keeps in order: 3 MiB.
const BACKLOG: usize = 65_536;
/// Chunks delivered side by side.
pub(super) const AT_ONCE: usize = 4;
/// Owed chunks are looked for again so often while a long list is worked through.
const OWED_AGAIN: Duration = Duration::from_secs(5);
/// How long a pass that found nothing to do is believed while a node leaves, and while one is away: writes that had chosen the node
/// before the operator's word was known are over by then.
const AGAIN: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(600));
/// How often it is looked for nodes that can be written to again.
const LOOK: Duration = Duration::from_secs(1);

/// How every node stands, and who can be written to: what decides whether the index has to be gone through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    standings: BTreeMap<NodeId, Standing>,
    fit: BTreeSet<NodeId>,
}

impl Seen {
    fn now(core: &Core) -> Seen {
        let standings = core.nodes.standings(core.settings.urgent_after).into_iter().collect();
        let fit = core.nodes.candidates().iter().filter(|c| c.usable).map(|c| c.node).collect();
        Seen { standings, fit }
    }

    /// Whether a node is being emptied.
    fn drains(&self) -> bool {
        self.any(Standing::Leaves) || self.any(Standing::Lost)
    }

    fn any(&self, which: Standing) -> bool {
        self.standings.values().any(|standing| *standing == which)
    }
}

/// What the last pass through the index was for, and whether it found anything to do.
#[derive(Default)]
pub(super) struct Attention {
    last: Option<(Seen, Instant, bool)>,
}

impl Attention {
    /// Whether the index has to be gone through.
    fn is_due(&self, seen: &Seen, now: Instant) -> bool {
        let (leaves, away) = (seen.drains(), seen.any(Standing::Away));
        match &self.last {
            _ if !leaves && !away => false,
            Some((last, at, idle)) if last == seen && *idle => now.saturating_duration_since(*at) > if leaves { AGAIN.0 } else { AGAIN.1 },
            _ => true,
        }
    }
}

/// The background worker. Never returns.
pub(crate) async fn run(core: Arc<Core>) {
    let (mut absent, mut attention) = (Absent::default(), Attention::default());
    loop {
        rest(&core).await;
        if !core.lease.is_mine() {
            // Another gateway does it; how long nodes were away this one counts when it is its turn.
            continue;
        }
        let done = match absent.give_up(&core).await {
            Ok(()) => round(&core, &mut attention).await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            tracing::warn!(%error, "owed shards wait");
        }
    }
}

/// Until the next round: an interval, or until a node can be written to that could not before.
async fn rest(core: &Core) {
    let began = Instant::now();
    let before = Seen::now(core).fit;
    let mut fresh: Option<Instant> = None;
    loop {
        let left = core.settings.owe_interval.saturating_sub(began.elapsed());
        if left.is_zero() || fresh.is_some_and(|since| since.elapsed() >= core.settings.deliver_after) {
            return;
        }
        tokio::time::sleep(left.min(LOOK)).await;
        if fresh.is_none() && !Seen::now(core).fit.is_subset(&before) {
            fresh = Some(Instant::now());
        }
    }
}

/// Goes once through all that is owed, and through the index if nodes are away or leave.
pub(super) async fn round(core: &Arc<Core>, attention: &mut Attention) -> Result<Delivered, WriteError> {
    let mut done = owed(core).await?;
    loop {
        let seen = Seen::now(core);
        if !attention.is_due(&seen, Instant::now()) {
            if !seen.drains() {
                core.progress.set_drains(BTreeMap::new());
                DRAIN_LEFT.set(0);
            }
            core.progress.set_waiting(0, false);
            REPAIR_WAITING.set(0);
            return Ok(done);
        }
        let pass = pass(core, &seen).await?;
        done.shards += pass.done.shards;
        done.waiting += pass.done.waiting;
        let idle = pass.done.shards == 0 && !pass.again;
        attention.last = Some((seen, Instant::now(), idle));
        // What was left out, or has changed meanwhile, is seen to now; else what was done is looked over in the next round.
        if !(pass.again && pass.done.shards > 0) {
            return Ok(done);
        }
    }
}

/// Delivers what the index lists as owed, fewest left first.
async fn owed(core: &Arc<Core>) -> Result<Delivered, WriteError> {
    let mut done = Delivered::default();
    loop {
        let standings = core.nodes.standings(core.settings.urgent_after);
        let (mut backlog, mut after) = (Backlog::new(BACKLOG), None);
        loop {
            let answer = core.metadata.query(Query::Chunk(ChunkQuery::Owed { after, max: STEP })).await?;
            let Answer::Chunk(ChunkAnswer::Scan(page)) = answer else { return Err(unexpected("Owed", &"something else")) };
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            for (chunk, record) in &page {
                // A target that a crash left is finished with the rest.
                let urgency = need(record, |node| standing(&standings, node)).map(|need| need.urgency().unwrap_or(Urgency::Drain));
                urgency.into_iter().for_each(|urgency| backlog.offer(urgency, *chunk));
            }
        }
        let (partial, before) = (backlog.is_partial(), done.shards);
        let order = backlog.into_order();
        for (at, page) in order.chunks(STEP).enumerate() {
            waiting(core, &order[at * STEP..], partial);
            add(&mut done, work(core, page, &standings).await?);
        }
        waiting(core, &[], false);
        if !partial || done.shards == before {
            return Ok(done);
        }
    }
}

/// What one pass through the index came to.
struct Pass {
    done: Delivered,
    /// There is more, or the nodes have changed.
    again: bool,
}

/// One pass: counts what is left on nodes that leave, and delivers the most urgent of what nodes that are away or leave make due.
async fn pass(core: &Arc<Core>, seen: &Seen) -> Result<Pass, WriteError> {
    let standings: Standings = seen.standings.iter().map(|(node, standing)| (*node, *standing)).collect();
    let mut drains: BTreeMap<NodeId, Drain> = BTreeMap::new();
    for (node, _) in standings.iter().filter(|(_, standing)| matches!(standing, Standing::Leaves | Standing::Lost)) {
        drains.insert(*node, Drain::default());
    }
    let (mut backlog, mut after) = (Backlog::new(BACKLOG), None);
    loop {
        let began = Instant::now();
        let page = census::page(core, &mut after).await?;
        if page.is_empty() {
            break;
        }
        for (chunk, record) in &page {
            count(&mut drains, record);
            // What owes is on the list of those that do.
            let urgency = need(record, |node| standing(&standings, node)).filter(|_| !still_owes(record)).and_then(|need| need.urgency());
            urgency.into_iter().for_each(|urgency| backlog.offer(urgency, *chunk));
        }
        // A pass through a large index leaves half of the time to others.
        tokio::time::sleep(began.elapsed()).await;
    }
    DRAIN_LEFT.set(drains.values().map(|drain| drain.shards_left as i64).sum());
    core.progress.set_drains(drains.clone());
    let (partial, order) = (backlog.is_partial(), backlog.into_order());
    let (mut done, mut owed_at) = (Delivered::default(), Instant::now());
    for (at, page) in order.chunks(STEP).enumerate() {
        waiting(core, &order[at * STEP..], partial);
        add(&mut done, work(core, page, &standings).await?);
        DRAIN_LEFT.set(core.progress.drains().values().map(|drain| drain.shards_left as i64).sum());
        if Seen::now(core) != *seen {
            return Ok(Pass { done, again: true });
        }
        if owed_at.elapsed() > OWED_AGAIN {
            add(&mut done, owed(core).await?);
            owed_at = Instant::now();
        }
    }
    waiting(core, &[], false);
    let mut now = core.progress.drains();
    now.values_mut().for_each(|drain| drain.stuck = if done.waiting > 0 { drain.shards_left } else { 0 });
    core.progress.set_drains(now);
    Ok(Pass { done, again: partial })
}

/// Counts a chunk's shards on nodes that leave; a target there is as good as a shard.
fn count(drains: &mut BTreeMap<NodeId, Drain>, record: &ChunkRecord) {
    let Some(placement) = &record.placement else { return };
    let targets = record.targets.iter().map(|(_, node, _)| *node);
    for node in placement.shards.iter().flatten().map(|place| place.node).chain(targets) {
        if let Some(drain) = drains.get_mut(&node) {
            drain.shards_left += 1;
            drain.bytes_left += shard_bytes(&placement.sealed);
        }
    }
}

/// Says how many chunks wait for repair. The rebalancer rests until there are none.
fn waiting(core: &Core, left: &[(Urgency, ChunkId)], partial: bool) {
    let repairs = left.partition_point(|(urgency, _)| matches!(urgency, Urgency::Repair(_))) as u64;
    core.progress.set_waiting(repairs, partial && repairs == left.len() as u64);
    REPAIR_WAITING.set(i64::try_from(repairs).unwrap_or(i64::MAX));
}

fn add(done: &mut Delivered, more: Delivered) {
    done.shards += more.shards;
    done.waiting += more.waiting;
}

/// Delivers for these chunks, a few side by side, begun in their order.
async fn work(core: &Arc<Core>, page: &[(Urgency, ChunkId)], standings: &Standings) -> Result<Delivered, WriteError> {
    let chunks: Vec<ChunkId> = page.iter().map(|(_, chunk)| *chunk).collect();
    let records = records(core, &chunks).await?;
    let there = chunks.into_iter().zip(records).filter_map(|(chunk, record)| Some((chunk, record?)));
    // Boxed: the compiler cannot see otherwise that they may go to another thread.
    let deliveries = there.map(|(chunk, record)| async move { deliver(core, chunk, &record, standings).await }.boxed());
    let mut done = Delivered::default();
    let mut running = std::pin::pin!(futures::stream::iter(deliveries).buffer_unordered(AT_ONCE));
    while let Some(one) = running.try_next().await? {
        add(&mut done, one);
    }
    Ok(done)
}

/// The records of these chunks now, in their order.
pub(super) async fn records(core: &Core, chunks: &[ChunkId]) -> Result<Vec<Option<ChunkRecord>>, WriteError> {
    match core.metadata.query(Query::Chunk(ChunkQuery::Records(chunks.to_vec()))).await? {
        Answer::Chunk(ChunkAnswer::Records(records)) if records.len() == chunks.len() => Ok(records),
        other => Err(unexpected("Records", &other)),
    }
}

/// Whether a chunk is not whole, or not known to be.
pub(super) fn still_owes(record: &ChunkRecord) -> bool {
    !record.targets.is_empty() || record.placement.as_ref().is_none_or(|placement| placement.shards.iter().any(Option::is_none))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_is_gone_through_when_nodes_change_and_while_there_is_something_to_do_and_not_otherwise() {
        let node = |number: u8| NodeId([number; 32]);
        let seen = |standings: &[(u8, Standing)]| Seen {
            standings: standings.iter().map(|(number, standing)| (node(*number), *standing)).collect(),
            fit: BTreeSet::new(),
        };
        let now = Instant::now();
        let mut attention = Attention::default();
        assert!(!attention.is_due(&seen(&[(1, Standing::Serves), (2, Standing::Pauses)]), now));
        let leaving = seen(&[(1, Standing::Serves), (2, Standing::Leaves)]);
        assert!(attention.is_due(&leaving, now));
        attention.last = Some((leaving.clone(), now, false));
        assert!(attention.is_due(&leaving, now), "it moved something: there may be more");
        attention.last = Some((leaving.clone(), now, true));
        assert!(!attention.is_due(&leaving, now + AGAIN.0));
        assert!(attention.is_due(&leaving, now + AGAIN.0 * 2), "writes that had chosen it before");
        assert!(attention.is_due(&seen(&[(1, Standing::Away), (2, Standing::Leaves)]), now));
        assert!(!attention.is_due(&seen(&[(1, Standing::Serves), (2, Standing::Serves)]), now), "resumed");
    }
}
