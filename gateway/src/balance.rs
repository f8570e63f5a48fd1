//! Levels nodes out: after a join, or when capacities changed, until every node is as full as its capacity says.
//!
//! ```text
//! every look, or when told: census -> plan.rs -> is a node farther from its share than the beginning allows? -> Moving
//! Moving: through the index, a page at a time: steps -> records again -> copy, Move, trash -> pause for the rate; next pass
//!         until every node is within half of that (hysteresis: what is level stays alone), or no step helps: Stalled
//! ```
//! What a node holds is what the index places on it: a node's own figures count trash that it keeps for days.
//! Invariants: repair goes first: no step while a chunk waits for repair; one step a chunk and pass, so that a reader finds all but one
//! shard where it was; the rate is never exceeded by more than a page.
//! An operator's stop is in the root group, for every gateway and over restarts; it ends with `start`. Never by itself: `[rebalance]
//! automatic = false`.

pub mod plan;

use crate::body::WriteError;
use crate::census::{self, Census, shard_bytes};
use crate::core::Core;
use crate::dedup::unexpected;
use crate::metric::{REBALANCE_SURPLUS, REBALANCE_WORST};
use crate::nodes::Held;
use crate::owe::deliver::{copy, place};
use crate::owe::need::Errand;
use crate::progress::{Balancing, Why};
use futures::FutureExt;
use futures::stream::StreamExt;
use plan::{Holder, Plan, Step, Tolerance};
use spine::id::{ChunkId, NodeId};
use spine::wire::chunk::{ChunkAnswer, ChunkQuery, ChunkRecord, ChunkState};
use spine::wire::root::{RootAnswer, RootCommand, RootQuery};
use spine::wire::{Answer, Batch, Chain, Command, Query, Reply};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Steps in one page: what runs between two looks at the rate, at the operator, and at repair.
const PAGE: usize = 32;
/// Copies side by side.
const AT_ONCE: usize = 4;
/// How long to rest while repair has something to do.
const REST: Duration = Duration::from_secs(1);

/// What an operator chooses.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Whether it begins by itself. Default true.
    pub automatic: bool,
    /// Bytes of shards moved a second, at most. Default 16 MiB.
    pub bytes_per_second: u64,
    /// How often nodes are compared. Default 10 min.
    pub look: Duration,
    /// It begins when a node is this far from its share, thousandths of it, and ends at half of that. Default 50.
    pub begin_permille: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { automatic: true, bytes_per_second: 16 << 20, look: Duration::from_secs(600), begin_permille: 50 }
    }
}

/// How one look ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looked {
    Rest,
    /// Shards were moved; look again now.
    Again,
}

/// Whether the operator has stopped it.
pub(crate) async fn is_stopped(core: &Core) -> Result<bool, WriteError> {
    match core.metadata.query(Query::Root(RootQuery::RebalanceStopped)).await? {
        Answer::Root(RootAnswer::RebalanceStopped(stopped)) => Ok(stopped),
        other => Err(unexpected("RebalanceStopped", &other)),
    }
}

/// Takes the operator's word, and has nodes levelled out now if that is it.
pub(crate) async fn tell(core: &Core, starts: bool) -> Result<(), WriteError> {
    let commands = vec![Command::Root(RootCommand::StopRebalance { stopped: !starts })];
    match core.metadata.propose(Batch { chain: Chain::Stop, commands }).await?.pop() {
        Some(Reply::Done) => {}
        other => return Err(unexpected("Done", &other)),
    }
    core.progress.change_balance(|balance| balance.asked = starts);
    core.progress.told.notify_one();
    Ok(())
}

/// The background worker. Never returns.
pub(crate) async fn run(core: Arc<Core>) {
    loop {
        let pause = tokio::time::sleep(core.settings.balance.look);
        tokio::select! {
            () = pause => {}
            () = core.progress.told.notified() => {}
        }
        // Of several gateways, the one that has the lease does it; it takes up what it is told once it has it.
        while !core.lease.is_mine() {
            tokio::time::sleep(REST).await;
        }
        loop {
            match look(&core).await {
                Ok(Looked::Again) => {}
                Ok(Looked::Rest) => break,
                Err(error) => {
                    tracing::warn!(%error, "rebalancing waits");
                    break;
                }
            }
        }
    }
}

/// Counts, decides, and makes one pass if one is due.
async fn look(core: &Arc<Core>) -> Result<Looked, WriteError> {
    let settings = core.settings.balance;
    let census = census::take(core, true).await?;
    let (begin, end) = (Tolerance { permille: settings.begin_permille }, Tolerance { permille: settings.begin_permille / 2 });
    let mut plan = Plan::new(holders(&core.nodes.held(), &census), core.coder.n(), end);
    core.progress.set_census(census);
    let (worst, surplus) = (plan.worst_permille(), plan.surplus());
    REBALANCE_WORST.set(i64::try_from(worst).unwrap_or(i64::MAX));
    let mut now = core.progress.balance();
    now.worst_permille = worst;
    let wanted = now.asked || (settings.automatic && (now.state == Balancing::Moving || !plan.is_level(begin)));
    let moves = wanted && !plan.is_level(end) && !is_stopped(core).await?;
    let rests = if plan.is_level(begin) || now.state == Balancing::Moving { Balancing::Level } else { now.state };
    if !moves {
        set(core, rests, worst, surplus);
        return Ok(Looked::Rest);
    }
    if now.state != Balancing::Moving {
        tracing::info!(worst_permille = worst, surplus, "rebalancing begins");
        core.progress.change_balance(|balance| (balance.shards_moved, balance.bytes_moved) = (0, 0));
    }
    set(core, Balancing::Moving, worst, surplus);
    let moved = pass(core, &mut plan).await?;
    if moved > 0 {
        return Ok(Looked::Again);
    }
    // Nothing helps: the rules of placement, or nodes that do not take shards. Looked at again at the next look.
    let state = if is_stopped(core).await? { rests } else { Balancing::Stalled };
    set(core, state, worst, surplus);
    Ok(Looked::Rest)
}

