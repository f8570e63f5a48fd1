//! What the groups of a process need now and then, all of them from two tasks: signs of life; checkpoints when they are due, a look at the
//! room and at the load, a log that does not grow without end, and tidying up when nothing is written.
//!
//! Invariant: what goes wrong in looking after one group is that group's: the others are looked after as before.

use super::Settings;
use super::flight::Flight;
use super::groups::Groups;
use super::hosted::Hosted;
use crate::heat::{self, Seen};
use crate::journal::GroupId;
use crate::lmdb::Usage;
use crate::metric;
use futures::FutureExt;
use spine::id::MemberId;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinError;
use tokio::time::MissedTickBehavior;

/// How often the node looks whether a checkpoint is due and how much room there is.
pub const TICK: Duration = Duration::from_secs(1);

/// Tells the followers of every group that is led here that their leader lives: all at one moment, so that few messages carry it.
pub async fn beat(groups: Arc<Groups>, every: Duration) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for hosted in groups.all() {
            guarded(hosted.group.number(), hosted.group.beat()).await;
        }
    }
}

/// Does something for one group; a panic is told of, and over with that.
async fn guarded(group: GroupId, work: impl Future<Output = ()>) {
    if AssertUnwindSafe(work).catch_unwind().await.is_err() {
        tracing::error!(%group, "looking after a group panicked");
    }
}

/// Whether this process ends: then work is cancelled. After a panic there is a next time.
fn ends(work: &str, outcome: Result<(), JoinError>) -> bool {
    match outcome {
        Err(error) if error.is_panic() => {
            tracing::error!(work, %error, "looking at the groups panicked");
            false
        }
        outcome => outcome.is_err(),
    }
}

/// Until it is aborted.
pub async fn run(groups: Arc<Groups>) {
    let mut paces = HashMap::<GroupId, Pace>::new();
    let mut flights = HashMap::<GroupId, Flight>::new();
    // What is written before the first look counts.
    let (now, written) = (Instant::now(), groups.means.journal.written_bytes());
    for hosted in groups.all() {
        paces.insert(hosted.group.number(), Pace::begin(now, written, hosted.group.applied_index()));
    }
    loop {
        tokio::time::sleep(TICK).await;
        let all = groups.all();
        paces.retain(|group, _| all.iter().any(|hosted| hosted.group.number() == *group));
        if ends("measure", measure(&all).await) || ends("feel", feel(&groups, &all).await) {
            return;
        }
        flee(&all, &mut flights);
        let (now, written) = (Instant::now(), groups.means.journal.written_bytes());
        let applied = |hosted: &Hosted| hosted.group.applied_index();
        let begun = |hosted: &Hosted| Pace::begin(now, written, applied(hosted));
        let dirty = all.iter().filter(|hosted| {
            let pace = paces.entry(hosted.group.number()).or_insert_with(|| begun(hosted));
            pace.covered != applied(hosted)
        });
        let dirty = dirty.count() as u64;
        let mut all_quiet = true;
        for hosted in &all {
            let pace = paces.entry(hosted.group.number()).or_insert_with(|| begun(hosted));
            let due = pace.step(now, written, applied(hosted), dirty, &groups.settings);
            all_quiet &= pace.is_quiet(now, &groups.settings);
            guarded(hosted.group.number(), see_to(&groups, hosted, pace, due, all_quiet)).await;
        }
        shorten_log(&groups).await;
    }
}

/// Does for one group what is due.
async fn see_to(groups: &Groups, hosted: &Arc<Hosted>, pace: &mut Pace, due: Due, all_quiet: bool) {
    hosted.group.forget_abandoned().await;
    if hosted.group.is_changing() {
        let hosted = hosted.clone();
        tokio::spawn(async move { hosted.group.settle().await });
    }
    hosted.copies.forget_abandoned();
    match due {
        Due::Nothing => {}
        Due::Checkpoint => {
            if let Err(error) = hosted.group.begin_checkpoint().await {
                tracing::error!(group = %hosted.group.number(), %error, "no checkpoint: the group has ended");
            }
        }
        // A copy of the table takes from what is left of the disk, for a while.
        Due::Tidying if hosted.room.is_short() => {}
        Due::Tidying => {
            tidy(groups, hosted, all_quiet).await;
            pace.tidy = true;
        }
    }
}

