//! Which of several gateways does the work in the background: the one whose lease in the root group counts on.
//!
//! ```text
//! every BEAT: look at (holder, beat) -> mine: count on | another's: note when it changed last; still for PATIENCE: take it over
//! ```
//! The log orders takings by a compare-and-set of the count; time is each gateway's own monotonic clock, and only its rate matters: a
//! holder stops HOLD after it *asked* for the beat that was granted, a challenger waits PATIENCE after it first saw that beat. Nothing is
//! wrong if two work at once for a moment (a round that was begun goes on): every step of the collector and of repair is a log entry that
//! is applied once, or follows from one. The lease keeps gateways from doing the same work several times.
//! Not here: the record (`metadata`'s root group), the work (`collect.rs`, `owe.rs`, `audit/watch.rs`).

use crate::metric::BACKGROUND_HERE;
use spine::id::WriterId;
use spine::wire::root::{LeaseRecord, RootAnswer, RootCommand, RootQuery};
use spine::wire::{Answer, Batch, Chain, Command, Metadata, MetadataError, Query, Reply};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the lease is looked at and renewed.
const BEAT: Duration = Duration::from_secs(4);
/// How long a granted beat lets its holder work, from when it was asked for.
const HOLD: Duration = Duration::from_secs(15);
/// How long a count must stand still before another gateway takes over. Longer than [`HOLD`], by what clocks' rates may differ and more.
const PATIENCE: Duration = Duration::from_secs(20);

/// What one gateway has seen of the lease. Pure: time comes in as what passed since any fixed moment.
#[derive(Clone, Debug)]
struct Watch {
    me: WriterId,
    /// The last record, and when it was first seen.
    seen: Option<(LeaseRecord, Duration)>,
    /// Until when this gateway may work.
    until: Option<Duration>,
}

impl Watch {
    fn new(me: WriterId) -> Watch {
        Watch { me, seen: None, until: None }
    }

    /// The count from which the lease is to be taken now; `None`: it is another's.
    fn look(&mut self, record: Option<LeaseRecord>, now: Duration) -> Option<u64> {
        let Some(record) = record else { return Some(0) };
        if self.seen.is_none_or(|(seen, _)| seen != record) {
            self.seen = Some((record, now));
        }
        let since = self.seen.map_or(now, |(_, since)| since);
        let still = now.saturating_sub(since);
        (record.holder == self.me || still >= PATIENCE).then_some(record.beat)
    }

    /// What was asked for at `asked` was granted.
    fn granted(&mut self, asked: Duration) {
        self.until = Some(asked + HOLD);
    }

    /// Another was faster.
    fn lost(&mut self) {
        self.until = None;
    }

    fn holds(&self, now: Duration) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

/// Whether this process is to work in the background.
pub(crate) struct Lease {
    began: Instant,
    /// `None`: this is the only gateway there is.
    watch: Option<Mutex<Watch>>,
}

impl Lease {
    /// Of the only gateway: always its own.
    pub fn alone() -> Lease {
        Lease { began: Instant::now(), watch: None }
    }

    /// Of one of several; `me` is this life of the process. Nobody's until [`run`] has got it.
    pub fn shared(me: WriterId) -> Lease {
        Lease { began: Instant::now(), watch: Some(Mutex::new(Watch::new(me))) }
    }

    /// Whether the background's next round is this process's.
    pub fn is_mine(&self) -> bool {
        self.with(|watch, now| watch.holds(now)).unwrap_or(true)
    }

    fn with<T>(&self, f: impl FnOnce(&mut Watch, Duration) -> T) -> Option<T> {
        let watch = self.watch.as_ref()?;
        Some(f(&mut watch.lock().unwrap_or_else(PoisonError::into_inner), self.began.elapsed()))
    }

