//! Which group serves what: ranges of (bucket, key), and ranges of [`ChunkId`].
//!
//! ```text
//! names   (0, "")          ... ("photos", "2024/")   ...               -> a subtree each
//! chunks  000..0           ... 800..0                ...               -> a range of the chunk index each
//! ```
//! A range begins at its point and ends before the next one's; the first begins at the first point there is. So ranges cover
//! everything and never overlap by how they are kept, and not by a check. What is checked: a group has at most one range of names and at
//! most one of chunks, and points ascend.
//!
//! A change moves the map's epoch and, of the ranges it touches, [`Route::since`]. A request carries the group and that `since`: a group
//! whose range has changed since then refuses, and whoever asked looks again. A change elsewhere in the map makes nobody stale.
//! Not here: who leads a group and where its replicas are (its own membership), when to split (metadata's `balance/`), copying data.

#[cfg(test)]
mod tests;

use crate::id::{BucketId, ChunkId, Epoch, GroupId};
use crate::limit::MAP_RANGES;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A place in the namespace: what sorts from here on. The key need not be one that exists, nor UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NamePoint {
    pub bucket: BucketId,
    pub key: Vec<u8>,
}

impl NamePoint {
    pub fn new(bucket: BucketId, key: impl Into<Vec<u8>>) -> Self {
        NamePoint { bucket, key: key.into() }
    }
}

/// What ranges are cut at.
pub trait Point: Ord + Clone {
    /// The least there is.
    fn first() -> Self;
}

impl Point for NamePoint {
    fn first() -> Self {
        NamePoint { bucket: BucketId(0), key: Vec::new() }
    }
}

impl Point for ChunkId {
    fn first() -> Self {
        ChunkId([0; 32])
    }
}

/// The first key that is greater than every key starting with `prefix`; `None` if there is none.
pub fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != 0xFF)?;
    let mut out = prefix[..=last].to_vec();
    out[last] += 1;
    Some(out)
}

/// Where to go with a request, and what to show there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route<'a, P> {
    pub group: GroupId,
    /// The change of the map that made this range what it is.
    pub since: Epoch,
    pub start: &'a P,
    /// Not part of it any more; `None`: it goes on to the end.
    pub end: Option<&'a P>,
}

impl<P: Ord> Route<'_, P> {
    /// Whether `point` lies in this range.
    pub fn holds(&self, point: &P) -> bool {
        self.start <= point && self.end.is_none_or(|end| point < end)
    }
}

/// Why the map cannot change so. It is what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// Look at the map again and decide anew.
    #[error("the map has changed meanwhile. expected=`{expected}`, now=`{now}`")]
    Stale { expected: Epoch, now: Epoch },
    #[error("a range begins there already")]
    Edge,
    #[error("the group has such a range already. group=`{group}`")]
    GroupTaken { group: GroupId },
    #[error("the group has no such range. group=`{group}`")]
    NoSuchGroup { group: GroupId },
    #[error("nothing comes after the group's range. group=`{group}`")]
    Last { group: GroupId },
    #[error("the map has as many ranges as it may. ranges=`{MAP_RANGES}`")]
    Full,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Range<P> {
    start: P,
    group: GroupId,
    since: Epoch,
}

/// One space cut into ranges, a group each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranges<P> {
    /// Ascending by start, never empty, the first at [`Point::first`].
    ranges: Vec<Range<P>>,
}

impl<P: Point> Ranges<P> {
    fn whole(group: GroupId) -> Self {
        Ranges { ranges: vec![Range { start: P::first(), group, since: Epoch(0) }] }
    }

    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Every range, in order.
    pub fn iter(&self) -> impl Iterator<Item = Route<'_, P>> {
        (0..self.ranges.len()).map(|at| self.route(at))
    }

    /// The range that `point` lies in.
    pub fn of(&self, point: &P) -> Route<'_, P> {
        self.route(self.place(point))
    }

    /// The ranges that hold anything in `from..to`, in order; without `to`, to the end. None if `to` is not past `from`.
    pub fn covering(&self, from: P, to: Option<P>) -> impl Iterator<Item = Route<'_, P>> {
        let empty = to.as_ref().is_some_and(|to| *to <= from);
        let first = if empty { self.ranges.len() } else { self.place(&from) };
        (first..self.ranges.len()).map(|at| self.route(at)).take_while(move |route| to.as_ref().is_none_or(|to| route.start < to))
    }

    /// The group's range, if it has one.
    pub fn of_group(&self, group: GroupId) -> Option<Route<'_, P>> {
        self.ranges.iter().position(|range| range.group == group).map(|at| self.route(at))
    }

    /// Whether what came from elsewhere is what [`Self`] keeps: begins at the first point, ascends, a group once.
    fn is_sound(&self) -> bool {
        let groups: BTreeSet<GroupId> = self.ranges.iter().map(|range| range.group).collect();
        self.ranges.first().is_some_and(|range| range.start == P::first())
            && self.ranges.windows(2).all(|pair| pair[0].start < pair[1].start)
            && groups.len() == self.ranges.len()
    }

    fn place(&self, point: &P) -> usize {
        // The first range begins at the first point, so at least one begins at or before any.
        self.ranges.partition_point(|range| range.start <= *point).saturating_sub(1)
    }

    fn route(&self, at: usize) -> Route<'_, P> {
        let Range { start, group, since } = &self.ranges[at];
        Route { group: *group, since: *since, start, end: self.ranges.get(at + 1).map(|next| &next.start) }
    }

    fn at(&self, group: GroupId) -> Result<usize, MapError> {
        self.ranges.iter().position(|range| range.group == group).ok_or(MapError::NoSuchGroup { group })
    }

    fn free(&self, group: GroupId) -> Result<(), MapError> {
        if self.at(group).is_ok() { Err(MapError::GroupTaken { group }) } else { Ok(()) }
    }

    fn split(&mut self, point: P, group: GroupId, now: Epoch) -> Result<(), MapError> {
        self.free(group)?;
        let at = self.place(&point);
        if self.ranges[at].start == point {
            return Err(MapError::Edge);
        }
        self.ranges[at].since = now;
        self.ranges.insert(at + 1, Range { start: point, group, since: now });
        Ok(())
    }

    fn merge(&mut self, group: GroupId, now: Epoch) -> Result<(), MapError> {
        let at = self.at(group)?;
        if at + 1 == self.ranges.len() {
            return Err(MapError::Last { group });
        }
        self.ranges.remove(at + 1);
        self.ranges[at].since = now;
        Ok(())
    }

    fn give(&mut self, from: GroupId, to: GroupId, now: Epoch) -> Result<(), MapError> {
        self.free(to)?;
        let at = self.at(from)?;
        self.ranges[at].group = to;
        self.ranges[at].since = now;
        Ok(())
    }
}

