//! Which names and chunks a command or a query is about, and whether the group owns them.

use super::Ranges;
use super::holding::{self, Access};
use crate::namespace::uploads;
use spine::id::{BucketId, ChunkId};
use spine::listing;
use spine::map::{NamePoint, Point};
use spine::wire::chunk::{ChunkCommand, ChunkQuery};
use spine::wire::namespace::{NamespaceCommand, NamespaceQuery};
use spine::wire::range::{ChunkSpan, Holding, NameSpan, Span};
use spine::wire::{MetadataError, Refusal};

/// The name that a command is about; `None`: it is about the group's own.
pub fn name_of(command: &NamespaceCommand) -> Option<(BucketId, &str)> {
    Some(match command {
        NamespaceCommand::OpenIntent { bucket, key, .. }
        | NamespaceCommand::RenewIntent { bucket, key, .. }
        | NamespaceCommand::AbortIntent { bucket, key, .. }
        | NamespaceCommand::Commit { bucket, key, .. }
        | NamespaceCommand::Delete { bucket, key, .. }
        | NamespaceCommand::SetTags { bucket, key, .. }
        | NamespaceCommand::PutPart { bucket, key, .. }
        | NamespaceCommand::CompleteUpload { bucket, key, .. }
        | NamespaceCommand::AbortUpload { bucket, key, .. } => (*bucket, key.as_str()),
        NamespaceCommand::CreateUpload(record) => (record.bucket, record.key.as_str()),
        NamespaceCommand::OutboxDone { .. } => return None,
    })
}

/// Whether the group may apply a command about names, and whether what it changes is to be noted.
///
/// # Errors
/// `NotHere`, `Frozen`.
pub fn write_name(ranges: &Ranges, command: &NamespaceCommand) -> Result<bool, Refusal> {
    // How it is as long as nothing ever moved: not worth a copy of the name.
    if holding::is_whole(&ranges.names) {
        return Ok(false);
    }
    let Some((bucket, key)) = name_of(command) else { return Ok(false) };
    let access = holding::access(&ranges.names, &NamePoint::new(bucket, key));
    holding::may_write(access)?;
    Ok(access == Access::Noted)
}

/// Whether the group may apply a command about chunks.
///
/// # Errors
/// `NotHere`, `Frozen`.
pub fn write_chunks(ranges: &Ranges, command: &ChunkCommand) -> Result<(), Refusal> {
    if holding::is_whole(&ranges.chunks) {
        return Ok(());
    }
    let one = |chunk: &ChunkId| holding::may_write(holding::access(&ranges.chunks, chunk));
    match command {
        ChunkCommand::Reserve { chunks, .. } => chunks.iter().try_for_each(one),
        ChunkCommand::Confirm { chunks, .. } | ChunkCommand::Restore { chunks, .. } => {
            chunks.iter().try_for_each(|confirmation| one(&confirmation.chunk))
        }
        ChunkCommand::Condemn { chunks, .. }
        | ChunkCommand::BeginDelete { chunks }
        | ChunkCommand::FinishDelete { chunks }
        | ChunkCommand::Forget { chunks } => chunks.iter().try_for_each(|(chunk, _)| one(chunk)),
        ChunkCommand::ReserveTarget { chunk, .. } | ChunkCommand::Move { chunk, .. } => one(chunk),
        ChunkCommand::MarkLost { shard, .. } => one(&shard.chunk),
        ChunkCommand::Unref { span, .. } | ChunkCommand::Hold { span, .. } => all_of(&ranges.chunks, span),
    }
}

/// Whether the group owns all of `span` and nothing of what it owns is frozen: what is done for a whole span is also remembered for it.
fn all_of<P: Point>(holding: &Holding<P>, span: &Span<P>) -> Result<(), Refusal> {
    if !holding.owned.as_ref().is_some_and(|owned| owned.covers(span)) {
        return Err(Refusal::NotHere);
    }
    if holding.outgoing.as_ref().is_some_and(|outgoing| outgoing.frozen) { Err(Refusal::Frozen) } else { Ok(()) }
}

/// The span that a query about names is answered from.
///
/// # Errors
/// `NotHere`.
pub fn read_name(ranges: &Ranges, query: &NamespaceQuery) -> Result<NameSpan, MetadataError> {
    let owned = ranges.names.owned.clone();
    let point = match query {
        NamespaceQuery::Head { bucket, key }
        | NamespaceQuery::Open { bucket, key }
        | NamespaceQuery::Reopen { bucket, key, .. }
        | NamespaceQuery::Manifests { bucket, key, .. }
        | NamespaceQuery::Upload { bucket, key, .. }
        | NamespaceQuery::Parts { bucket, key, .. } => Some(NamePoint::new(*bucket, key.as_str())),
        NamespaceQuery::List { query, place } => place.clone().or_else(|| listing::start(query, query.after.as_deref())),
        NamespaceQuery::Uploads { query, place } => place.clone().or_else(|| uploads::start(query)),
        NamespaceQuery::Outbox { .. } | NamespaceQuery::Intents { .. } => None,
    };
    match (point, owned) {
        (Some(point), Some(owned)) if owned.holds(&point) => Ok(owned),
        (Some(_), _) => Err(MetadataError::NotHere),
        // What the group has, or a page after which nothing can sort.
        (None, Some(owned)) => Ok(owned),
        (None, None) => Ok(nothing()),
    }
}

/// A span that holds no point.
fn nothing<P: Point>() -> Span<P> {
    Span { start: P::first(), end: Some(P::first()) }
}

/// The span that a query about chunks is answered from: `within`, or all that the group owns.
///
/// # Errors
/// `NotHere`.
pub fn read_chunks(ranges: &Ranges, within: Option<&ChunkSpan>, query: &ChunkQuery) -> Result<ChunkSpan, MetadataError> {
    let owned = ranges.chunks.owned;
    if within.is_some_and(|within| !owned.is_some_and(|owned| owned.covers(within))) {
        return Err(MetadataError::NotHere);
    }
    let one = |chunk: &ChunkId| owned.is_some_and(|owned| owned.holds(chunk));
    let here = match query {
        ChunkQuery::Records(chunks) => chunks.iter().all(one),
        ChunkQuery::References { chunk, .. } => one(chunk),
        _ => true,
    };
    if here { Ok(within.copied().or(owned).unwrap_or_else(nothing)) } else { Err(MetadataError::NotHere) }
}
