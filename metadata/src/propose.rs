//! Gathers concurrent proposals into log entries: what arrives while one entry is being synced goes out together in the next.
//!
//! ```text
//! entry = NORMAL, count of batches (varint), batches (postcard)
//!       | IDENTIFIED, count (varint), for each: Option<Stamp>, batch (postcard); only if a batch has a stamp
//! ```
//! Invariants: a batch is never split over entries; batches keep the order in which they came; every caller hears exactly
//! once; what waits is bounded in number and in bytes.
//! Not here: what the log does with an entry (`group.rs`).

use crate::group::{Applied, Group, IDENTIFIED, NORMAL, Outcome};
use crate::machine;
use crate::metric;
use crate::requests::Stamp;
use bytes::Bytes;
use spine::limit;
use spine::wire::{Batch, MetadataError, Reply};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

#[derive(Clone, Debug)]
pub struct Settings {
    /// Most proposals that wait or are on their way; default 8,192. More wait at the door.
    pub queue_count: usize,
    /// Most bytes of them; default 64 MiB. Larger: more memory under overload.
    pub queue_bytes: usize,
    /// How long a proposal waits at the door before it is refused as `Unavailable`; default 10 s.
    pub door_deadline: Duration,
    /// Entries submitted and not synced yet; default 1. More: less batching, the log is never idle.
    pub unsynced: u64,
    /// Entries submitted and not answered yet; default 2: one is synced while the one before it is applied. More made
    /// smaller entries and cost more CPU for each proposal (16 writers: 41 us at 2, 61 at 8), fewer left the disk idle.
    pub in_flight: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { queue_count: 8_192, queue_bytes: 64 << 20, door_deadline: Duration::from_secs(10), unsynced: 1, in_flight: 2 }
    }
}

/// Bytes of an entry besides its batches: the tag, the longest varint of a count, and the longest stamp of a batch that fills it alone.
const ENTRY_HEAD: usize = 40;
/// Bytes of a batch's stamp at most: a tag, an id, a varint.
const STAMP_BYTES: usize = 27;
/// A queue's bytes are counted in units of this, so that they fit a semaphore.
const UNIT: usize = 1 << 10;

/// Why a proposal has no replies.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Somebody else leads by now. Nothing was done, and nothing will be.
    #[error("this node does not lead the group")]
    NotLed,
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

impl From<ProposeError> for MetadataError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLed => MetadataError::Unavailable { reason: error.to_string() },
            ProposeError::Metadata(error) => error,
        }
    }
}

struct Waiting {
    stamp: Option<Stamp>,
    encoded: Vec<u8>,
    commands: usize,
    answer: oneshot::Sender<Result<Applied, ProposeError>>,
    _count: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

struct Queue {
    waiting: VecDeque<Waiting>,
    closed: bool,
}

pub struct Proposer {
    queue: Mutex<Queue>,
    came: Notify,
    count: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    settings: Settings,
}

impl Proposer {
    /// Starts the task that fills entries; it ends after [`Self::close`].
    pub fn start(group: Arc<Group>, settings: Settings) -> (Arc<Self>, tokio::task::JoinHandle<()>) {
        let proposer = Arc::new(Self {
            queue: Mutex::new(Queue { waiting: VecDeque::new(), closed: false }),
            came: Notify::new(),
            count: Arc::new(Semaphore::new(settings.queue_count)),
            bytes: Arc::new(Semaphore::new(settings.queue_bytes.div_ceil(UNIT))),
            settings,
        });
        let task = tokio::spawn(run(proposer.clone(), group));
        (proposer, task)
    }

    /// Replies of `batch` once it is synced and applied. Dropping the future does not take the proposal back.
    ///
    /// # Errors
    /// `TooLarge` by [`limit`]; `Unavailable` at shutdown or when the queue stayed full; what the group says.
    pub async fn propose(&self, batch: &Batch) -> Result<Vec<Reply>, MetadataError> {
        if batch.commands.is_empty() {
            return Ok(Vec::new());
        }
        match self.propose_stamped(None, batch).await? {
            Applied::Replies { replies, .. } => Ok(replies),
            Applied::Forgotten { .. } => Err(MetadataError::Storage { reason: "a batch without an id was forgotten".into() }),
        }
    }

    /// The same for a batch that may come twice, and is applied once.
    ///
    /// # Errors
    /// As [`Self::propose`].
    pub async fn propose_stamped(&self, stamp: Option<Stamp>, batch: &Batch) -> Result<Applied, ProposeError> {
        let begun = Instant::now();
        let commands = batch.commands.len();
        machine::check(batch)?;
        let encoded =
            postcard::to_allocvec(batch).map_err(|e| MetadataError::TooLarge { what: format!("batch that does not encode: {e}") })?;
        if encoded.len() + ENTRY_HEAD > limit::LOG_ENTRY_BYTES {
            let what = format!("batch of {} bytes, {} are allowed", encoded.len(), limit::LOG_ENTRY_BYTES - ENTRY_HEAD);
            return Err(MetadataError::TooLarge { what }.into());
        }
        let (count, bytes) = self.enter(encoded.len()).await?;
        let (answer, answered) = oneshot::channel();
        {
            let mut queue = lock(&self.queue);
            if queue.closed {
                return Err(closed().into());
            }
            queue.waiting.push_back(Waiting { stamp, encoded, commands, answer, _count: count, _bytes: bytes });
        }
        self.came.notify_one();
        metric::IN_FLIGHT.inc();
        let _gauge = Leave;
        let applied = answered.await.map_err(|_| closed())?;
        metric::PROPOSE_SECONDS.observe(begun.elapsed().as_secs_f64());
        applied
    }

