//! AWS SDK clients of a server under test: path style, no retries (a retry would hide the answer), real time-outs.

use crate::server::{Credential, Server};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use std::time::Duration;

/// A client with the root credentials.
pub fn of(server: &Server) -> Client {
    with(server.endpoint(), &Credential::root())
}

/// A client of `endpoint`, without retries.
pub fn with(endpoint: &str, credential: &Credential) -> Client {
    let credentials = Credentials::new(&credential.access_key, &credential.secret_key, None, None, "conformance");
    let time_outs = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(5))
        .read_timeout(Duration::from_secs(120))
        .operation_timeout(Duration::from_secs(900))
        .build();
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .endpoint_url(endpoint)
        .region(Region::new("us-east-1"))
        .credentials_provider(credentials)
        .force_path_style(true)
        .retry_config(RetryConfig::disabled())
        .timeout_config(time_outs)
        .build();
    Client::from_conf(config)
}

/// What an operation ended with, as far as judging it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The server's answer: HTTP status and S3 code (empty where the answer had no body, as after HEAD).
    Answered { status: u16, code: String },
    /// No complete answer came: the operation may or may not have happened.
    Unknown(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Answered { status, code } => write!(f, "{status} {code}"),
            Failure::Unknown(why) => write!(f, "no answer: {why}"),
        }
    }
}

impl Failure {
    pub fn code(&self) -> &str {
        match self {
            Failure::Answered { code, .. } => code,
            Failure::Unknown(_) => "",
        }
    }

    pub fn status(&self) -> u16 {
        match self {
            Failure::Answered { status, .. } => *status,
            Failure::Unknown(_) => 0,
        }
    }

    /// Whether the operation may have happened: no answer, or a 5xx (which promises nothing).
    pub fn is_unknown(&self) -> bool {
        matches!(self, Failure::Unknown(_)) || self.status() >= 500
    }
}

/// Sorts an SDK error into [`Failure`].
pub fn failure<E: ProvideErrorMetadata + std::fmt::Debug>(error: SdkError<E>) -> Failure {
    match &error {
        SdkError::ServiceError(inner) => {
            Failure::Answered { status: inner.raw().status().as_u16(), code: inner.err().code().unwrap_or_default().to_owned() }
        }
        other => Failure::Unknown(format!("{other:?}").chars().take(300).collect()),
    }
}

/// An SDK call as a value or a [`Failure`].
pub trait Judge<T> {
    /// # Errors
    /// [`Failure`] of the call.
    fn judged(self) -> Result<T, Failure>;
}

impl<T, E: ProvideErrorMetadata + std::fmt::Debug> Judge<T> for Result<T, SdkError<E>> {
    fn judged(self) -> Result<T, Failure> {
        self.map_err(failure)
    }
}
