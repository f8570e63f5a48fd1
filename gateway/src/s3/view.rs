//! How GET and HEAD see one object: which version, which bytes of it, which headers tell of it.

use super::attributes::{self, STANDARD};
use super::caller::wrong_answer;
use super::error::{self, S3Result};
use super::range::{self, Ranged};
use super::{Breakwater, condition};
use http::HeaderMap;
use spine::id::{BucketId, VersionId};
use spine::limit;
use spine::wire::namespace::{Checksum, NamespaceAnswer, NamespaceQuery, PartSummary, VersionBody, VersionHead};
use std::ops::Range;
use std::sync::Arc;

/// What a request picks of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    pub range: Range<u64>,
    /// Set for a 206.
    pub content_range: Option<String>,
    /// Set where a part of a multipart object was asked for.
    pub parts_count: Option<i32>,
    /// The checksum of exactly these bytes, if one is known.
    pub checksum: Option<Checksum>,
}

impl Breakwater {
    /// Head and body of the current version, at one moment.
    pub async fn open(&self, bucket: BucketId, key: &str) -> S3Result<(VersionHead, Arc<VersionBody>)> {
        let known = self.path.known();
        let (head, body) = match known.body(bucket, key) {
            None => match self.ask_namespace(NamespaceQuery::Open { bucket, key: key.to_owned() }).await? {
                NamespaceAnswer::Open(Some((head, body))) => (head, Arc::new(body)),
                NamespaceAnswer::Open(None) => return Err(error::no_such_key()),
                _ => return Err(wrong_answer()),
            },
            Some((version, body)) => {
                let query = NamespaceQuery::Reopen { bucket, key: key.to_owned(), known: version };
                match self.ask_namespace(query).await? {
                    NamespaceAnswer::Reopen(Some((head, None))) if head.id == version => return Ok((head, body)),
                    NamespaceAnswer::Reopen(Some((head, Some(body)))) => (head, Arc::new(body)),
                    NamespaceAnswer::Reopen(None) => return Err(error::no_such_key()),
                    _ => return Err(wrong_answer()),
                }
            }
        };
        known.learn_body(bucket, key, head.id, &body);
        Ok((head, body))
    }

    pub async fn head(&self, bucket: BucketId, key: &str) -> S3Result<VersionHead> {
        match self.ask_namespace(NamespaceQuery::Head { bucket, key: key.to_owned() }).await? {
            NamespaceAnswer::Head(Some(head)) => Ok(head),
            NamespaceAnswer::Head(None) => Err(error::no_such_key()),
            _ => Err(wrong_answer()),
        }
    }
}

/// `versionId`: buckets are unversioned, so there is the null version and no other.
pub fn check_version(version: Option<&str>) -> S3Result<()> {
    match version {
        None | Some("null") => Ok(()),
        Some(text) if VersionId::parse_hex(text).is_some() => Err(error::no_such_version()),
        Some(_) => Err(error::invalid_argument("Invalid version id specified")),
    }
}

/// A part number within S3's bounds.
pub fn part_number(number: i32) -> S3Result<u32> {
    u32::try_from(number)
        .ok()
        .filter(|number| (1..=limit::PARTS).contains(number))
        .ok_or_else(|| error::invalid_argument("Part number must be an integer between 1 and 10000, inclusive"))
}

/// The bytes that Range (of `headers`) or `partNumber` picks. `parts` is empty for an object of one PUT.
///
/// # Errors
/// InvalidRequest for both, InvalidRange, InvalidPartNumber.
pub fn slice(head: &VersionHead, parts: &[PartSummary], headers: &HeaderMap, part: Option<i32>) -> S3Result<Slice> {
    let range = headers.get(http::header::RANGE).and_then(|value| value.to_str().ok());
    if let Some(part) = part {
        let number = part_number(part)?;
        if range.is_some() {
            return Err(error::invalid_request("Cannot specify both Range header and partNumber query parameter"));
        }
        return part_slice(head, parts, number);
    }
    let whole = Slice { range: 0..head.size, content_range: None, parts_count: None, checksum: head.checksum.clone() };
    let Some(range) = range.filter(|_| condition::range_counts(headers, head)) else { return Ok(whole) };
    match range::parse(range, head.size) {
        Ranged::Whole => Ok(whole),
        Ranged::Unsatisfiable => Err(error::invalid_range(head.size)),
        Ranged::Part(range) => {
            let content_range = Some(range::content_range(&range, head.size));
            Ok(Slice { range, content_range, parts_count: None, checksum: None })
        }
    }
}

