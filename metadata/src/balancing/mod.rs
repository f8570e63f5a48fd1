//! Levels the metadata servers out: asks each what it bears, has the balancer decide, and carries its steps out. Runs where the root is led.
//!
//! ```text
//! every 10 s: loads of all who answer, map, moves, shifts, who leaves -> picture.rs -> desk.rs (the balancer, and what rests) -> orders
//! order: noted in the root's log -> carried out (carry.rs; ranges by the mover) -> its end noted -> the desk hears of it
//! ```
//! - `picture.rs`: what is known, as the balancer sees it; pure
//! - `desk.rs`: its steps as orders, its past from the root's records; pure
//! - `carry.rs`: one order, to its end or back
//!
//! It keeps nothing that matters: a process that comes to lead the root begins with the root's records, finishes the shifts that are half
//! done, and lets rest what has just moved, whoever moved it.
//! Invariants: nothing is begun that is not in the root's log before; a replica goes only once the one in its place votes; a step that
//! cannot be done ends, and is no move. Not here: what to do (`balance/`), moving a range (`mover.rs`), measuring (`heat/`).

mod carry;
mod desk;
mod picture;
#[cfg(test)]
mod tests;

pub use carry::{Carrier, StepError, Waits};
pub use desk::{Desk, Order, Task};
pub use picture::{Known, Picture, Place};

use crate::balance::{Rules, Step};
use crate::metric;
use crate::mover::{MoveError, orders};
use crate::router::Groups;
use futures::FutureExt;
use spine::id::{GroupId, MemberId, MoveId, UnixMs};
use spine::wire::MetadataError;
use spine::wire::cluster::{Changed, Endpoint, Loads, Member};
use spine::wire::root::ShiftRecord;
use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use tokio::task::JoinSet;

/// What can be had of the processes, and done about where groups are.
#[async_trait::async_trait]
pub trait Servers: Send + Sync + 'static {
    /// What each process bears, of those who answer in time.
    async fn loads(&self) -> Vec<Loads>;

    /// Has the group's leader hand over to another voter. Can be asked for again.
    async fn transfer(&self, group: GroupId, to: MemberId) -> Result<(), MetadataError>;

    /// A step towards a member's being out of the group. Can be asked for again.
    async fn take_out(&self, group: GroupId, member: MemberId) -> Result<Changed, MetadataError>;

    /// Has a process make room for a replica of the group and be taken in by `leader`; returns once it votes, and is an error while it
    /// learns. Can be asked for again.
    async fn enter(&self, to: &Member, group: GroupId, leader: &Endpoint) -> Result<(), MetadataError>;

    /// Has a process that is no member of the group let go of it. Can be asked for again.
    async fn let_go(&self, at: &Endpoint, group: GroupId) -> Result<(), MetadataError>;
}

/// One order as it is carried out.
struct Ended {
    /// `None`: somebody else began it.
    step: Option<Step>,
    /// The move's or shift's number.
    id: MoveId,
    done: bool,
}

pub struct Balancing {
    carrier: Carrier,
    desk: Desk,
    running: JoinSet<Ended>,
    /// What [`Self::running`] works on.
    at_work: BTreeSet<MoveId>,
}

/// Whoever levels out next tells how level it is.
impl Drop for Balancing {
    fn drop(&mut self) {
        metric::IMBALANCE.set(0.0);
    }
}

impl Balancing {
    pub fn new(groups: Arc<dyn Groups>, servers: Arc<dyn Servers>, rules: Rules, waits: Waits) -> Balancing {
        let carrier = Carrier { groups, servers, waits };
        Balancing { carrier, desk: Desk::new(rules), running: JoinSet::new(), at_work: BTreeSet::new() }
    }

