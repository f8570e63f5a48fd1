//! Virtual-host style: which bucket a Host header names.

use s3s::S3Result;
use s3s::host::{S3Host, VirtualHost};

/// The bucket in `host` if it is a name below `domain`. Ports on either do not count; letters' case does not.
///
/// Another host, an address among them, names none: such requests are in path style.
pub fn bucket<'a>(domain: &str, host: &'a str) -> Option<&'a str> {
    let (host, domain) = (without_port(host), without_port(domain));
    let at = host.len().checked_sub(domain.len())?;
    let tail = host.get(at..)?;
    let head = host.get(..at)?.strip_suffix('.')?;
    (tail.eq_ignore_ascii_case(domain) && !head.is_empty()).then_some(head)
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Path style, and virtual-host style below one domain.
pub struct BelowDomain(pub String);

impl S3Host for BelowDomain {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        Ok(match bucket(&self.0, host) {
            Some(bucket) => VirtualHost::new(self.0.as_str()).with_bucket(bucket),
            None => VirtualHost::new(host),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_below_the_domain_are_buckets_and_others_are_not() {
        assert_eq!(bucket("s3.example.com", "pictures.s3.example.com"), Some("pictures"));
        assert_eq!(bucket("s3.example.com", "a.b.S3.Example.com:9000"), Some("a.b"));
        assert_eq!(bucket("s3.example.com:9000", "a.s3.example.com"), Some("a"));
        assert_eq!(bucket("s3.example.com", "s3.example.com"), None);
        assert_eq!(bucket("s3.example.com", ".s3.example.com"), None);
        assert_eq!(bucket("s3.example.com", "xs3.example.com"), None);
        assert_eq!(bucket("s3.example.com", "127.0.0.1:9000"), None);
        assert_eq!(bucket("s3.example.com", "ü"), None);
    }
}
