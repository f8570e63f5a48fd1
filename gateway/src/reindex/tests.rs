use super::Reindexed;
use super::judge::{Candidate, Level, Seen, candidates};
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
    rig.path.release(false).await.unwrap();
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

#[test]
fn no_number_is_believed_that_would_use_the_counter_up_and_every_true_one_is() {
    for seed in 1..=5_000 {
        let mut dice = Dice(seed);
        let liars = 1 + dice.below(4) as usize;
        // Where the counter was when the metadata was lost.
        let true_counter = 1 + (dice.below(u64::MAX) >> (2 + dice.below(60)));
        let recent = || true_counter.saturating_sub(1 << 40).max(1);
        let honest: Vec<Seen> = (0..2 * liars as u8 + 1)
            .flat_map(|node| {
                let number = recent() + dice.below(true_counter - recent() + 1);
                [seen(node, number, 0, number, 1_000), seen(node, 1 + dice.below(number), 1, number, 1_000)]
            })
            .collect();
        let told: Vec<Seen> = (0..liars as u8)
            .flat_map(|liar| {
                let lie = [u64::MAX, 1 << 63, (1 << 63) - 1, 1 << 62, (1 << 48) - 1, true_counter + (1 << 44)][dice.below(6) as usize];
                [seen(100 + liar, lie, 0, lie, 1_000), seen(100 + liar, 1, 1, lie, 1_000)]
            })
            .collect();
        let mut level = Level::new(liars);
        level.rise(told.iter());
        let early = level.sift(&honest).len();
        level.rise(honest.iter());
        let again = level.takes_back();
        assert_eq!(again, early < honest.len(), "seed {seed}: what was doubted too early is asked again");
        assert_eq!(level.sift(&honest).len(), honest.len(), "seed {seed}: counter {true_counter}");
        assert!(!level.takes_back(), "seed {seed}");
        let highest = level.sift(&told).iter().map(|one| one.header.name.tag.0).max().unwrap_or(0);
        assert!(highest < (1u64 << 48).max(true_counter + (1 << 44)), "seed {seed}: {highest} is believed, the counter was {true_counter}");
        assert!(highest < 1 << 63, "seed {seed}");
        assert!(!level.takes_back(), "seed {seed}: a lie is not asked for twice");
    }
}

/// Has these nodes show other numbers than their shards were given.
fn claim(rig: &Rig, nodes: std::ops::Range<usize>, numbers: impl Fn(ShardName) -> ShardName) {
    for node in &rig.nodes[nodes] {
        let mut shards = node.shards.lock().unwrap();
        let claimed = std::mem::take(&mut *shards).into_iter().map(|(name, (header, data))| {
            let name = numbers(name);
            (name, (ShardHeader { name, ..header }, data))
        });
        *shards = claimed.collect();
    }
}

/// The highest number that the index has given or taken.
async fn highest(rig: &Rig) -> u64 {
    let records = rig.records().await;
    let tags = records.iter().flat_map(|(_, r)| r.placement.iter()).flat_map(|p| p.shards.iter().flatten()).map(|place| place.tag.0);
    tags.chain(records.iter().map(|(_, record)| record.generation.0)).max().unwrap()
}

#[tokio::test]
async fn numbers_near_the_end_that_some_nodes_claim_restore_what_is_true_and_use_nothing_up() {
    for claimed in [1 << 47, 1 << 48, 1 << 62, 1 << 63, u64::MAX] {
        let (rig, chunks) = filled().await;
        claim(&rig, 0..1, |name| ShardName { tag: Tag(claimed), ..name });
        claim(&rig, 1..2, |name| ShardName { tag: Tag(claimed), generation: Gen(claimed), ..name });
        let rig = after_the_loss(rig, &[TENANT]).await;
        assert_eq!(counts(&rig.path.reindex_now().await.unwrap()), [chunks.len() as u64, 0, 0, 0, 0], "{claimed}");
        all_read(&rig, &chunks).await;
        rig.put("later", &noise(300_000, 99)).await.unwrap();
        assert!(highest(&rig).await < 1 << 49, "{claimed}: {}", highest(&rig).await);
    }
}

#[tokio::test]
async fn numbers_that_all_nodes_show_are_believed_as_long_as_as_many_again_are_left() {
    // Nobody but the counter itself can have given these, and a fleet that lost its metadata before goes on as well.
    let (rig, chunks) = filled().await;
    claim(&rig, 0..6, |name| ShardName { tag: Tag(name.tag.0 + (1 << 60)), generation: Gen(name.generation.0 + (1 << 60)), ..name });
    let rig = after_the_loss(rig, &[TENANT]).await;
    assert_eq!(counts(&rig.path.reindex_now().await.unwrap()), [chunks.len() as u64, 0, 0, 0, 0]);
    rig.put("later", &noise(300_000, 99)).await.unwrap();
    assert!((1 << 60..1 << 61).contains(&highest(&rig).await));
    let all: Vec<ChunkId> = rig.records().await.into_iter().map(|(chunk, _)| chunk).collect();
    let rig = after_the_loss(rig, &[TENANT]).await;
    assert_eq!(counts(&rig.path.reindex_now().await.unwrap()), [all.len() as u64, 0, 0, 0, 0], "the next time as well");
    all_read(&rig, &all).await;
    // Beyond, they are named and stay where they are.
    claim(&rig, 0..6, |name| ShardName { tag: Tag(u64::MAX), generation: Gen(u64::MAX - 1), ..name });
    let rig = after_the_loss(rig, &[TENANT]).await;
    assert_eq!(counts(&rig.path.reindex_now().await.unwrap()), [0, 0, all.len() as u64, 0, 0]);
    assert_eq!(rig.shards(), 6 * all.len());
}
