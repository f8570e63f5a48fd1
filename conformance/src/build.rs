//! Makes sure that the server under test is built from the sources that are here, and builds older ones beside it.
//!
//! cargo builds the binary it runs, and not the binary of another package that it starts: `cargo prove` and `cargo bench-s3` on a fresh
//! clone would find no server, or an old one.

use crate::server::repository;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How often it is said that a build goes on.
const SAY: Duration = Duration::from_secs(20);

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

/// The binary of another commit: built in a work tree of its own under `target/upgrade`, which takes minutes the first time, and kept there.
///
/// # Errors
/// There is no such commit, git or cargo cannot be run, or it does not build.
pub fn of_commit(commit: &str) -> io::Result<PathBuf> {
    let whole = git(&["rev-parse", "--verify", "--quiet", &format!("{commit}^{{commit}}")])?;
    let place = repository().join("target/upgrade").join(&whole);
    let (tree, kept) = (place.join("tree"), place.join("breakwater"));
    if kept.is_file() {
        return Ok(kept);
    }
    let path = tree.to_string_lossy().into_owned();
    if !tree.exists() {
        fs::create_dir_all(&place)?;
        git(&["worktree", "prune"])?;
        git(&["worktree", "add", "--detach", &path, &whole])?;
    }
    let target = repository().join("target/upgrade/target");
    println!("  building commit {} in {path}; this takes minutes", &whole[..whole.len().min(12)]);
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "--quiet", "--release", "--ignore-rust-version", "--bin", "breakwater"]);
    command.env("CARGO_TARGET_DIR", &target).current_dir(&tree).stdin(Stdio::null());
    let (mut child, began) = (command.spawn()?, Instant::now());
    let mut said = began;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if said.elapsed() >= SAY {
            said = Instant::now();
            println!("  still building after {} s", began.elapsed().as_secs());
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    if !status.success() {
        return Err(io::Error::other(format!("commit {whole} does not build")));
    }
    fs::copy(target.join("release/breakwater"), &kept)?;
    git(&["worktree", "remove", "--force", &path])?;
    Ok(kept)
}

/// What git prints, run in the repository.
fn git(arguments: &[&str]) -> io::Result<String> {
    let output = Command::new("git").args(arguments).current_dir(repository()).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    Err(io::Error::other(format!("git {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim())))
}
