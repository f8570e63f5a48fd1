//! GetObjectAttributes.

use super::caller::Asked;
use super::error::{self, S3Result};
use super::{Breakwater, checksum, moment, unsupported, view};
use s3s::dto::{
    Checksum as ChecksumOut, ETag, GetObjectAttributesInput, GetObjectAttributesOutput, GetObjectAttributesParts, ObjectPart, StorageClass,
};
use s3s::{S3Request, S3Response};
use spine::limit;
use spine::wire::namespace::{Checksum, PartSummary};

const KNOWN: [&str; 5] = ["ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"];

impl Breakwater {
    pub(super) async fn get_object_attributes_op(
        &self,
        request: S3Request<GetObjectAttributesInput>,
    ) -> S3Result<S3Response<GetObjectAttributesOutput>> {
        let (input, asked) = Asked::split(request)?;
        unsupported::refuse(&asked.headers)?;
        view::check_version(input.version_id.as_deref())?;
        let wanted = wanted(&asked)?;
        let wants = |name: &str| wanted.iter().any(|other| other == name);
        let bucket = self.bucket(&asked, &input.bucket).await?;
        let (head, version) = self.open(bucket.id, &input.key).await?;
        let parts = if wants("ObjectParts") && !version.parts.is_empty() {
            Some(page(&version.parts, input.part_number_marker, input.max_parts)?)
        } else {
            None
        };
        Ok(S3Response::new(GetObjectAttributesOutput {
            checksum: head.checksum.as_ref().filter(|_| wants("Checksum")).map(|sum| checksum_out(sum, head.etag.parts)),
            e_tag: wants("ETag").then(|| ETag::Strong(head.etag.text())),
            last_modified: Some(moment::timestamp(head.modified)),
            object_parts: parts,
            object_size: i64::try_from(head.size).ok().filter(|_| wants("ObjectSize")),
            storage_class: wants("StorageClass").then(|| StorageClass::from(view::listed_storage_class(&head))),
            ..Default::default()
        }))
    }
}

/// Names in `x-amz-object-attributes`, over all its lines.
fn wanted(asked: &Asked) -> S3Result<Vec<String>> {
    let lines = asked.headers.get_all("x-amz-object-attributes").iter().filter_map(|line| line.to_str().ok());
    let names: Vec<String> =
        lines.flat_map(|line| line.split(',')).map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect();
    if names.is_empty() || names.iter().any(|name| !KNOWN.contains(&name.as_str())) {
        return Err(error::invalid_argument("Invalid attribute name specified."));
    }
    Ok(names)
}

fn checksum_out(sum: &Checksum, parts: Option<u32>) -> ChecksumOut {
    let mut out = ChecksumOut { checksum_type: checksum::kind_out(Some(sum)), ..Default::default() };
    checksum::show!(out, Some(sum), parts);
    out
}

fn page(parts: &[PartSummary], marker: Option<i32>, max: Option<i32>) -> S3Result<GetObjectAttributesParts> {
    let negative = |_| error::invalid_argument("x-amz-max-parts and x-amz-part-number-marker must not be negative");
    let after = u32::try_from(marker.unwrap_or(0)).map_err(negative)?;
    let max = usize::try_from(max.unwrap_or(i32::MAX)).map_err(negative)?.min(limit::PAGE);
    let mut rest = parts.iter().filter(|part| part.number > after);
    let shown: Vec<&PartSummary> = rest.by_ref().take(max).collect();
    let truncated = rest.next().is_some() && max > 0;
    let number = |number: u32| i32::try_from(number).ok();
    let part_out = |part: &&PartSummary| {
        let mut out = ObjectPart { part_number: number(part.number), size: i64::try_from(part.size).ok(), ..Default::default() };
        checksum::show!(out, part.checksum.as_ref(), None);
        out
    };
    Ok(GetObjectAttributesParts {
        is_truncated: Some(truncated),
        max_parts: i32::try_from(max).ok(),
        next_part_number_marker: shown.last().map_or(Some(0), |part| number(part.number)),
        part_number_marker: number(after),
        parts: Some(shown.iter().map(part_out).collect()),
        total_parts_count: i32::try_from(parts.len()).ok(),
    })
}
