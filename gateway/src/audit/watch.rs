//! The background of a gateway's audits.
//!
//! Each node is asked for so many slices a day, evenly spread, of shards drawn anew for every [`PLAN`] questions; with each draw, and
//! whenever a node's scrub has finished a round, the nodes are asked for all that is placed on them. Three strikes (`seen.rs`), whether
//! of audits, surveys or reads, suspend a node (`sentence.rs`): it gets no new shards, and what it held is made again elsewhere.

use super::board::Board;
use super::sentence::{self, Sentence};
use super::{ask, fresh_nonce, survey};
use crate::body::WriteError;
use crate::core::Core;
use crate::damage::Finder;
use crate::fleet::FleetError;
use crate::fleet::table::Fleet;
use crate::metric::{AUDIT_SUSPENSIONS, SCRUB_FINDS};
use crate::nodes::Node;
use futures::future::join_all;
use spine::audit::{Draw, Placed};
use spine::id::NodeId;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Questions of one draw, for each node.
const PLAN: u32 = 100;
const DAY: Duration = Duration::from_secs(86_400);
/// How often, at most and at least, nodes are asked how their scrub goes, and due questions are asked.
const LOOK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// What is still to be asked.
struct Plan {
    began: Instant,
    asked: u32,
    questions: HashMap<NodeId, VecDeque<(Placed, u32)>>,
}

/// Never returns. `per_day`: slices asked of each node; 0: none, and only scrub reports are taken.
pub(crate) async fn run(core: Arc<Core>, board: Arc<Board>, fleet: Arc<Fleet>, per_day: u32) {
    let slot = if per_day == 0 { Duration::MAX } else { DAY / per_day };
    // One slot of quiet after the start: nodes come back first.
    let mut plan = Plan { began: Instant::now(), asked: PLAN - 1, questions: HashMap::new() };
    let mut ticks = tokio::time::interval(slot.clamp(LOOK.0, LOOK.1));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if !core.lease.is_mine() {
            continue;
        }
        let done = async {
            take_reports(&core, &board).await?;
            turn(&core, &board, &mut plan, slot).await
        };
        if let Err(error) = done.await {
            tracing::warn!(%error, "an audit waits");
        }
        for node in board.struck() {
            if let Err(error) = suspend(&core, &board, &fleet, node).await {
                tracing::warn!(%node, %error, "a node that failed its audits was not suspended");
            }
        }
    }
}

/// Asks what is due, and draws anew when all was asked.
async fn turn(core: &Core, board: &Board, plan: &mut Plan, slot: Duration) -> Result<(), WriteError> {
    let due = (plan.began.elapsed().as_nanos() / slot.as_nanos().max(1)).min(PLAN.into()) as u32;
    let now = if plan.questions.is_empty() { due } else { due.saturating_sub(plan.asked) };
    if now == 0 && plan.asked < PLAN {
        return Ok(());
    }
    let nodes = core.nodes.all();
    let of = |node: &Arc<Node>, plan: &mut Plan| -> Vec<(Placed, u32)> {
        let Some(left) = plan.questions.get_mut(&node.id) else { return Vec::new() };
        left.drain(..left.len().min(now as usize)).collect()
    };
    let turns: Vec<_> = nodes.iter().map(|node| (node.clone(), of(node, plan))).filter(|(node, _)| node.reachable()).collect();
    let asked = join_all(turns.into_iter().map(|(node, questions)| async move { ask(core, board, &node, questions).await })).await;
    plan.asked = plan.asked.saturating_add(now);
    asked.into_iter().collect::<Result<Vec<_>, _>>()?;
    if plan.asked >= PLAN {
        let mut draws = HashMap::new();
        for node in nodes.iter() {
            draws.insert(node.id, Draw::new(fresh_nonce()?, PLAN as usize));
        }
        let all = draws.keys().copied().collect();
        let surveyed = survey::run(core, draws, &all).await?;
        tell(surveyed.absent);
        let questions = surveyed.draws.into_iter().map(|(node, draw)| (node, draw.drawn().collect())).collect();
        *plan = Plan { began: Instant::now(), asked: 0, questions };
    }
    Ok(())
}

/// Takes the scrub reports of all nodes: what they found damaged is owed, and who finished a round is asked for all it should have.
async fn take_reports(core: &Core, board: &Board) -> Result<(), WriteError> {
    let nodes = core.nodes.all();
    let there = nodes.iter().filter(|node| node.reachable());
    let reports = join_all(there.map(|node| async move { (node.id, node.link.scrubbed().await) })).await;
    let mut ended = HashSet::new();
    for (node, report) in reports {
        // A node without a scrub, or one that does not answer now, says nothing.
        let Ok(Some(report)) = report else { continue };
        let (news, round) = board.scrubbed(node, report);
        for name in news {
            SCRUB_FINDS.inc();
            core.damage.report(name, node, Finder::Scrub);
        }
        if round {
            ended.insert(node);
        }
    }
    if !ended.is_empty() {
        tell(survey::run(core, HashMap::new(), &ended).await?.absent);
    }
    Ok(())
}

fn tell(absent: u64) {
    if absent > 0 {
        tracing::warn!(shards = absent, "nodes do not have all that was placed on them; it is made again");
    }
}

async fn suspend(core: &Core, board: &Board, fleet: &Fleet, node: NodeId) -> Result<(), FleetError> {
    match sentence::sentence(&fleet.nodes().await?, node, usize::from(core.settings.m)) {
        Sentence::Out => {}
        Sentence::TooMany(suspended) => {
            tracing::error!(%node, suspended, "a node failed its audits, and too many did before: nobody more is suspended. Is the metadata whole?");
        }
        Sentence::Suspend => {
            fleet.set_state(node, sentence::suspended()).await?;
            AUDIT_SUSPENSIONS.inc();
            tracing::error!(%node, "the node failed its audits and is suspended; what it held is made again elsewhere");
        }
    }
    // Also one that stays: if it goes on, it is found again, and if the index was to blame, nobody is suspended for it afterwards.
    board.forgive(node);
    Ok(())
}
