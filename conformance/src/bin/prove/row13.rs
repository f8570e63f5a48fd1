//! Row 13: a stranger clones the repository and types the README's two commands.
//!
//! Full size: a clone with a target folder of its own (everything is built), `cargo breakwater` as it stands, restic pointed at
//! it with the command it prints, then the test command. Quick: a clone, and that the README's commands are those that are there.

use crate::row::{Outcome, Run, Said};
use conformance::server::repository;
use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const START: &str = "cargo breakwater";
const TEST: &str = "./conformance/run";
const BUILD_LIMIT: Duration = Duration::from_secs(45 * 60);

pub fn run(run: &Run) -> Outcome {
    let place = run.place()?;
    let clone = place.path().join("breakwater");
    let from = repository();
    finished(Command::new("git").args(["clone", "--quiet"]).arg(&from).arg(&clone), "git clone")?;
    let readme = fs::read_to_string(clone.join("README.md")).said("README.md")?;
    for command in [START, TEST] {
        if !readme
            .lines()
            .any(|l| l.trim().trim_start_matches("$ ") == command || l.trim().trim_start_matches("$ ").starts_with(&format!("{command} ")))
        {
            return Err(format!("README.md has no line `{command}`"));
        }
    }
    let listed = finished(Command::new("bash").args(["-c", &format!("{TEST} --list")]).current_dir(&clone), "the test command's list")?;
    if run.quick {
        return Ok(format!("the README's two commands are in the clone; the test command names {} suites", listed.lines().count()));
    }
    let started = start(&clone)?;
    finished(Command::new("bash").args(["-c", TEST]).current_dir(&clone).env_remove("CARGO_TARGET_DIR"), "the test command")?;
    Ok(format!("`{START}` served after {started} s of building, a file went there and back, `{TEST}` passed"))
}

/// `cargo breakwater` until it serves; one round trip; SIGTERM. Gives the seconds until it served.
fn start(clone: &Path) -> Result<u64, String> {
    if TcpStream::connect("127.0.0.1:9000").is_ok() {
        return Err("port 9000 is in use: the README's command can't be tried as written".into());
    }
    let began = Instant::now();
    let log = clone.join("started.log");
    let file = fs::File::create(&log).said("log")?;
    let mut command = Command::new("bash");
    command.args(["-c", &format!("exec {START}")]).current_dir(clone).env_remove("CARGO_TARGET_DIR").stdin(Stdio::null());
    command.stdout(file.try_clone().said("log")?).stderr(file);
    let mut child = Ended(command.spawn().said(START)?);
    let printed = || fs::read_to_string(&log).unwrap_or_default();
    while TcpStream::connect("127.0.0.1:9000").is_err() {
        if let Ok(Some(status)) = child.0.try_wait() {
            return Err(format!("`{START}` ended with {status}:\n{}", printed()));
        }
        if began.elapsed() > BUILD_LIMIT {
            return Err(format!("`{START}` did not serve within {BUILD_LIMIT:?}"));
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    let seconds = began.elapsed().as_secs();
    println!("  `{START}` serves after {seconds} s");
    std::thread::sleep(Duration::from_secs(1));
    round_trip(&printed(), clone)?;
    Ok(seconds)
}

/// Uses what the server printed, as a person would: its export lines and its restic line.
fn round_trip(printed: &str, clone: &Path) -> Result<(), String> {
    let lines: Vec<&str> = printed.lines().map(str::trim).collect();
    let value = |name: &str| {
        lines.iter().find_map(|l| {
            l.split_once(&format!("{name}=")).map(|(_, v)| v.split_whitespace().next().unwrap_or("").trim_matches(['"', '\'']).to_owned())
        })
    };
    let (Some(access), Some(secret)) = (value("AWS_ACCESS_KEY_ID"), value("AWS_SECRET_ACCESS_KEY")) else {
        return Err(format!("the credentials were not printed ready to paste:\n{printed}"));
    };
    let restic = |arguments: &[&str]| {
        let mut command = Command::new("restic");
        command.args(["--repo", "s3:http://127.0.0.1:9000/stranger", "--no-cache"]).args(arguments).current_dir(clone);
        command.env("AWS_ACCESS_KEY_ID", &access).env("AWS_SECRET_ACCESS_KEY", &secret).env("RESTIC_PASSWORD", "stranger");
        finished(&mut command, "restic")
    };
    restic(&["init"])?;
    restic(&["backup", "README.md"])?;
    restic(&["restore", "latest", "--target", "restored"])?;
    let restored = conformance::server::walk(&clone.join("restored"));
    let same = restored.first().and_then(|f| fs::read(f).ok()) == fs::read(clone.join("README.md")).ok();
    if same { Ok(()) } else { Err("README.md did not come back".into()) }
}

/// A child that is ended with SIGTERM, then SIGKILL.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // SAFETY: kill(2) has no memory effects; the child was not waited for, so the id is its own.
        unsafe { libc::kill(self.0.id() as i32, libc::SIGTERM) };
        for _ in 0..100 {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn finished(command: &mut Command, what: &str) -> Result<String, String> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().said(what)?;
    let mut out = String::new();
    if let Some(mut pipe) = child.stdout.take() {
        pipe.read_to_string(&mut out).said(what)?;
    }
    let status = child.wait().said(what)?;
    if status.success() { Ok(out) } else { Err(format!("{what} ended with {status}:\n{out}")) }
}
