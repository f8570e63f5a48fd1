//! Real clients against the real binary: what they upload comes back, what they list is there, what they delete is gone.
//!
//! Every test starts a server of its own and leaves nothing behind.

mod aws_cli;
mod boto3;
mod rclone;
mod restic;
mod rust_sdk;
mod s3cmd;

use conformance::content::{Content, Dice};
use conformance::server::{Server, Settings};
use std::fs;
use std::path::{Path, PathBuf};

/// A server, a home folder for the client, and a tree of files.
struct Ground {
    server: Server,
    home: PathBuf,
    tree: PathBuf,
    place: tempfile::TempDir,
}

impl Ground {
    fn new() -> Ground {
        Self::with(Settings::default())
    }

    fn with(settings: Settings) -> Ground {
        let place = tempfile::Builder::new().prefix("breakwater-clients-").tempdir().unwrap();
        let server = Server::start_with(Settings { place: Some(place.path().join("server")), ..settings }).unwrap();
        let (home, tree) = (place.path().join("home"), place.path().join("tree"));
        fs::create_dir_all(&home).unwrap();
        small_tree(&tree);
        Ground { server, home, tree, place }
    }

    /// A path for something new.
    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }
}

/// Files with odd names and sizes around every boundary: empty, inline, one chunk, several, larger than a part.
fn small_tree(tree: &Path) {
    let seed = Dice::fresh_seed();
    println!("seed {seed}");
    for (n, (name, len)) in [
        ("empty", 0),
        ("one byte", 1),
        ("plus+and&amp;", 8_192),
        ("folder/inline+1", 8_193),
        ("folder/ü/ö ä.txt", 70_000),
        ("folder/per%20cent", 1 << 20),
        ("folder.d/日本語", (1 << 20) + 1),
        ("deep/er/and/deeper/#hash?", 3_000_000),
        ("large.bin", 17 << 20),
    ]
    .into_iter()
    .enumerate()
    {
        let path = tree.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, Content::dense(seed + n as u64, len).bytes()).unwrap();
    }
}
