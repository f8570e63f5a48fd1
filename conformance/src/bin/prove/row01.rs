//! Row 1: restic of a real tree.
//!
//! The tree is copied from what a Rust developer's machine has: the sources of the crates that cargo fetched, then the
//! toolchain, then /usr/share and /usr/lib, until there are 20,000 files and 1 GiB. What is missing then is made.

use crate::row::{Outcome, Run, Said, mib};
use conformance::content::Content;
use conformance::restic;
use conformance::server::walk;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

const FILES: usize = 20_000;
const BYTES: u64 = 1 << 30;

pub fn run(run: &Run) -> Outcome {
    let place = run.place()?;
    let tree = place.path().join("tree");
    let (files, bytes) = run.size((FILES, BYTES), (1_000, 32 << 20));
    let (files, bytes) = gather(&tree, files, bytes).said("the tree")?;
    let server = run.server(&place, "")?;
    let began = Instant::now();
    let said = |step: &str| println!("  {:>4} s  {step}", began.elapsed().as_secs());
    let done = restic::life(&server, &tree, place.path(), &said)?;
    Ok(format!("{files} files, {} in the tree: {done}, no error", mib(bytes)))
}

fn sources() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let cargo = std::env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
    let rustup = std::env::var_os("RUSTUP_HOME").map_or_else(|| home.join(".rustup"), PathBuf::from);
    vec![cargo.join("registry/src"), rustup.join("toolchains"), "/usr/share".into(), "/usr/lib".into()]
}

/// Copies until both counts are reached; gives them.
fn gather(tree: &Path, files: usize, bytes: u64) -> std::io::Result<(usize, u64)> {
    let (mut have, mut size) = (0, 0);
    'sources: for source in sources() {
        let began = have;
        for file in walk(&source) {
            if have >= files && size >= bytes {
                break 'sources;
            }
            let inside = file.strip_prefix("/").unwrap_or(&file);
            let target = tree.join(inside);
            fs::create_dir_all(target.parent().unwrap_or(tree))?;
            if let Ok(copied) = fs::copy(&file, &target) {
                have += 1;
                size += copied;
            }
        }
        println!("  {} files of {}", have - began, source.display());
    }
    let mut made = 0;
    while have < files || size < bytes {
        let folder = tree.join(format!("made/{}", made / 256));
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(made.to_string()), Content::text(made, 50_000).bytes())?;
        (made, have, size) = (made + 1, have + 1, size + 50_000);
    }
    Ok((have, size))
}
