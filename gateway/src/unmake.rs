//! The end of a bucket whose names may lie in several groups.
//!
//! ```text
//! root marks it (nobody finds it, its name stays taken) -> Close in every group: empty, and it stays so
//!     all closed: End everywhere -> root forgets it        one has something: Open everywhere -> root unmarks it
//! ```
//! Invariants: it is gone only once every group has said that its part is empty and stays so; whoever finds the mark of a deletion that
//! nobody goes on with begins the next round of it, and the groups refuse what an older round still asks.
//! Not here: one group that has all names decides alone (`metadata`'s root group).

use bytes::Bytes;
use spine::id::BucketId;
use spine::wire::range::{BucketStep, RangeCommand};
use spine::wire::root::{BucketRecord, RootAnswer, RootCommand, RootQuery};
use spine::wire::{Answer, Batch, Chain, Command, Metadata, MetadataError, Query, Refusal, Reply};

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmade {
    Gone,
    /// Something is in it; it is what it was.
    NotEmpty,
}

/// A round of a marked bucket's deletion.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    pub bucket: BucketId,
    pub round: u64,
}

/// Goes through the groups and ends the deletion one way or the other.
///
/// # Errors
/// `Unavailable` also where somebody else has begun a later round; the mark stays, and the deletion is gone on with.
pub async fn finish(metadata: &dyn Metadata, name: &str, of: Round) -> Result<Unmade, MetadataError> {
    let empty = everywhere(metadata, of, BucketStep::Close).await?;
    everywhere(metadata, of, if empty { BucketStep::End } else { BucketStep::Open }).await?;
    let end = RootCommand::EndDelete { name: name.to_string(), round: of.round, gone: empty };
    match one(metadata, Command::Root(end)).await? {
        Reply::Done => Ok(if empty { Unmade::Gone } else { Unmade::NotEmpty }),
        other => Err(unexpected(&other)),
    }
}

/// Takes one step in every group that may have names of the bucket; `false`: something is in it.
async fn everywhere(metadata: &dyn Metadata, of: Round, step: BucketStep) -> Result<bool, MetadataError> {
    let Round { bucket, round } = of;
    let mut from = Bytes::new();
    loop {
        let order = RangeCommand::Bucket { bucket, round, step, from: from.clone() };
        match one(metadata, Command::Range(order)).await? {
            Reply::Stepped { end: Some(end) } if end.bucket == bucket && *end.key > *from => from = end.key.into(),
            Reply::Stepped { .. } => return Ok(true),
            Reply::Refused(Refusal::BucketNotEmpty) => return Ok(false),
            other => return Err(unexpected(&other)),
        }
    }
}

/// Buckets whose deletion was begun, with the rounds that were begun last.
pub async fn marked(metadata: &dyn Metadata) -> Result<Vec<(BucketRecord, u64)>, MetadataError> {
    match metadata.query(Query::Root(RootQuery::Deleting)).await? {
        Answer::Root(RootAnswer::Deleting(marked)) => Ok(marked),
        _ => Err(MetadataError::Storage { reason: "metadata gave an answer to another question".into() }),
    }
}

/// Begins the next round of a deletion that somebody has left, and finishes it.
///
/// # Errors
/// As [`finish`].
pub async fn resume(metadata: &dyn Metadata, record: &BucketRecord) -> Result<(), MetadataError> {
    let again = RootCommand::DeleteBucket { name: record.name.clone(), tenant: record.tenant };
    match one(metadata, Command::Root(again)).await? {
        Reply::BucketDeleting { bucket, round } => finish(metadata, &record.name, Round { bucket, round }).await.map(|_| ()),
        // Somebody was faster, or one group has all names by now.
        Reply::Done | Reply::Refused(Refusal::NoSuchBucket | Refusal::BucketNotEmpty) => Ok(()),
        other => Err(unexpected(&other)),
    }
}

async fn one(metadata: &dyn Metadata, command: Command) -> Result<Reply, MetadataError> {
    let replies = metadata.propose(Batch { chain: Chain::Stop, commands: vec![command] }).await?;
    replies.into_iter().next().ok_or_else(|| MetadataError::Storage { reason: "no reply".into() })
}

fn unexpected(reply: &Reply) -> MetadataError {
    match reply {
        Reply::Refused(why) => MetadataError::Unavailable { reason: format!("a bucket's deletion is not through: {why}") },
        _ => MetadataError::Storage { reason: "metadata gave an answer to another question".into() },
    }
}
