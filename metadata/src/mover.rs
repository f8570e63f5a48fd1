//! Carries moves of ranges out: reads how far each is from the root and from its two groups, and takes the next step.
//!
//! ```text
//! take up -> found the receiver -> Prepare, Export -> pages -> changes -> Freeze -> last changes -> Release -> Serve -> map -> Purge
//! ```
//! It keeps nothing but for how long a move has stood still: killed anywhere, the next one takes the move up under a higher attempt, and the
//! groups refuse what the old one still sends. Runs where the root group is led. A group is in one move at a time, so that moves go side by
//! side.
//! Invariants: nothing is released before the receiver has said, with the digest of what it read back, that it has every row; a range is
//! frozen for at most [`Limits::freeze`] at a time and thawed if that does not do; after Release there are only steps forwards.
//! Not here: what the orders mean to a group (`range/`), what to move (`balance/`, operators), the record (`root/moves.rs`).

pub(crate) mod orders;
mod still;

use crate::metric;
use crate::router::Groups;
use orders::{Facts, Orders};
use spine::id::{GroupId, MoveId};
use spine::wire::cluster::Member;
use spine::wire::range::{Handover, Mover as By, Page, Progress, RangeCommand};
use spine::wire::root::{MoveRecord, MoveStep};
use spine::wire::{MetadataError, Refusal, Reply};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use still::Still;
use tokio::time::{Instant, timeout};

/// Longest pause before a range that was thawed again is frozen once more.
const REST_MOST: Duration = Duration::from_secs(30);

/// Makes groups on the machines, and ends them there.
#[async_trait::async_trait]
pub trait Founder: Send + Sync + 'static {
    /// Returns when somebody leads it. Can be asked for again.
    async fn create(&self, group: GroupId, members: &[Member]) -> Result<(), MetadataError>;

    /// Groups that some process has, as far as they answer; each once.
    async fn hosted(&self) -> Vec<GroupId>;

    /// Has every process that still has one of these let go of it.
    async fn remove(&self, groups: &[GroupId]) -> Result<(), MetadataError>;
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a page of rows; default 256 KiB. Larger: fewer rounds, and clients' entries wait longer behind one.
    pub page: u32,
    /// Changes not copied yet with which a range is frozen; default 64. More: a longer freeze, fewer rounds before.
    pub few: u64,
    /// How long a range may be frozen before it is thawed and followed again; default 300 ms.
    pub freeze: Duration,
    /// Rows deleted in one entry; default 512.
    pub rows: u32,
    /// Pause between pages; default 1 ms.
    pub pause: Duration,
    /// How long a move may stand still before it is given up; default 1 h. Its source notes changes meanwhile, and its groups are in no other.
    pub still: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            page: 256 << 10,
            few: 64,
            freeze: Duration::from_millis(300),
            rows: 512,
            pause: Duration::from_millis(1),
            still: Duration::from_secs(3_600),
        }
    }
}

