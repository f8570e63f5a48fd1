//! What was found wrong with placed shards, on its way to repair.
//!
//! Not here: making a shard again (`owe.rs`), what it costs the node (`audit/seen.rs`).

use spine::id::NodeId;
use spine::wire::chunk::ShardName;
use tokio::sync::mpsc;

/// Reports kept until the worker takes them; more are dropped, since the next read finds the same.
const REPORTS: usize = 1_024;

/// What a read found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Other bytes than were stored, or not as many.
    WrongRoot,
    /// The node says that it does not have it.
    Missing,
    /// The node says that it found its bytes wrong.
    Damaged,
}

impl Fault {
    /// As logs and metrics have it.
    pub fn word(self) -> &'static str {
        match self {
            Fault::WrongRoot => "wrong_root",
            Fault::Missing => "missing",
            Fault::Damaged => "damaged",
        }
    }
}

/// Who found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finder {
    /// A read, for a client or for repair: the node was asked for bytes that it has acknowledged, and this was wrong.
    Read(Fault),
    /// A question of an audit, which counts it by itself.
    Audit,
    /// The node, asked whether it has what is placed on it.
    Survey,
    /// The node's own scrub.
    Scrub,
}

impl Finder {
    /// As the log has it.
    fn word(self) -> &'static str {
        match self {
            Finder::Read(fault) => fault.word(),
            Finder::Audit => "audit",
            Finder::Survey => "absent",
            Finder::Scrub => "scrub",
        }
    }
}

/// A shard that is missing or not what was stored, and the node that should have it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Report {
    pub shard: ShardName,
    pub node: NodeId,
    pub finder: Finder,
}

/// Where everybody leaves what was found wrong.
pub(crate) struct Damage {
    reports: mpsc::Sender<Report>,
}

impl Damage {
    pub fn new() -> (Damage, mpsc::Receiver<Report>) {
        let (reports, received) = mpsc::channel(REPORTS);
        (Damage { reports }, received)
    }

    /// A placed shard is missing or not what was stored.
    pub fn report(&self, shard: ShardName, node: NodeId, finder: Finder) {
        tracing::warn!(chunk = %shard.chunk, index = %shard.index, %node, fault = finder.word(), "a shard has to be made again");
        let _ = self.reports.try_send(Report { shard, node, finder });
    }
}
