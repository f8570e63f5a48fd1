//! Router, mover and machines together, on tables in memory: writers, readers and a collector through routers of their own, each with a map
//! as old as it happens to be, while ranges are split and merged by movers that are killed anywhere and taken over from.

mod troubles;

use super::{Groups, Router};
use crate::mover::{Founder, Limits, MoveError, Mover};
use crate::root::map::ROOT;
use crate::sample;
use crate::table::memory::MemoryTable;
use crate::{format, machine};
use spine::id::*;
use spine::map::{Map, NamePoint};
use spine::wire::chunk::{ChunkAnswer, ChunkCommand, ChunkQuery, Confirmation, ReserveOutcome};
use spine::wire::cluster::{Endpoint, Member};
use spine::wire::format::NEWEST;
use spine::wire::namespace::*;
use spine::wire::range::ALL_CHUNKS;
use spine::wire::root::{MoveAsk, MoveRecord, RootAnswer, RootCommand, RootQuery};
use spine::wire::{Answer, Batch, Chain, Command, Metadata, MetadataError, Query, Refusal, Reply};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const BUCKET: BucketId = BucketId(1);
const WRITERS: u64 = 3;
const STEPS: u64 = 40;
const MOVES: u64 = 6;

pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) fn new(seed: u64) -> Draw {
        Draw(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn below(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) % below
    }
}

struct Hosted {
    table: MemoryTable,
    applied: u64,
}

impl Default for Hosted {
    fn default() -> Self {
        let mut table = MemoryTable::default();
        format::raise(&mut table, ROOT, NEWEST).unwrap();
        Hosted { table, applied: 0 }
    }
}

/// Every group, each one table; meanwhile others have their turns.
pub(crate) struct World {
    groups: Mutex<BTreeMap<GroupId, Hosted>>,
    draw: Mutex<Draw>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Arc<World> {
        let groups = Mutex::new(BTreeMap::from([(ROOT, Hosted::default())]));
        Arc::new(World { groups, draw: Mutex::new(Draw::new(seed)) })
    }

    async fn pause(&self) {
        let times = self.draw.lock().unwrap().below(6);
        for _ in 0..times {
            tokio::task::yield_now().await;
        }
    }
}

#[async_trait::async_trait]
impl Groups for World {
    async fn propose_to(&self, group: GroupId, batch: Batch) -> Result<Vec<Reply>, MetadataError> {
        self.pause().await;
        machine::check(&batch)?;
        let replies = {
            let mut groups = self.groups.lock().unwrap();
            let hosted = groups.get_mut(&group).ok_or(MetadataError::NotHere)?;
            hosted.applied += 2_048;
            let at = Seq(hosted.applied);
            machine::apply(&mut hosted.table, group, &batch, at)?
        };
        self.pause().await;
        Ok(replies)
    }

    async fn query_of(&self, group: GroupId, query: Query) -> Result<Answer, MetadataError> {
        self.pause().await;
        let answer = {
            let groups = self.groups.lock().unwrap();
            machine::answer(&groups.get(&group).ok_or(MetadataError::NotHere)?.table, group, &query)
        };
        self.pause().await;
        answer
    }
}

#[async_trait::async_trait]
impl Founder for World {
    async fn create(&self, group: GroupId, members: &[Member]) -> Result<(), MetadataError> {
        assert!(!members.is_empty());
        self.groups.lock().unwrap().entry(group).or_default();
        Ok(())
    }

    async fn hosted(&self) -> Vec<GroupId> {
        self.groups.lock().unwrap().keys().copied().collect()
    }

    async fn remove(&self, groups: &[GroupId]) -> Result<(), MetadataError> {
        groups.iter().for_each(|group| drop(self.groups.lock().unwrap().remove(group)));
        Ok(())
    }
}

/// A process that is killed after so many calls: the last one may have been heard, or not.
struct Mortal {
    world: Arc<World>,
    left: AtomicI64,
}

