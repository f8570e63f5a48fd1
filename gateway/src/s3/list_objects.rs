//! ListObjects and ListObjectsV2.
//!
//! Invariant: a page is complete or an error; what is cut is said to be cut, with where to go on.

use super::caller::{Asked, wrong_answer};
use super::error::{self, S3Result};
use super::listing::{self, Names};
use super::{Breakwater, Rendered, token};
use s3s::dto::{ListObjectsInput, ListObjectsOutput, ListObjectsV2Input, ListObjectsV2Output, Object};
use s3s::{S3Request, S3Response};
use spine::id::BucketId;
use spine::wire::namespace::{ListPage, ListQuery, NamespaceAnswer, NamespaceQuery};
use spine::wire::root::BucketRecord;
use std::sync::Arc;

impl Breakwater {
    pub(super) async fn list_objects_op(&self, request: S3Request<ListObjectsInput>) -> S3Result<S3Response<ListObjectsOutput>> {
        let (input, asked) = Asked::split(request)?;
        let names = Names::of(input.encoding_type.as_ref())?;
        let max = listing::page_size(input.max_keys, "maxKeys")?;
        let marker = input.marker.unwrap_or_default();
        let delimiter = input.delimiter.filter(|delimiter| !delimiter.is_empty());
        let prefix = input.prefix.unwrap_or_default();
        let (bucket, page) = self.page_of(&asked, &input.bucket, &prefix, delimiter.as_deref(), Some(marker.clone()), max).await?;

        let output = ListObjectsOutput {
            name: Some(input.bucket),
            prefix: Some(names.show(prefix)),
            marker: Some(names.show(marker)),
            max_keys: i32::try_from(max).ok(),
            is_truncated: Some(page.next.is_some()),
            // AWS names it only where there is a delimiter; elsewhere the last key says the same.
            next_marker: page.next.filter(|_| delimiter.is_some()).map(|next| names.show(next)),
            contents: Some(page.objects.into_iter().map(|(key, head)| names.object(key, head, Some(bucket.tenant))).collect()),
            common_prefixes: Some(names.prefixes(page.prefixes)),
            delimiter: delimiter.map(|delimiter| names.show(delimiter)),
            encoding_type: names.echo(),
            request_charged: None,
        };
        Ok(Rendered::answer(output, |_| Default::default()))
    }

    pub(super) async fn list_objects_v2_op(&self, request: S3Request<ListObjectsV2Input>) -> S3Result<S3Response<ListObjectsV2Output>> {
        let (input, asked) = Asked::split(request)?;
        let names = Names::of(input.encoding_type.as_ref())?;
        let max = listing::page_size(input.max_keys, "maxKeys")?;
        // An empty token names no place: the listing begins, as where there is none.
        let after = match input.continuation_token.as_deref().filter(|token| !token.is_empty()) {
            Some(text) => Some(token::decode(text).ok_or_else(|| error::invalid_argument("The continuation token provided is incorrect"))?),
            None => input.start_after.clone(),
        };
        let delimiter = input.delimiter.filter(|delimiter| !delimiter.is_empty());
        let prefix = input.prefix.unwrap_or_default();
        let (bucket, page) = self.page_of(&asked, &input.bucket, &prefix, delimiter.as_deref(), after, max).await?;

        let shown_owner = (input.fetch_owner == Some(true)).then_some(bucket.tenant);
        let contents: Vec<Object> = page.objects.into_iter().map(|(key, head)| names.object(key, head, shown_owner)).collect();
        let output = ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: Some(names.show(prefix)),
            max_keys: i32::try_from(max).ok(),
            key_count: i32::try_from(contents.len() + page.prefixes.len()).ok(),
            continuation_token: input.continuation_token,
            is_truncated: Some(page.next.is_some()),
            next_continuation_token: page.next.as_deref().map(token::encode),
            contents: Some(contents),
            common_prefixes: Some(names.prefixes(page.prefixes)),
            delimiter: delimiter.map(|delimiter| names.show(delimiter)),
            encoding_type: names.echo(),
            start_after: input.start_after.map(|start| names.show(start)),
            request_charged: None,
        };
        Ok(Rendered::answer(output, |_| Default::default()))
    }

    /// The bucket of this name and a page of it. An empty page is one of the bucket that has the name now.
    async fn page_of(
        &self,
        asked: &Asked,
        name: &str,
        prefix: &str,
        delimiter: Option<&str>,
        after: Option<String>,
        max: usize,
    ) -> S3Result<(Arc<BucketRecord>, ListPage)> {
        let mut bucket = self.known_bucket(asked, name).await?;
        loop {
            let page = self.page(bucket.id, prefix, delimiter, after.clone(), max).await?;
            match self.renamed_if(page.objects.is_empty() && page.prefixes.is_empty(), asked, &bucket).await? {
                Some(now) => bucket = now,
                None => return Ok((bucket, page)),
            }
        }
    }

    /// At most `max` keys and common prefixes after `after`.
    pub(super) async fn page(
        &self,
        bucket: BucketId,
        prefix: &str,
        delimiter: Option<&str>,
        after: Option<String>,
        max: usize,
    ) -> S3Result<ListPage> {
        if max == 0 {
            return Ok(ListPage { objects: Vec::new(), prefixes: Vec::new(), next: None });
        }
        let query = ListQuery {
            bucket,
            prefix: prefix.to_owned(),
            delimiter: delimiter.unwrap_or_default().to_owned(),
            after: after.filter(|after| !after.is_empty()),
            max,
        };
        match self.ask_namespace(NamespaceQuery::List { query, place: None }).await? {
            NamespaceAnswer::List { page, .. } => Ok(page),
            _ => Err(wrong_answer()),
        }
    }
}
