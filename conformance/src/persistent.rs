//! Clients that ask again until it is done, as a backup program does: what they must never see is an error in the end.

use crate::client::Judge;
use crate::history::BUCKET;
use aws_sdk_s3::Client;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::{JoinError, JoinSet};

/// A client gives up after this; nothing may make it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Clients at work.
pub struct Persistent {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    failed: AtomicU64,
    retried: AtomicU64,
}

impl Persistent {
    /// Sets `count` clients to work, each through one of `gateways`, on keys of their own in [`BUCKET`], which exists.
    pub fn begin(gateways: &[Client], count: usize) -> Persistent {
        let (shared, mut tasks) = (Arc::<Shared>::default(), JoinSet::new());
        for number in 0..count {
            tasks.spawn(persist(gateways[number % gateways.len()].clone(), number, shared.clone()));
        }
        Persistent { shared, tasks }
    }

    /// Stops them. How often something was asked for again, and how often that did not help.
    ///
    /// # Errors
    /// A client panicked.
    pub async fn end(mut self) -> Result<(u64, u64), JoinError> {
        self.shared.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended?;
        }
        Ok((self.shared.retried.load(Ordering::Relaxed), self.shared.failed.load(Ordering::Relaxed)))
    }
}

/// Writes and reads back, each until it is done.
async fn persist(client: Client, number: usize, shared: Arc<Shared>) {
    let mut count = 0_u64;
    while !shared.stop.load(Ordering::Relaxed) {
        count += 1;
        let (key, body) = (format!("persistent/{number}-{}", count % 50), format!("{number}-{count}").into_bytes());
        let began = Instant::now();
        loop {
            let put = client.put_object().bucket(BUCKET).key(&key).body(body.clone().into()).send().await.judged();
            let got = match put {
                Ok(_) => client.get_object().bucket(BUCKET).key(&key).send().await.judged(),
                Err(failure) => Err(failure),
            };
            let read = match got {
                Ok(answer) => answer.body.collect().await.map(|body| body.into_bytes()).ok(),
                Err(_) => None,
            };
            match read {
                Some(bytes) if bytes == body => break,
                None if began.elapsed() <= PATIENCE => {
                    shared.retried.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                // Other bytes than those just written, or no answer in all this time.
                Some(_) | None => {
                    shared.failed.fetch_add(1, Ordering::Relaxed);
                    break;
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
