//! Who the metadata nodes are: as the root group says, or, while nobody leads it, as this process remembers.
//!
//! Invariant: asking takes [`RECORDS_TIME`] at most, however the root group is.

use super::metadata::{ask_all, nodes};
use super::ranges::wrong_answer;
use super::server::Refused;
use crate::boot::credentials::root_query;
use crate::ops::operator::{Members, Operator};
use bytes::Bytes;
use spine::id::{GroupId, NodeId, UnixMs};
use spine::wire::cluster::{ClusterStatus, Endpoint, GroupStatus};
use spine::wire::root::{MetadataNodeRecord, RootAnswer, RootQuery};
use std::collections::BTreeSet;
use std::time::Duration;

const ROOT: GroupId = GroupId(0);
/// How long the root group may take to tell who there is.
const RECORDS_TIME: Duration = Duration::from_secs(5);

/// All metadata nodes, and what each says of itself.
pub(super) struct Roll {
    /// Of those that are remembered only, no more than id and address is true.
    pub records: Vec<MetadataNodeRecord>,
    /// Who is to leave.
    pub leaving: BTreeSet<NodeId>,
    /// Of all that were not removed: what they say, or why not.
    pub told: Vec<(Endpoint, Result<ClusterStatus, String>)>,
    /// Why the root group did not tell, and what to do; `None`: it did.
    pub trouble: Option<String>,
}

/// Asks the root group who is there, and then all of those side by side.
pub(super) async fn call(operator: &Operator, cluster: &dyn Members) -> Roll {
    let asked = tokio::time::timeout(RECORDS_TIME, async { tokio::join!(nodes(operator), leaving(operator)) }).await;
    let (records, leaving, unknown) = match asked {
        Ok((Ok(records), leaving)) => (records, leaving.unwrap_or_default(), None),
        Ok((Err(error), _)) => (remembered(cluster), BTreeSet::new(), Some(error.to_string())),
        Err(_) => (remembered(cluster), BTreeSet::new(), Some(format!("no answer within {} s", RECORDS_TIME.as_secs()))),
    };
    let told = ask_all(cluster, &records).await;
    let trouble = unknown.map(|reason| trouble(&told, &reason));
    Roll { records, leaving, told, trouble }
}

async fn leaving(operator: &Operator) -> Result<BTreeSet<NodeId>, Refused> {
    match root_query(operator.path.metadata(), RootQuery::LeavingMetadataNodes).await? {
        RootAnswer::LeavingMetadataNodes(nodes) => Ok(nodes.into_iter().collect()),
        _ => Err(wrong_answer()),
    }
}

fn remembered(cluster: &dyn Members) -> Vec<MetadataNodeRecord> {
    let unknown = UnixMs(0);
    let record = |at: Endpoint| MetadataNodeRecord {
        id: at.node,
        address: at.address,
        certificate: Bytes::new(),
        not_after: unknown,
        removed: false,
        admitted: unknown,
        changed: unknown,
    };
    cluster.known().into_iter().map(record).collect()
}

/// The root's group as one node sees it.
pub(super) fn root_of(status: &ClusterStatus) -> Option<&GroupStatus> {
    status.groups.iter().find(|group| group.group == ROOT)
}

/// One line: what is wrong with the root group, as far as those say that answer, and what to do.
fn trouble(told: &[(Endpoint, Result<ClusterStatus, String>)], reason: &str) -> String {
    let groups: Vec<&GroupStatus> = told.iter().filter_map(|(_, status)| status.as_ref().ok()).filter_map(root_of).collect();
    let newest = groups.iter().max_by_key(|group| group.term);
    let members = newest.map(|group| &group.members[..]).unwrap_or_default();
    let answers = |node: NodeId| told.iter().any(|(at, status)| at.node == node && status.is_ok());
    let voters: Vec<NodeId> = members.iter().filter(|known| known.votes).map(|known| known.member.at.node).collect();
    let there = voters.iter().filter(|node| answers(**node)).count();
    let leader = newest.and_then(|group| members.iter().find(|known| Some(known.member.id) == group.leader));
    match leader {
        // It answers, and still did not serve: it may not reach a majority.
        Some(leader) if answers(leader.member.at.node) && 2 * there > voters.len() => {
            let address = &leader.member.at.address;
            format!(
                "the root group is led by {address} and did not tell who there is ({reason}): what follows is what this gateway remembers; ask again"
            )
        }
        _ if voters.is_empty() => {
            let answering = told.iter().filter(|(_, status)| status.is_ok()).count();
            format!(
                "no metadata node leads the root group ({reason}): of {} that this gateway remembers {answering} answer, and none of them has the root group. Start those that are silent.",
                told.len()
            )
        }
        _ if 2 * there <= voters.len() => format!(
            "no metadata node leads the root group ({reason}): of {} that vote {there} answer, and it takes {}. Start those that are silent; where so many are lost for good, metadata is restored from a copy: see --found-again in the README.",
            voters.len(),
            voters.len() / 2 + 1,
        ),
        _ => format!(
            "no metadata node leads the root group ({reason}), though {there} of {} that vote answer: one is elected within seconds, so ask again; where it stays so, they do not reach each other, and their logs say why.",
            voters.len()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spine::id::MemberId;
    use spine::wire::cluster::{Member, MemberStatus};

    fn member(n: u8) -> Member {
        Member { id: MemberId(u64::from(n)), at: Endpoint { node: NodeId([n; 32]), address: format!("10.0.0.{n}:7500") } }
    }

    /// Of three that vote, what `n` says who answers, with this leader.
    fn says(n: u8, leader: Option<u8>) -> (Endpoint, Result<ClusterStatus, String>) {
        let members = (1..=3).map(|n| MemberStatus { member: member(n), votes: true, has: None }).collect();
        let leader = leader.map(|leader| member(leader).id);
        let root = GroupStatus { group: ROOT, leader, term: 4, last: 9, applied: 9, purged: 0, members };
        (member(n).at, Ok(ClusterStatus { member: member(n), groups: vec![root] }))
    }

    fn silent(n: u8) -> (Endpoint, Result<ClusterStatus, String>) {
        (member(n).at, Err("connecting failed".into()))
    }

    #[test]
    fn where_a_majority_is_silent_it_is_said_how_many_it_takes() {
        // The survivor may still take a dead one for the leader.
        for leader in [None, Some(2)] {
            let text = trouble(&[says(1, leader), silent(2), silent(3)], "no answer within 5 s");
            assert!(text.contains("of 3 that vote 1 answer, and it takes 2") && !text.contains('\n'), "{text}");
        }
    }

    #[test]
    fn where_enough_answer_and_none_leads_it_is_said_that_one_will() {
        let text = trouble(&[says(1, None), says(2, None), silent(3)], "no answer within 5 s");
        assert!(text.contains("2 of 3 that vote answer: one is elected"), "{text}");
    }

    #[test]
    fn a_leader_that_did_not_tell_is_named() {
        let text = trouble(&[says(1, Some(2)), says(2, Some(2)), silent(3)], "no answer within 5 s");
        assert!(text.contains("led by 10.0.0.2:7500"), "{text}");
    }

    #[test]
    fn where_all_are_silent_those_that_are_remembered_are_counted() {
        let text = trouble(&[silent(1), silent(2), silent(3)], "no answer within 5 s");
        assert!(text.contains("of 3 that this gateway remembers 0 answer"), "{text}");
    }
}
