//! What this process bears, group by group: work a second, and where in a group's range it falls.
//!
//! - `tally.rs`: plain counts that the paths of commands and queries add to
//! - `sample.rs`: some of the places that they were about, taken aside in passing
//! - `bearing.rs`: one group: its rates, its weight tree, what of it could be cut where
//! - `bins.rs`: a range of chunks in equal parts, and the hits on each
//!
//! Once a second the counts become rates that forget, and the sample goes into the trees of the groups that are led here. A follower hears
//! of no reads and keeps no tree; a new leader begins anew, and is right within seconds.
//!
//! The kernel says what CPU the process took, not for which group. It is shared out by what the groups did: [`ANSWERED`] for each command
//! or query that was answered here, [`FOLLOWED`] for each command that was applied for another leader, and one for each [`WEIGHED_BYTES`].
//! What the process took without doing anything for a group counts for none.
//!
//! Invariants: what a process remembers is bounded, however many groups and directories there are; a call pays for a lock, a few counters
//! and now and then a copy of a name. Not here: what to make of it (`balance/`).

mod bearing;
mod bins;
mod sample;
mod tally;
#[cfg(test)]
mod tests;

pub use tally::{Counts, Tally};

use crate::balance::Load;
use bearing::Bearing;
use sample::Sample;
use spine::id::{GroupId, UnixMs};
use spine::limit::CUTS_BYTES;
use spine::wire::cluster::{Cut, HeatSlice, HotDirectory, Work};
use spine::wire::range::{ChunkSpan, NameSpan};
use spine::wire::{Batch, Query};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How fast rates and trees forget. One for all: a part's share of the heat is then its share of the load that was measured.
const HALF_LIFE_MS: u64 = 10_000;
/// Directories that all trees of a process remember, and the least that one may.
const DIRECTORIES: usize = 65_536;
const LEAST_DIRECTORIES: usize = 128;
const MOST_DIRECTORIES: usize = 4_096;
/// Parts of the CPU's shares: see the head of this file.
const ANSWERED: f64 = 5.0;
const FOLLOWED: f64 = 2.0;
const WEIGHED_BYTES: f64 = 4_096.0;
/// What a core can do in a second, so that operations and CPU can be compared: an operation that takes longer than a millisecond of CPU
/// counts by its CPU. More cores than so many do not make more operations: all groups of a process have one log.
const OPS_PER_CORE: f64 = 1_000.0;
const CORES: f64 = 4.0;
/// Bytes a second that a process can write to its log and send: a fast network's half.
const BYTES: f64 = 500e6;

/// What a group's range is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owned {
    pub names: Option<NameSpan>,
    pub chunks: Option<ChunkSpan>,
}

/// A group as the process sees it at one moment.
#[derive(Clone, Debug)]
pub struct Seen {
    pub group: GroupId,
    pub leads: bool,
    pub term: u64,
    /// Members that it sends entries to while it leads.
    pub others: usize,
    pub counts: Counts,
}

/// What one group costs here, and where.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    pub load: Load,
    pub slices: Vec<HeatSlice>,
    pub hottest: Vec<HotDirectory>,
}

#[derive(Default)]
struct State {
    groups: BTreeMap<GroupId, Bearing>,
    /// CPU of the process at the last look.
    cpu: Option<Duration>,
}

/// Of one process.
pub struct Heat {
    origin: Instant,
    cores: f64,
    sample: Sample,
    state: Mutex<State>,
}

