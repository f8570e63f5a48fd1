//! restic's whole life against a server: init, backup, change, backup, check, forget and prune, restore, compare.

use crate::content::{Content, Dice};
use crate::server::{Credential, Server, walk};
use crate::tools::{client_command_at, compare_trees, program, run};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Seconds after which restic is ended: it asks a server that does not answer again and again.
const LIMIT: &str = "1200";

/// A repository on a server.
pub struct Restic {
    endpoint: String,
    bucket: String,
    home: PathBuf,
}

impl Restic {
    /// `home`: a folder for restic's cache.
    pub fn new(server: &Server, bucket: &str, home: &Path) -> Self {
        Self::at(server.endpoint(), bucket, home)
    }

    /// The same by the server's address, where the server itself is needed for something else meanwhile.
    pub fn at(endpoint: &str, bucket: &str, home: &Path) -> Self {
        Restic { endpoint: endpoint.into(), bucket: bucket.into(), home: home.to_path_buf() }
    }

    /// Runs restic with the repository and its password.
    ///
    /// # Errors
    /// What restic printed, if it ended with another status than 0.
    pub fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = client_command_at(&program("timeout"), &self.endpoint, &Credential::root(), &self.home);
        command.arg(LIMIT).arg(program("restic")).arg("--repo").arg(format!("s3:{}/{}", self.endpoint, self.bucket));
        command.env("RESTIC_PASSWORD", "a password for tests").args(arguments);
        run(&mut command)
    }
}

/// The whole life; gives what was done in words.
///
/// # Errors
/// What restic said, or what differs after the restore.
pub fn life(server: &Server, tree: &Path, place: &Path, said: &dyn Fn(&str)) -> Result<String, String> {
    let home = place.join("home");
    fs::create_dir_all(&home).map_err(|e| e.to_string())?;
    let restic = Restic::new(server, "restic", &home);
    let source = tree.to_string_lossy().into_owned();
    said("init");
    restic.run(&["init"])?;
    said("first backup");
    restic.run(&["backup", "--quiet", &source])?;
    said("restore of the first");
    restore_and_compare(&restic, tree, &place.join("first"))?;
    let changed = change(tree).map_err(|e| format!("changing the tree: {e}"))?;
    said("second backup");
    restic.run(&["backup", "--quiet", &source])?;
    said("check --read-data");
    restic.run(&["check", "--read-data"])?;
    said("diff and snapshots");
    let snapshots = restic.run(&["snapshots", "--compact"])?;
    if !snapshots.contains("2 snapshots") {
        return Err(format!("two snapshots were made, these are listed:\n{snapshots}"));
    }
    said("forget --prune");
    restic.run(&["forget", "--keep-last", "1", "--prune"])?;
    said("check --read-data after the prune");
    restic.run(&["check", "--read-data"])?;
    said("restore");
    restore_and_compare(&restic, tree, &place.join("second"))?;
    Ok(format!("{} files, {changed} of them changed between backups, restored identical twice", walk(tree).len()))
}

fn restore_and_compare(restic: &Restic, tree: &Path, target: &Path) -> Result<(), String> {
    restic.run(&["restore", "latest", "--target", &target.to_string_lossy()])?;
    let inside = tree.strip_prefix("/").unwrap_or(tree);
    let differences = compare_trees(tree, &target.join(inside));
    let _ = fs::remove_dir_all(target);
    match differences.as_slice() {
        [] => Ok(()),
        some => Err(format!("{} differences after the restore: {}", some.len(), some[..some.len().min(5)].join("; "))),
    }
}

/// Appends, rewrites, removes and adds files; gives how many.
fn change(tree: &Path) -> io::Result<usize> {
    let mut changed = 0;
    for (n, file) in walk(tree).into_iter().enumerate() {
        let seed = n as u64;
        match n % 97 {
            0 => {
                let mut bytes = fs::read(&file)?;
                bytes.extend_from_slice(b"appended");
                fs::write(&file, bytes)?;
            }
            1 => fs::write(&file, Content::dense(seed, 3_000).bytes())?,
            2 => fs::remove_file(&file)?,
            3 => fs::write(file.with_extension("added"), Content::text(seed, 50_000).bytes())?,
            _ => continue,
        }
        changed += 1;
    }
    Ok(changed)
}

/// A tree made from a seed: `files` files of mixed sizes, some empty, some alike, with odd names.
///
/// # Errors
/// Of the file system.
pub fn made_tree(place: &Path, files: usize, seed: u64) -> io::Result<PathBuf> {
    let tree = place.join("tree");
    let mut dice = Dice::new(seed);
    for n in 0..files {
        let folder = tree.join(format!("folder {}", n % 17)).join(["a", "ü", "x y", "c"][n % 4]);
        fs::create_dir_all(&folder)?;
        let content = match n % 10 {
            0 => Content::text(7, 30_000),
            1 => Content::dense(seed, 0),
            2 => Content::dense(dice.roll(), dice.clone().between(100_000, 1_500_000)),
            _ => Content::text(dice.roll(), dice.clone().between(1, 40_000)),
        };
        fs::write(folder.join(format!("file-{n}.txt")), content.bytes())?;
    }
    Ok(tree)
}
