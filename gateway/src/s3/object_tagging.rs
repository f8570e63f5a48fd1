//! GetObjectTagging, PutObjectTagging, DeleteObjectTagging.

use super::caller::{Asked, wrong_answer};
use super::error::{self, S3Result};
use super::tags::{self, Tags};
use super::{Breakwater, view};
use s3s::dto::{
    DeleteObjectTaggingInput, DeleteObjectTaggingOutput, GetObjectTaggingInput, GetObjectTaggingOutput, PutObjectTaggingInput,
    PutObjectTaggingOutput,
};
use s3s::{S3Request, S3Response};
use spine::wire::Reply;
use spine::wire::namespace::NamespaceCommand;

impl Breakwater {
    pub(super) async fn get_object_tagging_op(
        &self,
        request: S3Request<GetObjectTaggingInput>,
    ) -> S3Result<S3Response<GetObjectTaggingOutput>> {
        let (input, asked) = Asked::split(request)?;
        view::check_version(input.version_id.as_deref())?;
        let bucket = self.bucket(&asked, &input.bucket).await?;
        let head = self.head(bucket.id, &input.key).await?;
        Ok(S3Response::new(GetObjectTaggingOutput { tag_set: tags::to_xml(head.tags), version_id: None }))
    }

    pub(super) async fn put_object_tagging_op(
        &self,
        request: S3Request<PutObjectTaggingInput>,
    ) -> S3Result<S3Response<PutObjectTaggingOutput>> {
        let (input, asked) = Asked::split(request)?;
        view::check_version(input.version_id.as_deref())?;
        let tags = tags::from_xml(input.tagging.tag_set)?;
        self.set_tags(&asked, &input.bucket, input.key, tags).await?;
        Ok(S3Response::new(PutObjectTaggingOutput::default()))
    }

    pub(super) async fn delete_object_tagging_op(
        &self,
        request: S3Request<DeleteObjectTaggingInput>,
    ) -> S3Result<S3Response<DeleteObjectTaggingOutput>> {
        let (input, asked) = Asked::split(request)?;
        view::check_version(input.version_id.as_deref())?;
        self.set_tags(&asked, &input.bucket, input.key, Tags::new()).await?;
        Ok(S3Response::new(DeleteObjectTaggingOutput::default()))
    }

    async fn set_tags(&self, asked: &Asked, bucket: &str, key: String, tags: Tags) -> S3Result<()> {
        let bucket = self.bucket(asked, bucket).await?;
        match self.order(NamespaceCommand::SetTags { bucket: bucket.id, key, tags }).await? {
            Reply::Done => Ok(()),
            Reply::Refused(refusal) => Err(error::refused(refusal)),
            _ => Err(wrong_answer()),
        }
    }
}
