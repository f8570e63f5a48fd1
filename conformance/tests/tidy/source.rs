//! Rust source as the tidy rules see it: without comments and strings, cut off where the unit tests begin.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A tracked or new file of the repository, by its path within it.
#[derive(Clone, Debug)]
pub struct Source {
    pub path: String,
    pub text: String,
}

/// A function and the lines from its `fn` to its closing brace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    pub name: String,
    pub lines: usize,
}

pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Every text file that git tracks, or would if it were added.
pub fn tracked() -> Vec<Source> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git lists the repository's files");
    assert!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
    let names = String::from_utf8_lossy(&listed.stdout).into_owned();
    let read = |path: &str| Some(Source { path: path.into(), text: std::fs::read_to_string(root().join(path)).ok()? });
    let all: Vec<Source> = names.split('\0').filter(|n| !n.is_empty()).filter_map(read).collect();
    assert!(all.len() > 20, "only {} files: is this the repository?", all.len());
    all
}

impl Source {
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// A test by its place: `tests/...` or `foo/tests.rs`.
    pub fn is_test(&self) -> bool {
        self.path.contains("/tests/") || self.path.ends_with("/tests.rs")
    }

    /// The text before the unit tests, which stand at the end.
    pub fn production(&self) -> &str {
        let end = self.text.find("\n#[cfg(test)]\nmod tests").map_or(self.text.len(), |at| at + 1);
        &self.text[..end]
    }

    /// All of it, comments and the insides of strings replaced by blanks; lines stay lines.
    pub fn code(&self) -> String {
        blank(&self.text)
    }
}

/// Replaces comments, strings and characters by blanks.
pub fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let skip = skipped(&bytes[at..], out.last().copied());
        if skip == 0 {
            out.push(bytes[at]);
            at += 1;
        } else {
            out.extend(bytes[at..at + skip].iter().map(|b| if *b == b'\n' { b'\n' } else { b' ' }));
            at += skip;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Length of the comment, string or character that begins here; 0 if none does.
fn skipped(rest: &[u8], before: Option<u8>) -> usize {
    let word = before.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    match rest {
        [b'/', b'/', ..] => rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => position(rest, b"*/").map_or(rest.len(), |p| p + 2),
        [b'r', b'"' | b'#', ..] if !word => raw(rest),
        [b'"', ..] => quoted(rest),
        [b'\'', b'\\', ..] => rest[3..].iter().position(|b| *b == b'\'').map_or(rest.len(), |p| p + 4),
        [b'\'', _, b'\'', ..] => 3,
        _ => 0,
    }
}

fn raw(rest: &[u8]) -> usize {
    let hashes = rest[1..].iter().take_while(|b| **b == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return 0;
    }
    let end: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    position(&rest[2 + hashes..], &end).map_or(rest.len(), |p| 2 + hashes + p + end.len())
}

fn quoted(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

fn position(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len()).position(|w| w == needle)
}

/// Every function with a body, in code that [`blank`] made.
pub fn functions(code: &str) -> Vec<Function> {
    let bytes = code.as_bytes();
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
        let name: String = code[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if word || name.is_empty() {
            continue;
        }
        if let Some(end) = body_end(&bytes[at..]) {
            found.push(Function { name, lines: code[at..at + end].matches('\n').count() + 1 });
        }
    }
    found
}

/// Where the body of the function at the beginning ends; `None` for a declaration.
fn body_end(bytes: &[u8]) -> Option<usize> {
    let (mut nested, mut braces) = (0i32, 0i32);
    for (i, b) in bytes.iter().enumerate() {
        match b {
            b'(' | b'[' => nested += 1,
            b')' | b']' => nested -= 1,
            b';' if nested == 0 && braces == 0 => return None,
            b'{' => braces += 1,
            b'}' => {
                braces -= 1;
                if braces == 0 && nested == 0 {
                    return Some(i);
                }
            }
            _ => {}
        }
    }
    None
}