    /// Room in the queue, or `Unavailable` after the deadline.
    async fn enter(&self, bytes: usize) -> Result<(OwnedSemaphorePermit, OwnedSemaphorePermit), MetadataError> {
        let units = bytes.div_ceil(UNIT).min(self.settings.queue_bytes.div_ceil(UNIT));
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        if let (Ok(count), Ok(bytes)) = (self.count.clone().try_acquire_owned(), self.bytes.clone().try_acquire_many_owned(units)) {
            return Ok((count, bytes));
        }
        let both = async {
            let count = self.count.clone().acquire_owned().await.map_err(|_| closed())?;
            let bytes = self.bytes.clone().acquire_many_owned(units).await.map_err(|_| closed())?;
            Ok((count, bytes))
        };
        let busy =
            || MetadataError::Unavailable { reason: format!("the proposal queue stayed full for {:?}", self.settings.door_deadline) };
        tokio::time::timeout(self.settings.door_deadline, both).await.map_err(|_| busy())?
    }

    /// Refuses new proposals; those that wait already still go out.
    pub fn close(&self) {
        lock(&self.queue).closed = true;
        self.came.notify_one();
    }

    /// What fits into the next entry. `None`: closed, and nothing waits.
    async fn next(&self) -> Option<Vec<Waiting>> {
        loop {
            {
                let mut queue = lock(&self.queue);
                if !queue.waiting.is_empty() {
                    return Some(take(&mut queue.waiting));
                }
                if queue.closed {
                    return None;
                }
            }
            self.came.notified().await;
        }
    }

    async fn wait_for_some(&self) {
        loop {
            {
                let queue = lock(&self.queue);
                if !queue.waiting.is_empty() || queue.closed {
                    return;
                }
            }
            self.came.notified().await;
        }
    }
}

fn take(waiting: &mut VecDeque<Waiting>) -> Vec<Waiting> {
    let (mut commands, mut bytes) = (0, ENTRY_HEAD);
    let mut taken = Vec::new();
    while let Some(next) = waiting.front() {
        let len = next.encoded.len() + STAMP_BYTES;
        let fits = commands + next.commands <= limit::BATCH_COMMANDS && bytes + len <= limit::LOG_ENTRY_BYTES;
        if !fits && !taken.is_empty() {
            break;
        }
        commands += next.commands;
        bytes += len;
        taken.extend(waiting.pop_front());
    }
    taken
}

async fn run(proposer: Arc<Proposer>, group: Arc<Group>) {
    let flushed = group.flushed().clone();
    let in_flight = Arc::new(Semaphore::new(proposer.settings.in_flight));
    let mut submitted = 0;
    loop {
        proposer.wait_for_some().await;
        // Entries of another leader reached the disk, too, while this process followed it.
        submitted = submitted.max(flushed.count());
        // The log is busy: what comes meanwhile shares the next entry.
        while submitted >= flushed.count() + proposer.settings.unsynced {
            flushed.changed().await;
        }
        let Ok(permit) = in_flight.clone().acquire_owned().await else { return };
        // While another member takes over, all wait; then they go there.
        let settled = group.settled().await;
        let Some(batches) = proposer.next().await else { return };
        if group.is_led_elsewhere() {
            batches.into_iter().for_each(|waiting| drop(waiting.answer.send(Err(ProposeError::NotLed))));
            continue;
        }
        metric::ENTRY_BATCHES.observe(batches.len() as f64);
        let payload = encode(batches.iter().map(|waiting| (waiting.stamp, waiting.encoded.as_slice())));
        submitted += 1;
        let nth = submitted;
        let entry = group.submit(payload).await;
        drop(settled);
        let flushed = flushed.clone();
        tokio::spawn(async move {
            let outcome = match entry {
                Ok(entry) => entry.outcome().await,
                Err(e) => Err(e),
            };
            flushed.at_least(nth);
            drop(permit);
            answer(batches, outcome);
        });
    }
}

fn answer(batches: Vec<Waiting>, outcome: Result<Outcome, MetadataError>) {
    let replies = outcome.and_then(|Outcome(replies)| {
        let (got, want) = (replies.len(), batches.len());
        if got == want { Ok(replies) } else { Err(MetadataError::Storage { reason: format!("{got} replies to {want} batches") }) }
    });
    // A caller that gave up hears nothing; that is all the difference.
    match replies {
        Ok(replies) => batches.into_iter().zip(replies).for_each(|(waiting, replies)| drop(waiting.answer.send(Ok(replies)))),
        Err(e) => batches.into_iter().for_each(|waiting| drop(waiting.answer.send(Err(e.clone().into())))),
    }
}

fn encode<'a>(batches: impl ExactSizeIterator<Item = (Option<Stamp>, &'a [u8])> + Clone) -> Bytes {
    let identified = batches.clone().any(|(stamp, _)| stamp.is_some());
    let mut out = Vec::with_capacity(ENTRY_HEAD + batches.clone().map(|(_, batch)| batch.len() + STAMP_BYTES).sum::<usize>());
    out.push(if identified { IDENTIFIED } else { NORMAL });
    let mut count = batches.len();
    while count >= 0x80 {
        out.push((count & 0x7F) as u8 | 0x80);
        count >>= 7;
    }
    out.push(count as u8);
    for (stamp, batch) in batches {
        if identified {
            // As postcard has an Option<Stamp>.
            match stamp {
                None => out.push(0),
                Some(Stamp { id, mut seen }) => {
                    out.push(1);
                    out.extend_from_slice(&id.0);
                    while seen >= 0x80 {
                        out.push((seen & 0x7F) as u8 | 0x80);
                        seen >>= 7;
                    }
                    out.push(seen as u8);
                }
            }
        }
        out.extend_from_slice(batch);
    }
    out.into()
}

