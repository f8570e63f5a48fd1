//! Which groups besides the root group this folder has: a file that is replaced as a whole.
//!
//! ```text
//! breakwater groups 1
//! 0000002a hosted
//! 0000002b ending
//! ```
//! Invariants: a group is on the list before anything of it is on the disk, and off it only once nothing is; what the list does not have is
//! never removed.

use crate::journal::GroupId;
use crate::journal::file::write_durably;
use spine::limit::GROUPS;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;

const HEAD: &str = "breakwater groups 1";
/// In the metadata folder, beside the groups' own folders.
pub const FILE: &str = "groups/list";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Hosted,
    /// Being removed: that goes on at the next start.
    Ending,
}

pub type List = BTreeMap<GroupId, Fate>;

/// The name of a group's folder, beside the list.
pub fn folder_of(group: GroupId) -> String {
    format!("{:08x}", group.0)
}

/// # Errors
/// The disk. `Ok(None)`: the file is there and does not read.
pub fn load(dir: &Path) -> io::Result<Option<List>> {
    match fs::read_to_string(dir.join(FILE)) {
        Ok(text) => Ok(parse(&text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Some(List::new())),
        Err(e) => Err(e),
    }
}

/// Makes `list` what the disk has; its folder exists.
///
/// # Errors
/// The disk.
pub fn save(dir: &Path, list: &List) -> io::Result<()> {
    write_durably(&dir.join(FILE), text_of(list).as_bytes())
}

fn text_of(list: &List) -> String {
    let mut text = format!("{HEAD}\n");
    for (group, fate) in list {
        let fate = match fate {
            Fate::Hosted => "hosted",
            Fate::Ending => "ending",
        };
        // A String takes everything.
        let _ = writeln!(text, "{} {fate}", folder_of(*group));
    }
    text
}

fn parse(text: &str) -> Option<List> {
    let mut lines = text.strip_suffix('\n')?.split('\n');
    if lines.next() != Some(HEAD) {
        return None;
    }
    let mut list = List::new();
    for line in lines {
        let (group, fate) = line.split_once(' ')?;
        let id = GroupId(u32::from_str_radix(group, 16).ok()?);
        let fate = match fate {
            "hosted" => Fate::Hosted,
            "ending" => Fate::Ending,
            _ => return None,
        };
        if folder_of(id) != group || id == GroupId(0) || list.len() >= GROUPS || list.insert(id, fate).is_some() {
            return None;
        }
    }
    Some(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_reads_back_and_what_is_none_does_not() {
        let list = List::from([(GroupId(0x2a), Fate::Hosted), (GroupId(u32::MAX), Fate::Ending)]);
        let text = text_of(&list);
        assert_eq!(text, "breakwater groups 1\n0000002a hosted\nffffffff ending\n");
        assert_eq!(parse(&text), Some(list));
        assert_eq!(parse("breakwater groups 1\n"), Some(List::new()));
        for wrong in [
            "",
            "breakwater groups 2\n",
            "breakwater groups 1",
            "breakwater groups 1\n2a hosted\n",
            "breakwater groups 1\n0000002A hosted\n",
            "breakwater groups 1\n0000002a gone\n",
            "breakwater groups 1\n00000000 hosted\n",
            "breakwater groups 1\n0000002a hosted\n0000002a hosted\n",
            "breakwater groups 1\n0000002a hosted\n\n",
        ] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }
}