impl Heat {
    pub fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        Heat { origin: Instant::now(), cores, sample: Sample::default(), state: Mutex::default() }
    }

    /// Milliseconds of this process's life: a clock that is set does not change rates.
    pub fn now(&self) -> UnixMs {
        UnixMs(u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// What the process can do a second.
    pub fn capacity(&self) -> Load {
        Load { ops: OPS_PER_CORE * self.cores.min(CORES), bytes: BYTES, cpu: self.cores }
    }

    /// A batch that is about to be proposed to the group.
    pub fn proposed(&self, group: GroupId, tally: &Tally, batch: &Batch) {
        tally.answered(self.sample.batch(group, batch));
    }

    /// A query that is about to be answered.
    pub fn queried(&self, group: GroupId, tally: &Tally, query: &Query) {
        tally.answered(self.sample.query(group, query));
    }

    /// Makes rates of what was counted since the last time. Call about once a second.
    ///
    /// - `seen`: all groups of the process.
    /// - `owned`: what a group owns; `None`: not known now.
    /// - `cpu`: all that the process took so far.
    pub fn tick(&self, seen: &[Seen], owned: impl Fn(GroupId) -> Option<Owned>, cpu: Duration, now: UnixMs) {
        let mut state = self.state();
        let taken = state.cpu.replace(cpu).map_or(0.0, |before| cpu.saturating_sub(before).as_secs_f64());
        state.groups.retain(|group, _| seen.iter().any(|seen| seen.group == *group));
        let led = seen.iter().filter(|seen| seen.leads).count();
        let limit = (DIRECTORIES / led.max(1)).clamp(LEAST_DIRECTORIES, MOST_DIRECTORIES);
        let mut done: Vec<(GroupId, Load, f64)> = Vec::with_capacity(seen.len());
        for seen in seen {
            let bearing = state.groups.entry(seen.group).or_insert_with(|| Bearing::new(seen, limit, now));
            if (bearing.leads, bearing.term) != (seen.leads, seen.term) {
                *bearing = Bearing::new(seen, limit, now);
            }
            let since = seen.counts - bearing.counts;
            bearing.counts = seen.counts;
            if bearing.leads && (!bearing.is_known() || !since.is_nothing()) {
                owned(seen.group).into_iter().for_each(|owned| bearing.owns(owned, now));
            }
            done.push((seen.group, work(seen, &since), weight(seen.leads, &since)));
        }
        let whole: f64 = done.iter().map(|(_, _, weight)| weight).sum();
        for (group, load, weight) in done {
            let cpu = if whole > 0.0 { taken * weight / whole } else { 0.0 };
            if let Some(bearing) = state.groups.get_mut(&group) {
                bearing.meter.record(Load { cpu, ..load }, now);
            }
        }
        for hit in self.sample.take() {
            if let Some(bearing) = state.groups.get_mut(&hit.group).filter(|bearing| bearing.leads) {
                bearing.hit(&hit.of, hit.weight, now);
            }
        }
        state.groups.values_mut().for_each(|bearing| bearing.forget(now));
    }

    /// What each group costs, and for those that are led here where; what is too much to tell is left out of the coldest.
    pub fn told(&self, now: UnixMs) -> BTreeMap<GroupId, Told> {
        let state = self.state();
        let mut hottest: Vec<(&GroupId, &Bearing, Load)> =
            state.groups.iter().map(|(group, bearing)| (group, bearing, bearing.meter.rate(now))).collect();
        hottest.sort_by(|a, b| b.2.ops.total_cmp(&a.2.ops).then(a.0.cmp(b.0)));
        let mut room = CUTS_BYTES;
        let mut told = BTreeMap::new();
        for (group, bearing, load) in hottest {
            let (mut slices, mut directories) =
                if bearing.leads { (bearing.slices(now), bearing.hottest(now)) } else { Default::default() };
            let bytes = slices.iter().map(bytes_of).sum::<usize>() + directories.iter().map(|hot| hot.directory.len() + 24).sum::<usize>();
            match room.checked_sub(bytes) {
                Some(left) => room = left,
                None => (slices, directories) = Default::default(),
            }
            told.insert(*group, Told { load, slices, hottest: directories });
        }
        told
    }

    /// All that the process bears a second.
    pub fn whole(&self, now: UnixMs) -> Load {
        self.state().groups.values().fold(Load::default(), |sum, bearing| sum + bearing.meter.rate(now))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Heat {
    fn default() -> Self {
        Self::new()
    }
}

/// The load as it is told to others.
pub fn work_of(load: &Load) -> Work {
    let whole = |number: f64| number.max(0.0).round() as u64;
    Work { milli_ops: whole(load.ops * 1e3), bytes: whole(load.bytes), cpu_micros: whole(load.cpu * 1e6) }
}

/// The load that was told.
pub fn load_of(work: &Work) -> Load {
    Load { ops: work.milli_ops as f64 / 1e3, bytes: work.bytes as f64, cpu: work.cpu_micros as f64 / 1e6 }
}

/// CPU of all threads of this process so far; nothing where the kernel does not say.
pub fn process_cpu() -> Duration {
    let mut spec = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a plain out parameter.
    if unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut spec) } != 0 {
        return Duration::ZERO;
    }
    Duration::new(u64::try_from(spec.tv_sec).unwrap_or(0), u32::try_from(spec.tv_nsec).unwrap_or(0))
}

/// What was done, but for CPU. A command that another leader's log brought counts as much as its share of CPU is of an answered one.
fn work(seen: &Seen, since: &Counts) -> Load {
    if seen.leads {
        let bytes = since.logged as f64 * (1 + seen.others) as f64 + since.sent as f64;
        return Load { ops: since.answered as f64, bytes, cpu: 0.0 };
    }
    Load { ops: since.applied as f64 * FOLLOWED / ANSWERED, bytes: since.logged as f64, cpu: 0.0 }
}

fn weight(leads: bool, since: &Counts) -> f64 {
    let done = if leads { since.answered as f64 * ANSWERED } else { since.applied as f64 * FOLLOWED };
    done + (since.logged + since.sent) as f64 / WEIGHED_BYTES
}

fn bytes_of(slice: &HeatSlice) -> usize {
    match &slice.from {
        Cut::Names(at) => at.key.len() + 24,
        Cut::Chunks(_) => 48,
    }
}
