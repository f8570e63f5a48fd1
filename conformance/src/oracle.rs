//! S3 in memory: one bucket, as the documents and a careful reader of them have it. Slow and plain on purpose.
//!
//! An [`Op`] is applied here and, by `subject.rs`, to a real server; the [`Answer`]s must be equal.
//! Invariant: nothing here is shared with the server's code.
//! Where S3 leaves an answer open (the ETag of a copied multipart object), the oracle says `*`, which equals anything.

use crate::client::Failure;
use crate::content::{Content, fingerprint};
use crate::raw::md5;
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;

/// Metadata of a write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    pub content_type: Option<String>,
    pub user: BTreeMap<String, String>,
}

/// One S3 operation. `slot` counts the uploads that were begun.
#[derive(Clone, Debug)]
pub enum Op {
    Put {
        key: String,
        content: Content,
        attributes: Attributes,
        if_none_match: bool,
        if_match: Option<String>,
    },
    Get {
        key: String,
        range: Option<String>,
        if_match: Option<String>,
        if_none_match: Option<String>,
        part: Option<i32>,
    },
    Head {
        key: String,
    },
    Delete {
        key: String,
    },
    DeleteMany {
        keys: Vec<String>,
    },
    Copy {
        from: String,
        to: String,
        replace: Option<Attributes>,
    },
    Begin {
        key: String,
        attributes: Attributes,
    },
    Part {
        slot: usize,
        number: i32,
        content: Content,
    },
    /// `range`: first and last byte of the source.
    PartCopy {
        slot: usize,
        number: i32,
        from: String,
        range: Option<(u64, u64)>,
    },
    Complete {
        slot: usize,
        parts: Vec<i32>,
    },
    Abort {
        slot: usize,
    },
    ListParts {
        slot: usize,
    },
    ListUploads {
        prefix: String,
    },
    List {
        v2: bool,
        prefix: String,
        delimiter: String,
        after: String,
        page: i32,
    },
    SetTags {
        key: String,
        tags: Vec<(String, String)>,
    },
    GetTags {
        key: String,
    },
    DeleteTags {
        key: String,
    },
}

/// What an operation showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    Etag(String),
    Object {
        etag: String,
        body: Option<String>,
        length: u64,
        range: Option<String>,
        attributes: Attributes,
    },
    /// One entry per page: `key etag size` lines, then `prefix/` lines.
    Listing(Vec<(Vec<String>, Vec<String>)>),
    Parts(Vec<(i32, u64, String)>),
    Names(Vec<String>),
    Tags(Vec<(String, String)>),
    Error {
        status: u16,
        code: String,
    },
}

impl Answer {
    pub fn failed(failure: &Failure) -> Answer {
        match failure {
            Failure::Answered { status, code } => Answer::Error { status: *status, code: code.clone() },
            Failure::Unknown(why) => Answer::Error { status: 0, code: why.clone() },
        }
    }

    /// Equal, where `self` is the oracle's and may hold `*` for an ETag, and an error without a body has no code.
    pub fn matches(&self, seen: &Answer) -> bool {
        match (self, seen) {
            (Answer::Etag(e), Answer::Etag(_)) if e == "*" => true,
            (Answer::Object { etag, .. }, Answer::Object { etag: found, .. }) if etag == "*" => self.with_etag(found) == *seen,
            (Answer::Listing(a), Answer::Listing(b)) => a.len() == b.len() && a.iter().zip(b).all(|(x, y)| pages_match(x, y)),
            (Answer::Error { status, code: mine }, Answer::Error { status: found, code }) if mine.is_empty() || code.is_empty() => {
                status == found
            }
            _ => self == seen,
        }
    }

    fn with_etag(&self, new: &str) -> Answer {
        let mut copy = self.clone();
        if let Answer::Object { etag, .. } = &mut copy {
            *etag = new.to_owned();
        }
        copy
    }
}

fn pages_match(a: &(Vec<String>, Vec<String>), b: &(Vec<String>, Vec<String>)) -> bool {
    let same = |(x, y): (&String, &String)| match x.split_once("\t*\t") {
        Some((key, size)) => y.starts_with(&format!("{key}\t")) && y.ends_with(&format!("\t{size}")),
        None => x == y,
    };
    a.1 == b.1 && a.0.len() == b.0.len() && a.0.iter().zip(&b.0).all(same)
}

#[derive(Clone, Debug)]
struct Object {
    body: Bytes,
    etag: String,
    attributes: Attributes,
    tags: Vec<(String, String)>,
    /// Number, first byte and end of each part of a multipart object. Parts keep the numbers they were sent with.
    parts: Vec<(i32, usize, usize)>,
    /// The upload that made it.
    upload: Option<usize>,
}

