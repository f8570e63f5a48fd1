//! `cargo prove`: shows that what was promised holds, one row of a table at a time.
//!
//! Every row sets up what it needs, shows progress, prints the figure beside the bar as its last line, and ends with 0 only
//! where the bar holds. One row, one file.

mod fleet01;
mod fleet02;
mod fleet03;
mod fleet04;
mod fleet05;
mod fleet06;
mod fleet07;
mod fleet08;
mod fleet09;
mod fleet10;
mod fleet11;
mod fleet12;
mod level;
mod metadata01;
mod metadata02;
mod metadata03;
mod metadata04;
mod metadata05;
mod metadata06;
mod metadata07;
mod metadata08;
mod metadata09;
mod metadata10;
mod metadata11;
mod row;
mod row01;
mod row02;
mod row03;
mod row04;
mod row05;
mod row06;
mod row07;
mod row08;
mod row09;
mod row10;
mod row11;
mod row12;
mod row13;
mod stage;
mod subtrees;

use clap::{Parser, Subcommand};
use conformance::content::Dice;
use row::{Older, Outcome, Run};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// One row: its number, what it shows, its bar, how it runs.
struct Row {
    number: u32,
    what: &'static str,
    bar: &'static str,
    run: fn(&Run) -> Outcome,
}

const MAIN_JOB: &[Row] = &[
    Row {
        number: 1,
        what: "restic of a real tree: backup, change, backup, check, prune, restore",
        bar: "identical trees, no error",
        run: row01::run,
    },
    Row {
        number: 2,
        what: "kill -9 at 200 random moments during mixed writes",
        bar: "nothing lost, start < 5 s, fsck clean",
        run: row02::run,
    },
    Row {
        number: 3,
        what: "20 power cuts of the file system during mixed writes",
        bar: "nothing lost, start < 5 s, fsck clean",
        run: row03::run,
    },
    Row {
        number: 4,
        what: "1, 2, 3 of 6 disks emptied, restored; 100 shards spoiled",
        bar: "0 wrong bytes, the right refusals",
        run: row04::run,
    },
    Row {
        number: 5,
        what: "five uploads of the same 256 MiB, and another tenant's",
        bar: "<= 1.05 x one; tenants share nothing",
        run: row05::run,
    },
    Row {
        number: 6,
        what: "a canary in data, key names, metadata and secrets",
        bar: "nowhere on the disks, no secret in any file or log",
        run: row06::run,
    },
    Row { number: 7, what: "8 GiB in one multipart upload and back, 16 at once of 64 MiB", bar: "peak RSS <= 512 MiB", run: row07::run },
    Row {
        number: 8,
        what: "delete everything, two collector cycles",
        bar: "disk within 5 % of empty, no chunk in the index",
        run: row08::run,
    },
    Row { number: 9, what: "1,000,000 keys listed", bar: "< 60 s; page p99 < 50 ms; 1,000 prefixes < 1 s", run: row09::run },
    Row {
        number: 10,
        what: "CPU of PUT and GET of 1 GiB in 4 streams on a RAM disk",
        bar: "<= 1.3 x its primitives; PUT <= half, GET <= the best peer",
        run: row10::run,
    },
    Row {
        number: 11,
        what: "4 KiB objects, 16 concurrent, every write synced",
        bar: "more PUT/s and GET/s than any peer that syncs",
        run: row11::run,
    },
    Row { number: 12, what: "bad input of every kind", bar: "the exact code; RSS, threads and files back", run: row12::run },
    Row { number: 13, what: "a fresh clone: the README's two commands", bar: "both work as written", run: row13::run },
];

