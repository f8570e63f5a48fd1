//! Reads a disk that nobody serves, changes nothing, and says what it holds and what is wrong with it.
//!
//! Every record is read and every shard checked against its root. The index is then held to what the segments say, after
//! taking in, as opening would, what it does not claim to know yet. A torn tail is no fault: nothing in it was acknowledged.
//! Memory: about 300 bytes a shard. Not here: repairing (opening the disk does what can be done).

use crate::entry::{Entry, Standing};
use crate::identity::{DiskLock, Identity};
use crate::index::{Index, Position};
use crate::record::{Location, Record, SegmentId};
use crate::scan;
use crate::segment;
use crate::settings::OpenError;
use spine::id::NodeId;
use spine::wire::chunk::ShardName;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;

/// Differences between index and segments that are listed one by one.
const LISTED: usize = 1_000;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FsckReport {
    pub node: Option<NodeId>,
    pub segments: u64,
    /// Records of any kind, dead ones included.
    pub records: u64,
    /// Shards that are neither in the trash nor damaged, and their bytes.
    pub live: BTreeMap<ShardName, u32>,
    pub live_bytes: u64,
    pub trashed: u64,
    pub trash_bytes: u64,
    /// Shards that should live but whose bytes are wrong.
    pub damaged: Vec<ShardName>,
    /// Bytes of a group that a crash interrupted.
    pub torn_bytes: u64,
    /// Bytes that are neither records nor padding nor a torn tail.
    pub unreadable_bytes: u64,
    /// Why the index could not be used; opening the disk will make it anew.
    pub index_unusable: Option<String>,
    /// Where the index says other than the segments: the first thousand, and how many in all.
    pub index_wrong: Vec<String>,
    pub index_wrong_count: u64,
}

impl FsckReport {
    /// Nothing that was acknowledged is missing or wrong. An index that has to be made anew is no loss.
    pub fn is_clean(&self) -> bool {
        self.damaged.is_empty() && self.unreadable_bytes == 0 && self.index_wrong_count == 0
    }
}

/// Entries as some source tells them, and what was found wrong on the way.
#[derive(Default)]
struct Told {
    entries: BTreeMap<ShardName, Entry>,
}

impl Told {
    fn settled(self) -> BTreeMap<ShardName, Entry> {
        self.entries.into_iter().filter_map(|(name, entry)| entry.settle().map(|entry| (name, entry))).collect()
    }

    fn merge(&mut self, record: &Record) {
        self.entries.entry(record.name()).or_default().merge(record);
    }
}

/// Checks the disk in `dir`. Blocks, for as long as it takes to read everything.
///
/// # Errors
/// [`OpenError::InUse`] while a process serves the disk; otherwise if it cannot be read at all.
pub fn fsck(dir: impl AsRef<Path>) -> Result<FsckReport, OpenError> {
    let dir = dir.as_ref();
    let missing = || OpenError::Missing { dir: dir.to_path_buf() };
    if !dir.join("node.json").exists() {
        return Err(missing());
    }
    let _lock = DiskLock::take(dir)?;
    let identity = Identity::read(dir)?.ok_or_else(missing)?;
    let mut report = FsckReport { node: Some(identity.node), ..FsckReport::default() };
    let index = open_index(dir, identity.node);
    let (obsolete, upto) = match &index {
        Ok((_, mark)) => (mark.obsolete.clone(), mark.upto),
        Err(_) => (Vec::new(), Position::default()),
    };
    let (mut from_segments, mut tail) = (Told::default(), Vec::new());
    let mut wrong = BTreeSet::new();
    let segments = dir.join("segments");
    let sizes = if segments.is_dir() { segment::list(&segments).map_err(OpenError::io("list the segments"))? } else { BTreeMap::new() };
    for (id, size) in sizes {
        report.segments += 1;
        let file = File::open(segments.join(format!("{:010}.seg", id.0))).map_err(OpenError::io("open a segment"))?;
        let records = read(&file, id, size, &mut report, &mut wrong)?;
        if obsolete.contains(&id.0) {
            continue;
        }
        for record in records {
            from_segments.merge(&record);
            if (Position { segment: id.0, offset: record.offset }) >= upto {
                tail.push(record);
            }
        }
    }
    let truth = from_segments.settled();
    match index {
        Err(reason) => report.index_unusable = Some(reason),
        Ok((index, _)) => match indexed(&index, &tail) {
            Err(reason) => report.index_unusable = Some(reason),
            Ok(said) => compare(&truth, &said, &mut report),
        },
    }
    for (name, entry) in truth {
        match entry.standing() {
            Standing::Live(put) | Standing::Damaged(put) if wrong.contains(&put.at) => report.damaged.push(name),
            Standing::Live(put) | Standing::Damaged(put) => {
                report.live_bytes += u64::from(put.at.len);
                report.live.insert(name, put.at.len);
            }
            Standing::Trashed(put, _) => {
                report.trashed += 1;
                report.trash_bytes += u64::from(put.at.len);
            }
            Standing::Absent => (),
        }
    }
    Ok(report)
}

/// One segment's records that count, their shards checked.
fn read(file: &File, id: SegmentId, size: u64, report: &mut FsckReport, wrong: &mut BTreeSet<Location>) -> Result<Vec<Record>, OpenError> {
    let contents = scan::read_segment(file, id, 0).map_err(OpenError::io("read a segment"))?;
    match contents.torn {
        // The unused, preallocated rest is no torn tail either.
        Some(_) => report.torn_bytes += contents.garbage.min(size),
        None => report.unreadable_bytes += contents.garbage,
    }
    for record in &contents.records {
        report.records += 1;
        if !scan::is_whole(file, record).map_err(OpenError::io("read a shard"))? {
            wrong.insert(record.location());
        }
    }
    Ok(contents.records)
}

fn open_index(dir: &Path, node: NodeId) -> Result<(Index, crate::index::Mark), String> {
    let dir = dir.join("index");
    if !dir.join("data.mdb").exists() {
        return Err("there is none".to_string());
    }
    let index = Index::open(&dir, 64 << 30, true).map_err(|e| e.to_string())?;
    let mark = index.mark().map_err(|e| e.to_string())?;
    if !mark.complete || mark.node != node.0 {
        return Err("it is incomplete or of another disk".to_string());
    }
    Ok((index, mark))
}

/// What the index says, together with the records it does not claim to know.
fn indexed(index: &Index, tail: &[Record]) -> Result<BTreeMap<ShardName, Entry>, String> {
    let mut told = Told::default();
    index
        .walk(None, |name, entry| {
            told.entries.insert(name, entry);
            true
        })
        .map_err(|e| e.to_string())?;
    tail.iter().for_each(|record| told.merge(record));
    Ok(told.settled())
}

fn compare(truth: &BTreeMap<ShardName, Entry>, said: &BTreeMap<ShardName, Entry>, report: &mut FsckReport) {
    let names: BTreeSet<_> = truth.keys().chain(said.keys()).collect();
    for name in names {
        let plain = |entry: Option<&Entry>| entry.map(|entry| Entry { damaged: false, ..*entry }.standing());
        let (is, says) = (plain(truth.get(name)), plain(said.get(name)));
        if is == says {
            continue;
        }
        report.index_wrong_count += 1;
        if report.index_wrong.len() < LISTED {
            report.index_wrong.push(format!("{name:?}: segments say {is:?}, the index says {says:?}"));
        }
    }
}
