//! Kills and power cuts: a child process writes and prints what was acknowledged; whatever ends it, all of that is there after.

use super::*;
use std::ffi::CString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

const DIR: &str = "BREAKWATER_TEST_WRITER_DIR";
const FIRST: &str = "BREAKWATER_TEST_WRITER_FIRST";

/// Not a test by itself: what the other tests start as their child process.
#[test]
fn writer_process_of_the_other_tests() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let first: u64 = std::env::var(FIRST).unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let settings = Settings { checkpoint_bytes: 64 << 10, ..small(Path::new(&dir)) };
        let node = MetadataNode::open(settings).await.unwrap();
        let shrinking = node.checkpoints().clone();
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_millis(30));
                if shrinking.shrink_for_test().is_err() {
                    // The disk is gone, or without power.
                    return;
                }
            }
        });
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..16 {
            let node = node.clone();
            tasks.spawn(async move {
                for n in 0.. {
                    let id = first + n * 16 + task;
                    match node.propose(tenant(id)).await {
                        Ok(replies) => {
                            assert_eq!(replies, [Reply::Done]);
                            println!("acked {id}");
                        }
                        Err(e) => return println!("refused {e}"),
                    }
                }
            });
        }
        while tasks.join_next().await.is_some() {}
    });
}

fn start_writer(dir: &Path, first: u64) -> Child {
    std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "service::tests::endings::writer_process_of_the_other_tests", "--nocapture"])
        .env(DIR, dir)
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Lets it write for `time` after its first acknowledgement, runs `end`, kills it; returns what was acknowledged.
fn run_writer(dir: &Path, first: u64, time: Duration, end: impl FnOnce()) -> Vec<u64> {
    let mut child = start_writer(dir, first);
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (sender, received) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if let Some(id) = line.split("acked ").nth(1) {
                let _ = sender.send(id.trim().parse::<u64>().unwrap());
            }
        }
    });
    let mut acked = vec![received.recv_timeout(Duration::from_secs(30)).expect("the writer acknowledges something")];
    std::thread::sleep(time);
    end();
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap();
    acked.extend(received.try_iter());
    acked
}

async fn check(dir: &Path, acked: &BTreeSet<u64>) -> Duration {
    let begun = Instant::now();
    let node = MetadataNode::open(small(dir)).await.unwrap();
    let took = begun.elapsed();
    for id in acked {
        assert!(has(&node, *id).await, "acknowledged {id} is gone");
    }
    // Half of the time the next life begins with a replay.
    if acked.len().is_multiple_of(2) {
        node.shutdown().await;
    } else {
        node.kill().await;
    }
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_the_process_is_killed_again_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut acked = BTreeSet::new();
    for life in 0..12u64 {
        let time = Duration::from_millis(40 + life * 137 % 1_500);
        let path = dir.path().to_owned();
        let more = tokio::task::spawn_blocking(move || run_writer(&path, (life + 1) << 32, time, || ())).await.unwrap();
        acked.extend(more);
        let took = check(dir.path(), &acked).await;
        println!("life {life}: {} acknowledged so far, restart in {took:?}", acked.len());
        assert!(took < Duration::from_secs(6), "{took:?}");
    }
}

