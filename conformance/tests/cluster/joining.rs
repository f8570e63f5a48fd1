//! Who gets into a metadata cluster, and out of it.

use conformance::client;
use conformance::cluster::{Cluster, MetadataNode, Size, voting};
use conformance::content::Content;
use conformance::fleet::Fleet;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

const SMALL: Size = Size { metadata: 1, gateways: 1, nodes: 0 };

fn refused(node: &mut MetadataNode, arguments: &[&str]) -> String {
    node.start(arguments).unwrap_err().to_string()
}

#[test]
fn a_metadata_node_joins_with_an_invitation_for_such_and_starts_again_without() {
    let mut cluster = Cluster::start(SMALL, "").unwrap();
    let mut node = MetadataNode::new(&cluster.place().join("another"), None).unwrap();
    assert!(refused(&mut node, &[]).contains("belongs to no cluster"));
    let for_disks = cluster.invite("fleet", &[]).unwrap();
    assert!(refused(&mut node, &["--join", &for_disks]).contains("no invitation for this"));
    // Relabelled, its secret opens nothing either.
    let relabelled = for_disks.replace("bwjoin1", "bwmeta1");
    assert!(refused(&mut node, &["--join", &relabelled]).contains("knows no such invitation"));
    let token = cluster.invite("metadata", &[]).unwrap();
    node.start(&["--join", &token]).unwrap();
    cluster.wait("both vote", |status| voting(status) == 2).unwrap();
    let mode = |name: &str| std::fs::metadata(node.data().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("node-key"), mode("member.json")), (0o600, 0o600));
    assert!(!node.data().join("root-key").exists() && !node.gateway_papers().exists());
    let mut third = MetadataNode::new(&cluster.place().join("third"), None).unwrap();
    assert!(refused(&mut third, &["--join", &token]).contains("has been used"));
    assert!(node.terminate(Duration::from_secs(30)).unwrap().success());
    node.start(&[]).unwrap();
    cluster.wait("both vote again", |status| voting(status) == 2).unwrap();
    cluster.metadata.push(node);
}

#[test]
fn a_metadata_node_starts_again_with_the_same_command_line_and_not_with_another_clusters_invitation() {
    let mut cluster = Cluster::start(SMALL, "").unwrap();
    let mut node = MetadataNode::new(&cluster.place().join("another"), None).unwrap();
    let token = cluster.invite("metadata", &[]).unwrap();
    node.start(&["--join", &token]).unwrap();
    cluster.wait("both vote", |status| voting(status) == 2).unwrap();
    assert!(node.terminate(Duration::from_secs(30)).unwrap().success());
    node.start(&["--join", &token]).unwrap();
    cluster.wait("both vote again", |status| voting(status) == 2).unwrap();
    assert!(cluster.metadata[0].terminate(Duration::from_secs(30)).unwrap().success());
    cluster.metadata[0].start(&["--init"]).unwrap();
    cluster.wait("both vote still", |status| voting(status) == 2).unwrap();
    let other = Cluster::start(SMALL, "").unwrap();
    let theirs = other.invite("metadata", &[]).unwrap();
    assert!(node.terminate(Duration::from_secs(30)).unwrap().success());
    let refusal = refused(&mut node, &["--join", &theirs]);
    assert!(refusal.contains("for another cluster than the one that this folder belongs to"), "{refusal}");
    // Nothing was used up or changed by that.
    node.start(&[]).unwrap();
    cluster.wait("both vote in the end", |status| voting(status) == 2).unwrap();
    let mut theirs_alone = MetadataNode::new(&other.place().join("another"), None).unwrap();
    theirs_alone.start(&["--join", &theirs]).unwrap();
    other.wait("both of the other cluster vote", |status| voting(status) == 2).unwrap();
}

