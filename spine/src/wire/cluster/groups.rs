//! What processes tell each other about groups as a whole: making and ending them, handing leadership over, signs of life of many at once.

use super::{Append, Appended, ClusterError, Endpoint, LogPosition, Member};
use crate::id::{GroupId, MemberId};
use crate::limit::{GROUPS, MEMBERS};
use serde::{Deserialize, Serialize};

/// What a process is to do about one of its groups. Each can be asked for again: it goes on where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupOrder {
    /// Makes a new group of these members, all of whom vote, and answers once one of them leads. The first of them is the process that is
    /// asked; asked again later, any of them may be first, as long as they are the same. The root group gives the numbers, each once.
    Create { members: Vec<Member> },
    /// Makes room for a group that others have or are about to make: it knows nothing and waits for them.
    Host,
    /// Lets go of the log and table of a group that has ended.
    Remove,
    /// The leader is to hand over to this voter. Proposals and queries wait meanwhile.
    Transfer { to: MemberId },
    /// Between members, the end of `Transfer`: the others have let go of the old leader, and this one stands now.
    Stand,
    /// Makes room for the group and asks its leader to take this process in; answers once it votes. `Unavailable` while it learns.
    Enter { leader: Endpoint },
    /// Lets go of the group's log and table: the process is no member as of this entry of the log. `Unavailable` if it has a later one by
    /// which it is one again.
    LetGo { since: LogPosition },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupCall {
    pub group: GroupId,
    pub order: GroupOrder,
}

/// It is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupDone {
    /// Who leads the group now, as far as the process knows.
    pub leader: Option<MemberId>,
}

/// Appends without entries of any number of groups: signs of life, and rounds of reads. At most [`GROUPS`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beats(pub Vec<Append>);

/// Appends with entries of different groups, which share one message and, at the receiver, one sync. At most [`super::APPENDS`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appends(pub Vec<Append>);

/// What became of each, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beaten(pub Vec<Result<Appended, ClusterError>>);

impl GroupCall {
    /// Whether only members of the groups may ask this.
    pub fn is_for_members(&self) -> bool {
        matches!(self.order, GroupOrder::Stand)
    }

    /// Whether it can be: bounded, no member twice, and not the root group, which is made with a cluster and ends with it.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.group == GroupId(0) && !matches!(self.order, GroupOrder::Transfer { .. } | GroupOrder::Stand) {
            return Err("the root group is made with its cluster and never removed");
        }
        let GroupOrder::Create { members } = &self.order else { return Ok(()) };
        if members.is_empty() || members.len() > MEMBERS {
            return Err("a group has one member at least, and no more than it may");
        }
        let twice = |n: usize, member: &Member| members[..n].iter().any(|other| other.id == member.id || other.at.node == member.at.node);
        if members.iter().enumerate().any(|(n, member)| twice(n, member)) {
            return Err("a member is named twice");
        }
        Ok(())
    }
}

impl Appends {
    /// Whether there are no more than a message may have; how long each is, the whole message's bound says.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.0.len() <= super::APPENDS { Ok(()) } else { Err("one message has so many appends") }
    }
}

impl Beats {
    /// Whether there are no more than a message may have, and no entries in any.
    pub fn check(&self) -> Result<(), &'static str> {
        match self.0.len() <= GROUPS && self.0.iter().all(|append| append.entries.is_empty()) {
            true => Ok(()),
            false => Err("signs of life have no entries, and one message has so many of them"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::NodeId;

    fn member(id: u64, key: u8) -> Member {
        Member { id: MemberId(id), at: Endpoint { node: NodeId([key; 32]), address: "host:1".into() } }
    }

    #[test]
    fn a_group_is_made_of_different_members_and_never_the_root_group() {
        let create = |group: u32, members: Vec<Member>| GroupCall { group: GroupId(group), order: GroupOrder::Create { members } }.check();
        assert_eq!(create(1, vec![member(1, 1), member(2, 2)]), Ok(()));
        for (group, members) in [
            (0, vec![member(1, 1)]),
            (1, Vec::new()),
            (1, vec![member(1, 1), member(1, 2)]),
            (1, vec![member(1, 1), member(2, 1)]),
            (1, (0..=MEMBERS as u64).map(|id| member(id, id as u8)).collect()),
        ] {
            assert!(create(group, members).is_err());
        }
        assert!(GroupCall { group: GroupId(0), order: GroupOrder::Remove }.check().is_err());
        assert!(GroupCall { group: GroupId(0), order: GroupOrder::Transfer { to: MemberId(1) } }.check().is_ok());
    }
}
