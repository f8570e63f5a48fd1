use super::{Found, ReconcileError, Reconciled, ReleaseError, Verdict, judge};
use crate::collect::sweep::Outcome;
use crate::path::DataPath;
use crate::path::fake::{CHUNK, FakeMetadata, FakeNode, Mood, Rig, noise, quiet, rig_with};
use crate::snapshot::{self, kept};
use bytes::Bytes;
use spine::id::{ChunkId, FleetId, Gen, NodeId, Tag, UnixMs};
use spine::wire::chunk::{ChunkAnswer, ChunkQuery, ChunkRecord, ChunkState, ShardName};
use spine::wire::root::{FleetNodeRecord, FleetNodeState, FleetRecord, RootCommand};
use spine::wire::shard::StorageNode;
use spine::wire::{Answer, Batch, Chain, Command, Metadata, Query, Reply};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Metadata restored from `file` over the same nodes.
async fn restored(rig: Rig, file: &std::path::Path) -> Rig {
    let fresh = Arc::new(FakeMetadata::default());
    let metadata: Arc<dyn Metadata> = fresh.clone();
    snapshot::restore(&metadata, rig.keys.clone(), file, None).await.unwrap();
    rig.path.shutdown().await;
    let links: Vec<Arc<dyn StorageNode>> = rig.nodes.iter().map(|node: &Arc<FakeNode>| node.clone() as Arc<dyn StorageNode>).collect();
    let path = DataPath::new(quiet(), fresh.clone(), links, rig.keys.clone()).unwrap();
    Rig { path, metadata: fresh, nodes: rig.nodes, keys: rig.keys, bucket: rig.bucket }
}

/// A copy, then `meanwhile`, then the loss and the restore.
async fn after<F: AsyncFnOnce(&Rig)>(rig: Rig, meanwhile: F) -> Rig {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("copy");
    let from: Arc<dyn Metadata> = rig.metadata.clone();
    snapshot::write(&from, rig.keys.clone(), &file).await.unwrap();
    meanwhile(&rig).await;
    restored(rig, &file).await
}

/// Four objects of one chunk each.
async fn filled(nodes: u8) -> Rig {
    let rig = rig_with(quiet(), nodes).await;
    for n in 0..4 {
        rig.put(&format!("key-{n}"), &noise(CHUNK as usize, n)).await.unwrap();
    }
    rig
}

async fn reconcile(rig: &Rig) -> Reconciled {
    let done = rig.path.reconcile_now().await.unwrap();
    assert_eq!(rig.path.is_held().await.unwrap(), !done.released, "{done:?}");
    done
}

async fn all_read(rig: &Rig) {
    for n in 0..4 {
        assert!(rig.get(&format!("key-{n}"), 0..u64::from(CHUNK)).await.unwrap() == noise(CHUNK as usize, n), "key-{n}");
    }
}

async fn record(rig: &Rig, chunk: ChunkId) -> ChunkRecord {
    rig.records().await.into_iter().find(|(id, _)| *id == chunk).unwrap().1
}

fn lose(rig: &Rig, nodes: std::ops::Range<usize>, chunk: ChunkId) {
    for node in &rig.nodes[nodes] {
        node.shards.lock().unwrap().retain(|name, _| name.chunk != chunk);
    }
}

#[test]
fn a_chunk_is_lost_only_where_every_node_has_answered() {
    use Found::*;
    assert_eq!(judge(&[There, There, Gone], 2, true), Verdict::Whole);
    assert_eq!(judge(&[There, There, Silent], 2, false), Verdict::Whole);
    assert_eq!(judge(&[There, Gone, Gone], 2, true), Verdict::Lost);
    assert_eq!(judge(&[There, Gone, Unplaced], 2, true), Verdict::Lost);
    assert_eq!(judge(&[There, Gone, Gone], 2, false), Verdict::Untold, "a node that is away may have what was moved to it");
    assert_eq!(judge(&[There, Silent, Gone], 2, true), Verdict::Untold);
    assert_eq!(judge(&[Silent, Gone, Gone], 2, true), Verdict::Lost, "what is silent is not enough");
    assert_eq!(judge(&[Silent, Silent, Silent], 2, false), Verdict::Untold, "nothing was seen");
}

