//! What becomes of a node with too many strikes. Pure.
//!
//! Invariant: audits never suspend more nodes at a time than chunks may lose shards (`m`): an index that was restored from an older
//! point makes everybody look like a liar, and must not stop the fleet.

use super::seen::STRIKES;
use spine::id::NodeId;
use spine::wire::root::{FleetNodeRecord, FleetNodeState};

/// How a suspension for failed audits begins.
const REASON: &str = "audit: ";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sentence {
    Suspend,
    /// It is out already, or no node of the fleet.
    Out,
    /// As many as may be are suspended: this many.
    TooMany(usize),
}

/// Judges `node` of the fleet `nodes`, of which `most` may be suspended for their audits at a time.
pub(crate) fn sentence(nodes: &[FleetNodeRecord], node: NodeId, most: usize) -> Sentence {
    let takes_part = |known: &&FleetNodeRecord| matches!(known.state, FleetNodeState::Active | FleetNodeState::Draining);
    if nodes.iter().find(|known| known.id == node).filter(takes_part).is_none() {
        return Sentence::Out;
    }
    let suspended = nodes.iter().filter(|known| is_by_audit(&known.state)).count();
    if suspended >= most.max(1) { Sentence::TooMany(suspended) } else { Sentence::Suspend }
}

/// The state of a node that is suspended for its audits.
pub(crate) fn suspended() -> FleetNodeState {
    FleetNodeState::Suspended { reason: format!("{REASON}{STRIKES} answers in which it could not show what it took") }
}

/// Whether a node was suspended for its audits: repair empties it (`owe/`), however often the process starts again meanwhile.
pub(crate) fn is_by_audit(state: &FleetNodeState) -> bool {
    matches!(state, FleetNodeState::Suspended { reason } if reason.starts_with(REASON))
}
