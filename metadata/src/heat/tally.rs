//! Counts of what one group does in this process, that only grow.

use std::ops::Sub;
use std::sync::atomic::{AtomicU64, Ordering};

/// One group's, added to by whoever does something.
#[derive(Debug, Default)]
pub struct Tally {
    answered: AtomicU64,
    applied: AtomicU64,
    logged: AtomicU64,
    sent: AtomicU64,
}

/// A tally at one moment, or what came between two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Commands and queries that clients brought here. A mover's orders are none: moving a range must not make it look hot.
    pub answered: u64,
    /// Commands that were applied, whoever leads.
    pub applied: u64,
    /// Bytes of their entries.
    pub logged: u64,
    /// Bytes of answers to queries.
    pub sent: u64,
}

impl Tally {
    pub fn answered(&self, count: u64) {
        self.answered.fetch_add(count, Ordering::Relaxed);
    }

    pub fn applied(&self, commands: u64, bytes: u64) {
        self.applied.fetch_add(commands, Ordering::Relaxed);
        self.logged.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn counts(&self) -> Counts {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts { answered: of(&self.answered), applied: of(&self.applied), logged: of(&self.logged), sent: of(&self.sent) }
    }
}

impl Counts {
    pub fn is_nothing(&self) -> bool {
        *self == Counts::default()
    }
}

impl Sub for Counts {
    type Output = Counts;
    fn sub(self, before: Counts) -> Counts {
        Counts {
            answered: self.answered.saturating_sub(before.answered),
            applied: self.applied.saturating_sub(before.applied),
            logged: self.logged.saturating_sub(before.logged),
            sent: self.sent.saturating_sub(before.sent),
        }
    }
}
