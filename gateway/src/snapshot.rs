//! Metadata as a whole, sealed: into a file, into the store itself, and back into metadata that is empty.
//!
//! ```text
//! take.rs     every group's rows as of one moment of it -> items -> blocks; moments.rs: which moments belong together
//! item.rs     what is said in which order; block.rs: how it is sealed, a mebibyte at a time
//! file.rs     into a file that is read again before it has its name; out of one
//! give.rs     out of a file into empty metadata
//! kept.rs     as an object of a reserved tenant, on a schedule; found again by what its chunks say of themselves
//! ```
//! Invariants: what a copy holds opens with the root key alone and cannot be altered unnoticed; a copy is used whole or not at all, and is
//! read to its end before the first row of it is restored; one block is in memory at a time, and one item.
//! Not here: what a row means (`metadata`).

mod block;
mod file;
mod give;
mod item;
pub(crate) mod kept;
mod moments;
mod take;

pub use block::Name;
pub(crate) use file::write;
pub use file::{Summary, check};
pub use give::restore;

use crate::body::{ReadError, WriteError};
use crate::keys::KeyError;
use spine::wire::MetadataError;
use std::path::{Path, PathBuf};

/// Why a copy was not made, or not used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// Metadata answered something that says that this cannot be done.
    #[error("{what}")]
    Refused { what: String },
    #[error("the file cannot be used. path=`{path}`, reason=`{reason}`")]
    File { path: PathBuf, reason: String },
    /// It was altered, cut off, is none, or another root key sealed it.
    #[error("this is no whole copy of metadata under this root key. what=`{what}`")]
    Wrong { what: &'static str },
    /// Whoever was to keep it, stopped; that one's own failure says why.
    #[error("whoever was to keep the copy does not take it")]
    Untaken,
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("the copy was not stored. reason=`{0}`")]
    Write(#[from] WriteError),
    #[error("the store was not read. reason=`{0}`")]
    Read(#[from] ReadError),
}

/// What came of a copy that one side took and the other kept: the failure that was the first.
fn both<T, K, E: Into<SnapshotError>>(taken: Result<T, SnapshotError>, kept: Result<K, E>) -> Result<(T, K), SnapshotError> {
    match (taken, kept) {
        (Err(SnapshotError::Untaken), Err(error)) => Err(error.into()),
        (taken, kept) => Ok((taken?, kept.map_err(Into::into)?)),
    }
}

fn at(path: &Path) -> impl Fn(std::io::Error) -> SnapshotError {
    let path = path.to_owned();
    move |error| SnapshotError::File { path: path.clone(), reason: error.to_string() }
}

fn wrong(what: &'static str) -> SnapshotError {
    SnapshotError::Wrong { what }
}

fn strange(what: &str) -> SnapshotError {
    SnapshotError::Refused { what: format!("{what} was answered with something else") }
}

#[cfg(test)]
mod tests;
