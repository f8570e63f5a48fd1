//! What the listings share: bounds, the encoding of keys, entries, and XML for keys that XML cannot hold.

use super::caller::owner;
use super::error::{self, S3Result};
use super::{checksum, moment, percent, view};
use bytes::Bytes;
use s3s::dto::{ChecksumAlgorithm as ChecksumName, CommonPrefix, ETag, EncodingType, Object, ObjectStorageClass};
use s3s::xml;
use spine::id::TenantId;
use spine::limit;
use spine::wire::namespace::VersionHead;

/// `max-keys` and its like: absent or more than 1,000 is 1,000; 0 is allowed and gives an empty page.
pub fn page_size(max: Option<i32>, name: &str) -> S3Result<usize> {
    match max {
        None => Ok(limit::PAGE),
        Some(max) => usize::try_from(max)
            .map(|max| max.min(limit::PAGE))
            .map_err(|_| error::invalid_argument(format!("Argument {name} must be an integer between 0 and 2147483647"))),
    }
}

/// Whether and how names are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    Plain,
    /// `encoding-type=url`
    Url,
}

impl Names {
    pub fn of(encoding: Option<&EncodingType>) -> S3Result<Names> {
        match encoding.map(EncodingType::as_str) {
            None | Some("") => Ok(Names::Plain),
            Some("url") => Ok(Names::Url),
            Some(_) => Err(error::invalid_argument("Invalid Encoding Method specified in Request")),
        }
    }

    pub fn show(self, name: String) -> String {
        match self {
            Names::Plain => name,
            Names::Url => percent::encode(&name),
        }
    }

    pub fn echo(self) -> Option<EncodingType> {
        (self == Names::Url).then(|| EncodingType::from_static(EncodingType::URL))
    }

    pub fn prefixes(self, prefixes: Vec<String>) -> Vec<CommonPrefix> {
        prefixes.into_iter().map(|prefix| CommonPrefix { prefix: Some(self.show(prefix)) }).collect()
    }

    /// One entry; with its owner where that was asked for.
    pub fn object(self, key: String, head: VersionHead, tenant: Option<TenantId>) -> Object {
        let algorithm = head.checksum.as_ref().map(|sum| vec![ChecksumName::from_static(checksum::name(sum.algorithm))]);
        Object {
            checksum_algorithm: algorithm,
            checksum_type: checksum::kind_out(head.checksum.as_ref()),
            e_tag: Some(ETag::Strong(head.etag.text())),
            key: Some(self.show(key)),
            last_modified: Some(moment::timestamp(head.modified)),
            owner: tenant.map(owner),
            restore_status: None,
            size: i64::try_from(head.size).ok(),
            storage_class: Some(ObjectStorageClass::from(view::listed_storage_class(&head))),
        }
    }
}

/// The XML of an answer some of whose names XML 1.0 has no plain form for: control characters become character references, as AWS
/// writes them. s3s would answer 500, and a carriage return would come back as a line feed. `None` where s3s' own XML is right.
///
/// The front end puts it in the place of the body that s3s made: see [`super::finish`].
pub fn with_references(answer: &impl xml::Serialize) -> Option<Bytes> {
    let mut plain = Vec::new();
    let mut writer = xml::Serializer::new(&mut plain);
    writer.decl().and_then(|()| answer.serialize(&mut writer)).ok()?;
    if !plain.iter().any(|byte| *byte < b' ') {
        return None;
    }
    let mut out = Vec::with_capacity(plain.len() + 64);
    for byte in plain {
        if byte < b' ' {
            out.extend_from_slice(format!("&#x{byte:X};").as_bytes());
        } else {
            out.push(byte);
        }
    }
    Some(out.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use s3s::dto::ListObjectsV2Output;

    #[test]
    fn a_page_is_at_most_a_thousand() {
        for (asked, size) in [(None, 1_000), (Some(0), 0), (Some(7), 7), (Some(1_001), 1_000), (Some(i32::MAX), 1_000)] {
            assert_eq!(page_size(asked, "maxKeys").ok(), Some(size));
        }
        assert_eq!(page_size(Some(-1), "maxKeys").err().map(|e| e.code().as_str().to_owned()), Some("InvalidArgument".to_owned()));
    }

    #[test]
    fn only_url_is_an_encoding() {
        assert_eq!(Names::of(None).ok(), Some(Names::Plain));
        assert_eq!(Names::of(Some(&EncodingType::from_static("url"))).ok(), Some(Names::Url));
        assert!(Names::of(Some(&EncodingType::from_static("base64"))).is_err());
        assert_eq!(Names::Url.show("a b\u{1}".into()), "a%20b%01");
    }

    #[test]
    fn control_characters_become_references_and_nothing_else_changes() {
        let of = |prefix: &str| {
            with_references(&ListObjectsV2Output { prefix: Some(prefix.into()), ..Default::default() })
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        };
        assert_eq!(of("plain <&> ü"), None);
        let text = of("a\r\n\u{1}<b").unwrap_or_default();
        assert!(text.bytes().all(|byte| byte >= b' '), "{text}");
        assert!(text.contains("&#x1;&lt;b</Prefix>"), "{text}");
    }
}
