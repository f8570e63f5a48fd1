//! What reads found wrong, on its way to repair.
//!
//! Not here: making a shard again (`owe.rs`).

use spine::id::NodeId;
use spine::wire::chunk::ShardName;
use tokio::sync::mpsc;

/// Reports kept until the worker takes them; more are dropped, since the next read finds the same.
const REPORTS: usize = 1_024;
/// Where reads leave what they found wrong.
pub(crate) struct Damage {
    reports: mpsc::Sender<(ShardName, NodeId)>,
}

impl Damage {
    pub fn new() -> (Damage, mpsc::Receiver<(ShardName, NodeId)>) {
        let (reports, received) = mpsc::channel(REPORTS);
        (Damage { reports }, received)
    }

    /// A placed shard is missing or not what was stored.
    pub fn report(&self, shard: ShardName, node: NodeId, fault: &'static str) {
        tracing::warn!(chunk = %shard.chunk, index = %shard.index, %node, fault, "a shard has to be made again");
        let _ = self.reports.try_send((shard, node));
    }
}
