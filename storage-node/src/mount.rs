//! A served disk with its threads: writer, keeper (folds the index, watches space), compaction, scrub.
//!
//! Invariant: after [`Mount::end`] no thread of it runs, and when the last reader has returned its files are closed.

use crate::catalog::FOLD_ENTRIES;
use crate::compact::{Compacted, Compactor};
use crate::core::{Core, Signal};
use crate::metric::DiskMetrics;
use crate::op::Op;
use crate::recover::Opened;
use crate::scrub::Scrubber;
use crate::settings::OpenError;
use crate::writer::Writer;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use spine::wire::shard::NodeError;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Semaphore, oneshot};

/// How often the keeper looks whether the index is far behind.
const TICK: Duration = Duration::from_millis(100);
/// How often compaction looks whether space is short.
const HURRY: Duration = Duration::from_secs(2);

pub struct Mount {
    pub core: Arc<Core>,
    pub queue: UnboundedSender<Op>,
    /// One permit a KiB of puts that wait for the writer.
    pub puts: Arc<Semaphore>,
    pub reads: Arc<Semaphore>,
    compacting: Arc<Mutex<()>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Dropped to stop the keeper and compaction.
    stop: Mutex<Option<Sender<()>>>,
}

/// Permits of the put queue: one for each KiB.
pub fn queue_permits(queue_bytes: u32) -> u32 {
    (queue_bytes / 1_024).max(1)
}

impl Mount {
    pub fn start(opened: Opened, metrics: Arc<DiskMetrics>, signal: Arc<Signal>) -> Result<Mount, OpenError> {
        let core = Arc::new(Core::new(opened.parts, metrics, signal));
        // Not a channel that spins: six writers that yield to each other before they sleep cost as much CPU as their writes.
        let (queue, ops) = tokio::sync::mpsc::unbounded_channel();
        let (stop, stopped) = crossbeam_channel::bounded::<()>(0);
        let compacting = Arc::new(Mutex::new(()));
        let writer = Writer::new(core.clone(), ops, opened.rested, opened.next_segment);
        let mut threads = vec![spawn(&core, "writer", move || writer.run())?];
        let keeper = Keeper { core: core.clone(), queue: queue.clone(), stopped: stopped.clone() };
        threads.push(spawn(&core, "keeper", move || keeper.run())?);
        if let Some(round) = core.settings.scrub_round {
            let scrubber = Scrubber::new(core.clone(), queue.clone(), stopped.clone(), round);
            threads.push(spawn(&core, "scrub", move || scrubber.run())?);
        }
        if let Some(every) = core.settings.compact_every {
            let compactor = Compactor::new(core.clone(), queue.clone());
            let one = compacting.clone();
            threads.push(spawn(&core, "compact", move || compact_every(every, &compactor, &one, &stopped))?);
        }
        let puts = Arc::new(Semaphore::new(queue_permits(core.settings.queue_bytes) as usize));
        let reads = Arc::new(Semaphore::new(core.settings.reads.max(1)));
        Ok(Mount { core, queue, puts, reads, compacting, threads: Mutex::new(threads), stop: Mutex::new(Some(stop)) })
    }

    /// Compacts now. Blocks.
    pub fn compact(&self) -> Result<Compacted, NodeError> {
        let _one = self.compacting.lock().unwrap_or_else(PoisonError::into_inner);
        Compactor::new(self.core.clone(), self.queue.clone()).round()
    }

    /// Finishes what is queued, makes everything durable unless the disk is lost, ends the threads. Blocks.
    pub fn end(&self) {
        self.core.stopping.store(true, Relaxed);
        self.puts.close();
        self.reads.close();
        drop(self.stop.lock().unwrap_or_else(PoisonError::into_inner).take());
        // If the writer has ended already there is nobody to tell.
        let _ = self.queue.send(Op::Stop);
        for thread in std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner)) {
            // A panic in there was reported by `spawn`.
            let _ = thread.join();
        }
        if self.core.loss().is_none()
            && let Err(e) = self.core.catalog.fold()
        {
            tracing::warn!(disk = %self.core.settings.label, reason = %e, "the index is behind; the next start reads the segments' end again");
        }
    }
}

