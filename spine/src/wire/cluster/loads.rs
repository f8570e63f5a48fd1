//! What a metadata process bears, as it measures it itself: for whoever levels the processes out, and for operators.
//!
//! Rates are of the last seconds, and whole numbers in units so small that nothing is lost. Invariant: however many groups there are and
//! however long their names, an answer is bounded; what is left out first is where cold groups could be cut.

use super::Member;
use crate::id::{BucketId, ChunkId, GroupId};
use crate::limit::{CUTS, GROUPS, HOTTEST, MEMBERS};
use crate::map::NamePoint;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Work a second, or what a process can do a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Thousandths of a command or a query.
    pub milli_ops: u64,
    /// Bytes written to logs and sent.
    pub bytes: u64,
    /// Microseconds of one core.
    pub cpu_micros: u64,
}

/// A place to cut a group's range at: what sorts from here on goes. At the range's start all of it goes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Cut {
    Names(NamePoint),
    Chunks(ChunkId),
}

/// What lies between this cut and the next one, or the end of the group's range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeatSlice {
    pub from: Cut,
    /// Hits, thousandths, a second.
    pub heat: u64,
}

/// A directory with the hits on all keys below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HotDirectory {
    pub bucket: BucketId,
    /// Ends with `/`, or is empty for the bucket itself.
    pub directory: Bytes,
    /// Hits, thousandths, a second: at least so many.
    pub heat: u64,
}

/// A group as one of its members bears it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupLoad {
    pub group: GroupId,
    pub term: u64,
    /// The one who answers leads it. Who does not leaves empty what comes after `table_bytes`.
    pub leads: bool,
    /// What it costs here.
    pub work: Work,
    /// Bytes of its table, up to the highest page.
    pub table_bytes: u64,
    pub voters: Vec<Member>,
    /// Somebody learns, or the voters are about to change.
    pub changes: bool,
    /// In order. The first has besides its own what cannot be given away at any of the cuts; none where the group is cold.
    pub slices: Vec<HeatSlice>,
    /// Hottest first.
    pub hottest: Vec<HotDirectory>,
}

/// Everything that one process bears.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loads {
    pub member: Member,
    /// What it can do.
    pub capacity: Work,
    pub groups: Vec<GroupLoad>,
}

impl Loads {
    /// Whether there is no more of anything than there may be, and no group twice.
    pub fn is_bounded(&self) -> bool {
        let fits = |group: &GroupLoad| group.voters.len() <= MEMBERS && group.slices.len() <= CUTS && group.hottest.len() <= HOTTEST;
        self.groups.len() <= GROUPS && self.groups.iter().all(fits) && self.groups.windows(2).all(|pair| pair[0].group < pair[1].group)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Endpoint;
    use super::*;
    use crate::id::{MemberId, NodeId};

    #[test]
    fn loads_with_more_than_there_may_be_or_a_group_twice_are_not_bounded() {
        let member = Member { id: MemberId(1), at: Endpoint { node: NodeId([1; 32]), address: "host:1".into() } };
        let group = |number: u32, slices: usize| GroupLoad {
            group: GroupId(number),
            term: 1,
            leads: true,
            work: Work::default(),
            table_bytes: 0,
            voters: vec![member.clone()],
            changes: false,
            slices: vec![HeatSlice { from: Cut::Chunks(ChunkId([0; 32])), heat: 1 }; slices],
            hottest: Vec::new(),
        };
        let bounded = |groups| Loads { member: member.clone(), capacity: Work::default(), groups }.is_bounded();
        assert!(bounded(vec![group(0, CUTS), group(1, 0)]));
        assert!(!bounded(vec![group(0, CUTS + 1)]));
        assert!(!bounded(vec![group(1, 0), group(1, 0)]));
        assert!(!bounded((0..=GROUPS as u32).map(|number| group(number, 0)).collect()));
    }
}
