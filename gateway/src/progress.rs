//! How far the moving of shards has come: repair, drains, rebalancing. In memory; what is still to be done stands in the index.
//!
//! Times come from the caller, so that rates can be tested. Not here: deciding anything.

use crate::census::Census;
use spine::id::NodeId;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Rates are of this long.
const WINDOW: Duration = Duration::from_secs(60);

/// Why a shard was moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It was missing, or its node is away.
    Repair,
    /// Its node is being emptied.
    Drain,
    /// Its node had more than its share.
    Rebalance,
}

impl Why {
    pub const ALL: [Why; 3] = [Why::Repair, Why::Drain, Why::Rebalance];

    /// As metrics and the status name it.
    pub fn word(self) -> &'static str {
        match self {
            Why::Repair => "repair",
            Why::Drain => "drain",
            Why::Rebalance => "rebalance",
        }
    }
}

/// What was moved in the last minute.
#[derive(Default)]
struct Meter {
    since: Option<Instant>,
    moved: VecDeque<(Instant, u64)>,
}

/// Shards and bytes a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    pub shards: f64,
    pub bytes: f64,
}

impl Rate {
    /// Seconds until `shards` are moved; `None`: nothing moves.
    pub fn seconds(&self, shards: u64) -> Option<u64> {
        (self.shards > 0.0).then(|| (shards as f64 / self.shards).ceil() as u64)
    }
}

impl Meter {
    fn book(&mut self, bytes: u64, now: Instant) {
        if self.moved.is_empty() {
            self.since = Some(now);
        }
        self.moved.push_back((now, bytes));
        self.forget(now);
    }

    fn forget(&mut self, now: Instant) {
        while self.moved.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > WINDOW) {
            self.moved.pop_front();
        }
    }

    fn rate(&mut self, now: Instant) -> Rate {
        self.forget(now);
        let Some(since) = self.since.filter(|_| !self.moved.is_empty()) else { return Rate::default() };
        let seconds = now.saturating_duration_since(since).clamp(Duration::from_secs(1), WINDOW).as_secs_f64();
        let bytes: u64 = self.moved.iter().map(|(_, bytes)| bytes).sum();
        Rate { shards: self.moved.len() as f64 / seconds, bytes: bytes as f64 / seconds }
    }
}

/// One node that is being emptied, as of the last pass through the index and what was moved since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drain {
    pub shards_left: u64,
    pub bytes_left: u64,
    /// Shards that no other node could take in that pass.
    pub stuck: u64,
}

/// What the rebalancer does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balancing {
    /// Every node is near enough to its share.
    #[default]
    Level,
    /// Shards are being moved.
    Moving,
    /// Nodes are off their shares and no shard can be moved that would help.
    Stalled,
}

impl Balancing {
    pub fn word(self) -> &'static str {
        match self {
            Balancing::Level => "level",
            Balancing::Moving => "moving",
            Balancing::Stalled => "stalled",
        }
    }
}

/// The rebalancer, for who asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    pub state: Balancing,
    /// The operator wants it now.
    pub asked: bool,
    /// The farthest that a node is from its share, thousandths.
    pub worst_permille: u64,
    /// Bytes that are still to be moved, about.
    pub surplus: u64,
    /// Since it began last.
    pub shards_moved: u64,
    pub bytes_moved: u64,
}

/// Everything of this process.
#[derive(Default)]
pub struct Progress {
    inner: Mutex<Inner>,
    /// The operator has said something to the rebalancer.
    pub(crate) told: Notify,
}

#[derive(Default)]
struct Inner {
    meters: [Meter; 3],
    /// Chunks found in need of repair and not seen to yet, and whether there are more.
    waiting: (u64, bool),
    drains: BTreeMap<NodeId, Drain>,
    census: Option<Arc<Census>>,
    balance: Balance,
}

impl Progress {
    /// A shard was moved, off `from` if it was there to be copied.
    pub fn moved(&self, why: Why, from: Option<NodeId>, bytes: u64, now: Instant) {
        let mut inner = self.locked();
        inner.meters[why as usize].book(bytes, now);
        if why == Why::Drain
            && let Some(drain) = from.and_then(|from| inner.drains.get_mut(&from))
        {
            drain.shards_left = drain.shards_left.saturating_sub(1);
            drain.bytes_left = drain.bytes_left.saturating_sub(bytes);
        }
        if why == Why::Rebalance {
            inner.balance.shards_moved += 1;
            inner.balance.bytes_moved += bytes;
            inner.balance.surplus = inner.balance.surplus.saturating_sub(bytes);
        }
    }

    pub fn rate(&self, why: Why, now: Instant) -> Rate {
        self.locked().meters[why as usize].rate(now)
    }

    /// Chunks that wait for repair, and whether there are more than were counted.
    pub fn waiting(&self) -> (u64, bool) {
        self.locked().waiting
    }

    pub(crate) fn set_waiting(&self, chunks: u64, more: bool) {
        self.locked().waiting = (chunks, more);
    }

    /// Who is being emptied, as far as a pass has seen.
    pub fn drains(&self) -> BTreeMap<NodeId, Drain> {
        self.locked().drains.clone()
    }

    pub(crate) fn set_drains(&self, drains: BTreeMap<NodeId, Drain>) {
        self.locked().drains = drains;
    }

    /// The newest count of the index.
    pub fn census(&self) -> Option<Arc<Census>> {
        self.locked().census.clone()
    }

    pub(crate) fn set_census(&self, census: Census) {
        self.locked().census = Some(Arc::new(census));
    }

    pub fn balance(&self) -> Balance {
        self.locked().balance
    }

    pub(crate) fn change_balance(&self, change: impl FnOnce(&mut Balance)) {
        change(&mut self.locked().balance);
    }

    fn locked(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_of_the_last_minute_and_says_when_the_rest_is_done() {
        let (progress, begin) = (Progress::default(), Instant::now());
        assert_eq!(progress.rate(Why::Repair, begin), Rate::default());
        assert_eq!(Rate::default().seconds(1), None);
        let at = |second: u64| begin + Duration::from_secs(second);
        (0..20).for_each(|second| progress.moved(Why::Repair, None, 100, at(second)));
        assert_eq!(progress.rate(Why::Repair, at(20)), Rate { shards: 1.0, bytes: 100.0 });
        assert_eq!(progress.rate(Why::Repair, at(20)).seconds(30), Some(30));
        assert_eq!(progress.rate(Why::Repair, at(200)), Rate::default());
        assert_eq!(progress.rate(Why::Drain, at(20)), Rate::default());
    }

    #[test]
    fn what_is_carried_off_a_node_is_no_longer_left_on_it() {
        let (progress, node) = (Progress::default(), NodeId([1; 32]));
        progress.set_drains(BTreeMap::from([(node, Drain { shards_left: 2, bytes_left: 150, stuck: 0 })]));
        progress.moved(Why::Drain, Some(node), 100, Instant::now());
        progress.moved(Why::Repair, Some(node), 50, Instant::now());
        assert_eq!(progress.drains()[&node], Drain { shards_left: 1, bytes_left: 50, stuck: 0 });
    }
}
