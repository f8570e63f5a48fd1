//! Row 3: the power goes, the disk keeps only what was synced.
//!
//! The data folder lies on an ext4 file system in a loop device. EXT4_IOC_SHUTDOWN with flag 2 (no flush of the journal or of
//! data) stops it as a power cut would; the server is killed, the file system unmounted, its journal replayed by the next
//! mount, and the server started again. Needs root, `mkfs.ext4`, `losetup`, `mount`.

use crate::row::{FAST_COLLECTOR, Outcome, Progress, Run, Said, none_of, runtime};
use conformance::client;
use conformance::server::{Server, Settings};
use conformance::tools::program;
use conformance::workload::Workload;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

const WORKERS: usize = 6;
const IMAGE_BYTES: u64 = 16 << 30;
/// `_IOR('X', 125, __u32)` of the kernel's ext4.h.
const EXT4_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587d;
/// Without flushing anything.
const NO_LOG_FLUSH: u32 = 2;

pub fn run(run: &Run) -> Outcome {
    let cycles = run.size(20, 3);
    let mut dice = run.dice();
    let place = run.place()?;
    let disk = LoopDisk::make(place.path())?;
    let settings = Settings {
        place: Some(place.path().to_path_buf()),
        data: Some(disk.mount_point.join("data")),
        config: Some(FAST_COLLECTOR.to_owned()),
        ..Settings::default()
    };
    let mut server = Server::start_with(settings).said("start")?;
    let runtime = runtime()?;
    let mut load = Workload::new(client::of(&server), "cuts");
    runtime.block_on(load.prepare()).said("create the bucket")?;
    let (mut slowest, mut progress) = (Duration::ZERO, Progress::new());

    for cycle in 1..=cycles {
        let writing = Duration::from_millis(dice.between(300, 4_000) as u64);
        runtime.block_on(async {
            let running = load.clone();
            let mut own = dice.fork();
            let workers = tokio::spawn(async move { running.run(WORKERS, &mut own).await });
            tokio::time::sleep(writing).await;
            let cut = disk.cut_power();
            // What the server answers now, on a dead disk, must not be an acknowledgement; give it the chance to be wrong.
            tokio::time::sleep(Duration::from_millis(200)).await;
            load.stop.store(true, Ordering::SeqCst);
            server.kill();
            workers.await.said("workers").and(cut)
        })?;
        disk.remount()?;
        server.restart().said(&format!("start after cut {cycle}"))?;
        slowest = slowest.max(server.start_time);
        if server.start_time > Duration::from_secs(5) {
            return Err(format!("start after cut {cycle} took {:?}", server.start_time));
        }
        load.client = client::of(&server);
        runtime.block_on(load.verify());
        none_of(&load.ledger().violations).said(&format!("after cut {cycle}"))?;
        progress.say(|| format!("cut {cycle} of {cycles}: {}; slowest start {slowest:.1?}", load.tally_text()));
    }

    server.terminate(Duration::from_secs(60)).ok_or("SIGTERM did not end the server in 60 s")?;
    server.fsck().said("fsck at the end")?;
    let ledger = load.ledger();
    Ok(format!(
        "{cycles} cuts, {} acknowledged and {} unanswered changes, 0 lost, 0 returned, slowest start {:.2} s, fsck clean",
        ledger.acknowledged,
        ledger.unanswered,
        slowest.as_secs_f64()
    ))
}

/// An ext4 file system in a file. Unmounted when dropped.
struct LoopDisk {
    device: String,
    mount_point: PathBuf,
}

impl LoopDisk {
    fn make(place: &Path) -> Result<LoopDisk, String> {
        // SAFETY: geteuid has no preconditions.
        if unsafe { libc::geteuid() } != 0 {
            return Err("needs root (loop devices and mount): run it with sudo".into());
        }
        let image = place.join("disk.img");
        File::create(&image).and_then(|f| f.set_len(IMAGE_BYTES)).said("image")?;
        let device = command("losetup", &["--find", "--show", &image.to_string_lossy()])?.trim().to_owned();
        let disk = LoopDisk { device, mount_point: place.join("mounted") };
        fs::create_dir_all(&disk.mount_point).said("mount point")?;
        command("mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", &disk.device])?;
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> Result<(), String> {
        command("mount", &["-t", "ext4", &self.device, &self.mount_point.to_string_lossy()]).map(|_| ())
    }

    fn cut_power(&self) -> Result<(), String> {
        let folder = File::open(&self.mount_point).said("mount point")?;
        // SAFETY: the ioctl reads one u32 through the pointer, which lives over the call.
        let result = unsafe { libc::ioctl(folder.as_raw_fd(), EXT4_IOC_SHUTDOWN as _, &NO_LOG_FLUSH) };
        if result == 0 { Ok(()) } else { Err(format!("EXT4_IOC_SHUTDOWN: {}", std::io::Error::last_os_error())) }
    }

    /// The kernel replays the journal, as after a power cut.
    fn remount(&self) -> Result<(), String> {
        let mut tries = 0;
        while let Err(e) = command("umount", &[&self.mount_point.to_string_lossy()]) {
            tries += 1;
            if tries > 50 {
                return Err(e);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        self.mount()
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        for _ in 0..50 {
            if command("umount", &[&self.mount_point.to_string_lossy()]).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = command("losetup", &["--detach", &self.device]);
    }
}

fn command(name: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program(name)).args(arguments).output().said(name)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{name} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}
