//! Memory for bodies, over all requests.
//!
//! A request takes what one chunk needs at once, before it copies the first byte of the chunk, and gives it back when the
//! chunk is through. It never waits for more while it holds some for the same step: whoever holds memory can finish with
//! what it has, so that nobody waits in a circle. Waiters are served in the order they came.
//! Not here: how much a chunk needs (`cut.rs`, `read.rs`), the front end's limits on connections.

use prometheus::IntGauge;
use std::sync::Arc;
use std::sync::LazyLock;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The unit of account, bytes.
const UNIT: usize = 1 << 10;

/// A number of bytes to share.
pub struct Budget {
    free: Arc<Semaphore>,
    units: u32,
    gauge: &'static LazyLock<IntGauge>,
}

/// Bytes taken from a [`Budget`]; dropped, they are free again.
pub struct Share {
    _permit: OwnedSemaphorePermit,
    gauge: Gauge,
}

struct Gauge {
    bytes: i64,
    gauge: &'static LazyLock<IntGauge>,
}

impl Drop for Gauge {
    fn drop(&mut self) {
        self.gauge.add(self.bytes);
    }
}

impl Share {
    /// Bytes this holds.
    pub fn bytes(&self) -> u64 {
        self.gauge.bytes as u64
    }
}

impl Budget {
    /// `bytes` in all; its free part is shown by `gauge`.
    pub fn new(bytes: usize, gauge: &'static LazyLock<IntGauge>) -> Budget {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX >> 4).clamp(1, u32::MAX >> 4);
        gauge.set(i64::from(units) * UNIT as i64);
        Budget { free: Arc::new(Semaphore::new(units as usize)), units, gauge }
    }

    /// Waits for `bytes` (or for all there is, if that is less).
    pub async fn take(&self, bytes: usize) -> Share {
        let units = self.units(bytes);
        let permit = self.free.clone().acquire_many_owned(units).await;
        self.share(units, permit.unwrap_or_else(|_| unreachable!("the semaphore is never closed")))
    }

    /// `bytes` if they are free now and at least half of everything stays free: for work ahead of need.
    pub fn spare(&self, bytes: usize) -> Option<Share> {
        let units = self.units(bytes);
        if self.free.available_permits() < units as usize + self.units as usize / 2 {
            return None;
        }
        self.free.clone().try_acquire_many_owned(units).ok().map(|permit| self.share(units, permit))
    }

    /// Bytes that nobody holds.
    pub fn free_bytes(&self) -> usize {
        self.free.available_permits() * UNIT
    }

    fn share(&self, units: u32, permit: OwnedSemaphorePermit) -> Share {
        let bytes = i64::from(units) * UNIT as i64;
        self.gauge.sub(bytes);
        Share { _permit: permit, gauge: Gauge { bytes, gauge: self.gauge } }
    }

    fn units(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(self.units).clamp(1, self.units)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::READ_MEMORY_FREE;
    use futures::FutureExt;

    #[tokio::test]
    async fn more_than_there_is_means_all_there_is_and_waiters_are_served_in_order() {
        let budget = Budget::new(10 << 10, &READ_MEMORY_FREE);
        let all = budget.take(1 << 30).await;
        assert_eq!(all.bytes(), 10 << 10);
        let mut large = Box::pin(budget.take(8 << 10));
        let mut small = Box::pin(budget.take(1 << 10));
        assert!((&mut large).now_or_never().is_none());
        assert!((&mut small).now_or_never().is_none(), "the small one must not overtake");
        drop(all);
        let large = large.await;
        let _small = small.await;
        drop(large);
    }

    #[tokio::test]
    async fn work_ahead_of_need_leaves_half() {
        let budget = Budget::new(10 << 10, &READ_MEMORY_FREE);
        let first = budget.spare(4 << 10);
        assert!(first.is_some());
        assert!(budget.spare(4 << 10).is_none());
        drop(first);
        assert!(budget.spare(4 << 10).is_some());
    }
}
