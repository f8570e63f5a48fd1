//! Bodies over a fleet whose processes die.

use conformance::client::{self, Judge};
use conformance::content::Content;
use conformance::fleet::{Fleet, serving};
use conformance::restic::{Restic, made_tree};
use conformance::server::walk;
use conformance::tools::compare_trees;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

fn restore(restic: &Restic, tree: &Path, target: &Path) {
    restic.run(&["restore", "latest", "--target", &target.to_string_lossy()]).unwrap();
    let inside = tree.strip_prefix("/").unwrap_or(tree);
    assert_eq!(compare_trees(tree, &target.join(inside)), Vec::<String>::new());
}

#[test]
fn restic_backs_up_and_restores_over_a_fleet_while_a_node_is_killed() {
    let mut fleet = Fleet::start(7, "").unwrap();
    let tree = made_tree(fleet.place(), 1_500, 3).unwrap();
    let home = fleet.place().join("home");
    fs::create_dir_all(&home).unwrap();
    let target = fleet.place().join("restored");
    let (mut backup_victim, mut restore_victim) = (fleet.nodes.remove(0), fleet.nodes.remove(0));
    let restic = Restic::new(&fleet.gateway, "restic", &home);
    restic.run(&["init"]).unwrap();
    let first = backup_victim.shards();
    std::thread::scope(|scope| {
        let killing = scope.spawn(|| {
            until(|| backup_victim.shards() > first + 3);
            backup_victim.kill();
            Instant::now()
        });
        restic.run(&["backup", "--quiet", &tree.to_string_lossy()]).unwrap();
        let ended = Instant::now();
        assert!(killing.join().unwrap() < ended, "the backup ended before the node was killed");
    });
    restic.run(&["check", "--read-data"]).unwrap();
    backup_victim.start(None).unwrap();
    fleet.wait("the killed node is back", |status| serving(status) == 7).unwrap();
    std::thread::scope(|scope| {
        let killing = scope.spawn(|| {
            until(|| walk(&target).len() > 20);
            restore_victim.kill();
            Instant::now()
        });
        restore(&restic, &tree, &target);
        let ended = Instant::now();
        assert!(killing.join().unwrap() < ended, "the restore ended before the node was killed");
    });
}

fn until(holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() && began.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_two_machines_dead_everything_reads_and_with_three_it_is_an_error_until_they_return() {
    let mut fleet = Fleet::start(6, "").unwrap();
    let s3 = client::of(&fleet.gateway);
    s3.create_bucket().bucket("promises").send().await.unwrap();
    let body = Content::dense(5, 5 << 20).bytes();
    s3.put_object().bucket("promises").key("k").body(body.clone().into()).send().await.unwrap();
    fleet.nodes[0].kill();
    fleet.nodes[1].kill();
    let got = s3.get_object().bucket("promises").key("k").send().await.unwrap().body.collect().await.unwrap().into_bytes();
    assert!(got == body);
    fleet.wait("two are lost", |status| serving(status) == 4).unwrap();
    // Below the write quorum of five machines: loud, and nothing of it is visible.
    let small = || Content::dense(6, 1 << 20).bytes();
    let refusal = s3.put_object().bucket("promises").key("new").body(small().into()).send().await.judged().unwrap_err();
    assert!(format!("{refusal:?}").contains("503") || format!("{refusal:?}").contains("SlowDown"), "{refusal:?}");
    fleet.nodes[2].kill();
    fleet.wait("three are lost", |status| serving(status) == 3).unwrap();
    let lost = s3.get_object().bucket("promises").key("k").send().await;
    let failed = match lost {
        Err(_) => true,
        Ok(answer) => answer.body.collect().await.is_err(),
    };
    assert!(failed, "an object was read from three shards of four");
    for at in 0..3 {
        fleet.nodes[at].start(None).unwrap();
    }
    fleet.wait("all are back", |status| serving(status) == 6).unwrap();
    let got = s3.get_object().bucket("promises").key("k").send().await.unwrap().body.collect().await.unwrap().into_bytes();
    assert!(got == body);
    s3.put_object().bucket("promises").key("new").body(small().into()).send().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_starts_again_finds_its_fleet() {
    let mut fleet = Fleet::start(6, "").unwrap();
    let s3 = client::of(&fleet.gateway);
    s3.create_bucket().bucket("promises").send().await.unwrap();
    let body = Content::dense(9, 3 << 20).bytes();
    s3.put_object().bucket("promises").key("k").body(body.clone().into()).send().await.unwrap();
    fleet.gateway.restart().unwrap();
    let got = s3.get_object().bucket("promises").key("k").send().await.unwrap().body.collect().await.unwrap().into_bytes();
    assert!(got == body);
    assert!(fleet.gateway.terminate(Duration::from_secs(60)).unwrap().success());
    // Its folder is not a single server's, and a check of it alone would take every shard for lost.
    let data = fleet.gateway.data().to_string_lossy().into_owned();
    for command in ["serve", "fsck"] {
        let output = fleet.gateway.run(&[command, "--data", &data, "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"]).unwrap();
        assert!(!output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).contains("gateway"), "{output:?}");
    }
}
