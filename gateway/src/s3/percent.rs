//! Percent-encoding as S3 uses it: keys in listings, tags and copy sources in headers.

/// `text` with every byte outside `A-Z a-z 0-9 - . _ ~ /` as `%XX`. A space is `%20` and a plus sign `%2B`,
/// which both kinds of decoder (those that take `+` for a space and those that do not) read alike.
pub fn encode(text: &str) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/') {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    out
}

/// The inverse of a form field's encoding: `%XX` and `+` for a space. `None` if an escape is broken or the bytes are not UTF-8.
pub fn decode_form(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        match first {
            b'%' => {
                let [high, low, after @ ..] = tail else { return None };
                let high = char::from(*high).to_digit(16)?;
                let low = char::from(*low).to_digit(16)?;
                out.push(u8::try_from(high * 16 + low).ok()?);
                rest = after;
            }
            b'+' => {
                out.push(b' ');
                rest = tail;
            }
            byte => {
                out.push(*byte);
                rest = tail;
            }
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_an_xml_reader_or_a_url_reader_would_change_is_escaped() {
        assert_eq!(encode("a b+c/ü\u{1}&"), "a%20b%2Bc/%C3%BC%01%26");
    }

    #[test]
    fn a_broken_escape_is_refused() {
        for text in ["%", "%4", "%zz", "%ff"] {
            assert_eq!(decode_form(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(text in ".*") {
            prop_assert_eq!(decode_form(&encode(&text)), Some(text));
        }
    }
}
