//! What befalls whole clusters: power that goes everywhere at once, disks that fill, certificates that end while all is off.

use aws_sdk_s3::Client;
use conformance::client;
use conformance::cluster::{Cluster, MetadataNode, Size, USUAL, voting};
use conformance::content::Content;
use conformance::server::{Server, Settings};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const BUCKET: &str = "promises";

/// Every third is large enough to have shards.
fn body_of(number: u64) -> Vec<u8> {
    Content::dense(number, if number.is_multiple_of(3) { 40_000 } else { 300 }).bytes().to_vec()
}

async fn put(s3: &Client, key: &str, body: Vec<u8>) -> bool {
    s3.put_object().bucket(BUCKET).key(key).body(body.into()).send().await.is_ok()
}

async fn assert_has(s3: &Client, key: &str, body: &[u8]) {
    let got = s3.get_object().bucket(BUCKET).key(key).send().await.unwrap();
    assert!(got.body.collect().await.unwrap().into_bytes() == body, "{key}");
}

/// All of an answer, head included.
fn asked(server: &Server, path: &str) -> String {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", server.address()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.to_ascii_lowercase()
}

/// Starts them side by side.
fn start_all(nodes: &mut [MetadataNode]) {
    std::thread::scope(|scope| {
        let starting: Vec<_> = nodes.iter_mut().map(|node| scope.spawn(move || node.start(&[]))).collect();
        starting.into_iter().for_each(|started| started.join().unwrap().unwrap());
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn after_a_power_cut_everywhere_gateways_wait_for_metadata_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::start(USUAL, "").unwrap();
    client::of(&cluster.gateways[0]).create_bucket().bucket(BUCKET).send().await.unwrap();
    // Each writes until the power is gone, and knows how many were acknowledged.
    let writing = cluster.gateways.iter().map(client::of).enumerate().map(|(gateway, s3)| {
        tokio::spawn(async move {
            let mut acknowledged = 0;
            while put(&s3, &format!("{gateway}/{acknowledged}"), body_of(acknowledged)).await {
                acknowledged += 1;
            }
            acknowledged
        })
    });
    let writing: Vec<_> = writing.collect();
    tokio::time::sleep(Duration::from_secs(4)).await;
    cluster.metadata.iter_mut().for_each(MetadataNode::kill);
    cluster.gateways.iter_mut().for_each(Server::kill);
    let mut acknowledged = Vec::new();
    for writing in writing {
        acknowledged.push(writing.await.unwrap());
    }
    println!("{acknowledged:?} writes were acknowledged");
    assert!(acknowledged.iter().all(|count| *count > 5), "{acknowledged:?}");

    let mut begun: Vec<_> = cluster.gateways.iter_mut().map(|gateway| gateway.begin_restart().unwrap()).collect();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let waiting = &cluster.gateways[0];
    let (ready, live) = (waiting.ops_get("/health/ready").unwrap(), waiting.ops_get("/health/live").unwrap());
    assert_eq!((ready.0, live.0), (503, 200), "{ready:?} {live:?}");
    let answer = asked(waiting, "/promises/0/0");
    assert!(answer.starts_with("http/1.1 503") && answer.contains("retry-after: ") && answer.contains("slowdown"), "{answer}");
    // Whoever does not want to wait any more may end it.
    let ended = cluster.gateways[2].terminate(Duration::from_secs(10));
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}\n{}", cluster.gateways[2].log());
    begun[2] = cluster.gateways[2].begin_restart().unwrap();

    start_all(&mut cluster.metadata);
    for (gateway, begun) in cluster.gateways.iter_mut().zip(&begun) {
        gateway.finish_restart(begun).unwrap();
    }
    let log = cluster.gateways[0].log();
    assert!(log.contains("waiting for metadata") && log.contains("connecting failed"), "{log}");
    cluster.wait("all vote", |status| voting(status) == 3).unwrap();
    for gateway in 0..3 {
        cluster.wait_for_nodes(gateway, 6).unwrap();
        let s3 = client::of(&cluster.gateways[gateway]);
        for (writer, count) in acknowledged.iter().enumerate() {
            for number in 0..*count {
                assert_has(&s3, &format!("{writer}/{number}"), &body_of(number)).await;
            }
        }
        assert!(put(&s3, "after", body_of(0)).await);
    }
}

#[test]
fn a_gateway_whose_papers_name_another_cluster_says_so_and_ends() {
    let place = tempfile::Builder::new().prefix("breakwater-papers-").tempdir().unwrap();
    let mut node = MetadataNode::new(&place.path().join("metadata-0"), None).unwrap();
    node.start(&["--init"]).unwrap();
    let old = place.path().join("old-papers");
    std::fs::copy(node.gateway_papers(), &old).unwrap();
    node.kill();
    std::fs::remove_dir_all(node.data()).unwrap();
    // Another cluster, at the same address.
    node.start(&["--init"]).unwrap();
    let settings = Settings {
        place: Some(place.path().join("gateway-of-old")),
        gateway: true,
        arguments: vec!["--metadata".into(), old.to_string_lossy().into_owned()],
        ..Settings::default()
    };
    let began = Instant::now();
    let refused = Server::start_with(settings).unwrap_err().to_string();
    assert!(
        refused.contains("metadata is not where this gateway knows it to be") && refused.contains("admin metadata papers"),
        "{refused}"
    );
    assert!(began.elapsed() < Duration::from_secs(40), "it took {:?}", began.elapsed());
}
