//! Who is in the group, and changing that; and what members say to each other.

use super::{Group, convert, fatal};
use openraft::error::{ClientWriteError, RaftError};
use openraft::{BasicNode, ChangeMembers, Membership, RaftMetrics, ServerState};
use spine::id::MemberId;
use spine::limit::MEMBERS;
use spine::wire::MetadataError;
use spine::wire::cluster::{
    Append, Appended, Changed, ClusterError, Endpoint, GroupStatus, LogPosition, Member, MemberChange, MemberStatus, RequestVote, Voted,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A learner that lacks fewer entries than this gets a vote: it has the rest before the next election.
const CAUGHT_UP: u64 = 64;
/// How often a change looks how far it is, and the pause where it can only wait.
const LOOKS: usize = 64;
const LOOK: Duration = Duration::from_millis(20);

/// The next step towards a change.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Done,
    /// Nothing can be done before the learner has caught up.
    Wait {
        behind: u64,
    },
    /// Adds the member without a vote.
    Learn,
    /// Notes the member's address.
    Note,
    /// Takes out members without votes.
    Drop(BTreeSet<u64>),
    /// Replaces the voters.
    Vote(BTreeSet<u64>),
    Refuse(&'static str),
}

impl Group {
    /// Who leads, as far as this process knows; `None` for the member: it has no address, or is not known.
    ///
    /// # Errors
    /// `NotLeader`, if it is not this process.
    pub fn check_leader(&self) -> Result<(), ClusterError> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        if metrics.state == ServerState::Leader && metrics.running_state.is_ok() {
            return Ok(());
        }
        let leader = metrics.current_leader.filter(|leader| *leader != self.id.0);
        let leader = leader.and_then(|id| convert::member_of(id, metrics.membership_config.membership().get_node(&id)?));
        Err(ClusterError::NotLeader { leader })
    }

    /// Members besides this process.
    pub fn others(&self) -> usize {
        self.raft.metrics().borrow().membership_config.nodes().count().saturating_sub(1)
    }

    /// Whether its voters are between two sets.
    pub fn is_changing(&self) -> bool {
        self.raft.metrics().borrow().membership_config.membership().get_joint_config().len() > 1
    }

    pub fn status(&self) -> GroupStatus {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let members = membership.nodes().map(|(id, node)| {
            let nowhere = || Member { id: MemberId(*id), at: Endpoint { node: self.at.node, address: String::new() } };
            let has = match &metrics.replication {
                Some(_) if *id == self.id.0 => metrics.last_log_index,
                Some(replication) => replication.get(id).copied().flatten().map(|id| id.index),
                None => None,
            };
            MemberStatus { member: convert::member_of(*id, node).unwrap_or_else(nowhere), votes: voters.contains(id), has }
        });
        GroupStatus {
            group: self.group,
            leader: metrics.current_leader.map(MemberId),
            term: metrics.current_term,
            last: metrics.last_log_index.unwrap_or(0),
            applied: self.applied_index(),
            purged: metrics.purged.map_or(0, |id| id.index),
            members: members.collect(),
        }
    }

    /// Goes one step, or as many as can be gone without waiting, towards a change. One that is cut off in the middle may leave two sets of
    /// voters: see [`Self::settle`].
    ///
    /// # Errors
    /// `NotLeader`; `Invalid` where the change cannot be; `Metadata` where another attempt may do better.
    pub async fn change(&self, change: &MemberChange) -> Result<Changed, ClusterError> {
        if let MemberChange::Left(member) = change {
            return self.left(*member);
        }
        let Ok(_one) = self.changing.try_lock() else { return Err(unavailable("the members are being changed")) };
        for _ in 0..LOOKS {
            self.check_leader()?;
            let (step, settled) = {
                let metrics = self.raft.metrics();
                let metrics = metrics.borrow();
                (next_step(&metrics, change), is_settled(&metrics))
            };
            tracing::debug!(?change, ?step, "a change of members");
            let changes = match (step, change) {
                (Step::Done, _) if settled => return Ok(Changed::Done),
                // As this leader found it in its log: a majority may not have it yet.
                (Step::Done, _) => {
                    tokio::time::sleep(LOOK).await;
                    continue;
                }
                (Step::Wait { behind }, _) => return Ok(Changed::Learning { behind }),
                (Step::Refuse(why), _) => return Err(ClusterError::Invalid { what: why.to_string() }),
                (Step::Learn, MemberChange::Join(member)) => {
                    self.check_joiner(member).await?;
                    ChangeMembers::AddNodes(BTreeMap::from([(member.id.0, convert::node_of(member))]))
                }
                (Step::Note, MemberChange::Join(member)) => {
                    ChangeMembers::SetNodes(BTreeMap::from([(member.id.0, convert::node_of(member))]))
                }
                (Step::Learn | Step::Note, _) => return Err(unavailable("a change without a member")),
                (Step::Drop(members), _) => ChangeMembers::RemoveNodes(members),
                (Step::Vote(voters), _) => ChangeMembers::ReplaceAllVoters(voters),
            };
            match self.raft.change_membership(changes, false).await {
                Ok(_) => {}
                Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => self.check_leader()?,
                Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(e))) => return Err(unavailable(&e.to_string())),
                Err(RaftError::Fatal(e)) => return Err(fatal(&e).into()),
            }
        }
        Err(unavailable("the members changed at the same time"))
    }

    /// Since when a member is none.
    fn left(&self, member: MemberId) -> Result<Changed, ClusterError> {
        self.check_leader()?;
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let (membership, at) = (metrics.membership_config.membership(), metrics.membership_config.log_id());
        match at {
            Some(at) if membership.get_node(&member.0).is_none() && is_settled(&metrics) => {
                Ok(Changed::Out { since: convert::position_of(at) })
            }
            _ => Err(unavailable("it is a member, or not out on a majority yet")),
        }
    }

    /// Whether this process may let go of what it has of a group that it is out of by `since`.
    ///
    /// # Errors
    /// `Unavailable`: what it has of the log says, later, that it is a member.
    pub fn may_go(&self, since: &LogPosition) -> Result<(), ClusterError> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let later = metrics.membership_config.log_id().is_some_and(|at| at > convert::log_id_of(since));
        let counts = metrics.membership_config.membership().get_node(&self.id.0).is_some();
        if later && counts { Err(unavailable("it has become a member again since")) } else { Ok(()) }
    }

    /// Ends a change that a leader left between two sets of voters: until then both have to agree to everything.
    pub async fn settle(&self) {
        let Ok(_one) = self.changing.try_lock() else { return };
        if self.check_leader().is_err() {
            return;
        }
        let configs = self.raft.metrics().borrow().membership_config.membership().get_joint_config().clone();
        let (true, Some(voters)) = (configs.len() > 1, configs.last()) else { return };
        match self.raft.change_membership(ChangeMembers::ReplaceAllVoters(voters.clone()), false).await {
            Ok(_) => tracing::info!(group = %self.group, ?voters, "a change of members that was left half-way is done"),
            Err(error) => tracing::debug!(group = %self.group, %error, "a change of members is still half-way"),
        }
    }

    /// Takes entries, or a sign of life, from a leader.
    ///
    /// # Errors
    /// `OtherMember`; `Invalid` for entries that do not read; `Metadata` if the group has ended, or for entries that are too new.
    pub async fn append(&self, append: Append) -> Result<Appended, ClusterError> {
        self.check_member(append.to)?;
        self.admit_entries(&append).await?;
        let request = convert::append_request_of(append).map_err(|what| ClusterError::Invalid { what })?;
        match self.raft.append_entries(request).await {
            Ok(response) => Ok(convert::appended_of(response)),
            Err(RaftError::APIError(never)) => Err(unavailable(&never.to_string())),
            Err(RaftError::Fatal(e)) => Err(fatal(&e).into()),
        }
    }

    /// Answers a candidate.
    ///
    /// # Errors
    /// `OtherMember`; `Metadata` if the group has ended.
    pub async fn vote(&self, request: RequestVote) -> Result<Voted, ClusterError> {
        self.check_member(request.to)?;
        match self.raft.vote(convert::vote_request_of(&request)).await {
            Ok(response) => Ok(convert::voted_of(&response)),
            Err(RaftError::APIError(never)) => Err(unavailable(&never.to_string())),
            Err(RaftError::Fatal(e)) => Err(fatal(&e).into()),
        }
    }
}

