//! Words of whoever moves something with the root and with groups: one order, one question, the answer that fits it.

use super::{MoveError, by};
use crate::root::map::ROOT;
use crate::router::Groups;
use spine::id::{Epoch, GroupId, MoveId, NodeId, UnixMs};
use spine::limit::GROUPS;
use spine::map::Map;
use spine::wire::cluster::Member;
use spine::wire::format::LEVELLED;
use spine::wire::namespace::{NamespaceAnswer, NamespaceQuery};
use spine::wire::range::{Handover, Holding, Mover as By, Page, Progress, RangeAnswer, RangeCommand, RangeKind, RangeQuery, RangeStatus};
use spine::wire::root::{GroupRecord, MoveAsk, MoveRecord, MoveStep, RootAnswer, RootCommand, RootQuery, ShiftKind, ShiftRecord};
use spine::wire::{Answer, Batch, Chain, Command, MetadataError, Query, Refusal, Reply};
use std::sync::Arc;

/// One taking up of one move.
pub struct Orders {
    groups: Arc<dyn Groups>,
    id: MoveId,
    attempt: u64,
    kind: RangeKind,
    /// Receivers can be told what the rows of a page are to come to.
    checks: bool,
}

/// What a group says of the moves of one kind that it is in.
pub struct Facts {
    pub leaving: Option<(By, Handover)>,
    pub incoming: Option<(By, Progress)>,
    /// The move that it is taking back.
    pub cancelled: Option<u64>,
    /// The move whose range it holds frozen.
    pub frozen: Option<u64>,
    /// The last move that is over for it.
    pub past: u64,
}

fn facts_of<P>(holding: Holding<P>) -> Facts {
    let frozen = holding.outgoing.as_ref().filter(|outgoing| outgoing.frozen).map(|outgoing| outgoing.by.id);
    Facts {
        frozen,
        leaving: holding.leaving.map(|leaving| (leaving.by, leaving.handover)),
        incoming: holding.incoming.map(|incoming| (incoming.by, incoming.progress)),
        cancelled: holding.outgoing.filter(|outgoing| outgoing.cancelled).map(|outgoing| outgoing.by.id),
        past: holding.past,
    }
}

pub fn refused(step: &'static str, reply: Reply) -> MoveError {
    match reply {
        Reply::Refused(Refusal::OldAttempt) => MoveError::Taken,
        Reply::Refused(why) => MoveError::Refused { step, why },
        _ => MoveError::Unexpected { step },
    }
}

async fn one(groups: &dyn Groups, group: GroupId, command: Command) -> Result<Reply, MoveError> {
    let replies = groups.propose_to(group, Batch { chain: Chain::Stop, commands: vec![command] }).await?;
    replies.into_iter().next().ok_or(MoveError::Unexpected { step: "order" })
}

async fn root(groups: &dyn Groups, query: RootQuery) -> Result<RootAnswer, MoveError> {
    match groups.query_of(ROOT, Query::Root(query)).await? {
        Answer::Root(answer) => Ok(answer),
        _ => Err(MoveError::Unexpected { step: "root" }),
    }
}

pub async fn moves(groups: &dyn Groups) -> Result<Vec<MoveRecord>, MoveError> {
    match root(groups, RootQuery::Moves).await? {
        RootAnswer::Moves(moves) => Ok(moves),
        _ => Err(MoveError::Unexpected { step: "Moves" }),
    }
}

pub async fn shifts(groups: &dyn Groups) -> Result<Vec<ShiftRecord>, MoveError> {
    match root(groups, RootQuery::Shifts).await? {
        RootAnswer::Shifts(shifts) => Ok(shifts),
        _ => Err(MoveError::Unexpected { step: "Shifts" }),
    }
}

/// Metadata nodes that are to leave.
pub async fn leaving(groups: &dyn Groups) -> Result<Vec<NodeId>, MoveError> {
    match root(groups, RootQuery::LeavingMetadataNodes).await? {
        RootAnswer::LeavingMetadataNodes(nodes) => Ok(nodes),
        _ => Err(MoveError::Unexpected { step: "LeavingMetadataNodes" }),
    }
}

/// Begins a move of a range; its number.
pub async fn begin_move(groups: &dyn Groups, ask: &MoveAsk, expected: Epoch, reason: &str, now: UnixMs) -> Result<MoveId, MoveError> {
    let command = RootCommand::BeginMove { ask: ask.clone(), expected, reason: reason.to_owned(), now };
    match one(groups, ROOT, Command::Root(command)).await? {
        Reply::Moving(id) => Ok(id),
        other => Err(refused("BeginMove", other)),
    }
}

