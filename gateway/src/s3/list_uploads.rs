//! ListParts and ListMultipartUploads.

use super::attributes::STANDARD;
use super::caller::{Asked, owner, wrong_answer};
use super::create_upload::upload_id;
use super::error::{self, S3Result};
use super::listing::{self, Names};
use super::{Breakwater, Rendered, checksum, moment};
use s3s::dto::{
    ChecksumAlgorithm as ChecksumName, ChecksumType, ETag, Initiator, ListMultipartUploadsInput, ListMultipartUploadsOutput,
    ListPartsInput, ListPartsOutput, MultipartUpload, Part, StorageClass,
};
use s3s::{S3Request, S3Response};
use spine::id::{TenantId, UploadId};
use spine::wire::namespace::{NamespaceAnswer, NamespaceQuery, PartRecord, UploadRecord, UploadsPage, UploadsQuery};

impl Breakwater {
    pub(super) async fn list_parts_op(&self, request: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
        let (input, asked) = Asked::split(request)?;
        let max = listing::page_size(input.max_parts, "max-parts")?;
        let after = u32::try_from(input.part_number_marker.unwrap_or(0))
            .map_err(|_| error::invalid_argument("Argument part-number-marker must be an integer between 0 and 2147483647"))?;
        let bucket = self.bucket(&asked, &input.bucket).await?;
        let upload = self.upload(bucket.id, &input.key, upload_id(&input.upload_id)?).await?;
        let query = NamespaceQuery::Parts { upload: upload.id, bucket: bucket.id, key: upload.key.clone(), after, max };
        let (parts, truncated) = match self.ask_namespace(query).await? {
            NamespaceAnswer::Parts { parts, truncated } => (parts, truncated),
            _ => return Err(wrong_answer()),
        };
        let next = parts.last().and_then(|part| i32::try_from(part.number).ok());
        let output = ListPartsOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(upload.id.to_string()),
            checksum_algorithm: upload.checksum.map(|(algorithm, _)| ChecksumName::from_static(checksum::name(algorithm))),
            checksum_type: upload.checksum.map(|(_, kind)| ChecksumType::from_static(checksum::kind_name(kind))),
            initiator: Some(initiator(bucket.tenant)),
            owner: Some(owner(bucket.tenant)),
            storage_class: Some(StorageClass::from(storage_class(&upload))),
            is_truncated: Some(truncated),
            max_parts: i32::try_from(max).ok(),
            part_number_marker: i32::try_from(after).ok(),
            next_part_number_marker: next.or(Some(0)),
            parts: Some(parts.into_iter().map(part_out).collect()),
            ..Default::default()
        };
        Ok(Rendered::answer(output, |_| Default::default()))
    }

    pub(super) async fn list_uploads_op(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let (input, asked) = Asked::split(request)?;
        let names = Names::of(input.encoding_type.as_ref())?;
        let max = listing::page_size(input.max_uploads, "max-uploads")?;
        let key_marker = input.key_marker.unwrap_or_default();
        let upload_marker = upload_marker(&key_marker, input.upload_id_marker.as_deref())?;
        let bucket = self.bucket(&asked, &input.bucket).await?;
        let delimiter = input.delimiter.filter(|delimiter| !delimiter.is_empty());
        let prefix = input.prefix.unwrap_or_default();
        let query = UploadsQuery {
            bucket: bucket.id,
            prefix: prefix.clone(),
            delimiter: delimiter.clone().unwrap_or_default(),
            key_marker: key_marker.clone(),
            upload_marker,
            max,
        };
        let page = match self.ask_namespace(NamespaceQuery::Uploads { query, place: None }).await? {
            NamespaceAnswer::Uploads { page, .. } => page,
            _ => return Err(wrong_answer()),
        };
        let (next_key, next_upload) = next_markers(&page);
        let output = ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            prefix: Some(names.show(prefix)),
            delimiter: delimiter.map(|delimiter| names.show(delimiter)),
            key_marker: Some(names.show(key_marker)),
            upload_id_marker: Some(input.upload_id_marker.unwrap_or_default()),
            next_key_marker: next_key.map(|key| names.show(key)),
            next_upload_id_marker: next_upload.map(|id| id.to_string()),
            max_uploads: i32::try_from(max).ok(),
            is_truncated: Some(page.truncated),
            uploads: Some(page.uploads.into_iter().map(|upload| upload_out(upload, names, bucket.tenant)).collect()),
            common_prefixes: Some(names.prefixes(page.prefixes)),
            encoding_type: names.echo(),
            request_charged: None,
        };
        Ok(Rendered::answer(output, |_| Default::default()))
    }
}

