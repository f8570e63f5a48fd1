//! What a running process takes, as the kernel says it in `/proc`.

use std::fs;
use std::io;
use std::time::Duration;

/// A number of `/proc/PID/status`, 0 where there is none.
pub fn status_kib(pid: u32, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    text.lines().find_map(|l| l.strip_prefix(field)).and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// User and system CPU of a process so far; nothing where there is none.
pub fn cpu_of(pid: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<u64> = after_name.split_whitespace().skip(11).take(2).filter_map(|f| f.parse().ok()).collect();
    // SAFETY: sysconf reads a constant.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as f64;
    Duration::from_secs_f64(fields.iter().sum::<u64>() as f64 / per_second)
}

/// Resident bytes of a process: those that are not of files whose names end in `suffix`, and those that are.
///
/// # Errors
/// There is no such process.
pub fn resident_of(pid: u32, suffix: &str) -> io::Result<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let (mut of_files, mut others, mut here) = (0, 0, false);
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            // `start-end perms offset device inode path`: nothing else has a minus and no colon in its first word.
            Some(range) if range.contains('-') && !range.contains(':') => here = line.ends_with(suffix),
            Some("Rss:") => {
                let kib: u64 = words.next().and_then(|kib| kib.parse().ok()).unwrap_or(0);
                *(if here { &mut of_files } else { &mut others }) += kib << 10;
            }
            _ => {}
        }
    }
    Ok((others, of_files))
}
