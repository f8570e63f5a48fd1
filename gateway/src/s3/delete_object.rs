//! DeleteObject and DeleteObjects.

use super::caller::{Asked, wrong_answer};
use super::error::{self, S3Result};
use super::put_object::check_key;
use super::{Breakwater, Rendered, condition, moment, view};
use s3s::dto::{
    DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, DeletedObject, ETag, Error as KeyError,
    ObjectIdentifier,
};
use s3s::{S3Error, S3Request, S3Response};
use spine::id::BucketId;
use spine::limit;
use spine::wire::namespace::{Condition, EtagMatch, NamespaceCommand};
use spine::wire::{Command, Reply};

impl Breakwater {
    /// 204 also where there was nothing.
    pub(super) async fn delete_object_op(&self, request: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        let (input, asked) = Asked::split(request)?;
        view::check_version(input.version_id.as_deref())?;
        let mut bucket = self.known_bucket(&asked, &input.bucket).await?;
        let condition = Condition {
            if_size: size(input.if_match_size)?,
            if_modified_second: input.if_match_last_modified_time.as_ref().map(moment::client_seconds),
            ..condition::of_write(&asked.headers)
        };
        loop {
            let delete = NamespaceCommand::Delete { bucket: bucket.id, key: input.key.clone(), condition: condition.clone() };
            let reply = self.order(delete).await?;
            match self.renamed_if(!found(&reply), &asked, &bucket).await? {
                Some(now) => bucket = now,
                None => return deleted(reply).map(|()| S3Response::new(DeleteObjectOutput::default())),
            }
        }
    }

    /// Up to 1,000 keys in one entry of the log; each stands alone and has its own answer.
    pub(super) async fn delete_objects_op(&self, request: S3Request<DeleteObjectsInput>) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let (input, asked) = Asked::split(request)?;
        let objects = input.delete.objects;
        if objects.is_empty() || objects.len() > limit::PAGE {
            return Err(error::malformed_xml());
        }
        let quiet = input.delete.quiet == Some(true);
        let mut bucket = self.known_bucket(&asked, &input.bucket).await?;
        let (prepared, replies) = loop {
            let prepared: Vec<Result<Command, S3Error>> = objects.iter().map(|object| command(bucket.id, object)).collect();
            let commands: Vec<Command> = prepared.iter().filter_map(|made| made.as_ref().ok().cloned()).collect();
            let replies = if commands.is_empty() { Vec::new() } else { self.order_all(commands).await? };
            match self.renamed_if(!replies.iter().any(found), &asked, &bucket).await? {
                Some(now) => bucket = now,
                None => break (prepared, replies),
            }
        };
        let mut replies = replies.into_iter();

        let (mut done, mut failed) = (Vec::new(), Vec::new());
        for (object, made) in objects.into_iter().zip(prepared) {
            let outcome = match made {
                Ok(_) => deleted(replies.next().ok_or_else(wrong_answer)?),
                Err(refused) => Err(refused),
            };
            match outcome {
                Ok(()) if quiet => {}
                Ok(()) => done.push(DeletedObject { key: Some(object.key), version_id: object.version_id, ..Default::default() }),
                Err(refused) => failed.push(key_error(object, &refused)),
            }
        }
        let output = DeleteObjectsOutput { deleted: Some(done), errors: Some(failed), request_charged: None };
        Ok(Rendered::answer(output, |_| DeleteObjectsOutput::default()))
    }
}

fn command(bucket: BucketId, object: &ObjectIdentifier) -> Result<Command, S3Error> {
    check_key(&object.key)?;
    view::check_version(object.version_id.as_deref())?;
    let condition = Condition {
        if_match: object.e_tag.as_ref().map(|etag| match etag {
            ETag::Strong(tag) if tag == "*" => EtagMatch::Any,
            ETag::Strong(tag) => EtagMatch::OneOf(vec![tag.clone()]),
            ETag::Weak(_) => EtagMatch::OneOf(Vec::new()),
        }),
        if_none_match: None,
        if_size: size(object.size)?,
        if_modified_second: object.last_modified_time.as_ref().map(moment::client_seconds),
    };
    Ok(Command::Namespace(NamespaceCommand::Delete { bucket, key: object.key.clone(), condition }))
}

fn size(size: Option<i64>) -> S3Result<Option<u64>> {
    size.map(|size| u64::try_from(size).map_err(|_| error::invalid_argument("A size must not be negative"))).transpose()
}

/// Something was there, so the bucket was too.
fn found(reply: &Reply) -> bool {
    matches!(reply, Reply::Deleted { was: Some(_) })
}

fn deleted(reply: Reply) -> S3Result<()> {
    match reply {
        Reply::Deleted { .. } => Ok(()),
        Reply::Refused(refusal) => Err(error::refused(refusal)),
        _ => Err(wrong_answer()),
    }
}

fn key_error(object: ObjectIdentifier, refused: &S3Error) -> KeyError {
    KeyError {
        code: Some(refused.code().as_str().to_owned()),
        key: Some(object.key),
        message: refused.message().map(str::to_owned),
        version_id: object.version_id,
    }
}
