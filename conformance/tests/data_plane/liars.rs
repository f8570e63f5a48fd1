//! Nodes with a good certificate and bad manners: on the level of calls, and of bytes.

use crate::{Fleet, hasty};
use bytes::Bytes;
use conformance::plane::{MemoryNode, shard};
use gateway::remote::Link;
use spine::fleet::admission::Role;
use spine::fleet::tls::{self, Served};
use spine::limit::SEALED_MAX_BYTES;
use spine::wire::chunk::ShardName;
use spine::wire::peer::{self, SUBJECT};
use spine::wire::shard::{NodeError, NodeState, NodeStatus, ShardHeader, StorageNode};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use storage_node::serve;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Lie {
    AnotherShard,
    TooShort,
    OtherBytes,
    TooFewAnswers,
    Backwards,
    Repeats,
    LongReason,
}

/// Tells one lie, and the truth otherwise.
struct Liar {
    inner: Arc<MemoryNode>,
    lie: Mutex<Option<Lie>>,
}

impl Liar {
    fn tells(&self, lie: Lie) -> bool {
        *self.lie.lock().unwrap() == Some(lie)
    }
}

#[async_trait::async_trait]
impl StorageNode for Liar {
    fn id(&self) -> spine::id::NodeId {
        self.inner.id()
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
        if self.tells(Lie::LongReason) {
            return Err(NodeError::Damaged { what: "\x1b[31m\n".repeat(1_000_000) });
        }
        if self.tells(Lie::AnotherShard) {
            let other = *self.inner.shards().keys().find(|other| **other != name).unwrap();
            return self.inner.get(other).await;
        }
        let (header, data) = self.inner.get(name).await?;
        if self.tells(Lie::TooShort) {
            return Ok((header, data.slice(..data.len() - 1)));
        }
        if self.tells(Lie::OtherBytes) {
            return Ok((header, vec![0xee; data.len()].into()));
        }
        Ok((header, data))
    }
    async fn has(&self, names: Vec<ShardName>) -> Result<Vec<bool>, NodeError> {
        let held = self.inner.has(names).await?;
        if self.tells(Lie::TooFewAnswers) { Ok(held[1..].to_vec()) } else { Ok(held) }
    }
    async fn trash(&self, names: Vec<ShardName>) -> Result<(), NodeError> {
        self.inner.trash(names).await
    }
    async fn list(&self, after: Option<ShardName>, max: usize) -> Result<Vec<(ShardName, u32)>, NodeError> {
        if self.tells(Lie::Repeats) {
            return self.inner.list(None, max).await;
        }
        let mut page = self.inner.list(after, max).await?;
        if self.tells(Lie::Backwards) {
            page.reverse();
        }
        Ok(page)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lies_about_shards_is_found_out_or_leaves_the_root_to_find_it_out() {
    let fleet = Fleet::new();
    let liar = Arc::new(Liar { inner: fleet.memory(), lie: Mutex::default() });
    let plane = fleet.serve(liar.clone(), serve::Bounds::default()).await;
    let link = fleet.link(plane.address);
    let shards = [shard(1, 50_000), shard(2, 50_000)];
    for (header, data) in &shards {
        link.put(*header, data.clone()).await.unwrap();
    }
    let (header, data) = &shards[0];
    let lie = |lie| *liar.lie.lock().unwrap() = Some(lie);

    lie(Lie::AnotherShard);
    assert!(matches!(link.get(header.name).await, Err(NodeError::Damaged { .. })));
    lie(Lie::TooShort);
    assert!(matches!(link.get(header.name).await, Err(NodeError::Damaged { .. })));
    lie(Lie::OtherBytes);
    let (said, bytes) = link.get(header.name).await.unwrap();
    assert_eq!((said, bytes.len()), (*header, data.len()));
    assert_ne!(blake3::hash(&bytes).as_bytes(), &header.root.0, "the caller's root tells");
    lie(Lie::TooFewAnswers);
    assert!(matches!(link.has(vec![header.name, shards[1].0.name]).await, Err(NodeError::Unavailable { .. })));
    lie(Lie::Backwards);
    assert!(matches!(link.list(None, 10).await, Err(NodeError::Unavailable { .. })));
    lie(Lie::Repeats);
    assert!(matches!(link.list(None, 10).await, Err(NodeError::Unavailable { .. })), "a listing without an end");
    lie(Lie::LongReason);
    let Err(NodeError::Damaged { what }) = link.get(header.name).await else { panic!("a lie was told") };
    assert!(what.len() <= 256 && !what.contains(['\n', '\x1b']), "{} characters", what.len());
    *liar.lie.lock().unwrap() = None;
    assert_eq!(link.get(header.name).await.unwrap(), (*header, data.clone()));
}

/// A server of the fleet that answers every request with these bytes, as often as told, and then does as told.
#[derive(Clone)]
struct Script {
    says: Vec<u8>,
    then: Then,
}

#[derive(Clone, Copy, PartialEq)]
enum Then {
    Close,
    Hang,
    /// A byte more every 50 ms, for ever.
    Drip,
    /// Reads on and answers the next the same way.
    GoOn,
}

/// How much was sent by the server, and its address.
async fn play(fleet: &Fleet, script: Script) -> SocketAddr {
    let served = Arc::new(Served::default());
    served.set(fleet.node.identity().unwrap());
    let config = tls::server(fleet.authority.trust().unwrap(), served, &[Role::Gateway]).unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = socket.accept().await.unwrap();
            let (acceptor, script) = (TlsAcceptor::from(config.clone()), script.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut read = vec![0; 64 << 10];
                loop {
                    if stream.read(&mut read).await.unwrap_or(0) == 0 || stream.write_all(&script.says).await.is_err() {
                        return;
                    }
                    let _ = stream.flush().await;
                    match script.then {
                        Then::Close => return,
                        Then::GoOn => {}
                        Then::Hang => tokio::time::sleep(Duration::from_secs(60)).await,
                        Then::Drip => {
                            while stream.write_all(b"x").await.is_ok() && stream.flush().await.is_ok() {
                                tokio::time::sleep(Duration::from_millis(50)).await;
                            }
                        }
                    }
                }
            });
        }
    });
    address
}

