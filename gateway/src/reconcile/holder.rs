//! Whether a restore is what holds the collection.
//!
//! A restore has the map begin far above every epoch that a map gets by changes, and further above with every restore. So the epoch says
//! how often this metadata came out of a copy; and what released it leaves a bucket of the copies' tenant, named after that, which no
//! earlier life of this metadata and no copy that was made before it has. Chunks that are doubted say that nothing has released it; chunks
//! that moved while somebody else held the collection are doubted too, so that it takes all three.

use super::ReconcileError;
use crate::body::WriteError;
use crate::core::Core;
use crate::dedup::unexpected;
use crate::reindex;
use crate::snapshot::{SnapshotError, kept};
use spine::wire::root::{RootAnswer, RootQuery};
use spine::wire::{Answer, Query};

/// A restore's epoch is at least so far above that of the copy's map; changes of a map add one each.
const EPOCHS: u64 = 1 << 40;

/// Which life of the metadata it is.
///
/// # Errors
/// Refused unless it is one that a restore began, and the collection was not released since.
pub(super) async fn life(core: &Core) -> Result<u64, ReconcileError> {
    if !reindex::is_held(core).await? {
        return Err(ReconcileError::NotHeld);
    }
    let answer = core.metadata.query(Query::Root(RootQuery::Map { known: None })).await.map_err(WriteError::from)?;
    let Answer::Root(RootAnswer::Map(Some(map))) = answer else { return Err(unexpected("Map", &"something else").into()) };
    let life = map.epoch().0 / EPOCHS;
    if life == 0 {
        return Err(ReconcileError::NotRestored);
    }
    // A restore doubts what it brings, until the collection is released.
    let is_over = !reindex::is_doubted(core).await? || kept::bucket(&core.metadata, &mark(life)).await.map_err(of)?.is_some();
    if is_over { Err(ReconcileError::Over) } else { Ok(life) }
}

/// Whether it is a restore that holds the collection.
///
/// # Errors
/// Metadata's.
pub(crate) async fn is_waiting(core: &Core) -> Result<bool, WriteError> {
    match life(core).await {
        Ok(_) => Ok(true),
        Err(ReconcileError::Store(error)) => Err(error),
        Err(_) => Ok(false),
    }
}

/// Notes that this life's restore holds nothing any more.
pub(super) async fn note(core: &Core, life: u64) -> Result<(), WriteError> {
    kept::settle(&core.metadata, &core.keys, &mark(life)).await.map(drop).map_err(of)
}

fn mark(life: u64) -> String {
    format!("(reconciled {life})")
}

fn of(error: SnapshotError) -> WriteError {
    match error {
        SnapshotError::Metadata(error) => WriteError::Metadata(error),
        SnapshotError::Write(error) => error,
        other => WriteError::Unavailable { reason: other.to_string() },
    }
}