const FLEET: &[Row] = &[
    Row {
        number: 1,
        what: "restic over 16 machines in 4 zones, RS 8+4; any 4 machines, then a zone, vanish in a backup and in a restore",
        bar: "every acknowledged byte restores, backup goes on, p99 back within 10 s",
        run: fleet01::run,
    },
    Row {
        number: 2,
        what: "5 of 16 machines dead: more than m shards of some chunks",
        bar: "503 for those, named; right answers for the rest; nothing deleted; all reads again",
        run: fleet02::run,
    },
    Row {
        number: 3,
        what: "machines killed for good one after another, each when repair has finished, until 6 of 24 are gone",
        bar: "redundancy returns to full each time by itself; 0 lost",
        run: fleet03::run,
    },
    Row {
        number: 4,
        what: "the fleet starts with more than m machines late; a machine returns after it was rebuilt",
        bar: "0 deletions by absence; late copies go only by the sweep's proof",
        run: fleet04::run,
    },
    Row {
        number: 5,
        what: "24 nodes of capacities 1 : 2 : 4 filled to 60 %, then one more",
        bar: "fill within 5 % of capacity weights; the join moves <= 1.2 x its fair share",
        run: fleet05::run,
    },
    Row {
        number: 6,
        what: "100 shards flipped, 100 removed; a node that dropped one shard in a hundred",
        bar: "all found, named, made again; caught in >= 99 % of 200 audits of 459 slices",
        run: fleet06::run,
    },
    Row {
        number: 7,
        what: "4 lying nodes of 24 at a time, each kind of lie",
        bar: "0 wrong bytes to clients, each suspended, a fifth not",
        run: fleet07::run,
    },
    Row {
        number: 8,
        what: "64 KiB and 16 MiB, written and read, while nodes are rebuilt",
        bar: "p99 <= 2 x without a rebuild",
        run: fleet08::run,
    },
    Row {
        number: 9,
        what: "lookups at 50 and 200 real nodes, and at 10,000 simulated ones of which a fifth is replaced every hour",
        bar: "99 % exact; hops p99 <= log2 n; requests <= 20 + 3 log2 n; real within 2 x of simulated",
        run: fleet09::run,
    },
    Row {
        number: 10,
        what: "CPU of the data plane, 1 MiB shards with mutual TLS, both ends",
        bar: "<= 1.3 x bare rustls over TCP in the same run",
        run: fleet10::run,
    },
    Row {
        number: 11,
        what: "RSS of gateway and nodes under backups, restores, rebuilds, scrub and audits at once",
        bar: "gateway <= 512 MiB, node <= 256 MiB + index",
        run: fleet11::run,
    },
    Row {
        number: 12,
        what: "response time from 4 KiB to 1 GiB, backup and restore, with 0, 1 and m nodes down: a table and a plot",
        bar: "near linear: R^2 >= 0.97, slope of the logarithms <= 1.15",
        run: fleet12::run,
    },
];

const METADATA: &[Row] = &[
    Row {
        number: 1,
        what: "three gateways, mixed load over several groups, a kill, pause, partition or clock jump every 20 s beside splits and merges",
        bar: "0 linearizability violations, 0 stale lists, 0 lost acknowledged writes",
        run: metadata01::run,
    },
    Row {
        number: 2,
        what: "kill -9 of the busiest leader of several groups under load",
        bar: "serving again < 10 s, median < 3 s; a client that retries sees no error",
        run: metadata02::run,
    },
    Row {
        number: 3,
        what: "skewed load, 90 % on one prefix, on 3 servers that are levelled out",
        bar: "max/mean <= 1.25 within 60 s; freeze p99 < 50 ms; 0 failed requests, none slower than 5 s; no subtree moves twice in 120 s",
        run: metadata03::run,
    },
    Row {
        number: 4,
        what: "load that shifts every 5 min for 30 min, then uniform load for 30 min",
        bar: "at most 4 moves a shift; none under the uniform load after its first 300 s; no subtree moves twice in 120 s",
        run: metadata04::run,
    },
    Row {
        number: 5,
        what: "10,000,000 keys in one bucket over several subtrees, listed while splits, merges and moves go on",
        bar: "never short or doubled; page p99 < 100 ms; all keys < 10 min",
        run: metadata05::run,
    },
    Row {
        number: 6,
        what: "commits of small objects a second, 1 and 3 nodes, 1 to 64 groups with a range each, synced log",
        bar: ">= 70 % of plain openraft with an empty state machine over the same log, in the same run",
        run: metadata06::run,
    },
    Row {
        number: 7,
        what: "4 KiB PUT through the cluster",
        bar: "at most two sequential log rounds; p50 <= 2.5 x one synced write of a majority in the same run",
        run: metadata07::run,
    },
    Row {
        number: 8,
        what: "the replica of one node deleted, then all three, restored from a copy in the store, then a node's whole folder",
        bar: "catches up by itself; same listing hash up to the copy; nothing collected before reconciliation",
        run: metadata08::run,
    },
    Row {
        number: 9,
        what: "balance at 100 servers and 100,000 directories, a simulated day of shifting load",
        bar: "max/mean <= 1.3 on average over the day; no rule broken",
        run: metadata09::run,
    },
    Row {
        number: 10,
        what: "memory and idle CPU of three processes with 200 groups of a range each",
        bar: "<= 256 MiB beside LMDB's map; < 5 % of a core",
        run: metadata10::run,
    },
    Row {
        number: 11,
        what: "a cluster of an older version (--old, --old-bin) becomes one of this version process by process, under load",
        bar: "0 lost acknowledged writes, 0 violations, 0 failed requests of clients that ask again; nothing new before all are new, no way back after",
        run: metadata11::run,
    },
];

