//! Headers that ask for what this server cannot do yet: refused, never ignored.

use super::error::{self, S3Result};
use http::HeaderMap;

/// ACLs that say what is true anyway: the owner has everything, nobody else has anything.
const HARMLESS_ACLS: [&str; 3] = ["private", "bucket-owner-full-control", "bucket-owner-read"];

/// What S3 knows beside them; any other word is the client's mistake.
const OTHER_ACLS: [&str; 5] = ["public-read", "public-read-write", "authenticated-read", "aws-exec-read", "log-delivery-write"];

/// Refuses with 501 what would otherwise be a false success: customer and KMS keys, Object Lock, ACLs and grants,
/// checksums of other kinds, appends.
pub fn refuse(headers: &HeaderMap) -> S3Result<()> {
    for (name, value) in headers {
        let name = name.as_str();
        if !name.starts_with("x-amz-") || value.is_empty() {
            continue;
        }
        let value = value.to_str().unwrap_or("");
        let refused = match name {
            "x-amz-server-side-encryption" if value == "AES256" => None,
            "x-amz-server-side-encryption" if value.starts_with("aws:") => Some("Server-side encryption with KMS keys"),
            "x-amz-server-side-encryption" => return Err(error::invalid_argument("The encryption method specified is not supported")),
            "x-amz-acl" if HARMLESS_ACLS.contains(&value) => None,
            "x-amz-acl" if OTHER_ACLS.contains(&value) => Some("Access control lists other than private"),
            "x-amz-acl" => return Err(error::invalid_argument("The canned ACL you specified is not known")),
            "x-amz-write-offset-bytes" => Some("Appending to an object"),
            "x-amz-bypass-governance-retention" => None,
            "x-amz-checksum-md5"
            | "x-amz-checksum-sha512"
            | "x-amz-checksum-xxhash64"
            | "x-amz-checksum-xxhash3"
            | "x-amz-checksum-xxhash128" => Some("This kind of checksum"),
            _ if name.starts_with("x-amz-grant-") => Some("Access control lists other than private"),
            _ if name.starts_with("x-amz-object-lock-") => Some("Object Lock"),
            _ if name.starts_with("x-amz-server-side-encryption-customer-")
                || name.starts_with("x-amz-copy-source-server-side-encryption-customer-") =>
            {
                Some("Server-side encryption with customer keys")
            }
            "x-amz-server-side-encryption-aws-kms-key-id" | "x-amz-server-side-encryption-context" => {
                Some("Server-side encryption with KMS keys")
            }
            _ => None,
        };
        if let Some(what) = refused {
            return Err(error::not_implemented(format!("{what} is not implemented")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn code_of(name: &'static str, value: &'static str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        refuse(&headers).err().map(|error| error.code().as_str().to_owned())
    }

    #[test]
    fn what_is_true_anyway_is_accepted() {
        for (name, value) in [
            ("x-amz-acl", "private"),
            ("x-amz-acl", "bucket-owner-full-control"),
            ("x-amz-server-side-encryption", "AES256"),
            ("x-amz-meta-acl", "public-read"),
            ("x-amz-checksum-crc32", "AAAAAA=="),
        ] {
            assert_eq!(code_of(name, value), None, "{name}: {value}");
        }
    }

    #[test]
    fn what_cannot_be_done_is_501_and_not_ignored() {
        for (name, value) in [
            ("x-amz-acl", "public-read"),
            ("x-amz-grant-read", "id=\"x\""),
            ("x-amz-server-side-encryption", "aws:kms"),
            ("x-amz-server-side-encryption-customer-algorithm", "AES256"),
            ("x-amz-copy-source-server-side-encryption-customer-key", "k"),
            ("x-amz-object-lock-mode", "COMPLIANCE"),
            ("x-amz-object-lock-legal-hold", "ON"),
            ("x-amz-write-offset-bytes", "5"),
            ("x-amz-checksum-sha512", "x"),
        ] {
            assert_eq!(code_of(name, value).as_deref(), Some("NotImplemented"), "{name}: {value}");
        }
        assert_eq!(code_of("x-amz-acl", "public-ready").as_deref(), Some("InvalidArgument"));
        assert_eq!(code_of("x-amz-server-side-encryption", "ROT13").as_deref(), Some("InvalidArgument"));
    }
}