impl Mortal {
    fn lives(&self) -> Result<(), MetadataError> {
        match self.left.fetch_sub(1, Ordering::Relaxed) {
            1.. => Ok(()),
            _ => Err(MetadataError::Unavailable { reason: "killed".into() }),
        }
    }
}

#[async_trait::async_trait]
impl Groups for Mortal {
    async fn propose_to(&self, group: GroupId, batch: Batch) -> Result<Vec<Reply>, MetadataError> {
        self.lives()?;
        let replies = self.world.propose_to(group, batch).await;
        self.lives()?;
        replies
    }

    async fn query_of(&self, group: GroupId, query: Query) -> Result<Answer, MetadataError> {
        self.lives()?;
        self.world.query_of(group, query).await
    }
}

fn members() -> Vec<Member> {
    vec![Member { id: MemberId(1), at: Endpoint { node: NodeId([1; 32]), address: "host:1".into() } }]
}

async fn order(metadata: &dyn Metadata, chain: Chain, commands: Vec<Command>) -> Vec<Reply> {
    let count = commands.len();
    let replies = metadata.propose(Batch { chain, commands }).await.unwrap();
    assert_eq!(replies.len(), count);
    replies
}

async fn root(world: &World, command: RootCommand) -> Reply {
    let batch = Batch { chain: Chain::Stop, commands: vec![Command::Root(command)] };
    world.propose_to(ROOT, batch).await.unwrap().remove(0)
}

async fn the_map(world: &World) -> Map {
    match world.query_of(ROOT, Query::Root(RootQuery::Map { known: None })).await.unwrap() {
        Answer::Root(RootAnswer::Map(Some(map))) => map,
        other => panic!("{other:?}"),
    }
}

async fn moves(world: &World) -> Vec<MoveRecord> {
    match world.query_of(ROOT, Query::Root(RootQuery::Moves)).await.unwrap() {
        Answer::Root(RootAnswer::Moves(moves)) => moves,
        other => panic!("{other:?}"),
    }
}

/// What one writer knows of its own keys, which nobody else writes.
struct Writer {
    number: u64,
    router: Arc<Router>,
    draw: Draw,
    made: u64,
    keys: BTreeMap<String, (VersionId, Vec<u8>)>,
    seqs: BTreeMap<String, Seq>,
}

impl Writer {
    fn key(&mut self) -> String {
        format!("w{}/{}/{}", self.number, self.draw.below(3), self.draw.below(4))
    }

    async fn run(mut self) -> BTreeMap<String, (VersionId, Vec<u8>)> {
        for _ in 0..STEPS {
            match self.draw.below(10) {
                0..=3 => self.put().await,
                4..=5 => self.delete().await,
                6..=7 => self.get().await,
                _ => self.list().await,
            }
        }
        self.keys
    }

    async fn put(&mut self) {
        self.made += 1;
        let (key, version) = (self.key(), sample::version(self.number * 1_000_000 + self.made));
        let mut chunks: Vec<u8> = (0..=self.draw.below(4)).map(|_| self.draw.below(256) as u8).collect();
        chunks.sort_unstable();
        chunks.dedup();
        let open = NamespaceCommand::OpenIntent { version, bucket: BUCKET, key: key.clone(), writer: WriterId([1; 16]), opened: UnixMs(1) };
        let reserve = ChunkCommand::Reserve { version, chunks: chunks.iter().map(|n| sample::chunk(*n)).collect() };
        let replies = order(&*self.router, Chain::Stop, vec![Command::Namespace(open), Command::Chunk(reserve)]).await;
        let [Reply::Done, Reply::Reserved(outcomes)] = &replies[..] else { panic!("{replies:?}") };
        assert_eq!(outcomes.len(), chunks.len());
        let uploads = outcomes.iter().zip(&chunks).filter_map(|(outcome, n)| match outcome {
            ReserveOutcome::Hit => None,
            ReserveOutcome::Upload { generation, .. } => {
                Some(Confirmation { chunk: sample::chunk(*n), generation: *generation, placement: sample::placement(*generation, &[]) })
            }
        });
        let confirm = Command::Chunk(ChunkCommand::Confirm { version, chunks: uploads.collect() });
        let new = sample::pieces(version, 1, &chunks);
        let commit = NamespaceCommand::Commit { bucket: BUCKET, key: key.clone(), new, condition: Condition::default() };
        let replies = order(&*self.router, Chain::Stop, vec![confirm, Command::Namespace(commit)]).await;
        let [Reply::Confirmed(confirmed), Reply::Committed { seq, .. }] = &replies[..] else { panic!("{replies:?}") };
        assert!(!confirmed.contains(&false));
        let before = self.seqs.insert(key.clone(), *seq);
        assert!(before.is_none_or(|before| before < *seq), "the order of {key}'s versions went back");
        self.keys.insert(key, (version, chunks));
    }