fn sh(line: &str) -> bool {
    std::process::Command::new("sh")
        .args(["-c", line])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// ext4 on a loop device, unmounted and forgotten when dropped.
struct Disk {
    _dir: tempfile::TempDir,
    image: PathBuf,
    mount: PathBuf,
}

impl Disk {
    fn new() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let (image, mount) = (dir.path().join("image"), dir.path().join("mount"));
        fs::create_dir(&mount).unwrap();
        File::create(&image).unwrap().set_len(1 << 30).unwrap();
        let disk = Self { _dir: dir, image, mount };
        (sh(&format!("mkfs.ext4 -q -F {}", disk.image.display())) && disk.mount()).then_some(disk)
    }

    fn mount(&self) -> bool {
        sh(&format!("mount -o loop {} {}", self.image.display(), self.mount.display()))
    }

    fn unmount(&self) -> bool {
        (0..50).any(|_| {
            let done = sh(&format!("umount {}", self.mount.display()));
            if !done {
                std::thread::sleep(Duration::from_millis(100));
            }
            done
        })
    }

    /// From here on nothing reaches the disk, and its journal is not flushed.
    fn cut_power(&self) {
        /// _IOR('X', 125, u32)
        const EXT4_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587D;
        const NO_LOG_FLUSH: u32 = 2;
        let path = CString::new(self.mount.as_os_str().as_bytes()).unwrap();
        // SAFETY: an open folder of the file system, and the argument the call wants.
        unsafe {
            let fd = libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY);
            assert!(fd >= 0);
            assert_eq!(libc::ioctl(fd, EXT4_IOC_SHUTDOWN as _, &NO_LOG_FLUSH), 0, "{}", io::Error::last_os_error());
            libc::close(fd);
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if fs::read_to_string("/proc/mounts").is_ok_and(|mounts| mounts.contains(&*self.mount.to_string_lossy())) {
            self.unmount();
        }
    }
}

/// Past the harness, which keeps to itself what a test prints that does not fail; `conformance/run` counts these lines.
fn not_run(why: &str) {
    let _ = writeln!(std::io::stderr(), "NOT RUN: {}: {why}", std::thread::current().name().unwrap_or("a test"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_the_power_is_cut() {
    // SAFETY: no arguments, always succeeds.
    if unsafe { libc::geteuid() } != 0 {
        return not_run("a power cut needs root, for loop devices");
    }
    let Some(disk) = Disk::new() else {
        return not_run("no ext4 on a loop device here");
    };
    let disk = Arc::new(disk);
    let data = disk.mount.join("metadata");
    let mut acked = BTreeSet::new();
    for life in 0..6u64 {
        let time = Duration::from_millis(100 + life * 331 % 2_000);
        let (disk_now, path) = (disk.clone(), data.clone());
        let more = tokio::task::spawn_blocking(move || run_writer(&path, (life + 1) << 32, time, || disk_now.cut_power())).await.unwrap();
        acked.extend(more);
        assert!(disk.unmount() && disk.mount(), "the disk comes back");
        let took = check(&data, &acked).await;
        println!("power cut {life}: {} acknowledged so far, restart in {took:?}", acked.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_restart_read_back_is_still_there_when_the_power_goes_right_after_it() {
    // SAFETY: no arguments, always succeeds.
    if unsafe { libc::geteuid() } != 0 {
        return not_run("a power cut needs root, for loop devices");
    }
    let Some(disk) = Disk::new() else {
        return not_run("no ext4 on a loop device here");
    };
    let elsewhere = tempfile::tempdir().unwrap();
    let node = MetadataNode::open(small(elsewhere.path())).await.unwrap();
    create(&node, 0..300).await;
    node.kill().await;
    drop(node);
    let (from, log) = (elsewhere.path().join("log"), disk.mount.join("log"));
    fs::create_dir_all(&log).unwrap();
    for file in fs::read_dir(&from).unwrap() {
        let file = file.unwrap();
        File::create(log.join(file.file_name())).unwrap().set_len(file.metadata().unwrap().len()).unwrap();
    }
    assert!(sh(&format!("sync -f {}", log.display())));
    // As a process leaves them that is killed between a write and its sync: only the page cache has the frames.
    for file in fs::read_dir(&from).unwrap() {
        let file = file.unwrap();
        let target = File::options().write(true).open(log.join(file.file_name())).unwrap();
        target.write_all_at(&fs::read(file.path()).unwrap(), 0).unwrap();
    }
    let journal = Journal::open(&log, small(&log).journal).unwrap();
    let read_back = journal.group(ROOT).state();
    assert!(read_back.last.is_some_and(|last| last.index > 300));
    disk.cut_power();
    journal.close();
    drop(journal);
    assert!(disk.unmount() && disk.mount(), "the disk comes back");
    let journal = Journal::open(&log, small(&log).journal).unwrap();
    assert_eq!(journal.group(ROOT).state(), read_back);
    journal.close();
}
