//! CompleteMultipartUpload: the client's list of parts against what was stored, one checksum and one ETag out of theirs, one command.
//!
//! Invariant: the parts that become the object are exactly those that were judged here; if one was replaced meanwhile the log refuses
//! and they are judged again.

use super::caller::{Asked, wrong_answer};
use super::create_upload::upload_id;
use super::error::{self, S3Result};
use super::integrity::invalid_value;
use super::{Breakwater, Rendered, attributes, checksum, condition, moment, unsupported};
use md5::Digest as _;
use s3s::dto::{CompleteMultipartUploadInput, CompleteMultipartUploadOutput, CompletedPart, ETag, ServerSideEncryption};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response};
use spine::id::{BucketId, Seq, UploadId, VersionId};
use spine::limit;
use spine::wire::namespace::{
    Body, Checksum, ChecksumAlgorithm, ChecksumKind, Condition, Etag, NamespaceAnswer, NamespaceCommand, NamespaceQuery, NewVersion,
    PartRecord, PartSummary, Piece, UploadRecord, VersionBody, VersionHead,
};
use spine::wire::{Refusal, Reply};

/// How often parts that change under the request are judged again.
const ATTEMPTS: usize = 3;

/// What the request says, apart from whose it is.
struct Wish {
    parts: Vec<CompletedPart>,
    /// `x-amz-mp-object-size`
    size: Option<u64>,
    /// `x-amz-checksum-*`: what the object's checksum must be, as text.
    checksum: Option<(ChecksumAlgorithm, String)>,
    /// `x-amz-checksum-type`
    kind: Option<String>,
    condition: Condition,
}

impl Breakwater {
    pub(super) async fn complete_upload_op(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let (mut input, asked) = Asked::split(request)?;
        unsupported::refuse(&asked.headers)?;
        let wish = wish(&mut input, &asked)?;
        let bucket = self.bucket(&asked, &input.bucket).await?;
        let id = upload_id(&input.upload_id)?;
        for _ in 0..ATTEMPTS {
            let Some(upload) = self.open_upload(bucket.id, &input.key, id).await? else {
                let head = self.completed_before(bucket.id, &input.key, id, &wish.parts).await?;
                return Ok(answer(&input, &asked, &head));
            };
            let stored = self.all_parts(&upload).await?;
            let chosen = choose(&wish.parts, &stored)?;
            let new = assemble(&upload, &chosen, &wish)?;
            let head = new.head.clone();
            let command = NamespaceCommand::CompleteUpload {
                upload: id,
                bucket: bucket.id,
                key: input.key.clone(),
                parts: chosen.iter().map(|part| (part.number, part.version)).collect(),
                new: Box::new(new),
                condition: wish.condition.clone(),
            };
            match self.order(command).await? {
                Reply::Committed { .. } => return Ok(answer(&input, &asked, &head)),
                // Judged again: a part was replaced, or another request completed or aborted the upload.
                Reply::Refused(Refusal::PartChanged | Refusal::NoSuchUpload) => {}
                Reply::Refused(refusal) => return Err(error::refused(refusal)),
                _ => return Err(wrong_answer()),
            }
        }
        Err(error::conflict())
    }

    async fn open_upload(&self, bucket: BucketId, key: &str, upload: UploadId) -> S3Result<Option<UploadRecord>> {
        match self.ask_namespace(NamespaceQuery::Upload { bucket, key: key.to_owned(), upload }).await? {
            NamespaceAnswer::Upload(found) => Ok(found),
            _ => Err(wrong_answer()),
        }
    }

    /// A client that never heard our 200 asks again: the object it made, of the same list of parts, is still the current one.
    async fn completed_before(&self, bucket: BucketId, key: &str, upload: UploadId, listed: &[CompletedPart]) -> S3Result<VersionHead> {
        match self.ask_namespace(NamespaceQuery::Head { bucket, key: key.to_owned() }).await? {
            NamespaceAnswer::Head(Some(head)) if head.upload == Some(upload) && is_of(listed, &head.etag) => Ok(head),
            NamespaceAnswer::Head(_) => Err(error::no_such_upload()),
            _ => Err(wrong_answer()),
        }
    }

