//! Copies of the metadata: into files, into the store, and back.

use conformance::client::{self, Judge};
use conformance::cluster::{Cluster, Size, USUAL, voting};
use conformance::content::Content;
use conformance::server::{Server, Settings};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Nothing is copied by itself, and the collector would be done in seconds.
const FAST: &str = "[collector]\ninterval_seconds = 1\ngrace_seconds = 1\ntrash_seconds = 1\n[metadata]\nsnapshot_seconds = 0\n";
/// The same, and the collector takes its usual time.
const KEPT: &str = "[metadata]\nsnapshot_seconds = 0\n";
const SCHEDULED: &str = "[metadata]\nsnapshot_seconds = 5\nsnapshots_kept = 2\n";

fn json(gateway: &Server, arguments: &[&str]) -> Value {
    let printed = gateway.admin(&[arguments, &["--json"]].concat()).unwrap();
    serde_json::from_str(printed.trim()).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

async fn put(s3: &aws_sdk_s3::Client, key: &str, body: &[u8]) {
    s3.put_object().bucket("promises").key(key).body(body.to_vec().into()).send().await.unwrap();
}

async fn keys(s3: &aws_sdk_s3::Client) -> Vec<String> {
    let listed = s3.list_objects_v2().bucket("promises").send().await.unwrap();
    listed.contents().iter().filter_map(|object| object.key().map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_that_is_lost_everywhere_comes_back_from_a_file_and_nothing_is_collected_before_it_is_reconciled() {
    let mut cluster = Cluster::start(USUAL, FAST).unwrap();
    let clients: Vec<_> = cluster.gateways.iter().map(client::of).collect();
    let s3 = &clients[0];
    s3.create_bucket().bucket("promises").send().await.unwrap();
    let body = Content::dense(1, 300_000).bytes();
    put(s3, "large", &body).await;
    put(s3, "small", b"x").await;
    let copy = cluster.place().join("copy");
    cluster.gateways[0].admin(&["metadata", "snapshot", "--out", text(&copy)]).unwrap();
    let twice = cluster.gateways[0].admin(&["metadata", "snapshot", "--out", text(&copy)]).unwrap_err().to_string();
    assert!(twice.contains("already"), "{twice}");
    assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    let bytes = fs::read(&copy).unwrap();
    assert!(!bytes.windows(8).any(|window| window == b"promises"), "a bucket's name is in the copy in clear");
    // Into metadata that is there nothing is restored.
    let refused = cluster.gateways[0].admin(&["metadata", "restore", text(&copy)]).unwrap_err().to_string();
    assert!(refused.contains("has something in it already"), "{refused}");
    put(s3, "later", b"y").await;

    for node in &mut cluster.metadata {
        node.kill();
        fs::remove_dir_all(node.data().join("metadata")).unwrap();
    }
    // One that has nothing says so; of one that is silent nobody knows, unless somebody does.
    cluster.metadata[1].start(&[]).unwrap();
    let silent = cluster.metadata[2].id.clone();
    let refused = cluster.metadata[0].start(&["--found-again"]).unwrap_err().to_string();
    assert!(refused.contains("do not answer") && refused.contains(&silent), "{refused}");
    assert!(!refused.contains(&cluster.metadata[1].id), "{refused}");
    cluster.metadata[0].start(&["--found-again", "--gone", &silent]).unwrap();
    let before = s3.list_objects_v2().bucket("promises").send().await.judged().unwrap_err();
    assert!(before.is_unknown(), "answered before it was restored: {before}");
    let altered = cluster.place().join("altered");
    fs::write(&altered, [&bytes[..bytes.len() / 2], &bytes[bytes.len() / 2 + 1..]].concat()).unwrap();
    let refused = cluster.gateways[0].admin(&["metadata", "restore", text(&altered)]).unwrap_err().to_string();
    assert!(refused.contains("no whole copy"), "{refused}");
    // A gateway need not run to restore.
    cluster.gateways[2].kill();
    cluster.gateways[2].admin(&["metadata", "restore", text(&copy)]).unwrap();
    cluster.gateways[2].restart().unwrap();
    cluster.metadata[2].start(&[]).unwrap();
    cluster.wait("all vote", |status| voting(status) == 3).unwrap();
    for s3 in clients.iter().take(2).chain([&client::of(&cluster.gateways[2])]) {
        assert_eq!(keys(s3).await, ["large", "small"]);
        let got = s3.get_object().bucket("promises").key("large").send().await.unwrap().body.collect().await.unwrap();
        assert!(got.into_bytes() == body);
    }
    // Deleted now, it stays on the nodes for as long as the collection is held, however often it is asked for.
    let shards = |cluster: &Cluster| -> u64 { cluster.nodes.iter().map(|node| node.shards()).sum() };
    let on_nodes = shards(&cluster);
    s3.delete_object().bucket("promises").key("large").send().await.unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    cluster.gateways[0].admin(&["collect", "--sweep"]).unwrap();
    assert!(shards(&cluster) >= on_nodes, "collected before it was reconciled");
    assert_eq!(json(&cluster.gateways[1], &["collection", "status"])["held"], true);
    let refused = cluster.gateways[1].admin(&["collection", "release"]).unwrap_err().to_string();
    assert!(refused.contains("metadata reconcile"), "{refused}");
    let done = json(&cluster.gateways[0], &["metadata", "reconcile"]);
    assert_eq!((&done["lost"], &done["released"]), (&0.into(), &true.into()), "{done:#}");
    let began = Instant::now();
    while shards(&cluster) >= on_nodes {
        assert!(began.elapsed() < Duration::from_secs(60), "the collection does not go on");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // A replica that has it all refuses to be founded again.
    cluster.metadata[1].kill();
    let refused = cluster.metadata[1].start(&["--found-again"]).unwrap_err().to_string();
    assert!(refused.contains("the replica is there"), "{refused}");
    cluster.metadata[1].start(&[]).unwrap();
}

/// Begins a split and waits until it is over.
fn split(cluster: &Cluster, arguments: &[&str]) {
    let begun = json(&cluster.gateways[0], &[&["metadata", "split"], arguments].concat());
    let began = Instant::now();
    loop {
        let map = json(&cluster.gateways[0], &["metadata", "map"]);
        let moves = map["moves"].as_array().cloned().unwrap_or_default();
        if moves.iter().any(|known| known["move"] == begun["move"] && known["step"] == "Done") {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{arguments:?} is not through: {map:#}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Body of the object `key`, of chunks of its own.
fn body_of(key: &str) -> Vec<u8> {
    let number = key.bytes().fold(7u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
    Content::dense(number, 30_000).bytes().to_vec()
}

/// Writes and deletes until it is told to stop; counts them in `done`.
async fn change(s3: aws_sdk_s3::Client, stop: Arc<AtomicBool>, done: Arc<AtomicU32>) {
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let key = format!("{}/{}", ["a", "m", "z"][round as usize % 3], round % 20);
        if round % 4 == 0 {
            s3.delete_object().bucket("promises").key(&key).send().await.unwrap();
        } else {
            put(&s3, &key, &body_of(&key)).await;
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_groups_are_copied_while_they_are_written_and_come_back_on_nodes_that_have_neither_replica_nor_key() {
    let mut cluster = Cluster::start(USUAL, KEPT).unwrap();
    let clients: Vec<_> = cluster.gateways.iter().map(client::of).collect();
    clients[0].create_bucket().bucket("promises").send().await.unwrap();
    for key in ["a/first", "m/first", "z/first"] {
        put(&clients[0], key, &body_of(key)).await;
    }
    split(&cluster, &["--at", "promises/m"]);
    split(&cluster, &["--at", "promises/z"]);
    split(&cluster, &["--chunk", "80"]);
    let (stop, copy) = (Arc::new(AtomicBool::new(false)), cluster.place().join("copy"));
    let done = Arc::new(AtomicU32::new(0));
    let changing: Vec<_> = clients.iter().map(|s3| tokio::spawn(change(s3.clone(), stop.clone(), done.clone()))).collect();
    let began = Instant::now();
    while done.load(Ordering::Relaxed) < 60 {
        assert!(began.elapsed() < Duration::from_secs(60), "nothing is written");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let taken = json(&cluster.gateways[1], &["metadata", "snapshot", "--out", text(&copy)]);
    stop.store(true, Ordering::Relaxed);
    for task in changing {
        task.await.unwrap();
    }
    assert!(taken["rows"].as_u64() > Some(50), "{taken}");

    // Every metadata node is gone with all that it had, and no gateway runs.
    let old: Vec<String> = cluster.metadata.iter().map(|node| node.id.clone()).collect();
    cluster.gateways.iter_mut().for_each(Server::kill);
    for node in &mut cluster.metadata {
        node.kill();
        fs::remove_dir_all(node.data()).unwrap();
    }
    let papers = cluster.place().join("papers");
    cluster.gateways[0].admin(&["metadata", "papers", "--out", text(&papers)]).unwrap();
    assert_eq!(fs::metadata(&papers).unwrap().permissions().mode() & 0o777, 0o600);
    let refused = cluster.metadata[0].start(&["--found-again"]).unwrap_err().to_string();
    assert!(refused.contains("belongs to no cluster"), "{refused}");
    let all = cluster.metadata[0].start(&["--found-again", "--papers", text(&papers)]).unwrap_err().to_string();
    assert!(old.iter().all(|node| all.contains(node)), "{all}");
    let gone: Vec<&str> = old.iter().flat_map(|node| ["--gone", node]).collect();
    cluster.metadata[0].start(&[&["--found-again", "--papers", text(&papers)], &gone[..]].concat()).unwrap();
    assert!(!old.contains(&cluster.metadata[0].id), "the node has a key that was deleted");
    let left = cluster.metadata[0].gateway_papers();
    cluster.gateways[0].admin(&["metadata", "restore", text(&copy), "--metadata", text(&left)]).unwrap();
    for gateway in &mut cluster.gateways {
        gateway.restart().unwrap();
    }
    for node in 1..3 {
        let token = cluster.invite("metadata", &[]).unwrap();
        cluster.metadata[node].start(&["--join", &token]).unwrap();
    }
    cluster.wait("all vote", |status| voting(status) == 3).unwrap();
    for node in &old {
        cluster.gateways[0].admin(&["metadata", "remove", node]).unwrap();
    }

    // Whatever is listed can be read, whichever moment the copy of its group was of.
    let clients: Vec<_> = cluster.gateways.iter().map(client::of).collect();
    let done = json(&cluster.gateways[0], &["metadata", "reconcile"]);
    assert_eq!((&done["lost"], &done["released"]), (&0.into(), &true.into()), "{done:#}");
    let listed = keys(&clients[1]).await;
    for key in ["a/first", "m/first", "z/first"] {
        assert!(listed.iter().any(|known| known == key), "{key} is missing in {listed:?}");
    }
    for (key, s3) in listed.iter().zip(clients.iter().cycle()) {
        let got = s3.get_object().bucket("promises").key(key).send().await.unwrap().body.collect().await.unwrap();
        assert!(got.into_bytes() == body_of(key), "{key}");
    }
    // One group has everything, and can be split again.
    split(&cluster, &["--at", "promises/m"]);
    put(&clients[2], "z/last", &body_of("z/last")).await;
    assert_eq!(keys(&clients[0]).await.len(), listed.len() + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_in_the_store_are_made_on_a_schedule_and_found_without_any_metadata() {
    let cluster = Cluster::start(Size { metadata: 1, gateways: 1, nodes: 6 }, SCHEDULED).unwrap();
    let gateway = &cluster.gateways[0];
    let s3 = client::of(gateway);
    s3.create_bucket().bucket("promises").send().await.unwrap();
    put(&s3, "k", &Content::dense(2, 200_000).bytes()).await;
    let escrow = cluster.place().join("escrow");
    gateway.admin(&["export", "--out", text(&escrow)]).unwrap();
    let began = Instant::now();
    while gateway.metric("breakwater_snapshots_total") < 4.0 {
        assert!(began.elapsed() < Duration::from_secs(90), "no copies are made");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let newest = cluster.place().join("newest");
    let told = json(gateway, &["metadata", "fetch", "--out", text(&newest)]);
    // Nobody's client gets at it.
    let refused = gateway.admin(&["key", "create", "(metadata)"]).unwrap_err().to_string();
    assert!(refused.contains("no S3 client"), "{refused}");
    assert!(s3.list_objects_v2().bucket("(metadata)").send().await.is_err());
    assert_eq!(s3.list_buckets().send().await.unwrap().buckets().len(), 1);

    // Everything but the storage nodes, the root key and the export is gone.
    let place = cluster.place().join("scratch");
    fs::create_dir_all(place.join("data")).unwrap();
    let key = place.join("data/root-key");
    fs::copy(gateway.data().join("root-key"), &key).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let Cluster { gateways, metadata, nodes, .. } = &cluster;
    for process in gateways {
        process.signal(libc::SIGSTOP);
    }
    for process in metadata {
        process.signal(libc::SIGSTOP);
    }
    let arguments = vec!["--recover".to_string(), text(&escrow).to_string()];
    let scratch = Server::start_with(Settings { place: Some(place), gateway: true, arguments, ..Settings::default() }).unwrap();
    let began = Instant::now();
    while conformance::fleet::serving(&json(&scratch, &["fleet", "status"])) < nodes.len() {
        assert!(began.elapsed() < Duration::from_secs(60), "the nodes do not answer");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    json(&scratch, &["fleet", "reindex"]);
    let found = cluster.place().join("found");
    let again = json(&scratch, &["metadata", "fetch", "--out", text(&found)]);
    assert!(again["made_ms"].as_u64() >= told["made_ms"].as_u64(), "{again} is older than {told}");
    assert!(again["rows"].as_u64() > Some(10), "{again}");
}
