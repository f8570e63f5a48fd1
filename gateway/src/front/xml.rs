//! Looks over an XML request body as it passes: size, depth, and what no S3 request has.
//!
//! Why: s3s takes 20 MiB of XML, skips unknown elements however deep, and ignores document types and CDATA sections (a key written as
//! CDATA would be read as an empty one). Invariants: memory is bounded; the bytes are passed on unchanged; well-formedness is s3s's.

use crate::front::fault::{Fault, Kind};

/// Largest XML body. CompleteMultipartUpload with 10,000 parts and checksums has 3 MiB, DeleteObjects of 1,000 escaped keys 6 MiB.
pub const XML_BYTES: u64 = 8 << 20;
/// S3's deepest request, a lifecycle rule, has 7 levels.
const DEPTH: u32 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Text,
    /// Just after `<`, with what was read of the name so far decided by its first byte.
    Opened,
    /// In a start tag; `slash`: the byte before was `/`.
    Start {
        slash: bool,
    },
    Quoted {
        by: u8,
    },
    End,
    /// After `<!`; only a comment may follow.
    Bang {
        dashes: u8,
    },
    /// In a comment; dashes seen in a row.
    Comment {
        dashes: u8,
    },
    /// In `<? ... ?>`; `mark`: the byte before was `?`.
    Instruction {
        mark: bool,
    },
}

/// Where in the document the body is.
#[derive(Debug)]
pub struct XmlScan {
    at: At,
    depth: u32,
    bytes: u64,
}

impl Default for XmlScan {
    fn default() -> Self {
        XmlScan { at: At::Text, depth: 0, bytes: 0 }
    }
}

impl XmlScan {
    /// Takes the next bytes of the document, in order.
    ///
    /// # Errors
    /// MalformedXML: too large, too deep, or with a document type, an entity declaration or a CDATA section.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.bytes += bytes.len() as u64;
        if self.bytes > XML_BYTES {
            return Err(malformed());
        }
        for &byte in bytes {
            self.at = self.step(byte)?;
        }
        Ok(())
    }

    fn step(&mut self, byte: u8) -> Result<At, Fault> {
        Ok(match (self.at, byte) {
            (At::Text, b'<') => At::Opened,
            (At::Text, _) => At::Text,
            (At::Opened, b'/') => At::End,
            (At::Opened, b'!') => At::Bang { dashes: 0 },
            (At::Opened, b'?') => At::Instruction { mark: false },
            (At::Opened, _) => {
                self.depth += 1;
                if self.depth > DEPTH {
                    return Err(malformed());
                }
                At::Start { slash: false }
            }
            (At::Start { slash }, b'>') => {
                if slash {
                    self.depth = self.depth.saturating_sub(1);
                }
                At::Text
            }
            (At::Start { .. }, b'"' | b'\'') => At::Quoted { by: byte },
            (At::Start { .. }, _) => At::Start { slash: byte == b'/' },
            (At::Quoted { by }, _) if byte == by => At::Start { slash: false },
            (At::Quoted { by }, _) => At::Quoted { by },
            (At::End, b'>') => {
                self.depth = self.depth.saturating_sub(1);
                At::Text
            }
            (At::End, _) => At::End,
            (At::Bang { dashes: 0 }, b'-') => At::Bang { dashes: 1 },
            (At::Bang { .. }, b'-') => At::Comment { dashes: 0 },
            (At::Bang { .. }, _) => return Err(malformed()),
            (At::Comment { dashes: 2 }, b'>') => At::Text,
            (At::Comment { dashes }, b'-') => At::Comment { dashes: (dashes + 1).min(2) },
            (At::Comment { .. }, _) => At::Comment { dashes: 0 },
            (At::Instruction { mark: true }, b'>') => At::Text,
            (At::Instruction { .. }, _) => At::Instruction { mark: byte == b'?' },
        })
    }
}

fn malformed() -> Fault {
    Fault::new(Kind::MalformedXml, "The XML you provided was not well-formed or did not validate against our published schema.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(document: &str) -> Result<(), Fault> {
        let mut at_once = XmlScan::default();
        let mut by_byte = XmlScan::default();
        let by_byte = document.as_bytes().iter().try_for_each(|byte| by_byte.feed(std::slice::from_ref(byte)));
        let at_once = at_once.feed(document.as_bytes());
        assert_eq!(at_once, by_byte);
        at_once
    }

    #[test]
    fn ordinary_documents_pass() {
        for document in [
            "<?xml version=\"1.0\"?><!-- a < b --><Delete xmlns=\"x>y\"><Object><Key>a&amp;b</Key></Object><Quiet/></Delete>",
            "<CreateBucketConfiguration/>",
            "",
            "plain",
        ] {
            assert_eq!(scan(document), Ok(()), "{document}");
        }
    }

    #[test]
    fn document_types_entities_and_cdata_are_refused() {
        for document in ["<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>", "<a><![CDATA[key]]></a>", "<!doctype html>", "<!-DOCTYPE a>"] {
            assert!(scan(document).is_err(), "{document}");
        }
    }

    #[test]
    fn depth_is_bounded_and_siblings_are_not_depth() {
        assert!(scan(&"<a>".repeat(17)).is_err());
        assert_eq!(scan(&"<a>".repeat(16)), Ok(()));
        assert_eq!(scan(&format!("<r>{}</r>", "<a><b/></a>".repeat(1_000))), Ok(()));
    }

    #[test]
    fn size_is_bounded() {
        let mut scan = XmlScan::default();
        let mebibyte = vec![b' '; 1 << 20];
        for _ in 0..XML_BYTES >> 20 {
            scan.feed(&mebibyte).unwrap();
        }
        assert!(scan.feed(b" ").is_err());
    }
}
