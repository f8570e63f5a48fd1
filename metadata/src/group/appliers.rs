//! The threads that apply committed entries, shared by all groups of a process: a few, however many groups there are.
//!
//! Invariant: one group's work is never done on two threads at once, since openraft waits for an outcome before it hands out the next.

use super::Types;
use super::apply::{Applier, Outcome};
use crate::table::TableError;
use openraft::Entry;
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// More threads than this only wait for each other's disk.
const THREADS: usize = 4;

pub struct Work {
    pub applier: Arc<Applier>,
    pub entries: Vec<Entry<Types>>,
    pub done: oneshot::Sender<Result<Vec<Outcome>, TableError>>,
}

#[derive(Default)]
struct Queue {
    work: VecDeque<Work>,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    came: Condvar,
}

pub struct Appliers(Arc<Shared>);

impl Appliers {
    /// Starts the threads; they end when this is dropped.
    ///
    /// # Errors
    /// The process can have no more threads.
    pub fn start() -> io::Result<Arc<Self>> {
        let shared = Arc::new(Shared::default());
        let appliers = Arc::new(Self(shared.clone()));
        let threads = std::thread::available_parallelism().map_or(1, usize::from).clamp(2, THREADS);
        for _ in 0..threads {
            let shared = shared.clone();
            std::thread::Builder::new().name("metadata-apply".into()).spawn(move || run(&shared))?;
        }
        Ok(appliers)
    }

    pub fn apply(&self, work: Work) {
        lock(&self.0.queue).work.push_back(work);
        self.0.came.notify_one();
    }
}

impl Drop for Appliers {
    fn drop(&mut self) {
        lock(&self.0.queue).closed = true;
        self.0.came.notify_all();
    }
}

fn run(shared: &Shared) {
    loop {
        let mut queue = lock(&shared.queue);
        let work = loop {
            if let Some(work) = queue.work.pop_front() {
                break work;
            }
            if queue.closed {
                return;
            }
            queue = shared.came.wait(queue).unwrap_or_else(PoisonError::into_inner);
        };
        drop(queue);
        let Work { applier, entries, done } = work;
        // A panic is one group's end, not that of the others: whoever waits hears that nobody answers.
        let Ok(outcome) = catch_unwind(AssertUnwindSafe(|| applier.apply(&entries))) else { continue };
        if let Err(e) = &outcome {
            tracing::error!(error = %e, "committed entries could not be applied: the group stops");
        }
        // Nobody listens only when the group has ended.
        let _ = done.send(outcome);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