/// The allocator of the server, since a row measures parts of it in this process.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(about = "Shows that what was promised holds")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Names every row.
    List,
    /// The first issue's table: one machine, the real data path.
    MainJob(Choice),
    /// The fleet's table: storage nodes on other machines.
    Fleet(Choice),
    /// The metadata cluster's table: several metadata nodes and gateways.
    Metadata(Choice),
}

#[derive(clap::Args)]
struct Choice {
    /// Number of the row, or `all`.
    row: String,
    /// A small run, for CI.
    #[arg(long)]
    quick: bool,
    /// Makes the run's choices repeatable; default: a new one, printed.
    #[arg(long)]
    seed: Option<u64>,
    /// Folder to work in (its disk is what is measured); default: a temporary one.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Metadata 11: the commit of the older version; it is built first, which takes minutes. Default: this binary, keeping to the first format.
    #[arg(long, value_name = "COMMIT", conflicts_with = "old_bin")]
    old: Option<String>,
    /// Metadata 11: the older version, built.
    #[arg(long, value_name = "PATH")]
    old_bin: Option<PathBuf>,
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::List => {
            for (table, rows) in [("main-job", MAIN_JOB), ("fleet", FLEET), ("metadata", METADATA)] {
                for row in rows {
                    println!("{table} {:>2}  {}\n             bar: {}", row.number, row.what, row.bar);
                }
            }
            ExitCode::SUCCESS
        }
        Command::MainJob(choice) => show_all("main-job", MAIN_JOB, &choice),
        Command::Fleet(choice) => show_all("fleet", FLEET, &choice),
        Command::Metadata(choice) => show_all("metadata", METADATA, &choice),
    }
}

fn show_all(table: &str, rows: &[Row], choice: &Choice) -> ExitCode {
    let rows: Vec<&Row> = rows.iter().filter(|r| choice.row == "all" || choice.row == r.number.to_string()).collect();
    if rows.is_empty() {
        eprintln!("no row `{}`; `cargo prove list` names them", choice.row);
        return ExitCode::from(2);
    }
    if let Err(e) = conformance::build::server() {
        eprintln!("{e}");
        return ExitCode::from(2);
    }
    let mut held = true;
    let older = choice.old.clone().map(Older::Commit).or(choice.old_bin.clone().map(Older::Binary));
    for row in rows {
        let (seed, dir) = (choice.seed.unwrap_or_else(Dice::fresh_seed), choice.dir.clone());
        let run = Run { quick: choice.quick, seed, dir, older: older.clone() };
        held &= show(table, row, &run);
    }
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn show(table: &str, row: &Row, run: &Run) -> bool {
    println!("{table} {}: {}{}. seed {}", row.number, row.what, if run.quick { " (quick)" } else { "" }, run.seed);
    let began = Instant::now();
    let outcome = (row.run)(run);
    let seconds = began.elapsed().as_secs();
    match outcome {
        Ok(figure) => {
            println!("HOLDS  {table} {}: {figure} | bar: {} | {seconds} s", row.number, row.bar);
            true
        }
        Err(why) => {
            println!("FAILS  {table} {}: {why} | bar: {} | {seconds} s | seed {}", row.number, row.bar, run.seed);
            false
        }
    }
}
