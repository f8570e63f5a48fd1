//! Handing leadership over to another voter, in a few milliseconds instead of a lease and an election.
//!
//! ```text
//! leader: nothing new is begun -> `to` has all entries -> the others take the ballot (term + 1, `to`), not granted -> so does the leader,
//!         which ends its lead -> `to` stands in that term: everybody has its ballot already, and grants it
//! ```
//! openraft 0.9 has no transfer: a voter refuses candidates while it has a leader, for as long as the lease lasts. A voter that has taken a
//! ballot that nobody granted has no leader, and no lease. Taking it is no vote: the vote comes when `to` stands, and only to a log that is
//! as long as the voter's own.
//! Invariants: at most one hand-over of a group at a time; whatever happens on the way, the worst is an ordinary election; nothing new is
//! begun meanwhile, and everybody who waits goes on when it is over, whoever leads then.

use super::{Group, convert, fatal};
use crate::cluster::Ways;
use openraft::raft::AppendEntriesRequest;
use openraft::{BasicNode, RaftMetrics, ServerState, Vote};
use spine::id::MemberId;
use spine::wire::MetadataError;
use spine::wire::cluster::{Append, Appended, Call, ClusterError, GroupCall, GroupDone, GroupOrder, Member};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::RwLockReadGuard;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Longest wait, before anybody is held up, for the next leader to have nearly all entries.
const NEAR: Duration = Duration::from_secs(5);
/// Entries that it may lack then.
const NEARLY: u64 = 256;
/// Longest wait, while all wait, for the rest of them.
const LEVEL: Duration = Duration::from_secs(1);
/// Longest wait for another voter to take the ballot.
const TAKE: Duration = Duration::from_millis(300);
/// Longest election: everybody syncs a vote.
const STAND: Duration = Duration::from_secs(2);

/// What has to be known before anybody is told anything.
struct Plan {
    to: Member,
    others: Vec<Member>,
    /// Of `others`, how many must take the ballot so that a majority has it.
    needed: usize,
    ballot: Vote<u64>,
}

