//! Who asks, and whether a bucket is theirs.

use super::Breakwater;
use super::error::{self, S3Result};
use crate::front::auth::Caller;
use crate::front::body::Hashed;
use crate::front::listen::Secure;
use http::{HeaderMap, Uri};
use s3s::dto::Owner;
use s3s::{S3Request, TrailingHeaders};
use spine::id::TenantId;
use spine::wire::namespace::{NamespaceAnswer, NamespaceCommand, NamespaceQuery};
use spine::wire::root::{BucketRecord, RootAnswer, RootQuery};
use spine::wire::{Answer, Batch, Chain, Command, Query, Refusal, Reply};
use std::sync::Arc;

/// A request without its typed input.
pub struct Asked {
    pub caller: Caller,
    pub uri: Uri,
    pub headers: HeaderMap,
    /// It came over TLS.
    pub secure: bool,
    /// Filled once the body has ended, where it is one with trailers.
    pub trailers: Option<TrailingHeaders>,
    /// A body that nobody has hashed yet.
    pub hashed: Option<Hashed>,
}

impl Asked {
    /// Splits a request. A request without a caller is refused: nothing here is for the anonymous.
    pub fn split<T>(request: S3Request<T>) -> S3Result<(T, Asked)> {
        let caller = request.extensions.get::<Caller>().cloned().ok_or_else(error::access_denied)?;
        let secure = request.extensions.get::<Secure>().is_some();
        let hashed = request.extensions.get::<Hashed>().cloned();
        let S3Request { input, uri, headers, trailing_headers, .. } = request;
        Ok((input, Asked { caller, uri, headers, secure, trailers: trailing_headers, hashed }))
    }

    /// A header's text; `None` if it is absent, empty or not ASCII.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok()).filter(|text| !text.is_empty())
    }

    /// Whether the query has this parameter, with or without a value.
    pub fn has_query(&self, name: &str) -> bool {
        self.uri.query().is_some_and(|query| query.split('&').any(|pair| pair.split('=').next() == Some(name)))
    }
}

/// A tenant as S3 shows an owner.
pub fn owner(tenant: TenantId) -> Owner {
    let id = owner_id(tenant);
    Owner { display_name: Some(id.clone()), id: Some(id) }
}

/// Hexadecimal, as AWS' canonical user ids are.
pub fn owner_id(tenant: TenantId) -> String {
    format!("{:016x}", tenant.0)
}

impl Breakwater {
    /// The bucket, if it is there, the caller's, and whose the caller said it would be.
    pub async fn bucket(&self, asked: &Asked, name: &str) -> S3Result<Arc<BucketRecord>> {
        let record = self.bucket_of(asked.caller.tenant, name).await?;
        expected_owner(asked, "x-amz-expected-bucket-owner")?;
        Ok(record)
    }

    /// The bucket as it was when it was asked for last. Whatever is found in it, or written to it, is right; whoever finds nothing there,
    /// or is refused for it, asks [`Self::renamed`].
    pub async fn known_bucket(&self, asked: &Asked, name: &str) -> S3Result<Arc<BucketRecord>> {
        match self.path.known().bucket(name) {
            Some(record) if record.tenant == asked.caller.tenant => {
                expected_owner(asked, "x-amz-expected-bucket-owner")?;
                Ok(record)
            }
            _ => self.bucket(asked, name).await,
        }
    }

    /// The bucket that has the name now, if it is not `before`.
    pub async fn renamed(&self, asked: &Asked, before: &BucketRecord) -> S3Result<Option<Arc<BucketRecord>>> {
        self.path.known().forget_bucket(before);
        let now = self.bucket(asked, &before.name).await?;
        Ok((now.id != before.id).then_some(now))
    }

    /// [`Self::renamed`], asked only where `nothing` was found in the bucket.
    pub async fn renamed_if(&self, nothing: bool, asked: &Asked, before: &BucketRecord) -> S3Result<Option<Arc<BucketRecord>>> {
        if nothing { self.renamed(asked, before).await } else { Ok(None) }
    }

    /// The bucket that a copy reads from.
    pub async fn source_bucket(&self, asked: &Asked, name: &str) -> S3Result<Arc<BucketRecord>> {
        let record = self.bucket_of(asked.caller.tenant, name).await?;
        expected_owner(asked, "x-amz-source-expected-bucket-owner")?;
        Ok(record)
    }

    async fn bucket_of(&self, tenant: TenantId, name: &str) -> S3Result<Arc<BucketRecord>> {
        let record = match self.ask(Query::Root(RootQuery::Bucket(name.to_owned()))).await? {
            Answer::Root(RootAnswer::Bucket(record)) => record.map(Arc::new),
            _ => return Err(wrong_answer()),
        };
        self.path.known().learn_bucket(name, record.as_ref());
        match record {
            Some(record) if record.tenant == tenant => Ok(record),
            Some(_) => Err(error::access_denied()),
            None => Err(self.unfound(name).await?),
        }
    }

    /// Why a bucket is not found: it is not there, or is just being deleted and may yet stay.
    async fn unfound(&self, name: &str) -> S3Result<s3s::S3Error> {
        let marked = crate::unmake::marked(&**self.path.metadata()).await.map_err(error::metadata)?;
        let deleting = marked.iter().any(|(record, _)| record.name == name);
        Ok(if deleting { error::refused(Refusal::BucketDeleting) } else { error::no_such_bucket() })
    }

    /// Asks metadata.
    pub async fn ask(&self, query: Query) -> S3Result<Answer> {
        self.path.metadata().query(query).await.map_err(error::metadata)
    }

    pub async fn ask_namespace(&self, query: NamespaceQuery) -> S3Result<NamespaceAnswer> {
        match self.ask(Query::Namespace(query)).await? {
            Answer::Namespace(answer) => Ok(answer),
            _ => Err(wrong_answer()),
        }
    }

    /// Runs one command of the namespace; the reply may be `Refused`.
    pub async fn order(&self, command: NamespaceCommand) -> S3Result<Reply> {
        let mut replies = self.order_all(vec![Command::Namespace(command)]).await?;
        replies.pop().ok_or_else(wrong_answer)
    }

    /// Runs commands that each stand alone, one reply each.
    pub async fn order_all(&self, commands: Vec<Command>) -> S3Result<Vec<Reply>> {
        let count = commands.len();
        let batch = Batch { chain: Chain::Independent, commands };
        let replies = self.path.metadata().propose(batch).await.map_err(error::metadata)?;
        if replies.len() == count { Ok(replies) } else { Err(wrong_answer()) }
    }
}

/// Metadata answered another question than ours: a bug, not the client's.
pub fn wrong_answer() -> s3s::S3Error {
    error::internal(&"metadata gave an answer of another kind")
}

fn expected_owner(asked: &Asked, header: &str) -> S3Result<()> {
    match asked.header(header) {
        Some(expected) if expected != owner_id(asked.caller.tenant) => Err(error::access_denied()),
        _ => Ok(()),
    }
}
