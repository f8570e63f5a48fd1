//! Moves and questions while groups give no answer, cannot be made, or have no room.

use super::*;
use crate::room;
use crate::table::Space;
use spine::wire::format::{FIRST, Format};
use spine::wire::range::{Mover as By, RangeCommand, RangeKind};
use spine::wire::root::MoveStep;
use std::time::Instant;

/// A world of which parts can be away.
struct Troubled {
    world: Arc<World>,
    /// Groups that nobody leads now.
    silent: Mutex<BTreeSet<GroupId>>,
    /// Groups that cannot be made now.
    unmade: Mutex<BTreeSet<GroupId>>,
    /// Proposals until no table may grow any more.
    room: AtomicI64,
    /// Whether questions take long while a range is frozen.
    slow: AtomicBool,
    frozen: AtomicBool,
}

impl Troubled {
    async fn start() -> Arc<Troubled> {
        Self::start_at(NEWEST).await
    }

    /// With a root of this format.
    async fn start_at(format: Format) -> Arc<Troubled> {
        let world = World::new(1);
        if format < NEWEST {
            let mut table = MemoryTable::default();
            crate::format::raise(&mut table, ROOT, format).unwrap();
            world.groups.lock().unwrap().insert(ROOT, Hosted { table, applied: 0 });
        }
        assert!(matches!(root(&world, sample::bucket("bucket")).await, Reply::Bucket(record) if record.id == BUCKET));
        Arc::new(Troubled {
            world,
            silent: Mutex::default(),
            unmade: Mutex::default(),
            room: AtomicI64::new(i64::MAX),
            slow: AtomicBool::new(false),
            frozen: AtomicBool::new(false),
        })
    }

    fn hears(&self, group: GroupId) -> Result<(), MetadataError> {
        if self.silent.lock().unwrap().contains(&group) { Err(away()) } else { Ok(()) }
    }

    fn silence(&self, groups: &[GroupId]) {
        *self.silent.lock().unwrap() = groups.iter().copied().collect();
    }

    fn mover(self: &Arc<Self>, freeze: Duration, still: Duration) -> Mover {
        let limits = Limits { page: 400, few: 2, freeze, rows: 3, pause: Duration::ZERO, still };
        Mover::new(self.clone(), self.clone(), limits)
    }

    fn patient(self: &Arc<Self>) -> Mover {
        self.mover(Duration::from_secs(5), Duration::from_secs(3_600))
    }

    async fn root(&self, command: RootCommand) -> Reply {
        self.propose_to(ROOT, Batch { chain: Chain::Stop, commands: vec![Command::Root(command)] }).await.unwrap().remove(0)
    }

    async fn begin(&self, ask: MoveAsk) -> MoveRecord {
        let expected = the_map(&self.world).await.epoch();
        let Reply::Moving(id) = self.root(RootCommand::BeginMove { ask, expected, reason: "test".into(), now: UnixMs(1) }).await else {
            panic!()
        };
        self.record(id).await
    }

    async fn record(&self, id: MoveId) -> MoveRecord {
        moves(&self.world).await.into_iter().find(|record| record.id == id).unwrap()
    }

    /// A move to its end.
    async fn moved(self: &Arc<Self>, ask: MoveAsk) -> GroupId {
        let record = self.begin(ask).await;
        assert_eq!(self.patient().carry(record.id).await, Ok(MoveStep::Done));
        record.to
    }

    /// What a mover does until it copies, or freezes.
    async fn half_way(&self, record: &MoveRecord, freeze: bool) {
        let by = By { id: record.id.0, attempt: 1 };
        assert_eq!(self.root(RootCommand::TakeMove { id: record.id }).await, Reply::Attempt(1));
        self.world.create(record.to, &members()).await.unwrap();
        let copying = RootCommand::StepMove { id: record.id, attempt: 1, step: MoveStep::Copying, now: UnixMs(2) };
        assert_eq!(self.root(copying).await, Reply::Done);
        let mut orders = vec![
            (record.to, RangeCommand::Prepare { by, range: record.span.clone(), from: record.from }),
            (record.from, RangeCommand::Export { by, range: record.span.clone(), to: record.to }),
        ];
        if freeze {
            orders.push((record.from, RangeCommand::Freeze { by, kind: record.span.kind() }));
        }
        for (group, order) in orders {
            let batch = Batch { chain: Chain::Stop, commands: vec![Command::Range(order)] };
            assert_eq!(self.propose_to(group, batch).await, Ok(vec![Reply::Done]));
        }
    }
}

