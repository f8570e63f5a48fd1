//! What befalls whole clusters: power that goes everywhere at once, disks that fill, certificates that end while all is off.

use aws_sdk_s3::Client;
use conformance::client;
use conformance::cluster::{Cluster, MetadataNode, Size, USUAL, voting};
use conformance::content::Content;
use conformance::loop_disk::{LoopDisk, LoopError};
use conformance::program::Program;
use conformance::server::{Server, Settings};
use conformance::tools::not_run;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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

/// A small disk under `place`; `None`: it cannot be had here, and the test does not run.
fn small_disk(place: &Path, bytes: u64) -> Option<LoopDisk> {
    match LoopDisk::make(place, bytes) {
        Ok(disk) => Some(disk),
        Err(error) => {
            assert!(matches!(error, LoopError::NotRoot | LoopError::Missing(_)), "{error}");
            not_run(&error);
            None
        }
    }
}

/// Three metadata nodes and a gateway; the data folder of one of the nodes is on `disk`, its log is not.
fn on_small_disk(disk: &LoopDisk, number: usize) -> Cluster {
    let temp = tempfile::Builder::new().prefix("breakwater-cluster-").tempdir().unwrap();
    let (place, data) = (temp.path().join(format!("metadata-{number}")), disk.path().join("data"));
    std::fs::create_dir_all(&place).unwrap();
    std::fs::create_dir(&data).unwrap();
    std::os::unix::fs::symlink(&data, place.join("data")).unwrap();
    Cluster::of(Program::default(), temp, Size { metadata: 3, gateways: 1, nodes: 0 }).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_leader_whose_disk_is_nearly_full_leaves_the_lead_to_others_and_writes_go_on() {
    let place = tempfile::Builder::new().prefix("breakwater-full-").tempdir().unwrap();
    let Some(disk) = small_disk(place.path(), 1 << 30) else { return };
    let mut cluster = on_small_disk(&disk, 0);
    assert_eq!(cluster.leader(), Some(0), "who founds it leads it");
    let s3 = client::of(&cluster.gateways[0]);
    s3.create_bucket().bucket(BUCKET).send().await.unwrap();
    assert!(put(&s3, "before", body_of(1)).await);
    // Below the reserve of 192 MiB, and far from having none.
    let filler = disk.fill(100 << 20).unwrap();
    let filled = Instant::now();
    while cluster.leader().is_none_or(|leader| leader == 0) {
        assert!(filled.elapsed() < Duration::from_secs(30), "it still leads\n{}", cluster.metadata[0].log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("somebody else leads after {:?}", filled.elapsed());
    for number in 0..50 {
        assert!(put(&s3, &format!("full/{number}"), body_of(1)).await, "{number}\n{}", cluster.metadata[0].log());
    }
    // It votes all the while: with another one gone it is needed.
    let other = (1..3).find(|node| cluster.leader() != Some(*node)).unwrap();
    cluster.metadata[other].kill();
    assert!(put(&s3, "with two", body_of(1)).await);
    cluster.metadata[other].start(&[]).unwrap();
    std::fs::remove_file(filler).unwrap();
    cluster.wait("all vote", |status| voting(status) == 3).unwrap();
    assert!(put(&s3, "after", body_of(1)).await);
    for key in ["before", "full/0", "full/49", "with two", "after"] {
        assert_has(&s3, key, &body_of(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_metadata_node_whose_disk_takes_nothing_ends_and_says_why_and_catches_up_once_there_is_room() {
    let place = tempfile::Builder::new().prefix("breakwater-full-").tempdir().unwrap();
    let Some(disk) = small_disk(place.path(), 400 << 20) else { return };
    let mut cluster = on_small_disk(&disk, 1);
    let s3 = client::of(&cluster.gateways[0]);
    s3.create_bucket().bucket(BUCKET).send().await.unwrap();
    assert_ne!(cluster.leader(), Some(1), "who founds it leads it");
    let filler = disk.fill(1 << 20).unwrap();
    // Bodies that lie within their records, until what is left of its disk is used up.
    let (stop, written) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
    let writing = (0..8).map(|writer| {
        let (s3, stop, written) = (s3.clone(), stop.clone(), written.clone());
        tokio::spawn(async move {
            for number in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let key = format!("{writer}/{number}");
                assert!(put(&s3, &key, Content::dense(number, 8_000).bytes().to_vec()).await, "{key} was refused");
                written.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    let writing: Vec<_> = writing.collect();
    let began = Instant::now();
    let ended = loop {
        if let Some(status) = cluster.metadata[1].ended() {
            break status;
        }
        let log = || cluster.metadata[1].log();
        assert!(began.elapsed() < Duration::from_secs(180), "after {written:?} writes it still runs\n{}", log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    println!("it ended after {:?} and {written:?} writes", began.elapsed());
    let log = cluster.metadata[1].log();
    assert!(ended.code() == Some(1) && log.contains("does not take what it writes") && log.contains("Make room"), "{ended}\n{log}");
    // The others go on, and without room it does not come back.
    let before = written.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(written.load(Ordering::Relaxed) > before, "nothing is written without it");
    stop.store(true, Ordering::Relaxed);
    for writing in writing {
        writing.await.unwrap();
    }
    let refused = cluster.metadata[1].start(&[]).unwrap_err().to_string();
    assert!(refused.contains("less room than the log's next file takes"), "{refused}");
    std::fs::remove_file(filler).unwrap();
    cluster.metadata[1].start(&[]).unwrap();
    cluster.wait("all vote again", |status| voting(status) == 3).unwrap();
    // It is needed now.
    cluster.metadata[2].kill();
    assert!(put(&s3, "after", body_of(1)).await);
    assert_has(&s3, "0/0", &Content::dense(0, 8_000).bytes()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_nodes_whose_certificates_ended_while_all_was_off_make_new_ones_from_a_gateways_papers() {
    let size = Size { metadata: 3, gateways: 1, nodes: 0 };
    let mut cluster = Cluster::start(size, "[fleet]\ncertificate_seconds = 12\n").unwrap();
    let s3 = client::of(&cluster.gateways[0]);
    s3.create_bucket().bucket(BUCKET).send().await.unwrap();
    assert!(put(&s3, "before", body_of(1)).await);
    cluster.metadata.iter_mut().for_each(MetadataNode::kill);
    cluster.gateways[0].kill();
    // The first one made its own, for thirty days; those of the other two are a majority.
    tokio::time::sleep(Duration::from_secs(14)).await;
    start_all(&mut cluster.metadata);
    let begun = cluster.gateways[0].begin_restart().unwrap();
    // Longer than the gateway's own lasts, too.
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(cluster.gateways[0].ops_get("/health/ready").unwrap().0, 503);
    for node in &cluster.metadata[1..] {
        let log = node.log();
        assert!(log.contains("certificate has ended") && log.contains("--papers"), "{log}");
    }
    let papers = cluster.place().join("papers-of-now");
    let papers = papers.to_str().unwrap();
    cluster.gateways[0].admin(&["metadata", "papers", "--out", papers]).unwrap();
    for node in &mut cluster.metadata[1..] {
        node.start(&["--papers", papers]).unwrap();
    }
    cluster.gateways[0].finish_restart(&begun).unwrap();
    cluster.wait("all vote", |status| voting(status) == 3).unwrap();
    assert_has(&s3, "before", &body_of(1)).await;
    assert!(put(&s3, "after", body_of(1)).await);
    // Papers of another fleet are none.
    let place = tempfile::Builder::new().prefix("breakwater-papers-").tempdir().unwrap();
    let mut other = MetadataNode::new(&place.path().join("metadata-0"), None).unwrap();
    other.start(&["--init"]).unwrap();
    let refused = cluster.metadata[1].start(&["--papers", other.gateway_papers().to_str().unwrap()]).unwrap_err().to_string();
    assert!(refused.contains("not of this node's fleet"), "{refused}");
    cluster.metadata[1].start(&[]).unwrap();
    cluster.wait("all vote again", |status| voting(status) == 3).unwrap();
}
