//! Conditional requests: judged here for reads and copy sources, turned into the log's [`Condition`] for writes.
//!
//! Order of judgement is RFC 9110 section 13.2.2: If-Match, else If-Unmodified-Since; then If-None-Match, else If-Modified-Since.

use super::error::{self, S3Result};
use super::moment;
use http::{HeaderMap, HeaderValue, header};
use s3s::dto::{Timestamp, TimestampFormat};
use spine::wire::namespace::{Condition, EtagMatch, VersionHead};

/// The entity tags of one header.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Tags {
    Any,
    /// (weak, opaque tag without quotes)
    List(Vec<(bool, String)>),
}

/// The four conditions of a read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    if_match: Option<Tags>,
    if_none_match: Option<Tags>,
    /// Seconds since the epoch.
    if_modified_since: Option<u64>,
    if_unmodified_since: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Proceed,
    /// 304 for a read, 412 for a copy.
    Unchanged,
    /// 412.
    Failed,
}

impl Conditions {
    /// Of a GET or HEAD.
    pub fn of_read(headers: &HeaderMap) -> Conditions {
        Self::read(headers, "")
    }

    /// Of a copy's source.
    pub fn of_copy_source(headers: &HeaderMap) -> Conditions {
        Self::read(headers, "x-amz-copy-source-")
    }

    fn read(headers: &HeaderMap, prefix: &str) -> Conditions {
        let text =
            |name: &str| headers.get(format!("{prefix}{name}")).and_then(|value| value.to_str().ok()).filter(|text| !text.is_empty());
        let date = |name: &str| {
            text(name).and_then(|text| Timestamp::parse(TimestampFormat::HttpDate, text).ok()).map(|time| moment::client_seconds(&time))
        };
        Conditions {
            if_match: text("if-match").map(parse),
            if_none_match: text("if-none-match").map(parse),
            if_modified_since: date("if-modified-since"),
            if_unmodified_since: date("if-unmodified-since"),
        }
    }

    pub fn judge(&self, head: &VersionHead) -> Verdict {
        let etag = head.etag.text();
        let modified = moment::seconds(head.modified);
        match (&self.if_match, self.if_unmodified_since) {
            (Some(tags), _) if !strong(tags, &etag) => return Verdict::Failed,
            (None, Some(since)) if modified > since => return Verdict::Failed,
            _ => {}
        }
        match (&self.if_none_match, self.if_modified_since) {
            (Some(tags), _) if weak(tags, &etag) => Verdict::Unchanged,
            (None, Some(since)) if modified <= since => Verdict::Unchanged,
            _ => Verdict::Proceed,
        }
    }

    /// For a read: nothing, 304 or 412.
    pub fn check_read(&self, head: &VersionHead) -> S3Result<()> {
        match self.judge(head) {
            Verdict::Proceed => Ok(()),
            Verdict::Failed => Err(error::precondition_failed()),
            Verdict::Unchanged => Err(error::not_modified(validators(head))),
        }
    }

    /// For a copy's source: nothing or 412.
    pub fn check_copy_source(&self, head: &VersionHead) -> S3Result<()> {
        match self.judge(head) {
            Verdict::Proceed => Ok(()),
            Verdict::Failed | Verdict::Unchanged => Err(error::precondition_failed()),
        }
    }
}

/// What a 304 repeats.
fn validators(head: &VersionHead) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut put = |name: header::HeaderName, value: String| {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    };
    put(header::ETAG, format!("\"{}\"", head.etag.text()));
    put(header::LAST_MODIFIED, moment::http_date(head.modified));
    if let Some(control) = &head.attributes.cache_control {
        put(header::CACHE_CONTROL, control.clone());
    }
    if let Some(expires) = &head.attributes.expires {
        put(header::EXPIRES, expires.clone());
    }
    headers
}

/// If-Match and If-None-Match of a write, to be decided at its place in the log.
pub fn of_write(headers: &HeaderMap) -> Condition {
    let tags = |name: header::HeaderName| {
        headers.get(name).and_then(|value| value.to_str().ok()).filter(|text| !text.is_empty()).map(|text| match parse(text) {
            Tags::Any => EtagMatch::Any,
            Tags::List(list) => EtagMatch::OneOf(list.into_iter().filter(|(weak, _)| !weak).map(|(_, tag)| tag).collect()),
        })
    };
    Condition { if_match: tags(header::IF_MATCH), if_none_match: tags(header::IF_NONE_MATCH), ..Condition::default() }
}

/// If-Range: whether the Range header counts. A weak tag or a date that is not exactly Last-Modified does not.
pub fn range_counts(headers: &HeaderMap, head: &VersionHead) -> bool {
    let Some(text) = headers.get(header::IF_RANGE).and_then(|value| value.to_str().ok()) else { return true };
    if text.contains('"') { strong(&parse(text), &head.etag.text()) } else { text == moment::http_date(head.modified) }
}

