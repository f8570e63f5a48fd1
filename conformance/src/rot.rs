//! Damage behind a storage process's back: shards of a disk that nobody serves, flipped in their segment or gone.

use crate::content::Dice;
use spine::wire::chunk::ShardName;
use spine::wire::shard::StorageNode;
use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use storage_node::{Disk, Settings};

/// How a shard begins: enough to find it by.
type Start = [u8; 64];
/// Where in a shard the bit is flipped: not in the first slice.
const AT: usize = 1_100;

/// What was done to one disk.
pub struct Spoiled {
    pub flipped: Vec<ShardName>,
    pub removed: Vec<ShardName>,
    /// Shards that were there before.
    pub held: usize,
}

/// Flips a bit in `flipped` shards of the disk and removes `removed` others, each of a chunk that is not in `chunks` yet.
/// `flipped` may depend on how many shards the disk holds.
///
/// # Errors
/// Somebody serves the disk, it has too few shards, or they are shorter than [`AT`].
pub async fn spoil(
    dir: &Path,
    dice: &mut Dice,
    chunks: &mut HashSet<[u8; 32]>,
    flipped: impl Fn(usize) -> usize,
    removed: usize,
) -> Result<Spoiled, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let disk = Disk::open(Settings { keyed: true, adopt_empty: false, ..Settings::new(dir) }).map_err(|e| text(&e))?;
    let all = disk.list(None, 100_000).await.map_err(|e| text(&e))?;
    let mut all: Vec<ShardName> = all.into_iter().filter(|(_, len)| *len as usize > AT).map(|(name, _)| name).collect();
    let (held, wanted) = (all.len(), flipped(all.len()));
    let mut picked = Vec::new();
    while picked.len() < wanted + removed {
        if all.is_empty() {
            return Err(format!("the disk has too few shards: {wanted} and {removed} wanted of {held}"));
        }
        let name = all.swap_remove(dice.below(all.len()));
        if chunks.insert(name.chunk.0) {
            picked.push(name);
        }
    }
    let removed = picked.split_off(wanted);
    let mut starts = HashSet::new();
    for name in &picked {
        let (_, data) = disk.get(*name).await.map_err(|e| text(&e))?;
        starts.insert(Start::try_from(&data[..64]).map_err(|e| text(&e))?);
    }
    disk.trash(removed.clone()).await.map_err(|e| text(&e))?;
    disk.shutdown().await;
    drop(disk);
    flip(&dir.join("segments"), starts).map_err(|e| text(&e))?;
    Ok(Spoiled { flipped: picked, removed, held })
}

fn flip(segments: &Path, mut starts: HashSet<Start>) -> std::io::Result<()> {
    let mut first = [false; 256];
    starts.iter().for_each(|start| first[usize::from(start[0])] = true);
    let paths: Vec<PathBuf> = fs::read_dir(segments)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    for path in paths {
        let whole = fs::read(&path)?;
        let file = OpenOptions::new().write(true).open(&path)?;
        for (at, window) in whole.windows(64).enumerate().filter(|(_, window)| first[usize::from(window[0])]) {
            if Start::try_from(window).is_ok_and(|window| starts.remove(&window)) {
                file.write_all_at(&[whole[at + AT] ^ 16], (at + AT) as u64)?;
            }
        }
    }
    if starts.is_empty() { Ok(()) } else { Err(std::io::Error::other(format!("{} shards are in no segment", starts.len()))) }
}