    async fn beat(&self, metadata: &dyn Metadata) -> Result<(), MetadataError> {
        let asked = self.began.elapsed();
        let Answer::Root(RootAnswer::Lease(record)) = metadata.query(Query::Root(RootQuery::Lease)).await? else {
            return Err(MetadataError::Storage { reason: "Lease was answered with something else".into() });
        };
        let Some(Some((holder, seen))) = self.with(|watch, now| watch.look(record, now).map(|seen| (watch.me, seen))) else {
            return Ok(());
        };
        let take = Command::Root(RootCommand::TakeLease { holder, seen });
        let replies = metadata.propose(Batch { chain: Chain::Stop, commands: vec![take] }).await?;
        let granted = replies.first() == Some(&Reply::Done);
        self.with(|watch, _| if granted { watch.granted(asked) } else { watch.lost() });
        Ok(())
    }
}

/// Keeps looking, where there are several gateways. Never returns.
pub(crate) async fn run(lease: Arc<Lease>, metadata: Arc<dyn Metadata>) {
    let mut had = false;
    loop {
        if lease.watch.is_some()
            && let Err(error) = lease.beat(&*metadata).await
        {
            tracing::debug!(%error, "the lease of the background could not be looked at");
        }
        let has = lease.is_mine();
        BACKGROUND_HERE.set(i64::from(has));
        if lease.watch.is_none() {
            return std::future::pending().await;
        }
        if has != had {
            tracing::info!(target: "breakwater", here = has, "collecting, repairing and auditing changed its gateway");
            had = has;
        }
        tokio::time::sleep(BEAT).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::fake::FakeMetadata;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[tokio::test]
    async fn two_gateways_that_ask_at_once_do_not_both_get_it() {
        let metadata = FakeMetadata::default();
        let (one, other) = (Lease::shared(WriterId([1; 16])), Lease::shared(WriterId([2; 16])));
        assert!(!one.is_mine());
        one.beat(&metadata).await.unwrap();
        other.beat(&metadata).await.unwrap();
        assert!(one.is_mine() && !other.is_mine());
        one.beat(&metadata).await.unwrap();
        assert!(one.is_mine());
        assert!(Lease::alone().is_mine());
    }

    /// Thousands of histories: gateways that stop for any time, whose answers come late or never, whose clocks run 5 % apart.
    #[test]
    fn never_do_two_gateways_hold_the_lease_at_one_moment() {
        struct Gateway {
            watch: Watch,
            /// In thousandths of true time.
            rate: u64,
            wakes: u64,
        }
        let true_ms = |seconds: u64| seconds * 1_000;
        let (mut handovers, mut held) = (0, 0_u64);
        for seed in 1..=3_000_u64 {
            let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
            let mut record: Option<LeaseRecord> = None;
            let mut gateways: Vec<Gateway> = (1..=3)
                .map(|id| Gateway { watch: Watch::new(WriterId([id; 16])), rate: 975 + dice.below(51), wakes: dice.below(5_000) })
                .collect();
            let mut before = None;
            let mut at = 0;
            while at < true_ms(240) {
                at += 250;
                for gateway in &mut gateways {
                    if at < gateway.wakes {
                        continue;
                    }
                    let rate = gateway.rate;
                    let own = |true_time: u64| Duration::from_millis(true_time * rate / 1_000);
                    // What is said takes a while, and the answer may be lost after it was applied.
                    let (asked, late) = (at, if dice.below(10) == 0 { dice.below(30_000) } else { dice.below(50) });
                    if let Some(seen) = gateway.watch.look(record, own(at)) {
                        if record.map_or(0, |r| r.beat) == seen {
                            record = Some(LeaseRecord { holder: gateway.watch.me, beat: seen + 1 });
                            if dice.below(20) != 0 {
                                gateway.watch.granted(own(asked));
                            }
                        } else {
                            gateway.watch.lost();
                        }
                    }
                    gateway.wakes = at + late + if dice.below(30) == 0 { dice.below(60_000) } else { 4_000 };
                }
                let holders: Vec<usize> = (0..gateways.len())
                    .filter(|n| gateways[*n].watch.holds(Duration::from_millis(at * gateways[*n].rate / 1_000)))
                    .collect();
                assert!(holders.len() <= 1, "seed {seed}: {holders:?} hold at {at} ms");
                held += holders.len() as u64;
                if !holders.is_empty() && before.is_some() && holders.first().copied() != before {
                    handovers += 1;
                }
                before = holders.first().copied().or(before);
            }
        }
        assert!(handovers > 1_000, "only {handovers} changes of the holder: the histories are too tame");
        assert!(held * 250 > 3_000 * true_ms(240) / 2, "nobody held it most of the time");
    }

    /// xorshift64*.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % bound
        }
    }

    #[test]
    fn a_holder_that_stands_still_is_succeeded_and_one_that_counts_on_is_not() {
        let (mut one, mut other) = (Watch::new(WriterId([1; 16])), Watch::new(WriterId([2; 16])));
        assert_eq!(one.look(None, seconds(0)), Some(0));
        one.granted(seconds(0));
        let record = |beat| Some(LeaseRecord { holder: WriterId([1; 16]), beat });
        for n in 0..10 {
            assert_eq!(one.look(record(n + 1), seconds(4 * n)), Some(n + 1));
            assert_eq!(other.look(record(n + 1), seconds(4 * n)), None);
        }
        assert!(!one.holds(HOLD));
        assert_eq!(other.look(record(10), seconds(36) + PATIENCE), Some(10));
    }
}
