//! The storage nodes as this gateway knows them: who is there, how fast, and who was late.
//!
//! Not here: which node gets a shard (`spine::placement`), what the bytes are.

use spine::id::NodeId;
use spine::placement::Candidate;
use spine::wire::shard::{NodeState, NodeStatus, StorageNode};
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
    all: Vec<Arc<Node>>,
    by_id: HashMap<NodeId, Arc<Node>>,
    candidates: Mutex<Option<(Instant, Arc<Vec<Candidate>>)>>,
}

impl Nodes {
    pub fn new(links: Vec<Arc<dyn StorageNode>>) -> Nodes {
        let all: Vec<Arc<Node>> = links
            .into_iter()
            .map(|link| Arc::new(Node { id: link.id(), machine: link.machine().into(), link, pace: Mutex::default() }))
            .collect();
        let by_id = all.iter().map(|node| (node.id, node.clone())).collect();
        Nodes { all, by_id, candidates: Mutex::new(None) }
    }

    pub fn all(&self) -> &[Arc<Node>] {
        &self.all
    }

    pub fn get(&self, id: NodeId) -> Option<&Arc<Node>> {
        self.by_id.get(&id)
    }

    /// States and free bytes, at most [`FRESH`] old.
    pub fn candidates(&self) -> Arc<Vec<Candidate>> {
        let mut cached = self.candidates.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, candidates)) = cached.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return candidates.clone();
        }
        let zone: Arc<str> = "".into();
        let candidates: Arc<Vec<Candidate>> = Arc::new(self.all.iter().map(|node| candidate(node, &zone, node.link.status())).collect());
        *cached = Some((Instant::now(), candidates.clone()));
        candidates
    }
}

fn candidate(node: &Node, zone: &Arc<str>, status: NodeStatus) -> Candidate {
    Candidate {
        node: node.id,
        machine: node.machine.clone(),
        zone: zone.clone(),
        free: status.free,
        capacity: status.capacity,
        usable: status.state == NodeState::Serving,
    }
}