/// Brings the gauges and the rooms up to date.
async fn measure(all: &[Arc<Hosted>]) -> Result<(), JoinError> {
    let rooms: Vec<_> = all.iter().map(|hosted| (hosted.group.number(), hosted.room.clone())).collect();
    let sum =
        |sum: Usage, usage: Usage| Usage { high_bytes: sum.high_bytes + usage.high_bytes, map_bytes: sum.map_bytes + usage.map_bytes };
    let measured = tokio::task::spawn_blocking(move || {
        let usages = rooms.iter().filter_map(|(group, room)| {
            let usage = catch_unwind(AssertUnwindSafe(|| room.measure())).ok();
            if usage.is_none() {
                tracing::error!(%group, "measuring a table panicked");
            }
            usage
        });
        usages.fold(Usage { high_bytes: 0, map_bytes: 0 }, sum)
    });
    let usage = measured.await?;
    let standings = || all.iter().map(|hosted| hosted.group.standing());
    let gauge = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    metric::TABLE_USED.set(gauge(usage.high_bytes));
    metric::TABLE_MAP.set(gauge(usage.map_bytes));
    metric::GROUPS.set(gauge(all.len() as u64));
    metric::LEADS.set(gauge(standings().filter(|(leads, _)| *leads).count() as u64));
    metric::TERM.set(gauge(standings().map(|(_, term)| term).max().unwrap_or(0)));
    let lags: Vec<_> = all.iter().map(|hosted| hosted.group.lag()).collect();
    metric::BEHIND.set(gauge(lags.iter().map(|lag| lag.behind).max().unwrap_or(0)));
    metric::LEADERLESS.set(gauge(lags.iter().filter(|lag| !lag.led).count() as u64));
    Ok(())
}

/// Hands the groups that are led here to others, while this process is short of disk.
fn flee(all: &[Arc<Hosted>], flights: &mut HashMap<GroupId, Flight>) {
    flights.retain(|group, _| all.iter().any(|hosted| hosted.group.number() == *group));
    for hosted in all {
        let (leads, _) = hosted.group.standing();
        if !leads || !hosted.room.is_short_of_disk() {
            continue;
        }
        let voters = hosted.group.status().members.into_iter().filter(|member| member.votes).map(|member| member.member.id);
        let flight = flights.entry(hosted.group.number()).or_default();
        if let Some(to) = flight.step(Instant::now(), hosted.group.member().id, &voters.collect::<Vec<_>>()) {
            tokio::spawn(hand_over(hosted.clone(), to));
        }
    }
}

async fn hand_over(hosted: Arc<Hosted>, to: MemberId) {
    let group = hosted.group.number();
    match hosted.group.hand_over(to).await {
        Ok(()) => tracing::warn!(%group, %to, "the disk is nearly full: another member leads the group now"),
        Err(error) => tracing::warn!(%group, %to, %error, "the disk is nearly full, and the group could not be handed over"),
    }
}

/// Makes rates of what the groups have done since the last time.
async fn feel(groups: &Groups, all: &[Arc<Hosted>]) -> Result<(), JoinError> {
    let Some(heat) = groups.means.heat.clone() else { return Ok(()) };
    let all = all.to_vec();
    let felt = tokio::task::spawn_blocking(move || {
        let seen: Vec<Seen> = all.iter().map(|hosted| hosted.seen()).collect();
        let owned = |group: GroupId| all.iter().find(|hosted| hosted.group.number() == group)?.owned();
        heat.tick(&seen, owned, heat::process_cpu(), heat.now());
        let (load, capacity) = (heat.whole(heat.now()), heat.capacity());
        metric::LOAD_OPS.set(load.ops);
        metric::LOAD_BYTES.set(load.bytes);
        metric::LOAD_CPU.set(load.cpu);
        metric::LOAD_PRESSURE.set(load.pressure(&capacity));
    });
    felt.await
}

/// Entries that stay behind a checkpoint are there for members that were away, while the log is short: of a group that is never written
/// to again they would keep every file since.
async fn shorten_log(groups: &Groups) {
    let (bytes, pinning) = groups.means.journal.pinned();
    if bytes <= groups.settings.log_bytes {
        return;
    }
    for hosted in pinning.into_iter().filter_map(|group| groups.get(group)) {
        let shorten = async {
            if let Err(error) = hosted.group.purge_behind_checkpoint().await {
                tracing::debug!(group = %hosted.group.number(), %error, "the log was not shortened: the group has ended");
            }
        };
        guarded(hosted.group.number(), shorten).await;
    }
}

