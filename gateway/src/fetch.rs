//! One chunk from shards to plaintext.
//!
//! Data shards first; a slow one is hedged with parity, a missing or wrong one replaced by it and reported. Roots, decoding,
//! decryption and the ChunkId are checked in one hop on a computing thread; only if a root is wrong is there another round.
//! Invariant: what comes out hashes to the ChunkId asked for; everything before that is only a way to say sooner what is wrong.
//! Not here: which chunks (`read.rs`), repairing what was found (`owe.rs`).

use crate::audit::board::Board;
use crate::body::ReadError;
use crate::core::{Core, now};
use crate::damage::{Fault, Finder};
use crate::encode;
use crate::govern::Work;
use crate::keys::EpochKeys;
use crate::metric::{DECODES, HEDGES, READ_DAMAGE, READ_FAILURES, STRIKES, Stage};
use crate::nodes::Node;
use crate::seal;
use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use spine::id::{ChunkId, Gen, NodeId, ShardIndex};
use spine::wire::chunk::{ChunkAnswer, ChunkQuery, Place, Placement, ShardName};
use spine::wire::shard::NodeError;
use spine::wire::{Answer, Query};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, SemaphorePermit};

/// A get that takes longer has failed, whatever the node is doing.
const GET_MOST: Duration = Duration::from_secs(30);
/// Reads at a time whose unneeded gets are seen to their end: each holds what it is sent.
static FOLLOWING: Semaphore = Semaphore::const_new(8);

/// A chunk and where its shards are.
#[derive(Clone, Debug)]
pub struct Located {
    pub chunk: ChunkId,
    pub generation: Gen,
    pub placement: Placement,
    /// Where it was when this gateway last looked: it may have been moved or collected since.
    pub remembered: bool,
}

impl Located {
    fn name(&self, index: usize, place: &Place) -> ShardName {
        ShardName { chunk: self.chunk, generation: self.generation, index: ShardIndex(index as u8), tag: place.tag }
    }
}

/// The plaintext of one chunk.
pub(crate) async fn fetch(core: &Arc<Core>, keys: &Arc<EpochKeys>, located: Located) -> Result<Bytes, ReadError> {
    let mut gathering = Gathering::new(core, located);
    loop {
        let mark = core.pace.mark();
        Stage::Fetch.time_async(gathering.fill()).await?;
        core.pace.book(mark, Work::Fetch, gathering.located.placement.sealed.sealed_len as usize);
        let (core, keys, located) = (core.clone(), keys.clone(), gathering.located.clone());
        let shards = std::mem::take(&mut gathering.got);
        let outcome = core.clone().compute.run(move || open(&core, &keys, &located, shards)).await;
        match outcome.map_err(|lost| ReadError::Unavailable { reason: lost.to_string() })? {
            Opened::Plain(result) => return result,
            Opened::WrongRoots(shards, wrong) => gathering.drop_wrong(shards, &wrong),
        }
    }
}

/// The plaintext of a chunk by its name alone, whoever's it is; `None`: the index does not know it, or it is not stored yet.
pub(crate) async fn by_name(core: &Arc<Core>, chunk: ChunkId) -> Result<Option<Bytes>, ReadError> {
    let answer = core.metadata.query(Query::Chunk(ChunkQuery::Records(vec![chunk]))).await?;
    let Answer::Chunk(ChunkAnswer::Records(mut records)) = answer else {
        return Err(ReadError::Unavailable { reason: "Records was answered with something else".into() });
    };
    let Some(record) = records.pop().flatten() else { return Ok(None) };
    let Some(placement) = record.placement else { return Ok(None) };
    let sealed = placement.sealed;
    let keys = core.tenant_keys(sealed.tenant).await?;
    let no_epoch = || ReadError::Unavailable { reason: format!("tenant {} has no secret of epoch {}", sealed.tenant, sealed.epoch) };
    let keys = keys.epoch(sealed.epoch).ok_or_else(no_epoch)?;
    let _room = core.read_memory.take(sealed.len as usize + sealed.sealed_len as usize).await;
    fetch(core, keys, Located { chunk, generation: record.generation, placement, remembered: false }).await.map(Some)
}

/// Any `k` good shards of a chunk, verified: what repair works from.
pub(crate) async fn gather(core: &Arc<Core>, located: Located) -> Result<Vec<Option<Bytes>>, ReadError> {
    let mut gathering = Gathering::new(core, located);
    loop {
        gathering.fill().await?;
        let (shards, located) = (std::mem::take(&mut gathering.got), gathering.located.clone());
        let checked = core.compute.run(move || {
            let wrong = wrong_roots(&located.placement, &shards);
            (shards, wrong)
        });
        let (shards, wrong) = checked.await.map_err(|lost| ReadError::Unavailable { reason: lost.to_string() })?;
        if wrong.is_empty() {
            return Ok(shards);
        }
        gathering.drop_wrong(shards, &wrong);
    }
}