fn strong(tags: &Tags, etag: &str) -> bool {
    match tags {
        Tags::Any => true,
        Tags::List(list) => list.iter().any(|(weak, tag)| !weak && tag == etag),
    }
}

fn weak(tags: &Tags, etag: &str) -> bool {
    match tags {
        Tags::Any => true,
        Tags::List(list) => list.iter().any(|(_, tag)| tag == etag),
    }
}

/// `*`, or tags with or without quotation marks, divided by commas.
fn parse(text: &str) -> Tags {
    if text.trim() == "*" {
        return Tags::Any;
    }
    let mut list = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return Tags::List(list);
        }
        let weak = rest.starts_with("W/");
        let bare = rest.strip_prefix("W/").unwrap_or(rest);
        let (tag, after) = match bare.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => bare.split_once(',').unwrap_or((bare, "")),
        };
        list.push((weak, tag.trim().to_owned()));
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;
    use spine::id::{Seq, UnixMs, VersionId};
    use spine::wire::namespace::{Attributes, Etag};

    const TAG: &str = "00000000000000000000000000000000";
    /// Sun, 06 Nov 1994 08:49:37.5 GMT
    const MODIFIED: UnixMs = UnixMs(784_111_777_500);
    const THEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";

    fn head() -> VersionHead {
        VersionHead {
            id: VersionId([0; 16]),
            seq: Seq(1),
            modified: MODIFIED,
            size: 0,
            etag: Etag { md5: [0; 16], parts: None },
            checksum: None,
            attributes: Attributes::default(),
            tags: Vec::new(),
            upload: None,
        }
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::try_from(*value).unwrap_or(HeaderValue::from_static(""))))
            .collect()
    }

    #[test]
    fn reads_are_judged_in_the_order_of_rfc_9110() {
        let quoted = format!("\"{TAG}\"");
        let weak = format!("W/\"{TAG}\"");
        let listed = format!("\"x\", \"{TAG}\"");
        let cases: [(&[(&'static str, &str)], Verdict); 14] = [
            (&[], Verdict::Proceed),
            (&[("if-match", &quoted)], Verdict::Proceed),
            (&[("if-match", TAG)], Verdict::Proceed),
            (&[("if-match", "*")], Verdict::Proceed),
            (&[("if-match", &listed)], Verdict::Proceed),
            (&[("if-match", &weak)], Verdict::Failed),
            (&[("if-match", "\"x\"")], Verdict::Failed),
            (&[("if-match", &quoted), ("if-unmodified-since", BEFORE)], Verdict::Proceed),
            (&[("if-unmodified-since", BEFORE)], Verdict::Failed),
            (&[("if-unmodified-since", THEN)], Verdict::Proceed),
            (&[("if-none-match", &weak)], Verdict::Unchanged),
            (&[("if-none-match", "\"x\""), ("if-modified-since", THEN)], Verdict::Proceed),
            (&[("if-modified-since", THEN)], Verdict::Unchanged),
            (&[("if-modified-since", BEFORE)], Verdict::Proceed),
        ];
        for (pairs, expected) in cases {
            assert_eq!(Conditions::of_read(&headers(pairs)).judge(&head()), expected, "{pairs:?}");
        }
    }

    #[test]
    fn an_unchanged_object_is_304_to_a_read_and_412_to_a_copy() {
        let quoted = format!("\"{TAG}\"");
        let read = Conditions::of_read(&headers(&[("if-none-match", &quoted)])).check_read(&head());
        let answer = read.err().map(|e| (e.status_code().map(|s| s.as_u16()), e.headers().is_some_and(|h| h.contains_key("etag"))));
        assert_eq!(answer, Some((Some(304), true)));
        let copy = Conditions::of_copy_source(&headers(&[("x-amz-copy-source-if-none-match", &quoted)])).check_copy_source(&head());
        assert_eq!(copy.err().and_then(|e| e.status_code()).map(|s| s.as_u16()), Some(412));
    }

    #[test]
    fn a_date_that_is_none_is_ignored() {
        assert_eq!(Conditions::of_read(&headers(&[("if-modified-since", "yesterday")])), Conditions::default());
    }

    #[test]
    fn a_write_keeps_only_strong_tags() {
        let condition = of_write(&headers(&[("if-match", "W/\"a\", \"b\", c"), ("if-none-match", "*")]));
        assert_eq!(condition.if_match, Some(EtagMatch::OneOf(vec!["b".to_owned(), "c".to_owned()])));
        assert_eq!(condition.if_none_match, Some(EtagMatch::Any));
    }

    #[test]
    fn if_range_needs_the_very_same_object() {
        let quoted = format!("\"{TAG}\"");
        for (value, counts) in [(quoted.as_str(), true), ("\"x\"", false), (THEN, true), (BEFORE, false)] {
            assert_eq!(range_counts(&headers(&[("if-range", value)]), &head()), counts, "{value}");
        }
    }
}
