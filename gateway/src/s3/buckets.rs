//! HeadBucket, DeleteBucket, GetBucketLocation, GetBucketVersioning, ListBuckets: what is told of buckets.

use super::caller::{Asked, owner, wrong_answer};
use super::error::{self, S3Result};
use super::{Breakwater, moment, token};
use crate::unmake::{self, Round, Unmade};
use s3s::dto::{
    Bucket, BucketLocationConstraint, DeleteBucketInput, DeleteBucketOutput, GetBucketLocationInput, GetBucketLocationOutput,
    GetBucketVersioningInput, GetBucketVersioningOutput, HeadBucketInput, HeadBucketOutput, ListBucketsInput, ListBucketsOutput,
};
use s3s::{S3Request, S3Response};
use spine::id::BucketId;
use spine::limit;
use spine::wire::namespace::{NamespaceAnswer, NamespaceCommand, NamespaceQuery, UploadRecord, UploadsQuery};
use spine::wire::root::{BucketRecord, RootAnswer, RootCommand, RootQuery};
use spine::wire::{Answer, Command, Query, Refusal, Reply};

/// The region of buckets without a location constraint.
const FIRST_REGION: &str = "us-east-1";
/// How often a bucket's open uploads are aborted before others that are begun meanwhile keep it from being deleted.
const ATTEMPTS: usize = 3;
/// Uploads aborted in one entry of the log: each may have 10,000 parts to give back.
const ABORTED_AT_ONCE: usize = 16;

impl Breakwater {
    pub(super) async fn head_bucket_op(&self, request: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        let (input, asked) = Asked::split(request)?;
        let bucket = self.bucket(&asked, &input.bucket).await?;
        Ok(S3Response::new(HeadBucketOutput { bucket_region: Some(self.region_of(&bucket)), ..Default::default() }))
    }

    pub(super) async fn delete_bucket_op(&self, request: S3Request<DeleteBucketInput>) -> S3Result<S3Response<DeleteBucketOutput>> {
        let (input, asked) = Asked::split(request)?;
        let bucket = self.bucket(&asked, &input.bucket).await?;
        // Where several groups have to be asked, nobody finds the bucket meanwhile: for one that will stay, that is not begun.
        if !self.holds_no_object(bucket.id).await? {
            return Err(error::refused(Refusal::BucketNotEmpty));
        }
        for _ in 0..ATTEMPTS {
            let command = RootCommand::DeleteBucket { name: input.bucket.clone(), tenant: asked.caller.tenant };
            match self.order_all(vec![Command::Root(command)]).await?.into_iter().next() {
                Some(Reply::Done) => return Ok(self.deleted(&input.bucket)),
                Some(Reply::BucketDeleting { bucket: id, round }) => {
                    let round = Round { bucket: id, round };
                    let ended = unmake::finish(&**self.path.metadata(), &input.bucket, round).await.map_err(error::metadata)?;
                    if ended == Unmade::Gone {
                        return Ok(self.deleted(&input.bucket));
                    }
                    if !self.holds_no_object(bucket.id).await? {
                        break;
                    }
                    self.abort_uploads(bucket.id).await?;
                }
                Some(Reply::Refused(Refusal::BucketNotEmpty)) if self.holds_no_object(bucket.id).await? => {
                    self.abort_uploads(bucket.id).await?
                }
                Some(Reply::Refused(refusal)) => return Err(error::refused(refusal)),
                _ => return Err(wrong_answer()),
            }
        }
        Err(error::refused(Refusal::BucketNotEmpty))
    }

    fn deleted(&self, name: &str) -> S3Response<DeleteBucketOutput> {
        self.path.known().learn_bucket(name, None);
        S3Response::new(DeleteBucketOutput {})
    }

    async fn holds_no_object(&self, bucket: BucketId) -> S3Result<bool> {
        Ok(self.page(bucket, "", None, None, 1).await?.objects.is_empty())
    }