enum Opened {
    Plain(Result<Bytes, ReadError>),
    /// The shards, and which of them are not what was stored.
    WrongRoots(Vec<Option<Bytes>>, Vec<usize>),
}

fn open(core: &Core, keys: &EpochKeys, located: &Located, shards: Vec<Option<Bytes>>) -> Opened {
    let wrong = Stage::Verify.time(|| wrong_roots(&located.placement, &shards));
    if !wrong.is_empty() {
        return Opened::WrongRoots(shards, wrong);
    }
    let sealed = located.placement.sealed;
    let damaged = |what| ReadError::Damaged { chunk: located.chunk, what };
    // A chunk keeps the code it was stored with, whatever new chunks get.
    let coder = match (core.coder.k(), core.coder.m()) == (usize::from(sealed.k), usize::from(sealed.m)) {
        true => Ok(core.coder.as_ref().clone()),
        false => spine::erasure::Coder::new(sealed.k, sealed.m),
    };
    let joined = Stage::Decode.time(|| coder.and_then(|coder| coder.join(&shards, sealed.sealed_len as usize)));
    if shards[..usize::from(sealed.k)].iter().any(Option::is_none) {
        DECODES.inc();
    }
    drop(shards);
    let Ok(joined) = joined else { return Opened::Plain(Err(damaged("the shards are not a stripe"))) };
    let plain = Stage::Open.time(|| seal::open(keys, located.chunk, sealed.codec, sealed.len, joined));
    Opened::Plain(plain.map_err(|error| damaged(error.0)))
}

fn wrong_roots(placement: &Placement, shards: &[Option<Bytes>]) -> Vec<usize> {
    let wrong = |(_, (shard, place)): &(usize, (&Option<Bytes>, &Option<Place>))| match (shard, place) {
        (Some(shard), Some(place)) => encode::root(shard) != place.root,
        (Some(_), None) => true,
        (None, _) => false,
    };
    shards.iter().zip(&placement.shards).enumerate().filter(wrong).map(|(i, _)| i).collect()
}

/// The shards of one chunk as they arrive.
struct Gathering<'a> {
    core: &'a Core,
    located: Located,
    got: Vec<Option<Bytes>>,
    /// Indices not asked for yet; the best is last.
    untried: Vec<usize>,
    /// Whom a get has been sent that has not ended.
    open: Vec<(usize, NodeId)>,
}

/// A get had no usable end.
fn broke_off(board: &Board, node: &Node) {
    if node.reachable() && board.broke_off(node.id, now()) {
        STRIKES.with_label_values(&["broken"]).inc();
    }
}

/// Sees gets to their end that a read did not wait for. A node whose answers break off would otherwise not be found out where others are
/// quicker each time than its connection breaks. Ends within [`GET_MOST`].
async fn follow(board: Arc<Board>, mut gets: FuturesUnordered<impl Future<Output = Get>>, _permit: SemaphorePermit<'static>) {
    while let Some(get) = gets.next().await {
        match get.result {
            Ok(_) => board.went_well(get.node.id),
            // Reported by the read that waits for it.
            Err(NodeError::NotFound | NodeError::Damaged { .. }) => {}
            Err(_) => broke_off(&board, &get.node),
        }
    }
}

/// One get that ended.
struct Get {
    index: usize,
    node: Arc<Node>,
    took: Duration,
    result: Result<Bytes, NodeError>,
}

impl<'a> Gathering<'a> {
    fn new(core: &'a Core, located: Located) -> Self {
        let k = usize::from(located.placement.sealed.k);
        let node = |place: &Place| core.nodes.get(place.node);
        let placed = located.placement.shards.iter().enumerate().filter_map(|(index, place)| Some((index, node(place.as_ref()?)?)));
        // Data before parity; a node known to be gone only where nothing else is left.
        let mut ranked: Vec<(bool, bool, usize)> = placed.map(|(index, node)| (!node.reachable(), index >= k, index)).collect();
        ranked.sort_unstable_by(|a, b| b.cmp(a));
        let got = vec![None; located.placement.shards.len()];
        Gathering { core, located, got, untried: ranked.into_iter().map(|(_, _, index)| index).collect(), open: Vec::new() }
    }

    fn have(&self) -> usize {
        self.got.iter().flatten().count()
    }

