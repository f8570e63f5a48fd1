//! Nodes that lie, as clients and operators see them.

use conformance::client::{self, Judge};
use conformance::content::Content;
use conformance::fleet::{Fleet, StorageNode, serving};
use conformance::liar::{Lie, Lying};
use serde_json::Value;
use std::time::{Duration, Instant};

const BUCKET: &str = "promises";
const BYTES: usize = 300_000;
/// No audit comes in time: reads alone have to find it out.
const CONFIG: &str = "[repair]\ninterval_seconds = 1\n[fleet]\naudits_per_day = 1\n";

fn of(status: &Value, node: &StorageNode) -> Value {
    status["nodes"].as_array().unwrap().iter().find(|one| one["node"] == node.id()).unwrap().clone()
}

async fn right(client: &aws_sdk_s3::Client, number: u64) {
    let got = client.get_object().bucket(BUCKET).key(number.to_string()).send().await.judged().unwrap();
    assert!(got.body.collect().await.unwrap().into_bytes() == Content::dense(number, BYTES).bytes(), "object {number}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lies_to_reads_is_suspended_and_no_client_sees_a_wrong_byte() {
    for lie in [Lie::OtherBytes, Lie::Stale] {
        let mut fleet = Fleet::start(8, CONFIG).unwrap();
        let client = client::of(&fleet.gateway);
        client.create_bucket().bucket(BUCKET).send().await.judged().unwrap();
        for number in 0..24 {
            let body = Content::dense(number, BYTES).bytes();
            client.put_object().bucket(BUCKET).key(number.to_string()).body(body.into()).send().await.judged().unwrap();
        }
        let lying = Lying::start(&mut fleet.nodes[2], lie).await.unwrap();
        fleet.wait("the liar serves", |status| serving(status) == 8).unwrap();
        let began = Instant::now();
        loop {
            for number in 0..24 {
                right(&client, number).await;
            }
            let node = of(&fleet.status().unwrap(), &fleet.nodes[2]);
            if node["state"] == "suspended" {
                assert!(node["reason"].as_str().unwrap().starts_with("audit: "), "{node}");
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{lie:?}: {node}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert!(lying.told() >= 3);
        // The suspension is the fleet's, whatever the gateway forgets of how it came to it.
        fleet.gateway.restart().unwrap();
        assert_eq!(of(&fleet.status().unwrap(), &fleet.nodes[2])["state"], "suspended");
        for number in 0..24 {
            right(&client, number).await;
        }
        lying.stop().await.unwrap();
    }
}
