//! Which groups besides the root group this folder has, and the newest format that anything in it has: a file that is replaced as a whole.
//!
//! ```text
//! breakwater groups 2        the format
//! 0000002a hosted
//! 0000002b ending
//! ```
//! Invariants: a group is on the list before anything of it is on the disk, and off it only once nothing is; what the list does not have is
//! never removed.

use crate::journal::GroupId;
use crate::journal::file::write_durably;
use spine::limit::GROUPS;
use spine::wire::format::{FIRST, Format};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;

const HEAD: &str = "breakwater groups ";
/// In the metadata folder, beside the groups' own folders.
pub const FILE: &str = "groups/list";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Hosted,
    /// Being removed: that goes on at the next start.
    Ending,
}

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub format: Format,
    pub groups: BTreeMap<GroupId, Fate>,
}

/// What was found in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Listed(Listed),
    /// A newer version wrote it.
    Newer(Format),
    Unreadable,
}

/// The name of a group's folder, beside the list.
pub fn folder_of(group: GroupId) -> String {
    format!("{:08x}", group.0)
}

/// - `newest`: what this process understands.
///
/// # Errors
/// The disk.
pub fn load(dir: &Path, newest: Format) -> io::Result<Found> {
    match fs::read_to_string(dir.join(FILE)) {
        Ok(text) => Ok(parse(&text, newest)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Found::Listed(Listed { format: FIRST, groups: BTreeMap::new() })),
        Err(e) => Err(e),
    }
}

/// Makes `listed` what the disk has; its folder exists.
///
/// # Errors
/// The disk.
pub fn save(dir: &Path, listed: &Listed) -> io::Result<()> {
    write_durably(&dir.join(FILE), text_of(listed).as_bytes())
}

fn text_of(listed: &Listed) -> String {
    let mut text = format!("{HEAD}{}\n", listed.format);
    for (group, fate) in &listed.groups {
        let fate = match fate {
            Fate::Hosted => "hosted",
            Fate::Ending => "ending",
        };
        // A String takes everything.
        let _ = writeln!(text, "{} {fate}", folder_of(*group));
    }
    text
}

fn parse(text: &str, newest: Format) -> Found {
    let mut lines = text.split('\n');
    let head = lines.next().and_then(|line| line.strip_prefix(HEAD));
    let format = head.and_then(|number| number.parse().ok().filter(|format: &u8| *format > 0 && format.to_string() == number));
    match format.map(Format) {
        Some(format) if format > newest => Found::Newer(format),
        Some(format) => groups_in(lines).map_or(Found::Unreadable, |groups| Found::Listed(Listed { format, groups })),
        None => Found::Unreadable,
    }
}

/// - `lines`: those after the head. The last one is empty: the text ends with a line's end.
fn groups_in<'a>(lines: impl Iterator<Item = &'a str>) -> Option<BTreeMap<GroupId, Fate>> {
    let mut groups = BTreeMap::new();
    let mut lines = lines.peekable();
    while let Some(line) = lines.next() {
        if line.is_empty() && lines.peek().is_none() {
            return Some(groups);
        }
        let (group, fate) = line.split_once(' ')?;
        let id = GroupId(u32::from_str_radix(group, 16).ok()?);
        let fate = match fate {
            "hosted" => Fate::Hosted,
            "ending" => Fate::Ending,
            _ => return None,
        };
        if folder_of(id) != group || id == GroupId(0) || groups.len() >= GROUPS || groups.insert(id, fate).is_some() {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEWEST: Format = Format(2);

    #[test]
    fn a_list_reads_back_and_what_is_none_does_not() {
        let groups = BTreeMap::from([(GroupId(0x2a), Fate::Hosted), (GroupId(u32::MAX), Fate::Ending)]);
        let listed = Listed { format: FIRST, groups };
        let text = text_of(&listed);
        assert_eq!(text, "breakwater groups 1\n0000002a hosted\nffffffff ending\n");
        assert_eq!(parse(&text, NEWEST), Found::Listed(listed.clone()));
        let raised = Listed { format: NEWEST, ..listed };
        assert_eq!(parse(&text_of(&raised), NEWEST), Found::Listed(raised));
        assert_eq!(parse("breakwater groups 1\n", NEWEST), Found::Listed(Listed { format: FIRST, groups: BTreeMap::new() }));
        for wrong in [
            "",
            "breakwater groups 0\n",
            "breakwater groups 02\n",
            "breakwater groups x\n",
            "breakwater groups 1",
            "breakwater groups 1\n2a hosted\n",
            "breakwater groups 1\n0000002A hosted\n",
            "breakwater groups 1\n0000002a gone\n",
            "breakwater groups 1\n00000000 hosted\n",
            "breakwater groups 1\n0000002a hosted\n0000002a hosted\n",
            "breakwater groups 1\n0000002a hosted\n\n",
        ] {
            assert_eq!(parse(wrong, NEWEST), Found::Unreadable, "{wrong:?}");
        }
    }

    #[test]
    fn a_list_of_a_newer_version_is_told_from_a_damaged_one_whatever_else_is_in_it() {
        assert_eq!(parse("breakwater groups 3\n", NEWEST), Found::Newer(Format(3)));
        assert_eq!(parse("breakwater groups 255\nwho knows", NEWEST), Found::Newer(Format(255)));
        assert_eq!(parse("breakwater groups 2\n", FIRST), Found::Newer(Format(2)), "what a process that keeps to the first finds");
        assert_eq!(parse("breakwater groups 300\n", NEWEST), Found::Unreadable);
    }
}
