//! Which chunks have to be stored: reservations in batches, and one upload where several writes of this process want one.
//!
//! Every batch begins with the write's intent (opened by the first, renewed by the others) and stops if it is closed, so that no
//! reference is ever added to a version that is over. While one batch is on its way, the next one gathers.
//! Invariant: a chunk that a write reserved is pinned until the write is committed or aborted.
//! Not here: what a reservation does (`metadata`'s chunk index), storing (`store.rs`).

use crate::body::WriteError;
use crate::intent::Intent;
use crate::metric::Stage;
use spine::id::{ChunkId, Gen, UnixMs, VersionId};
use spine::wire::chunk::{ChunkCommand, ReserveOutcome};
use spine::wire::{Batch, Chain, Command, Metadata, MetadataError, Refusal, Reply};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::{OnceCell, mpsc, oneshot};

/// Chunks in one reservation.
pub const RESERVE_STEP: usize = 256;

/// Reserves `chunks` for `intent` in one round; one outcome a chunk, in order. The index must not be asked for none.
pub async fn reserve(
    metadata: &dyn Metadata,
    intent: &Intent,
    chunks: Vec<ChunkId>,
    now: UnixMs,
) -> Result<Vec<ReserveOutcome>, WriteError> {
    let version = intent.version;
    let count = chunks.len();
    let commands = vec![intent.fence(now), Command::Chunk(ChunkCommand::Reserve { version, chunks })];
    let mut replies = Stage::Reserve.time_async(metadata.propose(Batch { chain: Chain::Stop, commands })).await?;
    match replies.pop() {
        Some(Reply::Reserved(outcomes)) if outcomes.len() == count => Ok(outcomes),
        Some(Reply::Refused(Refusal::Skipped | Refusal::IntentClosed)) => Err(WriteError::Aborted { version }),
        other => Err(unexpected("Reserve", &other)),
    }
}

/// A reply that the contract does not allow.
pub fn unexpected(what: &str, reply: &impl std::fmt::Debug) -> WriteError {
    WriteError::Metadata(MetadataError::Storage { reason: format!("{what} answered {reply:?}") })
}

/// One question on its way to the write's reservation batches.
struct Ask {
    chunk: ChunkId,
    answer: oneshot::Sender<Result<ReserveOutcome, WriteError>>,
}

/// The asking end: one a write, shared by its chunks.
#[derive(Clone)]
pub struct Reservations {
    asks: mpsc::Sender<Ask>,
}

impl Reservations {
    /// The asking end and the answering end.
    pub fn new() -> (Reservations, Answers) {
        let (asks, received) = mpsc::channel(RESERVE_STEP);
        (Reservations { asks }, Answers { received })
    }

    pub async fn reserve(&self, chunk: ChunkId, version: VersionId) -> Result<ReserveOutcome, WriteError> {
        let (answer, outcome) = oneshot::channel();
        let asked = self.asks.send(Ask { chunk, answer }).await;
        match (asked, outcome.await) {
            (Ok(()), Ok(outcome)) => outcome,
            _ => Err(WriteError::Aborted { version }),
        }
    }
}

/// The answering end.
pub struct Answers {
    received: mpsc::Receiver<Ask>,
}

impl Answers {
    /// Answers until the asking ends are gone. One round at a time; each takes all that waits.
    pub async fn run(mut self, metadata: &dyn Metadata, intent: &Intent, clock: impl Fn() -> UnixMs) {
        let mut asks = Vec::new();
        while self.received.recv_many(&mut asks, RESERVE_STEP).await > 0 {
            let chunks = asks.iter().map(|ask| ask.chunk).collect();
            match reserve(metadata, intent, chunks, clock()).await {
                Ok(outcomes) => asks.drain(..).zip(outcomes).for_each(|(ask, outcome)| drop(ask.answer.send(Ok(outcome)))),
                Err(error) => {
                    let (mut first, version) = (Some(error), intent.version);
                    for ask in asks.drain(..) {
                        let _ = ask.answer.send(Err(first.take().unwrap_or(WriteError::Aborted { version })));
                    }
                }
            }
        }
    }
}

/// Uploads of this process under way or not confirmed yet, by the life of the chunk they are for.
///
/// Whoever comes second waits for the first one's placement and confirms the same; if the first one fails or its client goes
/// away, the second uploads by itself.
#[derive(Default)]
pub struct Flights {
    under_way: Mutex<HashMap<(ChunkId, Gen), Weak<Flight>>>,
}

/// One upload; kept alive by every write that needs it confirmed.
pub struct Flight {
    key: (ChunkId, Gen),
    home: Weak<Flights>,
    /// What was stored, once it was.
    pub stored: OnceCell<crate::durable::Quorum>,
}

impl Flights {
    /// The upload of this life of the chunk: a new one or the one under way.
    pub fn join(self: &Arc<Self>, chunk: ChunkId, generation: Gen) -> Arc<Flight> {
        let key = (chunk, generation);
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = under_way.get(&key).and_then(Weak::upgrade) {
            return flight;
        }
        let flight = Arc::new(Flight { key, home: Arc::downgrade(self), stored: OnceCell::new() });
        under_way.insert(key, Arc::downgrade(&flight));
        flight
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let Some(home) = self.home.upgrade() else { return };
        let mut under_way = home.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if under_way.get(&self.key).is_some_and(|flight| flight.strong_count() == 0) {
            under_way.remove(&self.key);
        }
    }
}
