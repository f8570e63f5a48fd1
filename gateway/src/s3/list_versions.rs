//! ListObjectVersions of unversioned buckets: every object is its own null version, the latest, and nothing is a delete marker.
//!
//! That is what S3 tells of such a bucket, and tools that empty buckets ask for nothing else.

use super::caller::{Asked, owner};
use super::error::{self, S3Result};
use super::listing::{self, Names};
use super::{Breakwater, Rendered, checksum, moment, view};
use s3s::dto::{
    ChecksumAlgorithm as ChecksumName, ETag, ListObjectVersionsInput, ListObjectVersionsOutput, ObjectVersion, ObjectVersionStorageClass,
};
use s3s::{S3Request, S3Response};
use spine::id::TenantId;
use spine::wire::namespace::VersionHead;

/// What S3 calls the one version of a key in an unversioned bucket.
pub const NULL_VERSION: &str = "null";

impl Breakwater {
    pub(super) async fn list_versions_op(
        &self,
        request: S3Request<ListObjectVersionsInput>,
    ) -> S3Result<S3Response<ListObjectVersionsOutput>> {
        let (input, asked) = Asked::split(request)?;
        let names = Names::of(input.encoding_type.as_ref())?;
        let max = listing::page_size(input.max_keys, "maxKeys")?;
        let key_marker = input.key_marker.unwrap_or_default();
        check_version_marker(&key_marker, input.version_id_marker.as_deref())?;
        let bucket = self.bucket(&asked, &input.bucket).await?;
        let delimiter = input.delimiter.filter(|delimiter| !delimiter.is_empty());
        let prefix = input.prefix.unwrap_or_default();
        // A key has one version, so going on after a version is going on after its key.
        let page = self.page(bucket.id, &prefix, delimiter.as_deref(), Some(key_marker.clone()), max).await?;

        let ends_with_version = page.next.is_some() && page.next.as_ref() == page.objects.last().map(|(key, _)| key);
        let output = ListObjectVersionsOutput {
            name: Some(input.bucket),
            prefix: Some(names.show(prefix)),
            key_marker: Some(names.show(key_marker)),
            version_id_marker: Some(input.version_id_marker.unwrap_or_default()),
            max_keys: i32::try_from(max).ok(),
            is_truncated: Some(page.next.is_some()),
            next_key_marker: page.next.map(|next| names.show(next)),
            next_version_id_marker: ends_with_version.then(|| NULL_VERSION.to_owned()),
            versions: Some(page.objects.into_iter().map(|(key, head)| version(names, key, head, bucket.tenant)).collect()),
            common_prefixes: Some(names.prefixes(page.prefixes)),
            delimiter: delimiter.map(|delimiter| names.show(delimiter)),
            encoding_type: names.echo(),
            ..Default::default()
        };
        Ok(Rendered::answer(output, |_| Default::default()))
    }
}

fn check_version_marker(key_marker: &str, marker: Option<&str>) -> S3Result<()> {
    match marker.filter(|marker| !marker.is_empty()) {
        None => Ok(()),
        Some(_) if key_marker.is_empty() => Err(error::invalid_argument("A version-id marker cannot be specified without a key marker.")),
        Some(NULL_VERSION) => Ok(()),
        Some(_) => Err(error::invalid_argument("Invalid version id specified")),
    }
}

fn version(names: Names, key: String, head: VersionHead, tenant: TenantId) -> ObjectVersion {
    ObjectVersion {
        checksum_algorithm: head.checksum.as_ref().map(|sum| vec![ChecksumName::from_static(checksum::name(sum.algorithm))]),
        checksum_type: checksum::kind_out(head.checksum.as_ref()),
        e_tag: Some(ETag::Strong(head.etag.text())),
        is_latest: Some(true),
        key: Some(names.show(key)),
        last_modified: Some(moment::timestamp(head.modified)),
        owner: Some(owner(tenant)),
        restore_status: None,
        size: i64::try_from(head.size).ok(),
        storage_class: Some(ObjectVersionStorageClass::from(view::listed_storage_class(&head))),
        version_id: Some(NULL_VERSION.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_marker_counts_only_beside_a_key_and_is_the_null_version() {
        assert!(check_version_marker("", None).is_ok());
        assert!(check_version_marker("", Some("")).is_ok());
        assert!(check_version_marker("k", Some("null")).is_ok());
        assert!(check_version_marker("", Some("null")).is_err());
        assert!(check_version_marker("k", Some("x")).is_err());
    }
}