    async fn delete(&mut self) {
        let key = self.key();
        let delete = NamespaceCommand::Delete { bucket: BUCKET, key: key.clone(), condition: Condition::default() };
        let replies = order(&*self.router, Chain::Independent, vec![Command::Namespace(delete)]).await;
        let [Reply::Deleted { was }] = &replies[..] else { panic!("{replies:?}") };
        let known = self.keys.remove(&key).map(|(version, _)| version);
        assert_eq!(was.as_ref().map(|was| was.id), known, "{key}");
    }

    async fn get(&mut self) {
        let key = self.key();
        let query = Query::Namespace(NamespaceQuery::Open { bucket: BUCKET, key: key.clone() });
        let Answer::Namespace(NamespaceAnswer::Open(found)) = self.router.query(query).await.unwrap() else { panic!() };
        let known = self.keys.get(&key);
        assert_eq!(found.as_ref().map(|(head, _)| head.id), known.map(|(version, _)| *version), "{key}");
        let Some((version, chunks)) = known.cloned() else { return };
        let query = Query::Namespace(NamespaceQuery::Manifests { bucket: BUCKET, key, versions: vec![version] });
        let Answer::Namespace(NamespaceAnswer::Manifests(found)) = self.router.query(query).await.unwrap() else { panic!() };
        assert_eq!(found, [Some(sample::manifest(&chunks))]);
        let query = Query::Chunk(ChunkQuery::Records(chunks.iter().map(|n| sample::chunk(*n)).collect()));
        let Answer::Chunk(ChunkAnswer::Records(records)) = self.router.query(query).await.unwrap() else { panic!() };
        assert!(
            records.iter().all(|record| record.as_ref().is_some_and(|record| record.placement.is_some())),
            "a committed chunk has no place"
        );
    }

    async fn list(&mut self) {
        let delimiter = if self.draw.below(2) == 0 { "/" } else { "" };
        let max = 1 + self.draw.below(5) as usize;
        let prefix = format!("w{}/", self.number);
        let expected: BTreeSet<String> = match delimiter {
            "" => self.keys.keys().cloned().collect(),
            _ => self.keys.keys().map(|key| key[..prefix.len() + 2].to_string()).collect(),
        };
        let got = list(&self.router, &prefix, delimiter, max).await;
        assert_eq!(got, expected.into_iter().collect::<Vec<_>>(), "a listing by {delimiter:?}, {max} a page");
    }
}

async fn list(router: &Router, prefix: &str, delimiter: &str, max: usize) -> Vec<String> {
    let (mut got, mut after) = (Vec::new(), None);
    loop {
        let query = ListQuery { bucket: BUCKET, prefix: prefix.into(), delimiter: delimiter.into(), after, max };
        let query = Query::Namespace(NamespaceQuery::List { query, place: None });
        let Answer::Namespace(NamespaceAnswer::List { page, end: None }) = router.query(query).await.unwrap() else { panic!() };
        got.extend(page.objects.into_iter().map(|(key, _)| key));
        got.extend(page.prefixes);
        after = page.next;
        if after.is_none() {
            return got;
        }
    }
}