fn away() -> MetadataError {
    MetadataError::Unavailable { reason: "away".into() }
}

#[async_trait::async_trait]
impl Groups for Troubled {
    async fn propose_to(&self, group: GroupId, batch: Batch) -> Result<Vec<Reply>, MetadataError> {
        self.hears(group)?;
        if self.room.fetch_sub(1, Ordering::Relaxed) <= 0 && batch.commands.iter().any(room::grows) {
            return Err(MetadataError::Full { used: 1, map: 1 });
        }
        for command in &batch.commands {
            match command {
                Command::Range(RangeCommand::Freeze { .. }) => self.frozen.store(true, Ordering::Relaxed),
                Command::Range(RangeCommand::Thaw { .. }) => self.frozen.store(false, Ordering::Relaxed),
                _ => {}
            }
        }
        self.world.propose_to(group, batch).await
    }

    async fn query_of(&self, group: GroupId, query: Query) -> Result<Answer, MetadataError> {
        self.hears(group)?;
        if self.slow.load(Ordering::Relaxed) && self.frozen.load(Ordering::Relaxed) && matches!(query, Query::Range(_)) {
            tokio::time::sleep(Duration::from_secs(20)).await;
        }
        self.world.query_of(group, query).await
    }
}

#[async_trait::async_trait]
impl Founder for Troubled {
    async fn create(&self, group: GroupId, members: &[Member]) -> Result<(), MetadataError> {
        if self.unmade.lock().unwrap().contains(&group) {
            // Some have made room for it, and nobody leads.
            self.world.create(group, members).await?;
            self.silent.lock().unwrap().insert(group);
            return Err(away());
        }
        self.world.create(group, members).await
    }

    async fn hosted(&self) -> Vec<GroupId> {
        self.world.hosted().await
    }

    async fn remove(&self, groups: &[GroupId]) -> Result<(), MetadataError> {
        self.world.remove(groups).await
    }
}

fn split_at(key: &str) -> MoveAsk {
    MoveAsk::SplitNames { at: NamePoint::new(BUCKET, key), members: members() }
}

fn commit(key: &str, n: u64) -> Command {
    let new = sample::inline(sample::version(n), 1, 1);
    Command::Namespace(NamespaceCommand::Commit { bucket: BUCKET, key: key.into(), new, condition: Condition::default() })
}

fn head(key: &str) -> Query {
    Query::Namespace(NamespaceQuery::Head { bucket: BUCKET, key: key.into() })
}

/// What a collector begins with.
async fn collects(router: &Router) {
    for query in [NamespaceQuery::Intents { after: None, max: 9 }, NamespaceQuery::Outbox { max: 9 }] {
        let answer = router.query(Query::Namespace(query)).await;
        assert!(answer.is_ok(), "{answer:?}");
    }
}

#[tokio::test]
async fn a_group_that_cannot_be_made_stops_no_collector_and_its_move_can_be_given_up_without_it() {
    cannot_be_made(Troubled::start().await).await;
}

#[tokio::test]
async fn nor_does_it_while_an_older_version_is_among_those_that_have_the_root() {
    cannot_be_made(Troubled::start_at(FIRST).await).await;
}

async fn cannot_be_made(world: Arc<Troubled>) {
    let router = Router::new(world.clone());
    world.moved(split_at("m")).await;
    for copying in [false, true] {
        let record = world.begin(split_at("c")).await;
        if copying {
            world.half_way(&record, false).await;
            world.silence(&[record.to]);
        } else {
            world.unmade.lock().unwrap().insert(record.to);
        }
        assert_eq!(world.patient().carry(record.id).await, Err(MoveError::Metadata(away())));
        collects(&router).await;
        assert_eq!(world.root(RootCommand::GiveUpMove { id: record.id }).await, Reply::Done);
        assert_eq!(world.patient().carry(record.id).await, Ok(MoveStep::GaveUp));
        collects(&router).await;
        world.patient().end_idle().await.unwrap();
        assert!(!world.world.groups.lock().unwrap().contains_key(&record.to), "it is still there");
    }
    // The range, and its group, are free again.
    world.moved(split_at("c")).await;
    collects(&router).await;
}

