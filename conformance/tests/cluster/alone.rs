//! Metadata in one process is split, merged and moved by the same code as in a cluster.

use conformance::client::{self, Judge};
use conformance::content::Content;
use conformance::server::{Server, Settings};
use serde_json::Value;
use std::time::{Duration, Instant};

const BUCKET: &str = "promises";

fn map(server: &Server) -> Value {
    serde_json::from_str(server.admin(&["metadata", "map", "--json"]).unwrap().trim()).unwrap()
}

/// Begins a move and waits until it is done.
fn moved(server: &Server, arguments: &[&str]) {
    let printed = server.admin(&[&["metadata"], arguments, &["--json"]].concat()).unwrap();
    let begun: Value = serde_json::from_str(printed.trim()).unwrap();
    let since = Instant::now();
    loop {
        let all = map(server)["moves"].as_array().cloned().unwrap_or_default();
        match all.iter().find(|record| record["move"] == begun["move"]).and_then(|record| record["step"].as_str()) {
            Some("Done") => return,
            step => assert!(since.elapsed() < Duration::from_secs(30), "{arguments:?} is not through: {step:?}\n{}", server.log()),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_process_splits_and_merges_its_own_metadata_and_has_it_after_a_kill() {
    let mut server = Server::start_with(Settings::default()).unwrap();
    let s3 = client::of(&server);
    s3.create_bucket().bucket(BUCKET).send().await.unwrap();
    let body = |n: u64| Content::dense(n, if n.is_multiple_of(3) { 300_000 } else { 100 }).bytes();
    let put = async |server: &Server, keys: std::ops::Range<u64>| {
        let s3 = client::of(server);
        for n in keys {
            s3.put_object().bucket(BUCKET).key(format!("k/{n:03}")).body(body(n).into()).send().await.judged().unwrap();
        }
    };
    put(&server, 0..60).await;
    moved(&server, &["split", "--at", "promises/k/030"]);
    moved(&server, &["split", "--chunk", "8"]);
    let split = map(&server);
    assert_eq!((split["names"].as_array().unwrap().len(), split["chunks"].as_array().unwrap().len()), (2, 2), "{split:#}");
    put(&server, 60..90).await;
    // There are no nodes that could come or go.
    let refusal = server.admin(&["metadata", "invite"]).unwrap_err().to_string();
    assert!(refusal.contains("keeps its metadata itself"), "{refusal}");
    let status: Value = serde_json::from_str(server.admin(&["metadata", "status", "--json"]).unwrap().trim()).unwrap();
    assert_eq!((status["nodes"].as_array().unwrap().len(), &status["nodes"][0]["leads"]), (1, &Value::Bool(true)), "{status:#}");
    server.restart().unwrap();
    put(&server, 90..100).await;
    moved(&server, &["merge", "0"]);
    moved(&server, &["merge", "0", "--chunks"]);
    let s3 = client::of(&server);
    let listed = s3.list_objects_v2().bucket(BUCKET).send().await.unwrap();
    let keys: Vec<&str> = listed.contents().iter().filter_map(|object| object.key()).collect();
    assert_eq!(keys, (0..100).map(|n| format!("k/{n:03}")).collect::<Vec<_>>());
    for n in 0..100 {
        let got = s3.get_object().bucket(BUCKET).key(format!("k/{n:03}")).send().await.unwrap();
        assert_eq!(got.body.collect().await.unwrap().into_bytes(), body(n), "{n}");
    }
    server.admin(&["fsck"]).unwrap();
}
