//! What was lost, or never reached, and comes back: metadata, disks, machines that only an operator's hands reach.

use conformance::client;
use conformance::content::Content;
use conformance::fleet::{Fleet, StorageNode, serving};
use serde_json::Value;
use std::collections::HashSet;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;

fn admin(fleet: &Fleet, arguments: &[&str]) -> Value {
    let printed = fleet.gateway.admin(&[arguments, &["--json"]].concat()).unwrap();
    serde_json::from_str(printed.trim()).unwrap()
}

/// The gateway's machine is lost, but for the root key and what the operator exported.
fn lose_the_metadata(fleet: &mut Fleet, escrow: &Path) {
    assert!(fleet.gateway.terminate(Duration::from_secs(60)).unwrap().success());
    let data = fleet.gateway.data().to_owned();
    let key = fs::read(data.join("root-key")).unwrap();
    fs::remove_dir_all(&data).unwrap();
    fs::create_dir(&data).unwrap();
    fs::write(data.join("root-key"), key).unwrap();
    fs::set_permissions(data.join("root-key"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    *fleet.gateway.arguments() = vec!["--recover".into(), escrow.display().to_string()];
    fleet.gateway.restart().unwrap();
}

fn chunks(fleet: &Fleet) -> Vec<String> {
    let page = admin(fleet, &["chunk", "list"]);
    assert_eq!(page["more"], false);
    page["chunks"].as_array().unwrap().iter().map(|one| one["chunk"].as_str().unwrap().to_owned()).collect()
}

fn read(fleet: &Fleet, chunk: &str) -> Vec<u8> {
    let file = fleet.place().join("chunk");
    fleet.gateway.admin(&["chunk", "get", chunk, "--out", file.to_str().unwrap()]).unwrap();
    fs::read(file).unwrap()
}

fn shards(fleet: &Fleet) -> u64 {
    fleet.nodes.iter().map(StorageNode::shards).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_of_a_fleet_whose_metadata_is_gone_are_readable_again_by_their_names() {
    let mut fleet = Fleet::start(6, "").unwrap();
    let s3 = client::of(&fleet.gateway);
    s3.create_bucket().bucket("promises").send().await.unwrap();
    let bodies: Vec<_> = (0..4).map(|seed| Content::dense(seed, 3 * MIB).bytes()).collect();
    for (number, body) in bodies.iter().enumerate() {
        s3.put_object().bucket("promises").key(format!("k{number}")).body(body.clone().into()).send().await.unwrap();
    }
    fleet.gateway.admin(&["repair"]).unwrap();
    let escrow = fleet.place().join("escrow");
    fleet.gateway.admin(&["export", "--out", escrow.to_str().unwrap()]).unwrap();
    let known = chunks(&fleet);
    let on_nodes = shards(&fleet);
    assert_eq!(known.len(), 12);

    // Three of six machines are away as well: nothing can be read, and every chunk is named.
    fleet.nodes[..3].iter_mut().for_each(StorageNode::kill);
    lose_the_metadata(&mut fleet, &escrow);
    fleet.wait("three serve", |status| serving(status) == 3).unwrap();
    assert!(chunks(&fleet).is_empty());
    let done = admin(&fleet, &["fleet", "reindex"]);
    assert_eq!((&done["restored"], &done["too_few"]), (&0.into(), &12.into()), "{done:#}");
    let left: HashSet<&str> = done["left"].as_array().unwrap().iter().map(|one| one["chunk"].as_str().unwrap()).collect();
    assert!(known.iter().all(|chunk| left.contains(chunk.as_str())));
    assert_eq!(done["nodes_away"].as_array().unwrap().len(), 3);
    // Nothing that looks like an orphan is one.
    fleet.gateway.admin(&["collect", "--sweep"]).unwrap();

    for node in &mut fleet.nodes[..3] {
        node.back().unwrap();
    }
    fleet.wait("all serve", |status| serving(status) == 6).unwrap();
    let done = admin(&fleet, &["fleet", "reindex"]);
    assert_eq!((&done["restored"], &done["left"]), (&12.into(), &Value::Array(vec![])), "{done:#}");
    assert_eq!(chunks(&fleet), known);
    let pieces: HashSet<Vec<u8>> = known.iter().map(|chunk| read(&fleet, chunk)).collect();
    assert!(bodies.iter().flat_map(|body| body.chunks(MIB)).all(|piece| pieces.contains(piece)), "a chunk reads back wrong");

    // No object refers to any of it, and it stays until an operator says otherwise. What is written now finds it there.
    assert_eq!(admin(&fleet, &["collection", "status"])["held"], true);
    fleet.gateway.admin(&["collect", "--sweep"]).unwrap();
    assert_eq!((chunks(&fleet).len(), shards(&fleet)), (12, on_nodes));
    let s3 = client::of(&fleet.gateway);
    s3.create_bucket().bucket("again").send().await.unwrap();
    let sealed = fleet.gateway.metric("breakwater_path_chunks_new_total");
    s3.put_object().bucket("again").key("k").body(bodies[0].clone().into()).send().await.unwrap();
    assert_eq!(fleet.gateway.metric("breakwater_path_chunks_new_total"), sealed);
    let got = s3.get_object().bucket("again").key("k").send().await.unwrap().body.collect().await.unwrap().into_bytes();
    assert!(got == bodies[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_joined_after_the_export_is_a_stranger_until_an_operator_admits_it_again() {
    let mut fleet = Fleet::start(5, "").unwrap();
    let escrow = fleet.place().join("escrow");
    fleet.gateway.admin(&["export", "--out", escrow.to_str().unwrap()]).unwrap();
    let mut late = fleet.node(5).unwrap();
    late.start(Some(&fleet.invite(&[]).unwrap())).unwrap();
    fleet.wait("six serve", |status| serving(status) == 6).unwrap();
    let s3 = client::of(&fleet.gateway);
    s3.create_bucket().bucket("promises").send().await.unwrap();
    let body = Content::dense(9, 3 * MIB).bytes();
    s3.put_object().bucket("promises").key("k").body(body.clone().into()).send().await.unwrap();
    fleet.gateway.admin(&["repair"]).unwrap();
    let held = late.shards();
    assert_eq!(held, 3);

    // Of the five that the escrow knows, three are there: with the late one it is enough, and without it is not.
    fleet.nodes[..2].iter_mut().for_each(StorageNode::kill);
    lose_the_metadata(&mut fleet, &escrow);
    fleet.wait("three serve", |status| serving(status) == 3).unwrap();
    assert_eq!(fleet.status().unwrap()["nodes"].as_array().unwrap().len(), 5, "a certificate alone lets nobody in");
    let done = admin(&fleet, &["fleet", "reindex"]);
    assert_eq!((&done["restored"], &done["too_few"]), (&0.into(), &3.into()), "{done:#}");
    assert_eq!(late.shards(), held, "a stranger loses nothing");

    assert!(late.terminate(Duration::from_secs(30)).unwrap().success());
    let (request, answer) = (fleet.place().join("request"), fleet.place().join("answer"));
    late.run_once(&["--request", request.to_str().unwrap()]).unwrap();
    fleet.gateway.admin(&["fleet", "admit", request.to_str().unwrap(), "--out", answer.to_str().unwrap()]).unwrap();
    late.arguments = vec!["--admitted".into(), answer.display().to_string()];
    late.start(None).unwrap();
    fleet.wait("four serve", |status| serving(status) == 4).unwrap();
    let done = admin(&fleet, &["fleet", "reindex"]);
    assert_eq!((&done["restored"], &done["too_few"]), (&3.into(), &0.into()), "{done:#}");
    let pieces: HashSet<Vec<u8>> = chunks(&fleet).iter().map(|chunk| read(&fleet, chunk)).collect();
    assert!(body.chunks(MIB).all(|piece| pieces.contains(piece)), "a chunk reads back wrong");
}

#[test]
fn an_escrow_opens_with_the_root_key_it_was_made_under_and_no_other() {
    let mut fleet = Fleet::bare("").unwrap();
    let escrow = fleet.place().join("escrow");
    fleet.gateway.admin(&["export", "--out", escrow.to_str().unwrap()]).unwrap();
    assert!(fleet.gateway.terminate(Duration::from_secs(60)).unwrap().success());
    let data = fleet.gateway.data().to_owned();
    let key = fs::read_to_string(data.join("root-key")).unwrap();
    fs::remove_dir_all(&data).unwrap();
    *fleet.gateway.arguments() = vec!["--recover".into(), escrow.display().to_string()];
    let error = fleet.gateway.restart().unwrap_err().to_string();
    assert!(error.contains("root key is missing"), "{error}");
    let other: String = key.chars().map(|c| if c == '0' { '1' } else { c }).collect();
    fs::write(data.join("root-key"), other).unwrap();
    fs::set_permissions(data.join("root-key"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let error = fleet.gateway.restart().unwrap_err().to_string();
    assert!(error.contains("does not open"), "{error}");
    fs::write(data.join("root-key"), key).unwrap();
    fleet.gateway.restart().unwrap();
    fleet.gateway.admin(&["fleet", "invite"]).unwrap();
}

/// A port that nobody has.
fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn a_node_that_reaches_no_gateway_is_admitted_by_a_file_that_an_operator_carries() {
    // Nobody answers where nodes would ask.
    let fleet = Fleet::bare("[fleet]\nadmission_address = \"127.0.0.1:1\"\n").unwrap();
    let mut node = fleet.node(0).unwrap().at(&format!("127.0.0.1:{}", port()));
    let (request, answer) = (fleet.place().join("request"), fleet.place().join("answer"));
    let (request, answer) = (request.to_str().unwrap(), answer.to_str().unwrap());
    node.run_once(&["--request", request]).unwrap();
    assert!(node.start(None).unwrap_err().to_string().contains("--join"), "a request is no admission");

    let asked = fs::read_to_string(request).unwrap();
    fs::write(request, asked.replace("4294967296", "4294967297")).unwrap();
    let error = fleet.gateway.admin(&["fleet", "admit", request, "--out", answer]).unwrap_err().to_string();
    assert!(error.contains("did not sign"), "{error}");
    fs::write(request, &asked).unwrap();
    let said = fleet.gateway.admin(&["fleet", "admit", request, "--out", answer, "--days", "10"]).unwrap();
    assert!(said.contains("machine-0"), "{said}");

    let mut stranger = fleet.node(1).unwrap();
    stranger.run_once(&["--request", &format!("{request}-1")]).unwrap_err();
    stranger = stranger.at(&format!("127.0.0.1:{}", port()));
    stranger.run_once(&["--request", &format!("{request}-1")]).unwrap();
    stranger.arguments = vec!["--admitted".into(), answer.into()];
    assert!(stranger.start(None).unwrap_err().to_string().contains("none of these disks"));

    node.arguments = vec!["--admitted".into(), answer.into()];
    node.start(None).unwrap();
    fleet.wait("it serves", |status| serving(status) == 1).unwrap();
    let ends = fleet.status().unwrap()["nodes"][0]["certificate_ends_ms"].as_u64().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    assert!((9 * 86_400_000..=10 * 86_400_000).contains(&ends.saturating_sub(now)), "{ends}");
    // The option may stay: a second start takes nothing in again.
    assert!(node.terminate(Duration::from_secs(30)).unwrap().success());
    node.start(None).unwrap();
    fleet.wait("it serves again", |status| serving(status) == 1).unwrap();
    fleet.gateway.admin(&["fleet", "retire", node.id()]).unwrap();
    let error = fleet.gateway.admin(&["fleet", "admit", request, "--out", answer]).unwrap_err().to_string();
    assert!(error.contains("retired"), "{error}");
}

#[test]
fn a_disk_that_is_away_at_the_start_is_served_as_soon_as_it_is_back() {
    let fleet = Fleet::bare("").unwrap();
    let mut node = fleet.node(0).unwrap().with_disk("second");
    node.start(Some(&fleet.invite(&[]).unwrap())).unwrap();
    fleet.wait("both disks serve", |status| serving(status) == 2).unwrap();
    assert!(node.terminate(Duration::from_secs(30)).unwrap().success());
    let second = node.disk().with_file_name("second");
    let aside = second.with_file_name("aside");
    fs::rename(&second, &aside).unwrap();
    // As an unmounted disk looks.
    fs::create_dir(&second).unwrap();
    node.start(None).unwrap();
    let health = |node: &StorageNode| node.get_ops("/health/ready").unwrap();
    let (status, body) = health(&node);
    assert!(status == 200 && body.contains("Missing"), "{body}");
    assert!(node.get_ops("/metrics").unwrap().1.contains("breakwater_node_serving{disk=\"1\"} 0"));
    fleet.wait("one serves", |status| serving(status) == 1).unwrap();
    std::thread::sleep(Duration::from_secs(6));
    assert!(fs::read_dir(&second).unwrap().next().is_none(), "an empty folder was taken for a disk");

    fs::remove_dir(&second).unwrap();
    fs::rename(&aside, &second).unwrap();
    fleet.wait("both serve, without a restart", |status| serving(status) == 2).unwrap();
    let began = Instant::now();
    while health(&node).1.contains("Missing") {
        assert!(began.elapsed() < Duration::from_secs(30), "{}", health(&node).1);
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(node.get_ops("/metrics").unwrap().1.contains("breakwater_node_serving{disk=\"1\"} 1"));
    assert!(node.terminate(Duration::from_secs(30)).unwrap().success());
}
