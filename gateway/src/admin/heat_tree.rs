//! The hottest directories of all groups as one tree, with those that they lie in.
//!
//! A group names the hottest of its own directories, hits below them counted. A directory whose keys several groups have is as hot as all
//! their parts together. One that lies above and was not named has at least what is below it.
//!
//! Invariants: a directory is never colder than those below it together; whoever is shown, those above are as well; whatever groups claim,
//! the work is bounded by how many there may be of them. No clock, no I/O. Not here: how a tree is printed (`cluster_text.rs`).

use spine::id::{BucketId, GroupId};
use spine::wire::cluster::HotDirectory;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Components that a directory is shown to; what lies deeper counts for what is so deep.
const DEPTH: usize = 16;

/// A bucket, and the directory in it: ends with `/`, or is empty for the bucket itself.
type At = (BucketId, Vec<u8>);

/// A directory in the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Branch {
    pub bucket: BucketId,
    pub directory: Vec<u8>,
    /// Directories that it lies in, the bucket among them; 0: it is a bucket.
    pub depth: usize,
    /// Hits on all below it, thousandths, a second: at least so many.
    pub heat: u64,
    /// Who has some of that.
    pub groups: BTreeSet<GroupId>,
}

/// The hottest `most` directories in the order of a tree: each one after the one that it lies in, hottest first beside each other. And how
/// many more there would be.
pub(super) fn tree<'a>(told: impl IntoIterator<Item = (GroupId, &'a [HotDirectory])>, most: usize) -> (Vec<Branch>, usize) {
    let mut all: BTreeMap<At, (u64, BTreeSet<GroupId>)> = BTreeMap::new();
    for (group, hottest) in told {
        for (at, heat) in of_group(hottest) {
            let (sum, groups) = all.entry(at).or_default();
            *sum = sum.saturating_add(heat);
            groups.insert(group);
        }
    }
    let mut by_heat: Vec<(At, (u64, BTreeSet<GroupId>))> = all.into_iter().collect();
    // Of two that are as hot, the one above comes first: what is left out has nothing of what is shown below it.
    by_heat.sort_by_key(|((_, directory), (heat, _))| (Reverse(*heat), directory.len()));
    let more = by_heat.len().saturating_sub(most);
    by_heat.truncate(most);
    (in_order(by_heat), more)
}

/// One group's directories and all above them, with at least the heat of what lies below.
fn of_group(hottest: &[HotDirectory]) -> BTreeMap<At, u64> {
    let mut heat: BTreeMap<At, u64> = BTreeMap::new();
    for hot in hottest {
        let at = (hot.bucket, shallow(&hot.directory).to_vec());
        let mut above = parent(&at);
        let known = heat.entry(at).or_default();
        *known = (*known).max(hot.heat);
        while let Some(at) = above {
            above = parent(&at);
            heat.entry(at).or_default();
        }
    }
    // What lies below a directory has a longer name than it.
    let mut longest_first: Vec<At> = heat.keys().cloned().collect();
    longest_first.sort_by_key(|(_, directory)| Reverse(directory.len()));
    let mut below: BTreeMap<At, u64> = BTreeMap::new();
    for at in longest_first {
        let known = heat.entry(at.clone()).or_default();
        *known = (*known).max(below.get(&at).copied().unwrap_or(0));
        if let Some(above) = parent(&at) {
            let sum = below.entry(above).or_default();
            *sum = sum.saturating_add(*known);
        }
    }
    heat
}

fn shallow(directory: &[u8]) -> &[u8] {
    let mut ends = directory.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at + 1);
    let end = ends.nth(DEPTH - 1).unwrap_or(directory.len());
    directory.get(..end).unwrap_or(directory)
}

/// What a directory lies in; `None`: it is a bucket.
fn parent((bucket, directory): &At) -> Option<At> {
    let (_, name) = directory.split_last()?;
    let end = name.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
    Some((*bucket, name.get(..end).unwrap_or_default().to_vec()))
}

