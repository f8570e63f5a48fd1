//! Follows the framing of an aws-chunked body as it passes, and says where it breaks.
//!
//! ```text
//! chunk   = hex-size [";chunk-signature=" 64-hex] CRLF  data  CRLF      any number, size > 0
//! last    = "0" [";chunk-signature=" 64-hex] CRLF
//! trailer = *( name ":" value LF ) [CRLF]                              at most 16 KiB
//! ```
//! Why: s3s decodes and checks signatures, but a body may end without its last chunk, a size may have garbage after its digits,
//! a declared trailer may be missing, and a signed chunk is held in memory whole.
//! Invariants: memory here is bounded whatever the body's size; [`Framing::finish`] is Ok only for a body that is whole and carries
//! exactly the declared bytes. Not here: signatures and digests.

use crate::front::fault::{Fault, Kind};

/// Longest line with a chunk's size.
const LINE_BYTES: usize = 1_024;
/// Most bytes after the last chunk.
const TRAILER_BYTES: usize = 16 << 10;

/// What the request's headers promise about its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    /// `STREAMING-AWS4-HMAC-...`: every chunk carries a signature.
    pub signed: bool,
    /// Lower-case names from `x-amz-trailer`.
    pub trailers: Vec<String>,
    /// `x-amz-decoded-content-length`.
    pub decoded: u64,
    /// A signed chunk is held whole until its signature is checked: at most this many bytes.
    pub max_signed_chunk: u64,
}

#[derive(Debug)]
enum State {
    Line(Vec<u8>),
    Data {
        left: u64,
    },
    /// Bytes of the CRLF after a chunk's data that were seen.
    DataEnd {
        seen: u8,
    },
    Trailer(Vec<u8>),
}

/// Where in the framing the body is.
#[derive(Debug)]
pub struct Framing {
    promise: Promise,
    state: State,
    decoded: u64,
}

impl Framing {
    pub fn new(promise: Promise) -> Framing {
        Framing { promise, state: State::Line(Vec::new()), decoded: 0 }
    }