fn set(core: &Core, state: Balancing, worst: u64, surplus: u64) {
    REBALANCE_SURPLUS.set(if state == Balancing::Moving { i64::try_from(surplus).unwrap_or(i64::MAX) } else { 0 });
    core.progress.change_balance(|balance| {
        balance.state = state;
        balance.asked &= state == Balancing::Moving;
        (balance.worst_permille, balance.surplus) = (worst, surplus);
    });
}

/// The nodes as a plan needs them.
fn holders(nodes: &[Held], census: &Census) -> Vec<Holder> {
    let placed = |node: NodeId| census.nodes.get(&node).map_or(0, |held| held.bytes);
    let one = |held: &Held| Holder {
        node: held.node,
        machine: held.machine.clone(),
        zone: held.zone.clone(),
        capacity: held.capacity,
        placed: placed(held.node),
        shares: held.shares,
        takes: held.takes,
    };
    nodes.iter().map(one).collect()
}

/// One pass through the index; how many shards were moved.
async fn pass(core: &Arc<Core>, plan: &mut Plan) -> Result<u64, WriteError> {
    let (mut after, mut moved, mut steps) = (None, 0, Vec::with_capacity(PAGE));
    loop {
        let began = Instant::now();
        let page = census::page(core, &mut after).await?;
        let ended = page.is_empty();
        for (chunk, record) in page {
            steps.extend(step(plan, chunk, &record).map(|step| (chunk, record, step)));
            if steps.len() == PAGE {
                moved += go(core, plan, std::mem::take(&mut steps)).await?;
                if is_stopped(core).await? {
                    return Ok(moved);
                }
            }
        }
        if ended {
            return Ok(moved + go(core, plan, steps).await?);
        }
        tokio::time::sleep(began.elapsed().min(REST)).await;
    }
}

/// A step for this chunk, if it is whole and at rest.
fn step(plan: &mut Plan, chunk: ChunkId, record: &ChunkRecord) -> Option<Step> {
    let placement = record.placement.as_ref().filter(|_| record.state == ChunkState::Live && record.targets.is_empty())?;
    if placement.shards.iter().any(Option::is_none) {
        return None;
    }
    let placed: Vec<Option<NodeId>> = placement.shards.iter().map(|place| place.map(|place| place.node)).collect();
    plan.step(chunk, placement.sealed.k, placement.sealed.m, &placed, shard_bytes(&placement.sealed))
}

/// Makes these steps, then rests as long as the rate asks for; how many were made.
async fn go(core: &Arc<Core>, plan: &mut Plan, steps: Vec<(ChunkId, ChunkRecord, Step)>) -> Result<u64, WriteError> {
    if steps.is_empty() {
        return Ok(0);
    }
    while core.progress.waiting().0 > 0 {
        tokio::time::sleep(REST).await;
    }
    let began = Instant::now();
    // The steps were chosen by records that may be minutes old: only what is still so is moved.
    let chunks = steps.iter().map(|(chunk, ..)| *chunk).collect();
    let records = match core.metadata.query(Query::Chunk(ChunkQuery::Records(chunks))).await? {
        Answer::Chunk(ChunkAnswer::Records(records)) => records,
        other => return Err(unexpected("Records", &other)),
    };
    let moves = steps.into_iter().zip(records).map(|((chunk, then, step), now)| {
        async move {
            let same =
                now.is_some_and(|now| now.generation == then.generation && now.placement == then.placement && now.targets.is_empty());
            let moved = if same { one(core, chunk, &then, &step).await } else { Ok(false) };
            (step, moved)
        }
        .boxed()
    });
    let mut running = std::pin::pin!(futures::stream::iter(moves).buffer_unordered(AT_ONCE));
    let (mut moved, mut bytes, mut failure) = (0, 0, None);
    while let Some((step, done)) = running.next().await {
        match done {
            Ok(true) => {
                moved += 1;
                bytes += step.len;
            }
            Ok(false) => plan.undo(&step),
            Err(error) => {
                plan.undo(&step);
                failure = Some(error);
            }
        }
    }
    if let Some(error) = failure {
        return Err(error);
    }
    let due = Duration::from_secs_f64(bytes as f64 / core.settings.balance.bytes_per_second.max(1) as f64);
    tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
    Ok(moved)
}

/// One shard: copied, checked, placed; whether it was.
async fn one(core: &Arc<Core>, chunk: ChunkId, record: &ChunkRecord, step: &Step) -> Result<bool, WriteError> {
    let Some(from) = record.placement.as_ref().and_then(|placement| placement.shards.get(step.index).copied().flatten()) else {
        return Ok(false);
    };
    let Some(_taken) = core.busy.take(chunk) else { return Ok(false) };
    let _turn = core.pace.turn(usize::try_from(step.len).unwrap_or(usize::MAX), false).await;
    let _memory = core.read_memory.take(usize::try_from(step.len).unwrap_or(usize::MAX)).await;
    // What cannot be copied is repair's, which was told.
    let Some((shard, root)) = copy(core, chunk, record, step.index, from).await? else { return Ok(false) };
    let errand = Errand { index: step.index, node: step.to, tag: None, from: Some(from) };
    place(core, chunk, record, &errand, Why::Rebalance, shard, root).await
}
