//! `cargo bench-s3`: starts the server on a folder of one's choice, loads it through the AWS SDK, and prints what it took beside what
//! the work costs at least. Peers are measured in the same runs, turn by turn.

use clap::Parser;
use conformance::bench::report::{self, Runs};
use conformance::bench::target::Target;
use conformance::bench::{BenchError, backup, large, listing, small};
use conformance::content::Dice;
use conformance::primitives;
use conformance::ram::{Place, RamDisk};
use conformance::server::{Server, Settings};
use std::path::{Path, PathBuf};

/// As the server has it: the primitives should pay no more for memory than it does.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Sizes of the small objects, and how many of each at full size.
const SMALL: [(usize, usize); 3] = [(4 << 10, 4_000), (64 << 10, 2_000), (1 << 20, 400)];
const AT_ONCE: usize = 16;
const BUCKET: &str = "bench";
/// The most that `--ram` takes, bytes.
const RAM_DISK: u64 = 12 << 30;

/// Measures Breakwater, and other S3 servers beside it.
#[derive(Debug, Parser)]
#[command(name = "cargo bench-s3")]
struct Arguments {
    /// Folder for the server's data: a disk, to see syncs (--ram: to see CPU). Default: the system's temporary folder
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Measure on a RAM disk of its own with huge pages (as root; else in /dev/shm)
    #[arg(long, conflicts_with = "dir")]
    ram: bool,
    /// Another server that is running: NAME=URL,ACCESS,SECRET[,PID+PID...][,DATA-FOLDER]. May be repeated
    #[arg(long)]
    peer: Vec<String>,
    /// A tenth of the size and one run: a look, not a figure
    #[arg(long)]
    quick: bool,
    /// Runs; the median of each figure is printed
    #[arg(long)]
    runs: Option<usize>,
    /// Only these parts: large, small, listing, backup; primitives are always measured, alone with `--only primitives`
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Tree for restic, of which up to 512 MiB are copied. Default: made-up text
    #[arg(long)]
    tree: Option<PathBuf>,
    /// Also write the medians here, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

impl Arguments {
    fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|p| p == part)
    }

    fn runs(&self) -> usize {
        if self.only.iter().all(|p| p == "primitives") && !self.only.is_empty() {
            return 0;
        }
        self.runs.unwrap_or(if self.quick { 1 } else { 3 }).max(1)
    }

    /// `full`, or a tenth of it.
    fn scaled(&self, full: usize) -> usize {
        if self.quick { full / 10 } else { full }
    }
}

/// A full collection before every run would be other work than what is measured: nothing is collected while a run lasts.
const CONFIG: &str = "[collector]\ninterval_seconds = 86400\n";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    conformance::build::server()?;
    let place = place(&arguments)?;
    eprintln!("measuring in {}", place.path().display());
    let peers = arguments.peer.iter().map(|p| Target::peer(p)).collect::<Result<Vec<_>, _>>()?;
    let with_restic = arguments.wants("backup") && backup::available();
    if arguments.wants("backup") && !with_restic {
        eprintln!("restic is not installed (apt-get install restic): no backup figures");
    }
    let tree =
        with_restic.then(|| backup::tree(arguments.tree.as_deref(), place.path(), arguments.scaled(512 << 20) as u64)).transpose()?;
    let runtime = tokio::runtime::Runtime::new()?;

    let mut all: Vec<Runs> = vec![Runs::default(); peers.len() + 1];
    for run in 0..arguments.runs() {
        // Ours and the peers take turns at being first.
        for turn in 0..all.len() {
            let who = (run + turn) % all.len();
            let name = if who == 0 { "breakwater" } else { &peers[who - 1].name };
            eprintln!("run {} of {}: {name}", run + 1, arguments.runs());
            let folder = place.path().join(format!("run-{run}"));
            let server = if who == 0 {
                Some(Server::start_with(Settings { place: Some(folder.clone()), config: Some(CONFIG.into()), ..Settings::default() })?)
            } else {
                None
            };
            let target = server.as_ref().map_or_else(|| peers[who - 1].clone(), Target::of);
            runtime.block_on(measure(&arguments, &target, &mut all[who], tree.as_deref(), place.path()))?;
            drop(server);
            let _ = std::fs::remove_dir_all(&folder);
        }
    }
    eprintln!("primitives");
    let floor = primitives::measure(place.path(), arguments.scaled(1 << 30))?;
    let names = std::iter::once("breakwater").chain(peers.iter().map(|p| p.name.as_str()));
    let summaries: Vec<_> = all.iter().zip(names).map(|(runs, name)| runs.summary(name)).collect();
    println!("{}", report::text(&summaries, &floor));
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_vec_pretty(&summaries)?)?;
    }
    Ok(())
}

