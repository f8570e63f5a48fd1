//! What makes a metadata process a member of a cluster.

use rustls::ClientConfig;
use spine::wire::cluster::Endpoint;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// This process among others.
#[derive(Clone)]
pub struct Membership {
    /// Where the others and gateways reach it, and its key.
    pub at: Endpoint,
    /// How it reaches the others: as `spine::fleet::tls::client_of` makes it for the role of metadata nodes.
    pub connect: Arc<ClientConfig>,
    /// What an empty folder means; one with a log goes on as what it is.
    pub begin: Begin,
    pub beat: Beat,
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership").field("at", &self.at).field("begin", &self.begin).field("beat", &self.beat).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// The first of a new cluster: it is alone, and votes.
    Found,
    /// One that others take in: it knows nothing and waits for them ([`crate::service::MetadataNode::join`]).
    Join,
}

/// How members keep up with each other. All of a cluster should have the same.
///
/// A leader is replaced `2.5 * election` to `3 * election` after its last sign of life: its lease runs out, and then somebody stands.
#[derive(Clone, Copy, Debug)]
pub struct Beat {
    /// Between a leader's signs of life, and the longest that one message with entries may take before it is sent again: a sync of the
    /// follower's disk is in it. Default 300 ms.
    pub every: Duration,
    /// Shortest wait of a voter without a sign of life before it stands; the longest is half as long again. Default 700 ms.
    pub election: Duration,
    /// Entries that stay in the log behind a checkpoint: a member that was away for no more of them needs no snapshot. Default 4,096; larger
    /// takes more of the disk.
    pub kept_entries: u64,
}

impl Default for Beat {
    fn default() -> Self {
        Self { every: Duration::from_millis(300), election: Duration::from_millis(700), kept_entries: 4_096 }
    }
}
