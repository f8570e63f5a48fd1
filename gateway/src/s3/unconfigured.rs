//! Sub-resources of a bucket that cannot be set yet: to ask for one is answered with the truth (there is none), to set one is 501
//! (s3s' own default), to delete one changes nothing.

use super::Breakwater;
use super::caller::{Asked, owner, owner_id};
use super::error::{self, S3Result, Unconfigured};
use s3s::dto::{
    AccessControlPolicy, GetBucketAclInput, GetBucketAclOutput, GetObjectAclInput, GetObjectAclOutput, Grant, Grantee, Permission,
    PutBucketAclInput, PutBucketAclOutput, PutObjectAclInput, PutObjectAclOutput, Type,
};
use s3s::{S3Request, S3Response};
use spine::id::TenantId;
use spine::wire::namespace::{NamespaceAnswer, NamespaceQuery};

use super::{unsupported, view};

impl Breakwater {
    /// The bucket exists and is the caller's, and `what` is not configured on it.
    pub(super) async fn absent<I, O>(
        &self,
        request: S3Request<I>,
        bucket: impl FnOnce(&I) -> &str,
        what: Unconfigured,
    ) -> S3Result<S3Response<O>> {
        let (input, asked) = Asked::split(request)?;
        self.bucket(&asked, bucket(&input)).await?;
        Err(error::unconfigured(what))
    }

    /// The bucket exists and is the caller's, and its configuration is the one that every bucket has.
    pub(super) async fn same_for_all<I, O>(
        &self,
        request: S3Request<I>,
        bucket: impl FnOnce(&I) -> &str,
        answer: O,
    ) -> S3Result<S3Response<O>> {
        let (input, asked) = Asked::split(request)?;
        self.bucket(&asked, bucket(&input)).await?;
        Ok(S3Response::new(answer))
    }

    pub(super) async fn get_bucket_acl_op(&self, request: S3Request<GetBucketAclInput>) -> S3Result<S3Response<GetBucketAclOutput>> {
        let (input, asked) = Asked::split(request)?;
        let bucket = self.bucket(&asked, &input.bucket).await?;
        Ok(S3Response::new(GetBucketAclOutput { grants: Some(grants(bucket.tenant)), owner: Some(owner(bucket.tenant)) }))
    }

    pub(super) async fn get_object_acl_op(&self, request: S3Request<GetObjectAclInput>) -> S3Result<S3Response<GetObjectAclOutput>> {
        let (input, asked) = Asked::split(request)?;
        let tenant = self.existing_object(&asked, &input.bucket, &input.key, input.version_id.as_deref()).await?;
        Ok(S3Response::new(GetObjectAclOutput { grants: Some(grants(tenant)), owner: Some(owner(tenant)), request_charged: None }))
    }

    /// Only what is true already: the owner's full control.
    pub(super) async fn put_bucket_acl_op(&self, request: S3Request<PutBucketAclInput>) -> S3Result<S3Response<PutBucketAclOutput>> {
        let (input, asked) = Asked::split(request)?;
        let bucket = self.bucket(&asked, &input.bucket).await?;
        only_private(&asked, input.access_control_policy.as_ref(), bucket.tenant)?;
        Ok(S3Response::new(PutBucketAclOutput {}))
    }

    /// Only what is true already: the owner's full control.
    pub(super) async fn put_object_acl_op(&self, request: S3Request<PutObjectAclInput>) -> S3Result<S3Response<PutObjectAclOutput>> {
        let (input, asked) = Asked::split(request)?;
        let tenant = self.existing_object(&asked, &input.bucket, &input.key, input.version_id.as_deref()).await?;
        only_private(&asked, input.access_control_policy.as_ref(), tenant)?;
        Ok(S3Response::new(PutObjectAclOutput { request_charged: None }))
    }

    async fn existing_object(&self, asked: &Asked, bucket: &str, key: &str, version: Option<&str>) -> S3Result<TenantId> {
        view::check_version(version)?;
        let bucket = self.bucket(asked, bucket).await?;
        match self.ask_namespace(NamespaceQuery::Head { bucket: bucket.id, key: key.to_owned() }).await? {
            NamespaceAnswer::Head(Some(_)) => Ok(bucket.tenant),
            _ => Err(error::no_such_key()),
        }
    }
}

fn grants(tenant: TenantId) -> Vec<Grant> {
    let owner = owner(tenant);
    vec![Grant {
        grantee: Some(Grantee {
            display_name: owner.display_name,
            email_address: None,
            id: owner.id,
            type_: Type::from_static(Type::CANONICAL_USER),
            uri: None,
        }),
        permission: Some(Permission::from_static(Permission::FULL_CONTROL)),
    }]
}

fn only_private(asked: &Asked, policy: Option<&AccessControlPolicy>, tenant: TenantId) -> S3Result<()> {
    unsupported::refuse(&asked.headers)?;
    let Some(policy) = policy else { return Ok(()) };
    let mine = owner_id(tenant);
    let harmless = policy.grants.iter().flatten().all(|grant| {
        let to_owner = grant.grantee.as_ref().is_some_and(|grantee| grantee.id.as_deref() == Some(mine.as_str()) && grantee.uri.is_none());
        to_owner && grant.permission.as_ref().is_some_and(|permission| permission.as_str() == Permission::FULL_CONTROL)
    });
    let complete = policy.grants.as_ref().is_some_and(|grants| !grants.is_empty());
    if harmless && complete { Ok(()) } else { Err(error::not_implemented("Access control lists other than private are not implemented")) }
}
