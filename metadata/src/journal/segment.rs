//! The log's files: made ready before they are needed, read back from, used again or removed when no group needs them.
//!
//! `<number, 16 hex digits>.log`, all of one size; `.spare` while nobody needs it. Numbers only grow and are never used
//! twice, whatever a file held before. Files go oldest first, each durably before the next, so that what is left has no gap.

use super::file::{fill_with_zeros, sync_dir};
use super::frame::{Kind, RECORD_HEAD, parse_record};
use super::index::Place;
use super::{GroupId, JournalError, Position, lock};
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

const SUFFIX: &str = ".log";
const SPARE_SUFFIX: &str = ".spare";
/// Old files kept for being used again, as many as a checkpoint lets go at once: writing zeros over a new one costs as much
/// as the log itself.
pub const SPARE: usize = 4;

/// A file of the log that holds frames.
pub struct Segment {
    pub number: u64,
    pub path: PathBuf,
    pub file: Arc<File>,
    /// Highest entry of each group in it.
    pub highest: HashMap<GroupId, u64>,
}

pub struct Segments {
    dir: PathBuf,
    bytes: u64,
    held: Mutex<BTreeMap<u64, Segment>>,
    spare: Arc<Mutex<Vec<PathBuf>>>,
    wanted: Mutex<Option<Sender<u64>>>,
    ready: Receiver<Result<Segment, JournalError>>,
    /// Number of the file that was ordered last.
    coming: AtomicU64,
    preparer: Mutex<Option<JoinHandle<()>>>,
}

impl Segments {
    /// `spare`: files without frames, to be used first. Begins to make the next file ready.
    pub fn start(dir: &Path, bytes: u64, held: Vec<Segment>, spare: Vec<PathBuf>) -> Result<Arc<Self>, JournalError> {
        let last = held.iter().map(|segment| segment.number).chain(spare.iter().filter_map(|path| number_of(path))).max();
        let (wanted, orders) = crossbeam_channel::unbounded();
        let (finished, ready) = crossbeam_channel::unbounded();
        let spare = Arc::new(Mutex::new(spare));
        let preparer = {
            let (dir, spare) = (dir.to_owned(), spare.clone());
            std::thread::Builder::new().name("metadata-log-files".into()).spawn(move || {
                for number in orders {
                    let segment = prepare(&dir, number, bytes, &spare).map_err(|e| JournalError::io(&path_of(&dir, number), e));
                    if finished.send(segment).is_err() {
                        return;
                    }
                }
            })
        };
        let preparer = preparer.map_err(|e| JournalError::io(dir, e))?;
        let wanted_first = last.map_or(1, |last| last + 1);
        // The receiver lives: the thread was just started.
        let _ = wanted.send(wanted_first);
        Ok(Arc::new(Self {
            dir: dir.to_owned(),
            bytes,
            held: Mutex::new(held.into_iter().map(|segment| (segment.number, segment)).collect()),
            spare,
            wanted: Mutex::new(Some(wanted)),
            ready,
            coming: AtomicU64::new(wanted_first),
            preparer: Mutex::new(Some(preparer)),
        }))
    }

    /// The next empty segment; waits until it is ready, and orders the one after it.
    pub fn next(&self) -> Result<(u64, Arc<File>), JournalError> {
        let segment = match self.ready.recv().map_err(|_| gone())? {
            Ok(segment) => segment,
            // That was when the one before was begun: there may be room by now, and nothing of the log is in this one yet.
            Err(_) => {
                self.want(self.coming.load(Ordering::Relaxed))?;
                self.ready.recv().map_err(|_| gone())??
            }
        };
        let out = (segment.number, segment.file.clone());
        self.want(segment.number + 1)?;
        lock(&self.held).insert(segment.number, segment);
        Ok(out)
    }

    fn want(&self, number: u64) -> Result<(), JournalError> {
        self.coming.store(number, Ordering::Relaxed);
        lock(&self.wanted).as_ref().map_or(Ok(()), |wanted| wanted.send(number).map_err(|_| gone()))
    }

    /// An entry of `group` was written into `segment`.
    pub fn note(&self, segment: u64, group: GroupId, index: u64) {
        if let Some(segment) = lock(&self.held).get_mut(&segment) {
            let highest = segment.highest.entry(group).or_insert(index);
            *highest = index.max(*highest);
        }
    }

    /// No entry of `group` that was written so far is needed.
    pub fn forget(&self, group: GroupId) {
        for segment in lock(&self.held).values_mut() {
            segment.highest.remove(&group);
        }
    }

    /// Bytes of the files that hold frames, and the groups that need the oldest of them.
    pub fn pinned(&self, purged: impl Fn(GroupId) -> Option<u64>) -> (u64, Vec<GroupId>) {
        let held = lock(&self.held);
        let needs = |(group, highest): (&GroupId, &u64)| purged(*group).is_none_or(|purged| *highest > purged).then_some(*group);
        let oldest = held.values().next().map(|oldest| oldest.highest.iter().filter_map(needs).collect());
        (held.len() as u64 * self.bytes, oldest.unwrap_or_default())
    }

