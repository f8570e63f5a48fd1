//! The storage nodes as this gateway knows them: who is there, how fast, and who was late.
//!
//! Not here: which node gets a shard (`spine::placement`), what the bytes are.

use spine::id::NodeId;
use spine::placement::Candidate;
use spine::wire::shard::{NodeState, NodeStatus, StorageNode};
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
    links: Vec<Arc<dyn StorageNode>>,
    view: Mutex<View>,
}

/// What was last seen.
struct View {
    at: Option<Instant>,
    all: Arc<Vec<Arc<Node>>>,
    candidates: Arc<Vec<Candidate>>,
    /// Identities whose disk was given to another one, not reported yet.
    replaced: Vec<NodeId>,
}

impl Nodes {
    pub fn new(links: Vec<Arc<dyn StorageNode>>) -> Nodes {
        let all = links.iter().map(node).collect();
        Nodes { links, view: Mutex::new(View { at: None, all: Arc::new(all), candidates: Arc::default(), replaced: Vec::new() }) }
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

    /// Identities that a disk gave up for another one, once: what they held has to be made again.
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
        if self.links.iter().zip(view.all.iter()).any(|(link, node)| link.id() != node.id) {
            let all: Vec<Arc<Node>> = self
                .links
                .iter()
                .zip(view.all.iter())
                .map(|(link, was)| if link.id() == was.id { was.clone() } else { node(link) })
                .collect();
            let gone: Vec<NodeId> = view.all.iter().map(|was| was.id).filter(|id| all.iter().all(|node| node.id != *id)).collect();
            view.replaced.extend(gone);
            view.all = Arc::new(all);
        }
        let zone: Arc<str> = "".into();
        view.candidates = Arc::new(view.all.iter().map(|node| candidate(node, &zone, node.link.status())).collect());
        view.at = Some(Instant::now());
    }
}

fn node(link: &Arc<dyn StorageNode>) -> Arc<Node> {
    Arc::new(Node { id: link.id(), machine: link.machine().into(), link: link.clone(), pace: Mutex::default() })
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