/// The batches of an entry, with their stamps.
///
/// # Errors
/// Bytes that are no entry.
pub fn decode(entry: &[u8]) -> Result<Vec<(Option<Stamp>, Batch)>, postcard::Error> {
    match entry.split_first() {
        Some((&NORMAL, batches)) => Ok(postcard::from_bytes::<Vec<Batch>>(batches)?.into_iter().map(|batch| (None, batch)).collect()),
        Some((&IDENTIFIED, batches)) => postcard::from_bytes(batches),
        _ => Err(postcard::Error::DeserializeBadEncoding),
    }
}

fn closed() -> MetadataError {
    MetadataError::Unavailable { reason: "the metadata node is shutting down".into() }
}

struct Leave;

impl Drop for Leave {
    fn drop(&mut self) {
        metric::IN_FLIGHT.dec();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use spine::id::VersionId;
    use spine::wire::chunk::ChunkCommand;
    use spine::wire::cluster::RequestId;
    use spine::wire::range::ALL_CHUNKS;
    use spine::wire::{Chain, Command};

    fn batch(n: u8, commands: usize) -> Batch {
        let command = Command::Chunk(ChunkCommand::Unref { version: VersionId([n; 16]), span: ALL_CHUNKS });
        Batch { chain: Chain::Stop, commands: vec![command; commands] }
    }

    #[test]
    fn an_entry_decodes_to_its_batches_however_many() {
        for count in [1, 2, 127, 128, 300] {
            let batches: Vec<Batch> = (0..count).map(|n| batch(n as u8, 2)).collect();
            let encoded: Vec<Vec<u8>> = batches.iter().map(|batch| postcard::to_allocvec(batch).unwrap()).collect();
            let entry = encode(encoded.iter().map(|batch| (None, batch.as_slice())));
            assert_eq!(entry[0], NORMAL);
            let decoded: Vec<Batch> = decode(&entry).unwrap().into_iter().map(|(_, batch)| batch).collect();
            assert_eq!(decoded, batches);
            let stamp_of = |n: usize| n.is_multiple_of(3).then_some(Stamp { id: RequestId([n as u8; 16]), seen: u64::MAX >> (n % 64) });
            let entry = encode(encoded.iter().enumerate().map(|(n, batch)| (stamp_of(n), batch.as_slice())));
            let stamped: Vec<_> = batches.into_iter().enumerate().map(|(n, batch)| (stamp_of(n), batch)).collect();
            assert_eq!((entry[0], decode(&entry).unwrap()), (IDENTIFIED, stamped));
        }
        assert!(decode(b"").is_err());
        assert!(decode(&[7, 0]).is_err());
    }

    #[test]
    fn an_entry_takes_no_more_than_its_limits_and_keeps_the_order() {
        let permits = Arc::new(Semaphore::new(100));
        let one = |commands: usize, bytes: usize| Waiting {
            stamp: None,
            encoded: vec![0; bytes],
            commands,
            answer: oneshot::channel().0,
            _count: permits.clone().try_acquire_owned().unwrap(),
            _bytes: permits.clone().try_acquire_owned().unwrap(),
        };
        let mut waiting = VecDeque::from([one(1_000, 10), one(24, 10), one(1, 10)]);
        assert_eq!(take(&mut waiting).iter().map(|w| w.commands).collect::<Vec<_>>(), [1_000, 24]);
        assert_eq!(take(&mut waiting).len(), 1);
        let mut waiting = VecDeque::from([one(1, limit::LOG_ENTRY_BYTES - 100), one(1, 200)]);
        assert_eq!(take(&mut waiting).len(), 1);
        assert_eq!(waiting.len(), 1);
    }
}
