//! How keys fall into common prefixes: shared by the listings of objects and of uploads.

/// What a listing shows for one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group<'a> {
    /// The key itself.
    Key,
    /// Everything up to and with the first delimiter after the prefix, together.
    Prefix(&'a str),
}

/// The group of a `key` that starts with `prefix`. An empty delimiter is none.
pub fn of<'a>(key: &'a str, prefix: &str, delimiter: &str) -> Group<'a> {
    if delimiter.is_empty() {
        return Group::Key;
    }
    match key.get(prefix.len()..).and_then(|rest| rest.find(delimiter)) {
        Some(at) => Group::Prefix(&key[..prefix.len() + at + delimiter.len()]),
        None => Group::Key,
    }
}

/// Whether `marker` is itself a common prefix, so that everything below it was listed with it.
pub fn is_common_prefix(marker: &str, prefix: &str, delimiter: &str) -> bool {
    marker.starts_with(prefix) && of(marker, prefix, delimiter) == Group::Prefix(marker)
}