    /// Takes the next bytes off the wire, in order.
    ///
    /// # Errors
    /// The framing is broken or promises too much; nothing after it makes sense.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        while !bytes.is_empty() {
            bytes = match &mut self.state {
                State::Line(line) => {
                    let (taken, whole) = match bytes.iter().position(|&b| b == b'\n') {
                        Some(at) => (at + 1, true),
                        None => (bytes.len(), false),
                    };
                    if line.len() + taken > LINE_BYTES {
                        return Err(incomplete("a chunk's size line is too long"));
                    }
                    line.extend_from_slice(&bytes[..taken]);
                    if whole {
                        let line = std::mem::take(line);
                        self.begin_chunk(&line)?;
                    }
                    &bytes[taken..]
                }
                State::Data { left } => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= taken as u64;
                    if *left == 0 {
                        self.state = State::DataEnd { seen: 0 };
                    }
                    &bytes[taken..]
                }
                State::DataEnd { seen } => {
                    if bytes[0] != b"\r\n"[usize::from(*seen)] {
                        return Err(incomplete("a chunk is longer than its size says"));
                    }
                    *seen += 1;
                    if *seen == 2 {
                        self.state = State::Line(Vec::new());
                    }
                    &bytes[1..]
                }
                State::Trailer(trailer) => {
                    if trailer.len() + bytes.len() > TRAILER_BYTES {
                        return Err(incomplete("there is too much after the last chunk"));
                    }
                    trailer.extend_from_slice(bytes);
                    &[]
                }
            };
        }
        Ok(())
    }

    fn begin_chunk(&mut self, line: &[u8]) -> Result<(), Fault> {
        let size = self.chunk_size(line).ok_or_else(|| incomplete("a chunk's size line is malformed"))?;
        if self.promise.signed && size > self.promise.max_signed_chunk {
            let message = format!("A signed chunk may have at most {} bytes.", self.promise.max_signed_chunk);
            return Err(Fault::new(Kind::EntityTooLarge, message));
        }
        self.decoded += size;
        if self.decoded > self.promise.decoded {
            return Err(incomplete("the chunks hold more than x-amz-decoded-content-length"));
        }
        if size > 0 {
            self.state = State::Data { left: size };
            return Ok(());
        }
        if self.decoded < self.promise.decoded {
            return Err(incomplete("the chunks hold less than x-amz-decoded-content-length"));
        }
        self.state = State::Trailer(Vec::new());
        Ok(())
    }

    /// `line` ends in LF. A signature is demanded where the request promised one.
    fn chunk_size(&self, line: &[u8]) -> Option<u64> {
        let line = line.strip_suffix(b"\r\n")?;
        let (digits, extension) = match line.iter().position(|&b| b == b';') {
            Some(at) => (&line[..at], Some(&line[at + 1..])),
            None => (line, None),
        };
        let signature = extension.and_then(|extension| extension.strip_prefix(b"chunk-signature="));
        let signature_holds = signature.is_some_and(|hex| hex.len() == 64 && hex.iter().all(u8::is_ascii_hexdigit));
        let extension_holds = if self.promise.signed { signature_holds } else { extension.is_none() };
        let digits_hold = (1..=8).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
        if !extension_holds || !digits_hold {
            return None;
        }
        u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    }

    /// The body has ended.
    ///
    /// # Errors
    /// It ended early, or without a trailer it declared.
    pub fn finish(&self) -> Result<(), Fault> {
        let State::Trailer(trailer) = &self.state else {
            return Err(incomplete("the body ended before its last chunk"));
        };
        let names: Vec<String> = trailer
            .split(|&b| b == b'\n')
            .filter_map(|line| line.split(|&b| b == b':').next())
            .map(|name| String::from_utf8_lossy(name).trim().to_ascii_lowercase())
            .collect();
        match self.promise.trailers.iter().find(|declared| !names.contains(declared)) {
            Some(missing) => {
                Err(Fault::new(Kind::MalformedTrailer, format!("The request declared the trailer {missing} and did not send it.")))
            }
            None => Ok(()),
        }
    }
}

