//! Wall clocks that jump, one for each process: a small library that is loaded before libc adds to the time of day what a file says.
//!
//! The kernel has namespaces for monotonic clocks only, and setting the machine's own clock would set everybody's.
//! Invariant: monotonic clocks are left alone, as they are when NTP or an operator sets the time.

use crate::tools::find_program;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const SOURCE: &str = include_str!("clock.c");

/// The library, built.
#[derive(Clone, Debug)]
pub struct Clocks {
    library: PathBuf,
}

/// One process's.
#[derive(Clone, Debug)]
pub struct Clock {
    library: PathBuf,
    file: PathBuf,
}

impl Clocks {
    /// Builds the library in `dir`, with the C compiler that Rust links with.
    ///
    /// # Errors
    /// There is none, or it refuses.
    pub fn build(dir: &Path) -> io::Result<Clocks> {
        let compiler = find_program("cc").ok_or_else(|| io::Error::other("clocks that jump need a C compiler: `cc` is not there"))?;
        let (source, library) = (dir.join("clock.c"), dir.join("libclock.so"));
        fs::write(&source, SOURCE)?;
        let mut command = Command::new(compiler);
        command.args(["-O2", "-shared", "-fPIC", "-Wall", "-Werror", "-o"]).arg(&library).arg(&source).arg("-ldl");
        let output = command.stdin(Stdio::null()).output()?;
        if !output.status.success() {
            return Err(io::Error::other(format!("{} does not compile: {}", source.display(), String::from_utf8_lossy(&output.stderr))));
        }
        Ok(Clocks { library })
    }

    /// A clock that goes right so far; what it says lies in `dir`.
    pub fn clock(&self, dir: &Path) -> io::Result<Clock> {
        fs::create_dir_all(dir)?;
        let clock = Clock { library: self.library.clone(), file: dir.join("clock") };
        fs::write(&clock.file, [0; 8])?;
        Ok(clock)
    }
}

impl Clock {
    /// What a process needs in its environment to have this clock.
    pub fn environment(&self) -> [(String, String); 2] {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        [("LD_PRELOAD".to_owned(), text(&self.library)), ("BREAKWATER_CLOCK".to_owned(), text(&self.file))]
    }

    /// Sets how many milliseconds it is ahead from now on; negative: behind. In place, since the file is mapped.
    pub fn set(&self, ahead_ms: i64) -> io::Result<()> {
        fs::OpenOptions::new().write(true).open(&self.file)?.write_all_at(&(ahead_ms * 1_000_000).to_ne_bytes(), 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::time::{SystemTime, UNIX_EPOCH};

    #[test]
    fn a_process_sees_its_clock_jump_while_it_runs_and_jump_back() {
        let place = tempfile::tempdir().unwrap();
        let clock = Clocks::build(place.path()).unwrap().clock(&place.path().join("one")).unwrap();
        let mut command = Command::new("bash");
        command.args(["-c", "while read line; do printf '%(%s)T\\n' -1; done"]).envs(clock.environment());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (mut asks, mut answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()).lines());
        let mut ahead = || {
            use std::io::Write;
            writeln!(asks).unwrap();
            let told: i64 = answers.next().unwrap().unwrap().parse().unwrap();
            told - SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
        };
        for hours in [0, 24, -24, 0] {
            clock.set(hours * 3_600_000).unwrap();
            let seen = ahead();
            assert!((seen - hours * 3_600).abs() <= 2, "{hours} h: {seen} s");
        }
        drop(asks);
        child.wait().unwrap();
    }
}
