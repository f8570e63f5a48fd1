//! First and second backup of the same tree with restic, which reads every file both times.

use super::BenchError;
use super::target::Target;
use serde::Serialize;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Backup {
    pub wall_s: f64,
    /// The server's CPU.
    pub cpu_s: f64,
    /// Bytes it added on disk; 0 where the data folder is not known.
    pub disk_bytes: u64,
}

/// Whether restic is installed. Debian: `apt-get install restic`.
pub fn available() -> bool {
    let version = Command::new("restic").arg("version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|s| s.success())
}

/// Makes a repository in `bucket` and backs `tree` up into it twice. `cache` is restic's cache folder.
///
/// # Errors
/// [`BenchError::Request`] with what restic printed.
pub fn measure(target: &Target, bucket: &str, tree: &Path, cache: &Path) -> Result<[Backup; 2], BenchError> {
    restic(target, bucket, cache, &["init"])?;
    let tree = tree.to_string_lossy();
    let backup = || -> Result<Backup, BenchError> {
        let (cpu, disk, began) = (target.cpu(), target.disk_bytes(), Instant::now());
        restic(target, bucket, cache, &["backup", "--force", "--quiet", &tree])?;
        let wall_s = began.elapsed().as_secs_f64();
        let disk_bytes = target.disk_bytes().zip(disk).map_or(0, |(after, before)| after.saturating_sub(before));
        Ok(Backup { wall_s, cpu_s: target.cpu().saturating_sub(cpu).as_secs_f64(), disk_bytes })
    };
    Ok([backup()?, backup()?])
}

fn restic(target: &Target, bucket: &str, cache: &Path, arguments: &[&str]) -> Result<(), BenchError> {
    let output = Command::new("restic")
        .args(["--repo", &format!("s3:{}/{bucket}", target.endpoint), "--cache-dir", &cache.to_string_lossy()])
        .args(arguments)
        .env("AWS_ACCESS_KEY_ID", &target.credential.access_key)
        .env("AWS_SECRET_ACCESS_KEY", &target.credential.secret_key)
        .env("RESTIC_PASSWORD", "bench")
        .stdin(Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(target.failed(&format!("restic {}", arguments[0]), String::from_utf8_lossy(&output.stderr)))
}

/// Copies files from `source` into `place/tree` until `limit` bytes are there, or makes some where `source` is not given or empty.
///
/// # Errors
/// Of the file system.
pub fn tree(source: Option<&Path>, place: &Path, limit: u64) -> io::Result<std::path::PathBuf> {
    let tree = place.join("tree");
    std::fs::create_dir_all(&tree)?;
    let mut total = 0;
    for (i, file) in source.map(crate::server::walk).unwrap_or_default().iter().enumerate() {
        if total >= limit {
            break;
        }
        let folder = tree.join(format!("{:03}", i / 256));
        std::fs::create_dir_all(&folder)?;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        total += std::fs::copy(file, folder.join(format!("{i}-{name}")))?;
    }
    let mut i = 0;
    while total < limit {
        let len = 40_000.min((limit - total) as usize).max(1);
        let folder = tree.join(format!("made-{:03}", i / 256));
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(format!("{i}.txt")), crate::content::Content::text(i, len).bytes())?;
        total += len as u64;
        i += 1;
    }
    Ok(tree)
}