    async fn all_parts(&self, upload: &UploadRecord) -> S3Result<Vec<PartRecord>> {
        let mut all: Vec<PartRecord> = Vec::new();
        loop {
            let after = all.last().map_or(0, |part| part.number);
            let (id, bucket, key) = (upload.id, upload.bucket, upload.key.clone());
            match self.ask_namespace(NamespaceQuery::Parts { upload: id, bucket, key, after, max: limit::PAGE }).await? {
                NamespaceAnswer::Parts { parts, truncated } => {
                    let more = truncated && !parts.is_empty();
                    all.extend(parts);
                    if !more {
                        return Ok(all);
                    }
                }
                _ => return Err(wrong_answer()),
            }
        }
    }
}

fn wish(input: &mut CompleteMultipartUploadInput, asked: &Asked) -> S3Result<Wish> {
    let parts = input.multipart_upload.take().and_then(|list| list.parts).unwrap_or_default();
    if parts.is_empty() || parts.len() > limit::PARTS as usize {
        return Err(error::malformed_xml());
    }
    let mut sums = checksum::ALL
        .into_iter()
        .filter_map(|algorithm| asked.header(checksum::header(algorithm)).map(|text| (algorithm, text.to_owned())));
    let checksum = sums.next();
    if sums.next().is_some() {
        return Err(error::invalid_request("Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed."));
    }
    let size = match asked.header("x-amz-mp-object-size") {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| invalid_value("x-amz-mp-object-size"))?),
    };
    Ok(Wish {
        parts,
        size,
        checksum,
        kind: asked.header("x-amz-checksum-type").map(str::to_owned),
        condition: condition::of_write(&asked.headers),
    })
}

/// The stored parts that the list names, in its order.
///
/// # Errors
/// InvalidPartOrder, InvalidPart, EntityTooSmall.
fn choose<'a>(listed: &[CompletedPart], stored: &'a [PartRecord]) -> S3Result<Vec<&'a PartRecord>> {
    let mut chosen: Vec<&PartRecord> = Vec::with_capacity(listed.len());
    for part in listed {
        let number = part.part_number.and_then(|number| u32::try_from(number).ok()).ok_or_else(error::malformed_xml)?;
        if chosen.last().is_some_and(|last| last.number >= number) {
            return Err(S3Error::with_message(
                S3ErrorCode::InvalidPartOrder,
                "The list of parts was not in ascending order. Parts must be ordered by part number.",
            ));
        }
        let at = stored.binary_search_by_key(&number, |record| record.number).map_err(|_| invalid_part(number))?;
        let record = &stored[at];
        let tag = part.e_tag.as_ref().map(|tag| tag.value().trim_matches('"')).ok_or_else(error::malformed_xml)?;
        if !tag.eq_ignore_ascii_case(&hex::encode(record.md5)) || !checksums_agree(part, record)? {
            return Err(invalid_part(number));
        }
        chosen.push(record);
    }
    let last = chosen.last().map_or(0, |part| part.number);
    if let Some(small) = chosen.iter().find(|part| part.size < limit::PART_MIN_BYTES && part.number != last) {
        return Err(S3Error::with_message(
            S3ErrorCode::EntityTooSmall,
            format!("Your proposed upload is smaller than the minimum allowed size: part {} has {} bytes", small.number, small.size),
        ));
    }
    Ok(chosen)
}

fn invalid_part(number: u32) -> S3Error {
    S3Error::with_message(
        S3ErrorCode::InvalidPart,
        format!(
            "One or more of the specified parts could not be found. The part may not have been uploaded, or the specified entity tag or checksum may not match the part's. PartNumber: {number}"
        ),
    )
}