fn part_slice(head: &VersionHead, parts: &[PartSummary], number: u32) -> S3Result<Slice> {
    let (range, parts_count, checksum) = if parts.is_empty() {
        if number != 1 {
            return Err(error::invalid_part_number());
        }
        (0..head.size, None, head.checksum.clone())
    } else {
        let position = parts.iter().position(|part| part.number == number).ok_or_else(error::invalid_part_number)?;
        let start: u64 = parts[..position].iter().map(|part| part.size).sum();
        let part = &parts[position];
        (start..start + part.size, i32::try_from(parts.len()).ok(), part.checksum.clone())
    };
    let content_range = (!range.is_empty()).then(|| range::content_range(&range, head.size));
    Ok(Slice { range, content_range, parts_count, checksum })
}

pub fn content_type(head: &VersionHead) -> String {
    head.attributes.content_type.clone().unwrap_or_else(|| attributes::DEFAULT_CONTENT_TYPE.to_owned())
}

/// `None` for STANDARD, which headers leave out and listings name.
pub fn storage_class(head: &VersionHead) -> Option<&str> {
    head.attributes.storage_class.as_deref()
}

pub fn listed_storage_class(head: &VersionHead) -> String {
    storage_class(head).unwrap_or(STANDARD).to_owned()
}

pub fn tag_count(head: &VersionHead) -> Option<i32> {
    i32::try_from(head.tags.len()).ok().filter(|count| *count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use spine::id::{Seq, UnixMs};
    use spine::wire::namespace::{Attributes, Etag};

    fn head(size: u64) -> VersionHead {
        VersionHead {
            id: VersionId([0; 16]),
            seq: Seq(1),
            modified: UnixMs(0),
            size,
            etag: Etag { md5: [0; 16], parts: None },
            checksum: None,
            attributes: Attributes::default(),
            tags: Vec::new(),
            upload: None,
        }
    }

    fn parts() -> Vec<PartSummary> {
        [(2, 5), (7, 3), (9, 0)].into_iter().map(|(number, size)| PartSummary { number, size, checksum: None }).collect()
    }

    fn status(result: S3Result<Slice>) -> Option<(u16, String)> {
        result.err().and_then(|e| e.status_code().map(|s| (s.as_u16(), e.code().as_str().to_owned())))
    }

    #[test]
    fn a_part_is_found_by_its_number_and_not_by_its_place() {
        let found = slice(&head(8), &parts(), &HeaderMap::new(), Some(7));
        assert_eq!(found.ok().map(|s| (s.range, s.content_range, s.parts_count)), Some((5..8, Some("bytes 5-7/8".into()), Some(3))));
        assert_eq!(status(slice(&head(8), &parts(), &HeaderMap::new(), Some(1))), Some((416, "InvalidPartNumber".into())));
        assert_eq!(status(slice(&head(8), &parts(), &HeaderMap::new(), Some(0))), Some((400, "InvalidArgument".into())));
        assert_eq!(status(slice(&head(8), &parts(), &HeaderMap::new(), Some(10_001))), Some((400, "InvalidArgument".into())));
    }

    #[test]
    fn part_one_of_an_object_without_parts_is_all_of_it() {
        let found = slice(&head(8), &[], &HeaderMap::new(), Some(1));
        assert_eq!(found.ok().map(|s| (s.range, s.content_range, s.parts_count)), Some((0..8, Some("bytes 0-7/8".into()), None)));
        assert_eq!(status(slice(&head(8), &[], &HeaderMap::new(), Some(2))), Some((416, "InvalidPartNumber".into())));
        let empty = slice(&head(0), &[], &HeaderMap::new(), Some(1));
        assert_eq!(empty.ok().map(|s| (s.range, s.content_range)), Some((0..0, None)));
    }

    #[test]
    fn a_range_and_a_part_together_are_refused() {
        let mut headers = HeaderMap::new();
        headers.insert(http::header::RANGE, HeaderValue::from_static("bytes=0-1"));
        assert_eq!(status(slice(&head(8), &[], &headers, Some(1))), Some((400, "InvalidRequest".into())));
        assert_eq!(slice(&head(8), &[], &headers, None).ok().map(|s| s.range), Some(0..2));
        assert_eq!(status(slice(&head(0), &[], &headers, None)), Some((416, "InvalidRange".into())));
    }

    #[test]
    fn there_is_no_version_but_null() {
        assert!(check_version(None).is_ok());
        assert!(check_version(Some("null")).is_ok());
        let code = |text| check_version(Some(text)).err().map(|e| e.code().as_str().to_owned());
        assert_eq!(code("00112233445566778899aabbccddeeff").as_deref(), Some("NoSuchVersion"));
        assert_eq!(code("x").as_deref(), Some("InvalidArgument"));
    }
}
