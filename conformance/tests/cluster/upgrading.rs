//! A cluster whose processes are replaced by newer ones. The older version is this one, keeping to the first format, which it states and
//! holds to as an older one does; `cargo prove metadata 11 --old COMMIT` does the same with the real thing.

use conformance::client;
use conformance::cluster::{Cluster, Size, USUAL, voting};
use conformance::history;
use conformance::persistent::Persistent;
use conformance::program::Program;
use std::time::Duration;

const END: Duration = Duration::from_secs(30);

fn older() -> Program {
    Program { metadata: vec!["--format".into(), "1".into()], ..Program::default() }
}

fn place() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("breakwater-upgrade-").tempdir().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_upgraded_node_by_node_without_a_failed_request_and_goes_back_only_until_all_are_new() {
    let seed = 0x01d_u64;
    println!("seed {seed}");
    let older = older();
    let mut cluster = Cluster::of(older.clone(), place(), USUAL).unwrap();
    let clients: Vec<_> = cluster.gateways.iter().map(client::of).collect();
    let work = history::begin(clients.clone(), 6, seed).await.unwrap();
    let persistent = Persistent::begin(&clients, 3);
    for (at, program) in [(0, Program::default()), (0, older.clone()), (0, Program::default()), (1, Program::default())] {
        assert!(cluster.metadata[at].terminate(END).is_some_and(|status| status.success()));
        cluster.metadata[at].program = program;
        cluster.metadata[at].start(&[]).unwrap();
        cluster.wait("all vote", |status| voting(status) == 3).unwrap();
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert_eq!(cluster.status().unwrap()["format"], 1);
    }
    let understood = |status: &serde_json::Value| {
        let mut all: Vec<u64> = status["nodes"].as_array().unwrap().iter().filter_map(|node| node["format"].as_u64()).collect();
        all.sort_unstable();
        all
    };
    cluster.wait("all say what they understand", |status| understood(status) == [1, 2, 2]).unwrap();
    cluster.metadata[2].kill();
    cluster.metadata[2].program = Program::default();
    cluster.metadata[2].start(&[]).unwrap();
    cluster.wait("the format is raised", |status| status["format"] == 2 && voting(status) == 3).unwrap();
    for gateway in &mut cluster.gateways {
        assert!(gateway.terminate(END).is_some_and(|status| status.success()));
        gateway.restart().unwrap();
    }
    // Nobody goes back.
    assert!(cluster.metadata[1].terminate(END).is_some_and(|status| status.success()));
    cluster.metadata[1].program = older;
    let refused = cluster.metadata[1].start(&[]).unwrap_err().to_string();
    assert!(refused.contains("was written by a newer version of Breakwater"), "{refused}");
    cluster.metadata[1].program = Program::default();
    cluster.metadata[1].start(&[]).unwrap();
    cluster.wait("all vote again", |status| voting(status) == 3).unwrap();
    let (retried, failed) = persistent.end().await.unwrap();
    let history = work.end().await;
    let judged = history::judge(&history);
    println!("{} writes, {} unknown, {retried} asked for again, {} operations", history.written, history.unknown, judged.operations);
    assert_eq!((failed, history.wrong, judged.violations, judged.unjudged), (0, vec![], vec![], 0));
    assert!(history.written > 100 && history.read > 100);
}

#[test]
fn a_node_that_was_never_upgraded_and_is_gone_is_removed_and_keeps_nobody_back() {
    let mut cluster = Cluster::of(older(), place(), Size { nodes: 0, gateways: 1, ..USUAL }).unwrap();
    for at in [0, 1] {
        assert!(cluster.metadata[at].terminate(END).is_some_and(|status| status.success()));
        cluster.metadata[at].program = Program::default();
        cluster.metadata[at].start(&[]).unwrap();
        cluster.wait("all vote", |status| voting(status) == 3).unwrap();
    }
    let dead = cluster.metadata[2].id.clone();
    cluster.metadata[2].kill();
    std::thread::sleep(Duration::from_millis(2_500));
    assert_eq!(cluster.status().unwrap()["format"], 1, "a node that does not answer is waited for");
    cluster.gateways[0].admin(&["metadata", "remove", &dead]).unwrap();
    cluster.wait("the others go on", |status| status["format"] == 2 && voting(status) == 2).unwrap();
}