impl Group {
    /// Returns at once, unless a hand-over is under way: then when it is over. None begins while the guard is held.
    pub async fn settled(&self) -> RwLockReadGuard<'_, ()> {
        self.door.read().await
    }

    /// Makes `to` the leader. Returns when this process sees it lead.
    ///
    /// # Errors
    /// `NotLeader`; `Invalid` for somebody who has no vote; `Metadata` where another attempt may do better: somebody leads soon.
    pub async fn hand_over(&self, to: MemberId) -> Result<(), ClusterError> {
        self.check_leader()?;
        if to == self.id {
            return Ok(());
        }
        let Some(ways) = self.ways.clone() else { return Err(invalid("this process is alone")) };
        let plan = self.plan(to)?;
        let behind = |metrics: &RaftMetrics<u64, BasicNode>| metrics.last_log_index.unwrap_or(0).saturating_sub(has(metrics, to));
        let near = self.raft.wait(Some(NEAR)).metrics(|metrics| behind(metrics) <= NEARLY, "the next leader has nearly all entries").await;
        near.map_err(|_| unavailable("the next leader lacks too many entries"))?;
        let _closed = self.door.write().await;
        self.level(to).await?;
        // The term may be another one by now.
        let plan = Plan { ballot: self.plan(to)?.ballot, ..plan };
        self.let_go(&ways, &plan).await?;
        let stand = GroupCall { group: self.group, order: GroupOrder::Stand };
        let asked = timeout(STAND, ways.to(&plan.to.at).link().call::<_, GroupDone>(Call::Group, &stand)).await;
        match asked {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(unavailable(&format!("the next leader did not stand: {error}"))),
            Err(_) => return Err(unavailable("the next leader did not stand in time")),
        }
        let seen = self.raft.wait(Some(STAND)).metrics(|metrics| metrics.current_leader == Some(to.0), "the next leader leads").await;
        seen.map(drop).map_err(|_| unavailable("the next leader was not heard of in time"))
    }

    fn plan(&self, to: MemberId) -> Result<Plan, ClusterError> {
        self.check_leader()?;
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let [voters] = membership.get_joint_config().as_slice() else { return Err(unavailable("the members are about to change")) };
        let member = |id: &u64| membership.get_node(id).and_then(|node| convert::member_of(*id, node));
        if !voters.contains(&to.0) || !voters.contains(&self.id.0) {
            return Err(invalid("only a voter can take over from a voter"));
        }
        let next = member(&to.0).ok_or_else(|| invalid("the next leader has no address"))?;
        let others: BTreeSet<u64> = voters.iter().copied().filter(|id| *id != to.0 && *id != self.id.0).collect();
        let needed = (voters.len() / 2 + 1).saturating_sub(2);
        let ballot = Vote::new(metrics.current_term + 1, to.0);
        Ok(Plan { to: next, others: others.iter().filter_map(member).collect(), needed, ballot })
    }

    /// Waits until `to` has every entry that was begun, and this process has applied them: everybody who proposed has an answer.
    async fn level(&self, to: MemberId) -> Result<(), ClusterError> {
        // Entries are in the log once openraft has come to a question that was asked after them.
        self.raft.with_raft_state(|_| ()).await.map_err(|e| fatal(&e))?;
        let last = self.log.state().last.map_or(0, |last| last.index);
        let level = |metrics: &RaftMetrics<u64, BasicNode>| {
            has(metrics, to) >= last && metrics.last_applied.map_or(0, |id| id.index) >= last || metrics.state != ServerState::Leader
        };
        let waited = self.raft.wait(Some(LEVEL)).metrics(level, "the next leader has all entries").await;
        waited.map(drop).map_err(|_| unavailable("the next leader did not get the last entries in time"))?;
        self.check_leader()
    }

    /// The other voters, and then this one, take the next leader's ballot.
    async fn let_go(&self, ways: &Arc<Ways>, plan: &Plan) -> Result<(), ClusterError> {
        let mut taking = JoinSet::new();
        for other in &plan.others {
            let (way, ballot) = (ways.to(&other.at), convert::ballot_of(&plan.ballot));
            let append = Append { group: self.group, to: other.id, ballot, previous: None, committed: None, entries: Vec::new() };
            taking.spawn(async move { matches!(timeout(TAKE, way.beat(append)).await, Ok(Ok(Appended::All))) });
        }
        let mut taken = 0;
        while let Some(outcome) = taking.join_next().await {
            taken += usize::from(outcome.unwrap_or(false));
        }
        if taken < plan.needed {
            return Err(unavailable("no majority is there to take the next leader's ballot"));
        }
        let own = AppendEntriesRequest { vote: plan.ballot, prev_log_id: None, entries: Vec::new(), leader_commit: None };
        match self.raft.append_entries(own).await {
            Ok(response) if response.is_success() => Ok(()),
            Ok(_) => Err(unavailable("somebody else stands already")),
            Err(error) => Err(unavailable(&error.to_string())),
        }
    }

    /// Stands, and returns once this process leads.
    ///
    /// # Errors
    /// `Metadata`: it was not elected in time.
    pub async fn stand(&self) -> Result<(), ClusterError> {
        self.raft.trigger().elect().await.map_err(|e| fatal(&e))?;
        let leads = self.raft.wait(Some(STAND)).metrics(|metrics| metrics.state == ServerState::Leader, "this node leads").await;
        leads.map(drop).map_err(|_| unavailable("this process was not elected"))
    }
}

/// Index of the last entry that a member is known to have.
fn has(metrics: &RaftMetrics<u64, BasicNode>, id: MemberId) -> u64 {
    let replication = metrics.replication.as_ref();
    replication.and_then(|all| all.get(&id.0).copied().flatten()).map_or(0, |has| has.index)
}

fn unavailable(reason: &str) -> ClusterError {
    MetadataError::Unavailable { reason: reason.to_string() }.into()
}

fn invalid(what: &str) -> ClusterError {
    ClusterError::Invalid { what: what.to_string() }
}