fn incomplete(what: &str) -> Fault {
    Fault::new(
        Kind::IncompleteBody,
        format!("You did not provide the number of bytes specified by the x-amz-decoded-content-length HTTP header: {what}."),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIGNATURE: &str = ";chunk-signature=aaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbccccccccccccccccdddddddddddddddd";

    fn promise(signed: bool, decoded: u64) -> Promise {
        Promise { signed, trailers: Vec::new(), decoded, max_signed_chunk: 1_000 }
    }

    fn whole(promise: Promise, body: &[u8], step: usize) -> Result<(), Fault> {
        let mut framing = Framing::new(promise);
        for piece in body.chunks(step) {
            framing.feed(piece)?;
        }
        framing.finish()
    }

    fn kind(result: Result<(), Fault>) -> Option<Kind> {
        result.err().map(|fault| fault.kind)
    }

    #[test]
    fn a_whole_body_passes_however_it_is_cut() {
        let unsigned = b"5\r\nhello\r\n3\r\nabc\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n".to_vec();
        let signed = format!("5{SIGNATURE}\r\nhello\r\n0{SIGNATURE}\r\n\r\n").into_bytes();
        for step in 1..40 {
            assert_eq!(whole(promise(false, 8), &unsigned, step), Ok(()));
            assert_eq!(whole(promise(true, 5), &signed, step), Ok(()));
        }
    }

    #[test]
    fn an_empty_body_is_one_last_chunk() {
        assert_eq!(whole(promise(false, 0), b"0\r\n\r\n", 64), Ok(()));
        assert_eq!(kind(whole(promise(false, 0), b"", 64)), Some(Kind::IncompleteBody));
    }

    #[test]
    fn every_cut_before_the_last_chunk_is_incomplete() {
        let body = b"5\r\nhello\r\n3\r\nabc\r\n0\r\n";
        for cut in 0..body.len() {
            assert_eq!(kind(whole(promise(false, 8), &body[..cut], 64)), Some(Kind::IncompleteBody), "cut at {cut}");
        }
        assert_eq!(whole(promise(false, 8), body, 64), Ok(()));
    }

    #[test]
    fn a_wrong_decoded_length_is_incomplete_whichever_way() {
        let body = b"5\r\nhello\r\n0\r\n\r\n";
        assert_eq!(kind(whole(promise(false, 4), body, 64)), Some(Kind::IncompleteBody));
        assert_eq!(kind(whole(promise(false, 6), body, 64)), Some(Kind::IncompleteBody));
    }

    #[test]
    fn sizes_with_garbage_signs_or_missing_signatures_are_refused() {
        for line in ["5x", "+5", "-5", " 5", "", "000000005", "5;chunk-signature=abc", "5;x=y"] {
            let body = format!("{line}\r\nhello\r\n0\r\n\r\n");
            assert_eq!(kind(whole(promise(false, 5), body.as_bytes(), 64)), Some(Kind::IncompleteBody), "{line}");
        }
        assert_eq!(kind(whole(promise(true, 5), b"5\r\nhello\r\n0\r\n\r\n", 64)), Some(Kind::IncompleteBody));
    }

    #[test]
    fn a_signed_chunk_above_the_bound_is_refused_before_its_data() {
        let mut framing = Framing::new(promise(true, 5_000));
        let fault = framing.feed(format!("3e9{SIGNATURE}\r\n").as_bytes());
        assert_eq!(kind(fault), Some(Kind::EntityTooLarge));
        assert_eq!(whole(promise(false, 0x3e9), format!("3e9\r\n{}\r\n0\r\n\r\n", "x".repeat(0x3e9)).as_bytes(), 64), Ok(()));
    }

    #[test]
    fn a_declared_trailer_must_come() {
        let declared = Promise { trailers: vec!["x-amz-checksum-crc32".into()], ..promise(false, 5) };
        let with = b"5\r\nhello\r\n0\r\nX-Amz-Checksum-Crc32: AAAA\r\n\r\n";
        assert_eq!(whole(declared.clone(), with, 7), Ok(()));
        assert_eq!(kind(whole(declared, b"5\r\nhello\r\n0\r\n\r\n", 7)), Some(Kind::MalformedTrailer));
    }

    #[test]
    fn what_follows_the_last_chunk_is_bounded() {
        let mut framing = Framing::new(promise(false, 0));
        framing.feed(b"0\r\n").unwrap();
        let flood = vec![b'a'; TRAILER_BYTES + 1];
        assert_eq!(kind(framing.feed(&flood)), Some(Kind::IncompleteBody));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_pass_with_the_wrong_length(body in proptest::collection::vec(any::<u8>(), 0..300), decoded in 0u64..64) {
            let _ = whole(promise(false, decoded), &body, 11);
            let _ = whole(promise(true, decoded), &body, 11);
        }

        #[test]
        fn chunks_of_any_sizes_pass_with_their_sum_and_with_no_other(sizes in proptest::collection::vec(1usize..200, 0..8), off in 1u64..9) {
            let mut body = Vec::new();
            for size in &sizes {
                body.extend_from_slice(format!("{size:x}\r\n").as_bytes());
                body.resize(body.len() + size, b'\n');
                body.extend_from_slice(b"\r\n");
            }
            body.extend_from_slice(b"0\r\n\r\n");
            let sum = sizes.iter().sum::<usize>() as u64;
            prop_assert!(whole(promise(false, sum), &body, 13).is_ok());
            prop_assert!(whole(promise(false, sum + off), &body, 13).is_err());
        }
    }
}
