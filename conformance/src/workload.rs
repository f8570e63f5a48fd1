//! Mixed writes by several workers, each the only writer of its own keys, every outcome kept in a [`Ledger`].
//!
//! Not here: what happens to the server meanwhile (the rows of `prove`).

use crate::client::{Failure, Judge};
use crate::content::{Content, Dice};
use crate::ledger::{Ledger, Written};
use aws_sdk_s3::Client;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, Delete, ObjectIdentifier};
use bytes::Bytes;
use futures::StreamExt;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// A bucket under load.
#[derive(Clone)]
pub struct Workload {
    pub client: Client,
    pub bucket: String,
    pub ledger: Arc<Mutex<Ledger>>,
    /// Set: workers end after what they are at.
    pub stop: Arc<AtomicBool>,
    /// Keys each worker writes to; few, so that overwrites are common.
    pub keys_per_worker: usize,
    /// Allow objects of several MiB and multipart uploads.
    pub large: bool,
    /// Answers 2xx, answers 503, answers otherwise, no answer.
    pub tally: Arc<[AtomicU64; 4]>,
}

impl Workload {
    pub fn new(client: Client, bucket: &str) -> Self {
        Workload {
            client,
            bucket: bucket.into(),
            ledger: Arc::default(),
            stop: Arc::default(),
            keys_per_worker: 8,
            large: true,
            tally: Arc::default(),
        }
    }

    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Creates the bucket.
    pub async fn prepare(&self) -> Result<(), Failure> {
        self.client.create_bucket().bucket(&self.bucket).send().await.judged().map(|_| ())
    }

    /// Runs `workers` until [`Workload::stop`] is set.
    pub async fn run(&self, workers: usize, dice: &mut Dice) {
        self.stop.store(false, Ordering::SeqCst);
        let tasks: Vec<_> = (0..workers)
            .map(|worker| {
                let (me, mut dice) = (self.clone(), dice.fork());
                tokio::spawn(async move {
                    while !me.stop.load(Ordering::SeqCst) {
                        me.step(worker, &mut dice).await;
                    }
                })
            })
            .collect();
        for task in tasks {
            if let Err(e) = task.await {
                self.ledger().violate(format!("a worker panicked: {e}"));
            }
        }
    }

    async fn step(&self, worker: usize, dice: &mut Dice) {
        let key = format!("w{worker:02}/{}", dice.below(self.keys_per_worker));
        match dice.below(100) {
            0..30 => self.put(&key, content(dice, 1, 9_000)).await,
            30..55 => self.put(&key, content(dice, 9_000, 2_500_000)).await,
            55..60 if self.large => self.put(&key, content(dice, 3_000_000, 9_000_000)).await,
            60..66 if self.large => self.multipart(&key, dice).await,
            66..78 => self.delete(&key).await,
            78..81 => self.delete_many(worker, dice).await,
            81..87 => self.copy(worker, &key, dice).await,
            _ => self.read(&key).await,
        }
    }

    fn count(&self, result: &Result<(), Failure>) {
        let slot = match result {
            Ok(()) => 0,
            Err(f) if f.status() == 503 => 1,
            Err(Failure::Answered { .. }) => 2,
            Err(Failure::Unknown(_)) => 3,
        };
        self.tally[slot].fetch_add(1, Ordering::Relaxed);
    }

