//! Reads the log back after any end of the process: kills, power cuts, a disk that changed bytes.
//!
//! Frames are numbered without gaps and each is synced before the next is written, so that the first frame that is not whole
//! is either the torn end, with nothing behind it, or damage: then the log is refused.
//! Invariant: what is read back is on the disk. A process that was killed between a write and its sync leaves a frame that only
//! the page cache has; were it built upon, a power cut could take it away from under frames that were synced later.
//! Not here: applying entries (`group.rs`).

use super::file::zero_range;
use super::frame::{ALIGN, Frame, Kind, number_at, parse};
use super::index::{Index, Place};
use super::segment::{Segment, is_spare, number_of};
use super::{GroupId, JournalError, Settings};
use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the writer goes on.
pub struct Tail {
    pub segment: u64,
    pub file: Arc<File>,
    pub offset: u64,
    /// Number of the next frame.
    pub frame: u64,
}

pub struct Recovered {
    pub groups: HashMap<GroupId, Index>,
    pub segments: Vec<Segment>,
    /// Files without frames.
    pub spare: Vec<PathBuf>,
    /// `None`: the log is empty.
    pub tail: Option<Tail>,
}

/// # Errors
/// The disk, and [`JournalError::Damaged`]. Nothing was changed then.
pub fn recover(dir: &Path, settings: &Settings) -> Result<Recovered, JournalError> {
    let mut out = Recovered { groups: HashMap::new(), segments: Vec::new(), spare: Vec::new(), tail: None };
    let mut buffer = Vec::new();
    let mut last_path = dir.to_owned();
    for (number, path) in list(dir)? {
        if is_spare(&path) {
            out.spare.push(path);
            continue;
        }
        let mut file = File::options().read(true).write(true).open(&path).map_err(|e| JournalError::io(&path, e))?;
        settle(&file).map_err(|e| JournalError::io(&path, e))?;
        buffer.clear();
        file.read_to_end(&mut buffer).map_err(|e| JournalError::io(&path, e))?;
        let mut segment = Segment { number, path: path.clone(), file: Arc::new(file), highest: HashMap::new() };
        let begins = out.tail.as_ref().map(|tail| tail.frame);
        let (end, next, forgotten) = read_segment(&buffer, &mut segment, begins, &mut out.groups, settings)?;
        out.segments.iter_mut().for_each(|earlier| earlier.highest.retain(|group, _| !forgotten.contains(group)));
        match next {
            Some(frame) if end > 0 => {
                out.tail = Some(Tail { segment: number, file: segment.file.clone(), offset: end as u64, frame });
                out.segments.push(segment);
                last_path = path;
            }
            _ => out.spare.push(path),
        }
    }
    check_beginnings(&out.groups, &last_path)?;
    let share = settings.cache_share(out.groups.len());
    out.groups.values_mut().for_each(|index| index.shrink_cache(share));
    if let Some(tail) = &out.tail {
        clear_tail(tail, settings.segment_bytes).map_err(|e| JournalError::io(&last_path, e))?;
    }
    Ok(out)
}

/// Syncs what an earlier process wrote, and forgets cached pages: after a failed sync they show what the disk does not have.
fn settle(file: &File) -> std::io::Result<()> {
    use std::os::fd::AsRawFd;
    file.sync_all()?;
    // SAFETY: an open file; only advice, whose refusal changes nothing.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    Ok(())
}

/// The log's files in order.
fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>, JournalError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| JournalError::io(dir, e))? {
        let path = entry.map_err(|e| JournalError::io(dir, e))?.path();
        if let Some(number) = number_of(&path) {
            files.push((number, path));
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// What one segment says besides entries.
#[derive(Default)]
struct Seen {
    /// Highest entry of each group.
    highest: HashMap<GroupId, u64>,
    /// Groups of which nothing before counts.
    forgotten: HashSet<GroupId>,
}

/// Takes in the frames of one segment. Returns where they end, the number of the frame that comes next, and the groups that it forgot.
///
/// - `expected`: the number its first frame must have; `None` for the first segment of all.
fn read_segment(
    buffer: &[u8],
    segment: &mut Segment,
    mut expected: Option<u64>,
    groups: &mut HashMap<GroupId, Index>,
    settings: &Settings,
) -> Result<(usize, Option<u64>, HashSet<GroupId>), JournalError> {
    let damaged = |offset: usize, reason: String| JournalError::Damaged { path: segment.path.clone(), offset: offset as u64, reason };
    let mut at = 0;
    let mut seen = Seen::default();
    while let Some(frame) = parse(buffer, at, segment.number) {
        if let Some(expected) = expected
            && frame.number != expected
        {
            return Err(damaged(at, format!("frame {} stands where {expected} belongs", frame.number)));
        }
        take_in(&frame, buffer, segment.number, groups, &mut seen, settings);
        expected = Some(frame.number + 1);
        at = frame.end;
    }
    let mut probe = at;
    while probe + ALIGN as usize <= buffer.len() {
        if let Some(number) = number_at(&buffer[probe..], segment.number)
            && expected.map_or(probe > at, |expected| number > expected)
        {
            return Err(damaged(at, format!("bytes that are no frame, and frame {number} follows at {probe}")));
        }
        probe += ALIGN as usize;
    }
    segment.highest = seen.highest;
    Ok((at, expected, seen.forgotten))
}

fn take_in(frame: &Frame, buffer: &[u8], segment: u64, groups: &mut HashMap<GroupId, Index>, seen: &mut Seen, settings: &Settings) {
    let share = settings.cache_share(groups.len());
    for record in &frame.records {
        let index = groups.entry(record.group).or_default();
        let payload = &buffer[record.payload.clone()];
        match record.kind {
            Kind::Entry => {
                let place = Place { segment, offset: record.start() as u32, len: payload.len() as u32 };
                index.recovered(record.position, place, payload, share);
                let highest = seen.highest.entry(record.group).or_insert(0);
                *highest = record.position.index.max(*highest);
            }
            Kind::Vote => index.vote = Some(Bytes::copy_from_slice(payload)),
            Kind::Truncate => index.truncate(record.position.index),
            Kind::Purge => index.purge(record.position),
            Kind::Committed if index.committed.is_none_or(|known| known.index < record.position.index) => {
                index.committed = Some(record.position)
            }
            Kind::Committed => {}
            Kind::Forget => {
                index.forget();
                seen.highest.remove(&record.group);
                seen.forgotten.insert(record.group);
            }
        }
    }
}

/// A log whose first entries are missing without having been purged has lost a file.
fn check_beginnings(groups: &HashMap<GroupId, Index>, path: &Path) -> Result<(), JournalError> {
    for (group, index) in groups {
        let should = index.purged().map_or(0, |purged| purged.index + 1);
        if let Some(first) = index.first()
            && first != should
        {
            let reason = format!("group {} begins at entry {first} and should at {should}", group.0);
            return Err(JournalError::Damaged { path: path.to_owned(), offset: 0, reason });
        }
    }
    Ok(())
}

/// Nothing of a torn frame may be taken for one that is written later with the same number.
fn clear_tail(tail: &Tail, segment_bytes: u64) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt;
    let len = tail.file.metadata()?.len();
    let mut rest = vec![0; usize::try_from(len.saturating_sub(tail.offset)).unwrap_or(0)];
    tail.file.read_exact_at(&mut rest, tail.offset)?;
    if rest.iter().any(|byte| *byte != 0) || len < segment_bytes {
        zero_range(&tail.file, tail.offset, len.max(segment_bytes))?;
        tail.file.sync_all()?;
    }
    Ok(())
}
