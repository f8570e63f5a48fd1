//! CopyObject: a new version that references what is stored, with the source's attributes or new ones.
//!
//! The ETag and the checksum of the source go with its bytes: a copied multipart object keeps its `-N`. Only where another checksum is
//! asked for, or a chunk cannot be referenced, is the object read and written.

use super::caller::Asked;
use super::copy_source::{self, Source, StoreAgain};
use super::error::{self, S3Result};
use super::put_object::{check_key, committed, full_object};
use super::{Breakwater, attributes, checksum, condition, moment, tags, unsupported};
use crate::body::{BodyRequest, Name};
use crate::write::StoredBody;
use s3s::dto::{CopyObjectInput, CopyObjectOutput, CopyObjectResult, ETag, ServerSideEncryption};
use s3s::{S3Request, S3Response};
use spine::id::Seq;
use spine::limit;
use spine::wire::namespace::{
    Attributes, Checksum, ChecksumAlgorithm, Etag, NamespaceCommand, NewVersion, PartSummary, VersionBody, VersionHead,
};
use spine::wire::root::BucketRecord;

/// Bytes under a new version, and what is known of them.
struct Copied {
    stored: StoredBody,
    etag: Etag,
    checksum: Option<Checksum>,
    parts: Vec<PartSummary>,
}

/// How often a source that is replaced while it is copied is resolved again.
const ATTEMPTS: usize = 3;

impl Breakwater {
    pub(super) async fn copy_object_op(&self, request: S3Request<CopyObjectInput>) -> S3Result<S3Response<CopyObjectOutput>> {
        let (input, asked) = Asked::split(request)?;
        unsupported::refuse(&asked.headers)?;
        check_key(&input.key)?;
        let replace_attributes = replaces(asked.header("x-amz-metadata-directive"), "x-amz-metadata-directive")?;
        let replace_tags = replaces(asked.header("x-amz-tagging-directive"), "x-amz-tagging-directive")?;
        let wanted = wanted_checksum(&asked)?;
        refuse_copy_without_change(&input, &asked, replace_attributes)?;
        let new_attributes = attributes::from_headers(&asked.headers)?;
        let new_tags = tags::from_header(asked.header("x-amz-tagging"))?;
        let target = self.bucket(&asked, &input.bucket).await?;

        let (source, copied) = self.copy_bytes(&asked, &input, &target, wanted).await?;
        let head = VersionHead {
            id: copied.stored.version,
            seq: Seq(0),
            modified: moment::now(),
            size: source.head.size,
            etag: copied.etag,
            checksum: copied.checksum,
            attributes: if replace_attributes { new_attributes } else { carried(source.head.attributes, new_attributes) },
            tags: if replace_tags { new_tags } else { source.head.tags },
            upload: None,
        };
        let (etag, sum) = (head.etag, head.checksum.clone());
        let condition = condition::of_write(&asked.headers);
        let (bucket, key, parts) = (target.id, input.key, copied.parts);
        let reply = self.path.commit(copied.stored, move |body, manifest| {
            let new = NewVersion { head, body: VersionBody { body, parts }, manifest };
            NamespaceCommand::Commit { bucket, key, new: Box::new(new), condition }
        });
        let modified = committed(reply.await.map_err(error::write)?)?;

        let mut result = CopyObjectResult {
            e_tag: Some(ETag::Strong(etag.text())),
            last_modified: Some(moment::timestamp(modified)),
            checksum_type: checksum::kind_out(sum.as_ref()),
            ..Default::default()
        };
        checksum::show!(result, sum.as_ref(), etag.parts);
        Ok(S3Response::new(CopyObjectOutput {
            copy_object_result: Some(result),
            server_side_encryption: Some(ServerSideEncryption::from_static(attributes::ENCRYPTION)),
            ..Default::default()
        }))
    }

    async fn copy_bytes(
        &self,
        asked: &Asked,
        input: &CopyObjectInput,
        target: &BucketRecord,
        wanted: Option<ChecksumAlgorithm>,
    ) -> S3Result<(Source, Copied)> {
        let name = Name::new(target.id, &input.key);
        for _ in 0..ATTEMPTS {
            let source = self.source(asked, &input.copy_source).await?;
            let known = source.head.checksum.as_ref().map(|checksum| checksum.algorithm);
            if wanted.is_none() || wanted == known {
                let from = (&*source.name, &source.version.body);
                let referenced = self.path.reference(asked.caller.tenant, from, name.clone()).await.map_err(error::write)?;
                if let Some(stored) = referenced {
                    let copied = Copied {
                        stored,
                        etag: source.head.etag,
                        checksum: source.head.checksum.clone(),
                        parts: source.version.parts.clone(),
                    };
                    return Ok((source, copied));
                }
            }
            if source.head.size > limit::PUT_BYTES {
                return Err(error::invalid_request(
                    "The specified copy source is larger than the maximum allowable size for a copy source: 5368709120",
                ));
            }
            let algorithm = wanted.or(known).unwrap_or(checksum::DEFAULT);
            let request = BodyRequest {
                tenant: asked.caller.tenant,
                name: name.clone(),
                chunk_bytes: target.chunk_bytes,
                declared_len: Some(source.head.size),
                max_len: limit::PUT_BYTES,
                checksums: vec![algorithm],
                inline_allowed: true,
            };
            match self.store_again(&source, 0..source.head.size, request).await {
                Ok(stored) => {
                    let etag = Etag { md5: stored.md5, parts: None };
                    let checksum = full_object(&stored, algorithm);
                    return Ok((source, Copied { stored, etag, checksum, parts: Vec::new() }));
                }
                Err(StoreAgain::Again) => {}
                Err(StoreAgain::Fault(fault)) => return Err(fault),
            }
        }
        Err(error::internal(&"the source of a copy was replaced again and again"))
    }
}

/// COPY (the default) or REPLACE.
fn replaces(directive: Option<&str>, header: &str) -> S3Result<bool> {
    match directive {
        None | Some("COPY") => Ok(false),
        Some("REPLACE") => Ok(true),
        Some(_) => Err(error::invalid_argument(format!("Unknown value of {header}"))),
    }
}

fn wanted_checksum(asked: &Asked) -> S3Result<Option<ChecksumAlgorithm>> {
    let Some(name) = asked.header("x-amz-checksum-algorithm") else { return Ok(None) };
    checksum::from_name(name).map(Some).ok_or_else(|| {
        error::invalid_request(
            "Checksum algorithm provided is unsupported. Please try again with any of the valid types: [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]",
        )
    })
}

fn refuse_copy_without_change(input: &CopyObjectInput, asked: &Asked, replace_attributes: bool) -> S3Result<()> {
    let onto_itself = copy_source::name(&input.copy_source)? == (input.bucket.as_str(), input.key.as_str());
    let changes = replace_attributes
        || ["x-amz-storage-class", "x-amz-website-redirect-location", "x-amz-server-side-encryption", "x-amz-checksum-algorithm"]
            .iter()
            .any(|header| asked.header(header).is_some());
    if onto_itself && !changes {
        return Err(error::invalid_request(
            "This copy request is illegal because it is trying to copy an object to itself without changing the object's metadata, storage class, website redirect location or encryption attributes.",
        ));
    }
    Ok(())
}

/// What COPY takes along. Storage class and redirect are never copied: they are the request's or none.
fn carried(source: Attributes, new: Attributes) -> Attributes {
    Attributes { storage_class: new.storage_class, website_redirect: new.website_redirect, ..source }
}