#[tokio::test]
async fn reconciling_releases_the_collection_where_enough_of_everything_is_seen() {
    let rig = after(filled(6).await, async |_| {}).await;
    let chunk = rig.records().await[0].0;
    // Two of six shards of a chunk are gone: it is read by the others, and what is gone is owed.
    lose(&rig, 0..2, chunk);
    let done = reconcile(&rig).await;
    assert_eq!((done.objects, done.chunks, done.shards_gone, done.lost, done.released), (4, 4, 2, 0, true), "{done:?}");
    assert_eq!(rig.totals().await.owed, 1);
    all_read(&rig).await;
}

#[tokio::test]
async fn a_chunk_of_which_too_few_shards_are_left_on_all_nodes_is_lost_and_keeps_its_places() {
    let rig = after(filled(6).await, async |_| {}).await;
    let chunk = rig.records().await[0].0;
    let before = record(&rig, chunk).await;
    lose(&rig, 0..3, chunk);
    let done = reconcile(&rig).await;
    assert_eq!((done.lost, done.untold, done.released), (1, 0, false), "{done:?}");
    assert!(done.spelled_out[0].contains(&chunk.to_string()), "{done:?}");
    assert_eq!(record(&rig, chunk).await, before, "its shards may come back");
}

#[tokio::test]
async fn nodes_that_do_not_answer_are_named_and_what_they_alone_may_have_keeps_the_hold() {
    let rig = after(filled(6).await, async |_| {}).await;
    rig.nodes.iter().for_each(|node| node.set(Mood::Lost));
    let done = reconcile(&rig).await;
    assert_eq!((done.lost, done.untold, done.released, done.nodes_away.len()), (0, 4, false, 6), "{done:?}");
    // They say that they serve, and do not answer.
    rig.nodes.iter().for_each(|node| node.set(Mood::Failing));
    let done = reconcile(&rig).await;
    assert_eq!((done.lost, done.untold, done.released, done.nodes_away.len()), (0, 4, false, 6), "{done:?}");
    // Two are away still: four shards of every chunk are seen.
    rig.nodes[..4].iter().for_each(|node| node.set(Mood::Well));
    let done = reconcile(&rig).await;
    assert_eq!((done.untold, done.shards_away, done.released, done.nodes_away.len()), (0, 8, true, 2), "{done:?}");
}

#[tokio::test]
async fn a_chunk_that_is_gone_while_a_node_is_away_is_not_called_lost() {
    let rig = after(filled(6).await, async |_| {}).await;
    let chunk = rig.records().await[0].0;
    lose(&rig, 0..4, chunk);
    rig.nodes[5].set(Mood::Lost);
    let done = reconcile(&rig).await;
    assert_eq!((done.lost, done.untold, done.released), (0, 1, false), "{done:?}");
    rig.nodes[5].set(Mood::Well);
    let done = reconcile(&rig).await;
    assert_eq!((done.lost, done.untold, done.released), (1, 0, false), "{done:?}");
}

#[tokio::test]
async fn only_what_a_restore_holds_is_released_and_that_once() {
    let rig = filled(6).await;
    assert!(matches!(rig.path.reconcile_now().await, Err(ReconcileError::NotHeld)));
    rig.path.hold().await.unwrap();
    assert!(matches!(rig.path.reconcile_now().await, Err(ReconcileError::NotRestored)), "an operator's hold");
    rig.path.release(false).await.unwrap();
    let rig = after(rig, async |_| {}).await;
    assert!(reconcile(&rig).await.released);
    assert!(matches!(rig.path.reconcile_now().await, Err(ReconcileError::NotHeld)));
    // A hold that comes later is somebody else's.
    rig.path.reindex_now().await.unwrap();
    assert!(matches!(rig.path.reconcile_now().await, Err(ReconcileError::Over)));
    assert!(rig.path.is_held().await.unwrap());
    rig.path.release(false).await.unwrap();
    // Restored once more, also from a copy that was made since, it is reconciled once more.
    let rig = after(rig, async |_| {}).await;
    assert!(reconcile(&rig).await.released);
    all_read(&rig).await;
}

