//! Row 4: disks are emptied under a running server, come back, and lie.
//!
//! Emptied: everything in the folder is moved away, the folder stays. Back: moved in again. Spoiled: bytes of shard files are
//! changed in place. Objects small enough to live in the version's record have no shards: writing those may go on.

use crate::row::{Outcome, Run, Said, none_of, runtime};
use conformance::client::{self, Failure, Judge};
use conformance::content::{Content, Dice};
use conformance::ledger::Written;
use conformance::server::{Server, walk};
use conformance::workload::{Workload, fetch};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long the server may take to see that a disk went or came.
const NOTICE: Duration = Duration::from_secs(15);
/// Large enough to be coded into shards.
const SHARDED: usize = 300_000;

pub fn run(run: &Run) -> Outcome {
    let mut dice = run.dice();
    let place = run.place()?;
    let mut server = run.server(&place, "")?;
    let disks = server.disks();
    if disks.len() != 6 {
        return Err(format!("expected six disks below {}, found {disks:?}", server.data().display()));
    }
    let away = Away { folder: place.path().join("away"), disks };
    let runtime = runtime()?;
    let load = Workload { keys_per_worker: 6, ..Workload::new(client::of(&server), "disks") };
    runtime.block_on(async {
        load.prepare().await.said("create the bucket")?;
        fill(&load, &mut dice, run.size(200, 40)).await?;

        println!("  one disk emptied");
        away.empty(0)?;
        under_load(&load, &mut dice, run.size(15, 4)).await?;
        load.verify().await;
        none_of(&load.ledger().violations).said("with one disk emptied")?;

        println!("  two disks emptied");
        away.empty(1)?;
        until_write(&load, &mut dice, false).await?;
        load.verify().await;
        none_of(&load.ledger().violations).said("with two disks emptied")?;
        refused_writes(&load, &mut dice, 20).await?;

        println!("  one of them back");
        away.restore(1)?;
        until_write(&load, &mut dice, true).await?;
        load.verify().await;
        none_of(&load.ledger().violations).said("with one disk back")?;

        println!("  three disks emptied");
        away.empty(1)?;
        away.empty(2)?;
        until_refused(&load).await?;

        println!("  all back");
        for disk in 0..3 {
            away.restore(disk)?;
        }
        until_write(&load, &mut dice, true).await?;
        load.verify().await;
        none_of(&load.ledger().violations).said("with all disks back")
    })?;

    let flipped = spoil(&away.disks, &mut dice, 100)?;
    println!("  {flipped} bytes flipped in shard files");
    let (right, refused) = runtime.block_on(right_or_refused(&load, false))?;
    println!("  spoiled: {right} reads right, {refused} errors");
    server.restart().said("start with spoiled shards")?;
    let load = Workload { client: client::of(&server), ..load };
    let (right_later, refused_later) = runtime.block_on(right_or_refused(&load, false))?;
    let after_loss = emptied_for_good(&mut server, &away, &load, &runtime)?;
    Ok(format!(
        "0 wrong bytes; 1 disk gone: no error; 2: all reads right, writes 503; 3: reads 503; {flipped} flips: {right} right and {refused} errors, \
         after a restart {right_later} and {refused_later}; a disk wiped while stopped: {after_loss} right"
    ))
}

/// A disk that is empty when the server starts: still no wrong byte. What the flips cost may be refused.
fn emptied_for_good(server: &mut Server, away: &Away, load: &Workload, runtime: &tokio::runtime::Runtime) -> Result<usize, String> {
    server.terminate(Duration::from_secs(30)).ok_or("SIGTERM did not end the server")?;
    away.empty(5)?;
    server.restart().said("start with an empty disk")?;
    let load = Workload { client: client::of(server), ..load.clone() };
    Ok(runtime.block_on(right_or_refused(&load, false))?.0)
}

