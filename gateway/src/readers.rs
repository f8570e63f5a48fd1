//! Which versions are being read in this process.
//!
//! Not here: dropping references (`collect.rs`), reading (`read.rs`).

use spine::id::VersionId;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

/// Versions being read in this process. Their references are not dropped meanwhile, so that a long GET is not cut off.
#[derive(Default)]
pub struct Readers {
    state: Mutex<ReadersState>,
}

#[derive(Default)]
struct ReadersState {
    reading: HashMap<VersionId, usize>,
    releasing: HashSet<VersionId>,
}

/// Holds versions for one read.
pub struct Reading {
    home: Arc<Readers>,
    versions: Vec<VersionId>,
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut state = self.home.lock();
        for version in &self.versions {
            if let Some(count) = state.reading.get_mut(version) {
                *count -= 1;
                if *count == 0 {
                    state.reading.remove(version);
                }
            }
        }
    }
}

impl Readers {
    /// Holds all of `versions`, or none if one of them is being released already, and says which.
    pub fn enter(self: &Arc<Self>, versions: Vec<VersionId>) -> Result<Reading, VersionId> {
        let mut state = self.lock();
        if let Some(gone) = versions.iter().find(|version| state.releasing.contains(version)) {
            return Err(*gone);
        }
        for version in &versions {
            *state.reading.entry(*version).or_default() += 1;
        }
        Ok(Reading { home: self.clone(), versions })
    }

    /// Whether a terminal version may be released now; from then on nobody enters it.
    pub fn begin_release(&self, version: VersionId) -> bool {
        let mut state = self.lock();
        let free = !state.reading.contains_key(&version);
        if free {
            state.releasing.insert(version);
        }
        free
    }

    pub fn end_release(&self, versions: impl Iterator<Item = VersionId>) {
        let mut state = self.lock();
        versions.for_each(|version| {
            state.releasing.remove(&version);
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, ReadersState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