#[tokio::test]
async fn what_is_deleted_because_it_was_lost_and_written_again_after_the_release_is_stored() {
    let rig = after(filled(6).await, async |_| {}).await;
    rig.nodes.iter().for_each(|node| node.clear());
    let done = reconcile(&rig).await;
    assert_eq!((done.lost, done.untold, done.released), (4, 0, false), "{done:?}");
    for n in 0..4 {
        rig.delete(&format!("key-{n}")).await;
    }
    rig.collect().await;
    assert_eq!(rig.totals().await.chunks, 4, "nothing is collected while it is held");
    let done = reconcile(&rig).await;
    assert_eq!((done.lost, done.untold, done.idle_short, done.released), (0, 0, 4, true), "{done:?}");
    assert_eq!(rig.totals().await.chunks, 0);
    for n in 0..4 {
        rig.put(&format!("key-{n}"), &noise(CHUNK as usize, n)).await.unwrap();
    }
    all_read(&rig).await;
}

#[tokio::test]
async fn what_was_lost_and_is_written_again_before_the_release_is_found_by_the_next_reconciliation() {
    let rig = after(filled(6).await, async |_| {}).await;
    rig.nodes.iter().for_each(|node| node.clear());
    assert_eq!(reconcile(&rig).await.lost, 4);
    for n in 0..4 {
        rig.put(&format!("key-{n}"), &noise(CHUNK as usize, n)).await.unwrap();
    }
    let done = reconcile(&rig).await;
    assert_eq!((done.lost, done.idle_short, done.released), (0, 0, true), "{done:?}");
    all_read(&rig).await;
}

#[tokio::test]
async fn what_a_restore_holds_is_released_unreconciled_by_force_alone_and_later_holds_are_not_its() {
    let rig = after(filled(6).await, async |_| {}).await;
    assert!(matches!(rig.path.release(false).await, Err(ReleaseError::Unreconciled)));
    assert!(rig.path.is_held().await.unwrap());
    rig.path.release(true).await.unwrap();
    assert!(matches!(rig.path.reconcile_now().await, Err(ReconcileError::NotHeld)));
    for _ in 0..2 {
        rig.path.hold().await.unwrap();
        assert!(matches!(rig.path.reconcile_now().await, Err(ReconcileError::Over)), "an operator's");
        assert!(rig.path.is_held().await.unwrap());
        rig.path.release(false).await.unwrap();
        assert!(!rig.path.is_held().await.unwrap());
    }
}

/// A shard as a writer of another generation of its chunk leaves it on a node.
fn leave(rig: &Rig, node: usize, generation: u64) {
    let mut shards = rig.nodes[node].shards.lock().unwrap();
    let (mut header, data) = shards.values().next().unwrap().clone();
    (header.name.generation, header.name.tag) = (Gen(generation), Tag(generation));
    shards.insert(header.name, (header, data));
}

