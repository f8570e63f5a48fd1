//! What a server makes of rubbish: of strangers who never finish a handshake, and of gateways that send what they should not.

use crate::{Fleet, strict};
use conformance::plane::{MemoryNode, Plane, shard};
use rustls::pki_types::ServerName;
use spine::fleet::name::name_of;
use spine::wire::peer::{self, Call, SUBJECT};
use spine::wire::shard::{NodeError, StorageNode};
use std::sync::Arc;
use std::time::{Duration, Instant};
use storage_node::serve;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

async fn connect(fleet: &Fleet, plane: &Plane) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(plane.address).await.unwrap();
    let name = ServerName::try_from(name_of(fleet.node.node)).unwrap();
    TlsConnector::from(fleet.tls()).connect(name, stream).await.unwrap()
}

/// Sends these bytes and reads until the server closes or falls silent for a second. The status, 0 for none, and the body.
async fn say(fleet: &Fleet, plane: &Plane, bytes: &[u8]) -> (u16, Vec<u8>) {
    let mut stream = connect(fleet, plane).await;
    // The server may close while this is being written.
    let _ = stream.write_all(bytes).await;
    let _ = stream.flush().await;
    let mut all = Vec::new();
    let mut buf = vec![0; 64 << 10];
    while let Ok(Ok(n)) = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut buf)).await {
        if n == 0 {
            break;
        }
        all.extend_from_slice(&buf[..n]);
    }
    let status = all.get(9..12).and_then(|code| std::str::from_utf8(code).ok()?.parse().ok()).unwrap_or(0);
    let body = all.windows(4).position(|w| w == b"\r\n\r\n").map_or(vec![], |at| all[at + 4..].to_vec());
    (status, body)
}

