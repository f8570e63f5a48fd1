//! The ways to the other members' processes: connections that all groups of this process share, and appends of many groups in one message.
//!
//! ```text
//! signs of life, rounds of reads (no entries) -> one queue  -> Beats
//! entries, up to [`SHORT`] of them            -> another    -> Appends: one message, one sync at the receiver, one answer
//! longer ones: a member catches up            -> a message of its own
//! ```
//! What is queued waits only while [`MESSAGES`] messages of its kind to that process are on their way; all that came meanwhile goes in the
//! next. So one group pays no delay, and hundreds pay few messages. A sign of life never waits behind entries.
//! Invariants: an answer reaches the group that asked, or the asker hears that there is none; what waits is bounded.

use super::link::{CallError, Link};
use futures::future::join_all;
use rustls::ClientConfig;
use spine::limit::{GROUPS, MEMBERS};
use spine::wire::cluster::{APPEND_BYTES, APPENDS, Append, Appended, Appends, Beaten, Beats, Call, ClusterError, Endpoint};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

/// Connections to one process, of all groups: entries, rounds of reads, a snapshot.
const PLACES: usize = 32;
/// Messages of one kind to one process at a time.
const MESSAGES: usize = 2;
/// Longest wait for their answer: groups ask again sooner.
const PATIENCE: Duration = Duration::from_secs(1);
/// Bytes of entries that share a message with those of other groups.
const SHORT: usize = 64 << 10;
/// For how long a process that does not know `Appends` gets every append in a message of its own: it may be a newer one after that.
const OLD: Duration = Duration::from_secs(10);
/// Processes that are remembered; beyond, those that no group uses any more are let go of.
const KNOWN: usize = 4 * MEMBERS;

/// Every process that a group of this one speaks to.
pub struct Ways {
    connect: Arc<ClientConfig>,
    known: Mutex<HashMap<Endpoint, Arc<Way>>>,
}

impl Ways {
    pub fn new(connect: Arc<ClientConfig>) -> Arc<Self> {
        Arc::new(Self { connect, known: Mutex::default() })
    }

    /// The way to a process; made if there is none. Needs a runtime.
    pub fn to(&self, endpoint: &Endpoint) -> Arc<Way> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(way) = known.get(endpoint) {
            return way.clone();
        }
        if known.len() >= KNOWN {
            known.retain(|_, way| Arc::strong_count(way) > 1);
        }
        let way = Arc::new(Way::start(Link::new(endpoint.clone(), self.connect.clone(), PLACES)));
        known.insert(endpoint.clone(), way.clone());
        way
    }
}

/// The way to one process.
pub struct Way {
    link: Arc<Link>,
    beats: mpsc::Sender<Waiting>,
    entries: mpsc::Sender<Waiting>,
}

struct Waiting {
    append: Append,
    answer: oneshot::Sender<Result<Appended, CallError>>,
}

impl Way {
    fn start(link: Arc<Link>) -> Self {
        // Each group has one sign of life, one round of reads and one append of entries on its way at most.
        let (beats, waiting) = mpsc::channel(2 * GROUPS);
        tokio::spawn(run(Sending { link: link.clone(), entries: false, old: Mutex::default() }.into(), waiting));
        let (entries, waiting) = mpsc::channel(2 * GROUPS);
        tokio::spawn(run(Sending { link: link.clone(), entries: true, old: Mutex::default() }.into(), waiting));
        Self { link, beats, entries }
    }

    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Sends an append without entries, together with those of other groups.
    ///
    /// # Errors
    /// As [`Link::call`].
    pub async fn beat(&self, append: Append) -> Result<Appended, CallError> {
        queue(&self.beats, append).await
    }

    /// Sends an append with entries; a short one together with those of other groups.
    ///
    /// # Errors
    /// As [`Link::call`].
    pub async fn append(&self, append: Append) -> Result<Appended, CallError> {
        if bytes_of(&append) > SHORT {
            return self.link.call(Call::Append, &append).await;
        }
        queue(&self.entries, append).await
    }
}

async fn queue(queue: &mpsc::Sender<Waiting>, append: Append) -> Result<Appended, CallError> {
    let ended = || CallError::Unreachable("the way has ended".to_string());
    let (answer, answered) = oneshot::channel();
    queue.send(Waiting { append, answer }).await.map_err(|_| ended())?;
    answered.await.map_err(|_| ended())?
}

fn bytes_of(append: &Append) -> usize {
    append.entries.iter().map(|entry| entry.bytes.len()).sum()
}

/// How one queue's messages go out.
struct Sending {
    link: Arc<Link>,
    entries: bool,
    /// When the process was found not to know `Appends`.
    old: Mutex<Option<Instant>>,
}

/// Ends when the way is dropped.
async fn run(sending: Arc<Sending>, mut waiting: mpsc::Receiver<Waiting>) {
    let places = Arc::new(Semaphore::new(MESSAGES));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Some(sent) = next(&mut waiting, if sending.entries { APPENDS } else { GROUPS }).await else { return };
        let sending = sending.clone();
        tokio::spawn(async move {
            sending.deliver(sent).await;
            drop(place);
        });
    }
}

/// What goes in the next message: what waits, within its bounds. Whoever has given up is left out.
async fn next(waiting: &mut mpsc::Receiver<Waiting>, most: usize) -> Option<Vec<Waiting>> {
    let mut next = vec![waiting.recv().await?];
    let mut bytes = bytes_of(&next[0].append);
    while next.len() < most && bytes < APPEND_BYTES {
        let Ok(one) = waiting.try_recv() else { break };
        if !one.answer.is_closed() {
            bytes += bytes_of(&one.append);
            next.push(one);
        }
    }
    Some(next)
}

impl Sending {
    async fn deliver(&self, sent: Vec<Waiting>) {
        let (appends, askers): (Vec<Append>, Vec<_>) = sent.into_iter().map(|waiting| (waiting.append, waiting.answer)).unzip();
        let count = askers.len();
        let answers = match timeout(PATIENCE, self.ask(appends)).await {
            Ok(answers) if answers.len() == count => answers,
            Ok(answers) => vec![Err(CallError::Lost(format!("{} answers to {count} appends", answers.len()))); count],
            Err(_) => vec![Err(CallError::Lost("it took too long".to_string())); count],
        };
        // An asker that gave up hears nothing; that is all the difference.
        askers.into_iter().zip(answers).for_each(|(asker, answer)| drop(asker.send(answer)));
    }

    async fn ask(&self, appends: Vec<Append>) -> Vec<Result<Appended, CallError>> {
        let count = appends.len();
        let asked = match self.entries {
            false => self.link.call(Call::Beats, &Beats(appends)).await,
            true if count == 1 || self.is_old() => return self.one_by_one(appends).await,
            true => {
                let appends = Appends(appends);
                match self.link.call(Call::Appends, &appends).await {
                    // A process of before.
                    Err(CallError::Refused(ClusterError::Invalid { .. })) => {
                        *self.old.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
                        return self.one_by_one(appends.0).await;
                    }
                    asked => asked,
                }
            }
        };
        match asked {
            Ok(Beaten(answers)) => answers.into_iter().map(|answer| answer.map_err(CallError::Refused)).collect(),
            Err(error) => vec![Err(error); count],
        }
    }

    async fn one_by_one(&self, appends: Vec<Append>) -> Vec<Result<Appended, CallError>> {
        join_all(appends.iter().map(|append| self.link.call(Call::Append, append))).await
    }

    fn is_old(&self) -> bool {
        self.old.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|since| since.elapsed() < OLD)
    }
}
