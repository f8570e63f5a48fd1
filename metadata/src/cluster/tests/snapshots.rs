//! Members that are too far behind for the log: streams, wrong streams, and ends of the process around the switch.

use super::fixture::*;
use crate::checkpoint::{Checkpoints, INSTALLED};
use crate::cluster::Begin;
use crate::table::{Space, TableRead};
use bytes::Bytes;
use spine::id::GroupId;
use spine::wire::cluster::{Ballot, ClusterError, Row, SnapshotEnd, SnapshotPart, SnapshotTaken};
use spine::wire::copy::Tally;
use spine::wire::{Metadata, Reply};
use std::mem::ManuallyDrop;
use std::path::Path;
use std::time::{Duration, Instant};

async fn write(cluster: &Cluster, ids: std::ops::Range<u64>) {
    for id in ids {
        assert_eq!(cluster.client.propose(tenant(id)).await.unwrap(), [Reply::Done], "{id}");
    }
}

/// Waits until the leader's log has let go of what a member at `index` would need next.
async fn purged_beyond(cluster: &Cluster, index: u64) {
    let begun = Instant::now();
    loop {
        let leader = cluster.leader().await;
        if cluster.node(leader).status().groups[0].purged > index {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(40), "the log is not purged");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn rows_of(dir: &Path) -> Vec<Row> {
    let checkpoints = Checkpoints::open(&dir.join("table"), 1 << 30).unwrap();
    let read = checkpoints.table().read().unwrap();
    let mut rows = Vec::new();
    for space in Space::ALL {
        let mut scan = read.scan(space, b"").unwrap();
        while let Some((key, value)) = scan.next().unwrap() {
            if key != INSTALLED {
                rows.push(Row { space: space as u8, key: Bytes::copy_from_slice(key), value: Bytes::copy_from_slice(value) });
            }
        }
    }
    rows
}

fn tally_of(rows: &[Row]) -> Tally {
    let mut tally = Tally::default();
    rows.iter().for_each(|row| tally.count(row.space, &row.key, &row.value));
    tally
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_behind_the_purge_gets_a_snapshot_and_then_the_log() {
    let mut cluster = Cluster::start(3, 20).await;
    write(&cluster, 0..10).await;
    let behind = (cluster.leader().await + 1) % 3;
    let had = cluster.node(behind).status().groups[0].applied;
    cluster.kill(behind).await;
    write(&cluster, 10..400).await;
    purged_beyond(&cluster, had + 1).await;
    cluster.run(behind, Begin::Join).await;
    write(&cluster, 400..410).await;
    cluster.agree().await;
    assert!(cluster.node(behind).status().groups[0].applied > had + 300);
    // What was installed outlives a kill, and the member can lead: nobody else has more.
    cluster.kill(behind).await;
    cluster.run(behind, Begin::Join).await;
    cluster.agree().await;
    let other = (0..3).find(|n| *n != behind).unwrap();
    cluster.kill(other).await;
    write(&cluster, 410..415).await;
    for id in 0..415 {
        assert!(has(cluster.client.as_ref(), id).await, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_cut_out_of_order_or_altered_changes_nothing() {
    let mut cluster = Cluster::start(3, 4_096).await;
    write(&cluster, 0..20).await;
    cluster.agree().await;
    let rows = {
        let leader = cluster.leader().await;
        cluster.shut_down(leader).await;
        let rows = rows_of(cluster.places[leader].dir.path());
        cluster.run(leader, Begin::Join).await;
        rows
    };
    cluster.client.propose(tenant(20)).await.unwrap();
    cluster.agree().await;
    let leader = cluster.leader().await;
    let follower = cluster.node((leader + 1) % 3).clone();
    let before = tally(&follower);
    let status = follower.status().groups.remove(0);
    let ballot = Ballot { term: status.term, member: status.leader.unwrap(), granted: true };
    let good = tally_of(&rows);
    let end = |rows: u64, digest: [u8; 32]| SnapshotEnd {
        last: None,
        membership: Bytes::from_static(&[2, 0, 0]),
        membership_at: None,
        name: "made up".into(),
        rows,
        digest,
    };
    let part = |stream: u8, number: u32, rows: &[Row], end: Option<SnapshotEnd>| SnapshotPart {
        group: GroupId(0),
        to: follower.member().id,
        ballot,
        stream: [stream; 16],
        number,
        rows: rows.to_vec(),
        end,
    };
    let refused = |taken: Result<SnapshotTaken, ClusterError>| assert!(matches!(taken, Err(ClusterError::Invalid { .. })), "{taken:?}");
    // In the middle of a stream that never began; then a part left out; then one twice.
    refused(follower.take_part(part(1, 3, &rows, None)).await);
    assert_eq!(follower.take_part(part(2, 0, &rows[..5], None)).await, Ok(SnapshotTaken::More(1)));
    assert_eq!(follower.take_part(part(2, 0, &rows[..5], None)).await, Ok(SnapshotTaken::More(1)), "its answer was lost");
    refused(follower.take_part(part(2, 2, &rows[5..], None)).await);
    // Rows in the wrong order, of no table, of what nobody sends.
    let backwards: Vec<Row> = rows.iter().rev().cloned().collect();
    refused(follower.take_part(part(3, 0, &backwards, None)).await);
    refused(follower.take_part(part(4, 0, &[Row { space: 99, ..rows[0].clone() }], None)).await);
    let own = Row { space: Space::Meta as u8, key: Bytes::from_static(INSTALLED), value: Bytes::new() };
    refused(follower.take_part(part(5, 0, &[own], None)).await);
    // One bit of one value; one row too few; the right rows that claim to end at another entry.
    let mut altered = rows.clone();
    let mut value = altered[7].value.to_vec();
    value[0] ^= 1;
    altered[7].value = value.into();
    refused(follower.take_part(part(6, 0, &altered, Some(end(good.rows(), good.digest())))).await);
    refused(follower.take_part(part(7, 0, &rows[1..], Some(end(good.rows(), good.digest())))).await);
    refused(follower.take_part(part(8, 0, &rows, Some(end(good.rows(), good.digest())))).await);
    assert_eq!(tally(&follower), before);
    assert!(incoming_folders(cluster.places[(leader + 1) % 3].dir.path()) <= 1, "what is refused goes");
    drop(follower);
    write(&cluster, 21..25).await;
    cluster.agree().await;
}

fn incoming_folders(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir.join("table")).unwrap();
    entries.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("incoming-")).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_was_switched_to_before_the_log_heard_of_it_is_gone_on_from() {
    for lonely_entries in [false, true] {
        let mut cluster = Cluster::start(3, 4_096).await;
        write(&cluster, 0..10).await;
        cluster.agree().await;
        let leader = cluster.leader().await;
        // With entries in its log that nobody agreed to, or only behind.
        let behind = if lonely_entries { leader } else { (leader + 1) % 3 };
        if lonely_entries {
            cluster.cut_off(behind);
            let node = cluster.node(behind).clone();
            for id in 900..903 {
                let told = tokio::time::timeout(Duration::from_millis(200), node.propose(tenant(id))).await;
                assert!(!matches!(told, Ok(Ok(_))));
            }
        }
        cluster.kill(behind).await;
        cluster.reconnect(behind);
        write(&cluster, 10..40).await;
        // What another member has becomes the table of the one that is down, as if it had ended right after the switch.
        let other = (0..3).find(|n| *n != behind).unwrap();
        cluster.shut_down(other).await;
        let rows = rows_of(cluster.places[other].dir.path());
        cluster.run(other, Begin::Join).await;
        install(cluster.places[behind].dir.path(), &rows);
        cluster.run(behind, Begin::Join).await;
        write(&cluster, 40..45).await;
        cluster.agree().await;
        cluster.kill(behind).await;
        cluster.run(behind, Begin::Join).await;
        cluster.agree().await;
        assert!(!has(cluster.client.as_ref(), 900).await && has(cluster.client.as_ref(), 44).await);
    }
}

fn install(dir: &Path, rows: &[Row]) {
    let checkpoints = Checkpoints::open(&dir.join("table"), 1 << 30).unwrap();
    let mut incoming = checkpoints.receive().unwrap();
    incoming.write(rows).unwrap();
    let applied = crate::group::applied_for_test(&incoming.read().unwrap());
    let good = tally_of(rows);
    incoming.finish(good.rows(), good.digest(), &postcard::to_allocvec(&applied).unwrap()).unwrap();
    checkpoints.install(incoming).unwrap();
}

#[test]
fn an_end_of_the_process_on_either_side_of_the_switch_leaves_one_whole_table() {
    let rows: Vec<Row> = (0..50u8).map(|n| Row { space: Space::Root as u8, key: vec![1, n].into(), value: vec![n; 100].into() }).collect();
    let good = tally_of(&rows);
    let finished = |checkpoints: &Checkpoints| {
        let mut incoming = checkpoints.receive().unwrap();
        incoming.write(&rows).unwrap();
        incoming.finish(good.rows(), good.digest(), b"x").unwrap();
        incoming
    };
    let begin = || {
        let dir = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(dir.path(), 1 << 28).unwrap();
        let turn = checkpoints.turn();
        let mut table = turn.write().unwrap();
        crate::table::TableWrite::put(&mut table, Space::Root, b"old", b"1").unwrap();
        table.commit().unwrap();
        drop(turn);
        checkpoints.take().unwrap();
        (dir, checkpoints)
    };
    let old_is_there = |dir: &Path| {
        let checkpoints = Checkpoints::open(dir, 1 << 28).unwrap();
        checkpoints.table().read().unwrap().get(Space::Root, b"old").unwrap().is_some()
    };
    // While it comes: the folder goes at the next start.
    let (dir, checkpoints) = begin();
    let incoming = finished(&checkpoints);
    let _as_a_kill_leaves_it = ManuallyDrop::new(incoming);
    drop(checkpoints);
    assert!(old_is_there(dir.path()));
    assert!(!dir.path().join("incoming-0").exists());
    // Between the rename and the switch: a generation that no checkpoint names.
    let (dir, checkpoints) = begin();
    let incoming = finished(&checkpoints);
    let _as_a_kill_leaves_it = ManuallyDrop::new(incoming);
    drop(checkpoints);
    std::fs::rename(dir.path().join("incoming-0"), dir.path().join("table-1")).unwrap();
    assert!(old_is_there(dir.path()));
    assert!(!dir.path().join("table-1").exists());
    // After the switch.
    let (dir, checkpoints) = begin();
    checkpoints.install(finished(&checkpoints)).unwrap();
    let _as_a_kill_leaves_it = ManuallyDrop::new(checkpoints);
    assert!(!old_is_there(dir.path()));
    let checkpoints = Checkpoints::open(dir.path(), 1 << 28).unwrap();
    assert_eq!(checkpoints.table().read().unwrap().get(Space::Root, &[1, 49]).unwrap(), Some(&[49u8; 100][..]));
}
