//! A checkpoint on its way to a member that is too far behind for the log: part by part, each acknowledged before the next is read.
//!
//! What is in memory is one part. The checkpoint's moment stays pinned for as long: the table may grow meanwhile by what changes.

use super::convert;
use super::formats::understood_at;
use crate::checkpoint::{INSTALLED, Pinned, Place, read_part};
use crate::cluster::{CallError, Link};
use crate::format;
use crate::metric;
use crate::table::Space;
use openraft::{BasicNode, SnapshotMeta};
use spine::id::{GroupId, MemberId};
use spine::wire::cluster::{Ballot, Call, SnapshotPart, SnapshotTaken};
use spine::wire::copy::Tally;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// Longest wait for a part to be taken, and for the last: the receiver reads all of it again, and syncs it.
const PART: Duration = Duration::from_secs(20);
const LAST_PART: Duration = Duration::from_secs(900);
/// A part that is not taken is sent again for this long.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(200);

pub struct Sending {
    pub link: Arc<Link>,
    pub group: GroupId,
    pub to: MemberId,
    pub ballot: Ballot,
    pub meta: SnapshotMeta<u64, BasicNode>,
    pub pinned: Pinned,
}

impl Sending {
    /// Sends all of it. Returns the ballot that the receiver knows.
    ///
    /// # Errors
    /// Says why it was given up; the next attempt begins anew.
    pub async fn run(self) -> Result<Ballot, String> {
        let begun = Instant::now();
        let pinned = self.pinned.clone();
        let format = tokio::task::spawn_blocking(move || format::of(&*pinned.lock().unwrap_or_else(PoisonError::into_inner))).await;
        let format = format.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        // It would refuse the last part, each time.
        if let Some(newest) = understood_at(&self.link).await.filter(|newest| *newest < format) {
            return Err(format!("the receiver understands format {newest} and not {format}: upgrade it"));
        }
        let mut stream = [0; 16];
        getrandom::fill(&mut stream).map_err(|e| e.to_string())?;
        let (mut place, mut tally) = (Place::default(), Tally::default());
        for number in 0.. {
            let pinned = self.pinned.clone();
            let read = tokio::task::spawn_blocking(move || {
                read_part(&pinned, place, tally, |space, key| space == Space::Meta && key == INSTALLED)
            })
            .await;
            let (rows, next, counted) = read.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
            (place, tally) = (next, counted);
            let end = match place.is_end() {
                true => Some(convert::end_of(&self.meta, format, tally.rows(), tally.digest()).map_err(|e| e.to_string())?),
                false => None,
            };
            let last = end.is_some();
            let part = SnapshotPart { group: self.group, to: self.to, ballot: self.ballot, stream, number, rows, end };
            match self.deliver(&part).await? {
                SnapshotTaken::More(wanted) if !last && wanted == number + 1 => {}
                SnapshotTaken::More(wanted) => return Err(format!("the receiver wants part {wanted} after part {number}")),
                SnapshotTaken::Installed(ballot) => {
                    tracing::info!(to = %self.to, rows = tally.rows(), seconds = begun.elapsed().as_secs_f64(), "a snapshot was sent");
                    return Ok(ballot);
                }
            }
        }
        Err("a snapshot of too many parts".to_string())
    }

    /// Sends one part until it is taken.
    async fn deliver(&self, part: &SnapshotPart) -> Result<SnapshotTaken, String> {
        let body = spine::wire::peer::encode(part);
        let bytes = body.len() as u64;
        let longest = if part.end.is_some() { LAST_PART } else { PART };
        let begun = Instant::now();
        loop {
            let sent = timeout(longest, self.link.send(Call::Snapshot, body.clone())).await;
            let error = match sent.unwrap_or_else(|_| Err(CallError::Lost("it took too long".to_string()))) {
                Ok(answer) => {
                    metric::SNAPSHOT_BYTES.with_label_values(&["sent"]).inc_by(bytes);
                    return spine::wire::peer::decode(&answer).map_err(|e| e.to_string());
                }
                Err(CallError::Refused(error)) => return Err(error.to_string()),
                Err(error) => error,
            };
            if begun.elapsed() > PATIENCE {
                return Err(error.to_string());
            }
            sleep(PAUSE).await;
        }
    }
}
