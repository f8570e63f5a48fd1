//! Clients that work on the same few keys through several gateways at once, and what each of them saw, for `linear.rs` to judge.
//!
//! Keys come in generations: each is used for a few seconds and then left alone, so that histories stay short enough to be judged, and is
//! read once more at the end, through every gateway. Every put has a value of its own; a listing is a read of every key of its generation.
//! Invariants: an operation without a clear answer counts as one that nobody knows of; whatever was read must be, byte for byte, what some put
//! sent; all choices follow from a seed.

use crate::client::{Failure, Judge};
use crate::content::Dice;
use crate::linear::{self, Act, Operation, Value, Verdict};
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use md5::{Digest, Md5};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Where all keys are.
pub const BUCKET: &str = "histories";
/// Keys of one generation.
const KEYS: usize = 6;
/// How long a generation is worked on.
const GENERATION: Duration = Duration::from_secs(8);
/// Bodies are this long or that: the one lies within its record, the other is a chunk with shards.
const SMALL: usize = 64;
const LARGE: usize = 20 << 10;
/// How long a client waits between two operations, and after one that failed, at most.
const PAUSE_MS: usize = 40;
const FAILED_MS: usize = 200;

/// What was seen.
#[derive(Debug, Default)]
pub struct History {
    /// By generation and key.
    pub keys: BTreeMap<(u64, usize), Vec<Operation>>,
    /// What no judge is needed for: bytes that nobody put, refusals that make no sense.
    pub wrong: Vec<String>,
    /// Writes that were acknowledged; reads and listings that were answered; operations of which nobody knows.
    pub written: u64,
    pub read: u64,
    pub unknown: u64,
    /// Longest time between two writes that were acknowledged one after the other.
    pub silence: Duration,
}

struct Shared {
    clients: Vec<Client>,
    began: Instant,
    next: AtomicU64,
    stop: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    history: History,
    etags: HashMap<String, Value>,
    last_write: Duration,
}

/// Clients at work.
pub struct Work {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
    seed: u64,
}

fn body(value: Value) -> Vec<u8> {
    let length = if value.is_multiple_of(8) { LARGE } else { SMALL };
    format!("{value:020}.").into_bytes().into_iter().cycle().take(length).collect()
}

fn value_of(bytes: &[u8]) -> Option<Value> {
    let value: Value = std::str::from_utf8(bytes.get(..20)?).ok()?.parse().ok()?;
    (body(value) == bytes).then_some(value)
}

fn key(generation: u64, number: usize) -> String {
    format!("generation-{generation:06}/key-{number}")
}

/// Makes the bucket and sets `workers` clients to work, each operation through any of `gateways`.
///
/// # Errors
/// The bucket cannot be made.
pub async fn begin(gateways: Vec<Client>, workers: usize, seed: u64) -> Result<Work, String> {
    gateways[0].create_bucket().bucket(BUCKET).send().await.judged().map_err(|failure| failure.to_string())?;
    let shared = Arc::new(Shared {
        clients: gateways,
        began: Instant::now(),
        next: AtomicU64::new(1),
        stop: AtomicBool::new(false),
        state: Mutex::default(),
    });
    let mut dice = Dice::new(seed);
    let mut tasks = JoinSet::new();
    for number in 0..workers {
        tasks.spawn(work(shared.clone(), number, dice.fork()));
    }
    Ok(Work { shared, tasks, seed: dice.roll() })
}

impl Work {
    /// Writes acknowledged and operations unknown so far.
    pub fn so_far(&self) -> (u64, u64) {
        let state = self.shared.state();
        (state.history.written, state.history.unknown)
    }

    /// Stops the clients, reads every key through every gateway, and gives what was seen.
    pub async fn end(mut self) -> History {
        self.shared.stop.store(true, Ordering::Relaxed);
        while self.tasks.join_next().await.is_some() {}
        let generations = self.shared.generation();
        let mut dice = Dice::new(self.seed);
        for generation in 0..=generations {
            for gateway in 0..self.shared.clients.len() {
                self.shared.list(usize::MAX, gateway, generation).await;
            }
            for number in 0..KEYS {
                self.shared.get(usize::MAX, dice.below(self.shared.clients.len()), (generation, number)).await;
            }
        }
        let mut history = std::mem::take(&mut self.shared.state().history);
        history.keys.retain(|_, operations| !operations.is_empty());
        history
    }
}

