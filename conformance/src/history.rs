//! Clients that work on the same few keys through several gateways at once, and what each of them saw, for `linear.rs` to judge.
//!
//! Keys come in generations: each is used for a few seconds and then left alone, so that histories stay short enough to be judged, and is
//! read once more at the end, through every gateway. A generation's keys lie in three lanes, which may be several groups':
//!
//! ```text
//! LANE/generation-NUMBER/NUMBER/key
//! ```
//! Every put has a value of its own. A listing is of one lane of a generation, at once or page by page: a read of every key there. With a
//! delimiter each key is rolled up for itself, so that the listing says whether something is there.
//! Invariants: an operation without an answer, or with a 503, counts as one that nobody knows of, and any other 5xx is a contradiction;
//! whatever was read must be, byte for byte, what some put sent; all choices follow from a seed.

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
/// The first parts of all keys, each for as much of the work.
pub const LANES: [&str; 3] = ["a", "b", "c"];
/// Keys of one generation in a lane, and in all.
const IN_LANE: usize = 3;
pub const KEYS: usize = IN_LANE * LANES.len();
/// How long a generation is worked on.
const GENERATION: Duration = Duration::from_secs(8);
/// Bodies are this long or that: the one lies within its record, the other is a chunk with shards.
const SMALL: usize = 64;
const LARGE: usize = 20 << 10;
/// How long a client waits between two operations, and after one that failed, at most.
const PAUSE_MS: usize = 40;
const FAILED_MS: usize = 200;
/// Pages of one listing after which it does not end: each has at least one key, but for the last.
const PAGES: usize = 2 * IN_LANE + 2;
/// How long the last reading of a key or lane is tried.
const LAST: Duration = Duration::from_secs(60);

/// What was seen.
#[derive(Debug, Default)]
pub struct History {
    /// By generation and key.
    pub keys: BTreeMap<(u64, usize), Vec<Operation>>,
    /// What no judge is needed for: bytes that nobody put, refusals that make no sense.
    pub wrong: Vec<String>,
    /// Writes that were acknowledged as done.
    pub written: u64,
    /// Keys that were read or listed, and conditions that were answered with no.
    pub read: u64,
    /// Operations of which nobody knows.
    pub unknown: u64,
    /// Longest time in which no write of some lane was acknowledged, up to the moment when the clients were stopped.
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
    /// Of each lane.
    last_write: [Duration; LANES.len()],
}

/// How a listing is asked for.
#[derive(Clone, Copy, Debug)]
struct Way {
    /// Whether keys are rolled up at the next slash.
    rolled: bool,
    /// Most of a page; `None`: all at once.
    page: Option<i32>,
}

const WHOLE: Way = Way { rolled: false, page: None };

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

fn lane_of(number: usize) -> usize {
    number / IN_LANE
}

/// Of one generation in one lane.
fn directory(generation: u64, lane: usize) -> String {
    format!("{}/generation-{generation:06}/", LANES[lane])
}

/// What a listing with a delimiter shows of a key.
fn rolled_up(generation: u64, number: usize) -> String {
    format!("{}{}/", directory(generation, lane_of(number)), number % IN_LANE)
}

/// Of the `number`th key of [`KEYS`] of a generation.
fn key(generation: u64, number: usize) -> String {
    format!("{}key", rolled_up(generation, number))
}

/// Where such a key lies, as `BUCKET/KEY`.
pub fn place(generation: u64, number: usize) -> String {
    format!("{BUCKET}/{}", key(generation, number))
}