    /// One look: hears of what has ended, takes up what others left half done, and begins what the balancer says.
    ///
    /// # Errors
    /// The root cannot be asked.
    pub async fn round(&mut self, now: UnixMs) -> Result<(), MoveError> {
        while let Some(ended) = self.running.try_join_next() {
            self.heard(ended, now);
        }
        let loads = self.carrier.servers.loads().await;
        let groups = &*self.carrier.groups;
        let Some(map) = orders::map(groups).await? else { return Ok(()) };
        let (moves, shifts) = (orders::moves(groups).await?, orders::shifts(groups).await?);
        let leaving = orders::leaving(groups).await?.into_iter().collect();
        metric::IMBALANCE.set(Picture::imbalance(&loads, &leaving).unwrap_or(0.0));
        let picture = Picture::of(&Known { loads: &loads, map: &map, moves: &moves, shifts: &shifts, leaving: &leaving });
        for record in shifts.iter().filter(|record| record.ended.is_none()) {
            if self.at_work.contains(&record.id) {
                continue;
            }
            tracing::info!(id = %record.id, group = %record.group, kind = ?record.kind, "a shift that was left half done is taken up");
            let (carrier, record) = (self.carrier.clone(), record.clone());
            self.run(None, record.id, async move { carrier.shift(&record).await });
        }
        for order in self.desk.round(&picture, &moves, &shifts, now) {
            self.begin(order, &picture, now).await;
        }
        Ok(())
    }

    /// Has the root note the order, and carries it out.
    async fn begin(&mut self, order: Order, picture: &Picture, now: UnixMs) {
        let Order { step, reason, task } = order;
        let groups = &*self.carrier.groups;
        let begun = match &task {
            Task::Shift { kind, group, from, to } => orders::begin_shift(groups, *kind, *group, (from, to), &reason, now).await,
            Task::Range { ask, expected, .. } => orders::begin_move(groups, ask, *expected, &reason, now).await,
        };
        let id = match begun {
            Ok(id) => id,
            Err(error) => {
                tracing::info!(?step, %error, "a step of levelling out was not begun");
                return self.count(&step, false, now);
            }
        };
        tracing::info!(%id, ?step, reason, "a step of levelling out begins");
        let carrier = self.carrier.clone();
        match task {
            Task::Range { lead, .. } => {
                let lead = lead.and_then(|node| picture.members.get(&node).map(|member| member.id));
                self.run(Some(step), id, async move { carrier.range(id, lead).await });
            }
            Task::Shift { kind, group, from, to } => {
                let record = ShiftRecord { id, kind, group, from, to, reason, begun: now, ended: None, done: false };
                self.run(Some(step), id, async move { carrier.shift(&record).await });
            }
        }
    }

    fn run(&mut self, step: Option<Step>, id: MoveId, carried: impl Future<Output = Result<(), StepError>> + Send + 'static) {
        self.at_work.insert(id);
        self.running.spawn(async move {
            // One that panics is over too: its shift is in the root's records, and taken up again.
            let done = match AssertUnwindSafe(carried).catch_unwind().await {
                Ok(Ok(())) => true,
                Ok(Err(error)) => {
                    tracing::warn!(%id, %error, "a step of levelling out was not done");
                    false
                }
                Err(_) => {
                    tracing::error!(%id, "a step of levelling out panicked");
                    false
                }
            };
            Ended { step, id, done }
        });
    }

    fn heard(&mut self, ended: Result<Ended, tokio::task::JoinError>, now: UnixMs) {
        match ended {
            Ok(Ended { step, id, done }) => {
                self.at_work.remove(&id);
                step.iter().for_each(|step| self.count(step, done, now));
            }
            // Cancelled, as this process ends.
            Err(error) => tracing::debug!(%error, "a step was cut off"),
        }
    }

    fn count(&mut self, step: &Step, done: bool, now: UnixMs) {
        let kind = match step {
            Step::Lead { .. } => "lead",
            Step::Split { .. } => "split",
            Step::Replica { .. } => "replica",
            Step::Merge { .. } => "merge",
        };
        metric::STEPS.with_label_values(&[kind, if done { "done" } else { "failed" }]).inc();
        self.desk.ended(step, done, now);
    }
}
