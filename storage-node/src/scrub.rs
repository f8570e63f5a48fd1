//! Reads every shard and checks it against its root: once when asked, and round after round while the disk serves.
//!
//! ```text
//! <disk>/scrub   how far the running round is: JSON, written each minute and at its end, so that a restart goes on from there
//! ```
//! A round takes [`Settings::scrub_round`](crate::Settings::scrub_round): the rate is what the disk holds, over that. Damaged
//! shards are set aside (`has` says false, `get` says `Damaged`) and stay in the report, so that who placed them makes them anew.
//! Invariant: a shard that is there for a whole round is read in it; losing the file costs a round begun again, nothing else.

use crate::core::{Core, Found, now};
use crate::entry::Standing;
use crate::op::Op;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use serde::{Deserialize, Serialize};
use spine::id::UnixMs;
use spine::wire::chunk::ShardName;
use spine::wire::peer::SCRUB_NAMES;
use spine::wire::shard::{NodeError, ScrubReport};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;

/// Entries looked at in one step.
const PAGE: usize = 1_024;
/// Longest sleep: the rate follows what has come to the disk meanwhile.
const NAP: Duration = Duration::from_secs(60);
/// How often the place is written down.
const NOTE_EVERY: Duration = Duration::from_secs(60);
/// Bytes of the longest place file that is read.
const PLACE_BYTES: u64 = 4 << 10;

/// What a disk's scrub has done in this life of it.
#[derive(Default)]
pub struct Board {
    report: Mutex<ScrubReport>,
}

impl Board {
    pub fn report(&self) -> ScrubReport {
        self.locked().clone()
    }

    fn locked(&self) -> MutexGuard<'_, ScrubReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, bytes: u32) {
        let mut report = self.locked();
        report.shards += 1;
        report.bytes += u64::from(bytes);
        report.round_bytes += u64::from(bytes);
    }

    /// Notes a damaged shard, as the newest.
    fn damaged(&self, name: ShardName, new: bool) {
        let mut report = self.locked();
        report.found += u64::from(new);
        report.damaged.retain(|known| *known != name);
        if report.damaged.len() == SCRUB_NAMES {
            report.damaged.remove(0);
        }
        report.damaged.push(name);
    }
}

/// What reading one shard came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checked {
    Good,
    /// Its bytes are wrong: it was set aside now, or before.
    Damaged,
    Gone,
}

/// Reads one shard and sets it aside if its bytes are not those of its root. Blocks.
fn check(core: &Core, queue: &UnboundedSender<Op>, name: &ShardName) -> Result<Checked, NodeError> {
    let at = match core.read(name) {
        Ok(Found::Shard(header, data)) if blake3::hash(&data).as_bytes() == &header.root.0 => return Ok(Checked::Good),
        Ok(Found::Shard(..)) => match core.standing(name)? {
            Standing::Live(put) => put.at,
            Standing::Damaged(_) => return Ok(Checked::Damaged),
            Standing::Absent | Standing::Trashed(..) => return Ok(Checked::Gone),
        },
        Ok(Found::Wrong { at, .. }) => at,
        Err(NodeError::Damaged { .. }) => return Ok(Checked::Damaged),
        Err(NodeError::NotFound) => return Ok(Checked::Gone),
        Err(error) => return Err(error),
    };
    // Without a writer the disk is being closed, and the next life will find the damage again.
    let _ = queue.send(Op::SetAside { name: *name, at, permit: None });
    Ok(Checked::Damaged)
}

/// Reads all live shards once, at most `bytes_per_second`, and returns the damaged ones. Blocks.
pub fn once(core: &Core, queue: &UnboundedSender<Op>, bytes_per_second: Option<u64>) -> Result<Vec<ShardName>, NodeError> {
    let (started, mut read) = (Instant::now(), 0u64);
    let (mut damaged, mut after) = (Vec::new(), None);
    loop {
        core.serving()?;
        let page = core.catalog.page(after.as_ref(), PAGE).map_err(|e| core.index_failed(e))?;
        let Some((last, _)) = page.last() else { return Ok(damaged) };
        after = Some(*last);
        for (name, entry) in page {
            let Standing::Live(put) = entry.standing() else { continue };
            if check(core, queue, &name)? == Checked::Damaged {
                damaged.push(name);
            }
            read += u64::from(put.at.len);
            if let Some(rate) = bytes_per_second {
                let due = Duration::from_secs_f64(read as f64 / rate.max(1) as f64);
                std::thread::sleep(due.saturating_sub(started.elapsed()));
            }
        }
    }
}

/// How far the running round is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    rounds: u64,
    round_began: UnixMs,
    round_bytes: u64,
    after: Option<ShardName>,
}

impl Place {
    /// What was written last; a new round if that does not read.
    fn load(path: &Path) -> Place {
        use std::io::Read;
        let mut text = Vec::new();
        let read = std::fs::File::open(path).and_then(|file| file.take(PLACE_BYTES).read_to_end(&mut text));
        read.ok().and_then(|_| serde_json::from_slice(&text).ok()).unwrap_or(Place { round_began: now(), ..Place::default() })
    }

