use super::Reindexed;
use super::judge::{Candidate, Seen, candidates};
use crate::path::DataPath;
use crate::path::fake::{FakeMetadata, FakeNode, Rig, TENANT, noise, quiet, rig};
use spine::id::{ChunkId, Gen, KeyEpoch, NodeId, ShardIndex, ShardRoot, Tag, TenantId};
use spine::wire::chunk::{ChunkState, Sealed, ShardName};
use spine::wire::namespace::Codec;
use spine::wire::root::{RootAnswer, RootCommand, RootQuery};
use spine::wire::shard::{ShardHeader, StorageNode};
use spine::wire::{Answer, Batch, Chain, Command, Metadata, Query};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// A rig whose metadata is gone but for the tenants that `kept` names.
async fn after_the_loss(rig: Rig, kept: &[TenantId]) -> Rig {
    let metadata = Arc::new(FakeMetadata::default());
    for tenant in kept {
        let Answer::Root(RootAnswer::Tenant(Some(record))) = rig.metadata.query(Query::Root(RootQuery::Tenant(*tenant))).await.unwrap()
        else {
            panic!("no tenant")
        };
        let commands = vec![Command::Root(RootCommand::CreateTenant(record))];
        metadata.propose(Batch { chain: Chain::Stop, commands }).await.unwrap();
    }
    rig.path.shutdown().await;
    let links: Vec<Arc<dyn StorageNode>> = rig.nodes.iter().map(|node: &Arc<FakeNode>| node.clone() as Arc<dyn StorageNode>).collect();
    rig.keys.forget(TENANT);
    let path = DataPath::new(quiet(), metadata.clone(), links, rig.keys.clone()).unwrap();
    Rig { path, metadata, nodes: rig.nodes, keys: rig.keys, bucket: rig.bucket }
}

async fn filled() -> (Rig, Vec<ChunkId>) {
    let rig = rig().await;
    for seed in 0..3 {
        rig.put(&format!("k{seed}"), &noise(1_000_000, seed)).await.unwrap();
    }
    rig.put("compresses", &vec![7; 700_000]).await.unwrap();
    let chunks = rig.records().await.into_iter().map(|(chunk, _)| chunk).collect();
    (rig, chunks)
}

async fn all_read(rig: &Rig, chunks: &[ChunkId]) {
    let keys = rig.keys.known(TENANT).unwrap();
    for chunk in chunks {
        let plain = rig.path.chunk(*chunk).await.unwrap().expect("the index knows it");
        assert_eq!(crate::seal::chunk_id(keys.current().unwrap(), &plain), *chunk);
    }
}

fn counts(done: &Reindexed) -> [u64; 5] {
    [done.restored, done.known, done.too_few, done.locked, done.damaged]
}

#[tokio::test]
async fn an_index_that_is_gone_is_made_again_from_the_shards_and_nothing_collects_it() {
    let (rig, chunks) = filled().await;
    let rig = after_the_loss(rig, &[TENANT]).await;
    let n = chunks.len() as u64;
    let done = rig.path.reindex_now().await.unwrap();
    assert_eq!((counts(&done), done.owing, done.nodes, done.shards), ([n, 0, 0, 0, 0], 0, 6, 6 * n));
    all_read(&rig, &chunks).await;
    // Nothing refers to any of it, and all the same nothing goes.
    rig.collect().await;
    rig.path.sweep_now(true).await.unwrap();
    assert_eq!((rig.totals().await.chunks, rig.shards()), (n, 6 * n as usize));
    assert!(rig.records().await.iter().all(|(_, record)| record.state == ChunkState::Live));
    assert_eq!(counts(&rig.path.reindex_now().await.unwrap()), [0, n, 0, 0, 0]);
    // What is written now finds the chunks there.
    let puts: usize = rig.nodes.iter().map(|node| node.puts.load(std::sync::atomic::Ordering::Relaxed)).sum();
    let stored = rig.store(&noise(1_000_000, 0)).await.unwrap();
    assert_eq!(rig.nodes.iter().map(|node| node.puts.load(std::sync::atomic::Ordering::Relaxed)).sum::<usize>(), puts);
    drop(stored);
    rig.path.hold(false).await.unwrap();
    rig.collect().await;
    assert_eq!((rig.totals().await.chunks, rig.shards()), (0, 0), "an operator's word releases it");
}

#[tokio::test]
async fn a_chunk_with_too_few_shards_is_named_and_restored_once_its_nodes_are_back() {
    let (rig, chunks) = filled().await;
    let rig = after_the_loss(rig, &[TENANT]).await;
    for node in &rig.nodes[..3] {
        node.set(crate::path::fake::Mood::Lost);
    }
    let n = chunks.len() as u64;
    let done = rig.path.reindex_now().await.unwrap();
    assert_eq!((counts(&done), done.nodes, done.nodes_away.len()), ([0, 0, n, 0, 0], 3, 3));
    let named: HashSet<&str> = done.left.iter().map(|left| left.chunk.as_str()).collect();
    assert!(chunks.iter().all(|chunk| named.contains(chunk.to_string().as_str())));
    assert!(done.left.iter().all(|left| (left.found, left.needed) == (3, 4)));
    // The sweep, which would take the three shards of each for orphans, keeps away.
    rig.path.sweep_now(true).await.unwrap();
    for node in &rig.nodes[1..3] {
        node.set(crate::path::fake::Mood::Well);
    }
    let done = rig.path.reindex_now().await.unwrap();
    assert_eq!((counts(&done), done.owing), ([n, 0, 0, 0, 0], n));
    all_read(&rig, &chunks).await;
}

