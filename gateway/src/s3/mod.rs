//! The S3 operations: one file each (or each pair that shares its steps), and what they share.
//!
//! Map: buckets in [`create_bucket`], [`buckets`], [`unconfigured`]; objects in [`put_object`], [`get_object`], [`head_object`],
//! [`delete_object`], [`copy_object`], [`get_object_attributes`], [`object_tagging`]; listings in [`list_objects`], [`list_versions`], [`list_uploads`];
//! multipart in [`create_upload`], [`upload_part`], [`complete_upload`]. Shared: who asks ([`caller`]), conditions, ranges, checksums,
//! attributes, tags, tokens.
//!
//! Invariants: only [`error`] knows S3's codes; a body is committed only after every promise about it was kept; what cannot be done is
//! 501 (s3s' default for the operations missing here), never a false success.
//! Not here: signatures and limits on requests (`front/`), how bytes are stored (`write.rs`, `read.rs`), what names mean (metadata).

mod attributes;
mod buckets;
mod caller;
mod checksum;
mod complete_upload;
mod condition;
mod copy_object;
mod copy_source;
mod create_bucket;
mod create_upload;
mod delete_object;
pub mod detour;
pub mod error;
mod get_object;
mod get_object_attributes;
mod head_object;
mod integrity;
mod list_objects;
mod list_uploads;
mod list_versions;
mod listing;
mod moment;
mod object_tagging;
mod operations;
mod percent;
mod put_object;
mod range;
mod tags;
mod token;
mod told;
mod unconfigured;
mod unsupported;
mod upload_part;
mod view;

use crate::path::DataPath;
use bytes::Bytes;
use http::StatusCode;
use s3s::{Body, HttpResponse, S3Response};
use std::sync::Arc;

/// The S3 side of one gateway.
#[derive(Clone)]
pub struct Breakwater {
    pub path: Arc<DataPath>,
    /// Region of buckets that named none.
    region: Arc<str>,
}

impl Breakwater {
    pub fn new(path: Arc<DataPath>) -> Breakwater {
        Breakwater { path, region: Arc::from("us-east-1") }
    }

    /// The region that HeadBucket and ListBuckets tell.
    pub fn with_region(self, region: &str) -> Breakwater {
        Breakwater { region: Arc::from(region), ..self }
    }
}

/// XML that takes the place of what s3s makes of an answer.
#[derive(Clone)]
struct Rendered(Bytes);

impl Rendered {
    /// `output` as it is, or, if s3s could not write its XML, `bare` of it (what goes into headers) with the right XML beside it.
    fn answer<T: s3s::xml::Serialize>(output: T, bare: impl FnOnce(T) -> T) -> S3Response<T> {
        let Some(xml) = listing::with_references(&output) else { return S3Response::new(output) };
        let mut response = S3Response::new(bare(output));
        response.extensions.insert(Rendered(xml));
        response
    }
}

/// An answer to HEAD that tells of some of an object's bytes: 206, where s3s says 200.
#[derive(Clone, Copy)]
struct Partial;

/// Must be applied to every response of the S3 service before it goes out: puts XML that was rendered here, and the status of a
/// partial HEAD, in their place.
pub fn finish(mut response: HttpResponse) -> HttpResponse {
    if response.extensions_mut().remove::<Partial>().is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    if let Some(Rendered(xml)) = response.extensions_mut().remove::<Rendered>() {
        response.headers_mut().remove(http::header::CONTENT_LENGTH);
        *response.body_mut() = Body::from(xml);
    }
    response
}