fn place(arguments: &Arguments) -> std::io::Result<Place> {
    if arguments.ram {
        return RamDisk::new(RAM_DISK).map(Place::Ram);
    }
    let base = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    std::fs::create_dir_all(&base)?;
    tempfile::Builder::new().prefix("bench-s3-").tempdir_in(&base).map(Place::Folder)
}

/// One run on one server.
async fn measure(arguments: &Arguments, target: &Target, runs: &mut Runs, tree: Option<&Path>, place: &Path) -> Result<(), BenchError> {
    let bucket = format!("{BUCKET}-{:08x}", Dice::fresh_seed() as u32);
    target.bucket(&bucket).await?;
    if arguments.wants("large") {
        measure_large(arguments, target, runs, &bucket).await?;
    }
    if arguments.wants("small") {
        for (size, objects) in SMALL {
            eprintln!("  objects of {} KiB", size >> 10);
            let load = small::Load { size, objects: arguments.scaled(objects), at_once: AT_ONCE, seed: Dice::fresh_seed() };
            let round = small::measure(target, &bucket, load).await?;
            runs.small.entry(size).or_default().push(round);
        }
    }
    if arguments.wants("listing") {
        let (keys, prefixes) = (arguments.scaled(100_000), arguments.scaled(1_000));
        eprintln!("  filling {keys} keys");
        listing::fill(target, &bucket, keys, prefixes).await?;
        runs.listing.push(listing::measure(target, &bucket, keys, prefixes).await?);
    }
    if let Some(tree) = tree {
        eprintln!("  restic");
        let repository = format!("{bucket}-restic");
        target.bucket(&repository).await?;
        let cache = tempfile::tempdir_in(place)?;
        runs.backups.push(run_restic(target, repository, tree, cache.path()).await?);
    }
    runs.peak_rss.push(target.peak_rss() as f64);
    Ok(())
}

/// restic is a process of its own: waiting for it must not hold up the runtime.
async fn run_restic(target: &Target, repository: String, tree: &Path, cache: &Path) -> Result<[backup::Backup; 2], BenchError> {
    let (target, tree, cache) = (target.clone(), tree.to_path_buf(), cache.to_path_buf());
    let waiting = tokio::task::spawn_blocking(move || backup::measure(&target, &repository, &tree, &cache));
    waiting.await.map_err(std::io::Error::other)?
}

async fn measure_large(arguments: &Arguments, target: &Target, runs: &mut Runs, bucket: &str) -> Result<(), BenchError> {
    let bytes = arguments.scaled(1 << 30) as u64;
    for (streams, put, get) in [(1, "PUT 1 stream", "GET 1 stream"), (4, "PUT 4 streams", "GET 4 streams")] {
        eprintln!("  large object, {streams} at once");
        let body = large::Large::new(Dice::fresh_seed(), bytes);
        let key = format!("large-{streams}");
        let per_byte = |after: Option<u64>, before: Option<u64>| {
            after.zip(before).map_or(0.0, |(after, before)| after.saturating_sub(before) as f64 / body.len() as f64)
        };
        let before = target.disk_bytes();
        let up = large::put(target, bucket, &key, &body, streams).await?;
        let stored = target.disk_bytes();
        let down = large::get(target, bucket, &key, &body, streams).await?;
        runs.transfers.entry(put).or_default().push(up);
        runs.transfers.entry(get).or_default().push(down);
        runs.disk_per_byte.push(per_byte(stored, before));
        if streams > 1 {
            let again = large::put(target, bucket, &format!("{key}-again"), &body, streams).await?;
            runs.transfers.entry("PUT again, 4 streams").or_default().push(again);
            runs.again_per_byte.push(per_byte(target.disk_bytes(), stored));
        }
        for key in [key.clone(), format!("{key}-again")] {
            let gone = target.client.delete_object().bucket(bucket).key(key).send().await;
            gone.map_err(|e| target.failed("DeleteObject", e))?;
        }
    }
    Ok(())
}