/// A get's answer with this length in its head and these bytes after it.
fn answer(length: &str, header: &ShardHeader, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\n{SUBJECT}: {}\r\n{length}\r\n", peer::encode_subject(header));
    [head.as_bytes(), body].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_answers_rubbish_is_unavailable_soon_and_never_a_shard() {
    let fleet = Fleet::new();
    let (header, data) = shard(1, 10_000);
    let (long, huge) = ("content-length: 10000\r\n", format!("content-length: {}\r\n", SEALED_MAX_BYTES + 1));
    let big_head = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    let many_lines = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(10_000));
    let chunked = [format!("{:x}\r\n", data.len()).as_bytes(), &data, b"\r\n0\r\n\r\n"].concat();
    let scripts: Vec<(&str, Vec<u8>, Then)> = vec![
        ("closes", vec![], Then::Close),
        ("hangs", vec![], Then::Hang),
        ("no HTTP", b"\x16\x03\x01 hello\r\n\r\n".to_vec(), Then::Hang),
        ("a head without end", b"HTTP/1.1 200 OK\r\nx: ".to_vec(), Then::Drip),
        ("a large head", big_head.into_bytes(), Then::Hang),
        ("many lines", many_lines.into_bytes(), Then::Hang),
        ("another status", b"HTTP/1.1 500 X\r\ncontent-length: 3\r\n\r\nabc".to_vec(), Then::GoOn),
        ("an error that does not go with its status", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec(), Then::GoOn),
        ("a continuation", b"HTTP/1.1 100 Continue\r\n\r\n".to_vec(), Then::GoOn),
        ("truncated and closed", answer(long, &header, &data[..9_999]), Then::Close),
        ("truncated and silent", answer(long, &header, &data[..9_999]), Then::Hang),
        ("a byte now and then", answer(long, &header, &data[..100]), Then::Drip),
        ("too long", answer(&huge, &header, &data), Then::Hang),
        ("endless", answer("", &header, &data), Then::Drip),
        ("chunked", answer("transfer-encoding: chunked\r\n", &header, &chunked), Then::GoOn),
        ("another length than its header", answer("content-length: 9999\r\n", &header, &data[..9_999]), Then::GoOn),
        ("two lengths", answer("content-length: 10000\r\ncontent-length: 9999\r\n", &header, &data), Then::GoOn),
    ];
    for (what, says, then) in scripts {
        let address = play(&fleet, Script { says, then }).await;
        // Without a status that reads, the link would call it lost before it is asked: this is about the call.
        let bounds = gateway::remote::Bounds { misses: u32::MAX, ..hasty() };
        let link = Link::start(crate::peer(fleet.node.node, address), fleet.tls(), fleet.trust.clone(), bounds);
        let began = Instant::now();
        let got = link.get(header.name).await;
        assert!(matches!(got, Err(NodeError::Unavailable { .. } | NodeError::Damaged { .. })), "{what}: {got:?}");
        assert!(began.elapsed() < Duration::from_secs(4), "{what}: {:?}", began.elapsed());
        assert_eq!(link.status().state, NodeState::Lost, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_after_an_answer_are_not_the_next_answer() {
    let fleet = Fleet::new();
    let (header, data) = shard(1, 100);
    let (other, wrong) = (shard(2, 100), [0xab; 100]);
    let smuggled = answer("content-length: 100\r\n", &other.0, &wrong);
    let says = [answer("content-length: 100\r\n", &header, &data), smuggled].concat();
    let address = play(&fleet, Script { says, then: Then::GoOn }).await;
    let bounds = gateway::remote::Bounds { misses: u32::MAX, calls: 1, ..hasty() };
    let link = Link::start(crate::peer(fleet.node.node, address), fleet.tls(), fleet.trust.clone(), bounds);
    for _ in 0..5 {
        match link.get(header.name).await {
            Ok(got) => assert_eq!(got, (header, data.clone())),
            Err(error) => assert!(matches!(error, NodeError::Unavailable { .. } | NodeError::Damaged { .. }), "{error}"),
        }
        assert!(!matches!(link.get(other.0.name).await, Ok((_, bytes)) if bytes[..] == other.1[..]), "nobody sent these");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_answering_ends_running_calls_when_it_is_lost() {
    let fleet = Fleet::new();
    let address = play(&fleet, Script { says: vec![], then: Then::Hang }).await;
    let bounds = gateway::remote::Bounds { call: Duration::from_secs(60), ..hasty() };
    let link = Link::start(crate::peer(fleet.node.node, address), fleet.tls(), fleet.trust.clone(), bounds);
    let began = Instant::now();
    let (header, data) = shard(1, 1_000_000);
    assert!(matches!(link.put(header, data).await, Err(NodeError::Unavailable { .. })));
    assert!(began.elapsed() < Duration::from_secs(3), "three missed looks, not a minute: {:?}", began.elapsed());
}