/// Arranges what is sorted by heat as a tree.
fn in_order(by_heat: Vec<(At, (u64, BTreeSet<GroupId>))>) -> Vec<Branch> {
    let mut below: BTreeMap<Option<At>, Vec<At>> = BTreeMap::new();
    for (at, _) in &by_heat {
        below.entry(parent(at)).or_default().push(at.clone());
    }
    let mut known: BTreeMap<At, (u64, BTreeSet<GroupId>)> = by_heat.into_iter().collect();
    let mut in_it = |above: Option<At>, depth: usize| {
        let next = below.remove(&above).unwrap_or_default();
        next.into_iter().rev().map(move |at| (at, depth))
    };
    let mut waiting: Vec<(At, usize)> = in_it(None, 0).collect();
    let mut out = Vec::new();
    while let Some((at, depth)) = waiting.pop() {
        if let Some((heat, groups)) = known.remove(&at) {
            out.push(Branch { bucket: at.0, directory: at.1.clone(), depth, heat, groups });
        }
        waiting.extend(in_it(Some(at), depth + 1));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    const BUCKET: BucketId = BucketId(7);

    fn hot(directory: &str, heat: u64) -> HotDirectory {
        HotDirectory { bucket: BUCKET, directory: Bytes::copy_from_slice(directory.as_bytes()), heat }
    }

    fn shown(tree: &[Branch]) -> Vec<(usize, String, u64, Vec<u32>)> {
        let text = |branch: &Branch| String::from_utf8(branch.directory.clone()).unwrap();
        tree.iter().map(|one| (one.depth, text(one), one.heat, one.groups.iter().map(|group| group.0).collect())).collect()
    }

    #[test]
    fn a_directory_of_several_groups_is_as_hot_as_their_parts_together_and_so_is_what_it_lies_in() {
        let (one, two) = ([hot("", 90), hot("hot/", 80), hot("hot/01/", 80)], [hot("hot/02/", 30), hot("hot/03/", 20)]);
        let (tree, more) = tree([(GroupId(0), &one[..]), (GroupId(5), &two[..])], 100);
        let wanted = [
            (0, "", 140, vec![0, 5]),
            (1, "hot/", 130, vec![0, 5]),
            (2, "hot/01/", 80, vec![0]),
            (2, "hot/02/", 30, vec![5]),
            (2, "hot/03/", 20, vec![5]),
        ];
        let wanted: Vec<_> = wanted.into_iter().map(|(depth, at, heat, groups)| (depth, at.to_string(), heat, groups)).collect();
        assert_eq!((shown(&tree), more), (wanted, 0));
    }

    #[test]
    fn a_directory_that_was_not_named_has_what_is_below_it_and_one_that_was_keeps_its_own() {
        let told = [hot("a/b/", 10), hot("a/c/d/", 5), hot("e/", 50), hot("e/f/", 1)];
        let (tree, _) = tree([(GroupId(1), &told[..])], 100);
        let heat = |at: &str| tree.iter().find(|one| one.directory == at.as_bytes()).map(|one| one.heat);
        assert_eq!([heat(""), heat("a/"), heat("a/c/"), heat("e/"), heat("e/f/")], [Some(65), Some(15), Some(5), Some(50), Some(1)]);
    }

    #[test]
    fn a_tree_that_is_cut_short_keeps_the_hottest_with_all_above_them_and_says_how_many_are_missing() {
        let told: Vec<HotDirectory> = (0..8).map(|n| hot(&format!("d{n}/e/f/"), 10 + n)).collect();
        let (whole, none) = tree([(GroupId(1), &told[..])], usize::MAX);
        let (cut, more) = tree([(GroupId(1), &told[..])], 4);
        assert_eq!((whole.len(), none, more), (25, 0, 21));
        let names: Vec<String> = shown(&cut).into_iter().map(|(_, at, ..)| at).collect();
        assert_eq!(names, ["", "d7/", "d7/e/", "d7/e/f/"]);
    }

    #[test]
    fn what_a_group_claims_of_endless_depth_counts_for_a_directory_of_the_depth_that_is_shown() {
        let (deep, odd) = ("x/".repeat(500), [hot("//", 3), hot("/", 1), hot("no-slash", 2)]);
        let (found, more) = tree([(GroupId(1), &[hot(&deep, 9)][..]), (GroupId(2), &odd[..])], 1_000);
        assert_eq!(more, 0);
        let deepest = found.iter().max_by_key(|one| one.depth).unwrap();
        assert_eq!((deepest.depth, deepest.directory.len(), deepest.heat), (DEPTH, 2 * DEPTH, 9));
        assert_eq!(found.iter().find(|one| one.depth == 0).map(|one| one.heat), Some(14));
    }
}
