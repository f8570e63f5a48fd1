//! The source of a copy: named by `x-amz-copy-source`, guarded by its own conditions, read or referenced.

use super::caller::Asked;
use super::condition::Conditions;
use super::error::{self, S3Result};
use super::{Breakwater, put_object, view};
use crate::body::{BodyRequest, Name, ReadError, WriteError};
use crate::write::StoredBody;
use bytes::Bytes;
use s3s::S3Error;
use s3s::dto::CopySource;
use spine::wire::namespace::{VersionBody, VersionHead};
use std::ops::Range;
use std::sync::Arc;

/// What is copied.
pub struct Source {
    pub name: Arc<Name>,
    pub head: VersionHead,
    pub version: Arc<VersionBody>,
}

/// Bucket and key; other forms than `bucket/key` are not for this server.
pub fn name(source: &CopySource) -> S3Result<(&str, &str)> {
    match source {
        CopySource::Bucket { bucket, key, version_id } => {
            view::check_version(version_id.as_deref())?;
            put_object::check_key(key)?;
            Ok((bucket, key))
        }
        CopySource::AccessPoint { .. } | CopySource::Outpost { .. } => Err(error::not_implemented("Access points are not implemented")),
    }
}

impl Breakwater {
    /// Resolves the source and checks `x-amz-copy-source-if-*`.
    pub(super) async fn source(&self, asked: &Asked, source: &CopySource) -> S3Result<Source> {
        let (bucket, key) = name(source)?;
        let bucket = self.source_bucket(asked, bucket).await?;
        let (head, version) = self.open(bucket.id, key).await?;
        Conditions::of_copy_source(&asked.headers).check_copy_source(&head)?;
        Ok(Source { name: Name::new(bucket.id, key), head, version })
    }

    /// Reads `range` of the source and stores it again; its chunks are duplicates wherever the cuts fall alike.
    ///
    /// # Errors
    /// `Again` if the source was replaced and collected meanwhile: resolve it again.
    pub(super) async fn store_again(&self, source: &Source, range: Range<u64>, request: BodyRequest) -> Result<StoredBody, StoreAgain> {
        let stream = if range.is_empty() {
            Box::pin(futures::stream::empty::<Result<Bytes, _>>())
        } else {
            match self.path.read(request.tenant, &source.name, &source.version.body, range).await {
                Ok(stream) => stream,
                Err(ReadError::Gone { .. }) => return Err(StoreAgain::Again),
                Err(fault) => return Err(StoreAgain::Fault(error::read(fault))),
            }
        };
        self.path.store(request, stream).await.map_err(|fault| match fault {
            // The body is our own reading: whatever is wrong with it is not the client's doing.
            WriteError::Body(fault) => StoreAgain::Fault(error::read(ReadError::Unavailable { reason: fault.to_string() })),
            WriteError::Short { .. } => StoreAgain::Fault(error::internal(&fault)),
            fault => StoreAgain::Fault(error::write(fault)),
        })
    }
}

/// Why nothing was stored.
pub enum StoreAgain {
    Again,
    Fault(S3Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(header: &str) -> Option<(String, String)> {
        let source = CopySource::parse(header).ok()?;
        name(&source).ok().map(|(bucket, key)| (bucket.to_owned(), key.to_owned()))
    }

    #[test]
    fn a_source_is_percent_decoded_with_or_without_a_leading_slash() {
        for header in ["bucket/a%20b/%C3%BC", "/bucket/a%20b/%C3%BC", "bucket/a%20b%2F%C3%BC", "bucket%2Fa%20b/%C3%BC?versionId=null"] {
            assert_eq!(parsed(header), Some(("bucket".to_owned(), "a b/ü".to_owned())), "{header}");
        }
        assert_eq!(parsed("bucket/a+b"), Some(("bucket".to_owned(), "a+b".to_owned())));
        assert_eq!(parsed("bucket//a"), Some(("bucket".to_owned(), "/a".to_owned())));
    }

    #[test]
    fn what_names_no_object_is_refused() {
        for header in ["bucket", "bucket/", "/", "", "bucket/k?versionId=x", "bucket/%zz%ff"] {
            assert_eq!(parsed(header), None, "{header}");
        }
    }
}