/// Notes that a leadership or a replica is to go from the first member to the second; the shift's number.
pub async fn begin_shift(
    groups: &dyn Groups,
    kind: ShiftKind,
    group: GroupId,
    (from, to): (&Member, &Member),
    reason: &str,
    now: UnixMs,
) -> Result<MoveId, MoveError> {
    let command = RootCommand::BeginShift { kind, group, from: from.clone(), to: to.clone(), reason: reason.to_owned(), now };
    match one(groups, ROOT, Command::Root(command)).await? {
        Reply::Moving(id) => Ok(id),
        other => Err(refused("BeginShift", other)),
    }
}

pub async fn end_shift(groups: &dyn Groups, id: MoveId, done: bool, now: UnixMs) -> Result<(), MoveError> {
    match one(groups, ROOT, Command::Root(RootCommand::EndShift { id, done, now })).await? {
        Reply::Done => Ok(()),
        other => Err(refused("EndShift", other)),
    }
}

pub async fn groups(groups: &dyn Groups) -> Result<Vec<GroupRecord>, MoveError> {
    match root(groups, RootQuery::Groups).await? {
        RootAnswer::Groups(groups) => Ok(groups),
        _ => Err(MoveError::Unexpected { step: "Groups" }),
    }
}

/// Which of these have ended.
pub async fn ended_of(groups: &dyn Groups, ids: &[GroupId]) -> Result<Vec<GroupId>, MoveError> {
    let mut ended = Vec::new();
    for some in ids.chunks(GROUPS) {
        let RootAnswer::Groups(records) = root(groups, RootQuery::GroupsOf(some.to_vec())).await? else {
            return Err(MoveError::Unexpected { step: "GroupsOf" });
        };
        ended.extend(records.iter().filter(|record| record.ended).map(|record| record.id));
    }
    Ok(ended)
}

pub async fn map(groups: &dyn Groups) -> Result<Option<Map>, MoveError> {
    match root(groups, RootQuery::Map { known: None }).await? {
        RootAnswer::Map(map) => Ok(map),
        _ => Err(MoveError::Unexpected { step: "Map" }),
    }
}

async fn status(groups: &dyn Groups, group: GroupId) -> Result<RangeStatus, MoveError> {
    match groups.query_of(group, Query::Range(RangeQuery::Status)).await? {
        Answer::Range(RangeAnswer::Status(status)) => Ok(*status),
        _ => Err(MoveError::Unexpected { step: "Status" }),
    }
}

fn is_free<P>(holding: &Holding<P>) -> bool {
    holding.owned.is_none()
        && holding.outgoing.is_none()
        && holding.leaving.is_none()
        && holding.incoming.is_none()
        && holding.settling.is_none()
}

/// Whether the group has nothing and owes nothing: no range, no move, an empty outbox.
pub async fn is_idle(groups: &dyn Groups, group: GroupId) -> Result<bool, MoveError> {
    let status = match status(groups, group).await {
        // Who has it may be away. What was never served ends with its move.
        Err(MoveError::Metadata(MetadataError::NotHere)) => return Ok(false),
        other => other?,
    };
    if !is_free(&status.names) || !is_free(&status.chunks) {
        return Ok(false);
    }
    match groups.query_of(group, Query::Namespace(NamespaceQuery::Outbox { max: 1 })).await? {
        Answer::Namespace(NamespaceAnswer::Outbox(entries)) => Ok(entries.is_empty()),
        _ => Err(MoveError::Unexpected { step: "Outbox" }),
    }
}

/// Notes that a group has ended; whether it has.
pub async fn end(groups: &dyn Groups, group: GroupId) -> Result<bool, MoveError> {
    Ok(one(groups, ROOT, Command::Root(RootCommand::EndGroup { group })).await? == Reply::Done)
}

impl Orders {
    /// Takes a move up: from here on the groups refuse whoever had it before.
    pub async fn take_up(groups: &Arc<dyn Groups>, id: MoveId) -> Result<Orders, MoveError> {
        let attempt = match one(&**groups, ROOT, Command::Root(RootCommand::TakeMove { id })).await? {
            Reply::Attempt(attempt) => attempt,
            other => return Err(refused("TakeMove", other)),
        };
        let checks = match root(&**groups, RootQuery::Format).await? {
            RootAnswer::Format(format) => format >= LEVELLED,
            _ => return Err(MoveError::Unexpected { step: "Format" }),
        };
        let mut orders = Orders { groups: groups.clone(), id, attempt, kind: RangeKind::Names, checks };
        orders.kind = orders.record().await?.span.kind();
        Ok(orders)
    }

