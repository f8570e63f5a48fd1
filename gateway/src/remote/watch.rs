//! Looking at the node: its status every second, and the revocation list for a node that has an older one.
//!
//! Invariant: what [`super::Link::status`] answers is at most one look old, or says `Lost`.

use super::exchange::exchange;
use super::{Inner, UNSEEN};
use crate::metric::LINKS_LOST;
use bytes::Bytes;
use spine::wire::peer::{Call, PeerStatus};
use spine::wire::shard::{NodeError, NodeState, NodeStatus};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::watch as channel;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Bytes of the longest status.
const STATUS_BYTES: usize = 128;

/// The background task of one link; it ends with it.
pub(super) struct Watcher {
    task: JoinHandle<()>,
    looks: channel::Receiver<u64>,
}

impl Watcher {
    pub fn start(inner: &Arc<Inner>) -> Watcher {
        let (counted, looks) = channel::channel(0);
        let task = tokio::spawn(watch(Arc::downgrade(inner), inner.bounds.look_every, counted));
        Watcher { task, looks }
    }

    pub async fn first_look(&self, longest: Duration) {
        let mut looks = self.looks.clone();
        // Too late is as good as never: the caller looks at the status.
        let _ = timeout(longest, looks.wait_for(|looks| *looks > 0)).await;
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Counts a link as lost in the metric, until it is dropped.
struct LostOne;

impl LostOne {
    fn new() -> LostOne {
        LINKS_LOST.inc();
        LostOne
    }
}

impl Drop for LostOne {
    fn drop(&mut self) {
        LINKS_LOST.dec();
    }
}

async fn watch(inner: Weak<Inner>, every: Duration, counted: channel::Sender<u64>) {
    let mut misses = 0u32;
    let mut lost = None;
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(inner) = inner.upgrade() else { return };
        match look(&inner).await {
            Ok(seen) => {
                misses = 0;
                set(&inner, seen.status);
                if lost.take().is_some() {
                    tracing::info!(node = %inner.peer.node, address = %inner.peer.address, "the node answers again");
                }
                inform(&inner, seen.revocations).await;
            }
            Err(error) => {
                misses = misses.saturating_add(1);
                if misses >= inner.bounds.misses && lost.is_none() {
                    tracing::warn!(node = %inner.peer.node, address = %inner.peer.address, %error, "the node does not answer");
                    lost = Some(LostOne::new());
                    *inner.status.lock().unwrap_or_else(PoisonError::into_inner) = UNSEEN;
                    inner.lost.send_replace(true);
                    inner.pool.clear();
                }
            }
        }
        inner.pool.reap();
        counted.send_modify(|looks| *looks += 1);
    }
}

async fn look(inner: &Inner) -> Result<PeerStatus, NodeError> {
    let asked = exchange(&inner.looks, Call::Status, None, Bytes::new(), STATUS_BYTES);
    let reply = timeout(inner.bounds.look, asked).await.map_err(|_| super::unavailable("no status in time"))??;
    super::message(&reply)
}

/// Takes a status as far as it can be believed: no more than the node was admitted for.
fn set(inner: &Inner, said: NodeStatus) {
    let capacity = said.capacity.min(inner.peer.capacity);
    let believed = NodeStatus { capacity, free: said.free.min(capacity), ..said };
    *inner.status.lock().unwrap_or_else(PoisonError::into_inner) = believed;
    // A process that answers for a disk that is lost is told so by each call.
    inner.lost.send_if_modified(|lost| std::mem::replace(lost, false));
    if said.state == NodeState::Lost {
        tracing::debug!(node = %inner.peer.node, "the node says that its disk is lost");
    }
}

/// Sends the revocation list to a node that has an older one.
async fn inform(inner: &Inner, has: u64) {
    let (version, signed) = inner.trust.revocations();
    let Some(signed) = signed.filter(|_| has < version) else { return };
    let Ok(bytes) = signed.encode() else { return };
    let told = timeout(inner.bounds.call, exchange(&inner.looks, Call::Revoke, None, bytes, 0)).await;
    match told {
        Ok(Ok(_)) => tracing::info!(node = %inner.peer.node, version, "the node has the revocation list"),
        Ok(Err(error)) => tracing::warn!(node = %inner.peer.node, version, %error, "the node did not take the revocation list"),
        Err(_) => tracing::warn!(node = %inner.peer.node, version, "the node did not take the revocation list in time"),
    }
}
