//! The storage nodes as this gateway knows them: who is there, how fast, and who was late.
//!
//! Not here: which nodes there are (`roster.rs`), which of them gets a shard (`spine::placement`), what the bytes are.

use crate::owe::need::Standing;
use crate::roster::{Member, Roster};
use spine::id::NodeId;
use spine::placement::Candidate;
use spine::wire::shard::{NodeState, StorageNode};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long one answer about states and free bytes is used.
const FRESH: Duration = Duration::from_millis(50);
/// How long a node that was late is not waited for.
const LATE_FOR: Duration = Duration::from_secs(10);
/// Bounds of the delay after which a read asks for another shard.
const HEDGE_LEAST: Duration = Duration::from_millis(15);
const HEDGE_MOST: Duration = Duration::from_secs(2);

/// One node.
pub struct Node {
    pub id: NodeId,
    pub machine: Arc<str>,
    pub link: Arc<dyn StorageNode>,
    pace: Mutex<Pace>,
    /// Since when it does not answer, as far as it was looked at.
    away: Mutex<Option<Instant>>,
}

/// What rebalancing knows of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub node: NodeId,
    pub machine: Arc<str>,
    pub zone: Arc<str>,
    /// Bytes it offers.
    pub capacity: u64,
    /// It answers, and the operator neither empties nor suspends it.
    pub shares: bool,
    /// It may get shards now.
    pub takes: bool,
}

/// Read latency as mean and mean deviation, both exponentially forgetting (as TCP's round-trip timer), and lateness.
#[derive(Default)]
struct Pace {
    mean: f64,
    deviation: f64,
    late_until: Option<Instant>,
}

impl Node {
    /// Whether it serves reads, for all that is known.
    pub fn reachable(&self) -> bool {
        self.link.status().state != NodeState::Lost
    }

    /// Books how long a read took.
    pub fn took(&self, elapsed: Duration) {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        let sample = elapsed.as_secs_f64();
        if pace.mean == 0.0 {
            pace.mean = sample;
            pace.deviation = sample / 2.0;
        } else {
            pace.deviation += ((sample - pace.mean).abs() - pace.deviation) / 8.0;
            pace.mean += (sample - pace.mean) / 16.0;
        }
    }

    /// After this long a read is slow: beyond some 99 of 100 of this node's.
    pub fn hedge_after(&self) -> Duration {
        let pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        Duration::from_secs_f64(pace.mean + 4.0 * pace.deviation).clamp(HEDGE_LEAST, HEDGE_MOST)
    }

    /// It did not sync a shard in time: writes do not wait for it for a while.
    pub fn was_late(&self) {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner).late_until = Some(Instant::now() + LATE_FOR);
    }

    pub fn is_late(&self) -> bool {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner).late_until.is_some_and(|until| Instant::now() < until)
    }
}

/// All nodes of this gateway.
pub struct Nodes {
    roster: Roster,
    view: Mutex<View>,
}

/// What was last seen.
struct View {
    at: Option<Instant>,
    /// The list that `all` was made of, in the same order.
    members: Arc<Vec<Member>>,
    all: Arc<Vec<Arc<Node>>>,
    candidates: Arc<Vec<Candidate>>,
    /// Identities that were given up, not reported yet.
    replaced: Vec<NodeId>,
}

impl Nodes {
    pub fn new(roster: impl Into<Roster>) -> Nodes {
        let roster = roster.into();
        let members = roster.members();
        let all = members.iter().map(|member| node(&member.link)).collect();
        let view = View { at: None, members, all: Arc::new(all), candidates: Arc::default(), replaced: Vec::new() };
        Nodes { roster, view: Mutex::new(view) }
    }

    pub fn all(&self) -> Arc<Vec<Arc<Node>>> {
        self.view().all.clone()
    }

    /// The node of this identity. A handful of disks: looking through them is faster than hashing.
    pub fn get(&self, id: NodeId) -> Option<Arc<Node>> {
        self.view().all.iter().find(|node| node.id == id).cloned()
    }

    /// States and free bytes, at most [`FRESH`] old.
    pub fn candidates(&self) -> Arc<Vec<Candidate>> {
        self.view().candidates.clone()
    }

    /// How every node stands; one that has not answered for `patience` is away.
    pub(crate) fn standings(&self, patience: Duration) -> HashMap<NodeId, Standing> {
        let view = self.view();
        let stands = |(node, member): (&Arc<Node>, &Member)| {
            let away = *node.away.lock().unwrap_or_else(PoisonError::into_inner);
            let standing = match away {
                _ if member.distrusted => Standing::Lost,
                Some(since) if since.elapsed() >= patience && member.leaves => Standing::Lost,
                Some(since) if since.elapsed() >= patience => Standing::Away,
                Some(_) => Standing::Pauses,
                None if member.leaves => Standing::Leaves,
                None => Standing::Serves,
            };
            (node.id, standing)
        };
        view.all.iter().zip(view.members.iter()).map(stands).collect()
    }