async fn work(shared: Arc<Shared>, number: usize, mut dice: Dice) {
    // What this client saw last under each key, to name it in a swap.
    let mut seen: HashMap<(u64, usize), Value> = HashMap::new();
    while !shared.stop.load(Ordering::Relaxed) {
        let place = (shared.generation(), dice.below(KEYS));
        let gateway = dice.below(shared.clients.len());
        seen.retain(|(generation, _), _| *generation == place.0);
        let fine = match dice.below(20) {
            0..6 => shared.put(number, gateway, place).await,
            6..8 => shared.delete(number, gateway, place).await,
            8..10 => shared.create(number, gateway, place).await,
            10..12 => match seen.get(&place) {
                Some(expected) => shared.swap(number, gateway, place, *expected).await,
                None => shared.create(number, gateway, place).await,
            },
            12..15 => shared.head(number, gateway, place).await,
            15..17 => shared.list(number, gateway, place.0).await,
            _ => match shared.get(number, gateway, place).await {
                Some(Some(value)) => {
                    seen.insert(place, value);
                    true
                }
                other => other.is_some(),
            },
        };
        let pause = dice.below(if fine { PAUSE_MS } else { FAILED_MS });
        tokio::time::sleep(Duration::from_millis(pause as u64)).await;
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn generation(&self) -> u64 {
        self.began.elapsed().as_secs() / GENERATION.as_secs()
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    fn note(&self, client: usize, place: (u64, usize), called: u64, returned: Option<u64>, act: Act) {
        let mut state = self.state();
        let writes = !matches!(act, Act::Read(_));
        match (returned, writes) {
            (None, _) => state.history.unknown += 1,
            (Some(_), false) => state.history.read += 1,
            (Some(returned), true) => {
                state.history.written += 1;
                let at = Duration::from_nanos(returned);
                let silence = at.saturating_sub(state.last_write);
                state.history.silence = state.history.silence.max(silence);
                state.last_write = state.last_write.max(at);
            }
        }
        if returned.is_some() || writes {
            state.history.keys.entry(place).or_default().push(Operation { client, called, returned, act });
        }
    }

    fn wrong(&self, what: String) {
        self.state().history.wrong.push(what);
    }

    /// A value that nobody has put, and its body.
    fn fresh(&self) -> (Value, Vec<u8>) {
        let value = self.next.fetch_add(1, Ordering::Relaxed);
        let body = body(value);
        let etag = format!("\"{}\"", hex::encode(Md5::digest(&body)));
        self.state().etags.insert(etag, value);
        (value, body)
    }

    fn by_etag(&self, etag: Option<&str>) -> Option<Value> {
        etag.and_then(|etag| self.state().etags.get(etag).copied())
    }

    /// Notes a write by how it ended: `done` if it was, `refused` if its condition did not hold.
    fn written(
        &self,
        client: usize,
        place: (u64, usize),
        called: u64,
        ended: Result<(), Failure>,
        done: Act,
        refused: Option<Act>,
    ) -> bool {
        let returned = Some(self.now());
        match (ended, refused) {
            (Ok(()), _) => self.note(client, place, called, returned, done),
            (Err(failure), _) if failure.is_unknown() => {
                self.note(client, place, called, None, done);
                return false;
            }
            // Nothing was done, and it says nothing of what is there: others were at it.
            (Err(failure), Some(_)) if failure.status() == 409 => {}
            (Err(failure), Some(refused)) if matches!(failure.status(), 412 | 404) => self.note(client, place, called, returned, refused),
            (Err(failure), _) => self.wrong(format!("{done:?} of {} answered {failure}", key(place.0, place.1))),
        }
        true
    }

    async fn put(&self, client: usize, gateway: usize, place: (u64, usize)) -> bool {
        let ((value, body), called) = (self.fresh(), self.now());
        let put = self.clients[gateway].put_object().bucket(BUCKET).key(key(place.0, place.1)).body(ByteStream::from(body));
        let ended = put.send().await.judged().map(drop);
        self.written(client, place, called, ended, Act::Put(value), None)
    }

    async fn create(&self, client: usize, gateway: usize, place: (u64, usize)) -> bool {
        let ((value, body), called) = (self.fresh(), self.now());
        let put = self.clients[gateway].put_object().bucket(BUCKET).key(key(place.0, place.1)).body(ByteStream::from(body));
        let ended = put.if_none_match("*").send().await.judged().map(drop);
        let act = |done| Act::Create { value, done };
        self.written(client, place, called, ended, act(true), Some(act(false)))
    }

    async fn swap(&self, client: usize, gateway: usize, place: (u64, usize), expected: Value) -> bool {
        let ((value, new), called) = (self.fresh(), self.now());
        let etag = format!("\"{}\"", hex::encode(Md5::digest(body(expected))));
        let put = self.clients[gateway].put_object().bucket(BUCKET).key(key(place.0, place.1)).body(ByteStream::from(new));
        let ended = put.if_match(etag).send().await.judged().map(drop);
        let act = |done| Act::Swap { expected, value, done };
        self.written(client, place, called, ended, act(true), Some(act(false)))
    }

    async fn delete(&self, client: usize, gateway: usize, place: (u64, usize)) -> bool {
        let called = self.now();
        let ended = self.clients[gateway].delete_object().bucket(BUCKET).key(key(place.0, place.1)).send().await.judged().map(drop);
        self.written(client, place, called, ended, Act::Delete, None)
    }

    /// What was there, if that was answered.
    async fn get(&self, client: usize, gateway: usize, place: (u64, usize)) -> Option<Option<Value>> {
        let called = self.now();
        let name = key(place.0, place.1);
        let seen = match self.clients[gateway].get_object().bucket(BUCKET).key(&name).send().await.judged() {
            Ok(answer) => match answer.body.collect().await {
                Ok(bytes) => match value_of(&bytes.into_bytes()) {
                    Some(value) => Some(Some(value)),
                    None => {
                        self.wrong(format!("{name} was read as bytes that nobody put"));
                        None
                    }
                },
                // Cut off: the bytes before were right, and that is all it says.
                Err(_) => None,
            },
            Err(failure) => self.missed(&name, &failure),
        };
        self.note(client, place, called, seen.is_some().then(|| self.now()), Act::Read(seen.flatten()));
        seen
    }

    async fn head(&self, client: usize, gateway: usize, place: (u64, usize)) -> bool {
        let called = self.now();
        let name = key(place.0, place.1);
        let seen = match self.clients[gateway].head_object().bucket(BUCKET).key(&name).send().await.judged() {
            Ok(answer) => match self.by_etag(answer.e_tag()) {
                Some(value) => Some(Some(value)),
                None => {
                    self.wrong(format!("{name} has an etag that nobody put: {:?}", answer.e_tag()));
                    None
                }
            },
            Err(failure) => self.missed(&name, &failure),
        };
        self.note(client, place, called, seen.is_some().then(|| self.now()), Act::Read(seen.flatten()));
        seen.is_some()
    }

    /// A read without a body: nothing is there, or nobody knows.
    fn missed(&self, name: &str, failure: &Failure) -> Option<Option<Value>> {
        match failure.status() {
            404 => Some(None),
            _ if failure.is_unknown() => None,
            _ => {
                self.wrong(format!("a read of {name} answered {failure}"));
                None
            }
        }
    }

    async fn list(&self, client: usize, gateway: usize, generation: u64) -> bool {
        let called = self.now();
        let prefix = format!("generation-{generation:06}/");
        let listed = self.clients[gateway].list_objects_v2().bucket(BUCKET).prefix(&prefix).send().await.judged();
        let returned = self.now();
        let listed = match listed {
            Ok(listed) => listed,
            Err(failure) => {
                if !failure.is_unknown() {
                    self.wrong(format!("a listing of {prefix} answered {failure}"));
                }
                self.state().history.unknown += 1;
                return false;
            }
        };
        let mut found = [None; KEYS];
        for object in listed.contents() {
            let number = (0..KEYS).find(|number| object.key() == Some(key(generation, *number).as_str()));
            match (number, self.by_etag(object.e_tag())) {
                (Some(number), Some(value)) if found[number].is_none() => found[number] = Some(value),
                _ => self.wrong(format!("a listing of {prefix} has {:?} with {:?}", object.key(), object.e_tag())),
            }
        }
        for (number, value) in found.into_iter().enumerate() {
            self.note(client, (generation, number), called, Some(returned), Act::Read(value));
        }
        true
    }
}

/// What judging a history came to.
#[derive(Debug, Default)]
pub struct Judged {
    pub keys: usize,
    pub operations: usize,
    /// Keys whose history was too long to be judged.
    pub unjudged: usize,
    pub violations: Vec<String>,
}

/// Judges every key.
pub fn judge(history: &History) -> Judged {
    let mut judged = Judged::default();
    for ((generation, number), operations) in &history.keys {
        judged.keys += 1;
        judged.operations += operations.len();
        match linear::judge(operations) {
            Verdict::Linearizable => {}
            Verdict::TooMuch => judged.unjudged += 1,
            Verdict::Violation(violation) => judged.violations.push(format!("{}: {violation}", key(*generation, *number))),
        }
    }
    judged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_says_which_put_it_is_of_and_half_of_one_does_not() {
        for value in [1, 8, 12_345] {
            let bytes = body(value);
            assert_eq!(value_of(&bytes), Some(value));
            assert_eq!(value_of(&bytes[..bytes.len() - 1]), None);
        }
        assert_eq!(value_of(b"nothing of the kind, and longer than that"), None);
    }
}
