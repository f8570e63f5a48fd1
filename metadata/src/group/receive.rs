//! A snapshot that comes from the leader: rows go into a table of their own, which takes the old one's place once all of it was read again.
//!
//! ```text
//! part 0 -> a new, empty table beside the one in use -> part 1, 2 .. -> the last: read it all again, compare, sync -> openraft installs it
//! ```
//! Invariants: until the switch, which is one rename, the old table and the log are as they were; what is incomplete, out of order or
//! altered is never installed, and goes at the next start at the latest; one stream at a time.

use super::apply::applied_in;
use super::{Group, convert};
use crate::checkpoint::{Image, Incoming, IncomingError};
use crate::format;
use crate::metric;
use openraft::{BasicNode, Snapshot, SnapshotMeta};
use spine::id::MemberId;
use spine::wire::MetadataError;
use spine::wire::cluster::{ClusterError, SnapshotEnd, SnapshotPart, SnapshotTaken};
use std::time::Duration;
use tokio::time::Instant;

/// A stream that nobody goes on with is let go of after this.
const ABANDONED: Duration = Duration::from_secs(60);

/// What has come so far.
#[derive(Default)]
pub struct Receiving {
    stream: [u8; 16],
    next: u32,
    incoming: Option<Incoming>,
    /// Its last part was answered: the same again gets the same answer.
    installed: bool,
    heard: Option<Instant>,
}

impl Group {
    /// Takes one part of a snapshot.
    ///
    /// # Errors
    /// `OtherMember`; `Invalid` for what is no part of this stream, or is damaged; `Metadata` where this process failed.
    pub async fn take_part(&self, part: SnapshotPart) -> Result<SnapshotTaken, ClusterError> {
        self.check_member(part.to)?;
        let mine = self.raft.metrics().borrow().vote;
        let theirs = convert::vote_of(&part.ballot);
        if mine > theirs {
            return Ok(SnapshotTaken::Installed(convert::ballot_of(&mine)));
        }
        let mut receiving = self.receiving.lock().await;
        if part.stream == receiving.stream && receiving.installed {
            return Ok(SnapshotTaken::Installed(part.ballot));
        }
        if part.number == 0 && (part.stream != receiving.stream || receiving.incoming.is_none()) {
            let old = std::mem::take(&mut *receiving);
            let checkpoints = self.applier.checkpoints().clone();
            let begun = blocking(move || {
                drop(old);
                checkpoints.receive()
            });
            receiving.incoming = Some(begun.await?);
            receiving.stream = part.stream;
        }
        if part.stream != receiving.stream {
            return Err(invalid("another stream has begun"));
        }
        receiving.heard = Some(Instant::now());
        if part.number.checked_add(1) == Some(receiving.next) {
            return Ok(SnapshotTaken::More(receiving.next));
        }
        // Whatever fails from here on, the stream is over.
        let incoming = receiving.incoming.take().filter(|_| part.number == receiving.next);
        let Some(mut incoming) = incoming else { return Err(invalid("a part out of order")) };
        let (rows, end) = (part.rows, part.end);
        metric::SNAPSHOT_BYTES
            .with_label_values(&["received"])
            .inc_by(rows.iter().map(|row| (row.key.len() + row.value.len()) as u64).sum());
        let written = blocking(move || {
            incoming.write(&rows)?;
            Ok(incoming)
        });
        let incoming = written.await?;
        receiving.next += 1;
        let Some(end) = end else {
            receiving.incoming = Some(incoming);
            return Ok(SnapshotTaken::More(receiving.next));
        };
        let taken = self.install(theirs, end, incoming).await?;
        receiving.installed = true;
        Ok(taken)
    }

    async fn install(&self, vote: openraft::Vote<u64>, end: SnapshotEnd, mut incoming: Incoming) -> Result<SnapshotTaken, ClusterError> {
        let (meta, format) = convert::meta_of(&end).map_err(|reason| invalid(&reason))?;
        self.folder.admit(format).await?;
        let marker = marker_of(&meta)?;
        let last = meta.last_log_id;
        let checked = blocking(move || {
            incoming.finish(end.rows, end.digest, &marker)?;
            let (applied, _) = applied_in(&incoming.read()?)?;
            if applied != last {
                return Err(IncomingError::Wrong("it ends at another entry than it says"));
            }
            if format::of(&incoming.read()?)? == format {
                Ok(incoming)
            } else {
                Err(IncomingError::Wrong("it has another format than it says"))
            }
        });
        let image = Box::new(Image::Come(checked.await?));
        let installed = self.raft.install_full_snapshot(vote, Snapshot { meta, snapshot: image }).await;
        let response = installed.map_err(|e| ClusterError::Metadata(super::fatal(&e)))?;
        tracing::info!(applied = self.applied_index(), "a snapshot was installed");
        Ok(SnapshotTaken::Installed(convert::ballot_of(&response.vote)))
    }

    /// Lets go of a stream that was abandoned.
    pub async fn forget_abandoned(&self) {
        let Ok(mut receiving) = self.receiving.try_lock() else { return };
        if receiving.incoming.is_some() && receiving.heard.is_some_and(|heard| heard.elapsed() > ABANDONED) {
            let old = std::mem::take(&mut *receiving);
            // Removing files is the disk's time; nobody waits for its outcome: the next start removes what is left.
            drop(tokio::task::spawn_blocking(move || drop(old)).await);
        }
    }

    /// # Errors
    /// The message is for a member of another folder.
    pub(super) fn check_member(&self, to: MemberId) -> Result<(), ClusterError> {
        if to == self.id { Ok(()) } else { Err(ClusterError::OtherMember { member: self.id }) }
    }
}

fn marker_of(meta: &SnapshotMeta<u64, BasicNode>) -> Result<Vec<u8>, ClusterError> {
    postcard::to_allocvec(&meta.last_log_id).map_err(|e| invalid(&e.to_string()))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, IncomingError> + Send + 'static) -> Result<T, ClusterError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(IncomingError::Wrong(what))) => Err(invalid(what)),
        Ok(Err(error)) => Err(MetadataError::Storage { reason: error.to_string() }.into()),
        Err(error) => Err(MetadataError::Unavailable { reason: error.to_string() }.into()),
    }
}

fn invalid(what: &str) -> ClusterError {
    ClusterError::Invalid { what: what.to_string() }
}