#[test]
fn the_folders_of_metadata_nodes_and_of_gateways_are_refused_to_other_roles() {
    let mut cluster = Cluster::start(SMALL, "").unwrap();
    let listen = ["--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"];
    let papers = cluster.metadata[0].gateway_papers().to_string_lossy().into_owned();
    let (member, gateway) = (cluster.metadata[0].data(), cluster.gateways[0].data().to_path_buf());
    assert!(cluster.metadata[0].terminate(Duration::from_secs(30)).unwrap().success());
    cluster.gateways[0].kill();
    let own = cluster.place().join("own");
    std::fs::create_dir_all(own.join("metadata")).unwrap();
    std::fs::write(own.join("metadata/x"), "x").unwrap();
    std::fs::write(own.join("root-key"), "00".repeat(32)).unwrap();
    std::fs::set_permissions(own.join("root-key"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
    for (role, data, more, says) in [
        ("serve", &member, &[][..], "metadata node's"),
        ("gateway", &member, &[], "metadata node's"),
        ("metadata", &gateway, &["--init"], "another role's"),
        ("gateway", &own, &["--metadata", &papers], "metadata of its own"),
    ] {
        let data = text(data);
        let output = cluster.gateways[0].run(&[&[role, "--data", &data], &listen[..], more].concat()).unwrap();
        let printed = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && printed.contains(says), "{role} {data}: {printed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_metadata_node_is_taken_out_dead_or_alive_and_does_not_come_back() {
    let mut cluster = Cluster::start(Size { metadata: 3, gateways: 1, nodes: 0 }, "").unwrap();
    let s3 = client::of(&cluster.gateways[0]);
    s3.create_bucket().bucket("promises").send().await.unwrap();
    let refusal = cluster.gateways[0].admin(&["metadata", "remove", "ffffffffff"]).unwrap_err().to_string();
    assert!(refusal.contains("no metadata node"), "{refusal}");
    // The leader itself, alive.
    let leader = cluster.leader().expect("somebody leads");
    let id = cluster.metadata[leader].id.clone();
    cluster.gateways[0].admin(&["metadata", "remove", &id[..16]]).unwrap();
    cluster.wait("two are left", |status| voting(status) == 2).unwrap();
    s3.put_object().bucket("promises").key("k").body(b"x".to_vec().into()).send().await.unwrap();
    // Its certificates are revoked: started again it is let in nowhere, and says so, at the latest once a gateway has told it.
    let invitation = cluster.invite("metadata", &[]).unwrap();
    match cluster.metadata[leader].start(&["--join", &invitation]) {
        Ok(()) => {
            let ended = cluster.metadata[leader].ends(Duration::from_secs(90));
            assert_eq!(ended.and_then(|status| status.code()), Some(1), "{}", cluster.metadata[leader].log());
            assert!(cluster.metadata[leader].log().contains("was removed from its cluster for good"));
        }
        Err(error) => assert!(error.to_string().contains("was removed from its cluster for good"), "{error}"),
    }
    let status = cluster.status().unwrap();
    assert_eq!(voting(&status), 2, "{status:#}");
    let listed = s3.list_objects_v2().bucket("promises").send().await.unwrap();
    assert_eq!(listed.contents().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_metadata_node_is_taken_out_by_a_majority_and_the_last_one_stays() {
    let mut cluster = Cluster::start(Size { metadata: 3, gateways: 1, nodes: 0 }, "").unwrap();
    let s3 = client::of(&cluster.gateways[0]);
    s3.create_bucket().bucket("promises").send().await.unwrap();
    let put = async |body: &[u8]| s3.put_object().bucket("promises").key("k").body(body.to_vec().into()).send().await.unwrap();
    let dead = cluster.leader().expect("somebody leads");
    cluster.metadata[dead].kill();
    let id = cluster.metadata[dead].id.clone();
    cluster.gateways[0].admin(&["metadata", "remove", &id]).unwrap();
    cluster.wait("two are left", |status| voting(status) == 2).unwrap();
    put(b"x").await;
    // Started again it is let in nowhere, whether it ends at that or goes on asking.
    let _ = cluster.metadata[dead].start(&[]);
    std::thread::sleep(Duration::from_secs(4));
    let status = cluster.status().unwrap();
    assert_eq!(voting(&status), 2, "{status:#}");
    let left: Vec<String> = (0..3).filter(|at| *at != dead).map(|at| cluster.metadata[at].id.clone()).collect();
    cluster.gateways[0].admin(&["metadata", "remove", &left[0]]).unwrap();
    cluster.wait("one is left", |status| voting(status) == 1).unwrap();
    let refusal = cluster.gateways[0].admin(&["metadata", "remove", &left[1]]).unwrap_err().to_string();
    assert!(refusal.contains("no other metadata node would stay"), "{refusal}");
    put(b"y").await;
    let got = s3.get_object().bucket("promises").key("k").send().await.unwrap();
    assert_eq!(got.body.collect().await.unwrap().to_vec(), b"y");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_comes_when_the_first_metadata_node_is_gone_takes_papers_of_another_gateway() {
    let mut cluster = Cluster::start(Size { metadata: 3, gateways: 1, nodes: 0 }, "").unwrap();
    let s3 = client::of(&cluster.gateways[0]);
    s3.create_bucket().bucket("promises").send().await.unwrap();
    s3.put_object().bucket("promises").key("k").body(b"x".to_vec().into()).send().await.unwrap();
    let first = cluster.metadata[0].id.clone();
    cluster.gateways[0].admin(&["metadata", "remove", &first]).unwrap();
    cluster.metadata[0].kill();
    let papers = cluster.place().join("papers-of-now").to_string_lossy().into_owned();
    cluster.gateways[0].admin(&["metadata", "papers", "--out", &papers]).unwrap();
    let settings = conformance::server::Settings {
        place: Some(cluster.place().join("gateway-later")),
        gateway: true,
        arguments: vec!["--metadata".to_string(), papers],
        ..conformance::server::Settings::default()
    };
    let later = conformance::server::Server::start_with(settings).unwrap();
    let listed = client::of(&later).list_objects_v2().bucket("promises").send().await.unwrap();
    assert_eq!(listed.contents().len(), 1);
}

#[test]
fn metadata_nodes_get_new_certificates_from_gateways_while_they_serve() {
    let mut cluster = Cluster::start(Size { metadata: 2, gateways: 1, nodes: 0 }, "[fleet]\ncertificate_seconds = 12\n").unwrap();
    let ends = |cluster: &Cluster| -> u64 {
        let status = cluster.status().unwrap();
        let node = status["nodes"].as_array().unwrap().iter().find(|node| node["node"] == cluster.metadata[1].id.as_str()).cloned();
        node.unwrap()["certificate_ends_ms"].as_u64().unwrap()
    };
    let (first, began) = (ends(&cluster), Instant::now());
    while ends(&cluster) == first {
        assert!(began.elapsed() < Duration::from_secs(30), "the certificate was not renewed");
        std::thread::sleep(Duration::from_millis(500));
    }
    // Past the end of the first one it still is who it is, to everybody.
    std::thread::sleep(Duration::from_secs(13));
    cluster.metadata[1].kill();
    cluster.metadata[1].start(&[]).unwrap();
    cluster.wait("both vote", |status| voting(status) == 2).unwrap();
    assert!(cluster.metadata[1].log().contains("the certificate was renewed"));
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    let end = cluster.metadata[1].metric("breakwater_metadata_certificate_end_seconds").unwrap();
    assert!((now..now + 13.0).contains(&end), "{end} at {now}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_gateways_own_metadata_becomes_the_first_nodes_of_a_cluster_and_the_gateway_cannot_serve_it_any_more() {
    let mut fleet = Fleet::start(6, "").unwrap();
    let body = |n: u64| Content::dense(n, 300_000).bytes();
    let s3 = client::of(&fleet.gateway);
    s3.create_bucket().bucket("promises").send().await.unwrap();
    for n in 0..8 {
        s3.put_object().bucket("promises").key(format!("k{n}")).body(body(n).into()).send().await.unwrap();
    }
    // In two groups, as it may be by then.
    fleet.gateway.admin(&["metadata", "split", "--at", "promises/k4"]).unwrap();
    let begun = Instant::now();
    while !fleet.gateway.admin(&["metadata", "map", "--json"]).unwrap().contains("\"Done\"") {
        assert!(begun.elapsed() < Duration::from_secs(30), "{}", fleet.gateway.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(fleet.gateway.terminate(Duration::from_secs(30)).unwrap().success());
    let old = fleet.gateway.data().to_path_buf();
    let from = old.to_string_lossy().into_owned();
    let mut first = MetadataNode::new(&fleet.place().join("metadata-0"), None).unwrap();
    first.start(&["--init", "--from", &from]).unwrap();
    let refusal = fleet.gateway.restart().unwrap_err().to_string();
    assert!(refusal.contains("was given to the metadata node"), "{refusal}");
    let mut another = MetadataNode::new(&fleet.place().join("another"), None).unwrap();
    assert!(refused(&mut another, &["--init", "--from", &from]).contains("was given to another metadata node"));
    let papers = first.gateway_papers().to_string_lossy().into_owned();
    let settings = conformance::server::Settings {
        place: Some(fleet.place().join("gateway-after")),
        gateway: true,
        arguments: vec!["--metadata".to_string(), papers],
        ..conformance::server::Settings::default()
    };
    let gateway = conformance::server::Server::start_with(settings).unwrap();
    let s3 = client::of(&gateway);
    let has = async |keys: u64| {
        for n in 0..keys {
            let got = s3.get_object().bucket("promises").key(format!("k{n}")).send().await.unwrap();
            assert_eq!(got.body.collect().await.unwrap().into_bytes(), body(n), "{n}");
        }
    };
    has(8).await;
    // It is a cluster like any other: two more have everything soon, and the first is not needed.
    let mut nodes = Vec::new();
    for number in 1..3 {
        let printed = gateway.admin(&["metadata", "invite", "--json"]).unwrap();
        let invitation: Value = serde_json::from_str(printed.trim()).unwrap();
        let mut node = MetadataNode::new(&fleet.place().join(format!("metadata-{number}")), None).unwrap();
        node.start(&["--join", invitation["token"].as_str().unwrap()]).unwrap();
        nodes.push(node);
    }
    let begun = Instant::now();
    while !nodes.iter().all(|node| node.ready().is_ok_and(|ready| voted(&ready) == 2)) {
        assert!(begun.elapsed() < Duration::from_secs(60), "{:#?}\n{}", nodes[0].ready(), first.log());
        std::thread::sleep(Duration::from_millis(200));
    }
    s3.put_object().bucket("promises").key("k8").body(body(8).into()).send().await.unwrap();
    first.kill();
    has(9).await;
}

fn voted(ready: &Value) -> usize {
    ready["groups"].as_array().map_or(0, |groups| groups.iter().filter(|group| group["votes"] == true).count())
}
