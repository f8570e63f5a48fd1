//! What operators are told of a metadata cluster that is not well.

use conformance::client;
use conformance::cluster::{Cluster, Size, voting};
use serde_json::Value;
use std::time::{Duration, Instant};

/// How long an answer may take while nobody leads.
const LIMIT: Duration = Duration::from_secs(10);

/// What the first gateway prints, in time.
fn told(cluster: &Cluster, arguments: &[&str]) -> String {
    let began = Instant::now();
    let printed = cluster.gateways[0].admin(&[&["metadata"], arguments].concat()).unwrap();
    assert!(began.elapsed() < LIMIT, "{arguments:?} took {:?}", began.elapsed());
    printed
}

fn read(printed: &str) -> Value {
    serde_json::from_str(printed.trim()).unwrap()
}

#[test]
fn the_status_says_who_is_silent_and_what_to_do_while_nobody_leads() {
    let mut cluster = Cluster::start(Size { metadata: 3, gateways: 1, nodes: 0 }, "").unwrap();
    let well = read(&told(&cluster, &["status", "--json"]));
    assert!(well["records_known"] == true && well["trouble"].is_null() && well["ranges"].is_array(), "{well:#}");
    assert!(!told(&cluster, &["status"]).contains("silent"));
    for node in &mut cluster.metadata[1..] {
        node.kill();
    }
    let status = read(&told(&cluster, &["status", "--json"]));
    let nodes = status["nodes"].as_array().unwrap();
    assert!(status["records_known"] == false && status["ranges"].is_null() && nodes.len() == 3, "{status:#}");
    assert!(status["trouble"].as_str().is_some_and(|text| text.contains("of 3 that vote 1 answer, and it takes 2")), "{status:#}");
    for node in nodes {
        let lives = node["node"] == cluster.metadata[0].id.as_str();
        assert_eq!((node["answers"] == true, node["silent_because"].is_string()), (lives, !lives), "{node:#}");
        assert!(lives || node["silent_because"].as_str().is_some_and(|why| why.contains("refused")), "{node:#}");
        assert!(node["votes"] == true && node["leaves"].is_null() && node["certificate_ends_ms"].is_null(), "{node:#}");
    }
    let text = told(&cluster, &["status"]);
    assert_eq!(text.lines().filter(|line| line.contains(" silent: ")).count(), 2, "{text}");
    assert!(text.contains("no metadata node leads the root group") && text.contains("Start those that are silent"), "{text}");
    let map = read(&told(&cluster, &["map", "--json"]));
    assert!(map["trouble"].is_string() && map["names"].as_array().is_some_and(|ranges| !ranges.is_empty()), "{map:#}");
    cluster.metadata[1].start(&[]).unwrap();
    cluster.wait("a majority serves again", |status| voting(status) == 2 && status["records_known"] == true).unwrap();
    let text = told(&cluster, &["status"]);
    assert!(!text.contains("no metadata node leads") && text.contains("ranges:\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_shows_a_tree_of_hot_directories_with_those_above_them() {
    let cluster = Cluster::start(Size { metadata: 1, gateways: 1, nodes: 0 }, "").unwrap();
    let s3 = client::of(&cluster.gateways[0]);
    s3.create_bucket().bucket("promises").send().await.unwrap();
    let began = Instant::now();
    let directory = |status: &Value, at: &str| {
        let all = status["directories"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|branch| branch["directory"] == at)
    };
    loop {
        for n in 0..100 {
            let key = format!("a/{}/k{n}", if n % 2 == 0 { "b" } else { "c" });
            s3.put_object().bucket("promises").key(key).body(b"x".to_vec().into()).send().await.unwrap();
        }
        let status = cluster.status().unwrap();
        let heat = |at: &str| directory(&status, at).and_then(|branch| branch["ops"].as_f64());
        if let (Some(bucket), Some(above), Some(b), Some(c)) =
            (heat("promises/"), heat("promises/a/"), heat("promises/a/b/"), heat("promises/a/c/"))
            && b.min(c) >= 0.5
        {
            // Each number is rounded to a tenth.
            assert!(above >= b + c - 0.2 && bucket >= above, "{status:#}");
            assert_eq!(directory(&status, "promises/a/b/").map(|branch| branch["depth"].clone()), Some(2.into()), "{status:#}");
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{status:#}");
    }
    let text = told(&cluster, &["status"]);
    assert!(text.contains("hot directories, each with all below it:") && text.contains("    promises/a/ "), "{text}");
    assert!(text.contains("replicas at "), "{text}");
}