/// Without a key marker the id marker means nothing, as S3 says.
fn upload_marker(key_marker: &str, marker: Option<&str>) -> S3Result<Option<UploadId>> {
    match marker.filter(|marker| !marker.is_empty() && !key_marker.is_empty()) {
        None => Ok(None),
        Some(text) => UploadId::parse_hex(text).map(Some).ok_or_else(|| error::invalid_argument("Invalid uploadId marker")),
    }
}

/// Where a cut page goes on: after its last upload, or after its last common prefix if that sorts later.
fn next_markers(page: &UploadsPage) -> (Option<String>, Option<UploadId>) {
    if !page.truncated {
        return (None, None);
    }
    match (page.uploads.last(), page.prefixes.last()) {
        (Some(upload), Some(prefix)) if *prefix > upload.key => (Some(prefix.clone()), None),
        (Some(upload), _) => (Some(upload.key.clone()), Some(upload.id)),
        (None, prefix) => (prefix.cloned(), None),
    }
}

fn part_out(part: PartRecord) -> Part {
    let mut out = Part {
        e_tag: Some(ETag::Strong(hex::encode(part.md5))),
        last_modified: Some(moment::timestamp(part.modified)),
        part_number: i32::try_from(part.number).ok(),
        size: i64::try_from(part.size).ok(),
        ..Default::default()
    };
    checksum::show!(out, part.checksum.as_ref(), None);
    out
}

fn upload_out(upload: UploadRecord, names: Names, tenant: TenantId) -> MultipartUpload {
    MultipartUpload {
        checksum_algorithm: upload.checksum.map(|(algorithm, _)| ChecksumName::from_static(checksum::name(algorithm))),
        checksum_type: upload.checksum.map(|(_, kind)| ChecksumType::from_static(checksum::kind_name(kind))),
        initiated: Some(moment::timestamp(upload.created)),
        initiator: Some(initiator(tenant)),
        owner: Some(owner(tenant)),
        storage_class: Some(StorageClass::from(storage_class(&upload))),
        upload_id: Some(upload.id.to_string()),
        key: Some(names.show(upload.key)),
    }
}

/// The tenant itself: its keys are not users of their own, and which key began an upload is nobody's business.
fn initiator(tenant: TenantId) -> Initiator {
    let owner = owner(tenant);
    Initiator { display_name: owner.display_name, id: owner.id }
}

fn storage_class(upload: &UploadRecord) -> String {
    upload.attributes.storage_class.clone().unwrap_or_else(|| STANDARD.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use spine::id::{BucketId, UnixMs};
    use spine::wire::namespace::Attributes;

    fn upload(key: &str) -> UploadRecord {
        UploadRecord {
            id: UploadId([1; 16]),
            bucket: BucketId(1),
            key: key.into(),
            created: UnixMs(0),
            attributes: Attributes::default(),
            tags: Vec::new(),
            checksum: None,
            initiator: "AK".into(),
        }
    }

    #[test]
    fn a_cut_page_goes_on_after_whatever_sorts_last() {
        let page = |uploads: &[&str], prefixes: &[&str], truncated| UploadsPage {
            uploads: uploads.iter().map(|key| upload(key)).collect(),
            prefixes: prefixes.iter().map(|prefix| (*prefix).to_owned()).collect(),
            truncated,
        };
        let id = UploadId([1; 16]);
        assert_eq!(next_markers(&page(&["a"], &["b/"], false)), (None, None));
        assert_eq!(next_markers(&page(&["a"], &["b/"], true)), (Some("b/".into()), None));
        assert_eq!(next_markers(&page(&["c"], &["b/"], true)), (Some("c".into()), Some(id)));
        assert_eq!(next_markers(&page(&[], &["b/"], true)), (Some("b/".into()), None));
    }

    #[test]
    fn an_id_marker_counts_only_beside_a_key_marker() {
        assert_eq!(upload_marker("", Some("zzz")).ok(), Some(None));
        assert_eq!(upload_marker("k", Some("")).ok(), Some(None));
        assert!(upload_marker("k", Some("zzz")).is_err());
        assert_eq!(upload_marker("k", Some(&UploadId([1; 16]).to_string())).ok(), Some(Some(UploadId([1; 16]))));
    }
}