/// Whether the last entry about members is on a majority.
fn is_settled(metrics: &RaftMetrics<u64, BasicNode>) -> bool {
    let (at, applied) = (metrics.membership_config.log_id().map(|at| at.index), metrics.last_applied.map(|at| at.index));
    at <= applied
}

/// What a leader does next towards `change`, by what it knows.
fn next_step(metrics: &RaftMetrics<u64, BasicNode>, change: &MemberChange) -> Step {
    let membership = metrics.membership_config.membership();
    let has = |id: u64| metrics.replication.as_ref().and_then(|all| all.get(&id).copied().flatten());
    let behind = |id: u64| {
        let last = metrics.last_log_index.unwrap_or(0);
        has(id).map_or(last.max(CAUGHT_UP), |has| last.saturating_sub(has.index))
    };
    step_of(membership, behind, change)
}

/// - `behind`: entries that a member lacks.
fn step_of(membership: &Membership<u64, BasicNode>, behind: impl Fn(u64) -> u64, change: &MemberChange) -> Step {
    // A leader that died half-way left both: the later one is what was meant.
    let configs = membership.get_joint_config();
    let (joint, voters) = (configs.len() > 1, configs.last().cloned().unwrap_or_default());
    match change {
        MemberChange::Join(member) => {
            let id = member.id.0;
            // Whoever had this key before: its folder is gone, and its votes with it.
            let same_key =
                |other: u64, node: &BasicNode| other != id && node.addr.parse().is_ok_and(|at: Endpoint| at.node == member.at.node);
            let stale: BTreeSet<u64> =
                membership.nodes().filter(|(other, node)| same_key(**other, node)).map(|(other, _)| *other).collect();
            match membership.get_node(&id) {
                None if membership.nodes().count() >= MEMBERS + stale.len() => Step::Refuse("the group has as many members as it may"),
                None => Step::Learn,
                Some(node) if *node != convert::node_of(member) => Step::Note,
                Some(_) if !voters.contains(&id) && behind(id) >= CAUGHT_UP => Step::Wait { behind: behind(id) },
                Some(_) => {
                    let wanted: BTreeSet<u64> = voters.iter().copied().filter(|other| !stale.contains(other)).chain([id]).collect();
                    let idle: BTreeSet<u64> = stale.difference(&voters).copied().collect();
                    if joint || wanted != voters {
                        Step::Vote(wanted)
                    } else if !idle.is_empty() {
                        Step::Drop(idle)
                    } else {
                        Step::Done
                    }
                }
            }
        }
        MemberChange::Left(_) => Step::Done,
        MemberChange::Remove(member) => {
            let id = member.0;
            let wanted: BTreeSet<u64> = voters.iter().copied().filter(|other| *other != id).collect();
            if membership.get_node(&id).is_none() && !joint {
                Step::Done
            } else if wanted.is_empty() {
                Step::Refuse("the last voter of a group cannot be removed")
            } else if joint || wanted != voters {
                Step::Vote(wanted)
            } else {
                Step::Drop(BTreeSet::from([id]))
            }
        }
    }
}