    /// Asks until `k` shards are there.
    async fn fill(&mut self) -> Result<(), ReadError> {
        if self.got.is_empty() {
            self.got = vec![None; self.located.placement.shards.len()];
        }
        let k = usize::from(self.located.placement.sealed.k);
        let mut gets = FuturesUnordered::new();
        let mut hedge_after = Duration::ZERO;
        while self.have() + gets.len() < k {
            let Some((get, slow)) = self.begin() else { break };
            hedge_after = hedge_after.max(slow);
            gets.push(get);
        }
        let hedge = tokio::time::sleep(hedge_after);
        tokio::pin!(hedge);
        while self.have() < k {
            tokio::select! {
                get = gets.next() => match get {
                    Some(get) => if !self.take(get) && let Some((another, _)) = self.begin() {
                        gets.push(another);
                    },
                    None => return Err(self.too_few(k)),
                },
                () = &mut hedge, if !self.untried.is_empty() => {
                    for _ in 0..k - self.have() {
                        let Some((another, slow)) = self.begin() else { break };
                        hedge_after = hedge_after.max(slow);
                        HEDGES.inc();
                        gets.push(another);
                    }
                    // Those may be slow as well.
                    hedge.as_mut().reset(tokio::time::Instant::now() + hedge_after);
                }
            }
        }
        // Should one that came turn out to be wrong, these are asked again, after those not asked yet.
        self.untried.splice(0..0, self.open.iter().map(|(index, _)| *index));
        let time = now();
        let follows: Vec<bool> = self.open.drain(..).map(|(_, node)| self.core.board.follows(node, time)).collect();
        if follows.contains(&true)
            && let Ok(permit) = FOLLOWING.try_acquire()
        {
            tokio::spawn(follow(self.core.board.clone(), gets, permit));
        }
        Ok(())
    }

    fn too_few(&self, k: usize) -> ReadError {
        if !self.located.remembered {
            READ_FAILURES.inc();
        }
        ReadError::Unreadable { chunk: self.located.chunk, found: self.have() as u8, needed: k as u8 }
    }

    /// Asks for the best shard not asked for yet, and says after how long it is slow.
    fn begin(&mut self) -> Option<(impl Future<Output = Get> + use<>, Duration)> {
        loop {
            let index = self.untried.pop()?;
            let Some(place) = self.located.placement.shards[index] else { continue };
            let Some(node) = self.core.nodes.get(place.node) else { continue };
            let slow = node.hedge_after();
            let name = self.located.name(index, &place);
            let get = async move {
                let start = Instant::now();
                let result = tokio::time::timeout(GET_MOST, node.link.get(name)).await;
                let result = result.unwrap_or_else(|_| Err(NodeError::Unavailable { reason: "a get took too long".into() }));
                Get { index, node, took: start.elapsed(), result: result.map(|(_, shard)| shard) }
            };
            self.open.push((index, place.node));
            return Some((get, slow));
        }
    }

    /// Keeps a shard that arrived; false if it did not.
    fn take(&mut self, get: Get) -> bool {
        self.open.retain(|(index, _)| *index != get.index);
        if get.result.is_ok() {
            get.node.took(get.took);
        }
        let sealed = self.located.placement.sealed;
        let shard_len = (sealed.sealed_len as usize).div_ceil(usize::from(sealed.k.max(1)));
        let fault = match get.result {
            Ok(shard) if shard.len() == shard_len => {
                self.got[get.index] = Some(shard);
                self.core.board.went_well(get.node.id);
                return true;
            }
            Ok(_) => Some(Fault::WrongRoot),
            Err(NodeError::NotFound) => Some(Fault::Missing),
            Err(NodeError::Damaged { .. }) => Some(Fault::Damaged),
            Err(_) => None,
        };
        let word = fault.map_or("unavailable", Fault::word);
        if let Some(fault) = fault {
            self.report(get.index, fault);
        } else {
            READ_DAMAGE.with_label_values(&[word]).inc();
            broke_off(&self.core.board, &get.node);
        }
        tracing::debug!(node = %get.node.id, chunk = %self.located.chunk, index = get.index, fault = word, "a shard was not got");
        false
    }

    /// Forgets shards that are not what was stored; the next round asks for others.
    fn drop_wrong(&mut self, mut shards: Vec<Option<Bytes>>, wrong: &[usize]) {
        for index in wrong {
            shards[*index] = None;
            self.report(*index, Fault::WrongRoot);
        }
        self.got = shards;
    }

    fn report(&self, index: usize, fault: Fault) {
        if self.located.remembered {
            // The shard may have been moved: the next read looks where it is now, and only then somebody is to blame.
            self.core.known.forget_place(self.located.chunk);
            return;
        }
        READ_DAMAGE.with_label_values(&[fault.word()]).inc();
        if let Some(place) = self.located.placement.shards[index] {
            self.core.damage.report(self.located.name(index, &place), place.node, Finder::Read(fault));
        }
    }
}
