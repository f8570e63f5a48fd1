//! The state machines behind one log: which command and which query goes where, and what a refusal does to a batch.
//!
//! Deterministic: the same batches at the same positions make byte-identical tables. Nothing here reads a clock,
//! draws a random number or iterates over anything unordered.
//! Invariants: a refused command changed nothing (each machine checks before it writes); a batch is one write transaction
//! of the caller's, so that an `Err` in the middle leaves nothing behind.
//! Not here: the log, the transaction, the service (`service.rs`).

use crate::range::{self, Ranges, access, sound};
use crate::table::{TableError, TableRead, TableWrite};
use crate::{chunk_index, namespace, restore, root};
use spine::fleet::revocation::SIGNED_BYTES;
use spine::id::{GroupId, Seq};
use spine::limit;
use spine::wire::copy::RestoreCommand;
use spine::wire::namespace::NamespaceCommand;
use spine::wire::range::{Range, RangeCommand};
use spine::wire::root::{FleetNodeRecord, FleetNodeState, MoveAsk, RootCommand};
use spine::wire::{Answer, Batch, Chain, Command, MetadataError, Query, Refusal, Reply};

/// Longest name of a tenant, an access key or a bucket: they are table keys. S3 allows buckets 63 and access keys 128.
const NAME_BYTES: usize = 255;
/// Bits of a [`Seq`] below the log index: room for the commands of one entry.
pub const ORDINAL_BITS: u32 = 20;

/// Whether `batch` may go into the log: what breaks a limit here would fail in the table, on every replica, after it was logged.
///
/// # Errors
/// [`MetadataError::TooLarge`], with what and how much. The size of the encoded batch is the log's to check.
pub fn check(batch: &Batch) -> Result<(), MetadataError> {
    at_most("commands", batch.commands.len(), limit::BATCH_COMMANDS)?;
    batch.commands.iter().try_for_each(|command| match command {
        Command::Root(command) => check_root(command),
        Command::Namespace(command) => check_namespace(command),
        Command::Range(command) => check_range(command),
        Command::Restore(RestoreCommand::Rows { rows, .. }) if !restore::are_rows(rows) => too_large("rows that have no place"),
        Command::Chunk(_) | Command::Restore(_) => Ok(()),
    })
}

fn check_root(command: &RootCommand) -> Result<(), MetadataError> {
    let (what, name) = match command {
        RootCommand::CreateTenant(record) => ("tenant name bytes", &record.name),
        RootCommand::RevokeTenant { name } => ("tenant name bytes", name),
        RootCommand::CreateKey(record) | RootCommand::ReplaceKey(record) => ("access key bytes", &record.access_key),
        RootCommand::RevokeKey { access_key } => ("access key bytes", access_key),
        RootCommand::CreateBucket(record) => ("bucket name bytes", &record.name),
        RootCommand::DeleteBucket { name, .. } | RootCommand::EndDelete { name, .. } => ("bucket name bytes", name),
        RootCommand::AdmitNode(record) => return check_node(record),
        RootCommand::SetNodeState { state: FleetNodeState::Suspended { reason }, .. } => ("reason bytes", reason),
        RootCommand::CreateFleet(record) => return at_most("CA certificate bytes", record.authority.len(), limit::CERTIFICATE_BYTES),
        RootCommand::Revoke { list, .. } => return at_most("revocation list bytes", list.len(), SIGNED_BYTES),
        RootCommand::AdmitMetadataNode(record) => {
            at_most("node address bytes", record.address.len(), limit::ADDRESS_CHARS)?;
            return at_most("certificate bytes", record.certificate.len(), limit::CERTIFICATE_BYTES);
        }
        RootCommand::BeginMove { ask, reason, .. } => {
            at_most("reason bytes", reason.len(), limit::REASON_BYTES)?;
            return check_move(ask);
        }
        RootCommand::BeginShift { from, to, reason, .. } => {
            at_most("reason bytes", reason.len(), limit::REASON_BYTES)?;
            return [from, to]
                .into_iter()
                .try_for_each(|member| at_most("node address bytes", member.at.address.len(), limit::ADDRESS_CHARS));
        }
        RootCommand::RemoveMetadataNode { .. }
        | RootCommand::TakeLease { .. }
        | RootCommand::TakeMove { .. }
        | RootCommand::StepMove { .. }
        | RootCommand::GiveUpMove { .. }
        | RootCommand::EndGroup { .. }
        | RootCommand::LeaveMetadataNode { .. }
        | RootCommand::EndShift { .. }
        | RootCommand::StopRebalance { .. } => return Ok(()),
        RootCommand::NoteNode(_) | RootCommand::SetNodeState { .. } | RootCommand::CreateInvite(_) | RootCommand::UseInvite { .. } => {
            return Ok(());
        }
    };
    at_most(what, name.len(), NAME_BYTES)
}

fn check_move(ask: &MoveAsk) -> Result<(), MetadataError> {
    let members = match ask {
        MoveAsk::SplitNames { at, members } => {
            at_most("key bytes", at.key.len(), limit::KEY_BYTES)?;
            members
        }
        MoveAsk::SplitChunks { members, .. } | MoveAsk::MoveNames { members, .. } | MoveAsk::MoveChunks { members, .. } => members,
        MoveAsk::MergeNames { .. } | MoveAsk::MergeChunks { .. } => return Ok(()),
    };
    at_most("members", members.len(), limit::MEMBERS)?;
    members.iter().try_for_each(|member| at_most("node address bytes", member.at.address.len(), limit::ADDRESS_CHARS))
}