    /// Lets go of the oldest segments, up to but without `current`, that hold no entry above what its group purged.
    pub fn release(&self, current: u64, purged: &HashMap<GroupId, u64>) -> Result<(), JournalError> {
        let mut held = lock(&self.held);
        while let Some(oldest) = held.first_entry() {
            let needed = |(group, highest): (&GroupId, &u64)| purged.get(group).is_none_or(|purged| highest > purged);
            if *oldest.key() >= current || oldest.get().highest.iter().any(needed) {
                break;
            }
            // First from the folder: what could not be removed goes before all that follows it, or the log would have a gap.
            self.retire(&oldest.get().path).map_err(|e| JournalError::io(&oldest.get().path, e))?;
            oldest.remove();
        }
        Ok(())
    }

    fn retire(&self, path: &Path) -> io::Result<()> {
        let mut spare = lock(&self.spare);
        let (aside, keep) = (path.with_extension(&SPARE_SUFFIX[1..]), spare.len() < SPARE);
        let gone = if keep { fs::rename(path, &aside) } else { fs::remove_file(path) };
        match gone {
            // Done in an earlier attempt, of which only the sync failed.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
            Ok(()) if keep => spare.push(aside),
            Ok(()) => {}
        }
        sync_dir(&self.dir)
    }

    /// Removes the files that are kept to be used again.
    pub fn trim(&self) {
        let mut spare = lock(&self.spare);
        spare.retain(|path| match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %path.display(), "a file of the log that nobody needs could not be removed");
                true
            }
            _ => false,
        });
    }

    /// The payload of the entry at `place`, checked.
    pub fn read(&self, group: GroupId, position: Position, place: Place) -> Result<Bytes, JournalError> {
        let found = lock(&self.held).get(&place.segment).map(|segment| (segment.file.clone(), segment.path.clone()));
        let path = path_of(&self.dir, place.segment);
        let damaged = |reason: &str| JournalError::Damaged { path: path.clone(), offset: u64::from(place.offset), reason: reason.into() };
        let (file, path_now) = found.ok_or_else(|| damaged("the segment is gone"))?;
        let mut buffer = vec![0; RECORD_HEAD + place.len as usize];
        file.read_exact_at(&mut buffer, u64::from(place.offset)).map_err(|e| JournalError::io(&path_now, e))?;
        let record = parse_record(&buffer, 0, place.segment).ok_or_else(|| damaged("an entry's checksum is wrong"))?;
        if (record.group, record.kind, record.position) != (group, Kind::Entry, position) {
            return Err(damaged("another record is in an entry's place"));
        }
        Ok(Bytes::from(buffer).slice(record.payload))
    }

    /// Ends the thread that makes files ready; blocks for what it has in hand.
    pub fn close(&self) {
        drop(lock(&self.wanted).take());
        let thread = lock(&self.preparer).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the thread that makes log files ready panicked");
        }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Of one file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    #[cfg(test)]
    pub fn count(&self) -> usize {
        lock(&self.held).len()
    }
}

fn gone() -> JournalError {
    JournalError::Stopped { reason: "no segment can be made ready any more".into() }
}

fn prepare(dir: &Path, number: u64, bytes: u64, spare: &Mutex<Vec<PathBuf>>) -> io::Result<Segment> {
    let path = path_of(dir, number);
    let old = lock(spare).pop();
    let reused = match old {
        Some(old) => {
            fs::rename(&old, &path)?;
            let file = File::options().read(true).write(true).open(&path)?;
            read_ahead(&file);
            // Blocks of a file of another size are not all written: make it anew.
            (file.metadata()?.len() == bytes).then_some(file)
        }
        None => None,
    };
    let file = match reused {
        Some(file) => file,
        None => {
            let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
            // What it took would be missing elsewhere.
            fill_with_zeros(&file, bytes).inspect_err(|_| drop(fs::remove_file(&path)))?;
            file
        }
    };
    sync_dir(dir)?;
    Ok(Segment { number, path, file: Arc::new(file), highest: HashMap::new() })
}

/// A frame that covers part of a page which is not in memory would wait for that page to be read.
fn read_ahead(file: &File) {
    use std::os::fd::AsRawFd;
    // SAFETY: an open file; only advice, whose failure costs time.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_WILLNEED) };
}

pub fn path_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}{SUFFIX}"))
}

/// `None`: not a file of the log.
pub fn number_of(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    let digits = name.strip_suffix(SUFFIX).or(name.strip_suffix(SPARE_SUFFIX))?;
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok())?
}

/// Whether it was let go of: what it holds is no part of the log any more.
pub fn is_spare(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == &SPARE_SUFFIX[1..])
}