fn request(path: &str, head: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n{head}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

async fn started() -> (Fleet, Arc<MemoryNode>, Plane) {
    let fleet = Fleet::new();
    let node = fleet.memory();
    let plane = fleet.serve(node.clone(), strict()).await;
    (fleet, node, plane)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_wrong_are_refused_and_change_nothing() {
    let (fleet, node, plane) = started().await;
    let (header, data) = shard(1, 1_000);
    let subject = format!("{SUBJECT}: {}\r\n", peer::encode_subject(&header));
    let put = |len: &str, body: &[u8]| [format!("POST /1/put HTTP/1.1\r\nhost: x\r\n{subject}{len}\r\n").as_bytes(), body].concat();
    let chunked = [b"3e8\r\n", &data[..], b"\r\n0\r\n\r\n"].concat();
    let names = peer::encode(&vec![header.name]);
    let requests: Vec<(&str, Vec<u8>, u16)> = vec![
        ("no HTTP", b"hello\r\n\r\n".to_vec(), 400),
        ("another path", request("/2/status", "", b""), 400),
        ("a query", request("/1/status?x", "", b""), 400),
        ("another method", b"GET /1/status HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(), 400),
        ("no subject", request("/1/put", "", &data), 400),
        ("a subject of nothing", request("/1/get", &format!("{SUBJECT}: zz\r\n"), b""), 400),
        ("a long subject", request("/1/get", &format!("{SUBJECT}: {}\r\n", "00".repeat(1_000)), b""), 400),
        ("no length", put("", b""), 400),
        ("chunked", put("transfer-encoding: chunked\r\n", &chunked), 400),
        ("another length", put("content-length: 999\r\n", &data[..999]), 400),
        ("a huge length", put("content-length: 99999999999\r\n", &data), 400),
        ("other bytes", put("content-length: 1000\r\n", &[0; 1_000]), 400),
        ("names with more behind", request("/1/has", "", &[&names[..], b"x"].concat()), 400),
        ("names of nothing", request("/1/trash", "", &[0xff; 40]), 400),
        ("a long body", request("/1/list", "", &[0; 1_000]), 400),
        ("a list of nobody's", request("/1/revoke", "", b"rubbish"), 400),
        ("a large head", request("/1/status", &format!("x: {}\r\n", "y".repeat(100_000)), b""), 431),
        ("many lines", request("/1/status", &"x: y\r\n".repeat(1_000), b""), 431),
    ];
    for (what, bytes, expected) in requests {
        let (status, _) = say(&fleet, &plane, &bytes).await;
        assert_eq!(status, expected, "{what}");
    }
    assert!(node.shards().is_empty());
    let (status, _) = say(&fleet, &plane, &put("content-length: 1000\r\n", &data)).await;
    assert_eq!((status, node.shards().len()), (200, 1), "and the right one is taken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_travels_as_what_it_is() {
    let (fleet, _, plane) = started().await;
    let name = format!("{SUBJECT}: {}\r\n", peer::encode_subject(&shard(1, 1).0.name));
    let (status, body) = say(&fleet, &plane, &request(Call::Get.path(), &name, b"")).await;
    assert_eq!((status, peer::decode(&body)), (404, Ok(NodeError::NotFound)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_sends_slowly_is_cut_off() {
    let (fleet, node, plane) = started().await;
    let (header, data) = shard(1, 100_000);
    let head = format!("POST /1/put HTTP/1.1\r\nhost: x\r\n{SUBJECT}: {}\r\ncontent-length: 100000\r\n\r\n", peer::encode_subject(&header));
    for (what, start, most) in [("the head", &head.as_bytes()[..40], 1_500), ("the body", head.as_bytes(), 3_000)] {
        let mut stream = connect(&fleet, &plane).await;
        stream.write_all(start).await.unwrap();
        stream.flush().await.unwrap();
        let began = Instant::now();
        let (mut read, mut write) = tokio::io::split(stream);
        let dripping = tokio::spawn(async move {
            for byte in data_of(100) {
                if write.write_all(&[byte]).await.is_err() || write.flush().await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        let mut all = Vec::new();
        let _ = read.read_to_end(&mut all).await;
        assert!(began.elapsed() < Duration::from_millis(most), "{what} took {:?}", began.elapsed());
        dripping.abort();
    }
    assert!(node.shards().is_empty());
    drop(data);
}

fn data_of(len: usize) -> Vec<u8> {
    vec![b'a'; len]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_does_not_take_its_answer_is_cut_off_and_its_memory_is_free_again() {
    let (fleet, node, plane) = started().await;
    let (header, data) = shard(1, 8 << 20);
    node.put(header, data.clone()).await.unwrap();
    let get = request("/1/get", &format!("{SUBJECT}: {}\r\n", peer::encode_subject(&header.name)), b"");
    // Enough to take all the memory there is (64 MiB), if it were not given back.
    let mut held = Vec::new();
    for _ in 0..10 {
        let mut stream = connect(&fleet, &plane).await;
        stream.write_all(&get).await.unwrap();
        stream.flush().await.unwrap();
        held.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(4_000)).await;
    let link = fleet.link(plane.address);
    assert_eq!(link.get(header.name).await.unwrap(), (header, data));
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_hold_a_few_places_for_a_moment_and_nothing_else() {
    let fleet = Fleet::new();
    let bounds = serve::Bounds { handshakes: 8, ..strict() };
    let plane = fleet.serve(fleet.memory(), bounds).await;
    let link = fleet.link(plane.address);
    let (header, data) = shard(1, 1_000);
    link.put(header, data.clone()).await.unwrap();
    let mut strangers = Vec::new();
    for n in 0..40 {
        let mut stream = TcpStream::connect(plane.address).await.unwrap();
        // Some say nothing, some rubbish, some half a hello.
        let _ = stream.write_all([&b""[..], b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01"][n % 3]).await;
        strangers.push(stream);
    }
    // Who is in already is served all the while.
    assert_eq!(link.get(header.name).await.unwrap(), (header, data.clone()));
    tokio::time::sleep(Duration::from_millis(700)).await;
    let second = fleet.link(plane.address);
    assert_eq!(second.get(header.name).await.unwrap(), (header, data));
    for mut stream in strangers {
        let mut buf = [0; 64];
        let closed = tokio::time::timeout(Duration::from_secs(2), async { while stream.read(&mut buf).await.is_ok_and(|n| n > 0) {} });
        assert!(closed.await.is_ok(), "a stranger is still there");
    }
}