fn spawn(core: &Arc<Core>, what: &'static str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, OpenError> {
    let guarded = core.clone();
    let name = format!("disk{}-{what}", core.settings.label);
    let run = move || {
        if catch_unwind(AssertUnwindSafe(body)).is_err() {
            tracing::error!(disk = %guarded.settings.label, thread = what, "a disk's thread panicked; the disk is opened again");
            guarded.lose_for(format!("the {what} thread panicked"));
        }
    };
    std::thread::Builder::new().name(name).spawn(run).map_err(OpenError::io("start a thread"))
}

/// Looks for work every so often, and sooner where space is short, at the start to begin with: a process that never lives long must
/// not leave its garbage to the next one for ever. Having looked in vain ends the hurry.
fn compact_every(every: Duration, compactor: &Compactor, one: &Mutex<()>, stopped: &Receiver<()>) {
    let mut hurry = true;
    let mut due = Instant::now() + every;
    loop {
        let started = Instant::now();
        if started >= due || (hurry && compactor.is_worth_a_look()) {
            let _one = one.lock().unwrap_or_else(PoisonError::into_inner);
            hurry = match compactor.round() {
                Ok(done) => done.segments > 0,
                Err(e) => {
                    tracing::warn!(reason = %e, "compaction stopped early");
                    false
                }
            };
            // Looking at a large index takes a while: spend at most a twentieth of the time on it.
            due = Instant::now() + every.max(started.elapsed() * 20);
        }
        if stopped.recv_timeout(every.min(HURRY)) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

/// Folds the index, keeps the figures fresh, and closes the open segment when nobody writes.
struct Keeper {
    core: Arc<Core>,
    queue: UnboundedSender<Op>,
    stopped: Receiver<()>,
}

impl Keeper {
    fn run(self) {
        let mut folded = Instant::now();
        let (mut written, mut since) = (0, Instant::now());
        let tick = TICK.min(self.core.settings.fold_every).max(Duration::from_millis(1));
        self.figures();
        while let Err(RecvTimeoutError::Timeout) = self.stopped.recv_timeout(tick) {
            if self.core.alive().is_err() {
                return;
            }
            let due = folded.elapsed() >= self.core.settings.fold_every;
            if due || self.core.catalog.unfolded() >= FOLD_ENTRIES {
                if let Err(e) = self.core.catalog.fold() {
                    tracing::warn!(disk = %self.core.settings.label, reason = %e, "the index could not be written");
                    self.core.index_failed(e);
                }
                folded = Instant::now();
            }
            if due {
                self.figures();
            }
            let now_written = self.core.metrics.written_bytes.get() + self.core.used();
            if now_written != written {
                (written, since) = (now_written, Instant::now());
            } else if since.elapsed() >= self.core.settings.seal_idle && self.core.space.has_open() {
                let (done, _) = oneshot::channel();
                // The writer ends only when the mount does.
                let _ = self.queue.send(Op::Rest { done });
                since = Instant::now();
            }
        }
    }

    fn figures(&self) {
        let core = &self.core;
        if core.space.refresh(core.catalog.index().bytes()).is_err() && core.check_present().is_err() {
            return;
        }
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let (shards, shard_bytes, trash_bytes) = core.catalog.sums();
        core.metrics.shards.set(gauge(shards));
        core.metrics.shard_bytes.set(gauge(shard_bytes));
        core.metrics.trash_bytes.set(gauge(trash_bytes));
        core.metrics.capacity_bytes.set(gauge(core.space.capacity()));
        core.metrics.free_bytes.set(gauge(core.free()));
    }
}