/// Drops the references of what has ended, until it is told that nothing comes any more and nothing is left.
async fn collect(router: Arc<Router>, quiet: Arc<AtomicBool>) {
    loop {
        let last = quiet.load(Ordering::Relaxed);
        let query = Query::Namespace(NamespaceQuery::Outbox { max: 4 });
        let Answer::Namespace(NamespaceAnswer::Outbox(entries)) = router.query(query).await.unwrap() else { panic!() };
        if entries.is_empty() && last {
            return;
        }
        for entry in &entries {
            loop {
                let unref = ChunkCommand::Unref { version: entry.version, span: ALL_CHUNKS };
                let replies = order(&*router, Chain::Independent, vec![Command::Chunk(unref)]).await;
                match replies[..] {
                    [Reply::Unreferenced { more: false }] => break,
                    [Reply::Unreferenced { more: true }] => {}
                    _ => panic!("{replies:?}"),
                }
            }
        }
        let done = NamespaceCommand::OutboxDone { entries };
        assert_eq!(order(&*router, Chain::Independent, vec![Command::Namespace(done)]).await, [Reply::Done]);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn an_ask(draw: &mut Draw, map: &Map) -> MoveAsk {
    let of = |n: u64, count: usize| (n % count as u64) as usize;
    let group = GroupId(draw.below(12) as u32);
    match draw.below(8) {
        0..=2 => {
            let key = format!("w{}/{}/{}", draw.below(WRITERS), draw.below(3), draw.below(4));
            let key = key[..key.len() - of(draw.below(3), 3)].to_string();
            MoveAsk::SplitNames { at: NamePoint::new(BUCKET, key), members: members() }
        }
        3 => MoveAsk::SplitChunks { at: sample::chunk(1 + draw.below(255) as u8), members: members() },
        4 => MoveAsk::MergeNames { into: map.names().iter().nth(of(draw.below(99), map.names().len())).map_or(group, |route| route.group) },
        5 => MoveAsk::MergeChunks {
            into: map.chunks().iter().nth(of(draw.below(99), map.chunks().len())).map_or(group, |route| route.group),
        },
        6 => MoveAsk::MoveNames { from: group, members: members() },
        _ => MoveAsk::MoveChunks { from: group, members: members() },
    }
}

/// Begins moves and has them carried by movers that die, or of which two think that they are the one.
async fn change(world: Arc<World>, seed: u64) -> u64 {
    let mut draw = Draw::new(seed ^ 0xABCD);
    let mut begun = 0;
    for _ in 0..MOVES {
        let map = the_map(&world).await;
        let begin = RootCommand::BeginMove { ask: an_ask(&mut draw, &map), expected: map.epoch(), reason: "test".into(), now: UnixMs(1) };
        let id = match root(&world, begin).await {
            Reply::Moving(id) => id,
            Reply::Refused(Refusal::NoSuchRange | Refusal::GroupMoves) => continue,
            other => panic!("{other:?}"),
        };
        begun += 1;
        loop {
            let mortal = |left: u64| -> Arc<Mortal> { Arc::new(Mortal { world: world.clone(), left: AtomicI64::new(left as i64) }) };
            if draw.below(12) == 0 {
                assert_eq!(root(&world, RootCommand::GiveUpMove { id }).await, Reply::Done);
            }
            // Now and then one that never has the time to hand over, and thaws again.
            let freeze = if draw.below(5) == 0 { Duration::ZERO } else { Duration::from_secs(5) };
            let limits = Limits { page: 400, few: 2, freeze, rows: 3, pause: Duration::ZERO, still: Duration::from_secs(3_600) };
            let mover = Mover::new(mortal(3 + draw.below(60)), world.clone(), limits);
            let rival = (draw.below(4) == 0).then(|| Mover::new(mortal(3 + draw.below(60)), world.clone(), limits));
            let late = draw.below(60);
            let rival = async {
                for _ in 0..late {
                    tokio::task::yield_now().await;
                }
                match &rival {
                    Some(rival) => rival.carry(id).await.map(|_| ()),
                    None => Ok(()),
                }
            };
            let (first, second) = tokio::join!(mover.carry(id), rival);
            for error in [first.map(|_| ()).err(), second.err()].into_iter().flatten() {
                let expected = matches!(
                    error,
                    MoveError::Taken | MoveError::Metadata(_) | MoveError::Refused { why: Refusal::NoSuchMove | Refusal::NotDrained, .. }
                );
                assert!(expected, "move {id}: {error:?}");
            }
            if moves(&world).await.iter().any(|known| known.id == id && known.step.is_over()) {
                break;
            }
        }
    }
    begun
}

async fn one_seed(seed: u64) -> u64 {
    let world = World::new(seed);
    assert!(matches!(root(&world, sample::bucket("bucket")).await, Reply::Bucket(record) if record.id == BUCKET));
    let quiet = Arc::new(AtomicBool::new(false));
    let collector = tokio::spawn(collect(Router::new(world.clone()), quiet.clone()));
    let mover = tokio::spawn(change(world.clone(), seed));
    let writers: Vec<_> = (0..WRITERS)
        .map(|number| {
            let draw = Draw::new(seed.wrapping_mul(31).wrapping_add(number));
            let router = Router::new(world.clone());
            tokio::spawn(Writer { number, router, draw, made: 0, keys: BTreeMap::new(), seqs: BTreeMap::new() }.run())
        })
        .collect();
    let mut keys = BTreeMap::new();
    for writer in writers {
        keys.extend(writer.await.unwrap());
    }
    let moved = mover.await.unwrap();
    quiet.store(true, Ordering::Relaxed);
    collector.await.unwrap();
    at_rest(&world, &keys).await;
    moved
}

/// Everything is where the writers left it, once, and nothing else is.
async fn at_rest(world: &Arc<World>, keys: &BTreeMap<String, (VersionId, Vec<u8>)>) {
    let router = Router::new(world.clone());
    assert_eq!(list(&router, "", "", 3).await, keys.keys().cloned().collect::<Vec<_>>());
    let mut references: BTreeMap<u8, BTreeSet<VersionId>> = BTreeMap::new();
    for (version, chunks) in keys.values() {
        for n in chunks {
            references.entry(*n).or_default().insert(*version);
        }
    }
    for n in 0..=255 {
        let query = Query::Chunk(ChunkQuery::References { chunk: sample::chunk(n), max: 1_000 });
        let Answer::Chunk(ChunkAnswer::References(found)) = router.query(query).await.unwrap() else { panic!() };
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), references.remove(&n).unwrap_or_default(), "references of chunk {n}");
    }
    let Answer::Chunk(ChunkAnswer::Totals(totals)) = router.query(Query::Chunk(ChunkQuery::Totals)).await.unwrap() else { panic!() };
    let held: usize = keys.values().map(|(_, chunks)| chunks.len()).sum();
    assert_eq!(totals.references, held as u64);
    let query = Query::Namespace(NamespaceQuery::Intents { after: None, max: 10 });
    assert_eq!(router.query(query).await.unwrap(), Answer::Namespace(NamespaceAnswer::Intents(Vec::new())));
    // Groups without a range end, and nothing of theirs is missed.
    let mover = Mover::new(world.clone(), world.clone(), Limits::default());
    assert_eq!(mover.under_way().await.unwrap(), []);
    mover.end_idle().await.unwrap();
    let map = the_map(world).await;
    let used: BTreeSet<GroupId> =
        map.names().iter().map(|route| route.group).chain(map.chunks().iter().map(|route| route.group)).chain([ROOT]).collect();
    assert_eq!(world.groups.lock().unwrap().keys().copied().collect::<BTreeSet<_>>(), used);
    assert_eq!(list(&Router::new(world.clone()), "", "", 7).await.len(), keys.len());
}