/// Why a move is left where it is, for now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoveError {
    #[error("somebody else has taken the move up")]
    Taken,
    #[error("a step of the move was refused. step=`{step}`, why=`{why}`")]
    Refused { step: &'static str, why: Refusal },
    /// What the receiver read back is not what the giver has.
    #[error("a page was not imported as it was exported. move=`{id}`")]
    Page { id: MoveId },
    #[error("a group gave an answer to another question. step=`{step}`")]
    Unexpected { step: &'static str },
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

/// Where copying ended.
enum Copied {
    Released,
    /// Nothing has moved.
    Back,
}

pub struct Mover {
    groups: Arc<dyn Groups>,
    founder: Arc<dyn Founder>,
    limits: Limits,
    still: Still,
}

impl Mover {
    pub fn new(groups: Arc<dyn Groups>, founder: Arc<dyn Founder>, limits: Limits) -> Mover {
        Mover { groups, founder, limits, still: Still::default() }
    }

    /// Moves that are not over, by their numbers. No two have a group in common: they may be carried side by side.
    ///
    /// # Errors
    /// The root cannot be asked.
    pub async fn under_way(&self) -> Result<Vec<MoveId>, MoveError> {
        Ok(orders::moves(&*self.groups).await?.iter().filter(|record| !record.step.is_over()).map(|record| record.id).collect())
    }

    /// Carries one move to its end.
    ///
    /// # Errors
    /// [`MoveError`]; it can be taken up again.
    pub async fn carry(&self, id: MoveId) -> Result<MoveStep, MoveError> {
        let orders = Orders::take_up(&self.groups, id).await?;
        loop {
            let mut record = orders.record().await?;
            record.unwanted |= self.is_given_up(&orders, &record).await?;
            let next = match record.step {
                // Neither group has heard of it: that comes only once the root says Copying.
                MoveStep::Begun if record.unwanted => MoveStep::GaveUp,
                MoveStep::Begun => {
                    if let Some(members) = record.ask.founders() {
                        self.founder.create(record.to, members).await?;
                    }
                    MoveStep::Copying
                }
                MoveStep::Copying => match self.copy(&orders, &record).await? {
                    Copied::Released => MoveStep::Released,
                    Copied::Back => MoveStep::GaveUp,
                },
                MoveStep::Released => {
                    let facts = orders.facts(record.from).await?;
                    let Some(handover) = facts.leaving(id) else { return Err(orders.astray("Released").await) };
                    self.serve(&orders, &record, handover).await?;
                    MoveStep::Mapped
                }
                MoveStep::Mapped => {
                    for group in [record.from, record.to] {
                        orders.until_no_more(group, "Purge", |by, kind| RangeCommand::Purge { by, kind, max: self.limits.rows }).await?;
                    }
                    MoveStep::Done
                }
                over => {
                    self.still.over(id);
                    metric::RANGE_MOVES.with_label_values(&[if over == MoveStep::Done { "done" } else { "gave_up" }]).inc();
                    return Ok(over);
                }
            };
            orders.step(next).await?;
            if is_left_over(&MoveRecord { step: next, ..record }) {
                // In a newer format the step did it.
                orders::end(&*self.groups, record.to).await?;
            }
        }
    }

    /// Gives the move up if it has stood still for too long.
    async fn is_given_up(&self, orders: &Orders, record: &MoveRecord) -> Result<bool, MoveError> {
        let may_go_back = matches!(record.step, MoveStep::Begun | MoveStep::Copying) && !record.unwanted;
        if !may_go_back || self.still.time(record.id, Instant::now()) <= self.limits.still {
            return Ok(false);
        }
        tracing::warn!(id = %record.id, from = %record.from, to = %record.to, "a range's move stands still, and is given up");
        orders.give_up().await?;
        Ok(true)
    }

    async fn copy(&self, orders: &Orders, record: &MoveRecord) -> Result<Copied, MoveError> {
        let facts = orders.facts(record.from).await?;
        if facts.leaving(record.id).is_some() {
            return Ok(Copied::Released);
        }
        if record.unwanted || facts.is_past(record.id) || facts.cancelled == Some(record.id.0) {
            return self.back(orders, record).await;
        }
        if facts.frozen == Some(record.id.0) {
            // A mover was killed there. Nobody waits for what comes first.
            orders.done(record.from, "Thaw", |by| RangeCommand::Thaw { by, kind: orders.kind() }).await?;
        }
        orders.done(record.to, "Prepare", |by| RangeCommand::Prepare { by, range: record.span.clone(), from: record.from }).await?;
        orders.done(record.from, "Export", |by| RangeCommand::Export { by, range: record.span.clone(), to: record.to }).await?;
        let facts = orders.facts(record.to).await?;
        let Some(mut progress) = facts.progress(record.id) else { return Err(orders.astray("Prepare").await) };
        let (mut looked, mut rested, mut rest) = (Instant::now(), Instant::now(), self.limits.freeze);
        loop {
            self.still.reached(record.id, &progress, Instant::now());
            let page = self.page(orders, record, &mut progress).await?;
            if matches!(progress, Progress::Following { .. }) && page.left <= self.limits.few && Instant::now() >= rested {
                match self.hand_over(orders, record, &mut progress).await? {
                    Some(copied) => return Ok(copied),
                    None => tracing::debug!(id = %record.id, ?rest, "the range was thawed again: too much was left"),
                }
                // Writers have it for themselves for longer each time.
                (rested, rest) = (Instant::now() + rest, (rest * 2).min(REST_MOST));
            }
            if looked.elapsed() > Duration::from_secs(1) {
                looked = Instant::now();
                let now = orders.record().await?;
                if now.unwanted || self.is_given_up(orders, &now).await? {
                    return self.back(orders, record).await;
                }
            }
            tokio::time::sleep(self.limits.pause).await;
        }
    }

    /// Copies what comes after `progress`, a page of it.
    async fn page(&self, orders: &Orders, record: &MoveRecord, progress: &mut Progress) -> Result<Page, MoveError> {
        let mut page = orders.export(record.from, progress.clone(), self.limits.page).await?;
        if page.upto == *progress {
            return Ok(page);
        }
        match orders.import(record.to, progress.clone(), &mut page).await? {
            Reply::Imported { .. } => {}
            Reply::Refused(Refusal::Mismatch) => return Err(MoveError::Page { id: record.id }),
            other => return Err(orders::refused("Import", other)),
        }
        *progress = page.upto.clone();
        Ok(page)
    }

    /// Freezes, copies the last changes, and gives the range over. `None`: it took too long, and the giver serves on.
    async fn hand_over(&self, orders: &Orders, record: &MoveRecord, progress: &mut Progress) -> Result<Option<Copied>, MoveError> {
        orders.done(record.from, "Freeze", |by| RangeCommand::Freeze { by, kind: orders.kind() }).await?;
        let begun = Instant::now();
        // A call that is cut off here may be carried out yet: what it came to, the groups say.
        let drained = timeout(self.limits.freeze, self.drain(orders, record, progress)).await.map_or(Ok(None), |drained| drained.map(Some));
        if let Ok(Some(handover)) = drained {
            self.serve(orders, record, handover).await?;
            metric::RANGE_FREEZE_SECONDS.observe(begun.elapsed().as_secs_f64());
            return Ok(Some(Copied::Released));
        }
        let thawed = orders.order(record.from, |by| RangeCommand::Thaw { by, kind: orders.kind() }).await?;
        if thawed != Reply::Done {
            let facts = orders.facts(record.from).await?;
            let Some(handover) = facts.leaving(record.id) else { return Err(orders::refused("Thaw", thawed)) };
            self.serve(orders, record, handover).await?;
        }
        metric::RANGE_FREEZE_SECONDS.observe(begun.elapsed().as_secs_f64());
        if thawed != Reply::Done {
            return Ok(Some(Copied::Released));
        }
        drained?;
        let reached = orders.facts(record.to).await?.progress(record.id);
        let Some(reached) = reached else { return Err(orders.astray("Import").await) };
        *progress = reached;
        Ok(None)
    }

    /// What the giver hands over, once the receiver has all of it.
    async fn drain(&self, orders: &Orders, record: &MoveRecord, progress: &mut Progress) -> Result<Handover, MoveError> {
        loop {
            let page = self.page(orders, record, progress).await?;
            let Progress::Following { change } = *progress else { return Err(MoveError::Unexpected { step: "Freeze" }) };
            if page.left > 0 {
                continue;
            }
            match orders.order(record.from, |by| RangeCommand::Release { by, kind: orders.kind(), change }).await? {
                Reply::Released(handover) => return Ok(handover),
                // The freeze came behind a change that this page did not have yet.
                Reply::Refused(Refusal::NotDrained) => {}
                other => return Err(orders::refused("Release", other)),
            }
        }
    }

    async fn serve(&self, orders: &Orders, record: &MoveRecord, handover: Handover) -> Result<(), MoveError> {
        orders.done(record.to, "Serve", |by| RangeCommand::Serve { by, kind: orders.kind(), handover }).await
    }

    /// Takes everything back, if there still is a way back.
    async fn back(&self, orders: &Orders, record: &MoveRecord) -> Result<Copied, MoveError> {
        let max = self.limits.rows;
        let cancelled = orders.until_no_more(record.from, "Cancel", |by, kind| RangeCommand::Cancel { by, kind, max }).await;
        if let Err(error) = cancelled {
            return match orders.facts(record.from).await?.leaving(record.id) {
                Some(_) => Ok(Copied::Released),
                None => Err(error),
            };
        }
        // What was made for this move alone ends with it, and with all that it has; nobody need be there to say so.
        if record.ask.founders().is_none() {
            orders.until_no_more(record.to, "Drop", |by, kind| RangeCommand::Drop { by, kind, max }).await?;
        }
        Ok(Copied::Back)
    }

    /// Ends the group if it has nothing any more. One that does not say is asked again, and holds up no other.
    async fn end_if_idle(&self, group: GroupId) {
        let ended = async { Ok::<_, MoveError>(orders::is_idle(&*self.groups, group).await? && orders::end(&*self.groups, group).await?) };
        if let Err(error) = ended.await {
            tracing::debug!(%group, %error, "whether a group has something left is not known");
        }
    }

    /// Groups that have no range, no move and an empty outbox end, and are let go of wherever they still are.
    ///
    /// # Errors
    /// The root or a group cannot be asked; it can be done again.
    pub async fn end_idle(&self) -> Result<(), MoveError> {
        let (map, moves) = (orders::map(&*self.groups).await?, orders::moves(&*self.groups).await?);
        let Some(map) = map else { return Ok(()) };
        let left_over: BTreeSet<GroupId> = moves.iter().filter(|known| is_left_over(known)).map(|known| known.to).collect();
        for record in orders::groups(&*self.groups).await? {
            let group = record.id;
            let used = map.names().of_group(group).is_some() || map.chunks().of_group(group).is_some();
            let moves = moves.iter().any(|known| !known.step.is_over() && (known.from == group || known.to == group));
            if !used && !moves && left_over.contains(&group) {
                orders::end(&*self.groups, group).await?;
            } else if !used && !moves {
                self.end_if_idle(group).await;
            }
        }
        let ended = orders::ended_of(&*self.groups, &self.founder.hosted().await).await?;
        if !ended.is_empty() {
            self.founder.remove(&ended).await?;
        }
        Ok(())
    }
}

impl Facts {
    /// What is to be handed on, if this move's range was released.
    fn leaving(&self, id: MoveId) -> Option<Handover> {
        self.leaving.filter(|(by, _)| by.id == id.0).map(|(_, handover)| handover)
    }

    fn progress(&self, id: MoveId) -> Option<Progress> {
        self.incoming.as_ref().filter(|(by, _)| by.id == id.0).map(|(_, progress)| progress.clone())
    }

    /// Whether the group has done with the move.
    fn is_past(&self, id: MoveId) -> bool {
        self.past >= id.0
    }
}

impl From<Refusal> for MoveError {
    fn from(why: Refusal) -> Self {
        match why {
            Refusal::OldAttempt => MoveError::Taken,
            why => MoveError::Refused { step: "root", why },
        }
    }
}

/// Whether the move has left a group that was made for it and never served anything: it ends, whoever has it or not.
fn is_left_over(record: &MoveRecord) -> bool {
    record.step == MoveStep::GaveUp && record.ask.founders().is_some()
}

/// Whose orders these are, as the groups know it.
fn by(id: MoveId, attempt: u64) -> By {
    By { id: id.0, attempt }
}
