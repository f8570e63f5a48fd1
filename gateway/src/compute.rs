//! The threads that hash, seal and code, so that no async thread ever does.
//!
//! One hop a chunk where the protocol allows: the ChunkId before the reservation, everything else after a miss.
//! A plain queue with sleeping threads: work-stealing pools spin and yield between jobs of a millisecond, which at one chunk at a
//! time cost as much CPU as the sealing itself.
//! Not here: MD5, which shares lanes between streams on a thread of its own (`lanes.rs`).

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// The work was lost: it panicked (logged there), or the pool is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a computing thread failed")]
pub struct Lost;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Job>,
    stopped: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    arrived: Condvar,
}

/// A pool of CPU threads; they end with it.
pub struct Compute {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Compute {
    /// `threads` of them, at least one.
    ///
    /// # Errors
    /// What the system says when it has no threads left.
    pub fn start(threads: usize) -> std::io::Result<Compute> {
        let mut pool = Compute { shared: Arc::default(), threads: Vec::new() };
        for i in 0..threads.max(1) {
            let shared = pool.shared.clone();
            let thread = std::thread::Builder::new().name(format!("compute-{i}")).spawn(move || work(&shared))?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// Runs `work` on a thread of the pool, first come first served. Work whose future was dropped before it began is skipped.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Lost> {
        let (done, result) = oneshot::channel();
        let job = Box::new(move || {
            if !done.is_closed() {
                let _ = done.send(work());
            }
        });
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner).waiting.push_back(job);
        self.shared.arrived.notify_one();
        result.await.map_err(|_| Lost)
    }
}

impl Drop for Compute {
    fn drop(&mut self) {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner).stopped = true;
        self.shared.arrived.notify_all();
        let me = std::thread::current().id();
        // The last holder may be a job of the pool itself: its own thread cannot be waited for.
        for thread in self.threads.drain(..).filter(|thread| thread.thread().id() != me) {
            let _ = thread.join();
        }
    }
}

/// One thread's life.
fn work(shared: &Shared) {
    while let Some(job) = next(shared) {
        // A panic is the end of its request, which hears that its answer is lost, and of nothing else.
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            tracing::error!("work on a computing thread panicked; its request fails");
        }
    }
}

fn next(shared: &Shared) -> Option<Job> {
    let mut queue = shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        match queue.waiting.pop_front() {
            Some(job) => return Some(job),
            None if queue.stopped => return None,
            None => queue = shared.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_comes_back_and_a_panic_is_an_error_for_its_request_only() {
        let compute = Compute::start(2).unwrap();
        assert_eq!(compute.run(|| 6 * 7).await, Ok(42));
        assert_eq!(compute.run(|| if true { panic!("on purpose") } else { 1 }).await, Err(Lost));
        assert_eq!(compute.run(|| 1).await, Ok(1));
    }

    #[tokio::test]
    async fn the_last_holder_may_be_a_job_of_the_pool() {
        let compute = Arc::new(Compute::start(1).unwrap());
        let holder = compute.clone();
        let _ = compute.run(move || drop(holder)).await;
        drop(compute);
    }
}
