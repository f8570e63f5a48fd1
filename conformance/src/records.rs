//! Keys of a bucket as the metadata has them, written and asked for without S3: what a gateway's router does, and nothing above it.

use crate::client::Judge;
use crate::cluster::Cluster;
use aws_sdk_s3::Client as S3;
use metadata::cluster::{Client, ClientBounds};
use metadata::router::Router;
use spine::id::{BucketId, VersionId};
use spine::wire::cluster::Endpoint;
use spine::wire::namespace::{Condition, NamespaceAnswer, NamespaceCommand, NamespaceQuery, NewVersion, VersionBody, VersionHead};
use spine::wire::root::{RootAnswer, RootQuery};
use spine::wire::{Answer, Batch, Chain, Command, Metadata, MetadataError, Query, Reply};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a batch is tried: a disk that gets millions of rows at once may keep a group waiting.
const PATIENCE: Duration = Duration::from_secs(180);

impl Cluster {
    /// The gateways' own client of the metadata nodes. Call it within a runtime.
    ///
    /// # Errors
    /// A node that was never started; the papers.
    pub fn client(&self) -> Result<Arc<Client>, String> {
        let endpoints: Option<Vec<Endpoint>> = self.metadata.iter().map(|node| node.endpoint()).collect();
        let endpoints = endpoints.ok_or("a metadata node without an address")?;
        let connect = self.connect().map_err(|error| error.to_string())?;
        Client::start(endpoints, connect, ClientBounds::default()).map_err(|error| error.to_string())
    }
}

/// What the PUT of an empty object leaves, for any key.
pub struct Pattern {
    pub bucket: BucketId,
    pub etag: String,
    head: VersionHead,
    body: VersionBody,
    seed: u64,
    count: AtomicU64,
}

impl Pattern {
    /// Has an S3 client put an empty object, reads its record, and has it deleted.
    ///
    /// - `seed`: of the versions' ids; another one for every pattern.
    ///
    /// # Errors
    /// What did not work.
    pub async fn take(s3: &S3, bucket: &str, router: &Router, seed: u64) -> Result<Pattern, String> {
        let key = "pattern".to_string();
        let put = s3.put_object().bucket(bucket).key(&key).send().await.judged().map_err(|error| format!("a PUT: {error}"))?;
        let asked = |answer: Result<Answer, _>| answer.map_err(|error: MetadataError| error.to_string());
        let query = Query::Root(RootQuery::Bucket(bucket.into()));
        let Answer::Root(RootAnswer::Bucket(Some(record))) = asked(router.query(query).await)? else {
            return Err("there is no bucket".into());
        };
        let query = Query::Namespace(NamespaceQuery::Open { bucket: record.id, key: key.clone() });
        let Answer::Namespace(NamespaceAnswer::Open(Some((head, body)))) = asked(router.query(query).await)? else {
            return Err("the object that was put is not there".into());
        };
        s3.delete_object().bucket(bucket).key(&key).send().await.judged().map_err(|error| format!("a DELETE: {error}"))?;
        let etag = put.e_tag().unwrap_or_default().to_owned();
        Ok(Pattern { bucket: record.id, etag, head, body, seed, count: AtomicU64::new(0) })
    }

    /// Makes such an object of `key`, in place of one that is there.
    pub fn commit(&self, key: String) -> Command {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.seed.to_be_bytes());
        id[8..].copy_from_slice(&self.count.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        let head = VersionHead { id: VersionId(id), ..self.head.clone() };
        let new = Box::new(NewVersion { head, body: self.body.clone(), manifest: None });
        Command::Namespace(NamespaceCommand::Commit { bucket: self.bucket, key, new, condition: Condition::default() })
    }

    /// Writes all of these, at most as many as one batch may have. Asks again for a while where nobody answers in time: what is written
    /// twice is written once.
    ///
    /// # Errors
    /// One was not written.
    pub async fn write(&self, router: &Router, keys: impl Iterator<Item = String>) -> Result<(), String> {
        let commands: Vec<Command> = keys.map(|key| self.commit(key)).collect();
        let (count, began) = (commands.len(), Instant::now());
        let replies = loop {
            match router.propose(Batch { chain: Chain::Independent, commands: commands.clone() }).await {
                Ok(replies) => break replies,
                Err(MetadataError::Unavailable { .. }) if began.elapsed() < PATIENCE => {}
                Err(error) => return Err(error.to_string()),
            }
        };
        match replies.iter().find(|reply| !matches!(reply, Reply::Committed { .. })) {
            None if replies.len() == count => Ok(()),
            other => Err(format!("{} replies to {count} commands, and {other:?}", replies.len())),
        }
    }
}
