//! The Range header, and the range of a part copy.

use std::ops::Range;

/// What a GET with this Range header answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ranged {
    /// No header, or one that RFC 9110 lets a server ignore: another unit, several ranges, reversed, malformed. 200 with everything.
    Whole,
    /// 206 with these bytes; never empty.
    Part(Range<u64>),
    /// 416.
    Unsatisfiable,
}

/// Judges `header` against a body of `size` bytes.
pub fn parse(header: &str, size: u64) -> Ranged {
    let Some((first, last)) = header.trim().strip_prefix("bytes=").and_then(|spec| spec.trim().split_once('-')) else {
        return Ranged::Whole;
    };
    match (first, last) {
        ("", suffix) => match digits(suffix) {
            None => Ranged::Whole,
            Some(0) => Ranged::Unsatisfiable,
            Some(_) if size == 0 => Ranged::Unsatisfiable,
            Some(len) => Ranged::Part(size.saturating_sub(len)..size),
        },
        (first, "") => match digits(first) {
            None => Ranged::Whole,
            Some(first) if first >= size => Ranged::Unsatisfiable,
            Some(first) => Ranged::Part(first..size),
        },
        (first, last) => match (digits(first), digits(last)) {
            (Some(first), Some(last)) if first <= last => {
                if first >= size {
                    Ranged::Unsatisfiable
                } else {
                    Ranged::Part(first..last.saturating_add(1).min(size))
                }
            }
            _ => Ranged::Whole,
        },
    }
}

/// Content-Range of a 206.
pub fn content_range(range: &Range<u64>, size: u64) -> String {
    format!("bytes {}-{}/{size}", range.start, range.end.saturating_sub(1))
}

/// `x-amz-copy-source-range`: both ends, and within the source. `None` if it is anything else.
pub fn parse_copy(header: &str) -> Option<Range<u64>> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    let (first, last) = (digits(first)?, digits(last)?);
    (first <= last && last < u64::MAX).then(|| first..last + 1)
}

/// Digits only: no sign, no space. A number too large for 64 bits is the largest.
fn digits(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_judged_as_rfc_9110_says() {
        let cases = [
            ("bytes=0-0", 10, Ranged::Part(0..1)),
            ("bytes=2-5", 10, Ranged::Part(2..6)),
            ("bytes=2-", 10, Ranged::Part(2..10)),
            ("bytes=-3", 10, Ranged::Part(7..10)),
            ("bytes=-30", 10, Ranged::Part(0..10)),
            ("bytes=5-500", 10, Ranged::Part(5..10)),
            ("bytes=5-99999999999999999999999", 10, Ranged::Part(5..10)),
            ("bytes=10-", 10, Ranged::Unsatisfiable),
            ("bytes=10-12", 10, Ranged::Unsatisfiable),
            ("bytes=-0", 10, Ranged::Unsatisfiable),
            ("bytes=0-", 0, Ranged::Unsatisfiable),
            ("bytes=-1", 0, Ranged::Unsatisfiable),
            ("bytes=5-2", 10, Ranged::Whole),
            ("bytes=0-1,3-4", 10, Ranged::Whole),
            ("bytes=a-b", 10, Ranged::Whole),
            ("bytes=-", 10, Ranged::Whole),
            ("bytes", 10, Ranged::Whole),
            ("items=0-1", 10, Ranged::Whole),
            ("bytes=+1-2", 10, Ranged::Whole),
        ];
        for (header, size, expected) in cases {
            assert_eq!(parse(header, size), expected, "{header} of {size}");
        }
    }

    #[test]
    fn a_part_copy_needs_both_ends() {
        assert_eq!(parse_copy("bytes=0-9"), Some(0..10));
        for header in ["bytes=0-", "bytes=-5", "0-9", "bytes=9-0", "bytes=0-9,20-29", "bytes=0-18446744073709551615"] {
            assert_eq!(parse_copy(header), None, "{header}");
        }
    }
}
