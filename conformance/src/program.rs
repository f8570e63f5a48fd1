//! Which build of `breakwater` a process runs: the one under test, or another one beside it.

use crate::server::binary;
use std::path::PathBuf;
use std::process::Command;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// `None`: the one under test.
    pub binary: Option<PathBuf>,
    /// More of metadata processes' command lines.
    pub metadata: Vec<String>,
    /// It is from before metadata processes were levelled out, and does not know `--no-balance`.
    pub never_balances: bool,
}

impl Program {
    pub fn command(&self) -> Command {
        Command::new(self.binary.clone().unwrap_or_else(binary))
    }
}
