//! Documents in aws-chunked form: taken out of their framing before s3s parses them. And whatever else must be set right between
//! s3s' check of the signature and its parsing (`s3/detour.rs` says what).
//!
//! Why: SDKs may send DeleteObjects with a checksum in a trailer, and s3s 0.17 verifies such a body and then finds its length wrong.
//! The route below gets the verified body, and hands the plain document to a second service that verifies nothing.
//! Invariant: that service is reached from [`DocumentRoute::call`] only, which runs after the signature held and the caller is known.

use crate::front::auth::{Caller, KeyRing};
use crate::front::host::BelowDomain;
use crate::front::observe::Notes;
use crate::front::query::decode;
use crate::front::xml::{XML_BYTES, XmlScan};
use crate::s3::{detour, error};
use http::{Extensions, HeaderMap, Method, Request, Uri, header};
use s3s::config::StaticConfigProvider;
use s3s::route::S3Route;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, S3Request, S3Response, S3Result, s3_error};
use std::sync::Arc;

/// Put into the extensions of requests that take this way.
#[derive(Clone, Copy, Debug)]
pub struct FramedDocument;

/// Headers that described the framing.
const OF_THE_FRAMING: &[&str] =
    &["x-amz-content-sha256", "x-amz-decoded-content-length", "x-amz-trailer", "authorization", "content-encoding", "transfer-encoding"];

/// Query parameters of a signature that has held: the service behind the detour, which knows nobody, would judge it again.
const OF_THE_SIGNATURE: &[&str] = &[
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-Security-Token",
    "X-Amz-Signature",
    "X-Amz-SignedHeaders",
    "AWSAccessKeyId",
    "Expires",
    "Signature",
];

/// The URI without the signature in its query.
fn unsigned(uri: Uri) -> Uri {
    let Some(query) = uri.query() else { return uri };
    let of_the_signature = |pair: &&str| {
        let name = pair.split('=').next().unwrap_or_default();
        decode(name, true).is_some_and(|name| OF_THE_SIGNATURE.contains(&name.as_str()))
    };
    let kept: Vec<&str> = query.split('&').filter(|pair| !of_the_signature(pair)).collect();
    let target = if kept.is_empty() { uri.path().to_string() } else { format!("{}?{}", uri.path(), kept.join("&")) };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = target.parse().ok();
    Uri::from_parts(parts).unwrap_or(uri)
}

/// The way itself.
pub struct DocumentRoute {
    plain: S3Service,
    ring: Arc<KeyRing>,
}

impl DocumentRoute {
    pub fn new(s3: impl s3s::S3, config: Arc<StaticConfigProvider>, domain: Option<String>, ring: Arc<KeyRing>) -> DocumentRoute {
        let mut builder = S3ServiceBuilder::new(s3);
        builder.set_config(config);
        if let Some(domain) = domain {
            builder.set_host(BelowDomain(domain));
        }
        DocumentRoute { plain: builder.build(), ring }
    }
}

#[async_trait::async_trait]
impl S3Route for DocumentRoute {
    fn is_match(&self, method: &Method, uri: &Uri, headers: &HeaderMap, extensions: &mut Extensions) -> bool {
        extensions.get::<FramedDocument>().is_some() || detour::wanted(method, uri, headers)
    }

    async fn check_access(&self, request: &mut S3Request<Body>) -> S3Result<()> {
        let Some(credentials) = &request.credentials else {
            return Err(s3_error!(AccessDenied, "Access Denied"));
        };
        let caller = self.ring.caller(&credentials.access_key).await?;
        request.extensions.insert(caller);
        Ok(())
    }

    async fn call(&self, mut request: S3Request<Body>) -> S3Result<S3Response<Body>> {
        let limit = usize::try_from(XML_BYTES).unwrap_or(usize::MAX);
        let document = request.input.store_all_limited(limit).await.map_err(|fault| error::body(&fault))?;
        if XmlScan::default().feed(&document).is_err() {
            return Err(s3_error!(MalformedXML));
        }
        if request.extensions.get::<Caller>().is_none() {
            return Err(s3_error!(AccessDenied, "Access Denied"));
        }
        if let Some(notes) = request.extensions.get::<Arc<Notes>>() {
            notes.resolved(detour::operation(&request.method, &request.uri).to_string(), None);
        }
        let mut headers = request.headers;
        OF_THE_FRAMING.iter().for_each(|name| {
            headers.remove(*name);
        });
        headers.insert(header::CONTENT_LENGTH, document.len().into());
        // A trailer may be unsigned: it says what the document sums up to and nothing else.
        let trailers = request.trailing_headers.and_then(|trailers| trailers.take()).unwrap_or_default();
        for (name, value) in trailers.iter().filter(|(name, _)| name.as_str().starts_with("x-amz-checksum-")) {
            headers.entry(name).or_insert_with(|| value.clone());
        }
        detour::set_right(&request.method, &request.uri, &mut headers, &document)?;
        let mut plain = Request::new(Body::from(document));
        *plain.method_mut() = request.method;
        *plain.uri_mut() = unsigned(request.uri);
        *plain.headers_mut() = headers;
        *plain.extensions_mut() = request.extensions;
        plain.extensions_mut().remove::<FramedDocument>();
        let response = crate::s3::finish(self.plain.call(plain).await.map_err(|error| s3_error!(error, InternalError))?);
        let (parts, body) = response.into_parts();
        Ok(S3Response { output: body, status: Some(parts.status), headers: parts.headers, extensions: parts.extensions })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_taken_out_of_a_query_and_nothing_else() {
        let kept = |text: &'static str| unsigned(Uri::from_static(text)).to_string();
        assert_eq!(kept("/b/k?uploadId=1&X-Amz-Signature=a&X-Amz-Date=b&X%2DAmz-Expires=5&x-id=y"), "/b/k?uploadId=1&x-id=y");
        assert_eq!(kept("/b?delete&AWSAccessKeyId=a&Signature=b%3D&Expires=1"), "/b?delete");
        assert_eq!(kept("http://h:1/b/k?X-Amz-Signature=a"), "http://h:1/b/k");
        assert_eq!(kept("/b/%C3%BC%20+?prefix=Signature"), "/b/%C3%BC%20+?prefix=Signature");
        assert_eq!(kept("/b/k"), "/b/k");
    }
}
