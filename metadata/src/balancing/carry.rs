//! One order of levelling out, to its end or back to where it began. Each step can be done again.
//!
//! ```text
//! leadership: handed over -> ended
//! replica:    room at the new server -> it learns -> it votes -> leadership, if it was the old one's -> the old one votes no more
//!             -> the old one lets go -> ended
//! ```
//! Nobody lets go of a replica that is still counted: that one is out only once the group's log says so.

use super::Servers;
use crate::mover::{MoveError, orders};
use crate::router::Groups;
use spine::id::{GroupId, MemberId, MoveId, UnixMs};
use spine::wire::MetadataError;
use spine::wire::cluster::{Changed, Loads, Member};
use spine::wire::root::{MoveStep, ShiftKind, ShiftRecord};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::{Instant, sleep};

/// How long is waited for what.
#[derive(Clone, Copy, Debug)]
pub struct Waits {
    /// Between two looks at how far a move or a learner is; default 250 ms.
    pub ask: Duration,
    /// How long what ought to be possible is tried again; default 30 s.
    pub again: Duration,
    /// Longest that a server may learn; then it is taken out again. Default an hour.
    pub learn: Duration,
    /// Longest that a range's move is waited for: the mover goes on with it. Default an hour.
    pub moved: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        let hour = Duration::from_secs(3_600);
        Waits { ask: Duration::from_millis(250), again: Duration::from_secs(30), learn: hour, moved: hour }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error("the range's move was given up")]
    GaveUp,
    #[error("it took too long")]
    TooLong,
    #[error(transparent)]
    Move(#[from] MoveError),
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

/// Who leads the group: of several who think so, the one of the highest term.
fn leader_of(loads: &[Loads], group: GroupId) -> Option<&Member> {
    let led = loads.iter().flat_map(|of| of.groups.iter().map(move |known| (known, &of.member)));
    led.filter(|(known, _)| known.group == group && known.leads).max_by_key(|(known, _)| known.term).map(|(_, member)| member)
}

fn is_gone(error: &StepError) -> bool {
    matches!(error, StepError::Metadata(MetadataError::NotHere))
}

/// How far a replica came that did not come all the way.
enum Replaced {
    /// The old one is what it was.
    Not(StepError),
    /// The new one votes, and the old one may be out.
    Half(StepError),
}

/// Whoever carries orders out.
#[derive(Clone)]
pub struct Carrier {
    pub groups: Arc<dyn Groups>,
    pub servers: Arc<dyn Servers>,
    pub waits: Waits,
}

impl Carrier {
    /// Waits until the mover is through, and has `lead` lead the group that got the range.
    ///
    /// # Errors
    /// The move was given up, or takes very long; the group could not be handed over: somebody else leads it, which is no harm.
    pub async fn range(&self, id: MoveId, lead: Option<MemberId>) -> Result<(), StepError> {
        let until = Instant::now() + self.waits.moved;
        let to = loop {
            match orders::moves(&*self.groups).await {
                Ok(moves) => match moves.into_iter().find(|record| record.id == id) {
                    Some(record) if matches!(record.step, MoveStep::Mapped | MoveStep::Done) => break record.to,
                    Some(record) if record.step != MoveStep::GaveUp => {}
                    _ => return Err(StepError::GaveUp),
                },
                // The root has no leader at this moment.
                Err(MoveError::Metadata(_)) => {}
                Err(error) => return Err(error.into()),
            }
            if Instant::now() >= until {
                return Err(StepError::TooLong);
            }
            sleep(self.waits.ask).await;
        };
        match lead {
            Some(lead) => self.transfer(to, lead).await,
            None => Ok(()),
        }
    }

    /// Does what the record says and notes its end.
    ///
    /// # Errors
    /// It was not done, and what was begun of it was taken back; or it is left half done and still in the root's records.
    pub async fn shift(&self, record: &ShiftRecord) -> Result<(), StepError> {
        let done = match record.kind {
            ShiftKind::Leadership => self.transfer(record.group, record.to.id).await,
            ShiftKind::Replica => match self.replace(record).await {
                Ok(()) => Ok(()),
                Err(Replaced::Not(error)) => {
                    self.withdraw(record).await?;
                    Err(error)
                }
                // It was merged away and has ended: nobody has it any more.
                Err(Replaced::Half(error)) if is_gone(&error) => Err(error),
                // It has changed servers: only the rest is left to do, by whoever finds the record.
                Err(Replaced::Half(error)) => return Err(error),
            },
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = UnixMs(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        orders::end_shift(&*self.groups, record.id, done.is_ok(), now).await?;
        done
    }

    async fn replace(&self, record: &ShiftRecord) -> Result<(), Replaced> {
        let ShiftRecord { group, from, to, .. } = record;
        self.enter(record).await.map_err(Replaced::Not)?;
        // A leader that is taken out leaves its group to an election, which takes longer; if handing over fails, that is what happens.
        if leader_of(&self.servers.loads().await, *group) == Some(from)
            && let Err(error) = self.transfer(*group, to.id).await
        {
            tracing::debug!(%group, %error, "a leader is taken out without having handed over");
        }
        while self.take_out(*group, from.id).await.map_err(Replaced::Half)? != Changed::Done {
            sleep(self.waits.ask).await;
        }
        self.again(|| self.servers.let_go(&from.at, *group)).await.map_err(Replaced::Half)
    }

    /// Takes the new server out again; out of a group that nobody has any more there is nothing to take.
    async fn withdraw(&self, record: &ShiftRecord) -> Result<(), StepError> {
        loop {
            match self.take_out(record.group, record.to.id).await {
                Ok(Changed::Done) => break,
                Ok(Changed::Learning { .. }) => sleep(self.waits.ask).await,
                Err(error) if is_gone(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.again(|| self.servers.let_go(&record.to.at, record.group)).await
    }

    async fn transfer(&self, group: GroupId, to: MemberId) -> Result<(), StepError> {
        self.again(|| self.servers.transfer(group, to)).await
    }

    async fn take_out(&self, group: GroupId, member: MemberId) -> Result<Changed, StepError> {
        self.again(|| self.servers.take_out(group, member)).await
    }

    /// Until the new server votes. One that answers nobody any more is not waited for as long as one that learns.
    async fn enter(&self, record: &ShiftRecord) -> Result<(), StepError> {
        let ShiftRecord { group, to, .. } = record;
        let until = Instant::now() + self.waits.learn;
        let mut heard = Instant::now();
        loop {
            let loads = self.servers.loads().await;
            if loads.iter().any(|loads| loads.member == *to) {
                heard = Instant::now();
            }
            let entered = match leader_of(&loads, *group) {
                Some(leader) => self.servers.enter(to, *group, &leader.at).await,
                None => Err(MetadataError::Unavailable { reason: "nobody who answers leads the group".into() }),
            };
            match entered {
                Ok(()) => return Ok(()),
                Err(error) if heard.elapsed() >= self.waits.again || Instant::now() >= until => return Err(error.into()),
                Err(_) => sleep(self.waits.ask).await,
            }
        }
    }

    /// Tries until it is done or nothing is to be hoped for.
    async fn again<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, StepError>
    where
        F: Future<Output = Result<T, MetadataError>>,
    {
        let until = Instant::now() + self.waits.again;
        loop {
            match attempt().await {
                Ok(done) => return Ok(done),
                Err(error) if Instant::now() >= until => return Err(error.into()),
                Err(_) => sleep(self.waits.ask).await,
            }
        }
    }
}
