//! Makes sure that the server under test is built from the sources that are here.
//!
//! cargo builds the binary it runs, and not the binary of another package that it starts: `cargo prove` and `cargo bench-s3` on a fresh
//! clone would find no server, or an old one.

use crate::server::repository;
use std::io;
use std::process::Command;

/// Builds `breakwater` in release, unless `BREAKWATER_BIN` names one or this was not started by cargo.
///
/// # Errors
/// cargo cannot be run, or the build failed; cargo has said why.
pub fn server() -> io::Result<()> {
    let Some(cargo) = std::env::var_os("CARGO") else { return Ok(()) };
    if std::env::var_os("BREAKWATER_BIN").is_some() {
        return Ok(());
    }
    let arguments = ["build", "--quiet", "--release", "--ignore-rust-version", "--bin", "breakwater"];
    let status = Command::new(cargo).args(arguments).current_dir(repository()).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other("the server does not build")) }
}
