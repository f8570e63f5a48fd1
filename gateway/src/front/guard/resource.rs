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

/// Every query parameter that makes another operation of a request, and the methods for which s3s itself tells it apart, on a bucket
/// and on an object: the operations behind those answer for themselves, with 501 where there is none.
const SUBRESOURCES: &[(&str, &str, &str)] = &[
    ("abac", "GET PUT", ""),
    ("accelerate", "GET PUT", ""),
    ("acl", "GET PUT", "GET PUT"),
    ("analytics", "GET PUT DELETE", ""),
    ("annotation", "", ""),
    ("attributes", "", "GET"),
    ("cors", "GET PUT DELETE", ""),
    ("delete", "POST", ""),
    ("encryption", "GET PUT DELETE", "PUT"),
    ("intelligent-tiering", "GET PUT DELETE", ""),
    ("inventory", "GET PUT DELETE", ""),
    ("legal-hold", "", "GET PUT"),
    ("lifecycle", "GET PUT DELETE", ""),
    ("location", "GET", ""),
    ("logging", "GET PUT", ""),
    ("metadataAnnotationTable", "PUT", ""),
    ("metadataConfiguration", "GET POST DELETE", ""),
    ("metadataInventoryTable", "PUT", ""),
    ("metadataJournalTable", "PUT", ""),
    ("metadataTable", "GET POST DELETE", ""),
    ("metrics", "GET PUT DELETE", ""),
    ("notification", "GET PUT", ""),
    ("object-lock", "GET PUT", ""),
    ("ownershipControls", "GET PUT DELETE", ""),
    ("policy", "GET PUT DELETE", ""),
    ("policyStatus", "GET", ""),
    ("publicAccessBlock", "GET PUT DELETE", ""),
    ("renameObject", "", "PUT"),
    ("replication", "GET PUT DELETE", ""),
    ("requestPayment", "GET PUT", ""),
    ("restore", "", "POST"),
    ("retention", "", "GET PUT"),
    ("select", "", "POST"),
    ("session", "GET", ""),
    ("tagging", "GET PUT DELETE", "GET PUT DELETE"),
    ("torrent", "", "GET"),
    ("uploadId", "", "GET PUT POST DELETE"),
    ("uploads", "GET", "POST"),
    ("versioning", "GET PUT", ""),
    ("versions", "GET", ""),
    ("website", "GET PUT DELETE", ""),
];

fn is_subresource(name: &str) -> bool {
    SUBRESOURCES.iter().any(|(known, ..)| *known == name)
}

fn told_apart(name: &str, method: &Method, shape: Shape) -> bool {
    SUBRESOURCES.iter().filter(|(known, ..)| *known == name).any(|(_, on_bucket, on_object)| {
        let methods = match shape {
            Shape::Root => "",
            Shape::Bucket => on_bucket,
            Shape::Object => on_object,
        };
        methods.split(' ').any(|known| known == method.as_str())
    })
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
    let mut asked: Vec<&str> = query.names().filter(|name| is_subresource(name)).collect();
    asked.sort_unstable();
    asked.dedup();
    if asked.len() > 1 {
        return Err(Fault::new(Kind::InvalidArgument, format!("Conflicting query string parameters: {}", asked.join(", "))));
    }
    if let Some(name) = asked.first()
        && !told_apart(name, method, shape)
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
