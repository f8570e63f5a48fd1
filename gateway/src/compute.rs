//! The threads that hash, seal and code, so that no async thread ever does.
//!
//! One hop a chunk where the protocol allows: the ChunkId before the reservation, everything else after a miss.
//! Not here: MD5, which shares lanes between streams on a thread of its own (`lanes.rs`).

use tokio::sync::oneshot;

/// The work was lost: its thread panicked (logged there), or the pool is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a computing thread failed")]
pub struct Lost;

/// A pool of CPU threads.
pub struct Compute {
    pool: rayon::ThreadPool,
}

impl Compute {
    /// `threads` of them, at least one.
    ///
    /// # Errors
    /// What the system says when it has no threads left.
    pub fn start(threads: usize) -> Result<Compute, String> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .thread_name(|i| format!("compute-{i}"))
            .panic_handler(|_| tracing::error!("a computing thread panicked; its request fails"))
            .build()
            .map_err(|e| e.to_string())?;
        Ok(Compute { pool })
    }

    /// Runs `work` on a thread of the pool, first come first served. Dropping the future does not stop work that has begun.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Lost> {
        let (done, result) = oneshot::channel();
        self.pool.spawn_fifo(move || {
            if !done.is_closed() {
                let _ = done.send(work());
            }
        });
        result.await.map_err(|_| Lost)
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
}
