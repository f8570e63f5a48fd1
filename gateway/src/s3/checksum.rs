//! Additional checksums: names, base64 forms, and how those of parts make one of an object.
//!
//! Full-object checksums of parts combine because a CRC is linear; the hashes do not, so their objects carry a checksum of checksums.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use crc_fast::CrcAlgorithm;
use sha1::Digest as _;
use spine::wire::namespace::{Checksum, ChecksumAlgorithm, ChecksumKind};

pub const ALL: [ChecksumAlgorithm; 5] =
    [ChecksumAlgorithm::Crc32, ChecksumAlgorithm::Crc32c, ChecksumAlgorithm::Crc64Nvme, ChecksumAlgorithm::Sha1, ChecksumAlgorithm::Sha256];

/// What S3 computes where the client named none.
pub const DEFAULT: ChecksumAlgorithm = ChecksumAlgorithm::Crc64Nvme;

/// As in `x-amz-checksum-algorithm`.
pub fn name(algorithm: ChecksumAlgorithm) -> &'static str {
    match algorithm {
        ChecksumAlgorithm::Crc32 => "CRC32",
        ChecksumAlgorithm::Crc32c => "CRC32C",
        ChecksumAlgorithm::Crc64Nvme => "CRC64NVME",
        ChecksumAlgorithm::Sha1 => "SHA1",
        ChecksumAlgorithm::Sha256 => "SHA256",
    }
}

/// The header with a value of this kind.
pub fn header(algorithm: ChecksumAlgorithm) -> &'static str {
    match algorithm {
        ChecksumAlgorithm::Crc32 => "x-amz-checksum-crc32",
        ChecksumAlgorithm::Crc32c => "x-amz-checksum-crc32c",
        ChecksumAlgorithm::Crc64Nvme => "x-amz-checksum-crc64nvme",
        ChecksumAlgorithm::Sha1 => "x-amz-checksum-sha1",
        ChecksumAlgorithm::Sha256 => "x-amz-checksum-sha256",
    }
}

pub fn from_name(text: &str) -> Option<ChecksumAlgorithm> {
    ALL.into_iter().find(|algorithm| name(*algorithm).eq_ignore_ascii_case(text))
}

pub fn kind_name(kind: ChecksumKind) -> &'static str {
    match kind {
        ChecksumKind::FullObject => "FULL_OBJECT",
        ChecksumKind::Composite => "COMPOSITE",
    }
}

/// Bytes of a value.
pub fn len(algorithm: ChecksumAlgorithm) -> usize {
    match algorithm {
        ChecksumAlgorithm::Crc32 | ChecksumAlgorithm::Crc32c => 4,
        ChecksumAlgorithm::Crc64Nvme => 8,
        ChecksumAlgorithm::Sha1 => 20,
        ChecksumAlgorithm::Sha256 => 32,
    }
}

/// Whether checksums of parts can be combined into one of the whole.
pub fn combines(algorithm: ChecksumAlgorithm) -> bool {
    crc(algorithm).is_some()
}

/// The kind of a multipart object's checksum where CreateMultipartUpload names none.
pub fn default_kind(algorithm: ChecksumAlgorithm) -> ChecksumKind {
    match algorithm {
        ChecksumAlgorithm::Crc64Nvme => ChecksumKind::FullObject,
        _ => ChecksumKind::Composite,
    }
}

fn crc(algorithm: ChecksumAlgorithm) -> Option<CrcAlgorithm> {
    match algorithm {
        ChecksumAlgorithm::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
        ChecksumAlgorithm::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
        ChecksumAlgorithm::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
        ChecksumAlgorithm::Sha1 | ChecksumAlgorithm::Sha256 => None,
    }
}

/// The value that `text` is in base64, of exactly the algorithm's length.
pub fn decode(algorithm: ChecksumAlgorithm, text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text).ok().filter(|value| value.len() == len(algorithm))
}

/// As S3 shows it: base64, with `-N` after a composite one of `parts` parts.
pub fn text(checksum: &Checksum, parts: Option<u32>) -> String {
    let value = BASE64.encode(&checksum.value);
    match (checksum.kind, parts) {
        (ChecksumKind::Composite, Some(parts)) => format!("{value}-{parts}"),
        _ => value,
    }
}

/// The checksum of a whole small body.
pub fn of(algorithm: ChecksumAlgorithm, bytes: &[u8]) -> Vec<u8> {
    match crc(algorithm) {
        Some(crc) => tail(crc_fast::checksum(crc, bytes), len(algorithm)),
        None if algorithm == ChecksumAlgorithm::Sha1 => sha1::Sha1::digest(bytes).to_vec(),
        None => sha2::Sha256::digest(bytes).to_vec(),
    }
}

/// The checksum of checksums, over the parts' raw values in order.
pub fn composite(algorithm: ChecksumAlgorithm, parts: &[&[u8]]) -> Checksum {
    Checksum { algorithm, kind: ChecksumKind::Composite, value: of(algorithm, &parts.concat()) }
}