#[tokio::test]
async fn what_was_stored_beside_a_doubted_chunk_and_given_up_is_swept_once_nothing_is_doubted() {
    let rig = after(filled(6).await, async |_| {}).await;
    let Answer::Chunk(ChunkAnswer::Given(given)) = rig.metadata.query(Query::Chunk(ChunkQuery::Given)).await.unwrap() else { panic!() };
    let before = rig.shards();
    // The number that all doubted chunks are stored again under is the last one that was given.
    leave(&rig, 0, given - 1);
    for swept in rig.path.sweep_now(true).await.unwrap() {
        assert_eq!((swept.outcome, swept.shards), (Outcome::Held, 0), "it may be about to be confirmed");
    }
    assert_eq!(rig.shards(), before + 1);
    assert!(reconcile(&rig).await.released);
    let swept = rig.path.sweep_now(false).await.unwrap();
    assert!(swept.iter().all(|one| one.outcome == Outcome::Done), "{swept:?}");
    assert_eq!((swept.iter().map(|one| one.orphans).sum::<u64>(), rig.shards()), (1, before));
    all_read(&rig).await;
    // One of a number that the index never gave says that the index is too old.
    leave(&rig, 0, given + 1_000_000);
    let swept = rig.path.sweep_now(false).await.unwrap();
    assert_eq!(swept.iter().filter(|one| one.outcome == Outcome::Halted).count(), 1, "{swept:?}");
    assert_eq!(rig.shards(), before + 1);
}

/// Has the index know a node of a fleet as one that is out for good.
async fn retire(rig: &Rig, node: NodeId) {
    let record = FleetNodeRecord {
        id: node,
        machine: node.to_string(),
        zone: "zone".into(),
        capacity: 1 << 40,
        address: "10.0.0.1:7000".into(),
        serial: Bytes::from_static(&[1]),
        not_after: UnixMs(u64::MAX),
        state: FleetNodeState::Active,
        admitted: UnixMs(1),
        changed: UnixMs(1),
    };
    let authority = Bytes::from_static(b"ca");
    let fleet = FleetRecord { id: FleetId([1; 16]), authority, created: UnixMs(1), revocations_version: 0, revocations: Bytes::new() };
    let set = RootCommand::SetNodeState { node, state: FleetNodeState::Retired, now: UnixMs(2) };
    for command in [RootCommand::CreateFleet(fleet), RootCommand::AdmitNode(record), set] {
        let batch = Batch { chain: Chain::Stop, commands: vec![Command::Root(command)] };
        assert_eq!(rig.metadata.propose(batch).await.unwrap(), [Reply::Done]);
    }
}

#[tokio::test]
async fn what_only_a_node_that_is_gone_for_good_may_have_is_lost_once_the_node_is_retired() {
    let rig = after(filled(6).await, async |_| {}).await;
    let chunk = rig.records().await[0].0;
    lose(&rig, 0..2, chunk);
    let Rig { path, metadata, mut nodes, keys, bucket } = rig;
    path.shutdown().await;
    // The last one has left the roster.
    let gone = nodes.pop().unwrap().id;
    let links: Vec<Arc<dyn StorageNode>> = nodes.iter().map(|node| node.clone() as Arc<dyn StorageNode>).collect();
    let path = DataPath::new(quiet(), metadata.clone(), links, keys.clone()).unwrap();
    let rig = Rig { path, metadata, nodes, keys, bucket };
    let done = reconcile(&rig).await;
    assert_eq!((done.lost, done.untold, done.shards_away, done.nodes_away.len()), (0, 1, 4, 1), "{done:?}");
    retire(&rig, gone).await;
    let done = reconcile(&rig).await;
    assert_eq!((done.lost, done.untold, done.shards_away, done.released), (1, 0, 0, false), "{done:?}");
    assert_eq!(done.nodes_away, BTreeSet::new());
}

#[tokio::test]
async fn a_chunk_that_repair_is_at_work_on_is_not_called_lost() {
    let rig = filled(10).await;
    let chunk = rig.records().await[0].0;
    let placed = record(&rig, chunk).await.placement.unwrap();
    let on: Vec<usize> = placed.shards.iter().map(|it| rig.nodes.iter().position(|node| node.id == it.unwrap().node).unwrap()).collect();
    let free: Vec<usize> = (0..10).filter(|node| !on.contains(node)).collect();
    let rig = after(rig, async |rig| carry(rig, chunk, &on[..4], &free).await).await;
    let taken = rig.path.core.busy.take(chunk).unwrap();
    let done = reconcile(&rig).await;
    assert_eq!((done.shards_found, done.lost, done.untold, done.released), (0, 0, 1, false), "{done:?}");
    drop(taken);
    let done = reconcile(&rig).await;
    assert_eq!((done.shards_found, done.lost, done.untold, done.released), (4, 0, 0, true), "{done:?}");
}

