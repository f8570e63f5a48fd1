//! A copy as a file: written beside, synced, read again to its end, and only then named.

use super::block::{BLOCK_BYTES, HEAD_BYTES, Head, Name, Sealer};
use super::item::{Item, Order, Unpacker};
use super::take::{self, Taken, take};
use super::{SnapshotError, at, both, wrong};
use crate::boot::create_anew;
use crate::keys::Keys;
use bytes::Bytes;
use spine::id::{FleetId, GroupId};
use spine::wire::Metadata;
use spine::wire::format::Format;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Blocks on their way to the disk.
const BLOCKS: usize = 2;

/// What a whole copy holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    pub name: Name,
    pub fleet: Option<FleetId>,
    /// Only metadata that understands it can take the rows.
    pub format: Format,
    pub groups: Vec<GroupId>,
    pub rows: u64,
}

/// Takes a copy into a file, which must not be there yet.
///
/// # Errors
/// Nothing is at `path` then.
pub(crate) async fn write(metadata: &Arc<dyn Metadata>, keys: Arc<Keys>, path: &Path) -> Result<Taken, SnapshotError> {
    let name = take::name()?;
    let (blocks, waiting) = mpsc::channel(BLOCKS);
    let (path, writer_keys) = (path.to_owned(), keys.clone());
    let (taken, told) = tokio::sync::oneshot::channel();
    // It is named only if the copy was taken to its end.
    let written = tokio::task::spawn_blocking(move || put(&writer_keys, &path, waiting, || told.blocking_recv() == Ok(true)));
    let outcome = take(metadata, &keys, name, &blocks).await;
    drop(blocks);
    let _ = taken.send(outcome.is_ok());
    let written = written.await.map_err(|error| SnapshotError::Refused { what: error.to_string() })?;
    both(outcome, written).map(|(taken, _)| taken)
}

/// Blocks of a copy that was found elsewhere, into a file. They are checked like one that was taken here.
pub(super) fn put(
    keys: &Keys,
    path: &Path,
    mut blocks: mpsc::Receiver<Bytes>,
    is_whole: impl FnOnce() -> bool,
) -> Result<Summary, SnapshotError> {
    if path.exists() {
        return Err(SnapshotError::File { path: path.to_owned(), reason: "it is there already".into() });
    }
    let beside = beside(path);
    let written = (|| {
        let mut file = create_anew(&beside, 0o600).map_err(at(&beside))?;
        while let Some(block) = blocks.blocking_recv() {
            file.write_all(&block).map_err(at(&beside))?;
        }
        if !is_whole() {
            return Err(wrong("it was given up"));
        }
        file.sync_all().map_err(at(&beside))?;
        drop(file);
        let summary = check(keys, &beside)?;
        fs::rename(&beside, path).map_err(at(path))?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(at(path))?;
        Ok(summary)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

/// Reads a copy to its end.
///
/// # Errors
/// [`SnapshotError::Wrong`] for anything but one whole copy under this root key.
pub fn check(keys: &Keys, path: &Path) -> Result<Summary, SnapshotError> {
    let mut reader = Reader::open(keys, path)?;
    while reader.next()?.is_some() {}
    let Order { groups, rows, .. } = reader.order.clone();
    let format = reader.order.format().ok_or_else(|| wrong("it ends early"))?;
    Ok(Summary { name: reader.name, fleet: reader.order.fleet(), format, groups, rows })
}

/// Items of a file, in order.
pub(super) struct Reader {
    path: PathBuf,
    file: BufReader<File>,
    sealer: Sealer,
    name: Name,
    number: u32,
    last: bool,
    unpacker: Unpacker,
    order: Order,
}

impl Reader {
    pub fn open(keys: &Keys, path: &Path) -> Result<Reader, SnapshotError> {
        let mut head = [0; HEAD_BYTES];
        let read = File::open(path).map_err(at(path))?.read_exact(&mut head);
        let head = read.ok().and_then(|()| Head::parse(&head)).ok_or_else(|| wrong("it does not begin like one"))?;
        Ok(Reader {
            path: path.to_owned(),
            file: BufReader::with_capacity(BLOCK_BYTES, File::open(path).map_err(at(path))?),
            sealer: Sealer::new(keys, head.name),
            name: head.name,
            number: 0,
            last: false,
            unpacker: Unpacker::default(),
            order: Order::default(),
        })
    }

    /// The next item; `None` behind the last, when everything was as it should be.
    pub fn next(&mut self) -> Result<Option<Item>, SnapshotError> {
        loop {
            if let Some(item) = self.unpacker.next()? {
                self.order.take(&item)?;
                return Ok(Some(item));
            }
            if self.last {
                let whole = self.order.is_over() && self.unpacker.is_empty();
                return if whole { Ok(None) } else { Err(wrong("it ends early")) };
            }
            self.read_block()?;
        }
    }

    fn read_block(&mut self) -> Result<(), SnapshotError> {
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        (&mut self.file).take(BLOCK_BYTES as u64).read_to_end(&mut block).map_err(at(&self.path))?;
        let (head, payload) = self.sealer.open(self.number, &block).ok_or_else(|| wrong("a block that does not open"))?;
        if head.last && !self.file.fill_buf().map_err(at(&self.path))?.is_empty() {
            return Err(wrong("something behind its last block"));
        }
        (self.last, self.number) = (head.last, self.number.saturating_add(1));
        self.unpacker.feed(&payload);
        Ok(())
    }
}