/// What a collector reads that looked for groups a moment before there was another one.
#[tokio::test]
async fn what_ended_in_a_group_made_a_moment_ago_is_read_at_once() {
    let world = World::new(1);
    assert!(matches!(root(&world, sample::bucket("bucket")).await, Reply::Bucket(_)));
    let collector = Router::new(world.clone());
    let ended = || async {
        let query = Query::Namespace(NamespaceQuery::Outbox { max: 4 });
        let Answer::Namespace(NamespaceAnswer::Outbox(entries)) = collector.query(query).await.unwrap() else { panic!() };
        entries.into_iter().map(|entry| entry.version).collect::<Vec<_>>()
    };
    assert_eq!(ended().await, []);
    let ask = MoveAsk::SplitNames { at: NamePoint::new(BUCKET, "m"), members: members() };
    let begin = RootCommand::BeginMove { ask, expected: Map::of_one(ROOT).epoch(), reason: "test".into(), now: UnixMs(1) };
    let Reply::Moving(id) = root(&world, begin).await else { panic!() };
    Mover::new(world.clone(), world.clone(), Limits::default()).carry(id).await.unwrap();
    let (version, key) = (sample::version(7), "z".to_string());
    let open = NamespaceCommand::OpenIntent { version, bucket: BUCKET, key: key.clone(), writer: WriterId([1; 16]), opened: UnixMs(1) };
    let commands = [open, NamespaceCommand::AbortIntent { version, bucket: BUCKET, key }].map(Command::Namespace).to_vec();
    assert_eq!(order(&*Router::new(world.clone()), Chain::Stop, commands).await, [Reply::Done, Reply::Done]);
    assert_eq!(ended().await, [version]);
}

