//! The tables in a `BTreeMap`: what the machines' tests and the protocol model in `conformance` run on.
//!
//! Not here: durability, transactions. A write that fails half way leaves its half; nothing of it can fail.

use super::{Entry, Scan, Space, TableError, TableRead, TableWrite};
use std::collections::BTreeMap;
use std::ops::Bound;

/// All spaces of one table. Equal tables hold the same bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct MemoryTable {
    entries: BTreeMap<Space, BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl MemoryTable {
    /// Entries of one space in byte order of their keys.
    pub fn entries(&self, space: Space) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.entries.get(&space).into_iter().flatten().map(|(key, value)| (key.as_slice(), value.as_slice()))
    }

    /// Number of entries of one space.
    pub fn len(&self, space: Space) -> usize {
        self.entries.get(&space).map_or(0, BTreeMap::len)
    }

    /// Whether a space holds nothing.
    pub fn is_empty(&self, space: Space) -> bool {
        self.len(space) == 0
    }
}

impl TableRead for MemoryTable {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<&[u8]>, TableError> {
        Ok(self.entries.get(&space).and_then(|entries| entries.get(key)).map(Vec::as_slice))
    }

    fn scan<'a>(&'a self, space: Space, from: &[u8]) -> Result<Box<dyn Scan + 'a>, TableError> {
        Ok(Box::new(Cursor { entries: self.entries.get(&space), at: Bound::Included(from.to_vec()) }))
    }
}

impl TableWrite for MemoryTable {
    fn put(&mut self, space: Space, key: &[u8], value: &[u8]) -> Result<(), TableError> {
        self.entries.entry(space).or_default().insert(key.to_vec(), value.to_vec());
        Ok(())
    }

    fn delete(&mut self, space: Space, key: &[u8]) -> Result<bool, TableError> {
        let Some(entries) = self.entries.get_mut(&space) else { return Ok(false) };
        let was = entries.remove(key).is_some();
        if entries.is_empty() {
            self.entries.remove(&space);
        }
        Ok(was)
    }
}

struct Cursor<'a> {
    entries: Option<&'a BTreeMap<Vec<u8>, Vec<u8>>>,
    at: Bound<Vec<u8>>,
}

impl Scan for Cursor<'_> {
    fn next(&mut self) -> Result<Option<Entry<'_>>, TableError> {
        let Some(entries) = self.entries else { return Ok(None) };
        let Some((key, value)) = entries.range((self.at.clone(), Bound::Unbounded)).next() else { return Ok(None) };
        self.at = Bound::Excluded(key.clone());
        Ok(Some((key, value)))
    }

    fn seek(&mut self, to: &[u8]) -> Result<(), TableError> {
        self.at = Bound::Included(to.to_vec());
        Ok(())
    }
}
