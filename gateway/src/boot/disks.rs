//! Which disk is in which place.
//!
//! A disk that is missing at a start is a lost node with the identity it had, not a new one: `disks.json` in the data folder remembers.

use super::{BootError, Home, read_text, write_whole};
use serde::{Deserialize, Serialize};
use spine::id::NodeId;
use std::path::{Path, PathBuf};

/// One place for a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    pub dir: PathBuf,
    /// 64 hex digits; empty: given up, the next start takes what it finds.
    node: String,
}

/// All places, in the order of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slots {
    disks: Vec<Slot>,
}

impl Slots {
    pub fn load(home: &Home) -> Result<Slots, BootError> {
        Self::read(&home.slots_file())
    }

    /// Reads the places from the file they are remembered in; none if there is no file.
    pub fn read(path: &Path) -> Result<Slots, BootError> {
        match read_text(path)? {
            None => Ok(Slots::default()),
            Some(text) => {
                serde_json::from_str(&text).map_err(|error| BootError::Content { path: path.to_path_buf(), reason: error.to_string() })
            }
        }
    }

    pub fn save(&self, home: &Home) -> Result<(), BootError> {
        self.write(&home.slots_file())
    }

    /// Writes the places to the file they are remembered in.
    pub fn write(&self, path: &Path) -> Result<(), BootError> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| BootError::Content { path: path.to_path_buf(), reason: error.to_string() })?;
        write_whole(path, &text, 0o600)
    }

    /// Who was in `dir` last.
    pub fn node(&self, dir: &Path) -> Option<NodeId> {
        self.disks.iter().find(|slot| slot.dir == dir).and_then(|slot| NodeId::parse_hex(&slot.node))
    }

    /// Whether an empty `dir` may become a new disk: on a first start, where the operator said so, or where there are more places
    /// than before. A folder that was renamed by mistake must not silently begin empty.
    pub fn may_begin(&self, dir: &Path, places: usize) -> bool {
        match self.disks.iter().find(|slot| slot.dir == dir) {
            Some(slot) => slot.node.is_empty(),
            None => self.disks.len() < places,
        }
    }

    /// Gives up whoever was in `dir`: the next start takes what it finds there. False if there is no such place.
    pub fn give_up(&mut self, dir: &Path) -> bool {
        match self.disks.iter_mut().find(|slot| slot.dir == dir) {
            Some(slot) => {
                slot.node.clear();
                true
            }
            None => false,
        }
    }

    /// Notes who is in `dir`. True if that is news.
    pub fn note(&mut self, dir: &Path, node: NodeId) -> bool {
        let node = node.to_string();
        // A disk that moved leaves no place behind that would wait for it.
        self.disks.retain(|slot| slot.dir == dir || slot.node != node);
        match self.disks.iter_mut().find(|slot| slot.dir == dir) {
            Some(slot) if slot.node == node => false,
            Some(slot) => {
                slot.node = node;
                true
            }
            None => {
                self.disks.push(Slot { dir: dir.to_path_buf(), node });
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_remembered_over_a_restart() {
        let place = tempfile::tempdir().unwrap();
        let home = Home::open(place.path()).unwrap();
        let mut slots = Slots::load(&home).unwrap();
        assert!(slots.note(Path::new("/a"), NodeId([1; 32])));
        assert!(!slots.note(Path::new("/a"), NodeId([1; 32])));
        slots.save(&home).unwrap();
        let again = Slots::load(&home).unwrap();
        assert_eq!(again.node(Path::new("/a")), Some(NodeId([1; 32])));
        assert_eq!(again.node(Path::new("/b")), None);
    }

    #[test]
    fn only_new_or_given_up_places_may_begin_empty() {
        let mut slots = Slots::default();
        assert!(slots.may_begin(Path::new("/a"), 1));
        slots.note(Path::new("/a"), NodeId([1; 32]));
        assert!(!slots.may_begin(Path::new("/a"), 1));
        assert!(!slots.may_begin(Path::new("/renamed"), 1));
        assert!(slots.may_begin(Path::new("/b"), 2));
        assert!(slots.note(Path::new("/moved"), NodeId([1; 32])));
        assert_eq!(slots.node(Path::new("/a")), None);
        slots.note(Path::new("/a"), NodeId([2; 32]));
        assert!(slots.give_up(Path::new("/a")) && !slots.give_up(Path::new("/b")));
        assert!(slots.may_begin(Path::new("/a"), 1));
    }
}