/// What the sweep goes by: whichever group has a chunk, it has given at least that.
#[tokio::test]
async fn of_the_numbers_that_groups_have_given_the_least_is_answered() {
    let world = World::new(1);
    let router = Router::new(world.clone());
    let given = || async {
        match router.query(Query::Chunk(ChunkQuery::Given)).await.unwrap() {
            Answer::Chunk(ChunkAnswer::Given(given)) => given,
            other => panic!("{other:?}"),
        }
    };
    let reserve = |n: u8| {
        let command = Command::Chunk(ChunkCommand::Reserve { version: sample::version(n.into()), chunks: vec![ChunkId([n; 32])] });
        order(&*router, Chain::Stop, vec![command])
    };
    let first = given().await;
    reserve(1).await;
    reserve(2).await;
    assert_eq!(given().await, first + 2);
    let ask = MoveAsk::SplitChunks { at: ChunkId([128; 32]), members: members() };
    let begin = RootCommand::BeginMove { ask, expected: Map::of_one(ROOT).epoch(), reason: "test".into(), now: UnixMs(1) };
    let Reply::Moving(id) = root(&world, begin).await else { panic!() };
    Mover::new(world.clone(), world.clone(), Limits::default()).carry(id).await.unwrap();
    for n in 200..203 {
        reserve(n).await;
    }
    assert_eq!(given().await, first + 2, "the other group has given none since");
    reserve(3).await;
    assert_eq!(given().await, first + 3);
}

/// Seeds side by side: each has a world of its own, and waits for nobody else's pauses.
#[test]
fn under_many_seeds_no_move_loses_doubles_or_brings_back_anything_whoever_is_killed() {
    let mut moved = 0;
    for first in (1..=160).step_by(20) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let running: Vec<_> = (first..first + 20).map(|seed| (seed, tokio::spawn(one_seed(seed)))).collect();
            for (seed, running) in running {
                moved += running.await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            }
        });
    }
    assert!(moved > 300, "only {moved} moves were begun");
}