    fn save(&self, path: &Path) -> io::Result<()> {
        let beside = path.with_extension("new");
        std::fs::write(&beside, serde_json::to_vec(self)?)?;
        std::fs::rename(beside, path)
    }
}

/// Why a round ended early.
enum Ended {
    Stopped,
    Failed(NodeError),
}

impl From<NodeError> for Ended {
    fn from(error: NodeError) -> Self {
        Ended::Failed(error)
    }
}

/// The thread that scrubs a served disk.
pub struct Scrubber {
    core: Arc<Core>,
    queue: UnboundedSender<Op>,
    stopped: Receiver<()>,
    round: Duration,
    path: PathBuf,
    place: Place,
    noted: Instant,
    /// Bytes that may be read now; below zero until the time for what was read has passed.
    credit: f64,
}

impl Scrubber {
    pub fn new(core: Arc<Core>, queue: UnboundedSender<Op>, stopped: Receiver<()>, round: Duration) -> Scrubber {
        let path = core.settings.dir.join("scrub");
        let place = Place::load(&path);
        Scrubber { core, queue, stopped, round, path, place, noted: Instant::now(), credit: 0.0 }
    }

    pub fn run(mut self) {
        self.tell();
        loop {
            match self.one_round() {
                Ok(()) => {}
                Err(Ended::Stopped) => return self.note(),
                Err(Ended::Failed(error)) => {
                    tracing::debug!(disk = %self.core.settings.label, %error, "the scrub waits");
                    if self.nap(NAP).is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Goes on from its place to the end.
    fn one_round(&mut self) -> Result<(), Ended> {
        let began_empty = self.place.after.is_none();
        loop {
            self.core.serving()?;
            let page = self.core.catalog.page(self.place.after.as_ref(), PAGE).map_err(|e| self.core.index_failed(e))?;
            if page.is_empty() {
                break;
            }
            for (name, entry) in page {
                if let Standing::Live(put) | Standing::Damaged(put) = entry.standing() {
                    self.turn()?;
                    self.one(&name, entry.standing(), put.at.len)?;
                }
                self.place.after = Some(name);
                if self.noted.elapsed() > NOTE_EVERY {
                    self.note();
                }
            }
        }
        if began_empty && self.place.after.is_none() {
            // Nothing is there, and nothing was checked.
            return self.nap(self.round);
        }
        self.turn()?;
        self.place = Place { rounds: self.place.rounds + 1, round_began: now(), round_bytes: 0, after: None };
        self.tell();
        self.note();
        Ok(())
    }

    fn one(&mut self, name: &ShardName, standing: Standing, len: u32) -> Result<(), NodeError> {
        let board = &self.core.scrub;
        if matches!(standing, Standing::Damaged(_)) {
            board.damaged(*name, false);
            return Ok(());
        }
        let checked = check(&self.core, &self.queue, name)?;
        if checked == Checked::Damaged {
            board.damaged(*name, true);
        }
        board.read(len);
        self.core.metrics.scrubbed_bytes.inc_by(u64::from(len));
        self.place.round_bytes += u64::from(len);
        self.credit -= f64::from(len);
        Ok(())
    }

    /// Waits until the next shard may be read.
    fn turn(&mut self) -> Result<(), Ended> {
        while self.credit < 0.0 {
            let held = self.core.catalog.sums().1.max(1);
            let rate = held as f64 / self.round.as_secs_f64().max(0.001);
            let began = Instant::now();
            self.nap(Duration::from_secs_f64((-self.credit / rate).clamp(0.001, NAP.as_secs_f64())))?;
            self.credit += rate * began.elapsed().as_secs_f64();
        }
        // Time that was not needed is not saved up.
        self.credit = self.credit.min(0.0);
        Ok(())
    }

    fn nap(&self, long: Duration) -> Result<(), Ended> {
        match self.stopped.recv_timeout(long.min(NAP)) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            _ => Err(Ended::Stopped),
        }
    }

    fn tell(&self) {
        let mut report = self.core.scrub.locked();
        (report.rounds, report.round_began, report.round_bytes) = (self.place.rounds, self.place.round_began, self.place.round_bytes);
        self.core.metrics.scrub_rounds.set(i64::try_from(self.place.rounds).unwrap_or(i64::MAX));
    }

    fn note(&mut self) {
        self.noted = Instant::now();
        if let Err(error) = self.place.save(&self.path) {
            tracing::debug!(disk = %self.core.settings.label, %error, "the scrub's place was not written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_was_written_and_rubbish_is_a_new_round() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scrub");
        assert_eq!(Place::load(&path).rounds, 0);
        let place = Place { rounds: 3, round_began: UnixMs(7), round_bytes: 9, after: None };
        place.save(&path).unwrap();
        assert_eq!(Place::load(&path), place);
        std::fs::write(&path, b"{\"rounds\": 3").unwrap();
        assert_eq!(Place::load(&path).rounds, 0);
    }
}