/// Reads until some are refused, within [`NOTICE`]: until the server has seen that a disk went, it reads rightly from what it has open.
async fn until_refused(load: &Workload) -> Result<(), String> {
    let began = Instant::now();
    loop {
        let (right, refused) = right_or_refused(load, true).await?;
        if refused > 0 {
            println!("  three disks emptied: {right} reads right, {refused} answered 503");
            return Ok(());
        }
        if began.elapsed() > NOTICE {
            return Err(format!("with three disks emptied no read was refused within {NOTICE:?}: the disks were not used"));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn fill(load: &Workload, dice: &mut Dice, objects: usize) -> Result<(), String> {
    for n in 0..objects {
        let len = match n % 5 {
            0 => dice.between(1, 8_000),
            1 => dice.between(9_000, 70_000),
            2 => dice.between(1 << 20, 3 << 20),
            _ => dice.between(100_000, 900_000),
        };
        load.put(&format!("kept/{n:04}"), Content::dense(dice.roll(), len)).await;
    }
    let unanswered = load.ledger().unanswered;
    if unanswered > 0 { Err(format!("{unanswered} writes of a healthy server failed")) } else { Ok(()) }
}

/// Reads and writes for some seconds, of which none may fail.
async fn under_load(load: &Workload, dice: &mut Dice, seconds: u64) -> Result<(), String> {
    let (running, mut own) = (load.clone(), dice.fork());
    let workers = tokio::spawn(async move { running.run(4, &mut own).await });
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    load.stop.store(true, Ordering::SeqCst);
    workers.await.said("workers")?;
    println!("  with one disk emptied: {}", load.tally_text());
    let failed: u64 = load.tally[1..].iter().map(|t| t.load(Ordering::Relaxed)).sum();
    if failed > 0 { Err(format!("with one of six disks emptied {}", load.tally_text())) } else { Ok(()) }
}

async fn put_sharded(load: &Workload, dice: &mut Dice) -> Result<(), Failure> {
    let content = Content::dense(dice.roll(), SHARDED);
    let key = format!("probe/{}", dice.below(5));
    let answer = load.client.put_object().bucket(&load.bucket).key(&key).body(content.bytes().into()).send().await.judged();
    match &answer {
        Ok(_) => load.ledger().acknowledge(&key, Some(Written::put(content))),
        Err(_) => load.ledger().doubt(&key, Some(Written::put(content))),
    }
    answer.map(|_| ())
}

/// Waits until writes succeed (or are refused), within [`NOTICE`].
async fn until_write(load: &Workload, dice: &mut Dice, succeeds: bool) -> Result<(), String> {
    let began = Instant::now();
    loop {
        let answer = put_sharded(load, dice).await;
        if answer.is_ok() == succeeds {
            println!("  writes {} after {:.1?}", if succeeds { "succeed" } else { "are refused" }, began.elapsed());
            return Ok(());
        }
        if began.elapsed() > NOTICE {
            return Err(format!("after {NOTICE:?} a write still ends with {answer:?}"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn refused_writes(load: &Workload, dice: &mut Dice, writes: usize) -> Result<(), String> {
    for _ in 0..writes {
        match put_sharded(load, dice).await {
            Err(f) if f.status() == 503 => {}
            Err(f) => return Err(format!("with two disks emptied a write was answered {f}, not 503")),
            Ok(()) => return Err("with two disks emptied a write was acknowledged".into()),
        }
    }
    Ok(())
}

/// Reads everything: right bytes, or an error that blames the server. Gives how many of each.
async fn right_or_refused(load: &Workload, only_503: bool) -> Result<(usize, usize), String> {
    let (mut right, mut refused) = (0, 0);
    let keys = load.ledger().keys();
    for key in keys {
        match fetch(&load.client, &load.bucket, &key).await {
            Ok(body) => {
                load.ledger().observe(&key, body.as_ref());
                right += 1;
            }
            Err(f) if f.status() == 503 || (!only_503 && f.is_unknown()) => refused += 1,
            Err(f) => load.ledger().violate(format!("{key}: {f}")),
        }
    }
    none_of(&load.ledger().violations)?;
    Ok((right, refused))
}

/// Changes single bytes of the largest files of the disks, each where data lies; gives how many.
fn spoil(disks: &[PathBuf], dice: &mut Dice, flips: usize) -> Result<usize, String> {
    let size = |p: &Path| fs::metadata(p).map_or(0, |m| m.len());
    let files: Vec<PathBuf> = disks
        .iter()
        .flat_map(|d| walk(d))
        .filter(|p| size(p) >= 64 << 10 && !p.ends_with("data.mdb") && !p.ends_with("lock.mdb"))
        .collect();
    if files.is_empty() {
        return Err("no shard files were found to spoil".into());
    }
    let (mut done, mut tries) = (0, 0);
    while done < flips && tries < flips * 1_000 {
        tries += 1;
        let path = dice.pick(&files);
        let file = OpenOptions::new().read(true).write(true).open(path).said("shard file")?;
        let at = dice.roll() % size(path).max(1);
        let mut byte = [0u8];
        if file.read_at(&mut byte, at).is_ok_and(|n| n == 1) && byte[0] != 0 {
            file.write_at(&[byte[0] ^ 0x41], at).said("flip")?;
            done += 1;
        }
    }
    Ok(done)
}

/// Where the content of emptied disks waits.
struct Away {
    folder: PathBuf,
    disks: Vec<PathBuf>,
}

impl Away {
    fn empty(&self, disk: usize) -> Result<(), String> {
        move_all(&self.disks[disk], &self.folder.join(disk.to_string()))
    }

    /// What the server wrote into the empty folder meanwhile is discarded: this is the old disk again.
    fn restore(&self, disk: usize) -> Result<(), String> {
        for entry in fs::read_dir(&self.disks[disk]).said("disk")?.flatten() {
            let path = entry.path();
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }.said("clear")?;
        }
        move_all(&self.folder.join(disk.to_string()), &self.disks[disk])
    }
}

fn move_all(from: &Path, to: &Path) -> Result<(), String> {
    fs::create_dir_all(to).said("folder")?;
    for entry in fs::read_dir(from).said("disk")?.flatten() {
        fs::rename(entry.path(), to.join(entry.file_name())).said("move")?;
    }
    Ok(())
}
