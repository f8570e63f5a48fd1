//! The node as gateways use it: durability across kills and power cuts, checkpoints, batching, bounds.

use super::*;
use crate::sample;
use spine::id::{KeyEpoch, NodeId, TenantId, UnixMs};
use spine::wire::namespace::{Body, Codec, Condition, NamespaceCommand};
use spine::wire::root::{NodeRecord, RootAnswer, RootCommand, RootQuery, TenantRecord};
use spine::wire::{Chain, Command, Refusal};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

mod copies;
mod endings;
mod speed;

fn small(dir: &Path) -> Settings {
    Settings {
        map_bytes: 4 << 30,
        journal: journal::Settings { segment_bytes: 4 << 20, ..journal::Settings::default() },
        ..Settings::new(dir)
    }
}

fn tenant(id: u64) -> Batch {
    let record = TenantRecord { id: TenantId(id), name: format!("tenant-{id}"), secrets: Vec::new(), created: UnixMs(id), revoked: false };
    Batch { chain: Chain::Stop, commands: vec![Command::Root(RootCommand::CreateTenant(record))] }
}

async fn has(node: &MetadataNode, id: u64) -> bool {
    match node.query(Query::Root(RootQuery::Tenant(TenantId(id)))).await.unwrap() {
        Answer::Root(RootAnswer::Tenant(found)) => found.is_some(),
        other => panic!("{other:?}"),
    }
}

