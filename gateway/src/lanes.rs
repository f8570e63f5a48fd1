//! MD5 and SHA-256 of concurrent bodies, advanced together: one stream's digest is serial, several streams' fill a core.
//!
//! One thread a kind of digest takes whatever waits (at most [`WIDE`] streams, one job each) and advances all of it by the same number
//! of bytes a pass; who is done leaves, who comes joins at the next pass. A lone stream is hashed at once.
//! If others are known to be under way, a pass waits up to [`LINGER`] for [`ENOUGH`] of them: three cost less than one and a half.
//! Invariants: a job carries its stream's state and gives it back, so that one stream is never advanced by two; the last
//! job of a body never waits for company.
//! Not here: the other checksums (`digest.rs`), how chains are woven together (`lanes/chain/`).

pub mod chain;
#[cfg(test)]
mod chain_tests;

use crate::metric::{LANES_SHARED, Stage};
use bytes::Bytes;
use chain::md5::Md5;
use chain::sha256::Sha256;
use chain::{Algorithm, State, WIDE, update_together};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Bytes that each stream advances in a pass: small enough that newcomers soon join.
const STEP: usize = 128 << 10;
/// Streams that are worth waiting for: more of them cost little less each.
const ENOUGH: usize = 3;
/// How long a pass waits for others: about as long as a stream of 100 MB/s takes to bring its next chunk.
const LINGER: Duration = Duration::from_millis(10);
/// Jobs below this are hashed where they are: handing them over would cost more.
pub const HERE: usize = 16 << 10;

/// What a lane computes, and where its work is booked.
pub trait Lane: Algorithm {
    const THREAD: &'static str;

    /// Books a pass of so many streams while it runs.
    fn book(streams: usize, pass: impl FnOnce());
}

impl Lane for Md5 {
    const THREAD: &'static str = "md5-lanes";

    fn book(streams: usize, pass: impl FnOnce()) {
        LANES_SHARED.observe(streams as f64);
        Stage::Md5.time(pass);
    }
}

impl Lane for Sha256 {
    const THREAD: &'static str = "sha256-lanes";

    fn book(_: usize, pass: impl FnOnce()) {
        Stage::Checksum.time(pass);
    }
}

struct Job<A: Lane> {
    state: State<A>,
    data: Bytes,
    at: usize,
    /// The last of its body: someone waits for exactly this.
    urgent: bool,
    done: oneshot::Sender<State<A>>,
}

struct Queue<A: Lane> {
    waiting: VecDeque<Job<A>>,
    stopped: bool,
}

struct Shared<A: Lane> {
    queue: Mutex<Queue<A>>,
    arrived: Condvar,
    /// Bodies under way, whether or not they have a job here now.
    streams: AtomicUsize,
}

/// The threads and their queues.
pub struct Lanes {
    md5: Thread<Md5>,
    sha256: Thread<Sha256>,
}

