//! The query string as S3 reads it: ordered pairs, percent-decoded, `+` is a space.

use crate::front::fault::{Fault, Kind};

/// Most parameters of one request; S3's richest listing has nine and a presigned URL seven more.
const PARAMETERS: usize = 64;

/// Decoded `name=value` pairs in the order sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// # Errors
    /// InvalidURI: not UTF-8 after decoding, or more than 64 parameters.
    pub fn parse(raw: Option<&str>) -> Result<Query, Fault> {
        let mut pairs = Vec::new();
        for pair in raw.unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
            if pairs.len() == PARAMETERS {
                return Err(Fault::new(Kind::InvalidUri, "The query string has too many parameters."));
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decoded = decode(name, true).zip(decode(value, true));
            pairs.push(decoded.ok_or_else(|| Fault::new(Kind::InvalidUri, "Couldn't parse the specified URI."))?);
        }
        Ok(Query(pairs))
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(other, _)| other == name)
    }

    /// The first value of `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// The first name that is there twice.
    pub fn repeated(&self) -> Option<&str> {
        let mut names: Vec<&str> = self.names().collect();
        names.sort_unstable();
        names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
    }
}

/// Percent-decodes; `None` if the result is not UTF-8. A `%` without two hex digits stands for itself, as in s3s.
pub fn decode(text: &str, plus_is_space: bool) -> Option<String> {
    if !text.bytes().any(|b| b == b'%' || b == b'+') {
        return Some(text.to_string());
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let pair = bytes.get(at + 1).zip(bytes.get(at + 2)).and_then(|(&high, &low)| Some((digit(high)?, digit(low)?)));
        match (byte, pair) {
            (b'%', Some((high, low))) => {
                out.push(high << 4 | low);
                at += 2;
            }
            (b'+', _) if plus_is_space => out.push(b' '),
            _ => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8(out).ok()
}

fn digit(byte: u8) -> Option<u8> {
    (byte as char).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_keep_their_order_and_are_decoded() {
        let query = Query::parse(Some("prefix=a%2Fb+c&acl&x=%C3%A4&&y=a=b")).unwrap();
        assert_eq!(query.get("prefix"), Some("a/b c"));
        assert_eq!(query.get("acl"), Some(""));
        assert_eq!(query.get("x"), Some("ä"));
        assert_eq!(query.get("y"), Some("a=b"));
        assert_eq!(query.repeated(), None);
    }

    #[test]
    fn bytes_that_are_not_utf8_and_floods_are_refused() {
        assert!(Query::parse(Some("a=%FF")).is_err());
        assert!(Query::parse(Some(&"a&".repeat(65))).is_err());
    }

    #[test]
    fn a_stray_percent_stands_for_itself() {
        assert_eq!(decode("100%", false).as_deref(), Some("100%"));
        assert_eq!(decode("%4", false).as_deref(), Some("%4"));
        assert_eq!(decode("a+b", false).as_deref(), Some("a+b"));
    }

    #[test]
    fn names_sent_twice_are_seen() {
        assert_eq!(Query::parse(Some("tagging&a=1&tagging")).unwrap().repeated(), Some("tagging"));
    }
}
