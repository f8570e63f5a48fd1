//! The state machines behind one log: which command and which query goes where, and what a refusal does to a batch.
//!
//! Deterministic: the same batches at the same positions make byte-identical tables. Nothing here reads a clock,
//! draws a random number or iterates over anything unordered.
//! Invariants: a refused command changed nothing (each machine checks before it writes); a batch is one write transaction
//! of the caller's, so that an `Err` in the middle leaves nothing behind.
//! Not here: the log, the transaction, the service (`service.rs`).

use crate::table::{TableError, TableRead, TableWrite};
use crate::{chunk_index, namespace, root};
use spine::id::Seq;
use spine::wire::{Answer, Batch, Chain, Command, Query, Refusal, Reply};

/// Applies `batch`; one reply a command, in order.
///
/// - `at`: position of the first command; the n-th has `at + n`. The caller leaves room for all of them before the next batch.
///
/// # Errors
/// Only the table's own failures. What a command may not do is its reply, [`Reply::Refused`].
pub fn apply(table: &mut dyn TableWrite, batch: &Batch, at: Seq) -> Result<Vec<Reply>, TableError> {
    let mut replies = Vec::with_capacity(batch.commands.len());
    let mut stopped = false;
    for (ordinal, command) in (0u64..).zip(&batch.commands) {
        if stopped {
            replies.push(Reply::Refused(Refusal::Skipped));
            continue;
        }
        let reply = one(table, command, Seq(at.0 + ordinal))?;
        stopped = batch.chain == Chain::Stop && stops(&reply);
        replies.push(reply);
    }
    Ok(replies)
}

/// Whether a chain ends here: a refusal, or a Confirm of which some chunk's generation was over.
fn stops(reply: &Reply) -> bool {
    match reply {
        Reply::Refused(_) => true,
        Reply::Confirmed(outcomes) => outcomes.contains(&false),
        _ => false,
    }
}

fn one(table: &mut dyn TableWrite, command: &Command, seq: Seq) -> Result<Reply, TableError> {
    match command {
        Command::Root(command) => root::apply(table, command),
        Command::Namespace(command) => namespace::apply(table, command, seq),
        Command::Chunk(command) => chunk_index::apply(table, command),
    }
}

/// Answers `query` from one moment of the table.
///
/// # Errors
/// The table's own failures, and records in it that do not decode.
pub fn answer(table: &dyn TableRead, query: &Query) -> Result<Answer, TableError> {
    Ok(match query {
        Query::Root(query) => Answer::Root(root::answer(table, query)?),
        Query::Namespace(query) => Answer::Namespace(namespace::answer(table, query)?),
        Query::Chunk(query) => Answer::Chunk(chunk_index::answer(table, query)?),
    })
}
