//! Loads and placement as the balancer sees them, and what one step does to them.

use super::load::Load;
use super::slice::{Cut, Slice};
use spine::id::{GroupId, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// A group: a subtree of the namespace, or a range of chunks.
#[derive(Clone, Debug, PartialEq)]
pub struct Subtree {
    pub id: GroupId,
    /// The group whose range begins where this one's ends, in the same space.
    pub next: Option<GroupId>,
    pub leader: NodeId,
    /// The leader among them.
    pub replicas: Vec<NodeId>,
    /// What it costs its leader a second.
    pub lead: Load,
    /// What it costs each other replica a second.
    pub follow: Load,
    /// Bytes of its table: what a new replica is sent.
    pub bytes: u64,
    /// Where it may be split; empty or one: nowhere. A server need not say it of groups that are cold.
    pub slices: Vec<Slice>,
    /// It is led where it is and its replicas stay: the root's group. What it has may be given away.
    pub stays: bool,
}

/// All of it, at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cluster {
    /// Servers that live, and what each can bear a second. One that is not here gives and takes nothing.
    pub servers: BTreeMap<NodeId, Load>,
    /// Each id once.
    pub groups: Vec<Subtree>,
    /// Ids from here on were never a group's.
    pub unused: GroupId,
    /// What takes part in something that the balancer did not begin, and is left alone.
    pub busy: Busy,
}

/// Groups and servers that are left alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Busy {
    pub groups: BTreeSet<GroupId>,
    pub servers: BTreeSet<NodeId>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Leadership goes to a replica.
    Lead { group: GroupId, from: NodeId, to: NodeId },
    /// What sorts from `at` on becomes `new`, on the same servers, led by `to`. The rest stays as it is.
    Split { group: GroupId, at: Cut, new: GroupId, from: NodeId, to: NodeId },
    /// `to` becomes a replica in place of `from`, and leads if that led. `source` leads now and sends the copy.
    Replica { group: GroupId, from: NodeId, to: NodeId, source: NodeId, bytes: u64 },
    /// `right`, whose range comes next and whose replicas are the same, becomes part of `left`.
    Merge { left: GroupId, right: GroupId, from: NodeId, to: NodeId },
}

impl Step {
    /// The server that is relieved, and the one that bears more. The same in a merge of what one server leads.
    pub fn servers(&self) -> (NodeId, NodeId) {
        match self {
            Step::Lead { from, to, .. } | Step::Split { from, to, .. } | Step::Replica { from, to, .. } | Step::Merge { from, to, .. } => {
                (*from, *to)
            }
        }
    }

    /// Whether a server has work of it.
    pub fn involves(&self, server: NodeId) -> bool {
        let (from, to) = self.servers();
        from == server || to == server || matches!(self, Step::Replica { source, .. } if *source == server)
    }

    /// Groups that nobody may touch until it is done.
    pub fn groups(&self) -> Vec<GroupId> {
        match self {
            Step::Lead { group, .. } | Step::Replica { group, .. } => vec![*group],
            Step::Split { group, new, .. } => vec![*group, *new],
            Step::Merge { left, right, .. } => vec![*left, *right],
        }
    }

    /// What lies on another server than before, once it is done.
    pub fn moved(&self) -> Option<GroupId> {
        match self {
            Step::Lead { group, .. } | Step::Replica { group, .. } => Some(*group),
            Step::Split { new, .. } => Some(*new),
            Step::Merge { left, from, to, .. } => (from != to).then_some(*left),
        }
    }
}

/// What each server bears, and would bear.
pub(super) struct Scale<'a> {
    cluster: &'a Cluster,
    borne: BTreeMap<NodeId, Load>,
}

impl<'a> Scale<'a> {
    pub fn new(cluster: &'a Cluster) -> Self {
        let mut borne: BTreeMap<NodeId, Load> = cluster.servers.keys().map(|&server| (server, Load::default())).collect();
        for group in &cluster.groups {
            for replica in &group.replicas {
                let cost = if *replica == group.leader { group.lead } else { group.follow };
                if let Some(load) = borne.get_mut(replica) {
                    *load = *load + cost;
                }
            }
        }
        Scale { cluster, borne }
    }

    /// Pressure of a server; `None`: it is not there.
    pub fn of(&self, server: NodeId) -> Option<f64> {
        self.with(server, Load::default())
    }

    /// Its pressure if it bore this as well.
    pub fn with(&self, server: NodeId, more: Load) -> Option<f64> {
        let capacity = self.cluster.servers.get(&server)?;
        self.borne.get(&server).map(|load| (*load + more).pressure(capacity))
    }

    pub fn mean(&self) -> f64 {
        self.all().map(|(_, pressure)| pressure).sum::<f64>() / self.borne.len().max(1) as f64
    }

    pub fn all(&self) -> impl Iterator<Item = (NodeId, f64)> {
        self.borne.keys().filter_map(|&server| Some((server, self.of(server)?)))
    }

    /// Takes `load` from one server and puts it on the other.
    pub fn shift(&mut self, from: NodeId, to: NodeId, load: Load) {
        if let Some(borne) = self.borne.get_mut(&from) {
            *borne = *borne - load;
        }
        if let Some(borne) = self.borne.get_mut(&to) {
            *borne = *borne + load;
        }
    }
}
