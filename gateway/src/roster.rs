//! Who the storage nodes are, as whoever composes the process says it: a fixed list, or a fleet's that changes while it is used.
//!
//! Not here: how a node does (`nodes.rs`), how a fleet's list is kept up to date (`fleet/`).

use spine::wire::shard::StorageNode;
use std::sync::{Arc, PoisonError, RwLock};

/// One node.
#[derive(Clone)]
pub struct Member {
    pub link: Arc<dyn StorageNode>,
    /// Failure domain above the machine; all of one process' disks are in the same one.
    pub zone: Arc<str>,
    /// Whether it may get new shards: the operator's word, beside what the node says of itself.
    pub takes_shards: bool,
    /// Whether it is to be emptied; then it takes none.
    pub leaves: bool,
    /// Whether it failed its audits: what it holds is made again on others, and nobody counts on it.
    pub distrusted: bool,
}

/// The list. Clones share it.
#[derive(Clone, Default)]
pub struct Roster {
    members: Arc<RwLock<Arc<Vec<Member>>>>,
}

impl Roster {
    /// The list as it is now. Until the next [`Roster::set`] it is the very same allocation.
    pub fn members(&self) -> Arc<Vec<Member>> {
        self.members.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts another list in its place. A node that is no longer in it counts as given up: what it held is made again elsewhere.
    pub fn set(&self, members: Vec<Member>) {
        *self.members.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(members);
    }

    pub fn links(&self) -> Vec<Arc<dyn StorageNode>> {
        self.members().iter().map(|member| member.link.clone()).collect()
    }
}

impl From<Vec<Arc<dyn StorageNode>>> for Roster {
    /// A fixed list: all in one zone, all take shards.
    fn from(links: Vec<Arc<dyn StorageNode>>) -> Roster {
        let zone: Arc<str> = "".into();
        let roster = Roster::default();
        roster.set(
            links
                .into_iter()
                .map(|link| Member { link, zone: zone.clone(), takes_shards: true, leaves: false, distrusted: false })
                .collect(),
        );
        roster
    }
}