fn check_node(record: &FleetNodeRecord) -> Result<(), MetadataError> {
    at_most("machine name bytes", record.machine.len(), NAME_BYTES)?;
    at_most("zone name bytes", record.zone.len(), NAME_BYTES)?;
    at_most("node address bytes", record.address.len(), limit::ADDRESS_CHARS)?;
    at_most("certificate serial bytes", record.serial.len(), NAME_BYTES)
}

fn check_namespace(command: &NamespaceCommand) -> Result<(), MetadataError> {
    let key = match command {
        NamespaceCommand::Commit { key, .. }
        | NamespaceCommand::Delete { key, .. }
        | NamespaceCommand::SetTags { key, .. }
        | NamespaceCommand::CompleteUpload { key, .. }
        | NamespaceCommand::AbortUpload { key, .. }
        | NamespaceCommand::OpenIntent { key, .. }
        | NamespaceCommand::RenewIntent { key, .. }
        | NamespaceCommand::AbortIntent { key, .. } => key,
        NamespaceCommand::CreateUpload(record) => &record.key,
        NamespaceCommand::PutPart { key, part, .. } => {
            match part.number as usize {
                0 => too_large("part number 0")?,
                number => at_most("part number", number, limit::PARTS as usize)?,
            }
            key
        }
        NamespaceCommand::OutboxDone { .. } => return Ok(()),
    };
    at_most("key bytes", key.len(), limit::KEY_BYTES)
}

fn check_range(command: &RangeCommand) -> Result<(), MetadataError> {
    match command {
        RangeCommand::Prepare { range: Range::Names(span), .. } | RangeCommand::Export { range: Range::Names(span), .. } => {
            at_most("key bytes", span.start.key.len(), limit::KEY_BYTES)?;
            at_most("key bytes", span.end.as_ref().map_or(0, |end| end.key.len()), limit::KEY_BYTES)
        }
        RangeCommand::Import { kind, rows, .. } | RangeCommand::ImportChecked { kind, rows, .. } => {
            at_most("rows", rows.len(), limit::MOVE_ROWS)?;
            if rows.iter().all(|row| sound::is_sound(*kind, row)) { Ok(()) } else { too_large("a row that no group has") }
        }
        RangeCommand::Bucket { from, .. } => at_most("key bytes", from.len(), limit::KEY_BYTES),
        _ => Ok(()),
    }
}

fn at_most(what: &str, is: usize, limit: usize) -> Result<(), MetadataError> {
    if is <= limit { Ok(()) } else { too_large(&format!("{what} {is} of at most {limit}")) }
}

fn too_large(what: &str) -> Result<(), MetadataError> {
    Err(MetadataError::TooLarge { what: what.to_owned() })
}

/// Applies `batch`; one reply a command, in order.
///
/// - `group`: whose log this is.
/// - `at`: position of the first command; the n-th has `at + n`. The caller leaves room for all of them before the next batch.
///
/// # Errors
/// Only the table's own failures. What a command may not do is its reply, [`Reply::Refused`].
pub fn apply(table: &mut dyn TableWrite, group: GroupId, batch: &Batch, at: Seq) -> Result<Vec<Reply>, TableError> {
    let mut ranges = Ranges::load(table, group)?;
    let mut replies = Vec::with_capacity(batch.commands.len());
    let mut stopped = false;
    let mut restoring = restore::is_under_way(table)?;
    for (ordinal, command) in (0u64..).zip(&batch.commands) {
        if stopped {
            replies.push(Reply::Refused(Refusal::Skipped));
            continue;
        }
        let reply = match restoring && !restore::admits(command) {
            true => Reply::Refused(Refusal::Restoring),
            false => one(table, group, &mut ranges, command, Seq(at.0 + ordinal))?,
        };
        if matches!(command, Command::Restore(_)) {
            restoring = restore::is_under_way(table)?;
        }
        stopped = batch.chain == Chain::Stop && stops(&reply);
        replies.push(reply);
    }
    Ok(replies)
}

/// Whether a chain ends here: a refusal, or a Confirm of which some chunk's generation was over.
pub fn stops(reply: &Reply) -> bool {
    match reply {
        Reply::Refused(_) => true,
        Reply::Confirmed(outcomes) => outcomes.contains(&false),
        _ => false,
    }
}

fn one(table: &mut dyn TableWrite, group: GroupId, ranges: &mut Ranges, command: &Command, at: Seq) -> Result<Reply, TableError> {
    match command {
        Command::Root(command) => root::apply(table, command),
        Command::Namespace(command) => range::apply_name(table, group, ranges, command, at),
        Command::Chunk(command) => range::apply_chunk(table, ranges, command),
        Command::Range(command) => range::apply(table, ranges, command, at),
        Command::Restore(command) => restore::apply(table, ranges, command, at),
    }
}

/// Answers `query` from one moment of the table of `group`.
///
/// # Errors
/// The table's own failures, and records in it that do not decode; `NotHere`: the group does not own what was asked about.
pub fn answer(table: &dyn TableRead, group: GroupId, query: &Query) -> Result<Answer, MetadataError> {
    let ranges = || Ranges::load(table, group);
    Ok(match query {
        Query::Root(query) => Answer::Root(root::answer(table, query)?),
        Query::Namespace(query) => {
            let owned = access::read_name(&ranges()?, query)?;
            Answer::Namespace(namespace::answer(table, group, &owned, query)?)
        }
        Query::Chunk(query) => Answer::Chunk(chunk_index::answer(table, &access::read_chunks(&ranges()?, None, query)?, query)?),
        Query::Within { span, query } => {
            Answer::Chunk(chunk_index::answer(table, &access::read_chunks(&ranges()?, Some(span), query)?, query)?)
        }
        Query::Range(query) => Answer::Range(range::answer(table, ranges()?, query)?),
        Query::Copy(_) => return Err(TableError::Storage("a copy is made part by part, by the node".into()).into()),
    })
}

#[cfg(test)]
mod tests;
