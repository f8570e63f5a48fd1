//! ReadIndex: before a read is answered, a majority says that this process still leads. Readers that come together share one round.
//!
//! Invariant: a reader takes part only in a round that begins after it came, so that what was acknowledged before is seen.

use super::{Types, fatal};
use crate::metric;
use openraft::Raft;
use openraft::error::{CheckIsLeaderError, RaftError};
use spine::wire::MetadataError;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Readers that wait for the next round; more wait at the door.
const WAITING: usize = 8_192;
/// Longest round: a majority's answer, and what it says has been committed applied here.
const ROUND: Duration = Duration::from_secs(5);

type Reader = oneshot::Sender<Result<(), MetadataError>>;

pub struct Reads {
    waiting: mpsc::Sender<Reader>,
}

impl Reads {
    /// The rounds' task ends when this is dropped.
    pub fn start(raft: Raft<Types>) -> Self {
        let (waiting, readers) = mpsc::channel(WAITING);
        tokio::spawn(run(raft, readers));
        Self { waiting }
    }

    /// Returns when a read of the table would see everything that was acknowledged before the call.
    pub async fn barrier(&self) -> Result<(), MetadataError> {
        let ended = || MetadataError::Unavailable { reason: "the group has ended".into() };
        let (reader, answer) = oneshot::channel();
        self.waiting.send(reader).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

async fn run(raft: Raft<Types>, mut readers: mpsc::Receiver<Reader>) {
    let mut round = Vec::new();
    while readers.recv_many(&mut round, WAITING).await > 0 {
        metric::READ_ROUND_READERS.observe(round.len() as f64);
        let outcome = match tokio::time::timeout(ROUND, raft.ensure_linearizable()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(_)))) => unavailable("this process does not lead the group"),
            Ok(Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_)))) => unavailable("no majority of the group answers"),
            Ok(Err(RaftError::Fatal(e))) => Err(fatal(&e)),
            Err(_) => unavailable("no majority of the group answered in time"),
        };
        // A reader that gave up hears nothing; that is all the difference.
        round.drain(..).for_each(|reader| drop(reader.send(outcome.clone())));
    }
}

fn unavailable(reason: &str) -> Result<(), MetadataError> {
    Err(MetadataError::Unavailable { reason: reason.to_string() })
}
