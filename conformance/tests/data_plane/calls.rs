//! What goes through.

use crate::{Fleet, hasty, peer, until};
use bytes::Bytes;
use conformance::plane::{CAPACITY, MemoryNode, Plane, shard};
use gateway::remote::{Bounds, Link, Peer};
use spine::audit::{Answered, Question, verify};
use spine::id::{NodeId, ShardRoot};
use spine::limit::{AUDIT_QUESTIONS, CALL_NAMES, SEALED_MAX_BYTES};
use spine::wire::chunk::ShardName;
use spine::wire::peer::Slice;
use spine::wire::shard::{NodeError, NodeState, NodeStatus, ShardHeader, StorageNode};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use storage_node::serve;
use storage_node::{Disk, Settings};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_on_a_disk_goes_over_the_link_as_it_does_in_the_process() {
    let fleet = Fleet::new();
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open(Settings { machine: "machine-1".to_string(), ..Settings::new(dir.path()) }).unwrap();
    let node = Arc::new(Renamed { id: fleet.node.node, inner: disk.clone() });
    let plane = fleet.serve(node, serve::Bounds::default()).await;
    let link = fleet.link(plane.address);
    assert!(link.first_look(Duration::from_secs(5)).await);
    assert_eq!((link.id(), link.machine().as_str()), (fleet.node.node, "machine-1"));

    let shards: Vec<_> =
        [0, 1, 4_095, 300_000, 2 << 20, SEALED_MAX_BYTES].iter().enumerate().map(|(n, len)| shard(n as u64, *len)).collect();
    for (header, data) in &shards {
        link.put(*header, data.clone()).await.unwrap();
        link.put(*header, data.clone()).await.unwrap();
        assert_eq!(link.get(header.name).await.unwrap(), (*header, data.clone()));
        assert_eq!(disk.get(header.name).await.unwrap(), (*header, data.clone()));
    }
    let (other, missing) = (shard(9, 10), shard(10, 10).0.name);
    let renamed = ShardHeader { name: shards[3].0.name, ..other.0 };
    assert!(matches!(link.put(renamed, other.1).await, Err(NodeError::Invalid { .. })), "another root under a known name");
    assert_eq!(link.get(missing).await, Err(NodeError::NotFound));

    let (header, data) = &shards[3];
    let slice = Slice { name: header.name, from: 1_000, len: 70_000 };
    assert_eq!(link.range(slice).await.unwrap(), (*header, data.slice(1_000..71_000)));
    assert!(matches!(link.range(Slice { from: 299_999, len: 2, ..slice }).await, Err(NodeError::Invalid { .. })));
    assert!(matches!(link.range(Slice { from: u32::MAX, len: u32::MAX, ..slice }).await, Err(NodeError::Invalid { .. })));

    let names: Vec<ShardName> = shards.iter().map(|(header, _)| header.name).collect();
    assert_eq!(link.has([names.clone(), vec![missing]].concat()).await.unwrap(), [vec![true; 6], vec![false]].concat());
    let listed = link.list(None, 100).await.unwrap();
    assert_eq!(listed, disk.list(None, 100).await.unwrap());
    assert_eq!(link.list(Some(listed[1].0), 3).await.unwrap(), listed[2..5]);
    until(|| link.status().shards == 6).await;
    assert_eq!(link.status().state, NodeState::Serving);

    let questions = vec![Question { name: header.name, slice: 200 }, Question { name: missing, slice: 0 }];
    let answers = link.audit(questions.clone()).await.unwrap();
    assert_eq!(answers, disk.audit(questions).await.unwrap());
    assert!(matches!(&answers[0], Answered::Proof(proof) if verify(proof, &header.root, header.len, 200).is_ok()), "{answers:?}");
    assert_eq!(answers[1], Answered::Missing);
    // More than one call's worth.
    let many = link.audit(vec![Question { name: header.name, slice: 0 }; AUDIT_QUESTIONS + 1]).await.unwrap();
    assert_eq!(many.len(), AUDIT_QUESTIONS + 1);
    assert_eq!(link.scrubbed().await.unwrap(), None);

    link.trash(vec![names[0], missing]).await.unwrap();
    assert_eq!(link.get(names[0]).await, Err(NodeError::NotFound));
    assert_eq!(plane.stop().await.unwrap(), 0);
    assert!(matches!(link.get(names[1]).await, Err(NodeError::Unavailable { .. })));
    disk.shutdown().await;
}

