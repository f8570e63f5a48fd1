//! How far a group's replicas are behind, and whether anybody leads it: what is worth an alert, by what this process knows.

use super::Group;
use openraft::{BasicNode, RaftMetrics};

/// A leader that no majority has answered for so long leads nobody any more; the others have elected another one by then, if they can.
const UNHEARD_MS: u64 = 5_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    /// Entries of the log that this process has not applied; where it leads, or that another member is not known to have, of whoever lacks
    /// most.
    pub behind: u64,
    /// Somebody leads, and if that is this process, a majority has answered it lately.
    pub led: bool,
}

impl Group {
    /// Of a group that does not count this process, as one that it only has room for, nothing is known: that lacks nothing.
    pub fn lag(&self) -> Lag {
        lag_of(&self.raft.metrics().borrow(), self.applied_index())
    }
}

/// - `applied`: the last entry that this process has applied.
fn lag_of(metrics: &RaftMetrics<u64, BasicNode>, applied: u64) -> Lag {
    if metrics.membership_config.membership().get_node(&metrics.id).is_none() {
        return Lag { behind: 0, led: true };
    }
    let last = metrics.last_log_index.unwrap_or(0);
    let others = metrics.replication.iter().flatten().filter(|(id, _)| **id != metrics.id);
    let lacks = others.map(|(_, has)| last.saturating_sub(has.map_or(0, |has| has.index)));
    let behind = lacks.chain([last.saturating_sub(applied)]).max().unwrap_or(0);
    let led = match metrics.current_leader {
        Some(leader) if leader == metrics.id => metrics.millis_since_quorum_ack.is_some_and(|unheard| unheard < UNHEARD_MS),
        other => other.is_some(),
    };
    Lag { behind, led: led && metrics.running_state.is_ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use openraft::{CommittedLeaderId, LogId, Membership, StoredMembership};
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    /// The first of three members, which has a hundred entries.
    fn one_of_three() -> RaftMetrics<u64, BasicNode> {
        let nodes: BTreeMap<u64, BasicNode> = (1..=3).map(|id| (id, BasicNode::default())).collect();
        let membership = Membership::new(vec![BTreeSet::from([1, 2, 3])], nodes);
        RaftMetrics {
            last_log_index: Some(100),
            membership_config: Arc::new(StoredMembership::new(None, membership)),
            ..RaftMetrics::new_initial(1)
        }
    }

    fn at(index: u64) -> Option<LogId<u64>> {
        Some(LogId::new(CommittedLeaderId::new(1, 1), index))
    }

    #[test]
    fn a_leader_tells_of_the_member_that_lacks_most_and_a_follower_of_itself() {
        let follows = RaftMetrics { current_leader: Some(2), ..one_of_three() };
        assert_eq!(lag_of(&follows, 90), Lag { behind: 10, led: true });
        let leads = RaftMetrics { current_leader: Some(1), millis_since_quorum_ack: Some(300), ..one_of_three() };
        let replication = |second, third| Some(BTreeMap::from([(1, at(100)), (2, second), (3, third)]));
        assert_eq!(lag_of(&RaftMetrics { replication: replication(at(98), at(40)), ..leads.clone() }, 100), Lag { behind: 60, led: true });
        // Of one that never answered this leader it is not known that it has anything.
        assert_eq!(lag_of(&RaftMetrics { replication: replication(at(98), None), ..leads }, 100).behind, 100);
    }

    #[test]
    fn nobody_leads_without_a_leader_or_where_the_leader_hears_of_no_majority() {
        assert!(!lag_of(&one_of_three(), 100).led);
        let leads = |unheard| RaftMetrics { current_leader: Some(1), millis_since_quorum_ack: unheard, ..one_of_three() };
        assert!(lag_of(&leads(Some(4_999)), 100).led);
        assert!(!lag_of(&leads(Some(5_000)), 100).led);
        assert!(!lag_of(&leads(None), 100).led, "elected, and heard of nobody since");
    }

    #[test]
    fn a_group_that_does_not_count_this_process_is_nothing_to_worry_about() {
        let stranger = RaftMetrics { last_log_index: Some(100), ..RaftMetrics::new_initial(9) };
        assert_eq!(lag_of(&stranger, 0), Lag { behind: 0, led: true });
    }
}
