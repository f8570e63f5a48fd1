//! Nodes that are no longer where the gateway's records have them.

use conformance::client;
use conformance::content::Content;
use conformance::fleet::{Fleet, serving};
use serde_json::Value;
use std::fs;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_moved_is_found_again_though_it_cannot_tell_the_gateway() {
    let mut fleet = Fleet::bare("").unwrap();
    let token = fleet.invite(&["--uses", "6"]).unwrap();
    let mut first = None;
    for number in 0..6 {
        let mut node = fleet.node(number).unwrap();
        node.arguments = vec!["--routing-listen".into(), "127.0.0.1:0".into()];
        node.arguments.extend(first.iter().flat_map(|router: &String| ["--bootstrap".to_string(), router.clone()]));
        node.start(Some(&token)).unwrap();
        first = first.or_else(|| node.log().lines().find_map(|line| line.strip_prefix("routing on ")).map(str::to_owned));
        fleet.nodes.push(node);
    }
    let first = first.expect("the first node says where it routes");
    fleet.gateway.arguments().extend(["--bootstrap".to_string(), first]);
    fleet.gateway.restart().unwrap();
    fleet.wait("all serve", |status| serving(status) == 6).unwrap();
    let s3 = client::of(&fleet.gateway);
    s3.create_bucket().bucket("promises").send().await.unwrap();
    let body = Content::dense(9, 3 << 20).bytes();
    s3.put_object().bucket("promises").key("k").body(body.clone().into()).send().await.unwrap();

    // To the last node nobody answers where it used to renew: all that can tell the gateway is the routing layer.
    let mut node = fleet.nodes.remove(5);
    assert!(node.terminate(Duration::from_secs(30)).unwrap().success());
    fleet.wait("it is missed", |status| serving(status) == 5).unwrap();
    let papers = node.disk().join("fleet.json");
    let mut said: Value = serde_json::from_str(&fs::read_to_string(&papers).unwrap()).unwrap();
    said["gate"] = "127.0.0.1:1".into();
    fs::write(&papers, said.to_string()).unwrap();
    let before = node.address().to_owned();
    // Its old port is taken, so that it cannot get it again.
    let _taken = std::net::TcpListener::bind(&before).unwrap();
    node.moves();
    node.start(None).unwrap();
    assert_ne!(node.address(), before);
    fleet.wait("the moved node is found", |status| serving(status) == 6).unwrap();
    let known = fleet.status().unwrap();
    assert!(known["nodes"].to_string().contains(&before), "the node has told the gateway after all: {known:#}");
    let got = s3.get_object().bucket("promises").key("k").send().await.unwrap().body.collect().await.unwrap().into_bytes();
    assert!(got == body);
}