#[tokio::test]
async fn copies_are_made_by_themselves_while_a_restore_waits_to_be_reconciled() {
    let rig = after(filled(6).await, async |_| {}).await;
    rig.path.keep_snapshots(kept::Schedule { every: Duration::from_millis(10), kept: 2 });
    let began = Instant::now();
    while kept::list(&rig.path).await.unwrap().is_empty() {
        assert!(began.elapsed() < Duration::from_secs(30), "what is written is in no copy");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(rig.path.is_held().await.unwrap());
}

#[tokio::test]
async fn metadata_that_was_re_indexed_is_not_reconciled() {
    let rig = filled(6).await;
    rig.path.reindex_now().await.unwrap();
    assert!(matches!(rig.path.reconcile_now().await, Err(ReconcileError::NotRestored)));
    assert!(rig.path.is_held().await.unwrap());
}

#[tokio::test]
async fn what_nothing_refers_to_and_what_is_condemned_cannot_be_lost() {
    let rig = filled(6).await;
    rig.put("deleted", &noise(CHUNK as usize, 10)).await.unwrap();
    rig.put("condemned", &noise(CHUNK as usize, 11)).await.unwrap();
    let known = rig.records().await;
    rig.delete("condemned").await;
    rig.path.core.intents.settle().await;
    rig.path.collect_now(std::time::Duration::from_secs(86_400)).await.unwrap();
    let rest: Vec<ChunkId> =
        rig.records().await.into_iter().filter(|(_, one)| one.state == ChunkState::Condemned).map(|one| one.0).collect();
    assert_eq!(rest.len(), 1, "of {}", known.len());
    // The copy is made within the grace, which ends before the loss.
    rig.path.hold().await.unwrap();
    rig.delete("deleted").await;
    rig.path.core.intents.settle().await;
    let rig = after(rig, async |rig| {
        rig.path.release(false).await.unwrap();
        rig.collect().await;
        assert_eq!(rig.totals().await.chunks, 4);
    })
    .await;
    let done = reconcile(&rig).await;
    assert_eq!((done.lost, done.untold, done.released), (0, 0, true), "{done:?}");
    all_read(&rig).await;
}

#[tokio::test]
async fn a_copy_in_the_store_that_was_pruned_meanwhile_holds_nothing_up() {
    let rig = filled(6).await;
    kept::keep(&rig.path).await.unwrap();
    let rig = after(rig, async |rig| {
        let (mut of_copies, known) = (0, rig.records().await);
        for (chunk, _) in known.iter().filter(|(_, one)| one.placement.as_ref().is_some_and(|it| it.sealed.tenant == kept::TENANT)) {
            lose(rig, 0..6, *chunk);
            of_copies += 1;
        }
        assert!(of_copies > 0);
    })
    .await;
    let done = reconcile(&rig).await;
    assert!(done.copies_short > 0, "{done:?}");
    assert_eq!((done.lost, done.released), (0, true), "{done:?}");
}

/// Moves shards of a chunk to other nodes, as repair and levelling do: with new tags, the old ones trashed.
async fn carry(rig: &Rig, chunk: ChunkId, from: &[usize], to: &[usize]) {
    let record = record(rig, chunk).await;
    let placement = record.placement.clone().unwrap();
    for (from, to) in from.iter().zip(to) {
        let (index, old) =
            placement.shards.iter().enumerate().find(|(_, place)| place.is_some_and(|it| it.node == rig.nodes[*from].id)).unwrap();
        let old = old.unwrap();
        let errand = crate::owe::need::Errand { index, node: rig.nodes[*to].id, tag: None, from: Some(old) };
        let core = &rig.path.core;
        let (shard, root) = crate::owe::deliver::copy(core, chunk, &record, index, old).await.unwrap().unwrap();
        let why = crate::progress::Why::Rebalance;
        assert!(crate::owe::deliver::place(core, chunk, &record, &errand, why, shard, root).await.unwrap());
    }
}

#[tokio::test]
async fn shards_that_were_moved_after_the_copy_are_found_and_placed_again() {
    let rig = filled(10).await;
    let chunk = rig.records().await[0].0;
    let placed = record(&rig, chunk).await.placement.unwrap();
    let on: Vec<usize> = placed.shards.iter().map(|it| rig.nodes.iter().position(|node| node.id == it.unwrap().node).unwrap()).collect();
    let free: Vec<usize> = (0..10).filter(|node| !on.contains(node)).collect();
    let rig = after(rig, async |rig| carry(rig, chunk, &on[..4], &free).await).await;
    let done = reconcile(&rig).await;
    assert_eq!((done.shards_found, done.lost, done.untold, done.released), (4, 0, 0, true), "{done:?}");
    all_read(&rig).await;
    // And is now where the index says.
    let placement = record(&rig, chunk).await.placement.unwrap();
    for (index, place) in placement.shards.iter().enumerate() {
        let place = place.unwrap();
        let node = rig.nodes.iter().find(|node| node.id == place.node).unwrap();
        let there =
            node.shards.lock().unwrap().keys().any(|name| (name.chunk, usize::from(name.index.0), name.tag) == (chunk, index, place.tag));
        assert!(there, "index {index}");
    }
}

#[tokio::test]
async fn shards_that_went_where_others_of_the_chunk_were_are_placed_again_too() {
    let rig = filled(10).await;
    let chunk = rig.records().await[0].0;
    let placed = record(&rig, chunk).await.placement.unwrap();
    let on: Vec<usize> = placed.shards.iter().map(|it| rig.nodes.iter().position(|node| node.id == it.unwrap().node).unwrap()).collect();
    let free: Vec<usize> = (0..10).filter(|node| !on.contains(node)).collect();
    // The last ones make room, and the first ones go where they were.
    let rig = after(rig, async |rig| {
        carry(rig, chunk, &on[4..6], &free).await;
        carry(rig, chunk, &on[..2], &on[4..6]).await;
    })
    .await;
    let done = reconcile(&rig).await;
    assert_eq!((done.shards_found, done.lost, done.untold, done.released), (4, 0, 0, true), "{done:?}");
    all_read(&rig).await;
}

#[tokio::test]
async fn a_shard_that_is_another_than_the_index_has_is_not_placed() {
    let rig = after(filled(10).await, async |_| {}).await;
    let (chunk, record) = rig.records().await.remove(0);
    let placed = record.placement.unwrap();
    let on: Vec<usize> = placed.shards.iter().map(|it| rig.nodes.iter().position(|node| node.id == it.unwrap().node).unwrap()).collect();
    let free: Vec<usize> = (0..10).filter(|node| !on.contains(node)).collect();
    for (from, to) in on[..3].iter().zip(&free) {
        let taken: Vec<_> = {
            let mut shards = rig.nodes[*from].shards.lock().unwrap();
            let names: Vec<ShardName> = shards.keys().filter(|name| name.chunk == chunk).copied().collect();
            names.into_iter().map(|name| shards.remove(&name).unwrap()).collect()
        };
        for (mut header, mut data) in taken {
            header.name.tag = Tag(header.name.tag.0 + 1);
            // The header says the right root, the bytes are others.
            let mut bytes = data.to_vec();
            bytes[7] ^= 1;
            data = bytes.into();
            rig.nodes[*to].shards.lock().unwrap().insert(header.name, (header, data));
        }
    }
    let done = reconcile(&rig).await;
    assert_eq!((done.shards_found, done.lost, done.released), (0, 1, false), "{done:?}");
}
