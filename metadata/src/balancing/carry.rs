//! One order of levelling out, to its end or back to where it began. Each step can be done again.
//!
//! ```text
//! leadership: handed over -> ended
//! replica:    room at the new server -> it learns -> it votes -> leadership, if it was the old one's -> the old one votes no more
//!             -> the old one lets go -> ended
//! ```
//! Nobody lets go of a replica that is still counted: that one is out only once the group's log says so. Whoever leads the root next carries
//! the same shift, and both may be at it for a while: what one has ended the other does not go on with.

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

/// Who votes in the group, as the one says who leads it.
fn voters_of(loads: &[Loads], group: GroupId) -> Option<&[Member]> {
    let led = loads.iter().flat_map(|of| &of.groups).filter(|known| known.group == group && known.leads);
    led.max_by_key(|known| known.term).map(|known| &known.voters[..])
}

fn unavailable(reason: &str) -> MetadataError {
    MetadataError::Unavailable { reason: reason.to_string() }
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
        while self.take_out(record, from.id).await.map_err(Replaced::Half)? != Changed::Done {
            sleep(self.waits.ask).await;
        }
        self.let_go(from, *group).await;
        Ok(())
    }

    /// Takes the new server out again; out of a group that nobody has any more there is nothing to take.
    async fn withdraw(&self, record: &ShiftRecord) -> Result<(), StepError> {
        let ShiftRecord { group, from, to, .. } = record;
        if let Some(voters) = voters_of(&self.servers.loads().await, *group)
            && !voters.contains(from)
        {
            // Somebody else has carried it further: it goes on forwards.
            return Err(unavailable("the old server is out already").into());
        }
        loop {
            match self.take_out(record, to.id).await {
                Ok(Changed::Done) => break,
                Ok(_) => sleep(self.waits.ask).await,
                Err(error) if is_gone(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.let_go(to, *group).await;
        Ok(())
    }

    /// Has a server that is out let go of what it has. One that does not answer is left to whoever sees to replicas.
    async fn let_go(&self, out: &Member, group: GroupId) {
        if let Err(error) = self.again(|| self.servers.let_go(&out.at, group)).await {
            tracing::debug!(%group, at = out.at.address, %error, "a server still has what it is out of");
        }
    }

    async fn transfer(&self, group: GroupId, to: MemberId) -> Result<(), StepError> {
        self.again(|| self.servers.transfer(group, to)).await
    }

    /// Only while the root says that the shift goes on: whoever has led the root since may have ended it.
    async fn take_out(&self, record: &ShiftRecord, member: MemberId) -> Result<Changed, StepError> {
        self.again(|| async {
            let shifts = orders::shifts(&*self.groups).await.map_err(|error| unavailable(&error.to_string()))?;
            match shifts.iter().any(|known| known.id == record.id && known.ended.is_none()) {
                true => self.servers.take_out(record.group, member).await,
                false => Err(unavailable("somebody else has ended the shift")),
            }
        })
        .await
    }

    /// Until the new server votes. One that answers nobody any more is not waited for as long as one that learns; one that has begun to leave
    /// not at all: whoever sees to replicas takes it out meanwhile.
    async fn enter(&self, record: &ShiftRecord) -> Result<(), StepError> {
        let ShiftRecord { group, to, .. } = record;
        let until = Instant::now() + self.waits.learn;
        let mut heard = Instant::now();
        loop {
            let loads = self.servers.loads().await;
            if loads.iter().any(|loads| loads.member == *to) {
                heard = Instant::now();
            }
            if orders::leaving(&*self.groups).await.is_ok_and(|leaving| leaving.contains(&to.at.node)) {
                return Err(unavailable("the new server leaves").into());
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