    /// What rebalancing works with.
    pub fn held(&self) -> Vec<Held> {
        let view = self.view();
        let held = |(candidate, member): (&Candidate, &Member)| Held {
            node: candidate.node,
            machine: candidate.machine.clone(),
            zone: candidate.zone.clone(),
            capacity: candidate.capacity,
            shares: member.takes_shards && member.link.status().state != NodeState::Lost,
            takes: candidate.usable,
        };
        view.candidates.iter().zip(view.members.iter()).map(held).collect()
    }

    /// Identities that a disk gave up for another one, or that left the list, once: what they held has to be made again.
    pub fn take_replaced(&self) -> Vec<NodeId> {
        std::mem::take(&mut self.view().replaced)
    }

    fn view(&self) -> std::sync::MutexGuard<'_, View> {
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        if view.at.is_none_or(|at| at.elapsed() >= FRESH) {
            self.look_again(&mut view);
        }
        view
    }

    fn look_again(&self, view: &mut View) {
        let members = self.roster.members();
        let same = Arc::ptr_eq(&members, &view.members);
        if !same || members.iter().zip(view.all.iter()).any(|(member, node)| member.link.id() != node.id) {
            // A node that stays keeps what is known of its pace.
            let known = |link: &Arc<dyn StorageNode>| view.all.iter().find(|was| was.id == link.id() && Arc::ptr_eq(&was.link, link));
            let all: Vec<Arc<Node>> =
                members.iter().map(|member| known(&member.link).cloned().unwrap_or_else(|| node(&member.link))).collect();
            let gone: Vec<NodeId> = view.all.iter().map(|was| was.id).filter(|id| all.iter().all(|node| node.id != *id)).collect();
            view.replaced.extend(gone);
            view.all = Arc::new(all);
            view.members = members;
        }
        for node in view.all.iter() {
            let mut away = node.away.lock().unwrap_or_else(PoisonError::into_inner);
            *away = if node.reachable() { None } else { Some(away.unwrap_or_else(Instant::now)) };
        }
        let candidates = view.all.iter().zip(view.members.iter()).map(|(node, member)| candidate(node, member)).collect();
        view.candidates = Arc::new(candidates);
        view.at = Some(Instant::now());
    }
}

fn node(link: &Arc<dyn StorageNode>) -> Arc<Node> {
    Arc::new(Node { id: link.id(), machine: link.machine().into(), link: link.clone(), pace: Mutex::default(), away: Mutex::default() })
}

fn candidate(node: &Node, member: &Member) -> Candidate {
    let status = member.link.status();
    Candidate {
        node: node.id,
        machine: node.machine.clone(),
        zone: member.zone.clone(),
        free: status.free,
        capacity: status.capacity,
        usable: member.takes_shards && status.state == NodeState::Serving,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spine::wire::chunk::ShardName;
    use spine::wire::shard::{NodeError, NodeStatus, ShardHeader};

    struct Still(u8);

    #[async_trait::async_trait]
    impl StorageNode for Still {
        fn id(&self) -> NodeId {
            NodeId([self.0; 32])
        }

        fn machine(&self) -> String {
            self.0.to_string()
        }

        fn status(&self) -> NodeStatus {
            NodeStatus { state: NodeState::Serving, capacity: 2, free: 1, shards: 0, shard_bytes: 0, trash_bytes: 0 }
        }

        async fn put(&self, _: ShardHeader, _: bytes::Bytes) -> Result<(), NodeError> {
            Ok(())
        }

        async fn get(&self, _: ShardName) -> Result<(ShardHeader, bytes::Bytes), NodeError> {
            Err(NodeError::NotFound)
        }

        async fn has(&self, names: Vec<ShardName>) -> Result<Vec<bool>, NodeError> {
            Ok(vec![false; names.len()])
        }

        async fn trash(&self, _: Vec<ShardName>) -> Result<(), NodeError> {
            Ok(())
        }

        async fn list(&self, _: Option<ShardName>, _: usize) -> Result<Vec<(ShardName, u32)>, NodeError> {
            Ok(Vec::new())
        }
    }

    fn member(link: &Arc<dyn StorageNode>, zone: &str, takes_shards: bool) -> Member {
        Member { link: link.clone(), zone: zone.into(), takes_shards, leaves: false, distrusted: false }
    }

    #[test]
    fn a_changed_roster_is_followed_and_nodes_that_stay_keep_their_pace() {
        let links: Vec<Arc<dyn StorageNode>> = (1..=3).map(|id| Arc::new(Still(id)) as _).collect();
        let roster = Roster::default();
        roster.set(vec![member(&links[0], "a", true), member(&links[1], "b", true)]);
        let nodes = Nodes::new(roster.clone());
        nodes.get(NodeId([1; 32])).unwrap().was_late();
        roster.set(vec![member(&links[2], "c", true), member(&links[0], "a", false)]);
        std::thread::sleep(FRESH * 2);
        let seen: Vec<_> = nodes.candidates().iter().map(|c| (c.node.0[0], c.zone.to_string(), c.usable)).collect();
        assert_eq!(seen, [(3, "c".to_string(), true), (1, "a".to_string(), false)]);
        assert!(nodes.get(NodeId([1; 32])).unwrap().is_late());
        assert!(nodes.get(NodeId([2; 32])).is_none());
        assert_eq!(nodes.take_replaced(), [NodeId([2; 32])]);
        assert!(nodes.take_replaced().is_empty());
    }
}