/// Gives back what was needed only while there was more to do.
async fn tidy(groups: &Groups, hosted: &Hosted, all_quiet: bool) {
    let (journal, checkpoints) = (groups.means.journal.clone(), hosted.checkpoints.clone());
    let work = move || {
        if all_quiet {
            journal.trim();
        }
        checkpoints.shrink()
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(0)) => {}
        Ok(Ok(bytes)) => tracing::info!(bytes, "a metadata table was made smaller"),
        Ok(Err(error)) => tracing::warn!(%error, "a metadata table could not be made smaller"),
        Err(error) => tracing::error!(%error, "making a metadata table smaller failed"),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Due {
    Nothing,
    Checkpoint,
    Tidying,
}

/// When one group was written to, and what its last checkpoint has.
struct Pace {
    /// Bytes of the whole log, and the group's last entry, at the last checkpoint; when that was.
    written: u64,
    covered: u64,
    at: Instant,
    /// The last entry that was looked at, and since when there is none behind it.
    seen: u64,
    changed: Instant,
    tidy: bool,
}

impl Pace {
    /// - `applied`: what was replayed has no checkpoint yet, unless it is nothing.
    fn begin(now: Instant, written: u64, applied: u64) -> Self {
        Self { written, covered: 0, at: now, seen: applied, changed: now, tidy: false }
    }

    fn is_quiet(&self, now: Instant, settings: &Settings) -> bool {
        now.saturating_duration_since(self.changed) >= settings.quiet
    }

    /// - `dirty`: groups with entries behind their checkpoints: they share the log between checkpoints, which are one file's sync each.
    fn step(&mut self, now: Instant, written: u64, applied: u64, dirty: u64, settings: &Settings) -> Due {
        if applied != self.seen {
            (self.seen, self.changed, self.tidy) = (applied, now, false);
        }
        let (quiet, since) = (self.is_quiet(now, settings), now.saturating_duration_since(self.at));
        if applied == self.covered {
            // The tick after the checkpoint, when the log has let go of what that one has.
            return if quiet && !self.tidy && since >= TICK { Due::Tidying } else { Due::Nothing };
        }
        let share = settings.checkpoint_bytes.saturating_mul(dirty.max(1));
        if quiet || written - self.written >= share || since >= settings.checkpoint_interval {
            (self.written, self.covered, self.at) = (written, applied, now);
            return Due::Checkpoint;
        }
        Due::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_one_look_s_at_one_group_and_only_an_end_ends_looking() {
        let mut seen = Vec::new();
        for group in [1, 2] {
            let seen = &mut seen;
            let work = async move {
                seen.push(group);
                assert!(group != 1, "as the test wants it");
                seen.push(group);
            };
            guarded(GroupId(group), work).await;
        }
        assert_eq!(seen, [1, 2, 2]);
        assert!(!ends("test", tokio::task::spawn_blocking(|| panic!("as the test wants it")).await));
        assert!(!ends("test", Ok(())));
        let cancelled = tokio::spawn(std::future::pending::<()>());
        cancelled.abort();
        assert!(ends("test", cancelled.await));
    }

    #[test]
    fn a_group_gets_a_checkpoint_by_bytes_by_time_or_when_it_is_quiet_and_is_then_tidied_once() {
        let settings = Settings { checkpoint_bytes: 100, ..Settings::new("unused") };
        let t0 = Instant::now();
        let after = |seconds: u64| t0 + Duration::from_secs(seconds);
        let mut pace = Pace::begin(t0, 0, 0);
        assert_eq!(pace.step(after(1), 50, 1, 1, &settings), Due::Nothing);
        assert_eq!(pace.step(after(2), 150, 2, 2, &settings), Due::Nothing, "two groups share the log");
        assert_eq!(pace.step(after(3), 200, 3, 2, &settings), Due::Checkpoint, "its share of bytes");
        assert_eq!(pace.step(after(4), 210, 4, 1, &settings), Due::Nothing);
        assert_eq!(pace.step(after(9), 210, 4, 1, &settings), Due::Checkpoint, "quiet");
        assert_eq!(pace.step(after(10), 210, 4, 0, &settings), Due::Tidying);
        pace.tidy = true;
        assert_eq!(pace.step(after(11), 210, 4, 0, &settings), Due::Nothing, "once");
        for second in 12..39 {
            assert_eq!(pace.step(after(second), 210, second, 1, &settings), Due::Nothing);
        }
        assert_eq!(pace.step(after(39), 210, 39, 1, &settings), Due::Checkpoint, "time");
    }
}