/// Whether nobody knows if it was done: no answer, or the one that says to ask again. Any other 5xx is a fault of the server's.
fn is_unclear(failure: &Failure) -> bool {
    matches!(failure, Failure::Unknown(_)) || failure.status() == 503
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

    /// The generation that is worked on now.
    pub fn generation(&self) -> u64 {
        self.shared.generation()
    }

    /// Stops the clients, reads every key through every gateway, and gives what was seen.
    pub async fn end(mut self) -> History {
        self.shared.stop.store(true, Ordering::Relaxed);
        let stopped = self.shared.began.elapsed();
        while self.tasks.join_next().await.is_some() {}
        self.shared.still_until(stopped);
        if !self.shared.read_all(Dice::new(self.seed)).await {
            self.shared.wrong(format!("what was written could not be read at the end, for {LAST:?}"));
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
            15..17 => {
                let way = Way { rolled: dice.chance(50), page: [None, Some(1), Some(2)][dice.below(3)] };
                shared.list(number, gateway, place.0, lane_of(place.1), way).await
            }
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

/// Reads until that is answered, for a while; whether it was.
async fn at_last<F: Future<Output = bool>>(read: impl Fn() -> F) -> bool {
    let began = Instant::now();
    while !read().await {
        if began.elapsed() > LAST {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(FAILED_MS as u64)).await;
    }
    true
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
        let writes = !matches!(act, Act::Read(_) | Act::Present);
        let done = writes && !matches!(act, Act::Create { done: false, .. } | Act::Swap { done: false, .. });
        match (returned, done) {
            (None, _) => state.history.unknown += 1,
            (Some(_), false) => state.history.read += 1,
            (Some(returned), true) => {
                state.history.written += 1;
                let (at, lane) = (Duration::from_nanos(returned), lane_of(place.1));
                let silence = at.saturating_sub(state.last_write[lane]);
                state.history.silence = state.history.silence.max(silence);
                state.last_write[lane] = state.last_write[lane].max(at);
            }
        }
        if returned.is_some() || writes {
            state.history.keys.entry(place).or_default().push(Operation { client, called, returned, act });
        }
    }

    /// Counts the silence that had not ended by then, too.
    fn still_until(&self, stopped: Duration) {
        let mut state = self.state();
        let still = state.last_write.iter().map(|last| stopped.saturating_sub(*last)).max().unwrap_or_default();
        state.history.silence = state.history.silence.max(still);
    }

    /// Reads every key, each lane through every gateway; whether all was answered: what is never read again may be lost without anybody's
    /// seeing it.
    async fn read_all(&self, mut dice: Dice) -> bool {
        let gateways = self.clients.len();
        for generation in 0..=self.generation() {
            for (gateway, lane) in (0..gateways).flat_map(|gateway| (0..LANES.len()).map(move |lane| (gateway, lane))) {
                if !at_last(|| self.list(usize::MAX, gateway, generation, lane, WHOLE)).await {
                    return false;
                }
            }
            for number in 0..KEYS {
                let gateway = dice.below(gateways);
                if !at_last(move || async move { self.get(usize::MAX, gateway, (generation, number)).await.is_some() }).await {
                    return false;
                }
            }
        }
        true
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
            (Err(failure), _) if is_unclear(&failure) => {
                self.note(client, place, called, None, done);
                return false;
            }
            // Nothing was done, and it says nothing of what is there: others were at it.
            (Err(failure), Some(_)) if failure.status() == 409 => {}
            (Err(failure), Some(refused)) if matches!(failure.status(), 412 | 404) => self.note(client, place, called, returned, refused),
            (Err(failure), _) => {
                self.wrong(format!("{done:?} of {} answered {failure}", key(place.0, place.1)));
                // It may have been done all the same.
                self.note(client, place, called, None, done);
            }
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
            _ if is_unclear(failure) => None,
            _ => {
                self.wrong(format!("a read of {name} answered {failure}"));
                None
            }
        }
    }

    /// Whether it was answered, to its last page.
    async fn list(&self, client: usize, gateway: usize, generation: u64, lane: usize, way: Way) -> bool {
        let called = self.now();
        let Some(found) = self.listed(gateway, generation, lane, way).await else {
            self.state().history.unknown += 1;
            return false;
        };
        let returned = Some(self.now());
        for (number, act) in found.into_iter().enumerate() {
            self.note(client, (generation, lane * IN_LANE + number), called, returned, act);
        }
        true
    }

    /// What a listing says of each key of a lane; `None`: not all of it was answered.
    async fn listed(&self, gateway: usize, generation: u64, lane: usize, way: Way) -> Option<[Act; IN_LANE]> {
        let prefix = directory(generation, lane);
        let (mut found, mut token) = ([Act::Read(None); IN_LANE], None);
        for _ in 0..PAGES {
            let page = self.clients[gateway].list_objects_v2().bucket(BUCKET).prefix(&prefix).set_max_keys(way.page);
            let page = page.set_delimiter(way.rolled.then(|| "/".to_string())).set_continuation_token(token);
            let page = match page.send().await.judged() {
                Ok(page) => page,
                Err(failure) if is_unclear(&failure) => return None,
                Err(failure) => {
                    self.wrong(format!("a listing of {prefix} by {way:?} answered {failure}"));
                    return None;
                }
            };
            let objects =
                page.contents().iter().map(|object| (object.key(), self.by_etag(object.e_tag()).map(|value| Act::Read(Some(value)))));
            let rolled = page.common_prefixes().iter().map(|rolled| (rolled.prefix(), Some(Act::Present)));
            let told: Vec<(Option<&str>, Option<Act>)> = objects.chain(rolled).collect();
            if way.page.is_some_and(|most| told.len() > most as usize) {
                self.wrong(format!("a listing of {prefix} by {way:?} has a page of {}", told.len()));
            }
            for (name, act) in told {
                let number = (0..IN_LANE).find(|number| {
                    let number = lane * IN_LANE + number;
                    let wanted = if way.rolled { rolled_up(generation, number) } else { key(generation, number) };
                    name == Some(wanted.as_str())
                });
                match (number, act) {
                    (Some(number), Some(act)) if found[number] == Act::Read(None) => found[number] = act,
                    _ => self.wrong(format!("a listing of {prefix} by {way:?} has {name:?} with {act:?}, beside {found:?}")),
                }
            }
            token = page.next_continuation_token().map(str::to_owned);
            if token.is_none() {
                return Some(found);
            }
        }
        self.wrong(format!("a listing of {prefix} by {way:?} has more than {PAGES} pages"));
        None
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
    fn every_key_lies_in_its_lane_and_is_rolled_up_for_itself() {
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..KEYS {
            let (lane, key) = (lane_of(number), key(7, number));
            assert!(key.starts_with(&directory(7, lane)) && key.starts_with(&rolled_up(7, number)), "{key}");
            assert_eq!(rolled_up(7, number).strip_prefix(&directory(7, lane)).unwrap().matches('/').count(), 1);
            assert!(seen.insert(rolled_up(7, number)));
            assert_eq!(place(7, number), format!("{BUCKET}/{key}"));
        }
    }

    #[test]
    fn only_no_answer_and_503_leave_open_whether_something_was_done() {
        let answered = |status| Failure::Answered { status, code: String::new() };
        assert!(is_unclear(&Failure::Unknown("cut off".into())) && is_unclear(&answered(503)));
        for status in [400, 403, 404, 409, 412, 500, 501, 507] {
            assert!(!is_unclear(&answered(status)), "{status}");
        }
    }

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