fn unavailable(reason: &str) -> ClusterError {
    MetadataError::Unavailable { reason: reason.to_string() }.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use spine::id::NodeId;

    fn member(id: u64, key: u8) -> Member {
        Member { id: MemberId(id), at: Endpoint { node: NodeId([key; 32]), address: format!("host:{}", 1_000 + id) } }
    }

    fn membership(voters: &[&[u64]], members: &[Member]) -> Membership<u64, BasicNode> {
        let nodes: BTreeMap<u64, BasicNode> = members.iter().map(|m| (m.id.0, convert::node_of(m))).collect();
        Membership::new(voters.iter().map(|config| config.iter().copied().collect()).collect(), nodes)
    }

    fn set(of: &[u64]) -> BTreeSet<u64> {
        of.iter().copied().collect()
    }

    #[test]
    fn a_new_member_learns_waits_until_it_has_caught_up_and_votes() {
        let (a, b) = (member(1, 1), member(2, 2));
        let join = MemberChange::Join(b.clone());
        assert_eq!(step_of(&membership(&[&[1]], std::slice::from_ref(&a)), |_| 0, &join), Step::Learn);
        let learning = membership(&[&[1]], &[a.clone(), b.clone()]);
        assert_eq!(step_of(&learning, |_| 64, &join), Step::Wait { behind: 64 });
        assert_eq!(step_of(&learning, |_| 63, &join), Step::Vote(set(&[1, 2])));
        let both = membership(&[&[1, 2]], &[a, b]);
        assert_eq!(step_of(&both, |_| 1_000, &join), Step::Done, "a voter stays one, however far behind");
    }

    #[test]
    fn who_comes_back_with_an_empty_folder_takes_the_place_of_who_it_was() {
        let (a, b, c) = (member(1, 1), member(2, 2), member(3, 3));
        let again = member(9, 3);
        let join = MemberChange::Join(again.clone());
        let lost = membership(&[&[1, 2, 3]], &[a.clone(), b.clone(), c.clone(), again.clone()]);
        assert_eq!(step_of(&lost, |_| 0, &join), Step::Vote(set(&[1, 2, 9])));
        // Its old self may have been only learning.
        let learner = membership(&[&[1, 2]], &[a.clone(), b.clone(), c, again.clone()]);
        assert_eq!(step_of(&learner, |_| 0, &join), Step::Vote(set(&[1, 2, 9])));
        let after = membership(&[&[1, 2, 9]], &[a, b, member(3, 3), again]);
        assert_eq!(step_of(&after, |_| 0, &join), Step::Drop(set(&[3])));
    }

    #[test]
    fn a_change_that_stopped_half_way_is_finished_and_a_new_address_is_noted() {
        let (a, b) = (member(1, 1), member(2, 2));
        let half = membership(&[&[1], &[1, 2]], &[a.clone(), b.clone()]);
        assert_eq!(step_of(&half, |_| 0, &MemberChange::Join(b.clone())), Step::Vote(set(&[1, 2])));
        assert_eq!(step_of(&half, |_| 0, &MemberChange::Remove(MemberId(7))), Step::Vote(set(&[1, 2])));
        let mut moved = b.clone();
        moved.at.address = "elsewhere:1".into();
        assert_eq!(step_of(&membership(&[&[1, 2]], &[a, b]), |_| 0, &MemberChange::Join(moved)), Step::Note);
    }

    #[test]
    fn a_voter_loses_its_vote_and_then_its_place_and_the_last_one_stays() {
        let (a, b) = (member(1, 1), member(2, 2));
        let both = membership(&[&[1, 2]], &[a.clone(), b.clone()]);
        let remove = MemberChange::Remove(MemberId(2));
        assert_eq!(step_of(&both, |_| 0, &remove), Step::Vote(set(&[1])));
        assert_eq!(step_of(&membership(&[&[1]], &[a.clone(), b]), |_| 0, &remove), Step::Drop(set(&[2])));
        let alone = membership(&[&[1]], &[a]);
        assert_eq!(step_of(&alone, |_| 0, &remove), Step::Done);
        assert!(matches!(step_of(&alone, |_| 0, &MemberChange::Remove(MemberId(1))), Step::Refuse(_)));
    }

    #[test]
    fn there_is_an_end_to_members() {
        let many: Vec<Member> = (1..=MEMBERS as u64).map(|id| member(id, id as u8)).collect();
        let full = membership(&[&[1]], &many);
        assert!(matches!(step_of(&full, |_| 0, &MemberChange::Join(member(99, 99))), Step::Refuse(_)));
        assert_eq!(step_of(&full, |_| 0, &MemberChange::Join(member(99, 2))), Step::Learn, "in the place of one that is gone");
    }
}