async fn create(node: &MetadataNode, ids: std::ops::Range<u64>) {
    for id in ids {
        assert_eq!(node.propose(tenant(id)).await.unwrap(), [Reply::Done]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_proposed_is_seen_at_once_and_after_a_shutdown_and_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    for (life, kill) in [true, false, true, true, false].into_iter().enumerate() {
        let node = MetadataNode::open(small(dir.path())).await.unwrap();
        let life = life as u64;
        for id in 0..life * 50 {
            assert!(has(&node, id).await, "life {life}, {id}");
        }
        create(&node, life * 50..(life + 1) * 50).await;
        assert_eq!(node.propose(tenant(3)).await.unwrap(), [Reply::Refused(Refusal::TenantExists)]);
        if kill {
            node.kill().await;
        } else {
            node.shutdown().await;
            assert!(matches!(node.propose(tenant(9_999)).await, Err(MetadataError::Unavailable { .. })));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_is_kept_out() {
    let dir = tempfile::tempdir().unwrap();
    let node = MetadataNode::open(small(dir.path())).await.unwrap();
    assert!(matches!(MetadataNode::open(small(dir.path())).await, Err(OpenError::InUse { .. })));
    node.shutdown().await;
    drop(node);
    MetadataNode::open(small(dir.path())).await.unwrap().shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_lets_the_log_go_and_a_kill_after_it_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { checkpoint_bytes: 256 << 10, ..small(dir.path()) };
    let node = MetadataNode::open(settings.clone()).await.unwrap();
    create(&node, 0..2_000).await;
    for _ in 0..100 {
        if node.root.group.purged_index().is_some_and(|purged| purged > 100) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let purged = node.root.group.purged_index().unwrap();
    assert!(purged > 100, "{purged}");
    create(&node, 2_000..2_100).await;
    node.kill().await;
    drop(node);
    let node = MetadataNode::open(settings).await.unwrap();
    for id in 0..2_100 {
        assert!(has(&node, id).await, "{id}");
    }
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_proposals_share_entries_and_syncs() {
    let dir = tempfile::tempdir().unwrap();
    let node = MetadataNode::open(small(dir.path())).await.unwrap();
    let before = node.root.group.applied_index();
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..64 {
        let node = node.clone();
        tasks.spawn(async move { create(&node, task * 100..(task + 1) * 100).await });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let entries = node.root.group.applied_index() - before;
    assert!(entries * 4 < 6_400, "{entries} entries for 6,400 proposals");
    assert!(metric::ENTRY_BATCHES.get_sample_sum() >= 6_400.0);
    for id in 0..6_400 {
        assert!(has(&node, id).await, "{id}");
    }
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_over_its_limits_is_refused_and_an_empty_one_is_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let node = MetadataNode::open(small(dir.path())).await.unwrap();
    let many = Batch { chain: Chain::Independent, commands: vec![tenant(1).commands[0].clone(); 1_025] };
    assert!(matches!(node.propose(many).await, Err(MetadataError::TooLarge { .. })));
    let mut large = tenant(2);
    if let Command::Root(RootCommand::CreateTenant(record)) = &mut large.commands[0] {
        record.name = "x".repeat(9 << 20);
    }
    assert!(matches!(node.propose(large).await, Err(MetadataError::TooLarge { .. })));
    assert_eq!(node.propose(Batch { chain: Chain::Stop, commands: Vec::new() }).await.unwrap(), []);
    create(&node, 0..3).await;
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_table_refuses_what_grows_and_goes_on_reading_and_removing() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { map_bytes: 64 << 20, ..small(dir.path()) };
    let node = MetadataNode::open(settings.clone()).await.unwrap();
    let mut id = 0;
    let full = loop {
        let mut large = tenant(id);
        if let Command::Root(RootCommand::CreateTenant(record)) = &mut large.commands[0] {
            record.secrets.push(spine::wire::root::WrappedSecret { epoch: spine::id::KeyEpoch(1), sealed: vec![1; 200_000].into() });
        }
        match node.propose(large).await {
            Ok(replies) => assert_eq!(replies, [Reply::Done]),
            Err(e) => break e,
        }
        node.root.room.measure();
        id += 1;
        assert!(id < 1_000);
    };
    assert!(matches!(full, MetadataError::Full { .. }), "{full}");
    assert!(id > 100);
    assert!(has(&node, 0).await);
    let revoke = Batch { chain: Chain::Stop, commands: vec![Command::Root(RootCommand::RevokeTenant { name: "tenant-0".into() })] };
    assert_eq!(node.propose(revoke).await.unwrap(), [Reply::Done]);
    node.kill().await;
    drop(node);
    let node = MetadataNode::open(settings).await.unwrap();
    assert!(has(&node, id - 1).await);
    // What a start does.
    let disk = NodeRecord { id: NodeId([1; NodeId::LEN]), machine: "m".into(), zone: String::new(), first_seen: UnixMs(1) };
    let noted = Batch { chain: Chain::Stop, commands: vec![Command::Root(RootCommand::NoteNode(disk))] };
    assert_eq!(node.propose(noted).await.unwrap(), [Reply::Done]);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_log_stops_acknowledging() {
    let dir = tempfile::tempdir().unwrap();
    let node = MetadataNode::open(small(dir.path())).await.unwrap();
    create(&node, 0..5).await;
    assert_eq!(node.failure(), None);
    node.groups.means.journal.fail_for_test();
    let why = tokio::time::timeout(Duration::from_secs(10), node.failed()).await.unwrap();
    assert!(why.contains("a test said so"), "{why}");
    assert!(node.propose(tenant(5)).await.is_err());
    assert!(node.propose(tenant(6)).await.is_err());
    assert!(node.query(Query::Root(RootQuery::Tenant(TenantId(0)))).await.is_err());
    node.shutdown().await;
    drop(node);
    let node = MetadataNode::open(small(dir.path())).await.unwrap();
    assert!(has(&node, 4).await);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_or_a_checkpoint_that_was_taken_away_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { checkpoint_bytes: 1, ..small(dir.path()) };
    let node = MetadataNode::open(settings.clone()).await.unwrap();
    create(&node, 0..50).await;
    while node.root.group.purged_index().is_none() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    node.shutdown().await;
    drop(node);
    let checkpoint = dir.path().join("table/checkpoint");
    let aside = dir.path().join("aside");
    fs::rename(&checkpoint, &aside).unwrap();
    let data = fs::read(dir.path().join("table/data.mdb")).unwrap();
    assert!(matches!(MetadataNode::open(settings.clone()).await, Err(OpenError::Group(GroupError::CheckpointBehind { .. }))));
    assert!(fs::read(dir.path().join("table/data.mdb")).unwrap() == data, "nothing is touched before the checkpoint is back");
    fs::rename(&aside, &checkpoint).unwrap();
    let log = dir.path().join("log");
    fs::rename(&log, &aside).unwrap();
    assert!(matches!(MetadataNode::open(settings.clone()).await, Err(OpenError::Group(GroupError::LogBehind { .. }))));
    fs::remove_dir_all(&log).unwrap();
    fs::rename(&aside, &log).unwrap();
    let node = MetadataNode::open(settings).await.unwrap();
    assert!(has(&node, 49).await);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn once_nothing_is_written_the_folder_is_about_as_small_as_it_began() {
    fn bytes(dir: &Path) -> u64 {
        let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
        entries.map(|e| if e.file_type().unwrap().is_dir() { bytes(&e.path()) } else { e.metadata().unwrap().len() }).sum()
    }
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings {
        quiet: Duration::from_millis(200),
        journal: journal::Settings { segment_bytes: 1 << 20, ..journal::Settings::default() },
        ..small(dir.path())
    };
    let node = MetadataNode::open(settings.clone()).await.unwrap();
    tokio::time::sleep(watch::TICK * 2).await;
    let empty = bytes(dir.path());
    let batch = |commands| Batch { chain: Chain::Stop, commands };
    let made = node.propose(batch(vec![Command::Root(sample::bucket("emptied"))])).await.unwrap();
    let [Reply::Bucket(bucket)] = made.as_slice() else { panic!("{made:?}") };
    let key = |n: u64| format!("key-{n}");
    for round in 0..20 {
        let commit = |n: u64| {
            let mut new = sample::inline(sample::version(n), 1, 4_000);
            new.body.body =
                Body::Inline { epoch: KeyEpoch(1), codec: Codec::Plain, id: sample::chunk(0), len: 4_000, sealed: vec![7; 4_000].into() };
            Command::Namespace(NamespaceCommand::Commit { bucket: bucket.id, key: key(n), new, condition: Condition::default() })
        };
        let replies = node.propose(batch((round * 100..(round + 1) * 100).map(commit).collect())).await.unwrap();
        assert!(replies.iter().all(|reply| matches!(reply, Reply::Committed { .. })), "{:?}", replies[0]);
    }
    let full = bytes(dir.path());
    for round in 0..20 {
        let delete = |n| Command::Namespace(NamespaceCommand::Delete { bucket: bucket.id, key: key(n), condition: Condition::default() });
        let replies = node.propose(batch((round * 100..(round + 1) * 100).map(delete).collect())).await.unwrap();
        assert!(replies.iter().all(|reply| matches!(reply, Reply::Deleted { was: Some(_) })), "{:?}", replies[0]);
    }
    let mut left = full;
    // Versions that ended are remembered for a while.
    let least = empty + (512 << 10);
    for _ in 0..100 {
        left = bytes(dir.path());
        if left <= least {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(full > 3 * empty && left <= least, "{empty} empty, {full} full, {left} left");
    create(&node, 0..10).await;
    node.kill().await;
    drop(node);
    let node = MetadataNode::open(settings).await.unwrap();
    assert!(has(&node, 9).await);
    node.shutdown().await;
}
