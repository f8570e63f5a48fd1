//! openraft's words and the wire's.

use super::log::{bytes_of, entry_of};
use super::{LogId, Types};
use crate::journal::Position;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use openraft::{BasicNode, CommittedLeaderId, Entry, EntryPayload, LeaderId, SnapshotMeta, StoredMembership, Vote};
use spine::id::{GroupId, MemberId};
use spine::wire::cluster::{Append, Appended, Ballot, LogEntry, LogPosition, Member, RequestVote, SnapshotEnd, Voted};

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

/// # Errors
/// A membership that does not encode, which none can.
pub fn end_of(meta: &SnapshotMeta<u64, BasicNode>, rows: u64, digest: [u8; 32]) -> Result<SnapshotEnd, postcard::Error> {
    Ok(SnapshotEnd {
        last: meta.last_log_id.as_ref().map(position_of),
        membership: bytes_of(&EntryPayload::Membership(meta.last_membership.membership().clone()))?,
        membership_at: meta.last_membership.log_id().as_ref().map(position_of),
        name: meta.snapshot_id.clone(),
        rows,
        digest,
    })
}

/// # Errors
/// The membership does not read.
pub fn meta_of(end: &SnapshotEnd) -> Result<SnapshotMeta<u64, BasicNode>, String> {
    let entry: Entry<Types> = entry_of(Position::default(), &end.membership)?;
    let EntryPayload::Membership(membership) = entry.payload else { return Err("the membership is none".to_string()) };
    Ok(SnapshotMeta {
        last_log_id: end.last.as_ref().map(log_id_of),
        last_membership: StoredMembership::new(end.membership_at.as_ref().map(log_id_of), membership),
        snapshot_id: end.name.clone(),
    })
}

/// The member that openraft knows as `id` and `node`; `None`: it is alone and has no address.
pub fn member_of(id: u64, node: &BasicNode) -> Option<Member> {
    Some(Member { id: MemberId(id), at: node.addr.parse().ok()? })
}

pub fn node_of(member: &Member) -> BasicNode {
    BasicNode::new(member.at.to_string())
}