    /// Open uploads are no objects: they do not keep a bucket from being deleted, and end with it.
    async fn abort_uploads(&self, bucket: BucketId) -> S3Result<()> {
        loop {
            let query = UploadsQuery {
                bucket,
                prefix: String::new(),
                delimiter: String::new(),
                key_marker: String::new(),
                upload_marker: None,
                max: ABORTED_AT_ONCE,
            };
            let page = match self.ask_namespace(NamespaceQuery::Uploads { query, place: None }).await? {
                NamespaceAnswer::Uploads { page, .. } => page,
                _ => return Err(wrong_answer()),
            };
            let abort = |upload: UploadRecord| NamespaceCommand::AbortUpload { upload: upload.id, bucket, key: upload.key };
            let commands: Vec<Command> = page.uploads.into_iter().map(|upload| Command::Namespace(abort(upload))).collect();
            if !commands.is_empty() {
                self.order_all(commands).await?;
            }
            if !page.truncated {
                return Ok(());
            }
        }
    }

    pub(super) async fn get_bucket_location_op(
        &self,
        request: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        let (input, asked) = Asked::split(request)?;
        let bucket = self.bucket(&asked, &input.bucket).await?;
        // S3's own first region has no name here; clients sign for what this says.
        let region = Some(self.region_of(&bucket)).filter(|region| region != FIRST_REGION);
        let location_constraint = region.map(BucketLocationConstraint::from);
        Ok(S3Response::new(GetBucketLocationOutput { location_constraint }))
    }

    /// No status: versioning was never enabled, because it cannot be yet.
    pub(super) async fn get_bucket_versioning_op(
        &self,
        request: S3Request<GetBucketVersioningInput>,
    ) -> S3Result<S3Response<GetBucketVersioningOutput>> {
        let (input, asked) = Asked::split(request)?;
        self.bucket(&asked, &input.bucket).await?;
        Ok(S3Response::new(GetBucketVersioningOutput::default()))
    }

    pub(super) async fn list_buckets_op(&self, request: S3Request<ListBucketsInput>) -> S3Result<S3Response<ListBucketsOutput>> {
        let (input, asked) = Asked::split(request)?;
        let max = match input.max_buckets {
            None => limit::BUCKETS_PER_TENANT,
            Some(max) => usize::try_from(max)
                .ok()
                .filter(|max| (1..=limit::BUCKETS_PER_TENANT).contains(max))
                .ok_or_else(|| error::invalid_argument("Argument max-buckets must be an integer between 1 and 10000"))?,
        };
        let after = match input.continuation_token.as_deref() {
            None => None,
            Some(text) => Some(token::decode(text).ok_or_else(|| error::invalid_argument("The continuation token provided is incorrect"))?),
        };
        let records = match self.ask(Query::Root(RootQuery::Buckets(asked.caller.tenant))).await? {
            Answer::Root(RootAnswer::Buckets(records)) => records,
            _ => return Err(wrong_answer()),
        };
        let prefix = input.prefix.clone().unwrap_or_default();
        let mut wanted = records.into_iter().filter(|bucket| {
            bucket.name.starts_with(&prefix)
                && after.as_ref().is_none_or(|after| bucket.name > *after)
                && input.bucket_region.as_ref().is_none_or(|region| *region == self.region_of(bucket))
        });
        let page: Vec<BucketRecord> = wanted.by_ref().take(max).collect();
        let more = wanted.next().is_some();
        let next = page.last().filter(|_| more).map(|last| token::encode(&last.name));
        let buckets = page.into_iter().map(|bucket| Bucket {
            bucket_region: input.max_buckets.map(|_| self.region_of(&bucket)),
            creation_date: Some(moment::timestamp(bucket.created)),
            name: Some(bucket.name),
            ..Default::default()
        });
        Ok(S3Response::new(ListBucketsOutput {
            buckets: Some(buckets.collect()),
            continuation_token: next,
            owner: Some(owner(asked.caller.tenant)),
            prefix: input.prefix,
        }))
    }

    /// Where the bucket's creator said it is; else this server's region.
    fn region_of(&self, bucket: &BucketRecord) -> String {
        if bucket.location.is_empty() { self.region.to_string() } else { bucket.location.clone() }
    }
}