/// A disk of the one-process default under a fleet's id.
struct Renamed {
    id: NodeId,
    inner: Arc<Disk>,
}

#[async_trait::async_trait]
impl StorageNode for Renamed {
    fn id(&self) -> NodeId {
        self.id
    }
    fn machine(&self) -> String {
        self.inner.machine()
    }
    fn status(&self) -> NodeStatus {
        self.inner.status()
    }
    async fn put(&self, header: ShardHeader, data: Bytes) -> Result<(), NodeError> {
        self.inner.put(header, data).await
    }
    async fn get(&self, name: ShardName) -> Result<(ShardHeader, Bytes), NodeError> {
        self.inner.get(name).await
    }
    async fn has(&self, names: Vec<ShardName>) -> Result<Vec<bool>, NodeError> {
        self.inner.has(names).await
    }
    async fn trash(&self, names: Vec<ShardName>) -> Result<(), NodeError> {
        self.inner.trash(names).await
    }
    async fn list(&self, after: Option<ShardName>, max: usize) -> Result<Vec<(ShardName, u32)>, NodeError> {
        self.inner.list(after, max).await
    }
}

#[tokio::test]
async fn a_shard_that_is_not_of_its_root_is_never_acknowledged() {
    let fleet = Fleet::new();
    let node = fleet.memory();
    let plane = fleet.serve(node.clone(), serve::Bounds::default()).await;
    let link = fleet.link(plane.address);
    let (header, data) = shard(1, 100_000);
    let mut wrong = data.to_vec();
    wrong[99_999] ^= 1;
    assert!(matches!(link.put(header, wrong.into()).await, Err(NodeError::Invalid { .. })));
    let other_root = ShardHeader { root: ShardRoot([0; 32]), ..header };
    assert!(matches!(link.put(other_root, data.clone()).await, Err(NodeError::Invalid { .. })));
    assert!(matches!(link.put(header, data.slice(1..)).await, Err(NodeError::Invalid { .. })));
    assert!(node.shards().is_empty());
    link.put(header, data).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_and_listings_longer_than_one_call_are_asked_in_several() {
    let fleet = Fleet::new();
    let node = fleet.memory();
    let many = 2 * CALL_NAMES + 17;
    for seed in 0..many as u64 {
        let (header, data) = shard(seed, 1);
        node.put(header, data).await.unwrap();
    }
    let plane = fleet.serve(node.clone(), serve::Bounds::default()).await;
    let link = fleet.link(plane.address);
    let listed = link.list(None, 1 << 20).await.unwrap();
    assert_eq!(listed, node.list(None, 1 << 20).await.unwrap());
    assert_eq!(link.list(None, CALL_NAMES + 1).await.unwrap(), listed[..CALL_NAMES + 1]);
    let names: Vec<ShardName> = listed.into_iter().map(|(name, _)| name).collect();
    assert!(link.has(names.clone()).await.unwrap().into_iter().all(|held| held));
    link.trash(names).await.unwrap();
    assert!(node.shards().is_empty());
}

/// A node that counts and takes its time.
struct Slow {
    inner: Arc<MemoryNode>,
    running: AtomicUsize,
    most: AtomicUsize,
    pause: Duration,
    told: Mutex<Option<NodeStatus>>,
}

impl Slow {
    fn new(fleet: &Fleet, pause: Duration) -> Arc<Slow> {
        Arc::new(Slow { inner: fleet.memory(), running: AtomicUsize::new(0), most: AtomicUsize::new(0), pause, told: Mutex::default() })
    }
}

#[async_trait::async_trait]
impl StorageNode for Slow {
    fn id(&self) -> NodeId {
        self.inner.id()
    }
    fn machine(&self) -> String {
        self.inner.machine()
    }
    fn status(&self) -> NodeStatus {
        self.told.lock().unwrap().unwrap_or_else(|| self.inner.status())
    }
    async fn put(&self, header: ShardHeader, data: Bytes) -> Result<(), NodeError> {
        let now = self.running.fetch_add(1, SeqCst) + 1;
        self.most.fetch_max(now, SeqCst);
        tokio::time::sleep(self.pause).await;
        self.running.fetch_sub(1, SeqCst);
        self.inner.put(header, data).await
    }
    async fn get(&self, name: ShardName) -> Result<(ShardHeader, Bytes), NodeError> {
        tokio::time::sleep(self.pause).await;
        self.inner.get(name).await
    }
    async fn has(&self, names: Vec<ShardName>) -> Result<Vec<bool>, NodeError> {
        self.inner.has(names).await
    }
    async fn trash(&self, names: Vec<ShardName>) -> Result<(), NodeError> {
        self.inner.trash(names).await
    }
    async fn list(&self, after: Option<ShardName>, max: usize) -> Result<Vec<(ShardName, u32)>, NodeError> {
        self.inner.list(after, max).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_with_too_many_calls_is_told_so_and_a_link_keeps_within_its_own_bound() {
    let fleet = Fleet::new();
    let slow = Slow::new(&fleet, Duration::from_millis(200));
    let plane = fleet.serve(slow.clone(), serve::Bounds { calls_per_peer: 4, ..serve::Bounds::default() }).await;
    let wide = Link::start(peer(fleet.node.node, plane.address), fleet.tls(), fleet.trust.clone(), Bounds { calls: 16, ..hasty() });
    let puts = |link: Arc<Link>, first: u64| {
        let all = (first..first + 12).map(move |seed| {
            let (link, (header, data)) = (link.clone(), shard(seed, 1_000));
            tokio::spawn(async move { link.put(header, data).await })
        });
        futures::future::join_all(all)
    };
    let done: Vec<_> = puts(wide, 0).await.into_iter().map(|done| done.unwrap()).collect();
    let refused = done.iter().filter(|done| matches!(done, Err(NodeError::Unavailable { .. }))).count();
    assert!(refused >= 1 && done.iter().any(Result::is_ok), "{refused} of 12 refused");
    assert!(slow.most.load(SeqCst) <= 4);

    slow.most.store(0, SeqCst);
    let narrow = Link::start(peer(fleet.node.node, plane.address), fleet.tls(), fleet.trust.clone(), Bounds { calls: 2, ..hasty() });
    let done = puts(narrow, 100).await;
    assert!(done.into_iter().all(|done| done.unwrap().is_ok()));
    assert_eq!(slow.most.load(SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_bounded_by_making_senders_wait() {
    let fleet = Fleet::new();
    let slow = Slow::new(&fleet, Duration::from_millis(100));
    let bounds = serve::Bounds { memory: 0, ..serve::Bounds::default() };
    let plane = fleet.serve(slow.clone(), bounds).await;
    let link = fleet.link(plane.address);
    let puts = (0..6).map(|seed| {
        let (link, (header, data)) = (link.clone(), shard(seed, SEALED_MAX_BYTES));
        tokio::spawn(async move { link.put(header, data).await })
    });
    let all = futures::future::join_all(puts).await;
    assert!(all.into_iter().all(|done| done.unwrap().is_ok()));
    assert!(slow.most.load(SeqCst) <= 2, "the least budget holds two of the largest shards, {} were in memory", slow.most.load(SeqCst));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_finishes_running_calls_and_takes_no_new_ones() {
    let fleet = Fleet::new();
    let slow = Slow::new(&fleet, Duration::from_millis(500));
    let plane = fleet.serve(slow.clone(), serve::Bounds::default()).await;
    // A gateway gives up running calls of a node that has missed three looks: this is about a server that ends sooner.
    let patient = Bounds { misses: u32::MAX, ..hasty() };
    let link = Link::start(peer(fleet.node.node, plane.address), fleet.tls(), fleet.trust.clone(), patient);
    let (header, data) = shard(1, 1_000);
    let running = tokio::spawn({
        let link = link.clone();
        async move { link.put(header, data).await }
    });
    until(|| slow.running.load(SeqCst) == 1).await;
    let began = Instant::now();
    assert_eq!(plane.stop().await.unwrap(), 0);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    running.await.unwrap().unwrap();
    assert!(link.get(header.name).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_never_waits_says_lost_after_misses_and_comes_back() {
    let fleet = Fleet::new();
    let node = fleet.memory();
    let plane = fleet.serve(node.clone(), serve::Bounds::default()).await;
    let address = plane.address;
    let link = fleet.link(address);
    assert!(link.first_look(Duration::from_secs(5)).await);
    plane.stop().await.unwrap();
    until(|| link.status().state == NodeState::Lost).await;
    let began = Instant::now();
    assert!(matches!(link.get(shard(1, 1).0.name).await, Err(NodeError::Unavailable { .. })));
    assert!(began.elapsed() < Duration::from_millis(50), "a lost node costs no time");

    let served = Arc::new(spine::fleet::tls::Served::default());
    served.set(fleet.node.identity().unwrap());
    let trust = fleet.authority.trust().unwrap();
    let server = serve::Server::new(trust, served, vec![node], serve::Bounds::default(), Box::new(|_| Ok(()))).unwrap();
    let socket = tokio::net::TcpListener::bind(address).await.unwrap();
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    tokio::spawn(server.serve(socket, stopped, Duration::ZERO));
    until(|| link.status().state == NodeState::Serving).await;
    let (header, data) = shard(1, 1_000);
    link.put(header, data).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_made_anew_after_their_life_and_closed_when_idle_without_a_call_noticing() {
    let fleet = Fleet::new();
    let plane = fleet.serve(fleet.memory(), serve::Bounds { head: Duration::from_millis(60), ..serve::Bounds::default() }).await;
    let short = Bounds { life: Duration::from_millis(80), ..hasty() };
    let link = Link::start(peer(fleet.node.node, plane.address), fleet.tls(), fleet.trust.clone(), short);
    let (header, data) = shard(1, 70_000);
    link.put(header, data.clone()).await.unwrap();
    for pause in [0, 10, 50, 90, 70, 0, 200, 65] {
        // Some of these connections were closed by the server, which gives an idle one 60 ms.
        tokio::time::sleep(Duration::from_millis(pause)).await;
        assert_eq!(link.get(header.name).await.unwrap(), (header, data.clone()), "after {pause} ms");
    }
}

#[tokio::test]
async fn a_node_is_not_believed_to_have_more_than_it_was_admitted_for() {
    let fleet = Fleet::new();
    let slow = Slow::new(&fleet, Duration::ZERO);
    let boast = NodeStatus { state: NodeState::Serving, capacity: u64::MAX, free: u64::MAX, shards: 0, shard_bytes: 0, trash_bytes: 0 };
    *slow.told.lock().unwrap() = Some(boast);
    let plane: Plane = fleet.serve(slow, serve::Bounds::default()).await;
    let small = Peer { capacity: 1_000, ..peer(fleet.node.node, plane.address) };
    let link = Link::start(small, fleet.tls(), fleet.trust.clone(), hasty());
    assert!(link.first_look(Duration::from_secs(5)).await);
    assert_eq!((link.status().capacity, link.status().free), (1_000, 1_000));
    assert!(link.peer().capacity < CAPACITY);
}
