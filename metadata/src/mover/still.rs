//! For how long each move has not gone forwards, by the clock of this process: the next mover begins to count anew.
//!
//! A move whose receiver cannot take anything in goes on noting at its source. Following changes is one place, however many they are: a
//! range that is written to faster than it is copied never gets to its end.

use spine::id::MoveId;
use spine::limit::MOVES;
use spine::wire::range::Progress;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

#[derive(Default)]
pub struct Still {
    /// Where each move was seen last, and since when it is there. Of those that ended elsewhere, the oldest are forgotten.
    seen: Mutex<BTreeMap<MoveId, (Option<Progress>, Instant)>>,
}

impl Still {
    /// For how long the move has been where it is. The first time, it has only just come there.
    pub fn time(&self, id: MoveId, now: Instant) -> Duration {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        while seen.len() >= 2 * MOVES && !seen.contains_key(&id) {
            seen.pop_first();
        }
        now.saturating_duration_since(seen.entry(id).or_insert((None, now)).1)
    }

    /// The move has come so far.
    pub fn reached(&self, id: MoveId, progress: &Progress, now: Instant) {
        let place = match progress {
            Progress::Copying { .. } => progress.clone(),
            Progress::Following { .. } => Progress::Following { change: 0 },
        };
        self.time(id, now);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = seen.get_mut(&id).filter(|known| known.0.as_ref() != Some(&place)) {
            *known = (Some(place), now);
        }
    }

    pub fn over(&self, id: MoveId) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_counts_from_the_last_row_that_was_copied_and_not_from_the_last_change() {
        let (still, id, minute, mut now) = (Still::default(), MoveId(1), Duration::from_secs(60), Instant::now());
        let copying = |nth| Progress::Copying { stage: 0, key: Default::default(), nth };
        assert_eq!(still.time(id, now), Duration::ZERO);
        for (progress, since) in [
            (copying(1), 0),
            (copying(1), 1),
            (copying(2), 0),
            (Progress::Following { change: 0 }, 0),
            (Progress::Following { change: 7 }, 1),
            (Progress::Following { change: 9 }, 2),
        ] {
            still.reached(id, &progress, now);
            assert_eq!(still.time(id, now), minute * since, "{progress:?}");
            now += minute;
        }
        still.over(id);
        assert_eq!(still.time(id, now), Duration::ZERO);
    }
}