/// One thread and its queue.
struct Thread<A: Lane> {
    shared: Arc<Shared<A>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// A body under way; counted until dropped.
pub struct Stream<A: Lane> {
    shared: Arc<Shared<A>>,
}

impl<A: Lane> Drop for Stream<A> {
    fn drop(&mut self) {
        self.shared.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<A: Lane> Stream<A> {
    /// `state` after `data`; `None` if the thread is gone.
    pub async fn advance(&self, mut state: State<A>, data: Bytes, last: bool) -> Option<State<A>> {
        if data.len() < HERE {
            state.update(&data);
            return Some(state);
        }
        let (done, result) = oneshot::channel();
        {
            let mut queue = self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
            if queue.stopped {
                return None;
            }
            queue.waiting.push_back(Job { state, data, at: 0, urgent: last, done });
        }
        self.shared.arrived.notify_one();
        result.await.ok()
    }
}

impl Lanes {
    /// Starts the threads.
    ///
    /// # Errors
    /// What the system says when it has no threads left.
    pub fn start() -> std::io::Result<Lanes> {
        Ok(Lanes { md5: Thread::start()?, sha256: Thread::start()? })
    }

    /// Announces a body of which more than one chunk may come, and whose MD5 is wanted.
    pub fn md5(&self) -> Stream<Md5> {
        self.md5.stream()
    }

    /// Likewise for SHA-256.
    pub fn sha256(&self) -> Stream<Sha256> {
        self.sha256.stream()
    }
}

impl<A: Lane> Thread<A> {
    fn start() -> std::io::Result<Thread<A>> {
        let queue = Mutex::new(Queue { waiting: VecDeque::new(), stopped: false });
        let shared = Arc::new(Shared { queue, arrived: Condvar::new(), streams: AtomicUsize::new(0) });
        let thread = std::thread::Builder::new().name(A::THREAD.into()).spawn({
            let shared = shared.clone();
            move || run(&shared)
        })?;
        Ok(Thread { shared, thread: Some(thread) })
    }

    fn stream(&self) -> Stream<A> {
        self.shared.streams.fetch_add(1, Ordering::Relaxed);
        Stream { shared: self.shared.clone() }
    }
}

impl<A: Lane> Drop for Thread<A> {
    fn drop(&mut self) {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner).stopped = true;
        self.shared.arrived.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run<A: Lane>(shared: &Shared<A>) {
    let mut jobs: Vec<Job<A>> = Vec::with_capacity(WIDE);
    let mut company = Company::default();
    while gather(shared, &mut jobs, &mut company) {
        A::book(jobs.len(), || pass(&mut jobs));
    }
}

/// Whether waiting for company has paid lately. Slow clients count as bodies under way and bring nothing: each time nobody came,
/// the next wait is twice as far off.
#[derive(Default)]
struct Company {
    skip: u32,
    vain: u32,
}

impl Company {
    fn is_expected(&mut self) -> bool {
        self.skip = self.skip.saturating_sub(1);
        self.skip == 0
    }

    fn came(&mut self, somebody: bool) {
        self.vain = if somebody { 0 } else { (self.vain + 1).min(6) };
        self.skip = if somebody { 0 } else { 1 << self.vain };
    }
}

/// Fills `jobs` up with what waits; blocks if there is nothing at all. False: stopped, and nothing is left.
fn gather<A: Lane>(shared: &Shared<A>, jobs: &mut Vec<Job<A>>, company: &mut Company) -> bool {
    let mut queue = shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
    let mut until = None;
    let mut alone = 0;
    loop {
        while let Some(job) = (jobs.len() < WIDE).then(|| queue.waiting.pop_front()).flatten() {
            if !job.done.is_closed() {
                jobs.push(job);
            }
        }
        if jobs.is_empty() {
            if queue.stopped {
                return false;
            }
            until = None;
            queue = shared.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner);
            continue;
        }
        let enough = shared.streams.load(Ordering::Relaxed).min(ENOUGH);
        if jobs.len() >= enough || jobs.iter().any(|job| job.urgent) || queue.stopped {
            if until.is_some() {
                company.came(jobs.len() > alone);
            }
            return true;
        }
        if until.is_none() {
            if !company.is_expected() {
                return true;
            }
            alone = jobs.len();
        }
        let deadline = *until.get_or_insert_with(|| Instant::now() + LINGER);
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            company.came(jobs.len() > alone);
            return true;
        }
        queue = shared.arrived.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// Advances every job by the same number of bytes and gives back those that are done.
fn pass<A: Lane>(jobs: &mut Vec<Job<A>>) {
    // Whole blocks, so that no lane falls out of step; what is less than a block at the end of a job is nobody's loss.
    let step = jobs.iter().map(|job| job.data.len() - job.at).min().unwrap_or(0).min(STEP) & !63;
    if step > 0 {
        let mut states: Vec<State<A>> = jobs.iter().map(|job| job.state).collect();
        let inputs: Vec<&[u8]> = jobs.iter().map(|job| &job.data[job.at..job.at + step]).collect();
        update_together(&mut states, &inputs);
        for (job, state) in jobs.iter_mut().zip(states) {
            job.state = state;
            job.at += step;
        }
    }
    let mut i = 0;
    while i < jobs.len() {
        if jobs[i].data.len() - jobs[i].at < 64 {
            let mut job = jobs.swap_remove(i);
            job.state.update(&job.data[job.at..]);
            drop(job.data);
            let _ = job.done.send(job.state);
        } else {
            i += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::md5::Digest;
    use proptest::prelude::*;

    async fn whole<A: Lane>(stream: Stream<A>, pieces: Vec<Bytes>) -> A::Digest {
        let mut state = State::default();
        let count = pieces.len();
        for (i, piece) in pieces.into_iter().enumerate() {
            state = stream.advance(state, piece, i + 1 == count).await.unwrap();
        }
        state.finalize()
    }

    fn bytes(len: usize, seed: u64) -> Bytes {
        let mut out = vec![0; len];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
        out.into()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn streams_of_any_lengths_get_the_digests_of_the_plain_libraries(streams in proptest::collection::vec(proptest::collection::vec(0usize..400_000, 0..4), 1..24)) {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            let lanes = Arc::new(Lanes::start().unwrap());
            let all: Vec<Vec<Bytes>> = streams.iter().enumerate().map(|(s, lens)| lens.iter().enumerate().map(|(i, len)| bytes(*len, (s * 10 + i) as u64)).collect()).collect();
            let tasks: Vec<_> = all.iter().cloned().map(|pieces| { let lanes = lanes.clone(); runtime.spawn(async move { (whole(lanes.md5(), pieces.clone()).await, whole(lanes.sha256(), pieces).await) }) }).collect();
            for (task, pieces) in tasks.into_iter().zip(all) {
                let body = pieces.concat();
                let expected: ([u8; 16], [u8; 32]) = (::md5::Md5::digest(&body).into(), sha2::Sha256::digest(&body).into());
                prop_assert_eq!(runtime.block_on(task).unwrap(), expected);
            }
        }
    }

    #[tokio::test]
    async fn a_dropped_body_does_not_hold_up_the_others() {
        let lanes = Lanes::start().unwrap();
        let stream = lanes.md5();
        let gone = stream.advance(State::default(), bytes(1 << 20, 1), false);
        drop(tokio::time::timeout(Duration::ZERO, gone).await);
        assert_eq!(whole(lanes.md5(), vec![bytes(100_000, 2)]).await, <[u8; 16]>::from(::md5::Md5::digest(bytes(100_000, 2))));
    }

    /// Not a claim about speed, which `cargo bench-s3` makes: prints what shared lanes cost here.
    #[test]
    fn sharing_lanes_is_reported() {
        report::<Md5>();
        report::<Sha256>();
    }

    fn report<A: Lane>() {
        let data: Vec<Bytes> = (0..16).map(|i| bytes(1 << 20, i)).collect();
        for n in [1usize, 2, 3, 4, 8, 16] {
            let mut jobs: Vec<Job<A>> = Vec::new();
            let start = Instant::now();
            for _ in 0..4 {
                let job = |d: &Bytes| Job { state: State::default(), data: d.clone(), at: 0, urgent: false, done: oneshot::channel().0 };
                jobs.extend(data[..n].iter().map(job));
                while !jobs.is_empty() {
                    pass(&mut jobs);
                }
            }
            let per_gib = start.elapsed().as_secs_f64() * 1_000.0 * 1_024.0 / (4 * n) as f64;
            println!("{} with {n} streams: {per_gib:.0} ms a GiB", A::THREAD);
        }
    }
}