#[tokio::test]
async fn rot_and_lies_of_as_many_nodes_as_may_be_lost_restore_what_is_true() {
    let (rig, chunks) = filled().await;
    rig.nodes[0].lie();
    rig.nodes[1].rot();
    let rig = after_the_loss(rig, &[TENANT]).await;
    let done = rig.path.reindex_now().await.unwrap();
    assert_eq!(counts(&done), [chunks.len() as u64, 0, 0, 0, 0]);
    let liar = rig.nodes[0].id;
    let placed = |node: NodeId, records: &[(ChunkId, spine::wire::chunk::ChunkRecord)]| {
        records
            .iter()
            .flat_map(|(_, r)| r.placement.iter())
            .flat_map(|p| p.shards.iter().flatten())
            .filter(|place| place.node == node)
            .count()
    };
    assert_eq!(placed(liar, &rig.records().await), 0, "a lie was placed");
    assert_eq!(done.owing, chunks.len() as u64);
    all_read(&rig, &chunks).await;
}

#[tokio::test]
async fn chunks_whose_secret_is_not_here_are_named_and_wait_for_it() {
    let (rig, chunks) = filled().await;
    let rig = after_the_loss(rig, &[]).await;
    let done = rig.path.reindex_now().await.unwrap();
    assert_eq!(counts(&done), [0, 0, 0, chunks.len() as u64, 0]);
    assert!(done.left.iter().all(|left| left.why.contains("secret")));
}

#[tokio::test]
async fn lies_of_more_nodes_restore_nothing_wrong() {
    let (rig, chunks) = filled().await;
    rig.nodes[..3].iter().for_each(|node| node.lie());
    let rig = after_the_loss(rig, &[TENANT]).await;
    let done = rig.path.reindex_now().await.unwrap();
    assert_eq!(counts(&done), [0, 0, 0, 0, chunks.len() as u64]);
    assert_eq!(rig.path.chunk(chunks[0]).await.unwrap(), None);
    // A collection that waits takes nothing away meanwhile.
    rig.path.collect_now(Duration::ZERO).await.unwrap();
    assert_eq!(rig.shards(), 6 * chunks.len());
}

const CHUNK: ChunkId = ChunkId([9; 32]);

fn sealed(len: u32) -> Sealed {
    Sealed { tenant: TenantId(1), epoch: KeyEpoch(0), codec: Codec::Plain, len, sealed_len: len + 16, k: 4, m: 2 }
}

fn seen(node: u8, generation: u64, index: u8, tag: u64, len: u32) -> Seen {
    let name = ShardName { chunk: CHUNK, generation: Gen(generation), index: ShardIndex(index), tag: Tag(tag) };
    let header = ShardHeader { name, sealed: sealed(len), root: ShardRoot([index; 32]), len: (len + 16).div_ceil(4) };
    Seen { node: NodeId([node; 32]), header }
}

fn is_sound(candidate: &Candidate) -> bool {
    let nodes: Vec<NodeId> = candidate.copies.iter().flatten().map(|place| place.node).collect();
    candidate.copies.len() == 6 && nodes.iter().collect::<HashSet<_>>().len() == nodes.len()
}

/// xorshift64*.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % n
    }
}

#[test]
fn whatever_fewer_than_k_nodes_say_the_true_life_of_a_chunk_comes_first() {
    for seed in 1..=5_000 {
        let mut dice = Dice(seed);
        // Honest: generation 100 on nodes 0 to 5, some of it moved by repair to nodes 6 and 7, old copies still there, some nodes away.
        let mut honest: Vec<Seen> = (0..6).map(|index| seen(index, 100, index, 100, 1_000)).collect();
        for (number, moved) in (0..dice.below(3)).enumerate() {
            honest.push(seen(6 + number as u8, 100, moved as u8, 101 + moved, 1_000));
        }
        honest.extend((0..dice.below(4)).map(|index| seen(index as u8, 40, index as u8, 40, 1_000)));
        let away = dice.below(3) as u8;
        honest.retain(|one| one.node.0[0] >= away);
        // Liars: up to two nodes, later lives, other lengths, every index, tags out of this world.
        let mut all = honest.clone();
        for liar in 0..dice.below(3) {
            for _ in 0..dice.below(20) {
                let generation = [100, 100, 500, u64::MAX][dice.below(4) as usize];
                let tag = [generation, generation.saturating_add(1), u64::MAX, 0][dice.below(4) as usize];
                let len = [1_000, 1_000, 77][dice.below(3) as usize];
                all.push(seen(20 + liar as u8, generation, dice.below(8) as u8, tag, len));
            }
        }
        let found = candidates(CHUNK, &all);
        assert!(found.iter().all(is_sound), "seed {seed}");
        let enough =
            honest.iter().filter(|one| one.header.name.generation == Gen(100)).map(|one| one.node).collect::<HashSet<_>>().len() >= 4;
        let best = found.first().unwrap();
        assert!(!enough || (best.generation, best.sealed, best.is_enough()) == (Gen(100), sealed(1_000), true), "seed {seed}: {found:?}");
        assert_eq!(candidates(CHUNK, &all), found, "seed {seed}: not the same twice");
    }
}
