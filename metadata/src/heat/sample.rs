//! Places that commands and queries were about, taken aside in passing: all of them while there are few, a part drawn by lot while there
//! are many, each then counting for those that were left out.

use crate::range::access::name_of;
use spine::id::{BucketId, ChunkId, GroupId};
use spine::wire::chunk::{ChunkCommand, ChunkQuery};
use spine::wire::namespace::NamespaceQuery;
use spine::wire::{Batch, Command, Query};
use std::sync::{Mutex, PoisonError};

/// Places that are kept between two looks, and bytes of a directory: 2 MiB in all.
const KEPT: usize = 8_192;
const NAME_BYTES: usize = 256;
/// Chunks of one command or query that are looked at; the others are somewhere else, but as evenly spread.
const CHUNKS: usize = 8;

/// What was hit.
#[derive(Clone, Debug, PartialEq)]
pub enum Of {
    /// A key of this directory, which ends with `/` or is empty.
    Name(BucketId, Box<[u8]>),
    /// A chunk, by its first eight bytes.
    Chunk(u64),
    /// Nothing that lies in a range.
    Rest,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    pub group: GroupId,
    /// Commands or queries that it stands for.
    pub weight: f64,
    pub of: Of,
}

struct Drawn {
    hits: Vec<Hit>,
    /// One in so many is kept: a power of two.
    one_in: u64,
    dice: u64,
}

impl Default for Drawn {
    fn default() -> Self {
        Drawn { hits: Vec::new(), one_in: 1, dice: 0x9E37_79B9_7F4A_7C15 }
    }
}

impl Drawn {
    /// xorshift64: a load that comes in a fixed order must not meet a choice that does, too.
    fn one_of(&mut self, of: u64) -> bool {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice & (of - 1) == 0
    }

    fn take(&mut self, group: GroupId, weight: f64, of: impl FnOnce() -> Of) {
        if !self.one_of(self.one_in) {
            return;
        }
        self.hits.push(Hit { group, weight: weight * self.one_in as f64, of: of() });
        if self.hits.len() >= KEPT {
            let mut hits = std::mem::take(&mut self.hits);
            hits.retain(|_| self.one_of(2));
            hits.iter_mut().for_each(|hit| hit.weight *= 2.0);
            self.hits = hits;
            self.one_in *= 2;
        }
    }
}

/// Of a whole process.
#[derive(Default)]
pub struct Sample {
    drawn: Mutex<Drawn>,
}

impl Sample {
    /// Takes a batch's places. How many commands of clients are in it.
    pub fn batch(&self, group: GroupId, batch: &Batch) -> u64 {
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        for command in &batch.commands {
            match command {
                Command::Range(_) | Command::Restore(_) => continue,
                Command::Root(_) => drawn.take(group, 1.0, || Of::Rest),
                Command::Namespace(command) => match name_of(command) {
                    Some((bucket, key)) => drawn.take(group, 1.0, || name(bucket, key.as_bytes())),
                    None => drawn.take(group, 1.0, || Of::Rest),
                },
                Command::Chunk(command) => of_chunks(&mut drawn, group, &chunks_of(command)),
            }
            count += 1;
        }
        count
    }

    /// Takes a query's place. 1, unless a mover asks.
    pub fn query(&self, group: GroupId, query: &Query) -> u64 {
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        match query {
            Query::Range(_) | Query::Copy(_) => return 0,
            Query::Root(_) | Query::Within { .. } => drawn.take(group, 1.0, || Of::Rest),
            Query::Namespace(query) => match place_of(query) {
                Some((bucket, key)) => drawn.take(group, 1.0, || name(bucket, key)),
                None => drawn.take(group, 1.0, || Of::Rest),
            },
            Query::Chunk(ChunkQuery::Records(chunks)) => of_chunks(&mut drawn, group, &chunks.iter().collect::<Vec<_>>()),
            Query::Chunk(ChunkQuery::References { chunk, .. }) => of_chunks(&mut drawn, group, &[chunk]),
            Query::Chunk(_) => drawn.take(group, 1.0, || Of::Rest),
        }
        1
    }

    /// What was taken since the last time.
    pub fn take(&self) -> Vec<Hit> {
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        // A load that was too much for all is so in the next second, too; one that was not comes down by halves.
        if drawn.hits.len() < KEPT / 2 {
            drawn.one_in = (drawn.one_in / 2).max(1);
        }
        std::mem::take(&mut drawn.hits)
    }
}

fn name(bucket: BucketId, key: &[u8]) -> Of {
    let key = &key[..key.len().min(NAME_BYTES)];
    let end = key.iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1);
    Of::Name(bucket, key[..end].into())
}

fn of_chunks(drawn: &mut Drawn, group: GroupId, chunks: &[&ChunkId]) {
    if chunks.is_empty() {
        return drawn.take(group, 1.0, || Of::Rest);
    }
    let step = chunks.len().div_ceil(CHUNKS);
    let looked = chunks.len().div_ceil(step) as f64;
    for chunk in chunks.iter().step_by(step) {
        drawn.take(group, 1.0 / looked, || Of::Chunk(high(chunk)));
    }
}

/// The first eight bytes of a chunk's name, as a number.
pub fn high(chunk: &ChunkId) -> u64 {
    u64::from_be_bytes(*chunk.0.first_chunk().unwrap_or(&[0; 8]))
}

fn chunks_of(command: &ChunkCommand) -> Vec<&ChunkId> {
    match command {
        ChunkCommand::Reserve { chunks, .. } => chunks.iter().collect(),
        ChunkCommand::Confirm { chunks, .. } | ChunkCommand::Restore { chunks, .. } => {
            chunks.iter().map(|confirmation| &confirmation.chunk).collect()
        }
        ChunkCommand::Condemn { chunks, .. }
        | ChunkCommand::BeginDelete { chunks }
        | ChunkCommand::FinishDelete { chunks }
        | ChunkCommand::Forget { chunks } => chunks.iter().map(|(chunk, _)| chunk).collect(),
        ChunkCommand::ReserveTarget { chunk, .. } | ChunkCommand::Move { chunk, .. } => vec![chunk],
        ChunkCommand::MarkLost { shard, .. } => vec![&shard.chunk],
        ChunkCommand::Unref { .. } | ChunkCommand::Hold { .. } => Vec::new(),
    }
}

fn place_of(query: &NamespaceQuery) -> Option<(BucketId, &[u8])> {
    match query {
        NamespaceQuery::Head { bucket, key }
        | NamespaceQuery::Open { bucket, key }
        | NamespaceQuery::Reopen { bucket, key, .. }
        | NamespaceQuery::Manifests { bucket, key, .. }
        | NamespaceQuery::Upload { bucket, key, .. }
        | NamespaceQuery::Parts { bucket, key, .. } => Some((*bucket, key.as_bytes())),
        NamespaceQuery::List { query, place } => match place {
            Some(place) => Some((place.bucket, &place.key)),
            None => Some((query.bucket, query.prefix.as_bytes())),
        },
        NamespaceQuery::Uploads { query, place } => match place {
            Some(place) => Some((place.bucket, &place.key)),
            None => Some((query.bucket, query.prefix.as_bytes())),
        },
        NamespaceQuery::Outbox { .. } | NamespaceQuery::Intents { .. } => None,
    }
}
