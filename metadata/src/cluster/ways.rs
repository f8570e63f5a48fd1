//! The ways to the other members' processes: connections that all groups of this process share, and signs of life of many groups in one
//! message.
//!
//! Whatever has no entries (a leader's sign of life, a round of reads) waits only while [`MESSAGES`] messages to that process are on their
//! way; all that came meanwhile goes in the next. So one group pays no delay, and hundreds pay few messages.
//! Invariants: an answer reaches the group that asked, or the asker hears that there is none; what waits is bounded.

use super::link::{CallError, Link};
use rustls::ClientConfig;
use spine::limit::{GROUPS, MEMBERS};
use spine::wire::cluster::{Append, Appended, Beaten, Beats, Call, Endpoint};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

/// Connections to one process, of all groups: entries, rounds of reads, a snapshot.
const PLACES: usize = 32;
/// Messages with signs of life to one process at a time.
const MESSAGES: usize = 2;
/// Longest wait for their answer: groups ask again sooner.
const PATIENCE: Duration = Duration::from_secs(1);
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
}

struct Waiting {
    append: Append,
    answer: oneshot::Sender<Result<Appended, CallError>>,
}

impl Way {
    fn start(link: Arc<Link>) -> Self {
        // Each group has one sign of life and one round of reads on its way at most.
        let (beats, waiting) = mpsc::channel(2 * GROUPS);
        tokio::spawn(run(link.clone(), waiting));
        Self { link, beats }
    }

    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Sends an append without entries, together with those of other groups.
    ///
    /// # Errors
    /// As [`Link::call`].
    pub async fn beat(&self, append: Append) -> Result<Appended, CallError> {
        let ended = || CallError::Unreachable("the way has ended".to_string());
        let (answer, answered) = oneshot::channel();
        self.beats.send(Waiting { append, answer }).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }
}

/// Ends when the way is dropped.
async fn run(link: Arc<Link>, mut waiting: mpsc::Receiver<Waiting>) {
    let places = Arc::new(Semaphore::new(MESSAGES));
    let mut next = Vec::new();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        if waiting.recv_many(&mut next, GROUPS).await == 0 {
            return;
        }
        let (link, sent) = (link.clone(), std::mem::take(&mut next));
        tokio::spawn(async move {
            deliver(&link, sent).await;
            drop(place);
        });
    }
}

async fn deliver(link: &Link, sent: Vec<Waiting>) {
    let (appends, askers): (Vec<Append>, Vec<_>) = sent.into_iter().map(|waiting| (waiting.append, waiting.answer)).unzip();
    let asked = timeout(PATIENCE, link.call(Call::Beats, &Beats(appends))).await;
    let answers = match asked.unwrap_or_else(|_| Err(CallError::Lost("it took too long".to_string()))) {
        Ok(Beaten(answers)) if answers.len() == askers.len() => {
            answers.into_iter().map(|answer| answer.map_err(CallError::Refused)).collect()
        }
        Ok(Beaten(answers)) => {
            vec![Err(CallError::Lost(format!("{} answers to {} signs of life", answers.len(), askers.len()))); askers.len()]
        }
        Err(error) => vec![Err(error); askers.len()],
    };
    // An asker that gave up hears nothing; that is all the difference.
    askers.into_iter().zip(answers).for_each(|(asker, answer): (_, Result<Appended, CallError>)| drop(asker.send(answer)));
}
