//! What a request asks for: a sub-resource that nobody answers must not fall through to the object or the bucket itself.
//!
//! Why: s3s chooses the operation by the query parameters it knows for that method and runs the plain one otherwise, so that
//! `DELETE /b/k?acl` would delete the object.

use crate::front::fault::{Fault, Kind};
use crate::front::query::{Query, decode};
use http::Method;
use http::request::Parts;

/// What a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Root,
    Bucket,
    Object,
}

/// How the operation takes its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// PutObject, UploadPart or their copying forms: the body is data.
    Data,
    /// The body is a document.
    Document,
    /// No body is read.
    Bodyless,
}

/// Every query parameter that makes another operation of a request.
const SUBRESOURCES: &[&str] = &[
    "abac",
    "accelerate",
    "acl",
    "analytics",
    "annotation",
    "attributes",
    "cors",
    "delete",
    "encryption",
    "intelligent-tiering",
    "inventory",
    "legal-hold",
    "lifecycle",
    "location",
    "logging",
    "metadataAnnotationTable",
    "metadataConfiguration",
    "metadataInventoryTable",
    "metadataJournalTable",
    "metadataTable",
    "metrics",
    "notification",
    "object-lock",
    "ownershipControls",
    "policy",
    "policyStatus",
    "publicAccessBlock",
    "renameObject",
    "replication",
    "requestPayment",
    "restore",
    "retention",
    "select",
    "session",
    "tagging",
    "torrent",
    "uploadId",
    "uploads",
    "versioning",
    "versions",
    "website",
];

const BUCKET_GET: &[&str] = &[
    "abac",
    "accelerate",
    "acl",
    "analytics",
    "cors",
    "encryption",
    "intelligent-tiering",
    "inventory",
    "lifecycle",
    "location",
    "logging",
    "metadataConfiguration",
    "metadataTable",
    "metrics",
    "notification",
    "object-lock",
    "ownershipControls",
    "policy",
    "policyStatus",
    "publicAccessBlock",
    "replication",
    "requestPayment",
    "session",
    "tagging",
    "uploads",
    "versioning",
    "versions",
    "website",
];
const BUCKET_PUT: &[&str] = &[
    "abac",
    "accelerate",
    "acl",
    "analytics",
    "cors",
    "encryption",
    "intelligent-tiering",
    "inventory",
    "lifecycle",
    "logging",
    "metadataAnnotationTable",
    "metadataInventoryTable",
    "metadataJournalTable",
    "metrics",
    "notification",
    "object-lock",
    "ownershipControls",
    "policy",
    "publicAccessBlock",
    "replication",
    "requestPayment",
    "tagging",
    "versioning",
    "website",
];
const BUCKET_DELETE: &[&str] = &[
    "analytics",
    "cors",
    "encryption",
    "intelligent-tiering",
    "inventory",
    "lifecycle",
    "metadataConfiguration",
    "metadataTable",
    "metrics",
    "ownershipControls",
    "policy",
    "publicAccessBlock",
    "replication",
    "tagging",
    "website",
];
const OBJECT_GET: &[&str] = &["acl", "attributes", "legal-hold", "retention", "tagging", "torrent", "uploadId"];
const OBJECT_PUT: &[&str] = &["acl", "encryption", "legal-hold", "renameObject", "retention", "tagging", "uploadId"];

/// What s3s itself tells apart: the operations behind these answer for themselves, with 501 where there is none.
fn told_apart(method: &Method, shape: Shape) -> &'static [&'static str] {
    match (shape, method.as_str()) {
        (Shape::Bucket, "GET") => BUCKET_GET,
        (Shape::Bucket, "PUT") => BUCKET_PUT,
        (Shape::Bucket, "POST") => &["delete", "metadataConfiguration", "metadataTable"],
        (Shape::Bucket, "DELETE") => BUCKET_DELETE,
        (Shape::Object, "GET") => OBJECT_GET,
        (Shape::Object, "PUT") => OBJECT_PUT,
        (Shape::Object, "POST") => &["restore", "select", "uploadId", "uploads"],
        (Shape::Object, "DELETE") => &["tagging", "uploadId"],
        _ => &[],
    }
}

impl Shape {
    /// What the path, and with a `domain` the host, names.
    ///
    /// # Errors
    /// InvalidURI: the path is not UTF-8 after decoding.
    pub fn of(parts: &Parts, domain: Option<&str>) -> Result<Shape, Fault> {
        let path = decode(parts.uri.path(), false).ok_or_else(|| Fault::new(Kind::InvalidUri, "Couldn't parse the specified URI."))?;
        let path = path.strip_prefix('/').unwrap_or(&path);
        let host = parts.headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
        let bucket_in_host = domain.zip(host).is_some_and(|(domain, host)| crate::front::host::bucket(domain, host).is_some());
        Ok(match path.split_once('/') {
            _ if bucket_in_host && path.is_empty() => Shape::Bucket,
            _ if bucket_in_host => Shape::Object,
            _ if path.is_empty() => Shape::Root,
            Some((_, key)) if !key.is_empty() => Shape::Object,
            _ => Shape::Bucket,
        })
    }
}

/// Checks that the request asks for something that can be told apart from anything else.
///
/// # Errors
/// NotImplemented for a sub-resource that would fall through; InvalidArgument for two at once or half of a part's name.
pub fn check(method: &Method, shape: Shape, query: &Query) -> Result<Operation, Fault> {
    let mut asked: Vec<&str> = query.names().filter(|name| SUBRESOURCES.contains(name)).collect();
    asked.sort_unstable();
    asked.dedup();
    if asked.len() > 1 {
        return Err(Fault::new(Kind::InvalidArgument, format!("Conflicting query string parameters: {}", asked.join(", "))));
    }
    if let Some(name) = asked.first()
        && !told_apart(method, shape).contains(name)
    {
        return Err(Fault::new(
            Kind::NotImplemented,
            format!("A header or query you provided implies functionality that is not implemented: {name}."),
        ));
    }
    if method == Method::PUT && shape == Shape::Object {
        let (upload, part) = (query.has("uploadId"), query.has("partNumber"));
        if upload != part {
            return Err(Fault::new(Kind::InvalidArgument, "A part needs both partNumber and uploadId."));
        }
        let is_data = asked.is_empty() || upload;
        return Ok(if is_data { Operation::Data } else { Operation::Document });
    }
    Ok(match *method {
        Method::PUT | Method::POST => Operation::Document,
        _ => Operation::Bodyless,
    })
}