    /// Records how a change of `key` to `after` ended.
    async fn settle(&self, key: &str, after: Option<Written>, result: Result<(), Failure>) {
        self.count(&result);
        let failed = result.is_err();
        match result {
            Ok(()) => self.ledger().acknowledge(key, after),
            Err(f) if f.is_unknown() => self.ledger().doubt(key, after),
            Err(f) => self.ledger().violate(format!("{key}: a write was refused with {f}")),
        }
        if failed {
            // The server is down or short of disks: do not spin.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn put(&self, key: &str, content: Content) {
        let result = self.client.put_object().bucket(&self.bucket).key(key).body(content.bytes().into()).send().await.judged();
        self.settle(key, Some(Written::put(content)), result.map(|_| ())).await;
    }

    async fn delete(&self, key: &str) {
        let result = self.client.delete_object().bucket(&self.bucket).key(key).send().await.judged();
        self.settle(key, None, result.map(|_| ())).await;
    }

    async fn delete_many(&self, worker: usize, dice: &mut Dice) {
        let mut keys: Vec<String> = (0..3).map(|_| format!("w{worker:02}/{}", dice.below(self.keys_per_worker))).collect();
        keys.sort();
        keys.dedup();
        let ids: Vec<_> = keys.iter().filter_map(|k| ObjectIdentifier::builder().key(k).build().ok()).collect();
        let Ok(delete) = Delete::builder().set_objects(Some(ids)).build() else { return };
        let result = self.client.delete_objects().bucket(&self.bucket).delete(delete).send().await.judged();
        match result {
            Ok(answer) => {
                let refused: Vec<String> = answer.errors().iter().filter_map(|e| e.key().map(str::to_owned)).collect();
                for key in keys {
                    if refused.contains(&key) {
                        self.ledger().doubt(&key, None);
                    } else {
                        self.ledger().acknowledge(&key, None);
                    }
                }
            }
            Err(f) => {
                for key in keys {
                    self.settle(&key, None, Err(f.clone())).await;
                }
            }
        }
    }

    async fn copy(&self, worker: usize, to: &str, dice: &mut Dice) {
        let from = format!("w{worker:02}/{}", dice.below(self.keys_per_worker));
        let Some(written) = self.ledger().certain(&from).cloned() else { return };
        if from == to {
            return;
        }
        let source = format!("{}/{from}", self.bucket);
        let result = self.client.copy_object().bucket(&self.bucket).key(to).copy_source(source).send().await.judged();
        self.settle(to, Some(written), result.map(|_| ())).await;
    }

    async fn multipart(&self, key: &str, dice: &mut Dice) {
        let parts = vec![content(dice, 5 << 20, 6 << 20), content(dice, 1, 3 << 20)];
        let written = Written { parts: parts.clone(), multipart: true };
        match self.upload(key, &parts).await {
            Ok(()) => self.settle(key, Some(written), Ok(())).await,
            Err((true, f)) => self.settle(key, Some(written), Err(f)).await,
            Err((false, f)) => {
                // Not completed: the key can't have changed.
                self.count(&Err(f.clone()));
                if !f.is_unknown() {
                    self.ledger().violate(format!("{key}: a multipart step was refused with {f}"));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// The failure carries whether completion had been asked for.
    async fn upload(&self, key: &str, parts: &[Content]) -> Result<(), (bool, Failure)> {
        let begun = self.client.create_multipart_upload().bucket(&self.bucket).key(key).send().await.judged().map_err(|f| (false, f))?;
        let id = begun.upload_id().unwrap_or_default().to_owned();
        let mut completed = CompletedMultipartUpload::builder();
        for (n, part) in parts.iter().enumerate() {
            let number = n as i32 + 1;
            let request = self.client.upload_part().bucket(&self.bucket).key(key).upload_id(&id).part_number(number);
            let answer = request.body(part.bytes().into()).send().await.judged().map_err(|f| (false, f))?;
            let mut done = CompletedPart::builder().part_number(number).set_e_tag(answer.e_tag().map(str::to_owned));
            done = done.set_checksum_crc32(answer.checksum_crc32().map(str::to_owned));
            completed = completed.parts(done.build());
        }
        let request = self.client.complete_multipart_upload().bucket(&self.bucket).key(key).upload_id(&id);
        request.multipart_upload(completed.build()).send().await.judged().map_err(|f| (true, f))?;
        Ok(())
    }

    /// Reads a key and judges it, unless the server gave no answer.
    pub async fn read(&self, key: &str) {
        match fetch(&self.client, &self.bucket, key).await {
            Ok(body) => {
                self.count(&Ok(()));
                self.ledger().observe(key, body.as_ref());
            }
            Err(f) => {
                self.count(&Err(f.clone()));
                if !f.is_unknown() {
                    self.ledger().violate(format!("{key}: a read was refused with {f}"));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Reads every key and the whole listing. Everything must be readable now.
    pub async fn verify(&self) {
        let listed = match list(&self.client, &self.bucket).await {
            Ok(listed) => listed,
            Err(f) => return self.ledger().violate(format!("the listing failed: {f}")),
        };
        self.ledger().observe_listing(&listed);
        let keys = self.ledger().keys();
        let mut reads = futures::stream::iter(keys)
            .map(|key| async move {
                let result = fetch(&self.client, &self.bucket, &key).await;
                (key, result)
            })
            .buffer_unordered(8);
        while let Some((key, result)) = reads.next().await {
            match result {
                Ok(body) => self.ledger().observe(&key, body.as_ref()),
                Err(f) => self.ledger().violate(format!("{key}: can't be read: {f}")),
            }
        }
    }

    /// `2xx / 503 / refused / unanswered`.
    pub fn tally_text(&self) -> String {
        let n: Vec<u64> = self.tally.iter().map(|t| t.load(Ordering::Relaxed)).collect();
        format!("{} ok, {} 503, {} refused, {} unanswered", n[0], n[1], n[2], n[3])
    }
}

fn content(dice: &mut Dice, low: usize, high: usize) -> Content {
    let (seed, len) = (dice.roll(), dice.between(low, high));
    if dice.chance(30) { Content::text(seed, len) } else { Content::dense(seed, len) }
}

/// The body; `None`: NoSuchKey. A body that breaks off is an unknown outcome.
pub async fn fetch(client: &Client, bucket: &str, key: &str) -> Result<Option<Bytes>, Failure> {
    match client.get_object().bucket(bucket).key(key).send().await.judged() {
        Ok(answer) => match answer.body.collect().await {
            Ok(body) => Ok(Some(body.into_bytes())),
            Err(e) => Err(Failure::Unknown(format!("the body broke off: {e}"))),
        },
        Err(f) if f.code() == "NoSuchKey" => Ok(None),
        Err(f) => Err(f),
    }
}

/// All keys and sizes.
pub async fn list(client: &Client, bucket: &str) -> Result<BTreeMap<String, u64>, Failure> {
    let mut all = BTreeMap::new();
    let mut token = None;
    loop {
        let page = client.list_objects_v2().bucket(bucket).set_continuation_token(token).send().await.judged()?;
        for object in page.contents() {
            all.insert(object.key().unwrap_or_default().to_owned(), object.size().unwrap_or(-1) as u64);
        }
        token = page.next_continuation_token().map(str::to_owned);
        if token.is_none() {
            return Ok(all);
        }
    }
}