/// Whether each checksum that the list gives for a part is the one that was computed when it came in.
fn checksums_agree(part: &CompletedPart, record: &PartRecord) -> S3Result<bool> {
    if [&part.checksum_md5, &part.checksum_sha512, &part.checksum_xxhash64, &part.checksum_xxhash3, &part.checksum_xxhash128]
        .iter()
        .any(|sum| sum.is_some())
    {
        return Err(error::not_implemented("This kind of checksum is not implemented"));
    }
    let given = [
        (ChecksumAlgorithm::Crc32, &part.checksum_crc32),
        (ChecksumAlgorithm::Crc32c, &part.checksum_crc32c),
        (ChecksumAlgorithm::Crc64Nvme, &part.checksum_crc64nvme),
        (ChecksumAlgorithm::Sha1, &part.checksum_sha1),
        (ChecksumAlgorithm::Sha256, &part.checksum_sha256),
    ];
    Ok(given.into_iter().all(|(algorithm, text)| match text {
        None => true,
        Some(text) => {
            let value = checksum::decode(algorithm, text);
            value.is_some() && record.checksum.as_ref().is_some_and(|sum| sum.algorithm == algorithm && Some(&sum.value) == value.as_ref())
        }
    }))
}

/// The object that the parts make.
fn assemble(upload: &UploadRecord, parts: &[&PartRecord], wish: &Wish) -> S3Result<NewVersion> {
    let size: u64 = parts.iter().map(|part| part.size).sum();
    if size > limit::OBJECT_BYTES {
        return Err(error::too_large(limit::OBJECT_BYTES));
    }
    if let Some(expected) = wish.size.filter(|expected| *expected != size) {
        return Err(error::invalid_request(format!(
            "The provided 'x-amz-mp-object-size' header value {expected} does not match what was computed: {size}"
        )));
    }
    let count = u32::try_from(parts.len()).map_err(|_| error::malformed_xml())?;
    let checksum = object_checksum(upload, parts);
    check_wished(wish, upload, checksum.as_ref(), count)?;
    let mut id = [0; VersionId::LEN];
    getrandom::fill(&mut id).map_err(|fault| error::internal(&fault))?;
    let head = VersionHead {
        id: VersionId(id),
        seq: Seq(0),
        modified: moment::now(),
        size,
        etag: Etag { md5: md5_of_md5s(parts.iter().map(|part| part.md5)), parts: Some(count) },
        checksum,
        attributes: upload.attributes.clone(),
        tags: upload.tags.clone(),
        upload: Some(upload.id),
    };
    let summaries = parts.iter().map(|part| PartSummary { number: part.number, size: part.size, checksum: part.checksum.clone() });
    let body = VersionBody { body: joined(parts)?, parts: summaries.collect() };
    Ok(NewVersion { head, body, manifest: None })
}

/// The parts' pieces in order; empty parts have none.
fn joined(parts: &[&PartRecord]) -> S3Result<Body> {
    let mut pieces: Vec<Piece> = Vec::with_capacity(parts.len());
    for part in parts.iter().filter(|part| part.size > 0) {
        match &part.body {
            Body::Pieces(own) => pieces.extend(own.iter().cloned()),
            Body::Inline { .. } => return Err(error::internal(&"a part that is not empty was stored inline")),
        }
    }
    match parts.first() {
        Some(first) if pieces.is_empty() => Ok(first.body.clone()),
        _ => Ok(Body::Pieces(pieces)),
    }
}

fn md5_of_md5s(parts: impl Iterator<Item = [u8; 16]>) -> [u8; 16] {
    let mut hasher = md5::Md5::new();
    parts.for_each(|md5| hasher.update(md5));
    hasher.finalize().into()
}