#[derive(Clone, Debug)]
struct Upload {
    key: String,
    attributes: Attributes,
    parts: BTreeMap<i32, Bytes>,
    open: bool,
}

/// A bucket.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    objects: BTreeMap<String, Object>,
    uploads: Vec<Upload>,
}

fn error(status: u16, code: &str) -> Answer {
    Answer::Error { status, code: code.into() }
}

fn etag_of(parts: &[&Bytes]) -> String {
    let digests: Vec<u8> = parts.iter().flat_map(|body| md5(body)).collect();
    format!("{}-{}", hex::encode(md5(&digests)), parts.len())
}

impl Oracle {
    pub fn keys(&self) -> Vec<String> {
        self.objects.keys().cloned().collect()
    }

    /// ETag of a key, if it has one that is known.
    pub fn etag(&self, key: &str) -> Option<String> {
        self.objects.get(key).map(|o| o.etag.clone()).filter(|e| e != "*")
    }

    pub fn len_of(&self, key: &str) -> Option<usize> {
        self.objects.get(key).map(|o| o.body.len())
    }

    /// Numbers of the parts of a multipart object; empty for others.
    pub fn part_numbers(&self, key: &str) -> Vec<i32> {
        self.objects.get(key).map_or(Vec::new(), |o| o.parts.iter().map(|(n, ..)| *n).collect())
    }

    /// Open uploads: slot and the numbers and sizes of the parts sent.
    pub fn open_uploads(&self) -> Vec<(usize, Vec<(i32, usize)>)> {
        let open = self.uploads.iter().enumerate().filter(|(_, u)| u.open);
        open.map(|(slot, u)| (slot, u.parts.iter().map(|(n, b)| (*n, b.len())).collect())).collect()
    }

    pub fn upload_key(&self, slot: usize) -> String {
        self.uploads[slot].key.clone()
    }

    pub fn apply(&mut self, op: &Op) -> Answer {
        match op {
            Op::Put { key, content, attributes, if_none_match, if_match } => {
                self.put(key, content, attributes, *if_none_match, if_match.as_deref())
            }
            Op::Get { key, range, if_match, if_none_match, part } => self.get(key, range.as_deref(), if_match, if_none_match, *part),
            Op::Head { key } => match self.objects.get(key) {
                None => error(404, ""),
                Some(o) => Answer::Object {
                    etag: o.etag.clone(),
                    body: None,
                    length: o.body.len() as u64,
                    range: None,
                    attributes: shown(&o.attributes),
                },
            },
            Op::Delete { key } => {
                self.objects.remove(key);
                Answer::Done
            }
            Op::DeleteMany { keys } => {
                keys.iter().for_each(|k| drop(self.objects.remove(k)));
                let mut names = keys.clone();
                names.sort();
                Answer::Names(names)
            }
            Op::Copy { from, to, replace } => self.copy(from, to, replace.as_ref()),
            Op::Begin { key, attributes } => {
                self.uploads.push(Upload { key: key.clone(), attributes: attributes.clone(), parts: BTreeMap::new(), open: true });
                Answer::Done
            }
            Op::Part { slot, number, content } => self.part(*slot, *number, content.bytes()),
            Op::PartCopy { slot, number, from, range } => self.part_copy(*slot, *number, from, *range),
            Op::Complete { slot, parts } => self.complete(*slot, parts),
            Op::Abort { slot } => match self.uploads.get_mut(*slot) {
                Some(upload) if upload.open => {
                    upload.open = false;
                    Answer::Done
                }
                _ => error(404, "NoSuchUpload"),
            },
            Op::ListParts { slot } => match self.uploads.get(*slot) {
                Some(u) if u.open => Answer::Parts(u.parts.iter().map(|(n, b)| (*n, b.len() as u64, hex::encode(md5(b)))).collect()),
                _ => error(404, "NoSuchUpload"),
            },
            Op::ListUploads { prefix } => {
                let mut names: Vec<String> =
                    self.uploads.iter().filter(|u| u.open && u.key.starts_with(prefix)).map(|u| u.key.clone()).collect();
                names.sort();
                Answer::Names(names)
            }
            Op::List { prefix, delimiter, after, page, .. } => Answer::Listing(self.list(prefix, delimiter, after, *page as usize)),
            Op::SetTags { key, tags } => self.with_object(key, |o| {
                o.tags = tags.clone();
                Answer::Done
            }),
            Op::GetTags { key } => self.with_object(key, |o| {
                let mut tags = o.tags.clone();
                tags.sort();
                Answer::Tags(tags)
            }),
            Op::DeleteTags { key } => self.with_object(key, |o| {
                o.tags.clear();
                Answer::Done
            }),
        }
    }

