//! What the front refuses by itself, before or beside the operations, and what S3 calls it.
//!
//! Not here: the operations' own errors (`s3/error.rs`).

use http::StatusCode;
use std::borrow::Cow;

/// Which answer S3 gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    AccessDenied,
    AccessForbidden,
    AuthorizationHeaderMalformed,
    AuthorizationQueryParameters,
    EntityTooLarge,
    HeadersTooLarge,
    IncompleteBody,
    Internal,
    InvalidArgument,
    InvalidRequest,
    InvalidUri,
    MalformedTrailer,
    MalformedXml,
    MethodNotAllowed,
    MissingContentLength,
    NotImplemented,
    RequestTimeTooSkewed,
    RequestTimeout,
    SlowDown,
}

impl Kind {
    /// S3's code and HTTP's.
    pub fn answer(self) -> (&'static str, StatusCode) {
        match self {
            Kind::AccessDenied => ("AccessDenied", StatusCode::FORBIDDEN),
            Kind::AccessForbidden => ("AccessForbidden", StatusCode::FORBIDDEN),
            Kind::AuthorizationHeaderMalformed => ("AuthorizationHeaderMalformed", StatusCode::BAD_REQUEST),
            Kind::AuthorizationQueryParameters => ("AuthorizationQueryParametersError", StatusCode::BAD_REQUEST),
            Kind::EntityTooLarge => ("EntityTooLarge", StatusCode::BAD_REQUEST),
            Kind::HeadersTooLarge => ("RequestHeaderSectionTooLarge", StatusCode::BAD_REQUEST),
            Kind::IncompleteBody => ("IncompleteBody", StatusCode::BAD_REQUEST),
            Kind::Internal => ("InternalError", StatusCode::INTERNAL_SERVER_ERROR),
            Kind::InvalidArgument => ("InvalidArgument", StatusCode::BAD_REQUEST),
            Kind::InvalidRequest => ("InvalidRequest", StatusCode::BAD_REQUEST),
            Kind::InvalidUri => ("InvalidURI", StatusCode::BAD_REQUEST),
            Kind::MalformedTrailer => ("MalformedTrailerError", StatusCode::BAD_REQUEST),
            Kind::MalformedXml => ("MalformedXML", StatusCode::BAD_REQUEST),
            Kind::MethodNotAllowed => ("MethodNotAllowed", StatusCode::METHOD_NOT_ALLOWED),
            Kind::MissingContentLength => ("MissingContentLength", StatusCode::LENGTH_REQUIRED),
            Kind::NotImplemented => ("NotImplemented", StatusCode::NOT_IMPLEMENTED),
            Kind::RequestTimeTooSkewed => ("RequestTimeTooSkewed", StatusCode::FORBIDDEN),
            Kind::RequestTimeout => ("RequestTimeout", StatusCode::BAD_REQUEST),
            Kind::SlowDown => ("SlowDown", StatusCode::SERVICE_UNAVAILABLE),
        }
    }
}

/// One refusal. As the error of a request body's stream it also travels through s3s and the data path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    pub kind: Kind,
    /// For the client; says what is wrong with what it sent, never what is stored.
    pub message: Cow<'static, str>,
    /// The region the client should have signed for, where that was its mistake: SDKs correct themselves with it.
    pub region: Option<String>,
}

impl Fault {
    pub fn new(kind: Kind, message: impl Into<Cow<'static, str>>) -> Fault {
        Fault { kind, message: message.into(), region: None }
    }

    /// The same fault, naming the region that would have been right.
    pub fn expecting_region(mut self, region: &str) -> Fault {
        self.region = Some(region.to_string());
        self
    }
}
