//! Levelling the metadata processes out, by the one that leads the root group.
//!
//! Not here: how (`metadata::balancing`), what operators move (`admin/ranges.rs`), carrying moves of ranges (`moving.rs`).

use super::moving::leads;
use crate::core::now;
use metadata::balance::Rules;
use metadata::balancing::{Balancing, Waits};
use metadata::cluster::Client;
use metadata::service::MetadataNode;
use spine::id::UnixMs;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How often the processes are asked what they bear.
const BALANCE: Duration = Duration::from_secs(10);

/// The time as it was when this process came to lead, and what has passed since: a wall clock that jumps neither ends what has to rest nor
/// makes it rest for longer.
struct Clock {
    began: UnixMs,
    since: Instant,
}

impl Clock {
    fn at(&self, now: Instant) -> UnixMs {
        let passed = now.saturating_duration_since(self.since).as_millis();
        UnixMs(self.began.0.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX)))
    }
}

/// Runs until told to stop; what is cut off is seen by the next who leads.
pub async fn run(node: Arc<MetadataNode>, client: Arc<Client>, balance: bool, mut stop: watch::Receiver<bool>) {
    if !balance {
        return;
    }
    tokio::select! {
        _ = stop.wait_for(|stop| *stop) => {}
        () = level(&node, &client) => {}
    }
}

/// What is known of the past is the root's: each time that this process comes to lead it, it begins from there.
async fn level(node: &MetadataNode, client: &Arc<Client>) {
    let mut balancing = None;
    loop {
        tokio::time::sleep(BALANCE).await;
        if !leads(node) {
            balancing = None;
            continue;
        }
        let begin = || {
            let clock = Clock { began: now(), since: Instant::now() };
            (clock, Balancing::new(client.clone(), client.clone(), Rules::default(), Waits::default()))
        };
        let (clock, balancing) = balancing.get_or_insert_with(begin);
        if let Err(error) = balancing.round(clock.at(Instant::now())).await {
            tracing::debug!(%error, "the root could not be asked what there is to level out");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_from_when_leading_began_and_never_back() {
        let since = Instant::now();
        let clock = Clock { began: UnixMs(5_000), since };
        assert_eq!(clock.at(since), UnixMs(5_000));
        assert_eq!(clock.at(since + Duration::from_millis(1_500)), UnixMs(6_500));
        let later = Clock { began: UnixMs(5_000), since: since + Duration::from_secs(1) };
        assert_eq!(later.at(since), UnixMs(5_000), "a moment of before");
    }
}