/// Whether an object with this ETag is made of exactly these parts, in this order.
fn is_of(listed: &[CompletedPart], etag: &Etag) -> bool {
    let md5_of = |part: &CompletedPart| -> Option<[u8; 16]> {
        let text = part.e_tag.as_ref()?.value().trim_matches('"');
        hex::decode(text).ok()?.try_into().ok()
    };
    let Some(md5s) = listed.iter().map(md5_of).collect::<Option<Vec<_>>>() else { return false };
    etag.parts.is_some_and(|count| count as usize == md5s.len()) && md5_of_md5s(md5s.into_iter()) == etag.md5
}

/// `None` if the parts have checksums of several kinds, which an upload that named none allows.
fn object_checksum(upload: &UploadRecord, parts: &[&PartRecord]) -> Option<Checksum> {
    let algorithm = parts.first()?.checksum.as_ref()?.algorithm;
    let kind = match upload.checksum {
        Some((named, kind)) if named == algorithm => kind,
        Some(_) => return None,
        None if checksum::combines(algorithm) => ChecksumKind::FullObject,
        None => ChecksumKind::Composite,
    };
    let values: Vec<(&[u8], u64)> = parts
        .iter()
        .map(|part| part.checksum.as_ref().filter(|sum| sum.algorithm == algorithm).map(|sum| (sum.value.as_slice(), part.size)))
        .collect::<Option<_>>()?;
    match kind {
        ChecksumKind::FullObject => checksum::combined(algorithm, &values),
        ChecksumKind::Composite => {
            let values: Vec<&[u8]> = values.into_iter().map(|(value, _)| value).collect();
            Some(checksum::composite(algorithm, &values))
        }
    }
}

fn check_wished(wish: &Wish, upload: &UploadRecord, actual: Option<&Checksum>, count: u32) -> S3Result<()> {
    let kind = upload.checksum.map(|(_, kind)| kind).or(actual.map(|sum| sum.kind));
    if let (Some(wished), Some(kind)) = (&wish.kind, kind)
        && wished != checksum::kind_name(kind)
    {
        return Err(error::invalid_request(format!(
            "The upload was created using the {} checksum mode. The complete request must use the same checksum mode.",
            checksum::kind_name(kind)
        )));
    }
    let Some((algorithm, text)) = &wish.checksum else { return Ok(()) };
    let Some(actual) = actual.filter(|actual| actual.algorithm == *algorithm) else {
        return Err(error::invalid_request(format!(
            "The checksum type of the complete request is {}, which is not that of the parts.",
            checksum::name(*algorithm)
        )));
    };
    let shown = checksum::text(actual, Some(count));
    let bare = checksum::text(actual, None);
    let value = text.split('-').next().unwrap_or_default();
    if checksum::decode(*algorithm, value).is_none() {
        return Err(invalid_value(checksum::header(*algorithm)));
    }
    if *text == shown || *text == bare { Ok(()) } else { Err(error::bad_digest(checksum::name(*algorithm))) }
}

fn answer(input: &CompleteMultipartUploadInput, asked: &Asked, head: &VersionHead) -> S3Response<CompleteMultipartUploadOutput> {
    let mut output = CompleteMultipartUploadOutput {
        bucket: Some(input.bucket.clone()),
        key: Some(input.key.clone()),
        location: Some(location(asked)),
        e_tag: Some(ETag::Strong(head.etag.text())),
        checksum_type: checksum::kind_out(head.checksum.as_ref()),
        server_side_encryption: Some(ServerSideEncryption::from_static(attributes::ENCRYPTION)),
        ..Default::default()
    };
    checksum::show!(output, head.checksum.as_ref(), head.etag.parts);
    Rendered::answer(output, |output| CompleteMultipartUploadOutput { key: None, ..output })
}

/// Where the object is, as the client asked for it.
fn location(asked: &Asked) -> String {
    let scheme = if asked.secure { "https" } else { "http" };
    let host = asked.header("host").map(|host| format!("{scheme}://{host}")).unwrap_or_default();
    format!("{host}{}", asked.uri.path())
}

#[cfg(test)]
mod tests;
