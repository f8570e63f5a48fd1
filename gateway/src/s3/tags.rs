//! Object tags: the header form, the XML form, the limits.

use super::error::S3Result;
use super::{error, percent};
use s3s::dto::Tag;
use s3s::{S3Error, S3ErrorCode};
use spine::limit;
use std::collections::BTreeSet;

pub type Tags = Vec<(String, String)>;

/// `x-amz-tagging`: `k=v&k2=v2`, form-encoded.
pub fn from_header(header: Option<&str>) -> S3Result<Tags> {
    let mut tags = Tags::new();
    for pair in header.unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        match (percent::decode_form(key), percent::decode_form(value)) {
            (Some(key), Some(value)) => tags.push((key, value)),
            _ => {
                return Err(error::invalid_argument(
                    "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters without tag name duplicates.",
                ));
            }
        }
    }
    check(tags)
}

/// The TagSet of PutObjectTagging.
pub fn from_xml(set: Vec<Tag>) -> S3Result<Tags> {
    let mut tags = Tags::new();
    for tag in set {
        let key = tag.key.ok_or_else(error::malformed_xml)?;
        tags.push((key, tag.value.unwrap_or_default()));
    }
    check(tags)
}

pub fn to_xml(tags: Tags) -> Vec<Tag> {
    tags.into_iter().map(|(key, value)| Tag { key: Some(key), value: Some(value) }).collect()
}

fn check(mut tags: Tags) -> S3Result<Tags> {
    if tags.len() > limit::TAGS {
        return Err(invalid("Object tags cannot be greater than 10"));
    }
    let mut seen = BTreeSet::new();
    for (key, value) in &tags {
        if key.is_empty() || key.chars().count() > limit::TAG_KEY_CHARS || !key.chars().all(allowed) {
            return Err(invalid("The TagKey you have provided is invalid"));
        }
        if value.chars().count() > limit::TAG_VALUE_CHARS || !value.chars().all(allowed) {
            return Err(invalid("The TagValue you have provided is invalid"));
        }
        if key.starts_with("aws:") {
            return Err(invalid("System tags cannot be added/updated by requester"));
        }
        if !seen.insert(key.as_str()) {
            return Err(invalid("Cannot provide multiple Tags with the same key"));
        }
    }
    tags.sort();
    Ok(tags)
}

fn allowed(c: char) -> bool {
    c.is_alphanumeric() || (c.is_whitespace() && !c.is_control()) || "+-=._:/@".contains(c)
}

fn invalid(message: &'static str) -> S3Error {
    S3Error::with_message(S3ErrorCode::InvalidTag, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(header: &str) -> Option<String> {
        from_header(Some(header)).err().map(|e| e.code().as_str().to_owned())
    }

    #[test]
    fn a_tagging_header_is_a_form() {
        let tags = from_header(Some("b=2&a=x%2By+z&empty=&bare"));
        let expected = [("a", "x+y z"), ("b", "2"), ("bare", ""), ("empty", "")];
        assert_eq!(tags.ok(), Some(expected.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec()));
        assert_eq!(from_header(None).ok(), Some(Tags::new()));
    }

    #[test]
    fn limits_on_tags_are_those_of_s3() {
        let many: Vec<String> = (0..11).map(|i| format!("k{i}=v")).collect();
        assert_eq!(code(&many.join("&")).as_deref(), Some("InvalidTag"));
        assert_eq!(code(&many[..10].join("&")), None);
        assert_eq!(code(&format!("{}=v", "k".repeat(128))), None);
        assert_eq!(code(&format!("{}=v", "k".repeat(129))).as_deref(), Some("InvalidTag"));
        assert_eq!(code(&format!("k={}", "%C3%BC".repeat(256))), None);
        assert_eq!(code(&format!("k={}", "v".repeat(257))).as_deref(), Some("InvalidTag"));
        assert_eq!(code("=v").as_deref(), Some("InvalidTag"));
        assert_eq!(code("a=1&a=2").as_deref(), Some("InvalidTag"));
        assert_eq!(code("aws:x=1").as_deref(), Some("InvalidTag"));
        assert_eq!(code("a=%zz").as_deref(), Some("InvalidArgument"));
        assert_eq!(code("a=%00").as_deref(), Some("InvalidTag"));
    }
}
