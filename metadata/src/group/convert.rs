//! openraft's words and the wire's.

use super::log::{bytes_of, entry_of};
use super::{LogId, Types};
use crate::format;
use crate::journal::Position;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use openraft::{BasicNode, CommittedLeaderId, Entry, EntryPayload, LeaderId, SnapshotMeta, StoredMembership, Vote};
use spine::id::{GroupId, MemberId};
use spine::wire::cluster::{Append, Appended, Ballot, LogEntry, LogPosition, Member, RequestVote, SnapshotEnd, Voted};
use spine::wire::format::{FIRST, Format};

pub fn ballot_of(vote: &Vote<u64>) -> Ballot {
    Ballot { term: vote.leader_id.term, member: MemberId(vote.leader_id.node_id), granted: vote.committed }
}

pub fn vote_of(ballot: &Ballot) -> Vote<u64> {
    Vote { leader_id: LeaderId::new(ballot.term, ballot.member.0), committed: ballot.granted }
}

pub fn position_of(id: &LogId) -> LogPosition {
    LogPosition { term: id.leader_id.term, member: MemberId(id.leader_id.node_id), index: id.index }
}

pub fn log_id_of(at: &LogPosition) -> LogId {
    LogId::new(CommittedLeaderId::new(at.term, at.member.0), at.index)
}

/// # Errors
/// A membership that does not encode, which none can.
pub fn append_of(group: GroupId, to: MemberId, request: AppendEntriesRequest<Types>) -> Result<Append, postcard::Error> {
    let mut entries = Vec::with_capacity(request.entries.len());
    for entry in &request.entries {
        entries.push(LogEntry { at: position_of(&entry.log_id), bytes: bytes_of(&entry.payload)? });
    }
    Ok(Append {
        group,
        to,
        ballot: ballot_of(&request.vote),
        previous: request.prev_log_id.as_ref().map(position_of),
        committed: request.leader_commit.as_ref().map(position_of),
        entries,
    })
}

/// # Errors
/// Says which entry does not read, or is out of its place.
pub fn append_request_of(append: Append) -> Result<AppendEntriesRequest<Types>, String> {
    let mut entries = Vec::with_capacity(append.entries.len());
    let mut next = append.previous.map_or(0, |previous| previous.index.saturating_add(1));
    for LogEntry { at, bytes } in append.entries {
        if at.index != next {
            return Err(format!("entry {} stands where {next} belongs", at.index));
        }
        next = next.saturating_add(1);
        entries.push(entry_of(Position { term: at.term, node: at.member.0, index: at.index }, &bytes)?);
    }
    Ok(AppendEntriesRequest {
        vote: vote_of(&append.ballot),
        prev_log_id: append.previous.as_ref().map(log_id_of),
        leader_commit: append.committed.as_ref().map(log_id_of),
        entries,
    })
}

pub fn appended_of(response: AppendEntriesResponse<u64>) -> Appended {
    match response {
        AppendEntriesResponse::Success => Appended::All,
        AppendEntriesResponse::PartialSuccess(upto) => Appended::Some(upto.as_ref().map(position_of)),
        AppendEntriesResponse::Conflict => Appended::Conflict,
        AppendEntriesResponse::HigherVote(vote) => Appended::HigherBallot(ballot_of(&vote)),
    }
}

pub fn append_response_of(appended: &Appended) -> AppendEntriesResponse<u64> {
    match appended {
        Appended::All => AppendEntriesResponse::Success,
        Appended::Some(upto) => AppendEntriesResponse::PartialSuccess(upto.as_ref().map(log_id_of)),
        Appended::Conflict => AppendEntriesResponse::Conflict,
        Appended::HigherBallot(ballot) => AppendEntriesResponse::HigherVote(vote_of(ballot)),
    }
}

pub fn request_vote_of(group: GroupId, to: MemberId, request: &VoteRequest<u64>) -> RequestVote {
    RequestVote { group, to, ballot: ballot_of(&request.vote), last: request.last_log_id.as_ref().map(position_of) }
}

pub fn vote_request_of(request: &RequestVote) -> VoteRequest<u64> {
    VoteRequest { vote: vote_of(&request.ballot), last_log_id: request.last.as_ref().map(log_id_of) }
}

pub fn voted_of(response: &VoteResponse<u64>) -> Voted {
    Voted { ballot: ballot_of(&response.vote), granted: response.vote_granted, last: response.last_log_id.as_ref().map(position_of) }
}

pub fn vote_response_of(voted: &Voted) -> VoteResponse<u64> {
    VoteResponse { vote: vote_of(&voted.ballot), vote_granted: voted.granted, last_log_id: voted.last.as_ref().map(log_id_of) }
}

/// - `format`: of the group in it.
///
/// # Errors
/// A membership that does not encode, which none can.
pub fn end_of(meta: &SnapshotMeta<u64, BasicNode>, format: Format, rows: u64, digest: [u8; 32]) -> Result<SnapshotEnd, postcard::Error> {
    let membership = bytes_of(&EntryPayload::Membership(meta.last_membership.membership().clone()))?;
    Ok(SnapshotEnd {
        last: meta.last_log_id.as_ref().map(position_of),
        membership: if format == FIRST { membership } else { [format::entry(format), membership].concat().into() },
        membership_at: meta.last_membership.log_id().as_ref().map(position_of),
        name: meta.snapshot_id.clone(),
        rows,
        digest,
    })
}

/// What a snapshot is of, and the format of the group in it.
///
/// # Errors
/// The membership does not read.
pub fn meta_of(end: &SnapshotEnd) -> Result<(SnapshotMeta<u64, BasicNode>, Format), String> {
    let head = end.membership.get(..2).and_then(format::raised_by);
    let membership = if head.is_some() { end.membership.slice(2..) } else { end.membership.clone() };
    let entry: Entry<Types> = entry_of(Position::default(), &membership)?;
    let EntryPayload::Membership(membership) = entry.payload else { return Err("the membership is none".to_string()) };
    let meta = SnapshotMeta {
        last_log_id: end.last.as_ref().map(log_id_of),
        last_membership: StoredMembership::new(end.membership_at.as_ref().map(log_id_of), membership),
        snapshot_id: end.name.clone(),
    };
    Ok((meta, head.unwrap_or(FIRST)))
}

/// The member that openraft knows as `id` and `node`; `None`: it is alone and has no address.
pub fn member_of(id: u64, node: &BasicNode) -> Option<Member> {
    Some(Member { id: MemberId(id), at: node.addr.parse().ok()? })
}

pub fn node_of(member: &Member) -> BasicNode {
    BasicNode::new(member.at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use openraft::Membership;
    use spine::wire::format::NEWEST;
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn a_snapshot_of_a_raised_group_says_so_and_does_not_read_to_who_knows_no_formats() {
        let nodes = BTreeMap::from([(1, BasicNode::new("a")), (2, BasicNode::new("b"))]);
        let membership = Membership::new(vec![BTreeSet::from([1, 2])], nodes);
        let last_membership = StoredMembership::new(None, membership);
        let meta = SnapshotMeta { last_log_id: None, last_membership, snapshot_id: "x".to_string() };
        for format in [FIRST, NEWEST] {
            let end = end_of(&meta, format, 7, [1; 32]).unwrap();
            assert_eq!(meta_of(&end), Ok((meta.clone(), format)));
            // What a version without formats does with it.
            assert_eq!(entry_of(Position::default(), &end.membership).is_ok(), format == FIRST);
        }
    }
}