    fn with_object(&mut self, key: &str, then: impl FnOnce(&mut Object) -> Answer) -> Answer {
        self.objects.get_mut(key).map_or_else(|| error(404, "NoSuchKey"), then)
    }

    fn get(&self, key: &str, range: Option<&str>, if_match: &Option<String>, if_none_match: &Option<String>, part: Option<i32>) -> Answer {
        let Some(object) = self.objects.get(key) else { return error(404, "NoSuchKey") };
        if if_match.as_ref().is_some_and(|tag| *tag != object.etag) {
            return error(412, "PreconditionFailed");
        }
        if if_none_match.as_ref().is_some_and(|tag| *tag == object.etag) {
            return error(304, "");
        }
        let total = object.body.len();
        let span = match (range, part) {
            (Some(text), _) => match parse_range(text, total) {
                Some(span) => Some(span),
                None => return error(416, "InvalidRange"),
            },
            (None, Some(wanted)) => match object.parts.iter().find(|(n, ..)| *n == wanted) {
                Some((_, from, to)) => Some((*from, *to)),
                None => return error(416, "InvalidPartNumber"),
            },
            (None, None) => None,
        };
        let (from, to) = span.unwrap_or((0, total));
        Answer::Object {
            etag: object.etag.clone(),
            body: Some(fingerprint(&object.body[from..to])),
            length: (to - from) as u64,
            // An empty part has no range that could be written down.
            range: span.filter(|_| from < to).map(|_| format!("bytes {from}-{}/{total}", to - 1)),
            attributes: shown(&object.attributes),
        }
    }

    fn copy(&mut self, from: &str, to: &str, replace: Option<&Attributes>) -> Answer {
        let Some(source) = self.objects.get(from) else { return error(404, "NoSuchKey") };
        if from == to && replace.is_none() {
            return error(400, "InvalidRequest");
        }
        let mut copy = source.clone();
        if let Some(attributes) = replace {
            copy.attributes = attributes.clone();
        }
        if !copy.parts.is_empty() {
            copy.etag = "*".into();
            copy.parts.clear();
        }
        let etag = copy.etag.clone();
        self.objects.insert(to.to_owned(), copy);
        Answer::Etag(etag)
    }

    fn put(&mut self, key: &str, content: &Content, attributes: &Attributes, if_none_match: bool, if_match: Option<&str>) -> Answer {
        match (self.objects.get(key), if_match) {
            (Some(_), _) if if_none_match => return error(412, "PreconditionFailed"),
            (Some(o), Some(tag)) if o.etag != *tag => return error(412, "PreconditionFailed"),
            (None, Some(_)) => return error(404, "NoSuchKey"),
            _ => {}
        }
        let body = content.bytes();
        let etag = hex::encode(md5(&body));
        let object = Object { body, etag: etag.clone(), attributes: attributes.clone(), tags: Vec::new(), parts: Vec::new(), upload: None };
        self.objects.insert(key.to_owned(), object);
        Answer::Etag(etag)
    }

    fn part_copy(&mut self, slot: usize, number: i32, from: &str, range: Option<(u64, u64)>) -> Answer {
        let Some(source) = self.objects.get(from) else { return error(404, "NoSuchKey") };
        let piece = match range {
            None => source.body.clone(),
            Some((first, last)) if last < source.body.len() as u64 => source.body.slice(first as usize..=last as usize),
            Some(_) => return error(400, "InvalidArgument"),
        };
        self.part(slot, number, piece)
    }

    fn part(&mut self, slot: usize, number: i32, body: Bytes) -> Answer {
        match self.uploads.get_mut(slot) {
            Some(upload) if upload.open => {
                let etag = hex::encode(md5(&body));
                upload.parts.insert(number, body);
                Answer::Etag(etag)
            }
            _ => error(404, "NoSuchUpload"),
        }
    }