#[tokio::test]
async fn a_group_that_does_not_say_what_it_has_is_not_taken_for_one_that_has_nothing() {
    let world = Troubled::start().await;
    let group = world.moved(split_at("m")).await;
    let router = Router::new(world.clone());
    collects(&router).await;
    // As a client sees it of which all are away that have the group.
    let hosted = world.world.groups.lock().unwrap().remove(&group).unwrap();
    let intents = || Query::Namespace(NamespaceQuery::Intents { after: None, max: 9 });
    assert!(matches!(router.query(intents()).await, Err(MetadataError::Unavailable { .. })));
    world.world.groups.lock().unwrap().insert(group, hosted);
    collects(&router).await;
}

#[tokio::test]
async fn who_has_an_old_map_finds_what_was_in_a_group_that_is_gone_though_nobody_can_say_so() {
    let world = Troubled::start().await;
    let chunk = |n: u8| Query::Chunk(ChunkQuery::Records(vec![sample::chunk(n)]));
    let reserve = |n: u8| Command::Chunk(ChunkCommand::Reserve { version: sample::version(n.into()), chunks: vec![sample::chunk(n)] });
    let names = world.moved(split_at("m")).await;
    let chunks = world.moved(MoveAsk::SplitChunks { at: sample::chunk(128), members: members() }).await;
    let routers: Vec<Arc<Router>> = (0..5).map(|_| Router::new(world.clone())).collect();
    for (router, n) in routers.iter().zip(10..) {
        let replies = order(&**router, Chain::Independent, vec![commit("z", n), reserve(200)]).await;
        assert!(matches!(replies[..], [Reply::Committed { .. }, Reply::Reserved(_)]), "{replies:?}");
    }
    world.moved(MoveAsk::MergeNames { into: ROOT }).await;
    world.moved(MoveAsk::MergeChunks { into: ROOT }).await;
    world.silence(&[names, chunks]);
    let found = routers[0].query(head("z")).await.unwrap();
    assert!(matches!(found, Answer::Namespace(NamespaceAnswer::Head(Some(_)))), "{found:?}");
    let found = routers[1].query(chunk(200)).await.unwrap();
    assert!(matches!(&found, Answer::Chunk(ChunkAnswer::Records(records)) if records[0].is_some()), "{found:?}");
    let found = routers[2].query(Query::Chunk(ChunkQuery::Scan { after: None, max: 9 })).await.unwrap();
    assert!(matches!(&found, Answer::Chunk(ChunkAnswer::Scan(records)) if records.len() == 1), "{found:?}");
    // Whether the first was applied nobody knows; the next one has the map of now.
    for (router, command) in [(&routers[3], commit("z", 2)), (&routers[4], reserve(200))] {
        let batch = || Batch { chain: Chain::Stop, commands: vec![command.clone()] };
        assert_eq!(router.propose(batch()).await, Err(away()));
        assert!(router.propose(batch()).await.is_ok());
    }
}

