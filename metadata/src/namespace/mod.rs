//! A subtree's machine: objects, multipart uploads, intents, and the outbox of references to drop.
//!
//! - `intent.rs`: the fence of one write, open once and then over for good
//! - `object.rs`: commit, delete, tags; `condition.rs`: what a client demands of the current version
//! - `upload.rs`, `complete.rs`: multipart uploads; `uploads.rs`: their listing
//! - `closed.rs`: buckets that take no writes
//! - `list.rs`: listing objects; how keys fall into common prefixes is [`spine::listing::group`]'s to say
//! - `outbox.rs`: ended versions, whose chunk references are dropped only after the log says that they ended
//!
//! Invariants:
//! - Every committed version with pieces has its body, and every piece its manifest; the manifest stays until the piece's
//!   references were dropped, since a reader may be in the middle of it.
//! - A piece's version is in exactly one of: open intents, committed versions and parts, the outbox, ended ones.
//! - Versions of a key are ordered by log position, and their modification times never go back.
//!
//! # What has ended stays ended
//!
//! A delayed duplicate of an old message must not bring a version back: OpenIntent for a version that was committed would let
//! the reaper abort it and drop references that are in use; Commit of one that was replaced would undo what came after it.
//! So an intent opens only for a version that is neither open, nor committed (its manifest is there), nor in the outbox or
//! ended since (`ended.rs`), and a Commit of pieces needs an open intent. A Commit repeated while its version is still current answers
//! as the first one did. Inline versions and uploads have no intent; they are remembered when they end, all the same.
//! Ended ids are forgotten when [`spine::limit::ENDED_KEPT`] younger ones have been released. Inside one process messages
//! keep their order, so no duplicate is late at all; between processes a proposal that old has run out of its deadline.
//! An OpenIntent later still would only open an intent that holds nothing and is reaped; harm would need its Commit to be as late.
//!
//! Not here: references (`chunk_index/`), buckets (`root/`), who may do what (the gateway).

pub mod closed;
mod complete;
mod condition;
pub mod intent;
mod list;
mod object;
pub mod outbox;
#[cfg(test)]
mod tests;
mod upload;
pub mod uploads;

use crate::table::{TableError, TableRead, TableWrite};
use spine::id::{GroupId, Seq};
use spine::wire::Reply;
use spine::wire::namespace::{NamespaceAnswer, NamespaceCommand, NamespaceQuery};
use spine::wire::range::NameSpan;

/// Applies one command at its place in the log; a refusal changed nothing.
pub fn apply(table: &mut dyn TableWrite, group: GroupId, command: &NamespaceCommand, seq: Seq) -> Result<Reply, TableError> {
    match command {
        NamespaceCommand::OpenIntent { version, bucket, key, writer, opened } => {
            intent::open(table, *version, (*bucket, key), *writer, *opened)
        }
        NamespaceCommand::RenewIntent { version, now, .. } => intent::renew(table, *version, *now),
        NamespaceCommand::AbortIntent { version, .. } => intent::abort(table, *version),
        NamespaceCommand::Commit { bucket, key, new, condition } => object::commit(table, *bucket, key, new, condition, seq),
        NamespaceCommand::Delete { bucket, key, condition } => object::delete(table, *bucket, key, condition),
        NamespaceCommand::SetTags { bucket, key, tags } => object::set_tags(table, *bucket, key, tags),
        NamespaceCommand::CreateUpload(record) => upload::create(table, record),
        NamespaceCommand::PutPart { upload, part, manifest, .. } => upload::put_part(table, *upload, part, manifest.as_ref()),
        NamespaceCommand::CompleteUpload { upload, bucket, key, parts, new, condition } => {
            complete::complete(table, *upload, *bucket, key, parts, new, condition, seq)
        }
        NamespaceCommand::AbortUpload { upload, bucket, key } => upload::abort(table, *upload, *bucket, key),
        NamespaceCommand::OutboxDone { entries } => outbox::done(table, group, entries),
    }
}

/// Answers one query from the names that the group owns.
pub fn answer(table: &dyn TableRead, group: GroupId, owned: &NameSpan, query: &NamespaceQuery) -> Result<NamespaceAnswer, TableError> {
    Ok(match query {
        NamespaceQuery::Head { bucket, key } => NamespaceAnswer::Head(object::head(table, *bucket, key)?),
        NamespaceQuery::Open { bucket, key } => NamespaceAnswer::Open(object::open(table, *bucket, key)?),
        NamespaceQuery::Reopen { bucket, key, known } => NamespaceAnswer::Reopen(object::reopen(table, *bucket, key, *known)?),
        NamespaceQuery::Manifests { versions, .. } => NamespaceAnswer::Manifests(object::manifests(table, versions)?),
        NamespaceQuery::List { query, place } => {
            NamespaceAnswer::List { page: list::list(table, owned, query, place.as_ref())?, end: owned.end.clone() }
        }
        NamespaceQuery::Upload { bucket, key, upload } => NamespaceAnswer::Upload(upload::get(table, *bucket, key, *upload)?),
        NamespaceQuery::Parts { upload, after, max, .. } => {
            let (parts, truncated) = upload::parts(table, *upload, *after, *max)?;
            NamespaceAnswer::Parts { parts, truncated }
        }
        NamespaceQuery::Uploads { query, place } => {
            NamespaceAnswer::Uploads { page: uploads::list(table, owned, query, place.as_ref())?, end: owned.end.clone() }
        }
        NamespaceQuery::Outbox { max } => NamespaceAnswer::Outbox(outbox::list(table, group, *max)?),
        NamespaceQuery::Intents { after, max } => NamespaceAnswer::Intents(intent::list(table, owned, *after, *max)?),
    })
}