/// The checksum of the parts' bytes laid end to end, from (value, bytes) of each; `None` if the algorithm cannot do that.
pub fn combined(algorithm: ChecksumAlgorithm, parts: &[(&[u8], u64)]) -> Option<Checksum> {
    let crc = crc(algorithm)?;
    let mut whole = crc_fast::checksum(crc, b"");
    for (value, size) in parts {
        whole = crc_fast::checksum_combine(crc, whole, number(value), *size);
    }
    Some(Checksum { algorithm, kind: ChecksumKind::FullObject, value: tail(whole, len(algorithm)) })
}

fn number(value: &[u8]) -> u64 {
    value.iter().fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
}

fn tail(value: u64, len: usize) -> Vec<u8> {
    value.to_be_bytes()[8 - len..].to_vec()
}

/// Puts a checksum into the field that one of s3s' structures has for it.
macro_rules! show {
    ($target:expr, $checksum:expr, $parts:expr) => {
        if let Some(checksum) = $checksum {
            let checksum: &spine::wire::namespace::Checksum = checksum;
            let text = Some($crate::s3::checksum::text(checksum, $parts));
            match checksum.algorithm {
                spine::wire::namespace::ChecksumAlgorithm::Crc32 => $target.checksum_crc32 = text,
                spine::wire::namespace::ChecksumAlgorithm::Crc32c => $target.checksum_crc32c = text,
                spine::wire::namespace::ChecksumAlgorithm::Crc64Nvme => $target.checksum_crc64nvme = text,
                spine::wire::namespace::ChecksumAlgorithm::Sha1 => $target.checksum_sha1 = text,
                spine::wire::namespace::ChecksumAlgorithm::Sha256 => $target.checksum_sha256 = text,
            }
        }
    };
}
pub(crate) use show;

/// `checksum_type` of one of s3s' structures.
pub fn kind_out(checksum: Option<&Checksum>) -> Option<s3s::dto::ChecksumType> {
    checksum.map(|checksum| s3s::dto::ChecksumType::from_static(kind_name(checksum.kind)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_are_those_of_the_standard_check_string() {
        assert_eq!(of(ChecksumAlgorithm::Crc32, b"123456789"), 0xcbf4_3926_u32.to_be_bytes());
        assert_eq!(of(ChecksumAlgorithm::Crc32c, b"123456789"), 0xe306_9283_u32.to_be_bytes());
        assert_eq!(of(ChecksumAlgorithm::Crc64Nvme, b"123456789"), 0xae8b_1486_0a79_9888_u64.to_be_bytes());
        assert_eq!(hex::encode(of(ChecksumAlgorithm::Sha1, b"123456789")), "f7c3bc1d808e04732adf679965ccc34ca7ae3441");
        assert_eq!(
            hex::encode(of(ChecksumAlgorithm::Sha256, b"123456789")),
            "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"
        );
    }

    #[test]
    fn names_and_headers_round_trip() {
        for algorithm in ALL {
            assert_eq!(from_name(name(algorithm)), Some(algorithm));
            assert_eq!(header(algorithm), format!("x-amz-checksum-{}", name(algorithm).to_lowercase()));
            assert_eq!(of(algorithm, b"").len(), len(algorithm));
        }
        assert_eq!(from_name("MD5"), None);
    }

    #[test]
    fn a_value_of_another_length_or_alphabet_is_refused() {
        assert!(decode(ChecksumAlgorithm::Crc32, "AAAAAA==").is_some());
        for text in ["", "AAAAAA", "AAAAAAAA", "????", "AAAAAA==-3"] {
            assert_eq!(decode(ChecksumAlgorithm::Crc32, text), None, "{text}");
        }
    }

    #[test]
    fn a_composite_checksum_is_the_checksum_of_checksums_and_shows_its_parts() {
        let (one, two) = (of(ChecksumAlgorithm::Sha256, b"one"), of(ChecksumAlgorithm::Sha256, b"two"));
        let whole = composite(ChecksumAlgorithm::Sha256, &[&one, &two]);
        assert_eq!(whole.value, of(ChecksumAlgorithm::Sha256, &[one, two].concat()));
        assert!(text(&whole, Some(2)).ends_with("=-2"));
    }

    proptest! {
        #[test]
        fn combined_parts_have_the_checksum_of_the_whole(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..6)) {
            for algorithm in ALL.into_iter().filter(|a| combines(*a)) {
                let values: Vec<Vec<u8>> = parts.iter().map(|part| of(algorithm, part)).collect();
                let sized: Vec<(&[u8], u64)> = values.iter().zip(&parts).map(|(v, p)| (v.as_slice(), p.len() as u64)).collect();
                let whole = combined(algorithm, &sized).map(|c| c.value);
                prop_assert_eq!(whole, Some(of(algorithm, &parts.concat())));
            }
        }
    }
}