#[tokio::test]
async fn totals_are_each_groups_once_however_old_the_map_and_an_outbox_that_is_nowhere_is_done_with() {
    let world = Troubled::start().await;
    let router = Router::new(world.clone());
    world.moved(MoveAsk::SplitChunks { at: sample::chunk(128), members: members() }).await;
    for n in [1, 200] {
        let version = sample::version(n.into());
        let reserve = ChunkCommand::Reserve { version, chunks: vec![sample::chunk(n)] };
        assert!(matches!(order(&*router, Chain::Stop, vec![Command::Chunk(reserve)]).await[..], [Reply::Reserved(_)]));
    }
    world.moved(MoveAsk::MergeChunks { into: ROOT }).await;
    let Answer::Chunk(ChunkAnswer::Totals(totals)) = router.query(Query::Chunk(ChunkQuery::Totals)).await.unwrap() else { panic!() };
    assert_eq!((totals.chunks, totals.references), (2, 2));
    let entry = OutboxEntry { group: GroupId(99), position: 1, version: sample::version(1) };
    let done = Command::Namespace(NamespaceCommand::OutboxDone { entries: vec![entry] });
    let begun = Instant::now();
    assert_eq!(order(&*router, Chain::Independent, vec![done]).await, [Reply::Done]);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

/// Room ends with any of the proposals of a move.
#[tokio::test]
async fn where_there_is_no_room_any_more_a_move_goes_on_to_its_end_or_can_be_given_up() {
    let (mut done, mut gave_up) = (0, 0);
    for room in 0..60 {
        let world = Troubled::start().await;
        let router = Router::new(world.clone());
        for n in 0..12 {
            order(&*router, Chain::Stop, vec![commit(&format!("z{n}"), n)]).await;
        }
        let record = world.begin(split_at("m")).await;
        world.room.store(room, Ordering::Relaxed);
        let mut step = MoveStep::Begun;
        for _ in 0..3 {
            if let Ok(over) = world.patient().carry(record.id).await {
                step = over;
                break;
            }
            step = world.record(record.id).await.step;
        }
        match step {
            MoveStep::Done => done += 1,
            MoveStep::Begun | MoveStep::Copying => {
                assert_eq!(world.root(RootCommand::GiveUpMove { id: record.id }).await, Reply::Done);
                assert_eq!(world.patient().carry(record.id).await, Ok(MoveStep::GaveUp), "room for {room}");
                gave_up += 1;
            }
            stuck => panic!("room for {room}: the move is left in {stuck:?}"),
        }
        assert_eq!(list(&Router::new(world.clone()), "", "", 5).await.len(), 12);
    }
    assert!(done > 5 && gave_up > 5, "{done} done, {gave_up} given up");
}

#[tokio::test]
async fn a_range_that_a_killed_mover_left_frozen_is_thawed_though_the_receiver_is_away() {
    let world = Troubled::start().await;
    let record = world.begin(split_at("m")).await;
    world.half_way(&record, true).await;
    let write = || Batch { chain: Chain::Stop, commands: vec![commit("z", 1)] };
    assert_eq!(world.propose_to(ROOT, write()).await, Ok(vec![Reply::Refused(Refusal::Frozen)]));
    world.silence(&[record.to]);
    assert_eq!(world.patient().carry(record.id).await, Err(MoveError::Metadata(away())));
    assert!(matches!(world.propose_to(ROOT, write()).await.unwrap()[..], [Reply::Committed { .. }]));
    world.silence(&[]);
    assert_eq!(world.patient().carry(record.id).await, Ok(MoveStep::Done));
}

#[tokio::test]
async fn a_range_is_thawed_in_time_also_if_a_group_takes_long_to_answer() {
    let world = Troubled::start().await;
    let record = world.begin(split_at("m")).await;
    world.slow.store(true, Ordering::Relaxed);
    let mover = world.mover(Duration::from_millis(100), Duration::from_secs(3_600));
    let carrying = tokio::spawn(async move { mover.carry(record.id).await });
    let waits_for = async |frozen: bool| {
        let begun = Instant::now();
        while world.frozen.load(Ordering::Relaxed) != frozen {
            assert!(begun.elapsed() < Duration::from_secs(8), "it is not so: frozen {frozen}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    waits_for(true).await;
    waits_for(false).await;
    waits_for(true).await;
    waits_for(false).await;
    world.slow.store(false, Ordering::Relaxed);
    assert_eq!(carrying.await.unwrap(), Ok(MoveStep::Done));
}

#[tokio::test]
async fn a_move_that_stands_still_for_long_is_given_up_and_its_source_notes_nothing_any_more() {
    let world = Troubled::start().await;
    let into = world.moved(split_at("m")).await;
    // The one beside it, which is to come back.
    let last = world.begin(MoveAsk::SplitNames { at: NamePoint::new(BUCKET, "t"), members: members() }).await;
    assert_eq!(world.patient().carry(last.id).await, Ok(MoveStep::Done));
    let record = world.begin(MoveAsk::MergeNames { into }).await;
    assert_eq!((record.from, record.to, record.span.kind()), (last.to, into, RangeKind::Names));
    world.half_way(&record, false).await;
    let write = |n| Batch { chain: Chain::Stop, commands: vec![commit("z", n)] };
    let notes = || !world.world.groups.lock().unwrap()[&record.from].table.is_empty(Space::Changed);
    world.propose_to(record.from, write(1)).await.unwrap();
    assert!(notes());
    world.silence(&[into]);
    let still = Duration::from_millis(50);
    let mover = world.mover(Duration::from_secs(5), still);
    assert_eq!(mover.carry(record.id).await, Err(MoveError::Metadata(away())));
    assert!(!world.record(record.id).await.unwanted && notes());
    tokio::time::sleep(2 * still).await;
    assert_eq!(mover.carry(record.id).await, Err(MoveError::Metadata(away())), "the receiver has not dropped it");
    assert!(world.record(record.id).await.unwanted && !notes());
    assert!(matches!(world.propose_to(record.from, write(2)).await.unwrap()[..], [Reply::Committed { .. }]));
    assert!(!notes());
    world.silence(&[]);
    assert_eq!(mover.carry(record.id).await, Ok(MoveStep::GaveUp));
}