/// One change of the map: an entry of the root group's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// What sorts from `at` on, up to the end of its range, becomes `group`'s, which has no names yet.
    SplitNames {
        at: NamePoint,
        group: GroupId,
    },
    SplitChunks {
        at: ChunkId,
        group: GroupId,
    },
    /// The range after the group's becomes part of it; the group that had it has no names any more.
    MergeNames {
        group: GroupId,
    },
    MergeChunks {
        group: GroupId,
    },
    /// `to`, which has no names yet, takes the whole range of `from`.
    MoveNames {
        from: GroupId,
        to: GroupId,
    },
    MoveChunks {
        from: GroupId,
        to: GroupId,
    },
}

/// The map as of one epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Map {
    epoch: Epoch,
    names: Ranges<NamePoint>,
    chunks: Ranges<ChunkId>,
}

impl Map {
    /// All names and all chunks in one group: how every cluster begins.
    pub fn of_one(group: GroupId) -> Self {
        Map { epoch: Epoch(0), names: Ranges::whole(group), chunks: Ranges::whole(group) }
    }

    /// The same, of a later epoch: whoever knows an earlier map takes this one.
    pub fn of_one_as_of(group: GroupId, epoch: Epoch) -> Self {
        Map { epoch, ..Map::of_one(group) }
    }

    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub fn names(&self) -> &Ranges<NamePoint> {
        &self.names
    }

    pub fn chunks(&self) -> &Ranges<ChunkId> {
        &self.chunks
    }

    /// Whether a map that came from elsewhere is one.
    pub fn is_sound(&self) -> bool {
        self.names.len() + self.chunks.len() <= MAP_RANGES && self.names.is_sound() && self.chunks.is_sound()
    }

    /// The group that has all there is, if one has.
    pub fn sole(&self) -> Option<GroupId> {
        let group = self.names.ranges.first()?.group;
        (self.names.len() == 1 && self.chunks.len() == 1 && self.chunks.ranges.first()?.group == group).then_some(group)
    }

    /// The subtrees that may hold keys of `bucket` that start with `prefix`, in the order of their keys.
    pub fn of_prefix(&self, bucket: BucketId, prefix: &[u8]) -> Vec<Route<'_, NamePoint>> {
        let from = NamePoint::new(bucket, prefix);
        let to = match after_prefix(prefix) {
            Some(key) => Some(NamePoint { bucket, key }),
            None => bucket.0.checked_add(1).map(|next| NamePoint::new(BucketId(next), Vec::new())),
        };
        self.names.covering(from, to).collect()
    }

    /// Makes one change, if the map is still the one of `expected`.
    ///
    /// # Errors
    /// Any [`MapError`]; the map is then as it was. A change that was made is `Stale` the second time.
    pub fn change(&mut self, expected: Epoch, change: &Change) -> Result<(), MapError> {
        if expected != self.epoch {
            return Err(MapError::Stale { expected, now: self.epoch });
        }
        let now = Epoch(self.epoch.0 + 1);
        let full = self.names.len() + self.chunks.len() >= MAP_RANGES;
        match change {
            Change::SplitNames { .. } | Change::SplitChunks { .. } if full => Err(MapError::Full),
            Change::SplitNames { at, group } => self.names.split(at.clone(), *group, now),
            Change::SplitChunks { at, group } => self.chunks.split(*at, *group, now),
            Change::MergeNames { group } => self.names.merge(*group, now),
            Change::MergeChunks { group } => self.chunks.merge(*group, now),
            Change::MoveNames { from, to } => self.names.give(*from, *to, now),
            Change::MoveChunks { from, to } => self.chunks.give(*from, *to, now),
        }?;
        self.epoch = now;
        Ok(())
    }
}