    fn complete(&mut self, slot: usize, parts: &[i32]) -> Answer {
        let Some(upload) = self.uploads.get_mut(slot) else { return error(404, "NoSuchUpload") };
        if !upload.open {
            // The first answer may have been lost: what it made, asked for with the same parts, is answered again.
            let known: Option<Vec<&Bytes>> = parts.iter().map(|number| upload.parts.get(number)).collect();
            let made = self.objects.get(&upload.key).filter(|object| object.upload == Some(slot));
            return match (known, made) {
                (Some(bodies), Some(object)) if object.etag == etag_of(&bodies) => Answer::Etag(object.etag.clone()),
                _ => error(404, "NoSuchUpload"),
            };
        }
        if parts.windows(2).any(|w| w[0] >= w[1]) {
            return error(400, "InvalidPartOrder");
        }
        let (mut body, mut ends) = (BytesMut::new(), Vec::new());
        if parts.iter().any(|n| !upload.parts.contains_key(n)) {
            return error(400, "InvalidPart");
        }
        for (place, number) in parts.iter().enumerate() {
            let bytes = &upload.parts[number];
            if place + 1 < parts.len() && bytes.len() < 5 << 20 {
                return error(400, "EntityTooSmall");
            }
            ends.push((*number, body.len(), body.len() + bytes.len()));
            body.extend_from_slice(bytes);
        }
        upload.open = false;
        let etag = etag_of(&parts.iter().map(|number| &upload.parts[number]).collect::<Vec<_>>());
        let (body, attributes) = (body.freeze(), upload.attributes.clone());
        let object = Object { body, etag: etag.clone(), attributes, tags: Vec::new(), parts: ends, upload: Some(slot) };
        self.objects.insert(upload.key.clone(), object);
        Answer::Etag(etag)
    }

    fn list(&self, prefix: &str, delimiter: &str, after: &str, page: usize) -> Vec<(Vec<String>, Vec<String>)> {
        // Entries in key order: a key, or the common prefix that swallows it.
        let mut entries: Vec<Result<String, String>> = Vec::new();
        for (key, object) in self.objects.iter().filter(|(k, _)| k.starts_with(prefix) && k.as_str() > after) {
            let rest = &key[prefix.len()..];
            match rest.find(delimiter).filter(|_| !delimiter.is_empty()) {
                Some(at) => {
                    let common = key[..prefix.len() + at + delimiter.len()].to_owned();
                    if entries.last() != Some(&Err(common.clone())) {
                        entries.push(Err(common));
                    }
                }
                None => entries.push(Ok(format!("{key}\t{}\t{}", object.etag, object.body.len()))),
            }
        }
        let pages: Vec<_> = entries
            .chunks(page.max(1))
            .map(|chunk| (chunk.iter().filter_map(|e| e.clone().ok()).collect(), chunk.iter().filter_map(|e| e.clone().err()).collect()))
            .collect();
        if pages.is_empty() { vec![(Vec::new(), Vec::new())] } else { pages }
    }
}

/// S3's default content type stands in for none.
fn shown(attributes: &Attributes) -> Attributes {
    let content_type = Some(attributes.content_type.clone().unwrap_or_else(|| "binary/octet-stream".into()));
    Attributes { content_type, user: attributes.user.clone() }
}

/// First byte and the byte after the last; `None`: not satisfiable. A reversed range is never asked of the oracle.
fn parse_range(text: &str, total: usize) -> Option<(usize, usize)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    if first.is_empty() {
        let suffix: usize = last.parse().ok()?;
        return (suffix > 0 && total > 0).then(|| (total.saturating_sub(suffix), total));
    }
    let first: usize = first.parse().ok()?;
    let last: usize = if last.is_empty() { total.checked_sub(1)? } else { last.parse().ok()? };
    (first < total).then(|| (first, last.min(total - 1) + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_to_the_object_and_refused_past_its_end() {
        assert_eq!(parse_range("bytes=0-99", 10), Some((0, 10)));
        assert_eq!(parse_range("bytes=-3", 10), Some((7, 10)));
        assert_eq!(parse_range("bytes=10-", 10), None);
        assert_eq!(parse_range("bytes=-5", 0), None);
    }

    #[test]
    fn a_listing_rolls_keys_up_into_prefixes_and_counts_both_for_the_page() {
        let mut oracle = Oracle::default();
        for key in ["a", "b/1", "b/2", "c"] {
            let op = Op::Put {
                key: key.into(),
                content: Content::dense(1, 1),
                attributes: Attributes::default(),
                if_none_match: false,
                if_match: None,
            };
            oracle.apply(&op);
        }
        let pages = oracle.list("", "/", "", 2);
        assert_eq!(pages.len(), 2);
        assert_eq!(pages[0].1, vec!["b/".to_owned()]);
        assert_eq!((pages[0].0.len(), pages[1].0.len()), (1, 1));
    }
}
