//! Who is there, by what processes say of their groups. Pure.
//!
//! Not here: asking them, and what is made of it (`client.rs`).

use crate::root::map::ROOT;
use spine::id::{GroupId, MemberId};
use spine::wire::cluster::{ClusterStatus, Endpoint, GroupStatus};
use std::collections::BTreeMap;

/// Who is there by what processes say.
pub struct Told {
    pub members: Vec<Endpoint>,
    /// How much of the root's log whoever is believed has applied.
    pub applied: u64,
    /// Whether a majority of the root's voters say the same of who leads them.
    pub by_majority: bool,
}

/// Who is there, as far as anybody can be believed.
///
/// Of the root's group, a majority of its voters who agree are believed, else who has applied most: one that is out of it shows for ever what
/// it was told last, under a term that rises as it stands for election. Of another group, who leads it: its members may be out of the root's
/// group already.
pub fn members_of(told: &[ClusterStatus]) -> Option<Told> {
    let leads = |status: &ClusterStatus, group: &GroupStatus| group.leader == Some(status.member.id);
    let all = || told.iter().flat_map(|status| status.groups.iter().map(move |group| (status, group)));
    let roots = || all().filter(|(_, group)| group.group == ROOT && !group.members.is_empty());
    let by_majority = |root: &GroupStatus| {
        let voters: Vec<MemberId> = root.members.iter().filter(|known| known.votes).map(|known| known.member.id).collect();
        let agrees = |(status, group): &(&ClusterStatus, &GroupStatus)| {
            voters.contains(&status.member.id) && group.leader.is_some() && (group.leader, group.term) == (root.leader, root.term)
        };
        2 * roots().filter(agrees).count() > voters.len()
    };
    let (_, root) = roots().max_by_key(|(status, group)| (by_majority(group), group.applied, leads(status, group)))?;
    let mut led = BTreeMap::<GroupId, &GroupStatus>::new();
    for (_, group) in all().filter(|(status, group)| group.group != ROOT && leads(status, group)) {
        if led.get(&group.group).is_none_or(|known| known.term < group.term) {
            led.insert(group.group, group);
        }
    }
    let members = led.into_values().chain([root]).flat_map(|group| &group.members).map(|known| known.member.at.clone());
    Some(Told { members: members.collect(), applied: root.applied, by_majority: by_majority(root) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use spine::id::NodeId;
    use spine::wire::cluster::{Member, MemberStatus};
    use std::collections::BTreeSet;

    fn member(n: u8) -> Member {
        Member { id: MemberId(u64::from(n)), at: Endpoint { node: NodeId([n; 32]), address: format!("host{n}:1") } }
    }

    /// What a process says of one group: who leads it, its term, what it has applied, and its members.
    fn says(n: u8, group: u32, leader: Option<u8>, term: u64, applied: u64, members: &[u8]) -> ClusterStatus {
        let members = members.iter().map(|n| MemberStatus { member: member(*n), votes: true, has: None });
        let leader = leader.map(|n| MemberId(u64::from(n)));
        let group = GroupStatus { group: GroupId(group), leader, term, last: applied, applied, purged: 0, members: members.collect() };
        ClusterStatus { member: member(n), groups: vec![group] }
    }

    #[test]
    fn of_the_root_who_has_applied_most_is_believed_and_of_other_groups_who_leads_them() {
        let of = |told: &[ClusterStatus]| -> Option<(u64, BTreeSet<u8>)> {
            members_of(told).map(|told| (told.applied, told.members.iter().map(|endpoint| endpoint.node.0[0]).collect()))
        };
        // The first is out, and stands for election again and again.
        let out = says(1, 0, None, 900, 50, &[1, 2, 3]);
        let rest = [says(2, 0, Some(2), 7, 80, &[2, 3, 4]), says(3, 0, Some(2), 7, 79, &[2, 3]), says(4, 0, Some(2), 7, 10, &[])];
        assert_eq!(of(&[&[out.clone()][..], &rest].concat()), Some((80, [2, 3, 4].into())));
        // It still leads a group; somebody else thinks so too, who did once.
        let led = [says(1, 6, Some(1), 4, 9, &[1, 2]), says(2, 6, Some(2), 3, 9, &[2, 9]), says(3, 8, Some(5), 3, 9, &[5])];
        assert_eq!(of(&[&rest[..], &led].concat()), Some((80, [1, 2, 3, 4].into())));
        assert_eq!((of(&led), of(&[])), (None, None), "nobody knows the root's members");
        // Metadata was restored on others: its log began again, and somebody of before is still there.
        let again = [says(5, 0, Some(5), 2, 6, &[5, 6, 7]), says(6, 0, Some(5), 2, 5, &[5, 6, 7])];
        assert_eq!(of(&[&[out.clone()][..], &again].concat()), Some((6, [5, 6, 7].into())));
        assert_eq!(of(&[out, again[0].clone()]), Some((50, [1, 2, 3].into())), "one of three is no majority");
    }
}