    pub fn kind(&self) -> RangeKind {
        self.kind
    }

    /// The move as the root has it, if it still is this taking up's.
    pub async fn record(&self) -> Result<MoveRecord, MoveError> {
        let record = moves(&*self.groups).await?.into_iter().find(|known| known.id == self.id);
        record.filter(|record| record.attempt == self.attempt).ok_or(MoveError::Taken)
    }

    /// What it means that a group says something else than the step: somebody else has gone on, or it is wrong.
    pub async fn astray(&self, step: &'static str) -> MoveError {
        self.record().await.err().unwrap_or(MoveError::Unexpected { step })
    }

    pub async fn step(&self, step: MoveStep) -> Result<(), MoveError> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let now = UnixMs(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        let command = RootCommand::StepMove { id: self.id, attempt: self.attempt, step, now };
        match one(&*self.groups, ROOT, Command::Root(command)).await? {
            Reply::Done => Ok(()),
            other => Err(refused("StepMove", other)),
        }
    }

    pub async fn order(&self, group: GroupId, command: impl FnOnce(By) -> RangeCommand) -> Result<Reply, MoveError> {
        one(&*self.groups, group, Command::Range(command(by(self.id, self.attempt)))).await
    }

    /// Has the receiver take over a page that begins at `after`. Refused with `Mismatch` if it has other rows then: it has come no further, or
    /// else, where it may run a version that cannot look itself, the move is given up. A receiver that is not raised yet where the root's group
    /// is will be: `TooNew`, and the move waits.
    pub async fn import(&self, group: GroupId, after: Progress, page: &mut Page) -> Result<Reply, MoveError> {
        let (by, kind, upto, digest) = (by(self.id, self.attempt), self.kind, page.upto.clone(), page.digest);
        let rows = std::mem::take(&mut page.rows);
        if self.checks {
            return self.order(group, |by| RangeCommand::ImportChecked { by, kind, after, upto, rows, digest }).await;
        }
        match one(&*self.groups, group, Command::Range(RangeCommand::Import { by, kind, after, upto, rows })).await? {
            Reply::Imported { digest: held } if held != digest => {
                self.give_up().await?;
                Ok(Reply::Refused(Refusal::Mismatch))
            }
            reply => Ok(reply),
        }
    }

    /// The move is wanted no more.
    pub async fn give_up(&self) -> Result<(), MoveError> {
        match one(&*self.groups, ROOT, Command::Root(RootCommand::GiveUpMove { id: self.id })).await? {
            Reply::Done => Ok(()),
            other => Err(refused("GiveUpMove", other)),
        }
    }

    /// An order that is either done or refused.
    pub async fn done(&self, group: GroupId, step: &'static str, command: impl FnOnce(By) -> RangeCommand) -> Result<(), MoveError> {
        match self.order(group, command).await? {
            Reply::Done => Ok(()),
            other => Err(refused(step, other)),
        }
    }

    /// An order that is done in bounded steps.
    pub async fn until_no_more(
        &self,
        group: GroupId,
        step: &'static str,
        command: impl Fn(By, RangeKind) -> RangeCommand,
    ) -> Result<(), MoveError> {
        loop {
            match self.order(group, |by| command(by, self.kind)).await? {
                Reply::Purged { more: true } => {}
                Reply::Purged { more: false } => return Ok(()),
                other => return Err(refused(step, other)),
            }
        }
    }

    pub async fn export(&self, group: GroupId, after: Progress, max_bytes: u32) -> Result<Page, MoveError> {
        let query = RangeQuery::Export { by: by(self.id, self.attempt), kind: self.kind, after, max_bytes };
        match self.groups.query_of(group, Query::Range(query)).await? {
            Answer::Range(RangeAnswer::Exported(page)) => Ok(page),
            _ => Err(MoveError::Unexpected { step: "Export" }),
        }
    }

    pub async fn facts(&self, group: GroupId) -> Result<Facts, MoveError> {
        let status = status(&*self.groups, group).await?;
        Ok(match self.kind {
            RangeKind::Names => facts_of(status.names),
            RangeKind::Chunks => facts_of(status.chunks),
        })
    }
}
