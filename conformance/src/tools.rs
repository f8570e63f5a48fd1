//! The programs that the tests run: Debian's restic, rclone and s3cmd, and Python with boto3 and the AWS CLI in a virtual
//! environment under `target/`. `./conformance/run` installs them; here they are only found.

use crate::server::{Credential, Server, repository};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Folder of the virtual environment: `BREAKWATER_VENV`, else `target/clients`.
pub fn venv() -> PathBuf {
    std::env::var_os("BREAKWATER_VENV").map_or_else(|| repository().join("target/clients"), PathBuf::from)
}

/// A program on the path, if it is installed.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&folders).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")]);
    folders.map(|f| f.join(name)).find(|p| p.is_file())
}

/// A program on the path.
///
/// # Panics
/// It is not there: a test that can't run must not pass.
pub fn program(name: &str) -> PathBuf {
    find_program(name).unwrap_or_else(|| panic!("`{name}` is not installed: run ./conformance/run --install"))
}

/// A program of the virtual environment.
///
/// # Panics
/// As [`program`].
pub fn venv_program(name: &str) -> PathBuf {
    let path = venv().join("bin").join(name);
    assert!(path.exists(), "{} is missing: run ./conformance/run --install", path.display());
    path
}

/// A command with the variables that AWS clients read, and none of the caller's own configuration.
pub fn client_command(program: &Path, server: &Server, credential: &Credential, home: &Path) -> Command {
    client_command_at(program, server.endpoint(), credential, home)
}

/// The same by the server's address.
pub fn client_command_at(program: &Path, endpoint: &str, credential: &Credential, home: &Path) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).current_dir(home).env("HOME", home).env("XDG_CACHE_HOME", home.join("cache"));
    for (name, _) in std::env::vars().filter(|(n, _)| n.starts_with("AWS_") || n.starts_with("RCLONE_") || n.starts_with("RESTIC_")) {
        command.env_remove(name);
    }
    command.env("AWS_ACCESS_KEY_ID", &credential.access_key).env("AWS_SECRET_ACCESS_KEY", &credential.secret_key);
    command.env("AWS_DEFAULT_REGION", "us-east-1").env("AWS_ENDPOINT_URL", endpoint);
    command.env("AWS_EC2_METADATA_DISABLED", "true").env("AWS_PAGER", "");
    command.env("BREAKWATER_ENDPOINT", endpoint);
    command
}

/// Runs to the end and gives standard output and error together.
///
/// # Errors
/// The program ended with another status than 0; the error has its name and all it printed.
pub fn run(command: &mut Command) -> Result<String, String> {
    let shown = format!("{command:?}").split("\" \"").collect::<Vec<_>>().join(" ").chars().rev().take(200).collect::<String>();
    let shown: String = shown.chars().rev().collect();
    let output: Output = command.output().map_err(|e| format!("{shown}: {e}"))?;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(text) } else { Err(format!("...{shown} ended with {}:\n{text}", output.status)) }
}

/// Differences between two folders (content, names, kinds), in words; empty: none.
pub fn compare_trees(left: &Path, right: &Path) -> Vec<String> {
    let relative = |root: &Path| -> Vec<PathBuf> {
        crate::server::walk(root).into_iter().filter_map(|p| p.strip_prefix(root).map(Path::to_path_buf).ok()).collect()
    };
    let (a, b) = (relative(left), relative(right));
    let mut differences: Vec<String> =
        a.iter().filter(|p| b.binary_search(p).is_err()).map(|p| format!("only left: {}", p.display())).collect();
    differences.extend(b.iter().filter(|p| a.binary_search(p).is_err()).map(|p| format!("only right: {}", p.display())));
    for path in a.iter().filter(|p| b.binary_search(p).is_ok()) {
        if std::fs::read(left.join(path)).ok() != std::fs::read(right.join(path)).ok() {
            differences.push(format!("differs: {}", path.display()));
        }
    }
    differences
}

/// Says that the test of this thread cannot be run here, and why. Past the harness, which keeps to itself what a test prints that does not
/// fail; `conformance/run` counts these lines.
pub fn not_run(why: &dyn std::fmt::Display) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "NOT RUN: {}: {why}", std::thread::current().name().unwrap_or("a test"));
}
